/* Nothing is touched before it is worth it: a short program is only sampled. The process that uses
 * most processor time (the program itself, or a child of its: a compiler under its driver) is
 * looked at after a while (may it be traced? what is mapped where?), and from then on the steps of
 * counting.c are taken between the drains of the sampler. When it ends its counts are kept, and the
 * next busy process has its turn.
 *
 * Short processes that come one after the other are never worth it alone. Once their samples
 * together say enough, the next one that has mapped what most samples fell into is counted almost
 * from its beginning; not the shell that starts them. What was built for one serves the next
 * (stock.h), which is looked at when a window is due: so windows fall anywhere into their lives.
 *
 * Or else (from_start) the program is held where it starts, copies of all that a profile knows are
 * armed, and they count to its end: exact counts of the whole run. Only this one process and what
 * it forks are counted, not what its children exec.
 *
 * Whatever cannot be done leaves a profile of samples, and a reason.
 */
#define OVM_LOG_DOMAIN "countrec"
#include "runtime/countrec.h"
#include "base/clock.h"
#include "base/log.h"
#include "profiler/elfid.h"
#include "runtime/cputime.h"
#include "runtime/startgate.h"
#include "runtime/tunables.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct ovm_countrec {
	struct ovm_countrec_opts opts;
	struct ovm_ctx ctx; /* its own: trouble here is not the recording's */
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	struct ovm_generations set;
	struct ovm_counting *counting; /* NULL: not begun */
	struct ovm_profile *known;     /* from_start: what to count */
	pid_t seized;		       /* before its exec; 0: no */
	bool is_over;
	struct ovm_stock stock;	  /* what was built in processes that have ended */
	struct ovm_profile *done; /* counts of processes that have ended; NULL: none yet */
	uint64_t n_known;	  /* samples of the recording so far, with those in no file */
	OVM_VEC(pid_t) tried;	  /* never again */
	OVM_VEC(pid_t) unlike;	  /* not early: they run something else */
	struct ovm_counting_stats stats; /* of all processes that are done */
};

static void explain(struct ovm_countrec *rec, const char *why)
{
	snprintf(rec->stats.why_not, sizeof(rec->stats.why_not), "%.199s", why);
}

struct ovm_countrec *ovm_countrec_new(const struct ovm_countrec_opts *opts)
{
	struct ovm_countrec *rec = ovm_alloc(sizeof(*rec));
	*rec = (struct ovm_countrec){.opts = *opts};
	ovm_ctx_init(&rec->ctx);
	ovm_tracee_init(&rec->tracee, 0);
	ovm_stock_init(&rec->stock);
	explain(rec, "the program used too little processor time");
	return rec;
}

static void add_stats(struct ovm_counting_stats *sum, const struct ovm_counting_stats *one)
{
	sum->n_generations += one->n_generations;
	sum->n_windows += one->n_windows;
	sum->n_regions += one->n_regions;
	sum->n_counters += one->n_counters;
	sum->armed_ms += one->armed_ms;
	sum->pause_ms += one->pause_ms;
	if (one->max_pause_ms > sum->max_pause_ms)
		sum->max_pause_ms = one->max_pause_ms;
	if (one->why_not[0])
		memcpy(sum->why_not, one->why_not, sizeof(sum->why_not));
}

static void look_away(struct ovm_countrec *rec)
{
	ovm_tracee_close(&rec->tracee);
	ovm_livemap_fini(&rec->map);
	rec->map = (struct ovm_livemap){0};
}

/* Forget the process at hand; it runs its original code or has ended. */
static void close_process(struct ovm_countrec *rec)
{
	if (!rec->counting)
		return;
	add_stats(&rec->stats, ovm_counting_stats(rec->counting));
	ovm_counting_free(rec->counting);
	rec->counting = NULL;
	ovm_generations_fini(&rec->set);
	look_away(rec);
}

void ovm_countrec_free(struct ovm_countrec *rec)
{
	if (!rec)
		return;
	close_process(rec);
	ovm_tracee_close(&rec->tracee);
	ovm_stock_fini(&rec->stock);
	ovm_profile_free(rec->known);
	ovm_profile_free(rec->done);
	ovm_vec_free(&rec->tried);
	ovm_vec_free(&rec->unlike);
	free(rec);
}

/* Has the process mapped more than half, by samples, of what @known knows? */
static bool has_most_of(const struct ovm_profile *known, const struct ovm_livemap *map)
{
	double all = 0, here = 0;
	for (uint32_t i = 0; i < known->modules.n; i++) {
		const struct ovm_prof_module *module = &known->modules.v[i];
		double n = (double)ovm_prof_module_samples(module);
		bool is_here = false;
		for (uint32_t k = 0; module->path && k < map->modules.n; k++)
			is_here |= !strcmp(map->modules.v[k].path, module->path);
		all += n;
		here += is_here ? n : 0;
	}
	return here * 2 > all;
}

