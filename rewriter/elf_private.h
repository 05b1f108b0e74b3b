#ifndef OVM_ELF_PRIVATE_H
#define OVM_ELF_PRIVATE_H
/* Shared by the elf_*.c only.
 *
 *   0    input bytes (with edits)     ehdr phdrs .. text .. shdrs, what was appended
 *   off  new segment, R+X             pad note moved OVERLAY eh_frame_hdr map undo
 *        not loaded                   symtab strtab shstrtab shdrs
 *        what was appended, again
 *
 * off: the next page of the file; va: the next page above the image.
 */
#include "rewriter/elf_write.h"

#include <elf.h>

enum { OVM_ELF_PAGE = 4096, OVM_ELF_PAD = 64, OVM_ELF_MAX_MOVES = 8, OVM_ELF_MAX_PIECES = 16 };

enum ovm_elf_how { /* where the program header of the new segment comes from, best first */
		   OVM_ELF_PT_NULL,  /* an unused one */
		   OVM_ELF_PROPERTY, /* PT_GNU_PROPERTY's: redundant, PT_NOTE says the same */
		   OVM_ELF_GROW, /* a new one: what follows the table is moved into the segment */
		   OVM_ELF_NOTE, /* a PT_NOTE's that does not hold the build-id */
		   OVM_ELF_BUILD_ID, /* the build-id's PT_NOTE; its bytes and section header stay */
		   OVM_ELF_GROW_DYNAMIC, /* as GROW, moving what .dynamic names, or into a gap */
		   OVM_ELF_PHDR,	 /* PT_PHDR of a program that is not moved */
};

enum { OVM_ELF_MAX_NEW = 2 }; /* PT_LOAD; PT_GNU_EH_FRAME for static programs that have none */

/* The headers of one file, copied out after bounds checks. */
struct ovm_elf_view {
	const uint8_t *bytes; /* borrowed */
	size_t size;
	Elf64_Ehdr ehdr;
	Elf64_Phdr *phdrs;
	uint32_t n_phdrs;
	Elf64_Shdr *shdrs; /* NULL if the file has no usable section headers */
	uint32_t n_shdrs;
};

struct ovm_elf_move { /* a piece that stood behind the program headers */
	uint64_t old_off, size, align;
	uint64_t new_off; /* in the new file */
	ovm_va old_va, new_va;
	uint64_t dyn_off; /* where .dynamic holds its address, file offset; 0: nowhere */
	bool in_segment;  /* false: it only slid inside the first page */
};

struct ovm_elf_plan {
	enum ovm_elf_how how;
	uint32_t victims[OVM_ELF_MAX_NEW]; /* program headers that are replaced */
	uint32_t n_victims, n_grow;	   /* and how many are added */
	bool adds_hdr;			   /* a PT_GNU_EH_FRAME is among the new ones */
	ovm_va va;			   /* of the new segment, page aligned */
	uint64_t off;			   /* in the new file, page aligned */
	uint32_t note_size;
	uint32_t overlay_off; /* from va; 64-byte aligned */
	uint64_t table_end;   /* GROW: end of the bytes behind e_phoff that are rewritten */
	struct ovm_elf_move moves[OVM_ELF_MAX_MOVES];
	uint32_t n_moves;
	bool debug; /* source lines for the copies; set by ovm_elf_compose */
};

int ovm_elf_view_init(struct ovm_ctx *ctx, const struct ovm_image *image,
		      struct ovm_elf_view *view);
void ovm_elf_view_fini(struct ovm_elf_view *view);
/* elf_appended.c: how many bytes at the end of the file nothing in it accounts for; 0 if they are
 * zero. */
uint64_t ovm_elf_appended(const struct ovm_elf_view *view);

int ovm_elf_plan_make(struct ovm_ctx *ctx, const struct ovm_image *image,
		      const struct ovm_elf_view *view, struct ovm_elf_plan *plan);

/* The bytes from e_phoff on as they must become (program headers, and for GROW what slid behind
 * them), appended to @out. */
