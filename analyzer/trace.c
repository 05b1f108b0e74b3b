/* Hot traces by mutual most-likely successors.
 *
 * Start at the hottest block that is in no trace yet. Go forward along its likeliest edge as long
 * as that edge is also the likeliest way into its target; then backward by the same rule:
 *
 *        A 90                 likeliest out of A: B; likeliest into B: A       trace A B D
 *    80 /   \ 10              likeliest out of B: D; likeliest into D: B
 *      B     C                C's likeliest successor D prefers B              trace C
 *    80 \   / 10
 *        D 90
 *
 * Both conditions make traces disjoint and independent of where they are started inside (but for a
 * loop: it starts at its hottest block). A trace whose end leads back to its start by its likeliest
 * edge is a loop. Cost: O(blocks log blocks + edges).
 */
#include "analyzer/trace.h"
#include "analyzer/image.h"

#include <stdlib.h>
#include <string.h>

struct likely {
	uint32_t *succ, *pred; /* likeliest neighbour of each block, OVM_NONE */
	uint64_t *succ_count, *pred_count;
};

static void find_likely(const struct ovm_cfg *cfg, struct likely *likely)
{
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];

		if (edge->dst == OVM_NONE)
			continue;
		if (edge->count > likely->succ_count[edge->src]) {
			likely->succ_count[edge->src] = edge->count;
			likely->succ[edge->src] = edge->dst;
		}
		if (edge->count > likely->pred_count[edge->dst]) {
			likely->pred_count[edge->dst] = edge->count;
			likely->pred[edge->dst] = edge->src;
		}
	}
}

static void likely_init(const struct ovm_cfg *cfg, struct likely *likely)
{
	uint32_t n = cfg->n_blocks ? cfg->n_blocks : 1;

	likely->succ = ovm_alloc_array(n, sizeof(uint32_t));
	likely->pred = ovm_alloc_array(n, sizeof(uint32_t));
	likely->succ_count = ovm_alloc_array(n, sizeof(uint64_t));
	likely->pred_count = ovm_alloc_array(n, sizeof(uint64_t));
	memset(likely->succ, 0xff, n * sizeof(uint32_t));
	memset(likely->pred, 0xff, n * sizeof(uint32_t));
	find_likely(cfg, likely);
}

static void likely_fini(struct likely *likely)
{
	free(likely->succ);
	free(likely->pred);
	free(likely->succ_count);
	free(likely->pred_count);
}

struct heat {
	uint64_t count;
	uint32_t block;
};

static int by_heat(const void *a, const void *b)
{
	const struct heat *x = a, *y = b;

	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return x->block < y->block ? -1 : x->block > y->block;
}

/* Blocks with a count, hottest first; caller frees. */
static struct heat *by_count(const struct ovm_cfg *cfg, uint32_t *n)
{
	struct heat *heat = ovm_alloc_array(cfg->n_blocks ? cfg->n_blocks : 1, sizeof(*heat));

	*n = 0;
	ovm_cfg_foreach_bb (cfg, bb)
		if (cfg->blocks[bb].count)
			heat[(*n)++] = (struct heat){cfg->blocks[bb].count, bb};
	qsort(heat, *n, sizeof(*heat), by_heat);
	return heat;
}

/* Block after @bb on its trace, OVM_NONE at the end. */
static uint32_t next_of(const struct likely *likely, const bool *taken, uint32_t bb)
{
	uint32_t next = likely->succ[bb];

	return next != OVM_NONE && !taken[next] && likely->pred[next] == bb ? next : OVM_NONE;
}

static uint32_t prev_of(const struct likely *likely, const bool *taken, uint32_t bb)
{
	uint32_t prev = likely->pred[bb];

	return prev != OVM_NONE && !taken[prev] && likely->succ[prev] == bb ? prev : OVM_NONE;
}

static void grow(const struct ovm_cfg *cfg, const struct likely *likely, bool *taken, uint32_t seed,
		 struct ovm_arena *arena, ovm_traces *out)
{
	struct ovm_trace trace = {.count = cfg->blocks[seed].count, .n_blocks = 1};
	uint32_t first = seed, bb;

	taken[seed] = true;
	for (bb = seed; (bb = next_of(likely, taken, bb)) != OVM_NONE; trace.n_blocks++)
		taken[bb] = true;
	for (bb = seed; (bb = prev_of(likely, taken, bb)) != OVM_NONE; trace.n_blocks++) {
		taken[bb] = true;
		first = bb;
	}
	trace.blocks = ovm_arena_array(arena, trace.n_blocks, sizeof(*trace.blocks));
	bb = first;
	for (uint32_t i = 0; i < trace.n_blocks; i++, bb = likely->succ[bb])
		trace.blocks[i] = bb;
	trace.is_loop = likely->succ[trace.blocks[trace.n_blocks - 1]] == first;
	ovm_vec_push(out, trace);
}

void ovm_trace_form(const struct ovm_cfg *cfg, struct ovm_arena *arena, ovm_traces *out)
{
	bool *taken = ovm_alloc_array(cfg->n_blocks ? cfg->n_blocks : 1, sizeof(*taken));
	struct likely likely;
	struct heat *heat;
	uint32_t n;

	likely_init(cfg, &likely);
	heat = by_count(cfg, &n);
	for (uint32_t i = 0; i < n; i++)
		if (!taken[heat[i].block])
			grow(cfg, &likely, taken, heat[i].block, arena, out);
	free(heat);
	likely_fini(&likely);
	free(taken);
}

void ovm_traces_dump(const struct ovm_image *image, const struct ovm_cfg *cfg,
		     const ovm_traces *traces, FILE *to)
{
	char name[160];

	if (!cfg->n_blocks)
		return;
	fprintf(to, "traces %s: %u\n",
		ovm_region_name(image, cfg->blocks[0].lo, name, sizeof(name)), traces->n);
	for (uint32_t i = 0; i < traces->n; i++) {
		const struct ovm_trace *trace = &traces->v[i];

		fprintf(to, "  %llu%s:", (unsigned long long)trace->count,
			trace->is_loop ? " loop" : "");
		for (uint32_t k = 0; k < trace->n_blocks; k++)
			fprintf(to, " bb%u", trace->blocks[k]);
		fprintf(to, "\n");
	}
}
