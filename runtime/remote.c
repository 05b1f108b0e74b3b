/* Making the target call mmap, without ever having its registers in our hands.
 *
 * The usual way (save registers, point them at a syscall, run to a trap, restore) has a window in
 * which only the tracer knows the program's registers: kill -9 then ruins the program. So the
 * saving and restoring is done by the target itself, in a stub, and the one thing we change is rip,
 * once:
 *
 *   stub:   2-byte nop                   <- see below
 *   start:  save flags and registers below the red zone
 *           for each call in the table: load registers, syscall
 *           restore
 *           jmp *resume(%rip)            <- where the thread was
 *
 * From the instant rip points at start the stub needs nobody. If we die before, the bytes are dead
 * bytes; after, the thread runs through and is back. What it did shows in /proc/PID/maps.
 *
 * The stub stands in the tail of the last page of some code segment: the file ends, the page goes
 * on, with zeros nobody refers to. Such a tail is there before we have any memory of our own, and a
 * write to it copies one page. If no segment has one that is long enough, the kernel's vdso has.
 *
 * Which thread? One in user mode, if there is one soon. A parent that only waits for its children
 * has none: it is blocked in a system call, which our stop interrupts, and which the kernel is
 * about to restart. How it does that is the second way through the stub:
 *
 *   no signal     rax = number of the call, rip -= 2      enters at stub:, goes on at the program's
 *                                                         `syscall` instruction: restarted
 *   a handler     rax = -EINTR, then the handler,         enters at start:, goes on behind it, as
 *                 which returns to rip                    the kernel would have had it
 *
 * So again only rip is changed, and rax, which the stub saves and restores, tells where to go on.
 * Masks that pselect, ppoll and sigsuspend set for the time of the call are handled by the kernel
 * in both. What is not the same: a signal that comes while the stub runs (some 20 us) and was not
 * blocked finds the call about to begin, not begun, as it may anyway. Of calls that wait for
 * nothing but that (pause) we keep away.
 */
#define OVM_LOG_DOMAIN "remote"
#include "runtime/remote.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/startgate.h"
#include "runtime/tunables.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

enum {
	PAGE = 4096,
	ENTRY = 2, /* offset of start: after the nop */
	SYSCALL_LEN = 2,
	CALL_END = 86,	  /* after the syscall instruction of the loop */
	TAIL_MARGIN = 16, /* left alone right behind the segment's last byte */
	STOP_MS = 50,	  /* for one thread to report */
	MAX_STUB = 256 + OVM_REMOTE_MAX_CALLS * 56 + OVM_REMOTE_MAX_PATHS,
};

