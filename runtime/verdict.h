#ifndef OVM_VERDICT_H
#define OVM_VERDICT_H
/* Is it faster? What pairs of measurements allow to say, and no more. */
#include <stdbool.h>
#include <stdint.h>

enum { OVM_VERDICT_MAX = 128 }; /* pairs */

struct ovm_verdict {
	uint32_t n_pairs;
	double ratio; /* time after / time before, for the same work; 1 if nothing is known */
	double lo,
	    hi; /* it lies between these but for a chance of 2 * @error; 0 and HUGE_VAL: no idea */
};

/* @logs: the natural logarithm of (time after / time before) of @n <= OVM_VERDICT_MAX independent
 * pairs, in any order (sorted here). @error: the chance that the truth is below lo, and that it is
 * above hi. */
struct ovm_verdict ovm_verdict(double *logs, uint32_t n, double error);

/* What is believed of the logarithm of the ratio: a normal distribution. */
struct ovm_belief {
	double mean, sd;
};

/* @before: what was believed before the pairs were measured, by Bayes' rule what is then. Pairs
 * that agree well outweigh it, a few that do not leave it as it is. @logs as above. */
struct ovm_belief ovm_belief_update(struct ovm_belief before, double *logs, uint32_t n);

/* The chance that it is slower. */
double ovm_belief_slower(struct ovm_belief belief);

/* Certainly slower, and by more than @tolerance (0.01: 1 %). Certainly faster. */
bool ovm_verdict_is_loss(const struct ovm_verdict *verdict, double tolerance);
bool ovm_verdict_is_gain(const struct ovm_verdict *verdict);

#endif
