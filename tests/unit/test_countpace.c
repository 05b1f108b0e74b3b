/* Windows within their share of the time; builds only where they pay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/countpace.h"
#include "runtime/tunables.h"

static void test_windows(void **state)
{
	struct ovm_count_pace pace = {.started_at = 1000};
	(void)state;
	ovm_pace_window(&pace, OVM_RT_WINDOW_FREE_MS, 2000); /* free: only the least rest */
	assert_true(pace.next_window_at == 2000 + OVM_RT_WINDOW_REST_MS);
	ovm_pace_window(&pace, 120, 3000); /* the budget of 120 * 100 / 3 ms */
	assert_true(pace.next_window_at == 1000 + 120.0 * 100 / OVM_RT_WINDOW_PERCENT);
	assert_true(pace.armed_ms == OVM_RT_WINDOW_FREE_MS + 120);
}

static void test_builds(void **state)
{
	struct ovm_profile *samples = ovm_profile_new();
	struct ovm_count_pace pace = {.build_ms = 1000};
	(void)state;
	samples->frequency = 1000;
	samples->n_samples = 10000; /* 10 s */
	ovm_pace_build(&pace, 10000);
	assert_int_equal(pace.n_builds, 1);
	assert_int_equal(pace.next_build, 100 * OVM_RT_COUNT_GROWTH);
	assert_false(ovm_pace_is_worth(&pace, 0.4, samples)); /* the first look only remembers */
	samples->n_samples = 14000;
	assert_false(ovm_pace_is_worth(&pace, 0.45, samples)); /* 0.7 s more: less than a build */
	assert_int_equal(pace.next_build, 140 * OVM_RT_COUNT_GROWTH);
	assert_true(ovm_pace_is_worth(&pace, 0.5, samples)); /* 1.4 s */
	samples->n_samples = 1000000;
	assert_false(ovm_pace_is_worth(&pace, 0.401, samples)); /* long, but too small a share */
	ovm_profile_free(samples);
}

static void test_outside(void **state)
{
	struct ovm_profile *samples = ovm_profile_new();
	(void)state;
	assert_true(ovm_pace_outside(NULL, 0, samples) == 1);
	struct ovm_prof_module *m = ovm_profile_module(samples, "aa", "/bin/a");
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(0x1000), 5});
	samples->n_samples = 5;
	assert_true(ovm_pace_outside(NULL, 0, samples) == 1);
	ovm_profile_free(samples);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_windows),
					   cmocka_unit_test(test_builds),
					   cmocka_unit_test(test_outside)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
