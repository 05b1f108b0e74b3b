/* The likeliest counts that obey flow conservation, by minimum-cost flow.
 *
 * A sampled block is two nodes with its count between them, an unsampled one a single node whose
 * price every edge into it pays, and one node stands for everything outside the group:
 *
 *      outside ──▶ in(A) ══ A ══▶ out(A) ──▶ B ──▶ in(C) ══ C ══▶ out(C) ──▶ outside
 *
 * A wanted count w is w units of supply at the block's out node and w of demand at its in node, an
 * arc in -> out for more than w, and arcs out -> in (back) for less; supplies then reach demands at
 * least total cost ("profi", He et al. 2022; Levin, Newman, Haber 2008). price.c says what a unit
 * costs so that the cheapest flow is about the likeliest one, and because prices depend on the flow
 * that is meant, the network is priced and solved twice. A block with a sample never gets zero.
 *
 * Control may come from outside at the head's start, at landing pads and where unknown jumps may
 * land, and leave by returns, external edges and calls that end a block. What flow cannot know is
 * added after it: islands.c connects hot loops that nothing enters.
 *
 * The same network repairs exact counts that disagree a little: then edges have wanted counts, and
 * every change costs the same.
 *
 * Limits: a block full of cache misses looks more executed than it is, and only its neighbours
 * correct that. Graphs above INFER_MAX_BLOCKS or _EDGES get the estimates without flow.
 */
#include "analyzer/infer.h"
#include "analyzer/blame.h"
#include "analyzer/flow.h"
#include "analyzer/islands.h"
#include "analyzer/price.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

enum {			   /* repairing exact counts, per unit */
       REPAIR = 10,	   /* any change */
       REPAIR_ZERO = 11,   /* ... of an edge counted zero */
       REPAIR_OTHER = 100, /* entering or leaving where nothing suggests it */
};

struct item {		     /* an edge in the network */
	int64_t base;	     /* wanted count */
	uint32_t more, less; /* arcs that raise and lower it, OVM_NONE */
};

struct net {
	struct ovm_cfg *cfg;
	struct ovm_flow flow;
	int64_t *supply;    /* [nodes] units a node has to get rid of, net */
	uint32_t *in, *out; /* [n_blocks] nodes; the same if a block has no wanted count */
	struct item *edges; /* [n_edges] */
	uint32_t *enter;    /* [n_blocks] arc from outside, OVM_NONE */
	uint32_t outside, src, dst;
};

/* --- building the network ---------------------------------------------------------------- */

/* @split: blocks with a count get two nodes. */
static void net_init(struct net *net, struct ovm_cfg *cfg, bool split)
{
	uint32_t n_blocks = cfg->n_blocks, n = 0;

	memset(net, 0, sizeof(*net));
	net->cfg = cfg;
	net->in = ovm_alloc_array(n_blocks, sizeof(*net->in));
	net->out = ovm_alloc_array(n_blocks, sizeof(*net->out));
	net->enter = ovm_alloc_array(n_blocks, sizeof(*net->enter));
	net->edges = ovm_alloc_array(cfg->n_edges ? cfg->n_edges : 1, sizeof(*net->edges));
	memset(net->enter, 0xff, n_blocks * sizeof(*net->enter));
	ovm_cfg_foreach_bb (cfg, bb) {
		net->in[bb] = n++;
		net->out[bb] = split && cfg->blocks[bb].count ? n++ : net->in[bb];
	}
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		net->edges[e] = (struct item){0, OVM_NONE, OVM_NONE};
	net->outside = n;
	net->src = n + 1;
	net->dst = n + 2;
	ovm_flow_init(&net->flow, n + 3);
	ovm_vec_reserve(&net->flow.arcs, 2 * (n_blocks + 2 * cfg->n_edges));
	net->supply = ovm_alloc_array((size_t)n + 3, sizeof(*net->supply));
}

static void net_fini(struct net *net)
{
	ovm_flow_fini(&net->flow);
	free(net->supply);
	free(net->in);
	free(net->out);
	free(net->edges);
	free(net->enter);
}

static uint32_t edge_target(const struct net *net, const struct ovm_edge *edge)
{
	return edge->dst == OVM_NONE ? net->outside : net->in[edge->dst];
}

static uint32_t arc(struct net *net, uint32_t from, uint32_t to, int64_t cap, int32_t price)
{
	return ovm_flow_add(&net->flow, from, to, cap, price);
}

/* @count units want to go from @from to @to. */
static void want(struct net *net, uint32_t from, uint32_t to, int64_t count)
{
	net->supply[to] += count;
	net->supply[from] -= count;
}

static bool *blocks_with_pred(const struct ovm_cfg *cfg)
{
	bool *has = ovm_alloc_array(cfg->n_blocks, sizeof(*has));

	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].dst != OVM_NONE)
			has[cfg->edges[e].dst] = true;
	return has;
}

/* --- network for samples ----------------------------------------------------------------- */

