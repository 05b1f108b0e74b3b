/* A program's life under `optvm run`: a round of optimization, then a look now and then whether
 * another one is due (watch.h).
 *
 *   launch -> sample ... switch (round.h) -> wait and watch -> sample ... switch -> ...
 *      |               |                      |
 *      +---------------+----------------------+--> ended: its status is ours
 *
 * If what it execs is followed too, no process is the one from the beginning:
 *
 *   launch -> wait -> somebody is busy (follow.h): a round for that one -> wait -> ...
 *
 * Whatever goes wrong after the exec only means that a process runs unoptimized: the reason is
 * kept for the summary, and the wait goes on. At every step the program may end first; then nothing
 * is waited for. A short program costs a fork, an exec and a few perf descriptors: no decoder, no
 * map is opened before there is something to optimize.
 */
#define OVM_LOG_DOMAIN "session"
#include "runtime/session.h"
#include "base/fault.h"
#include "base/log.h"
#include "profiler/launch.h"
#include "runtime/events.h"
#include "runtime/follow.h"
#include "runtime/procstat.h"
#include "runtime/report.h"
#include "runtime/tunables.h"
#include "runtime/watch.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { EXIT_OURS = 125 };

struct session {
	const struct ovm_session_opts *opts;
	pid_t pid;    /* the program */
	int watch_fd; /* its pidfd, -1 none */
	bool ended;   /* wstatus is set */
	int wstatus;
	OVM_VEC(struct ovm_round *) rounds; /* one a process; owned */
	struct ovm_round *main;		    /* of them: the one to tell of */
	struct ovm_follow follow;
	struct ovm_live_processes
	    *processes;		     /* of the report; NULL: only the main one is told of */
	struct ovm_profile *profile; /* of all that are over, if it is to be saved */
	uint32_t n_optimized;
	char warning[1024]; /* what the user should hear of, empty if nothing */
	enum ovm_err warning_err;
};

static void warn(struct session *s, const struct ovm_ctx *ctx, int rc)
{
	snprintf(s->warning, sizeof(s->warning), "%s", ctx->msg);
	s->warning_err = (enum ovm_err)rc;
}

/* Why it was not optimized. A failure is something that the user should hear of, unless the program
 * simply ended. */
static void explain(struct session *s, struct ovm_round *r, const struct ovm_ctx *ctx, int rc)
{
	char *why = r->result.why_not;
	snprintf(why, sizeof(r->result.why_not), "%.199s", ctx->msg);
	if (rc < 0 && rc != OVM_E_GONE && !s->opts->follows_exec)
		warn(s, ctx, rc);
}

/* Has the program ended? Never blocks. Its end is reported to whoever traces or samples it. */
static bool check_ended(struct session *s)
{
	bool is_sampled = false;
	for (uint32_t i = 0; i < s->rounds.n && !s->ended; i++) {
		const struct ovm_round *r = s->rounds.v[i];
		bool is_traced = r->pid == s->pid && r->tracee.ended;
		if (is_traced || r->root_ended) {
			s->wstatus = is_traced ? r->tracee.wstatus : r->root_wstatus;
			s->ended = true;
		} else if (r->sampler) {
			is_sampled = true;
			s->ended = ovm_sampler_reap(r->sampler, &s->wstatus);
		}
	}
	if (!s->ended && !is_sampled)
		s->ended = ovm_launch_reap(s->pid, &s->wstatus);
	return s->ended;
}

/* Threads that are half stopped are let go. True: look again soon. */
static bool service(struct session *s)
{
	bool busy = false;
	for (uint32_t i = 0; i < s->rounds.n; i++)
		busy |= ovm_tracee_service(&s->rounds.v[i]->tracee);
	return busy;
}

/* Until something may have happened, at most @ms (-1: without end). */
static void wait_a_little(struct session *s, int ms)
{
	struct pollfd watch = {.fd = s->watch_fd, .events = POLLIN};
	bool busy = service(s);
	poll(&watch, 1, busy || s->watch_fd < 0 ? OVM_RT_SERVICE_MS : ms);
}

