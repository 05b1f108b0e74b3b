#ifndef OVM_FOOTPRINT_H
#define OVM_FOOTPRINT_H
/* How much code a program needs at hand to get on, estimated from samples: will a new layout gain
 * anything? */
#include "profiler/profile.h"

struct ovm_footprint {
	uint64_t n_samples;	   /* in modules */
	uint32_t n_lines, n_pages; /* distinct ones seen, of 64 and 4096 bytes */
	double lines, pages; /* effective numbers (see footprint.c), independent of n_samples */
	double
	    outside; /* share of the samples that the hottest 512 lines (32 KiB) do not explain */
};

struct ovm_footprint ovm_footprint(const struct ovm_profile *profile);

/* The natural logarithm of (time after / time before) that rewriting such a program gave as a rule;
 * 0 if the samples are too few to tell. */
double ovm_footprint_gain(const struct ovm_footprint *footprint);

/* False: the hot code is so small that its order does not matter. True also if the samples are too
 * few to tell. */
bool ovm_footprint_may_gain(const struct ovm_footprint *footprint);

#endif
