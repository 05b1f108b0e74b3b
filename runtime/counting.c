/* When to count, and for how long.
 *
 *   cpu time  0 ------- 0.7 s ------------------------------------------------------> end
 *             sample    build   [arm]  rest   [arm]  rest        [arm]      rest
 *                               80 ms         80 ms  2 s         80 ms
 *                                      build more: what has become hot since
 *
 * One window says what runs now; programs have phases, so windows are short and spread: a share of
 * the time, and some more in the beginning, when least is known. Between them the process runs its
 * original code. A window ends early when it has learned enough: when the
 * newer half of what it counted looks like the older half (their distributions differ by little in
 * total variation), or the hottest counter is high and the window is not too young.
 *
 * Regions with samples are instrumented, and what they call. The first window shows which calls
 * lead further, so a second generation follows it at once; as the run goes on others become hot,
 * and more are built if they are worth it, ever more seldom. All are armed together.
 *
 * A recording has a stock: what was built for processes before is taken first, and windows and
 * builds are spread over all of them (stock.h).
 *
 * Limit: one process at a time. Its children count in the same memory while they run instrumented
 * code.
 */
#define OVM_LOG_DOMAIN "counting"
#include "runtime/counting.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/forks.h"
#include "runtime/tunables.h"
#include "runtime/values.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_GENERATIONS = 8 };

enum phase {
	PHASE_SAMPLING, /* too little is known */
	PHASE_RESTING,
	PHASE_ARMED,
	PHASE_DONE,
};

struct instrumented { /* one generation that counts */
	uint32_t gen; /* in set->v */
	struct ovm_countmem counters;
	bool is_taken; /* from the stock */
};

struct ovm_counting {
	struct ovm_generations *set;
	struct ovm_counting_opts opts;
	const struct ovm_profile *before; /* borrowed; or NULL */
	struct ovm_counting_stats stats;
	enum phase phase;
	struct ovm_builder builder; /* pid 0: none at work */
	struct ovm_builder kept;    /* of opts.targets.stays: has built, waits */
	struct ovm_profile *known;  /* what the builder was given; kept until it ends */
	OVM_VEC(struct instrumented) gens;
	struct ovm_counted counted;
	bool *others; /* [n_others]: generations that were armed before we came */
	uint32_t n_others;
	struct ovm_stock *stock;    /* borrowed; or NULL */
	uint32_t next_item, taking; /* of the stock: to be looked at; of the builder, or OVM_NONE */
	struct ovm_count_pace *pace, own; /* the stock's, or our own */
	bool is_fresh;			  /* copies were loaded since the last window */
	uint64_t next_build_cpu;	  /* ms: the first of this process */
	double armed_at, next_look;	  /* ms */
	uint64_t *older, *newest; /* counters when the window opened, and at its last look */
	uint64_t n_counters;
};

struct ovm_counting *ovm_counting_new(struct ovm_generations *set,
				      const struct ovm_counting_opts *opts,
				      const struct ovm_profile *before, struct ovm_stock *stock)
{
	struct ovm_counting *c = ovm_alloc(sizeof(*c));
	*c = (struct ovm_counting){.set = set, .opts = *opts};
	c->builder = c->kept = (struct ovm_builder){.fd = -1, .watch_fd = -1};
	c->opts.targets.is_counting = true;
	c->opts.targets.counted = &c->counted;
	c->before = before;
	c->stock = stock;
	c->taking = OVM_NONE;
	c->own.started_at = ovm_now_ms();
	c->pace = stock ? &stock->pace : &c->own;
	c->n_others = set->v.n;
	c->others = ovm_alloc_array(set->v.n, sizeof(*c->others));
	for (uint32_t i = 0; i < set->v.n; i++)
		c->others[i] = set->v.v[i].is_armed;
	c->next_build_cpu = before || opts->at_once ? 0 : OVM_RT_COUNT_AFTER_MS;
	return c;
}

