/* Block order by Ext-TSP (Newell and Pupyrev, "Improved Basic Block Reordering", 2020,
 * arXiv:1809.04676; the later refinements are those of LLVM's code layout: forced pairs, density
 * ratio, chain size).
 *
 * The score of an order rewards every execution of a jump by how near it lands:
 *
 *      fall-through   1.0, or 1.05 if the source has no other successor
 *      forward  d     0.1 * (1 - d/1024)       d bytes from the end of the source to the target, up
 * to 1024 backward d     0.1 * (1 - d/640)        the same backwards, up to 640
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
 * Gains wait in a heap. A merge makes the gains of all edges of the merged chain stale; they are
 * computed anew at once, but for chains with very many neighbours (switches): theirs are checked
 * when they come up.
 */
#include "analyzer/exttsp.h"
#include "analyzer/layout.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

enum merge { X_Y, X1_Y_X2, Y_X2_X1, X2_X1_Y };

struct jump {
	uint32_t src, dst;
	int64_t count;
	bool cond; /* the source has other successors */
};

typedef OVM_VEC(uint32_t) indices;

struct node {
	uint64_t size, count;
	uint64_t off; /* bytes from the start of its chain */
	uint32_t chain, pos;
	uint32_t forced_succ, forced_pred;
	uint32_t first_succ, n_succ; /* in tsp.succs: all, also those never taken */
	uint32_t first_out, n_out;   /* in tsp.out: jumps with a count */
	uint32_t first_in, n_in;     /* in tsp.in */
};

struct link { /* an edge as one of its chains sees it */
	uint32_t other, edge;
};

struct chain {
	indices nodes;
	indices self; /* jumps inside */
	OVM_VEC(struct link) links;
	uint64_t count, size;
};

struct edge { /* all jumps between two chains, in both directions */
	uint32_t chain[2];
	indices jumps;
	uint32_t version; /* counts changes of its chains */
	uint32_t
	    in_heap[2]; /* version of the newest heap item for chain[0] first, chain[1] first */
};

struct gain {
	int64_t score; /* > 0 is worth it */
	uint32_t cut;
	enum merge how;
};

struct item { /* a possible merge in the heap */
	struct gain gain;
	uint32_t pred, succ; /* chains, for ties */
	uint32_t edge, version;
	uint8_t side; /* chain[side] is X */
};

struct tsp {
	uint32_t n;
	struct node *nodes;
	struct chain *chains;
	struct jump *jumps;
	uint32_t n_jumps;
	uint32_t *succs, *out, *in;
	struct edge *edges;
	uint32_t n_edges;
	uint32_t *edge_to; /* [n] scratch: 1 + edge from the chain at hand to this chain */
	OVM_VEC(struct item) heap;
};

/* --- score
 * -------------------------------------------------------------------------------------------------------
 */

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

/* Where X's halves and Y stand in the merged chain: offset to add to a node's offset in its chain.
 */
struct placing {
	uint32_t x_chain, cut_pos;
	uint64_t x1, x2, y; /* modulo 2^64 */
};

static struct placing place(const struct tsp *tsp, uint32_t x, uint32_t y, uint32_t cut,
			    enum merge how)
{
	const struct chain *cx = &tsp->chains[x], *cy = &tsp->chains[y];
	uint64_t cut_off = cut && cut < cx->nodes.n ? tsp->nodes[cx->nodes.v[cut]].off : cx->size;
	struct placing at = {.x_chain = x, .cut_pos = cut && how != X_Y ? cut : cx->nodes.n};

	switch (how) {
	case X_Y:
		at.y = cx->size;
		break;
	case X1_Y_X2:
		at.y = cut_off;
		at.x2 = cy->size;
		break;
	case Y_X2_X1:
		at.x2 = cy->size - cut_off;
		at.x1 = cy->size + cx->size - cut_off;
		break;
	case X2_X1_Y:
		at.x2 = -cut_off;
		at.x1 = cx->size - cut_off;
		at.y = cx->size;
		break;
	}
	return at;
}

static uint64_t placed(const struct placing *at, const struct node *node)
{
	if (node->chain != at->x_chain)
		return at->y + node->off;
	return node->off + (node->pos < at->cut_pos ? at->x1 : at->x2);
}

