/* Thunks of instrumented copies: an indirect call became a direct call of code that the original
 * has not, and that must do nothing but count and go where the call would have gone.
 *
 *   original         copy
 *   call *8(%rbx)    call T        T:  mov  %r11, -8(%rsp)
 *                                      mov  8(%rbx), %r11
 *                                      ...                    (value.c draws it)
 *                                      mov  -8(%rsp), %r11
 *                                      jmp  *8(%rbx)
 *
 * The thunk is read once from its first byte to its last and must be of exactly one form, so this
 * is no proof of programs but a comparison; what it has to establish:
 *
 *   - all branches lead forward, to the two places in the form: every path ends at a jump;
 *   - the operand of the load and of every jump is the call's: same bytes but opcode, register and
 *     REX.W, REX.R; same address if it is relative to rip; 8 more if it is relative to rsp, which
 * is lower by the return address;
 *   - r11 is what it was at every jump, and no other register is written;
 *   - what is written lies in the counters' memory, or in the eight bytes below the stack pointer.
 *
 * What it writes, and the return address, could be where the operand is: check_operand.c. Flags are
 * dead at a call (check_count.c takes that for granted too).
 */
#include "rewriter/check_private.h"

#include <string.h>

enum {
	COUNTER_SIZE = 8,
	CALL_LEN = 5, /* no room for a prefix */
	R11_LOW = 3,
	REX_WR = 0x0c,
};

/* --- the thunk, read from front to back
 * ------------------------------------------------------------------------ */

struct reader {
	const struct ovm_check *check;
	struct ovm_check_operand call;
	const uint8_t *p, *end;
	uint64_t va; /* of p */
};

static bool skip(struct reader *r, size_t n)
{
	if ((size_t)(r->end - r->p) < n)
		return false;
	r->p += n;
	r->va += n;
	return true;
}

static bool expect(struct reader *r, const void *bytes, size_t n)
{
	const uint8_t *p = r->p;
	return skip(r, n) && !memcmp(p, bytes, n);
}

/* disp32(%rip), @n_behind bytes before the end of its instruction, is @to. */
static bool expect_rip(struct reader *r, uint64_t to, unsigned n_behind)
{
	const uint8_t *p = r->p;
	return skip(r, 4) && r->va + n_behind + (uint64_t)(int64_t)(int32_t)ovm_le32(p) == to;
}

static bool expect_at(struct reader *r, const uint8_t opcode[3], uint64_t to)
{
	return expect(r, opcode, 3) && expect_rip(r, to, 0);
}

static bool expect_operand(struct reader *r, bool is_jump)
{
	struct ovm_check_insn insn;
	struct ovm_check_operand op;
	const uint8_t *p = r->p;
	if (!ovm_check_decode(&r->check->dec, p, (size_t)(r->end - p), r->va, &insn) ||
	    !ovm_check_operand(p, &insn, 0, &op) || !ovm_check_reads_same(&r->call, &op, true))
		return false;
	r->p += insn.len;
	r->va += insn.len;
	if (is_jump)
		return insn.kind == OVM_INSN_JMP_IND && op.rex == r->call.rex;
	return op.opcode == 0x8b && op.reg == R11_LOW && (op.rex & REX_WR) == REX_WR;
}

/* incq count(%rip); mov -8(%rsp), %r11; jmp *X */
static bool expect_leave(struct reader *r, uint64_t count)
{
	static const uint8_t incq[] = {0x48, 0xff, 0x05};
	static const uint8_t restore[] = {0x4c, 0x8b, 0x5c, 0x24, 0xf8};
	return expect_at(r, incq, count) && expect(r, restore, sizeof(restore)) &&
	       expect_operand(r, true);
}

/* A short branch @opcode; its target. */
static bool expect_branch(struct reader *r, uint8_t opcode, uint64_t *to)
{
	const uint8_t *p = r->p;
	if (!expect(r, &opcode, 1) || !skip(r, 1))
		return false;
	*to = r->va + (uint64_t)(int64_t)(int8_t)p[1];
	return true;
}

static bool expect_target(struct reader *r, uint64_t target)
{
	static const uint8_t cmp[] = {0x4c, 0x39, 0x1d};
	static const uint8_t is_free[] = {0x48, 0x83, 0x3d}, zero[] = {0};
	static const uint8_t mov[] = {0x4c, 0x89, 0x1d};
	uint64_t known, other;
	return expect_at(r, cmp, target) && expect_branch(r, 0x74, &known) &&
	       expect(r, is_free, sizeof(is_free)) && expect_rip(r, target, 1) &&
	       expect(r, zero, sizeof(zero)) && expect_branch(r, 0x75, &other) &&
	       expect_at(r, mov, target) && r->va == known &&
	       expect_leave(r, target + COUNTER_SIZE) && r->va == other;
}

/* Which counters the thunk at @r uses: its first comparison says. */
static bool find_counters(const struct reader *r, uint64_t *first)
{
	static const uint8_t cmp[] = {0x4c, 0x39, 0x1d};
	const struct ovm_overlay *overlay = r->check->overlay;
	struct reader ahead = *r;
	if (!expect(&ahead, cmp, sizeof(cmp)) || ahead.end - ahead.p < 4)
		return false;
	*first = ahead.va + 4 + (uint64_t)(int64_t)(int32_t)ovm_le32(ahead.p);
	uint64_t idx = (*first - overlay->counters.v) / COUNTER_SIZE;
	return (*first - overlay->counters.v) % COUNTER_SIZE == 0 &&
	       idx >= ovm_overlay_n_probes(overlay) && idx < overlay->n_counters &&
	       overlay->n_counters - idx >= OVM_SITE_COUNTERS;
}

static bool is_thunk(struct reader *r)
{
	static const uint8_t save[] = {0x4c, 0x89, 0x5c, 0x24, 0xf8};
	uint64_t first;
	if (!expect(r, save, sizeof(save)) || !expect_operand(r, false) ||
	    !find_counters(r, &first))
		return false;
	for (unsigned i = 0; i < OVM_SITE_TARGETS; i++)
		if (!expect_target(r, first + 2 * i * COUNTER_SIZE))
			return false;
	return expect_leave(r, first + 2 * OVM_SITE_TARGETS * COUNTER_SIZE) && r->p == r->end;
}

bool ovm_check_value_call(const struct ovm_check *check, ovm_va call, const uint8_t *a,
			  const struct ovm_check_insn *old, const struct ovm_check_insn *new,
			  const struct ovm_map_entry *thunk)
{
	struct reader r = {.check = check};
	if (new->len != CALL_LEN || !thunk || !ovm_check_is_thunk(thunk) ||
	    thunk->old.v != call.v || check->overlay->base.v + thunk->off != new->target)
		return false;
	if (!ovm_check_call_operand(a, old, &r.call))
		return false;
	r.p = check->overlay->bytes + thunk->off; /* entries lie in the code (index_map) */
	r.end = r.p + thunk->new_len;
	r.va = new->target;
	return is_thunk(&r);
}

bool ovm_check_is_thunk(const struct ovm_map_entry *entry)
{
	return entry->flags == (OVM_MAP_PAD | OVM_MAP_THUNK) && !entry->old_len;
}
