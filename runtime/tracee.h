#ifndef OVM_TRACEE_H
#define OVM_TRACEE_H
/* A process under control: its threads stopped for a moment, its registers and memory.
 *
 * Everything here is PTRACE_SEIZE: no SIGSTOP is sent, job control is left as it is, and when this
 * tool dies the kernel detaches every thread and lets it go on. No option that would kill or signal
 * the target is ever set.
 */
#include "base/addr.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/vec.h"

#include <sys/types.h>
#include <sys/user.h>

enum ovm_thread_state {
	OVM_THREAD_PENDING, /* seized, not yet stopped */
	OVM_THREAD_STOPPED,
	OVM_THREAD_FREE, /* detached or gone */
};

struct ovm_thread {
	pid_t tid;
	uint8_t state; /* enum ovm_thread_state */
	int signal;    /* stopped while receiving it: handed over when it resumes; 0 none */
	struct user_regs_struct regs; /* after ovm_tracee_regs */
	ovm_rta move_to;	      /* where the caller wants its PC, 0: stays */
	ovm_rta stack_end;	      /* of the mapping that holds its rsp, set by the caller */
};

struct ovm_tracee {
	pid_t pid;
	int mem_fd; /* /proc/PID/mem, -1 if not open; belongs to one address space: reopened by
		       every stop */
	OVM_VEC(struct ovm_thread) threads; /* of the last stop */
	bool ended;			    /* the process ended while we waited for a stop: */
	int wstatus;			    /* its status if it is our child */
};

void ovm_tracee_init(struct ovm_tracee *tracee, pid_t pid);
void ovm_tracee_close(struct ovm_tracee *tracee); /* resumes what is stopped */

/* (Re)open the memory of the process as it is now. Fails: OVM_E_GONE, OVM_E_PERM. */
int ovm_tracee_open_mem(struct ovm_ctx *ctx, struct ovm_tracee *tracee);

/* May this process be changed at all? OVM_E_TARGET: traced by another, set-id, seccomp filter,
 * memory shared with another process. Reads /proc only. */
int ovm_tracee_check(struct ovm_ctx *ctx, pid_t pid);

/* Only the last of these: would code be changed under somebody who is not stopped? */
int ovm_tracee_check_shared(struct ovm_ctx *ctx, pid_t pid);

/* Stop thread @tid alone / every thread, new ones included; then reads their registers. On failure
 * whatever was stopped runs again. Fails: OVM_E_GONE; OVM_E_PERM; OVM_E_TARGET (not stopped within
 * @timeout_ms: vfork, uninterruptible I/O): try again later. */
int ovm_tracee_stop_one(struct ovm_ctx *ctx, struct ovm_tracee *tracee, pid_t tid, int timeout_ms);
int ovm_tracee_stop_all(struct ovm_ctx *ctx, struct ovm_tracee *tracee, int timeout_ms);

/* Let every stopped thread go, with the signals it was about to receive. Threads that had not
 * stopped stay seized: call ovm_tracee_service now and then until it returns false, or their next
 * stop would last. */
void ovm_tracee_resume(struct ovm_tracee *tracee);
bool ovm_tracee_service(struct ovm_tracee *tracee);

/* All thread ids of @pid, ascending as the kernel lists them; caller frees *tids. Returns how many.
 */
uint32_t ovm_tracee_tids(pid_t pid, pid_t **tids);

/* Read the registers of a stopped thread into thread->regs. False if it vanished. */
bool ovm_tracee_regs(struct ovm_thread *thread);

/* Change nothing but the PC of a stopped thread. */
bool ovm_tracee_set_pc(struct ovm_thread *thread, ovm_rta pc);

/* True if the stopped thread is inside a system call that the kernel will restart by stepping its
 * PC back by two. */
bool ovm_thread_restarts(const struct ovm_thread *thread);

/* True if the thread is about to run a signal handler when it resumes. */
bool ovm_thread_expects_signal(const struct ovm_tracee *tracee, const struct ovm_thread *thread);

/* True if the stopped thread is inside a restartable sequence: the kernel compares its PC when it
 * resumes, so it must not be moved. */
bool ovm_thread_in_rseq(const struct ovm_tracee *tracee, const struct ovm_thread *thread);

/* Memory of the target. All or nothing for reads; writes go through page protections (private
 * mappings are copied). A write inside one page is one memcpy of the kernel: no thread and no death
 * of ours ever leaves half of it. False if unmapped or gone. */
bool ovm_mem_read(const struct ovm_tracee *tracee, ovm_rta at, void *to, size_t n);
bool ovm_mem_write(const struct ovm_tracee *tracee, ovm_rta at, const void *from, size_t n);

#endif