static int64_t jump_gain(const struct tsp *tsp, const struct placing *at, const struct jump *jump)
{
	const struct node *src = &tsp->nodes[jump->src], *dst = &tsp->nodes[jump->dst];

	return jump->count * jump_score(placed(at, src) + src->size, placed(at, dst), jump->cond);
}

/* Score of the merged chain minus the scores of X and Y. */
static int64_t merge_score(const struct tsp *tsp, const struct edge *edge, uint32_t x, uint32_t y,
			   uint32_t cut, enum merge how)
{
	struct placing at = place(tsp, x, y, cut, how);
	const struct chain *chain = &tsp->chains[x];
	int64_t score = 0;

	for (uint32_t i = 0; i < edge->jumps.n; i++)
		score += jump_gain(tsp, &at, &tsp->jumps[edge->jumps.v[i]]);
	for (uint32_t i = 0; how != X_Y && i < chain->self.n; i++) {
		const struct jump *jump = &tsp->jumps[chain->self.v[i]];
		const struct node *src = &tsp->nodes[jump->src], *dst = &tsp->nodes[jump->dst];

		if ((src->pos < cut) != (dst->pos < cut))
			score +=
			    jump_gain(tsp, &at, jump) -
			    jump->count * jump_score(src->off + src->size, dst->off, jump->cond);
	}
	return score;
}

/* --- the best merge of two chains
 * --------------------------------------------------------------------------------- */

static bool has_entry(const struct tsp *tsp, uint32_t chain)
{
	return tsp->chains[chain].nodes.v[0] == 0;
}

static void try_merge(const struct tsp *tsp, const struct edge *edge, uint32_t x, uint32_t y,
		      uint32_t cut, enum merge how, struct gain *best)
{
	bool y_first = how == Y_X2_X1, x_first = how == X_Y || how == X1_Y_X2;
	int64_t score;

	if ((has_entry(tsp, x) && !x_first) || (has_entry(tsp, y) && !y_first))
		return;
	score = merge_score(tsp, edge, x, y, cut, how);
	if (score > 0 && score > best->score)
		*best = (struct gain){score, cut, how};
}

/* Cut X before position @cut, in the ways of the bit set @hows. Forced pairs stay together. */
static void try_cut(const struct tsp *tsp, const struct edge *edge, uint32_t x, uint32_t y,
		    uint32_t cut, unsigned hows, struct gain *best)
{
	const struct chain *chain = &tsp->chains[x];

	if (cut == 0 || cut == chain->nodes.n ||
	    tsp->nodes[chain->nodes.v[cut - 1]].forced_succ != OVM_NONE)
		return;
	for (enum merge how = X1_Y_X2; how <= X2_X1_Y; how++)
		if (hows & (1u << how))
			try_merge(tsp, edge, x, y, cut, how, best);
}

/* Cuts that make a new fall-through between a part of X and Y. */
static void try_cuts_at_jumps(const struct tsp *tsp, const struct edge *edge, uint32_t x,
			      uint32_t y, struct gain *best)
{
	const struct chain *cy = &tsp->chains[y];
	const struct node *head = &tsp->nodes[cy->nodes.v[0]];
	const struct node *tail = &tsp->nodes[cy->nodes.v[cy->nodes.n - 1]];

	for (uint32_t i = 0; i < head->n_in; i++) {
		const struct node *src = &tsp->nodes[tsp->jumps[tsp->in[head->first_in + i]].src];

		if (src->chain == x)
			try_cut(tsp, edge, x, y, src->pos + 1, 1u << X1_Y_X2 | 1u << X2_X1_Y, best);
	}
	for (uint32_t i = 0; i < tail->n_out; i++) {
		const struct node *dst = &tsp->nodes[tsp->jumps[tsp->out[tail->first_out + i]].dst];

		if (dst->chain == x)
			try_cut(tsp, edge, x, y, dst->pos, 1u << X1_Y_X2 | 1u << Y_X2_X1, best);
	}
}

static bool falls_into(const struct tsp *tsp, uint32_t a, uint32_t b)
{
	const struct node *node = &tsp->nodes[a];

	for (uint32_t i = 0; i < node->n_out; i++)
		if (tsp->jumps[tsp->out[node->first_out + i]].dst == b)
			return true;
	return false;
}

