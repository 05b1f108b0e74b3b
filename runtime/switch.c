/* The one stop in which everything changes hands.
 *
 *   running   which jumps stand there, which shall: the difference, in pages
 *             copy the pages that will be written         same bytes
 *   stopped   everything as planned? else let go
 *             threads: where each goes on                 an equal state
 *             stacks: which jumps are unsafe, who returns where
 *             unwinder's jump (first time)                before anybody is in an overlay
 *             jumps, page by page                         each state a valid program
 *             exits behind calls of disarmed copies       each a valid program
 *             PCs                                         each at an equal state
 *   running
 *
 * Between any two of these writes we may die: all code that is referred to is there for ever, and
 * whatever mixture of old and new jumps is left, each of them leads to the same program.
 *
 * A jump is changed only if the bytes found are those that we know to be there: the original's, or
 * our last jump. What somebody else has put over it (a breakpoint) stays, and is tried again by the
 * next switch.
 */
#define OVM_LOG_DOMAIN "switch"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/generation.h"
#include "runtime/osr.h"
#include "runtime/presence.h"
#include "runtime/stackscan.h"
#include "runtime/state.h"
#include "runtime/tunables.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { JUMP_LEN = 5 };

struct place {			/* one jump that is there before or after */
	uint32_t before, after; /* in set->applied and wanted, OVM_NONE: none */
	uint32_t change;	/* in changes; OVM_NONE: stays as it is */
};

struct plan {
	struct ovm_generations *set;
	const bool *want;
	struct ovm_patchset wanted;  /* jumps that shall be there, originals as old bytes */
	struct ovm_patchset changes; /* from what is there to what shall be */
	struct ovm_patchset hook_set;
	OVM_VEC(struct place) places; /* ascending */
	struct ovm_osr_module *osr;   /* all overlays, in order of loading */
	bool *is_gone;		      /* [n_osr]: its module is not there any more */
	uint32_t n_osr;
	struct ovm_live_need *needs, *needs_left;
	uint32_t n_needs;
	struct ovm_stackscan scan;
	bool in_stub;
	struct ovm_switch_result result;
};

static bool overlaps(const struct ovm_live_patch *a, const struct ovm_live_patch *b)
{
	return a->at.v < b->at.v + b->len && b->at.v < a->at.v + a->len;
}

/* --- before the stop: what shall be where
 * ------------------------------------------------------------------- */

/* Which modules were unloaded, or are others now? Their jumps are gone with their code. */
static void find_gone(struct plan *plan)
{
	struct ovm_ctx own;
	struct ovm_livemap map = {0};
	struct ovm_generations *set = plan->set;
	ovm_ctx_init(&own);
	uint32_t n = 0;
	for (uint32_t i = 0; i < set->v.n; i++)
		n += set->v.v[i].built.modules.n;
	plan->is_gone = ovm_alloc_array(n + 1u, sizeof(bool));
	bool is_read = ovm_livemap_read(&own, set->tracee->pid, &map) == 0;
	n = 0;
	for (uint32_t i = 0; i < set->v.n && is_read; i++)
		for (uint32_t k = 0; k < set->v.v[i].built.modules.n; k++, n++) {
			const struct ovm_built_module *m = &set->v.v[i].built.modules.v[k];
			plan->is_gone[n] =
			    !ovm_module_is_there(set->tracee, &map, m->module, m->print);
			if (plan->is_gone[n])
				ovm_patchset_forget(&set->applied, &set->v.v[i].jumps,
						    m->module->lo, m->module->hi);
		}
	ovm_livemap_fini(&map);
}

/* A generation's jumps into modules that are there. @first: number of its first module. */
static void add_wanted(struct plan *plan, const struct ovm_generation *gen, uint32_t first)
{
	struct ovm_patchset jumps = {0};
	ovm_patchset_merge(&jumps, &gen->jumps);
	for (uint32_t k = 0; k < gen->built.modules.n; k++)
		if (plan->is_gone[first + k])
			ovm_patchset_forget(&jumps, &gen->jumps, gen->built.modules.v[k].module->lo,
					    gen->built.modules.v[k].module->hi);
	ovm_patchset_merge(&plan->wanted, &jumps);
	ovm_patchset_fini(&jumps);
}

