#include "runtime/cputime.h"
#include "runtime/procstat.h"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t ovm_cpu_time_ms(pid_t pid)
{
	struct ovm_procstat stat;
	if (!ovm_procstat_read(pid, &stat))
		return 0;
	return (stat.utime + stat.stime) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

double ovm_cpu_clock_ms(pid_t pid)
{
	clockid_t clock;
	struct timespec now;
	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &now))
		return 0;
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

uint64_t ovm_rusage_ms(const struct rusage *u)
{
	return (uint64_t)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000 +
	       (uint64_t)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) / 1000;
}

static uint64_t usage_ms(int who)
{
	struct rusage u;
	return getrusage(who, &u) ? 0 : ovm_rusage_ms(&u);
}

uint64_t ovm_own_cpu_ms(void)
{
	return usage_ms(RUSAGE_SELF) + usage_ms(RUSAGE_CHILDREN);
}
