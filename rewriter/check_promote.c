/* Promoted calls: two entries of the map that stand for one indirect call.
 *
 *   original            overlay
 *   1000 call *8(%rbx)  +40 mov  %r11, -8(%rsp)     guard: about to execute 1000
 *                           lea  f(%rip), %r11
 *                           cmp  %r11, 8(%rbx)
 *                           mov  -8(%rsp), %r11
 *                           jne  +900
 *   1003                +5b call f'                 guarded call, behind it
 *                       +60 about to execute 1003
 *                       +900 call *8(%rbx)          a copy of 1000, proved as any other
 *
 * or `cmp $f, 8(%rbx); jne +900` as the guard, where addresses are absolute. The bytes must be
 * exactly of one of these forms. What has to hold, and why it does then:
 *
 *   - the guarded call is executed only behind its guard: the two are neighbours, and nothing else
 *     arrives at it, since check.c and the map take no guarded call for a place to arrive at;
 *   - it is executed only if the operand is f: same operand as the original call's, read in the
 *     same state (r11 is no part of it); jne, so equality falls through;
 *   - then the original goes to f, and the overlay goes where f is due;
 *   - if the operand is not f, control is at a copy of the very call, which is no guard again: no
 *     endless loop;
 *   - r11 is what it was at both calls; the word below the stack pointer is written, which either
 *     call overwrites with its return address before anybody reads it;
 *   - flags differ, which no call passes (an axiom of check_count.c, too);
 *   - both calls go on at 1003.
 *
 * That the operand does not lie in the word below the stack pointer is an axiom for registers other
 * than rsp and rbp (check_operand.c).
 */
#include "rewriter/check_private.h"

#include <string.h>

enum {
	KEEP_LEN = 5,
	CALL_LEN = 5,
	IMM_LEN = 4,
	R11 = 11,
	R11_LOW = 3,
	CMP_IMM = 7, /* ModRM's reg of 81 */
	REX_W = 8,
	REX_R = 4,
};

static bool no(struct ovm_check *check, const struct ovm_map_entry *entry, const char *what)
{
	return ovm_check_no(check, entry->old, entry->off, "%s", what);
}

static bool is_guard(const struct ovm_map_entry *entry)
{
	return (entry->flags & ~OVM_MAP_DUPLICATE) == (OVM_MAP_SYNTH | OVM_MAP_GUARD) &&
	       !entry->old_len;
}

static bool is_guarded(const struct ovm_map_entry *entry)
{
	return (entry->flags & ~OVM_MAP_DUPLICATE) == (OVM_MAP_CALL | OVM_MAP_GUARD);
}

static bool are_pair(const struct ovm_map_entry *guard, const struct ovm_map_entry *call)
{
	return is_guard(guard) && is_guarded(call) && guard->old.v == call->old.v &&
	       guard->off + guard->new_len == call->off;
}

/* --- the bytes
 * ------------------------------------------------------------------------------------------------
 */

struct reader {
	const struct ovm_check *check;
	struct ovm_check_operand call; /* of the original */
	const uint8_t *p, *end;
	uint64_t va; /* of p */
};

static bool expect(struct reader *r, const void *bytes, size_t n)
{
	const uint8_t *p = r->p;
	if ((size_t)(r->end - p) < n)
		return false;
	r->p += n;
	r->va += n;
	return !memcmp(p, bytes, n);
}

/* A disp32 or rel32 that ends its instruction: the address it means. */
static bool take_rel32(struct reader *r, uint64_t *to)
{
	const uint8_t *p = r->p;
	if (r->end - p < 4)
		return false;
	r->p += 4;
	r->va += 4;
	*to = r->va + (uint64_t)(int64_t)(int32_t)ovm_le32(p);
	return true;
}

/* @opcode with /@reg, REX bits @wr, the call's operand and @n_behind bytes of immediate. */
static bool expect_compare(struct reader *r, uint8_t opcode, unsigned reg, unsigned wr,
			   unsigned n_behind)
{
	struct ovm_check_insn insn;
	struct ovm_check_operand op;
	const uint8_t *p = r->p;
	if (!ovm_check_decode(&r->check->dec, p, (size_t)(r->end - p), r->va, &insn) ||
	    insn.kind != OVM_INSN_OTHER || !ovm_check_operand(p, &insn, n_behind, &op))
		return false;
	r->p += insn.len;
	r->va += insn.len;
	return op.opcode == opcode && op.reg == reg && (op.rex & (REX_W | REX_R)) == wr &&
	       ovm_check_reads_same(&r->call, &op, false);
}

