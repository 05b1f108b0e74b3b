#ifndef OVM_LIVE_OPTIONS_H
#define OVM_LIVE_OPTIONS_H
/* What run and attach have in common on the command line. */
#include "cli/options.h"
#include "runtime/round.h"

/* OVM_E_USAGE: message in ctx. */
int ovm_live_options(struct ovm_ctx *ctx, const struct ovm_options *opts,
		     struct ovm_sampler_opts *sampler, struct ovm_round_opts *round);

/* --rounds, else @fallback. OVM_E_USAGE: not 1 to OVM_RT_MAX_ROUNDS, or --once too. */
int ovm_live_rounds(struct ovm_ctx *ctx, const struct ovm_options *opts, unsigned fallback,
		    unsigned *out);

/* The one operand as the pid of a process. OVM_E_USAGE: not one, or no number. */
int ovm_live_pid(struct ovm_ctx *ctx, const struct ovm_options *opts, pid_t *pid);

/* The summary line. */
void ovm_live_summary(const struct ovm_ctx *ctx, const struct ovm_round_result *result);

#endif
