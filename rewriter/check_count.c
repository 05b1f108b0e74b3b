/* Counters and exits of instrumented copies: what is executed that the original has not.
 *
 *   overlay                                    original
 *   +40 48 ff 05 d32  incq counter(%rip)
 *   +47 test          about to execute 1000    1000 test      writes all flags before any is read
 *   +49 call f                                 1002 call f
 *   +4e 0f 1f 44 ..   nop, about to go on at   1007 mov
 *
 * A counter changes eight bytes of memory that are nobody else's, and five flags (inc leaves carry
 * alone). So it is harmless if those bytes lie in the counters' memory, if that memory is neither
 * the image's nor the overlay's, if the flags are dead before the original instruction that is due
 * there, and if control goes on to that one. The flags are proved dead on one line of original
 * code, without a graph: whatever branches ends the search.
 *
 *   dead    all five are written; a call, a tail call through one slot (jmp *x(%rip)), a return or
 * a system call comes (they pass no flags) live    one is read first; a conditional or any other
 * indirect branch; the line is too long
 *
 * An exit is there to be overwritten with a jump to where its call returns in the original, so it
 * must be one instruction of five bytes right behind the call, and no state but that.
 *
 * Axiom, stated and not proved: the counters' memory is mapped where the overlay says.
 */
#include "rewriter/check_private.h"

#include <string.h>

enum {
	COUNTER_LEN = 7, /* incq disp32(%rip) */
	COUNTER_SIZE = 8,
	EXIT_LEN = 5,
	MAX_LINE = 32, /* original instructions looked at for flags */
	INC_FLAGS = ZYDIS_CPUFLAG_OF | ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_AF |
		    ZYDIS_CPUFLAG_PF,
};

/* --- the counters' memory
 * --------------------------------------------------------------------------------------------------
 */

/* [lo, hi), which is not empty, and [other, other + size) have a byte in common. */
static bool overlaps(uint64_t lo, uint64_t hi, uint64_t other, uint64_t size)
{
	return size && (other >= lo ? other < hi : size > lo - other);
}

bool ovm_check_counters(struct ovm_check *check)
{
	const struct ovm_overlay *overlay = check->overlay;
	uint64_t lo = overlay->counters.v, size = (uint64_t)overlay->n_counters * COUNTER_SIZE;
	if ((uint64_t)overlay->sites.n * OVM_SITE_COUNTERS > overlay->n_counters)
		return ovm_check_no(check, (ovm_va){0}, 0, "more sites than counters");
	if (!size)
		return true;
	if (!lo || lo % COUNTER_SIZE || lo > UINT64_MAX - size)
		return ovm_check_no(check, (ovm_va){0}, 0, "counters at no proper address");
	if (overlaps(lo, lo + size, overlay->base.v, overlay->size))
		return ovm_check_no(check, (ovm_va){0}, 0, "counters inside the overlay");
	for (uint32_t i = 0; i < check->image->segments.n; i++) {
		const struct ovm_segment *segment = &check->image->segments.v[i];
		if (overlaps(lo, lo + size, segment->lo.v, segment->hi.v - segment->lo.v))
			return ovm_check_no(check, (ovm_va){0}, 0, "counters inside the image");
	}
	return true;
}

/* --- flags
 * -----------------------------------------------------------------------------------------------------------
 */

enum fate { GOES_ON, DEAD, LIVE };

/* What becomes of the flags in @missing (not yet written on this line) at @insn, which is executed
 * next. Takes from @missing what it writes, moves @va on. */
