/* Who may be attached to, and when to stop.
 *
 * The kernel has the last word on what is permitted; opening the process's memory asks it. What it
 * does not know (init, threads of the kernel, those who want to be left alone) is asked first. Then
 * a round (round.h), with three more ways to be over than it has for a program of our own: a signal
 * to us, and the end of a process that is not our child.
 */
#define OVM_LOG_DOMAIN "attach"
#include "runtime/attach.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/events.h"
#include "runtime/family.h"
#include "runtime/forks.h"
#include "runtime/procstat.h"
#include "runtime/report.h"
#include "runtime/tunables.h"
#include "runtime/watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PF_KTHREAD = 0x200000 };

static const ino_t FIRST_PID_NAMESPACE = 0xeffffffc; /* the kernel's PROC_PID_INIT_INO */

/* --- may it be attached to?
 * ---------------------------------------------------------------------------------
 */

static bool is_machines_init(pid_t pid)
{
	struct stat st;
	return pid == 1 && stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == FIRST_PID_NAMESPACE;
}

/* /proc also answers for threads. */
static pid_t leader_of(pid_t pid)
{
	char name[64], line[256];
	int leader = 0;
	snprintf(name, sizeof(name), "/proc/%d/status", (int)pid);
	FILE *f = fopen(name, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, "Tgid: %d", &leader) != 1)
		;
	if (f)
		fclose(f);
	return (pid_t)leader;
}

static int check_kind(struct ovm_ctx *ctx, pid_t pid)
{
	struct ovm_procstat stat;
	if (pid == getpid())
		return ovm_fail(ctx, OVM_E_USAGE, "process %d is this optvm itself", (int)pid);
	if (!ovm_procstat_read(pid, &stat))
		return ovm_fail(ctx, OVM_E_GONE, "there is no process %d", (int)pid);
	if (stat.state == 'Z' || stat.state == 'X')
		return ovm_fail(ctx, OVM_E_GONE,
				"process %d has ended, its parent has not noticed yet", (int)pid);
	if (stat.flags & PF_KTHREAD)
		return ovm_fail(ctx, OVM_E_TARGET, "process %d is a thread of the kernel",
				(int)pid);
	pid_t leader = leader_of(pid);
	if (leader > 0 && leader != pid)
		return ovm_fail(ctx, OVM_E_USAGE, "%d is a thread of process %d: give that",
				(int)pid, (int)leader);
	if (is_machines_init(pid))
		return ovm_fail(ctx, OVM_E_TARGET,
				"process 1 is the machine's init, without which nothing runs: left "
				"alone");
	return 0;
}

/* What the kernel says, in words that help. */
static int check_permitted(struct ovm_ctx *ctx, struct ovm_tracee *tracee)
{
	char name[32];
	struct stat st;
	int rc = ovm_tracee_open_mem(ctx, tracee);
	if (rc != OVM_E_PERM)
		return rc;
	snprintf(name, sizeof(name), "/proc/%d", (int)tracee->pid);
	if (stat(name, &st) == 0 && st.st_uid != geteuid())
		return ovm_fail(ctx, OVM_E_PERM,
				"process %d belongs to user %u, you are %u: use sudo",
				(int)tracee->pid, (unsigned)st.st_uid, (unsigned)geteuid());
	return ovm_fail(ctx, OVM_E_PERM,
			"process %d may not be traced: optvm doctor %d says what to type",
			(int)tracee->pid, (int)tracee->pid);
}

static int check(struct ovm_ctx *ctx, struct ovm_tracee *tracee)
{
	int rc = check_kind(ctx, tracee->pid);
	if (rc == 0)
		rc = check_permitted(ctx, tracee);
	if (rc == 0 && ovm_process_opted_out(tracee->pid))
		rc =
		    ovm_fail(ctx, OVM_E_TARGET, "process %d was started with OPTVM=off: left alone",
			     (int)tracee->pid);
	return rc;
}

/* --- when is it over?
 * --------------------------------------------------------------------------------------- */

static volatile sig_atomic_t caught; /* a handler has no context argument */

static const int SIGNALS[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_SIGNALS = 3 };

static void on_signal(int sig)
{
	caught = sig;
}

