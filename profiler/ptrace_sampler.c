/* Sampling without perf_event: containers and hardened kernels forbid it, but a parent may nearly
 * always trace its child.
 *
 * Every thread of the tree is seized (never attached: no signal is sent, nothing stops). A timer
 * ticks; at each tick the threads that are running (state R in /proc) are interrupted, their PCs
 * read when the stop is reported, and they go on:
 *
 *   tick ---- interrupt the running ones ---- stop of t7: read rip, continue ---- stop of t9: ...
 * ---- tick
 *
 * Sleeping threads are left alone: interrupting them would cost time and could turn a sleep into an
 * EINTR. A thread that is found inside a system call (orig_rax >= 0) is not counted, as perf would
 * not count it with exclude_kernel.
 *
 * A tracer must also answer what it did not ask for: signals are delivered as they were, stops by
 * job control stay stops (PTRACE_LISTEN), new threads and children are traced from their first
 * instruction, an exec forgets the old maps. Every waitpid report goes to the tracer first, so the
 * end of the program is kept for ovm_ptrace_sampler_wait.
 *
 * Limits: some 40 us of pause per sample, so the rate stays at 200 Hz; a set-id program that is
 * exec'ed under a tracer gets no privileges; code mapped at the place of other code is noticed
 * within RESCAN_MS.
 */
#include "profiler/ptrace_sampler.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/hash.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	DEFAULT_HZ = 197, /* prime: no lockstep with timers of the program */
	MAX_HZ = 200,
	RESCAN_MS = 1000,   /* maps of a process are at most this old when a sample is resolved */
	RESCAN_MISS_MS = 5, /* first wait after an address that is in no mapping */
	DETACH_MS = 500,    /* waiting for threads to stop, so that they can be let go */
};

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull
#define TRACE_OPTIONS                                                                              \
	(PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC)

struct thread {
	pid_t tid, pid;
	bool is_wanted; /* interrupted for a sample that is not taken yet */
	UT_hash_handle hh;
};

struct scan { /* when the maps of a process were read */
	pid_t pid;
	uint64_t at;	   /* ns; 0: never, or exec'ed since */
	uint64_t patience; /* ns to wait before the next reading when an address is not in them */
	UT_hash_handle hh;
};

struct ovm_ptrace_sampler {
	struct ovm_tally *tally;
	struct thread *threads; /* all that are traced, by tid */
	struct scan *scans;	/* by pid */
	pid_t root;
	bool has_ended; /* the root has */
	pid_t child;	/* of ours, may be the root; 0 none */
	bool is_reaped; /* the child has ended, with wstatus */
	int wstatus;
	bool is_stopped;					    /* detached */
	bool is_counting;					    /* the root has exec'ed */
	uint64_t period, next_tick, first_tick, last_tick, n_ticks; /* ns, monotonic */
	sigset_t saved_mask;
};

/* --- /proc
 * ---------------------------------------------------------------------------------------------------
 */

/* The state letter of a thread ('R', 'S', ...), 0 if it is gone. It follows the command's name,
 * which can hold anything. */
static char thread_state(const struct thread *thread)
{
	char path[64], text[512];
	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", thread->pid, thread->tid);
	FILE *file = fopen(path, "re");
	if (!file)
		return 0;
	size_t n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[n] = 0;
	const char *paren = strrchr(text, ')');
	return paren && paren[1] == ' ' ? paren[2] : 0;
}

/* The process a thread belongs to; the thread itself if that cannot be read any more. */
static pid_t process_of(pid_t tid)
{
	char path[64], line[256];
	int pid = tid;
	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	FILE *file = fopen(path, "re");
	if (!file)
		return tid;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "Tgid: %d", &pid) == 1)
			break;
	fclose(file);
	return pid;
}

/* --- the table of threads
 * ------------------------------------------------------------------------------------ */

