/* Hot loops that nothing is known to enter.
 *
 * Flow conservation is happy with a loop that runs a million times and was never entered:
 *
 *      entry 0 ──▶ A 0 ──▶ ┌▶ B 1000 ─┐ ──▶ C 0 ──▶ exit       entry 31 A 31 B 1032 C 32 ...
 *                          └──────────┘               becomes
 *
 * It was entered, of course, and a layout should know from where. So each such island gets a thin
 * path from an entry and on to an exit along the fewest edges, as if it ran INFER_LOOP_TRIPS times.
 */
#include "analyzer/islands.h"
#include "analyzer/price.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

struct islands {
	struct ovm_cfg *cfg;
	bool *joined;	/* [n_blocks] reached from outside along edges that ran */
	uint32_t *from; /* [n_blocks] edge on a shortest way from an entry, OVM_NONE: an entry or no
			   way */
	uint32_t
	    *to; /* [n_blocks] edge on a shortest way to an exit, OVM_NONE: an exit or no way */
	bool *reached;	    /* [n_blocks] by the search at hand */
	uint32_t *queue;    /* [n_blocks] */
	uint32_t *in_first; /* [n_blocks + 1], in_edge[]: edges by target */
	uint32_t *in_edge;
};

static void islands_init(struct islands *is, struct ovm_cfg *cfg)
{
	uint32_t n = cfg->n_blocks;

	memset(is, 0, sizeof(*is));
	is->cfg = cfg;
	is->joined = ovm_alloc_array(n, sizeof(*is->joined));
	is->from = ovm_alloc_array(n, sizeof(*is->from));
	is->to = ovm_alloc_array(n, sizeof(*is->to));
	is->reached = ovm_alloc_array(n, sizeof(*is->reached));
	is->queue = ovm_alloc_array(n, sizeof(*is->queue));
	is->in_first = ovm_alloc_array(n + 2, sizeof(*is->in_first));
	is->in_edge = ovm_alloc_array(cfg->n_edges ? cfg->n_edges : 1, sizeof(*is->in_edge));
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].dst != OVM_NONE)
			is->in_first[cfg->edges[e].dst + 2]++;
	for (uint32_t i = 0; i < n; i++)
		is->in_first[i + 2] += is->in_first[i + 1];
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].dst != OVM_NONE)
			is->in_edge[is->in_first[cfg->edges[e].dst + 1]++] = e;
}

static void islands_fini(struct islands *is)
{
	free(is->joined);
	free(is->from);
	free(is->to);
	free(is->reached);
	free(is->queue);
	free(is->in_first);
	free(is->in_edge);
}

/* Mark what @seed reaches along edges that ran. */
static void join_from(struct islands *is, uint32_t seed)
{
	struct ovm_cfg *cfg = is->cfg;
	uint32_t head = 0, tail = 0;

	if (is->joined[seed])
		return;
	is->joined[seed] = true;
	is->queue[tail++] = seed;
	while (head < tail) {
		const struct ovm_block *block = &cfg->blocks[is->queue[head++]];

		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			uint32_t dst = cfg->edges[e].dst;

			if (dst != OVM_NONE && cfg->edges[e].count && !is->joined[dst]) {
				is->joined[dst] = true;
				is->queue[tail++] = dst;
			}
		}
	}
}

static void ways_from_entries(struct islands *is)
{
	struct ovm_cfg *cfg = is->cfg;
	uint32_t head = 0, tail = 0;

	memset(is->reached, 0, cfg->n_blocks * sizeof(*is->reached));
	ovm_cfg_foreach_bb (cfg, bb) {
		is->from[bb] = OVM_NONE;
		if (ovm_odds_enter(cfg, bb, true) == OVM_ODDS_SURE) {
			is->reached[bb] = true;
			is->queue[tail++] = bb;
		}
	}
	while (head < tail) {
		const struct ovm_block *block = &cfg->blocks[is->queue[head++]];

		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			uint32_t dst = cfg->edges[e].dst;

			if (dst != OVM_NONE && !is->reached[dst]) {
				is->reached[dst] = true;
				is->from[dst] = e;
				is->queue[tail++] = dst;
			}
		}
	}
}

static bool is_exit(const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
		if (cfg->edges[e].dst == OVM_NONE)
			return true;
	return ovm_odds_leave(cfg, bb) == OVM_ODDS_SURE;
}

static void ways_to_exits(struct islands *is)
{
	struct ovm_cfg *cfg = is->cfg;
	uint32_t head = 0, tail = 0;

	memset(is->reached, 0, cfg->n_blocks * sizeof(*is->reached));
	ovm_cfg_foreach_bb (cfg, bb) {
		is->to[bb] = OVM_NONE;
		if (is_exit(cfg, bb)) {
			is->reached[bb] = true;
			is->queue[tail++] = bb;
		}
	}
	while (head < tail) {
		uint32_t bb = is->queue[head++];

		for (uint32_t i = is->in_first[bb]; i < is->in_first[bb + 1]; i++) {
			uint32_t src = cfg->edges[is->in_edge[i]].src;

			if (!is->reached[src]) {
				is->reached[src] = true;
				is->to[src] = is->in_edge[i];
				is->queue[tail++] = src;
			}
		}
	}
}

/* Run @count times from an entry to @bb and on to an exit. */
static void add_way(struct islands *is, uint32_t bb, uint64_t count)
{
	struct ovm_cfg *cfg = is->cfg;
	uint32_t at = bb;

	for (uint32_t e; (e = is->from[at]) != OVM_NONE; at = cfg->edges[e].src) {
		cfg->edges[e].count += count;
		cfg->blocks[cfg->edges[e].src].count += count;
	}
	join_from(is, at);
	at = bb;
	for (uint32_t e; (e = is->to[at]) != OVM_NONE; at = cfg->edges[e].dst) {
		cfg->edges[e].count += count;
		cfg->blocks[cfg->edges[e].dst].count += count;
	}
	cfg->blocks[bb].count += count;
}

void ovm_islands_join(struct ovm_cfg *cfg, const bool *entered)
{
	struct islands is;
	bool have_ways = false;

	islands_init(&is, cfg);
	ovm_cfg_foreach_bb (cfg, bb)
		if (entered[bb])
			join_from(&is, bb);
	ovm_cfg_foreach_bb (cfg, bb) {
		if (!cfg->blocks[bb].count || is.joined[bb])
			continue;
		if (!have_ways) {
			ways_from_entries(&is);
			ways_to_exits(&is);
			have_ways = true;
		}
		add_way(&is, bb, cfg->blocks[bb].count / (uint64_t)OVM_TUNE(INFER_LOOP_TRIPS) + 1);
		join_from(&is, bb);
	}
	islands_fini(&is);
}