static bool may_merge(const struct chain *a, const struct chain *b)
{
	double da, db;

	if (a->nodes.n + b->nodes.n >= (uint32_t)OVM_TUNE(TSP_MAX_CHAIN))
		return false;
	da = (double)a->count / (double)a->size;
	db = (double)b->count / (double)b->size;
	return (da > db ? da / db : db / da) <= (double)OVM_TUNE(TSP_DENSITY_RATIO);
}

static struct gain best_merge(const struct tsp *tsp, const struct edge *edge, uint32_t x,
			      uint32_t y)
{
	const struct chain *chain = &tsp->chains[x];
	struct gain best = {0};

	if (!may_merge(chain, &tsp->chains[y]))
		return best;
	try_merge(tsp, edge, x, y, 0, X_Y, &best);
	try_cuts_at_jumps(tsp, edge, x, y, &best);
	if (chain->nodes.n > (uint32_t)OVM_TUNE(TSP_MAX_SPLIT))
		return best;
	for (uint32_t cut = 1; cut < chain->nodes.n; cut++)
		if (!falls_into(tsp, chain->nodes.v[cut - 1], chain->nodes.v[cut]))
			try_cut(tsp, edge, x, y, cut, 1u << X1_Y_X2 | 1u << Y_X2_X1 | 1u << X2_X1_Y,
				&best);
	return best;
}

/* --- heap of possible merges
 * -------------------------------------------------------------------------------------- */

static bool before(const struct item *a, const struct item *b)
{
	if (a->gain.score != b->gain.score)
		return a->gain.score > b->gain.score;
	return a->pred != b->pred ? a->pred < b->pred : a->succ < b->succ;
}

static void heap_push(struct tsp *tsp, struct item item)
{
	uint32_t i = tsp->heap.n;

	ovm_vec_push(&tsp->heap, item);
	for (; i && before(&item, &tsp->heap.v[(i - 1) / 2]); i = (i - 1) / 2)
		tsp->heap.v[i] = tsp->heap.v[(i - 1) / 2];
	tsp->heap.v[i] = item;
}

static struct item heap_pop(struct tsp *tsp)
{
	struct item top = tsp->heap.v[0], last = tsp->heap.v[--tsp->heap.n];
	uint32_t n = tsp->heap.n, i = 0, child;

	while ((child = 2 * i + 1) < n) {
		if (child + 1 < n && before(&tsp->heap.v[child + 1], &tsp->heap.v[child]))
			child++;
		if (!before(&tsp->heap.v[child], &last))
			break;
		tsp->heap.v[i] = tsp->heap.v[child];
		i = child;
	}
	if (n)
		tsp->heap.v[i] = last;
	return top;
}

/* Compute the gain of merging edge->chain[side] with the other one and queue it. */
static void queue_side(struct tsp *tsp, uint32_t e, unsigned side)
{
	struct edge *edge = &tsp->edges[e];
	struct item item = {.edge = e, .version = edge->version, .side = (uint8_t)side};

	item.pred = edge->chain[side];
	item.succ = edge->chain[!side];
	item.gain = best_merge(tsp, edge, item.pred, item.succ);
	edge->in_heap[side] = edge->version;
	if (item.gain.score > 0)
		heap_push(tsp, item);
}

/* --- merging
 * ------------------------------------------------------------------------------------------------------
 */

static void set_places(struct tsp *tsp, uint32_t chain)
{
	uint64_t off = 0;

	for (uint32_t i = 0; i < tsp->chains[chain].nodes.n; i++) {
		struct node *node = &tsp->nodes[tsp->chains[chain].nodes.v[i]];

		node->chain = chain;
		node->pos = i;
		node->off = off;
		off += node->size;
	}
}

static uint32_t *append(uint32_t *to, const uint32_t *from, uint32_t n)
{
	if (n)
		memcpy(to, from, n * sizeof(*to));
	return to + n;
}

