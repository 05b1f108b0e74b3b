#ifndef OVM_ZYDIS_INSN_H
#define OVM_ZYDIS_INSN_H
/* What Zydis' full tables say of an instruction, in the words of analyzer/insn.h. Written without
 * looking at the checker, which has its own. */
#include "analyzer/insn.h"

#include <Zydis/Zydis.h>

/* OVM_INSN_OTHER: nothing that changes control. */
static inline unsigned zydis_kind(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	bool is_imm = z->operand_count && ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
		return z->opcode >= 0xe0 && z->opcode <= 0xe3 &&
			       z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT
			   ? OVM_INSN_JCXZ
			   : OVM_INSN_JCC;
	case ZYDIS_CATEGORY_UNCOND_BR:
		return is_imm ? OVM_INSN_JMP : OVM_INSN_JMP_IND;
	case ZYDIS_CATEGORY_CALL:
		return is_imm ? OVM_INSN_CALL : OVM_INSN_CALL_IND;
	case ZYDIS_CATEGORY_RET:
		return OVM_INSN_RET;
	case ZYDIS_CATEGORY_SYSCALL:
		return OVM_INSN_SYSCALL;
	default:
		return OVM_INSN_OTHER;
	}
}

/* @ours is @kind, which zydis_kind gave? */
static inline bool zydis_same_kind(unsigned ours, unsigned kind)
{
	return kind != OVM_INSN_OTHER ? kind == ours : ours < OVM_INSN_JMP || ours > OVM_INSN_RET;
}

/* The displacement: of the memory operand, or of a relative branch. Both 0 if there is none. */
static inline void zydis_disp(const ZydisDecodedInstruction *z, unsigned *off, unsigned *len)
{
	*off = z->raw.disp.size ? z->raw.disp.offset : 0;
	*len = z->raw.disp.size / 8;
	for (int i = 0; i < 2; i++)
		if (z->raw.imm[i].is_relative)
			*off = z->raw.imm[i].offset, *len = z->raw.imm[i].size / 8;
}

/* Where a direct branch goes, or what a RIP-relative operand is at. False if it is neither. */
static inline bool zydis_target(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
				uint64_t va, ZyanU64 *target)
{
	for (unsigned i = 0; i < z->operand_count_visible; i++) {
		bool is_rip = ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			      ops[i].mem.base == ZYDIS_REGISTER_RIP;
		bool is_branch =
		    ops[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[i].imm.is_relative;
		if ((is_rip || is_branch) &&
		    ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(z, &ops[i], va, target)))
			return true;
	}
	return false;
}

#endif
