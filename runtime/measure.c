/* A process cannot be run twice, and what it does changes all the time. So original and optimized
 * code take turns, in windows too short for the work to change much:
 *
 *   A B | B A | B A | A B | ...       one pair after the other, each a ratio of speeds
 *   order of Thue and Morse           neither a drift nor a rhythm of the program favours one
 *
 * Speed is what gauges (gauge.h) counted per second of CPU time, which is there on every machine;
 * the time others take from us does not matter then, only what their caches do to ours. Several
 * gauges are several opinions: the pair's result is their median. The first milliseconds behind a
 * switch warm up the caches and are not measured.
 *
 * Measuring costs: half of the time the optimized code is not used, and the switches themselves
 * (0.2 to 1.5 ms each). So it is looked at now and then whether enough is known:
 *
 *   8   16   32   64   120 pairs     certainly faster or slower, or most likely not slower: enough
 *
 * and it takes no more than a share of the CPU time the process has used, what it may gain by it is
 * little else. Then what is more likely (verdict.h) decides.
 *
 * A frame entered in one kind of copy goes on there until it returns, and what it calls directly
 * counts there too. So both counters of an entry are added up; such frames make the difference look
 * smaller than it is, never larger.
 *
 * Children forked meanwhile count in the same memory while their time is not the process's: then
 * nothing can be said.
 */
#define OVM_LOG_DOMAIN "measure"
#include "runtime/measure.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/cputime.h"
#include "runtime/forks.h"
#include "runtime/procstat.h"
#include "runtime/tunables.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct gauge { /* one entry that both generations count; the numbers are of modules and counters */
	uint32_t module[2], counter[2];
};

struct window {		 /* what happened in it */
	double seconds;	 /* of CPU time; with a metric by the clock */
	uint64_t *count; /* [gauges] */
	double metric;
};

struct measure {
	struct ovm_generations *set;
	const struct ovm_measure_opts *opts;
	OVM_VEC(struct gauge) gauges;
	struct window windows[2]; /* reference, optimized */
	double logs[OVM_VERDICT_MAX];
	uint32_t n_logs, n_tried;
	uint32_t armed; /* 0 reference, 1 optimized, 2 not known */
	double began, last_pause_ms;
	double cpu_end; /* CPU time of the process, in ms, at which to come to an end */
	struct ovm_belief belief;
	struct ovm_measured *out;
};

/* --- gauges
 * --------------------------------------------------------------------------------------------------
 */

static uint64_t counter_value(const struct measure *m, uint32_t gen, uint32_t module, uint32_t idx)
{
	const uint64_t *v = ovm_generation_counters(&m->set->v.v[gen], module);
	return v ? __atomic_load_n(&v[idx], __ATOMIC_RELAXED) : 0;
}

/* The counter of @entry of the module at @image in generation @gen. */
static bool find_counter(const struct measure *m, uint32_t gen, ovm_rta image, ovm_va entry,
			 uint32_t *module, uint32_t *counter)
{
	const struct ovm_built *built = &m->set->v.v[gen].built;
	for (uint32_t i = 0; i < built->modules.n; i++)
		for (uint32_t k = 0; k < built->modules.v[i].arcs.n; k++) {
			const struct ovm_arc *arc = &built->modules.v[i].arcs.v[k];
			if (built->modules.v[i].module->lo.v != image.v || arc->to.v != entry.v)
				continue;
			*module = i;
			*counter = arc->counter;
			return true;
		}
	return false;
}

static void find_gauges(struct measure *m)
{
	const struct ovm_built *built = &m->set->v.v[m->opts->optimized].built;
	for (uint32_t i = 0; i < built->modules.n && m->opts->reference != OVM_NONE; i++)
		for (uint32_t k = 0; k < built->modules.v[i].arcs.n; k++) {
			const struct ovm_arc *arc = &built->modules.v[i].arcs.v[k];
			struct gauge g = {.module = {0, i}, .counter = {0, arc->counter}};
			if (find_counter(m, m->opts->reference, built->modules.v[i].module->lo,
					 arc->to, &g.module[0], &g.counter[0]))
				ovm_vec_push(&m->gauges, g);
		}
}

