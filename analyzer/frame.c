/* A register that does not fit is kept on the stack, also the address of an interpreter's table:
 *
 *      lea  T(%rip),%rsi
 *      mov  %rsi,0x10(%rsp)          spilled
 *      ...
 *      mov  0x10(%rsp),%rcx          and back: is this T?
 *      jmp  *(%rcx,%rdx,8)
 *
 * Unwind rows say how far rsp (or rbp) is from the CFA at every instruction, so that each access
 * has one offset in the frame whatever was pushed in between. Stores that are seen are definitions,
 * as those of registers are (slice.c). Others are made through pointers: nobody has one to a place
 * below the lowest whose address is taken, since objects extend upwards from their address. (An
 * array of which only the middle's address is taken would be an exception. Compilers keep spilled
 * registers out of arrays.)
 *
 * Calls do not write a frame but through pointers. What lies below rsp is not looked at. That unwind
 * rows are right at every instruction, not only at calls, is taken for granted.
 */
#include "analyzer/frame.h"

#include <stdlib.h>

enum {
	SLOT = 8,
	WIDEST = 64, /* bytes that an instruction which is not modelled may store: a zmm register */
	RSP_BIT = 1 << OVM_RSP,
	RBP_BIT = 1 << OVM_RBP,
};

static const struct ovm_frame_row unknown_row = {0, OVM_REG_NONE, 0};

