/* Block order by Ext-TSP (Newell and Pupyrev, "Improved Basic Block Reordering", 2020,
 * arXiv:1809.04676; the later refinements are those of LLVM's code layout: forced pairs, density
 * ratio, chain size).
 *
 * The score of an order rewards every execution of a jump by how near it lands:
 *
 *      fall-through   1.0, or 1.05 if the source has no other successor
 *      forward  d     0.1 * (1 - d/1024)   d: bytes from the source's end to the target, up to 1024
 *      backward d     0.1 * (1 - d/640)    the same backwards, up to 640
 *
 * Finding the best order is NP-hard; greedy merging of chains comes within a percent. Every block
 * starts as a chain. The pair of chains whose merge gains most is merged, until none gains. A merge
 * of X and Y may cut X in two:
 *
 *      X  Y        X1 Y X2        Y X2 X1        X2 X1 Y
 *
 * All weights are multiples of 1/51200, so scores are exact integers: gains compare exactly, ties
 * are real ties and go to the lowest chain numbers, and the result is the same on every machine. A
 * gain needs no address pass: Y stays whole, so only jumps between X and Y, and those inside X that
 * cross the cut, change their distance; each node knows its offset in its chain.
 *
 * The merging itself is done by chains.c.
 */
#include "analyzer/chains.h"
#include "analyzer/exttsp.h"
#include "analyzer/layout.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

struct jump {
	uint32_t src, dst;
	int64_t count;
	bool cond; /* the source has other successors */
};

struct node {
	uint32_t forced_succ, forced_pred;
	uint32_t first_succ, n_succ; /* in tsp.succs: all, also those never taken */
	uint32_t n_preds;
	uint32_t first_in, n_in; /* in tsp.in: jumps with a count; those out of node i are jumps
				    first_out[i] .. first_out[i + 1] */
};

struct span { /* positions a jump inside a chain connects: it crosses cuts lo + 1 .. hi */
	uint32_t lo, hi, jump;
};

struct cut_bound {	    /* what cutting a chain in two may change inside it at most, by cut */
	int64_t *gain;	    /* [n_nodes + 1] X2 X1: all jumps across the cut come near */
	int64_t *broken;    /* [n_nodes + 1] X1 Y X2: the fall-through at the cut becomes a jump */
	struct span *spans; /* of all jumps inside */
	int64_t best;	    /* largest gain, at least 0 */
	uint32_t n_nodes;   /* length of the chain when computed: valid as long as it has that */
};

struct tsp {
	struct ovm_chains chains;
	struct node *nodes;
	struct jump *jumps;  /* with a count, sorted by source */
	uint32_t *first_out; /* [n + 1] */
	uint32_t *succs, *in;
	struct cut_bound *cut_bounds; /* [n] by chain */
};

/* --- score ------------------------------------------------------------------------------- */

static int64_t jump_score(uint64_t src_end, uint64_t dst, bool cond)
{
	uint64_t d;

	if (src_end == dst)
		return cond ? OVM_TUNE(TSP_UNIT) : OVM_TUNE(TSP_FALL_UNCOND);
	if (src_end < dst) {
		d = dst - src_end;
		return d < (uint64_t)OVM_TUNE(TSP_FORWARD_DISTANCE)
			   ? OVM_TUNE(TSP_FORWARD_SLOPE) *
				 (OVM_TUNE(TSP_FORWARD_DISTANCE) - (int64_t)d)
			   : 0;
	}
	d = src_end - dst;
	return d < (uint64_t)OVM_TUNE(TSP_BACKWARD_DISTANCE)
		   ? OVM_TUNE(TSP_BACKWARD_SLOPE) * (OVM_TUNE(TSP_BACKWARD_DISTANCE) - (int64_t)d)
		   : 0;
}

