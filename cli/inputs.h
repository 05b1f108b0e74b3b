#ifndef OVM_INPUTS_H
#define OVM_INPUTS_H
/* What rewrite, dump and report do alike: profiles by -p, the module of an image, options of the
 * engine. */
#include "cli/options.h"
#include "profiler/profile.h"
#include "rewriter/engine.h"

enum ovm_format {
	OVM_FORMAT_UNKNOWN, /* nothing below, or a pipe, which cannot be looked into */
	OVM_FORMAT_PROFILE, /* ours, compressed or not */
	OVM_FORMAT_PERFDATA,
	OVM_FORMAT_FDATA,  /* BOLT's, by symbol */
	OVM_FORMAT_PREAGG, /* BOLT's, by address */
};

/* What @path holds, by its first bytes. OVM_E_IO, OVM_E_PERM. */
int ovm_inputs_format(struct ovm_ctx *ctx, const char *path, enum ovm_format *out);

/* Load one profile that needs no other file: ours or perf.data. Caller frees *out. Fails as
 * ovm_profile_load; OVM_E_USAGE for formats that need optvm convert. */
int ovm_inputs_load(struct ovm_ctx *ctx, const char *path, struct ovm_profile **out);

/* Load @paths and add them up. Caller frees *out. Fails as ovm_inputs_load. */
int ovm_inputs_merge(struct ovm_ctx *ctx, const char *const *paths, size_t n,
		     struct ovm_profile **out);

/* The module of @prof that is @image. OVM_E_FORMAT: the profile is empty; OVM_E_MISMATCH: it is of
 * another build. */
int ovm_inputs_module(struct ovm_ctx *ctx, const struct ovm_profile *prof,
		      const struct ovm_image *image, const struct ovm_prof_module **out);

/* --share, --order, --drop-cold, --keep-order, --passes, --uniform. OVM_E_USAGE. */
int ovm_inputs_engine(struct ovm_ctx *ctx, const struct ovm_options *opts,
		      struct ovm_engine_opts *out);

/* True if both paths name one existing file. */
bool ovm_inputs_same_file(const char *a, const char *b);

/* May the file @path be made? OVM_E_USAGE: it exists and -f was not given (pipes and devices are
 * not overwritten, they always may); OVM_E_IO, OVM_E_PERM: its folder is missing or not writable.
 * Asked before long work. */
int ovm_inputs_output(struct ovm_ctx *ctx, const struct ovm_options *opts, const char *path);

#endif