void ovm_counting_free(struct ovm_counting *c)
{
	if (!c)
		return;
	ovm_builder_close(&c->builder);
	ovm_builder_close(&c->kept);
	ovm_profile_free(c->known);
	for (uint32_t i = 0; i < c->gens.n; i++)
		ovm_countmem_close(&c->gens.v[i].counters);
	ovm_vec_free(&c->gens);
	ovm_vec_free(&c->counted.v);
	free(c->older);
	free(c->newest);
	free(c->others);
	free(c);
}

static void give_up(struct ovm_counting *c, const char *why)
{
	ovm_log(OVM_LOG_INFO, "%s", why);
	if (!c->stats.n_windows)
		snprintf(c->stats.why_not, sizeof(c->stats.why_not), "%.199s", why);
	c->phase = PHASE_DONE;
}

/* --- counters of all generations as one array
 * --------------------------------------------------------------------------------- */

static void read_counters(const struct ovm_counting *c, uint64_t *to)
{
	for (uint32_t g = 0; g < c->gens.n; g++) {
		const struct ovm_generation *gen = &c->set->v.v[c->gens.v[g].gen];
		for (uint32_t m = 0; m < gen->built.modules.n; m++) {
			const uint64_t *from = ovm_generation_counters(gen, m);
			uint32_t n =
			    from ? ovm_overlay_n_probes(&gen->built.modules.v[m].overlay) : 0;
			for (uint32_t i = 0; i < n; i++)
				*to++ = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
		}
	}
}

static void resize_counters(struct ovm_counting *c)
{
	c->n_counters = 0;
	for (uint32_t g = 0; g < c->gens.n; g++) {
		const struct ovm_generation *gen = &c->set->v.v[c->gens.v[g].gen];
		for (uint32_t m = 0; m < gen->built.modules.n; m++)
			if (ovm_generation_counters(gen, m))
				c->n_counters +=
				    ovm_overlay_n_probes(&gen->built.modules.v[m].overlay);
	}
	free(c->older);
	free(c->newest);
	c->older = ovm_alloc_array(c->n_counters, sizeof(*c->older));
	c->newest = ovm_alloc_array(c->n_counters, sizeof(*c->newest));
	c->stats.n_counters = (uint32_t)c->n_counters;
}

struct look {
	double change;	  /* total variation between older and newer half, 0..1 */
	uint64_t hottest; /* counts since the last look */
};

/* Compare what was counted up to the last look with what came since; both halves of the window are
 * as long. */
static struct look look(struct ovm_counting *c)
{
	struct look found = {1.0, 0};
	uint64_t *now = ovm_alloc_array(c->n_counters, sizeof(*now));
	double old_sum = 0, new_sum = 0, diff = 0;
	read_counters(c, now);
	for (uint64_t i = 0; i < c->n_counters; i++) {
		uint64_t newer = now[i] - c->newest[i];
		old_sum += (double)(c->newest[i] - c->older[i]);
		new_sum += (double)newer;
		found.hottest = newer > found.hottest ? newer : found.hottest;
	}
	for (uint64_t i = 0; i < c->n_counters && old_sum > 0 && new_sum > 0; i++)
		diff += fabs((double)(c->newest[i] - c->older[i]) / old_sum -
			     (double)(now[i] - c->newest[i]) / new_sum);
	if (old_sum > 0 && new_sum > 0)
		found.change = diff / 2;
	memcpy(c->newest, now, c->n_counters * sizeof(*now));
	free(now);
	return found;
}

/* --- windows
 * --------------------------------------------------------------------------------------------------
 */

/* In a window nothing else is armed: optimized copies call each other, past our counters. */
static int switch_generations(struct ovm_ctx *ctx, struct ovm_counting *c, bool armed)
{
	struct ovm_switch_result result = {0};
	bool *want = ovm_alloc_array(c->set->v.n, sizeof(*want));
	for (uint32_t i = 0; i < c->set->v.n; i++)
		want[i] = i < c->n_others && c->others[i] && !armed;
	for (uint32_t g = 0; g < c->gens.n; g++)
		want[c->gens.v[g].gen] = armed;
	int rc = ovm_switch(ctx, c->set, want, (int)c->opts.max_pause_ms, &result);
	free(want);
	if (rc)
		return rc;
	c->stats.pause_ms += result.pause_ms;
	if (result.pause_ms > c->stats.max_pause_ms)
		c->stats.max_pause_ms = result.pause_ms;
	ovm_log(OVM_LOG_INFO,
		"%s: pause %.2f ms, %u jumps, %u restored, %u exits, %u moved, %u left behind",
		armed ? "armed" : "disarmed", result.pause_ms, result.n_written, result.n_restored,
		result.n_exits, result.n_moved, result.n_left);
	return 0;
}

