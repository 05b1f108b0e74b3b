/* profile.c: folding, and that a merge does not depend on the order of its parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "profiler/profile.h"

#include <stdlib.h>
#include <string.h>

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(uint64_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state % below;
}

static char *print(const struct ovm_profile *prof)
{
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);
	assert_non_null(to);
	ovm_profile_print(prof, to);
	fclose(to);
	return text;
}

static void assert_same(const struct ovm_profile *a, const struct ovm_profile *b)
{
	char *ta = print(a), *tb = print(b);
	assert_string_equal(ta, tb);
	assert_true(ovm_profile_hash(a) == ovm_profile_hash(b));
	free(ta);
	free(tb);
}

static uint64_t count(void)
{
	return rng(20) ? rng(1000) : UINT64_MAX - rng(3); /* some saturate */
}

static void fill(struct ovm_prof_module *m)
{
	static const char *const names[] = {NULL, "main", "a b", "operator new(unsigned long)"};
	for (uint64_t i = rng(30); i--;)
		ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(rng(16)), count()});
	for (uint64_t i = rng(30); i--;)
		ovm_vec_push(&m->branches,
			     (struct ovm_prof_branch){ovm_va_of(rng(5)), ovm_va_of(rng(5)), count(),
						      count()});
	for (uint64_t i = rng(30); i--;)
		ovm_vec_push(&m->ranges, (struct ovm_prof_range){ovm_va_of(rng(5)),
								 ovm_va_of(rng(5)), count()});
	for (uint64_t i = rng(30); i--;)
		ovm_vec_push(&m->blocks,
			     (struct ovm_prof_block){ovm_va_of(rng(16)), rng(9), count()});
	for (uint64_t i = rng(30); i--;)
		ovm_vec_push(&m->edges,
			     (struct ovm_prof_edge){ovm_va_of(rng(5)), ovm_va_of(rng(5)), count()});
	for (uint64_t i = rng(6); i--;) {
		const char *name = names[rng(4)];
		uint64_t lo = rng(4) * 16;
		ovm_vec_push(&m->regions,
			     (struct ovm_prof_region){ovm_va_of(lo), ovm_va_of(lo + 1 + rng(2)),
						      rng(3), name ? ovm_strdup(name) : NULL});
	}
}

static struct ovm_profile *random_profile(void)
{
	static const char *const ids[] = {"00ff", "anon", "xxh3-12", "7"};
	static const char *const paths[] = {NULL, "/usr/bin/a", "/usr/bin/b c"};
	static const char *const events[] = {NULL, "cpu-clock", "cycles"};
	struct ovm_profile *prof = ovm_profile_new();
	const char *event = events[rng(3)];
	prof->event = event ? ovm_strdup(event) : NULL;
	prof->source = ovm_strdup(rng(3) ? "perf_event" : "ptrace-timer");
	prof->frequency = rng(4000);
	prof->n_samples = count();
	prof->n_lost = rng(3);
	for (uint64_t i = rng(5); i--;)
		fill(ovm_profile_module(prof, ids[rng(4)], paths[rng(3)]));
	ovm_profile_normalize(prof);
	return prof;
}

static void test_empty(void **state)
{
	(void)state;
	struct ovm_profile *prof = ovm_profile_new(), *other = ovm_profile_new();
	ovm_profile_normalize(prof);
	ovm_profile_merge(prof, other);
	assert_int_equal(prof->modules.n, 0);
	assert_null(ovm_profile_find(prof, "x"));
	assert_null(prof->event);
	ovm_profile_free(prof);
	ovm_profile_free(other);
	ovm_profile_free(NULL);
}

