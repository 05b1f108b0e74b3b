/* Stopping a process with many threads, from outside, so that nobody notices.
 *
 *   seize + interrupt every thread in /proc/PID/task      a thread cloned meanwhile is either in a
 * later listing, or wait until each has reported a stop                   the kernel attached it to
 * us (PTRACE_O_TRACECLONE) again, until a listing shows nobody new
 *
 * What a thread may report instead of our interrupt: a signal it was about to get (kept, handed
 * over at the detach), job control's stop (it stays stopped after the detach), its exit. One that
 * reports nothing is in vfork or in uninterruptible sleep: after the timeout everyone is let go and
 * it stays seized until it does report, which ovm_tracee_service waits for.
 *
 * Only rip is ever written, by PTRACE_POKEUSER, so FPU, vector and orig_rax state (system call
 * restart) stay the kernel's. One exception: epoll_wait and some others end with EINTR when a
 * tracer stops them; these are told to restart. Cost: 25-35 us for one thread, some ms for hundreds
 * of running ones, because each must be scheduled to stop.
 */
#define OVM_LOG_DOMAIN "tracee"
#include "runtime/tracee.h"
#include "runtime/tunables.h"
#include "base/fault.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* From the kernel's sched.h: workers of io_uring and vhost are listed as threads but never run user
 * code. */
enum { PF_IO_WORKER_BIT = 0x10, PF_USER_WORKER_BIT = 0x4000 };

/* The kernel's own error numbers for "restart this system call". */
enum { RESTART_SYS = -512, RESTART_NOINTR = -513, RESTART_NOHAND = -514, RESTART_BLOCK = -516 };

/* PTRACE_GET_RSEQ_CONFIGURATION (5.13) and the field rseq_cs of struct rseq. */
enum { RSEQ_CONFIGURATION = 0x420f, RSEQ_CS_OFFSET = 8 };

/* --- /proc
 * --------------------------------------------------------------------------------------------------
 */

static size_t read_proc(const char *name, char *buf, size_t size)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, buf, size - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

/* Number after "Key:" in a status file; @nth 0 is the first. -1 if absent. */
static long status_field(const char *status, const char *key, int nth)
{
	const char *p = strstr(status, key);
	if (!p)
		return -1;
	p += strlen(key);
	long x = -1;
	for (int i = 0; i <= nth; i++) {
		char *end;
		x = strtol(p, &end, 10);
		if (end == p)
			return -1;
		p = end;
	}
	return x;
}

static long tracer_of(pid_t pid, pid_t tid)
{
	char name[64], buf[4096];
	snprintf(name, sizeof(name), "/proc/%d/task/%d/status", (int)pid, (int)tid);
	return read_proc(name, buf, sizeof(buf)) ? status_field(buf, "\nTracerPid:", 0) : -1;
}

/* True if @tid can not be stopped and need not be: a zombie or a kernel worker. */
static bool runs_no_user_code(pid_t pid, pid_t tid)
{
	char name[64], buf[1024];
	snprintf(name, sizeof(name), "/proc/%d/task/%d/stat", (int)pid, (int)tid);
	if (!read_proc(name, buf, sizeof(buf)))
		return true;
	const char *p = strrchr(buf, ')');
	char state;
	unsigned long flags;
	if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %lu", &state, &flags) != 2)
		return false;
	return state == 'Z' || state == 'X' || (flags & (PF_IO_WORKER_BIT | PF_USER_WORKER_BIT));
}

uint32_t ovm_tracee_tids(pid_t pid, pid_t **tids)
{
	char name[64];
	snprintf(name, sizeof(name), "/proc/%d/task", (int)pid);
	OVM_VEC(pid_t) found = {0};
	DIR *dir = opendir(name);
	for (struct dirent *e; dir && (e = readdir(dir));) {
		int tid = atoi(e->d_name);
		if (tid > 0)
			ovm_vec_push(&found, tid);
	}
	if (dir)
		closedir(dir);
	*tids = found.v;
	return found.n;
}

/* A child of @pid that runs in the same memory (vfork, posix_spawn, CLONE_VM): it would run code we
 * change. */