/* --- rounds
 * --------------------------------------------------------------------------------------------------
 */

struct in_session { /* what a round is over by */
	struct ovm_round round;
	struct session *session;
};

static bool is_round_over(void *arg)
{
	struct in_session *in = arg;
	struct pollfd watch = {.fd = in->round.watch_fd, .events = POLLIN};
	return check_ended(in->session) || in->round.tracee.ended ||
	       (in->round.pid != in->session->pid && poll(&watch, 1, 0) > 0);
}

static struct ovm_round *new_round(struct session *s, pid_t pid)
{
	struct in_session *in = ovm_alloc(sizeof(*in));
	struct ovm_round *r = &in->round;
	in->session = s;
	ovm_round_init(r, pid);
	r->opts = &s->opts->round;
	r->root = s->pid;
	r->by = "run";
	r->is_over = is_round_over;
	r->arg = in;
	r->watch_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	r->started_ms = ovm_now_ms();
	ovm_vec_push(&s->rounds, r);
	s->main = r;
	return r;
}

static int open_sampler(struct ovm_ctx *ctx, struct session *s, struct ovm_round *r)
{
	r->sampling = &s->opts->sampler;
	r->child = s->pid;
	return ovm_round_open_sampler(ctx, r, 0, false, &r->sampler);
}

static int run_round(struct ovm_ctx *ctx, struct session *s, struct ovm_round *r)
{
	int rc = ovm_round_run(ctx, r);
	if (rc)
		explain(s, r, ctx, rc);
	if (r->state) /* from now on others may attach or detach */
		ovm_state_unlock(r->state);
	return rc;
}

/* --- whoever is busy
 * ----------------------------------------------------------------------------------------- */

static void forget_round(struct session *s, uint32_t idx)
{
	struct ovm_round *r = s->rounds.v[idx];
	if (r->state && ovm_proc_start(r->pid) != r->state->start)
		ovm_state_forget(r->state); /* the process is gone, and what is remembered of it */
	if (r->watch_fd >= 0)
		close(r->watch_fd);
	ovm_sampler_close(r->sampler);
	ovm_round_fini(r);
	free(r->arg);
}

/* Of the rounds before only what has to be undone or told is kept. */
static void tidy(struct session *s)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < s->rounds.n; i++) {
		struct ovm_round *r = s->rounds.v[i];
		bool is_gone =
		    r->watch_fd < 0 ||
		    poll(&(struct pollfd){.fd = r->watch_fd, .events = POLLIN}, 1, 0) > 0;
		if (r != s->main && is_gone && r->pid != s->pid) {
			forget_round(s, i);
			continue;
		}
		if (r != s->main)
			ovm_round_forget(r);
		s->rounds.v[kept++] = r;
	}
	s->rounds.n = kept;
}

static void tell(struct session *s, struct ovm_round *r, struct ovm_round *before)
{
	bool is_optimized = !r->result.why_not[0];
	ovm_live_processes_add(s->processes, r, r->profile);
	if (s->opts->save_profile && r->profile) {
		if (!s->profile)
			s->profile = ovm_profile_new();
		ovm_profile_merge(s->profile, r->profile);
	}
	s->n_optimized += is_optimized;
	if (!is_optimized && before && !before->result.why_not[0])
		s->main = before;
}

static void follow_one(struct ovm_ctx *ctx, struct session *s, pid_t pid)
{
	struct ovm_round *before = s->main, *r = new_round(s, pid);
	OVM_FAULT(FOLLOW_FOUND);
	r->is_running = true;
	r->patience_ms = OVM_RT_FOLLOW_MS;
	int rc = open_sampler(ctx, s, r);
	if (rc)
		explain(s, r, ctx, rc);
	else
		run_round(ctx, s, r);
	bool is_over = is_round_over(r->arg);
	ovm_round_end_sampling(ctx, r);
	ovm_follow_done(&s->follow, is_over ? 0 : pid, is_over && r->result.why_not[0]);
	tell(s, r, before);
	tidy(s);
	OVM_FAULT(FOLLOW_DONE);
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
}

