/* Telling forked children that counting is over.
 *
 *   parent   armed ------------- disarmed          its own stop
 *              \ fork
 *   child        armed ------------------------->  would count for ever
 *
 * A child has the parent's memory as it was at the fork: jumps, overlays, and the shared counters,
 * by which it is found: /proc/PID/maps shows our memory file at the very address where the parent
 * has it (this tool and its helpers map it elsewhere). Which jumps and exits it has is read from
 * its memory; then the ordinary switch is applied to it. Something that execs in between has lost
 * all this and is left alone.
 *
 * A child can fork while we look, so we look again until nobody new is there. One that is ended,
 * stopped in vfork or traced by somebody else is tried again until the time is up; it stays
 * correct.
 *
 * A generation that was loaded after the fork is not in the child, or only half filled: it is armed
 * there only if every byte of its overlays and the unwinder's table is the same. Otherwise the
 * child goes back to the original.
 */
#define OVM_LOG_DOMAIN "forks"
#include "runtime/forks.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/procstat.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { JUMP_LEN = 5, CHUNK = 65536 };

struct known { /* a process that needs nothing more */
	pid_t pid;
	unsigned long long start; /* as /proc/PID/stat counts, against reuse of pids */
};
typedef OVM_VEC(struct known) known_list;

/* --- finding
 * -----------------------------------------------------------------------------------------------
 */

struct search { /* is the parent's counter memory mapped? */
	const struct ovm_generations *set;
	bool found;
};

static void visit_range(const struct ovm_live_range *range, void *arg)
{
	struct search *search = arg;
	if (range->is_private || !range->inode)
		return;
	for (uint32_t i = 0; i < search->set->v.n; i++) {
		const struct ovm_generation *gen = &search->set->v.v[i];
		if (gen->counters.inode != range->inode || gen->counters.major != range->major ||
		    gen->counters.minor != range->minor)
			continue;
		for (uint32_t k = 0; k < gen->built.modules.n; k++) {
			const struct ovm_built_module *m = &gen->built.modules.v[k];
			ovm_rta at = ovm_va_to_rta(m->overlay.counters, m->module->bias);
			search->found |= m->overlay.n_counters && at.v == range->lo.v;
		}
	}
}

static bool is_known(const known_list *known, pid_t pid, unsigned long long start)
{
	for (uint32_t i = 0; i < known->n; i++)
		if (known->v[i].pid == pid && known->v[i].start == start)
			return true;
	return false;
}

/* --- one child
 * -----------------------------------------------------------------------------------------------
 */

static bool same_memory(const struct ovm_tracee *tracee, ovm_rta at, const uint8_t *bytes, size_t n)
{
	uint8_t *mem = ovm_alloc(CHUNK);
	bool same = true;
	for (size_t done = 0; done < n && same; done += CHUNK) {
		size_t len = n - done < CHUNK ? n - done : (size_t)CHUNK;
		same = ovm_mem_read(tracee, ovm_rta_of(at.v + done), mem, len) &&
		       memcmp(mem, bytes + done, len) == 0;
	}
	free(mem);
	return same;
}

/* Is all of it there, and can it be unwound? */
static bool is_complete(const struct ovm_generations *set, const struct ovm_generation *gen)
{
	uint8_t pages[OVM_UNWINDHOOK_SIZE];
	struct ovm_live_patch jump;
	if (set->has_hook && (!ovm_unwindhook_build(&set->hook, pages, &jump) ||
			      !same_memory(set->tracee, set->hook.page, pages, sizeof(pages))))
		return false;
	for (uint32_t i = 0; i < gen->built.modules.n; i++) {
		const struct ovm_built_module *m = &gen->built.modules.v[i];
		if (!same_memory(set->tracee, m->at, m->overlay.bytes, m->overlay.size))
			return false;
	}
	return true;
}

/* Which of the generation's exits have jumps in this process? */
static void read_exits(const struct ovm_tracee *tracee, struct ovm_generation *gen)
{
	for (uint32_t i = 0; i < gen->exits.n; i++) {
		struct ovm_exit *e = &gen->exits.v[i];
		uint64_t at = gen->built.modules.v[e->module].at.v + e->off;
		uint8_t bytes[JUMP_LEN];
		if (!e->is_listed) /* only these can ever have been written */
			continue;
		e->to = ovm_rta_of(0);
		if (ovm_mem_read(tracee, ovm_rta_of(at), bytes, JUMP_LEN) && bytes[0] == 0xe9)
			e->to.v = at + JUMP_LEN + (uint64_t)(int64_t)(int32_t)ovm_le32(bytes + 1);
	}
}

/* A set for the child: the parent's generations, but jumps, exits and hook as they are in the
 * child's memory. */
static void make_view(const struct ovm_generations *parent, struct ovm_tracee *tracee,
		      struct ovm_generations *view)
{
	ovm_generations_init(view, tracee, parent->map);
	view->is_view = true;
	for (uint32_t i = 0; i < parent->v.n; i++) {
		struct ovm_generation gen = parent->v.v[i];
		memset(&gen.exits, 0, sizeof(gen.exits));
		memset(&gen.returns, 0, sizeof(gen.returns));
		ovm_vec_reserve(&gen.exits, parent->v.v[i].exits.n);
		ovm_vec_reserve(&gen.returns, parent->v.v[i].exits.n);
		for (uint32_t k = 0; k < parent->v.v[i].exits.n; k++)
			gen.exits.v[gen.exits.n++] = parent->v.v[i].exits.v[k];
		for (uint32_t k = 0; k < parent->v.v[i].returns.n; k++)
			gen.returns.v[gen.returns.n++] = parent->v.v[i].returns.v[k];
		read_exits(tracee, &gen);
		struct ovm_patchset there = {0};
		ovm_patchset_find(tracee, &gen.jumps, &there);
		ovm_patchset_merge(&view->applied, &there);
		ovm_patchset_fini(&there);
		ovm_vec_push(&view->v, gen);
	}
	view->hook = parent->hook;
	view->hook_jump = parent->hook_jump;
	view->has_hook = parent->has_hook;
	view->is_hook_active = parent->is_hook_active &&
			       same_memory(tracee, parent->hook_jump.at,
					   parent->hook_jump.new_bytes, parent->hook_jump.len);
}

