#ifndef OVM_TAINT_H
#define OVM_TAINT_H
/* Who else uses a value that the copied code will compute differently? */
#include "analyzer/slice.h"

/* True if the register loaded at @load, handed on by the instructions @chain[n_chain], is read by
 * nothing but the indirect jump
 * @jump: neither on the way to it nor, where the jump's target is still in a register, behind it.
 */
bool ovm_taint_feeds_only(struct ovm_slicer *slicer, struct ovm_point load, const uint32_t *chain,
			  uint32_t n_chain, uint32_t jump);

/* True if register @reg, as it is at the indirect jump @jump, is read nowhere behind that, calls
 * and returns included. */
bool ovm_taint_is_dead_behind(struct ovm_slicer *slicer, struct ovm_point jump, uint8_t reg);

#endif
