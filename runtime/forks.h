#ifndef OVM_FORKS_H
#define OVM_FORKS_H
/* Children forked while a generation was armed: they run it for ever unless somebody tells them. */
#include "runtime/generation.h"

struct ovm_forks_result {
	uint32_t n_switched; /* processes brought to the parent's state */
	uint32_t n_failed;   /* found, but they could not be stopped or changed in time */
};

/* Call after a switch that disarmed a generation with counters. Finds the processes that share its
 * counters (other than @set's own), and switches each to what is armed in @set, until no new one is
 * found or @timeout_ms have passed. The generation's counters must still be open. Never fails: a
 * child that cannot be reached stays correct, only slower. Returns quickly if there are none. */
void ovm_forks_follow(struct ovm_ctx *ctx, const struct ovm_generations *set, int max_pause_ms,
		      int timeout_ms, struct ovm_forks_result *out);

/* Does any other process share counters with @set's? */
bool ovm_forks_any(const struct ovm_generations *set);

#endif
