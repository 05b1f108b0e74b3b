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
#include "analyzer/exttsp_private.h"
#include "analyzer/layout.h"

#include <stdlib.h>
#include <string.h>

/* --- score ------------------------------------------------------------------------------- */

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
		score +=
		    (double)edges[e].count *
		    (double)ovm_tsp_score(addr[src] + sizes[src], addr[dst], out_degree[src] > 1);
	}
	free(addr);
	return score / (double)OVM_TUNE(TSP_UNIT);
}

bool ovm_tsp_is_successor(const struct ovm_tsp *tsp, uint32_t a, uint32_t b)
{
	for (uint32_t j = tsp->first_out[a]; j < tsp->first_out[a + 1]; j++)
		if (tsp->jumps[j].dst == b)
			return true;
	return false;
}

/* --- steps ------------------------------------------------------------------------------- */

/* A block whose only successor has no other predecessor is followed by it. A ring of such blocks is
 * cut where it is found first. */
static void find_forced(struct ovm_tsp *tsp)
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
		struct ovm_tsp_node *node = &tsp->nodes[i];
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

static void merge_forced(struct ovm_tsp *tsp)
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
static void merge_rest(struct ovm_tsp *tsp)
{
	struct ovm_chains *chains = &tsp->chains;

	for (uint32_t i = 0; i < chains->n; i++) {
		for (uint32_t k = tsp->nodes[i].n_succ; k-- > 0;) {
			uint32_t dst = tsp->succs[tsp->nodes[i].first_succ + k];
			uint32_t x = chains->places[i].chain, y = chains->places[dst].chain;
			const struct ovm_chain *cx = &chains->chains[x], *cy = &chains->chains[y];

			if (x != y && cx->nodes.v[cx->nodes.n - 1] == i && cy->nodes.v[0] == dst &&
			    dst && !cx->count == !cy->count)
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
static void add_succs(struct ovm_tsp *tsp, const struct ovm_tsp_graph *graph)
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
		struct ovm_tsp_node *node = &tsp->nodes[jump->src];

		if (!is_real(jump))
			continue;
		tsp->succs[node->first_succ + node->n_succ++] = jump->dst;
		tsp->nodes[jump->dst].n_preds++;
		if (jump->count)
			tsp->first_out[jump->src + 1]++;
	}
}

static void add_jumps(struct ovm_tsp *tsp, const struct ovm_tsp_graph *graph, unsigned shift)
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
			tsp->jumps[next[from->src]++] = (struct ovm_tsp_branch){
			    from->src, from->dst, (int64_t)scaled(from->count, shift),
			    degrees[from->src] > 1};
	}
	free(next);
	free(degree);
}

/* A block ran at least as often as any of its jumps; the entry at least once. */
static void make_chains(struct ovm_tsp *tsp, const struct ovm_tsp_graph *graph, unsigned shift)
{
	uint64_t *counts = ovm_alloc_array(graph->n, sizeof(*counts));
	uint32_t n_jumps = tsp->first_out[graph->n];
	uint32_t *dst = ovm_alloc_array(n_jumps ? n_jumps : 1, sizeof(*dst));

	for (uint32_t i = 0; i < graph->n; i++)
		counts[i] = scaled(graph->counts[i], shift);
	if (!counts[0])
		counts[0] = 1;
	for (uint32_t j = 0; j < n_jumps; j++) {
		const struct ovm_tsp_branch *jump = &tsp->jumps[j];
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

static void tsp_init(struct ovm_tsp *tsp, const struct ovm_tsp_graph *graph)
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

static void tsp_fini(struct ovm_tsp *tsp)
{
	ovm_tsp_merge_fini(tsp);
	ovm_chains_fini(&tsp->chains);
	free(tsp->nodes);
	free(tsp->first_out);
	free(tsp->jumps);
	free(tsp->succs);
	free(tsp->cuts);
	free(tsp->spread);
}

void ovm_exttsp_order(const struct ovm_tsp_graph *graph, uint32_t *order)
{
	struct ovm_tsp tsp = {0};

	if (!graph->n)
		return;
	tsp_init(&tsp, graph);
	find_forced(&tsp);
	merge_forced(&tsp);
	ovm_chains_run(&tsp.chains, ovm_tsp_best_merge, ovm_tsp_merge_bound, &tsp);
	merge_rest(&tsp);
	ovm_chains_concat(&tsp.chains, tsp.chains.places[0].chain, order);
	ovm_tsp_move(&tsp, order);
	tsp_fini(&tsp);
}
