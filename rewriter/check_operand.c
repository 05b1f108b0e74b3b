/* Two instructions read the same: the operand of an indirect call, and of what stands in a copy
 * before the call or in its place (check_value.c, check_promote.c).
 *
 *   [fs: gs: notrack] [REX] opcode ModRM [SIB] [disp]
 *
 * All parts must be equal but the opcode, ModRM's register, REX.W and REX.R; an operand relative to
 * rip must have the same address; one relative to rsp is 8 bytes further away where the return
 * address is on the stack.
 *
 * That return address, and the word below it, could be where the operand is. Compilers keep nothing
 * there across a call, so that it is not is an axiom for most registers, and checked for rsp and
 * rbp.
 */
#include "rewriter/check_private.h"

enum {
	PUSHED = 8, /* the return address */
	RSP = 4,    /* in ModRM and SIB: also "a SIB follows" and "no index" */
	RBP = 5,    /* also "RIP-relative" and "no base" */
	MOD_DISP32 = 2,
	REX_X = 2,
	REX_B = 1,
};

bool ovm_check_operand(const uint8_t *p, const struct ovm_check_insn *insn, unsigned n_behind,
		       struct ovm_check_operand *out)
{
	unsigned i = 0, end = insn->modrm_off - 1u;
	*out = (struct ovm_check_operand){.insn = insn};
	if (!insn->modrm_off)
		return false;
	if (i < end && (p[i] == 0x64 || p[i] == 0x65 || p[i] == 0x3e))
		out->prefix = p[i++];
	if (i < end && (p[i] & 0xf0) == 0x40)
		out->rex = p[i++];
	out->opcode = p[end];
	out->mod = p[insn->modrm_off] >> 6;
	out->reg = p[insn->modrm_off] >> 3 & 7;
	out->rm = p[insn->modrm_off] & 7;
	out->has_sib = insn->sib_off;
	out->sib = out->has_sib ? p[insn->sib_off] : 0;
	return i == end &&
	       insn->modrm_off + 1u + out->has_sib + insn->disp_len + n_behind == insn->len;
}

/* The register (hardware number) that memory is addressed by, OVM_REG_NONE. */
static unsigned base_of(const struct ovm_check_operand *op)
{
	unsigned base = op->has_sib ? op->sib & 7u : op->rm;
	if (op->mod == 3 || (op->mod == 0 && base == RBP))
		return OVM_REG_NONE;
	return base | (op->rex & REX_B ? 8 : 0);
}

static unsigned index_of(const struct ovm_check_operand *op)
{
	unsigned index = (op->sib >> 3 & 7u) | (op->rex & REX_X ? 8 : 0);
	return op->has_sib && index != RSP ? index : OVM_REG_NONE;
}

bool ovm_check_operand_uses(const struct ovm_check_operand *op, unsigned reg)
{
	if (op->mod == 3)
		return (op->rm | (op->rex & REX_B ? 8u : 0)) == reg;
	return base_of(op) == reg || index_of(op) == reg;
}

/* May the operand of the call be read again when the return address is on the stack and the word
 * below it is written? */
static bool is_repeatable(const struct ovm_check_operand *op)
{
	unsigned base = base_of(op);
	if (op->mod == 3)
		return op->rm != RSP || op->rex & REX_B;
	if (base != RSP && base != RBP)
		return true;
	return index_of(op) == OVM_REG_NONE && op->insn->disp >= 0;
}

bool ovm_check_call_operand(const uint8_t *p, const struct ovm_check_insn *insn,
			    struct ovm_check_operand *out)
{
	return insn->kind == OVM_INSN_CALL_IND && ovm_check_operand(p, insn, 0, out) &&
	       is_repeatable(out);
}

bool ovm_check_reads_same(const struct ovm_check_operand *old, const struct ovm_check_operand *new,
			  bool is_pushed)
{
	bool moved = is_pushed && base_of(old) == RSP;
	/* with the same mod and rm both have a SIB, or are relative to rip, or neither */
	if (new->prefix != old->prefix || new->rm != old->rm || new->sib != old->sib ||
	    (new->rex ^ old->rex) & (REX_X | REX_B) || new->mod != (moved ? MOD_DISP32 : old->mod))
		return false;
	if (old->insn->is_rip)
		return new->insn->target == old->insn->target;
	return new->insn->disp == old->insn->disp + (moved ? PUSHED : 0);
}
