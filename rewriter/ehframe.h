#ifndef OVM_EHFRAME_H
#define OVM_EHFRAME_H
/* CFI and LSDA for copied code (rule R15). Rows, not programs: at each copied instruction whose row differs from its
 * predecessor's the shortest difference is written. LSDA: LPStart is a pc-relative pointer to the ORIGINAL landing-pad base and
 * landing-pad offsets stay, so handlers resume in original code. */
#include "rewriter/overlay.h"

/* Append LSDA, .eh_frame and .eh_frame_hdr for all code of @overlay (map and code bytes final) to @bytes, whose current end is overlay
 * offset bytes->n; fills overlay->fdes and the three sections. Returns 0, or OVM_REFUSED with *bad_region and *why (CFI or LSDA). */
int ovm_ehframe_emit(struct ovm_ctx *ctx, const struct ovm_program *program, struct ovm_overlay *overlay, struct ovm_buf *bytes,
		     uint32_t *bad_region, enum ovm_refusal *why);

/* One .eh_frame_hdr at link-time address @hdr_va over @n (code, fde) address pairs sorted by code; appended to @out. Used for the
 * overlay's own header and for the merged one of a new ELF. @eh_frame: value of the eh_frame_ptr field. */
struct ovm_hdr_entry {
	ovm_va code, fde;
};
void ovm_ehframe_hdr(struct ovm_buf *out, ovm_va hdr_va, ovm_va eh_frame, const struct ovm_hdr_entry *entries, uint32_t n);

#endif