static void plan_wanted(struct plan *plan)
{
	const struct ovm_generations *set = plan->set;
	uint32_t first = 0;
	for (uint32_t i = 0; i < set->v.n; i++)
		first += set->v.v[i].built.modules.n;
	for (uint32_t i = set->v.n; i-- > 0;) { /* the last wins */
		first -= set->v.v[i].built.modules.n;
		if (!plan->want[i])
			continue;
		add_wanted(plan, &set->v.v[i], first);
		plan->result.n_dropped += set->v.v[i].jumps.n_dropped;
	}
	for (uint32_t i = 0; i < plan->wanted.v.n && set->has_hook; i++)
		if (overlaps(&plan->wanted.v.v[i], &set->hook_jump))
			ovm_patchset_drop(&plan->wanted, i);
}

/* From @before (the jump there now, or NULL) to @after (the jump that shall be there, or NULL). */
static struct ovm_live_patch change_of(const struct ovm_live_patch *before,
				       const struct ovm_live_patch *after)
{
	struct ovm_live_patch p = after ? *after : *before;
	memcpy(p.old_bytes, before ? before->new_bytes : after->old_bytes, sizeof(p.old_bytes));
	memcpy(p.new_bytes, after ? after->new_bytes : before->old_bytes, sizeof(p.new_bytes));
	p.state = OVM_PATCH_PLANNED;
	p.is_over_jump = before != NULL;
	return p;
}

static void add_place(struct plan *plan, uint32_t before, uint32_t after)
{
	const struct ovm_live_patch *b =
	    before == OVM_NONE ? NULL : &plan->set->applied.v.v[before];
	const struct ovm_live_patch *a = after == OVM_NONE ? NULL : &plan->wanted.v.v[after];
	struct place place = {.before = before, .after = after, .change = OVM_NONE};
	if (!a || !b || memcmp(a->new_bytes, b->new_bytes, a->len) != 0) {
		struct ovm_live_patch change = change_of(b, a);
		place.change = plan->changes.v.n;
		ovm_patchset_add(&plan->changes, &change);
	}
	ovm_vec_push(&plan->places, place);
}

/* Walk both lists in step. A wanted jump that lies askew over one that is there is left out. */
static void plan_changes(struct plan *plan)
{
	const struct ovm_patchset *applied = &plan->set->applied;
	uint32_t b = 0, a = 0;
	while (b < applied->v.n || a < plan->wanted.v.n) {
		const struct ovm_live_patch *before = b < applied->v.n ? &applied->v.v[b] : NULL;
		const struct ovm_live_patch *after =
		    a < plan->wanted.v.n ? &plan->wanted.v.v[a] : NULL;
		bool same = before && after && before->at.v == after->at.v;
		if (after && (after->state == OVM_PATCH_DROPPED ||
			      (!same && before && overlaps(before, after)))) {
			ovm_patchset_drop(&plan->wanted, a++);
		} else if (same) {
			add_place(plan, b++, a++);
		} else if (!before || (after && after->at.v < before->at.v)) {
			add_place(plan, OVM_NONE, a++);
		} else {
			add_place(plan, b++, OVM_NONE);
		}
	}
	plan->result.n_dropped += plan->wanted.n_dropped;
}

static void plan_osr(struct plan *plan)
{
	const struct ovm_generations *set = plan->set;
	uint32_t n = 0;
	for (uint32_t i = 0; i < set->v.n; i++)
		n += set->v.v[i].built.modules.n;
	plan->osr = ovm_alloc_array(n, sizeof(plan->osr[0]));
	for (uint32_t i = 0; i < set->v.n; i++)
		for (uint32_t k = 0; k < set->v.v[i].built.modules.n; k++) {
			const struct ovm_built_module *m = &set->v.v[i].built.modules.v[k];
			struct ovm_osr_module *osr = &plan->osr[plan->n_osr];
			*osr = (struct ovm_osr_module){
			    .overlay = &m->overlay,
			    .bias = m->module->bias,
			    .lo = m->module->lo,
			    .hi = m->module->hi,
			    .is_armed = plan->want[i],
			};
			if (plan->is_gone[plan->n_osr++]) { /* nobody in that place is in it */
				osr->is_armed = false;
				osr->hi = osr->lo;
			}
		}
}

