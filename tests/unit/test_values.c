/* Counted targets of indirect calls, as a process left them, become edges of a profile. */
#include "runtime/values.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BIAS_A = 0x7f0000000000, BIAS_B = 0x7f1000000000, SIZE = 0x10000 };

struct fixture {
	struct ovm_livemap map;
	struct ovm_built_module built;
	struct ovm_counted counted;
	struct ovm_profile *profile;
	uint64_t counters[3 + 2 * OVM_SITE_COUNTERS];
};

static void add_module(struct fixture *f, const char *path, uint64_t bias)
{
	ovm_vec_push(&f->map.modules,
		     (struct ovm_live_module){
			 .path = path, .bias = bias, .lo = {bias}, .hi = {bias + SIZE}});
}

static void set(struct fixture *f, unsigned site, unsigned k, uint64_t target, uint64_t count)
{
	uint64_t *v = &f->counters[f->built.overlay.sites.v[site].counter + 2 * k];
	v[0] = target;
	v[1] = count;
}

static void init(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	add_module(f, "/lib/a", BIAS_A);
	add_module(f, "/lib/b", BIAS_B);
	add_module(f, "/lib/unknown", BIAS_B + SIZE);
	f->built.module = &f->map.modules.v[0];
	f->built.overlay.n_counters = 3 + 2 * OVM_SITE_COUNTERS;
	ovm_vec_push(&f->built.overlay.sites, ((struct ovm_site){{0x100}, 3}));
	ovm_vec_push(&f->built.overlay.sites, ((struct ovm_site){{0x200}, 3 + OVM_SITE_COUNTERS}));
	f->profile = ovm_profile_new();
	ovm_profile_module(f->profile, "aa", "/lib/a");
	ovm_profile_module(f->profile, "bb", "/lib/b");
	ovm_profile_module(f->profile, "cc", NULL);
}

static void fini(struct fixture *f)
{
	ovm_vec_free(&f->map.modules);
	ovm_vec_free(&f->built.overlay.sites);
	ovm_vec_free(&f->counted.v);
	ovm_profile_free(f->profile);
}

static void read_values(struct fixture *f)
{
	ovm_values_to_profile(&f->built, f->counters, &f->map, &f->counted, f->profile);
	ovm_profile_normalize(f->profile);
}

static uint64_t count_of(const struct fixture *f, const char *id, uint64_t from, uint64_t to)
{
	const struct ovm_prof_module *module = ovm_profile_find(f->profile, id);
	uint64_t sum = 0;
	for (uint32_t i = 0; i < module->edges.n; i++)
		if (module->edges.v[i].from.v == from && module->edges.v[i].to.v == to)
			sum += module->edges.v[i].count;
	return sum;
}

static uint32_t n_edges(const struct fixture *f)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < f->profile->modules.n; i++)
		n += f->profile->modules.v[i].edges.n;
	return n;
}

static void nothing(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	read_values(&f);
	assert_int_equal(n_edges(&f), 0);
	f.built.overlay.sites.n = 0;
	read_values(&f);
	assert_int_equal(n_edges(&f), 0);
	fini(&f);
}

static void targets(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	set(&f, 0, 0, BIAS_A + 0x1000, 90);
	set(&f, 0, 1, BIAS_B + 0x2000, 8);
	set(&f, 0, 3, BIAS_A + 0x3000, 2);
	set(&f, 1, 0, BIAS_A + 0x1000, 5);
	set(&f, 1, 1, BIAS_B + 0x2000, 1);
	f.counters[3 + 2 * OVM_SITE_TARGETS] = 77; /* the rest of site 0 */
	/* 0x3000 in a, and the same address in b, have counters */
	ovm_vec_push(&f.counted.v, ((struct ovm_counted_region){{BIAS_B}, {0x3000}}));
	ovm_vec_push(&f.counted.v, ((struct ovm_counted_region){{BIAS_A}, {0x3000}}));
	read_values(&f);
	assert_int_equal(count_of(&f, "aa", 0x100, 0x1000), 90);
	assert_int_equal(count_of(&f, "aa", 0x200, 0x1000), 5);
	assert_int_equal(count_of(&f, "aa", 0, 0x1000), 95);
	assert_int_equal(count_of(&f, "aa", 0x100, 0x3000), 2);
	assert_int_equal(count_of(&f, "bb", 0, 0x2000), 9);
	assert_int_equal(n_edges(&f), 5);
	fini(&f);
}

static void nonsense(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	set(&f, 0, 0, UINT64_MAX, UINT64_MAX);
	set(&f, 0, 1, BIAS_A - 1, 5);
	set(&f, 0, 2, BIAS_B + SIZE, 5); /* of no module of the profile */
	set(&f, 0, 3, BIAS_A + 0x1000, 0);
	set(&f, 1, 0, 0, 5);
	set(&f, 1, 1, BIAS_A + SIZE, 5);
	read_values(&f);
	assert_int_equal(n_edges(&f), 0);
	fini(&f);
}

static void paths(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	assert_string_equal(ovm_profile_at(f.profile, "/lib/b")->id, "bb");
	assert_null(ovm_profile_at(f.profile, "/lib/c"));
	assert_null(ovm_profile_at(f.profile, ""));
	fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing),
	    cmocka_unit_test(targets),
	    cmocka_unit_test(nonsense),
	    cmocka_unit_test(paths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
