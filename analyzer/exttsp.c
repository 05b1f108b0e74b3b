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
 * are real ties and go to the chains with the lowest first nodes, as in LLVM, and the result is the
 * same on every machine. Trying every cut of every pair is what costs time. Three things keep it
 * near linear:
 *
 *   - No address pass: each node knows its offset in its chain. Y stays whole, so only jumps
 * between X and Y, and those inside X that cross the cut, change their distance.
 *   - How far the latter then go does not depend on the cut (see add_step), so one pass over X's
 *     jumps gives the change inside X for all cuts.
 *   - Bounds: a merge is tried only when the most it could gain is the best offer, a cut only if it
 *     could beat the best so far.
 *
 * The order is LLVM's wherever LLVM's floating point rounds no tie away. The merging itself is done
 * by chains.c.
 */
#include "analyzer/chains.h"
#include "analyzer/exttsp.h"
#include "analyzer/layout.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

struct jump { /* never to its own source */
	uint32_t src, dst;
	int64_t count;
	bool cond; /* the source has other successors */
};

struct node {
	uint32_t forced_succ, forced_pred;
	uint32_t first_succ, n_succ; /* in tsp.succs: all, also those never taken */
	uint32_t n_preds;
};

struct cuts {		  /* what a cut changes inside a chain, by cut, [n_nodes + 1] */
	int64_t *swap;	  /* its second half is put first */
	int64_t *broken;  /* something comes between: the fall-through there is lost at least */
	int64_t *apart;	  /* TSP_APART bytes come between */
	int64_t best;	  /* largest swap, at least 0 */
	uint32_t n_nodes; /* length of the chain when computed: valid as long as it has that */
};

struct spread {	       /* what @size bytes put between its halves cost a chain */
	int64_t *loss; /* [n_nodes + 1] by cut */
	uint32_t cap;
	uint32_t chain, n_nodes; /* valid for the chain as long as it has that length */
	uint64_t size;
};

