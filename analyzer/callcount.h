#ifndef OVM_CALLCOUNT_H
#define OVM_CALLCOUNT_H
/* How often calls were executed, from the counts of the blocks they stand in: no counters of their
 * own. */
#include "analyzer/probes.h"

struct ovm_counted_call {
	ovm_va at, to; /* direct call instruction, start of the region it calls */
	ovm_va
	    last; /* last instruction of its block: arcs from there add up to the block's count */
};
typedef OVM_VEC(struct ovm_counted_call) ovm_counted_calls;

/* Direct calls to region starts in the REACHABLE blocks of all cfgs. */
void ovm_callcount_list(const struct ovm_program *program, ovm_counted_calls *out);

/* Append to module->edges: (call, callee, count) for each call that was executed, and (0, callee,
 * sum) for callees that are not among @counted: region starts with counters of their own,
 * [n_counted], ascending. @counts: of @arcs, see ovm_arcs_solve. */
void ovm_callcount_to_profile(const ovm_counted_calls *calls, const ovm_arcs *arcs,
			      const uint64_t *counts, const ovm_va *counted, uint32_t n_counted,
			      struct ovm_prof_module *module);

#endif