void ovm_elf_new_phdrs(const struct ovm_elf_view *view, const struct ovm_elf_plan *plan,
		       uint64_t segment_size, ovm_va eh_frame_hdr, uint64_t eh_frame_hdr_size,
		       struct ovm_buf *out);

struct ovm_elf_edit { /* bytes of the input that change */
	uint64_t off;
	uint32_t len;
	size_t at; /* new bytes in edits.bytes */
};

struct ovm_elf_edits { /* ascending, disjoint */
	OVM_VEC(struct ovm_elf_edit) v;
	struct ovm_buf bytes;
};

/* What of the new segment stands before and after the overlay's own bytes. */
struct ovm_elf_segment {
	struct ovm_buf head, tail;
	ovm_va eh_frame_hdr; /* merged; 0 if the input has none */
	uint64_t eh_frame_hdr_size;
	ovm_va undo;
	uint64_t undo_size;
	ovm_va map;
	uint64_t map_size, map_hash;
	uint64_t size; /* head + overlay + tail */
};

/* elf_map.c: the map as a string of numbers, appended to @out. */
void ovm_elf_map_put(const struct ovm_overlay *overlay, struct ovm_buf *out);

/* Sections, map, patch sites and tables of @overlay from the @size bytes at @map; what is said of
 * the original is decoded from @image. False if they are not what ovm_elf_map_put writes. Patches
 * have `at` and `len` only. Caller frees with ovm_overlay_fini in any case. */
bool ovm_elf_map_read(const struct ovm_image *image, const uint8_t *map, uint64_t size,
		      struct ovm_overlay *overlay);

/* New build-id of the same length as the old one, from the old one and all that is added. */
void ovm_elf_new_build_id(const struct ovm_image *image, const struct ovm_overlay *overlay,
			  uint8_t *id);

uint32_t ovm_elf_note_size(void);

/* Merged .eh_frame_hdr into the tail. Sizes are final but for the undo list. */
void ovm_elf_segment_hdr(const struct ovm_image *image, const struct ovm_elf_plan *plan,
			 const struct ovm_regions *regions, const struct ovm_overlay *overlay,
			 struct ovm_elf_segment *segment);

/* The map into the tail. */
void ovm_elf_segment_map(const struct ovm_overlay *overlay, struct ovm_elf_segment *segment);

/* The undo list into the tail, then the head: padding, note, moved pieces. @new_id: bytes of the
 * changed build-id. */
void ovm_elf_segment_undo(const struct ovm_elf_view *view, const struct ovm_elf_edits *edits,
			  const struct ovm_overlay *overlay, struct ovm_elf_segment *segment);
void ovm_elf_segment_head(const struct ovm_image *image, const struct ovm_elf_view *view,
			  const struct ovm_elf_plan *plan, const struct ovm_overlay *overlay,
			  const char *profile_hash, const uint8_t *new_id,
			  struct ovm_elf_segment *segment);

struct ovm_elf_bytes { /* of a section as they were before it was compressed */
	const uint8_t *v;
	uint64_t n;
	uint64_t align;	      /* of the section, if it was compressed */
	struct ovm_buf owned; /* caller frees, also after a failure */
};

/* elf_expand.c. False if it is compressed in a way that is not known, or damaged. */
bool ovm_elf_section_bytes(const struct ovm_elf_view *view, const Elf64_Shdr *sh,
			   struct ovm_elf_bytes *out);

/* Most bytes of the original that are not loaded and that the undo list keeps all the same. */
enum { OVM_ELF_KEEP_MAX = 64 << 10 };

struct ovm_elf_table { /* the section table and the bytes behind the segment while they grow */
	Elf64_Shdr *v;
	uint32_t n;
	struct ovm_buf names;		   /* new .shstrtab */
	struct ovm_buf *out;		   /* what follows the segment */
	uint64_t at;			   /* file offset of its first byte */
	uint32_t moved[OVM_ELF_MAX_MOVES]; /* where what moved has its header; 0: where it had */
};

/* elf_sections.c: one more section header, to be filled in. Valid until the next. */
Elf64_Shdr *ovm_elf_table_add(struct ovm_elf_table *table, const char *name, uint32_t type,
			      uint64_t flags);

