/* The command name, field 2, may hold anything, even ')', so fields are counted from the last one.
 */
#include "runtime/procstat.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_AUXV = 64 };

bool ovm_procstat_read(pid_t pid, struct ovm_procstat *out)
{
	char name[64], buf[1024];
	struct ovm_procstat s = {0};
	int parent;
	long cutime, cstime;
	snprintf(name, sizeof(name), "/proc/%d/stat", (int)pid);
	FILE *f = fopen(name, "re");
	if (!f)
		return false;
	size_t n = fread(buf, 1, sizeof(buf) - 1, f);
	fclose(f);
	buf[n] = '\0';
	const char *p = strrchr(buf, ')');
	if (!p || sscanf(p + 1,
			 " %c %d %*d %*d %*d %*d %lu %*u %*u %*u %*u %lu %lu %ld %ld %*d %*d %*d "
			 "%*d %llu",
			 &s.state, &parent, &s.flags, &s.utime, &s.stime, &cutime, &cstime,
			 &s.start) != 8)
		return false;
	s.children_time = (uint64_t)(cutime + cstime);
	s.parent = (pid_t)parent;
	*out = s;
	return true;
}

unsigned long long ovm_proc_start(pid_t pid)
{
	struct ovm_procstat s;
	return ovm_procstat_read(pid, &s) && s.state != 'Z' && s.state != 'X' ? s.start : 0;
}

uint64_t ovm_proc_auxv(pid_t pid, uint64_t type)
{
	char name[64];
	Elf64_auxv_t v[MAX_AUXV];
	snprintf(name, sizeof(name), "/proc/%d/auxv", (int)pid);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, v, sizeof(v));
	if (fd >= 0)
		close(fd);
	for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(v[0]); i++)
		if (v[i].a_type == type)
			return v[i].a_un.a_val;
	return 0;
}
