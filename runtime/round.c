/*   sample -> predict -> count -> build in a child process -> load, switch -> measure
 *      |                   |               |                      |
 *      +-------------------+---------------+----------------------+--> over: the process ended, or
 * we were told to stop; nothing is waited for
 *
 * A process that was optimized before, by whomever, goes on being so while it is sampled: samples
 * in copies count for what they are copies of. Only in the window of counting it runs instrumented
 * copies of its original code. Then the new generation takes over from the old one.
 *
 * Overlays stay in the process for ever (rule R7), so there is a most of them. When it is reached
 * the last optimized one is armed again if it is not.
 */
#define OVM_LOG_DOMAIN "round"
#include "runtime/round.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/counting.h"
#include "runtime/cputime.h"
#include "runtime/events.h"
#include "runtime/forks.h"
#include "runtime/gauge.h"
#include "runtime/spread.h"
#include "runtime/tunables.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned or_default(uint64_t x, unsigned value)
{
	return x ? (unsigned)x : value;
}

static int refuse(struct ovm_ctx *ctx, const char *why)
{
	ovm_fail(ctx, OVM_OK, "%s", why);
	return OVM_REFUSED;
}

static bool is_over(const struct ovm_round *r)
{
	return r->is_over(r->arg);
}

static int fail_over(struct ovm_ctx *ctx)
{
	return ovm_fail(ctx, OVM_E_GONE, "the program ended before it could be optimized");
}

static int max_pause(const struct ovm_round *r)
{
	return (int)or_default(r->opts->max_pause_ms, OVM_RT_MAX_PAUSE_MS);
}

/* --- looking
 * -------------------------------------------------------------------------------------------------
 */

static void forget(struct ovm_round *r)
{
	ovm_generations_fini(&r->set);
	ovm_adopted_fini(&r->adopted);
	ovm_livemap_fini(&r->map);
	r->set = (struct ovm_generations){0};
}

/* Without a place to write to, a launched program is optimized all the same. */
static int open_state(struct ovm_ctx *ctx, struct ovm_round *r)
{
	int rc = r->state ? 0 : ovm_state_open(ctx, r->pid, r->by, &r->state);
	if ((rc == OVM_E_IO || rc == OVM_E_PERM) && !r->needs_state) {
		ovm_log(OVM_LOG_INFO, "not remembered: %s", ctx->msg);
		rc = 0;
	}
	return rc;
}

/* An optvm was killed in its window. */
static int disarm_counting(struct ovm_ctx *ctx, struct ovm_round *r)
{
	struct ovm_switch_result switched;
	struct ovm_forks_result forks;
	bool *want = ovm_alloc_array(r->set.v.n, sizeof(bool)), any = false;
	for (uint32_t i = 0; i < r->set.v.n; i++) {
		const struct ovm_generation *gen = &r->set.v.v[i];
		want[i] = gen->is_armed && !gen->built.is_passing;
		any |= gen->is_armed && gen->built.is_passing;
	}
	int rc = any ? ovm_switch(ctx, &r->set, want, max_pause(r), &switched) : 0;
	if (any && rc == 0)
		ovm_forks_follow(ctx, &r->set, max_pause(r), OVM_RT_FORKS_MS, &forks);
	for (uint32_t i = 0; i < r->set.v.n && rc == 0; i++)
		if (r->set.v.v[i].built.is_passing)
			r->set.v.v[i].counters.inode = 0; /* nobody counts there any more */
	free(want);
	return rc;
}

/* Stubs of one that was killed: cleared at the next stop. */
static void find_stubs(struct ovm_round *r)
{
	struct ovm_remote stubs[OVM_RT_MAX_MODULES];
	uint32_t n = ovm_remote_find(&r->tracee, &r->map, stubs, OVM_RT_MAX_MODULES);
	for (uint32_t i = 0; i < n; i++)
		ovm_vec_push(&r->set.stubs, stubs[i]);
}

