#ifndef OVM_WHY_H
#define OVM_WHY_H
/* `report --why`: what the engine would do with a module and this profile, and what it refuses
 * (rule R10). */
#include "analyzer/refuse.h"
#include "cli/options.h"
#include "profiler/profile.h"
#include "rewriter/engine.h"

struct ovm_why_region { /* a refused region with samples */
	ovm_va lo, hi;
	uint64_t samples;
	uint8_t reason; /* enum ovm_refusal */
	char *name;	/* symbol or hex */
};

struct ovm_why {
	const struct ovm_prof_module *module; /* borrowed */
	char *unavailable; /* why nothing is known: not on this machine, another build, ...; else
			      NULL */
	uint64_t samples, in_regions, covered;
	uint32_t n_regions, n_copied;	    /* regions with samples; of these copied */
	uint32_t refused[OVM_REFUSE_COUNT]; /* regions with samples, by reason */
	uint64_t refused_samples[OVM_REFUSE_COUNT];
	OVM_VEC(struct ovm_why_region) regions; /* refused ones, hottest first */
};

/* Opens the module's file, runs the engine, writes nothing. Never fails: what goes wrong is in
 * `unavailable`. */
void ovm_why_explain(const struct ovm_prof_module *module, const struct ovm_engine_opts *opts,
		     struct ovm_why *out);
void ovm_why_fini(struct ovm_why *why);

#endif
