/* From a profile to counts on blocks and edges.
 *
 * A PC sample says "time was spent here", not "this ran once": a block of 20 instructions gets 20
 * times the samples of a block of one that runs as often. So the first estimate of a block's count
 * is samples / instructions, in fixed point:
 *
 *      A  4 insns, 8 samples  2000       A ──▶ B ──▶ D       2000 = 500 + 0 = 3000?
 *      B  2 insns, 1 sample    500       └───▶ C ────┘       The estimates disagree; infer.c
 *      C  1 insn,  0 samples     0                           finds the likeliest counts that
 *      D  1 insn,  3 samples  3000                           do not.
 *
 * (blame.c knows better than to count instructions, but that is the idea.)
 *
 * Branch records know counts of taken edges, ranges count straight runs, and exact edges
 * (instrumented copies) need no guess at all: where a module has them for a group, samples are not
 * used for its counts. infer.c then repairs what remains inconsistent.
 */
#include "analyzer/weight.h"
#include "analyzer/infer.h"
#include "analyzer/region.h"
#include "analyzer/tunables.h"
#include "analyzer/warm.h"

#include <stdlib.h>

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
	uint64_t sum = a > UINT64_MAX - b ? UINT64_MAX : a + b;

	return sum > (uint64_t)OVM_TUNE(WEIGHT_MAX) ? (uint64_t)OVM_TUNE(WEIGHT_MAX) : sum;
}

static uint64_t clamp_count(uint64_t n)
{
	return add_saturated(n, 0);
}

/* Sets @out to the first index below @end in a sorted list whose key is >= @va, or @end. Looks near
 * the old value of @out first: blocks are asked for in order, and a list may have a million
 * records. */
#define LOWER_BOUND(list, end, key, va, out)                                                       \
	do {                                                                                       \
		uint32_t lo_ = (out), hi_ = lo_, step_ = 1;                                        \
		if (lo_ > (end) || (lo_ && (list)->v[lo_ - 1].key.v >= (va)))                      \
			lo_ = hi_ = 0, step_ = (end);                                              \
		while (hi_ < (end) && (list)->v[hi_].key.v < (va)) {                               \
			lo_ = hi_ + 1;                                                             \
			hi_ = (end)-lo_ > step_ ? lo_ + step_ : (end);                             \
			step_ *= 2;                                                                \
		}                                                                                  \
		while (lo_ < hi_) {                                                                \
			uint32_t mid_ = lo_ + (hi_ - lo_) / 2;                                     \
			if ((list)->v[mid_].key.v < (va))                                          \
				lo_ = mid_ + 1;                                                    \
			else                                                                       \
				hi_ = mid_;                                                        \
		}                                                                                  \
		(out) = lo_;                                                                       \
	} while (0)

static void clear(struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb (cfg, bb)
		cfg->blocks[bb].samples = cfg->blocks[bb].count = 0;
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		cfg->edges[e].count = 0;
	cfg->samples = 0;
}

/* Samples of [block lo, block hi) for every block; blocks are sorted within a region, so one search
 * a block is enough. */
static void attach_samples(struct ovm_cfg *cfg, const struct ovm_prof_module *module)
{
	uint32_t i = 0;

	ovm_cfg_foreach_bb (cfg, bb) {
		struct ovm_block *block = &cfg->blocks[bb];

		LOWER_BOUND(&module->samples, module->samples.n, va, block->lo.v, i);
		for (; i < module->samples.n && module->samples.v[i].va.v < block->hi.v; i++)
			block->samples = add_saturated(block->samples, module->samples.v[i].count);
		cfg->samples = add_saturated(cfg->samples, block->samples);
	}
}

static struct ovm_edge *find_edge(struct ovm_cfg *cfg, uint32_t bb, ovm_va to)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
		if (cfg->edges[e].to.v == to.v)
			return &cfg->edges[e];
	return NULL;
}

static struct ovm_edge *fall_edge(struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	return block->n_edges && cfg->edges[block->first_edge].kind == OVM_EDGE_FALL
		   ? &cfg->edges[block->first_edge]
		   : NULL;
}

