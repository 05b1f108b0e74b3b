#ifndef OVM_RELAX_H
#define OVM_RELAX_H
/* Offsets of all pieces and the shortest branches that reach. */
#include "rewriter/emit.h"

/* Bytes of branch @k (0 or 1) of @piece as it stands; 0 if it has none. */
uint32_t ovm_branch_len(const struct ovm_piece *piece, unsigned k);

/* Bytes of a piece without its padding. */
uint32_t ovm_piece_len(const struct ovm_piece *piece);

/* Set off, pad and is_long of every piece, hot_size, cold_off and cold_size. OVM_REFUSED with @bad
 * if the code would be larger than a rel32 can span. */
int ovm_relax(struct ovm_emit_plan *plan, struct ovm_bad *bad);

#endif
