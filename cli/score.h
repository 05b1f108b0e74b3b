#ifndef OVM_CLI_SCORE_H
#define OVM_CLI_SCORE_H
/* optvm dump score IN -p PROF --against EXACT */
#include "cli/options.h"
#include "rewriter/engine.h"

/* Print how good @module is. @module: of @image, NULL if there was no -p. Fails as
 * ovm_profile_load, ovm_inputs_module and ovm_score_profile; OVM_E_USAGE: -p or --against is
 * missing; OVM_E_FORMAT: the file of --against holds no exact edges. */
int ovm_dump_score(struct ovm_ctx *ctx, const struct ovm_options *opts,
		   const struct ovm_engine_opts *engine_opts, struct ovm_image *image,
		   const struct ovm_prof_module *module);

#endif
