/* Promoted calls: what stands in a copy where the original calls through a pointer that nearly
 * always has the same value (analyzer/promote.c).
 *
 *   original         copy, hot                                    elsewhere
 *   call *8(%rbx)    mov  %r11, -8(%rsp)    ┐
 *                    lea  f(%rip), %r11     │ guard
 *                    cmp  %r11, 8(%rbx)     │
 *                    mov  -8(%rsp), %r11    │
 *                    jne  slow              ┘                     slow: call *8(%rbx)
 *                    call f'                  copy of f                 jmp  back
 *              back: ...
 *
 * In a file that is not position-independent the guard is `cmp $f, 8(%rbx); jne slow`: no register.
 * f is the original's address, since that is what pointers hold.
 *
 * Why the state is right everywhere. The callee and the slow call find all registers, the stack and
 * the return address as they would, but flags, which no call passes. The ABI has r11 dead at a call
 * too, but TLS descriptors and hand-written code do not, so it is kept, in the word that either
 * call overwrites with its return address. At the guard's first byte the state is "about to execute
 * the call", so branches lead there. Inside nobody arrives, and a thread that is stopped inside
 * stays in this copy. At the direct call the state is again that of the original call but for flags
 * and that word, both dead: a thread stopped there may go on at the original's call, and one
 * stopped at the original's goes on at the slow one, never at the direct one. Return addresses of
 * both calls are those behind the original's: frames, rows and handlers are found as for any copy.
 *
 * The operand is read by the guard and, if it differs, again by the slow call. If somebody else
 * writes it in between, either call goes where the original could have gone: the direct one where
 * it pointed when the guard read it, the slow one where it points then. If reading faults, it does
 * so in the guard, at another instruction than in the original and with another r11; done again
 * after the handler has repaired the cause, it is right.
 *
 * Three ways this could fail, each with a test (tests/unit/test_promote.c, tests/e2e/promote.sh):
 * the operand's address contains r11 or lies in the word that is written (then not promoted); an
 * exception or a backtrace passes a frame that called directly (rows, call sites and the map speak
 * of that call as of the original's); somebody enters at the direct call without the comparison
 * (the checker takes no such place for an arrival, the map gives none to threads and patches).
 *
 * What it brings (one recording each, counts of optvm stats): jumps at original entries 3.9 M
 * to 2.3 M and taken branches 22.9 M to 18.6 M in postgres, 1.30 M to 1.24 M and 24.0 M to 24.0 M
 * in cc1plus; simulated misses of the instruction cache in libsqlite3 2.15 M to 1.81 M. Time did
 * not change by more than the 1 to 3 % that could be measured, so it is not done unless asked for.
 *
 * Limits: not in instrumented copies, which count what this needs to know; not for calls that end
 * their function; one comparison a call.
 */
#include "rewriter/promote.h"
#include "analyzer/tunables.h"
#include "rewriter/operand.h"

#include <stdlib.h>

enum {
	KEEP_LEN = 5, /* mov %r11, -8(%rsp); mov -8(%rsp), %r11 */
	LEA_LEN = 7,  /* lea f(%rip), %r11 */
	IMM_LEN = 4,
	JNE_LEN = 6,
	R11 = 11,
	R11_LOW = 3,
	CMP_IMM = 7, /* ModRM's reg of 81 */
};

/* --- which calls, and where their slow ways stand
 * ------------------------------------------------------------- */

static bool can_compare(const struct ovm_program *program, const struct ovm_promotion *p)
{
	const struct ovm_insn *insn = &program->cfgs.v[p->cfg]->insns[p->insn];
	struct ovm_operand op;
	if (!ovm_operand_take(program->image, insn, &op))
		return false;
	return program->image->is_dyn ? !ovm_operand_uses(&op, R11)
				      : program->regions->v.v[p->callee].lo.v <= INT32_MAX;
}

static bool is_warm(const struct ovm_promotion *p)
{
	return (double)(p->total - p->hits) * 1000 >=
	       (double)OVM_TUNE(PROMOTE_WARM) * (double)p->total;
}

static void push_slow(struct ovm_layout *out, uint32_t idx, bool *is_placed)
{
	const struct ovm_promotion *p = &out->promotions.v[idx];
	if (!is_placed[idx])
		ovm_vec_push(
		    &out->slots,
		    (struct ovm_slot){.cfg = p->cfg, .block = p->block, .slow = p->insn + 1});
	is_placed[idx] = true;
}

/* Slots @from to @to of @layout; behind the last one of each group in a row, the slow ways of its
 * calls. */
static void push_slots(const struct ovm_layout *layout, uint32_t from, uint32_t to, bool only_warm,
		       bool *is_placed, struct ovm_layout *out)
{
	for (uint32_t i = from; i < to; i++) {
		uint32_t cfg = layout->slots.v[i].cfg;
		ovm_vec_push(&out->slots, layout->slots.v[i]);
		if (i + 1 < to && layout->slots.v[i + 1].cfg == cfg)
			continue;
		for (uint32_t k = 0; k < out->promotions.n; k++)
			if (out->promotions.v[k].cfg == cfg &&
			    (!only_warm || is_warm(&out->promotions.v[k])))
				push_slow(out, k, is_placed);
	}
}

