#ifndef OVM_LSDA_WRITE_H
#define OVM_LSDA_WRITE_H
/* One exception table for one FDE of copied code. Landing pads stay in the original, where a
 * handler resumes with the same state. */
#include "analyzer/cfi.h"

typedef OVM_VEC(struct ovm_callsite)
    ovm_callsites; /* lo and hi count from the output FDE's start */

/* True if @lsda can be written elsewhere: its type entries have a fixed size and, in a
 * position-independent image (@is_dyn), are pc-relative (others would need relocations). */
bool ovm_lsda_can_move(const struct ovm_lsda *lsda, bool is_dyn);

/* Append the record at link-time address @base + out->n, for the FDE that starts at @code: @sites
 * (ascending, disjoint; landing pads as @lsda counts them) with the action and type tables of
 * @lsda. False if a relative value does not reach; @out is then garbage. */
bool ovm_lsda_write(struct ovm_buf *out, ovm_va base, ovm_va code, const struct ovm_lsda *lsda,
		    const ovm_callsites *sites);

#endif
