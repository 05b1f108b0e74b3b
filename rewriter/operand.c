/* `call *X` reads its target once. Code that is put before the call or in its place reads X too, to
 * see where the call will lead, so X is taken apart and put into other instructions:
 *
 *   41 ff 54 24 08     call *8(%r12)
 *   4d 8b 5c 24 08     mov  8(%r12), %r11      same prefix, REX.X and .B, ModRM but reg, SIB, disp
 *
 * Such code keeps r11 in the word below the stack pointer. In a thunk, where the return address is
 * on the stack, that is one word further down. So operands that may lie there are refused: relative
 * to rsp or rbp, with an index or a negative displacement. No compiler keeps anything there across
 * a call, so that other registers do not point there is an axiom. Refused too: 32-bit addresses,
 * and prefixes other than segment overrides, notrack and REX.
 */
#include "rewriter/operand.h"
#include "rewriter/fixup.h"

#include <string.h>

enum {
	PUSHED = 8, /* the return address: by so much rsp is lower in a thunk */
	RSP = 4,    /* in ModRM and SIB: also "a SIB follows" and "no index" */
	RBP = 5,    /* also "RIP-relative" and "no base" */
	REX = 0x40,
	REX_X = 2,
	REX_B = 1,
};

static bool take_prefixes(const struct ovm_insn *insn, const uint8_t *from, struct ovm_operand *out)
{
	unsigned i = 0, end = insn->modrm_off - 1u; /* of the opcode */
	if (i < end && (from[i] == 0x64 || from[i] == 0x65 || from[i] == 0x3e))
		out->prefix = from[i++];
	if (i < end && (from[i] & 0xf0) == REX)
		out->rex = from[i++];
	return i == end && from[i] == 0xff;
}

/* The register that memory is addressed by (hardware number), OVM_REG_NONE. */
static unsigned base_of(const struct ovm_operand *op)
{
	unsigned base = op->has_sib ? op->sib & 7 : op->modrm & 7;
	if (op->modrm >> 6 == 0 && base == RBP)
		return OVM_REG_NONE;
	return base | (op->rex & REX_B ? 8 : 0);
}

static unsigned index_of(const struct ovm_operand *op)
{
	unsigned index = (op->sib >> 3 & 7) | (op->rex & REX_X ? 8 : 0);
	return op->has_sib && index != RSP ? index : OVM_REG_NONE;
}

/* If the stack is addressed, is what is read certainly not below the caller's stack pointer? */
static bool is_above_stack(const struct ovm_operand *op)
{
	unsigned base = base_of(op);
	if (base != RSP && base != RBP)
		return true;
	return index_of(op) == OVM_REG_NONE && op->disp >= 0 && op->disp <= INT32_MAX - PUSHED;
}

static bool take_memory(const struct ovm_insn *insn, const uint8_t *from, struct ovm_operand *out)
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
	return is_above_stack(out);
}

bool ovm_operand_take(const struct ovm_image *image, const struct ovm_insn *insn,
		      struct ovm_operand *out)
{
	const uint8_t *from =
	    insn->kind == OVM_INSN_CALL_IND ? ovm_image_code(image, insn->va, insn->len) : NULL;
	*out = (struct ovm_operand){0};
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

void ovm_operand_push(struct ovm_operand *op)
{
	if (op->modrm >> 6 == 3 || op->is_rip || base_of(op) != RSP)
		return;
	op->modrm = (uint8_t)((op->modrm & 0x3f) | 0x80);
	op->disp += PUSHED;
	op->disp_len = 4;
}

bool ovm_operand_uses(const struct ovm_operand *op, unsigned reg)
{
	if (op->modrm >> 6 == 3)
		return ((op->modrm & 7u) | (op->rex & REX_B ? 8 : 0)) == reg;
	return !op->is_rip && (base_of(op) == reg || index_of(op) == reg);
}

uint32_t ovm_operand_len(const struct ovm_operand *op, bool has_rex)
{
	return !!op->prefix + has_rex + 2u + op->has_sib + op->disp_len;
}

/* --- writing
 * ----------------------------------------------------------------------------------------------------
 */

void ovm_pen_put(struct ovm_pen *pen, const void *bytes, uint32_t n)
{
	memcpy(pen->p, bytes, n);
	pen->p += n;
	pen->at = ovm_va_add(pen->at, n);
}

void ovm_pen_rip(struct ovm_pen *pen, ovm_va to, uint32_t n_behind)
{
	pen->reaches &= ovm_fixup_rel32(pen->p, ovm_va_add(pen->at, 4 + n_behind), to);
	pen->p += 4;
	pen->at = ovm_va_add(pen->at, 4);
}

void ovm_pen_operand(struct ovm_pen *pen, const struct ovm_operand *op, uint8_t rex, uint8_t opcode,
		     uint8_t reg, uint32_t n_behind)
{
	uint8_t bytes[16], *p = bytes;
	if (op->prefix)
		*p++ = op->prefix;
	if (rex)
		*p++ = (uint8_t)(REX | rex | (op->rex & (REX_X | REX_B)));
	else if (op->rex)
		*p++ = op->rex;
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
	ovm_pen_put(pen, bytes, (uint32_t)(p - bytes));
	if (op->is_rip)
		ovm_pen_rip(pen, op->target, n_behind);
}
