#ifndef OVM_VALUE_H
#define OVM_VALUE_H
/* Where indirect calls go: in an instrumented copy each such call leads through a thunk of its own
 * that remembers the first few targets and counts them. */
#include "rewriter/emit.h"

enum { OVM_VALUE_CALL_LEN = 5 }; /* e8 rel32: call thunk */

/* Append a slot for the thunk of each indirect call in the copied blocks of @layout whose operand a
 * thunk can repeat and whose target is not known anyway (a named slot of the GOT). */
void ovm_value_layout(const struct ovm_program *program, const struct ovm_layout *layout,
		      struct ovm_layout *out);

/* The thunks among the slots into plan->sites; their counters follow those of the probes. */
void ovm_value_plan(struct ovm_emit_plan *plan);

/* The call at @insn of @cfg is a site: the slot of its thunk, else OVM_NONE. */
uint32_t ovm_value_slot(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t insn);

/* Bytes of the thunk of the site @insn. */
uint32_t ovm_value_len(const struct ovm_image *image, const struct ovm_insn *insn);

/* Write the thunk in @slot at @bytes, which stand at @at. False if it does not reach. */
bool ovm_value_write(const struct ovm_emit_plan *plan, uint32_t slot, ovm_va at, uint8_t *bytes);

#endif
