#ifndef OVM_INSN_H
#define OVM_INSN_H
/* The instruction record that all later code uses: where the bytes are, where control goes, which fields hold
 * addresses, and enough meaning (registers, flags, simple operations) for slicing jump tables and for liveness.
 * Filled by disasm.c from the MC shim; the checker does not trust it and decodes again with Zydis (rule R8).
 */
#include "base/addr.h"

enum ovm_reg { /* hardware numbers */
	OVM_RAX, OVM_RCX, OVM_RDX, OVM_RBX, OVM_RSP, OVM_RBP, OVM_RSI, OVM_RDI,
	OVM_R8, OVM_R9, OVM_R10, OVM_R11, OVM_R12, OVM_R13, OVM_R14, OVM_R15,
	OVM_RIP,
	OVM_REG_NONE = 0xff,
};

/* uses and defs are bit sets: bit r for GPR r (any width; a partial write is also a use), and: */
enum {
	OVM_MASK_FLAGS = 1u << 16, /* the arithmetic flags */
	OVM_MASK_GPRS = 0xffff,
	OVM_MASK_ALL = 0x1ffff,
};

enum ovm_insn_kind {
	OVM_INSN_OTHER,
	OVM_INSN_JMP,      /* direct, target set */
	OVM_INSN_JCC,      /* direct conditional, target and cc set */
	OVM_INSN_JCXZ,     /* jrcxz, jecxz, loop, loope, loopne: rel8 only; target set */
	OVM_INSN_CALL,     /* direct, target set */
	OVM_INSN_JMP_IND,  /* through register or memory */
	OVM_INSN_CALL_IND,
	OVM_INSN_RET,
	OVM_INSN_SYSCALL,
	OVM_INSN_TRAP,     /* ud2, int3, hlt: control does not go on */
	OVM_INSN_NOP,      /* any length; not endbr64 */
	OVM_INSN_REFUSE,   /* must not be copied: xbegin, far transfers, iret, sysexit, ... */
};

enum ovm_insn_op { /* what it computes, where slicing and clean-ups care; sizes in dst_size/src_size */
	OVM_OP_OTHER,
	OVM_OP_MOV,    /* dst = src register, or imm, or memory (form tells) */
	OVM_OP_MOVSX,  /* sign-extending move, register or memory source (movslq included) */
	OVM_OP_MOVZX,
	OVM_OP_LEA,    /* dst = effective address; RIP-relative: address */
	OVM_OP_ADD, OVM_OP_SUB, OVM_OP_AND, OVM_OP_OR, OVM_OP_XOR,
	OVM_OP_CMP, OVM_OP_TEST,
	OVM_OP_SHL, OVM_OP_SHR, OVM_OP_SAR,
	OVM_OP_PUSH, OVM_OP_POP,
	OVM_OP_ENDBR,
};

enum ovm_insn_form { /* where the operands of op are */
	OVM_FORM_NONE,
	OVM_FORM_RR,  /* dst, src registers */
	OVM_FORM_RI,  /* dst register, imm */
	OVM_FORM_RM,  /* dst register, memory source */
	OVM_FORM_MR,  /* memory destination, src register */
	OVM_FORM_MI,  /* memory destination, imm */
	OVM_FORM_R,   /* one register (dst: read and/or written) */
	OVM_FORM_M,   /* one memory operand (jmp *mem, call *mem, push mem) */
};

enum { /* ovm_insn.flags */
	OVM_INSN_RIP_REL = 1 << 0,  /* memory operand is RIP-relative: address = target, disp32 at disp_off */
	OVM_INSN_GLUED = 1 << 1,    /* a prefix decoded with the next instruction (lock): here one record covers both; a branch may enter after the prefix */
	OVM_INSN_NOTRACK = 1 << 2,
	OVM_INSN_LOADS = 1 << 3,
	OVM_INSN_STORES = 1 << 4,
	OVM_INSN_OPAQUE = 1 << 5,   /* unmodelled side effects: uses and defs are ALL */
	OVM_INSN_HIGH_BYTE = 1 << 6,/* dst or src is ah, bh, ch or dh */
	OVM_INSN_ADDR32 = 1 << 7,   /* the memory operand's address is computed in 32 bits */
	OVM_INSN_MERGE = 1 << 8,    /* dst is written in 8 or 16 bits and not read: its bit in uses only stands for the bits that stay */
};

struct ovm_insn {
	ovm_va va;
	ovm_va target;    /* direct branch or call target; or absolute address of a RIP-relative operand; else 0 */
	int64_t imm;      /* immediate of op, sign-extended as the instruction does; 0 if none */
	int32_t disp;     /* displacement of the memory operand */
	uint32_t uses, defs;
	uint8_t len;      /* bytes, prefixes included; 1..15 */
	uint8_t kind;     /* enum ovm_insn_kind */
	uint8_t op;       /* enum ovm_insn_op */
	uint8_t form;     /* enum ovm_insn_form */
	uint8_t cc;       /* JCC: condition 0..15 as in the opcode (0x70 + cc); inverted by cc ^ 1 */
	uint8_t dst, src; /* enum ovm_reg; NONE if not a GPR; OP_OTHER: dst is the one GPR operand written, if there is just one */
	uint8_t dst_size, src_size; /* bytes; for loads src_size is the memory width */
	uint8_t base, index, scale; /* of the memory operand; NONE if absent; base RIP if RIP-relative */
	uint8_t segment;  /* 0 none, 'f', 'g' */
	uint8_t modrm_off;/* offset of ModRM in the instruction, 0 none */
	uint8_t disp_off, disp_len; /* offset and bytes of the displacement (memory or branch), 0 none */
	uint16_t flags;
};

/* True if control never falls through to the next instruction. Calls do fall through. */
static inline bool ovm_insn_is_end(const struct ovm_insn *insn)
{
	return insn->kind == OVM_INSN_JMP || insn->kind == OVM_INSN_JMP_IND || insn->kind == OVM_INSN_RET ||
	       insn->kind == OVM_INSN_TRAP;
}

static inline bool ovm_insn_has_mem(const struct ovm_insn *insn)
{
	return insn->form == OVM_FORM_RM || insn->form == OVM_FORM_MR || insn->form == OVM_FORM_MI ||
	       insn->form == OVM_FORM_M;
}

#endif