static struct thread *thread_find(struct ovm_ptrace_sampler *sampler, pid_t tid)
{
	struct thread *thread;
	HASH_FIND_INT(sampler->threads, &tid, thread);
	return thread;
}

/* The entry of @tid, made if it is new. The map hears of a new thread or process; maps are not
 * copied from the parent but scanned when the first sample comes. */
static struct thread *thread_add(struct ovm_ptrace_sampler *sampler, pid_t tid)
{
	struct thread *thread = thread_find(sampler, tid);
	if (thread)
		return thread;
	thread = ovm_alloc(sizeof(*thread));
	thread->tid = tid;
	thread->pid = process_of(tid);
	HASH_ADD_INT(sampler->threads, tid, thread);
	struct ovm_sample fork = {.kind = OVM_RECORD_FORK,
				  .pid = (uint32_t)thread->pid,
				  .tid = (uint32_t)tid,
				  .ppid = tid == thread->pid ? 0 : (uint32_t)thread->pid};
	ovm_procmap_apply(sampler->tally->map, &fork);
	return thread;
}

static void thread_remove(struct ovm_ptrace_sampler *sampler, pid_t tid)
{
	struct thread *thread = thread_find(sampler, tid);
	if (!thread)
		return;
	struct ovm_sample gone = {
	    .kind = OVM_RECORD_EXIT, .pid = (uint32_t)thread->pid, .tid = (uint32_t)tid};
	ovm_procmap_apply(sampler->tally->map, &gone);
	HASH_DEL(sampler->threads, thread);
	free(thread);
}

static struct scan *scan_of(struct ovm_ptrace_sampler *sampler, pid_t pid)
{
	struct scan *scan;
	HASH_FIND_INT(sampler->scans, &pid, scan);
	if (scan)
		return scan;
	scan = ovm_alloc(sizeof(*scan));
	scan->pid = pid;
	HASH_ADD_INT(sampler->scans, pid, scan);
	return scan;
}

static void scan_remove(struct ovm_ptrace_sampler *sampler, pid_t pid)
{
	struct scan *scan;
	HASH_FIND_INT(sampler->scans, &pid, scan);
	if (!scan)
		return;
	HASH_DEL(sampler->scans, scan);
	free(scan);
}

/* --- one sample
 * ---------------------------------------------------------------------------------------------- */

/* Maps change without notice. Read them again when they are old, or when @pc is in none; but code
 * that is in no file (a JIT's) must not cost a reading per sample, so each vain one doubles the
 * time until the next. */
static void refresh_maps(struct ovm_ptrace_sampler *sampler, pid_t pid, ovm_rta pc)
{
	struct ovm_procmap *map = sampler->tally->map;
	struct scan *scan = scan_of(sampler, pid);
	uint64_t now = ovm_now_ns(), age = now - scan->at;
	ovm_va va;
	bool is_known = ovm_procmap_resolve(map, pid, pc, &va) != OVM_NONE;
	if (scan->at && age < (is_known ? RESCAN_MS * NS_PER_MS : scan->patience))
		return;
	ovm_procmap_scan(map, pid);
	scan->at = now;
	if (ovm_procmap_resolve(map, pid, pc, &va) != OVM_NONE)
		scan->patience = 0;
	else if (scan->patience < RESCAN_MS * NS_PER_MS)
		scan->patience = 2 * scan->patience + RESCAN_MISS_MS * NS_PER_MS;
}

static void take_sample(struct ovm_ptrace_sampler *sampler, const struct thread *thread)
{
	struct user_regs_struct regs;
	struct iovec iov = {&regs, sizeof(regs)};
	if (!sampler->is_counting ||
	    ptrace(PTRACE_GETREGSET, thread->tid, (void *)NT_PRSTATUS, &iov) ||
	    iov.iov_len != sizeof(regs))
		return; /* gone, or 32-bit code */
	if ((int64_t)regs.orig_rax >= 0)
		return; /* in a system call */
	ovm_rta pc = ovm_rta_of(regs.rip);
	OVM_FAULT(TRACER_SAMPLE);
	refresh_maps(sampler, thread->pid, pc);
	ovm_tally_add(sampler->tally, thread->pid, pc);
}

