#ifndef OVM_COUNTPACE_H
#define OVM_COUNTPACE_H
/* How much counting a recording can bear: when the next window is due, and whether one more build of
 * instrumented copies is worth its time. */
#include "runtime/builder.h"

/* Time and builds are spread over the whole recording, not over each process. */
struct ovm_count_pace {
	double started_at, next_window_at; /* ms, see ovm_now_ms */
	double armed_ms, build_ms;	   /* so far; the CPU time of the last build */
	uint32_t n_builds;
	uint64_t next_build; /* samples of the recording */
	double outside; /* share of the samples in no copy, after the last build; < 0: not looked */
};

/* A window of @ms milliseconds has ended at @now: plan the next one. */
void ovm_pace_window(struct ovm_count_pace *pace, double ms, double now);

/* A build begins, with @n_samples of the recording. */
void ovm_pace_build(struct ovm_count_pace *pace, uint64_t n_samples);

/* Share of the @samples, of modules that are large enough to be chosen, that are in none of the
 * copies of @built[@n]; 1 without samples. */
double ovm_pace_outside(const struct ovm_built *const *built, uint32_t n,
			const struct ovm_profile *samples);

/* Whether a third build or a later one pays, if @outside is that share now. If not, it is considered
 * again when there are more samples. */
bool ovm_pace_is_worth(struct ovm_count_pace *pace, double outside,
		       const struct ovm_profile *samples);

#endif