static bool is_among(const pid_t *list, uint32_t n, pid_t pid)
{
	for (uint32_t i = 0; i < n; i++)
		if (list[i] == pid)
			return true;
	return false;
}

static bool is_early(pid_t pid)
{
	return ovm_cpu_time_ms(pid) < OVM_RT_COUNT_AFTER_MS;
}

static bool is_wanted(void *arg, pid_t pid)
{
	const struct ovm_countrec *rec = arg;
	if (is_among(rec->tried.v, rec->tried.n, pid))
		return false;
	if (!is_early(pid))
		return true;
	return (rec->done || rec->n_known >= OVM_RT_COUNT_KNOWN) &&
	       !is_among(rec->unlike.v, rec->unlike.n, pid) &&
	       ovm_cpu_time_ms(pid) >= OVM_RT_COUNT_NEXT_MS;
}

static int look_at(struct ovm_countrec *rec, pid_t pid)
{
	ovm_tracee_close(&rec->tracee);
	ovm_tracee_init(&rec->tracee, pid);
	int rc = ovm_tracee_check(&rec->ctx, pid);
	if (rc == 0)
		rc = ovm_tracee_open_mem(&rec->ctx, &rec->tracee);
	if (rc == 0)
		rc = ovm_livemap_read(&rec->ctx, pid, &rec->map);
	if (rc == 0)
		ovm_livemap_modules(&rec->map, pid);
	return rc;
}

static void begin(struct ovm_countrec *rec, pid_t pid, const struct ovm_profile *samples)
{
	struct ovm_counting_opts opts = rec->opts.counting;
	bool early = is_early(pid);
	int rc = look_at(rec, pid);
	if (rc == 0 && early && !has_most_of(samples, &rec->map)) {
		ovm_vec_push(&rec->unlike, pid);
		look_away(rec);
		return;
	}
	ovm_vec_push(&rec->tried, pid);
	if (rc) {
		look_away(rec);
		explain(rec, rec->ctx.msg);
		return;
	}
	ovm_log(OVM_LOG_INFO, "counting in process %d", (int)pid);
	ovm_generations_init(&rec->set, &rec->tracee, &rec->map);
	opts.at_once = early;
	rec->counting = ovm_counting_new(&rec->set, &opts, rec->done, &rec->stock);
}

static void add_modules(struct ovm_profile *to, const struct ovm_profile *from)
{
	for (uint32_t i = 0; from && i < from->modules.n; i++)
		ovm_profile_module(to, from->modules.v[i].id, from->modules.v[i].path);
}

/* Keep what was counted, under the modules that @samples knows. */
static void keep_counts(struct ovm_countrec *rec, const struct ovm_profile *samples)
{
	struct ovm_profile *counts = ovm_profile_new();
	add_modules(counts, samples);
	add_modules(counts, rec->known);
	ovm_counting_profile(rec->counting, counts);
	if (!rec->done)
		rec->done = ovm_profile_new();
	ovm_profile_merge(rec->done, counts);
	ovm_profile_free(counts);
}

/* --- from the start
 * -------------------------------------------------------------------------------------------------
 */

/* Everything in the profile is worth counting: a module without samples gets one. */
static struct ovm_profile *all_of(const struct ovm_profile *prior)
{
	struct ovm_profile *all = ovm_profile_new();
	ovm_profile_merge(all, prior);
	all->n_samples = 0;
	for (uint32_t i = 0; i < all->modules.n; i++) {
		struct ovm_prof_module *module = &all->modules.v[i];
		if (!module->samples.n && module->edges.n)
			ovm_vec_push(&module->samples,
				     ((struct ovm_prof_sample){module->edges.v[0].to, 1}));
	}
	return all;
}

/* A profile that knows the program's file, and nothing of it. */
static int program_only(struct ovm_ctx *ctx, const struct ovm_livemap *map, pid_t pid,
			struct ovm_profile **out)
{
	const struct ovm_live_module *exe = NULL;
	struct ovm_elfid id = {0};
	char name[64];
	for (uint32_t i = 0; i < map->modules.n; i++)
		exe = map->modules.v[i].is_exe ? &map->modules.v[i] : exe;
	snprintf(name, sizeof(name), "/proc/%d/exe", (int)pid);
	int fd = exe ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return ovm_fail(ctx, OVM_E_TARGET, "the program's file cannot be read");
	int rc = ovm_elfid_read(ctx, fd, name, &id);
	close(fd);
	if (rc)
		return rc;
	*out = ovm_profile_new();
	ovm_vec_push(&ovm_profile_module(*out, id.id, exe->path)->samples,
		     ((struct ovm_prof_sample){exe->segments.v[0].va, 1}));
	ovm_elfid_fini(&id);
	return 0;
}