/* --- answering stops
 * ----------------------------------------------------------------------------------------- */

static void resume(pid_t tid, int sig)
{
	ptrace(PTRACE_CONT, tid, NULL,
	       (void *)(long)sig); /* ESRCH: killed meanwhile; its end will be reported */
}

static void on_end(struct ovm_ptrace_sampler *sampler, pid_t tid, int wstatus)
{
	thread_remove(sampler, tid);
	scan_remove(sampler, tid);
	if (tid == sampler->root)
		sampler->has_ended = true;
	if (tid == sampler->child) {
		sampler->is_reaped = true;
		sampler->wstatus = wstatus;
	}
}

/* @tid has exec'ed: its other threads are gone, and if it was not the leader it has become it. */
static void on_exec(struct ovm_ptrace_sampler *sampler, pid_t tid)
{
	unsigned long former = 0;
	ptrace(PTRACE_GETEVENTMSG, tid, NULL, &former);
	if ((pid_t)former != tid)
		thread_remove(sampler, (pid_t)former);
	struct thread *thread = thread_add(sampler, tid);
	thread->is_wanted = false;
	struct ovm_sample exec = {
	    .kind = OVM_RECORD_COMM, .pid = (uint32_t)tid, .tid = (uint32_t)tid, .is_exec = true};
	ovm_procmap_apply(sampler->tally->map, &exec);
	scan_of(sampler, tid)->at = 0;
	sampler->is_counting = true;
}

static void on_event(struct ovm_ptrace_sampler *sampler, struct thread *thread, int event, int sig)
{
	pid_t tid = thread->tid;
	switch (event) {
	case PTRACE_EVENT_EXEC:
		on_exec(sampler, tid);
		resume(tid, 0);
		break;
	case PTRACE_EVENT_STOP:
		if (sig != SIGTRAP) { /* stopped by job control: wait for SIGCONT with it */
			ptrace(PTRACE_LISTEN, tid, NULL, NULL);
			break;
		}
		if (thread->is_wanted)
			take_sample(sampler, thread);
		thread->is_wanted = false;
		resume(tid, 0);
		break;
	default: /* a new thread or child: it reports a stop of its own, and is entered then */
		resume(tid, 0);
	}
}

static void on_report(struct ovm_ptrace_sampler *sampler, pid_t tid, int wstatus)
{
	if (!WIFSTOPPED(wstatus)) {
		on_end(sampler, tid, wstatus);
		return;
	}
	int event = wstatus >> 16, sig = WSTOPSIG(wstatus);
	struct thread *thread = thread_add(sampler, tid);
	if (event)
		on_event(sampler, thread, event, sig);
	else
		resume(tid, sig);
}

/* Answer everything that is waiting. */
static void serve(struct ovm_ptrace_sampler *sampler)
{
	int wstatus;
	pid_t tid;
	while ((tid = waitpid(-1, &wstatus, __WALL | WNOHANG)) > 0)
		on_report(sampler, tid, wstatus);
}

/* Sleep until a report may be waiting or @until has come. SIGCHLD is blocked in this thread, so
 * none is missed. */
static void sleep_until(uint64_t until)
{
	sigset_t child;
	uint64_t now = ovm_now_ns();
	if (now >= until)
		return;
	struct timespec rest = {(time_t)((until - now) / NS_PER_S),
				(long)((until - now) % NS_PER_S)};
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigtimedwait(&child, NULL, &rest);
}