static void read_gauges(const struct measure *m, uint64_t *to)
{
	const uint32_t gen[2] = {m->opts->reference, m->opts->optimized};
	for (uint32_t i = 0; i < m->gauges.n; i++) {
		const struct gauge *g = &m->gauges.v[i];
		to[i] = counter_value(m, gen[0], g->module[0], g->counter[0]) +
			counter_value(m, gen[1], g->module[1], g->counter[1]);
	}
}

/* --- windows
 * --------------------------------------------------------------------------------------------------
 */

static void rest(struct measure *m, int ms)
{
	ovm_tracee_service(m->set->tracee);
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L}, NULL);
}

static bool is_over(const struct measure *m)
{
	return m->opts->is_over(m->opts->arg);
}

static double limit_ms(const struct measure *m)
{
	return m->opts->metric ? OVM_RT_MEASURE_METRIC_MS : OVM_RT_MEASURE_MS;
}

static bool is_late(const struct measure *m)
{
	return ovm_now_ms() - m->began > limit_ms(m) || is_over(m);
}

/* Until the process has used @cpu_ms more. False: it does not, or it is over. */
static bool wait_cpu(struct measure *m, double cpu_ms)
{
	double from = ovm_cpu_clock_ms(m->set->tracee->pid);
	while (ovm_cpu_clock_ms(m->set->tracee->pid) < from + cpu_ms) {
		if (is_late(m))
			return false;
		rest(m, OVM_RT_MEASURE_STEP_MS);
	}
	return true;
}

static int arm(struct ovm_ctx *ctx, struct measure *m, uint32_t which)
{
	const uint32_t gen[2] = {m->opts->reference, m->opts->optimized};
	struct ovm_switch_result switched = {0};
	if (m->armed == which)
		return 0;
	int rc = ovm_switch_to(ctx, m->set, gen[which], m->opts->max_pause_ms, &switched);
	if (rc)
		return rc;
	OVM_FAULT(MEASURE_SWITCHED);
	m->armed = which;
	m->last_pause_ms = switched.pause_ms;
	m->out->max_pause_ms = fmax(m->out->max_pause_ms, switched.pause_ms);
	return 0;
}

/* What the user's command says now. */
static bool read_metric(const struct measure *m, double *value)
{
	char line[256], *command, *end;
	command = ovm_asprintf("OPTVM_PID=%d; export OPTVM_PID; %s", (int)m->set->tracee->pid,
			       m->opts->metric);
	FILE *f = popen(command, "re");
	free(command);
	if (!f)
		return false;
	bool is_read = fgets(line, sizeof(line), f) != NULL;
	if (pclose(f) != 0 || !is_read)
		return false;
	*value = strtod(line, &end);
	return end != line && isfinite(*value);
}

static bool measure_metric(struct measure *m, struct window *w)
{
	double before, after;
	rest(m, OVM_RT_MEASURE_WARM_MS);
	if (!read_metric(m, &before)) {
		snprintf(m->out->why_not, sizeof(m->out->why_not),
			 "the command of --metric failed or printed no number");
		return false;
	}
	double from = ovm_now_ms();
	while (ovm_now_ms() < from + OVM_RT_MEASURE_METRIC_WINDOW_MS && !is_over(m))
		rest(m, OVM_RT_MEASURE_STEP_MS);
	if (is_over(m) || !read_metric(m, &after))
		return false;
	w->seconds = (ovm_now_ms() - from) / 1e3;
	w->metric = after - before;
	return true;
}

static bool measure_gauges(struct measure *m, struct window *w)
{
	pid_t pid = m->set->tracee->pid;
	uint64_t *after = ovm_alloc_array(m->gauges.n, sizeof(*after));
	double window = fmax(OVM_RT_MEASURE_WINDOW_MS, OVM_RT_MEASURE_PAUSES * m->last_pause_ms);
	bool ok = wait_cpu(m, OVM_RT_MEASURE_WARM_MS);
	read_gauges(m, w->count);
	double from = ovm_cpu_clock_ms(pid);
	ok = ok && wait_cpu(m, window);
	read_gauges(m, after);
	w->seconds = (ovm_cpu_clock_ms(pid) - from) / 1e3;
	for (uint32_t i = 0; i < m->gauges.n; i++)
		w->count[i] = after[i] - w->count[i];
	free(after);
	return ok && w->seconds > 0;
}