/* The row of instruction @insn. */
static const struct ovm_frame_row *row_of(const struct ovm_frame_rows *rows, uint32_t insn)
{
	uint32_t lo = 0, hi = rows->v.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (rows->v.v[mid].insn <= insn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? &rows->v.v[lo - 1] : &unknown_row;
}

static bool is_frame_reg(const struct ovm_frame_row *row, uint8_t reg)
{
	return reg == OVM_RSP || (reg == OVM_RBP && row->reg == OVM_RBP);
}

/* Offset from the CFA of the memory operand; false if the row does not tell. */
static bool place_of(const struct ovm_frame_row *row, const struct ovm_insn *insn, int64_t *at)
{
	*at = (int64_t)insn->disp - row->cfa_off;
	return row->reg != OVM_REG_NONE && insn->base == row->reg;
}

static void take(struct ovm_frame *frame, int64_t at)
{
	if (at < frame->taken)
		frame->taken = at;
}

static void add_store(struct ovm_frame *frame, uint32_t i, int64_t at)
{
	const struct ovm_insn *insn = &frame->cfg->insns[i];
	bool is_modelled = insn->op != OVM_OP_OTHER && insn->dst_size && insn->dst_size <= SLOT &&
			   (insn->form == OVM_FORM_MR || insn->form == OVM_FORM_MI);
	ovm_vec_push(&frame->stores,
		     (struct ovm_frame_store){i, at, is_modelled ? insn->dst_size : WIDEST,
					      is_modelled && insn->op == OVM_OP_MOV &&
						  insn->dst_size == SLOT});
}

/* A memory operand in the frame. */
static void add_operand(struct ovm_frame *frame, const struct ovm_frame_row *row, uint32_t i)
{
	const struct ovm_insn *insn = &frame->cfg->insns[i];
	bool stores = insn->flags & (OVM_INSN_STORES | OVM_INSN_OPAQUE);
	bool moves_sp = insn->op == OVM_OP_LEA && insn->dst == OVM_RSP;
	int64_t at;
	if (moves_sp || !(stores || insn->op == OVM_OP_LEA))
		return;
	if (!place_of(row, insn, &at)) {
		take(frame, INT64_MIN);
		return;
	}
	if (insn->op == OVM_OP_LEA || insn->index != OVM_REG_NONE ||
	    (insn->flags & OVM_INSN_OPAQUE)) /* like fxsave: who knows how much */
		take(frame, at);
	else
		add_store(frame, i, at);
}

/* Does @insn hand on the value of the stack or frame pointer, other than as the address of a memory
 * operand? */
static bool leaks(const struct ovm_frame_row *row, const struct ovm_insn *insn)
{
	uint32_t regs = RSP_BIT | (row->reg == OVM_RBP ? RBP_BIT : 0), uses = insn->uses & regs;
	bool has_mem = insn->base != OVM_REG_NONE || insn->index != OVM_REG_NONE;
	bool is_operand = (insn->src < OVM_RIP && is_frame_reg(row, insn->src)) ||
			  (insn->dst < OVM_RIP && is_frame_reg(row, insn->dst));
	if (insn->flags & OVM_INSN_OPAQUE)
		return false; /* system calls and the like: they have no frame address but in a
				 register */
	switch (insn->kind) {
	case OVM_INSN_CALL:
	case OVM_INSN_CALL_IND:
	case OVM_INSN_RET:
	case OVM_INSN_TRAP:
	case OVM_INSN_SYSCALL:
		return false;
	default:
		break;
	}
	if (insn->op == OVM_OP_PUSH || insn->op == OVM_OP_POP)
		return insn->form == OVM_FORM_R && insn->op == OVM_OP_PUSH && insn->dst == OVM_RSP;
	if (insn->index < OVM_RIP && is_frame_reg(row, insn->index))
		return true;
	if (has_mem)
		return is_operand && !(insn->op == OVM_OP_LEA && insn->dst == OVM_RSP);
	return uses && insn->dst != OVM_RSP; /* what changes rsp itself, rows follow */
}

static void look_at(struct ovm_frame *frame, uint32_t i)
{
	const struct ovm_insn *insn = &frame->cfg->insns[i];
	const struct ovm_frame_row *row = row_of(frame->rows, i);
	bool sets_rbp = insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RR &&
			insn->dst == OVM_RBP && insn->src == OVM_RSP &&
			row_of(frame->rows, i + 1)->reg == OVM_RBP;
	if (!sets_rbp && leaks(row, insn))
		take(frame, INT64_MIN);
	if (insn->op == OVM_OP_PUSH && row->reg == OVM_RSP)
		ovm_vec_push(&frame->stores, (struct ovm_frame_store){
						 i, -(int64_t)row->cfa_off - SLOT, SLOT, false});
	else if (insn->base < OVM_RIP && is_frame_reg(row, insn->base))
		add_operand(frame, row, i);
}

void ovm_frame_init(struct ovm_frame *frame, const struct ovm_cfg *cfg,
		    const struct ovm_frame_rows *rows)
{
	*frame = (struct ovm_frame){.cfg = cfg, .rows = rows, .taken = INT64_MAX};
	for (uint32_t i = 0; i < cfg->n_insns; i++)
		look_at(frame, i);
}

void ovm_frame_fini(struct ovm_frame *frame)
{
	ovm_vec_free(&frame->stores);
}

bool ovm_frame_load(const struct ovm_frame *frame, uint32_t i, int64_t *slot)
{
	const struct ovm_insn *insn = &frame->cfg->insns[i];
	return insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RM && insn->dst_size == SLOT &&
	       insn->src_size == SLOT && insn->index == OVM_REG_NONE && !insn->segment &&
	       !(insn->flags & OVM_INSN_ADDR32) && insn->base < OVM_RIP &&
	       place_of(row_of(frame->rows, i), insn, slot) && *slot + SLOT <= frame->taken &&
	       (insn->base != OVM_RSP || insn->disp >= 0);
}

const struct ovm_frame_store *ovm_frame_last_store(const struct ovm_frame *frame, uint32_t first,
						   uint32_t end, int64_t slot)
{
	uint32_t lo = 0, hi = frame->stores.n;
	while (lo < hi) { /* first store at or behind @end */
		uint32_t mid = lo + (hi - lo) / 2;
		if (frame->stores.v[mid].insn < end)
			lo = mid + 1;
		else
			hi = mid;
	}
	while (lo-- > 0 && frame->stores.v[lo].insn >= first) {
		const struct ovm_frame_store *store = &frame->stores.v[lo];
		if (store->lo < slot + SLOT && slot < store->lo + (int64_t)store->size)
			return store;
	}
	return NULL;
}
