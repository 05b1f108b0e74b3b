#ifndef OVM_OPCODE_H
#define OVM_OPCODE_H
/* What each MC opcode means to us, looked up by name once: operation, operand form, sizes, hidden
 * register effects. Private to disasm.c and opcode.c. */
#include "analyzer/insn.h"
#include "analyzer/mc_shim.h"

struct ovm_reg_info {  /* of an MC register number */
	uint8_t reg;   /* enum ovm_reg; NONE if not a GPR */
	uint8_t size;  /* bytes */
	bool is_high;  /* ah, bh, ch, dh */
	uint32_t mask; /* its OVM_MASK_* bit, 0 if not modelled */
};

enum {				  /* ovm_opcode_info.traits */
       OVM_TRAIT_PREFIX = 1 << 0, /* a pseudo instruction: a prefix, the instruction follows */
       OVM_TRAIT_OPAQUE = 1 << 1, /* effects nobody modelled */
       OVM_TRAIT_MEM = 1 << 2,	  /* has base, scale, index, displacement, segment at mem */
       OVM_TRAIT_LOADS = 1 << 3,
       OVM_TRAIT_STORES = 1 << 4,
       OVM_TRAIT_STRING = 1 << 5,    /* movs, stos, lods, scas, cmps: a REP prefix uses RCX */
       OVM_TRAIT_SHIFT_IMM = 1 << 6, /* by an immediate: zero leaves the flags */
       OVM_TRAIT_DEFS_USED =
	   1 << 7, /* may leave its result register unchanged, or reads it (bsf, cmpxchg) */
       OVM_TRAIT_SELF_ZERO =
	   1 << 8, /* of a register with itself does not read it (xor, sub, sbb) */
       OVM_TRAIT_IMPLICIT_DST = 1 << 9, /* "add $imm, %eax": the register is in no operand */
};

struct ovm_opcode_info {
	uint32_t uses, defs; /* implicit ones, corrected */
	uint16_t traits;
	uint16_t tied;		    /* operands that repeat a written one */
	uint8_t op, form;	    /* enum ovm_insn_op, ovm_insn_form */
	uint8_t dst_size, src_size; /* bytes, 0 if op is OTHER */
	uint8_t n_operands, n_defs;
	uint8_t mem; /* first memory operand, valid with TRAIT_MEM */
};

struct ovm_reg_info ovm_reg_info_of(const char *name);
void ovm_opcode_info_of(const struct ovm_mc *mc, const struct ovm_reg_info *regs, uint32_t opcode,
			struct ovm_opcode_info *out);

#endif
