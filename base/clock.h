#ifndef OVM_CLOCK_H
#define OVM_CLOCK_H
/* The monotonic clock, in the unit that is at hand: for deadlines and for what a step took. */
#include <stdint.h>
#include <time.h>

static inline uint64_t ovm_now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline double ovm_now_ms(void)
{
	return (double)ovm_now_ns() / 1e6;
}

static inline double ovm_now_s(void)
{
	return (double)ovm_now_ns() / 1e9;
}

#endif
