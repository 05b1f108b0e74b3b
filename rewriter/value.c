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
 * Limits: operands that may lie in the two words that the thunk has written when it reads them
 * again are not counted (operand.c); tail calls are not, since a jump may just as well stay inside
 * its function, where flags and the words below the stack pointer are in use.
 */
#include "rewriter/value.h"
#include "rewriter/count.h"
#include "rewriter/operand.h"

#include <stdlib.h>

enum {
	SAVE_LEN = 5,
	RIP_LEN = 7,	 /* an instruction with disp32(%rip) and nothing behind it */
	IS_FREE_LEN = 8, /* the same with an imm8 */
	SHORT_LEN = 2,	 /* a short branch */
	R11_LOW = 3,
};

/* --- which calls
 * ----------------------------------------------------------------------------------------------
 */

static bool is_site(const struct ovm_image *image, const struct ovm_insn *insn)
{
	struct ovm_operand op;
	return ovm_operand_take(image, insn, &op) &&
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

static void take_in_thunk(const struct ovm_image *image, const struct ovm_insn *insn,
			  struct ovm_operand *out)
{
	bool is_one = ovm_operand_take(image, insn, out);
	OVM_ASSERT(is_one);
	ovm_operand_push(out);
}

static uint32_t leave_len(const struct ovm_operand *op)
{
	return RIP_LEN + SAVE_LEN + ovm_operand_len(op, op->rex);
}

uint32_t ovm_value_len(const struct ovm_image *image, const struct ovm_insn *insn)
{
	struct ovm_operand op;
	take_in_thunk(image, insn, &op);
	uint32_t len = SAVE_LEN + ovm_operand_len(&op, true) +
		       OVM_SITE_TARGETS * (RIP_LEN + SHORT_LEN + TAKE_LEN + leave_len(&op)) +
		       leave_len(&op);
	OVM_ASSERT(len <= UINT8_MAX); /* a map entry's */
	return len;
}

static void put_at(struct ovm_pen *pen, const uint8_t opcode[3], ovm_va to)
{
	ovm_pen_put(pen, opcode, 3);
	ovm_pen_rip(pen, to, 0);
}

static void put_leave(struct ovm_pen *pen, const struct ovm_operand *op, ovm_va count)
{
	static const uint8_t incq[] = {0x48, 0xff, 0x05};
	static const uint8_t restore[SAVE_LEN] = {0x4c, 0x8b, 0x5c, 0x24, 0xf8};
	put_at(pen, incq, count);
	ovm_pen_put(pen, restore, sizeof(restore)); /* mov -8(%rsp), %r11 */
	ovm_pen_operand(pen, op, 0, 0xff, 4, 0);
}

static void put_target(struct ovm_pen *pen, const struct ovm_operand *op, ovm_va target)
{
	static const uint8_t cmp[] = {0x4c, 0x39, 0x1d};     /* cmp %r11, target(%rip) */
	static const uint8_t is_free[] = {0x48, 0x83, 0x3d}; /* cmpq $0, target(%rip) */
	static const uint8_t mov[] = {0x4c, 0x89, 0x1d};     /* mov %r11, target(%rip) */
	static const uint8_t je[] = {0x74, TAKE_LEN};
	const uint8_t behind[] = {0, 0x75, (uint8_t)(RIP_LEN + leave_len(op))}; /* imm8; jne */
	put_at(pen, cmp, target);
	ovm_pen_put(pen, je, sizeof(je));
	ovm_pen_put(pen, is_free, sizeof(is_free));
	ovm_pen_rip(pen, target, 1);
	ovm_pen_put(pen, behind, sizeof(behind));
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
	struct ovm_pen pen = {bytes, at, true};
	struct ovm_operand op;
	OVM_ASSERT(site);
	take_in_thunk(image, insn, &op);
	ovm_va counter = ovm_va_add(plan->counters, (int64_t)site->counter * 8);
	ovm_pen_put(&pen, save, sizeof(save)); /* mov %r11, -8(%rsp) */
	ovm_pen_operand(&pen, &op, OVM_REX_W | OVM_REX_R, 0x8b, R11_LOW, 0); /* mov X, %r11 */
	for (unsigned i = 0; i < OVM_SITE_TARGETS; i++)
		put_target(&pen, &op, ovm_va_add(counter, 16 * (int64_t)i));
	put_leave(&pen, &op, ovm_va_add(counter, 16 * OVM_SITE_TARGETS));
	OVM_ASSERT(pen.p == bytes + ovm_value_len(image, insn));
	return pen.reaches;
}