static void follow_all(struct ovm_ctx *ctx, struct session *s)
{
	while (!check_ended(s)) {
		pid_t pid = ovm_follow_next(&s->follow);
		if (pid)
			follow_one(ctx, s, pid);
		else
			wait_a_little(s, OVM_RT_FOLLOW_LOOK_MS);
	}
}

/* --- beginning and end
 * --------------------------------------------------------------------------------------- */

/* After the end: what the user asked to keep. */
static void save(struct ovm_ctx *ctx, struct session *s)
{
	const struct ovm_round *r = s->main;
	struct ovm_profile *own = ovm_round_profile(r);
	const struct ovm_profile *profile = s->profile ? s->profile : own;
	int rc = 0;
	if (s->opts->save_profile && profile)
		rc = ovm_profile_save(ctx, profile, s->opts->save_profile);
	if (rc == 0 && s->opts->report)
		rc = ovm_live_report(ctx, s->opts->report, r, profile, &s->wstatus, s->processes);
	ovm_profile_free(own);
	if (rc)
		warn(s, ctx, rc);
}

static void close_session(struct session *s)
{
	ovm_launch_signals_release();
	for (uint32_t i = 0; i < s->rounds.n; i++)
		forget_round(s, i);
	ovm_vec_free(&s->rounds);
	ovm_follow_fini(&s->follow);
	ovm_live_processes_free(s->processes);
	ovm_profile_free(s->profile);
	if (s->watch_fd >= 0)
		close(s->watch_fd);
}

/* The program itself, from its exec on. */
static void run_main(struct ovm_ctx *ctx, struct session *s)
{
	struct ovm_round *r = s->main;
	struct ovm_watch watch = {.is_over = true};
	if (r->sampler) {
		int rc = run_round(ctx, s, r);
		check_ended(s); /* as long as there is somebody to ask */
		ovm_round_end_sampling(ctx, r);
		ovm_watch_init(&watch, r, s->opts->max_rounds, rc);
	}
	while (!check_ended(s)) {
		wait_a_little(s, watch.is_over ? -1 : OVM_RT_WATCH_STEP_MS);
		ovm_watch_step(ctx, &watch);
	}
	ovm_watch_fini(&watch);
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
	struct session s = {.opts = opts, .pid = launch.pid};
	s.watch_fd = (int)syscall(SYS_pidfd_open, launch.pid, 0);
	struct ovm_round *r = new_round(&s, launch.pid);
	ovm_launch_signals(launch.pid);
	ovm_follow_init(&s.follow, launch.pid, opts->round.sample_ms);
	if (opts->follows_exec)
		s.processes = ovm_live_processes_new();
	else if ((rc = open_sampler(ctx, &s, r)) != 0)
		explain(&s, r, ctx, rc);
	r->started_ms = ovm_now_ms();
	rc = ovm_launch_go(ctx, &launch, exit_status);
	if (rc) {
		close_session(&s);
		return rc;
	}
	ovm_launch_timeout(opts->timeout);
	ovm_event_started(opts->round.status_fd, launch.pid);
	if (opts->follows_exec) {
		snprintf(r->result.why_not, sizeof(r->result.why_not),
			 "no process used enough processor time");
		follow_all(ctx, &s);
	} else {
		run_main(ctx, &s);
	}
	OVM_FAULT(SESSION_ENDED);
	ovm_event_ended(opts->round.status_fd, s.pid, &s.wstatus);
	save(ctx, &s);
	result->wstatus = s.wstatus;
	result->round = s.main->result;
	result->n_optimized = s.n_optimized;
	result->n_processes = ovm_live_processes_count(s.processes);
	ctx->err = s.warning_err;
	snprintf(ctx->msg, sizeof(ctx->msg), "%s", s.warning);
	close_session(&s);
	return 0;
}