struct tsp {
	struct ovm_chains chains;
	struct node *nodes;
	struct jump *jumps;  /* with a count, sorted by source */
	uint32_t *first_out; /* [n + 1] */
	uint32_t *succs;
	struct cuts *cuts;     /* [n] by chain */
	struct spread *spread; /* the last one asked for */
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

/* A jump that does not fall through counts at most this much. */
static int64_t max_jump_score(void)
{
	int64_t forward = OVM_TUNE(TSP_FORWARD_SLOPE) * OVM_TUNE(TSP_FORWARD_DISTANCE);
	int64_t backward = OVM_TUNE(TSP_BACKWARD_SLOPE) * OVM_TUNE(TSP_BACKWARD_DISTANCE);

	return forward > backward ? forward : backward;
}

/* --- what cutting a chain changes inside it ---------------------------------------------- */

/* A jump inside X crosses the cuts between its ends, and how far it goes afterwards does not depend
 * on which of them is made:
 *
 *      X1 Y X2   as far as now, and over Y
 *      X2 X1     from here to there it was d bytes of X; now it is the rest of X, the other way
 *
 * So one pass over the jumps gives the change for all cuts, as a sum of steps. */
static void add_step(int64_t *by_cut, const struct ovm_place *a, const struct ovm_place *b,
		     int64_t change)
{
	by_cut[(a->pos < b->pos ? a : b)->pos + 1] += change;
	by_cut[(a->pos < b->pos ? b : a)->pos + 1] -= change;
}

static void sum_steps(int64_t *by_cut, uint32_t n)
{
	for (uint32_t cut = 1; cut <= n; cut++)
		by_cut[cut] += by_cut[cut - 1];
}

/* Score of jump @j inside a chain if the one of its ends that stands first and the other get @first
 * and @second bytes further from the chain's start. */
static int64_t moved_score(const struct tsp *tsp, uint32_t j, uint64_t first, uint64_t second)
{
	const struct jump *jump = &tsp->jumps[j];
	const struct ovm_place *src = &tsp->chains.places[jump->src];
	const struct ovm_place *dst = &tsp->chains.places[jump->dst];
	bool forward = src->pos < dst->pos;

	return jump_score(src->off + src->size + (forward ? first : second),
			  dst->off + (forward ? second : first), jump->cond) *
	       jump->count;
}

static const struct cuts *cuts_of(const struct tsp *tsp, uint32_t x)
{
	const struct ovm_chain *chain = &tsp->chains.chains[x];
	struct cuts *cuts = &tsp->cuts[x];
	uint32_t n = chain->nodes.n;

	if (cuts->n_nodes == n)
		return cuts;
	free(cuts->swap);
	cuts->swap = ovm_alloc_array(3 * ((size_t)n + 1), sizeof(*cuts->swap));
	cuts->broken = cuts->swap + n + 1;
	cuts->apart = cuts->broken + n + 1;
	cuts->best = 0;
	cuts->n_nodes = n;
	for (uint32_t i = 0; i < chain->self.n; i++) {
		const struct jump *jump = &tsp->jumps[chain->self.v[i]];
		const struct ovm_place *src = &tsp->chains.places[jump->src];
		const struct ovm_place *dst = &tsp->chains.places[jump->dst];
		int64_t now = moved_score(tsp, chain->self.v[i], 0, 0);

		add_step(cuts->swap, src, dst,
			 moved_score(tsp, chain->self.v[i], chain->size, 0) - now);
		add_step(cuts->apart, src, dst,
			 now - moved_score(tsp, chain->self.v[i], 0, OVM_TUNE(TSP_APART)));
		if (src->pos + 1 == dst->pos)
			cuts->broken[dst->pos] += now - max_jump_score() * jump->count;
	}
	sum_steps(cuts->swap, n);
	sum_steps(cuts->apart, n);
	for (uint32_t cut = 1; cut < n; cut++)
		cuts->best = cuts->swap[cut] > cuts->best ? cuts->swap[cut] : cuts->best;
	return cuts;
}

static const struct spread *spread_losses(const struct tsp *tsp, uint32_t x, uint64_t size)
{
	const struct ovm_chain *chain = &tsp->chains.chains[x];
	struct spread *spread = tsp->spread;
	uint32_t n = chain->nodes.n;

	if (spread->chain == x && spread->n_nodes == n && spread->size == size)
		return spread;
	if (spread->cap <= n) {
		spread->cap = 2 * (n + 1);
		free(spread->loss);
		spread->loss = ovm_alloc_array(spread->cap, sizeof(*spread->loss));
	}
	spread->chain = x;
	spread->n_nodes = n;
	spread->size = size;
	memset(spread->loss, 0, ((size_t)n + 1) * sizeof(*spread->loss));
	for (uint32_t i = 0; i < chain->self.n; i++) {
		uint32_t j = chain->self.v[i];

		add_step(spread->loss, &tsp->chains.places[tsp->jumps[j].src],
			 &tsp->chains.places[tsp->jumps[j].dst],
			 moved_score(tsp, j, 0, 0) - moved_score(tsp, j, 0, size));
	}
	sum_steps(spread->loss, n);
	return spread;
}

/* At most what @size bytes cost at a cut. Each further byte costs a jump as much as the one before
 * or less. */
static int64_t least_loss(const struct cuts *cuts, uint32_t cut, uint64_t size)
{
	int64_t loss = cuts->apart[cut];

	if (size < (uint64_t)OVM_TUNE(TSP_APART))
		loss = loss / OVM_TUNE(TSP_APART) * (int64_t)size;
	return loss > cuts->broken[cut] ? loss : cuts->broken[cut];
}

/* --- the best merge of two chains -------------------------------------------------------- */

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

static bool has_entry(const struct tsp *tsp, uint32_t chain)
{
	return tsp->chains.chains[chain].nodes.v[0] == 0;
}

static int64_t fall_gain(const struct jump *jump)
{
	int64_t fall = jump->cond ? OVM_TUNE(TSP_UNIT) : OVM_TUNE(TSP_FALL_UNCOND);

	return (fall - max_jump_score()) * jump->count;
}

/* How good the jumps between X and Y can get at best. */
struct reach {
	int64_t near; /* all of them near */
	int64_t into; /* and the best one into Y's head a fall-through */
	int64_t out;  /* and the best one out of Y's tail */
};

static struct reach reach_of(const struct tsp *tsp, const struct ovm_chain_edge *edge, uint32_t y)
{
	const ovm_indices *nodes = &tsp->chains.chains[y].nodes;
	uint32_t head = nodes->v[0], tail = nodes->v[nodes->n - 1];
	struct reach reach = {0};

