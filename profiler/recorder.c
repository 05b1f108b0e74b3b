/* Record a program from its exec to its end.
 *
 *   fork, wait -> open the sampler on it -> exec -> drain, drain, drain ... it ends -> stop, last
 * drain -> profile
 *
 * The program comes first: once it runs, nothing that goes wrong here may keep it from running to
 * its end and giving its status. So a sampler that cannot be opened is a message, not a reason to
 * give up.
 */
#define OVM_LOG_DOMAIN "record"
#include "profiler/recorder.h"
#include "base/clock.h"
#include "base/log.h"
#include "profiler/launch.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

enum {
	DRAIN_MS = 100,
	URGENT_MS = 20, /* a hook that wants its next step sooner is not kept waiting */
};

/* A copy of what the sampler saw, with what the hook found; normalized. */
static struct ovm_profile *take_profile(struct ovm_ctx *ctx, const struct ovm_recorder_opts *opts,
					struct ovm_sampler *sampler)
{
	struct ovm_profile *copy = ovm_profile_new();
	ovm_sampler_stop(sampler);
	ovm_sampler_drain(ctx, sampler, 0);
	ovm_profile_merge(copy, ovm_sampler_profile(sampler));
	if (opts->hook)
		opts->hook->finish(opts->hook->arg, copy);
	return copy;
}

/* Drain, do what is not urgent. False if the sampler failed. */
static bool drain(struct ovm_ctx *ctx, const struct ovm_recorder_opts *opts,
		  struct ovm_sampler *sampler)
{
	int patience = opts->hook ? opts->hook->patience(opts->hook->arg) : DRAIN_MS;
	if (ovm_sampler_drain(ctx, sampler, patience))
		return false;
	if (opts->spare && patience > URGENT_MS && !ovm_sampler_is_tracer(sampler))
		opts->spare(opts->spare_arg, sampler);
	return true;
}

static bool has_ended(const struct ovm_recorder_opts *opts, struct ovm_sampler *sampler, pid_t pid,
		      int *wstatus)
{
	return ovm_sampler_wait(sampler, wstatus) ||
	       (opts->hook && opts->hook->step(opts->hook->arg, sampler, pid, wstatus));
}

static int wait_unsampled(pid_t pid)
{
	int wstatus = 0;
	while (waitpid(pid, &wstatus, 0) < 0 && errno == EINTR)
		;
	return wstatus;
}

/* Drain until the program ends; after @duration seconds the events are disabled and we only wait.
 */
static int sample_to_end(struct ovm_ctx *ctx, const struct ovm_recorder_opts *opts,
			 struct ovm_sampler *sampler, pid_t pid, struct ovm_profile **profile)
{
	double until = opts->duration > 0 ? ovm_now_s() + opts->duration : 0;
	int wstatus = 0;
	while (!has_ended(opts, sampler, pid, &wstatus)) {
		if (until > 0 && ovm_now_s() >= until) {
			*profile = take_profile(ctx, opts, sampler);
			return has_ended(opts, sampler, pid, &wstatus) ? wstatus
								       : wait_unsampled(pid);
		}
		if (!drain(ctx, opts, sampler))
			return wait_unsampled(pid);
	}
	*profile = take_profile(ctx, opts, sampler);
	return wstatus;
}

int ovm_record_command(struct ovm_ctx *ctx, const struct ovm_recorder_opts *opts,
		       char *const argv[], struct ovm_profile **profile, int *wstatus,
		       int *exit_status)
{
	struct ovm_launch launch;
	struct ovm_sampler *sampler = NULL;
	struct ovm_profile *made = NULL;

	*exit_status = 125;
	int rc = ovm_launch_start(ctx, argv, &launch);
	if (rc)
		return rc;
	ovm_launch_signals(launch.pid);
	(void)ovm_sampler_open(ctx, &opts->sampler, launch.pid, false, &sampler);
	struct ovm_ctx not_sampled = *ctx; /* kept: ctx->msg is needed if the exec fails as well */
	if (sampler && opts->hook)
		opts->hook->prepare(opts->hook->arg, launch.pid);
	rc = ovm_launch_go(ctx, &launch, exit_status);
	if (!rc) {
		if (!sampler)
			*ctx = not_sampled;
		else if (opts->hook)
			opts->hook->begin(opts->hook->arg);
		*wstatus = sampler ? sample_to_end(ctx, opts, sampler, launch.pid, &made)
				   : wait_unsampled(launch.pid);
		*profile = made;
	}
	ovm_sampler_close(sampler);
	ovm_launch_signals_release();
	return rc;
}

/* --- a running process
 * --------------------------------------------------------------------------------------- */

static volatile sig_atomic_t is_asked_to_end; /* a handler has no context argument */

static void ask_to_end(int sig)
{
	(void)sig;
	is_asked_to_end = 1;
}

int ovm_record_process(struct ovm_ctx *ctx, const struct ovm_recorder_opts *opts, pid_t pid,
		       struct ovm_profile **profile)
{
	struct ovm_sampler *sampler = NULL;
	struct sigaction end = {.sa_handler = ask_to_end}, saved_int, saved_term;
	int wstatus;
	int rc = ovm_sampler_open(ctx, &opts->sampler, pid, true, &sampler);
	if (rc)
		return rc;
	is_asked_to_end = 0;
	sigaction(SIGINT, &end, &saved_int);
	sigaction(SIGTERM, &end, &saved_term);
	double until = opts->duration > 0 ? ovm_now_s() + opts->duration : 0;
	while (!is_asked_to_end && !has_ended(opts, sampler, pid, &wstatus) &&
	       (until <= 0 || ovm_now_s() < until))
		if (!drain(ctx, opts, sampler)) {
			rc = ctx->err;
			break;
		}
	if (!rc)
		*profile = take_profile(ctx, opts, sampler);
	sigaction(SIGINT, &saved_int, NULL);
	sigaction(SIGTERM, &saved_term, NULL);
	ovm_sampler_close(sampler);
	return rc;
}