static enum fate step(const struct ovm_check_insn *insn, const struct ovm_check_flags *flags,
		      uint32_t *missing, uint64_t *va)
{
	switch ((enum ovm_insn_kind)insn->kind) {
	case OVM_INSN_CALL:
	case OVM_INSN_CALL_IND:
	case OVM_INSN_RET:
	case OVM_INSN_SYSCALL:
		return DEAD;
	case OVM_INSN_JMP_IND: /* through one fixed slot: a tail call */
		return insn->is_rip ? DEAD : LIVE;
	case OVM_INSN_JCC:
	case OVM_INSN_JCXZ:
	case OVM_INSN_REFUSE:
		return LIVE;
	case OVM_INSN_JMP:
		*va = insn->target;
		return GOES_ON;
	default: /* a trap too: whoever handles it may go on behind it */
		*va += insn->len;
	}
	if (flags->read & *missing)
		return LIVE;
	*missing &= ~flags->written;
	return *missing ? GOES_ON : DEAD;
}

/* Nothing executed from original @va on can tell what incq left in the flags. */
static bool flags_are_dead(struct ovm_check *check, uint64_t va)
{
	uint32_t missing = INC_FLAGS;
	enum fate fate = GOES_ON;
	for (unsigned i = 0; i < MAX_LINE && fate == GOES_ON; i++) {
		struct ovm_check_insn insn;
		struct ovm_check_flags flags;
		size_t avail;
		const uint8_t *p = ovm_check_old_code(check, va, &avail);
		if (!p || !ovm_check_decode_flags(&check->flags_dec, p, avail, va, &insn, &flags))
			return false;
		fate = step(&insn, &flags, &missing, &va);
	}
	return fate == DEAD;
}

/* --- entries
 * -----------------------------------------------------------------------------------------------------------
 */

static bool no(struct ovm_check *check, const struct ovm_map_entry *entry, const char *what)
{
	return ovm_check_no(check, entry->old, entry->off, "%s", what);
}

/* Entries lie in the code (index_map), so their bytes and what is behind them may be read. */
static bool check_counter(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	static const uint8_t incq[] = {0x48, 0xff, 0x05};
	const struct ovm_overlay *overlay = check->overlay;
	const uint8_t *p = overlay->bytes + entry->off;
	if (entry->new_len != COUNTER_LEN || entry->old_len || memcmp(p, incq, sizeof(incq)))
		return no(check, entry, "a counter that is no incq");
	uint64_t to = overlay->base.v + entry->off + COUNTER_LEN +
		      (uint64_t)(int64_t)(int32_t)ovm_le32(p + sizeof(incq));
	uint64_t at = to - overlay->counters.v;
	if (at % COUNTER_SIZE || at / COUNTER_SIZE >= ovm_overlay_n_probes(overlay))
		return no(check, entry, "a counter outside the counters");
	if (!flags_are_dead(check, entry->old.v))
		return no(check, entry, "a counter where flags may be live");
	if (!ovm_check_arrives(check, entry->off + COUNTER_LEN, entry->old.v))
		return no(check, entry, "a counter leads elsewhere");
	return true;
}

/* That the exit leads to where the call returns was proved with the call, which is the pair before:
 * control falls from there through the exit. */
static bool check_exit(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	static const uint8_t nop[EXIT_LEN] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
	const struct ovm_overlay *overlay = check->overlay;
	const struct ovm_map_entry *call = entry - 1;
	if (entry->new_len != EXIT_LEN || entry->old_len ||
	    memcmp(overlay->bytes + entry->off, nop, EXIT_LEN))
		return no(check, entry, "an exit that is no nop of five bytes");
	if (entry == overlay->map.v.v || !(call->flags & OVM_MAP_CALL) ||
	    (call->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD)) ||
	    call->off + call->new_len != entry->off)
		return no(check, entry, "an exit behind no call");
	if (call->old.v + call->old_len != entry->old.v)
		return no(check, entry, "an exit of another call");
	return true;
}

bool ovm_check_count_entry(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	switch (entry->flags & ~OVM_MAP_DUPLICATE) {
	case OVM_MAP_SYNTH | OVM_MAP_COUNT:
		return check_counter(check, entry);
	case OVM_MAP_SYNTH | OVM_MAP_PAD | OVM_MAP_EXIT:
		return check_exit(check, entry);
	default:
		return no(check, entry, "a counter or exit of no known form");
	}
}