/* Displacements and jump distances are fixed: the two halves are one piece of code. */
static const uint8_t stub_code[] = {
    0x66, 0x90,					    /* xchg %ax,%ax */
    0x48, 0x8d, 0xa4, 0x24, 0x00, 0xff, 0xff, 0xff, /* lea -256(%rsp),%rsp */
    0x9c,					    /* pushfq */
    0xfc,					    /* cld */
    0x50, 0x53, 0x51, 0x52, 0x56, 0x57,		    /* push %rax, %rbx, %rcx, %rdx, %rsi, %rdi */
    0x41, 0x50, 0x41, 0x51, 0x41, 0x52, 0x41, 0x53, /* push %r8, %r9, %r10, %r11 */
    0x41, 0x54,					    /* push %r12 */
    0x48, 0x8d, 0x1d, 0x96, 0x00, 0x00, 0x00,	    /* lea table(%rip),%rbx */
    0x48, 0x8b, 0x03,				    /* next: mov (%rbx),%rax */
    0x48, 0x83, 0xf8, 0xff,			    /* cmp $-1,%rax */
    0x74, 0x37,					    /* je done */
    0x48, 0x8b, 0x7b, 0x08,			    /* mov 8(%rbx),%rdi */
    0x48, 0x8b, 0x73, 0x10,			    /* mov 16(%rbx),%rsi */
    0x48, 0x8b, 0x53, 0x18,			    /* mov 24(%rbx),%rdx */
    0x4c, 0x8b, 0x53, 0x20,			    /* mov 32(%rbx),%r10 */
    0x4c, 0x8b, 0x43, 0x28,			    /* mov 40(%rbx),%r8 */
    0x4c, 0x8b, 0x4b, 0x30,			    /* mov 48(%rbx),%r9 */
    0x48, 0x83, 0xff, 0xfe,			    /* cmp $OVM_REMOTE_FD,%rdi */
    0x49, 0x0f, 0x44, 0xfc,			    /* cmove %r12,%rdi */
    0x49, 0x83, 0xf8, 0xfe,			    /* cmp $OVM_REMOTE_FD,%r8 */
    0x4d, 0x0f, 0x44, 0xc4,			    /* cmove %r12,%r8 */
    0x0f, 0x05,					    /* syscall */
    0x83, 0x3b, 0x02,				    /* cmpl $SYS_open,(%rbx) */
    0x4c, 0x0f, 0x44, 0xe0,			    /* cmove %rax,%r12 */
    0x48, 0x83, 0xc3, 0x38,			    /* add $56,%rbx */
    0xeb, 0xc0,					    /* jmp next */
    0x48, 0x83, 0x7c, 0x24, 0x50, 0xfc,		    /* done: cmpq $-EINTR,80(%rsp), the saved rax */
    0x74, 0x1f,					    /* je interrupted */
    0x41, 0x5c, 0x41, 0x5b, 0x41, 0x5a,		    /* pop %r12, %r11, %r10 */
    0x41, 0x59, 0x41, 0x58,			    /* pop %r9, %r8 */
    0x5f, 0x5e, 0x5a, 0x59, 0x5b, 0x58,		    /* pop %rdi, %rsi, %rdx, %rcx, %rbx, %rax */
    0x9d,					    /* popfq */
    0x48, 0x8d, 0xa4, 0x24, 0x00, 0x01, 0x00, 0x00, /* lea 256(%rsp),%rsp */
    0xff, 0x25, 0x1f, 0x00, 0x00, 0x00,		    /* jmp *resume(%rip) */
    0x41, 0x5c, 0x41, 0x5b, 0x41, 0x5a,		    /* interrupted: the same */
    0x41, 0x59, 0x41, 0x58,			    /* */
    0x5f, 0x5e, 0x5a, 0x59, 0x5b, 0x58,		    /* */
    0x9d,					    /* */
    0x48, 0x8d, 0xa4, 0x24, 0x00, 0x01, 0x00, 0x00, /* */
    0xff, 0x25, 0x08, 0x00, 0x00, 0x00,		    /* jmp *behind(%rip) */
						    /* resume: .quad; behind: .quad */
    /* table:  .quad nr, arg0..arg5 for each call; .quad -1; the paths, each ended by 0 */
};

uint32_t ovm_remote_stub(uint8_t *to, uint32_t size, const struct ovm_remote_call *calls,
			 uint32_t n, ovm_rta at, ovm_rta resume, ovm_rta behind)
{
	if (n > OVM_REMOTE_MAX_CALLS)
		return 0;
	uint32_t paths = (uint32_t)sizeof(stub_code) + 16 + n * 56 + 8, need = paths;
	for (uint32_t i = 0; i < n; i++)
		need += calls[i].path ? (uint32_t)strlen(calls[i].path) + 1 : 0;
	if (size < need || need - paths > OVM_REMOTE_MAX_PATHS)
		return 0;
	memcpy(to, stub_code, sizeof(stub_code));
	uint8_t *p = to + sizeof(stub_code);
	ovm_put64(p, resume.v);
	ovm_put64(p + 8, behind.v);
	p += 16;
	for (uint32_t i = 0; i < n; i++, p += 56) {
		ovm_put64(p, calls[i].nr);
		for (uint32_t k = 0; k < 6; k++)
			ovm_put64(p + 8 + 8 * k, calls[i].arg[k]);
		if (!calls[i].path)
			continue;
		size_t len = strlen(calls[i].path) + 1;
		memcpy(to + paths, calls[i].path, len);
		ovm_put64(p + 8, at.v + paths);
		paths += (uint32_t)len;
	}
	ovm_put64(p, UINT64_MAX);
	return need;
}

struct ovm_remote_call ovm_remote_mmap(ovm_rta at, uint64_t size)
{
	return (struct ovm_remote_call){
	    .nr = SYS_mmap,
	    .arg = {at.v, size, PROT_READ | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, UINT64_MAX, 0},
	};
}

