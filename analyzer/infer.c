/* The likeliest counts that obey flow conservation, by minimum-cost flow.
 *
 * Each block is two nodes with its count on the way between them, each edge an arc from out to in, and one node stands for everything
 * outside the group:
 *
 *      outside ──▶ in(A) ══ A ══▶ out(A) ──▶ in(B) ══ B ══▶ out(B) ──▶ outside
 *
 * A wanted count w is w units of supply at the block's out node and w of demand at its in node, an arc in -> out for more than w, and an
 * arc out -> in (back) for less; supplies then reach demands at least total cost ("profi", He et al. 2022; Levin, Newman, Haber 2008).
 *
 * The costs are chosen so that the cheapest flow is about the likeliest one. A block of n instructions that ran f times expects
 * m = f*n/scale samples and got k. Time a block takes varies far more than its length: a cache miss, a fused pair, a wrong guess. So k follows
 * a negative binomial law of shape r = 1/2 around m, and misfit costs   c(m) = (k + r) log(m + r) - k log m   nats:
 *
 *      k large   about r * log of the ratio m/k: it matters by which factor two blocks disagree, not by how many samples
 *      k = 0     r * log(1 + m/r): not having seen a short block says little, not having seen a long one among hot ones a lot
 *
 * Arcs need a cost per unit: chords of c, and where no sample fixes the flow that is meant, the flow F of the neighbourhood (estimates
 * spread from block to block). Edges have a price too: taken edges and parts the compiler split off (.cold) are unlikely before anything
 * is known. A block with a sample never gets zero: it ran.
 *
 * Control may come from outside at the head's start and at landing pads, and leave by returns and external edges; elsewhere both cost
 * dearly, so that there is always a solution.
 *
 * What flow cannot know is added after it: a hot loop nothing enters is connected to the entry and an exit by a thin path.
 *
 * Limits: time is blamed, not executions; a block full of cache misses looks more executed than it is, and only its neighbours correct
 * that. Graphs above INFER_MAX_BLOCKS get the estimates without flow.
 */
#include "analyzer/infer.h"
#include "analyzer/blame.h"
#include "analyzer/flow.h"
#include "analyzer/tunables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	COST_NEVER = 1 << 24, /* taking away from a sampled block its last quarter */
	COST_MAX = 1 << 20,
	COST_UNIT = 1000,     /* one nat for all of the group's largest flow */
	COST_REPAIR = 10,     /* exact counts: a unit of any change */
	COST_REPAIR_ZERO = 11,   /* ... of an edge counted zero */
	COST_REPAIR_OTHER = 100, /* ... entering or leaving where nothing suggests it */
};

/* How unlikely it is that control enters or leaves here from or to the outside: classes, priced in millinats by samples. */
enum odds { SURE, LIKELY, UNLIKELY, ODD, N_ODDS };

struct item { /* a block or an edge in the network */
	int64_t base;     /* wanted count */
	uint32_t more;    /* arc that raises it, OVM_NONE */
	uint32_t less[3]; /* arcs that lower it */
};

struct net {
	struct ovm_cfg *cfg;
	struct ovm_flow flow;
	int64_t *supply;     /* [nodes] net units a node has to get rid of */
	struct item *blocks; /* [n_blocks] */
	struct item *edges;  /* [n_edges] */
	uint32_t *enter;     /* [n_blocks] arc from outside, OVM_NONE */
	uint32_t outside, src, dst;
};

static uint32_t in_of(uint32_t bb)
{
	return 2 * bb;
}

static uint32_t out_of(uint32_t bb)
{
	return 2 * bb + 1;
}

static const struct item no_item = {0, OVM_NONE, {OVM_NONE, OVM_NONE, OVM_NONE}};

/* --- what the code says about its blocks -------------------------------------------------------------------------- */

static bool has_call(const struct ovm_cfg *cfg, const struct ovm_block *block)
{
	for (uint32_t i = 0; i < block->n_insns; i++) {
		uint8_t kind = cfg->insns[block->first_insn + i].kind;

		if (kind == OVM_INSN_CALL || kind == OVM_INSN_CALL_IND || kind == OVM_INSN_SYSCALL)
			return true;
	}
	return false;
}

