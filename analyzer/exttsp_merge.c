/* What merging two chains gains in Ext-TSP score, and quickly at most.
 *
 *      X  Y        X1 Y X2        Y X2 X1        X2 X1 Y
 *
 * Cuts that let a jump between X and Y fall through are tried always, all others where X is short.
 * Trying each would look at all jumps of X each time. But how far a jump inside X goes after X has
 * been cut does not depend on which cut between its ends is made:
 *
 *      X1 Y X2   as far as now, and over Y
 *      X2 X1     from here to there it was d bytes of X; now it is the rest of X, the other way
 *
 * So one pass over X's jumps gives the change inside X for all cuts, as a sum of steps; the swap's
 * does not even depend on Y. What remains is the jumps between X and Y, most often one or two. A
 * cut that could not beat the best so far if these came as near as can be is not tried.
 */
#include "analyzer/exttsp_private.h"

#include <stdlib.h>
#include <string.h>

/* --- what cutting a chain changes inside it ---------------------------------------------- */

/* A jump inside X crosses the cuts between its ends. */
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
static int64_t moved_score(const struct ovm_tsp *tsp, uint32_t j, uint64_t first, uint64_t second)
{
	const struct ovm_tsp_branch *jump = &tsp->jumps[j];
	const struct ovm_place *src = &tsp->chains.places[jump->src];
	const struct ovm_place *dst = &tsp->chains.places[jump->dst];
	bool forward = src->pos < dst->pos;

	return ovm_tsp_score(src->off + src->size + (forward ? first : second),
			     dst->off + (forward ? second : first), jump->cond) *
	       jump->count;
}

/* Cuts worth trying though they let no jump fall through. Forced pairs stay together. */
static void find_open(const struct ovm_tsp *tsp, const ovm_indices *nodes,
		      struct ovm_tsp_cuts *cuts)
{
	cuts->n_open = 0;
	cuts->open_swap = INT64_MIN / 2;
	cuts->open_apart = INT64_MAX / 2;
	for (uint32_t cut = 1; nodes->n <= (uint32_t)OVM_TUNE(TSP_MAX_SPLIT) && cut < nodes->n;
	     cut++) {
		uint32_t before = nodes->v[cut - 1];

		if (tsp->nodes[before].forced_succ != OVM_NONE ||
		    ovm_tsp_is_successor(tsp, before, nodes->v[cut]))
			continue;
		cuts->open[cuts->n_open++] = cut;
		if (cuts->swap[cut] > cuts->open_swap)
			cuts->open_swap = cuts->swap[cut];
		if (cuts->apart[cut] < cuts->open_apart)
			cuts->open_apart = cuts->apart[cut];
	}
}

static const struct ovm_tsp_cuts *cuts_of(const struct ovm_tsp *tsp, uint32_t x)
{
	const struct ovm_chain *chain = &tsp->chains.chains[x];
	struct ovm_tsp_cuts *cuts = &tsp->cuts[x];
	uint32_t n = chain->nodes.n;

	if (cuts->n_nodes == n)
		return cuts;
	free(cuts->swap);
	cuts->swap = ovm_alloc_array(4 * ((size_t)n + 1), sizeof(*cuts->swap));
	cuts->broken = cuts->swap + n + 1;
	cuts->apart = cuts->broken + n + 1;
	cuts->open = (uint32_t *)(cuts->apart + n + 1);
	cuts->best = 0;
	cuts->n_nodes = n;
	for (uint32_t i = 0; i < chain->self.n; i++) {
		const struct ovm_tsp_branch *jump = &tsp->jumps[chain->self.v[i]];
		const struct ovm_place *src = &tsp->chains.places[jump->src];
		const struct ovm_place *dst = &tsp->chains.places[jump->dst];
		int64_t now = moved_score(tsp, chain->self.v[i], 0, 0);

		add_step(cuts->swap, src, dst,
			 moved_score(tsp, chain->self.v[i], chain->size, 0) - now);
		add_step(cuts->apart, src, dst,
			 now - moved_score(tsp, chain->self.v[i], 0, OVM_TUNE(TSP_APART)));
		if (src->pos + 1 == dst->pos)
			cuts->broken[dst->pos] += now - ovm_tsp_near_score() * jump->count;
	}
	sum_steps(cuts->swap, n);
	sum_steps(cuts->apart, n);
	for (uint32_t cut = 1; cut < n; cut++)
		cuts->best = cuts->swap[cut] > cuts->best ? cuts->swap[cut] : cuts->best;
	find_open(tsp, &chain->nodes, cuts);
	return cuts;
}