/* One record "control went from the instruction at @from to @to". Calls and returns are no edges of
 * the graph: ignored. */
static bool attach_jump(struct ovm_cfg *cfg, uint32_t bb, ovm_va from, ovm_va to, uint64_t count)
{
	struct ovm_edge *edge;

	if (ovm_block_last(cfg, bb)->va.v != from.v || !(edge = find_edge(cfg, bb, to)))
		return false;
	edge->count = add_saturated(edge->count, count);
	return true;
}

/* Exact edges and branch records that start in @cfg. Returns how many were understood. */
static uint32_t attach_edges(struct ovm_cfg *cfg, const struct ovm_prof_module *module)
{
	uint32_t n = 0, i = 0;

	ovm_cfg_foreach_bb (cfg, bb) {
		ovm_va from = ovm_block_last(cfg, bb)->va;

		LOWER_BOUND(&module->edges, module->edges.n, from, from.v, i);
		for (; i < module->edges.n && module->edges.v[i].from.v == from.v; i++)
			n += attach_jump(cfg, bb, from, module->edges.v[i].to,
					 module->edges.v[i].count);
	}
	return n;
}

static uint32_t attach_branches(struct ovm_cfg *cfg, const struct ovm_prof_module *module)
{
	uint32_t n = 0, i = 0;

	ovm_cfg_foreach_bb (cfg, bb) {
		ovm_va from = ovm_block_last(cfg, bb)->va;

		LOWER_BOUND(&module->branches, module->branches.n, from, from.v, i);
		for (; i < module->branches.n && module->branches.v[i].from.v == from.v; i++)
			n += attach_jump(cfg, bb, from, module->branches.v[i].to,
					 module->branches.v[i].count);
	}
	return n;
}

/* A straight run from A to B passes the fall-through edge of every block that ends between them. */
static uint32_t attach_range(struct ovm_cfg *cfg, uint32_t bb, const struct ovm_prof_range *range)
{
	uint32_t n = 0;

	for (; bb < cfg->n_blocks && cfg->blocks[bb].hi.v <= range->to.v; bb++) {
		struct ovm_edge *edge = fall_edge(cfg, bb);

		if (!edge)
			break;
		edge->count = add_saturated(edge->count, range->count);
		n++;
		if (edge->dst != bb + 1)
			break;
	}
	return n;
}

static uint32_t attach_ranges(struct ovm_cfg *cfg, const struct ovm_prof_module *module)
{
	uint32_t n = 0, i = 0;

	ovm_cfg_foreach_bb (cfg, bb) {
		LOWER_BOUND(&module->ranges, module->ranges.n, from, cfg->blocks[bb].lo.v, i);
		for (; i < module->ranges.n && module->ranges.v[i].from.v < cfg->blocks[bb].hi.v;
		     i++)
			n += attach_range(cfg, bb, &module->ranges.v[i]);
	}
	return n;
}

/* Arrivals from outside, records from 0, of a sorted list. */
#define ATTACH_ENTRIES(cfg, list, in, found)                                                       \
	do {                                                                                       \
		uint32_t end_ = 0, a_ = 0;                                                         \
		LOWER_BOUND(list, (list)->n, from, 1, end_);                                       \
		for (uint32_t bb_ = 0; end_ && bb_ < (cfg)->n_blocks; bb_++) {                     \
			LOWER_BOUND(list, end_, to, (cfg)->blocks[bb_].lo.v, a_);                  \
			if (a_ < end_ && (list)->v[a_].to.v == (cfg)->blocks[bb_].lo.v) {          \
				(in)[bb_] = clamp_count((list)->v[a_].count);                      \
				(found)++;                                                         \
			}                                                                          \
		}                                                                                  \
	} while (0)

/* Block counts from edge counts: whatever is larger of what comes in and what goes out. @in: what
 * comes in from outside; used up. */
