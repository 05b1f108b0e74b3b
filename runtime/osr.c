/* Moving a thread that is in the middle of a hot loop, by changing its PC.
 *
 * A copy differs from the original only in where it stands (rule R1), so a thread stopped at
 * original instruction i may go on at the copy of i, and needs nothing else. Without this a program
 * whose hot loop is entered once would never reach its overlay.
 *
 * Stopped inside a system call, the PC is just behind the `syscall`. Its equal is "just behind the
 * copy of the syscall", never "the copy of the next instruction", which may stand elsewhere: if the
 * kernel restarts the call, it steps back by two bytes and must find a syscall there (rule R5).
 *
 * Return addresses stay: the frames above return into the original, which stays valid.
 *
 * What must not happen is that somebody resumes strictly inside the five bytes of a jump we write.
 * Return addresses cannot be there (no call is, but as the last instruction of a window). The PC of
 * an interrupted context can: a signal handler is running, and its frame on the stack holds the PC
 * of the interrupted code. Unwinding each thread to find these takes long and needs complete unwind
 * tables; the stack's words need neither. Any word that looks like an address inside a window costs
 * one patch. Example: of 2000 windows of 4 inner bytes each in 20 MB of code, a random text address
 * hits one in 2500. Limit: the nearest 256 KiB of the stack in use (which, in a handler on an
 * alternate stack, is that one).
 */
#include "runtime/osr.h"

#include <string.h>
#include <unistd.h>

enum { SYSCALL_LEN = 2, RED_ZONE = 128, SCAN_CHUNK = 16384, SCAN_MAX = 256 * 1024 };

static const struct ovm_osr_module *module_of(const struct ovm_osr_module *modules, uint32_t n,
					      uint64_t pc)
{
	for (uint32_t i = 0; i < n; i++)
		if (pc >= modules[i].lo.v && pc < modules[i].hi.v)
			return &modules[i];
	return NULL;
}

static ovm_rta overlay_pc(const struct ovm_osr_module *module, uint32_t off)
{
	return ovm_va_to_rta(ovm_va_add(module->overlay->base, off), module->bias);
}

bool ovm_osr_target(const struct ovm_osr_module *modules, uint32_t n,
		    const struct ovm_tracee *tracee, const struct ovm_thread *thread, ovm_rta *out)
{
	uint64_t pc = thread->regs.rip;
	const struct ovm_osr_module *module = module_of(modules, n, pc);
	if (!module)
		return false;
	ovm_va va = ovm_rta_to_va(ovm_rta_of(pc), module->bias);
	bool in_syscall = (int64_t)thread->regs.orig_rax >= 0;
	if (in_syscall)
		va = ovm_va_add(va, -SYSCALL_LEN);
	const struct ovm_map_entry *entry = ovm_map_old(&module->overlay->map, va);
	if (!entry || (entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD)))
		return false;
	if (in_syscall && (!(entry->flags & OVM_MAP_SYSCALL) || entry->old_len != SYSCALL_LEN ||
			   entry->new_len != SYSCALL_LEN))
		return false;
	if (ovm_thread_in_rseq(tracee, thread))
		return false;
	*out = overlay_pc(module, entry->off + (in_syscall ? entry->new_len : 0));
	return true;
}

static bool scan_words(const uint8_t *bytes, size_t n, struct ovm_patchset *set,
		       const struct ovm_remote *remote)
{
	bool hit = false;
	uint64_t lo = set->v.n ? set->v.v[0].at.v : 1,
		 hi = set->v.n ? set->v.v[set->v.n - 1].at.v + 8 : 0;
	for (size_t i = 0; i + 8 <= n; i += 8) {
		uint64_t word = ovm_le64(bytes + i);
		hit |= remote && ovm_remote_holds(remote, word);
		if (word < lo || word >= hi)
			continue;
		uint32_t idx;
		while ((idx = ovm_patchset_window(set, ovm_rta_of(word))) != OVM_NONE)
			ovm_patchset_drop(set, idx);
	}
	return hit;
}

bool ovm_osr_scan_stack(const struct ovm_tracee *tracee, const struct ovm_thread *thread,
			struct ovm_patchset *set, const struct ovm_remote *remote)
{
	uint8_t bytes[SCAN_CHUNK];
	uint64_t at = (thread->regs.rsp - RED_ZONE) & ~UINT64_C(7);
	bool hit = false;
	for (uint64_t done = 0; done < SCAN_MAX; done += SCAN_CHUNK) {
		ssize_t got = pread(tracee->mem_fd, bytes, sizeof(bytes), (off_t)(at + done));
		if (got > 0)
			hit |= scan_words(bytes, (size_t)got, set, remote);
		if (got < (ssize_t)sizeof(bytes))
			break;
	}
	return hit;
}
