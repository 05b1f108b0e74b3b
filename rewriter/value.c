/* Instrumented copies: which functions an indirect call reaches, and how often.
 *
 *   original         copy                   thunk, one a call
 *   call *8(%rbx)    call thunk             mov  %r11, -8(%rsp)
 *                    nopl  <- exit          mov  8(%rbx), %r11
 *                                           cmp  %r11, target0(%rip)
 *                                           je   1f
 *                                           cmpq $0, target0(%rip)      a free place?
 *                                           jne  2f
 *                                           mov  %r11, target0(%rip)
 *                                        1: incq count0(%rip)
 *                                           mov  -8(%rsp), %r11
 *                                           jmp  *8(%rbx)
 *                                        2: ...                         the same for three more
 *                                           incq rest(%rip)
 *                                           mov  -8(%rsp), %r11
 *                                           jmp  *8(%rbx)
 *
 * The callee finds all registers, its return address and the stack as it would have; only flags
 * differ, which no call passes. The ABI has r11 dead at a call too, but TLS descriptors and
 * hand-written code do not; so it is kept, in a word below the stack pointer that signal handlers
 * leave alone and that is the callee's to use. A thread that is stopped in a thunk stays there: the
 * next jump takes it out.
 *
 * Threads race for a free place, and for counts: both lose little. The operand is read twice; if
 * somebody else writes it in between, the call goes where the original could have gone, and is
 * counted for where it could have gone a moment before.
 *
 * Limits: operands relative to rsp or rbp that may lie in the two words that the thunk has written
 * when it reads them again are not counted (no compiler keeps anything there across a call); tail
 * calls are not, since a jump may just as well stay inside its function, where flags and the words
 * below the stack pointer are in use.
 */
#include "rewriter/value.h"
#include "rewriter/count.h"
#include "rewriter/fixup.h"

#include <stdlib.h>
#include <string.h>

enum {
	SAVE_LEN = 5,
	RIP_LEN = 7,	 /* an instruction with disp32(%rip) and nothing behind it */
	IS_FREE_LEN = 8, /* the same with an imm8 */
	SHORT_LEN = 2,	 /* a short branch */
	PUSHED = 8,	 /* the return address: by so much rsp is lower in a thunk */
	RSP = 4,	 /* in ModRM and SIB: also "a SIB follows" and "no index" */
	RBP = 5,	 /* also "RIP-relative" and "no base" */
	R11_LOW = 3,
	REX = 0x40,
	REX_W = 8,
	REX_R = 4,
	REX_X = 2,
	REX_B = 1,
};

/* --- the operand
 * ----------------------------------------------------------------------------------------------
 */

struct operand {	/* of `call *X`, in parts */
	uint8_t prefix; /* a segment override or notrack, 0 none */
	uint8_t rex;	/* 0 none */
	uint8_t modrm, sib;
	uint8_t disp_len; /* as it will be written */
	int32_t disp;
	bool has_sib, is_rip;
	ovm_va target; /* is_rip */
};

static bool take_prefixes(const struct ovm_insn *insn, const uint8_t *from, struct operand *out)
{
	unsigned i = 0, end = insn->modrm_off - 1u; /* of the opcode */
	if (i < end && (from[i] == 0x64 || from[i] == 0x65 || from[i] == 0x3e))
		out->prefix = from[i++];
	if (i < end && (from[i] & 0xf0) == REX)
		out->rex = from[i++];
	return i == end && from[i] == 0xff;
}

/* Is what is read at @base + displacement, if that is a register the stack is addressed by,
 * certainly not below the caller's stack pointer? */
static bool is_above_stack(const struct operand *op, unsigned base)
{
	if (op->rex & REX_B || (base != RSP && base != RBP))
		return true;
	bool has_index = op->has_sib && ((op->sib >> 3 & 7) != RSP || op->rex & REX_X);
	return !has_index && op->disp >= 0 && op->disp <= INT32_MAX - PUSHED;
}

static bool take_memory(const struct ovm_insn *insn, const uint8_t *from, struct operand *out)
{
	unsigned mod = out->modrm >> 6, base = out->modrm & 7;
	out->has_sib = base == RSP;
	out->sib = out->has_sib ? from[insn->modrm_off + 1] : 0;
	out->disp = insn->disp;
	out->disp_len = insn->disp_len;
	out->is_rip = mod == 0 && base == RBP;
	out->target = insn->target;
	if (insn->modrm_off + 1u + out->has_sib + out->disp_len != insn->len)
		return false;
	if (out->is_rip)
		return out->disp_len == 4 && insn->flags & OVM_INSN_RIP_REL;
	if (out->has_sib)
		base = out->sib & 7;
	if (mod == 0 && base == RBP)
		return true; /* no base */
	if (!is_above_stack(out, base))
		return false;
	if (base == RSP && !(out->rex & REX_B)) {
		out->modrm = (uint8_t)((out->modrm & 0x3f) | 0x80);
		out->disp += PUSHED;
		out->disp_len = 4;
	}
	return true;
}

