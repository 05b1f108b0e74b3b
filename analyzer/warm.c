/* "Never sampled" is not "never ran". A profile of 20 seconds has some 10^4..10^5 samples, a big
 * program executes 10^6 distinct instructions: most blocks that run are never seen, and moving them
 * all to the cold part costs two far jumps and a cold cache line each time one does run. But not
 * having seen a long block beside a hot one IS evidence.
 *
 *      A  count 4000 ──65 %──▶ B  30 insns, no sample
 *                                 expected m = 4000 * 0.65 * 30 / 1000 = 78: it does not run
 *      D  count  100 ──35 %──▶ E  2 insns, no sample
 *                                 m = 100 * 0.35 * 2 / 1000 = 0.07: nothing is known, E stays near
 *
 * With k ~ negative binomial of shape r around m (the law infer.c uses) no sample leaves r / (r +
 * m) of what was expected before. What is left of the branch's probability decides: at least
 * WARM_MIN_SHARE, and the block gets that share of its predecessor's count. It is passed on from
 * there, so a cold path dies out and a plausible one does not.
 *
 * Limits: prior probabilities are by direction only; parts the compiler split off, traps and calls
 * that do not return stay cold.
 */
#include "analyzer/warm.h"
#include "analyzer/blame.h"
#include "analyzer/tunables.h"

#include <stdlib.h>

static double prior(const struct ovm_cfg *cfg, const struct ovm_edge *edge)
{
	const struct ovm_block *src = &cfg->blocks[edge->src];

	if (src->n_edges == 1)
		return 1;
	if (edge->kind == OVM_EDGE_TABLE)
		return 1.0 / src->n_edges;
	double taken = (double)OVM_TUNE(WARM_TAKEN) / 100;
	return edge->kind == OVM_EDGE_FALL ? 1 - taken : taken;
}

/* The compiler's own verdict, or a way that does not come back. */
static bool is_surely_cold(const struct ovm_cfg *cfg, const struct ovm_edge *edge)
{
	const struct ovm_block *dst = &cfg->blocks[edge->dst];
	const struct ovm_insn *last = ovm_block_last(cfg, edge->dst);

	if (dst->region != cfg->blocks[edge->src].region && dst->region != cfg->regions[0])
		return true;
	return last->kind == OVM_INSN_TRAP || (!dst->n_edges && last->kind == OVM_INSN_CALL);
}

/* Count the block at the end of @edge has in spite of not being seen; 0: cold. */
static uint64_t warmth(const struct ovm_cfg *cfg, const struct ovm_edge *edge)
{
	const struct ovm_block *src = &cfg->blocks[edge->src];
	double shape = (double)OVM_TUNE(INFER_SHAPE) / 1000;
	double share = prior(cfg, edge);
	double expected = (double)src->count * share * ovm_blame_weight(cfg, edge->dst) /
			  (double)OVM_TUNE(WEIGHT_SCALE);

	share *= shape / (shape + expected);
	if (share * 100 < (double)OVM_TUNE(WARM_MIN_SHARE) || is_surely_cold(cfg, edge))
		return 0;
	return (uint64_t)((double)src->count * share);
}

void ovm_weight_warm(struct ovm_cfg *cfg)
{
	uint32_t *queue = ovm_alloc_array(cfg->n_blocks, sizeof(*queue));
	uint32_t n = 0;

	ovm_cfg_foreach_bb (cfg, bb)
		if (cfg->blocks[bb].count)
			queue[n++] = bb;
	for (uint32_t next = 0; next < n; next++) {
		const struct ovm_block *block = &cfg->blocks[queue[next]];

		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			struct ovm_edge *edge = &cfg->edges[e];
			uint64_t count = edge->dst == OVM_NONE || cfg->blocks[edge->dst].count
					     ? 0
					     : warmth(cfg, edge);

			if (!count)
				continue;
			edge->count = count;
			cfg->blocks[edge->dst].count = count;
			queue[n++] = edge->dst;
		}
	}
	free(queue);
}
