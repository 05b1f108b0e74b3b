#ifndef OVM_PROGRAM_H
#define OVM_PROGRAM_H
/* What is known of one image during one optimization: regions, the graphs of the selected groups,
 * and who enters them. */
#include "analyzer/cfg.h"
#include "analyzer/xref.h"
#include "profiler/profile.h"

/* One call site and one of its targets: for region order. */
struct ovm_call {
	uint32_t cfg, block; /* caller */
	uint32_t offset;     /* bytes from the block's start */
	uint32_t callee;     /* region index */
	uint64_t count;	     /* the block's count; of an indirect call the target's */
};
typedef OVM_VEC(struct ovm_call) ovm_calls;

struct ovm_program {
	struct ovm_image *image;	/* borrowed */
	struct ovm_regions *regions;	/* borrowed */
	OVM_VEC(struct ovm_cfg *) cfgs; /* owned; the selected groups; a region is in at most one */
	uint32_t *cfg_of_region;	/* [regions.n]: index into cfgs, OVM_NONE */
	OVM_VEC(struct ovm_xref) xrefs; /* of all regions in cfgs, ascending region */
	ovm_calls indirect; /* calls through pointers, as far as the profile knows them */
};

struct ovm_program_opts {
	double share;	       /* of the samples to cover; 1.0: all regions with samples */
	bool is_live;	       /* refuse regions that call dlsym & co. too (rule I7) */
	uint32_t callee_steps; /* take what the chosen regions call, and what that calls, so far */
	const uint32_t *part_of; /* [regions.n], or NULL: all is chosen from; else what is @part */
	uint32_t part;
};

/* Select and analyze. Regions with samples are taken hottest first; @module NULL: every region,
 * uniform counts. Steps: choose -> cfg -> weights -> xrefs. Fails only for lack of memory or
 * decoder; refusals are counted. */
int ovm_program_build(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image,
		      struct ovm_regions *regions, const struct ovm_prof_module *module,
		      const struct ovm_program_opts *opts, struct ovm_program *out);
void ovm_program_fini(struct ovm_program *program);

/* What @module knows of now and @program has not is added, and all is weighed anew; its graphs and
 * their indices stay. What was refused stays so. On failure @program is to be thrown away. */
int ovm_program_extend(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		       const struct ovm_prof_module *module, const struct ovm_program_opts *opts,
		       struct ovm_program *program);

/* Drop cfg @idx from the program and refuse its regions for @why. Indices of the other cfgs stay;
 * the slot becomes NULL. */
void ovm_program_drop(struct ovm_ctx *ctx, struct ovm_program *program, uint32_t idx,
		      enum ovm_refusal why);

/* Direct calls, direct tail jumps and counted indirect calls from block to region start among the
 * program's cfgs; sorted by (cfg, block, offset). */
void ovm_program_calls(const struct ovm_program *program, ovm_calls *calls);

/* The instruction that calls: into the insns of @cfg, which is the call's. */
uint32_t ovm_call_insn(const struct ovm_cfg *cfg, const struct ovm_call *call);

#endif