/* False: not an operand that can be used again in a thunk. */
static bool take_operand(const struct ovm_image *image, const struct ovm_insn *insn,
			 struct operand *out)
{
	const uint8_t *from =
	    insn->kind == OVM_INSN_CALL_IND ? ovm_image_code(image, insn->va, insn->len) : NULL;
	*out = (struct operand){0};
	if (!from || !insn->modrm_off || insn->modrm_off >= insn->len ||
	    !take_prefixes(insn, from, out))
		return false;
	out->modrm = from[insn->modrm_off];
	if ((out->modrm >> 3 & 7) != 2)
		return false;
	if (out->modrm >> 6 != 3)
		return take_memory(insn, from, out);
	return insn->modrm_off + 1 == insn->len &&
	       ((out->modrm & 7) != RSP || out->rex & REX_B); /* not rsp itself */
}

static uint32_t operand_len(const struct operand *op, bool has_rex)
{
	return !!op->prefix + has_rex + 2u + op->has_sib + op->disp_len;
}

static uint32_t load_len(const struct operand *op)
{
	return operand_len(op, true);
}

static uint32_t jump_len(const struct operand *op)
{
	return operand_len(op, op->rex);
}

/* --- which calls
 * ----------------------------------------------------------------------------------------------
 */

static bool is_site(const struct ovm_image *image, const struct ovm_insn *insn)
{
	struct operand op;
	return take_operand(image, insn, &op) &&
	       !(op.is_rip && ovm_image_slot_symbol(image, op.target));
}

static void add_sites(const struct ovm_program *program, const struct ovm_slot *slot,
		      struct ovm_layout *out)
{
	const struct ovm_cfg *cfg = program->cfgs.v[slot->cfg];
	const struct ovm_block *block = &cfg->blocks[slot->block];
	for (uint32_t k = block->first_insn; k < block->first_insn + block->n_insns; k++)
		if (is_site(program->image, &cfg->insns[k]))
			ovm_vec_push(&out->slots, (struct ovm_slot){.cfg = slot->cfg,
								    .block = slot->block,
								    .call = k + 1});
}

void ovm_value_layout(const struct ovm_program *program, const struct ovm_layout *layout,
		      struct ovm_layout *out)
{
	for (uint32_t i = 0; i < layout->slots.n; i++)
		if (!layout->slots.v[i].stub)
			add_sites(program, &layout->slots.v[i], out);
}

static int by_cfg_insn(const void *a, const void *b)
{
	const struct ovm_value_site *x = a, *y = b;
	if (x->cfg != y->cfg)
		return x->cfg < y->cfg ? -1 : 1;
	return x->insn < y->insn ? -1 : x->insn > y->insn;
}

void ovm_value_plan(struct ovm_emit_plan *plan)
{
	uint32_t counter = plan->probes->n_counters;
	for (uint32_t i = 0; i < plan->layout->slots.n; i++) {
		const struct ovm_slot *slot = &plan->layout->slots.v[i];
		if (!slot->call)
			continue;
		ovm_vec_push(&plan->sites,
			     (struct ovm_value_site){slot->cfg, slot->call - 1, i, counter});
		counter += OVM_SITE_COUNTERS;
	}
	if (plan->sites.n)
		qsort(plan->sites.v, plan->sites.n, sizeof(plan->sites.v[0]), by_cfg_insn);
}

static const struct ovm_value_site *find_site(const struct ovm_emit_plan *plan, uint32_t cfg,
					      uint32_t insn)
{
	const struct ovm_value_site want = {.cfg = cfg, .insn = insn};
	return plan->sites.n ? bsearch(&want, plan->sites.v, plan->sites.n,
				       sizeof(plan->sites.v[0]), by_cfg_insn)
			     : NULL;
}

uint32_t ovm_value_slot(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t insn)
{
	const struct ovm_value_site *site = find_site(plan, cfg, insn);
	return site ? site->slot : OVM_NONE;
}

/* --- the thunk
 * ------------------------------------------------------------------------------------------------
 */

/* Behind the comparison: a way into a free place; counting and going on. */
enum { TAKE_LEN = IS_FREE_LEN + SHORT_LEN + RIP_LEN };

static uint32_t leave_len(const struct operand *op)
{
	return RIP_LEN + SAVE_LEN + jump_len(op);
}

uint32_t ovm_value_len(const struct ovm_image *image, const struct ovm_insn *insn)
{
	struct operand op;
	bool is_one = take_operand(image, insn, &op);
	OVM_ASSERT(is_one);
	uint32_t len = SAVE_LEN + load_len(&op) +
		       OVM_SITE_TARGETS * (RIP_LEN + SHORT_LEN + TAKE_LEN + leave_len(&op)) +
		       leave_len(&op);
	OVM_ASSERT(len <= UINT8_MAX); /* a map entry's */
	return len;
}