static const struct ovm_tsp_spread *spread_losses(const struct ovm_tsp *tsp, uint32_t x,
						  uint64_t size)
{
	const struct ovm_chain *chain = &tsp->chains.chains[x];
	struct ovm_tsp_spread *spread = tsp->spread;
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
		int64_t now = moved_score(tsp, j, 0, 0);

		if (now) /* else it is too far already */
			add_step(spread->loss, &tsp->chains.places[tsp->jumps[j].src],
				 &tsp->chains.places[tsp->jumps[j].dst],
				 now - moved_score(tsp, j, 0, size));
	}
	sum_steps(spread->loss, n);
	return spread;
}

/* At most what @size bytes cost at a cut. Each further byte costs a jump as much as the one before
 * or less. */
static int64_t scaled_loss(int64_t apart, uint64_t size)
{
	return size < (uint64_t)OVM_TUNE(TSP_APART) ? apart / OVM_TUNE(TSP_APART) * (int64_t)size
						    : apart;
}

static int64_t least_loss(const struct ovm_tsp_cuts *cuts, uint32_t cut, uint64_t size)
{
	int64_t loss = scaled_loss(cuts->apart[cut], size);

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
			    const struct ovm_tsp_branch *jump)
{
	const struct ovm_place *src = &chains->places[jump->src], *dst = &chains->places[jump->dst];

	return jump->count *
	       ovm_tsp_score(placed(at, src) + src->size, placed(at, dst), jump->cond);
}

static bool has_entry(const struct ovm_tsp *tsp, uint32_t chain)
{
	return tsp->chains.chains[chain].nodes.v[0] == 0;
}

/* How good the jumps between X and Y can get at best. */
struct reach {
	int64_t near; /* all of them near */
	int64_t into; /* and the best one into Y's head a fall-through */
	int64_t out;  /* and the best one out of Y's tail */
};

static struct reach reach_of(const struct ovm_tsp *tsp, const struct ovm_chain_edge *edge,
			     uint32_t y)
{
	const ovm_indices *nodes = &tsp->chains.chains[y].nodes;
	uint32_t head = nodes->v[0], tail = nodes->v[nodes->n - 1];
	struct reach reach = {0};

	for (uint32_t i = 0; i < edge->jumps.n; i++) {
		const struct ovm_tsp_branch *jump = &tsp->jumps[edge->jumps.v[i]];
		int64_t gain = ovm_tsp_fall_gain(jump);

		reach.near += ovm_tsp_near_score() * jump->count;
		if (jump->dst == head && gain > reach.into)
			reach.into = gain;
		if (jump->src == tail && gain > reach.out)
			reach.out = gain;
	}
	return reach;
}

struct attempt {
	const struct ovm_tsp *tsp;
	const struct ovm_chain_edge *edge;
	uint32_t x, y;
	struct reach reach;
	bool rough; /* `best` may be a little too good */
	struct ovm_gain best;
};