static void add_sampled(struct net *net, const struct ovm_pricing *pricing, uint32_t bb)
{
	int64_t count = (int64_t)net->cfg->blocks[bb].count, left = count;
	uint32_t in = net->in[bb], out = net->out[bb];
	int32_t more, less[OVM_PRICE_PARTS];
	int64_t part[OVM_PRICE_PARTS] = {count / 2, count / 4, count * 3 / 16};

	ovm_price_sampled(pricing, bb, (uint64_t)count, &more, less);
	want(net, in, out, count);
	arc(net, in, out, OVM_FLOW_INF, more);
	for (unsigned i = 0; i < OVM_PRICE_PARTS; left -= part[i++])
		if (part[i])
			arc(net, out, in, part[i], less[i]);
	arc(net, out, in, left, OVM_PRICE_NEVER);
}

static void add_outside(struct net *net, const struct ovm_pricing *pricing, uint32_t bb,
			int32_t toll, bool has_pred)
{
	enum ovm_odds enter = ovm_odds_enter(net->cfg, bb, has_pred);
	enum ovm_odds leave = ovm_odds_leave(net->cfg, bb);
	bool anywhere = net->cfg->n_unknown_jumps && net->cfg->blocks[bb].samples;

	if (enter != OVM_ODDS_ODD || anywhere)
		net->enter[bb] = arc(net, net->outside, net->in[bb], OVM_FLOW_INF,
				     toll + ovm_price_odds(pricing, bb, enter));
	if (leave <= OVM_ODDS_LIKELY || !net->cfg->blocks[bb].n_edges)
		arc(net, net->out[bb], net->outside, OVM_FLOW_INF,
		    ovm_price_odds(pricing, bb, leave));
}

static void add_from_samples(struct net *net, const struct ovm_pricing *pricing)
{
	struct ovm_cfg *cfg = net->cfg;
	int32_t *toll = ovm_alloc_array(cfg->n_blocks, sizeof(*toll));
	bool *has_pred = blocks_with_pred(cfg);

	ovm_cfg_foreach_bb (cfg, bb) {
		if (cfg->blocks[bb].count)
			add_sampled(net, pricing, bb);
		else
			toll[bb] = ovm_price_unsampled(pricing, bb);
		add_outside(net, pricing, bb, toll[bb], has_pred[bb]);
	}
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];
		int32_t price = ovm_price_edge(pricing, edge);

		if (edge->dst != OVM_NONE)
			price += toll[edge->dst];
		net->edges[e].more =
		    arc(net, net->out[edge->src], edge_target(net, edge), OVM_FLOW_INF, price);
	}
	free(has_pred);
	free(toll);
}

/* --- network for counts ------------------------------------------------------------------ */

static void add_counted(struct net *net, struct item *item, uint32_t from, uint32_t to,
			uint64_t count)
{
	item->base = (int64_t)count;
	want(net, from, to, item->base);
	item->more = arc(net, from, to, OVM_FLOW_INF, count ? REPAIR : REPAIR_ZERO);
	if (count)
		item->less = arc(net, to, from, item->base, REPAIR);
}

/* Edges alone decide; a block without any wants its own count. */
static void add_for_repair(struct net *net)
{
	struct ovm_cfg *cfg = net->cfg;

	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		enum ovm_odds enter = ovm_odds_enter(cfg, bb, true);
		enum ovm_odds leave = ovm_odds_leave(cfg, bb);
		struct item own;

		net->enter[bb] = arc(net, net->outside, net->in[bb], OVM_FLOW_INF,
				     enter <= OVM_ODDS_LIKELY ? 0 : REPAIR_OTHER);
		if (!block->n_edges)
			add_counted(net, &own, net->out[bb], net->outside, block->count);
		else
			arc(net, net->out[bb], net->outside, OVM_FLOW_INF,
			    leave <= OVM_ODDS_LIKELY	 ? 0
			    : leave == OVM_ODDS_UNLIKELY ? REPAIR
							 : REPAIR_OTHER);
	}
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		add_counted(net, &net->edges[e], net->out[cfg->edges[e].src],
			    edge_target(net, &cfg->edges[e]), cfg->edges[e].count);
}

/* --- solving and reading back ------------------------------------------------------------ */

static void solve(struct net *net)
{
	for (uint32_t v = 0; v < net->src; v++) {
		if (net->supply[v] > 0)
			arc(net, net->src, v, net->supply[v], 0);
		else if (net->supply[v] < 0)
			arc(net, v, net->dst, -net->supply[v], 0);
	}
	ovm_flow_solve(&net->flow, net->src, net->dst, (uint32_t)OVM_TUNE(INFER_MAX_PHASES));
}

static uint64_t entering(const struct net *net, uint32_t bb)
{
	return net->enter[bb] == OVM_NONE ? 0 : (uint64_t)ovm_flow_on(&net->flow, net->enter[bb]);
}

static uint64_t edge_flow(const struct net *net, uint32_t e)
{
	const struct item *item = &net->edges[e];
	int64_t count = item->base + ovm_flow_on(&net->flow, item->more);

	if (item->less != OVM_NONE)
		count -= ovm_flow_on(&net->flow, item->less);
	return count > 0 ? (uint64_t)count : 0;
}