static void merge_nodes(struct tsp *tsp, uint32_t x, uint32_t y, uint32_t cut, enum merge how)
{
	struct chain *cx = &tsp->chains[x], *cy = &tsp->chains[y];
	uint32_t n = cx->nodes.n + cy->nodes.n;
	uint32_t *merged = ovm_alloc_array(n, sizeof(*merged)), *to = merged;
	uint32_t *x1 = cx->nodes.v, *x2 = x1 + cut, n1 = cut, n2 = cx->nodes.n - cut;

	if (how == X_Y)
		to = append(append(to, x1, cx->nodes.n), cy->nodes.v, cy->nodes.n);
	else if (how == X1_Y_X2)
		to = append(append(append(to, x1, n1), cy->nodes.v, cy->nodes.n), x2, n2);
	else if (how == Y_X2_X1)
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
	set_places(tsp, x);
}

static void move_all(indices *to, indices *from)
{
	for (uint32_t i = 0; i < from->n; i++)
		ovm_vec_push(to, from->v[i]);
	ovm_vec_free(from);
}

static struct link *find_link(struct chain *chain, uint32_t other)
{
	for (uint32_t i = 0; i < chain->links.n; i++)
		if (chain->links.v[i].other == other)
			return &chain->links.v[i];
	return NULL;
}

static void drop_link(struct chain *chain, uint32_t other)
{
	struct link *link = find_link(chain, other);

	*link = chain->links.v[--chain->links.n];
}

/* Edges of Y become edges of X; jumps between them become X's own. tsp->edge_to knows X's edges. */
static void merge_links(struct tsp *tsp, uint32_t x, uint32_t y)
{
	struct chain *cx = &tsp->chains[x], *cy = &tsp->chains[y];

	for (uint32_t i = 0; i < cy->links.n; i++) {
		struct link link = cy->links.v[i];
		struct edge *edge = &tsp->edges[link.edge];

		if (link.other == x) {
			move_all(&cx->self, &edge->jumps);
			drop_link(cx, y);
		} else if (tsp->edge_to[link.other]) {
			move_all(&tsp->edges[tsp->edge_to[link.other] - 1].jumps, &edge->jumps);
			drop_link(&tsp->chains[link.other], y);
			edge->version++;
			edge->in_heap[0] = edge->in_heap[1] = edge->version;
		} else {
			edge->chain[edge->chain[1] == y] = x;
			find_link(&tsp->chains[link.other], y)->other = x;
			ovm_vec_push(&cx->links, link);
		}
	}
	move_all(&cx->self, &cy->self);
}

/* After a merge into @x: gains of its edges are stale. With few edges compute all again; else only
 * those to chains in @touched. */
static void refresh(struct tsp *tsp, uint32_t x, const indices *touched)
{
	struct chain *cx = &tsp->chains[x];
	bool all = cx->links.n <= (uint32_t)OVM_TUNE(TSP_EAGER_EDGES);

	for (uint32_t i = 0; i < cx->links.n; i++) {
		tsp->edges[cx->links.v[i].edge].version++;
		if (all) {
			queue_side(tsp, cx->links.v[i].edge, 0);
			queue_side(tsp, cx->links.v[i].edge, 1);
		}
	}
	if (all || touched->n > (uint32_t)OVM_TUNE(TSP_EAGER_EDGES))
		return;
	for (uint32_t i = 0; i < touched->n; i++) {
		struct link *link = find_link(cx, touched->v[i]);

		if (link) {
			queue_side(tsp, link->edge, 0);
			queue_side(tsp, link->edge, 1);
		}
	}
}

static void merge_chains(struct tsp *tsp, uint32_t x, uint32_t y, uint32_t cut, enum merge how)
{
	struct chain *cx = &tsp->chains[x], *cy = &tsp->chains[y];

	for (uint32_t i = 0; i < cx->links.n; i++)
		tsp->edge_to[cx->links.v[i].other] = cx->links.v[i].edge + 1;
	merge_nodes(tsp, x, y, cut, how);
	merge_links(tsp, x, y);
	for (uint32_t i = 0; i < cx->links.n; i++)
		tsp->edge_to[cx->links.v[i].other] = 0;
	tsp->edge_to[y] = 0;
	ovm_vec_free(&cy->links);
}

/* --- steps
 * --------------------------------------------------------------------------------------------------------
 */

/* A block whose only successor has no other predecessor is followed by it. A ring of such blocks is
 * cut where it is found first. */