static void arm(struct ovm_ctx *ctx, struct ovm_counting *c)
{
	if (switch_generations(ctx, c, true)) {
		give_up(c, ctx->msg);
		return;
	}
	OVM_FAULT(COUNTING_ARMED);
	c->phase = PHASE_ARMED;
	c->armed_at = ovm_now_ms();
	c->next_look = c->armed_at + OVM_RT_WINDOW_FIRST_LOOK_MS;
	c->stats.n_windows++;
	c->is_fresh = false;
	read_counters(c, c->older);
	memcpy(c->newest, c->older, c->n_counters * sizeof(*c->older));
}

static void add_armed(struct ovm_counting *c, double now)
{
	c->stats.armed_ms += now - c->armed_at;
	ovm_pace_window(c->pace, now - c->armed_at, now);
}

static void disarm(struct ovm_ctx *ctx, struct ovm_counting *c)
{
	struct ovm_forks_result forks = {0};
	double now = ovm_now_ms();
	OVM_FAULT(COUNTING_DISARM);
	if (switch_generations(ctx, c, false)) {
		c->next_look = now + OVM_RT_RETRY_MS; /* still armed: try again soon */
		if (ctx->err != OVM_E_GONE)
			return;
		add_armed(c, now);
		give_up(c, ctx->msg);
		return;
	}
	OVM_FAULT(COUNTING_DISARMED);
	add_armed(c, now);
	ovm_forks_follow(ctx, c->set, (int)c->opts.max_pause_ms, OVM_RT_FORKS_MS, &forks);
	c->phase = c->opts.n_windows && c->stats.n_windows >= c->opts.n_windows ? PHASE_DONE
										: PHASE_RESTING;
}

/* Is the open window over? Looks at doubling intervals, so that each compares halves. */
static bool is_over(struct ovm_counting *c, double now)
{
	double age = now - c->armed_at;
	if (c->opts.is_whole || now < c->next_look)
		return false;
	if (age >= OVM_RT_WINDOW_MS)
		return true;
	struct look found = look(c);
	c->next_look = fmin(now + age, c->armed_at + OVM_RT_WINDOW_MS);
	ovm_log(OVM_LOG_DEBUG, "%.0f ms: change %.3f, hottest %llu", age, found.change,
		(unsigned long long)found.hottest);
	return age >= OVM_RT_WINDOW_MIN_MS &&
	       (found.change < OVM_RT_WINDOW_CHANGE || found.hottest >= OVM_RT_WINDOW_HOTTEST ||
		(c->opts.n_windows != 1 && age >= OVM_RT_WINDOW_SHORT_MS));
}

/* --- generations
 * --------------------------------------------------------------------------------------------------
 */

/* Share of the samples that are in no copy. */
static double outside(const struct ovm_counting *c, const struct ovm_profile *samples)
{
	const struct ovm_built *built[MAX_GENERATIONS];
	for (uint32_t g = 0; g < c->gens.n; g++)
		built[g] = &c->set->v.v[c->gens.v[g].gen].built;
	return ovm_pace_outside(built, c->gens.n, samples);
}

/* A first build always, a second after the first window, as calls lead further. */
static bool is_build_worth(struct ovm_counting *c, const struct ovm_profile *samples)
{
	return !c->gens.n || c->pace->n_builds < 2 ||
	       ovm_pace_is_worth(c->pace, outside(c, samples), samples);
}