struct ovm_remote_call ovm_remote_madvise(ovm_rta at, uint64_t size, int advice)
{
	return (struct ovm_remote_call){.nr = SYS_madvise, .arg = {at.v, size, (uint64_t)advice}};
}

struct ovm_remote_call ovm_remote_open(const char *path)
{
	return (struct ovm_remote_call){
	    .nr = SYS_open, .arg = {0, O_RDWR | O_CLOEXEC}, .path = path};
}

struct ovm_remote_call ovm_remote_mmap_file(ovm_rta at, uint64_t size, uint64_t off, uint64_t inode)
{
	return (struct ovm_remote_call){
	    .nr = SYS_mmap,
	    .arg = {at.v, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE,
		    OVM_REMOTE_FD, off},
	    .inode = inode,
	};
}

struct ovm_remote_call ovm_remote_close(void)
{
	return (struct ovm_remote_call){.nr = SYS_close, .arg = {OVM_REMOTE_FD}};
}

/* The bytes between the end of an executable segment's file bytes and the end of its last page. */
struct tail {
	uint64_t end, at, page_end; /* of the file bytes; where a stub would stand */
	uint8_t bytes[PAGE];	    /* [end, page_end) */
};

static bool read_tail(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
		      const struct ovm_live_module *module, const struct ovm_live_segment *seg,
		      struct tail *out)
{
	if (!seg->is_exec || seg->is_writable || seg->filesz != seg->memsz)
		return false;
	out->end = seg->va.v + seg->filesz + module->bias;
	out->at = (out->end + TAIL_MARGIN + 15) & ~UINT64_C(15);
	out->page_end = (out->end + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	return out->at < out->page_end &&
	       ovm_livemap_covers(map, ovm_rta_of(out->at), ovm_rta_of(out->page_end),
				  OVM_PROT_R | OVM_PROT_X, module->inode) &&
	       ovm_mem_read(tracee, ovm_rta_of(out->end), out->bytes, out->page_end - out->end);
}

/* Room for a stub: zero bytes only. */
static bool find_tail(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
		      const struct ovm_live_module *module, const struct ovm_live_segment *seg,
		      uint32_t need, ovm_rta *out)
{
	struct tail tail;
	if (!read_tail(tracee, map, module, seg, &tail) || tail.page_end - tail.at < need)
		return false;
	for (uint64_t i = 0; i < tail.page_end - tail.end; i++)
		if (tail.bytes[i])
			return false;
	*out = ovm_rta_of(tail.at);
	return true;
}

/* The zero bytes at the end of the vdso. */
static bool find_vdso_tail(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			   uint32_t need, ovm_rta *out)
{
	for (uint32_t i = 0; i < map->ranges.n; i++) {
		const struct ovm_live_range *range = &map->ranges.v[i];
		uint8_t bytes[PAGE];
		uint32_t n = 0;
		if (strcmp(range->path, "[vdso]") != 0 ||
		    range->prot != (OVM_PROT_R | OVM_PROT_X) ||
		    !ovm_mem_read(tracee, ovm_rta_of(range->hi.v - PAGE), bytes, PAGE))
			continue;
		while (n < PAGE && !bytes[PAGE - 1 - n])
			n++;
		*out = ovm_rta_of((range->hi.v - n + TAIL_MARGIN + 15) & ~UINT64_C(15));
		return out->v + need <= range->hi.v;
	}
	return false;
}

static bool find_room(const struct ovm_tracee *tracee, const struct ovm_livemap *map, uint32_t need,
		      ovm_rta *out)
{
	for (uint32_t m = 0; m < map->modules.n; m++) {
		const struct ovm_live_module *module = &map->modules.v[m];
		for (uint32_t s = 0; s < module->segments.n; s++)
			if (find_tail(tracee, map, module, &module->segments.v[s], need, out))
				return true;
	}
	return find_vdso_tail(tracee, map, need, out);
}

bool ovm_remote_has_room(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			 const struct ovm_remote_call *calls, uint32_t n)
{
	uint8_t probe[MAX_STUB];
	const ovm_rta none = {0};
	uint32_t size = ovm_remote_stub(probe, sizeof(probe), calls, n, none, none, none);
	ovm_rta room;
	return size && find_room(tracee, map, size, &room);
}

static struct ovm_thread *stopped_thread(struct ovm_tracee *tracee, pid_t tid)
{
	for (uint32_t i = 0; i < tracee->threads.n; i++)
		if (tracee->threads.v[i].tid == tid &&
		    tracee->threads.v[i].state == OVM_THREAD_STOPPED)
			return &tracee->threads.v[i];
	return NULL;
}

/* The thread waits in a system call that may be restarted a little later as well, and was made by a
 * `syscall` instruction. */
static bool is_waiting(const struct ovm_tracee *tracee, const struct ovm_thread *thread)
{
	static const uint16_t calls[] = {
	    SYS_select,
	    SYS_pselect6,
	    SYS_poll,
	    SYS_ppoll,
	    SYS_epoll_wait,
	    SYS_epoll_pwait,
	    SYS_epoll_pwait2,
	    SYS_accept,
	    SYS_accept4,
	    SYS_wait4,
	    SYS_waitid,
	    SYS_rt_sigsuspend,
	    SYS_read,
	    SYS_recvfrom,
	    SYS_recvmsg,
	    SYS_futex,
	    SYS_nanosleep,
	    SYS_semop,
	    SYS_clock_nanosleep,
	    SYS_semtimedop,
	    SYS_flock,
	    SYS_fcntl,
	    SYS_rt_sigtimedwait,
	    SYS_restart_syscall,
	};
	uint8_t code[SYSCALL_LEN];
	bool is_known = false;
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		is_known |= calls[i] == thread->regs.orig_rax;
	return is_known && ovm_thread_restarts(thread) &&
	       ovm_mem_read(tracee, ovm_rta_of(thread->regs.rip - SYSCALL_LEN), code,
			    sizeof(code)) &&
	       code[0] == 0x0f && code[1] == 0x05;
}

/* Stop @tid; if it may be sent through the stub, do so; @waiting_too: also if it waits in a system
 * call. Returns 1 if sent, 0 if it is not suitable now, else a failure. */
static int try_thread(struct ovm_ctx *ctx, struct ovm_tracee *tracee, pid_t tid,
		      const struct ovm_remote_call *calls, uint32_t n, ovm_rta room,
		      bool waiting_too)
{
	int rc = ovm_tracee_stop_one(ctx, tracee, tid, STOP_MS);
	if (rc == OVM_E_TARGET || (rc == OVM_E_GONE && !tracee->ended))
		return 0; /* in vfork or uninterruptible, or this thread ended: another one, or
			     later */
	if (rc)
		return rc;
	struct ovm_thread *thread = stopped_thread(tracee, tid);
	bool waits = thread && ovm_thread_restarts(thread);
	/* One about to run a handler might never come back to the stub: handlers may jump. */
	if (thread && !ovm_thread_expects_signal(tracee, thread) &&
	    !ovm_thread_in_rseq(tracee, thread) &&
	    (!waits || (waiting_too && is_waiting(tracee, thread)))) {
		uint8_t stub[MAX_STUB];
		OVM_FAULT(STUB_STOPPED);
		ovm_rta behind = {thread->regs.rip};
		ovm_rta resume = {behind.v - (waits ? SYSCALL_LEN : 0)};
		uint32_t size = ovm_remote_stub(stub, sizeof(stub), calls, n, room, resume, behind);
		if (!OVM_FAULT_FAILS(STUB_WRITE) && ovm_mem_write(tracee, room, stub, size)) {
			OVM_FAULT(STUB_WRITTEN);
			rc = ovm_tracee_set_pc(thread, ovm_rta_of(room.v + ENTRY)) ? 1 : 0;
			OVM_FAULT(STUB_SENT);
		} else {
			rc = ovm_fail(
			    ctx, OVM_E_TARGET,
			    "cannot write into code of process %d (proc_mem.force_override?)",
			    (int)tracee->pid);
		}
	}
	ovm_tracee_resume(tracee);
	OVM_FAULT(STUB_RUNS);
	return rc;
}

static int send_a_thread(struct ovm_ctx *ctx, struct ovm_tracee *tracee,
			 const struct ovm_remote_call *calls, uint32_t n, ovm_rta room,
			 double deadline)
{
	double begin = ovm_now_ms();
	for (;;) {
		bool waiting_too =
		    ovm_now_ms() - begin > (deadline - begin) / OVM_RT_REMOTE_WAITING;
		pid_t *tids;
		uint32_t n_tids = ovm_tracee_tids(tracee->pid, &tids);
		int rc = n_tids
			     ? 0
			     : ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)tracee->pid);
		for (uint32_t i = 0; i < n_tids && rc == 0; i++)
			rc = try_thread(ctx, tracee, tids[i], calls, n, room, waiting_too);
		free(tids);
		if (rc)
			return rc > 0 ? 0 : rc;
		if (ovm_now_ms() > deadline)
			return ovm_fail(
			    ctx, OVM_E_TARGET,
			    "process %d: no thread ran user code, or waited where it may be asked",
			    (int)tracee->pid);
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
		ovm_tracee_service(tracee);
	}
}

