#ifndef OVM_JOIN_H
#define OVM_JOIN_H
/* Overlays that were built one after the other, each for the place behind the one before, become
 * one (join.c). */
#include "rewriter/overlay.h"

struct ovm_join {
	struct ovm_overlay overlay; /* what is joined so far; base is the caller's */
	struct ovm_buf bytes;	    /* its code and tables */
};

/* Where the next piece must be built for. */
ovm_va ovm_join_base(const struct ovm_join *join);

/* Append @piece, a plain overlay for ovm_join_base, of regions that no piece before has. Its
 * storage stays the caller's. */
void ovm_join_add(struct ovm_join *join, const struct ovm_overlay *piece);

/* Make one overlay of the pieces: map and patches in order, branches from one piece into another,
 * unwind data. It is to be checked as a whole. Returns 0 with *out, @join is empty then; or
 * OVM_REFUSED, with the reason counted at a region. */
int ovm_join_finish(struct ovm_ctx *ctx, struct ovm_image *image, struct ovm_regions *regions,
		    struct ovm_join *join, struct ovm_overlay *out);
void ovm_join_fini(struct ovm_join *join);

#endif
