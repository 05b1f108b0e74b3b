#ifndef OVM_OPERAND_H
#define OVM_OPERAND_H
/* The operand of an indirect call, and writing other instructions that read the same. */
#include "rewriter/overlay.h"

struct ovm_operand {	/* X of `call *X`, in parts */
	uint8_t prefix; /* a segment override or notrack, 0 none */
	uint8_t rex;	/* 0 none */
	uint8_t modrm, sib;
	uint8_t disp_len; /* as it will be written */
	int32_t disp;
	bool has_sib, is_rip;
	ovm_va target; /* is_rip */
};

enum { OVM_REX_W = 8, OVM_REX_R = 4 }; /* for ovm_pen_operand */

/* False: not an operand that can be read again when the word below the stack pointer has been
 * written, and the return address above it. */
bool ovm_operand_take(const struct ovm_image *image, const struct ovm_insn *insn,
		      struct ovm_operand *out);

/* As it is read when the return address is on the stack. */
void ovm_operand_push(struct ovm_operand *op);

/* Is register @reg (hardware number) the operand, or part of its address? */
bool ovm_operand_uses(const struct ovm_operand *op, unsigned reg);

/* Bytes of an instruction of one opcode byte with it, prefixes included. */
uint32_t ovm_operand_len(const struct ovm_operand *op, bool has_rex);

struct ovm_pen { /* writes instructions */
	uint8_t *p;
	ovm_va at;    /* where *p will be */
	bool reaches; /* so far every displacement did */
};

void ovm_pen_put(struct ovm_pen *pen, const void *bytes, uint32_t n);

/* disp32(%rip) of @to, @n_behind bytes before the end of the instruction; also a branch's rel32. */
void ovm_pen_rip(struct ovm_pen *pen, ovm_va to, uint32_t n_behind);

/* @opcode with /@reg and the operand. @rex: OVM_REX_W and OVM_REX_R to set, 0: the operand's own
 * prefix, if it has one. @n_behind: bytes of an immediate that the caller puts behind it. */
void ovm_pen_operand(struct ovm_pen *pen, const struct ovm_operand *op, uint8_t rex, uint8_t opcode,
		     uint8_t reg, uint32_t n_behind);

#endif
