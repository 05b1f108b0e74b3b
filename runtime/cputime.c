/* /proc/PID/stat, fields 14 and 15. The command name, field 2, may hold anything, even ')'. */
#include "runtime/cputime.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint64_t ovm_cpu_time_ms(pid_t pid)
{
	char name[64], buf[1024];
	snprintf(name, sizeof(name), "/proc/%d/stat", (int)pid);
	FILE *f = fopen(name, "re");
	if (!f)
		return 0;
	size_t n = fread(buf, 1, sizeof(buf) - 1, f);
	fclose(f);
	buf[n] = '\0';
	const char *p = strrchr(buf, ')');
	unsigned long utime, stime;
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &utime,
			 &stime) != 2)
		return 0;
	return (uint64_t)(utime + stime) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}
