/* A shared counter hands out indices in small batches, few of them one by one; the caller works
 * too, so one processor needs no thread. */
#include "base/parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

enum { MAX_THREADS = 8, BATCH = 8, FEW = 64 };

struct job {
	void (*work)(void *arg, uint32_t i);
	void *arg;
	uint32_t n, batch;
	_Atomic uint64_t next;
};

static void *run(void *p)
{
	struct job *job = p;
	for (;;) {
		uint64_t i = atomic_fetch_add(&job->next, job->batch);
		if (i >= job->n)
			return NULL;
		for (uint64_t end = i + job->batch; i < end && i < job->n; i++)
			job->work(job->arg, (uint32_t)i);
	}
}

void ovm_parallel(uint32_t n, void (*work)(void *arg, uint32_t i), void *arg)
{
	struct job job = {.work = work, .arg = arg, .n = n, .batch = n < FEW ? 1 : BATCH};
	pthread_t threads[MAX_THREADS];
	long cpus = n > BATCH ? sysconf(_SC_NPROCESSORS_ONLN) : 1;
	int started = 0;

	while (started < MAX_THREADS - 1 && started + 1 < cpus &&
	       !pthread_create(&threads[started], NULL, run, &job))
		started++;
	run(&job);
	for (int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}