static enum odds leave_odds(const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	const struct ovm_insn *last = ovm_block_last(cfg, bb);

	if (last->kind == OVM_INSN_TRAP)
		return UNLIKELY;
	if (last->kind == OVM_INSN_RET || (block->flags & OVM_BLOCK_UNKNOWN_JUMP) ||
	    (block->flags & OVM_BLOCK_TAIL_CALL))
		return SURE;
	if (!block->n_edges)
		return last->kind == OVM_INSN_CALL ? LIKELY : SURE;
	return has_call(cfg, block) ? UNLIKELY : ODD;
}

static enum odds enter_odds(const struct ovm_cfg *cfg, uint32_t bb, bool has_pred)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	if (block->flags & OVM_BLOCK_REGION_START)
		return block->region == cfg->regions[0] ? SURE : LIKELY;
	if (block->flags & OVM_BLOCK_LANDING_PAD)
		return LIKELY;
	return !has_pred && cfg->n_unknown_jumps ? LIKELY : ODD;
}

/* Into a part that was pulled into the group: the compiler thought it cold. */
static bool enters_fragment(const struct ovm_cfg *cfg, const struct ovm_edge *edge)
{
	uint32_t src = cfg->blocks[edge->src].region;

	return edge->dst != OVM_NONE && cfg->blocks[edge->dst].region != src &&
	       src == cfg->regions[0];
}

/* --- building the network ----------------------------------------------------------------------------------------- */

static void net_init(struct net *net, struct ovm_cfg *cfg)
{
	uint32_t n = 2 * cfg->n_blocks + 3;

	memset(net, 0, sizeof(*net));
	net->cfg = cfg;
	net->outside = n - 3;
	net->src = n - 2;
	net->dst = n - 1;
	ovm_flow_init(&net->flow, n);
	ovm_vec_reserve(&net->flow.arcs, 2 * (5 * cfg->n_blocks + cfg->n_edges));
	net->supply = ovm_alloc_array(n, sizeof(*net->supply));
	net->blocks = ovm_alloc_array(cfg->n_blocks, sizeof(*net->blocks));
	net->edges = ovm_alloc_array(cfg->n_edges ? cfg->n_edges : 1, sizeof(*net->edges));
	net->enter = ovm_alloc_array(cfg->n_blocks, sizeof(*net->enter));
	ovm_cfg_foreach_bb(cfg, bb) net->blocks[bb] = no_item;
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		net->edges[e] = no_item;
}

static void net_fini(struct net *net)
{
	ovm_flow_fini(&net->flow);
	free(net->supply);
	free(net->blocks);
	free(net->edges);
	free(net->enter);
}

static uint32_t edge_target(const struct net *net, const struct ovm_edge *edge)
{
	return edge->dst == OVM_NONE ? net->outside : in_of(edge->dst);
}

/* @base units want to go from @from to @to. */
static void want(struct net *net, struct item *item, uint32_t from, uint32_t to, int64_t base)
{
	item->base = base;
	net->supply[to] += base;
	net->supply[from] -= base;
}

/* Any amount may go from outside into @bb and from @bb out, at these costs. */
static void add_outside(struct net *net, uint32_t bb, int32_t enter, int32_t leave)
{
	net->enter[bb] =
		ovm_flow_add(&net->flow, net->outside, in_of(bb), OVM_FLOW_INF, enter);
	ovm_flow_add(&net->flow, out_of(bb), net->outside, OVM_FLOW_INF, leave);
}

static bool *blocks_with_pred(const struct ovm_cfg *cfg)
{
	bool *has = ovm_alloc_array(cfg->n_blocks, sizeof(*has));

	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].dst != OVM_NONE)
			has[cfg->edges[e].dst] = true;
	return has;
}

/* --- network for samples -------------------------------------------------------------------------------------------- */

