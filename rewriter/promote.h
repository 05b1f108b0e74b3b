#ifndef OVM_REWRITER_PROMOTE_H
#define OVM_REWRITER_PROMOTE_H
/* Promoted calls: a comparison and a direct call in place of an indirect one. */
#include "rewriter/emit.h"

enum { OVM_PROMOTE_CALL_LEN = 5, OVM_PROMOTE_BACK_LEN = 5 }; /* e8 rel32, e9 rel32 */

/* @layout with a slot for the slow way of each of its promotions whose operand can be compared; the
 * other promotions are left out. Slow ways that are taken stand behind the hot blocks of their
 * group, the others in the cold part. Caller frees with ovm_layout_fini. */
void ovm_promote_layout(const struct ovm_program *program, const struct ovm_layout *layout,
			struct ovm_layout *out);

/* The promoted calls into plan->promoted. Slots must be known. */
void ovm_promote_plan(struct ovm_emit_plan *plan);

/* The call at @insn of @cfg is promoted: its index in plan->promoted, else OVM_NONE. */
uint32_t ovm_promote_index(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t insn);

/* Bytes of the guard before the direct call of @insn. */
uint32_t ovm_promote_guard_len(const struct ovm_image *image, const struct ovm_insn *insn);

/* Write the guard of plan->promoted.v[@idx] at @bytes, which stand at @base + @off. False if it
 * does not reach. */
bool ovm_promote_write_guard(const struct ovm_emit_plan *plan, uint32_t idx, ovm_va base,
			     uint32_t off, uint8_t *bytes);

#endif
