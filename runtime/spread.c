/* A server forks its workers before anybody attaches. They share no memory that we write to, but
 * all of them have the same files at the same places:
 *
 *   parent   text  libc  heap          sampled together, as one program
 *   worker1  text  libc  heap          the busiest is counted, built for, patched, measured
 *   worker2  text  libc  heap  <-------  gets the same bytes at the same addresses
 *
 * The bytes are right for any process in which the module stands where it stood and holds the code
 * of its file, which the builder checks in each of them (target.h, ovm_target_take); only the place
 * must be free there. So one is chosen where none of them has copies from before. The unwinder is
 * found anew in each. Everything else is one more generation of that process, with a state of its
 * own: each can be detached alone.
 *
 * A parent that only waits gets them too, so that those it forks later have them from the start.
 *
 * Limits: what is measured is measured in one. A process that waits in an uncommon system call
 * cannot be given memory (remote.c) and is left alone; what it forks later runs the original.
 */
#define OVM_LOG_DOMAIN "spread"
#include "runtime/spread.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/events.h"
#include "runtime/tunables.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Is the generation at hand in it already, because it was forked from one that had it? */
static bool has_it(const struct ovm_round *r, const struct ovm_built *built)
{
	for (uint32_t i = 0; i < r->set.v.n; i++) {
		const struct ovm_built *b = &r->set.v.v[i].built;
		bool is_same = b->modules.n == built->modules.n;
		for (uint32_t k = 0; k < b->modules.n && is_same; k++)
			is_same = b->modules.v[k].at.v == built->modules.v[k].at.v &&
				  b->modules.v[k].overlay.size == built->modules.v[k].overlay.size;
		if (is_same)
			return true;
	}
	return false;
}

/* 1: it has it already. */
static int spread_to(struct ovm_ctx *ctx, struct ovm_round *from, pid_t pid, bool is_idle)
{
	struct ovm_round r;
	OVM_FAULT(SPREAD_PROCESS);
	ovm_round_init(&r, pid);
	r.opts = from->opts;
	r.by = from->by;
	r.needs_state = from->needs_state;
	r.is_over = from->is_over;
	r.arg = from->arg;
	r.started_ms = from->started_ms;
	r.watch_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	int rc = ovm_round_look(ctx, &r);
	if (rc == 0 && has_it(&r, ovm_round_built(from))) {
		rc = 1;
	} else if (rc == 0) {
		r.set.remote_ms = is_idle ? OVM_RT_IDLE_REMOTE_MS : 0;
		rc = ovm_round_copy(ctx, &r, from);
		if (rc > 0)
			rc = OVM_E_TARGET; /* refused, message in ctx */
	}
	if (rc >= 0)
		OVM_FAULT(SPREAD_DONE);
	ovm_round_settle(&r);
	ovm_round_end_of_root(from, &r.tracee);
	if (r.watch_fd >= 0)
		close(r.watch_fd);
	ovm_round_fini(&r);
	return rc;
}

static int by_cpu(const void *a, const void *b)
{
	const struct ovm_relative *x = a, *y = b;
	if (x->cpu_ms != y->cpu_ms)
		return x->cpu_ms < y->cpu_ms ? 1 : -1;
	return (x->pid > y->pid) - (x->pid < y->pid);
}

static bool is_idle(const struct ovm_round *from, const struct ovm_relative *kin)
{
	for (uint32_t i = 0; i < from->before.n; i++)
		if (from->before.v[i].pid == kin->pid)
			return kin->cpu_ms <= from->before.v[i].cpu_ms;
	return kin->cpu_ms == 0;
}

void ovm_spread(struct ovm_ctx *ctx, struct ovm_round *from)
{
	ovm_family kin;
	struct ovm_ctx own = *ctx; /* another process's failure is not the caller's */
	ovm_family_kin(from->root, from->pid, &kin);
	if (kin.n)
		qsort(kin.v, kin.n, sizeof(kin.v[0]), by_cpu);
	for (uint32_t i = 0; i < kin.n && !from->is_over(from->arg); i++) {
		if (kin.v[i].pid == from->pid)
			continue;
		int rc = spread_to(&own, from, kin.v[i].pid, is_idle(from, &kin.v[i]));
		if (rc == OVM_E_GONE)
			continue;
		if (rc == 0)
			ovm_event_also(from->opts->status_fd, kin.v[i].pid, from->pid);
		from->result.n_others += rc >= 0;
		from->result.n_others_left += rc < 0;
		ovm_log(OVM_LOG_INFO, "process %d: %s", (int)kin.v[i].pid,
			rc == 0	 ? "optimized too"
			: rc > 0 ? "was forked with it"
				 : own.msg);
	}
	ovm_vec_free(&kin);
}