static void test_normalize_adds_and_saturates(void **state)
{
	(void)state;
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_module *m = ovm_profile_module(prof, "id", "/p");
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(9), 1});
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(5), UINT64_MAX});
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(9), 2});
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(5), 1});
	ovm_profile_normalize(prof);
	ovm_profile_normalize(prof);
	assert_int_equal(m->samples.n, 2);
	assert_int_equal(m->samples.v[0].va.v, 5);
	assert_true(m->samples.v[0].count == UINT64_MAX);
	assert_int_equal(m->samples.v[1].count, 3);
	assert_true(ovm_prof_module_samples(m) == UINT64_MAX);
	ovm_profile_free(prof);
}

static void test_module_lookup(void **state)
{
	(void)state;
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_module *m = ovm_profile_module(prof, "id", NULL);
	assert_null(m->path);
	assert_ptr_equal(ovm_profile_module(prof, "id", "/later"), m);
	assert_string_equal(m->path, "/later");
	assert_string_equal(ovm_profile_module(prof, "", NULL)->id, "anon");
	assert_ptr_equal(ovm_profile_find(prof, "id"), &prof->modules.v[0]);
	ovm_profile_free(prof);
}

static void test_words(void **state)
{
	(void)state;
	struct ovm_profile *a = ovm_profile_new(), *b = ovm_profile_new();
	a->event = ovm_strdup("cycles");
	ovm_profile_merge(b, a);
	assert_string_equal(b->event, "cycles");
	free(a->event);
	a->event = ovm_strdup("cpu-clock");
	ovm_profile_merge(b, a);
	assert_string_equal(b->event, "mixed");
	ovm_profile_merge(b, a);
	assert_string_equal(b->event, "mixed");
	ovm_profile_free(a);
	ovm_profile_free(b);
}

/* (a+b)+c == (c+b)+a == b+(a+c), and the parts are unchanged. */
static void test_merge_in_any_order(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		struct ovm_profile *p[3], *sum[3];
		char *before[3];
		for (int i = 0; i < 3; i++) {
			p[i] = random_profile();
			before[i] = print(p[i]);
			sum[i] = ovm_profile_new();
		}
		ovm_profile_merge(sum[0], p[0]);
		ovm_profile_merge(sum[0], p[1]);
		ovm_profile_merge(sum[0], p[2]);
		ovm_profile_merge(sum[1], p[2]);
		ovm_profile_merge(sum[1], p[1]);
		ovm_profile_merge(sum[1], p[0]);
		struct ovm_profile *pair = ovm_profile_new();
		ovm_profile_merge(pair, p[0]);
		ovm_profile_merge(pair, p[2]);
		ovm_profile_merge(sum[2], p[1]);
		ovm_profile_merge(sum[2], pair);
		assert_same(sum[0], sum[1]);
		assert_same(sum[0], sum[2]);
		for (int i = 0; i < 3; i++) {
			char *after = print(p[i]);
			assert_string_equal(before[i], after);
			free(after);
			free(before[i]);
			ovm_profile_free(p[i]);
			ovm_profile_free(sum[i]);
		}
		ovm_profile_free(pair);
	}
}

static void test_hash_tells_apart(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		struct ovm_profile *a = random_profile(), *b = random_profile();
		char *ta = print(a), *tb = print(b);
		assert_true((ovm_profile_hash(a) == ovm_profile_hash(b)) == !strcmp(ta, tb));
		free(ta);
		free(tb);
		ovm_profile_free(b);
		uint64_t before = ovm_profile_hash(a);
		a->n_lost++;
		assert_true(ovm_profile_hash(a) != before);
		a->n_lost--;
		struct ovm_prof_module *m = ovm_profile_module(a, "new", NULL);
		uint64_t empty = ovm_profile_hash(a);
		assert_true(empty != before);
		ovm_vec_push(&m->edges, (struct ovm_prof_edge){ovm_va_of(1), ovm_va_of(2), 3});
		assert_true(ovm_profile_hash(a) != empty);
		ovm_profile_free(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_normalize_adds_and_saturates),
	    cmocka_unit_test(test_module_lookup),
	    cmocka_unit_test(test_words),
	    cmocka_unit_test(test_merge_in_any_order),
	    cmocka_unit_test(test_hash_tells_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