double ovm_exttsp_score(const uint32_t *order, uint32_t n, const uint64_t *sizes,
			const struct ovm_edge *edges, uint32_t n_edges, const uint32_t *out_degree)
{
	uint32_t n_blocks = 0;
	uint64_t *addr, at = 0;
	double score = 0;

	for (uint32_t i = 0; i < n; i++)
		if (order[i] >= n_blocks)
			n_blocks = order[i] + 1;
	if (!n_blocks)
		return 0;
	addr = ovm_alloc_array(n_blocks, sizeof(*addr));
	memset(addr, 0xff, n_blocks * sizeof(*addr));
	for (uint32_t i = 0; i < n; i++) {
		addr[order[i]] = at;
		at += sizes[order[i]];
	}
	for (uint32_t e = 0; e < n_edges; e++) {
		uint32_t src = edges[e].src, dst = edges[e].dst;

		if (!edges[e].count || src >= n_blocks || dst >= n_blocks ||
		    addr[src] == UINT64_MAX || addr[dst] == UINT64_MAX)
			continue;
		score += (double)edges[e].count *
			 (double)jump_score(addr[src] + sizes[src], addr[dst], out_degree[src] > 1);
	}
	free(addr);
	return score / (double)OVM_TUNE(TSP_UNIT);
}

/* --- how much a cut can matter ----------------------------------------------------------- */

/* A jump that does not fall through counts at most this much. */
static int64_t max_jump_score(void)
{
	int64_t forward = OVM_TUNE(TSP_FORWARD_SLOPE) * OVM_TUNE(TSP_FORWARD_DISTANCE);
	int64_t backward = OVM_TUNE(TSP_BACKWARD_SLOPE) * OVM_TUNE(TSP_BACKWARD_DISTANCE);

	return forward > backward ? forward : backward;
}

/* In X2 X1 a jump across the cut may come as near as a jump can be without falling through; only
 * from X's tail to its head it may fall through. In X1 Y X2 no jump comes nearer, and the
 * fall-through at the cut is lost. */
static struct span bound_jump(const struct tsp *tsp, uint32_t j, uint32_t n,
			      struct cut_bound *bound)
{
	const struct jump *jump = &tsp->jumps[j];
	const struct ovm_place *src = &tsp->chains.places[jump->src];
	const struct ovm_place *dst = &tsp->chains.places[jump->dst];
	struct span span = {src->pos, dst->pos, j};
	int64_t now = jump_score(src->off + src->size, dst->off, jump->cond);
	int64_t most =
	    src->pos == n - 1 && dst->pos == 0 ? OVM_TUNE(TSP_FALL_UNCOND) : max_jump_score();

	if (span.lo > span.hi) {
		span.lo = dst->pos;
		span.hi = src->pos;
	}
	bound->gain[span.lo + 1] += (most - now) * jump->count;
	bound->gain[span.hi + 1] -= (most - now) * jump->count;
	if (src->pos + 1 == dst->pos)
		bound->broken[dst->pos] += (now - max_jump_score()) * jump->count;
	return span;
}

static const struct cut_bound *bound_cuts(const struct tsp *tsp, uint32_t x)
{
	const struct ovm_chain *chain = &tsp->chains.chains[x];
	struct cut_bound *bound = &tsp->cut_bounds[x];
	uint32_t n = chain->nodes.n;

	if (bound->n_nodes == n)
		return bound;
	free(bound->gain);
	free(bound->broken);
	free(bound->spans);
	bound->gain = ovm_alloc_array((size_t)n + 2, sizeof(*bound->gain));
	bound->broken = ovm_alloc_array((size_t)n + 2, sizeof(*bound->broken));
	bound->spans = ovm_alloc_array(chain->self.n ? chain->self.n : 1, sizeof(*bound->spans));
	bound->best = 0;
	bound->n_nodes = n;
	for (uint32_t i = 0; i < chain->self.n; i++)
		bound->spans[i] = bound_jump(tsp, chain->self.v[i], n, bound);
	for (uint32_t cut = 1; cut < n; cut++) {
		bound->gain[cut] += bound->gain[cut - 1];
		bound->best = bound->gain[cut] > bound->best ? bound->gain[cut] : bound->best;
	}
	return bound;
}

