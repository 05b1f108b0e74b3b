/* A profile against the exact counts of the same run.
 *
 * Two profiles of one image give two programs, with the same graphs and other weights. What counts
 * in the end is the layout, so the layout made from the profile is judged by the exact counts:
 *
 *      profile ──▶ weights ──▶ layout ───────┐
 *                                            ├──▶ Ext-TSP score of that order, with true weights
 *      exact ────▶ weights ──────────────────┘
 *              └─▶ layout: its own score is 100 %; the original order is what there was before
 *
 * A layout stands in pieces that are far from each other: the hot part of a group, its cold part,
 * and what was not copied and stands where it always did. A jump from piece to piece scores
 * nothing:
 *
 *      hot  bb0 bb3 | cold  bb2 | original  (bb0) bb1 (bb2) (bb3) bb4
 *
 * So blocks and regions that the profile does not know cost what they cost in the original order.
 *
 * The other question is whether the counts themselves are right. An edge is equal if both counts
 * differ by at most 0.1 %, which is fair only for profiles of one whole run. The overlap means
 * something for samples too: the sum of min(p, q) over the edges of a graph, p and q being the
 * edge's share in either profile of all that happened in this graph, and the mean of that over
 * graphs by weight. Edges as the profile gives them are compared, before any repair; inferred
 * counts where it gives none (those have a unit of their own, hence the shares by graph).
 *
 * Limits: the score of one region does not see the order of regions.
 */
#include "analyzer/score.h"

#include <stdlib.h>

enum { EQUAL_PARTS = 1000 }; /* counts are equal if they differ by at most 1/1000 */

/* --- layouts ----------------------------------------------------------------------------- */

struct standing { /* where the blocks of a program stand */
	const struct ovm_program *program;
	const struct ovm_layout *layout;
	uint32_t *first; /* [cfgs.n] into slots */
	uint32_t *slots; /* slot of each block, OVM_NONE */
};

static void standing_init(struct standing *s, const struct ovm_program *program,
			  const struct ovm_layout *layout)
{
	size_t n = 0;

	*s = (struct standing){.program = program, .layout = layout};
	s->first = ovm_alloc_array(program->cfgs.n ? program->cfgs.n : 1, sizeof(*s->first));
	for (uint32_t c = 0; c < program->cfgs.n; c++) {
		s->first[c] = (uint32_t)n;
		n += program->cfgs.v[c] ? program->cfgs.v[c]->n_blocks : 0;
	}
	s->slots = ovm_alloc_array(n ? n : 1, sizeof(*s->slots));
	for (size_t i = 0; i < n; i++)
		s->slots[i] = OVM_NONE;
	for (uint32_t i = layout->slots.n; i-- > 0;) {
		const struct ovm_slot *slot = &layout->slots.v[i];

		if (!slot->second)
			s->slots[s->first[slot->cfg] + slot->block] = i;
	}
}

static void standing_fini(struct standing *s)
{
	free(s->first);
	free(s->slots);
}

/* The graph of @program that holds region @region, or NULL. */
static const struct ovm_cfg *cfg_of(const struct ovm_program *program, uint32_t region)
{
	uint32_t c = program->cfg_of_region[region];

	return c == OVM_NONE ? NULL : program->cfgs.v[c];
}

static uint32_t slot_of(const struct standing *s, const struct ovm_block *block)
{
	const struct ovm_cfg *cfg = cfg_of(s->program, block->region);
	uint32_t bb = cfg ? ovm_cfg_block_at(cfg, block->lo) : OVM_NONE;

	return bb == OVM_NONE ? OVM_NONE
			      : s->slots[s->first[s->program->cfg_of_region[block->region]] + bb];
}

struct place {
	uint64_t piece; /* equal for blocks that stand near each other */
	uint32_t slot, block;
};