static void catch_signals(struct sigaction saved[N_SIGNALS])
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	caught = 0;
	for (int i = 0; i < N_SIGNALS; i++) {
		sigaction(SIGNALS[i], NULL, &saved[i]);
		if (saved[i].sa_handler != SIG_IGN) /* nohup */
			sigaction(SIGNALS[i], &action, NULL);
	}
}

static void release_signals(const struct sigaction saved[N_SIGNALS])
{
	for (int i = 0; i < N_SIGNALS; i++)
		sigaction(SIGNALS[i], &saved[i], NULL);
}

static bool is_over(void *arg)
{
	struct ovm_round *r = arg;
	struct pollfd watch = {.fd = r->watch_fd, .events = POLLIN};
	int wstatus;
	return caught || r->tracee.ended || poll(&watch, 1, 0) > 0 ||
	       (r->sampler && r->pid == r->root && ovm_sampler_wait(r->sampler, &wstatus));
}

/* --- attaching
 * -----------------------------------------------------------------------------------------------
 */

/* What the user asked to keep; @rc: of the round. */
static int save(struct ovm_ctx *ctx, const struct ovm_attach_opts *opts, struct ovm_round *r,
		int rc)
{
	struct ovm_ctx own = *ctx;
	struct ovm_profile *profile = ovm_round_profile(r);
	int failed = 0;
	if (rc)
		snprintf(r->result.why_not, sizeof(r->result.why_not), "%.199s", ctx->msg);
	if (opts->save_profile && profile)
		failed = ovm_profile_save(&own, profile, opts->save_profile);
	if (failed == 0 && opts->report)
		failed = ovm_live_report(&own, opts->report, r, profile, NULL, NULL);
	ovm_profile_free(profile);
	if (rc || !failed)
		return rc;
	*ctx = own;
	return failed;
}

/* More rounds, until it ends or we are told to. It keeps what it has then. */
static void watch(struct ovm_ctx *ctx, const struct ovm_attach_opts *opts, struct ovm_round *r)
{
	struct ovm_watch w;
	ovm_watch_init(&w, r, opts->max_rounds, 0);
	if (r->state) /* others may attach or detach */
		ovm_state_unlock(r->state);
	while (!w.is_over && !is_over(r)) {
		struct pollfd end = {.fd = r->watch_fd, .events = POLLIN};
		bool busy = ovm_tracee_service(&r->tracee);
		poll(&end, 1, busy ? OVM_RT_SERVICE_MS : OVM_RT_WATCH_STEP_MS);
		ovm_watch_step(ctx, &w);
	}
	ovm_watch_fini(&w);
}

static int attach(struct ovm_ctx *ctx, const struct ovm_attach_opts *opts, struct ovm_round *r)
{
	int rc = check(ctx, &r->tracee);
	if (rc == 0) {
		r->watch_fd = (int)syscall(SYS_pidfd_open, r->pid, 0);
		rc = r->watch_fd < 0 ? ovm_fail_errno(ctx, errno == ESRCH ? OVM_E_GONE : OVM_E_IO,
						      errno, "process %d", (int)r->pid)
				     : 0;
	}
	if (rc == 0)
		rc = ovm_round_look(ctx, r);
	if (rc == 0)
		rc = ovm_round_open_sampler(ctx, r, 0, false, &r->sampler);
	if (rc)
		return rc;
	OVM_FAULT(ATTACHED);
	ovm_event_started(opts->round.status_fd, r->pid);
	rc = ovm_round_run(ctx, r);
	ovm_round_end_sampling(ctx, r);
	if (rc == 0 && opts->max_rounds > 1)
		watch(ctx, opts, r);
	ovm_event_ended(opts->round.status_fd, r->root, NULL);
	return save(ctx, opts, r, rc);
}

int ovm_attach(struct ovm_ctx *ctx, const struct ovm_attach_opts *opts, pid_t pid,
	       struct ovm_round_result *result, int *signal)
{
	struct sigaction saved[N_SIGNALS];
	struct ovm_round r;
	ovm_round_init(&r, pid);
	r.opts = &opts->round;
	r.by = "attach";
	r.sampling = &opts->sampler;
	r.is_running = r.needs_state = true;
	r.patience_ms = OVM_RT_ATTACH_MS;
	r.is_over = is_over;
	r.arg = &r;
	r.started_ms = ovm_now_ms();
	catch_signals(saved);
	int rc = attach(ctx, opts, &r);
	ovm_sampler_close(r.sampler);
	ovm_round_settle(&r);
	*result = r.result;
	*signal = rc ? (int)caught : 0;
	if (*signal)
		ovm_fail(ctx, (enum ovm_err)rc, "interrupted: process %d is left as it was",
			 (int)pid);
	release_signals(saved);
	if (r.watch_fd >= 0)
		close(r.watch_fd);
	ovm_round_fini(&r);
	return rc;
}

