/* Times on a machine that others use too are no normal distribution: most pairs agree within a few
 * percent, some are off by half. A mean and its deviation are worth nothing then. Wilcoxon's signed
 * ranks only need the noise to be as often for as against:
 *
 *   logs      d1 d2 d3 ...                           of time after / time before
 *   averages  (di + dj) / 2 for all i <= j, sorted   their middle one is the estimate
 *   interval  the k-th from below and from above     k from the exact distribution of the ranks
 *
 * The distribution: each of the ranks 1..n has either sign with probability one half, so the number
 * of ways to reach each sum is the product of (1 + x^rank).
 *
 * Certainty takes many pairs, and each costs the process time. Before that there is a belief: what
 * optimizing does to programs as a rule, corrected by what was measured as far as that can be
 * relied on.
 *
 *   before   mean m, variance v                 after   weight w = v / (v + e^2)
 *   pairs    estimate x, standard error e               mean   w x + (1 - w) m, variance (1 - w) v
 *
 * The error is half of the interval that the truth lies in with the chance of one sigma.
 *
 * Reference: Hodges and Lehmann 1963, "Estimates of location based on rank tests".
 */
#include "runtime/verdict.h"
#include "base/err.h"
#include "base/vec.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* How many of the averages to leave out at each end. */
static uint32_t count_outside(uint32_t n, double error)
{
	uint32_t n_sums = n * (n + 1) / 2 + 1, k = 0;
	double *chance = ovm_alloc_array(n_sums, sizeof(*chance)); /* of each sum of ranks */
	double below = 0;
	chance[0] = 1;
	for (uint32_t rank = 1; rank <= n; rank++)
		for (uint32_t s = n_sums; s-- > 0;)
			chance[s] = chance[s] / 2 + (s >= rank ? chance[s - rank] / 2 : 0);
	while (k < n_sums && (below += chance[k]) <= error)
		k++;
	free(chance);
	return k;
}

struct ovm_verdict ovm_verdict(double *logs, uint32_t n, double error)
{
	struct ovm_verdict v = {.n_pairs = n, .ratio = 1, .lo = 0, .hi = HUGE_VAL};
	uint32_t n_averages = 0;
	double *averages;
	OVM_ASSERT(n <= OVM_VERDICT_MAX);
	if (!n)
		return v;
	averages = ovm_alloc_array((size_t)n * (n + 1) / 2, sizeof(*averages));
	qsort(logs, n, sizeof(*logs), by_value);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t j = i; j < n; j++)
			averages[n_averages++] = (logs[i] + logs[j]) / 2;
	qsort(averages, n_averages, sizeof(*averages), by_value);
	v.ratio = exp((averages[(n_averages - 1) / 2] + averages[n_averages / 2]) / 2);
	uint32_t k = count_outside(n, error);
	if (k) {
		v.lo = exp(averages[k - 1]);
		v.hi = exp(averages[n_averages - k]);
	}
	free(averages);
	return v;
}

struct ovm_belief ovm_belief_update(struct ovm_belief before, double *logs, uint32_t n)
{
	const double beyond_sigma = 0.15866; /* of a normal distribution, on each side */
	struct ovm_verdict v = ovm_verdict(logs, n, beyond_sigma);
	if (v.lo <= 0)
		return before;
	double error = (log(v.hi) - log(v.lo)) / 2, variance = before.sd * before.sd;
	double weight = variance / (variance + error * error);
	return (struct ovm_belief){weight * log(v.ratio) + (1 - weight) * before.mean,
				   sqrt((1 - weight) * variance)};
}

double ovm_belief_slower(struct ovm_belief belief)
{
	if (belief.sd <= 0)
		return belief.mean > 0 ? 1 : 0;
	return erfc(-belief.mean / belief.sd / sqrt(2)) / 2;
}

bool ovm_verdict_is_loss(const struct ovm_verdict *v, double tolerance)
{
	return v->lo > 1 && v->ratio > 1 + tolerance;
}

bool ovm_verdict_is_gain(const struct ovm_verdict *v)
{
	return v->hi < 1;
}