/* Where X's halves and Y stand in the merged chain: bytes to add to a node's offset in its chain,
 * modulo 2^64. */
struct placing {
	uint32_t x, cut;
	uint64_t x1, x2, y;
};

static struct placing place(const struct ovm_chains *chains, uint32_t x, uint32_t y, uint32_t cut,
			    enum ovm_merge how)
{
	const struct ovm_chain *cx = &chains->chains[x], *cy = &chains->chains[y];
	struct placing at = {.x = x, .cut = how == OVM_MERGE_X_Y ? cx->nodes.n : cut};
	uint64_t cut_off =
	    at.cut < cx->nodes.n ? chains->places[cx->nodes.v[at.cut]].off : cx->size;

	switch (how) {
	case OVM_MERGE_X_Y:
		at.y = cx->size;
		break;
	case OVM_MERGE_X1_Y_X2:
		at.y = cut_off;
		at.x2 = cy->size;
		break;
	case OVM_MERGE_Y_X2_X1:
		at.x2 = cy->size - cut_off;
		at.x1 = cy->size + cx->size - cut_off;
		break;
	case OVM_MERGE_X2_X1_Y:
		at.x2 = -cut_off;
		at.x1 = cx->size - cut_off;
		at.y = cx->size;
		break;
	}
	return at;
}

static uint64_t placed(const struct placing *at, const struct ovm_place *place)
{
	if (place->chain != at->x)
		return at->y + place->off;
	return place->off + (place->pos < at->cut ? at->x1 : at->x2);
}

static int64_t placed_score(const struct ovm_chains *chains, const struct placing *at,
			    const struct jump *jump)
{
	const struct ovm_place *src = &chains->places[jump->src], *dst = &chains->places[jump->dst];

	return jump->count * jump_score(placed(at, src) + src->size, placed(at, dst), jump->cond);
}

/* How the scores of X's own jumps across the cut change. */
static int64_t cut_score(const struct tsp *tsp, const struct placing *at,
			 const struct cut_bound *bound)
{
	const struct ovm_chains *chains = &tsp->chains;
	uint32_t n = chains->chains[at->x].self.n;
	int64_t score = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct span *span = &bound->spans[i];
		const struct jump *jump;
		const struct ovm_place *src, *dst;

		if (span->lo >= at->cut || span->hi < at->cut)
			continue;
		jump = &tsp->jumps[span->jump];
		src = &chains->places[jump->src];
		dst = &chains->places[jump->dst];
		score += placed_score(chains, at, jump) -
			 jump->count * jump_score(src->off + src->size, dst->off, jump->cond);
	}
	return score;
}

/* Score of the merged chain minus the scores of X and Y; some value <= @floor if it is not above.
 */
static int64_t merge_score(const struct tsp *tsp, const struct ovm_chain_edge *edge, uint32_t x,
			   uint32_t y, uint32_t cut, enum ovm_merge how, int64_t floor)
{
	struct placing at = place(&tsp->chains, x, y, cut, how);
	const struct cut_bound *bound;
	int64_t score = 0, most;

	for (uint32_t i = 0; i < edge->jumps.n; i++)
		score += placed_score(&tsp->chains, &at, &tsp->jumps[edge->jumps.v[i]]);
	if (how == OVM_MERGE_X_Y)
		return score;
	bound = bound_cuts(tsp, x);
	most = score + (how == OVM_MERGE_X1_Y_X2 ? -bound->broken[cut] : bound->gain[cut]);
	return most <= floor ? most : score + cut_score(tsp, &at, bound);
}

/* --- the best merge of two chains -------------------------------------------------------- */

struct attempt {
	const struct tsp *tsp;
	const struct ovm_chain_edge *edge;
	uint32_t x, y;
	struct ovm_gain best;
};

