#ifndef OVM_GAUGE_H
#define OVM_GAUGE_H
/* Which entries of code to count, to see how fast a process gets on. */
#include "runtime/builder.h"

/* Entries in @profile, counted exactly for @counted_ms, that are frequent enough to measure by and
 * rare enough to cost nothing. Free the list with ovm_vec_free(&out->v). */
void ovm_gauges_choose(const struct ovm_profile *profile, double counted_ms,
		       const struct ovm_livemap *map, struct ovm_gauges *out);

#endif
