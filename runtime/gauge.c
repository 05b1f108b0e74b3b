/* What a program has done is best told by how often it came by somewhere. Where it comes by too
 * often a counter costs time, where it comes by seldom the number says little:
 *
 *   OVM_RT_GAUGE_MIN       500 a second    10 in a window of 20 ms
 *   OVM_RT_GAUGE_GOOD   20,000 a second    1 ns a count makes 0.002 % of the time
 *   OVM_RT_GAUGE_MAX   200,000 a second    in a server that does nothing else
 *
 * The most frequent good ones are taken, from all modules; if there are too few, then the least
 * frequent above, up to a sum of all.
 */
#include "runtime/gauge.h"
#include "runtime/tunables.h"

#include <stdlib.h>

struct candidate {
	struct ovm_gauge gauge;
	double rate; /* a second */
};
typedef OVM_VEC(struct candidate) candidates;

/* Good ones first, the most frequent of them first; then the others, the least frequent first. */
static int by_worth(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	bool good = x->rate <= OVM_RT_GAUGE_GOOD;
	if (good != (y->rate <= OVM_RT_GAUGE_GOOD))
		return good ? -1 : 1;
	if (x->rate > y->rate || x->rate < y->rate)
		return (x->rate < y->rate) == good ? 1 : -1;
	return (x->gauge.entry.v > y->gauge.entry.v) - (x->gauge.entry.v < y->gauge.entry.v);
}

static int by_place(const void *a, const void *b)
{
	const struct ovm_gauge *x = a, *y = b;
	uint64_t p = x->module->lo.v, q = y->module->lo.v;
	if (p == q) {
		p = x->entry.v;
		q = y->entry.v;
	}
	return (p > q) - (p < q);
}

/* Edges into a region come sorted by (from, to): those from elsewhere first. */
static void add_module(const struct ovm_prof_module *prof, const struct ovm_live_module *module,
		       double counted_ms, candidates *out)
{
	for (uint32_t i = 0; i < prof->edges.n && !prof->edges.v[i].from.v; i++) {
		const struct ovm_prof_edge *edge = &prof->edges.v[i];
		double rate = (double)edge->count * 1e3 / counted_ms;
		if (rate >= OVM_RT_GAUGE_MIN && rate <= OVM_RT_GAUGE_MAX)
			ovm_vec_push(out, ((struct candidate){{module, edge->to}, rate}));
	}
}

void ovm_gauges_choose(const struct ovm_profile *profile, double counted_ms,
		       const struct ovm_livemap *map, struct ovm_gauges *out)
{
	candidates all = {0};
	double sum = 0;
	for (uint32_t i = 0; i < profile->modules.n && counted_ms > 0; i++) {
		const struct ovm_live_module *module =
		    ovm_livemap_only(map, profile->modules.v[i].path);
		if (module)
			add_module(&profile->modules.v[i], module, counted_ms, &all);
	}
	if (all.n)
		qsort(all.v, all.n, sizeof(*all.v), by_worth);
	for (uint32_t i = 0;
	     i < all.n && i < OVM_RT_GAUGES && (sum += all.v[i].rate) <= OVM_RT_GAUGE_SUM; i++)
		ovm_vec_push(&out->v, all.v[i].gauge);
	if (out->v.n)
		qsort(out->v.v, out->v.n, sizeof(*out->v.v), by_place);
	ovm_vec_free(&all);
}
