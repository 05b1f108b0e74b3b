/* What a flow through sampled blocks costs.
 *
 * A block of blame weight n (blame.c) that ran f times expects m = f*n/scale samples and got k.
 * Time a block takes varies far more than that: a cache miss, a wrong guess. So k is taken to
 * follow a negative binomial law of shape r around m, and the misfit, in nats, is
 *
 *      c(m) = (k + r) log(m + r) - k log m        for m > k: it ran more often than it shows
 *             h * log2(k / m)                     for m < k: something in it is very slow
 *
 *      k large   a matter of the ratio m/k: by which factor two blocks disagree, not by how many
 *                samples
 *      k = 0     r * log(1 + m/r): not having seen a short block says little, a long one among
 *                hot ones a lot, but hardly more the hotter they are
 *
 * A linear program needs a price per unit. For a sampled block chords of c do. For an unsampled one
 * the chord depends on the flow that is meant: first that of the neighbourhood (estimates spread
 * from block to block), then, in a second round, the first solution: there the price is the slope
 * of c, so that a block that is needed anyway becomes cheap and one that hardly was becomes dear.
 *
 * Edges have a price too: taken edges, and parts the compiler split off (.cold), are unlikely
 * before anything is known.
 */
#include "analyzer/price.h"
#include "analyzer/blame.h"
#include "analyzer/tunables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- what the code says ------------------------------------------------------------------ */

static bool has_call(const struct ovm_cfg *cfg, const struct ovm_block *block)
{
	for (uint32_t i = 0; i < block->n_insns; i++) {
		uint8_t kind = cfg->insns[block->first_insn + i].kind;

		if (kind == OVM_INSN_CALL || kind == OVM_INSN_CALL_IND || kind == OVM_INSN_SYSCALL)
			return true;
	}
	return false;
}

enum ovm_odds ovm_odds_leave(const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	const struct ovm_insn *last = ovm_block_last(cfg, bb);

	if (last->kind == OVM_INSN_TRAP)
		return OVM_ODDS_UNLIKELY;
	if (last->kind == OVM_INSN_RET ||
	    (block->flags & (OVM_BLOCK_UNKNOWN_JUMP | OVM_BLOCK_TAIL_CALL)))
		return OVM_ODDS_SURE;
	if (!block->n_edges)
		return last->kind == OVM_INSN_CALL ? OVM_ODDS_LIKELY : OVM_ODDS_SURE;
	return has_call(cfg, block) ? OVM_ODDS_UNLIKELY : OVM_ODDS_ODD;
}

enum ovm_odds ovm_odds_enter(const struct ovm_cfg *cfg, uint32_t bb, bool has_pred)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	if (block->flags & OVM_BLOCK_REGION_START)
		return block->region == cfg->regions[0] ? OVM_ODDS_SURE : OVM_ODDS_LIKELY;
	if (block->flags & OVM_BLOCK_LANDING_PAD)
		return OVM_ODDS_LIKELY;
	return has_pred || !cfg->n_unknown_jumps ? OVM_ODDS_ODD : OVM_ODDS_LIKELY;
}

/* Into a part that was pulled into the group: the compiler thought it cold. */
static bool enters_fragment(const struct ovm_cfg *cfg, const struct ovm_edge *edge)
{
	uint32_t src = cfg->blocks[edge->src].region;

	return edge->dst != OVM_NONE && cfg->blocks[edge->dst].region != src &&
	       src == cfg->regions[0];
}

/* --- the neighbourhood ------------------------------------------------------------------- */

struct spread {
	double sum;
	uint32_t n;
};

static void spread_once(const struct ovm_cfg *cfg, struct spread *spread, double *near)
{
	memset(spread, 0, cfg->n_blocks * sizeof(*spread));
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		uint32_t src = cfg->edges[e].src, dst = cfg->edges[e].dst;

		if (dst == OVM_NONE)
			continue;
		spread[dst].sum += near[src];
		spread[dst].n += near[src] > 0;
		spread[src].sum += near[dst];
		spread[src].n += near[dst] > 0;
	}
	ovm_cfg_foreach_bb (cfg, bb)
		if (!cfg->blocks[bb].count && spread[bb].n)
			near[bb] = spread[bb].sum / spread[bb].n;
}

