#ifndef OVM_PARALLEL_H
#define OVM_PARALLEL_H
/* Independent work on an array, on all processors. Results may depend on the index only, so output
 * is the same for any number of threads. */
#include <stdint.h>

/* Call @work(@arg, i) once for each i < @n, in any order, from up to 8 threads; returns when all
 * are done. @work must not touch the context, nor anything another index writes. Falls back to the
 * calling thread alone where no thread can be started. */
void ovm_parallel(uint32_t n, void (*work)(void *arg, uint32_t i), void *arg);

#endif