/* The thread is held (startgate.c): it goes through the stub from stop to stop, up to the end of
 * the last call. Its registers are still the stub's to restore. */
static int send_held(struct ovm_ctx *ctx, struct ovm_tracee *tracee, struct ovm_thread *thread,
		     const struct ovm_remote_call *calls, uint32_t n, ovm_rta room, double deadline)
{
	uint8_t stub[MAX_STUB];
	ovm_rta pc = {thread->regs.rip};
	uint32_t size = ovm_remote_stub(stub, sizeof(stub), calls, n, room, pc, pc);
	if (!ovm_mem_write(tracee, room, stub, size) ||
	    !ovm_tracee_set_pc(thread, ovm_rta_of(room.v + ENTRY)))
		return ovm_fail(ctx, OVM_E_TARGET, "cannot write into code of process %d",
				(int)tracee->pid);
	for (uint32_t done = 0; done < n;) {
		enum ovm_gate_stop stop = ovm_startgate_next(tracee, thread, deadline);
		if (stop == OVM_GATE_ENDED)
			return ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)tracee->pid);
		if (stop == OVM_GATE_LATE || stop == OVM_GATE_EXEC || !ovm_tracee_regs(thread))
			return ovm_fail(ctx, OVM_E_TARGET,
					"process %d did not make our system calls",
					(int)tracee->pid);
		done += stop == OVM_GATE_EXIT && thread->regs.rip == room.v + CALL_END;
	}
	return 0;
}

