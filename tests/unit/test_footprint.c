/* Footprints of made-up profiles: the effective number of lines does not depend on how many samples there are, a hot loop in
 * a large program does not hide the rest, and too few samples say nothing. */
#include "analyzer/footprint.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static uint64_t state_of_random = 88172645463325252u;
static uint64_t random_below(uint64_t n)
{
	state_of_random ^= state_of_random << 13;
	state_of_random ^= state_of_random >> 7;
	state_of_random ^= state_of_random << 17;
	return state_of_random % n;
}

/* @n samples, a share of @loop percent in one line, the others anywhere in @lines lines. */
static struct ovm_footprint sampled(uint32_t n, uint32_t lines, uint32_t loop)
{
	struct ovm_profile *profile = ovm_profile_new();
	struct ovm_prof_module *module = ovm_profile_module(profile, "00", "/x");
	for (uint32_t i = 0; i < n; i++) {
		uint64_t line = random_below(100) < loop ? 0 : 1 + random_below(lines);
		struct ovm_prof_sample sample = {{0x1000 + line * 64 + random_below(64)}, 1};
		ovm_vec_push(&module->samples, sample);
	}
	profile->n_samples = n;
	ovm_profile_normalize(profile);
	struct ovm_footprint f = ovm_footprint(profile);
	ovm_profile_free(profile);
	return f;
}

static void test_empty(void **state)
{
	(void)state;
	struct ovm_footprint f = sampled(0, 1, 0);
	assert_int_equal(f.n_samples, 0);
	assert_true(ovm_footprint_may_gain(&f));
}

static void test_size(void **state)
{
	(void)state;
	static const uint32_t lines[] = {1, 10, 300, 3000};
	static const uint32_t samples[] = {1000, 4000, 20000};
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		for (size_t k = 0; k < sizeof(samples) / sizeof(samples[0]); k++) {
			struct ovm_footprint f = sampled(samples[k], lines[i], 0);
			assert_true(f.lines > 0.75 * lines[i] && f.lines < 1.25 * lines[i]);
			assert_true(f.pages <= f.lines + 1);
			assert_int_equal(ovm_footprint_may_gain(&f), lines[i] >= 300);
		}
}

static void test_loop_in_large_program(void **state)
{
	(void)state;
	struct ovm_footprint f = sampled(3000, 20000, 50); /* half of the time in one line */
	assert_true(f.lines < 10);
	assert_true(f.outside > 0.4);
	assert_true(ovm_footprint_may_gain(&f));
	assert_true(ovm_footprint_gain(&f) < -0.1 && ovm_footprint_gain(&f) > -0.3);
	f = sampled(3000, 20000, 97);
	assert_false(ovm_footprint_may_gain(&f));
	assert_true(ovm_footprint_gain(&f) > -0.03);
	f = sampled(300, 100000, 0); /* everything seen once: promises no more than was ever seen */
	assert_true(ovm_footprint_gain(&f) > -0.2);
}

static void test_few(void **state)
{
	(void)state;
	struct ovm_footprint f = sampled(100, 3, 0);
	assert_true(ovm_footprint_may_gain(&f));
	assert_true(!(ovm_footprint_gain(&f) < 0));
}

/* The mass is what counts, not how it is listed. */
static void test_counts(void **state)
{
	(void)state;
	struct ovm_profile *profile = ovm_profile_new();
	struct ovm_prof_module *module = ovm_profile_module(profile, "00", "/x");
	ovm_vec_push(&module->samples, ((struct ovm_prof_sample){{0x1000}, 600}));
	ovm_vec_push(&module->samples, ((struct ovm_prof_sample){{0x103f}, 400}));
	ovm_vec_push(&module->samples, ((struct ovm_prof_sample){{0x1040}, 1000}));
	struct ovm_footprint f = ovm_footprint(profile);
	assert_int_equal(f.n_samples, 2000);
	assert_int_equal(f.n_lines, 2);
	assert_int_equal(f.n_pages, 1);
	assert_true(fabs(f.lines - 2) < 0.01 && fabs(f.pages - 1) < 0.01 && f.outside < 0.001);
	ovm_profile_free(profile);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty), cmocka_unit_test(test_size),
	    cmocka_unit_test(test_loop_in_large_program), cmocka_unit_test(test_few),
	    cmocka_unit_test(test_counts)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