static pid_t sharer(pid_t pid)
{
	pid_t *tids, found = 0;
	uint32_t n = ovm_tracee_tids(pid, &tids);
	for (uint32_t i = 0; i < n && !found; i++) {
		char name[80], buf[4096];
		snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)pid, (int)tids[i]);
		if (!read_proc(name, buf, sizeof(buf)))
			continue;
		for (char *p = buf, *end;; p = end) {
			long child = strtol(p, &end, 10);
			if (end == p)
				break;
			if (syscall(SYS_kcmp, pid, child, KCMP_VM, 0, 0) == 0)
				found = (pid_t)child;
		}
	}
	free(tids);
	return found;
}

/* A child of vfork shares memory until it has exec'ed: only who stays counts. */
static pid_t lasting_sharer(pid_t pid)
{
	pid_t other = sharer(pid);
	for (unsigned i = 0; other && i < OVM_RT_SHARER_TRIES; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
		other = sharer(pid);
	}
	return other;
}

int ovm_tracee_check(struct ovm_ctx *ctx, pid_t pid)
{
	char name[64], buf[8192];
	OVM_FAULT(TRACEE_CHECK);
	snprintf(name, sizeof(name), "/proc/%d/status", (int)pid);
	if (!read_proc(name, buf, sizeof(buf)))
		return ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)pid);
	long tracer = status_field(buf, "\nTracerPid:", 0);
	if (tracer > 0 && tracer != getpid())
		return ovm_fail(ctx, OVM_E_TARGET,
				"process %d is traced by process %ld: detach it first", (int)pid,
				tracer);
	if (status_field(buf, "\nUid:", 0) != status_field(buf, "\nUid:", 1) ||
	    status_field(buf, "\nGid:", 0) != status_field(buf, "\nGid:", 1))
		return ovm_fail(ctx, OVM_E_TARGET, "process %d is a set-id program: left alone",
				(int)pid);
	if (status_field(buf, "\nSeccomp:", 0) > 0)
		return ovm_fail(
		    ctx, OVM_E_TARGET,
		    "process %d has a seccomp filter, which could kill it for our mmap: left alone",
		    (int)pid);
	if (strstr(buf, "\nx86_Thread_features:") && strstr(buf, "shstk"))
		ovm_log(OVM_LOG_DEBUG,
			"process %d uses a shadow stack: fine, no return address is changed",
			(int)pid);
	return ovm_tracee_check_shared(ctx, pid);
}

int ovm_tracee_check_shared(struct ovm_ctx *ctx, pid_t pid)
{
	pid_t other = lasting_sharer(pid);
	if (other)
		return ovm_fail(ctx, OVM_E_TARGET,
				"process %d shares the memory of process %d: left alone",
				(int)other, (int)pid);
	return 0;
}

/* --- one thread
 * --------------------------------------------------------------------------------------------- */

/* Seize and interrupt @tid and list it as PENDING. 0; 1: nothing to do for it (gone, a worker);
 * else a failure. */
static int seize(struct ovm_ctx *ctx, struct ovm_tracee *t, pid_t tid)
{
	if (OVM_FAULT_FAILS(STOP_SEIZE) ||
	    ptrace(PTRACE_SEIZE, tid, 0, (void *)(long)PTRACE_O_TRACECLONE) < 0) {
		int err = errno;
		if (err == ESRCH || runs_no_user_code(t->pid, tid))
			return 1;
		long tracer = tracer_of(t->pid, tid);
		if (tracer == -1)
			return 1;
		if (tracer != getpid()) {
			if (tracer > 0)
				return ovm_fail(ctx, OVM_E_TARGET,
						"thread %d is traced by process %ld", (int)tid,
						tracer);
			return ovm_fail_errno(ctx, OVM_E_PERM, err, "cannot trace thread %d",
					      (int)tid);
		}
		/* ours already: cloned by a seized thread (stops by itself), or left over from an
		 * earlier attempt */
	}
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	OVM_FAULT(STOP_SEIZED);
	ovm_vec_push(&t->threads, (struct ovm_thread){.tid = tid, .state = OVM_THREAD_PENDING});
	return 0;
}

static bool is_listed(const struct ovm_tracee *t, pid_t tid)
{
	for (uint32_t i = 0; i < t->threads.n; i++)
		if (t->threads.v[i].tid == tid && t->threads.v[i].state != OVM_THREAD_FREE)
			return true;
	return false;
}

/* Thread @tid reports that it cloned: the kernel has attached the new thread to us, so it is ours
 * to let go. */