static bool has_entry(const struct tsp *tsp, uint32_t chain)
{
	return tsp->chains.chains[chain].nodes.v[0] == 0;
}

static void try_merge(struct attempt *try, uint32_t cut, enum ovm_merge how)
{
	bool x_first = how == OVM_MERGE_X_Y || how == OVM_MERGE_X1_Y_X2;
	bool y_first = how == OVM_MERGE_Y_X2_X1;
	int64_t score;

	if ((has_entry(try->tsp, try->x) && !x_first) || (has_entry(try->tsp, try->y) && !y_first))
		return;
	score =
	    merge_score(try->tsp, try->edge, try->x, try->y, cut, how, (int64_t)try->best.score);
	if (score > 0 && (double)score > try->best.score)
		try->best = (struct ovm_gain){(double)score, cut, how};
}

enum { /* ways to put Y to X cut in two, as a bit set */
       Y_BETWEEN = 1u << OVM_MERGE_X1_Y_X2,
       Y_BEFORE = 1u << OVM_MERGE_Y_X2_X1,
       Y_BEHIND = 1u << OVM_MERGE_X2_X1_Y,
};

/* Cut X before position @cut. Forced pairs stay together. */
static void try_cut(struct attempt *try, uint32_t cut, unsigned hows)
{
	const struct ovm_chain *chain = &try->tsp->chains.chains[try->x];

	if (cut == 0 || cut == chain->nodes.n ||
	    try->tsp->nodes[chain->nodes.v[cut - 1]].forced_succ != OVM_NONE)
		return;
	for (enum ovm_merge how = OVM_MERGE_X1_Y_X2; how <= OVM_MERGE_X2_X1_Y; how++)
		if (hows & (1u << how))
			try_merge(try, cut, how);
}

/* Cuts that make a new fall-through between a part of X and Y; the first ones, if there are very
 * many (dispatch of an interpreter). */
static void try_cuts_at_jumps(struct attempt *try)
{
	const struct tsp *tsp = try->tsp;
	const ovm_indices *y = &tsp->chains.chains[try->y].nodes;
	const struct node *head = &tsp->nodes[y->v[0]];
	uint32_t tail = y->v[y->n - 1], max = (uint32_t)OVM_TUNE(TSP_MAX_TRIED), n = 0;

	for (uint32_t i = 0; i < head->n_in && n < max; i++) {
		const struct ovm_place *src =
		    &tsp->chains.places[tsp->jumps[tsp->in[head->first_in + i]].src];

		if (src->chain != try->x)
			continue;
		try_cut(try, src->pos + 1, Y_BETWEEN | Y_BEHIND);
		n++;
	}
	n = 0;
	for (uint32_t j = tsp->first_out[tail]; j < tsp->first_out[tail + 1] && n < max; j++) {
		const struct ovm_place *dst = &tsp->chains.places[tsp->jumps[j].dst];

		if (dst->chain != try->x)
			continue;
		try_cut(try, dst->pos, Y_BETWEEN | Y_BEFORE);
		n++;
	}
}

static bool is_successor(const struct tsp *tsp, uint32_t a, uint32_t b)
{
	for (uint32_t j = tsp->first_out[a]; j < tsp->first_out[a + 1]; j++)
		if (tsp->jumps[j].dst == b)
			return true;
	return false;
}

static bool may_merge(const struct ovm_chain *a, const struct ovm_chain *b)
{
	double da, db;

	if (a->nodes.n + b->nodes.n >= (uint32_t)OVM_TUNE(TSP_MAX_CHAIN))
		return false;
	da = (double)a->count / (double)a->size;
	db = (double)b->count / (double)b->size;
	return (da > db ? da / db : db / da) <= (double)OVM_TUNE(TSP_DENSITY_RATIO);
}