static int64_t jumps_between(const struct attempt *try, uint32_t cut, enum ovm_merge how)
{
	const struct ovm_tsp *tsp = try->tsp;
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
	const struct ovm_tsp *tsp = try->tsp;
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
	const struct ovm_tsp *tsp = try->tsp;
	const struct reach *reach = &try->reach;
	const ovm_indices *y = &tsp->chains.chains[try->y].nodes, *jumps = &try->edge->jumps;
	uint32_t head = y->v[0], tail = y->v[y->n - 1];

	for (uint32_t i = 0; reach->into && i < jumps->n; i++) {
		const struct ovm_tsp_branch *jump = &tsp->jumps[jumps->v[i]];

		if (jump->dst == head)
			try_cut(try, tsp->chains.places[jump->src].pos + 1, Y_BETWEEN | Y_BEHIND,
				reach->near + ovm_tsp_fall_gain(jump) + reach->out);
	}
	for (uint32_t i = 0; reach->out && i < jumps->n; i++) {
		const struct ovm_tsp_branch *jump = &tsp->jumps[jumps->v[i]];

		if (jump->src == tail)
			try_cut(try, tsp->chains.places[jump->dst].pos, Y_BETWEEN | Y_BEFORE,
				reach->near + ovm_tsp_fall_gain(jump) + reach->into);
	}
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

/* At least what swapping X's halves gains. */
static int64_t best_swap(const struct ovm_tsp *tsp, uint32_t x)
{
	return tsp->chains.chains[x].nodes.n == 1 || has_entry(tsp, x) ? 0 : cuts_of(tsp, x)->best;
}

/* At least what try_other_cuts() would find. */
static int64_t most_elsewhere(const struct attempt *try)
{
	const struct ovm_tsp *tsp = try->tsp;
	const struct ovm_tsp_cuts *cuts;
	int64_t between;

	if (tsp->chains.chains[try->x].nodes.n == 1)
		return 0;
	cuts = cuts_of(tsp, try->x);
	if (!cuts->n_open)
		return 0;
	between = -scaled_loss(cuts->open_apart, tsp->chains.chains[try->y].size);
	if (!has_entry(tsp, try->x) && cuts->open_swap > between)
		between = cuts->open_swap;
	return try->reach.near + between;
}

/* Anywhere else Y cannot fall through to or from X, but may come near. */
static void try_other_cuts(struct attempt *try)
{
	const struct ovm_tsp_cuts *cuts = cuts_of(try->tsp, try->x);

	for (uint32_t i = 0; i < cuts->n_open; i++)
		try_cut(try, cuts->open[i], Y_BETWEEN | Y_BEFORE | Y_BEHIND, try->reach.near);
}

struct ovm_gain ovm_tsp_best_merge(const struct ovm_chains *chains, const void *user,
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
	if ((double)most_elsewhere(&try) > try.best.score)
		try_other_cuts(&try);
	return try.best;
}

/* At least the score ovm_tsp_best_merge() would find. Much cheaper, and enough for most merges
 * never to be tried: with few jumps the same steps without exact losses, else all jumps between X
 * and Y near, the best ones falling through, X cut at its best. */
double ovm_tsp_merge_bound(const struct ovm_chains *chains, const void *user,
			   const struct ovm_chain_edge *edge, uint32_t x, uint32_t y)
{
	struct attempt try = {.tsp = user, .edge = edge, .x = x, .y = y, .rough = true};
	const struct reach *reach = &try.reach;
	int64_t most;

	if (!may_merge(&chains->chains[x], &chains->chains[y]))
		return 0;
	try.reach = reach_of(user, edge, y);
	if (edge->jumps.n > (uint32_t)OVM_TUNE(TSP_FEW_JUMPS))
		return (double)(reach->near + reach->into + reach->out + best_swap(user, x));
	try_merge(&try, 0, OVM_MERGE_X_Y, INT64_MAX);
	if (chains->chains[x].nodes.n > 1)
		try_cuts_at_jumps(&try);
	most = most_elsewhere(&try);
	return (double)most > try.best.score ? (double)most : try.best.score;
}

void ovm_tsp_merge_fini(struct ovm_tsp *tsp)
{
	for (uint32_t i = 0; i < tsp->chains.n; i++)
		free(tsp->cuts[i].swap);
	free(tsp->spread->loss);
}