static void adopt_clone(struct ovm_tracee *t, pid_t tid)
{
	unsigned long child = 0;
	if (ptrace(PTRACE_GETEVENTMSG, tid, 0, &child) == 0 && child && !is_listed(t, (pid_t)child))
		ovm_vec_push(&t->threads,
			     (struct ovm_thread){.tid = (pid_t)child, .state = OVM_THREAD_PENDING});
}

/* System calls that the kernel ends with EINTR for any interruption, also one without a signal (man
 * 7 signal, "stop signals"), and that have done nothing when they end so. */
static bool is_quietly_restartable(uint64_t nr)
{
	static const uint16_t calls[] = {
	    SYS_epoll_wait,   SYS_epoll_pwait,	 SYS_epoll_pwait2,
	    SYS_semop,	      SYS_semtimedop,	 SYS_rt_sigtimedwait,
	    SYS_io_getevents, SYS_io_pgetevents, SYS_io_uring_enter,
	    SYS_read,	      SYS_write,	 SYS_readv,
	    SYS_writev,	      SYS_recvfrom,	 SYS_recvmsg,
	    SYS_recvmmsg,     SYS_sendto,	 SYS_sendmsg,
	    SYS_sendmmsg,     SYS_accept,	 SYS_accept4,
	};
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i] == nr)
			return true;
	return false;
}

/* Our stop must not show: a call that it ended is made one that the kernel restarts unless a
 * handler runs. One write of one register; without it the program would see EINTR, which it must
 * expect anyway. */
static void hide_interruption(pid_t tid)
{
	struct user_regs_struct regs;
	if (ptrace(PTRACE_GETREGS, tid, 0, &regs) == 0 && (int64_t)regs.rax == -EINTR &&
	    is_quietly_restartable(regs.orig_rax))
		ptrace(PTRACE_POKEUSER, tid, (void *)offsetof(struct user, regs.rax),
		       (void *)(long)RESTART_NOHAND);
}

/* Has thread number @idx stopped or ended? Never blocks. */
static void poll_thread(struct ovm_tracee *t, uint32_t idx)
{
	struct ovm_thread *thread = &t->threads.v[idx];
	int status;
	pid_t got = waitpid(thread->tid, &status, __WALL | WNOHANG);
	if (got == 0 || (got < 0 && errno == EINTR))
		return;
	if (got < 0) { /* not ours any more */
		thread->state = OVM_THREAD_FREE;
		return;
	}
	if (!WIFSTOPPED(status)) {
		thread->state = OVM_THREAD_FREE;
		if (thread->tid == t->pid) {
			t->ended = true;
			t->wstatus = status;
		}
		return;
	}
	thread->state = OVM_THREAD_STOPPED;
	OVM_FAULT(STOP_THREAD);
	hide_interruption(thread->tid);
	/* an event's stop carries no signal, a system call's (0x80, see startgate.c) neither */
	thread->signal = status >> 16 || WSTOPSIG(status) & 0x80 ? 0 : WSTOPSIG(status);
	if (status >> 16 == PTRACE_EVENT_CLONE)
		adopt_clone(t, thread->tid); /* may move threads.v */
}

static void detach(struct ovm_thread *thread)
{
	OVM_FAULT(RESUME_THREAD);
	if (ptrace(PTRACE_DETACH, thread->tid, 0, (void *)(long)thread->signal) < 0 &&
	    errno != ESRCH)
		ovm_log(OVM_LOG_WARN, "detach %d: %s", (int)thread->tid, strerror(errno));
	thread->state = OVM_THREAD_FREE;
	thread->signal = 0;
}

static uint32_t count_pending(const struct ovm_tracee *t)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < t->threads.n; i++)
		n += t->threads.v[i].state == OVM_THREAD_PENDING;
	return n;
}

/* Wait until every listed thread has stopped or ended, or @deadline. */
static bool collect(struct ovm_tracee *t, double deadline)
{
	for (unsigned round = 0;; round++) {
		for (uint32_t i = 0; i < t->threads.n; i++)
			if (t->threads.v[i].state == OVM_THREAD_PENDING)
				poll_thread(t, i);
		if (count_pending(t) == 0)
			return true;
		if (ovm_now_ms() > deadline)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = round < 20 ? 1000 : 200000}, NULL);
	}
}

