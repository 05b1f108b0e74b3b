/* What a program has done is best told by how often it came by somewhere. Where it comes by too
 * often a counter costs time, where it comes by seldom the number says little:
 *
 *   OVM_RT_GAUGE_MIN   1,000 a second    40 in a window of 40 ms
 *   OVM_RT_GAUGE_MAX  20,000 a second    20 ns a count make 0.04 % of the time
 *
 * The most frequent in between are taken, from all modules.
 */
#include "runtime/gauge.h"
#include "runtime/tunables.h"

#include <stdlib.h>
#include <string.h>

struct candidate {
	struct ovm_gauge gauge;
	uint64_t count;
};
typedef OVM_VEC(struct candidate) candidates;

static int by_count(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
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

/* The only module mapped from @path. */
static const struct ovm_live_module *find_module(const struct ovm_livemap *map, const char *path)
{
	const struct ovm_live_module *found = NULL;
	for (uint32_t m = 0; path && m < map->modules.n; m++) {
		if (strcmp(map->modules.v[m].path, path) != 0)
			continue;
		if (found)
			return NULL;
		found = &map->modules.v[m];
	}
	return found;
}

/* Edges into a region come sorted by (from, to): those from elsewhere first. */
static void add_module(const struct ovm_prof_module *prof, const struct ovm_live_module *module,
		       double counted_ms, candidates *out)
{
	for (uint32_t i = 0; i < prof->edges.n && !prof->edges.v[i].from.v; i++) {
		const struct ovm_prof_edge *edge = &prof->edges.v[i];
		double rate = (double)edge->count * 1e3 / counted_ms;
		if (rate >= OVM_RT_GAUGE_MIN && rate <= OVM_RT_GAUGE_MAX)
			ovm_vec_push(out, ((struct candidate){{module, edge->to}, edge->count}));
	}
}

void ovm_gauges_choose(const struct ovm_profile *profile, double counted_ms,
		       const struct ovm_livemap *map, struct ovm_gauges *out)
{
	candidates all = {0};
	for (uint32_t i = 0; i < profile->modules.n && counted_ms > 0; i++) {
		const struct ovm_live_module *module = find_module(map, profile->modules.v[i].path);
		if (module)
			add_module(&profile->modules.v[i], module, counted_ms, &all);
	}
	if (all.n)
		qsort(all.v, all.n, sizeof(*all.v), by_count);
	for (uint32_t i = 0; i < all.n && i < OVM_RT_GAUGES; i++)
		ovm_vec_push(&out->v, all.v[i].gauge);
	if (out->v.n)
		qsort(out->v.v, out->v.n, sizeof(*out->v.v), by_place);
	ovm_vec_free(&all);
}