/* Expected flow near each block: the estimate of sampled ones, spread to the others; caller frees. */
static double *neighbourhood(const struct ovm_cfg *cfg)
{
	double *flow = ovm_alloc_array(cfg->n_blocks, sizeof(*flow)), total = 0;
	double *sum = ovm_alloc_array(cfg->n_blocks, sizeof(*sum));
	uint32_t *n = ovm_alloc_array(cfg->n_blocks, sizeof(*n)), known = 0;

	ovm_cfg_foreach_bb(cfg, bb)
	{
		flow[bb] = (double)cfg->blocks[bb].count;
		total += flow[bb];
		known += cfg->blocks[bb].count != 0;
	}
	for (int64_t round = 0; round < OVM_TUNE(INFER_SPREAD_ROUNDS); round++) {
		memset(sum, 0, cfg->n_blocks * sizeof(*sum));
		memset(n, 0, cfg->n_blocks * sizeof(*n));
		for (uint32_t e = 0; e < cfg->n_edges; e++) {
			uint32_t src = cfg->edges[e].src, dst = cfg->edges[e].dst;

			if (dst == OVM_NONE)
				continue;
			sum[dst] += flow[src];
			n[dst] += flow[src] > 0;
			sum[src] += flow[dst];
			n[src] += flow[dst] > 0;
		}
		ovm_cfg_foreach_bb(cfg, bb) if (!cfg->blocks[bb].count && n[bb]) flow[bb] =
			sum[bb] / n[bb];
	}
	ovm_cfg_foreach_bb(cfg, bb) if (!(flow[bb] > 0)) flow[bb] = known ? total / known : 1;
	free(n);
	free(sum);
	return flow;
}

struct pricing {
	double *near; /* [n_blocks] flow of the neighbourhood */
	double max;   /* the largest of them */
};

/* @nats for @flow units, as a cost per unit: rounded to two digits, so that there are few different ones. */
static int32_t price(const struct pricing *pricing, double nats, double flow)
{
	double cost = nats * COST_UNIT * pricing->max / flow;
	int32_t step = 1, rounded;

	if (!(cost < COST_MAX))
		return COST_MAX;
	for (rounded = (int32_t)(cost + 0.5); rounded >= 16; rounded /= 2)
		step *= 2;
	return rounded > 0 ? rounded * step : 1;
}

static double prior(int64_t millinats)
{
	return (double)millinats / 1000;
}

static int32_t odds_price(const struct pricing *pricing, uint32_t bb, enum odds odds)
{
	static const int64_t millinats[N_ODDS] = {[SURE] = 0, [LIKELY] = 3000, [UNLIKELY] = 6000, [ODD] = 10000};

	return odds == SURE ? 0 : price(pricing, prior(millinats[odds]), pricing->near[bb]);
}

static int32_t edge_price(const struct ovm_cfg *cfg, const struct pricing *pricing,
			  const struct ovm_edge *edge)
{
	const struct ovm_block *src = &cfg->blocks[edge->src];
	int64_t millinats = 0;

	if (enters_fragment(cfg, edge))
		millinats = OVM_TUNE(INFER_PRIOR_FRAGMENT);
	else if (edge->kind != OVM_EDGE_FALL && src->n_edges > 1)
		millinats = edge->to.v > src->lo.v ? OVM_TUNE(INFER_PRIOR_FORWARD)
						   : OVM_TUNE(INFER_PRIOR_BACKWARD);
	return millinats ? price(pricing, prior(millinats), pricing->near[edge->src]) : 0;
}

/* c(m) of the head comment for k samples. */
static double misfit(double k, double m)
{
	double r = prior(OVM_TUNE(INFER_SHAPE));

	return (k + r) * log(m + r) - (k > 0 ? k * log(m) : 0);
}

/* A block that ran about @w times by its @k samples: arcs with the chords of its misfit. */
static void add_sampled(struct net *net, const struct pricing *pricing, uint32_t bb, int64_t w,
			double k)
{
	struct item *item = &net->blocks[bb];
	uint32_t in = in_of(bb), out = out_of(bb);
	double best = misfit(k, k), half = misfit(k, k / 2), quarter = misfit(k, k / 4);
	double flow = (double)w;

	want(net, item, in, out, w);
	item->more = ovm_flow_add(&net->flow, in, out, OVM_FLOW_INF,
				     price(pricing, misfit(k, 4 * k) - best, 3 * flow));
	item->less[0] = ovm_flow_add(&net->flow, out, in, w / 2,
				     price(pricing, half - best, flow / 2));
	item->less[1] = ovm_flow_add(&net->flow, out, in, w / 4,
				     price(pricing, quarter - half, flow / 4));
	item->less[2] = ovm_flow_add(&net->flow, out, in, w - w / 2 - w / 4, COST_NEVER);
}

