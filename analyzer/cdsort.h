#ifndef OVM_CDSORT_H
#define OVM_CDSORT_H
/* Function order over a plain call graph: the two algorithms behind ovm_order_regions. */
#include <stdint.h>

struct ovm_cg_call {
	uint32_t src, dst; /* nodes */
	uint64_t count;
	uint64_t offset; /* bytes from the caller's start to the call */
};

struct ovm_cg { /* node numbers are the original order; used for ties */
	uint32_t n;
	uint64_t *sizes;  /* [n] bytes */
	uint64_t *counts; /* [n] executions */
	struct ovm_cg_call *calls;
	uint32_t n_calls;
};

/* @order: caller's array of graph->n. Deterministic. */
void ovm_cdsort(const struct ovm_cg *graph, uint32_t *order); /* cdsort.c: cache-directed sort */
void ovm_hfsort(const struct ovm_cg *graph, uint32_t *order); /* hfsort.c: call-chain clustering */

#endif
