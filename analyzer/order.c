/* The order of groups: makes a call graph of the program and lets cdsort.c or hfsort.c sort it.
 *
 * A group's size is that of its hot part, its count what its head's entry and the calls to it say.
 * Offsets of call sites are those in the original code; after block reordering they are a little
 * wrong, which does not matter at the distances in question.
 */
#include "analyzer/cdsort.h"
#include "analyzer/layout.h"

#include <stdlib.h>

/* Nodes are the groups with a cfg, in the order of their addresses, so that ties keep the original
 * order. */
struct numbering {
	uint32_t *cfg_of;  /* node -> cfg */
	uint32_t *node_of; /* cfg -> node */
	uint32_t n;
};

static void number_groups(const struct ovm_program *program, struct numbering *num)
{
	uint32_t n = program->cfgs.n ? program->cfgs.n : 1;

	num->n = 0;
	num->cfg_of = ovm_alloc_array(n, sizeof(*num->cfg_of));
	num->node_of = ovm_alloc_array(n, sizeof(*num->node_of));
	for (uint32_t r = 0; r < program->regions->v.n; r++) {
		uint32_t cfg = program->cfg_of_region[r];

		if (cfg == OVM_NONE || !program->cfgs.v[cfg] ||
		    program->cfgs.v[cfg]->regions[0] != r)
			continue;
		num->node_of[cfg] = num->n;
		num->cfg_of[num->n++] = cfg;
	}
}

static void add_calls(const struct ovm_program *program, const ovm_calls *calls,
		      const struct numbering *num, struct ovm_cg *graph)
{
	graph->calls = ovm_alloc_array(calls->n ? calls->n : 1, sizeof(*graph->calls));
	for (uint32_t i = 0; i < calls->n; i++) {
		const struct ovm_call *call = &calls->v[i];
		const struct ovm_cfg *cfg = program->cfgs.v[call->cfg];
		const struct ovm_block *block = &cfg->blocks[call->block];
		uint64_t start = cfg->blocks[0].lo.v, at = block->lo.v + call->offset;
		uint32_t callee = program->cfg_of_region[call->callee];

		if (!call->count)
			continue;
		graph->calls[graph->n_calls++] =
		    (struct ovm_cg_call){num->node_of[call->cfg], num->node_of[callee], call->count,
					 at > start ? at - start : 0};
	}
}

/* Executions: of the entry block, or as many as there were calls, at least one if anything ran. */
static void add_counts(const struct ovm_program *program, const struct numbering *num,
		       struct ovm_cg *graph)
{
	uint64_t *called = ovm_alloc_array(num->n ? num->n : 1, sizeof(*called));

	for (uint32_t i = 0; i < graph->n_calls; i++)
		called[graph->calls[i].dst] += graph->calls[i].count;
	for (uint32_t i = 0; i < num->n; i++) {
		const struct ovm_cfg *cfg = program->cfgs.v[num->cfg_of[i]];

		graph->counts[i] = cfg->n_blocks ? cfg->blocks[0].count : 0;
		if (called[i] > graph->counts[i])
			graph->counts[i] = called[i];
		ovm_cfg_foreach_bb (cfg, bb)
			if (!graph->counts[i] && cfg->blocks[bb].count)
				graph->counts[i] = 1;
	}
	free(called);
}

uint32_t ovm_order_regions(const struct ovm_program *program, const ovm_calls *calls,
			   enum ovm_order how, const uint64_t *size, uint32_t *order)
{
	struct ovm_cg graph = {0};
	struct numbering num;

	number_groups(program, &num);
	graph.n = num.n;
	graph.sizes = ovm_alloc_array(num.n ? num.n : 1, sizeof(*graph.sizes));
	graph.counts = ovm_alloc_array(num.n ? num.n : 1, sizeof(*graph.counts));
	for (uint32_t i = 0; i < num.n; i++) {
		graph.sizes[i] = size[num.cfg_of[i]];
		order[i] = i;
	}
	if (how != OVM_ORDER_ORIGINAL) {
		add_calls(program, calls, &num, &graph);
		add_counts(program, &num, &graph);
		(how == OVM_ORDER_CDSORT ? ovm_cdsort : ovm_hfsort)(&graph, order);
	}
	for (uint32_t i = 0; i < num.n; i++)
		order[i] = num.cfg_of[order[i]];
	free(graph.calls);
	free(graph.sizes);
	free(graph.counts);
	free(num.cfg_of);
	free(num.node_of);
	return num.n;
}