static void add_unsampled(struct net *net, const struct pricing *pricing, uint32_t bb)
{
	double flow = pricing->near[bb];
	double m = flow * ovm_blame_weight(net->cfg, bb) / (double)OVM_TUNE(WEIGHT_SCALE);

	net->blocks[bb].more =
		ovm_flow_add(&net->flow, in_of(bb), out_of(bb), OVM_FLOW_INF,
			     price(pricing, misfit(0, m) - misfit(0, 0), flow));
}

static void add_from_samples(struct net *net)
{
	struct ovm_cfg *cfg = net->cfg;
	bool *has_pred = blocks_with_pred(cfg);
	struct pricing pricing = {.near = neighbourhood(cfg)};

	ovm_cfg_foreach_bb(cfg, bb) if (pricing.near[bb] > pricing.max) pricing.max =
		pricing.near[bb];
	ovm_cfg_foreach_bb(cfg, bb)
	{
		const struct ovm_block *block = &cfg->blocks[bb];

		if (block->count)
			add_sampled(net, &pricing, bb, (int64_t)block->count,
				    (double)block->samples);
		else
			add_unsampled(net, &pricing, bb);
		add_outside(net, bb, odds_price(&pricing, bb, enter_odds(cfg, bb, has_pred[bb])),
			    odds_price(&pricing, bb, leave_odds(cfg, bb)));
	}
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];

		net->edges[e].more =
			ovm_flow_add(&net->flow, out_of(edge->src), edge_target(net, edge),
				     OVM_FLOW_INF, edge_price(cfg, &pricing, edge));
	}
	free(pricing.near);
	free(has_pred);
}

/* --- network for counts ---------------------------------------------------------------------------------------------- */

static void add_counted(struct net *net, struct item *item, uint32_t from, uint32_t to,
			int64_t count)
{
	want(net, item, from, to, count);
	item->more = ovm_flow_add(&net->flow, from, to, OVM_FLOW_INF,
				     count ? COST_REPAIR : COST_REPAIR_ZERO);
	if (count)
		item->less[0] = ovm_flow_add(&net->flow, to, from, count, COST_REPAIR);
}

static void add_for_repair(struct net *net)
{
	struct ovm_cfg *cfg = net->cfg;

	ovm_cfg_foreach_bb(cfg, bb)
	{
		enum odds enter = enter_odds(cfg, bb, true), leave = leave_odds(cfg, bb);

		/* edges alone decide; a block without any wants its own count */
		net->blocks[bb].more =
			ovm_flow_add(&net->flow, in_of(bb), out_of(bb), OVM_FLOW_INF, 0);
		if (!cfg->blocks[bb].n_edges && cfg->blocks[bb].count)
			add_counted(net, &net->blocks[bb], in_of(bb), out_of(bb),
				    (int64_t)cfg->blocks[bb].count);
		add_outside(net, bb, enter <= LIKELY ? 0 : COST_REPAIR_OTHER,
			    leave <= LIKELY	? 0
			    : leave == UNLIKELY ? COST_REPAIR
						: COST_REPAIR_OTHER);
	}
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];

		add_counted(net, &net->edges[e], out_of(edge->src), edge_target(net, edge),
			    (int64_t)edge->count);
	}
}

/* --- solving and reading back ------------------------------------------------------------------------------------- */

static void connect_supplies(struct net *net)
{
	for (uint32_t v = 0; v < net->src; v++) {
		if (net->supply[v] > 0)
			ovm_flow_add(&net->flow, net->src, v, net->supply[v], 0);
		else if (net->supply[v] < 0)
			ovm_flow_add(&net->flow, v, net->dst, -net->supply[v], 0);
	}
}

static int64_t count_of(const struct net *net, const struct item *item)
{
	int64_t count = item->base;

	if (item->more != OVM_NONE)
		count += ovm_flow_on(&net->flow, item->more);
	for (unsigned i = 0; i < 3; i++)
		if (item->less[i] != OVM_NONE)
			count -= ovm_flow_on(&net->flow, item->less[i]);
	return count > 0 ? count : 0;
}

/* Edge counts are the flow; a block ran as often as it was entered, or left if the search was cut short. */
static void read_back(struct net *net)
{
	struct ovm_cfg *cfg = net->cfg;

	ovm_cfg_foreach_bb(cfg, bb) cfg->blocks[bb].count =
		(uint64_t)ovm_flow_on(&net->flow, net->enter[bb]);
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		cfg->edges[e].count = (uint64_t)count_of(net, &net->edges[e]);
		if (cfg->edges[e].dst != OVM_NONE)
			cfg->blocks[cfg->edges[e].dst].count += cfg->edges[e].count;
	}
	ovm_cfg_foreach_bb(cfg, bb)
	{
		struct ovm_block *block = &cfg->blocks[bb];
		uint64_t out = 0;

		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
			out += cfg->edges[e].count;
		if (out > block->count)
			block->count = out;
	}
}