static bool is_mapped(const struct ovm_livemap *map, const struct ovm_remote_call *call)
{
	ovm_rta lo = ovm_rta_of(call->arg[0]), hi = ovm_rta_of(call->arg[0] + call->arg[1]);
	return call->inode ? ovm_livemap_shares(map, lo, hi, call->inode)
			   : ovm_livemap_covers(map, lo, hi, OVM_PROT_R | OVM_PROT_X, 0);
}

/* How many mappings are missing; *missing_file: one of a file is, though all others are there. */
static uint32_t count_missing(const struct ovm_livemap *map, const struct ovm_remote_call *calls,
			      uint32_t n, bool *missing_file)
{
	uint32_t missing = 0, missing_anonymous = 0, anonymous = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (calls[i].nr != SYS_mmap)
			continue;
		bool is_missing = !is_mapped(map, &calls[i]);
		missing += is_missing;
		anonymous += !calls[i].inode;
		missing_anonymous += is_missing && !calls[i].inode;
	}
	*missing_file = missing && anonymous && !missing_anonymous;
	return missing;
}

static int wait_mapped(struct ovm_ctx *ctx, struct ovm_tracee *tracee,
		       const struct ovm_remote_call *calls, uint32_t n, double deadline,
		       bool *is_final)
{
	for (;;) {
		struct ovm_livemap now = {0};
		bool missing_file = false;
		int rc = ovm_livemap_read(ctx, tracee->pid, &now);
		bool done = rc == 0 && !count_missing(&now, calls, n, &missing_file);
		ovm_livemap_fini(&now);
		if (done)
			OVM_FAULT(STUB_MAPPED);
		if (rc || done)
			return rc;
		if (missing_file) {
			*is_final = true;
			return ovm_fail(ctx, OVM_E_TARGET,
					"process %d may not open our memory file (other user or "
					"namespace)",
					(int)tracee->pid);
		}
		if (ovm_now_ms() > deadline)
			return ovm_fail(ctx, OVM_E_TARGET,
					"process %d could not map memory for optimized code",
					(int)tracee->pid);
		nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
		ovm_tracee_service(tracee);
	}
}

