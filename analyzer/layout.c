/* The whole layout: every group's blocks in a good order, the groups in a good order, hot before
 * cold.
 *
 *      group f: hot f1 f2 f3 | cold f4        slots:  g1 g2  f1 f2 f3 | g3  f4
 *      group g: hot g1 g2    | cold g3                └─ hot, region order ─┘└ cold ┘
 *
 * Blocks that never ran cost no cache line between those that did, and all cold parts together
 * stand behind the last hot one. Only the first hot block of a group is aligned, and only where
 * what begins with it would touch one line of the instruction cache more than it must; alignment
 * inside costs more room than it saves time.
 */
#include "analyzer/layout.h"
#include "analyzer/exttsp.h"
#include "analyzer/tails.h"
#include "analyzer/tunables.h"
#include "analyzer/worth.h"
#include "base/parallel.h"

#include <stdlib.h>
#include <string.h>

struct group { /* the placed blocks of one cfg */
	uint32_t *order;
	uint32_t n, n_hot;
	double score, score_original; /* ext-TSP of this order, and of the original one */
};

static bool is_placed(const struct ovm_cfg *cfg, uint32_t bb)
{
	return cfg->blocks[bb].flags & OVM_BLOCK_REACHABLE;
}

/* Reachable blocks that ran, the head's entry block first even if it is not known to have run. */
static uint32_t hot_blocks(const struct ovm_cfg *cfg, uint32_t *order)
{
	uint32_t n = 0;
	bool any = false;

	ovm_cfg_foreach_bb (cfg, bb)
		if (is_placed(cfg, bb) && cfg->blocks[bb].count)
			any = true;
	ovm_cfg_foreach_bb (cfg, bb)
		if (is_placed(cfg, bb) && (cfg->blocks[bb].count || (any && !bb)))
			order[n++] = bb;
	return n;
}

static int hottest_first(const void *a, const void *b)
{
	const struct ovm_tsp_jump *x = a, *y = b;

	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return (x->dst > y->dst) - (x->dst < y->dst);
}

/* Of the jumps from @first on, all of one block, the @most hottest stay. */
static void keep_hottest(struct ovm_tsp_graph *graph, uint32_t first, uint32_t most)
{
	if (graph->n_jumps - first <= most)
		return;
	qsort(graph->jumps + first, graph->n_jumps - first, sizeof(*graph->jumps), hottest_first);
	graph->n_jumps = first + most;
}

/* Jumps among the blocks order[0..n), numbered by place there. An interpreter with hundreds of
 * instructions, each with a jump to all others, has too many: then the hottest of each block. */
static void hot_graph(const struct ovm_cfg *cfg, const uint32_t *order, uint32_t n,
		      struct ovm_tsp_graph *graph)
{
	uint32_t *place = ovm_alloc_array(cfg->n_blocks, sizeof(*place));
	uint32_t max_jumps = (uint32_t)OVM_TUNE(LAYOUT_MAX_JUMPS);
	uint32_t most = cfg->n_edges > max_jumps ? max_jumps / n + 2 : cfg->n_edges;

	for (uint32_t i = 0; i < n; i++)
		place[order[i]] = i + 1;
	graph->n = n;
	graph->sizes = ovm_alloc_array(n, sizeof(*graph->sizes));
	graph->counts = ovm_alloc_array(n, sizeof(*graph->counts));
	graph->out_degree = ovm_alloc_array(n, sizeof(*graph->out_degree));
	graph->jumps = ovm_alloc_array(cfg->n_edges ? cfg->n_edges : 1, sizeof(*graph->jumps));
	for (uint32_t i = 0; i < n; i++) {
		const struct ovm_block *block = &cfg->blocks[order[i]];
		uint32_t first = graph->n_jumps;

		graph->sizes[i] = block->hi.v - block->lo.v;
		graph->counts[i] = block->count;
		graph->out_degree[i] = block->n_edges;
		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			const struct ovm_edge *edge = &cfg->edges[e];

			if (edge->dst != OVM_NONE && place[edge->dst])
				graph->jumps[graph->n_jumps++] =
				    (struct ovm_tsp_jump){i, place[edge->dst] - 1, edge->count};
		}
		keep_hottest(graph, first, most);
	}
	free(place);
}

static void graph_free(struct ovm_tsp_graph *graph)
{
	free(graph->sizes);
	free(graph->counts);
	free(graph->out_degree);
	free(graph->jumps);
}

/* Ext-TSP score of the blocks order[0..n). */
static double score_of(const struct ovm_cfg *cfg, const uint32_t *order, uint32_t n)
{
	uint64_t *sizes = ovm_alloc_array(cfg->n_blocks ? cfg->n_blocks : 1, sizeof(*sizes));
	uint32_t *degree = ovm_alloc_array(cfg->n_blocks ? cfg->n_blocks : 1, sizeof(*degree));
	double score;

	ovm_cfg_foreach_bb (cfg, bb) {
		sizes[bb] = cfg->blocks[bb].hi.v - cfg->blocks[bb].lo.v;
		degree[bb] = cfg->blocks[bb].n_edges;
	}
	score = ovm_exttsp_score(order, n, sizes, cfg->edges, cfg->n_edges, degree);
	free(degree);
	free(sizes);
	return score;
}

