#ifndef OVM_TARGET_H
#define OVM_TARGET_H
/* One module of the process as a target of optimization: chosen from the profile, built into an
 * overlay. */
#include "profiler/profile.h"
#include "rewriter/engine.h"
#include "runtime/livemap.h"
#include "runtime/unwindhook.h"

struct ovm_counted { /* region starts that have instrumented copies already */
	OVM_VEC(struct ovm_counted_region {
		ovm_rta module; /* its lowest address: the map may have been read again */
		ovm_va lo;
	})
	v;
};

struct ovm_gauges { /* entries that shall be counted in optimized code, to measure it (gauge.h) */
	OVM_VEC(struct ovm_gauge {
		const struct ovm_live_module *module; /* borrowed from the map */
		ovm_va entry;
	})
	v; /* sorted by (module's lowest address, entry) */
};

struct ovm_built;

struct ovm_target_opts {
	uint64_t min_samples;	 /* of a module; fewer: left alone */
	uint32_t passes;	 /* set of enum ovm_pass */
	bool uniform;		 /* copy every region of every module that has samples */
	const char *only, *skip; /* globs over paths, NULL: none */
	pid_t
	    root; /* copies keep away from those of its tree, which are to get the same ones; 0: no
		   */
	bool is_counting; /* instrumented overlays */
	bool no_callees;  /* is_counting: only of regions with samples */
	const struct ovm_counted
	    *counted; /* is_counting: leave out what these already count; or NULL */
	const struct ovm_gauges *gauges; /* NULL: none */
	bool is_reference; /* with gauges: copy only their regions, in the original order */
	bool stays; /* the builder does not end when it is done, but keeps what it knows for another
		       order (ovm_builder_order) */
	const struct ovm_built *like; /* take these overlays, built for another process of the same
					 image; NULL: build. Borrowed */
};

struct ovm_target {
	const struct ovm_live_module *module;  /* borrowed from the map */
	const struct ovm_prof_module *profile; /* borrowed */
	uint64_t n_samples;
	struct ovm_image *image;
	struct ovm_engine engine;
	ovm_rta at;	  /* where the overlay will be */
	ovm_rta counters; /* is_counting or gauges: where its counters will be */
	uint64_t print;	  /* of the module when it was looked at (presence.h); set before a build */
	uint64_t code;	  /* see struct ovm_built_module */
	uint32_t like;	  /* taken: module of opts.like; OVM_NONE: built */
	bool is_unseen;	  /* its process ended meanwhile: see struct ovm_built_module */
	bool *skip;	  /* [engine.regions.n]: must not be copied in this process; NULL: none */
	uint64_t n_refused[OVM_MAX_REFUSALS]; /* of its regions, by the engine */
};
typedef OVM_VEC(struct ovm_target) ovm_targets;

/* Modules of the process worth optimizing, most samples first. Left out: ld.so, unwinders, what the
 * profile hardly saw. */
void ovm_targets_choose(const struct ovm_livemap *map, const struct ovm_profile *profile,
			const struct ovm_target_opts *opts, ovm_targets *out);

struct ovm_generations;

/* Choose a place (reserved in @map), run the engine for it. @set: the process; jumps that we have
 * put there are not taken for changed code. @hook: NULL if no unwinder could be
 * hooked: only leaf regions then. Regions whose bytes in the target's memory are not the file's are
 * refused. OVM_REFUSED (message in ctx) or a failure: nothing to install. */
int ovm_target_build(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		     const struct ovm_generations *set, struct ovm_livemap *map,
		     const struct ovm_unwindhook *hook, const struct ovm_target_opts *opts,
		     struct ovm_target *target);

/* @from was built for the same process before, when less was known; @to is chosen from a newer
 * profile. What @from knows of the file is @to's now, and ovm_target_build goes on from there.
 * False: it is another module; nothing is done. */
bool ovm_target_inherit(struct ovm_target *to, struct ovm_target *from);

/* From a target just built with gauges: the same code in its original order (opts->is_reference),
 * at another place. @target's overlay is given up. Fails as ovm_target_build. */
int ovm_target_build_reference(struct ovm_ctx *ctx, struct ovm_decoder *dec,
			       struct ovm_livemap *map, const struct ovm_target_opts *opts,
			       struct ovm_target *target);
void ovm_target_fini(struct ovm_target *target);

struct ovm_built_module;

/* Instead: module @module of @like, an overlay made for another process that has the same file mapped, here or
 * elsewhere. The overlay's and its counters' places must be unmapped (they are as far from the
 * module as there, and are reserved in @map), and the module's code the file's. OVM_REFUSED
 * (message in ctx) if not. *out borrows the overlay: not for ovm_target_fini. */
int ovm_target_take(struct ovm_ctx *ctx, const struct ovm_generations *set, struct ovm_livemap *map,
		    const struct ovm_built *like, uint32_t module, struct ovm_target *out);

#endif