int ovm_remote_run(struct ovm_ctx *ctx, struct ovm_tracee *tracee, const struct ovm_livemap *map,
		   const struct ovm_remote_call *calls, uint32_t n, int timeout_ms,
		   struct ovm_remote *out)
{
	*out = (struct ovm_remote){0};
	int rc = ovm_tracee_open_mem(ctx, tracee);
	if (rc)
		return rc;
	uint8_t probe[MAX_STUB];
	out->size = ovm_remote_stub(probe, sizeof(probe), calls, n, ovm_rta_of(0), ovm_rta_of(0),
				    ovm_rta_of(0));
	if (!out->size)
		return ovm_fail(ctx, OVM_E_INTERNAL, "%u remote calls are too many", n);
	double deadline = ovm_now_ms() + timeout_ms;
	struct ovm_thread *held = ovm_startgate_held(tracee);
	for (uint32_t i = 0; i < OVM_REMOTE_MAX_TRIES; i++) {
		ovm_rta
		    room; /* the bytes of an earlier stub are not zero, so this is another one */
		if (!find_room(tracee, map, out->size, &room))
			return ovm_fail(ctx, OVM_E_TARGET,
					"no unused code bytes in process %d for a %u byte stub",
					(int)tracee->pid, out->size);
		rc = held ? send_held(ctx, tracee, held, calls, n, room, deadline)
			  : send_a_thread(ctx, tracee, calls, n, room, deadline);
		if (rc)
			return rc;
		out->at[out->n++] = room;
		ovm_log(OVM_LOG_DEBUG, "stub of %u bytes at 0x%llx", out->size,
			(unsigned long long)room.v);
		double patience = ovm_now_ms() + timeout_ms / (double)OVM_REMOTE_MAX_TRIES / 2;
		bool is_final = false;
		rc = wait_mapped(ctx, tracee, calls, n,
				 held		       ? 0
				 : patience < deadline ? patience
						       : deadline,
				 &is_final);
		if (rc != OVM_E_TARGET || is_final || held)
			break;
	}
	return rc;
}

uint32_t ovm_remote_find(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			 struct ovm_remote *out, uint32_t max)
{
	struct tail tail;
	uint32_t n = 0;
	for (uint32_t m = 0; m < map->modules.n; m++) {
		const struct ovm_live_module *module = &map->modules.v[m];
		for (uint32_t s = 0; s < module->segments.n && n < max; s++) {
			if (!read_tail(tracee, map, module, &module->segments.v[s], &tail))
				continue;
			uint64_t room = tail.page_end - tail.at;
			if (room < sizeof(stub_code) || memcmp(tail.bytes + (tail.at - tail.end),
							       stub_code, sizeof(stub_code)) != 0)
				continue;
			out[n++] = (struct ovm_remote){
			    .at = {ovm_rta_of(tail.at)},
			    .n = 1,
			    .size = room < MAX_STUB ? (uint32_t)room : MAX_STUB,
			};
		}
	}
	return n;
}

bool ovm_remote_holds(const struct ovm_remote *remote, uint64_t address)
{
	for (uint32_t i = 0; i < remote->n; i++)
		if (address - remote->at[i].v < remote->size)
			return true;
	return false;
}

void ovm_remote_clean(const struct ovm_tracee *tracee, struct ovm_remote *remote)
{
	uint8_t zeros[MAX_STUB] = {0};
	for (uint32_t i = 0; i < remote->n; i++)
		if (OVM_FAULT_FAILS(STUBS_CLEAN) ||
		    !ovm_mem_write(tracee, remote->at[i], zeros, remote->size))
			ovm_log(OVM_LOG_WARN, "cannot clear the stub at 0x%llx",
				(unsigned long long)remote->at[i].v);
	*remote = (struct ovm_remote){0};
}
