/* A program's life under `optvm run`: one round of optimization, then hands off.
 *
 *   launch -> sample -> count -> build in a child process -> load, switch -> wait
 *      |         |        |               |                      |            |
 *      +---------+--------+---------------+----------------------+------------+--> ended: its
 *                                                                      status is ours
 *
 * Whatever goes wrong after the exec only means that the program runs unoptimized: the reason is
 * kept for the summary, and the wait goes on. At every step the program may end first; then nothing
 * is waited for. A short program costs a fork, an exec and a few perf descriptors: no decoder, no
 * map is opened before there is something to optimize.
 */
#define OVM_LOG_DOMAIN "session"
#include "runtime/session.h"
#include "base/log.h"
#include "profiler/launch.h"
#include "runtime/counting.h"
#include "runtime/cputime.h"
#include "runtime/report.h"
#include "runtime/tunables.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_OURS = 125 };

struct session {
	const struct ovm_session_opts *opts;
	struct ovm_session_result *result;
	pid_t pid;
	int watch_fd; /* pidfd: readable when the program has ended */
	double started_ms;
	bool ended;		     /* result->wstatus is set */
	struct ovm_sampler *sampler; /* NULL: none could be opened, or closed again */
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	struct ovm_generations set;
	struct ovm_profile *profile; /* samples and counts, once counting is over */
	uint32_t final;		     /* in set: what was installed, OVM_NONE */
	char warning[1024];	     /* what the user should hear of, empty if nothing */
	enum ovm_err warning_err;
};

static unsigned or_default(uint64_t x, unsigned value)
{
	return x ? (unsigned)x : value;
}

static void explain(struct session *s, const char *why)
{
	snprintf(s->result->why_not, sizeof(s->result->why_not), "%.199s", why);
}

/* A failure that the user should hear of, unless the program simply ended. */
static void explain_failure(struct session *s, const struct ovm_ctx *ctx, int rc)
{
	explain(s, ctx->msg);
	if (rc < 0 && rc != OVM_E_GONE) {
		snprintf(s->warning, sizeof(s->warning), "%s", ctx->msg);
		s->warning_err = (enum ovm_err)rc;
	}
}

/* --- watching the program
 * ---------------------------------------------------------------------------------------- */

/* Has it ended? Never blocks. */
static bool check_ended(struct session *s)
{
	int status;
	if (s->ended)
		return true;
	if (s->tracee.ended) { /* reported to the tracer, which is also the parent */
		s->result->wstatus = s->tracee.wstatus;
		return s->ended = true;
	}
	if (s->sampler)
		s->ended = ovm_sampler_wait(s->sampler, &s->result->wstatus);
	else if (waitpid(s->pid, &status, WNOHANG) == s->pid &&
		 (WIFEXITED(status) || WIFSIGNALED(status))) {
		s->result->wstatus = status;
		s->ended = true;
	}
	return s->ended;
}

static void wait_for_end(struct session *s)
{
	while (!check_ended(s)) {
		bool busy = ovm_tracee_service(&s->tracee);
		struct pollfd watch = {.fd = s->watch_fd, .events = POLLIN};
		poll(&watch, 1, busy || s->watch_fd < 0 ? OVM_RT_SERVICE_MS : -1);
	}
}

/* --- the steps
 * ------------------------------------------------------------------------------------------------------
 */

static unsigned sample_ms(const struct session *s)
{
	return or_default(s->opts->sample_ms,
			  s->opts->no_counters ? OVM_RT_SAMPLE_MS : OVM_RT_COUNT_AFTER_MS);
}

/* Sample until the program has used enough CPU time. False if it ended, or if there is too little
 * to go by. */
static bool sample(struct ovm_ctx *ctx, struct session *s)
{
	uint64_t min_samples = s->opts->min_samples ? s->opts->min_samples : OVM_RT_MIN_SAMPLES;
	for (;;) {
		int rc = ovm_sampler_drain(ctx, s->sampler, OVM_RT_DRAIN_MS);
		if (check_ended(s)) {
			explain(s, "the program ended before there was a profile");
			return false;
		}
		if (rc) {
			explain_failure(s, ctx, rc);
			return false;
		}
		uint64_t cpu = ovm_cpu_time_ms(s->pid);
		if (cpu < sample_ms(s))
			continue;
		uint64_t n = ovm_sampler_profile(s->sampler)->n_samples;
		if (n >= min_samples)
			return true;
		if (cpu >= (uint64_t)OVM_RT_SAMPLE_MS * OVM_RT_SAMPLE_GIVE_UP) {
			explain(s, "too few samples of user code");
			return false;
		}
	}
}

