#ifndef OVM_PREAGG_H
#define OVM_PREAGG_H
/* BOLT's pre-aggregated text: branches and straight runs by address. */
#include "analyzer/disasm.h"
#include "analyzer/fields.h"
#include "profiler/profile.h"

/* Read the file @path, or the @len bytes of @text. Addresses without build-id
 * are of @image; it may be NULL if each has one. Addresses of @image outside
 * its code count as "elsewhere" (0). Fails: OVM_E_FORMAT (line named),
 * OVM_E_USAGE (an address without build-id and no image), OVM_E_MISMATCH
 * (nothing is of @image), OVM_E_IO, OVM_E_PERM. */
int ovm_preagg_load(struct ovm_ctx *ctx, const struct ovm_image *image, const char *path,
		    struct ovm_import *met, struct ovm_profile **out);
int ovm_preagg_parse(struct ovm_ctx *ctx, const struct ovm_image *image, const char *text,
		     size_t len, const char *name, struct ovm_import *met,
		     struct ovm_profile **out);

/* Print one module: exact edges if it has any, else branches and ranges, else
 * samples. @image, the file it is of, and @dec tell taken edges from fallen
 * ones; both may be NULL if there are no exact edges. @with_id: put the
 * module's build-id before each address. Returns the number of lines. */
uint64_t ovm_preagg_print(const struct ovm_prof_module *module, const char *event, bool with_id,
			  struct ovm_decoder *dec, const struct ovm_image *image, FILE *to);

#endif