static void blocks_from_edges(struct ovm_cfg *cfg, uint64_t *in)
{
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].dst != OVM_NONE)
			in[cfg->edges[e].dst] =
			    add_saturated(in[cfg->edges[e].dst], cfg->edges[e].count);
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		uint64_t out = 0;

		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
			out = add_saturated(out, cfg->edges[e].count);
		cfg->blocks[bb].count = in[bb] > out ? in[bb] : out;
		/* windows are short: what a sample hit does run */
		if (!cfg->blocks[bb].count && cfg->blocks[bb].samples)
			cfg->blocks[bb].count = 1;
	}
}

/* Nothing is known of @cfg but how often it is entered: all of it may run as often. */
static void spread_entries(struct ovm_cfg *cfg, const uint64_t *in)
{
	uint64_t most = 0;

	ovm_cfg_foreach_bb (cfg, bb)
		most = in[bb] > most ? in[bb] : most;
	ovm_cfg_foreach_bb (cfg, bb)
		if (cfg->blocks[bb].region == cfg->regions[0])
			cfg->blocks[bb].count = most;
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].dst != OVM_NONE)
			cfg->edges[e].count = cfg->blocks[cfg->edges[e].dst].count;
}

void ovm_weight_attach(struct ovm_ctx *ctx, struct ovm_cfg *cfg,
		       const struct ovm_prof_module *module)
{
	uint32_t n_edges = 0, n_entries = 0;

	(void)ctx;
	clear(cfg);
	cfg->has_counts = true;
	if (!module)
		return;
	uint64_t *in = ovm_alloc_array(cfg->n_blocks ? cfg->n_blocks : 1, sizeof(*in));
	attach_samples(cfg, module);
	if (module->edges.n) {
		n_edges = attach_edges(cfg, module);
		ATTACH_ENTRIES(cfg, &module->edges, in, n_entries);
	}
	cfg->is_exact = n_edges || (n_entries && !cfg->n_edges);
	if (!n_edges && !n_entries && (module->branches.n || module->ranges.n)) {
		n_edges = attach_branches(cfg, module) + attach_ranges(cfg, module);
		ATTACH_ENTRIES(cfg, &module->branches, in, n_edges);
	}
	if (n_edges || cfg->is_exact) {
		blocks_from_edges(cfg, in);
		ovm_infer_repair(cfg);
	} else if (cfg->samples) {
		ovm_infer_samples(cfg);
		ovm_weight_warm(cfg);
	} else if (n_entries) {
		cfg->is_exact = true;
		spread_entries(cfg, in);
	}
	free(in);
}

void ovm_weight_uniform(struct ovm_cfg *cfg)
{
	clear(cfg);
	ovm_cfg_foreach_bb (cfg, bb)
		cfg->blocks[bb].count = (uint64_t)OVM_TUNE(WEIGHT_UNIFORM);
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		cfg->edges[e].count = (uint64_t)OVM_TUNE(WEIGHT_UNIFORM);
	cfg->has_counts = true;
}

void ovm_weight_repair(struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb (cfg, bb)
		cfg->blocks[bb].count = clamp_count(cfg->blocks[bb].count);
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		cfg->edges[e].count = clamp_count(cfg->edges[e].count);
	ovm_infer_repair(cfg);
	cfg->has_counts = true;
}

void ovm_weights_dump(const struct ovm_image *image, const struct ovm_cfg *cfg, FILE *to)
{
	char name[128], dst[160];

	if (!cfg->n_blocks)
		return;
	fprintf(to, "weights %s: %llu samples\n",
		ovm_region_name(image, cfg->blocks[0].lo, name, sizeof(name)),
		(unsigned long long)cfg->samples);
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];

		fprintf(to, "  bb%u %s samples %llu count %llu:", bb,
			ovm_region_name(image, block->lo, name, sizeof(name)),
			(unsigned long long)block->samples, (unsigned long long)block->count);
		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			const struct ovm_edge *edge = &cfg->edges[e];

			if (edge->dst != OVM_NONE)
				snprintf(dst, sizeof(dst), "bb%u", edge->dst);
			else
				ovm_region_name(image, edge->to, dst, sizeof(dst));
			fprintf(to, " %s%s %llu", edge->kind == OVM_EDGE_FALL ? "fall " : "", dst,
				(unsigned long long)edge->count);
		}
		fprintf(to, "\n");
	}
}