static struct ovm_gain best_merge(const struct ovm_chains *chains, const void *user,
				  const struct ovm_chain_edge *edge, uint32_t x, uint32_t y)
{
	const struct ovm_chain *chain = &chains->chains[x];
	struct attempt try = {.tsp = user, .edge = edge, .x = x, .y = y};

	if (!may_merge(chain, &chains->chains[y]))
		return try.best;
	try_merge(&try, 0, OVM_MERGE_X_Y);
	try_cuts_at_jumps(&try);
	if (chain->nodes.n > (uint32_t)OVM_TUNE(TSP_MAX_SPLIT))
		return try.best;
	for (uint32_t cut = 1; cut < chain->nodes.n; cut++)
		if (!is_successor(try.tsp, chain->nodes.v[cut - 1], chain->nodes.v[cut]))
			try_cut(&try, cut, Y_BETWEEN | Y_BEFORE | Y_BEHIND);
	return try.best;
}

/* --- a quick upper bound ----------------------------------------------------------------- */

/* At least the score best_merge() would find: every jump between X and Y near, the best one into
 * Y's head and the best one out of its tail falling through, X cut at its best. Much cheaper, and
 * enough for most merges never to be tried. */
static double merge_bound(const struct ovm_chains *chains, const void *user,
			  const struct ovm_chain_edge *edge, uint32_t x, uint32_t y)
{
	const struct tsp *tsp = user;
	const struct ovm_chain *cx = &chains->chains[x], *cy = &chains->chains[y];
	uint32_t head = cy->nodes.v[0], tail = cy->nodes.v[cy->nodes.n - 1];
	int64_t near = 0, into = 0, out = 0, near_score = max_jump_score();

	if (!may_merge(cx, cy))
		return 0;
	for (uint32_t i = 0; i < edge->jumps.n; i++) {
		const struct jump *jump = &tsp->jumps[edge->jumps.v[i]];
		int64_t fall =
		    ((jump->cond ? OVM_TUNE(TSP_UNIT) : OVM_TUNE(TSP_FALL_UNCOND)) - near_score) *
		    jump->count;

		near += near_score * jump->count;
		if (jump->dst == head && fall > into)
			into = fall;
		if (jump->src == tail && fall > out)
			out = fall;
	}
	return (double)(near + into + out +
			(cx->nodes.n > 1 && !has_entry(tsp, x) ? bound_cuts(tsp, x)->best : 0));
}

/* --- steps ------------------------------------------------------------------------------- */

/* A block whose only successor has no other predecessor is followed by it. A ring of such blocks is
 * cut where it is found first. */
static void find_forced(struct tsp *tsp)
{
	uint32_t n = tsp->chains.n;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t succ =
		    tsp->nodes[i].n_succ == 1 ? tsp->succs[tsp->nodes[i].first_succ] : 0;

		if (succ && tsp->nodes[succ].n_preds == 1) {
			tsp->nodes[i].forced_succ = succ;
			tsp->nodes[succ].forced_pred = i;
		}
	}
	for (uint32_t i = 0; i < n; i++) {
		struct node *node = &tsp->nodes[i];
		uint32_t at = node->forced_succ, steps = 0;

		if (node->forced_succ == OVM_NONE || node->forced_pred == OVM_NONE)
			continue;
		while (at != OVM_NONE && at != i && steps++ < n)
			at = tsp->nodes[at].forced_succ;
		if (at == i) {
			tsp->nodes[node->forced_pred].forced_succ = OVM_NONE;
			node->forced_pred = OVM_NONE;
		}
	}
}

static void merge_forced(struct tsp *tsp)
{
	for (uint32_t i = 0; i < tsp->chains.n; i++) {
		if (tsp->nodes[i].forced_pred != OVM_NONE)
			continue;
		for (uint32_t at = tsp->nodes[i].forced_succ; at != OVM_NONE;
		     at = tsp->nodes[at].forced_succ)
			ovm_chains_merge(&tsp->chains, i, tsp->chains.places[at].chain, 0,
					 OVM_MERGE_X_Y);
	}
}

