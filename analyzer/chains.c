/* Greedy merging of chains: the engine of Ext-TSP and CDSort.
 *
 *      A ──5──▶ B ──9──▶ C          [A] [B] [C]  ->  [A] [B C]  ->  [A B C]
 *
 * Possible merges wait in a heap by gain. Merging X and Y changes the gains of all edges of the new
 * chain; they are queued anew at once (by a quick upper bound if there is one: the gain itself is
 * computed when the bound comes up), and older heap items of these edges are recognized by their
 * version and skipped. A chain with very many neighbours (the switch of an interpreter,
 * malloc) would be refreshed thousands of times for nothing: its old items stay and are computed
 * anew only when they come up. That may miss a gain that has grown meanwhile, which costs a little
 * quality in such graphs, never correctness.
 *
 * Gains are exact if the caller's numbers are (integers below 2^53), so ties are real and broken by
 * chain number: same input, same order.
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

static void move_all(ovm_indices *to, ovm_indices *from)
{
	for (uint32_t i = 0; i < from->n; i++)
		ovm_vec_push(to, from->v[i]);
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

static void queue_push(struct ovm_chains *chains, struct ovm_chain_item item)
{
	uint32_t i = chains->queue.n;

	ovm_vec_push(&chains->queue, item);
	for (; i && before(&item, &chains->queue.v[(i - 1) / 2]); i = (i - 1) / 2)
		chains->queue.v[i] = chains->queue.v[(i - 1) / 2];
	chains->queue.v[i] = item;
}

static struct ovm_chain_item queue_pop(struct ovm_chains *chains)
{
	struct ovm_chain_item *v = chains->queue.v, top = v[0], last = v[--chains->queue.n];
	uint32_t n = chains->queue.n, i = 0, child;

	while ((child = 2 * i + 1) < n) {
		if (child + 1 < n && before(&v[child + 1], &v[child]))
			child++;
		if (!before(&v[child], &last))
			break;
		v[i] = v[child];
		i = child;
	}
	v[i] = last;
	return top;
}

/* Queue the merge of edge->chain[side] with the other one: its gain, or if @quick and possible only
 * a bound. */
static void consider_side(const struct runner *run, uint32_t e, unsigned side, bool quick)
{
	struct ovm_chain_edge *edge = &run->chains->edges.v[e];
	struct ovm_chain_item item = {.edge = e, .side = side & 1, .is_bound = quick && run->bound};

	item.x = edge->chain[side];
	item.y = edge->chain[!side];
	item.version = edge->queued[side] = edge->version;
	if (item.is_bound) {
		item.score = run->bound(run->chains, run->user, edge, item.x, item.y);
	} else {
		edge->gain[side] = run->gain(run->chains, run->user, edge, item.x, item.y);
		item.score = edge->gain[side].score;
	}
	if (item.score > 0)
		queue_push(run->chains, item);
}

static void consider(const struct runner *run, uint32_t e)
{
	consider_side(run, e, 0, true);
	consider_side(run, e, 1, true);
}

/* Versions fit the items' 30 bits; after 2^30 merges of one chain they would repeat, but there are
 * never that many. */
static void next_version(struct ovm_chain_edge *edge)
{
	edge->version = (edge->version + 1) & ((1u << 30) - 1);
}

/* The gains of all edges of @x are stale. With few edges compute all anew; else only those to the
 * chains of @touched. */
static void refresh(const struct runner *run, uint32_t x, const ovm_indices *touched)
{
	struct ovm_chains *chains = run->chains;
	struct ovm_chain *cx = &chains->chains[x];
	bool all = cx->links.n <= chains->max_eager;

	for (uint32_t i = 0; i < cx->links.n; i++)
		next_version(&chains->edges.v[cx->links.v[i].edge]);
	for (uint32_t i = 0; all && i < cx->links.n; i++)
		consider(run, cx->links.v[i].edge);
	if (all || touched->n > chains->max_eager)
		return;
	mark_links(chains, cx, true);
	for (uint32_t i = 0; i < touched->n; i++)
		if (chains->edge_to[touched->v[i]])
			consider(run, chains->edge_to[touched->v[i]] - 1);
	mark_links(chains, cx, false);
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
		struct ovm_chain_item item = queue_pop(chains);
		struct ovm_chain_edge *edge = &chains->edges.v[item.edge];

		if (item.version != edge->queued[item.side] || !edge->jumps.n)
			continue; /* there is a newer item, or the edge is gone */
		if (item.version != edge->version || item.is_bound) {
			consider_side(&run, item.edge, item.side, false);
			continue;
		}
		touched.n = 0;
		for (uint32_t i = 0; i < chains->chains[item.y].links.n; i++)
			ovm_vec_push(&touched, chains->chains[item.y].links.v[i].other);
		ovm_chains_merge(chains, item.x, item.y, edge->gain[item.side].cut,
				 edge->gain[item.side].how);
		refresh(&run, item.x, &touched);
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