/* --- pairs
 * --------------------------------------------------------------------------------------------------
 */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* log(time after / time before) for the same work. False: too little was counted. */
static bool compare(const struct measure *m, double *out)
{
	const struct window *a = &m->windows[0], *b = &m->windows[1];
	double *each = ovm_alloc_array(m->gauges.n + 1u, sizeof(*each)), time;
	uint32_t n = 0;
	time = log(b->seconds / a->seconds);
	if (m->opts->metric && a->metric > 0 && b->metric > 0)
		each[n++] = time - log(b->metric / a->metric);
	for (uint32_t i = 0; i < m->gauges.n && !m->opts->metric; i++)
		if (a->count[i] >= OVM_RT_MEASURE_COUNTS && b->count[i] >= OVM_RT_MEASURE_COUNTS)
			each[n++] = time - log((double)b->count[i] / (double)a->count[i]);
	if (n) {
		qsort(each, n, sizeof(*each), by_value);
		*out = (each[(n - 1) / 2] + each[n / 2]) / 2;
	}
	free(each);
	return n > 0;
}

/* Thue and Morse: which of a pair comes first. */
static uint32_t first_of(uint32_t pair)
{
	return (uint32_t)__builtin_popcount(pair) & 1;
}

/* False: over, late, or nothing to be had. */
static bool measure_pair(struct ovm_ctx *ctx, struct measure *m, int *rc)
{
	uint32_t first = first_of(m->n_tried++);
	double log_ratio;
	for (uint32_t k = 0; k < 2; k++) {
		uint32_t which = first ^ k;
		if ((*rc = arm(ctx, m, which)) != 0)
			return false;
		if (!(m->opts->metric ? measure_metric(m, &m->windows[which])
				      : measure_gauges(m, &m->windows[which])))
			return false;
	}
	if (compare(m, &log_ratio)) {
		ovm_log(OVM_LOG_DEBUG, "pair %u: %+.4f cpu %.1f %.1f", m->n_logs, log_ratio,
			m->windows[0].seconds * 1e3, m->windows[1].seconds * 1e3);
		m->logs[m->n_logs++] = log_ratio;
	}
	return !is_late(m);
}

static bool is_shared(const struct measure *m)
{
	return !m->opts->metric && ovm_forks_any(m->set);
}

static unsigned long long children_time(const struct measure *m)
{
	struct ovm_procstat stat;
	return ovm_procstat_read(m->set->tracee->pid, &stat) ? stat.children_time : 0;
}

/* Has it cost what it may? */
static bool is_spent(const struct measure *m)
{
	return !m->opts->metric && ovm_cpu_clock_ms(m->set->tracee->pid) >= m->cpu_end;
}

static bool is_enough(const struct measure *m)
{
	return ovm_verdict_is_gain(&m->out->verdict) ||
	       ovm_verdict_is_loss(&m->out->verdict, OVM_RT_MEASURE_LOSS) ||
	       ovm_belief_slower(m->belief) < OVM_RT_MEASURE_KEEP || is_spent(m);
}