static bool is_known(void *arg, const struct ovm_livemap *map)
{
	const struct ovm_countrec *rec = arg;
	return !rec->known || has_most_of(rec->known, map);
}

static void prepare(void *arg, pid_t pid)
{
	struct ovm_countrec *rec = arg;
	if (!rec->opts.from_start)
		return;
	if (ovm_startgate_seize(&rec->ctx, pid))
		explain(rec, rec->ctx.msg);
	else
		rec->seized = pid;
}

static void begin_at_start(void *arg)
{
	struct ovm_countrec *rec = arg;
	if (!rec->seized)
		return;
	ovm_tracee_close(&rec->tracee);
	ovm_tracee_init(&rec->tracee, rec->seized);
	rec->known = rec->opts.prior ? all_of(rec->opts.prior) : NULL;
	int rc = ovm_startgate_hold(&rec->ctx, &rec->tracee, is_known, rec, &rec->map);
	if (rc == 0 && !rec->known)
		rc = program_only(&rec->ctx, &rec->map, rec->seized, &rec->known);
	if (rc) {
		explain(rec, rec->ctx.msg);
		ovm_tracee_resume(&rec->tracee);
		return;
	}
	ovm_generations_init(&rec->set, &rec->tracee, &rec->map);
	rec->counting = ovm_counting_new(&rec->set, &rec->opts.counting, NULL, NULL);
	ovm_counting_start(&rec->ctx, rec->counting, rec->known);
}

/* --- the hook
 * ------------------------------------------------------------------------------------------------
 */

/* Is it time to look for a process? If all that is known is built, only for a window. */
static bool is_due(const struct ovm_countrec *rec)
{
	const struct ovm_count_pace *pace = &rec->stock.pace;
	if (rec->opts.counting.is_whole)
		return true;
	bool is_window = ovm_now_ms() >= pace->next_window_at && rec->stock.v.n;
	return is_window || (!rec->stock.builder.pid && rec->n_known >= pace->next_build);
}

static bool step(void *arg, struct ovm_sampler *sampler, pid_t pid, int *wstatus)
{
	struct ovm_countrec *rec = arg;
	if (rec->is_over)
		return false;
	ovm_stock_poll(&rec->ctx, &rec->stock);
	rec->n_known = ovm_sampler_n_samples(sampler);
	if (!rec->counting && !rec->opts.from_start && is_due(rec)) {
		pid_t busiest = ovm_sampler_busiest(sampler, is_wanted, rec);
		if (busiest)
			begin(rec, busiest, ovm_sampler_profile(sampler));
	}
	uint64_t cpu_ms = rec->counting ? ovm_cpu_time_ms(rec->tracee.pid) : 0;
	if (cpu_ms)
		ovm_counting_step(&rec->ctx, rec->counting, sampler, cpu_ms);
	else
		ovm_tracee_service(&rec->tracee);
	bool is_program = rec->tracee.pid == pid;
	if (rec->tracee.ended && is_program) {
		*wstatus = rec->tracee.wstatus;
		return true;
	}
	if (rec->counting && !is_program && (!cpu_ms || rec->tracee.ended)) {
		ovm_counting_stop(&rec->ctx, rec->counting);
		keep_counts(rec, ovm_sampler_profile(sampler));
		ovm_counting_leave(rec->counting);
		close_process(rec);
	}
	return false;
}

static int patience(void *arg)
{
	const struct ovm_countrec *rec = arg;
	return rec->counting ? ovm_counting_patience(rec->counting) : OVM_RT_DRAIN_MS;
}

static void finish(void *arg, struct ovm_profile *into)
{
	struct ovm_countrec *rec = arg;
	if (rec->is_over)
		return;
	rec->is_over = true;
	if (rec->counting) {
		ovm_counting_stop(&rec->ctx, rec->counting);
		keep_counts(rec, into);
	}
	for (double begin = ovm_now_ms();
	     ovm_tracee_service(&rec->tracee) && ovm_now_ms() < begin + OVM_RT_PENDING_MS;)
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	close_process(rec);
	if (rec->done)
		ovm_profile_merge(into, rec->done);
}

struct ovm_recorder_hook ovm_countrec_hook(struct ovm_countrec *rec)
{
	return (struct ovm_recorder_hook){prepare, begin_at_start, step, patience, finish, rec};
}

const struct ovm_counting_stats *ovm_countrec_stats(const struct ovm_countrec *rec)
{
	return &rec->stats;
}
