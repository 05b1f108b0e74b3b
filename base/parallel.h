#ifndef OVM_PARALLEL_H
#define OVM_PARALLEL_H
/* Independent work on an array, on all processors. Results may depend on the index only, so output
 * is the same for any number of threads. */
#include <stdint.h>

/* Call @work(@arg, i) once for each i < @n, in any order, from up to 8 threads; returns when all
 * are done. @work must not touch the context, nor anything another index writes. Falls back to the
 * calling thread alone where no thread can be started. */
void ovm_parallel(uint32_t n, void (*work)(void *arg, uint32_t i), void *arg);

enum { OVM_MAX_WORKERS = 8 };

/* The same for work that needs tools which are dear to make or remember something: @worker, below
 * OVM_MAX_WORKERS, is a number that no other thread has meanwhile; the caller is 0. What is done
 * must not depend on it. */
void ovm_parallel_workers(uint32_t n, void (*work)(void *arg, unsigned worker, uint32_t i),
			  void *arg);

/* A few long and different works, each in a thread of its own as far as there are processors;
 * returns when all are done. The same rules. */
struct ovm_task {
	void (*work)(void *arg);
	void *arg;
};
void ovm_parallel_tasks(const struct ovm_task *tasks, uint32_t n);

/* From now on leave @n processors to others: whoever works beside a program takes none that it runs
 * on. The caller works in any case; with UINT_MAX alone. While no other thread is there. */
void ovm_parallel_spare(unsigned n);

#endif