static void add_need(struct plan *plan, ovm_rta lo, uint64_t size, uint64_t inode, bool is_counter)
{
	plan->needs[plan->n_needs++] = (struct ovm_live_need){
	    .lo = lo, .hi = {lo.v + size}, .inode = inode, .is_counter = is_counter};
}

static void need_module(struct plan *plan, const struct ovm_generation *gen,
			const struct ovm_built_module *m)
{
	add_need(plan, m->at, m->overlay.size, 0, false);
	if (m->overlay.n_counters)
		add_need(plan, ovm_va_to_rta(m->overlay.counters, m->module->bias),
			 (uint64_t)m->overlay.n_counters * sizeof(uint64_t), gen->counters.inode,
			 true);
	for (uint32_t s = 0; s < m->module->segments.n; s++) {
		const struct ovm_live_segment *seg = &m->module->segments.v[s];
		if (seg->is_exec && !seg->is_writable)
			add_need(plan, ovm_va_to_rta(seg->va, m->module->bias), seg->filesz,
				 m->module->inode, false);
	}
}

/* What is armed must be mapped: overlays, counters, the code that is patched, the hook. What is
 * disarmed need not be: a restored place holds our own jump or is left alone. */
static void plan_needs(struct plan *plan)
{
	const struct ovm_generations *set = plan->set;
	uint32_t cap = 1;
	for (uint32_t i = 0; i < set->v.n; i++)
		for (uint32_t k = 0; k < set->v.v[i].built.modules.n; k++)
			cap += 2 + set->v.v[i].built.modules.v[k].module->segments.n;
	plan->needs = ovm_alloc_array(cap, sizeof(plan->needs[0]));
	plan->needs_left = ovm_alloc_array(cap, sizeof(plan->needs[0]));
	bool any = false;
	uint32_t n = 0;
	for (uint32_t i = 0; i < set->v.n; i++)
		for (uint32_t k = 0; k < set->v.v[i].built.modules.n; k++, n++) {
			if (!plan->want[i] || plan->is_gone[n])
				continue;
			need_module(plan, &set->v.v[i], &set->v.v[i].built.modules.v[k]);
			any = true;
		}
	if (any && set->has_hook)
		add_need(plan, set->hook.page, OVM_UNWINDHOOK_SIZE, 0, false);
}

static void plan_scan(struct plan *plan)
{
	const struct ovm_generations *set = plan->set;
	ovm_stackscan_init(&plan->scan);
	for (uint32_t i = 0; i < plan->changes.v.n; i++) {
		const struct ovm_live_patch *p = &plan->changes.v.v[i];
		if (p->state == OVM_PATCH_PLANNED && !p->is_over_jump)
			ovm_stackscan_add(&plan->scan, p->at, ovm_rta_of(p->at.v + p->len));
	}
	if (plan->hook_set.v.n)
		ovm_stackscan_add(&plan->scan, set->hook_jump.at,
				  ovm_rta_of(set->hook_jump.at.v + set->hook_jump.len));
	for (uint32_t i = 0; i < set->stubs.n; i++)
		for (uint32_t k = 0; k < set->stubs.v[i].n; k++)
			ovm_stackscan_add(
			    &plan->scan, set->stubs.v[i].at[k],
			    ovm_rta_of(set->stubs.v[i].at[k].v + set->stubs.v[i].size));
	for (uint32_t i = 0; i < set->v.n; i++)
		for (uint32_t k = 0; k < set->v.v[i].built.modules.n; k++) {
			const struct ovm_built_module *m = &set->v.v[i].built.modules.v[k];
			if (!plan->want[i] && set->v.v[i].exits.n)
				ovm_stackscan_add(&plan->scan, m->at,
						  ovm_rta_of(m->at.v + m->overlay.size));
		}
}