static bool same_jumps(const struct ovm_patchset *a, const struct ovm_patchset *b)
{
	bool same = a->v.n == b->v.n;
	for (uint32_t i = 0; i < a->v.n && same; i++)
		same = a->v.v[i].at.v == b->v.v[i].at.v &&
		       memcmp(a->v.v[i].new_bytes, b->v.v[i].new_bytes, a->v.v[i].len) == 0;
	return same;
}

/* Let go of threads that did not stop in time, or they would stop for ever later. */
static void settle(struct ovm_tracee *tracee, double deadline)
{
	while (ovm_tracee_service(tracee) && ovm_now_ms() < deadline)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* 1: switched, 0: nothing to do, else a failure. */
static int follow(struct ovm_ctx *ctx, const struct ovm_generations *parent, pid_t pid,
		  int max_pause_ms, double deadline)
{
	struct ovm_tracee tracee;
	struct ovm_generations view;
	struct ovm_switch_result result;
	OVM_FAULT(FORKS_CHILD);
	ovm_tracee_init(&tracee, pid);
	int rc = ovm_tracee_open_mem(ctx, &tracee);
	if (rc == 0) {
		bool *want = ovm_alloc_array(parent->v.n, sizeof(bool));
		make_view(parent, &tracee, &view);
		bool is_same = same_jumps(&view.applied, &parent->applied);
		for (uint32_t i = 0; i < parent->v.n && !is_same; i++)
			want[i] = parent->v.v[i].is_armed && is_complete(&view, &view.v.v[i]);
		if (!is_same)
			rc = ovm_switch(ctx, &view, want, max_pause_ms, &result);
		if (!is_same && rc == 0) {
			rc = 1;
			ovm_log(OVM_LOG_INFO, "process %d: %u jumps restored, %u left, %.2f ms",
				(int)pid, result.n_restored, result.n_patches, result.pause_ms);
		}
		ovm_generations_fini(&view);
		free(want);
	}
	settle(&tracee, deadline);
	ovm_tracee_close(&tracee);
	return rc;
}

/* --- all of them
 * ---------------------------------------------------------------------------------------------- */

/* One look at all processes. Returns how many are not settled: new ones, and such that have to be
 * tried again. */
static uint32_t look(struct ovm_ctx *ctx, const struct ovm_generations *set, known_list *known,
		     int max_pause_ms, double deadline, struct ovm_forks_result *out)
{
	uint32_t n_open = 0;
	OVM_FAULT(FORKS_LOOK);
	DIR *dir = opendir("/proc");
	out->n_failed = 0;
	for (struct dirent *e; dir && (e = readdir(dir)) && ovm_now_ms() < deadline;) {
		pid_t pid = (pid_t)atoi(e->d_name);
		unsigned long long start;
		if (pid <= 0 || pid == set->tracee->pid || pid == getpid() ||
		    !(start = ovm_proc_start(pid)) || is_known(known, pid, start))
			continue;
		struct search search = {.set = set};
		ovm_livemap_walk(pid, visit_range, &search);
		if (!search.found)
			continue;
		int rc = follow(ctx, set, pid, max_pause_ms, deadline);
		n_open += rc != 0; /* even if it is done now: it may have forked before */
		if (rc == OVM_E_GONE)
			continue;
		out->n_switched += rc == 1;
		if (rc >= 0)
			ovm_vec_push(known, (struct known){pid, start});
		else
			out->n_failed++;
	}
	if (dir)
		closedir(dir);
	return n_open;
}

static bool has_counters(const struct ovm_generations *set)
{
	for (uint32_t i = 0; i < set->v.n; i++)
		if (set->v.v[i].counters.inode)
			return true;
	return false;
}

void ovm_forks_follow(struct ovm_ctx *ctx, const struct ovm_generations *set, int max_pause_ms,
		      int timeout_ms, struct ovm_forks_result *out)
{
	double deadline = ovm_now_ms() + timeout_ms;
	known_list known = {0};
	struct ovm_ctx own = *ctx; /* a child's failure is not the caller's */
	*out = (struct ovm_forks_result){0};
	while (has_counters(set) && look(&own, set, &known, max_pause_ms, deadline, out) > 0 &&
	       ovm_now_ms() < deadline)
		nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
	if (out->n_failed)
		ovm_log(OVM_LOG_INFO, "%u forked processes still count: %s", out->n_failed,
			own.msg);
	ovm_vec_free(&known);
}

bool ovm_forks_any(const struct ovm_generations *set)
{
	bool found = false;
	DIR *dir = has_counters(set) ? opendir("/proc") : NULL;
	for (struct dirent *e; dir && !found && (e = readdir(dir));) {
		pid_t pid = (pid_t)atoi(e->d_name);
		struct search search = {.set = set};
		if (pid <= 0 || pid == set->tracee->pid || pid == getpid())
			continue;
		ovm_livemap_walk(pid, visit_range, &search);
		found = search.found;
	}
	if (dir)
		closedir(dir);
	return found;
}
