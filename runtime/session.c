/* A program's life under `optvm run`: one round of optimization, then hands off.
 *
 *   launch -> sample ... switch (round.h) -> wait
 *      |               |                      |
 *      +---------------+----------------------+--> ended: its status is ours
 *
 * Whatever goes wrong after the exec only means that the program runs unoptimized: the reason is
 * kept for the summary, and the wait goes on. At every step the program may end first; then nothing
 * is waited for. A short program costs a fork, an exec and a few perf descriptors: no decoder, no
 * map is opened before there is something to optimize.
 */
#define OVM_LOG_DOMAIN "session"
#include "runtime/session.h"
#include "base/fault.h"
#include "profiler/launch.h"
#include "runtime/report.h"
#include "runtime/tunables.h"

#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_OURS = 125 };

struct session {
	const struct ovm_session_opts *opts;
	struct ovm_round round;
	bool ended; /* wstatus is set */
	int wstatus;
	char warning[1024]; /* what the user should hear of, empty if nothing */
	enum ovm_err warning_err;
};

/* Why it was not optimized. A failure is something that the user should hear of, unless the program
 * simply ended. */
static void explain(struct session *s, const struct ovm_ctx *ctx, int rc)
{
	char *why = s->round.result.why_not;
	snprintf(why, sizeof(s->round.result.why_not), "%.199s", ctx->msg);
	if (rc < 0 && rc != OVM_E_GONE) {
		snprintf(s->warning, sizeof(s->warning), "%s", ctx->msg);
		s->warning_err = (enum ovm_err)rc;
	}
}

/* Has it ended? Never blocks. */
static bool check_ended(void *arg)
{
	struct session *s = arg;
	struct ovm_round *r = &s->round;
	int status;
	if (s->ended)
		return true;
	if (r->tracee.ended) { /* reported to the tracer, which is also the parent */
		s->wstatus = r->tracee.wstatus;
		return s->ended = true;
	}
	if (r->sampler)
		s->ended = ovm_sampler_wait(r->sampler, &s->wstatus);
	else if (waitpid(r->pid, &status, WNOHANG) == r->pid &&
		 (WIFEXITED(status) || WIFSIGNALED(status))) {
		s->wstatus = status;
		s->ended = true;
	}
	return s->ended;
}

static void wait_for_end(struct session *s)
{
	struct ovm_round *r = &s->round;
	while (!check_ended(s)) {
		bool busy = ovm_tracee_service(&r->tracee);
		struct pollfd watch = {.fd = r->watch_fd, .events = POLLIN};
		poll(&watch, 1, busy || r->watch_fd < 0 ? OVM_RT_SERVICE_MS : -1);
	}
}

/* After the end: what the user asked to keep. */
static void save(struct ovm_ctx *ctx, struct session *s)
{
	const struct ovm_round *r = &s->round;
	const struct ovm_profile *profile = r->profile	 ? r->profile
					    : r->sampler ? ovm_sampler_profile(r->sampler)
							 : NULL;
	int rc = 0;
	if (s->opts->save_profile && profile)
		rc = ovm_profile_save(ctx, profile, s->opts->save_profile);
	if (rc == 0 && s->opts->report)
		rc = ovm_live_report(ctx, s->opts->report, r, profile, &s->wstatus);
	if (rc) {
		snprintf(s->warning, sizeof(s->warning), "%s", ctx->msg);
		s->warning_err = (enum ovm_err)rc;
	}
}

/* The process is gone, and with it what is remembered of it. */
static void close_session(struct session *s)
{
	ovm_launch_signals_release();
	ovm_sampler_close(s->round.sampler);
	if (s->round.state)
		ovm_state_forget(s->round.state);
	if (s->round.watch_fd >= 0)
		close(s->round.watch_fd);
	ovm_round_fini(&s->round);
}

int ovm_session_run(struct ovm_ctx *ctx, const struct ovm_session_opts *opts, char *const argv[],
		    struct ovm_session_result *result, int *exit_status)
{
	struct ovm_launch launch;
	*result = (struct ovm_session_result){0};
	*exit_status = EXIT_OURS;
	int rc = ovm_launch_start(ctx, argv, &launch);
	if (rc)
		return rc;
	struct session s = {.opts = opts};
	struct ovm_round *r = &s.round;
	ovm_round_init(r, launch.pid);
	r->opts = &opts->round;
	r->by = "run";
	r->is_over = check_ended;
	r->arg = &s;
	r->watch_fd = (int)syscall(SYS_pidfd_open, launch.pid, 0);
	ovm_launch_signals(launch.pid);
	struct ovm_sampler_opts sampler = opts->sampler;
	sampler.frequency = sampler.frequency ? sampler.frequency : OVM_RT_FREQUENCY;
	rc = ovm_sampler_open(ctx, &sampler, launch.pid, false, &r->sampler);
	if (rc)
		explain(&s, ctx, rc);
	r->started_ms = ovm_now_ms();
	rc = ovm_launch_go(ctx, &launch, exit_status);
	if (rc) {
		close_session(&s);
		return rc;
	}
	ovm_launch_timeout(opts->timeout);
	rc = r->sampler ? ovm_round_run(ctx, r) : 0;
	if (rc)
		explain(&s, ctx, rc);
	if (r->state) /* from now on others may attach or detach */
		ovm_state_unlock(r->state);
	if (r->sampler)
		ovm_sampler_stop(r->sampler);
	wait_for_end(&s);
	OVM_FAULT(SESSION_ENDED);
	if (r->sampler)
		ovm_sampler_drain(ctx, r->sampler, 0);
	save(ctx, &s);
	result->wstatus = s.wstatus;
	result->round = r->result;
	ctx->err = s.warning_err;
	snprintf(ctx->msg, sizeof(ctx->msg), "%s", s.warning);
	close_session(&s);
	return 0;
}
