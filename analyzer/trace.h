#ifndef OVM_TRACE_H
#define OVM_TRACE_H
/* Hot traces: paths through a group that are followed most of the time, formed by mutual
 * most-likely successor (Fisher 1981; Smith and Nair, Virtual Machines, 4.3). Shown by `optvm dump
 * traces`; seeds of the block layout. */
#include "analyzer/cfg.h"

struct ovm_trace {
	uint32_t *blocks; /* in the caller's arena, in path order */
	uint32_t n_blocks;
	uint64_t count; /* executions of the hottest block */
	bool is_loop;	/* its last block's likeliest successor is its first */
};
typedef OVM_VEC(struct ovm_trace) ovm_traces;

/* Traces of one weighted cfg, hottest first, disjoint, all blocks with a count in exactly one. */
void ovm_trace_form(const struct ovm_cfg *cfg, struct ovm_arena *arena, ovm_traces *out);
void ovm_traces_dump(const struct ovm_image *image, const struct ovm_cfg *cfg,
		     const ovm_traces *traces, FILE *to);

#endif