/* Not yet if the process has hardly been seen in user mode. */
static void start_build(struct ovm_ctx *ctx, struct ovm_counting *c, struct ovm_sampler *sampler)
{
	const struct ovm_profile *samples = ovm_sampler_profile(sampler);
	if (samples->n_samples - samples->n_unmapped < OVM_RT_MIN_SAMPLES) {
		c->next_build_cpu += OVM_RT_COUNT_AFTER_MS / 2;
		return;
	}
	if (!is_build_worth(c, samples))
		return;
	ovm_pace_build(c->pace, samples->n_samples);
	ovm_profile_free(c->known);
	c->known = ovm_profile_new();
	ovm_profile_merge(c->known, samples);
	if (c->before)
		ovm_profile_merge(c->known, c->before);
	ovm_counting_profile(c, c->known);
	if (ovm_builder_start(ctx, c->set, c->known, &c->opts.targets, &c->builder))
		give_up(c, ctx->msg);
}

/* Is there more in the stock that fits? */
static bool may_take(struct ovm_counting *c)
{
	if (!c->stock || c->gens.n >= MAX_GENERATIONS)
		return false;
	uint32_t next = ovm_stock_next(c->stock, c->next_item, c->set->map);
	c->next_item = next == OVM_NONE ? c->stock->v.n : next;
	return next != OVM_NONE;
}

/* What another process had built. */
static bool start_taking(struct ovm_ctx *ctx, struct ovm_counting *c)
{
	struct ovm_target_opts opts = c->opts.targets;
	if (!may_take(c))
		return false;
	c->taking = c->next_item++;
	opts.like = &c->stock->v.v[c->taking]->built;
	if (ovm_builder_start(ctx, c->set, NULL, &opts, &c->builder))
		give_up(c, ctx->msg);
	return true;
}

static void remember_counted(struct ovm_counting *c, const struct ovm_built *built)
{
	for (uint32_t m = 0; m < built->modules.n; m++)
		for (uint32_t i = 0; i < built->modules.v[m].arcs.n; i++) {
			const struct ovm_arc *arc = &built->modules.v[m].arcs.v[i];
			if (!arc->from.v)
				ovm_vec_push(&c->counted.v,
					     ((struct ovm_counted_region){
						 built->modules.v[m].module->lo, arc->to}));
		}
}

static int load(struct ovm_ctx *ctx, struct ovm_counting *c, struct ovm_built *built)
{
	struct instrumented gen = {.is_taken = c->taking != OVM_NONE};
	uint32_t n_regions = 0;
	int rc = ovm_countmem_open(ctx, ovm_built_counter_bytes(built), c->set->tracee->pid,
				   &gen.counters);
	if (rc)
		return rc;
	for (uint32_t m = 0; m < built->modules.n; m++)
		n_regions += built->modules.v[m].overlay.n_regions;
	remember_counted(c, built);
	rc = ovm_generation_load(ctx, c->set, built, &gen.counters, &gen.gen);
	ovm_countmem_hide(&gen.counters);
	if (rc) {
		ovm_countmem_close(&gen.counters);
		return rc;
	}
	ovm_vec_push(&c->gens, gen);
	if (!gen.is_taken || c->stock->v.v[c->taking]->is_new)
		c->stats.n_regions += n_regions;
	if (gen.is_taken)
		c->stock->v.v[c->taking]->is_new = false;
	c->stats.n_generations++;
	c->is_fresh = true;
	resize_counters(c);
	return 0;
}

static int refuse(struct ovm_ctx *ctx, const char *why)
{
	ovm_fail(ctx, OVM_OK, "%s", why);
	return OVM_REFUSED;
}

