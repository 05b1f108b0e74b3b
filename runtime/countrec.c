/* Nothing is touched before it is worth it: a short program is only sampled. The process that uses
 * most processor time (the program itself, or a child of its: a compiler under its driver) is
 * looked at after a while (may it be traced? what is mapped where?), and from then on the steps of
 * counting.c are taken between the drains of the sampler. When it ends its counts are kept, and the
 * next busy process has its turn.
 *
 * Whatever cannot be done leaves a profile of samples, and a reason.
 */
#define OVM_LOG_DOMAIN "countrec"
#include "runtime/countrec.h"
#include "base/log.h"
#include "runtime/cputime.h"
#include "runtime/tunables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct ovm_countrec {
	struct ovm_counting_opts opts;
	struct ovm_ctx ctx; /* its own: trouble here is not the recording's */
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	struct ovm_generations set;
	struct ovm_counting *counting; /* NULL: not begun */
	bool is_over;
	struct ovm_profile *done;	 /* counts of processes that have ended; NULL: none yet */
	OVM_VEC(pid_t) tried;		 /* never again */
	struct ovm_counting_stats stats; /* of all processes that are done */
};

struct ovm_countrec *ovm_countrec_new(const struct ovm_counting_opts *opts)
{
	struct ovm_countrec *rec = ovm_alloc(sizeof(*rec));
	*rec = (struct ovm_countrec){.opts = *opts};
	ovm_ctx_init(&rec->ctx);
	snprintf(rec->stats.why_not, sizeof(rec->stats.why_not),
		 "the program used too little processor time");
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

/* Forget the process at hand; it runs its original code or has ended. */
static void close_process(struct ovm_countrec *rec)
{
	if (!rec->counting)
		return;
	add_stats(&rec->stats, ovm_counting_stats(rec->counting));
	ovm_counting_free(rec->counting);
	rec->counting = NULL;
	ovm_generations_fini(&rec->set);
	ovm_tracee_close(&rec->tracee);
	ovm_livemap_fini(&rec->map);
}

void ovm_countrec_free(struct ovm_countrec *rec)
{
	if (!rec)
		return;
	close_process(rec);
	ovm_profile_free(rec->done);
	ovm_vec_free(&rec->tried);
	free(rec);
}

static bool is_wanted(void *arg, pid_t pid)
{
	const struct ovm_countrec *rec = arg;
	for (uint32_t i = 0; i < rec->tried.n; i++)
		if (rec->tried.v[i] == pid)
			return false;
	/* one that runs what an earlier one ran can be counted from its beginning */
	return ovm_cpu_time_ms(pid) >= (rec->done ? OVM_RT_COUNT_NEXT_MS : OVM_RT_COUNT_AFTER_MS);
}

static void begin(struct ovm_countrec *rec, pid_t pid)
{
	ovm_vec_push(&rec->tried, pid);
	ovm_tracee_init(&rec->tracee, pid);
	int rc = ovm_tracee_check(&rec->ctx, pid);
	if (rc == 0)
		rc = ovm_tracee_open_mem(&rec->ctx, &rec->tracee);
	if (rc == 0)
		rc = ovm_livemap_read(&rec->ctx, pid, &rec->map);
	if (rc) {
		ovm_tracee_close(&rec->tracee);
		snprintf(rec->stats.why_not, sizeof(rec->stats.why_not), "%.199s", rec->ctx.msg);
		return;
	}
	ovm_log(OVM_LOG_INFO, "counting in process %d", (int)pid);
	ovm_livemap_modules(&rec->map, pid);
	ovm_generations_init(&rec->set, &rec->tracee, &rec->map);
	rec->counting = ovm_counting_new(&rec->set, &rec->opts, rec->done);
}

/* Keep what was counted, under the modules that @samples knows. */
static void keep_counts(struct ovm_countrec *rec, const struct ovm_profile *samples)
{
	struct ovm_profile *counts = ovm_profile_new();
	for (uint32_t i = 0; i < samples->modules.n; i++)
		ovm_profile_module(counts, samples->modules.v[i].id, samples->modules.v[i].path);
	ovm_counting_profile(rec->counting, counts);
	if (!rec->done)
		rec->done = ovm_profile_new();
	ovm_profile_merge(rec->done, counts);
	ovm_profile_free(counts);
}

static bool step(void *arg, struct ovm_sampler *sampler, pid_t pid, int *wstatus)
{
	struct ovm_countrec *rec = arg;
	if (rec->is_over)
		return false;
	if (!rec->counting) {
		pid_t busiest = ovm_sampler_busiest(sampler, is_wanted, rec);
		if (busiest)
			begin(rec, busiest);
	}
	if (!rec->counting)
		return false;
	uint64_t cpu_ms = ovm_cpu_time_ms(rec->tracee.pid);
	if (cpu_ms)
		ovm_counting_step(&rec->ctx, rec->counting, sampler, cpu_ms);
	bool is_program = rec->tracee.pid == pid;
	if (rec->tracee.ended && is_program) {
		*wstatus = rec->tracee.wstatus;
		return true;
	}
	if (!is_program && (!cpu_ms || rec->tracee.ended)) {
		keep_counts(rec, ovm_sampler_profile(sampler));
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
		for (double begin = ovm_now_ms();
		     ovm_tracee_service(&rec->tracee) && ovm_now_ms() < begin + OVM_RT_PENDING_MS;)
			nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
		close_process(rec);
	}
	if (rec->done)
		ovm_profile_merge(into, rec->done);
}

struct ovm_recorder_hook ovm_countrec_hook(struct ovm_countrec *rec)
{
	return (struct ovm_recorder_hook){step, patience, finish, rec};
}

const struct ovm_counting_stats *ovm_countrec_stats(const struct ovm_countrec *rec)
{
	return &rec->stats;
}