static int by_place(const void *pa, const void *pb)
{
	const struct place *a = pa, *b = pb;

	if (a->piece != b->piece)
		return a->piece < b->piece ? -1 : 1;
	if (a->slot != b->slot)
		return a->slot < b->slot ? -1 : 1;
	return a->block < b->block ? -1 : a->block > b->block;
}

static const uint64_t original_piece = 1ull << 40; /* plus the region */

static struct place place_of(const struct standing *s, const struct ovm_cfg *cfg, uint32_t bb)
{
	uint32_t slot = s ? slot_of(s, &cfg->blocks[bb]) : OVM_NONE;

	if (slot == OVM_NONE)
		return (struct place){original_piece + cfg->blocks[bb].region, OVM_NONE, bb};
	return (struct place){
	    2 * (uint64_t)s->layout->slots.v[slot].cfg + (slot >= s->layout->n_hot), slot, bb};
}

struct scoring { /* of one graph */
	const struct ovm_cfg *cfg;
	uint64_t *sizes, *pieces; /* [n_blocks] */
	uint32_t *degrees, *order;
	struct ovm_edge *edges;
};

/* Score of the jumps inside one piece, places[0..n). What was not copied keeps its distances: its
 * whole region is laid out. */
static double piece_score(struct scoring *s, const struct place *places, uint32_t n)
{
	uint64_t piece = places[0].piece;
	uint32_t n_edges = 0, n_order = 0;

	for (uint32_t e = 0; e < s->cfg->n_edges; e++) {
		const struct ovm_edge *edge = &s->cfg->edges[e];

		if (edge->dst != OVM_NONE && s->pieces[edge->src] == piece &&
		    s->pieces[edge->dst] == piece)
			s->edges[n_edges++] = *edge;
	}
	if (piece < original_piece) {
		for (; n_order < n; n_order++)
			s->order[n_order] = places[n_order].block;
	} else {
		ovm_cfg_foreach_bb (s->cfg, bb)
			if (original_piece + s->cfg->blocks[bb].region == piece)
				s->order[n_order++] = bb;
	}
	return ovm_exttsp_score(s->order, n_order, s->sizes, s->edges, n_edges, s->degrees);
}

static void scoring_init(struct scoring *s, const struct ovm_cfg *cfg)
{
	s->cfg = cfg;
	s->sizes = ovm_alloc_array(cfg->n_blocks, sizeof(*s->sizes));
	s->pieces = ovm_alloc_array(cfg->n_blocks, sizeof(*s->pieces));
	s->degrees = ovm_alloc_array(cfg->n_blocks, sizeof(*s->degrees));
	s->order = ovm_alloc_array(cfg->n_blocks, sizeof(*s->order));
	s->edges = ovm_alloc_array(cfg->n_edges ? cfg->n_edges : 1, sizeof(*s->edges));
}

static void scoring_fini(struct scoring *s)
{
	free(s->sizes);
	free(s->pieces);
	free(s->degrees);
	free(s->order);
	free(s->edges);
}

/* @standing NULL: the original order. */
static double cfg_score(const struct ovm_cfg *cfg, const struct standing *standing)
{
	struct scoring s;
	struct place *places;
	double score = 0;

	if (!cfg->n_blocks)
		return 0;
	scoring_init(&s, cfg);
	places = ovm_alloc_array(cfg->n_blocks, sizeof(*places));
	ovm_cfg_foreach_bb (cfg, bb) {
		places[bb] = place_of(standing, cfg, bb);
		s.pieces[bb] = places[bb].piece;
		s.sizes[bb] = cfg->blocks[bb].hi.v - cfg->blocks[bb].lo.v;
		s.degrees[bb] = cfg->blocks[bb].n_edges;
	}
	qsort(places, cfg->n_blocks, sizeof(*places), by_place);
	for (uint32_t i = 0, end; i < cfg->n_blocks; i = end) {
		for (end = i + 1; end < cfg->n_blocks && places[end].piece == places[i].piece;)
			end++;
		score += piece_score(&s, &places[i], end - i);
	}
	free(places);
	scoring_fini(&s);
	return score;
}