/* The builder has ended: put what it made into the process. */
static void fetch_build(struct ovm_ctx *ctx, struct ovm_counting *c)
{
	struct ovm_built built = {0};
	int rc = ovm_builder_result(ctx, &c->builder, c->set->map, &built, NULL);
	if (c->taking == OVM_NONE)
		c->pace->build_ms = c->builder.used_ms;
	if (rc == 0 && c->builder.stays) {
		ovm_builder_close(&c->kept);
		c->kept = c->builder;
		c->builder = (struct ovm_builder){.fd = -1, .watch_fd = -1};
	}
	if (rc == 0 && built.modules.n)
		rc = load(ctx, c, &built);
	else if (rc == 0)
		rc = refuse(ctx, built.why_not);
	if (rc == 0)
		c->phase = PHASE_RESTING;
	else if (!c->gens.n && c->taking == OVM_NONE)
		give_up(c, ctx->msg);
	else
		ovm_log(OVM_LOG_INFO, "no further generation: %s", ctx->msg);
	if (rc == 0 && c->taking == OVM_NONE && c->known)
		c->pace->outside = outside(c, c->known);
	if (rc && c->stock && c->taking == OVM_NONE && built.modules.n)
		ovm_stock_put(c->stock, &built, true);
	c->taking = OVM_NONE;
	ovm_built_fini(&built);
}

void ovm_counting_start(struct ovm_ctx *ctx, struct ovm_counting *c,
			const struct ovm_profile *known)
{
	c->pace->n_builds++;
	if (ovm_builder_start(ctx, c->set, known, &c->opts.targets, &c->builder))
		give_up(c, ctx->msg);
	else
		fetch_build(ctx, c);
	if (c->phase == PHASE_RESTING)
		arm(ctx, c);
	ovm_tracee_resume(c->set->tracee);
}

static bool is_build_over(const struct ovm_counting *c)
{
	struct pollfd watch = {.fd = c->builder.watch_fd, .events = POLLIN};
	return c->builder.watch_fd < 0 || poll(&watch, 1, 0) != 0;
}

/* One at a time in a recording, and after each a window. */
static bool is_build_due(const struct ovm_counting *c, const struct ovm_sampler *sampler,
			 uint64_t cpu_ms)
{
	return cpu_ms >= c->next_build_cpu && c->gens.n < MAX_GENERATIONS &&
	       ovm_sampler_n_samples(sampler) >= c->pace->next_build && !c->is_fresh &&
	       !(c->stock && c->stock->builder.pid);
}

void ovm_counting_step(struct ovm_ctx *ctx, struct ovm_counting *c, struct ovm_sampler *sampler,
		       uint64_t cpu_ms)
{
	double now = ovm_now_ms();
	ovm_tracee_service(c->set->tracee);
	if (c->phase == PHASE_DONE)
		return;
	if (c->phase == PHASE_ARMED) {
		if (is_over(c, now))
			disarm(ctx, c);
		return;
	}
	if (c->builder.pid) {
		if (is_build_over(c))
			fetch_build(ctx, c);
	} else if (!start_taking(ctx, c) && is_build_due(c, sampler, cpu_ms)) {
		start_build(ctx, c, sampler);
	}
	if (c->phase == PHASE_RESTING && !may_take(c) &&
	    (c->opts.is_whole || now >= c->pace->next_window_at) && c->taking == OVM_NONE)
		arm(ctx, c);
}

int ovm_counting_patience(const struct ovm_counting *c)
{
	return c->phase == PHASE_ARMED || c->builder.pid ? OVM_RT_COUNT_STEP_MS : OVM_RT_DRAIN_MS;
}

bool ovm_counting_is_done(const struct ovm_counting *c)
{
	return c->phase == PHASE_DONE;
}

void ovm_counting_stop(struct ovm_ctx *ctx, struct ovm_counting *c)
{
	for (unsigned i = 0; c->phase == PHASE_ARMED && i < OVM_RT_STOP_ATTEMPTS; i++)
		disarm(ctx, c);
	if (c->phase != PHASE_DONE && c->builder.pid)
		give_up(c, "the program ended while copies to count in were being built");
	c->phase = PHASE_DONE;
}

void ovm_counting_leave(struct ovm_counting *c)
{
	for (uint32_t g = 0; c->stock && g < c->gens.n; g++)
		if (!c->gens.v[g].is_taken)
			ovm_stock_put(c->stock, &c->set->v.v[c->gens.v[g].gen].built, false);
	if (c->stock && c->builder.pid && c->taking == OVM_NONE)
		ovm_stock_adopt(c->stock, &c->builder, c->set->map);
}

