#ifndef OVM_TEST_LIVE_CHILD_H
#define OVM_TEST_LIVE_CHILD_H
/* A child process to experiment on: computes the same thing over and over, says so in shared
 * memory. */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct live_shared {
	volatile uint64_t n_rounds, n_wrong;
	volatile int stop;
	volatile int ready;
};

#ifndef __cplusplus

static inline struct live_shared *live_shared_new(void)
{
	return mmap(NULL, sizeof(struct live_shared), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Keeps many registers, flags and the red zone busy; always the same result if nobody disturbs it.
 */
static __attribute__((noinline, unused)) uint64_t live_work(uint64_t x)
{
	uint64_t a = x, b = x ^ 0x9e3779b97f4a7c15u, c = x + 77, d = ~x, e = x << 7, f = x >> 3;
	volatile uint64_t red[8];
	for (int i = 0; i < 2000; i++) {
		a += b ^ (c << 5);
		b = (b << 13 | b >> 51) + d;
		c ^= a > b ? e : f;
		d -= c * 0x2545f4914f6cdd1du;
		red[i & 7] = d;
		e = (e >> 9 | e << 55) ^ red[(i + 3) & 7] * 0;
		f += e + (uint64_t)i;
	}
	return a ^ b ^ c ^ d ^ e ^ f;
}

static inline void live_loop(struct live_shared *shared)
{
	uint64_t want = live_work(42);
	shared->ready = 1;
	while (!shared->stop) {
		shared->n_wrong += live_work(42) != want;
		shared->n_rounds++;
	}
}

static inline pid_t live_fork(struct live_shared *shared, void (*body)(struct live_shared *))
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		body(shared);
		_exit(shared->n_wrong ? 1 : 0);
	}
	while (pid > 0 && !shared->ready)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return pid;
}

/* Wait until the child has made @n more rounds. False after 5 s. */
static inline int live_progress(const struct live_shared *shared, uint64_t n)
{
	uint64_t begin = shared->n_rounds;
	for (int i = 0; i < 5000 && shared->n_rounds < begin + n; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return shared->n_rounds >= begin + n;
}

/* Ask it to end; returns its wait status. */
static inline int live_end(struct live_shared *shared, pid_t pid)
{
	int status = -1;
	shared->stop = 1;
	waitpid(pid, &status, 0);
	munmap(shared, sizeof(*shared));
	return status;
}

#endif /* C only: the tool's side */

#endif
