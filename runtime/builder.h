#ifndef OVM_BUILDER_H
#define OVM_BUILDER_H
/* Builds the overlays of one round in a process of its own, while the program runs and the tool
 * watches it. */
#include "runtime/target.h"

struct ovm_built_module {
	const struct ovm_live_module *module; /* borrowed from the map */
	ovm_rta at;			      /* where the overlay goes */
	ovm_rta link_map;		      /* of its owner, 0 unknown */
	uint64_t n_samples;
	uint64_t print; /* of the module that was copied (presence.h); 0 not known */
	uint64_t code;	/* hash of all code of the file it was made from; 0 not known */
	uint32_t like;	/* from a builder that was to take copies: which of theirs, see below */
	bool is_borrowed; /* overlay, arcs, calls: of those copies, which have to stay */
	bool is_unseen; /* the process had gone: its memory was not compared with the file. Not to
			   be loaded, only to be taken for others (target.h) */
	struct ovm_engine_stats stats;
	struct ovm_overlay overlay; /* owned; tables and fdes are left out */
	ovm_arcs arcs;		    /* instrumented or gauged: what the counters mean */
	uint32_t n_nodes;
	ovm_counted_calls calls;
};

struct ovm_built {
	OVM_VEC(struct ovm_built_module) modules;
	bool is_passing;	    /* to be armed for moments only: counting, or to measure by */
	bool is_hooked;		    /* hook is to be installed */
	struct ovm_unwindhook hook; /* its page is chosen, its entries are not filled in */
	uint64_t n_refused[OVM_MAX_REFUSALS];
	char why_not[200]; /* empty if modules.n > 0 */
};

struct ovm_builder {
	pid_t pid;    /* of the child, 0 none */
	int fd;	      /* memory file with its result, -1 none */
	int order_fd; /* another, with what it shall do next */
	int watch_fd; /* to it and from it: readable when it is done, or has ended */
	bool stays;
	const struct ovm_built *like; /* opts.like */
	double used_ms; /* its CPU time, once it has ended */
};

struct ovm_generations;

/* Fork the child. @set: the process, its tracee's memory must be open, its map holds modules; what
 * is already patched there is seen as it was. @profile is read. Neither may change until the child
 * is forked, which it is on return. */
int ovm_builder_start(struct ovm_ctx *ctx, const struct ovm_generations *set,
		      const struct ovm_profile *profile, const struct ovm_target_opts *opts,
		      struct ovm_builder *out);

/* Wait for the child and read what it built, for modules of @map; unless it stays and lives, the builder is closed.
 * *reference: what it built besides to measure by, empty if nothing; the caller frees both; NULL:
 * not wanted. What was taken (opts.like) is borrowed from there. OVM_E_INTERNAL: it crashed (the program is not concerned). */
int ovm_builder_result(struct ovm_ctx *ctx, struct ovm_builder *builder,
		       const struct ovm_livemap *map, struct ovm_built *out,
		       struct ovm_built *reference);

/* For a builder that stayed, after its result: build optimized code by @profile, with @gauges and
 * what is needed to measure by them. It knows the modules' code already. Meanwhile nothing may be
 * armed in the process but what was when the builder was started. Then ovm_builder_result; it does
 * not stay again. Fails (OVM_E_UNAVAILABLE): the builder is closed, another one may be started. */
int ovm_builder_order(struct ovm_ctx *ctx, struct ovm_builder *builder,
		      const struct ovm_profile *profile, const struct ovm_gauges *gauges);

void ovm_builder_close(struct ovm_builder *builder); /* kills the child if it still works */
void ovm_built_module_fini(struct ovm_built_module *module);
void ovm_built_fini(struct ovm_built *built);

#endif
