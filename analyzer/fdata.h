#ifndef OVM_FDATA_H
#define OVM_FDATA_H
/* BOLT's fdata: profiles whose places are named by symbol and offset, so that
 * the ELF file must be at hand. Reading is fdata.c, writing fdata_write.c. */
#include "analyzer/boltnames.h"
#include "analyzer/fields.h"
#include "profiler/profile.h"

/* Read the fdata file @path, or the @len bytes of @text, as a profile of
 * @image.
 *
 * With branches: lines that jump, call or return become branches (from 0: from
 * outside of @image), lines that fall through become ranges. With no_lbr:
 * samples. Memory lines are ignored.
 * @met receives what was read and what was left out because its name or address
 * is not in @image. Fails: OVM_E_FORMAT (line named), OVM_E_MISMATCH (not one
 * name fits), OVM_E_IO, OVM_E_PERM. */
int ovm_fdata_load(struct ovm_ctx *ctx, struct ovm_image *image, const char *path,
		   struct ovm_import *met, struct ovm_profile **out);
int ovm_fdata_parse(struct ovm_ctx *ctx, const struct ovm_image *image,
		    const struct ovm_bolt_names *names, struct ovm_decoder *dec, const char *text,
		    size_t len, const char *name, struct ovm_import *met, struct ovm_profile **out);

/* Print @module, which is of @image, as fdata that llvm-bolt accepts: exact
 * edges if there are any, else branches and ranges, else samples (no_lbr
 * @event; @event may be NULL).
 *
 * *n_left_out receives records in no function that BOLT can know. Returns 0
 * even if nothing was printed (*n_printed is 0 then); fails only for lack of a
 * decoder. */
int ovm_fdata_print(struct ovm_ctx *ctx, struct ovm_image *image,
		    const struct ovm_prof_module *module, const char *event, FILE *to,
		    uint64_t *n_printed, uint64_t *n_left_out);

#endif
