#ifndef OVM_ELF_PROFILE_H
#define OVM_ELF_PROFILE_H
/* A profile of a rewritten program, said of the original. */
#include "profiler/profile.h"
#include "rewriter/elf_read.h"

/* What @prof has counted in the rewritten @image, moved to where the same instructions stand in
 * @original, added to what it has counted in @original itself. Counts at jumps and nops that were
 * added go to what they were about to execute; names and hashes of code are left out.
 *
 * @out: @prof with the module @original->id so made; caller frees. Fails as ovm_elf_overlay, or as
 * ovm_regions_build of @original. */
int ovm_elf_profile_back(struct ovm_ctx *ctx, const struct ovm_image *image,
			 const struct ovm_image *original, const struct ovm_profile *prof,
			 struct ovm_profile **out);

#endif
