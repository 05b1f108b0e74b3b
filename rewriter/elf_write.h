#ifndef OVM_ELF_WRITE_H
#define OVM_ELF_WRITE_H
/* Sink 1: a new ELF file = the original bytes + entry patches + one new R+X segment with the
 * overlay (notes, section g: M2, M3).
 *
 * The note. An ELF note with owner "optvm" and type 1 stands 64 bytes into the new segment, so that
 * it is found with or without section headers (with them: .note.optvm). Its descriptor is struct
 * ovm_note. The undo list it points to is a sequence of
 *
 *   uleb128 gap      bytes of the original file since the end of the previous record
 *   uleb128 len      never 0; 0 ends the list
 *   len bytes        of the original file
 *
 * and covers every byte of the original that was changed: ELF header, program headers, build-id,
 * entry patches. Writing them back and cutting the file to original_size restores it byte by byte.
 * What is not loaded (section headers, names) is in the list too if it is short, as in stripped
 * files: then a file that strip or objcopy went over can still be undone.
 *
 * What was appended to the original comes last once more (elf_appended.c).
 *
 * The map (elf_map.c) says which copy is of what: for `verify`, and for profiles of the rewritten
 * program. It is in the segment too, though nobody reads it at run time: llvm-strip and eu-strip
 * throw away what is not loaded.
 */
#include "rewriter/overlay.h"

#define OVM_NOTE_OWNER "optvm"
enum { OVM_NOTE_TYPE = 1, OVM_NOTE_VERSION = 2 };
enum { OVM_NOTE_DEBUG = 1 << 0 }; /* has source lines for the copies */

struct ovm_note {	  /* little-endian, as laid out here */
	uint32_t version; /* OVM_NOTE_VERSION */
	uint16_t how;	  /* where the program header came from, for people */
	uint16_t flags;	  /* OVM_NOTE_DEBUG */
	uint64_t original_size;
	uint64_t overlay, overlay_size; /* link-time address, bytes */
	uint64_t undo, undo_size;
	uint32_t n_patches;
	uint32_t build_id_len;
	uint8_t build_id[64];	/* the original one */
	char tool[16];		/* version, zero padded */
	char profile_hash[64];	/* zero padded; empty: no profile */
	uint64_t map, map_size; /* link-time address, bytes */
	uint64_t map_hash;	/* all hashes: XXH3 */
	uint64_t overlay_hash;
	uint64_t original_hash[2]; /* of the whole original, low and high half */
	uint64_t check;		   /* of this note up to here */
};

/* Choose where the new segment goes; *base receives the link-time address the overlay must be built
 * for (64-byte aligned, room before it for what the writer moves). Fails: OVM_E_FORMAT (no program
 * header can be freed; an image dumped with its heap), OVM_E_MISMATCH (already processed). */
int ovm_elf_plan(struct ovm_ctx *ctx, const struct ovm_image *image, ovm_va *base);

struct ovm_elf_opts {
	bool force;		  /* overwrite an existing output */
	const char *profile_hash; /* for the note, may be NULL */
	bool debug;		  /* add source lines and functions of the copies to the DWARF */
	bool from_memory;	  /* image->path is not the input itself, only gives its mode: copy
				     image->bytes */
};

/* Why opts.debug adds nothing to a rewritten @image, NULL if it does. */
const char *ovm_elf_no_debug(struct ovm_ctx *ctx, const struct ovm_image *image);

/* Write @path: temporary in the same folder, fsync, rename; input's mode minus set-id bits; never
 * over the input.
 * @overlay was built for the planned base. Changes the build-id, merges .eh_frame_hdr, adds
 * sections and symbols when the input has section headers, adds .note.optvm with what is needed to
 * undo. Fails: OVM_E_IO, OVM_E_PERM, OVM_E_FORMAT, OVM_E_USAGE (output exists or is the input),
 * OVM_E_INTERNAL (overlay not made for this plan, patch of other bytes); nothing half-written
 * stays. */
int ovm_elf_write(struct ovm_ctx *ctx, const struct ovm_image *image,
		  const struct ovm_regions *regions, const struct ovm_overlay *overlay,
		  const struct ovm_elf_opts *opts, const char *path);

#endif
