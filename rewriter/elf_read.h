#ifndef OVM_ELF_READ_H
#define OVM_ELF_READ_H
/* What a rewritten file says of itself: its note, the original it was made of, the overlay. */
#include "rewriter/elf_write.h"

/* The note of @image. Fails: OVM_E_MISMATCH, not written by optvm, or by another version;
 * OVM_E_FORMAT, the note is damaged. */
int ovm_elf_note(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_note *out);

/* The original file, byte by byte, into @fd, from its start, in the memory of a piece. Fails as
 * ovm_elf_note, OVM_E_IO, and OVM_E_MISMATCH if what was written then is not the original: another
 * tool changed the file since. */
int ovm_elf_undo(struct ovm_ctx *ctx, const struct ovm_image *image, int fd);

/* The same, written to the file @path, with the mode of @image's. Fails as ovm_elf_write, too. */
int ovm_elf_undo_to(struct ovm_ctx *ctx, struct ovm_image *image, bool force, const char *path);

/* The original as an image of its own; its path is @image's. For ovm_elf_write with from_memory.
 * Caller closes. */
int ovm_elf_open_original(struct ovm_ctx *ctx, const struct ovm_image *image,
			  struct ovm_image **out);

/* The overlay of the rewritten @image as it was before it was written, from the bytes, the map and
 * the unwind data in @image; what is a copy is decoded from @original. Nothing of it is proved.
 * Region numbers are those of @regions, of @original.
 *
 * Fails as ovm_elf_note; OVM_E_FORMAT, the map or a table cannot be read. The overlay's bytes are
 * borrowed from @image; caller frees the rest with ovm_elf_overlay_fini in any case. */
int ovm_elf_overlay(struct ovm_ctx *ctx, const struct ovm_image *image,
		    const struct ovm_image *original, const struct ovm_regions *regions,
		    struct ovm_overlay *out);
void ovm_elf_overlay_fini(struct ovm_overlay *overlay);

/* The name other files ask for: DT_SONAME; NULL if none. Borrowed. */
const char *ovm_elf_soname(const struct ovm_image *image);

/* Where a program or library looks for its libraries: DT_RUNPATH, else DT_RPATH; NULL if neither.
 * Borrowed. */
const char *ovm_elf_search_path(const struct ovm_image *image);

/* The program interpreter's path; NULL if none. Borrowed. */
const char *ovm_elf_interp(const struct ovm_image *image);

#endif