static void find_forced(struct tsp *tsp, const uint32_t *n_preds)
{
	for (uint32_t i = 0; i < tsp->n; i++) {
		uint32_t succ =
		    tsp->nodes[i].n_succ == 1 ? tsp->succs[tsp->nodes[i].first_succ] : 0;

		if (succ && n_preds[succ] == 1) {
			tsp->nodes[i].forced_succ = succ;
			tsp->nodes[succ].forced_pred = i;
		}
	}
	for (uint32_t i = 0; i < tsp->n; i++) {
		struct node *node = &tsp->nodes[i];
		uint32_t at = node->forced_succ, steps = 0;

		if (node->forced_succ == OVM_NONE || node->forced_pred == OVM_NONE)
			continue;
		while (at != OVM_NONE && at != i && steps++ < tsp->n)
			at = tsp->nodes[at].forced_succ;
		if (at == i) {
			tsp->nodes[node->forced_pred].forced_succ = OVM_NONE;
			node->forced_pred = OVM_NONE;
		}
	}
}

static void merge_forced(struct tsp *tsp)
{
	for (uint32_t i = 0; i < tsp->n; i++) {
		if (tsp->nodes[i].forced_pred != OVM_NONE)
			continue;
		for (uint32_t at = tsp->nodes[i].forced_succ; at != OVM_NONE;
		     at = tsp->nodes[at].forced_succ)
			merge_chains(tsp, i, tsp->nodes[at].chain, 0, X_Y);
	}
}

static void merge_pairs(struct tsp *tsp)
{
	indices touched = {0};

	for (uint32_t e = 0; e < tsp->n_edges; e++) {
		if (!tsp->edges[e].jumps.n)
			continue; /* merged away by a forced pair */
		queue_side(tsp, e, 0);
		queue_side(tsp, e, 1);
	}
	while (tsp->heap.n) {
		struct item item = heap_pop(tsp);
		struct edge *edge = &tsp->edges[item.edge];

		if (item.version != edge->in_heap[item.side] || !edge->jumps.n)
			continue; /* a newer item exists, or the edge is gone */
		if (item.version != edge->version) {
			queue_side(tsp, item.edge, item.side);
			continue;
		}
		touched.n = 0;
		for (uint32_t i = 0; i < tsp->chains[item.succ].links.n; i++)
			ovm_vec_push(&touched, tsp->chains[item.succ].links.v[i].other);
		merge_chains(tsp, item.pred, item.succ, item.gain.cut, item.gain.how);
		refresh(tsp, item.pred, &touched);
	}
	ovm_vec_free(&touched);
}

/* What gained nothing: join chains along the original successors, never hot with cold. */
static void merge_rest(struct tsp *tsp)
{
	for (uint32_t i = 0; i < tsp->n; i++) {
		for (uint32_t k = tsp->nodes[i].n_succ; k-- > 0;) {
			uint32_t dst = tsp->succs[tsp->nodes[i].first_succ + k];
			uint32_t x = tsp->nodes[i].chain, y = tsp->nodes[dst].chain;
			const struct chain *cx = &tsp->chains[x], *cy = &tsp->chains[y];

			if (x != y && !has_entry(tsp, y) && cx->nodes.v[cx->nodes.n - 1] == i &&
			    cy->nodes.v[0] == dst && !cx->count == !cy->count)
				merge_nodes(tsp, x, y, 0, X_Y);
		}
	}
}

struct rank {
	double density;
	uint32_t chain;
	bool entry;
};

static int by_rank(const void *a, const void *b)
{
	const struct rank *x = a, *y = b;

	if (x->entry != y->entry)
		return x->entry ? -1 : 1;
	if (x->density != y->density)
		return x->density < y->density ? 1 : -1;
	return x->chain < y->chain ? -1 : x->chain > y->chain;
}

static void concatenate(const struct tsp *tsp, uint32_t *order)
{
	struct rank *ranks = ovm_alloc_array(tsp->n, sizeof(*ranks));
	uint32_t n = 0;

	for (uint32_t i = 0; i < tsp->n; i++) {
		const struct chain *chain = &tsp->chains[i];

		if (chain->nodes.n)
			ranks[n++] = (struct rank){(double)chain->count / (double)chain->size, i,
						   has_entry(tsp, i)};
	}
	qsort(ranks, n, sizeof(*ranks), by_rank);
	for (uint32_t i = 0; i < n; i++)
		order = append(order, tsp->chains[ranks[i].chain].nodes.v,
			       tsp->chains[ranks[i].chain].nodes.n);
	free(ranks);
}

