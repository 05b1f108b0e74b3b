#ifndef OVM_CLI_REWRITE_H
#define OVM_CLI_REWRITE_H
/* One file rewritten: shared by `rewrite IN` and `rewrite --all`. */
#include "cli/options.h"
#include "profiler/profile.h"
#include "rewriter/engine.h"

struct ovm_rewrite {
	const char *in, *out;
	struct ovm_profile *prof;	      /* owned; NULL with --uniform and no -p */
	const struct ovm_prof_module *module; /* of prof, NULL without */
	char hash[20];			      /* of the profile, for the note; "" none */
	struct ovm_image *image;	      /* what is rewritten */
	struct ovm_image *rewritten; /* IN, if that was rewritten before: image is undone */
	struct ovm_decoder *dec;
	struct ovm_engine_opts engine_opts;
	struct ovm_engine engine;
	bool force;
	bool debug; /* source lines for the copies */
	double start;
};

/* Open IN; if optvm wrote it, restore its original in memory and start from that. Fails as
 * ovm_image_open and ovm_elf_undo. */
int ovm_rewrite_open(struct ovm_ctx *ctx, struct ovm_rewrite *job);

/* What prof has of the file optvm wrote, said of its original. No-op if IN is no such file. */
int ovm_rewrite_move_profile(struct ovm_ctx *ctx, struct ovm_rewrite *job);

/* With IN open, module and engine_opts set: run the engine, write OUT. OVM_REFUSED, with a message:
 * nothing to copy, nothing written. */
int ovm_rewrite_write(struct ovm_ctx *ctx, struct ovm_rewrite *job);

/* "12 regions, 3.4 kB, 99.0 % of ...". Returns @buf. */
const char *ovm_rewrite_describe(const struct ovm_rewrite *job, char *buf, size_t size);

void ovm_rewrite_hash(const struct ovm_profile *prof, char *out, size_t size);
void ovm_rewrite_fini(struct ovm_rewrite *job);

/* rewrite_all.c */
int ovm_rewrite_all(struct ovm_ctx *ctx, const struct ovm_options *opts);

#endif
