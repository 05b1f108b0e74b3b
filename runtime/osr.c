/* Moving a thread that is in the middle of a hot loop, by changing its PC.
 *
 * A copy differs from the original only in where it stands (rule R1), so a thread stopped at
 * original instruction i may go on at the copy of i, and needs nothing else; and back, and from one
 * copy to another. Without this a program whose hot loop is entered once would never reach its
 * overlay, and never leave it.
 *
 *   original  ->  i  ->  copy of i in the last armed overlay
 *   overlay   ->  i (map entry)  ->  the same; if there is none, i itself
 *
 * What optvm adds (jumps, counters, fillers) maps to the instruction that comes next, "about to
 * execute old". A counter that is skipped or run twice is one count.
 *
 * Stopped inside a system call, the PC is just behind the `syscall`. Its equal is "just behind the
 * copy of the syscall", never "the copy of the next instruction", which may stand elsewhere: if the
 * kernel restarts the call, it steps back by two bytes and must find a syscall there (rule R5).
 */
#include "runtime/osr.h"

enum { SYSCALL_LEN = 2 };

static ovm_rta overlay_pc(const struct ovm_osr_module *module, uint32_t off)
{
	return ovm_va_to_rta(ovm_va_add(module->overlay->base, off), module->bias);
}

/* The overlay that holds @pc, OVM_NONE if none does. */
static uint32_t overlay_of(const struct ovm_osr_module *modules, uint32_t n, ovm_rta pc)
{
	for (uint32_t i = 0; i < n; i++)
		if (pc.v - overlay_pc(&modules[i], 0).v < modules[i].overlay->size)
			return i;
	return OVM_NONE;
}

static uint32_t image_of(const struct ovm_osr_module *modules, uint32_t n, ovm_rta pc)
{
	for (uint32_t i = 0; i < n; i++)
		if (pc.v >= modules[i].lo.v && pc.v < modules[i].hi.v)
			return i;
	return OVM_NONE;
}

/* A copied system call instruction, with nothing changed in it? */
static bool is_syscall(const struct ovm_map_entry *entry)
{
	return entry && (entry->flags & OVM_MAP_SYSCALL) && entry->old_len == SYSCALL_LEN &&
	       entry->new_len == SYSCALL_LEN;
}

/* The instruction that the state at @pc of an overlay is about to execute; in a system call, the
 * `syscall`. */
static bool old_of(const struct ovm_osr_module *module, ovm_rta pc, bool in_syscall, ovm_va *old)
{
	uint64_t off = pc.v - overlay_pc(module, 0).v;
	if (in_syscall && off < SYSCALL_LEN)
		return false;
	uint32_t at = (uint32_t)(in_syscall ? off - SYSCALL_LEN : off);
	const struct ovm_map_entry *entry = ovm_map_new(&module->overlay->map, at);
	if (!entry || (in_syscall && !is_syscall(entry)))
		return false;
	unsigned kind = entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD);
	bool is_filler = kind == (OVM_MAP_SYNTH | OVM_MAP_PAD); /* nops: also between two of them */
	if (kind == OVM_MAP_PAD || (entry->off != at && !is_filler))
		return false;
	*old = entry->old;
	return true;
}

/* The copy of @old in the last armed overlay of the image of @modules[idx]. */
static bool find_copy(const struct ovm_osr_module *modules, uint32_t n, uint32_t idx, ovm_va old,
		      bool in_syscall, ovm_rta *out)
{
	for (uint32_t i = n; i-- > 0;) {
		if (!modules[i].is_armed || modules[i].lo.v != modules[idx].lo.v)
			continue;
		const struct ovm_map_entry *entry = ovm_map_old(&modules[i].overlay->map, old);
		if (!entry || (in_syscall && !is_syscall(entry)))
			continue;
		*out = overlay_pc(&modules[i], entry->off + (in_syscall ? entry->new_len : 0));
		return true;
	}
	return false;
}

bool ovm_osr_map(const struct ovm_osr_module *modules, uint32_t n, ovm_rta pc, bool in_syscall,
		 ovm_rta *out)
{
	ovm_va old;
	uint32_t from = overlay_of(modules, n, pc);
	if (from != OVM_NONE) {
		if (modules[from].is_armed || !old_of(&modules[from], pc, in_syscall, &old))
			return false;
		if (!find_copy(modules, n, from, old, in_syscall, out))
			*out = ovm_va_to_rta(ovm_va_add(old, in_syscall ? SYSCALL_LEN : 0),
					     modules[from].bias);
		return true;
	}
	uint32_t image = image_of(modules, n, pc);
	if (image == OVM_NONE)
		return false;
	old = ovm_va_add(ovm_rta_to_va(pc, modules[image].bias), in_syscall ? -SYSCALL_LEN : 0);
	return find_copy(modules, n, image, old, in_syscall, out);
}

bool ovm_osr_target(const struct ovm_osr_module *modules, uint32_t n,
		    const struct ovm_tracee *tracee, const struct ovm_thread *thread, ovm_rta *out)
{
	bool in_syscall = (int64_t)thread->regs.orig_rax >= 0;
	return ovm_osr_map(modules, n, ovm_rta_of(thread->regs.rip), in_syscall, out) &&
	       !ovm_thread_in_rseq(tracee, thread);
}

bool ovm_osr_is_stale(const struct ovm_osr_module *modules, uint32_t n, ovm_rta pc)
{
	uint32_t i = overlay_of(modules, n, pc);
	return i != OVM_NONE && !modules[i].is_armed;
}

ovm_rta ovm_osr_home(const struct ovm_osr_module *modules, uint32_t n, uint32_t idx, ovm_va old)
{
	ovm_rta home;
	return find_copy(modules, n, idx, old, false, &home)
		   ? home
		   : ovm_va_to_rta(old, modules[idx].bias);
}