double ovm_score_layout(const struct ovm_program *exact, const struct ovm_program *program,
			const struct ovm_layout *layout)
{
	struct standing standing;
	double score = 0;

	if (program)
		standing_init(&standing, program, layout);
	for (uint32_t c = 0; c < exact->cfgs.n; c++)
		if (exact->cfgs.v[c])
			score += cfg_score(exact->cfgs.v[c], program ? &standing : NULL);
	if (program)
		standing_fini(&standing);
	return score;
}

/* --- edges ------------------------------------------------------------------------------- */

/* Count of the exact edge (@from, @to), 0 if there is none. */
static uint64_t recorded(const struct ovm_prof_module *module, ovm_va from, ovm_va to)
{
	uint32_t lo = 0, hi = module->edges.n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct ovm_prof_edge *edge = &module->edges.v[mid];

		if (edge->from.v < from.v || (edge->from.v == from.v && edge->to.v < to.v))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < module->edges.n && module->edges.v[lo].from.v == from.v &&
		       module->edges.v[lo].to.v == to.v
		   ? module->edges.v[lo].count
		   : 0;
}

/* A conditional jump to the next instruction has two edges that are one to a profile. */
static bool is_double(const struct ovm_cfg *cfg, uint32_t e)
{
	uint32_t first = cfg->blocks[cfg->edges[e].src].first_edge;

	return e > first && cfg->edges[first].to.v == cfg->edges[e].to.v;
}

/* True if @module has exact edges in @cfg. */
static bool is_recorded(const struct ovm_prof_module *module, const struct ovm_cfg *cfg)
{
	for (uint32_t e = 0; module->edges.n && e < cfg->n_edges; e++)
		if (recorded(module, ovm_block_last(cfg, cfg->edges[e].src)->va, cfg->edges[e].to))
			return true;
	return false;
}

/* Count that the weights of @cfg give to the edge of block start @lo to @to. */
static uint64_t inferred(const struct ovm_cfg *cfg, ovm_va lo, ovm_va to)
{
	uint32_t bb = ovm_cfg_block_at(cfg, lo);

	if (bb == OVM_NONE)
		return 0;
	for (uint32_t e = 0; e < cfg->blocks[bb].n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[cfg->blocks[bb].first_edge + e];

		if (edge->to.v == to.v)
			return edge->count;
	}
	return 0;
}

static bool is_equal(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) <= b / EQUAL_PARTS;
}

struct pair { /* counts of one edge */
	uint64_t exact, profile;
};

struct comparison {
	const struct ovm_program *program;
	const struct ovm_prof_module *module, *exact_module;
	bool *is_recorded; /* [program->cfgs.n] */
	OVM_VEC(struct pair) pairs;
	struct ovm_score *out;
};

/* Edges out of block @bb, in a region that both programs know (@other) or not (NULL). */
static void compare_block(struct comparison *c, const struct ovm_cfg *cfg, uint32_t bb,
			  const struct ovm_cfg *other)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	ovm_va from = ovm_block_last(cfg, bb)->va;
	bool raw = other && c->is_recorded[c->program->cfg_of_region[block->region]];

	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
		ovm_va to = cfg->edges[e].to;
		struct pair pair = {0};

		if (is_double(cfg, e))
			continue;
		pair.exact = recorded(c->exact_module, from, to);
		c->out->weight += (double)pair.exact;
		if (!other)
			continue;
		pair.profile = raw ? recorded(c->module, from, to) : inferred(other, block->lo, to);
		if (pair.exact || pair.profile)
			ovm_vec_push(&c->pairs, pair);
	}
}