/* Align the output, return where it goes on; then make that section @sh. */
size_t ovm_elf_table_start(const struct ovm_elf_table *table, uint64_t align);
void ovm_elf_table_place(const struct ovm_elf_table *table, Elf64_Shdr *sh, size_t start);

/* The input's section @sh again, as @bytes has it: to be continued, not compressed any more. */
void ovm_elf_table_expand(const struct ovm_elf_table *table, Elf64_Shdr *sh,
			  const struct ovm_elf_bytes *bytes);

/* The move that took section @sh along, NULL if it stays. */
const struct ovm_elf_move *ovm_elf_move_of(const struct ovm_elf_plan *plan, const Elf64_Shdr *sh);

/* The input's PROGBITS section of this name in @shdrs (its own, or the new table's before the next
 * add), NULL if there is none. */
Elf64_Shdr *ovm_elf_section_named(const struct ovm_elf_view *view, Elf64_Shdr *shdrs,
				  const char *name);

/* elf_debug_line.c: DWARF units and line tables for the copies, from those of the input. Nothing if
 * something is missing; then the other says what, else NULL. */
void ovm_elf_debug_lines(const struct ovm_image *image, const struct ovm_elf_view *view,
			 const struct ovm_regions *regions, const struct ovm_overlay *overlay,
			 struct ovm_elf_table *table);
const char *ovm_elf_debug_lines_missing(const struct ovm_elf_view *view);

/* elf_symbols.c: .symtab and .strtab with names for the copies; @text: section index of their
 * code. */
void ovm_elf_symbols(const struct ovm_image *image, const struct ovm_elf_view *view,
		     const struct ovm_elf_plan *plan, const struct ovm_regions *regions,
		     const struct ovm_overlay *overlay, uint32_t text, struct ovm_elf_table *table);

/* Everything behind the segment: map, symbols, names, section headers. @at: file offset of the
 * first byte of @out. Sets the section fields of @ehdr. Leaves @out empty if the input has no
 * section headers. */
void ovm_elf_sections(const struct ovm_image *image, const struct ovm_elf_view *view,
		      const struct ovm_elf_plan *plan, const struct ovm_regions *regions,
		      const struct ovm_overlay *overlay, const struct ovm_elf_segment *segment,
		      uint64_t at, Elf64_Ehdr *ehdr, struct ovm_buf *out);

struct ovm_elf_output { /* a whole new file, but for what is copied from the input */
	const struct ovm_image *image;
	const struct ovm_overlay *overlay;
	struct ovm_elf_view view; /* of the input */
	struct ovm_elf_plan plan;
	struct ovm_elf_edits edits;
	struct ovm_elf_segment segment; /* at plan.off: head, overlay, tail */
	struct ovm_buf sections;	/* behind the segment */
	uint64_t appended;		/* so many bytes of the input's end come last again */
	Elf64_Ehdr ehdr;
	uint8_t id[sizeof(((struct ovm_image *)0)->build_id)];
	uint8_t *phdrs; /* scratch */
};

/* elf_write.c. Fails as ovm_elf_write, but for I/O. Caller frees with ovm_elf_output_fini in any
 * case. */
int ovm_elf_compose(struct ovm_ctx *ctx, const struct ovm_image *image,
		    const struct ovm_regions *regions, const struct ovm_overlay *overlay,
		    const struct ovm_elf_opts *opts, struct ovm_elf_output *out);
void ovm_elf_output_fini(struct ovm_elf_output *out);

/* elf_file.c: make the file @path whole or not at all, with the mode of @like but set-id bits.
 * @fill writes its content to @fd, @in is @like opened. Fails as ovm_elf_write. */
int ovm_elf_save(struct ovm_ctx *ctx, const char *like, const char *path, bool force,
		 int (*fill)(struct ovm_ctx *ctx, void *arg, int in, int fd), void *arg);

/* Write all of it at @off. False with errno. */
bool ovm_elf_put(int fd, const uint8_t *bytes, uint64_t len, uint64_t off);

#endif
