/* A server is attached to in the morning and has its busy hour at noon; a compiler parses first
 * and optimizes later. So after a round the process is sampled on, seldom enough to cost nothing:
 *
 *   round 1 | window | window | window | round 2 | window ...
 *             199 Hz, 500 samples each
 *
 * A window is compared with each time that had a round. It is nothing new if for one of these
 *
 *   drift     less than 0.30 of its samples fall on other pages (analyzer/drift.h), and
 *   outside   the share of samples that are in no copy is at most 0.10 larger than it was then
 *
 * "outside" is compared with what it was, not with 0: much is refused for good reasons, and would
 * be refused again. New libraries are outside; so they are found too. If two windows in a row are
 * new (one alone may lie across a change between two known times, but then it is not farther
 * outside than both: if it is by 0.30, it is enough) there is another round, with the profiles of
 * all times added up: what runs by turns is served together, and does not make rounds for ever. A
 * round that comes to nothing (no gain predicted) makes its time known all the same. The samples of
 * the windows that were new go into the new round's profile.
 *
 * A round costs: building takes CPU time, and caches and execution units that the process could
 * use. Another one has to wait until the process has used some times what the last one took of
 * ours.
 *
 * Where the last round was undone, though it was not certain that it was a loss, nothing is armed
 * and everything is outside; a time with other hot pages is new all the same, and gets its chance.
 *
 * Not while there is only ptrace to sample by: that would not let go. Not if somebody else has
 * changed the process meanwhile: who detached it wanted it so.
 */
#define OVM_LOG_DOMAIN "watch"
#include "runtime/watch.h"
#include "analyzer/drift.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/cputime.h"
#include "runtime/tunables.h"

#include <stdio.h>
#include <string.h>

enum { GENERATIONS_A_ROUND = 3 }; /* to count, to use, to measure by */

static double outside(const struct ovm_round *r, const struct ovm_profile *profile)
{
	const struct ovm_built *built = ovm_round_built(r);
	uint64_t n = 0, inside = 0;
	for (uint32_t m = 0; m < profile->modules.n; m++) {
		const struct ovm_prof_module *module = &profile->modules.v[m];
		const struct ovm_built_module *copy = NULL;
		for (uint32_t i = 0; built && module->path && i < built->modules.n; i++)
			if (!strcmp(built->modules.v[i].module->path, module->path))
				copy = &built->modules.v[i];
		for (uint32_t i = 0; i < module->samples.n; i++) {
			n += module->samples.v[i].count;
			if (copy && ovm_map_old(&copy->overlay.map, module->samples.v[i].va))
				inside += module->samples.v[i].count;
		}
	}
	return n ? (double)(n - inside) / (double)n : 1;
}

static void know(struct ovm_watch *w, const struct ovm_profile *samples)
{
	struct ovm_profile *copy = ovm_profile_new();
	ovm_profile_merge(copy, samples);
	double share = outside(w->round, copy);
	ovm_log(OVM_LOG_INFO, "a time with %.2f of its samples outside copies", share);
	ovm_vec_push(&w->known, ((struct ovm_known){copy, share}));
}

enum novelty { NOTHING_NEW, IS_NEW, IS_FAR };

static enum novelty look_at(const struct ovm_watch *w, const struct ovm_profile *samples)
{
	double share = outside(w->round, samples);
	enum novelty least = IS_FAR;
	for (uint32_t i = 0; i < w->known.n; i++) {
		double drift = ovm_drift(w->known.v[i].profile, samples);
		ovm_log(OVM_LOG_INFO, "window: drift %.2f, outside %.2f, was %.2f", drift, share,
			w->known.v[i].outside);
		enum novelty what = NOTHING_NEW;
		if (share > w->known.v[i].outside + OVM_RT_WATCH_FAR)
			what = IS_FAR;
		else if (drift >= OVM_RT_WATCH_DRIFT ||
			 share > w->known.v[i].outside + OVM_RT_WATCH_OUTSIDE)
			what = IS_NEW;
		least = what < least ? what : least;
	}
	return least;
}

/* Measured with all care, it is not tried again. */
static bool is_certain_loss(const struct ovm_round *r)
{
	return r->result.measured.is_loss && r->result.measured.is_certain;
}

void ovm_watch_init(struct ovm_watch *w, struct ovm_round *r, unsigned max_rounds, int rc)
{
	*w = (struct ovm_watch){.round = r, .max_rounds = max_rounds, .n_rounds = 1};
	r->result.n_rounds = 1;
	r->is_running = true; /* from now on */
	/* after a failure there is no ground to stand on */
	w->is_over = max_rounds < 2 || rc < 0 || is_certain_loss(r) || !r->samples;
	if (!w->is_over)
		know(w, r->samples);
}

static void forget_seen(struct ovm_watch *w)
{
	ovm_profile_free(w->seen);
	w->seen = NULL;
}

void ovm_watch_fini(struct ovm_watch *w)
{
	ovm_sampler_close(w->sampler);
	w->sampler = NULL;
	for (uint32_t i = 0; i < w->known.n; i++)
		ovm_profile_free(w->known.v[i].profile);
	ovm_vec_free(&w->known);
	forget_seen(w);
}

static void end(struct ovm_watch *w, const char *why)
{
	ovm_log(OVM_LOG_INFO, "no more rounds: %s", why);
	ovm_sampler_close(w->sampler);
	w->sampler = NULL;
	w->is_over = true;
}

/* Is what the last round left armed still so? Numbers may have changed. */
static bool is_as_left(const struct ovm_round *r, ovm_rta at)
{
	bool any = false, found = false;
	for (uint32_t i = 0; i < r->set.v.n; i++) {
		const struct ovm_generation *gen = &r->set.v.v[i];
		any |= gen->is_armed;
		for (uint32_t k = 0; k < gen->built.modules.n; k++)
			found |= gen->is_armed && gen->built.modules.v[k].at.v == at.v;
	}
	return at.v ? found : !any;
}