bool ovm_counting_take_builder(struct ovm_counting *c, struct ovm_builder *out)
{
	if (!c->kept.pid || c->phase == PHASE_ARMED || !c->stats.n_windows)
		return false;
	*out = c->kept;
	c->kept = (struct ovm_builder){.fd = -1, .watch_fd = -1};
	return true;
}

/* --- counts
 * --------------------------------------------------------------------------------------------------
 */

static int by_va(const void *a, const void *b)
{
	const ovm_va *x = a, *y = b;
	return (x->v > y->v) - (x->v < y->v);
}

struct solved { /* one module of a generation */
	const struct ovm_built_module *built;
	const uint64_t *counters;
	uint64_t *counts; /* by arc */
};
typedef OVM_VEC(struct solved) solved_modules;

static void solve_all(const struct ovm_counting *c, solved_modules *out)
{
	for (uint32_t g = 0; g < c->gens.n; g++) {
		const struct ovm_generation *gen = &c->set->v.v[c->gens.v[g].gen];
		for (uint32_t m = 0; m < gen->built.modules.n; m++) {
			struct solved s = {&gen->built.modules.v[m],
					   ovm_generation_counters(gen, m), NULL};
			if (!s.counters)
				continue;
			s.counts = ovm_alloc_array(s.built->arcs.n, sizeof(*s.counts));
			uint64_t clipped =
			    ovm_arcs_solve(&s.built->arcs, s.built->n_nodes, s.counters, s.counts);
			ovm_log(OVM_LOG_INFO, "%s: %u arcs, %u counters, %llu counts clipped",
				s.built->module->path, s.built->arcs.n, s.built->overlay.n_counters,
				(unsigned long long)clipped);
			ovm_vec_push(out, s);
		}
	}
}

/* Regions that were seen to be entered. Of others (no counter could stand there, or nobody came)
 * the calls of them tell. */
static void find_entered(const solved_modules *modules, struct ovm_counted *out)
{
	for (uint32_t k = 0; k < modules->n; k++) {
		const struct solved *s = &modules->v[k];
		for (uint32_t i = 0; i < s->built->arcs.n; i++)
			if (!s->built->arcs.v[i].from.v && s->counts[i])
				ovm_vec_push(&out->v,
					     ((struct ovm_counted_region){s->built->module->lo,
									  s->built->arcs.v[i].to}));
	}
}

/* Their starts in @module. */
static ovm_va *entered_in(const struct ovm_counted *entered, const struct ovm_live_module *module,
			  uint32_t *n)
{
	ovm_va *list = ovm_alloc_array(entered->v.n, sizeof(*list));
	*n = 0;
	for (uint32_t i = 0; i < entered->v.n; i++)
		if (entered->v.v[i].module.v == module->lo.v)
			list[(*n)++] = entered->v.v[i].lo;
	qsort(list, *n, sizeof(*list), by_va);
	return list;
}

static void add_module(const struct solved *s, const struct ovm_counted *entered,
		       struct ovm_prof_module *into)
{
	uint32_t n;
	ovm_va *list = entered_in(entered, s->built->module, &n);
	ovm_arcs_to_profile(&s->built->arcs, s->counts, into);
	ovm_callcount_to_profile(&s->built->calls, &s->built->arcs, s->counts, list, n, into);
	free(list);
}

void ovm_counting_profile(const struct ovm_counting *c, struct ovm_profile *into)
{
	solved_modules modules = {0};
	struct ovm_counted entered = {0};
	solve_all(c, &modules);
	find_entered(&modules, &entered);
	for (uint32_t i = 0; i < modules.n; i++) {
		const struct solved *s = &modules.v[i];
		struct ovm_prof_module *module = ovm_profile_at(into, s->built->module->path);
		if (module) {
			add_module(s, &entered, module);
			ovm_values_to_profile(s->built, s->counters, c->set->map, &entered, into);
		}
		free(s->counts);
	}
	ovm_vec_free(&modules);
	ovm_vec_free(&entered.v);
	ovm_profile_normalize(into);
}

const struct ovm_counting_stats *ovm_counting_stats(const struct ovm_counting *c)
{
	return &c->stats;
}
