#ifndef OVM_DRAFT_H
#define OVM_DRAFT_H
/* Graphs that are built beside each other and taken one after the other (draft.c). */
#include "analyzer/cfg.h"

struct ovm_draft_refusal {
	uint32_t region;
	enum ovm_refusal why;
};
typedef OVM_VEC(struct ovm_draft_refusal) ovm_draft_refusals;
typedef OVM_VEC(uint32_t) ovm_draft_regions;

struct ovm_draft {
	uint32_t head;
	struct ovm_cfg *cfg;		/* owned until taken; NULL: head is among the refused */
	ovm_draft_refusals refused;	/* to be marked when the draft is taken */
	ovm_draft_regions assumed_free; /* were not refused: the head, and what was pulled in */
};

struct ovm_drafters; /* what the threads build with: decoders, unwind rows, scratch */

/* @dec is used by the calling thread; the others open their own. Everything is borrowed until
 * ovm_drafters_free. */
struct ovm_drafters *ovm_drafters_new(struct ovm_decoder *dec, const struct ovm_image *image,
				      const struct ovm_regions *regions);
void ovm_drafters_free(struct ovm_drafters *drafters); /* accepts NULL */

/* Draft the graph of each of @heads[n], which are not refused, as if it were the only one. Changes
 * no region. Returns n drafts; caller frees with free(), after ovm_draft_take or ovm_draft_fini of
 * each. */
struct ovm_draft *ovm_drafts_build(struct ovm_drafters *drafters, const uint32_t *heads,
				   uint32_t n);

/* What ovm_cfg_build would give now: marks what the draft refused, and builds anew if a region was
 * refused since that it took for free. Returns 0 with *out, or OVM_REFUSED; @draft is empty then.
 */
int ovm_draft_take(struct ovm_ctx *ctx, struct ovm_drafters *drafters, struct ovm_regions *regions,
		   struct ovm_draft *draft, struct ovm_cfg **out);
void ovm_draft_fini(struct ovm_draft *draft);

#endif