static void add_past(struct ovm_round *r, const struct ovm_profile *profile)
{
	if (!r->past)
		r->past = ovm_profile_new();
	if (profile)
		ovm_profile_merge(r->past, profile);
}

/* Another one, after a first: with the profiles of those before. OVM_REFUSED: nothing came of it.
 */
static int run_again(struct ovm_ctx *ctx, struct ovm_round *r, const struct ovm_profile *seen)
{
	const struct ovm_built *built = ovm_round_built(r);
	ovm_rta at = built ? built->modules.v[0].at : ovm_rta_of(0);
	r->result = (struct ovm_round_result){0};
	add_past(r, r->profile);
	add_past(r, seen);
	ovm_profile_free(r->profile);
	r->profile = NULL;
	ovm_state_close(r->state); /* locked again, with what others have done */
	r->state = NULL;
	int rc = ovm_round_look(ctx, r);
	r->final = OVM_NONE;
	if (rc == 0 && !is_as_left(r, at))
		rc = ovm_fail(ctx, OVM_E_TARGET, "somebody else has changed process %d",
			      (int)r->pid);
	if (rc == 0 && r->set.v.n + GENERATIONS_A_ROUND > OVM_RT_MAX_GENERATIONS)
		rc = ovm_fail(ctx, OVM_E_TARGET, "no room for more optimized code");
	if (rc == 0)
		rc = ovm_round_open_sampler(ctx, r, 0, true, &r->sampler);
	if (rc == 0) {
		rc = ovm_round_run(ctx, r);
		ovm_round_end_sampling(ctx, r);
	}
	for (uint32_t i = 0; rc && i < r->set.v.n; i++) /* then the one before is */
		if (r->set.v.v[i].is_armed && !r->set.v.v[i].built.is_passing)
			r->final = i;
	if (r->state)
		ovm_state_unlock(r->state);
	return rc;
}

static void another_round(struct ovm_ctx *ctx, struct ovm_watch *w)
{
	struct ovm_round *r = w->round;
	struct ovm_round_result before = r->result;
	OVM_FAULT(ROUND_AGAIN);
	int rc = run_again(ctx, r, w->seen);
	w->n_rounds++;
	if (rc && !r->result.measured.is_loss) {
		ovm_log(OVM_LOG_INFO, "round %u: %s", w->n_rounds, ctx->msg);
		before.cost_ms = r->result.cost_ms;
		r->result = before;
	} else if (rc) {
		snprintf(r->result.why_not, sizeof(r->result.why_not), "%.199s", ctx->msg);
	} else {
		r->result.n_rounds = before.n_rounds + 1;
	}
	if (rc < 0 || is_certain_loss(r))
		end(w, ctx->msg);
	else if (r->samples)
		know(w, r->samples);
	if (!w->is_over && w->n_rounds >= w->max_rounds)
		end(w, "that were all");
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
}

/* How long a window of this process is to be, in ms of its CPU time. */
static unsigned window_ms(const struct ovm_round *r)
{
	uint64_t part = ovm_cpu_time_ms(r->pid) / OVM_RT_WATCH_PART;
	if (part < OVM_RT_WATCH_MIN_MS)
		return OVM_RT_WATCH_MIN_MS;
	return part < OVM_RT_WATCH_MAX_MS ? (unsigned)part : OVM_RT_WATCH_MAX_MS;
}

static void open_window(struct ovm_ctx *ctx, struct ovm_watch *w)
{
	w->window_ms = window_ms(w->round);
	/* odd, so that it does not keep step with what the process does every 10 ms */
	uint64_t frequency = OVM_RT_WATCH_SAMPLES * 1000u / w->window_ms | 1;
	if (ovm_round_open_sampler(ctx, w->round, frequency, true, &w->sampler))
		end(w, ctx->msg);
	w->opened_ms = ovm_now_ms();
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
}

/* Has the process run so long since the last round that another one is a small part of it? */
static bool is_affordable(const struct ovm_round *r)
{
	uint64_t now = ovm_cpu_time_ms(r->pid);
	return now >= r->ended_cpu_ms + OVM_RT_ROUND_PAYS * r->result.cost_ms;
}

/* A window is full. True: it is time for another round. */
static bool judge(struct ovm_watch *w, const struct ovm_profile *samples)
{
	bool was_new = w->seen != NULL;
	enum novelty what = look_at(w, samples);
	if (what == NOTHING_NEW) {
		forget_seen(w);
		return false;
	}
	if (!w->seen)
		w->seen = ovm_profile_new();
	ovm_profile_merge(w->seen, samples);
	return (was_new || what == IS_FAR) && is_affordable(w->round);
}

void ovm_watch_step(struct ovm_ctx *ctx, struct ovm_watch *w)
{
	if (w->is_over)
		return;
	if (!w->sampler)
		open_window(ctx, w);
	else if (ovm_sampler_drain(ctx, w->sampler, 0))
		end(w, ctx->msg);
	if (!w->sampler || ovm_sampler_n_samples(w->sampler) < OVM_RT_WATCH_SAMPLES ||
	    ovm_now_ms() < w->opened_ms + w->window_ms)
		return;
	OVM_FAULT(WATCH_WINDOW);
	bool is_due = judge(w, ovm_sampler_profile(w->sampler));
	ovm_sampler_close(w->sampler); /* the next window is another one */
	w->sampler = NULL;
	if (!is_due)
		return;
	another_round(ctx, w);
	forget_seen(w);
}
