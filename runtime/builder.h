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
	int watch_fd; /* pidfd of the child: readable when it has ended */
};

struct ovm_generations;

/* Fork the child. @set: the process, its tracee's memory must be open, its map holds modules; what
 * is already patched there is seen as it was. @profile is read. Neither may change until the child
 * is forked, which it is on return. */
int ovm_builder_start(struct ovm_ctx *ctx, const struct ovm_generations *set,
		      const struct ovm_profile *profile, const struct ovm_target_opts *opts,
		      struct ovm_builder *out);

/* Wait for the child and read what it built; the builder is closed. OVM_E_INTERNAL: it crashed (the
 * program is not concerned). */
int ovm_builder_result(struct ovm_ctx *ctx, struct ovm_builder *builder,
		       const struct ovm_generations *set, struct ovm_built *out);

void ovm_builder_close(struct ovm_builder *builder); /* kills the child if it still works */
void ovm_built_fini(struct ovm_built *built);

#endif