/* What gained nothing: join chains along the original successors, the last first, never hot with
 * cold. */
static void merge_rest(struct tsp *tsp)
{
	struct ovm_chains *chains = &tsp->chains;

	for (uint32_t i = 0; i < chains->n; i++) {
		for (uint32_t k = tsp->nodes[i].n_succ; k-- > 0;) {
			uint32_t dst = tsp->succs[tsp->nodes[i].first_succ + k];
			uint32_t x = chains->places[i].chain, y = chains->places[dst].chain;
			const struct ovm_chain *cx = &chains->chains[x], *cy = &chains->chains[y];

			if (x != y && !has_entry(tsp, y) && cx->nodes.v[cx->nodes.n - 1] == i &&
			    cy->nodes.v[0] == dst && !cx->count == !cy->count)
				ovm_chains_merge(chains, x, y, 0, OVM_MERGE_X_Y);
		}
	}
}

/* --- setting up -------------------------------------------------------------------------- */

/* Right shift that keeps every sum of scores below 2^53, exact in a double. */
static unsigned count_shift(const struct ovm_tsp_graph *graph)
{
	double total = 0;
	unsigned shift = 0;

	for (uint32_t i = 0; i < graph->n_jumps; i++)
		total += (double)graph->jumps[i].count;
	for (; total > (double)(1ll << 36); shift++)
		total /= 2;
	return shift;
}

static uint64_t scaled(uint64_t count, unsigned shift)
{
	return count && !(count >> shift) ? 1 : count >> shift;
}

static bool is_real(const struct ovm_tsp_jump *jump)
{
	return jump->src != jump->dst;
}

/* Successor lists in the order of graph->jumps, and how many jumps with a count there are. */
static void add_succs(struct tsp *tsp, const struct ovm_tsp_graph *graph)
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < graph->n_jumps; i++)
		if (is_real(&graph->jumps[i]))
			tsp->nodes[graph->jumps[i].src].n_succ++;
	for (uint32_t i = 0; i < graph->n; i++) {
		tsp->nodes[i].first_succ = at;
		at += tsp->nodes[i].n_succ;
		tsp->nodes[i].n_succ = 0;
	}
	for (uint32_t i = 0; i < graph->n_jumps; i++) {
		const struct ovm_tsp_jump *jump = &graph->jumps[i];
		struct node *node = &tsp->nodes[jump->src];

		if (!is_real(jump))
			continue;
		tsp->succs[node->first_succ + node->n_succ++] = jump->dst;
		tsp->nodes[jump->dst].n_preds++;
		if (jump->count) {
			tsp->first_out[jump->src + 1]++;
			tsp->nodes[jump->dst].n_in++;
		}
	}
}

static void add_jumps(struct tsp *tsp, const struct ovm_tsp_graph *graph, unsigned shift)
{
	uint32_t *degree = ovm_alloc_array(graph->n, sizeof(*degree));
	uint32_t *next = ovm_alloc_array(graph->n, sizeof(*next)), in = 0;

	for (uint32_t i = 0; i < graph->n_jumps; i++)
		degree[graph->jumps[i].src]++;
	for (uint32_t i = 0; i < graph->n; i++) {
		tsp->first_out[i + 1] += tsp->first_out[i];
		next[i] = tsp->first_out[i];
		tsp->nodes[i].first_in = in;
		in += tsp->nodes[i].n_in;
		tsp->nodes[i].n_in = 0;
	}
	for (uint32_t i = 0; i < graph->n_jumps; i++) {
		const struct ovm_tsp_jump *from = &graph->jumps[i];
		const uint32_t *degrees = graph->out_degree ? graph->out_degree : degree;

		if (is_real(from) && from->count)
			tsp->jumps[next[from->src]++] =
			    (struct jump){from->src, from->dst, (int64_t)scaled(from->count, shift),
					  degrees[from->src] > 1};
	}
	for (uint32_t j = 0; j < tsp->first_out[graph->n]; j++) {
		struct node *dst = &tsp->nodes[tsp->jumps[j].dst];

		tsp->in[dst->first_in + dst->n_in++] = j;
	}
	free(next);
	free(degree);
}

