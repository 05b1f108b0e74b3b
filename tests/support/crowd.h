#ifndef OVM_TEST_CROWD_H
#define OVM_TEST_CROWD_H
/* A process that does everything an overlay could disturb, from several threads at once: deep
 * recursion, hot loops, signals, backtraces, exceptions (C++), thread exits, forks. Always the same
 * results if nobody disturbs it. C and C++. */
#include "tests/support/live_child.h"

#include <execinfo.h>
#include <pthread.h>
#include <stddef.h>

enum { N_THREADS = 3, DEPTH = 3000 };

struct crowd_shared { /* two pages of one file */
	struct live_shared live;
	volatile uint64_t fork_wanted, forked, child_rounds, child_wrong;
};

#ifdef __cplusplus
extern "C" {
#endif

__attribute__((noinline)) uint64_t mix(uint64_t x);
__attribute__((noinline)) uint64_t unwound(uint64_t x);
__attribute__((noinline)) uint64_t deep(unsigned depth, uint64_t x);
__attribute__((noinline)) uint64_t flat(uint64_t x);
__attribute__((noinline)) uint64_t work(void);
void on_alarm(int sig);
void *exiting(void *arg);
void *member(void *arg);

uint64_t mix(uint64_t x)
{
	for (int i = 0; i < 20; i++)
		x = x % 3 ? x * 6364136223846793005u + 1442695040888963407u : (x >> 7) + 7;
	return x;
}

/* Somebody looks at all frames above. */
uint64_t unwound(uint64_t x)
{
	void *pcs[64];
	uint64_t seen = backtrace(pcs, 64) > 8 ? 1 : 1000;
#ifdef __cplusplus
	if (x & 1)
		throw x;
#endif
	return seen + x % 2;
}

/* Recursion with live values across the call and different ways to the end. */
uint64_t deep(unsigned depth, uint64_t x)
{
	uint64_t y = mix(x);
	if (depth == 0)
		return y + unwound(2);
#ifdef __cplusplus
	if (depth % 512 == 0) {
		try {
			y += unwound(depth | 1);
		} catch (uint64_t thrown) {
			y ^= thrown;
		}
	}
#endif
	uint64_t z = y & 4 ? deep(depth - 1, y) : deep(depth - 1, y ^ x) + 3;
	return (z ^ y) + mix(z) % 5;
}

uint64_t flat(uint64_t x)
{
	uint64_t sum = 0;
	for (int i = 0; i < 20000; i++) {
		sum += x & 1 ? mix(x) : x >> 3;
		x = x * 2862933555777941757u + 3037000493u;
	}
	return sum;
}

uint64_t work(void)
{
	return flat(7) ^ deep(DEPTH, 42);
}

static volatile uint64_t handled;

void on_alarm(int sig)
{
	handled = handled + (mix((uint64_t)sig) != 0);
}

struct crowd {
	struct crowd_shared *shared;
	uint64_t want;
};

void *exiting(void *arg)
{
	if (flat(7) != (uint64_t)(uintptr_t)arg)
		return (void *)1;
	pthread_exit(NULL); /* unwinds */
}

void *member(void *arg)
{
	const struct crowd *crowd = (const struct crowd *)arg;
	while (!crowd->shared->live.stop) {
		if (work() != crowd->want)
			__atomic_fetch_add(&crowd->shared->live.n_wrong, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&crowd->shared->live.n_rounds, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

#ifdef __cplusplus
}
#endif

static inline void crowd_fork(const struct crowd *crowd)
{
	struct crowd_shared *shared = crowd->shared;
	shared->fork_wanted = 0;
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!shared->live.stop) {
			shared->child_wrong = shared->child_wrong + (work() != crowd->want);
			shared->child_rounds = shared->child_rounds + 1;
		}
		_exit(0);
	}
	shared->forked = shared->forked + 1;
}

static inline void crowd_signals(void)
{
	struct itimerspec every;
	struct sigaction sa;
	timer_t timer;
	__builtin_memset(&sa, 0, sizeof(sa));
	__builtin_memset(&every, 0, sizeof(every));
	sa.sa_handler = on_alarm;
	sa.sa_flags = SA_RESTART;
	every.it_interval.tv_nsec = every.it_value.tv_nsec = 700000;
	sigaction(SIGALRM, &sa, NULL);
	timer_create(CLOCK_MONOTONIC, NULL, &timer);
	timer_settime(timer, 0, &every, NULL);
}

static inline void crowd_run(struct live_shared *live)
{
	struct crowd crowd = {(struct crowd_shared *)live, work()};
	uint64_t want_flat = flat(7);
	pthread_t threads[N_THREADS], other;
	crowd_signals();
	for (int i = 0; i < N_THREADS; i++)
		pthread_create(&threads[i], NULL, member, &crowd);
	live->ready = 1;
	while (!live->stop) {
		void *result = NULL;
		uint64_t wrong = work() != crowd.want;
		pthread_create(&other, NULL, exiting, (void *)(uintptr_t)want_flat);
		pthread_join(other, &result);
		if (wrong || result)
			__atomic_fetch_add(&live->n_wrong, 1, __ATOMIC_RELAXED);
		if (crowd.shared->fork_wanted)
			crowd_fork(&crowd);
	}
	for (int i = 0; i < N_THREADS; i++)
		pthread_join(threads[i], NULL);
}

#endif
