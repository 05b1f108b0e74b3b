#ifndef OVM_ELF_DEBUG_H
#define OVM_ELF_DEBUG_H
/* Shared by elf_debug_line.c and elf_debug_rows.c only. */
#include "analyzer/dwarf.h"
#include "rewriter/elf_private.h"

struct ovm_debug_run {	     /* of copied code: one FDE */
	ovm_va lo;	     /* of its region */
	uint32_t fde;	     /* index */
	uint32_t first, end; /* in the overlay: from the first copied instruction (jumps and fillers
				may stand before it) to the FDE's end */
	bool is_claimed;     /* by the unit that has lines of it */
};

struct ovm_debug_func { /* a run with its name */
	const char *name;
	uint32_t len;	 /* of the name without ".cold" */
	uint64_t symbol; /* its address */
	bool is_cold;
	uint32_t lo, hi; /* in the overlay */
};

enum ovm_debug_section {
	OVM_DEBUG_INFO,
	OVM_DEBUG_ABBREV,
	OVM_DEBUG_LINE,
	OVM_DEBUG_ARANGES,
	OVM_DEBUG_RNGLISTS,
	OVM_DEBUG_RANGES,
	OVM_N_DEBUG
};

struct ovm_debug_shape { /* which forms a unit's attributes have */
	uint16_t producer, language, name, comp_dir, str_offsets_base;
};

struct ovm_debug {
	const struct ovm_image *image;
	const struct ovm_overlay *overlay;
	const struct ovm_regions *regions;
	struct ovm_dwarf dwarf;
	uint64_t old_size[OVM_N_DEBUG];
	struct ovm_buf out[OVM_N_DEBUG];    /* what is added */
	OVM_VEC(struct ovm_debug_run) runs; /* ascending lo, then off */
	OVM_VEC(struct ovm_debug_shape) shapes;
	/* of the unit at work: */
	ovm_line_rows rows;
	OVM_VEC(uint32_t) claimed; /* indices of runs */
	OVM_VEC(struct ovm_debug_func) funcs;
};

/* Where what is appended to out[@s] will be in its section. */
uint64_t ovm_debug_position(const struct ovm_debug *w, enum ovm_debug_section s);

/* elf_debug_rows.c. Fill w->runs. */
void ovm_debug_list_runs(struct ovm_debug *w);

/* Those runs that the unit whose rows are read has lines of and nobody claimed, into w->claimed. */
void ovm_debug_claim_runs(struct ovm_debug *w);

/* The line table of the claimed runs, with the header of @program. Returns its offset in
 * .debug_line. */
uint64_t ovm_debug_put_lines(struct ovm_debug *w, const struct ovm_line_program *program);

#endif