	for (uint32_t i = 0; i < edge->jumps.n; i++) {
		const struct jump *jump = &tsp->jumps[edge->jumps.v[i]];
		int64_t gain = fall_gain(jump);

		reach.near += max_jump_score() * jump->count;
		if (jump->dst == head && gain > reach.into)
			reach.into = gain;
		if (jump->src == tail && gain > reach.out)
			reach.out = gain;
	}
	return reach;
}

struct attempt {
	const struct tsp *tsp;
	const struct ovm_chain_edge *edge;
	uint32_t x, y;
	struct reach reach;
	bool rough; /* `best` may be a little too good */
	struct ovm_gain best;
};

static int64_t jumps_between(const struct attempt *try, uint32_t cut, enum ovm_merge how)
{
	const struct tsp *tsp = try->tsp;
	const struct placing at = place(&tsp->chains, try->x, try->y, cut, how);
	int64_t score = 0;

	for (uint32_t i = 0; i < try->edge->jumps.n; i++)
		score += placed_score(&tsp->chains, &at, &tsp->jumps[try->edge->jumps.v[i]]);
	return score;
}

/* What happens inside X; if that is too bad for better ones between X and Y, which bring @most,
 * perhaps only something near it. */
static int64_t change_inside(const struct attempt *try, uint32_t cut, enum ovm_merge how,
			     int64_t most)
{
	const struct tsp *tsp = try->tsp;
	int64_t change;

	if (how == OVM_MERGE_X_Y)
		return 0;
	if (how != OVM_MERGE_X1_Y_X2)
		return cuts_of(tsp, try->x)->swap[cut];
	change = -least_loss(cuts_of(tsp, try->x), cut, tsp->chains.chains[try->y].size);
	if (try->rough || (double)(most + change) <= try->best.score)
		return change;
	return -spread_losses(tsp, try->x, tsp->chains.chains[try->y].size)->loss[cut];
}

/* @most: what the jumps between X and Y bring at most. */
static void try_merge(struct attempt *try, uint32_t cut, enum ovm_merge how, int64_t most)
{
	bool x_first = how == OVM_MERGE_X_Y || how == OVM_MERGE_X1_Y_X2;
	bool y_first = how == OVM_MERGE_Y_X2_X1;
	int64_t score;

	if ((has_entry(try->tsp, try->x) && !x_first) || (has_entry(try->tsp, try->y) && !y_first))
		return;
	score = change_inside(try, cut, how, most);
	if ((double)(score + most) <= try->best.score)
		return;
	score += jumps_between(try, cut, how);
	if ((double)score > try->best.score)
		try->best = (struct ovm_gain){(double)score, cut, how};
}

enum { /* ways to put Y to X cut in two, as a bit set */
       Y_BETWEEN = 1u << OVM_MERGE_X1_Y_X2,
       Y_BEFORE = 1u << OVM_MERGE_Y_X2_X1,
       Y_BEHIND = 1u << OVM_MERGE_X2_X1_Y,
};

/* Cut X before position @cut. Forced pairs stay together. */
static void try_cut(struct attempt *try, uint32_t cut, unsigned hows, int64_t most)
{
	const struct ovm_chain *chain = &try->tsp->chains.chains[try->x];

	if (cut == 0 || cut == chain->nodes.n ||
	    try->tsp->nodes[chain->nodes.v[cut - 1]].forced_succ != OVM_NONE)
		return;
	for (enum ovm_merge how = OVM_MERGE_X1_Y_X2; how <= OVM_MERGE_X2_X1_Y; how++)
		if (hows & (1u << how))
			try_merge(try, cut, how, most);
}

/* Cuts that make a new fall-through between a part of X and Y. */
static void try_cuts_at_jumps(struct attempt *try)
{
	const struct tsp *tsp = try->tsp;
	const struct reach *reach = &try->reach;
	const ovm_indices *y = &tsp->chains.chains[try->y].nodes, *jumps = &try->edge->jumps;
	uint32_t head = y->v[0], tail = y->v[y->n - 1];

	for (uint32_t i = 0; reach->into && i < jumps->n; i++) {
		const struct jump *jump = &tsp->jumps[jumps->v[i]];

		if (jump->dst == head)
			try_cut(try, tsp->chains.places[jump->src].pos + 1, Y_BETWEEN | Y_BEHIND,
				reach->near + fall_gain(jump) + reach->out);
	}
	for (uint32_t i = 0; reach->out && i < jumps->n; i++) {
		const struct jump *jump = &tsp->jumps[jumps->v[i]];

		if (jump->src == tail)
			try_cut(try, tsp->chains.places[jump->dst].pos, Y_BETWEEN | Y_BEFORE,
				reach->near + fall_gain(jump) + reach->into);
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

static bool may_cut_anywhere(const struct tsp *tsp, uint32_t x)
{
	uint32_t n = tsp->chains.chains[x].nodes.n;

	return n > 1 && n <= (uint32_t)OVM_TUNE(TSP_MAX_SPLIT);
}

/* At least what swapping X's halves gains. */
static int64_t best_swap(const struct tsp *tsp, uint32_t x)
{
	return has_entry(tsp, x) ? 0 : cuts_of(tsp, x)->best;
}

/* Anywhere else Y cannot fall through to or from X, but may come near. */
static void try_other_cuts(struct attempt *try)
{
	const struct tsp *tsp = try->tsp;
	const ovm_indices *x = &tsp->chains.chains[try->x].nodes;
	const struct cuts *cuts = cuts_of(tsp, try->x);
	uint64_t size = tsp->chains.chains[try->y].size;
	int64_t near = try->reach.near;

	for (uint32_t cut = 1; cut < x->n; cut++) {
		int64_t between = -least_loss(cuts, cut, size), swap = cuts->swap[cut];

		if ((double)(near + (between > swap ? between : swap)) > try->best.score &&
		    !is_successor(tsp, x->v[cut - 1], x->v[cut]))
			try_cut(try, cut, Y_BETWEEN | Y_BEFORE | Y_BEHIND, near);
	}
}

static struct ovm_gain best_merge(const struct ovm_chains *chains, const void *user,
				  const struct ovm_chain_edge *edge, uint32_t x, uint32_t y)
{
	struct attempt try = {.tsp = user, .edge = edge, .x = x, .y = y};

	if (!may_merge(&chains->chains[x], &chains->chains[y]))
		return try.best;
	try_merge(&try, 0, OVM_MERGE_X_Y, INT64_MAX);
	if (chains->chains[x].nodes.n == 1)
		return try.best;
	try.reach = reach_of(user, edge, y);
	try_cuts_at_jumps(&try);
	if (may_cut_anywhere(user, x) &&
	    (double)(try.reach.near + best_swap(user, x)) > try.best.score)
		try_other_cuts(&try);
	return try.best;
}

/* At least the score best_merge() would find. Much cheaper, and enough for most merges never to be
 * tried: with few jumps the same steps without exact losses, else all jumps between X and Y near,
 * the best ones falling through, X cut at its best. */
static double merge_bound(const struct ovm_chains *chains, const void *user,
			  const struct ovm_chain_edge *edge, uint32_t x, uint32_t y)
{
	struct attempt try = {.tsp = user, .edge = edge, .x = x, .y = y, .rough = true};
	const struct reach *reach = &try.reach;
	int64_t most = 0;

	if (!may_merge(&chains->chains[x], &chains->chains[y]))
		return 0;
	try.reach = reach_of(user, edge, y);
	if (edge->jumps.n > (uint32_t)OVM_TUNE(TSP_FEW_JUMPS))
		return (double)(reach->near + reach->into + reach->out +
				(chains->chains[x].nodes.n > 1 ? best_swap(user, x) : 0));
	try_merge(&try, 0, OVM_MERGE_X_Y, INT64_MAX);
	if (chains->chains[x].nodes.n > 1)
		try_cuts_at_jumps(&try);
	if (may_cut_anywhere(user, x))
		most = reach->near + best_swap(user, x);
	return (double)most > try.best.score ? (double)most : try.best.score;
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
		if (jump->count)
			tsp->first_out[jump->src + 1]++;
	}
}

static void add_jumps(struct tsp *tsp, const struct ovm_tsp_graph *graph, unsigned shift)
{
	uint32_t *degree = ovm_alloc_array(graph->n, sizeof(*degree));
	uint32_t *next = ovm_alloc_array(graph->n, sizeof(*next));

	for (uint32_t i = 0; i < graph->n_jumps; i++)
		degree[graph->jumps[i].src]++;
	for (uint32_t i = 0; i < graph->n; i++) {
		tsp->first_out[i + 1] += tsp->first_out[i];
		next[i] = tsp->first_out[i];
	}
	for (uint32_t i = 0; i < graph->n_jumps; i++) {
		const struct ovm_tsp_jump *from = &graph->jumps[i];
		const uint32_t *degrees = graph->out_degree ? graph->out_degree : degree;

		if (is_real(from) && from->count)
			tsp->jumps[next[from->src]++] =
			    (struct jump){from->src, from->dst, (int64_t)scaled(from->count, shift),
					  degrees[from->src] > 1};
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
	tsp->cuts = ovm_alloc_array(graph->n, sizeof(*tsp->cuts));
	tsp->spread = ovm_alloc(sizeof(*tsp->spread));
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
	for (uint32_t i = 0; i < n; i++)
		free(tsp->cuts[i].swap);
	free(tsp->cuts);
	free(tsp->spread->loss);
	free(tsp->spread);
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
