#ifndef OVM_CPUTIME_H
#define OVM_CPUTIME_H
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

/* User and system time of all threads of @pid so far, in milliseconds (to a scheduler tick, often
 * 10 ms); 0 if unknown. */
uint64_t ovm_cpu_time_ms(pid_t pid);

/* The same to a microsecond. */
double ovm_cpu_clock_ms(pid_t pid);

/* User and system time, in milliseconds. */
uint64_t ovm_rusage_ms(const struct rusage *usage);

/* CPU time of this process and of children it has waited for. */
uint64_t ovm_own_cpu_ms(void);

#endif