/* Each look has its share of the chance to be wrong. */
static int measure_pairs(struct ovm_ctx *ctx, struct measure *m)
{
	static const uint32_t looks[] = {8, 16, 32, 64, 120};
	enum { N_LOOKS = sizeof(looks) / sizeof(looks[0]), N_LOOKS_METRIC = 3 };
	const unsigned n_looks = m->opts->metric ? N_LOOKS_METRIC : N_LOOKS;
	uint32_t most = looks[n_looks - 1];
	unsigned long long children = children_time(m);
	int rc = 0;
	bool more = true;
	for (unsigned look = 0; look < n_looks && more; look++) {
		while (more && m->n_logs < looks[look] && m->n_tried < 2 * most &&
		       !(look && is_spent(m)))
			more = measure_pair(ctx, m, &rc);
		if (!m->opts->metric && (is_shared(m) || children_time(m) != children)) {
			snprintf(m->out->why_not, sizeof(m->out->why_not),
				 "child processes run the same code");
			m->n_logs = 0;
			return rc;
		}
		m->out->verdict = ovm_verdict(m->logs, m->n_logs, OVM_RT_MEASURE_ERROR / n_looks);
		m->belief = ovm_belief_update(m->opts->prior, m->logs, m->n_logs);
		ovm_log(OVM_LOG_INFO, "%u pairs: %.4f, slower with a chance of %.2f", m->n_logs,
			m->out->verdict.ratio, ovm_belief_slower(m->belief));
		more = more && m->n_logs < most && m->n_tried < 2 * most && !is_enough(m);
	}
	return rc;
}

static void explain(struct measure *m)
{
	const struct ovm_verdict *v = &m->out->verdict;
	ovm_log(OVM_LOG_INFO, "%u pairs in %.1f s, %u gauges: %.4f (%.4f..%.4f)", v->n_pairs,
		m->out->took_s, m->gauges.n, v->ratio, v->lo, v->hi);
	if (!m->out->why_not[0] && v->lo <= 0) {
		m->out->verdict.n_pairs = 0;
		snprintf(m->out->why_not, sizeof(m->out->why_not),
			 "the process did too little in %.0f s", m->out->took_s);
	}
}

/* What is to run from now on. */
static int settle(struct ovm_ctx *ctx, struct measure *m)
{
	struct ovm_switch_result switched;
	struct ovm_forks_result forks;
	const struct ovm_verdict *v = &m->out->verdict;
	bool is_loss = ovm_verdict_is_loss(v, OVM_RT_MEASURE_LOSS);
	m->out->is_certain = is_loss || ovm_verdict_is_gain(v);
	m->out->is_loss = v->n_pairs && (is_loss || (!m->out->is_certain && m->belief.mean > 0));
	if (!m->out->is_loss && m->armed == 1)
		return 0;
	int rc = ovm_switch_to(ctx, m->set, m->out->is_loss ? OVM_NONE : m->opts->optimized,
			       m->opts->max_pause_ms, &switched);
	if (rc == 0)
		ovm_forks_follow(ctx, m->set, m->opts->max_pause_ms, OVM_RT_FORKS_MS, &forks);
	return rc;
}

int ovm_measure(struct ovm_ctx *ctx, struct ovm_generations *set,
		const struct ovm_measure_opts *opts, struct ovm_measured *out)
{
	struct measure m = {
	    .set = set, .opts = opts, .armed = 2, .out = out, .began = ovm_now_ms()};
	double used = ovm_cpu_clock_ms(set->tracee->pid);
	m.cpu_end = used + used / OVM_RT_MEASURE_SHARE;
	m.belief = opts->prior;
	int rc = 0;
	*out = (struct ovm_measured){.verdict = {.ratio = 1, .hi = HUGE_VAL}};
	if (!opts->metric)
		find_gauges(&m);
	out->n_gauges = m.gauges.n;
	m.armed = set->v.v[opts->optimized].is_armed ? 1 : 2;
	for (unsigned i = 0; i < 2; i++)
		m.windows[i].count = ovm_alloc_array(m.gauges.n + 1u, sizeof(uint64_t));
	if (opts->metric || m.gauges.n) {
		rc = measure_pairs(ctx, &m);
		out->took_s = (ovm_now_ms() - m.began) / 1e3;
		explain(&m);
		if (rc == 0 && !set->tracee->ended)
			rc = settle(ctx, &m);
	} else {
		snprintf(out->why_not, sizeof(out->why_not),
			 "no code is entered often enough, and not too often, to measure by");
	}
	for (unsigned i = 0; i < 2; i++)
		free(m.windows[i].count);
	ovm_vec_free(&m.gauges);
	return rc;
}