static int make_plan(struct ovm_ctx *ctx, struct ovm_generations *set, const bool *want,
		     struct plan *plan)
{
	*plan = (struct plan){.set = set, .want = want};
	bool any = false;
	for (uint32_t i = 0; i < set->v.n; i++)
		any |= want[i];
	find_gone(plan);
	plan_wanted(plan);
	plan_changes(plan);
	if (any && set->has_hook && !set->is_hook_active)
		ovm_patchset_add(&plan->hook_set, &set->hook_jump);
	plan_osr(plan);
	plan_needs(plan);
	ovm_patchset_touch(set->tracee, &plan->changes);
	ovm_patchset_touch(set->tracee, &plan->hook_set);
	plan_scan(plan);
	uint8_t byte;
	if (plan->hook_set.n_dropped && !ovm_mem_read(set->tracee, set->hook_jump.at, &byte, 1))
		return ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)set->tracee->pid);
	if (plan->hook_set.n_dropped)
		return ovm_fail(ctx, OVM_E_TARGET, "_dl_find_object was changed by somebody else");
	return 0;
}

static void plan_fini(struct plan *plan)
{
	ovm_patchset_fini(&plan->wanted);
	ovm_patchset_fini(&plan->changes);
	ovm_patchset_fini(&plan->hook_set);
	ovm_vec_free(&plan->places);
	free(plan->osr);
	free(plan->is_gone);
	free(plan->needs);
	free(plan->needs_left);
	ovm_stackscan_fini(&plan->scan);
}

/* --- while it is stopped: no allocation, no decisions but yes or no
 * ------------------------------------------------- */

static void visit_range(const struct ovm_live_range *range, void *arg)
{
	struct plan *plan = arg;
	struct ovm_tracee *tracee = plan->set->tracee;
	ovm_livemap_meet(range, plan->needs_left, plan->n_needs);
	for (uint32_t i = 0; i < tracee->threads.n; i++) {
		uint64_t rsp = tracee->threads.v[i].regs.rsp;
		if (rsp >= range->lo.v && rsp < range->hi.v)
			tracee->threads.v[i].stack_end = range->hi;
	}
}

/* What is patched must still be what was copied. */
static bool same_modules(const struct plan *plan)
{
	const struct ovm_generations *set = plan->set;
	uint32_t n = 0;
	for (uint32_t i = 0; i < set->v.n; i++)
		for (uint32_t k = 0; k < set->v.v[i].built.modules.n; k++, n++) {
			const struct ovm_built_module *m = &set->v.v[i].built.modules.v[k];
			if (plan->want[i] && !plan->is_gone[n] && m->print &&
			    ovm_module_print(set->tracee, m->module->lo) != m->print)
				return false;
		}
	return true;
}

static bool still_as_planned(struct plan *plan)
{
	struct ovm_tracee *tracee = plan->set->tracee;
	for (uint32_t i = 0; i < tracee->threads.n; i++)
		tracee->threads.v[i].stack_end = ovm_rta_of(0);
	memcpy(plan->needs_left, plan->needs, plan->n_needs * sizeof(plan->needs[0]));
	return !OVM_FAULT_FAILS(SWITCH_CHECK) && ovm_livemap_walk(tracee->pid, visit_range, plan) &&
	       ovm_livemap_met(plan->needs_left, plan->n_needs) && same_modules(plan);
}

static void forbid(struct ovm_patchset *set, ovm_rta inside)
{
	uint32_t idx;
	while ((idx = ovm_patchset_window(set, inside)) != OVM_NONE)
		ovm_patchset_drop(set, idx);
}

/* The exit of @gen that stands at @at, OVM_NONE if none does. */
static uint32_t find_exit(const struct ovm_generation *gen, ovm_rta at)
{
	uint32_t module = 0;
	while (module < gen->built.modules.n && at.v - gen->built.modules.v[module].at.v >=
						    gen->built.modules.v[module].overlay.size)
		module++;
	if (module == gen->built.modules.n)
		return OVM_NONE;
	uint32_t off = (uint32_t)(at.v - gen->built.modules.v[module].at.v);
	uint32_t lo = 0, hi = gen->exits.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct ovm_exit *e = &gen->exits.v[mid];
		if (e->module < module || (e->module == module && e->off < off))
			lo = mid + 1;
		else
			hi = mid;
	}
	bool found =
	    lo < gen->exits.n && gen->exits.v[lo].module == module && gen->exits.v[lo].off == off;
	return found ? lo : OVM_NONE;
}