static bool expect_register_form(struct reader *r, uint64_t *target)
{
	static const uint8_t save[KEEP_LEN] = {0x4c, 0x89, 0x5c, 0x24, 0xf8};
	static const uint8_t lea[] = {0x4c, 0x8d, 0x1d};
	static const uint8_t restore[KEEP_LEN] = {0x4c, 0x8b, 0x5c, 0x24, 0xf8};
	return !ovm_check_operand_uses(&r->call, R11) && expect(r, save, sizeof(save)) &&
	       expect(r, lea, sizeof(lea)) && take_rel32(r, target) &&
	       expect_compare(r, 0x39, R11_LOW, REX_W | REX_R, 0) &&
	       expect(r, restore, sizeof(restore));
}

static bool expect_immediate_form(struct reader *r, uint64_t *target)
{
	if (r->check->image->is_dyn || !expect_compare(r, 0x81, CMP_IMM, REX_W, IMM_LEN))
		return false;
	*target = (uint64_t)(int64_t)(int32_t)ovm_le32(r->p - IMM_LEN);
	return true;
}

/* The guard's bytes: what it compares with, and where it goes if that differs. */
static bool read_guard(const struct reader *start, uint64_t *target, uint64_t *slow)
{
	static const uint8_t jne[] = {0x0f, 0x85};
	struct reader r = *start;
	if (!expect_register_form(&r, target)) {
		r = *start;
		if (!expect_immediate_form(&r, target))
			return false;
	}
	return expect(&r, jne, sizeof(jne)) && take_rel32(&r, slow) && r.p == r.end;
}

/* --- the proof
 * ------------------------------------------------------------------------------------------------
 */

static bool check_call(struct ovm_check *check, const struct ovm_map_entry *entry,
		       const struct ovm_check_insn *old, uint64_t target)
{
	const uint8_t *p = check->overlay->bytes + entry->off;
	if (entry->new_len != CALL_LEN || entry->old_len != old->len || *p != 0xe8)
		return no(check, entry, "a guarded call that is no call");
	uint64_t behind = check->overlay->base.v + entry->off + CALL_LEN,
		 to = behind + (uint64_t)(int64_t)(int32_t)ovm_le32(p + 1);
	if (!ovm_check_goes_to(check, to, target))
		return no(check, entry, "a guarded call goes elsewhere");
	if (!ovm_check_arrives(check, entry->off + CALL_LEN, entry->old.v + old->len))
		return no(check, entry, "a guarded call continues elsewhere");
	return true;
}

static bool check_guard(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	const struct ovm_overlay *overlay = check->overlay;
	struct reader r = {.check = check, .va = overlay->base.v + entry->off};
	struct ovm_check_insn old;
	uint64_t target, slow;
	size_t avail;
	const uint8_t *p = ovm_check_old_code(check, entry->old.v, &avail);
	r.p = overlay->bytes + entry->off; /* entries lie in the code (index_map) */
	r.end = r.p + entry->new_len;
	if (!p || !ovm_check_decode(&check->dec, p, avail, entry->old.v, &old) ||
	    !ovm_check_call_operand(p, &old, &r.call))
		return no(check, entry, "a guard of what is no call through a pointer");
	if (!read_guard(&r, &target, &slow))
		return no(check, entry, "a guard of no known form");
	const struct ovm_map_entry *copy =
	    slow - overlay->base.v < overlay->size
		? ovm_check_copy_at(check, (uint32_t)(slow - overlay->base.v))
		: NULL;
	if (!copy || copy->old.v != entry->old.v)
		return no(check, entry, "a guard leads elsewhere");
	check->result->n_pairs++;
	return check_call(check, entry + 1, &old, target);
}

bool ovm_check_promoted(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	const struct ovm_map *map = &check->overlay->map;
	if (is_guarded(entry)) {
		if (entry == map->v.v || !are_pair(entry - 1, entry))
			return no(check, entry, "a guarded call without its guard");
		return true;
	}
	if (entry + 1 >= map->v.v + map->v.n || !are_pair(entry, entry + 1))
		return no(check, entry, "a guard without its call");
	return check_guard(check, entry);
}
