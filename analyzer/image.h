#ifndef OVM_IMAGE_H
#define OVM_IMAGE_H
/* A read-only view of one ELF64 x86-64 file: what is mapped where, and what the file says about its code.
 *
 * Works from program headers and the dynamic section alone; section headers are a bonus (symbols). Every offset
 * in the file is checked before use: a hostile file gives OVM_E_FORMAT, never a crash. Everything is borrowed from the image.
 */
#include "base/addr.h"
#include "base/arena.h"
#include "base/err.h"
#include "base/vec.h"

struct ovm_segment { /* one PT_LOAD */
	ovm_va lo, hi;    /* memory range */
	ovm_off off;      /* of lo in the file */
	uint64_t filesz;  /* bytes backed by the file from lo; checked to lie in the file */
	uint32_t flags;   /* PF_R | PF_W | PF_X */
};

struct ovm_symbol {
	ovm_va va;
	uint64_t size;
	const char *name;
	uint8_t type, bind; /* STT_*, STB_* */
	bool dynamic;       /* from .dynsym */
};

struct ovm_reloc { /* a dynamic relocation (RELA, JMPREL, RELR expanded) */
	ovm_va at;
	uint32_t type;      /* R_X86_64_* */
	int64_t addend;     /* for RELR: the word in the file */
	const char *symbol; /* NULL if none */
};

struct ovm_plt {
	ovm_va stub; /* first byte of the PLT entry */
	ovm_va slot; /* its GOT slot */
	const char *symbol;
};

enum ovm_image_runtime { /* runtimes that look frames up by return address (rule R14), as a bit set */
	OVM_RUNTIME_GO = 1 << 0,
	OVM_RUNTIME_OCAML = 1 << 1,
	OVM_RUNTIME_STATEPOINTS = 1 << 2, /* .llvm_stackmaps */
	OVM_RUNTIME_GRAAL = 1 << 3,
	OVM_RUNTIME_DOTNET = 1 << 4,
	OVM_RUNTIME_GHC = 1 << 5,
	OVM_RUNTIME_JVM = 1 << 6, /* libjvm: looks up rip in signal frames */
};

struct ovm_image {
	char *path;
	const uint8_t *bytes; /* the whole file, mapped read-only, private */
	size_t size;
	bool is_mapped;         /* bytes is our mapping, unmapped by close */
	char id[80];            /* the profile's key: build-id hex, or "xxh3-..." of the content */
	uint8_t build_id[64];
	uint32_t build_id_len;  /* 0 if none */
	ovm_off build_id_off;   /* of the descriptor in the file, 0 if none */
	bool is_dyn;            /* ET_DYN: PIE or shared library, addresses get a bias */
	bool is_static;         /* no PT_DYNAMIC, or static PIE */
	bool has_interp;        /* PT_INTERP */
	bool bind_now;
	bool is_processed;      /* carries .note.optvm: already rewritten */
	uint32_t runtimes;      /* enum ovm_image_runtime bits */
	ovm_va entry;
	ovm_va init, fini;      /* DT_INIT, DT_FINI; 0 if none */
	ovm_va lo, hi;          /* span of all PT_LOADs */
	ovm_va relro_lo, relro_hi;
	ovm_va eh_frame_hdr, eh_frame; /* 0 if none */
	uint64_t eh_frame_hdr_size, eh_frame_size; /* size of eh_frame: to the end of its segment if unknown */
	ovm_va rseq_cs, rseq_ptrs; /* sections __rseq_cs, __rseq_cs_ptr_array; 0 if none */
	uint64_t rseq_cs_size, rseq_ptrs_size;
	OVM_VEC(struct ovm_segment) segments; /* ascending lo */
	OVM_VEC(struct ovm_symbol) symbols;   /* sorted by va; functions and objects of .symtab and .dynsym */
	OVM_VEC(struct ovm_reloc) relocs;     /* sorted by at */
	OVM_VEC(struct ovm_plt) plts;         /* sorted by stub */
	OVM_VEC(ovm_va) probes;               /* .note.stapsdt addresses, sorted */
	struct ovm_arena arena;
};

/* Open @path. Fails: OVM_E_IO, OVM_E_PERM, OVM_E_FORMAT (message says what is wrong with the file). */
int ovm_image_open(struct ovm_ctx *ctx, const char *path, struct ovm_image **out);
void ovm_image_close(struct ovm_image *image); /* accepts NULL */

/* The file's bytes at @bytes[len] have been looked at in passing: their memory is given back, and filled from the file
 * again when somebody reads them. What is not whole pages of the mapped file stays. */
void ovm_image_release(const struct ovm_image *image, const uint8_t *bytes, uint64_t len);

/* XXH3 of the whole file into @hash, low word first, in the memory of a piece of it. */
void ovm_image_hash(const struct ovm_image *image, uint64_t hash[2]);

/* Whether read-only memory holds the words @text. Searched in the memory of a piece. */
bool ovm_image_mentions(const struct ovm_image *image, const char *text);

/* File bytes at @va if [va, va+len) lies in the file-backed part of one segment, else NULL. */
const uint8_t *ovm_image_at(const struct ovm_image *image, ovm_va va, uint64_t len);

/* As ovm_image_at, and the segment must be executable / must not be writable at run time (R, RX or inside RELRO). */
const uint8_t *ovm_image_code(const struct ovm_image *image, ovm_va va, uint64_t len);
const uint8_t *ovm_image_readonly(const struct ovm_image *image, ovm_va va, uint64_t len);

const struct ovm_segment *ovm_image_segment(const struct ovm_image *image, ovm_va va); /* NULL if none */
bool ovm_image_va_to_off(const struct ovm_image *image, ovm_va va, ovm_off *out);

/* The symbol that covers @va (functions first, then longest name-independent order: global, weak, local); NULL if none. */
const struct ovm_symbol *ovm_image_symbol(const struct ovm_image *image, ovm_va va);
const struct ovm_plt *ovm_image_plt(const struct ovm_image *image, ovm_va stub); /* exact stub address */
const char *ovm_image_slot_symbol(const struct ovm_image *image, ovm_va slot);   /* of a GOT slot, NULL if none */
const struct ovm_reloc *ovm_image_reloc(const struct ovm_image *image, ovm_va at); /* exact, NULL if none */

/* The 8 bytes at @at hold an address of the image when it runs, @to: a RELATIVE relocation says so. */
bool ovm_image_relative(const struct ovm_image *image, ovm_va at, ovm_va *to);

#endif
