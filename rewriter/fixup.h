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

/* Write @n bytes of the fewest nops. */
void ovm_fixup_nops(uint8_t *bytes, uint32_t n);

#endif