/* Put order[0..n) into a better order, unless the original one, which it has, is as good. */
static void reorder(const struct ovm_cfg *cfg, uint32_t *order, uint32_t n)
{
	uint32_t *tour = ovm_alloc_array(n, sizeof(*tour));
	struct ovm_tsp_graph graph = {0};

	hot_graph(cfg, order, n, &graph);
	ovm_exttsp_order(&graph, tour);
	graph_free(&graph);
	for (uint32_t i = 0; i < n; i++)
		tour[i] = order[tour[i]];
	if (score_of(cfg, tour, n) > score_of(cfg, order, n))
		memcpy(order, tour, n * sizeof(*order));
	free(tour);
}

uint32_t ovm_layout_blocks(const struct ovm_cfg *cfg, uint32_t *order, uint32_t *n_hot)
{
	uint32_t n = hot_blocks(cfg, order);

	*n_hot = n;
	if (n > 2)
		reorder(cfg, order, n);
	ovm_cfg_foreach_bb (cfg, bb)
		if (is_placed(cfg, bb) && !cfg->blocks[bb].count && !(bb == 0 && *n_hot))
			order[n++] = bb;
	return n;
}

static uint32_t original_order(const struct ovm_cfg *cfg, bool drop_cold, uint32_t *order)
{
	uint32_t n = 0;

	ovm_cfg_foreach_bb (cfg, bb)
		if (is_placed(cfg, bb) && (!drop_cold || !bb || cfg->blocks[bb].count))
			order[n++] = bb;
	return n;
}

/* The hot blocks in original order, and how many bytes they have. */
static uint64_t select_hot(const struct ovm_cfg *cfg, const struct ovm_layout_opts *opts,
			   struct group *group)
{
	uint64_t size = 0;

	group->order = ovm_alloc_array(cfg->n_blocks ? cfg->n_blocks : 1, sizeof(uint32_t));
	group->n = group->n_hot = opts->keep_block_order
				      ? original_order(cfg, opts->drop_cold, group->order)
				      : hot_blocks(cfg, group->order);
	for (uint32_t i = 0; i < group->n_hot; i++)
		size += cfg->blocks[group->order[i]].hi.v - cfg->blocks[group->order[i]].lo.v;
	return size;
}

static void order_group(const struct ovm_cfg *cfg, const struct ovm_layout_opts *opts,
			struct group *group)
{
	if (opts->keep_block_order)
		return;
	group->n = ovm_layout_blocks(cfg, group->order, &group->n_hot);
	if (opts->drop_cold)
		group->n = group->n_hot;
}

/* Of the order found and of the original one. */
static void add_scores(const struct ovm_cfg *cfg, struct group *group)
{
	uint32_t *original = ovm_alloc_array(cfg->n_blocks ? cfg->n_blocks : 1, sizeof(*original));

	ovm_cfg_foreach_bb (cfg, bb)
		original[bb] = bb;
	group->score = score_of(cfg, group->order, group->n);
	group->score_original = score_of(cfg, original, cfg->n_blocks);
	free(original);
}

static bool is_jump(const struct ovm_cfg *cfg, uint32_t from, uint32_t to)
{
	const struct ovm_block *block = &cfg->blocks[from];

	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
		if (cfg->edges[e].dst == to && cfg->edges[e].kind != OVM_EDGE_TABLE)
			return true;
	return false;
}

/* Bytes from the start of the group to the first block that none before it leads to. */
static uint64_t straight_size(const struct ovm_cfg *cfg, const struct group *group)
{
	uint64_t size = 0;

	for (uint32_t i = 0; i < group->n_hot; i++) {
		const struct ovm_block *block = &cfg->blocks[group->order[i]];

		if (i && !is_jump(cfg, group->order[i - 1], group->order[i]))
			break;
		size += block->hi.v - block->lo.v;
	}
	return size;
}

/* What begins with the entry shall touch no more lines of the instruction cache than it must, so
 * it may start only so far into a line. */
static void align_entry(const struct ovm_cfg *cfg, const struct group *group, struct ovm_slot *slot)
{
	uint64_t line = OVM_TUNE(LAYOUT_LINE);

	slot->align = (uint16_t)line;
	slot->max_pad = (uint16_t)((straight_size(cfg, group) + line - 1) % line);
}