/* A block ran at least as often as any of its jumps; the entry at least once. */
static void make_chains(struct tsp *tsp, const struct ovm_tsp_graph *graph, unsigned shift)
{
	uint64_t *counts = ovm_alloc_array(graph->n, sizeof(*counts));
	uint32_t n_jumps = tsp->first_out[graph->n];
	uint32_t *dst = ovm_alloc_array(n_jumps ? n_jumps : 1, sizeof(*dst));

	for (uint32_t i = 0; i < graph->n; i++)
		counts[i] = scaled(graph->counts[i], shift);
	if (!counts[0])
		counts[0] = 1;
	for (uint32_t j = 0; j < n_jumps; j++) {
		const struct jump *jump = &tsp->jumps[j];
		uint64_t count = (uint64_t)jump->count;

		dst[j] = jump->dst;
		counts[jump->src] = counts[jump->src] < count ? count : counts[jump->src];
		counts[jump->dst] = counts[jump->dst] < count ? count : counts[jump->dst];
	}
	ovm_chains_init(&tsp->chains, graph->n, graph->sizes, counts);
	ovm_chains_connect(&tsp->chains, tsp->first_out, dst);
	tsp->chains.max_eager = (uint32_t)OVM_TUNE(TSP_EAGER_EDGES);
	free(dst);
	free(counts);
}

static void tsp_init(struct tsp *tsp, const struct ovm_tsp_graph *graph)
{
	uint32_t n_jumps = graph->n_jumps ? graph->n_jumps : 1;
	unsigned shift = count_shift(graph);

	tsp->nodes = ovm_alloc_array(graph->n, sizeof(*tsp->nodes));
	tsp->first_out = ovm_alloc_array((size_t)graph->n + 1, sizeof(*tsp->first_out));
	tsp->jumps = ovm_alloc_array(n_jumps, sizeof(*tsp->jumps));
	tsp->succs = ovm_alloc_array(n_jumps, sizeof(*tsp->succs));
	tsp->in = ovm_alloc_array(n_jumps, sizeof(*tsp->in));
	tsp->cut_bounds = ovm_alloc_array(graph->n, sizeof(*tsp->cut_bounds));
	for (uint32_t i = 0; i < graph->n; i++)
		tsp->nodes[i].forced_succ = tsp->nodes[i].forced_pred = OVM_NONE;
	add_succs(tsp, graph);
	add_jumps(tsp, graph, shift);
	make_chains(tsp, graph, shift);
}

static void tsp_fini(struct tsp *tsp)
{
	uint32_t n = tsp->chains.n;

	ovm_chains_fini(&tsp->chains);
	free(tsp->nodes);
	free(tsp->first_out);
	free(tsp->jumps);
	free(tsp->succs);
	free(tsp->in);
	for (uint32_t i = 0; i < n; i++) {
		free(tsp->cut_bounds[i].gain);
		free(tsp->cut_bounds[i].broken);
		free(tsp->cut_bounds[i].spans);
	}
	free(tsp->cut_bounds);
}

void ovm_exttsp_order(const struct ovm_tsp_graph *graph, uint32_t *order)
{
	struct tsp tsp = {0};

	if (!graph->n)
		return;
	tsp_init(&tsp, graph);
	find_forced(&tsp);
	merge_forced(&tsp);
	ovm_chains_run(&tsp.chains, best_merge, merge_bound, &tsp);
	merge_rest(&tsp);
	ovm_chains_concat(&tsp.chains, tsp.chains.places[0].chain, order);
	tsp_fini(&tsp);
}
