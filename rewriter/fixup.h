#ifndef OVM_FIXUP_H
#define OVM_FIXUP_H
/* The few fields of a copied instruction that change (rule R3): branch displacements, RIP-relative
 * disp32, table displacements. */
#include "analyzer/insn.h"

/* Store target - next into the 4 bytes at @field. False, and nothing stored, if it does not fit. */
bool ovm_fixup_rel32(uint8_t *field, ovm_va next, ovm_va target);

/* Add @delta to the displacement of the memory operand of @insn, whose copy is @bytes (16 bytes of
 * room). A missing or 8-bit displacement becomes a 32-bit one: ModRM's mod turns 10, 4 bytes are
 * put in. Returns the new length, 0 if it cannot be done. */
unsigned ovm_fixup_table_load(const struct ovm_insn *insn, uint8_t *bytes, int64_t delta);

/* The length the above will return. */
unsigned ovm_fixup_table_load_len(const struct ovm_insn *insn);

/* The same for the load of a relocated table (tables.h), at @bytes in the original, with the lea
 * behind it: `mov disp(base,index,8),dst`, or `jmp *disp(base,index,8)`, which becomes a load into
 * the index, the lea and a jump. 32 bytes of room at @out. Returns the length, 0 if it cannot be
 * done. */
unsigned ovm_fixup_relocated(const struct ovm_insn *insn, const uint8_t *bytes, int64_t delta,
			     uint8_t *out);

/* The length the above will return. */
unsigned ovm_fixup_relocated_len(const struct ovm_insn *insn);

/* Write @n bytes of the fewest nops. */
void ovm_fixup_nops(uint8_t *bytes, uint32_t n);

#endif
