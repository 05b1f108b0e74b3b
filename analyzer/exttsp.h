#ifndef OVM_EXTTSP_H
#define OVM_EXTTSP_H
/* Ext-TSP over a plain graph: the algorithm behind ovm_layout_blocks, without cfgs. */
#include <stdint.h>

struct ovm_tsp_jump {
	uint32_t src, dst; /* nodes */
	uint64_t count;
};

struct ovm_tsp_graph {
	uint32_t n;	      /* nodes; node 0 is the entry and stays first */
	uint64_t *sizes;      /* [n] bytes; 0 counts as 1 */
	uint64_t *counts;     /* [n] executions */
	uint32_t *out_degree; /* [n] successors the code has, in the graph or not; NULL: as many as
				 jumps */
	struct ovm_tsp_jump *jumps;
	uint32_t n_jumps; /* a jump without count still says who may follow whom */
};

/* @order: caller's array of graph->n, receives the nodes in their new order. Deterministic. */
void ovm_exttsp_order(const struct ovm_tsp_graph *graph, uint32_t *order);

#endif
