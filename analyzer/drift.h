#ifndef OVM_DRIFT_H
#define OVM_DRIFT_H
/* How different are two profiles of the same program? */
#include "profiler/profile.h"

/* Share of the samples that would have to be elsewhere to make one profile of the other: 0 the
 * same, 1 nothing in common. By pages of 4 KiB that hold at least a hundredth of either; of others
 * neighbours count as one. Both normalized. 1 if either is empty. */
double ovm_drift(const struct ovm_profile *a, const struct ovm_profile *b);

#endif