struct pen {
	uint8_t *p;
	ovm_va at; /* where *p will be */
	bool reaches;
};

static void put(struct pen *pen, const void *bytes, uint32_t n)
{
	memcpy(pen->p, bytes, n);
	pen->p += n;
	pen->at = ovm_va_add(pen->at, n);
}

/* disp32(%rip), @n_behind bytes before the end of the instruction. */
static void put_rip(struct pen *pen, ovm_va to, uint32_t n_behind)
{
	pen->reaches &= ovm_fixup_rel32(pen->p, ovm_va_add(pen->at, 4 + n_behind), to);
	pen->p += 4;
	pen->at = ovm_va_add(pen->at, 4);
}

static void put_at(struct pen *pen, const uint8_t opcode[3], ovm_va to)
{
	put(pen, opcode, 3);
	put_rip(pen, to, 0);
}

/* @opcode with /@reg and the operand. */
static void put_operand(struct pen *pen, const struct operand *op, uint8_t rex, uint8_t opcode,
			uint8_t reg)
{
	uint8_t bytes[16], *p = bytes;
	if (op->prefix)
		*p++ = op->prefix;
	if (rex)
		*p++ = rex;
	*p++ = opcode;
	*p++ = (uint8_t)((op->modrm & 0xc7) | reg << 3);
	if (op->has_sib)
		*p++ = op->sib;
	if (op->disp_len == 1)
		*p++ = (uint8_t)op->disp;
	if (op->disp_len == 4 && !op->is_rip) {
		ovm_put32(p, (uint32_t)op->disp);
		p += 4;
	}
	put(pen, bytes, (uint32_t)(p - bytes));
	if (op->is_rip)
		put_rip(pen, op->target, 0);
}

static void put_leave(struct pen *pen, const struct operand *op, ovm_va count)
{
	static const uint8_t incq[] = {0x48, 0xff, 0x05};
	static const uint8_t restore[SAVE_LEN] = {0x4c, 0x8b, 0x5c, 0x24, 0xf8};
	put_at(pen, incq, count);
	put(pen, restore, sizeof(restore)); /* mov -8(%rsp), %r11 */
	put_operand(pen, op, op->rex, 0xff, 4);
}

static void put_target(struct pen *pen, const struct operand *op, ovm_va target)
{
	static const uint8_t cmp[] = {0x4c, 0x39, 0x1d};     /* cmp %r11, target(%rip) */
	static const uint8_t is_free[] = {0x48, 0x83, 0x3d}; /* cmpq $0, target(%rip) */
	static const uint8_t mov[] = {0x4c, 0x89, 0x1d};     /* mov %r11, target(%rip) */
	static const uint8_t je[] = {0x74, TAKE_LEN};
	const uint8_t behind[] = {0, 0x75, (uint8_t)(RIP_LEN + leave_len(op))}; /* imm8; jne */
	put_at(pen, cmp, target);
	put(pen, je, sizeof(je));
	put(pen, is_free, sizeof(is_free));
	put_rip(pen, target, 1);
	put(pen, behind, sizeof(behind));
	put_at(pen, mov, target);
	put_leave(pen, op, ovm_va_add(target, 8));
}

bool ovm_value_write(const struct ovm_emit_plan *plan, uint32_t slot, ovm_va at, uint8_t *bytes)
{
	static const uint8_t save[SAVE_LEN] = {0x4c, 0x89, 0x5c, 0x24, 0xf8};
	const struct ovm_slot *s = &plan->layout->slots.v[slot];
	const struct ovm_image *image = plan->program->image;
	const struct ovm_insn *insn = &plan->program->cfgs.v[s->cfg]->insns[s->call - 1];
	const struct ovm_value_site *site = find_site(plan, s->cfg, s->call - 1);
	struct pen pen = {bytes, at, true};
	struct operand op;
	bool is_one = take_operand(image, insn, &op);
	OVM_ASSERT(is_one && site);
	ovm_va counter = ovm_va_add(plan->counters, (int64_t)site->counter * 8);
	put(&pen, save, sizeof(save)); /* mov %r11, -8(%rsp) */
	put_operand(&pen, &op, (uint8_t)(REX | REX_W | REX_R | (op.rex & (REX_X | REX_B))), 0x8b,
		    R11_LOW); /* mov X, %r11 */
	for (unsigned i = 0; i < OVM_SITE_TARGETS; i++)
		put_target(&pen, &op, ovm_va_add(counter, 16 * (int64_t)i));
	put_leave(&pen, &op, ovm_va_add(counter, 16 * OVM_SITE_TARGETS));
	OVM_ASSERT(pen.p == bytes + ovm_value_len(image, insn));
	return pen.reaches;
}
