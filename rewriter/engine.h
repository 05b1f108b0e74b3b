#ifndef OVM_ENGINE_H
#define OVM_ENGINE_H
/* The one engine behind `rewrite`, `run` and `attach`: image + profile -> checked overlay. What the checker refuses is dropped
 * and the rest built again, so the result is always proved or empty. */
#include "analyzer/callcount.h"
#include "rewriter/overlay.h"

struct ovm_engine_opts {
	double share;                   /* of the samples to cover, 0 < share <= 1 */
	bool uniform;                   /* every region, no profile (tests) */
	uint64_t piece;                 /* bytes; 0, or: with uniform and no module, go through code of more than four of these in pieces,
	                                   each with no memory of the others. Of the result only regions, overlay and stats are there */
	bool is_live;
	const bool *skip_region;        /* [regions.n] or NULL: refused beforehand (live: unhooked unwinder, changed bytes) */
	struct ovm_layout_opts layout;
	ovm_va base;                    /* where the overlay will be */
	bool is_counting;               /* an instrumented overlay: original block order, all blocks */
	bool no_callees;                /* is_counting: only regions with samples, not what they call */
	const ovm_va *gauges;           /* [n_gauges] ascending starts of regions whose entries are counted, in copies that are plain otherwise */
	uint32_t n_gauges;
	bool gauged_only;               /* ovm_engine_again: only what has a gauge is left, and weighed as it was */
	ovm_va counters;                /* with either: where the counters will be */
	uint64_t counters_room;         /* bytes there */
};

struct ovm_engine_stats {
	uint64_t samples_left; /* in regions that are better left where they are (worth.h) */
	uint64_t samples, samples_in_regions, samples_covered; /* of the module; in any FDE region but PLT stubs, which copies bypass; in copied regions */
	uint32_t n_selected, n_copied;                         /* regions */
	uint64_t n_pairs;                                      /* proved by the checker */
	uint32_t n_dropped_by_checker;
	double score_ratio;                                    /* ext-TSP score after / before */
};

/* Everything made on the way is kept in @out for dumps and for the sinks; free with ovm_engine_fini. */
struct ovm_engine {
	struct ovm_image *image;      /* borrowed */
	struct ovm_regions regions;
	struct ovm_program program;
	struct ovm_layout layout;
	struct ovm_overlay overlay;
	struct ovm_probes probes;     /* with is_counting or gauges */
	ovm_counted_calls calls;      /* with is_counting */
	struct ovm_engine_stats stats;
};

/* Fails as its parts do. OVM_REFUSED: nothing worth or possible to copy (overlay empty), reasons counted in ctx. */
int ovm_engine_run(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image, const struct ovm_prof_module *module,
		   const struct ovm_engine_opts *opts, struct ovm_engine *out);
void ovm_engine_fini(struct ovm_engine *engine);

/* Once more, after ovm_engine_run: by what @module, of the same file, knows now, and what @opts says of the overlay. Regions and
 * graphs are those that are there, with those added that @module knows besides; skip_region is what it was. What was dropped or
 * refused stays so; each call counts in ctx what is refused in addition. */
int ovm_engine_again(struct ovm_ctx *ctx, struct ovm_decoder *dec, const struct ovm_prof_module *module,
		     const struct ovm_engine_opts *opts, struct ovm_engine *engine);

#endif
