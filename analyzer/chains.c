/* Greedy merging of chains: the engine of Ext-TSP and CDSort.
 *
 *      A ──5──▶ B ──9──▶ C          [A] [B] [C]  ->  [A] [B C]  ->  [A B C]
 *
 * Possible merges wait in a heap by gain, an edge with the better of two: either chain may be
 * cut. Merging X and Y
 * changes the gains of all edges of the new chain; their items move in the heap (by a quick upper
 * bound if there is one: the gain itself is computed when the bound comes up). Where the bound is
 * not quick, a chain with very many neighbours (malloc and its callers) would be refreshed
 * thousands of times for nothing: beyond max_eager its items stay where they are and are computed
 * anew only when they come up. That may miss a gain that has grown meanwhile, which costs a little
 * quality in such graphs, never correctness.
 *
 * Gains are exact if the caller's numbers are (integers below 2^53), so ties are real and broken by
 * the chains' first nodes: same input, same order.
 */
#include "analyzer/chains.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

struct runner {
	struct ovm_chains *chains;
	ovm_gain_fn gain;
	ovm_bound_fn bound;
	const void *user;
};

void ovm_chains_init(struct ovm_chains *chains, uint32_t n, const uint64_t *sizes,
		     const uint64_t *counts)
{
	memset(chains, 0, sizeof(*chains));
	chains->n = n;
	chains->places = ovm_alloc_array(n ? n : 1, sizeof(*chains->places));
	chains->chains = ovm_alloc_array(n ? n : 1, sizeof(*chains->chains));
	chains->edge_to = ovm_alloc_array(n ? n : 1, sizeof(*chains->edge_to));
	chains->max_eager = UINT32_MAX;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t size = sizes[i] ? sizes[i] : 1;

		chains->places[i] = (struct ovm_place){.size = size, .chain = i};
		chains->chains[i].size = size;
		chains->chains[i].count = counts[i];
		ovm_vec_push(&chains->chains[i].nodes, i);
	}
}

void ovm_chains_fini(struct ovm_chains *chains)
{
	for (uint32_t i = 0; i < chains->n; i++) {
		ovm_vec_free(&chains->chains[i].nodes);
		ovm_vec_free(&chains->chains[i].self);
		ovm_vec_free(&chains->chains[i].links);
	}
	for (uint32_t e = 0; e < chains->edges.n; e++)
		ovm_vec_free(&chains->edges.v[e].jumps);
	ovm_vec_free(&chains->edges);
	ovm_vec_free(&chains->queue);
	free(chains->places);
	free(chains->chains);
	free(chains->edge_to);
}

static void mark_links(struct ovm_chains *chains, const struct ovm_chain *chain, bool on)
{
	for (uint32_t i = 0; i < chain->links.n; i++)
		chains->edge_to[chain->links.v[i].other] = on ? chain->links.v[i].edge + 1 : 0;
}

void ovm_chains_connect(struct ovm_chains *chains, const uint32_t *first, const uint32_t *dst)
{
	for (uint32_t i = 0; i < chains->n; i++) {
		struct ovm_chain *chain = &chains->chains[i];

		mark_links(chains, chain, true);
		for (uint32_t j = first[i]; j < first[i + 1]; j++) {
			uint32_t *edge = &chains->edge_to[dst[j]];

			OVM_ASSERT(dst[j] < chains->n && dst[j] != i);
			if (!*edge) {
				ovm_vec_push(&chain->links,
					     (struct ovm_chain_link){dst[j], chains->edges.n});
				ovm_vec_push(&chains->chains[dst[j]].links,
					     (struct ovm_chain_link){i, chains->edges.n});
				ovm_vec_push(&chains->edges,
					     (struct ovm_chain_edge){.chain = {i, dst[j]}});
				*edge = chains->edges.n;
			}
			ovm_vec_push(&chains->edges.v[*edge - 1].jumps, j);
		}
		mark_links(chains, chain, false);
	}
}

/* --- merging ----------------------------------------------------------------------------- */