static int look(struct ovm_ctx *ctx, struct session *s)
{
	int rc = ovm_tracee_check(ctx, s->pid);
	if (rc == 0)
		rc = ovm_tracee_open_mem(ctx, &s->tracee);
	if (rc == 0)
		rc = ovm_livemap_read(ctx, s->pid, &s->map);
	if (rc == 0)
		ovm_livemap_modules(&s->map, s->pid);
	return rc;
}

static struct ovm_target_opts target_opts(const struct session *s)
{
	return (struct ovm_target_opts){
	    .min_samples = s->opts->min_samples ? s->opts->min_samples : OVM_RT_MIN_MODULE_SAMPLES,
	    .uniform = s->opts->uniform,
	    .only = s->opts->only,
	    .skip = s->opts->skip,
	};
}

/* One window of instrumented copies. If nothing comes of it the samples have to do. */
static void count(struct ovm_ctx *ctx, struct session *s)
{
	const struct ovm_counting_opts opts = {
	    .targets = target_opts(s),
	    .max_pause_ms = or_default(s->opts->max_pause_ms, OVM_RT_MAX_PAUSE_MS),
	    .n_windows = 1,
	};
	struct ovm_counting *counting = ovm_counting_new(&s->set, &opts, NULL);
	while (!ovm_counting_is_done(counting) && !check_ended(s)) {
		if (ovm_sampler_drain(ctx, s->sampler, ovm_counting_patience(counting)))
			break;
		ovm_counting_step(ctx, counting, s->sampler, ovm_cpu_time_ms(s->pid));
	}
	ovm_counting_stop(ctx, counting);
	ovm_sampler_stop(s->sampler);
	ovm_sampler_drain(ctx, s->sampler, 0);
	s->profile = ovm_profile_new();
	ovm_profile_merge(s->profile, ovm_sampler_profile(s->sampler));
	ovm_counting_profile(counting, s->profile);
	const struct ovm_counting_stats *stats = ovm_counting_stats(counting);
	s->result->n_counted = stats->n_windows ? stats->n_regions : 0;
	s->result->counted_ms = stats->armed_ms;
	s->result->pause_ms = stats->max_pause_ms;
	if (stats->why_not[0])
		ovm_log(OVM_LOG_INFO, "no exact counts: %s", stats->why_not);
	ovm_counting_free(counting);
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
}

/* Build in the background; ends early if the program does. */
static int build(struct ovm_ctx *ctx, struct session *s, struct ovm_built *built)
{
	const struct ovm_target_opts opts = target_opts(s);
	struct ovm_builder builder;
	int rc = ovm_builder_start(ctx, &s->set,
				   s->profile ? s->profile : ovm_sampler_profile(s->sampler), &opts,
				   &builder);
	if (rc)
		return rc;
	struct pollfd watch[2] = {{.fd = builder.watch_fd, .events = POLLIN},
				  {.fd = s->watch_fd, .events = POLLIN}};
	while (builder.watch_fd >= 0 && !watch[0].revents && !check_ended(s))
		poll(watch, 2, s->watch_fd < 0 ? OVM_RT_DRAIN_MS : -1);
	if (s->ended) {
		ovm_builder_close(&builder);
		return ovm_fail(ctx, OVM_E_GONE,
				"the program ended before its overlays were built");
	}
	return ovm_builder_result(ctx, &builder, &s->set, built);
}