void ovm_promote_layout(const struct ovm_program *program, const struct ovm_layout *layout,
			struct ovm_layout *out)
{
	*out =
	    (struct ovm_layout){.score = layout->score, .score_original = layout->score_original};
	for (uint32_t i = 0; i < layout->promotions.n; i++)
		if (can_compare(program, &layout->promotions.v[i]))
			ovm_vec_push(&out->promotions, layout->promotions.v[i]);
	bool *is_placed = ovm_alloc_array((size_t)out->promotions.n + 1, sizeof(*is_placed));
	ovm_vec_reserve(&out->slots, layout->slots.n + out->promotions.n);
	push_slots(layout, 0, layout->n_hot, true, is_placed, out);
	out->n_hot = out->slots.n;
	push_slots(layout, layout->n_hot, layout->slots.n, false, is_placed, out);
	for (uint32_t i = 0; i < out->promotions.n; i++)
		push_slow(out, i, is_placed);
	free(is_placed);
}

/* --- the plan
 * ---------------------------------------------------------------------------------------------------
 */

static int by_place(const void *a, const void *b)
{
	const struct ovm_promoted *x = a, *y = b;
	if (x->cfg != y->cfg)
		return x->cfg < y->cfg ? -1 : 1;
	return x->insn < y->insn ? -1 : x->insn > y->insn;
}

void ovm_promote_plan(struct ovm_emit_plan *plan)
{
	const struct ovm_layout *layout = plan->layout;
	for (uint32_t i = 0; i < layout->slots.n; i++) {
		const struct ovm_slot *slot = &layout->slots.v[i];
		if (!slot->slow)
			continue;
		const struct ovm_promotion *p =
		    ovm_promote_find(&layout->promotions, slot->cfg, slot->slow - 1);
		OVM_ASSERT(p);
		ovm_va target = plan->program->regions->v.v[p->callee].lo;
		uint32_t callee = ovm_emit_slot_at(plan, target);
		OVM_ASSERT(callee != OVM_NONE);
		ovm_vec_push(&plan->promoted,
			     (struct ovm_promoted){p->cfg, p->insn, i, callee, target});
	}
	if (plan->promoted.n)
		qsort(plan->promoted.v, plan->promoted.n, sizeof(plan->promoted.v[0]), by_place);
}

uint32_t ovm_promote_index(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t insn)
{
	const struct ovm_promoted want = {.cfg = cfg, .insn = insn}, *found;
	if (!plan->promoted.n)
		return OVM_NONE;
	found = bsearch(&want, plan->promoted.v, plan->promoted.n, sizeof(want), by_place);
	return found ? (uint32_t)(found - plan->promoted.v) : OVM_NONE;
}

/* --- the guard
 * ---------------------------------------------------------------------------------------------------
 */

static void take(const struct ovm_image *image, const struct ovm_insn *insn,
		 struct ovm_operand *out)
{
	bool is_one = ovm_operand_take(image, insn, out);
	OVM_ASSERT(is_one);
}

uint32_t ovm_promote_guard_len(const struct ovm_image *image, const struct ovm_insn *insn)
{
	struct ovm_operand op;
	take(image, insn, &op);
	return ovm_operand_len(&op, true) + JNE_LEN +
	       (image->is_dyn ? 2 * KEEP_LEN + LEA_LEN : IMM_LEN);
}

static void put_compare(struct ovm_pen *pen, const struct ovm_operand *op, ovm_va target)
{
	static const uint8_t save[KEEP_LEN] = {0x4c, 0x89, 0x5c, 0x24, 0xf8};
	static const uint8_t lea[] = {0x4c, 0x8d, 0x1d};
	static const uint8_t restore[KEEP_LEN] = {0x4c, 0x8b, 0x5c, 0x24, 0xf8};
	ovm_pen_put(pen, save, sizeof(save)); /* mov %r11, -8(%rsp) */
	ovm_pen_put(pen, lea, sizeof(lea));
	ovm_pen_rip(pen, target, 0); /* lea target(%rip), %r11 */
	ovm_pen_operand(pen, op, OVM_REX_W | OVM_REX_R, 0x39, R11_LOW, 0); /* cmp %r11, X */
	ovm_pen_put(pen, restore, sizeof(restore));			   /* mov -8(%rsp), %r11 */
}

static void put_compare_imm(struct ovm_pen *pen, const struct ovm_operand *op, ovm_va target)
{
	uint8_t imm[IMM_LEN];
	pen->reaches &= target.v <= INT32_MAX;
	ovm_put32(imm, (uint32_t)target.v);
	ovm_pen_operand(pen, op, OVM_REX_W, 0x81, CMP_IMM, IMM_LEN); /* cmp $target, X */
	ovm_pen_put(pen, imm, sizeof(imm));
}

bool ovm_promote_write_guard(const struct ovm_emit_plan *plan, uint32_t idx, ovm_va base,
			     uint32_t off, uint8_t *bytes)
{
	static const uint8_t jne[] = {0x0f, 0x85};
	const struct ovm_promoted *p = &plan->promoted.v[idx];
	const struct ovm_image *image = plan->program->image;
	const struct ovm_insn *insn = &plan->program->cfgs.v[p->cfg]->insns[p->insn];
	struct ovm_pen pen = {bytes, ovm_va_add(base, off), true};
	struct ovm_operand op;
	take(image, insn, &op);
	if (image->is_dyn)
		put_compare(&pen, &op, p->target);
	else
		put_compare_imm(&pen, &op, p->target);
	ovm_pen_put(&pen, jne, sizeof(jne));
	ovm_pen_rip(&pen, ovm_va_add(base, plan->pieces[p->slow].off), 0);
	OVM_ASSERT(pen.p == bytes + ovm_promote_guard_len(image, insn));
	return pen.reaches;
}