/* Seize every thread not listed yet. Returns how many, or a failure. */
static int seize_new(struct ovm_ctx *ctx, struct ovm_tracee *t)
{
	pid_t *tids;
	uint32_t n = ovm_tracee_tids(t->pid, &tids);
	int added = 0, rc = 0;
	for (uint32_t i = 0; i < n && rc >= 0; i++) {
		if (is_listed(t, tids[i]))
			continue;
		rc = seize(ctx, t, tids[i]);
		added += rc == 0;
	}
	free(tids);
	return rc < 0 ? rc : added;
}

/* Forget threads of an earlier stop, but not those that are still seized. */
static void forget_free(struct ovm_tracee *t)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < t->threads.n; i++)
		if (t->threads.v[i].state != OVM_THREAD_FREE)
			t->threads.v[kept++] = t->threads.v[i];
	t->threads.n = kept;
}

static int after_stop(struct ovm_ctx *ctx, struct ovm_tracee *t)
{
	if (t->ended)
		return ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)t->pid);
	uint32_t n = 0;
	for (uint32_t i = 0; i < t->threads.n; i++) {
		struct ovm_thread *thread = &t->threads.v[i];
		if (thread->state == OVM_THREAD_STOPPED && !ovm_tracee_regs(thread))
			thread->state = OVM_THREAD_FREE; /* killed while stopped */
		n += thread->state == OVM_THREAD_STOPPED;
	}
	if (n == 0)
		return ovm_fail(ctx, OVM_E_GONE, "process %d has no thread to stop", (int)t->pid);
	return ovm_tracee_open_mem(ctx, t);
}

/* --- public
 * --------------------------------------------------------------------------------------------------
 */

void ovm_tracee_init(struct ovm_tracee *tracee, pid_t pid)
{
	*tracee = (struct ovm_tracee){.pid = pid, .mem_fd = -1};
	ovm_vec_reserve(&tracee->threads, 256); /* so that a stop rarely allocates */
}

void ovm_tracee_close(struct ovm_tracee *tracee)
{
	ovm_tracee_resume(tracee);
	if (tracee->mem_fd >= 0)
		close(tracee->mem_fd);
	tracee->mem_fd = -1;
	ovm_vec_free(&tracee->threads);
}

int ovm_tracee_open_mem(struct ovm_ctx *ctx, struct ovm_tracee *tracee)
{
	char name[64];
	snprintf(name, sizeof(name), "/proc/%d/mem", (int)tracee->pid);
	int fd = OVM_FAULT_FAILS(TRACEE_MEM) ? -1 : open(name, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ESRCH
			   ? ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)tracee->pid)
			   : ovm_fail_errno(ctx, OVM_E_PERM, errno, "%s", name);
	if (tracee->mem_fd >= 0)
		close(tracee->mem_fd);
	tracee->mem_fd = fd;
	return 0;
}

int ovm_tracee_stop_one(struct ovm_ctx *ctx, struct ovm_tracee *tracee, pid_t tid, int timeout_ms)
{
	forget_free(tracee);
	int rc = is_listed(tracee, tid) ? 0 : seize(ctx, tracee, tid);
	if (rc > 0)
		return ovm_fail(ctx, OVM_E_GONE, "thread %d has ended", (int)tid);
	if (rc == 0 && !collect(tracee, ovm_now_ms() + timeout_ms))
		rc = ovm_fail(ctx, OVM_E_TARGET, "thread %d did not stop within %d ms", (int)tid,
			      timeout_ms);
	if (rc == 0)
		rc = after_stop(ctx, tracee);
	if (rc)
		ovm_tracee_resume(tracee);
	return rc;
}

int ovm_tracee_stop_all(struct ovm_ctx *ctx, struct ovm_tracee *tracee, int timeout_ms)
{
	double deadline = ovm_now_ms() + timeout_ms;
	OVM_FAULT(STOP_BEGIN);
	forget_free(tracee);
	int rc = 0;
	for (int quiet = 0; quiet < 2;) { /* two listings without anybody new */
		int added = seize_new(ctx, tracee);
		if (added < 0) {
			rc = added;
			break;
		}
		if (!collect(tracee, deadline)) {
			rc = ovm_fail(ctx, OVM_E_TARGET,
				      "%u of %u threads of process %d did not stop within %d ms",
				      count_pending(tracee), tracee->threads.n, (int)tracee->pid,
				      timeout_ms);
			break;
		}
		if (tracee->ended)
			break;
		quiet = added ? 0 : quiet + 1;
	}
	OVM_FAULT(STOP_ALL);
	if (rc == 0)
		rc = after_stop(ctx, tracee);
	if (rc)
		ovm_tracee_resume(tracee);
	return rc;
}