static void tick(struct ovm_ptrace_sampler *sampler, uint64_t now)
{
	struct thread *thread, *next;
	HASH_ITER(hh, sampler->threads, thread, next)
	{
		if (thread->is_wanted || thread_state(thread) != 'R')
			continue;
		if (!ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL))
			thread->is_wanted = true;
	}
	OVM_FAULT(TRACER_TICK);
	if (!sampler->n_ticks)
		sampler->first_tick = now;
	sampler->last_tick = now;
	sampler->n_ticks++;
	sampler->next_tick += sampler->period;
	if (sampler->next_tick < now) /* we were late: no burst */
		sampler->next_tick = now + sampler->period;
}

int ovm_ptrace_sampler_drain(struct ovm_ctx *ctx, struct ovm_ptrace_sampler *sampler,
			     int timeout_ms)
{
	(void)ctx;
	uint64_t now = ovm_now_ns();
	uint64_t until = now + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * NS_PER_MS;
	for (;;) {
		if (sampler->is_stopped)
			return OVM_OK;
		serve(sampler);
		now = ovm_now_ns();
		if (now >= sampler->next_tick)
			tick(sampler, now);
		if (now >= until || sampler->has_ended || sampler->is_reaped)
			return OVM_OK;
		sleep_until(until < sampler->next_tick ? until : sampler->next_tick);
	}
}

/* --- beginning and end
 * --------------------------------------------------------------------------------------- */

static int seize_failed(struct ovm_ctx *ctx, pid_t pid, int errnum)
{
	if (errnum == ESRCH)
		return ovm_fail(ctx, OVM_E_GONE, "process %d is gone", (int)pid);
	return ovm_fail_errno(
	    ctx, OVM_E_PERM, errnum,
	    "cannot trace process %d (another tracer, another user, or "
	    "kernel.yama.ptrace_scope: try sysctl kernel.yama.ptrace_scope=0, or root)",
	    (int)pid);
}

static int seize(struct ovm_ctx *ctx, struct ovm_ptrace_sampler *sampler, pid_t tid)
{
	if (OVM_FAULT_FAILS(TRACER_SEIZE) ||
	    ptrace(PTRACE_SEIZE, tid, NULL, (void *)(long)TRACE_OPTIONS))
		return seize_failed(ctx, tid, errno);
	thread_add(sampler, tid);
	return OVM_OK;
}

/* One pass over the threads of @pid; *n_new counts those it seized. A thread that ends or may
 * not be traced (a worker of the kernel's) is passed over. */
static void seize_tasks(struct ovm_ptrace_sampler *sampler, pid_t pid, uint32_t *n_new)
{
	char path[64];
	struct ovm_ctx scratch;
	struct dirent *entry;
	ovm_ctx_init(&scratch);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (tid > 0 && !thread_find(sampler, tid) &&
		    seize(&scratch, sampler, tid) == OVM_OK)
			(*n_new)++;
	}
	closedir(dir);
}

static void block_sigchld(sigset_t *saved)
{
	sigset_t child;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &child, saved);
}

static void seize_all(struct ovm_ptrace_sampler *sampler, pid_t pid)
{
	uint32_t n_new;
	do {
		n_new = 0;
		seize_tasks(sampler, pid, &n_new);
	} while (n_new);
}

int ovm_ptrace_sampler_open(struct ovm_ctx *ctx, struct ovm_tally *tally, uint64_t frequency,
			    const struct ovm_ptrace_who *who, struct ovm_ptrace_sampler **out)
{
	struct ovm_ptrace_sampler *sampler = ovm_alloc(sizeof(*sampler));
	if (!frequency)
		frequency = DEFAULT_HZ;
	sampler->tally = tally;
	sampler->root = who->pid;
	sampler->child = who->child;
	sampler->is_counting = who->is_running;
	sampler->period = NS_PER_S / (frequency < MAX_HZ ? frequency : MAX_HZ);
	sampler->next_tick = ovm_now_ns();
	block_sigchld(&sampler->saved_mask);
	int rc = seize(ctx, sampler, who->pid);
	if (rc) {
		sampler->is_stopped = true;
		ovm_ptrace_sampler_close(sampler);
		return rc;
	}
	seize_all(sampler, who->pid);
	for (uint32_t i = 0; i < who->n_others; i++)
		seize_all(sampler, who->others[i]);
	*out = sampler;
	return OVM_OK;
}