static void visit_word(uint64_t word, void *arg)
{
	struct plan *plan = arg;
	struct ovm_generations *set = plan->set;
	ovm_rta at = ovm_rta_of(word);
	forbid(&plan->changes, at);
	forbid(&plan->hook_set, at);
	for (uint32_t i = 0; i < set->stubs.n; i++)
		plan->in_stub |= ovm_remote_holds(&set->stubs.v[i], word);
	for (uint32_t i = 0; i < set->v.n; i++) {
		struct ovm_generation *gen = &set->v.v[i];
		uint32_t idx = plan->want[i] ? OVM_NONE : find_exit(gen, at);
		if (idx == OVM_NONE || gen->exits.v[idx].is_listed)
			continue;
		OVM_ASSERT(gen->returns.n < gen->returns.cap);
		gen->exits.v[idx].is_listed = true;
		gen->returns.v[gen->returns.n++] = idx;
	}
}

/* Where the thread goes on; 0: where it is. */
static ovm_rta choose_pc(struct plan *plan, const struct ovm_thread *thread)
{
	ovm_rta to, pc = ovm_rta_of(thread->regs.rip);
	if (ovm_osr_target(plan->osr, plan->n_osr, plan->set->tracee, thread, &to)) {
		forbid(&plan->changes, to); /* back to the original, into a window */
		uint32_t idx = ovm_patchset_window(&plan->wanted, to);
		if (idx == OVM_NONE)
			return to;
		for (uint32_t i = 0; i < plan->places.n; i++) { /* rare: is the jump left out? */
			const struct place *place = &plan->places.v[i];
			if (place->after == idx && place->change != OVM_NONE &&
			    place->before == OVM_NONE &&
			    plan->changes.v.v[place->change].state == OVM_PATCH_DROPPED)
				return to;
		}
	}
	forbid(&plan->changes, pc);
	plan->result.n_left += ovm_osr_is_stale(plan->osr, plan->n_osr, pc);
	return ovm_rta_of(0);
}

static void plan_threads(struct plan *plan)
{
	struct ovm_tracee *tracee = plan->set->tracee;
	for (uint32_t i = 0; i < tracee->threads.n; i++) {
		struct ovm_thread *thread = &tracee->threads.v[i];
		if (thread->state != OVM_THREAD_STOPPED)
			continue;
		plan->result.n_threads++;
		thread->move_to = choose_pc(plan, thread);
		forbid(&plan->hook_set, ovm_rta_of(thread->regs.rip));
		for (uint32_t k = 0; k < plan->set->stubs.n; k++)
			plan->in_stub |= ovm_remote_holds(&plan->set->stubs.v[k], thread->regs.rip);
		ovm_stackscan_thread(&plan->scan, tracee, thread, visit_word, plan);
	}
}

static bool put_jump(uint8_t bytes[JUMP_LEN], uint64_t at, ovm_rta to)
{
	int64_t rel = (int64_t)(to.v - (at + JUMP_LEN));
	bytes[0] = 0xe9;
	ovm_put32(bytes + 1, (uint32_t)rel);
	return rel == (int32_t)rel;
}

/* Make what stands behind a call lead to where the code it returns to is now. @osr_idx: its
 * overlay. */
static void write_exit(struct plan *plan, struct ovm_generation *gen, struct ovm_exit *e,
		       uint32_t osr_idx, bool is_armed)
{
	static const uint8_t nop[JUMP_LEN] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
	uint64_t at = gen->built.modules.v[e->module].at.v + e->off;
	ovm_rta to = ovm_rta_of(0), original = ovm_va_to_rta(e->old, plan->osr[osr_idx].bias);
	uint8_t bytes[JUMP_LEN];
	memcpy(bytes, nop, sizeof(nop));
	if (!is_armed) {
		to = ovm_osr_home(plan->osr, plan->n_osr, osr_idx, e->old);
		if (!put_jump(bytes, at, to) && !put_jump(bytes, at, to = original))
			return;
		if (ovm_patchset_window(&plan->wanted, to) != OVM_NONE)
			return;
	}
	if (to.v == e->to.v || OVM_FAULT_FAILS(EXIT_WRITE) ||
	    !ovm_mem_write(plan->set->tracee, ovm_rta_of(at), bytes, JUMP_LEN))
		return;
	e->to = to;
	plan->result.n_exits++;
}