int ovm_round_look(struct ovm_ctx *ctx, struct ovm_round *r)
{
	forget(r);
	int rc = r->by ? ovm_tracee_check(ctx, r->pid) : ovm_tracee_check_shared(ctx, r->pid);
	if (rc == 0)
		rc = ovm_tracee_open_mem(ctx, &r->tracee);
	if (rc == 0)
		rc = ovm_livemap_read(ctx, r->pid, &r->map);
	if (rc == 0) {
		ovm_livemap_modules(&r->map, r->pid);
		ovm_generations_init(&r->set, &r->tracee, &r->map);
		rc = open_state(ctx, r);
	}
	if (rc == 0) {
		r->set.state = r->state;
		rc = ovm_adopt(ctx, &r->set, &r->adopted);
	}
	if (rc == 0) {
		find_stubs(r);
		rc = r->by ? disarm_counting(ctx, r) : 0;
	}
	return rc;
}

/* --- the steps
 * -----------------------------------------------------------------------------------------------
 */

/* CPU time since the round began. */
static uint64_t gained_ms(const struct ovm_round *r, pid_t pid, uint64_t now)
{
	uint64_t before = 0;
	for (uint32_t i = 0; i < r->before.n; i++)
		if (r->before.v[i].pid == pid)
			before = r->before.v[i].cpu_ms;
	return now > before ? now - before : 0;
}

static uint64_t cpu_ms(const struct ovm_round *r)
{
	return gained_ms(r, r->pid, ovm_cpu_time_ms(r->pid));
}

static void look_for_kin(struct ovm_round *r)
{
	ovm_vec_free(&r->now);
	ovm_family_kin(r->root, r->pid, &r->now);
	r->kin_at = ovm_now_ms();
}

/* The same of all kin together. Not every time: it costs some calls a process. */
static uint64_t kin_cpu_ms(struct ovm_round *r)
{
	uint64_t sum = 0;
	if (ovm_now_ms() >= r->kin_at + OVM_RT_KIN_MS)
		look_for_kin(r);
	for (uint32_t i = 0; i < r->now.n; i++)
		sum += gained_ms(r, r->now.v[i].pid, r->now.v[i].cpu_ms);
	return sum;
}

/* Has it been sampled for long enough? *gives_up: or so long that more will not come. */
static bool is_sampled(struct ovm_round *r, double begin, bool *gives_up)
{
	double passed = ovm_now_ms() - begin;
	unsigned wanted = or_default(
	    r->opts->sample_ms, r->opts->no_counters ? OVM_RT_SAMPLE_MS : OVM_RT_RUN_SAMPLE_MS);
	uint64_t cpu = cpu_ms(r);
	if (cpu < wanted)
		cpu = kin_cpu_ms(r);
	*gives_up = cpu >= (uint64_t)OVM_RT_SAMPLE_MS * OVM_RT_SAMPLE_GIVE_UP ||
		    (r->patience_ms && passed >= r->patience_ms);
	if (r->opts->duration > 0)
		return *gives_up = passed >= r->opts->duration * 1e3;
	return *gives_up || cpu >= wanted;
}

static int sample(struct ovm_ctx *ctx, struct ovm_round *r)
{
	uint64_t min_samples = or_default(r->opts->min_samples, OVM_RT_MIN_SAMPLES);
	double begin = ovm_now_ms();
	ovm_vec_free(&r->before);
	if (r->is_running)
		ovm_family_kin(r->root, r->pid, &r->before);
	for (;;) {
		bool gives_up;
		int rc = ovm_sampler_drain(ctx, r->sampler, OVM_RT_DRAIN_MS);
		if (is_over(r))
			return ovm_fail(ctx, OVM_E_GONE,
					"the program ended before there was a profile");
		if (rc)
			return rc;
		if (!is_sampled(r, begin, &gives_up))
			continue;
		if (ovm_sampler_profile(r->sampler)->n_samples >= min_samples)
			return 0;
		if (gives_up)
			return refuse(ctx, "too few samples of user code");
	}
}

