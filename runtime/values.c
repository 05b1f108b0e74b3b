/* What the thunks of indirect calls have written, turned into edges.
 *
 *   counters of a site                          edges
 *   7f12345670 -> 900   libfoo.so + 5670        libfoo.so  1a2c -> 5670  900      (if the call is
 * in libfoo) 7f1239b010 ->  40   libc.so.6 + 9b010       libc.so.6     0 -> 9b010  40
 *
 * An edge has both ends in one module, so of a call that leaves its module only the arrival is
 * known. The numbers are the program's to overwrite: any of them may be nonsense, and is then an
 * address that no module has or a function that nobody finds.
 */
#include "runtime/values.h"

#include <stdlib.h>
#include <string.h>

struct ovm_prof_module *ovm_profile_at(struct ovm_profile *profile, const char *path)
{
	for (uint32_t i = 0; i < profile->modules.n; i++)
		if (profile->modules.v[i].path && !strcmp(profile->modules.v[i].path, path))
			return &profile->modules.v[i];
	return NULL;
}

static int by_place(const void *a, const void *b)
{
	const struct ovm_counted_region *x = a, *y = b;
	if (x->module.v != y->module.v)
		return x->module.v < y->module.v ? -1 : 1;
	return (x->lo.v > y->lo.v) - (x->lo.v < y->lo.v);
}

struct reading {
	const struct ovm_built_module *m;
	const struct ovm_livemap *map;
	struct ovm_profile *profile;
	struct ovm_counted_region *counted; /* sorted */
	uint32_t n_counted;
};

static bool is_counted(const struct reading *r, const struct ovm_live_module *module, ovm_va va)
{
	const struct ovm_counted_region want = {module->lo, va};
	return r->n_counted &&
	       bsearch(&want, r->counted, r->n_counted, sizeof(want), by_place) != NULL;
}

static void add_target(const struct reading *r, ovm_va from, ovm_rta to, uint64_t count)
{
	const struct ovm_live_module *callee = ovm_livemap_module(r->map, to);
	struct ovm_prof_module *module = callee ? ovm_profile_at(r->profile, callee->path) : NULL;
	if (!module || !count)
		return;
	ovm_va va = ovm_rta_to_va(to, callee->bias);
	if (callee->lo.v == r->m->module->lo.v)
		ovm_vec_push(&module->edges, (struct ovm_prof_edge){from, va, count});
	if (!is_counted(r, callee, va))
		ovm_vec_push(&module->edges, (struct ovm_prof_edge){ovm_va_of(0), va, count});
}

void ovm_values_to_profile(const struct ovm_built_module *m, const uint64_t *counters,
			   const struct ovm_livemap *map, const struct ovm_counted *counted,
			   struct ovm_profile *profile)
{
	struct reading r = {.m = m, .map = map, .profile = profile, .n_counted = counted->v.n};
	r.counted = ovm_alloc_array(r.n_counted, sizeof(*r.counted));
	if (r.n_counted) {
		memcpy(r.counted, counted->v.v, r.n_counted * sizeof(*r.counted));
		qsort(r.counted, r.n_counted, sizeof(*r.counted), by_place);
	}
	for (uint32_t i = 0; i < m->overlay.sites.n; i++) {
		const struct ovm_site *site = &m->overlay.sites.v[i];
		const uint64_t *v = counters + site->counter;
		for (unsigned k = 0; k < 2 * OVM_SITE_TARGETS; k += 2)
			add_target(&r, site->at,
				   ovm_rta_of(__atomic_load_n(&v[k], __ATOMIC_RELAXED)),
				   __atomic_load_n(&v[k + 1], __ATOMIC_RELAXED));
	}
	free(r.counted);
}
