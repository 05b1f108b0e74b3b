/* Where does a program start?
 *
 *   exec            only the program and ld.so are mapped
 *   ld.so           open, mmap, mprotect ... of each library; relocations
 *   libc            its early initialization makes one system call   <- held here, on its entry
 *   constructors    of the libraries
 *   _start, main    the program
 *
 * So the first system call that is not made by the dynamic linker's own code comes when everything
 * the program needs is mapped and relocated, and hardly anything has run. No breakpoint has to be
 * written, so a death of ours leaves nothing behind: the kernel lets the thread go and makes the
 * call. A static program is held at the exec itself.
 *
 * While it is held, copies are built and mapped: the target makes our system calls from a stub that
 * returns by itself (remote.c), which we only watch from stop to stop. Its own call is made first,
 * as if nothing had happened.
 *
 * Limits: a set-id program gets no privileges when it is exec'ed under a tracer without
 * CAP_SYS_PTRACE, so none should be started this way. A C library that is its own dynamic linker
 * (musl) makes all calls from there: no start is found.
 */
#define OVM_LOG_DOMAIN "startgate"
#include "runtime/startgate.h"
#include "base/log.h"
#include "runtime/procstat.h"
#include "runtime/tunables.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	SYSCALL_BIT = 0x80, /* in the signal of a system call's stop: PTRACE_O_TRACESYSGOOD */
};

/* --- from stop to stop
 * ---------------------------------------------------------------------------------------- */

static bool wait_status(pid_t tid, double deadline, int *status)
{
	for (unsigned round = 0;; round++) {
		pid_t got = waitpid(tid, status, __WALL | WNOHANG);
		if (got == tid)
			return true;
		if ((got < 0 && errno != EINTR) || ovm_now_ms() > deadline)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = round < 50 ? 10000 : 500000}, NULL);
	}
}

static enum ovm_gate_stop end(struct ovm_tracee *tracee, struct ovm_thread *thread, int status)
{
	thread->state = OVM_THREAD_FREE;
	tracee->ended = true;
	tracee->wstatus = status;
	return OVM_GATE_ENDED;
}

/* Let it run; whenever it stops for this interrupt it will be let go. */
static enum ovm_gate_stop be_late(struct ovm_thread *thread)
{
	thread->state = OVM_THREAD_PENDING;
	ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
	return OVM_GATE_LATE;
}

static bool is_entry(pid_t tid)
{
	struct __ptrace_syscall_info info = {0};
	return ptrace(PTRACE_GET_SYSCALL_INFO, tid, (void *)sizeof(info), &info) > 0 &&
	       info.op == PTRACE_SYSCALL_INFO_ENTRY;
}

/* @request: PTRACE_SYSCALL; PTRACE_CONT: only an exec is waited for; 0: it runs already. */
static enum ovm_gate_stop go_on(struct ovm_tracee *tracee, struct ovm_thread *thread, int request,
				double deadline)
{
	int signal = 0, status = 0, next = request;
	for (;;) {
		if (next &&
		    ptrace((enum __ptrace_request)next, thread->tid, 0, (void *)(long)signal) < 0 &&
		    errno != ESRCH)
			return OVM_GATE_LATE;
		if (!wait_status(thread->tid, deadline, &status))
			return be_late(thread);
		if (!WIFSTOPPED(status))
			return end(tracee, thread, status);
		int event = status >> 16;
		next = request ? request : PTRACE_CONT;
		signal = 0;
		if (event == PTRACE_EVENT_EXEC)
			return OVM_GATE_EXEC;
		if (WSTOPSIG(status) == (SIGTRAP | SYSCALL_BIT))
			return is_entry(thread->tid) ? OVM_GATE_ENTRY : OVM_GATE_EXIT;
		if (event == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
			next = PTRACE_LISTEN; /* job control has stopped it: so it stays */
		else if (!event)
			signal = WSTOPSIG(status);
	}
}

enum ovm_gate_stop ovm_startgate_next(struct ovm_tracee *tracee, struct ovm_thread *thread,
				      double deadline)
{
	return go_on(tracee, thread, PTRACE_SYSCALL, deadline);
}

struct ovm_thread *ovm_startgate_held(struct ovm_tracee *tracee)
{
	for (uint32_t i = 0; i < tracee->threads.n; i++)
		if (tracee->threads.v[i].state == OVM_THREAD_STOPPED)
			return &tracee->threads.v[i];
	return NULL;
}

/* --- where ld.so is
 * ------------------------------------------------------------------------------------------- */

struct span {
	ovm_rta lo, hi;
};

/* At the exec: everything that is mapped of the dynamic linker's file. Empty: a static program. */
static int find_linker(struct ovm_ctx *ctx, pid_t pid, struct span *linker)
{
	struct ovm_livemap map = {0};
	*linker = (struct span){{0}, {0}};
	ovm_rta base = ovm_rta_of(ovm_proc_auxv(pid, AT_BASE)); /* 0: there is no dynamic linker */
	int rc = base.v ? ovm_livemap_read(ctx, pid, &map) : 0;
	const struct ovm_live_range *first = base.v ? ovm_livemap_range(&map, base) : NULL;
	for (uint32_t i = 0; first && i < map.ranges.n; i++) {
		const struct ovm_live_range *range = &map.ranges.v[i];
		if (range->inode != first->inode || range->lo.v < base.v)
			continue;
		linker->lo = base;
		linker->hi = range->hi;
	}
	ovm_livemap_fini(&map);
	return rc;
}

/* --- holding
 * -------------------------------------------------------------------------------------------------
 */

static int failure(struct ovm_ctx *ctx, const struct ovm_tracee *tracee, const char *why)
{
	return tracee->ended ? ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)tracee->pid)
			     : ovm_fail(ctx, OVM_E_TARGET, "%s", why);
}

