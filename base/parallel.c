/* A shared counter hands out indices in small batches, few of them one by one; the caller works
 * too, so one processor needs no thread. */
#include "base/parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

enum { BATCH = 8, FEW = 64 };

struct job {
	void (*work)(void *arg, unsigned worker, uint32_t i);
	void *arg;
	uint32_t n, batch;
	_Atomic uint64_t next;
};

struct worker {
	struct job *job;
	unsigned number;
	pthread_t thread;
};

static long most = 0; /* threads; 0: as many as there are processors */

static void *run(void *p)
{
	const struct worker *worker = p;
	struct job *job = worker->job;
	for (;;) {
		uint64_t i = atomic_fetch_add(&job->next, job->batch);
		if (i >= job->n)
			return NULL;
		for (uint64_t end = i + job->batch; i < end && i < job->n; i++)
			job->work(job->arg, worker->number, (uint32_t)i);
	}
}

void ovm_parallel_spare(unsigned n)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	most = cpus > (long)n ? cpus - (long)n : 1;
}

static void work_all(struct job *job)
{
	struct worker workers[OVM_MAX_WORKERS] = {{.job = job}};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n_workers = 1;

	if (most && cpus > most)
		cpus = most;
	if (cpus > (long)job->n)
		cpus = (long)job->n;
	for (; n_workers < OVM_MAX_WORKERS && (long)n_workers < cpus; n_workers++) {
		struct worker *worker = &workers[n_workers];
		*worker = (struct worker){.job = job, .number = n_workers};
		if (pthread_create(&worker->thread, NULL, run, worker))
			break;
	}
	run(&workers[0]);
	for (unsigned i = 1; i < n_workers; i++)
		pthread_join(workers[i].thread, NULL);
}

void ovm_parallel_workers(uint32_t n, void (*work)(void *arg, unsigned worker, uint32_t i),
			  void *arg)
{
	struct job job = {.work = work, .arg = arg, .n = n, .batch = n < FEW ? 1 : BATCH};
	if (n > BATCH)
		work_all(&job);
	else /* not worth a thread */
		run(&(struct worker){.job = &job});
}

static void work_task(void *arg, unsigned worker, uint32_t i)
{
	const struct ovm_task *task = (const struct ovm_task *)arg + i;
	(void)worker;
	task->work(task->arg);
}

void ovm_parallel_tasks(const struct ovm_task *tasks, uint32_t n)
{
	struct job job = {.work = work_task, .arg = (void *)(uintptr_t)tasks, .n = n, .batch = 1};
	work_all(&job);
}

struct plain {
	void (*work)(void *arg, uint32_t i);
	void *arg;
};

static void work_plain(void *arg, unsigned worker, uint32_t i)
{
	const struct plain *plain = arg;
	(void)worker;
	plain->work(plain->arg, i);
}

void ovm_parallel(uint32_t n, void (*work)(void *arg, uint32_t i), void *arg)
{
	ovm_parallel_workers(n, work_plain, &(struct plain){work, arg});
}
