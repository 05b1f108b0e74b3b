#ifndef OVM_DYNOSTATS_H
#define OVM_DYNOSTATS_H
/* What the counts of a profile say that a program executes: as it is, and with an overlay in place.
 * llvm-bolt's dyno-stats by the same names, and the lines and pages of code that takes. */
#include "rewriter/overlay.h"

enum ovm_dyno_row {
#define ROW(id, name) OVM_DYNO_##id,
#include "rewriter/dynostats.def"
	OVM_N_DYNO_ROWS
};

struct ovm_dynostats {
	uint64_t before[OVM_N_DYNO_ROWS], after[OVM_N_DYNO_ROWS]; /* sums saturate */
	uint64_t insns_exact; /* part of before[INSNS] whose counts are exact, not inferred */
	uint64_t entries;     /* part of after[UNCOND]: jumps from original entries into copies */
	uint64_t samples;     /* of the code that is counted */
	uint32_t n_regions, n_copied; /* that are counted; of these have copies */
};

/* Count @all before, and after with the copies of @overlay in place of their originals.
 *
 * @all:     every graph with a profile, also of regions that are left in place.
 * @program: what @overlay was made from with the blocks of @layout: part of the graphs of @all,
 * with the same counts.
 * @overlay: plain copies (no counters), patches included; NULL: nothing is copied, @program and
 *           @layout are not used.
 * All borrowed for the call. */
void ovm_dynostats(struct ovm_decoder *dec, const struct ovm_program *all,
		   const struct ovm_program *program, const struct ovm_layout *layout,
		   const struct ovm_overlay *overlay, struct ovm_dynostats *out);

const char *ovm_dyno_name(enum ovm_dyno_row row);

/* True if the row counts events and not the size of code. */
bool ovm_dyno_is_event(enum ovm_dyno_row row);

#endif