static uint32_t *append(uint32_t *to, const uint32_t *from, uint32_t n)
{
	if (n)
		memcpy(to, from, n * sizeof(*to));
	return to + n;
}

static void set_places(struct ovm_chains *chains, uint32_t x)
{
	uint64_t off = 0;

	for (uint32_t i = 0; i < chains->chains[x].nodes.n; i++) {
		struct ovm_place *place = &chains->places[chains->chains[x].nodes.v[i]];

		place->chain = x;
		place->pos = i;
		place->off = off;
		off += place->size;
	}
}

static void merge_nodes(struct ovm_chains *chains, uint32_t x, uint32_t y, uint32_t cut,
			enum ovm_merge how)
{
	struct ovm_chain *cx = &chains->chains[x], *cy = &chains->chains[y];
	uint32_t n = cx->nodes.n + cy->nodes.n, n1 = how == OVM_MERGE_X_Y ? cx->nodes.n : cut;
	uint32_t *merged = ovm_alloc_array(n, sizeof(*merged)), *to = merged;
	uint32_t *x1 = cx->nodes.v, *x2 = x1 + n1, n2 = cx->nodes.n - n1;

	if (how == OVM_MERGE_X_Y || how == OVM_MERGE_X1_Y_X2)
		to = append(append(append(to, x1, n1), cy->nodes.v, cy->nodes.n), x2, n2);
	else if (how == OVM_MERGE_Y_X2_X1)
		to = append(append(append(to, cy->nodes.v, cy->nodes.n), x2, n2), x1, n1);
	else
		to = append(append(append(to, x2, n2), x1, n1), cy->nodes.v, cy->nodes.n);
	OVM_ASSERT(to == merged + n);
	ovm_vec_free(&cx->nodes);
	ovm_vec_free(&cy->nodes);
	cx->nodes.v = merged;
	cx->nodes.n = cx->nodes.cap = n;
	cx->count += cy->count;
	cx->size += cy->size;
	set_places(chains, x);
}

/* Both are ascending, and so is the result: ties are the same however chains grew. */
static void move_all(ovm_indices *to, ovm_indices *from)
{
	uint32_t a = to->n, b = from->n, at = a + b;

	if (!a) {
		ovm_indices empty = *to;

		*to = *from;
		*from = empty;
	} else if (b) {
		ovm_vec_reserve(to, at);
		to->n = at;
		while (b)
			to->v[--at] =
			    a && to->v[a - 1] > from->v[b - 1] ? to->v[--a] : from->v[--b];
	}
	ovm_vec_free(from);
}

static struct ovm_chain_link *find_link(struct ovm_chain *chain, uint32_t other)
{
	for (uint32_t i = 0; i < chain->links.n; i++)
		if (chain->links.v[i].other == other)
			return &chain->links.v[i];
	return NULL;
}

static void drop_link(struct ovm_chain *chain, uint32_t other)
{
	*find_link(chain, other) = chain->links.v[chain->links.n - 1];
	chain->links.n--;
}

/* Edges of Y become edges of X; jumps between them become X's own. X's links are marked. */
static void merge_links(struct ovm_chains *chains, uint32_t x, uint32_t y)
{
	struct ovm_chain *cx = &chains->chains[x], *cy = &chains->chains[y];

	for (uint32_t i = 0; i < cy->links.n; i++) {
		struct ovm_chain_link link = cy->links.v[i];
		struct ovm_chain_edge *edge = &chains->edges.v[link.edge];
		uint32_t known = chains->edge_to[link.other];

		if (link.other == x) {
			move_all(&cx->self, &edge->jumps);
			drop_link(cx, y);
		} else if (known) {
			move_all(&chains->edges.v[known - 1].jumps, &edge->jumps);
			drop_link(&chains->chains[link.other], y);
		} else {
			edge->chain[edge->chain[1] == y] = x;
			find_link(&chains->chains[link.other], y)->other = x;
			ovm_vec_push(&cx->links, link);
		}
	}
	move_all(&cx->self, &cy->self);
	ovm_vec_free(&cy->links);
}

