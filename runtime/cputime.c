#include "runtime/cputime.h"
#include "runtime/procstat.h"

#include <unistd.h>

uint64_t ovm_cpu_time_ms(pid_t pid)
{
	struct ovm_procstat stat;
	if (!ovm_procstat_read(pid, &stat))
		return 0;
	return (stat.utime + stat.stime) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}
