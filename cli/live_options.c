#include "cli/live_options.h"
#include "cli/passes.h"
#include "cli/summary.h"
#include "runtime/events.h"
#include "runtime/tunables.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

int ovm_live_options(struct ovm_ctx *ctx, const struct ovm_options *opts,
		     struct ovm_sampler_opts *sampler, struct ovm_round_opts *round)
{
	struct ovm_sampler_opts s = {.event = opts->value[OVM_OPT_EVENT],
				     .force_ptrace = ovm_option_given(opts, OVM_OPT_PTRACE)};
	struct ovm_round_opts r = {.uniform = ovm_option_given(opts, OVM_OPT_UNIFORM),
				   .always = ovm_option_given(opts, OVM_OPT_ALWAYS),
				   .metric = opts->value[OVM_OPT_METRIC],
				   .only = opts->value[OVM_OPT_ONLY_MODULE],
				   .skip = opts->value[OVM_OPT_SKIP]};
	uint64_t sample_ms, max_pause, status_fd;
	enum ovm_when counters, branches;
	int err = ovm_option_u64(ctx, opts, OVM_OPT_FREQUENCY, 1, 100000, 0, &s.frequency);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_SAMPLE_MS, 1, UINT_MAX, 0, &sample_ms);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_MAX_PAUSE, 1, INT_MAX, 0, &max_pause);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_MIN_SAMPLES, 1, UINT64_MAX, 0,
				     &r.min_samples);
	if (!err)
		err = ovm_option_seconds(ctx, opts, OVM_OPT_DURATION, &r.duration);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_STATUS_FD, 1, INT_MAX, 0, &status_fd);
	if (!err)
		err = ovm_events_setup(ctx, (int)status_fd);
	if (!err)
		err = ovm_option_when(ctx, opts, OVM_OPT_COUNTERS, &counters);
	if (!err)
		err = ovm_option_when(ctx, opts, OVM_OPT_BRANCH_STACK, &branches);
	if (!err)
		err = ovm_option_passes(ctx, opts, &r.passes);
	if (err)
		return err;
	r.no_counters = counters == OVM_WHEN_OFF;
	s.branch_stack = branches == OVM_WHEN_ON    ? OVM_BRANCH_STACK_ON
			 : branches == OVM_WHEN_OFF ? OVM_BRANCH_STACK_OFF
						    : OVM_BRANCH_STACK_AUTO;
	r.sample_ms = (unsigned)sample_ms;
	r.max_pause_ms = (unsigned)max_pause;
	r.status_fd = (int)status_fd;
	*sampler = s;
	*round = r;
	return 0;
}

int ovm_live_rounds(struct ovm_ctx *ctx, const struct ovm_options *opts, unsigned fallback,
		    unsigned *out)
{
	uint64_t rounds;
	int err =
	    ovm_option_u64(ctx, opts, OVM_OPT_ROUNDS, 1, OVM_RT_MAX_ROUNDS, fallback, &rounds);
	if (err)
		return err;
	if (ovm_option_given(opts, OVM_OPT_ONCE) && rounds > 1)
		return ovm_fail(ctx, OVM_E_USAGE, "--once and --rounds=%u contradict each other",
				(unsigned)rounds);
	*out = (unsigned)rounds;
	return 0;
}

int ovm_live_pid(struct ovm_ctx *ctx, const struct ovm_options *opts, pid_t *pid)
{
	const char *name = ovm_cmd_name(opts->cmd);
	char *end;
	if (opts->n_words != 1)
		return ovm_fail(ctx, OVM_E_USAGE, "%s: %s process: optvm %s PID", name,
				opts->n_words ? "one" : "which", name);
	errno = 0;
	long x = strtol(opts->words[0], &end, 10);
	if (end == opts->words[0] || *end || x <= 0 || x > INT_MAX || errno)
		return ovm_fail(ctx, OVM_E_USAGE, "%s: '%s' is not the number of a process", name,
				opts->words[0]);
	*pid = (pid_t)x;
	return 0;
}

static void print_measured(const struct ovm_ctx *ctx, const struct ovm_measured *m)
{
	const struct ovm_verdict *v = &m->verdict;
	char by[64] = "the metric";
	if (m->n_gauges)
		snprintf(by, sizeof(by), "%u code entries", m->n_gauges);
	if (v->n_pairs)
		ovm_summary(
		    ctx,
		    "measured: time for the same work %.3f of what it was (between %.3f and "
		    "%.3f; %u pairs of windows in %.1f s, by %s)",
		    v->ratio, v->lo, v->hi, v->n_pairs, m->took_s, by);
	else if (m->why_not[0])
		ovm_summary(ctx, "not measured: %s", m->why_not);
}

void ovm_live_summary(const struct ovm_ctx *ctx, const struct ovm_round_result *r)
{
	char bytes[32];
	ovm_summary_bytes(r->overlay_bytes, bytes, sizeof(bytes));
	if (r->why_not[0])
		ovm_summary(ctx, "left as it was: %s", r->why_not);
	else if (r->is_again)
		ovm_summary(ctx,
			    "no room for more optimized code: %u regions of %u modules (%s, %u "
			    "patches) from before are used again; pause %.2f ms, %u threads, %u "
			    "moved",
			    r->n_regions, r->n_modules, bytes, r->n_patches, r->pause_ms,
			    r->n_threads, r->n_moved);
	else
		ovm_summary(
		    ctx,
		    "optimized %u regions of %u modules (%s, %u patches) %.2f s after the start, "
		    "%u of them counted for %.2f s; longest pause %.2f ms, %u threads, %u moved",
		    r->n_regions, r->n_modules, bytes, r->n_patches, r->patched_after_s,
		    r->n_counted, r->counted_ms / 1e3, r->pause_ms, r->n_threads, r->n_moved);
	print_measured(ctx, &r->measured);
	if (r->n_rounds > 1)
		ovm_summary(ctx,
			    "optimized anew %u times as the program went on; above is the last",
			    r->n_rounds - 1);
	if (r->n_others || r->n_others_left)
		ovm_summary(
		    ctx,
		    "forked from the same program: %u more have it too, %u were left as they were",
		    r->n_others, r->n_others_left);
}
