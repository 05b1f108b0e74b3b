#include "analyzer/infer.h"
#include "analyzer/tunables.h"

void ovm_infer_samples(struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb (cfg, bb) {
		struct ovm_block *block = &cfg->blocks[bb];

		block->count = (uint64_t)OVM_TUNE(WEIGHT_SCALE) * block->samples / block->n_insns;
		if (bb == 0 && !block->count)
			block->count = 1;
		for (uint32_t e = 0; e < block->n_edges; e++)
			cfg->edges[block->first_edge + e].count = block->count / block->n_edges;
	}
}

void ovm_infer_repair(struct ovm_cfg *cfg)
{
	(void)cfg;
}