bool ovm_ptrace_sampler_wait(const struct ovm_ptrace_sampler *sampler)
{
	return sampler->has_ended || (kill(sampler->root, 0) && errno == ESRCH);
}

bool ovm_ptrace_sampler_has(const struct ovm_ptrace_sampler *sampler, int *wstatus)
{
	if (sampler->is_reaped)
		*wstatus = sampler->wstatus;
	return sampler->is_reaped;
}

uint64_t ovm_ptrace_sampler_frequency(const struct ovm_ptrace_sampler *sampler)
{
	uint64_t elapsed = sampler->last_tick - sampler->first_tick;
	if (sampler->n_ticks < 2 || !elapsed)
		return NS_PER_S / sampler->period;
	return ((sampler->n_ticks - 1) * NS_PER_S + elapsed / 2) / elapsed;
}

/* A child that @tid has just made is traced too and has not reported yet, unless it has come and
 * gone. */
static void expect_child(struct ovm_ptrace_sampler *sampler, pid_t tid)
{
	unsigned long child = 0;
	if (ptrace(PTRACE_GETEVENTMSG, tid, NULL, &child) || !child)
		return;
	struct thread made = {.tid = (pid_t)child, .pid = (pid_t)child};
	char state = thread_state(&made);
	if (state && state != 'Z' && state != 'X')
		thread_add(sampler, (pid_t)child);
}

/* Let go of @tid, which is in the stop @wstatus: with its signal if it was about to get one. */
static void detach(struct ovm_ptrace_sampler *sampler, pid_t tid, int wstatus)
{
	int event = wstatus >> 16;
	if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK ||
	    event == PTRACE_EVENT_VFORK)
		expect_child(sampler, tid);
	if (event == PTRACE_EVENT_EXEC)
		on_exec(sampler, tid);
	OVM_FAULT(TRACER_DETACH);
	ptrace(PTRACE_DETACH, tid, NULL, (void *)(long)(event ? 0 : WSTOPSIG(wstatus)));
	thread_remove(sampler, tid);
}

void ovm_ptrace_sampler_stop(struct ovm_ptrace_sampler *sampler)
{
	struct thread *thread, *next;
	if (sampler->is_stopped)
		return;
	uint64_t until = ovm_now_ns() + DETACH_MS * NS_PER_MS;
	serve(sampler);
	HASH_ITER(hh, sampler->threads, thread, next)
	ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL);
	while (sampler->threads && ovm_now_ns() < until) {
		int wstatus;
		pid_t tid = waitpid(-1, &wstatus, __WALL | WNOHANG);
		if (tid < 0 && errno == ECHILD)
			break;
		if (tid <= 0)
			sleep_until(ovm_now_ns() + NS_PER_MS);
		else if (WIFSTOPPED(wstatus))
			detach(sampler, tid, wstatus);
		else
			on_end(sampler, tid, wstatus);
	}
	sampler->is_stopped = true;
}

void ovm_ptrace_sampler_close(struct ovm_ptrace_sampler *sampler)
{
	struct thread *thread, *next_thread;
	struct scan *scan, *next_scan;
	if (!sampler)
		return;
	ovm_ptrace_sampler_stop(sampler);
	HASH_ITER(hh, sampler->threads, thread, next_thread)
	{
		HASH_DEL(sampler->threads, thread);
		free(thread);
	}
	HASH_ITER(hh, sampler->scans, scan, next_scan)
	{
		HASH_DEL(sampler->scans, scan);
		free(scan);
	}
	pthread_sigmask(SIG_SETMASK, &sampler->saved_mask, NULL);
	free(sampler);
}
