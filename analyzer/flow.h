#ifndef OVM_FLOW_H
#define OVM_FLOW_H
/* Minimum-cost maximum flow on small integer costs. See flow.c; used by infer.c. */
#include "base/vec.h"

#include <stdbool.h>

struct ovm_flow_arc {
	uint32_t from, to;
	int32_t cost;
	int64_t cap, sent; /* sent: after solving */
};

struct ovm_flow {
	uint32_t n; /* nodes */
	OVM_VEC(struct ovm_flow_arc) arcs;
};

#define OVM_FLOW_INF (INT64_MAX / 4)

void ovm_flow_init(struct ovm_flow *flow, uint32_t n_nodes);
void ovm_flow_fini(struct ovm_flow *flow);

/* Add an arc with capacity @cap >= 0 and cost per unit @cost >= 0. Returns its number. */
uint32_t ovm_flow_add(struct ovm_flow *flow, uint32_t from, uint32_t to, int64_t cap, int32_t cost);

/* Send as much as possible from @src to @dst at least total cost, in at most @max_phases rounds.
 * Sums of capacities out of @src must fit 62 bits. Returns true if it finished; else what was sent
 * so far is a cheapest flow of its amount. */
bool ovm_flow_solve(struct ovm_flow *flow, uint32_t src, uint32_t dst, uint32_t max_phases);

/* Units on arc @arc after solving. */
int64_t ovm_flow_on(const struct ovm_flow *flow, uint32_t arc);

#endif