/* From now on the round is one of process @pid. */
static void turn_to(struct ovm_round *r, pid_t pid)
{
	ovm_log(OVM_LOG_INFO, "process %d is busier than %d", (int)pid, (int)r->pid);
	forget(r);
	ovm_state_close(r->state);
	r->state = NULL;
	ovm_round_end_of_root(r, &r->tracee);
	ovm_tracee_close(&r->tracee);
	if (r->watch_fd >= 0)
		close(r->watch_fd);
	r->pid = pid;
	r->watch_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	ovm_tracee_init(&r->tracee, pid);
}

/* A server's parent may do nothing but wait for those it has forked. */
static void choose_process(struct ovm_round *r)
{
	pid_t busiest = r->pid;
	look_for_kin(r);
	uint64_t own = cpu_ms(r), most = 2 * own;
	for (uint32_t i = 0; i < r->now.n; i++) {
		uint64_t gained = gained_ms(r, r->now.v[i].pid, r->now.v[i].cpu_ms);
		if (gained > most) {
			most = gained;
			busiest = r->now.v[i].pid;
		}
	}
	if (busiest != r->pid)
		turn_to(r, busiest);
}

static struct ovm_target_opts target_opts(const struct ovm_round *r)
{
	return (struct ovm_target_opts){
	    .min_samples = r->opts->min_samples ? r->opts->min_samples : OVM_RT_MIN_MODULE_SAMPLES,
	    .passes = r->opts->passes,
	    .uniform = r->opts->uniform,
	    .root = r->root,
	    .only = r->opts->only,
	    .skip = r->opts->skip,
	};
}

/* Rule R12, first half: is there anything to be gained? */
static int predict(struct ovm_ctx *ctx, struct ovm_round *r)
{
	struct ovm_footprint *f = &r->result.footprint;
	if (r->opts->always || r->opts->uniform || r->opts->metric)
		return 0;
	*f = ovm_footprint(ovm_sampler_profile(r->sampler));
	ovm_log(OVM_LOG_INFO, "footprint: %.0f lines, %.0f pages, %.2f outside", f->lines, f->pages,
		f->outside);
	if (ovm_footprint_may_gain(f))
		return 0;
	ovm_fail(
	    ctx, OVM_OK,
	    "no gain predicted: its time goes to about %.0f lines of code in %.0f pages, which "
	    "fit the caches in any order (--always: optimize all the same)",
	    f->lines, f->pages);
	return OVM_REFUSED;
}

/* One window of instrumented copies. If nothing comes of it the samples have to do. */
static void count(struct ovm_ctx *ctx, struct ovm_round *r)
{
	struct ovm_counting_opts opts = {
	    .targets = target_opts(r),
	    .max_pause_ms = (unsigned)max_pause(r),
	    .n_windows = 1,
	};
	uint64_t cpu = cpu_ms(r), deadline = r->patience_ms ? r->patience_ms : UINT64_MAX;
	uint64_t ahead = cpu < OVM_RT_COUNT_AFTER_MS ? OVM_RT_COUNT_AFTER_MS - cpu : 0;
	double begin = ovm_now_ms();
	opts.targets.no_callees =
	    true; /* most are not hot, and to build them takes as long again */
	opts.targets.stays = true;
	struct ovm_counting *counting = ovm_counting_new(&r->set, &opts, NULL, NULL);
	ovm_sampler_slow_down(r->sampler, OVM_RT_FREQUENCY_LATER);
	while (!ovm_counting_is_done(counting) && !is_over(r) &&
	       ovm_now_ms() - begin < (double)deadline) {
		if (ovm_sampler_drain(ctx, r->sampler, ovm_counting_patience(counting)))
			break;
		ovm_counting_step(ctx, counting, r->sampler, cpu_ms(r) + ahead);
	}
	ovm_counting_stop(ctx, counting);
	ovm_sampler_stop(r->sampler);
	ovm_sampler_drain(ctx, r->sampler, 0);
	r->profile = ovm_profile_new();
	ovm_profile_merge(r->profile, ovm_sampler_profile(r->sampler));
	ovm_counting_profile(counting, r->profile);
	ovm_counting_take_builder(counting, &r->builder);
	const struct ovm_counting_stats *stats = ovm_counting_stats(counting);
	r->result.n_counted = stats->n_windows ? stats->n_regions : 0;
	r->result.counted_ms = stats->armed_ms;
	r->result.pause_ms = stats->max_pause_ms;
	if (stats->why_not[0])
		ovm_log(OVM_LOG_INFO, "no exact counts: %s", stats->why_not);
	ovm_counting_free(counting);
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
}

