#ifndef OVM_MEASURE_H
#define OVM_MEASURE_H
/* Is the process faster with its optimized code? Measured in the process itself, by turns. */
#include "runtime/generation.h"
#include "runtime/verdict.h"

struct ovm_measure_opts {
	uint32_t reference, optimized; /* generations: gauged copies in original order (OVM_NONE:
					  none), the new one */
	struct ovm_belief prior; /* of the ratio, before anything is measured */
	int max_pause_ms;
	const char *metric; /* a command that prints a number which grows with the work done; NULL:
			       gauges */
	bool (*is_over)(void *arg); /* the process has ended, or we shall */
	void *arg;
};

struct ovm_measured {
	struct ovm_verdict verdict; /* n_pairs 0: not measured */
	uint32_t n_gauges;	    /* 0: a metric */
	double took_s, max_pause_ms;
	bool is_loss;	   /* and undone: the process runs its original code */
	bool is_certain;   /* the verdict, not only likely */
	char why_not[160]; /* not measured; empty if it was */
};

/* Arm reference and optimized code by turns until it is clear which is faster, or as long as is
 * reasonable. Afterwards the optimized code is armed, but after a loss, or where one is more likely
 * than not, nothing is. Fails like
 * ovm_switch; the process then runs one or the other. */
int ovm_measure(struct ovm_ctx *ctx, struct ovm_generations *set,
		const struct ovm_measure_opts *opts, struct ovm_measured *out);

#endif
