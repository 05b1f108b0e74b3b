/* The short way from "overlays are built" to "the program runs in them", in an order in which we
 * may die at any point:
 *
 *   running   map memory (the target does it itself)        unused memory, nothing refers to it
 *             fill it, read it back
 *             copy the pages that will be patched           same bytes
 *   stopped   everything as planned? else let go
 *             which threads move, which patches are unsafe
 *             unwinder's jump                               overlays can be unwound before anybody
 * is in one code jumps, page by page                      each a valid program PCs of threads each
 * at an equal state clear the remote stub running
 */
#define OVM_LOG_DOMAIN "install"
#include "runtime/install.h"
#include "base/log.h"
#include "runtime/codemem.h"
#include "runtime/osr.h"
#include "runtime/remote.h"
#include "runtime/tunables.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 4096 };

struct job {
	struct ovm_tracee *tracee;
	const struct ovm_livemap *map;
	struct ovm_built *built;
	struct ovm_patchset hook_set, code_set;
	struct ovm_osr_module *osr;
	struct ovm_live_need *needs, *needs_left;
	uint32_t n_needs;
	struct ovm_remote remote;
	struct ovm_install_result result;
};

static uint64_t whole_pages(uint64_t size)
{
	return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

/* --- while the target runs
 * ------------------------------------------------------------------------------------ */

static int map_memory(struct ovm_ctx *ctx, struct job *job)
{
	struct ovm_remote_call calls[OVM_RT_MAX_MODULES + 1];
	uint32_t n = 0;
	for (uint32_t i = 0; i < job->built->modules.n && i < OVM_RT_MAX_MODULES; i++) {
		const struct ovm_built_module *m = &job->built->modules.v[i];
		calls[n++] = ovm_remote_mmap(m->at, whole_pages(m->overlay.size));
	}
	if (job->built->is_hooked)
		calls[n++] = ovm_remote_mmap(job->built->hook.page, OVM_UNWINDHOOK_SIZE);
	return ovm_remote_run(ctx, job->tracee, job->map, calls, n, OVM_RT_REMOTE_MS, &job->remote);
}

static int fill_overlays(struct ovm_ctx *ctx, struct job *job)
{
	struct ovm_built *built = job->built;
	for (uint32_t i = 0; i < built->modules.n; i++) {
		const struct ovm_built_module *m = &built->modules.v[i];
		int rc =
		    ovm_codemem_fill(ctx, job->tracee, m->at, m->overlay.bytes, m->overlay.size);
		if (rc)
			return rc;
		const struct ovm_section *hdr = &m->overlay.sections[OVM_SECTION_EH_FRAME_HDR];
		if (built->is_hooked && hdr->size &&
		    !ovm_unwindhook_add(&built->hook, m->at, ovm_rta_of(m->at.v + m->overlay.size),
					m->link_map, ovm_rta_of(m->at.v + hdr->off)))
			return ovm_fail(ctx, OVM_E_INTERNAL, "too many overlays");
	}
	return 0;
}

static int fill_hook(struct ovm_ctx *ctx, struct job *job)
{
	uint8_t page[OVM_UNWINDHOOK_SIZE];
	struct ovm_live_patch jump;
	if (!job->built->is_hooked)
		return 0;
	if (!ovm_unwindhook_build(&job->built->hook, page, &jump))
		return ovm_fail(ctx, OVM_E_INTERNAL,
				"the unwinder's stub does not reach the C library");
	ovm_patchset_add(&job->hook_set, &jump);
	ovm_patchset_seal(&job->hook_set);
	return ovm_codemem_fill(ctx, job->tracee, job->built->hook.page, page, sizeof(page));
}

/* Take out code patches that touch the hooked function's first bytes. */
static void protect_hook(struct job *job)
{
	for (uint32_t i = 0; i < job->code_set.v.n && job->hook_set.v.n; i++) {
		const struct ovm_live_patch *p = &job->code_set.v.v[i], *h = &job->hook_set.v.v[0];
		if (p->state == OVM_PATCH_PLANNED && p->at.v < h->at.v + h->len &&
		    h->at.v < p->at.v + p->len)
			ovm_patchset_drop(&job->code_set, i);
	}
}

static int plan_patches(struct ovm_ctx *ctx, struct job *job)
{
	for (uint32_t i = 0; i < job->built->modules.n; i++)
		ovm_patchset_add_overlay(&job->code_set, &job->built->modules.v[i].overlay,
					 job->built->modules.v[i].module->bias);
	ovm_patchset_seal(&job->code_set);
	protect_hook(job);
	ovm_patchset_touch(job->tracee, &job->code_set);
	ovm_patchset_touch(job->tracee, &job->hook_set);
	if (job->hook_set.n_dropped)
		return ovm_fail(ctx, OVM_E_TARGET, "_dl_find_object was changed by somebody else");
	return 0;
}

static void add_need(struct job *job, ovm_rta lo, uint64_t size, uint64_t inode)
{
	job->needs[job->n_needs++] =
	    (struct ovm_live_need){.lo = lo, .hi = {lo.v + size}, .inode = inode};
}

/* Code segments that are patched, the overlays and the hook's page. */
static void plan_needs(struct job *job)
{
	uint32_t cap = 1;
	for (uint32_t i = 0; i < job->built->modules.n; i++)
		cap += 1 + job->built->modules.v[i].module->segments.n;
	job->needs = ovm_alloc_array(cap, sizeof(job->needs[0]));
	job->needs_left = ovm_alloc_array(cap, sizeof(job->needs[0]));
	job->osr = ovm_alloc_array(job->built->modules.n, sizeof(job->osr[0]));
	for (uint32_t i = 0; i < job->built->modules.n; i++) {
		const struct ovm_built_module *m = &job->built->modules.v[i];
		add_need(job, m->at, m->overlay.size, 0);
		for (uint32_t s = 0; s < m->module->segments.n; s++) {
			const struct ovm_live_segment *seg = &m->module->segments.v[s];
			if (seg->is_exec && !seg->is_writable)
				add_need(job, ovm_va_to_rta(seg->va, m->module->bias), seg->filesz,
					 m->module->inode);
		}
		job->osr[i] = (struct ovm_osr_module){
		    .overlay = &m->overlay,
		    .bias = m->module->bias,
		    .lo = m->module->lo,
		    .hi = m->module->hi,
		};
	}
	if (job->built->is_hooked)
		add_need(job, job->built->hook.page, OVM_UNWINDHOOK_SIZE, 0);
}

/* --- while it is stopped: no allocation, no decisions but yes or no
 * ------------------------------------------------- */

static bool still_as_planned(struct job *job)
{
	memcpy(job->needs_left, job->needs, job->n_needs * sizeof(job->needs[0]));
	return ovm_livemap_still(job->tracee->pid, job->needs_left, job->n_needs);
}

/* Decide for each thread where it goes on, and drop the patches that some thread forbids. True if
 * one is in the remote stub. */
static bool plan_threads(struct job *job)
{
	bool in_stub = false;
	for (uint32_t i = 0; i < job->tracee->threads.n; i++) {
		struct ovm_thread *thread = &job->tracee->threads.v[i];
		if (thread->state != OVM_THREAD_STOPPED)
			continue;
		job->result.n_threads++;
		thread->move_to = ovm_rta_of(0);
		ovm_rta to, pc = ovm_rta_of(thread->regs.rip);
		uint32_t window = ovm_patchset_window(&job->code_set, pc);
		if (ovm_osr_target(job->osr, job->built->modules.n, job->tracee, thread, &to))
			thread->move_to = to;
		else if (window != OVM_NONE)
			ovm_patchset_drop(&job->code_set, window);
		window = ovm_patchset_window(&job->hook_set, pc);
		if (window != OVM_NONE)
			ovm_patchset_drop(&job->hook_set, window);
		in_stub |= ovm_remote_holds(&job->remote, pc.v);
		in_stub |= ovm_osr_scan_stack(job->tracee, thread, &job->code_set, &job->remote);
		ovm_osr_scan_stack(job->tracee, thread, &job->hook_set, NULL);
	}
	return in_stub;
}

static void move_threads(struct job *job)
{
	for (uint32_t i = 0; i < job->tracee->threads.n; i++) {
		struct ovm_thread *thread = &job->tracee->threads.v[i];
		if (thread->state == OVM_THREAD_STOPPED && thread->move_to.v)
			job->result.n_moved += ovm_tracee_set_pc(thread, thread->move_to);
	}
}

static int change_stopped(struct ovm_ctx *ctx, struct job *job)
{
	job->result.n_threads = job->result.n_moved = 0;
	if (!still_as_planned(job))
		return ovm_fail(ctx, OVM_E_TARGET,
				"the program's code is mapped differently than before");
	bool in_stub = plan_threads(job);
	int rc =
	    job->hook_set.n_dropped
		? ovm_fail(ctx, OVM_E_TARGET, "a thread is in the first bytes of _dl_find_object")
		: ovm_patchset_apply(ctx, job->tracee, &job->hook_set);
	if (rc == 0 && ovm_patchset_applied(&job->hook_set) != job->hook_set.v.n)
		rc = ovm_fail(ctx, OVM_E_TARGET, "_dl_find_object was changed by somebody else");
	if (rc == 0)
		rc = ovm_patchset_apply(ctx, job->tracee, &job->code_set);
	if (rc == 0)
		move_threads(job);
	if (!in_stub)
		ovm_remote_clean(job->tracee, &job->remote);
	return rc;
}

/* While others wait for us we should not wait for a time slice. Root only; elsewhere the pause
 * depends on the machine's load. */
static bool hurry(int *policy, struct sched_param *param)
{
	const struct sched_param first = {.sched_priority = 1};
	*policy = sched_getscheduler(0);
	return *policy >= 0 && sched_getparam(0, param) == 0 &&
	       sched_setscheduler(0, SCHED_FIFO, &first) == 0;
}

/* Stop everybody, change the code, let go. OVM_E_TARGET may be tried again if nothing was written.
 */
static int stop_and_change(struct ovm_ctx *ctx, struct job *job, int max_pause_ms)
{
	int policy;
	struct sched_param param;
	bool hurried = hurry(&policy, &param);
	double begin = ovm_now_ms();
	int rc = ovm_tracee_stop_all(ctx, job->tracee, max_pause_ms);
	double stopped = ovm_now_ms();
	if (rc == 0)
		rc = change_stopped(ctx, job);
	double changed = ovm_now_ms();
	ovm_tracee_resume(job->tracee);
	job->result.pause_ms = ovm_now_ms() - begin;
	if (hurried)
		sched_setscheduler(0, policy, &param);
	ovm_log(OVM_LOG_INFO,
		"pause %.2f ms: stop %.2f, change %.2f, resume %.2f; %u threads, %u moved",
		job->result.pause_ms, stopped - begin, changed - stopped,
		job->result.pause_ms - (changed - begin), job->result.n_threads,
		job->result.n_moved);
	return rc;
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
static int stop_with_retries(struct ovm_ctx *ctx, struct job *job, int max_pause_ms)
{
	int rc = 0;
	for (unsigned attempt = 0; attempt < OVM_RT_STOP_ATTEMPTS; attempt++) {
		rc = stop_and_change(ctx, job, max_pause_ms);
		if (rc != OVM_E_TARGET || job->hook_set.n_dropped)
			break;
		if (!wait_serviced(job->tracee))
			break;
	}
	return rc;
}

static void job_fini(struct job *job)
{
	ovm_patchset_fini(&job->hook_set);
	ovm_patchset_fini(&job->code_set);
	free(job->needs);
	free(job->needs_left);
	free(job->osr);
}

int ovm_install(struct ovm_ctx *ctx, struct ovm_tracee *tracee, const struct ovm_livemap *map,
		struct ovm_built *built, int max_pause_ms, struct ovm_install_result *out)
{
	struct job job = {.tracee = tracee, .map = map, .built = built};
	int rc = map_memory(ctx, &job);
	if (rc == 0)
		rc = ovm_tracee_open_mem(ctx, tracee);
	if (rc == 0)
		rc = fill_overlays(ctx, &job);
	if (rc == 0)
		rc = fill_hook(ctx, &job);
	if (rc == 0)
		rc = plan_patches(ctx, &job);
	if (rc == 0) {
		plan_needs(&job);
		rc = stop_with_retries(ctx, &job, max_pause_ms);
	}
	if (rc == 0) {
		job.result.n_patches = ovm_patchset_applied(&job.code_set);
		job.result.n_dropped = job.code_set.n_dropped;
		*out = job.result;
	}
	job_fini(&job);
	return rc;
}