void ovm_chains_merge(struct ovm_chains *chains, uint32_t x, uint32_t y, uint32_t cut,
		      enum ovm_merge how)
{
	OVM_ASSERT(x != y && chains->chains[x].nodes.n && chains->chains[y].nodes.n);
	mark_links(chains, &chains->chains[x], true);
	merge_nodes(chains, x, y, cut, how);
	merge_links(chains, x, y);
	mark_links(chains, &chains->chains[x], false);
	chains->edge_to[y] = 0;
}

/* --- queue of possible merges ------------------------------------------------------------ */

static bool before(const struct ovm_chain_item *a, const struct ovm_chain_item *b)
{
	if (a->score != b->score)
		return a->score > b->score;
	if (a->is_bound != b->is_bound)
		return a->is_bound;
	return a->x != b->x ? a->x < b->x : a->y < b->y;
}

static void queue_put(struct ovm_chains *chains, uint32_t at, struct ovm_chain_item item)
{
	chains->queue.v[at] = item;
	chains->edges.v[item.edge].at = at + 1;
}

/* @item belongs to place @at or above. */
static void sift_up(struct ovm_chains *chains, uint32_t at, struct ovm_chain_item item)
{
	for (; at && before(&item, &chains->queue.v[(at - 1) / 2]); at = (at - 1) / 2)
		queue_put(chains, at, chains->queue.v[(at - 1) / 2]);
	queue_put(chains, at, item);
}

/* @item belongs to place @at or below. */
static void sift_down(struct ovm_chains *chains, uint32_t at, struct ovm_chain_item item)
{
	const struct ovm_chain_item *v = chains->queue.v;
	uint32_t n = chains->queue.n, child;

	while ((child = 2 * at + 1) < n) {
		if (child + 1 < n && before(&v[child + 1], &v[child]))
			child++;
		if (!before(&v[child], &item))
			break;
		queue_put(chains, at, v[child]);
		at = child;
	}
	queue_put(chains, at, item);
}

static void queue_replace(struct ovm_chains *chains, uint32_t at, struct ovm_chain_item item)
{
	if (at && before(&item, &chains->queue.v[(at - 1) / 2]))
		sift_up(chains, at, item);
	else
		sift_down(chains, at, item);
}

static void queue_remove(struct ovm_chains *chains, struct ovm_chain_edge *edge)
{
	uint32_t at = edge->at - 1;
	struct ovm_chain_item last;

	if (!edge->at)
		return;
	edge->at = 0;
	last = chains->queue.v[--chains->queue.n];
	if (at < chains->queue.n)
		queue_replace(chains, at, last);
}

static struct ovm_chain_item item_of(const struct ovm_chains *chains, uint32_t e, unsigned side)
{
	const struct ovm_chain_edge *edge = &chains->edges.v[e];

	return (struct ovm_chain_item){.score = edge->side[side].score,
				       .x = chains->chains[edge->chain[side]].nodes.v[0],
				       .y = chains->chains[edge->chain[!side]].nodes.v[0],
				       .edge = e & ((1u << 30) - 1),
				       .side = side & 1,
				       .is_bound = edge->side[side].is_bound};
}

/* Put the edge's better side where it belongs in the queue. */
static void requeue(struct ovm_chains *chains, uint32_t e)
{
	struct ovm_chain_edge *edge = &chains->edges.v[e];
	struct ovm_chain_item item = item_of(chains, e, 0), other = item_of(chains, e, 1);

	if (before(&other, &item))
		item = other;
	if (item.score <= 0) {
		queue_remove(chains, edge);
	} else if (edge->at) {
		queue_replace(chains, edge->at - 1, item);
	} else {
		ovm_vec_push(&chains->queue, item);
		sift_up(chains, chains->queue.n - 1, item);
	}
}

/* What merging edge->chain[s] with the other one gains, or if @quick and possible only a bound. */
static void consider_side(const struct runner *run, uint32_t e, unsigned s, bool quick)
{
	struct ovm_chain_edge *edge = &run->chains->edges.v[e];
	struct ovm_chain_side *side = &edge->side[s];
	uint32_t x = edge->chain[s], y = edge->chain[!s];

	side->is_bound = quick && run->bound;
	if (side->is_bound) {
		side->score = run->bound(run->chains, run->user, edge, x, y);
	} else {
		side->gain = run->gain(run->chains, run->user, edge, x, y);
		side->score = side->gain.score;
	}
}