static void write_exits(struct plan *plan)
{
	uint32_t osr_idx = 0;
	for (uint32_t i = 0; i < plan->set->v.n; i++) {
		struct ovm_generation *gen = &plan->set->v.v[i];
		for (uint32_t k = 0; k < gen->returns.n; k++) {
			struct ovm_exit *e = &gen->exits.v[gen->returns.v[k]];
			write_exit(plan, gen, e, osr_idx + e->module, plan->want[i]);
		}
		osr_idx += gen->built.modules.n;
	}
}

static void move_threads(struct plan *plan)
{
	struct ovm_tracee *tracee = plan->set->tracee;
	for (uint32_t i = 0; i < tracee->threads.n; i++) {
		struct ovm_thread *thread = &tracee->threads.v[i];
		if (thread->state == OVM_THREAD_STOPPED && thread->move_to.v &&
		    !OVM_FAULT_FAILS(OSR_MOVE))
			plan->result.n_moved += ovm_tracee_set_pc(thread, thread->move_to);
	}
}

static int write_hook(struct ovm_ctx *ctx, struct plan *plan)
{
	if (plan->hook_set.n_dropped)
		return ovm_fail(ctx, OVM_E_TARGET,
				"a thread is in the first bytes of _dl_find_object");
	int rc = ovm_patchset_apply(ctx, plan->set->tracee, &plan->hook_set);
	if (rc == 0 && ovm_patchset_applied(&plan->hook_set) != plan->hook_set.v.n)
		rc = ovm_fail(ctx, OVM_E_TARGET, "_dl_find_object was changed by somebody else");
	return rc;
}

static void clean_stubs(struct plan *plan)
{
	for (uint32_t i = 0; i < plan->set->stubs.n && !plan->in_stub; i++)
		ovm_remote_clean(plan->set->tracee, &plan->set->stubs.v[i]);
	plan->set->stubs.n = plan->in_stub ? plan->set->stubs.n : 0;
}

static int change_stopped(struct ovm_ctx *ctx, struct plan *plan)
{
	if (!still_as_planned(plan))
		return ovm_fail(ctx, OVM_E_TARGET,
				"the program's code is mapped differently than before");
	plan_threads(plan);
	OVM_FAULT(SWITCH_PLANNED);
	int rc = write_hook(ctx, plan);
	if (rc)
		return rc;
	OVM_FAULT(HOOK_JUMP);
	rc = ovm_patchset_apply(ctx, plan->set->tracee, &plan->changes);
	if (rc) {
		ovm_patchset_undo(ctx, plan->set->tracee, &plan->hook_set);
		return rc;
	}
	OVM_FAULT(JUMPS_WRITTEN);
	write_exits(plan);
	OVM_FAULT(EXITS_WRITTEN);
	move_threads(plan);
	OVM_FAULT(OSR_MOVED);
	clean_stubs(plan);
	return 0;
}

/* --- the stop
 * ---------------------------------------------------------------------------------------------- */

/* While others wait for us we should not wait for a time slice. Root only; elsewhere the pause
 * depends on the machine's load. */
static bool hurry(int *policy, struct sched_param *param)
{
	const struct sched_param first = {.sched_priority = 1};
	*policy = sched_getscheduler(0);
	return *policy >= 0 && sched_getparam(0, param) == 0 &&
	       sched_setscheduler(0, SCHED_FIFO, &first) == 0;
}