/* A block ran as often as it was entered; or left, if the search was cut short. */
static void block_flows(const struct net *net, uint64_t *flow)
{
	const struct ovm_cfg *cfg = net->cfg;
	uint64_t *left = ovm_alloc_array(cfg->n_blocks, sizeof(*left));

	ovm_cfg_foreach_bb (cfg, bb)
		flow[bb] = entering(net, bb);
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		uint64_t count = edge_flow(net, e);

		left[cfg->edges[e].src] += count;
		if (cfg->edges[e].dst != OVM_NONE)
			flow[cfg->edges[e].dst] += count;
	}
	ovm_cfg_foreach_bb (cfg, bb)
		if (left[bb] > flow[bb])
			flow[bb] = left[bb];
	free(left);
}

static void read_back(const struct net *net)
{
	struct ovm_cfg *cfg = net->cfg;
	uint64_t *flow = ovm_alloc_array(cfg->n_blocks, sizeof(*flow));

	block_flows(net, flow);
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		cfg->edges[e].count = edge_flow(net, e);
	ovm_cfg_foreach_bb (cfg, bb)
		cfg->blocks[bb].count = flow[bb];
	free(flow);
}

static void join_islands(const struct net *net)
{
	bool *entered = ovm_alloc_array(net->cfg->n_blocks, sizeof(*entered));

	ovm_cfg_foreach_bb (net->cfg, bb)
		entered[bb] = entering(net, bb) != 0;
	ovm_islands_join(net->cfg, entered);
	free(entered);
}

/* --- estimates --------------------------------------------------------------------------- */

static void estimate_blocks(struct ovm_cfg *cfg)
{
	uint64_t max = (uint64_t)OVM_TUNE(WEIGHT_MAX), scale = (uint64_t)OVM_TUNE(WEIGHT_SCALE);

	ovm_cfg_foreach_bb (cfg, bb) {
		struct ovm_block *block = &cfg->blocks[bb];
		uint64_t samples = block->samples < max / scale ? block->samples : max / scale;

		block->count = (uint64_t)((double)(scale * samples) / ovm_blame_weight(cfg, bb));
		if (samples && !block->count)
			block->count = 1;
	}
}

/* Too big for flow: every block divides its estimate among its successors by theirs. */
static void estimate_edges(struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		uint32_t end = block->first_edge + block->n_edges;
		double total = 0;

		for (uint32_t e = block->first_edge; e < end; e++)
			if (cfg->edges[e].dst != OVM_NONE)
				total += (double)cfg->blocks[cfg->edges[e].dst].count;
		for (uint32_t e = block->first_edge; e < end; e++) {
			uint32_t dst = cfg->edges[e].dst;
			double part = dst == OVM_NONE ? 0 : (double)cfg->blocks[dst].count;

			if (total > 0)
				part *= (double)block->count / total;
			else if (e == block->first_edge)
				part = (double)block->count;
			cfg->edges[e].count = (uint64_t)part;
		}
	}
}

/* --- entry points ------------------------------------------------------------------------ */

static void solve_samples(struct ovm_cfg *cfg, struct net *net, const struct ovm_pricing *pricing)
{
	net_init(net, cfg, true);
	add_from_samples(net, pricing);
	solve(net);
}

/* A first solution, and a second one priced at its margin. */
static void infer_by_flow(struct ovm_cfg *cfg)
{
	uint64_t *flow = ovm_alloc_array(cfg->n_blocks, sizeof(*flow));
	struct ovm_pricing pricing;
	struct net net;

	ovm_pricing_init(&pricing, cfg);
	for (int64_t round = 1; round < OVM_TUNE(INFER_ROUNDS); round++) {
		solve_samples(cfg, &net, &pricing);
		block_flows(&net, flow);
		ovm_pricing_refine(&pricing, flow);
		net_fini(&net);
	}
	solve_samples(cfg, &net, &pricing);
	read_back(&net);
	join_islands(&net);
	net_fini(&net);
	ovm_pricing_fini(&pricing);
	free(flow);
}

static bool is_too_big(const struct ovm_cfg *cfg)
{
	return cfg->n_blocks > (uint64_t)OVM_TUNE(INFER_MAX_BLOCKS) ||
	       cfg->n_edges > (uint64_t)OVM_TUNE(INFER_MAX_EDGES);
}

void ovm_infer_samples(struct ovm_cfg *cfg)
{
	if (!cfg->n_blocks)
		return;
	estimate_blocks(cfg);
	if (is_too_big(cfg))
		estimate_edges(cfg);
	else
		infer_by_flow(cfg);
}

void ovm_infer_repair(struct ovm_cfg *cfg)
{
	struct net net;

	if (!cfg->n_blocks || is_too_big(cfg))
		return;
	net_init(&net, cfg, false);
	add_for_repair(&net);
	solve(&net);
	read_back(&net);
	net_fini(&net);
}