void ovm_pricing_init(struct ovm_pricing *pricing, const struct ovm_cfg *cfg)
{
	struct spread *spread = ovm_alloc_array(cfg->n_blocks, sizeof(*spread));
	double *near = ovm_alloc_array(cfg->n_blocks, sizeof(*near)), total = 0;
	uint32_t n = 0;

	ovm_cfg_foreach_bb (cfg, bb) {
		near[bb] = (double)cfg->blocks[bb].count;
		total += near[bb];
		n += cfg->blocks[bb].count != 0;
	}
	for (int64_t round = 0; round < OVM_TUNE(INFER_SPREAD_ROUNDS); round++)
		spread_once(cfg, spread, near);
	*pricing = (struct ovm_pricing){.cfg = cfg, .near = near};
	ovm_cfg_foreach_bb (cfg, bb) {
		if (!(near[bb] > 0))
			near[bb] = n ? total / n : 1;
		if (near[bb] > pricing->max)
			pricing->max = near[bb];
	}
	free(spread);
}

void ovm_pricing_refine(struct ovm_pricing *pricing, const uint64_t *flow)
{
	pricing->refined = true;
	ovm_cfg_foreach_bb (pricing->cfg, bb)
		pricing->near[bb] = (double)flow[bb];
}

void ovm_pricing_fini(struct ovm_pricing *pricing)
{
	free(pricing->near);
	pricing->near = NULL;
}

/* --- prices ------------------------------------------------------------------------------ */

/* @nats a unit, as an integer: 1000 is one nat for all of the group's largest flow. Rounded, so
 * that there are few different prices and with them few phases in the solver. */
static int32_t price(const struct ovm_pricing *pricing, double nats)
{
	double cost = nats * 1000 * pricing->max;
	int32_t step = 1, rounded;

	if (!(cost < OVM_PRICE_MAX))
		return OVM_PRICE_MAX;
	for (rounded = (int32_t)(cost + 0.5); rounded >= 8; rounded /= 2)
		step *= 2;
	return rounded > 0 ? rounded * step : 1;
}

static double milli(int64_t x)
{
	return (double)x / 1000;
}

static double misfit(double k, double m)
{
	double r = milli(OVM_TUNE(INFER_SHAPE));

	return (k + r) * log(m + r) - (k > 0 ? k * log(m) : 0);
}

int32_t ovm_price_unsampled(const struct ovm_pricing *pricing, uint32_t bb)
{
	double samples = ovm_blame_weight(pricing->cfg, bb) / (double)OVM_TUNE(WEIGHT_SCALE);
	double flow = pricing->near[bb], r = milli(OVM_TUNE(INFER_SHAPE));

	if (pricing->refined)
		return price(pricing, r / (flow + r / samples));
	return price(pricing, (misfit(0, flow * samples) - misfit(0, 0)) / flow);
}

void ovm_price_sampled(const struct ovm_pricing *pricing, uint32_t bb, uint64_t count,
		       int32_t *more, int32_t less[OVM_PRICE_PARTS])
{
	double k = (double)pricing->cfg->blocks[bb].samples, flow = (double)count;
	double halving = milli(OVM_TUNE(INFER_HALVING));

	*more = price(pricing, (misfit(k, 4 * k) - misfit(k, k)) / (3 * flow));
	less[0] = price(pricing, halving / (flow / 2));
	less[1] = price(pricing, halving / (flow / 4));
	less[2] = price(pricing, 2 * halving / (flow * 3 / 16));
}

/* The flow a decision at block @bb is about. */
static double flow_at(const struct ovm_pricing *pricing, uint32_t bb)
{
	double least = (double)OVM_TUNE(INFER_LEAST_FLOW);

	return pricing->near[bb] > least ? pricing->near[bb] : least;
}

int32_t ovm_price_odds(const struct ovm_pricing *pricing, uint32_t bb, enum ovm_odds odds)
{
	static const double nats[OVM_N_ODDS] = {0, 3, 6, 10};

	return odds == OVM_ODDS_SURE ? 0 : price(pricing, nats[odds] / flow_at(pricing, bb));
}

int32_t ovm_price_edge(const struct ovm_pricing *pricing, const struct ovm_edge *edge)
{
	const struct ovm_block *src = &pricing->cfg->blocks[edge->src];
	int64_t prior = 0;

	if (enters_fragment(pricing->cfg, edge))
		prior = OVM_TUNE(INFER_PRIOR_FRAGMENT);
	else if (edge->kind != OVM_EDGE_FALL && src->n_edges > 1)
		prior = edge->to.v > src->lo.v ? OVM_TUNE(INFER_PRIOR_FORWARD)
					       : OVM_TUNE(INFER_PRIOR_BACKWARD);
	return prior ? price(pricing, milli(prior) / flow_at(pricing, edge->src)) : 0;
}
