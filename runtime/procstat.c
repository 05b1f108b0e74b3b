/* The command name, field 2, may hold anything, even ')', so fields are counted from the last one.
 */
#include "runtime/procstat.h"

#include <stdio.h>
#include <string.h>

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
