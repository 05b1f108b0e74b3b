/* Backward liveness of registers and flags.
 *
 *   live before insn = (live after & ~defs) | uses        live at a block's end = union over its
 * successors
 *
 * Whatever leaves the group (an external edge, a return, an unknown jump, a call at a region's end)
 * may read everything but flags at calls and returns. Landing pads need no edges: a call reads all
 * registers anyway.
 *
 * Blocks are visited from the last to the first until nothing changes: few rounds, since most edges
 * go forward.
 */
#include "analyzer/liveness.h"

static uint32_t before_insn(const struct ovm_insn *insn, uint32_t live)
{
	return (live & ~insn->defs) | insn->uses;
}

static uint32_t live_out(const struct ovm_cfg *cfg, const uint32_t *live_in, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	const struct ovm_insn *last = ovm_block_last(cfg, bb);
	uint32_t live = 0;
	if (last->kind == OVM_INSN_RET)
		return OVM_MASK_GPRS;
	if (!block->n_edges)
		return OVM_MASK_ALL;
	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
		live |= cfg->edges[e].dst == OVM_NONE ? (uint32_t)OVM_MASK_ALL
						      : live_in[cfg->edges[e].dst];
	/* entries of a table that are not edges (over-copied ones) are never jumped to */
	return live;
}

static uint32_t flow_block(const struct ovm_cfg *cfg, uint32_t bb, uint32_t stop, uint32_t live)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	for (uint32_t i = block->first_insn + block->n_insns; i-- > stop;)
		live = before_insn(&cfg->insns[i], live);
	return live;
}

void ovm_liveness(const struct ovm_cfg *cfg, uint32_t *live_in)
{
	bool is_changed = true;
	ovm_cfg_foreach_bb (cfg, bb) {
		live_in[bb] = 0;
	}
	while (is_changed) {
		is_changed = false;
		for (uint32_t bb = cfg->n_blocks; bb-- > 0;) {
			uint32_t live = flow_block(cfg, bb, cfg->blocks[bb].first_insn,
						   live_out(cfg, live_in, bb));
			is_changed |= live != live_in[bb];
			live_in[bb] = live;
		}
	}
}

uint32_t ovm_live_before(const struct ovm_cfg *cfg, const uint32_t *live_in, uint32_t bb,
			 uint32_t insn)
{
	OVM_ASSERT(insn >= cfg->blocks[bb].first_insn &&
		   insn < cfg->blocks[bb].first_insn + cfg->blocks[bb].n_insns);
	return flow_block(cfg, bb, insn, live_out(cfg, live_in, bb));
}