/* Whoever built the instrumented copies knows the code already. */
static int start_builder(struct ovm_ctx *ctx, struct ovm_round *r,
			 const struct ovm_target_opts *opts)
{
	struct ovm_profile *profile = ovm_round_profile(r);
	int rc = OVM_E_UNAVAILABLE;
	if (r->builder.pid)
		rc = ovm_builder_order(ctx, &r->builder, profile, opts->gauges);
	if (rc)
		rc = ovm_builder_start(ctx, &r->set, profile, opts, &r->builder);
	ovm_profile_free(profile);
	return rc;
}

/* Build in the background; ends early if it is over. *reference: what to measure by, or empty. */
static int build(struct ovm_ctx *ctx, struct ovm_round *r, const struct ovm_target_opts *opts,
		 struct ovm_built *built, struct ovm_built *reference)
{
	int rc = start_builder(ctx, r, opts);
	if (rc)
		return rc;
	struct pollfd watch[2] = {{.fd = r->builder.watch_fd, .events = POLLIN},
				  {.fd = r->watch_fd, .events = POLLIN}};
	bool over;
	while (!(over = is_over(r)) && !watch[0].revents)
		poll(watch, 2, OVM_RT_DRAIN_MS);
	if (over) {
		ovm_builder_close(&r->builder);
		return fail_over(ctx);
	}
	return ovm_builder_result(ctx, &r->builder, r->set.map, built, reference);
}

static void fill_result(struct ovm_round *r, uint32_t idx, const struct ovm_switch_result *switched)
{
	struct ovm_round_result *result = &r->result;
	const struct ovm_built *built = &r->set.v.v[idx].built;
	OVM_FAULT(INSTALLED);
	r->final = idx;
	result->patched_after_s = (ovm_now_ms() - r->started_ms) / 1e3;
	result->n_modules = built->modules.n;
	result->n_patches = switched->n_patches;
	result->n_threads = switched->n_threads;
	result->n_moved = switched->n_moved;
	if (switched->pause_ms > result->pause_ms)
		result->pause_ms = switched->pause_ms;
	for (uint32_t i = 0; i < built->modules.n; i++) {
		result->n_regions += built->modules.v[i].overlay.n_regions;
		result->overlay_bytes += built->modules.v[i].overlay.size;
	}
}

static int switch_to(struct ovm_ctx *ctx, struct ovm_round *r, uint32_t idx)
{
	struct ovm_switch_result switched = {0};
	if (is_over(r))
		return fail_over(ctx);
	int rc = ovm_switch_to(ctx, &r->set, idx, max_pause(r), &switched);
	if (rc == 0)
		fill_result(r, idx, &switched);
	return rc;
}

/* Into the process, not armed. With counters if it has any. */
static int load(struct ovm_ctx *ctx, struct ovm_round *r, struct ovm_built *built,
		struct ovm_countmem *counters, uint32_t *idx)
{
	uint64_t size = ovm_built_counter_bytes(built);
	if (!built->modules.n)
		return refuse(ctx, built->why_not);
	int rc = size ? ovm_countmem_open(ctx, size, r->pid, counters) : 0;
	if (rc == 0)
		rc = ovm_generation_load(ctx, &r->set, built, size ? counters : NULL, idx);
	if (size)
		ovm_countmem_hide(counters);
	return rc;
}

