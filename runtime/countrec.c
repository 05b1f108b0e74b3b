/* Nothing is touched before it is worth it: a short program is only sampled. After some CPU time
 * the process is looked at (may it be traced? what is mapped where?), and from then on the steps of
 * counting.c are taken between the drains of the sampler.
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
#include <time.h>

struct ovm_countrec {
	struct ovm_counting_opts opts;
	struct ovm_ctx ctx; /* its own: trouble here is not the recording's */
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	struct ovm_generations set;
	struct ovm_counting *counting; /* NULL: not begun */
	bool is_over;
	struct ovm_counting_stats stats; /* if it never began */
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

void ovm_countrec_free(struct ovm_countrec *rec)
{
	if (!rec)
		return;
	if (rec->counting) {
		ovm_counting_free(rec->counting);
		ovm_generations_fini(&rec->set);
		ovm_tracee_close(&rec->tracee);
	}
	ovm_livemap_fini(&rec->map);
	free(rec);
}

static void begin(struct ovm_countrec *rec, pid_t pid)
{
	ovm_tracee_init(&rec->tracee, pid);
	int rc = ovm_tracee_check(&rec->ctx, pid);
	if (rc == 0)
		rc = ovm_tracee_open_mem(&rec->ctx, &rec->tracee);
	if (rc == 0)
		rc = ovm_livemap_read(&rec->ctx, pid, &rec->map);
	if (rc) {
		ovm_tracee_close(&rec->tracee);
		snprintf(rec->stats.why_not, sizeof(rec->stats.why_not), "%.199s", rec->ctx.msg);
		rec->is_over = true;
		return;
	}
	ovm_livemap_modules(&rec->map, pid);
	ovm_generations_init(&rec->set, &rec->tracee, &rec->map);
	rec->counting = ovm_counting_new(&rec->set, &rec->opts);
}

static bool step(void *arg, struct ovm_sampler *sampler, pid_t pid, int *wstatus)
{
	struct ovm_countrec *rec = arg;
	if (rec->is_over)
		return false;
	uint64_t cpu_ms = ovm_cpu_time_ms(pid);
	if (!rec->counting && cpu_ms >= OVM_RT_COUNT_AFTER_MS)
		begin(rec, pid);
	if (!rec->counting)
		return false;
	ovm_counting_step(&rec->ctx, rec->counting, sampler, cpu_ms);
	if (!rec->tracee.ended)
		return false;
	*wstatus = rec->tracee.wstatus;
	return true;
}

static int patience(void *arg)
{
	const struct ovm_countrec *rec = arg;
	return rec->counting ? ovm_counting_patience(rec->counting) : OVM_RT_DRAIN_MS;
}

static void finish(void *arg, struct ovm_profile *into)
{
	struct ovm_countrec *rec = arg;
	if (rec->is_over || !rec->counting)
		return;
	ovm_counting_stop(&rec->ctx, rec->counting);
	ovm_counting_profile(rec->counting, into);
	for (double begin = ovm_now_ms();
	     ovm_tracee_service(&rec->tracee) && ovm_now_ms() < begin + OVM_RT_PENDING_MS;)
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	rec->is_over = true;
}

struct ovm_recorder_hook ovm_countrec_hook(struct ovm_countrec *rec)
{
	return (struct ovm_recorder_hook){step, patience, finish, rec};
}

const struct ovm_counting_stats *ovm_countrec_stats(const struct ovm_countrec *rec)
{
	return rec->counting ? ovm_counting_stats(rec->counting) : &rec->stats;
}
