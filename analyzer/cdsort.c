/* Region order by cache-directed sort (Pupyrev, LLVM's CDSort).
 *
 * Like Ext-TSP one level up: chains of functions are merged, the pair with the best gain first. The
 * gain of a merge is
 *
 *      (distance gain + 0.25 * cache gain) / bytes of the smaller chain
 *
 *   distance   each call between the chains counts  count * d^(-1/4),  d bytes from the call to
 *              the callee; unmerged they are taken to be as far apart as all code is long
 *   cache      expected misses of a cache of 16 pages of 2 KiB: a page that gets the share p of all
 *              executions is missed with probability (1 - p)^16
 *
 * Chains are not cut: X Y or Y X, whichever gains more; the original order if both do. At the end
 * the densest chain comes first.
 */
#include "analyzer/cdsort.h"
#include "analyzer/chains.h"
#include "analyzer/tunables.h"

#include <math.h>
#include <stdlib.h>

struct cds {
	struct ovm_cg_call *calls; /* with a count, between different nodes, sorted by caller */
	double total_count;
	double far_score; /* of one call over the whole code */
};

static double distance_score(uint64_t src, uint64_t dst)
{
	double d = src < dst ? (double)(dst - src) : (double)(src - dst);

	d = d > 0 ? d : 0.1;
	return OVM_TUNE(CDS_DISTANCE_POWER) == 25
		   ? 1 / sqrt(sqrt(d)) /* most of the time goes here */
		   : pow(d, -(double)OVM_TUNE(CDS_DISTANCE_POWER) / 100);
}

/* All calls of @edge with @first laid out before @second. */
static double distance_gain(const struct cds *cds, const struct ovm_chains *chains,
			    const struct ovm_chain_edge *edge, uint32_t first)
{
	double gain = 0;

	for (uint32_t i = 0; i < edge->jumps.n; i++) {
		const struct ovm_cg_call *call = &cds->calls[edge->jumps.v[i]];
		const struct ovm_place *src = &chains->places[call->src];
		const struct ovm_place *dst = &chains->places[call->dst];
		uint64_t behind = chains->chains[first].size;
		uint64_t site = call->offset < src->size ? call->offset : src->size;
		uint64_t from = src->off + site + (src->chain == first ? 0 : behind);
		uint64_t to = dst->off + (dst->chain == first ? 0 : behind);

		gain += (double)call->count * (distance_score(from, to) - cds->far_score);
	}
	return gain;
}

static double misses(const struct cds *cds, double count, double size)
{
	double page = count / size * (double)OVM_TUNE(CDS_CACHE_SIZE);

	return page >= cds->total_count
		   ? 0
		   : count * pow(1 - page / cds->total_count, (double)OVM_TUNE(CDS_CACHE_ENTRIES));
}

static double cache_gain(const struct cds *cds, const struct ovm_chain *x,
			 const struct ovm_chain *y)
{
	return misses(cds, (double)x->count, (double)x->size) +
	       misses(cds, (double)y->count, (double)y->size) -
	       misses(cds, (double)x->count + (double)y->count, (double)x->size + (double)y->size);
}

/* Both orders are tried at once, so only the call with x < y counts. */
static struct ovm_gain best_merge(const struct ovm_chains *chains, const void *user,
				  const struct ovm_chain_edge *edge, uint32_t x, uint32_t y)
{
	const struct cds *cds = user;
	const struct ovm_chain *cx = &chains->chains[x], *cy = &chains->chains[y];
	double x_y, y_x, smaller = (double)(cx->size < cy->size ? cx->size : cy->size);
	struct ovm_gain gain = {0};

	if (x > y || cx->nodes.n + cy->nodes.n > (uint32_t)OVM_TUNE(CDS_MAX_CHAIN))
		return gain;
	x_y = distance_gain(cds, chains, edge, x);
	y_x = distance_gain(cds, chains, edge, y);
	gain.how = x_y >= y_x ? OVM_MERGE_X_Y : OVM_MERGE_Y_X2_X1;
	gain.score = (x_y >= y_x ? x_y : y_x) +
		     (double)OVM_TUNE(CDS_FREQUENCY_SCALE) / 100 * cache_gain(cds, cx, cy);
	gain.score = gain.score > 1e-8 ? gain.score / smaller : 0;
	return gain;
}

/* Calls that count, sorted by caller; first[i] .. first[i + 1] are those of node i. */
static void index_calls(const struct ovm_cg *graph, struct cds *cds, uint32_t *first, uint32_t *dst)
{
	uint32_t *next = ovm_alloc_array((size_t)graph->n + 1, sizeof(*next));

	for (uint32_t i = 0; i < graph->n_calls; i++)
		if (graph->calls[i].count && graph->calls[i].src != graph->calls[i].dst)
			first[graph->calls[i].src + 1]++;
	for (uint32_t i = 0; i < graph->n; i++)
		next[i + 1] = first[i + 1] += first[i];
	for (uint32_t i = 0; i < graph->n_calls; i++) {
		const struct ovm_cg_call *call = &graph->calls[i];

		if (!call->count || call->src == call->dst)
			continue;
		dst[next[call->src]] = call->dst;
		cds->calls[next[call->src]++] = *call;
	}
	free(next);
}

void ovm_cdsort(const struct ovm_cg *graph, uint32_t *order)
{
	uint32_t n_calls = graph->n_calls ? graph->n_calls : 1;
	uint32_t *first = ovm_alloc_array((size_t)graph->n + 1, sizeof(*first));
	uint32_t *dst = ovm_alloc_array(n_calls, sizeof(*dst));
	struct cds cds = {.calls = ovm_alloc_array(n_calls, sizeof(*cds.calls))};
	struct ovm_chains chains;
	uint64_t size = 0;

	for (uint32_t i = 0; i < graph->n; i++) {
		cds.total_count += (double)graph->counts[i];
		size += graph->counts[i] ? graph->sizes[i] : 0;
	}
	cds.far_score = distance_score(0, size);
	index_calls(graph, &cds, first, dst);
	ovm_chains_init(&chains, graph->n, graph->sizes, graph->counts);
	ovm_chains_connect(&chains, first, dst);
	chains.max_eager = (uint32_t)OVM_TUNE(CDS_EAGER_EDGES);
	ovm_chains_run(&chains, best_merge, NULL, &cds);
	ovm_chains_concat(&chains, OVM_NONE, order);
	ovm_chains_fini(&chains);
	free(cds.calls);
	free(dst);
	free(first);
}
