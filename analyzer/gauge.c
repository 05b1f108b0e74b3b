/* Gauges: a handful of counters in optimized code, to see how fast the program gets on.
 *
 *   entry of parse()      original order, counted      98,100 a second of CPU time
 *                         optimized order, counted    111,800 a second of CPU time
 *
 * Both copies count the same block at the same instruction, so they do the same work when they
 * count the same number, however their code is laid out. A block that is nothing but a jump is no
 * place for a gauge: in optimized copies jumps lead past it.
 */
#include "analyzer/probes.h"

#include <stdlib.h>

static int by_position(const void *a, const void *b)
{
	const struct ovm_probe *x = a, *y = b;
	if (x->cfg != y->cfg)
		return x->cfg < y->cfg ? -1 : 1;
	return (x->block > y->block) - (x->block < y->block);
}

static void add_gauge(struct ovm_probes *out, struct ovm_probe probe, ovm_va entry)
{
	uint32_t ext = out->n_nodes++;
	probe.kind = OVM_PROBE_BLOCK;
	probe.counter = out->n_counters++;
	ovm_vec_push(&out->v, probe);
	ovm_vec_push(
	    &out->arcs,
	    ((struct ovm_arc){.to = entry, .src = ext, .dst = ext, .counter = probe.counter}));
}

void ovm_gauges_build(struct ovm_decoder *dec, const struct ovm_program *program,
		      const ovm_va *entries, uint32_t n, struct ovm_probes *out)
{
	*out = (struct ovm_probes){0};
	for (uint32_t i = 0; i < n; i++) {
		uint32_t region = ovm_region_find(program->regions, entries[i]);
		uint32_t idx = region == OVM_NONE ? OVM_NONE : program->cfg_of_region[region];
		const struct ovm_cfg *cfg = idx == OVM_NONE ? NULL : program->cfgs.v[idx];
		uint32_t bb = cfg ? ovm_cfg_block_at(cfg, entries[i]) : OVM_NONE;
		if (bb == OVM_NONE || (cfg->blocks[bb].n_insns == 1 &&
				       cfg->insns[cfg->blocks[bb].first_insn].kind == OVM_INSN_JMP))
			continue;
		uint32_t spot = ovm_probe_spot(dec, program->image, cfg, bb);
		if (spot != OVM_NONE)
			add_gauge(out, (struct ovm_probe){.cfg = idx, .block = bb, .insn = spot},
				  entries[i]);
	}
	if (out->v.n)
		qsort(out->v.v, out->v.n, sizeof(*out->v.v), by_position);
}