static int run_to_start(struct ovm_ctx *ctx, struct ovm_tracee *tracee, struct ovm_thread *thread)
{
	struct span linker;
	int rc = find_linker(ctx, tracee->pid, &linker);
	double deadline = ovm_now_ms() + OVM_RT_REMOTE_MS;
	if (rc)
		return rc;
	for (unsigned n = 0; linker.lo.v; n++) {
		enum ovm_gate_stop stop = ovm_startgate_next(tracee, thread, deadline);
		if (stop == OVM_GATE_ENDED || stop == OVM_GATE_LATE || n == OVM_RT_START_CALLS)
			return failure(ctx, tracee, "the program's start was not found");
		if (stop == OVM_GATE_ENTRY && ovm_tracee_regs(thread) &&
		    !(thread->regs.rip >= linker.lo.v && thread->regs.rip < linker.hi.v))
			break;
	}
	return 0;
}

static int look(struct ovm_ctx *ctx, struct ovm_tracee *tracee, struct ovm_thread *thread,
		struct ovm_livemap *map)
{
	int rc = ovm_livemap_read(ctx, tracee->pid, map);
	if (rc == 0 && !ovm_tracee_regs(thread))
		rc = ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)tracee->pid);
	if (rc == 0)
		ovm_livemap_modules(map, tracee->pid);
	return rc;
}

int ovm_startgate_seize(struct ovm_ctx *ctx, pid_t pid)
{
	long options = PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD;
	if (ptrace(PTRACE_SEIZE, pid, 0, (void *)options) < 0)
		return ovm_fail_errno(ctx, OVM_E_PERM, errno, "cannot trace process %d", (int)pid);
	return 0;
}

int ovm_startgate_hold(struct ovm_ctx *ctx, struct ovm_tracee *tracee,
		       bool (*is_wanted)(void *arg, const struct ovm_livemap *map), void *arg,
		       struct ovm_livemap *map)
{
	ovm_vec_push(&tracee->threads,
		     (struct ovm_thread){.tid = tracee->pid, .state = OVM_THREAD_STOPPED});
	struct ovm_thread *thread = &tracee->threads.v[tracee->threads.n - 1];
	for (int request = 0;; request = PTRACE_CONT) {
		double deadline = ovm_now_ms() + OVM_RT_NEXT_EXEC_MS;
		enum ovm_gate_stop stop = go_on(tracee, thread, request, deadline);
		if (stop != OVM_GATE_EXEC)
			return failure(ctx, tracee, "the program is none that the profile knows");
		int rc = run_to_start(ctx, tracee, thread);
		if (rc == 0)
			rc = look(ctx, tracee, thread, map);
		if (rc == 0 && is_wanted(arg, map))
			rc = ovm_tracee_check(ctx, tracee->pid);
		else if (rc == 0) {
			ovm_livemap_fini(map);
			continue;
		}
		if (rc == 0)
			rc = ovm_tracee_open_mem(ctx, tracee);
		if (rc) {
			ovm_livemap_fini(map);
			ovm_tracee_resume(tracee);
		}
		return rc;
	}
}