static void consider(const struct runner *run, uint32_t e)
{
	run->chains->edges.v[e].is_stale = false;
	consider_side(run, e, 0, true);
	consider_side(run, e, 1, true);
	requeue(run->chains, e);
}

/* The gains of all edges of @x are stale. With few edges compute all anew; else only those to the
 * chains of @touched. */
static void refresh(const struct runner *run, uint32_t x, const ovm_indices *touched)
{
	struct ovm_chains *chains = run->chains;
	struct ovm_chain *cx = &chains->chains[x];
	bool all = cx->links.n <= chains->max_eager;

	for (uint32_t i = 0; i < cx->links.n; i++) {
		if (all)
			consider(run, cx->links.v[i].edge);
		else
			chains->edges.v[cx->links.v[i].edge].is_stale = true;
	}
	if (all || touched->n > chains->max_eager)
		return;
	mark_links(chains, cx, true);
	for (uint32_t i = 0; i < touched->n; i++)
		if (chains->edge_to[touched->v[i]])
			consider(run, chains->edge_to[touched->v[i]] - 1);
	mark_links(chains, cx, false);
}

static void neighbours(const struct ovm_chains *chains, uint32_t x, ovm_indices *out)
{
	out->n = 0;
	for (uint32_t i = 0; i < chains->chains[x].links.n; i++)
		ovm_vec_push(out, chains->chains[x].links.v[i].other);
}

void ovm_chains_run(struct ovm_chains *chains, ovm_gain_fn gain, ovm_bound_fn bound,
		    const void *user)
{
	const struct runner run = {chains, gain, bound, user};
	ovm_indices touched = {0};

	for (uint32_t e = 0; e < chains->edges.n; e++)
		if (chains->edges.v[e].jumps.n)
			consider(&run, e);
	while (chains->queue.n) {
		struct ovm_chain_item item = chains->queue.v[0];
		struct ovm_chain_edge *edge = &chains->edges.v[item.edge];
		uint32_t x = edge->chain[item.side], y = edge->chain[!item.side];

		if (!edge->jumps.n) {
			queue_remove(chains, edge);
		} else if (edge->is_stale) {
			consider(&run, item.edge);
		} else if (item.is_bound) {
			consider_side(&run, item.edge, item.side, false);
			requeue(chains, item.edge);
		} else {
			neighbours(chains, y, &touched);
			ovm_chains_merge(chains, x, y, edge->side[item.side].gain.cut,
					 edge->side[item.side].gain.how);
			refresh(&run, x, &touched);
		}
	}
	ovm_vec_free(&touched);
}

/* --- the order at the end ---------------------------------------------------------------- */

struct rank {
	double density;
	uint32_t chain;
	bool first;
};

static int by_rank(const void *a, const void *b)
{
	const struct rank *x = a, *y = b;

	if (x->first != y->first)
		return x->first ? -1 : 1;
	if (x->density != y->density)
		return x->density < y->density ? 1 : -1;
	return x->chain < y->chain ? -1 : x->chain > y->chain;
}

void ovm_chains_concat(const struct ovm_chains *chains, uint32_t first_chain, uint32_t *order)
{
	struct rank *ranks = ovm_alloc_array(chains->n ? chains->n : 1, sizeof(*ranks));
	uint32_t n = 0;

	for (uint32_t i = 0; i < chains->n; i++) {
		const struct ovm_chain *chain = &chains->chains[i];

		if (chain->nodes.n)
			ranks[n++] = (struct rank){(double)chain->count / (double)chain->size, i,
						   i == first_chain};
	}
	if (n)
		qsort(ranks, n, sizeof(*ranks), by_rank);
	for (uint32_t i = 0; i < n; i++)
		order = append(order, chains->chains[ranks[i].chain].nodes.v,
			       chains->chains[ranks[i].chain].nodes.n);
	free(ranks);
}
