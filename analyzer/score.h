#ifndef OVM_SCORE_H
#define OVM_SCORE_H
/* How good is a profile? Measured against exact counts of the same run: do its edges agree, and is
 * the layout made from it as good as the one made from the exact counts? See score.c. */
#include "analyzer/layout.h"

struct ovm_score {
	double exact, profile, original; /* Ext-TSP of three layouts, all by the exact counts */
	uint32_t n_regions;		 /* that the exact profile knows */
	uint32_t n_shared;		 /* ... and the other one too */
	uint64_t n_edges;     /* executed edges inside the shared regions, and out of them */
	double weight;	      /* sum of the exact counts of all executed edges */
	double weight_shared; /* ... of shared regions */
	double weight_equal;  /* ... whose count the profile gives within 0.1 % */
	double overlap; /* part of weight_shared on which relative counts agree, graph by graph */
};

/* Score of the layout that @layout gives to the code of @exact, by the counts of @exact. @program:
 * what @layout was made from; NULL: the original order. Both programs are of one image. */
double ovm_score_layout(const struct ovm_program *exact, const struct ovm_program *program,
			const struct ovm_layout *layout);

/* Fill all of @out but the layout scores. The modules are those the programs were built from,
 * normalized. */
void ovm_score_edges(const struct ovm_program *exact, const struct ovm_prof_module *exact_module,
		     const struct ovm_program *program, const struct ovm_prof_module *module,
		     struct ovm_score *out);

/* All of it. @share and @opts say how @module is used, as for a rewrite; @exact_module is used
 * whole. Fails as ovm_regions_build and ovm_program_build. */
int ovm_score_profile(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image,
		      const struct ovm_prof_module *module,
		      const struct ovm_prof_module *exact_module, double share,
		      const struct ovm_layout_opts *opts, struct ovm_score *out);

#endif
