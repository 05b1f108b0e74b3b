/* Bytes are copied, never re-encoded: alignment, prefixes and alternative encodings of the compiler
 * survive. What must change is a displacement, and only for loads from a jump table may an
 * instruction grow:
 *
 *   48 63 04 82        movslq (%rdx,%rax,4), %rax      mod = 00, no displacement
 *   48 63 84 82 D32    movslq D32(%rdx,%rax,4), %rax   mod = 10
 */
#include "rewriter/fixup.h"
#include "base/err.h"
#include "base/vec.h"

#include <string.h>

bool ovm_fixup_rel32(uint8_t *field, ovm_va next, ovm_va target)
{
	int64_t d = (int64_t)(target.v - next.v);
	if (d != (int32_t)d)
		return false;
	ovm_put32(field, (uint32_t)d);
	return true;
}

/* Offset of the displacement, present or not; 0 if there is no memory operand that can take one. */
static unsigned disp_place(const struct ovm_insn *insn, const uint8_t *bytes)
{
	if (!insn->modrm_off || insn->modrm_off >= insn->len || (insn->flags & OVM_INSN_RIP_REL))
		return 0;
	unsigned modrm = bytes[insn->modrm_off];
	if (modrm >> 6 == 3)
		return 0;
	unsigned at = insn->modrm_off + 1u + ((modrm & 7) == 4);
	return insn->disp_len && insn->disp_off != at ? 0 : at;
}

unsigned ovm_fixup_table_load_len(const struct ovm_insn *insn)
{
	return insn->len + 4u - (insn->disp_len < 4 ? insn->disp_len : 4u);
}

unsigned ovm_fixup_table_load(const struct ovm_insn *insn, uint8_t *bytes, int64_t delta)
{
	unsigned at = disp_place(insn, bytes);
	unsigned len = ovm_fixup_table_load_len(insn);
	int64_t disp;
	if (!at || len > 15 || __builtin_add_overflow((int64_t)insn->disp, delta, &disp) ||
	    disp != (int32_t)disp)
		return 0;
	if (insn->base == OVM_REG_NONE && disp < 0)
		return 0; /* an absolute address: must stay in the lower 2 GiB */
	if (insn->disp_len < 4) {
		memmove(bytes + at + 4, bytes + at + insn->disp_len,
			insn->len - at - insn->disp_len);
		bytes[insn->modrm_off] = (uint8_t)((bytes[insn->modrm_off] & 0x3f) | 0x80);
	}
	ovm_put32(bytes + at, (uint32_t)disp);
	return len;
}

enum { LOAD_LEN = 8, LEA_LEN = 4 /* and a displacement */, SIB_8 = 3 << 6 };

static bool is_jump(const struct ovm_insn *insn)
{
	return insn->kind == OVM_INSN_JMP_IND;
}

/* REX.W @opcode ModRM SIB for dst, (base, index): no displacement yet. */
static void put_head(uint8_t *out, uint8_t opcode, unsigned mod, unsigned dst, unsigned base,
		     unsigned index)
{
	out[0] = (uint8_t)(0x48 | (dst >> 3) << 2 | (index >> 3) << 1 | base >> 3);
	out[1] = opcode;
	out[2] = (uint8_t)(mod << 6 | (dst & 7) << 3 | 4);
	out[3] = (uint8_t)((index & 7) << 3 | (base & 7));
}

unsigned ovm_fixup_relocated_len(const struct ovm_insn *insn)
{
	bool is_notrack = insn->flags & OVM_INSN_NOTRACK;
	unsigned jump = is_jump(insn) ? 2u + (insn->index >= OVM_R8) + is_notrack : 0;
	return LOAD_LEN + LEA_LEN + insn->disp_len + jump;
}

unsigned ovm_fixup_relocated(const struct ovm_insn *insn, const uint8_t *bytes, int64_t delta,
			     uint8_t *out)
{
	unsigned reg = is_jump(insn) ? insn->index : insn->dst, n = LOAD_LEN;
	int64_t disp;
	OVM_ASSERT(insn->base < OVM_RIP && insn->base != reg && reg < OVM_RIP && reg != OVM_RSP);
	if (__builtin_add_overflow((int64_t)insn->disp, delta, &disp) || disp != (int32_t)disp)
		return 0;
	put_head(out, 0x8b, 2, reg, insn->base, insn->index);
	out[3] |= SIB_8;
	ovm_put32(out + LEA_LEN, (uint32_t)disp);
	put_head(out + n, 0x8d, bytes[insn->modrm_off] >> 6, reg, insn->base, reg);
	n += LEA_LEN;
	memcpy(out + n, bytes + insn->modrm_off + 2, insn->disp_len);
	n += insn->disp_len;
	if (!is_jump(insn))
		return n;
	if (insn->flags & OVM_INSN_NOTRACK)
		out[n++] = 0x3e;
	if (reg >= OVM_R8)
		out[n++] = 0x41;
	out[n++] = 0xff;
	out[n++] = (uint8_t)(0xe0 | (reg & 7));
	return n;
}

void ovm_fixup_nops(uint8_t *bytes, uint32_t n)
{
	static const uint8_t nops[9][9] = {
	    {0x90},						    /* nop */
	    {0x66, 0x90},					    /* xchg %ax,%ax */
	    {0x0f, 0x1f, 0x00},					    /* nopl (%rax) */
	    {0x0f, 0x1f, 0x40, 0x00},				    /* nopl 0(%rax) */
	    {0x0f, 0x1f, 0x44, 0x00, 0x00},			    /* nopl 0(%rax,%rax,1) */
	    {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},		    /* nopw 0(%rax,%rax,1) */
	    {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},		    /* nopl 0L(%rax) */
	    {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},	    /* nopl 0L(%rax,%rax,1) */
	    {0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00}, /* nopw 0L(%rax,%rax,1) */
	};
	while (n) {
		uint32_t k = n < 9 ? n : 9;
		memcpy(bytes, nops[k - 1], k);
		bytes += k;
		n -= k;
	}
}
