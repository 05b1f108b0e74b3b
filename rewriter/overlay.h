#ifndef OVM_OVERLAY_H
#define OVM_OVERLAY_H
/* The overlay: optimized copies of hot code, everything needed to install them, and nothing of how
 * (no ELF, no ptrace).
 *
 *   base ->  +--------------------+
 *            | hot code           |  copies, in layout order
 *            | cold code          |
 *            | jump tables        |  private copies, entries point into the copies or to the
 * original | lsda | eh_frame    |  unwind data of the copies | eh_frame_hdr       |  of the copies
 * only (the ELF writer merges it with the original's)
 *            +--------------------+
 *   map      overlay offset -> original address, one entry an instruction
 *   patches  5-byte jumps at original entries
 *
 * All addresses are link-time addresses of the one image; live, the overlay is mapped at bias +
 * base.
 */
#include "analyzer/layout.h"
#include "analyzer/probes.h"

enum {				   /* ovm_map_entry.flags */
       OVM_MAP_SYNTH = 1 << 0,	   /* a jump we made: state is "about to execute old" */
       OVM_MAP_CALL = 1 << 1,	   /* return address new+new_len corresponds to old+old_len */
       OVM_MAP_SYSCALL = 1 << 2,   /* the same for the PC after a system call */
       OVM_MAP_DUPLICATE = 1 << 3, /* a second copy: old -> new prefers the entry without this */
       OVM_MAP_PAD = 1 << 4,   /* alignment filler: with SYNTH nops that are run through, about to
				  execute old; else never executed */
       OVM_MAP_COUNT = 1 << 5, /* with SYNTH: `incq counter(%rip)`, about to execute old, before
				  which flags are dead */
       OVM_MAP_THUNK = 1 << 7, /* with PAD: all of a thunk that the copy of the indirect call old
				  leads through (value.h). Not a state of the original */
       OVM_MAP_GUARD = 1 << 8, /* with SYNTH: all of a comparison that decides an indirect call,
				* about to execute old (promote.h); with CALL: the direct call right
				* behind it. Nothing else leads there */
       OVM_MAP_EXIT = 1 << 6, /* with SYNTH and PAD: one 5-byte nop right behind a copied call (old:
			       * what the call returns to). When the overlay is retired a jump to
			       * old may be written over it */
};

struct ovm_map_entry {
	ovm_va old;   /* original instruction */
	uint32_t off; /* of its copy, from the overlay's base */
	uint8_t new_len, old_len;
	uint16_t flags;
};

/* What stands for an original instruction begins here: its copy, or the guard of the call that it
 * is. */
static inline bool ovm_map_is_start(const struct ovm_map_entry *entry)
{
	bool is_extra = entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD);
	return entry->flags & OVM_MAP_GUARD ? is_extra : !is_extra;
}

struct ovm_map {
	OVM_VEC(struct ovm_map_entry) v; /* ascending off */
	uint32_t *by_old; /* [v.n]: indices sorted by (old, flags, off), SYNTH and PAD ones last */
};

/* Entry for the instruction that covers overlay offset @off / that is the copy of @old; NULL if
 * none. */
const struct ovm_map_entry *ovm_map_new(const struct ovm_map *map, uint32_t off);
const struct ovm_map_entry *ovm_map_old(const struct ovm_map *map, ovm_va old);
void ovm_map_index(struct ovm_map *map); /* builds by_old */

struct ovm_patch { /* one write into original code */
	ovm_va at;
	uint8_t len; /* bytes written, 5 */
	uint8_t old_bytes[8];
	uint8_t new_bytes[8];
	uint32_t target; /* overlay offset it jumps to */
	uint32_t region;
};

struct ovm_table_copy {		/* what was claimed of a jump table, for the checker */
	ovm_va old_table, base; /* base K1: 0 for absolute tables */
	uint32_t new_off;	/* of entry 0 of the copy */
	uint32_t n_entries;
	uint8_t entry_size;
	ovm_va old_load, old_jump; /* the instructions that read and that jump */
};

enum ovm_section_kind {
	OVM_SECTION_HOT,
	OVM_SECTION_COLD,
	OVM_SECTION_TABLES,
	OVM_SECTION_LSDA,
	OVM_SECTION_EH_FRAME,
	OVM_SECTION_EH_FRAME_HDR,
	OVM_N_SECTIONS
};

struct ovm_section {
	uint32_t off, size; /* from the overlay's base; size 0: absent */
};

enum { /* an indirect call has so many counters: target, count, target, count, ..., count of all
	  other targets */
       OVM_SITE_TARGETS = 4,
       OVM_SITE_COUNTERS = 2 * OVM_SITE_TARGETS + 1,
};

struct ovm_site { /* an indirect call whose targets are counted (value.h) */
	ovm_va at;
	uint32_t counter; /* its first; targets are run-time addresses, 0: that place is free */
};

struct ovm_new_fde {	    /* one FDE of copied code */
	uint32_t off, size; /* code range in the overlay */
	uint32_t fde_off;   /* of the record in the overlay */
	uint32_t region;    /* source region; of thunks the first one's */
};

struct ovm_overlay {
	ovm_va base;
	uint8_t *bytes;
	uint32_t size;
	struct ovm_section sections[OVM_N_SECTIONS];
	struct ovm_map map;
	OVM_VEC(struct ovm_patch) patches; /* ascending at */
	OVM_VEC(struct ovm_table_copy) tables;
	OVM_VEC(struct ovm_new_fde) fdes; /* ascending off, disjoint, cover all code but padding */
	uint32_t n_regions, n_blocks, n_insns; /* copied */
	ovm_va counters;     /* instrumented copies: link-time address of counter 0, 8-byte aligned,
				outside [base, base + size); else 0 */
	uint32_t n_counters; /* of 8 bytes each, incremented without lock; those of probes first,
				then those of sites */
	OVM_VEC(struct ovm_site) sites;
};

/* How many of the counters are probes': numbers that only grow. */
static inline uint32_t ovm_overlay_n_probes(const struct ovm_overlay *overlay)
{
	return overlay->n_counters - OVM_SITE_COUNTERS * overlay->sites.n;
}

struct ovm_overlay_opts {
	ovm_va base;	 /* link-time address of byte 0; 64-byte aligned */
	bool no_patches; /* leave patches empty (tests) */
	const struct ovm_probes
	    *probes; /* NULL: plain copies; else instrumented ones, with EXIT nops behind calls */
	bool is_gauged;	 /* with probes: only counters of blocks, in copies that are plain otherwise
			  */
	ovm_va counters; /* with probes: where the counters will be, within 2 GiB of the code */
};

/* Emit, relax, fix up, copy tables, write unwind data, plan entry patches. Deterministic.
 * Returns 0, or OVM_REFUSED with *bad_cfg = a cfg that cannot be copied and *why: the caller drops
 * it and builds again. Caller frees with ovm_overlay_fini. */
int ovm_overlay_build(struct ovm_ctx *ctx, const struct ovm_program *program,
		      const struct ovm_layout *layout, const struct ovm_overlay_opts *opts,
		      struct ovm_overlay *out, uint32_t *bad_cfg, enum ovm_refusal *why);
void ovm_overlay_fini(struct ovm_overlay *overlay);
void ovm_overlay_dump(const struct ovm_program *program, const struct ovm_overlay *overlay,
		      struct ovm_decoder *dec, FILE *to);

#endif