/* --- setting up
 * ---------------------------------------------------------------------------------------------------
 */

/* Right shift that keeps every sum of scores below 2^63. */
static unsigned count_shift(const struct ovm_tsp_graph *graph)
{
	double total = 0;
	unsigned shift = 0;

	for (uint32_t i = 0; i < graph->n_jumps; i++)
		total += (double)graph->jumps[i].count;
	for (uint32_t i = 0; i < graph->n; i++)
		total += (double)graph->counts[i];
	while (total > (double)(1ll << 45)) {
		total /= 2;
		shift++;
	}
	return shift;
}

static uint64_t scaled(uint64_t count, unsigned shift)
{
	return count && !(count >> shift) ? 1 : count >> shift;
}

static void raise_count(struct node *node, int64_t count)
{
	if ((int64_t)node->count < count)
		node->count = (uint64_t)count;
}

static void add_jumps(struct tsp *tsp, const struct ovm_tsp_graph *graph, unsigned shift)
{
	uint32_t *degree = ovm_alloc_array(tsp->n, sizeof(*degree));

	for (uint32_t i = 0; i < graph->n_jumps; i++)
		degree[graph->jumps[i].src]++;
	for (uint32_t i = 0; i < graph->n_jumps; i++) {
		const struct ovm_tsp_jump *from = &graph->jumps[i];
		struct jump jump = {from->src, from->dst, (int64_t)scaled(from->count, shift),
				    (graph->out_degree ? graph->out_degree : degree)[from->src] >
					1};

		if (jump.src == jump.dst || !jump.count)
			continue;
		raise_count(&tsp->nodes[jump.src], jump.count);
		raise_count(&tsp->nodes[jump.dst], jump.count);
		tsp->nodes[jump.src].n_out++;
		tsp->nodes[jump.dst].n_in++;
		tsp->jumps[tsp->n_jumps++] = jump;
	}
	free(degree);
}

/* Successor lists in the order of graph->jumps, self jumps left out. */
static void add_succs(struct tsp *tsp, const struct ovm_tsp_graph *graph, uint32_t *n_preds)
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < graph->n_jumps; i++)
		if (graph->jumps[i].src != graph->jumps[i].dst)
			tsp->nodes[graph->jumps[i].src].n_succ++;
	for (uint32_t i = 0; i < tsp->n; i++) {
		tsp->nodes[i].first_succ = at;
		at += tsp->nodes[i].n_succ;
		tsp->nodes[i].n_succ = 0;
	}
	for (uint32_t i = 0; i < graph->n_jumps; i++) {
		struct node *node = &tsp->nodes[graph->jumps[i].src];

		if (graph->jumps[i].src == graph->jumps[i].dst)
			continue;
		tsp->succs[node->first_succ + node->n_succ++] = graph->jumps[i].dst;
		n_preds[graph->jumps[i].dst]++;
	}
}

static void index_jumps(struct tsp *tsp)
{
	uint32_t out = 0, in = 0;

	for (uint32_t i = 0; i < tsp->n; i++) {
		struct node *node = &tsp->nodes[i];

		node->first_out = out;
		node->first_in = in;
		out += node->n_out;
		in += node->n_in;
		node->n_out = node->n_in = 0;
	}
	for (uint32_t j = 0; j < tsp->n_jumps; j++) {
		struct node *src = &tsp->nodes[tsp->jumps[j].src];
		struct node *dst = &tsp->nodes[tsp->jumps[j].dst];

		tsp->out[src->first_out + src->n_out++] = j;
		tsp->in[dst->first_in + dst->n_in++] = j;
	}
}

static void add_chains(struct tsp *tsp)
{
	for (uint32_t i = 0; i < tsp->n; i++) {
		struct chain *chain = &tsp->chains[i];

		ovm_vec_push(&chain->nodes, i);
		chain->count = tsp->nodes[i].count;
		chain->size = tsp->nodes[i].size;
		tsp->nodes[i].chain = i;
	}
}