static int stop_and_change(struct ovm_ctx *ctx, struct plan *plan, int max_pause_ms)
{
	int policy;
	struct sched_param param;
	struct ovm_tracee *tracee = plan->set->tracee;
	bool hurried = hurry(&policy, &param);
	double begin = ovm_now_ms();
	int rc = ovm_tracee_stop_all(ctx, tracee, max_pause_ms);
	double stopped = ovm_now_ms();
	if (rc == 0)
		rc = change_stopped(ctx, plan);
	double changed = ovm_now_ms();
	OVM_FAULT(RESUME_BEGIN);
	ovm_tracee_resume(tracee);
	OVM_FAULT(RESUME_DONE);
	plan->result.pause_ms = ovm_now_ms() - begin;
	if (hurried)
		sched_setscheduler(0, policy, &param);
	ovm_log(OVM_LOG_INFO,
		"pause %.2f ms: stop %.2f, change %.2f, resume %.2f; %u threads, %u moved; %u "
		"changes, %u exits, %llu KiB of stack",
		plan->result.pause_ms, stopped - begin, changed - stopped,
		plan->result.pause_ms - (changed - begin), plan->result.n_threads,
		plan->result.n_moved, plan->changes.v.n, plan->result.n_exits,
		(unsigned long long)plan->scan.n_bytes / 1024);
	return rc;
}

/* Afterwards: what is there now is what the next switch starts from. */
static void commit(struct plan *plan)
{
	struct ovm_generations *set = plan->set;
	struct ovm_switch_result *r = &plan->result;
	struct ovm_patchset now = {0};
	ovm_vec_reserve(&now.v, plan->places.n);
	for (uint32_t i = 0; i < plan->places.n; i++) {
		const struct place *p = &plan->places.v[i];
		bool changed = p->change != OVM_NONE &&
			       plan->changes.v.v[p->change].state == OVM_PATCH_APPLIED;
		bool failed = p->change != OVM_NONE && !changed;
		r->n_written += changed && p->after != OVM_NONE;
		r->n_restored += changed && p->after == OVM_NONE;
		r->n_dropped += failed && p->after != OVM_NONE;
		r->n_stuck += failed && p->after == OVM_NONE;
		if (changed && p->after != OVM_NONE)
			ovm_vec_push(&now.v, plan->wanted.v.v[p->after]);
		else if (!changed && p->before != OVM_NONE)
			ovm_vec_push(&now.v, set->applied.v.v[p->before]);
	}
	for (uint32_t i = 0; i < set->v.n; i++)
		set->v.v[i].is_armed = plan->want[i];
	set->is_hook_active |= plan->hook_set.v.n > 0;
	r->n_patches = now.v.n;
	ovm_patchset_fini(&set->applied);
	set->applied = now;
}

/* Wait a little, and until no thread is half stopped. False if one still is after a long time. */
static bool wait_serviced(struct ovm_tracee *tracee)
{
	double begin = ovm_now_ms(), now = begin;
	bool pending = true;
	for (; now < begin + OVM_RT_RETRY_MS || (pending && now < begin + OVM_RT_PENDING_MS);
	     now = ovm_now_ms()) {
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
		pending = ovm_tracee_service(tracee);
	}
	return !pending;
}

/* A thread in vfork or waiting for a disk is not there for a while: try again later. */
int ovm_switch(struct ovm_ctx *ctx, struct ovm_generations *set, const bool *want, int max_pause_ms,
	       struct ovm_switch_result *out)
{
	int rc = ovm_tracee_open_mem(ctx, set->tracee);
	if (rc == 0 && set->state)
		ovm_state_plan(set->state, want);
	for (unsigned attempt = 0; rc == 0; attempt++) {
		struct plan plan;
		rc = make_plan(ctx, set, want, &plan);
		bool may_retry = rc == 0 && attempt + 1 < OVM_RT_STOP_ATTEMPTS;
		if (rc == 0)
			rc = stop_and_change(ctx, &plan, max_pause_ms);
		if (rc == 0) {
			commit(&plan);
			*out = plan.result;
		}
		plan_fini(&plan);
		if (rc != OVM_E_TARGET || !may_retry || !wait_serviced(set->tracee))
			break;
		rc = 0;
	}
	if (set->state)
		ovm_state_done(set->state, rc == 0, rc ? 0 : out->pause_ms);
	return rc;
}

int ovm_switch_to(struct ovm_ctx *ctx, struct ovm_generations *set, uint32_t idx, int max_pause_ms,
		  struct ovm_switch_result *out)
{
	bool *want = ovm_alloc_array(set->v.n, sizeof(bool));
	if (idx < set->v.n)
		want[idx] = true;
	int rc = ovm_switch(ctx, set, want, max_pause_ms, out);
	free(want);
	return rc;
}