static void fill_result(struct session *s, const struct ovm_switch_result *switched)
{
	struct ovm_session_result *r = s->result;
	const struct ovm_built *built = &s->set.v.v[s->final].built;
	r->patched_after_s = (ovm_now_ms() - s->started_ms) / 1e3;
	r->n_modules = built->modules.n;
	r->n_patches = switched->n_patches;
	r->n_threads = switched->n_threads;
	r->n_moved = switched->n_moved;
	r->pause_ms = switched->pause_ms > r->pause_ms ? switched->pause_ms : r->pause_ms;
	for (uint32_t i = 0; i < built->modules.n; i++) {
		r->n_regions += built->modules.v[i].overlay.n_regions;
		r->overlay_bytes += built->modules.v[i].overlay.size;
	}
}

static int install(struct ovm_ctx *ctx, struct session *s, struct ovm_built *built)
{
	struct ovm_switch_result switched = {0};
	uint32_t idx;
	if (!built->modules.n) {
		explain(s, built->why_not);
		return 0;
	}
	int rc = ovm_generation_load(ctx, &s->set, built, NULL, &idx);
	if (rc == 0)
		rc = ovm_switch_to(ctx, &s->set, idx,
				   (int)or_default(s->opts->max_pause_ms, OVM_RT_MAX_PAUSE_MS),
				   &switched);
	if (rc == 0) {
		s->final = idx;
		fill_result(s, &switched);
	}
	return rc;
}

static void optimize(struct ovm_ctx *ctx, struct session *s)
{
	struct ovm_built built = {0};
	int rc = look(ctx, s);
	if (rc == 0) {
		ovm_generations_init(&s->set, &s->tracee, &s->map);
		if (s->opts->no_counters)
			ovm_sampler_stop(s->sampler);
		else
			count(ctx, s);
		rc = build(ctx, s, &built);
	}
	if (rc == 0)
		rc = install(ctx, s, &built);
	if (rc)
		explain_failure(s, ctx, rc);
	ovm_built_fini(&built);
}

/* After the end: what the user asked to keep. */
static void save(struct ovm_ctx *ctx, struct session *s, const struct ovm_profile *profile)
{
	int rc = 0;
	if (s->opts->save_profile && profile)
		rc = ovm_profile_save(ctx, profile, s->opts->save_profile);
	if (rc == 0 && s->opts->report)
		rc = ovm_live_report(ctx, s->opts->report, s->result,
				     s->final == OVM_NONE ? NULL : &s->set.v.v[s->final].built,
				     profile);
	if (rc) {
		snprintf(s->warning, sizeof(s->warning), "%s", ctx->msg);
		s->warning_err = (enum ovm_err)rc;
	}
}

static void close_session(struct session *s)
{
	ovm_launch_signals_release();
	ovm_sampler_close(s->sampler);
	ovm_profile_free(s->profile);
	ovm_generations_fini(&s->set);
	ovm_tracee_close(&s->tracee);
	ovm_livemap_fini(&s->map);
	if (s->watch_fd >= 0)
		close(s->watch_fd);
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
	struct session s = {.opts = opts, .result = result, .pid = launch.pid, .final = OVM_NONE};
	ovm_tracee_init(&s.tracee, launch.pid);
	s.watch_fd = (int)syscall(SYS_pidfd_open, launch.pid, 0);
	ovm_launch_signals(launch.pid);
	struct ovm_sampler_opts sampler = opts->sampler;
	sampler.frequency = sampler.frequency ? sampler.frequency : OVM_RT_FREQUENCY;
	rc = ovm_sampler_open(ctx, &sampler, launch.pid, false, &s.sampler);
	if (rc)
		explain_failure(&s, ctx, rc);
	s.started_ms = ovm_now_ms();
	rc = ovm_launch_go(ctx, &launch, exit_status);
	if (rc) {
		close_session(&s);
		return rc;
	}
	if (s.sampler && sample(ctx, &s))
		optimize(ctx, &s);
	if (s.sampler)
		ovm_sampler_stop(s.sampler);
	wait_for_end(&s);
	if (s.sampler)
		ovm_sampler_drain(ctx, s.sampler, 0);
	save(ctx, &s, s.profile ? s.profile : s.sampler ? ovm_sampler_profile(s.sampler) : NULL);
	ctx->err = s.warning_err;
	snprintf(ctx->msg, sizeof(ctx->msg), "%s", s.warning);
	close_session(&s);
	return 0;
}
