#ifndef OVM_ELF_WRITE_H
#define OVM_ELF_WRITE_H
/* Sink 1: a new ELF file = the original bytes + entry patches + one new R+X segment with the overlay (notes, section g: M2, M3). */
#include "rewriter/overlay.h"

/* Choose where the new segment goes; *base receives the link-time address the overlay must be built for (64-byte aligned, room before
 * it for what the writer moves). Fails: OVM_E_FORMAT (no program header can be freed), OVM_E_MISMATCH (already processed). */
int ovm_elf_plan(struct ovm_ctx *ctx, const struct ovm_image *image, ovm_va *base);

struct ovm_elf_opts {
	bool force;                /* overwrite an existing output */
	const char *profile_hash;  /* for the note, may be NULL */
};

/* Write @path: temporary in the same folder, fsync, rename; input's mode minus set-id bits; never over the input.
 * @overlay was built for the planned base. Changes the build-id, merges .eh_frame_hdr, adds sections and symbols when the input has
 * section headers, adds .note.optvm with what is needed to undo. Fails: OVM_E_IO, OVM_E_PERM, OVM_E_FORMAT; nothing half-written stays. */
int ovm_elf_write(struct ovm_ctx *ctx, const struct ovm_image *image, const struct ovm_regions *regions,
		  const struct ovm_overlay *overlay, const struct ovm_elf_opts *opts, const char *path);

#endif
