#ifndef OVM_VALUES_H
#define OVM_VALUES_H
/* Counted targets of indirect calls (rewriter/value.h), from run-time addresses to a profile. */
#include "runtime/builder.h"

/* The module of @profile that was seen at @path; NULL if there is none. */
struct ovm_prof_module *ovm_profile_at(struct ovm_profile *profile, const char *path);

/* Append to @profile's modules, for each target in @counters (all of @m's): (call, target, count)
 * if it is in @m's own module; and (0, target, count), whatever module it is in, unless it is among
 * @counted: that has a counter of its own. Targets in what @map or @profile do not know are left
 * out, and so is the number of the targets that found no place: the call's block tells it. */
void ovm_values_to_profile(const struct ovm_built_module *m, const uint64_t *counters,
			   const struct ovm_livemap *map, const struct ovm_counted *counted,
			   struct ovm_profile *profile);

#endif