/* What is to be expected of a program with this footprint. */
static struct ovm_belief expectation(const struct ovm_footprint *f)
{
	struct ovm_belief prior = OVM_RT_MEASURE_PRIOR;
	double gain = OVM_RT_MEASURE_LIVE * ovm_footprint_gain(f);
	if (gain < 0)
		prior.mean = gain;
	return prior;
}

/* Rule R12, second half. What goes wrong here means that nothing is known of the speed, and the
 * process keeps what it has. */
static int measure(struct ovm_ctx *ctx, struct ovm_round *r, struct ovm_built *reference)
{
	struct ovm_measured *out = &r->result.measured;
	struct ovm_countmem counters = {.fd = -1};
	struct ovm_measure_opts how = {.reference = OVM_NONE,
				       .optimized = r->final,
				       .prior = expectation(&r->result.footprint),
				       .max_pause_ms = max_pause(r),
				       .metric = r->opts->metric,
				       .is_over = r->is_over,
				       .arg = r->arg};
	int rc = 0;
	if (!how.metric && reference->modules.n)
		rc = load(ctx, r, reference, &counters, &how.reference);
	if (rc == 0)
		rc = ovm_measure(ctx, &r->set, &how, out);
	if (rc)
		snprintf(out->why_not, sizeof(out->why_not), "%.159s", ctx->msg);
	if (r->state && out->verdict.n_pairs)
		ovm_state_measured(r->state, out->is_loss ? 0 : out->verdict.ratio);
	ovm_countmem_close(&counters);
	if (rc == 0 && out->is_loss) {
		ovm_fail(ctx, OVM_OK,
			 "undone: the same work took %.3f times as long (%u pairs of windows, %s "
			 "between %.3f and %.3f)",
			 out->verdict.ratio, out->verdict.n_pairs,
			 out->is_certain ? "certainly" : "most likely slower,", out->verdict.lo,
			 out->verdict.hi);
		r->final = OVM_NONE;
		return OVM_REFUSED;
	}
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
	return 0;
}

static bool measures(const struct ovm_round *r)
{
	return r->opts->metric || !(r->opts->always || r->opts->uniform);
}

/* Build, install, and see whether it was worth it. */
static int optimize(struct ovm_ctx *ctx, struct ovm_round *r)
{
	struct ovm_target_opts opts = target_opts(r);
	struct ovm_countmem counters = {.fd = -1};
	struct ovm_gauges gauges = {0};
	struct ovm_built built = {0}, reference = {0};
	uint32_t idx;
	if (measures(r) && !r->opts->metric && r->result.n_counted)
		ovm_gauges_choose(r->profile, r->result.counted_ms, &r->map, &gauges);
	opts.gauges = &gauges;
	int rc = build(ctx, r, &opts, &built, &reference);
	if (rc == 0)
		rc = load(ctx, r, &built, &counters, &idx);
	if (rc == 0)
		rc = switch_to(ctx, r, idx);
	if (rc == 0 && measures(r))
		rc = measure(ctx, r, &reference);
	ovm_countmem_close(&counters);
	ovm_vec_free(&gauges.v);
	ovm_built_fini(&built);
	ovm_built_fini(&reference);
	return rc;
}

/* There is no room for another generation. */
static int arm_again(struct ovm_ctx *ctx, struct ovm_round *r)
{
	uint32_t idx = r->set.v.n;
	while (idx > 0 && r->set.v.v[idx - 1].built.is_passing)
		idx--;
	if (!idx || r->set.v.v[idx - 1].is_armed)
		return ovm_fail(ctx, OVM_E_TARGET,
				"process %d has %u generations of optimized code already, which "
				"stay in it for ever: no more",
				(int)r->pid, r->set.v.n);
	r->result.is_again = true;
	return switch_to(ctx, r, idx - 1);
}