static void push_slots(struct ovm_layout *layout, const struct ovm_cfg *cfg, uint32_t idx,
		       const struct group *group, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		struct ovm_slot slot = {.cfg = idx, .block = group->order[i], .align = 1};

		if (i == 0 && group->n_hot)
			align_entry(cfg, group, &slot);
		ovm_vec_push(&layout->slots, slot);
	}
}

/* Calls from and to groups that are copied. */
static void keep_copied(const struct ovm_program *program, const bool *is_worth,
			ovm_promotions *promotions)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < promotions->n; i++) {
		struct ovm_promotion p = promotions->v[i];

		if (is_worth[p.cfg] && is_worth[program->cfg_of_region[p.callee]])
			promotions->v[n++] = p;
	}
	promotions->n = n;
}

struct ordering {
	const struct ovm_program *program;
	const struct ovm_layout_opts *opts;
	struct group *groups;
	uint64_t *size;	 /* hot bytes of each group */
	uint32_t *order; /* of the groups */
	uint32_t n_ordered;
	ovm_calls calls;
};

/* The order of the groups needs their sizes only, so it is found beside those of the blocks. */
static void order_one(void *arg, uint32_t i)
{
	struct ordering *o = arg;

	if (!i) {
		ovm_program_calls(o->program, &o->calls);
		o->n_ordered =
		    ovm_order_regions(o->program, &o->calls, o->opts->order, o->size, o->order);
	} else if (o->program->cfgs.v[i - 1]) {
		order_group(o->program->cfgs.v[i - 1], o->opts, &o->groups[i - 1]);
		add_scores(o->program->cfgs.v[i - 1], &o->groups[i - 1]);
	}
}

/* Which groups get slots; a pure copy takes all. */
static bool *choose(const struct ovm_program *program, const ovm_calls *calls,
		    const struct ovm_layout_opts *opts, const struct group *groups,
		    struct ovm_layout *layout)
{
	uint32_t n = program->cfgs.n;
	double *gain = ovm_alloc_array(n ? n : 1, sizeof(*gain));
	bool *is_worth = ovm_alloc_array(n ? n : 1, sizeof(*is_worth));

	for (uint32_t i = 0; i < n; i++) {
		gain[i] = groups[i].score - groups[i].score_original;
		is_worth[i] = true;
	}
	if (opts->promote)
		ovm_promote_choose(program, &layout->promotions);
	if (!opts->take_all && !opts->keep_block_order)
		ovm_worth_choose(program, calls, &layout->promotions, gain, is_worth);
	for (uint32_t i = 0; i < n; i++)
		if (!is_worth[i])
			ovm_vec_push(&layout->not_worth, i);
	free(gain);
	return is_worth;
}

void ovm_layout_build(struct ovm_ctx *ctx, const struct ovm_program *program,
		      const struct ovm_layout_opts *opts, struct ovm_layout *out)
{
	uint32_t n = program->cfgs.n;
	struct group *groups = ovm_alloc_array(n ? n : 1, sizeof(*groups));
	uint64_t *size = ovm_alloc_array(n ? n : 1, sizeof(*size));
	uint32_t *order = ovm_alloc_array(n ? n : 1, sizeof(*order));
	struct ordering o = {program, opts, groups, size, order, 0, {0}};
	struct ovm_layout layout = {0};

	(void)ctx;
	for (uint32_t i = 0; i < n; i++)
		if (program->cfgs.v[i])
			size[i] = select_hot(program->cfgs.v[i], opts, &groups[i]);
	ovm_parallel(n + 1, order_one, &o);
	bool *is_worth = choose(program, &o.calls, opts, groups, &layout);
	keep_copied(program, is_worth, &layout.promotions);
	for (uint32_t i = 0; i < n; i++) {
		layout.score += is_worth[i] ? groups[i].score : groups[i].score_original;
		layout.score_original += groups[i].score_original;
	}
	for (uint32_t i = 0; i < o.n_ordered; i++)
		if (is_worth[order[i]])
			push_slots(&layout, program->cfgs.v[order[i]], order[i], &groups[order[i]],
				   0, groups[order[i]].n_hot);
	layout.n_hot = layout.slots.n;
	for (uint32_t i = 0; i < o.n_ordered; i++)
		if (is_worth[order[i]])
			push_slots(&layout, program->cfgs.v[order[i]], order[i], &groups[order[i]],
				   groups[order[i]].n_hot, groups[order[i]].n);
	if (opts->tails && !opts->keep_block_order)
		ovm_tails_add(program, &layout);
	ovm_vec_free(&o.calls);
	for (uint32_t i = 0; i < n; i++)
		free(groups[i].order);
	free(is_worth);
	free(groups);
	free(size);
	free(order);
	*out = layout;
}

void ovm_layout_fini(struct ovm_layout *layout)
{
	if (!layout)
		return;
	ovm_vec_free(&layout->slots);
	ovm_vec_free(&layout->promotions);
	ovm_vec_free(&layout->not_worth);
}
