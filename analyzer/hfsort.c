/* Region order by call-chain clustering (Ottoni and Maher, "Optimizing Function Placement for
 * Large-Scale Data-Center Applications", CGO 2017; the algorithm C3, with the limits of BOLT's
 * HFSort).
 *
 * Functions are taken by density (executions a byte), densest first. Each is put behind the cluster
 * of its most likely caller:
 *
 *      main ─90─▶ parse ─80─▶ lex        [main] [parse] [lex]  ->  [main parse lex]
 *
 * unless the caller is too unlikely, the cluster too big, or the merge would thin the caller's
 * cluster too much. At the end clusters are sorted by density.
 */
#include "analyzer/cdsort.h"
#include "analyzer/chains.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

struct density {
	double value;
	uint32_t node;
};

static int by_density(const void *a, const void *b)
{
	const struct density *x = a, *y = b;

	if (x->value != y->value)
		return x->value < y->value ? 1 : -1;
	return x->node < y->node ? -1 : x->node > y->node;
}

static int by_callee(const void *a, const void *b)
{
	const struct ovm_cg_call *x = a, *y = b;

	if (x->dst != y->dst)
		return x->dst < y->dst ? -1 : 1;
	return x->src < y->src ? -1 : x->src > y->src;
}

/* best[i]: the caller with most calls of node i if it makes enough of them, else OVM_NONE. */
static void find_callers(const struct ovm_cg *graph, uint32_t *best)
{
	uint32_t n = graph->n_calls;
	struct ovm_cg_call *calls = ovm_alloc_array(n ? n : 1, sizeof(*calls));

	memset(best, 0xff, graph->n * sizeof(*best));
	if (n)
		memcpy(calls, graph->calls, n * sizeof(*calls));
	qsort(calls, n, sizeof(*calls), by_callee);
	for (uint32_t i = 0; i < n;) {
		uint32_t dst = calls[i].dst;
		double total = 0, most = 0;

		while (i < n && calls[i].dst == dst) {
			uint32_t src = calls[i].src;
			double count = 0;

			for (; i < n && calls[i].dst == dst && calls[i].src == src; i++)
				count += (double)calls[i].count;
			total += count;
			if (src != dst && count > most) {
				most = count;
				best[dst] = src;
			}
		}
		if (most * 100 < (double)OVM_TUNE(HFSORT_MIN_ARC) * total)
			best[dst] = OVM_NONE;
	}
	free(calls);
}

static double density_of(const struct ovm_chain *chain)
{
	return (double)chain->count / (double)chain->size;
}

static bool may_append(const struct ovm_chain *to, const struct ovm_chain *chain)
{
	double merged =
	    ((double)to->count + (double)chain->count) / ((double)to->size + (double)chain->size);

	return to->size + chain->size <= (uint64_t)OVM_TUNE(HFSORT_MAX_CLUSTER) &&
	       density_of(to) <= (double)OVM_TUNE(HFSORT_DENSITY_LOSS) * merged;
}

void ovm_hfsort(const struct ovm_cg *graph, uint32_t *order)
{
	uint32_t n = graph->n ? graph->n : 1;
	uint32_t *best = ovm_alloc_array(n, sizeof(*best));
	struct density *densities = ovm_alloc_array(n, sizeof(*densities));
	struct ovm_chains chains;

	find_callers(graph, best);
	ovm_chains_init(&chains, graph->n, graph->sizes, graph->counts);
	for (uint32_t i = 0; i < graph->n; i++)
		densities[i] = (struct density){density_of(&chains.chains[i]), i};
	qsort(densities, graph->n, sizeof(*densities), by_density);
	for (uint32_t i = 0; i < graph->n; i++) {
		uint32_t node = densities[i].node, y = chains.places[node].chain, x;

		if (best[node] == OVM_NONE || !graph->counts[node])
			continue;
		x = chains.places[best[node]].chain;
		if (x != y && may_append(&chains.chains[x], &chains.chains[y]))
			ovm_chains_merge(&chains, x, y, 0, OVM_MERGE_X_Y);
	}
	ovm_chains_concat(&chains, OVM_NONE, order);
	ovm_chains_fini(&chains);
	free(densities);
	free(best);
}
