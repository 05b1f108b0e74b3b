/* drift.c: the same, something else, chance, cold pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analyzer/drift.h"

static void add(struct ovm_profile *p, const char *id, uint64_t va, uint64_t count)
{
	ovm_vec_push(&ovm_profile_module(p, id, id)->samples,
		     ((struct ovm_prof_sample){{va}, count}));
	p->n_samples += count;
	ovm_profile_normalize(p);
}

static struct ovm_profile *one(uint64_t va, uint64_t count)
{
	struct ovm_profile *p = ovm_profile_new();
	add(p, "aa", va, count);
	return p;
}

static void expect(struct ovm_profile *a, struct ovm_profile *b, double want)
{
	assert_float_equal(ovm_drift(a, b), want, 1e-9);
	assert_float_equal(ovm_drift(b, a), want, 1e-9);
	ovm_profile_free(a);
	ovm_profile_free(b);
}

static void test_same_and_other(void **state)
{
	(void)state;
	expect(one(0x1000, 5), one(0x1ffc, 5000), 0); /* the same page, other rate */
	expect(one(0x1000, 5), one(0x2000, 5), 1);
	struct ovm_profile *other = ovm_profile_new();
	add(other, "bb", 0x1000, 7); /* the same page of another file */
	expect(one(0x1000, 7), other, 1);
}

static void test_empty(void **state)
{
	(void)state;
	expect(ovm_profile_new(), ovm_profile_new(), 1);
	expect(one(0x1000, 1), ovm_profile_new(), 1);
	struct ovm_profile *unmapped = ovm_profile_new();
	unmapped->n_samples = unmapped->n_unmapped = 100;
	expect(one(0x1000, 1), unmapped, 1);
}

static void test_shares(void **state)
{
	(void)state;
	struct ovm_profile *a = one(0x1000, 50), *b = one(0x1000, 300);
	add(a, "aa", 0x2010, 50); /* 50:50 against 75:25 */
	add(b, "aa", 0x2020, 100);
	expect(a, b, 0.25);
}

/* Neighbouring pages that hold less than a hundredth are one, those far apart are not. */
static void test_cold_pages(void **state)
{
	(void)state;
	struct ovm_profile *a = one(0x1000, 800), *b = one(0x1000, 800);
	for (uint64_t i = 0; i < 40; i++) {
		add(a, "aa", 0x100000 + 0x2000 * i, 5);
		add(b, "aa", 0x101000 + 0x2000 * i, 5);
	}
	assert_true(ovm_drift(a, b) < 0.03);
	ovm_profile_free(a);
	ovm_profile_free(b);
	a = ovm_profile_new();
	b = ovm_profile_new();
	for (uint64_t i = 0; i < 400; i++) { /* a parser and an optimizer: nowhere hot */
		add(a, "aa", 0x100000 + 0x1000 * i, 5);
		add(b, "aa", 0x800000 + 0x1000 * i, 5);
	}
	expect(a, b, 1);
	a = ovm_profile_new();
	b = ovm_profile_new();
	for (uint64_t i = 0; i < 400; i++) {
		add(a, "aa", 0x100000 + 0x1000 * i, 5);
		add(b, "bb", 0x100000 + 0x1000 * i, 5);
	}
	expect(a, b, 1);
	a = one(0x1000, 800);
	b = one(0x1000, 800);
	add(a, "aa", 0x100000, 200);
	for (uint64_t i = 0; i < 40; i++) /* cold now, hot before */
		add(b, "aa", 0x101000 + 0x2000 * i, 5);
	expect(a, b, 0.2);
}

static void test_chance(void **state)
{
	(void)state;
	uint64_t x = 1;
	for (unsigned round = 0; round < 20; round++) {
		struct ovm_profile *p[2] = {ovm_profile_new(), ovm_profile_new()};
		uint64_t counts[2][50] = {{0}};
		for (unsigned i = 0; i < 1200; i++) { /* 600 each over 50 pages */
			x = x * 6364136223846793005u + 1442695040888963407u;
			counts[i & 1][(x >> 33) % 50]++;
		}
		for (uint64_t i = 0; i < 50; i++)
			for (unsigned k = 0; k < 2; k++)
				if (counts[k][i])
					add(p[k], "aa", i << 12, counts[k][i]);
		double d = ovm_drift(p[0], p[1]);
		assert_true(d > 0.02 && d < 0.25);
		ovm_profile_free(p[0]);
		ovm_profile_free(p[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_same_and_other), cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_shares),	   cmocka_unit_test(test_cold_pages),
	    cmocka_unit_test(test_chance),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
