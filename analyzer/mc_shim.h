#ifndef OVM_MC_SHIM_H
#define OVM_MC_SHIM_H
/* LLVM's MC layer behind flat C structs: the only door to LLVM, and nothing of LLVM in this header.
 *
 * The shim translates no meaning. It hands over what MC knows (length, opcode number, operands, the
 * static description of every opcode) and names; disasm.c and opcode.c turn names into our own
 * enums once, when the decoder is opened, because the numbers differ between LLVM versions and the
 * private headers that define them are not installed.
 */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ovm_mc;

enum { OVM_MC_MAX_OPERANDS = 12 };

enum ovm_mc_operand_kind { OVM_MC_OTHER, OVM_MC_REG, OVM_MC_IMM };

struct ovm_mc_insn {	 /* one decoded instruction */
	uint32_t opcode; /* below ovm_mc_n_opcodes */
	uint8_t len;
	uint8_t n_operands;
	uint8_t kind[OVM_MC_MAX_OPERANDS];  /* enum ovm_mc_operand_kind */
	int64_t value[OVM_MC_MAX_OPERANDS]; /* register number (0 none) or immediate */
};

enum { /* ovm_mc_desc.flags */
       OVM_MC_MAY_LOAD = 1 << 0,
       OVM_MC_MAY_STORE = 1 << 1,
       OVM_MC_SIDE_EFFECTS = 1 << 2, /* effects MC does not model */
};

struct ovm_mc_desc {	  /* what is the same for all instructions of an opcode */
	const char *name; /* "ADD64rr"; borrowed from the shim */
	uint8_t n_operands;
	uint8_t n_defs; /* the first n_defs operands are written */
	int8_t mem; /* first of base, scale, index, displacement, segment; -1 no memory operand */
	uint8_t flags;
	uint16_t tied; /* operands that are the same register as a written one */
};

/* NULL if LLVM has no X86 target. */
struct ovm_mc *ovm_mc_open(void);
void ovm_mc_close(struct ovm_mc *mc); /* accepts NULL */

uint32_t ovm_mc_n_opcodes(const struct ovm_mc *mc);
void ovm_mc_describe(const struct ovm_mc *mc, uint32_t opcode, struct ovm_mc_desc *out);
/* Registers read (@defs 0) or written (@defs 1) without being operands; at most @max into @out,
 * returns how many. */
uint32_t ovm_mc_implicit(const struct ovm_mc *mc, uint32_t opcode, int defs, uint16_t *out,
			 uint32_t max);

uint32_t ovm_mc_n_regs(const struct ovm_mc *mc);
const char *ovm_mc_reg_name(const struct ovm_mc *mc,
			    uint32_t reg); /* "EAX"; register 0 is "none" */

/* Decode at @bytes; returns the length, 0 if the bytes do not decode. Prefixes MC takes for
 * instructions of their own (LOCK, some data16) come back as 1-byte instructions named *_PREFIX. */
unsigned ovm_mc_decode(struct ovm_mc *mc, const uint8_t *bytes, size_t avail, uint64_t va,
		       struct ovm_mc_insn *out);

/* AT&T text without leading or double blanks; returns the length decoded, 0 and an empty text if
 * the bytes do not decode. */
unsigned ovm_mc_print(struct ovm_mc *mc, const uint8_t *bytes, size_t avail, uint64_t va, char *buf,
		      size_t size);

#ifdef __cplusplus
}
#endif

#endif