static void compare_regions(struct comparison *c, const struct ovm_cfg *cfg)
{
	for (uint32_t i = 0; i < cfg->n_regions; i++) {
		c->out->n_regions++;
		c->out->n_shared += cfg_of(c->program, cfg->regions[i]) != NULL;
	}
	ovm_cfg_foreach_bb (cfg, bb)
		compare_block(c, cfg, bb, cfg_of(c->program, cfg->blocks[bb].region));
}

/* Adds up the pairs of one graph. */
static void sum_pairs(struct comparison *c)
{
	double exact = 0, profile = 0;

	for (uint32_t i = 0; i < c->pairs.n; i++) {
		const struct pair *pair = &c->pairs.v[i];

		c->out->n_edges += pair->exact > 0;
		exact += (double)pair->exact;
		profile += (double)pair->profile;
		if (is_equal(pair->profile, pair->exact))
			c->out->weight_equal += (double)pair->exact;
	}
	c->out->weight_shared += exact;
	for (uint32_t i = 0; i < c->pairs.n && profile > 0; i++) {
		double p = (double)c->pairs.v[i].profile / profile * exact;
		double q = (double)c->pairs.v[i].exact;

		c->out->overlap += p < q ? p : q;
	}
	c->pairs.n = 0;
}

void ovm_score_edges(const struct ovm_program *exact, const struct ovm_prof_module *exact_module,
		     const struct ovm_program *program, const struct ovm_prof_module *module,
		     struct ovm_score *out)
{
	struct comparison c = {
	    .program = program, .module = module, .exact_module = exact_module, .out = out};

	c.is_recorded =
	    ovm_alloc_array(program->cfgs.n ? program->cfgs.n : 1, sizeof(*c.is_recorded));
	for (uint32_t i = 0; i < program->cfgs.n; i++)
		c.is_recorded[i] = program->cfgs.v[i] && is_recorded(module, program->cfgs.v[i]);
	for (uint32_t i = 0; i < exact->cfgs.n; i++) {
		if (!exact->cfgs.v[i])
			continue;
		compare_regions(&c, exact->cfgs.v[i]);
		sum_pairs(&c);
	}
	ovm_vec_free(&c.pairs);
	free(c.is_recorded);
}

/* --- both -------------------------------------------------------------------------------- */

struct side { /* what one profile leads to */
	struct ovm_regions regions;
	struct ovm_program program;
	struct ovm_layout layout;
};

static int side_build(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image,
		      const struct ovm_prof_module *module, double share,
		      const struct ovm_layout_opts *opts, struct side *side)
{
	int err = ovm_regions_build(ctx, image, &side->regions);

	if (!err)
		err = ovm_program_build(ctx, dec, image, &side->regions, module,
					&(struct ovm_program_opts){.share = share}, &side->program);
	if (!err)
		ovm_layout_build(ctx, &side->program, opts, &side->layout);
	return err;
}

static void side_fini(struct side *side)
{
	ovm_layout_fini(&side->layout);
	ovm_program_fini(&side->program);
	ovm_regions_free(&side->regions);
}

int ovm_score_profile(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image,
		      const struct ovm_prof_module *module,
		      const struct ovm_prof_module *exact_module, double share,
		      const struct ovm_layout_opts *opts, struct ovm_score *out)
{
	const struct ovm_layout_opts best = {.order = opts->order};
	struct side exact = {0}, side = {0};
	struct ovm_score score = {0};
	int err = side_build(ctx, dec, image, exact_module, 1, &best, &exact);

	if (!err)
		err = side_build(ctx, dec, image, module, share, opts, &side);
	if (!err) {
		score.original = ovm_score_layout(&exact.program, NULL, NULL);
		score.exact = ovm_score_layout(&exact.program, &exact.program, &exact.layout);
		score.profile = ovm_score_layout(&exact.program, &side.program, &side.layout);
		ovm_score_edges(&exact.program, exact_module, &side.program, module, &score);
		*out = score;
	}
	side_fini(&exact);
	side_fini(&side);
	return err;
}