/* --- detaching
 * -----------------------------------------------------------------------------------------------
 */

static bool never(void *arg)
{
	(void)arg;
	return false;
}

/* Nothing to restore, and remembered so. */
static bool is_original(const struct ovm_round *r)
{
	bool any = r->set.applied.v.n || r->set.stubs.n || !r->state->is_done;
	for (uint32_t i = 0; i < r->state->v.n; i++)
		any |= r->state->v.v[i].is_armed;
	return !any;
}

static int revert(struct ovm_ctx *ctx, struct ovm_round *r, struct ovm_detach_result *result)
{
	struct ovm_switch_result switched = {0};
	struct ovm_forks_result forks;
	int max_pause = r->opts->max_pause_ms ? (int)r->opts->max_pause_ms : OVM_RT_MAX_PAUSE_MS;
	OVM_FAULT(DETACH_BEGIN);
	int rc = ovm_switch_to(ctx, &r->set, OVM_NONE, max_pause, &switched);
	if (rc)
		return rc;
	OVM_FAULT(DETACHED);
	ovm_forks_follow(ctx, &r->set, max_pause, OVM_RT_FORKS_MS, &forks);
	*result = (struct ovm_detach_result){.n_restored = switched.n_restored,
					     .n_threads = switched.n_threads,
					     .n_moved = switched.n_moved,
					     .pause_ms = switched.pause_ms};
	if (switched.n_stuck)
		return ovm_fail(ctx, OVM_E_TARGET,
				"%u places in the code of process %d hold bytes of somebody else "
				"(breakpoints?): detach again when they are gone",
				switched.n_stuck, (int)r->pid);
	return 0;
}

/* What the process has of ours; refused if that is nothing. */
static int look_at_ours(struct ovm_ctx *ctx, struct ovm_round *r, pid_t pid)
{
	int rc = check_kind(ctx, pid);
	if (rc == 0)
		rc = check_permitted(ctx, &r->tracee);
	if (rc == 0)
		rc = ovm_round_look(ctx, r);
	if (rc == 0 && !r->set.v.n) {
		ovm_fail(ctx, OVM_OK, "process %d runs nothing that optvm made", (int)pid);
		rc = OVM_REFUSED;
	}
	return rc;
}

int ovm_detach(struct ovm_ctx *ctx, pid_t pid, unsigned max_pause_ms,
	       struct ovm_detach_result *result)
{
	const struct ovm_round_opts opts = {.max_pause_ms = max_pause_ms};
	struct ovm_round r;
	*result = (struct ovm_detach_result){0};
	ovm_round_init(&r, pid);
	r.opts = &opts;
	r.needs_state = true;
	r.is_over = never;
	int rc = look_at_ours(ctx, &r, pid);
	if (rc == 0 && !is_original(&r))
		rc = revert(ctx, &r, result);
	ovm_round_settle(&r);
	ovm_round_fini(&r);
	return rc;
}

/* A child has what its parent had when it was forked, not what the parent's file says now. */
static void correct(const struct ovm_round *r)
{
	bool *is_armed = ovm_alloc_array(r->set.v.n, sizeof(bool)), differs = false;
	for (uint32_t i = 0; i < r->set.v.n; i++) {
		is_armed[i] = r->set.v.v[i].is_armed;
		differs |= is_armed[i] != r->state->v.v[i].is_armed;
	}
	if (differs) {
		ovm_state_plan(r->state, is_armed);
		ovm_state_done(r->state, true, r->state->pause_ms);
	}
	free(is_armed);
}

int ovm_refresh(struct ovm_ctx *ctx, pid_t pid)
{
	struct ovm_round r;
	ovm_round_init(&r, pid);
	r.needs_state = true;
	r.is_over = never;
	int rc = look_at_ours(ctx, &r, pid);
	if (rc == 0 && r.state->is_done)
		correct(&r);
	ovm_round_fini(&r);
	return rc;
}