void ovm_tracee_resume(struct ovm_tracee *tracee)
{
	for (uint32_t i = 0; i < tracee->threads.n; i++) {
		if (tracee->threads.v[i].state == OVM_THREAD_PENDING)
			poll_thread(tracee, i);
		if (tracee->threads.v[i].state == OVM_THREAD_STOPPED)
			detach(&tracee->threads.v[i]);
	}
}

bool ovm_tracee_service(struct ovm_tracee *tracee)
{
	ovm_tracee_resume(tracee);
	return count_pending(tracee) > 0;
}

bool ovm_tracee_regs(struct ovm_thread *thread)
{
	return ptrace(PTRACE_GETREGS, thread->tid, 0, &thread->regs) == 0;
}

bool ovm_tracee_set_pc(struct ovm_thread *thread, ovm_rta pc)
{
	if (ptrace(PTRACE_POKEUSER, thread->tid, (void *)offsetof(struct user, regs.rip),
		   (void *)pc.v) < 0)
		return false;
	thread->regs.rip = pc.v;
	return true;
}

bool ovm_thread_restarts(const struct ovm_thread *thread)
{
	if ((int64_t)thread->regs.orig_rax < 0)
		return false;
	int64_t rax = (int64_t)thread->regs.rax;
	return rax == RESTART_SYS || rax == RESTART_NOINTR || rax == RESTART_NOHAND ||
	       rax == RESTART_BLOCK;
}

/* A signal set of a status file: 16 hexadecimal digits after the key. */
static uint64_t status_mask(const char *status, const char *key)
{
	const char *p = strstr(status, key);
	return p ? strtoull(p + strlen(key), NULL, 16) : 0;
}

bool ovm_thread_expects_signal(const struct ovm_tracee *tracee, const struct ovm_thread *thread)
{
	char name[64], buf[4096];
	snprintf(name, sizeof(name), "/proc/%d/task/%d/status", (int)tracee->pid, (int)thread->tid);
	if (thread->signal || !read_proc(name, buf, sizeof(buf)))
		return true;
	uint64_t pending = status_mask(buf, "\nSigPnd:") | status_mask(buf, "\nShdPnd:");
	return pending & ~status_mask(buf, "\nSigBlk:");
}

bool ovm_thread_in_rseq(const struct ovm_tracee *tracee, const struct ovm_thread *thread)
{
	struct { /* struct __ptrace_rseq_configuration of linux/ptrace.h 5.13 */
		uint64_t abi_pointer;
		uint32_t abi_size, signature, flags, pad;
	} config = {0};
	uint64_t cs = 0,
		 fields[3]; /* of struct rseq_cs: (version, flags), start_ip, post_commit_offset */
	if (ptrace((enum __ptrace_request)RSEQ_CONFIGURATION, thread->tid, (void *)sizeof(config),
		   &config) < 0 ||
	    !config.abi_pointer)
		return false;
	if (!ovm_mem_read(tracee, ovm_rta_of(config.abi_pointer + RSEQ_CS_OFFSET), &cs,
			  sizeof(cs)) ||
	    !cs)
		return false;
	if (!ovm_mem_read(tracee, ovm_rta_of(cs), fields, sizeof(fields)))
		return true;
	return thread->regs.rip - fields[1] < fields[2];
}

bool ovm_mem_read(const struct ovm_tracee *tracee, ovm_rta at, void *to, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t got =
		    pread(tracee->mem_fd, (char *)to + done, n - done, (off_t)(at.v + done));
		if (got <= 0)
			return false;
		done += (size_t)got;
	}
	return true;
}

bool ovm_mem_write(const struct ovm_tracee *tracee, ovm_rta at, const void *from, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t got = pwrite(tracee->mem_fd, (const char *)from + done, n - done,
				     (off_t)(at.v + done));
		if (got <= 0)
			return false;
		done += (size_t)got;
	}
	return true;
}