/* --- public
 * --------------------------------------------------------------------------------------------------
 */

void ovm_round_init(struct ovm_round *r, pid_t pid)
{
	*r = (struct ovm_round){.pid = pid, .root = pid, .watch_fd = -1, .final = OVM_NONE};
	ovm_tracee_init(&r->tracee, pid);
}

void ovm_round_fini(struct ovm_round *r)
{
	forget(r);
	ovm_profile_free(r->profile);
	ovm_profile_free(r->samples);
	ovm_profile_free(r->past);
	ovm_vec_free(&r->before);
	ovm_vec_free(&r->now);
	ovm_tracee_close(&r->tracee);
	ovm_state_close(r->state);
}

static int run(struct ovm_ctx *ctx, struct ovm_round *r)
{
	if (r->set.v.n >= OVM_RT_MAX_GENERATIONS)
		return arm_again(ctx, r);
	int rc = sample(ctx, r);
	if (rc == 0)
		ovm_event_sampled(r->opts->status_fd, r->pid, ovm_sampler_n_samples(r->sampler));
	if (rc == 0)
		rc = predict(ctx, r);
	if (rc == 0) { /* again if it is an attached one: libraries may have been loaded since */
		choose_process(r);
		rc = ovm_round_look(ctx, r);
	}
	if (rc == 0) {
		if (r->opts->no_counters)
			ovm_sampler_stop(r->sampler);
		else
			count(ctx, r);
		rc = is_over(r) ? fail_over(ctx) : optimize(ctx, r);
		ovm_builder_close(&r->builder);
	}
	return rc;
}

int ovm_round_run(struct ovm_ctx *ctx, struct ovm_round *r)
{
	uint64_t ours = ovm_own_cpu_ms();
	int rc = run(ctx, r);
	r->result.cost_ms = ovm_own_cpu_ms() - ours;
	r->ended_cpu_ms = ovm_cpu_time_ms(r->pid);
	ovm_event_round(r->opts->status_fd, r, rc ? ctx->msg : NULL);
	if (rc == 0 && !r->result.is_again)
		ovm_spread(ctx, r);
	return rc;
}

int ovm_round_copy(struct ovm_ctx *ctx, struct ovm_round *to, const struct ovm_round *from)
{
	const struct ovm_target_opts opts = {.like = &from->set.v.v[from->final].built};
	struct ovm_countmem counters = {.fd = -1};
	struct ovm_built built = {0};
	uint32_t idx;
	int rc = 0;
	if (to->set.v.n >= OVM_RT_MAX_GENERATIONS)
		rc = refuse(ctx, "it has many generations of optimized code already");
	if (rc == 0)
		rc = build(ctx, to, &opts, &built, NULL);
	if (rc == 0)
		rc = load(ctx, to, &built, &counters, &idx);
	if (rc == 0) {
		OVM_FAULT(SPREAD_LOADED);
		rc = switch_to(ctx, to, idx);
	}
	ovm_countmem_close(&counters);
	ovm_built_fini(&built);
	return rc;
}

void ovm_round_end_of_root(struct ovm_round *r, const struct ovm_tracee *tracee)
{
	if (!tracee->ended || tracee->pid != r->root)
		return;
	r->root_ended = true;
	r->root_wstatus = tracee->wstatus;
}

void ovm_round_forget(struct ovm_round *r)
{
	forget(r);
	r->final = OVM_NONE;
}

void ovm_round_settle(struct ovm_round *r)
{
	double begin = ovm_now_ms();
	while (ovm_tracee_service(&r->tracee) && ovm_now_ms() < begin + OVM_RT_PENDING_MS)
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

const struct ovm_built *ovm_round_built(const struct ovm_round *r)
{
	return r->final == OVM_NONE ? NULL : &r->set.v.v[r->final].built;
}
