/* Verdicts on pairs of measurements: known intervals, outliers, and how often pure noise is taken for a loss. */
#include "runtime/verdict.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void test_nothing(void **state)
{
	(void)state;
	double logs[1] = {-0.5};
	struct ovm_verdict v = ovm_verdict(logs, 0, 0.01);
	assert_true(v.ratio == 1 && v.n_pairs == 0 && isinf(v.hi));
	v = ovm_verdict(logs, 1, 0.01); /* one pair says nothing for certain */
	assert_true(fabs(v.ratio - exp(-0.5)) < 1e-12 && v.lo == 0 && isinf(v.hi));
	assert_false(ovm_verdict_is_gain(&v) || ovm_verdict_is_loss(&v, 0.01));
}

static void test_interval(void **state)
{
	(void)state;
	/* n = 8: 256 signs; the sums 0 and 1 of the ranks have chance 1/256 each, 2 too: at 0.01 two averages are left out */
	double logs[8] = {0.08, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07};
	struct ovm_verdict v = ovm_verdict(logs, 8, 0.01);
	assert_true(fabs(log(v.ratio) - 0.045) < 1e-12);
	assert_true(fabs(log(v.lo) - 0.015) < 1e-12); /* 0.01, then (0.01 + 0.02) / 2 */
	assert_true(fabs(log(v.hi) - 0.075) < 1e-12);
	assert_true(ovm_verdict_is_loss(&v, 0.01));
	assert_false(ovm_verdict_is_loss(&v, 0.05));
	v = ovm_verdict(logs, 8, 0.003); /* less than 1/256: nothing can be said */
	assert_true(v.lo == 0 && isinf(v.hi));
}

/* A pair that was disturbed does not turn the verdict round. */
static void test_outlier(void **state)
{
	(void)state;
	double logs[16];
	for (int i = 0; i < 16; i++)
		logs[i] = -0.10 + 0.002 * i;
	logs[3] = 3;
	struct ovm_verdict v = ovm_verdict(logs, 16, 0.01);
	assert_true(ovm_verdict_is_gain(&v));
	assert_true(v.ratio > 0.90 && v.ratio < 0.94);
}

/* Bayes' rule for two normal distributions; pairs that say nothing change nothing. */
static void test_belief(void **state)
{
	(void)state;
	const struct ovm_belief before = {-0.03, 0.05};
	double logs[64];
	struct ovm_belief b = ovm_belief_update(before, logs, 0);
	assert_true(b.mean == before.mean && b.sd == before.sd);
	logs[0] = 0.5;
	b = ovm_belief_update(before, logs, 1);
	assert_true(b.mean == before.mean && b.sd == before.sd);
	for (int i = 0; i < 64; i++) /* a standard error of about 0.2 * sqrt(12) / 12 / 8 * 1.02 */
		logs[i] = 0.02 + (i - 31.5) / 64 * 0.2;
	b = ovm_belief_update(before, logs, 64);
	assert_true(b.mean > 0.015 && b.mean < 0.02);
	assert_true(b.sd > 0.005 && b.sd < 0.01);
	assert_true(ovm_belief_slower(b) > 0.95);
	for (int i = 0; i < 64; i++) /* twenty times as wide: hardly worth anything */
		logs[i] = 0.02 + (i - 31.5) / 64 * 4;
	b = ovm_belief_update(before, logs, 64);
	assert_true(b.mean < -0.015 && b.mean > before.mean && b.sd < before.sd);
	for (int i = 0; i < 64; i++)
		logs[i] = 0.01;
	b = ovm_belief_update(before, logs, 64); /* beyond doubt */
	assert_true(fabs(b.mean - 0.01) < 1e-12 && ovm_belief_slower(b) == 1);
	assert_true(fabs(ovm_belief_slower((struct ovm_belief){0, 0.1}) - 0.5) < 1e-12);
	assert_true(fabs(ovm_belief_slower((struct ovm_belief){-0.05, 0.05}) - 0.158655) < 1e-5);
	assert_true(ovm_belief_slower((struct ovm_belief){0, 0}) == 0);
}

static void test_most(void **state)
{
	(void)state;
	double logs[OVM_VERDICT_MAX];
	for (int i = 0; i < OVM_VERDICT_MAX; i++)
		logs[i] = (i - (OVM_VERDICT_MAX - 1) / 2.0) / 100;
	struct ovm_verdict v = ovm_verdict(logs, OVM_VERDICT_MAX, 0.01);
	assert_true(fabs(v.ratio - 1) < 1e-9 && v.lo < 1 && v.hi > 1);
}

static uint64_t random_state = 88172645463325252u;
static double random_share(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (double)(random_state >> 11) / 9007199254740992.0;
}

/* Noise with heavy tails, 20000 times: wrong verdicts are as rare as promised. A true loss of 5 % is mostly seen. */
static void test_errors(void **state)
{
	(void)state;
	double logs[32];
	int wrong = 0, seen = 0;
	for (int trial = 0; trial < 20000; trial++) {
		for (int k = 0; k < 2; k++) {
			for (int i = 0; i < 32; i++)
				logs[i] = 0.02 * tan(2.8 * (random_share() - 0.5)) + 0.05 * k;
			struct ovm_verdict v = ovm_verdict(logs, 32, 0.01);
			wrong += k == 0 && ovm_verdict_is_loss(&v, 0.0);
			seen += k == 1 && ovm_verdict_is_loss(&v, 0.01);
		}
	}
	assert_in_range(wrong, 100, 260); /* 200 expected, deviation 14 */
	assert_true(seen > 15000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing), cmocka_unit_test(test_interval), cmocka_unit_test(test_outlier), cmocka_unit_test(test_belief),
					   cmocka_unit_test(test_most), cmocka_unit_test(test_errors)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
