#ifndef OVM_FAKE_CFG_H
#define OVM_FAKE_CFG_H
/* Graphs made by hand for tests: blocks with a size in 4-byte instructions, edges in any order.
 * The last instruction is a ret (no successor), jmp (one that is not next) or jcc.
 */
#include "analyzer/cfg.h"

#include <stdlib.h>

struct fake_edge {
	uint32_t src, dst; /* dst OVM_NONE: leaves the group */
	uint64_t count;
};

enum { FAKE_BASE = 0x1000 };

static inline void fake_insns(struct ovm_cfg *cfg, const uint32_t *n_insns, uint32_t n)
{
	uint64_t va = FAKE_BASE;

	for (uint32_t bb = 0; bb < n; bb++)
		cfg->n_insns += n_insns[bb];
	cfg->insns = ovm_alloc_array(cfg->n_insns + 1, sizeof(*cfg->insns));
	cfg->n_insns = 0;
	for (uint32_t bb = 0; bb < n; bb++) {
		struct ovm_block *block = &cfg->blocks[bb];

		block->lo = ovm_va_of(va);
		block->first_insn = cfg->n_insns;
		block->n_insns = n_insns[bb];
		block->table = OVM_NONE;
		block->flags = OVM_BLOCK_REACHABLE;
		for (uint32_t i = 0; i < n_insns[bb]; i++, va += 4) {
			cfg->insns[cfg->n_insns].va = ovm_va_of(va);
			cfg->insns[cfg->n_insns++].len = 4;
		}
		block->hi = ovm_va_of(va);
	}
}

static inline void fake_edges(struct ovm_cfg *cfg, const struct fake_edge *edges, uint32_t n)
{
	cfg->edges = ovm_alloc_array(n + 1, sizeof(*cfg->edges));
	for (uint32_t bb = 0; bb < cfg->n_blocks; bb++) {
		struct ovm_block *block = &cfg->blocks[bb];
		struct ovm_insn *last = &cfg->insns[block->first_insn + block->n_insns - 1];

		block->first_edge = cfg->n_edges;
		for (int falls = 1; falls >= 0; falls--)
			for (uint32_t e = 0; e < n; e++) {
				uint32_t dst = edges[e].dst;
				struct ovm_edge edge = {
				    .src = bb, .dst = dst, .count = edges[e].count};

				if (edges[e].src != bb || (dst == bb + 1) != falls)
					continue;
				edge.kind = falls ? OVM_EDGE_FALL : OVM_EDGE_TAKEN;
				edge.to =
				    dst == OVM_NONE ? ovm_va_of(0x100000) : cfg->blocks[dst].lo;
				cfg->edges[cfg->n_edges++] = edge;
			}
		block->n_edges = cfg->n_edges - block->first_edge;
		if (!block->n_edges)
			last->kind = OVM_INSN_RET;
		else if (block->n_edges > 1)
			last->kind = OVM_INSN_JCC;
		else if (cfg->edges[block->first_edge].kind == OVM_EDGE_TAKEN)
			last->kind = OVM_INSN_JMP;
	}
}

/* Free with fake_free. All blocks are in region 0 and reachable. */
static inline struct ovm_cfg *fake_cfg(const uint32_t *n_insns, uint32_t n_blocks,
				       const struct fake_edge *edges, uint32_t n_edges)
{
	struct ovm_cfg *cfg = ovm_alloc(sizeof(*cfg));

	cfg->regions = ovm_alloc_array(1, sizeof(*cfg->regions));
	cfg->n_regions = 1;
	cfg->n_blocks = n_blocks;
	cfg->blocks = ovm_alloc_array(n_blocks + 1, sizeof(*cfg->blocks));
	fake_insns(cfg, n_insns, n_blocks);
	fake_edges(cfg, edges, n_edges);
	if (n_blocks)
		cfg->blocks[0].flags |= OVM_BLOCK_REGION_START;
	return cfg;
}

static inline void fake_free(struct ovm_cfg *cfg)
{
	free(cfg->regions);
	free(cfg->blocks);
	free(cfg->edges);
	free(cfg->insns);
	free(cfg);
}

static inline uint64_t fake_edge_count(const struct ovm_cfg *cfg, uint32_t src, uint32_t dst)
{
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].src == src && cfg->edges[e].dst == dst)
			return cfg->edges[e].count;
	return 0;
}

#endif
