#ifndef OVM_STALE_H
#define OVM_STALE_H
/* A profile of another build of the same program, made into one of this build. */
#include "analyzer/disasm.h"
#include "analyzer/region.h"
#include "profiler/profile.h"

struct ovm_stale_stats {
	char id[80];	    /* of the build the profile is of */
	uint32_t n_regions; /* with counts, and hot enough to have a hash or found by name */
	uint32_t n_same;    /* found, code unchanged */
	uint32_t n_changed; /* found, code changed */
	bool
	    has_samples; /* what counts and kept are sums of: samples, or else edges and branches */
	uint64_t counts, kept;
};

/* Find the code that @prof has counts of again in @image, of another build-id: the module whose
 * file has the same name, or a name that differs in its version only (of several, the one with most
 * counts), region by region and block by block. Counts of what is not found are left out.
 *
 * @out: a profile with the one module @image->id; caller frees with ovm_profile_free.
 * @regions: of @image; borrowed.
 *
 * Whatever @prof says, @out only has addresses inside regions of @image. Returns 0, or OVM_REFUSED:
 * @prof has no module of that name. Fails: OVM_E_MISMATCH, too little was found again (tunable
 * STALE_MIN_KEPT). */
int ovm_stale_match(struct ovm_ctx *ctx, struct ovm_decoder *dec, const struct ovm_image *image,
		    const struct ovm_regions *regions, const struct ovm_profile *prof,
		    struct ovm_profile **out, struct ovm_stale_stats *stats);

#endif