static void solve(struct net *net)
{
	connect_supplies(net);
	ovm_flow_solve(&net->flow, net->src, net->dst, (uint32_t)OVM_TUNE(INFER_MAX_PHASES));
	read_back(net);
}

/* --- islands: hot loops that nothing enters ------------------------------------------------------------------------ */

struct islands {
	struct ovm_cfg *cfg;
	bool *joined;       /* [n_blocks] reached from outside along edges that ran */
	uint32_t *from;     /* [n_blocks] edge on a shortest way from an entry, OVM_NONE: an entry or no way */
	uint32_t *to;       /* [n_blocks] edge on a shortest way to an exit, OVM_NONE: an exit or no way */
	bool *reached;      /* [n_blocks] by the search at hand */
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
	ovm_cfg_foreach_bb(cfg, bb)
	{
		is->from[bb] = OVM_NONE;
		if (enter_odds(cfg, bb, true) == SURE) {
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
	return leave_odds(cfg, bb) == SURE;
}

static void ways_to_exits(struct islands *is)
{
	struct ovm_cfg *cfg = is->cfg;
	uint32_t head = 0, tail = 0;

	memset(is->reached, 0, cfg->n_blocks * sizeof(*is->reached));
	ovm_cfg_foreach_bb(cfg, bb)
	{
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

static void join_islands(struct ovm_cfg *cfg, const struct net *net)
{
	struct islands is;
	bool have_ways = false;

	islands_init(&is, cfg);
	ovm_cfg_foreach_bb(cfg, bb) if (ovm_flow_on(&net->flow, net->enter[bb])) join_from(&is, bb);
	ovm_cfg_foreach_bb(cfg, bb)
	{
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

/* --- too big for flow ---------------------------------------------------------------------------------------------- */

/* Every block keeps its estimate and divides it among its successors by theirs. */
static void estimate_locally(struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb(cfg, bb)
	{
		const struct ovm_block *block = &cfg->blocks[bb];
		double total = 0;

		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
			if (cfg->edges[e].dst != OVM_NONE)
				total += (double)cfg->blocks[cfg->edges[e].dst].count;
		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			struct ovm_edge *edge = &cfg->edges[e];
			double part = edge->dst == OVM_NONE ? 0 : (double)cfg->blocks[edge->dst].count;

			edge->count = total > 0 ? (uint64_t)((double)block->count * (part / total))
				      : e == block->first_edge ? block->count
							       : 0;
		}
	}
}

static void estimate_blocks(struct ovm_cfg *cfg)
{
	uint64_t max = (uint64_t)OVM_TUNE(WEIGHT_MAX), scale = (uint64_t)OVM_TUNE(WEIGHT_SCALE);

	ovm_cfg_foreach_bb(cfg, bb)
	{
		struct ovm_block *block = &cfg->blocks[bb];
		uint64_t samples = block->samples < max / scale ? block->samples : max / scale;

		block->count = (uint64_t)((double)(scale * samples) / ovm_blame_weight(cfg, bb));
		if (samples && !block->count)
			block->count = 1;
	}
}

void ovm_infer_samples(struct ovm_cfg *cfg)
{
	struct net net;

	if (!cfg->n_blocks)
		return;
	estimate_blocks(cfg);
	if (cfg->n_blocks > (uint64_t)OVM_TUNE(INFER_MAX_BLOCKS)) {
		estimate_locally(cfg);
		return;
	}
	net_init(&net, cfg);
	add_from_samples(&net);
	solve(&net);
	join_islands(cfg, &net);
	net_fini(&net);
}

void ovm_infer_repair(struct ovm_cfg *cfg)
{
	struct net net;

	if (!cfg->n_blocks || cfg->n_blocks > (uint64_t)OVM_TUNE(INFER_MAX_BLOCKS))
		return;
	net_init(&net, cfg);
	add_for_repair(&net);
	solve(&net);
	net_fini(&net);
}
