#ifndef OVM_PROCSTAT_H
#define OVM_PROCSTAT_H
/* What /proc/PID/stat and /proc/PID/auxv tell. */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct ovm_procstat {
	char state; /* 'R', 'S', 'Z', ... */
	pid_t parent;
	unsigned long flags;	  /* the kernel's PF_* */
	uint64_t utime, stime;	  /* of all threads, in clock ticks */
	uint64_t children_time;	  /* of children it has waited for, in clock ticks */
	unsigned long long start; /* clock ticks after boot: with the pid, the name of a process for
				     as long as the machine is up */
};

/* False if there is no such process. */
bool ovm_procstat_read(pid_t pid, struct ovm_procstat *out);

/* Start time of a process that is alive; 0 if it is gone or a zombie. */
unsigned long long ovm_proc_start(pid_t pid);

/* Value of the first entry of type AT_* @type in the auxiliary vector; 0 if there is none, or no
 * such process. */
uint64_t ovm_proc_auxv(pid_t pid, uint64_t type);

#endif