static void add_edge(struct tsp *tsp, uint32_t a, uint32_t b)
{
	tsp->edges[tsp->n_edges] = (struct edge){.chain = {a, b}};
	ovm_vec_push(&tsp->chains[a].links, (struct link){b, tsp->n_edges});
	ovm_vec_push(&tsp->chains[b].links, (struct link){a, tsp->n_edges});
	tsp->n_edges++;
}

static void add_edges(struct tsp *tsp)
{
	for (uint32_t i = 0; i < tsp->n; i++) {
		for (uint32_t k = 0; k < tsp->chains[i].links.n; k++)
			tsp->edge_to[tsp->chains[i].links.v[k].other] =
			    tsp->chains[i].links.v[k].edge + 1;
		for (uint32_t k = 0; k < tsp->nodes[i].n_out; k++) {
			uint32_t j = tsp->out[tsp->nodes[i].first_out + k];
			uint32_t dst = tsp->jumps[j].dst;

			if (!tsp->edge_to[dst]) {
				add_edge(tsp, i, dst);
				tsp->edge_to[dst] = tsp->n_edges;
			}
			ovm_vec_push(&tsp->edges[tsp->edge_to[dst] - 1].jumps, j);
		}
		for (uint32_t k = 0; k < tsp->chains[i].links.n; k++)
			tsp->edge_to[tsp->chains[i].links.v[k].other] = 0;
	}
}

static void tsp_init(struct tsp *tsp, const struct ovm_tsp_graph *graph, uint32_t *n_preds)
{
	uint32_t n_jumps = graph->n_jumps ? graph->n_jumps : 1;
	unsigned shift = count_shift(graph);

	tsp->n = graph->n;
	tsp->nodes = ovm_alloc_array(graph->n, sizeof(*tsp->nodes));
	tsp->chains = ovm_alloc_array(graph->n, sizeof(*tsp->chains));
	tsp->edge_to = ovm_alloc_array(graph->n, sizeof(*tsp->edge_to));
	tsp->jumps = ovm_alloc_array(n_jumps, sizeof(*tsp->jumps));
	tsp->succs = ovm_alloc_array(n_jumps, sizeof(*tsp->succs));
	tsp->out = ovm_alloc_array(n_jumps, sizeof(*tsp->out));
	tsp->in = ovm_alloc_array(n_jumps, sizeof(*tsp->in));
	tsp->edges = ovm_alloc_array(n_jumps, sizeof(*tsp->edges));
	for (uint32_t i = 0; i < graph->n; i++) {
		struct node *node = &tsp->nodes[i];

		node->size = graph->sizes[i] ? graph->sizes[i] : 1;
		node->count = scaled(graph->counts[i], shift);
		if (i == 0 && !node->count)
			node->count = 1;
		node->forced_succ = node->forced_pred = OVM_NONE;
	}
	add_jumps(tsp, graph, shift);
	add_succs(tsp, graph, n_preds);
	index_jumps(tsp);
	add_chains(tsp);
	add_edges(tsp);
}

static void tsp_fini(struct tsp *tsp)
{
	for (uint32_t i = 0; i < tsp->n; i++) {
		ovm_vec_free(&tsp->chains[i].nodes);
		ovm_vec_free(&tsp->chains[i].self);
		ovm_vec_free(&tsp->chains[i].links);
	}
	for (uint32_t e = 0; e < tsp->n_edges; e++)
		ovm_vec_free(&tsp->edges[e].jumps);
	ovm_vec_free(&tsp->heap);
	free(tsp->nodes);
	free(tsp->chains);
	free(tsp->edge_to);
	free(tsp->jumps);
	free(tsp->succs);
	free(tsp->out);
	free(tsp->in);
	free(tsp->edges);
}

void ovm_exttsp_order(const struct ovm_tsp_graph *graph, uint32_t *order)
{
	uint32_t *n_preds;
	struct tsp tsp = {0};

	if (!graph->n)
		return;
	n_preds = ovm_alloc_array(graph->n, sizeof(*n_preds));
	tsp_init(&tsp, graph, n_preds);
	find_forced(&tsp, n_preds);
	merge_forced(&tsp);
	merge_pairs(&tsp);
	merge_rest(&tsp);
	concatenate(&tsp, order);
	tsp_fini(&tsp);
	free(n_preds);
}
