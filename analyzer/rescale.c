/* One program, two currencies. Instrumented regions have counts of executions, the others counts
 * that were inferred from samples, in units of their own; region order compares calls between them.
 *
 * Both have samples, so both know what one sample is worth in executed instructions:
 *
 *      exact       4.0e9 instructions, 8000 samples     500,000 a sample
 *      inferred    2.0e6 "instructions", 100 samples     20,000 a sample     => times 25
 *
 * Limit: assumes that the rare regions take as long for an instruction as the hot ones.
 */
#include "analyzer/rescale.h"
#include "analyzer/tunables.h"

struct worth {
	double insns, samples;
};

static void add_cfg(const struct ovm_cfg *cfg, struct worth *sum)
{
	if (!cfg->samples)
		return;
	sum->samples += (double)cfg->samples;
	ovm_cfg_foreach_bb (cfg, bb)
		sum->insns += (double)cfg->blocks[bb].count * cfg->blocks[bb].n_insns;
}

static uint64_t scaled(uint64_t count, double factor)
{
	double x = (double)count * factor;
	if (!count)
		return 0;
	if (x < 1)
		return 1;
	return x < (double)OVM_TUNE(WEIGHT_MAX) ? (uint64_t)x : (uint64_t)OVM_TUNE(WEIGHT_MAX);
}

static void scale_cfg(struct ovm_cfg *cfg, double factor)
{
	ovm_cfg_foreach_bb (cfg, bb)
		cfg->blocks[bb].count = scaled(cfg->blocks[bb].count, factor);
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		cfg->edges[e].count = scaled(cfg->edges[e].count, factor);
}

void ovm_rescale(struct ovm_program *program)
{
	struct worth exact = {0}, inferred = {0};
	for (uint32_t c = 0; c < program->cfgs.n; c++) {
		const struct ovm_cfg *cfg = program->cfgs.v[c];
		if (cfg)
			add_cfg(cfg, cfg->is_exact ? &exact : &inferred);
	}
	if (exact.insns <= 0 || inferred.insns <= 0)
		return;
	double factor = exact.insns / exact.samples * inferred.samples / inferred.insns;
	for (uint32_t c = 0; c < program->cfgs.n; c++)
		if (program->cfgs.v[c] && !program->cfgs.v[c]->is_exact)
			scale_cfg(program->cfgs.v[c], factor);
}
