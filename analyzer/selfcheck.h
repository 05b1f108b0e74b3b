#ifndef OVM_SELFCHECK_H
#define OVM_SELFCHECK_H
/* Code that computes a checksum of itself when it starts. */
#include "analyzer/region.h"

/* Whether @image may check itself: reads all that is not writable. */
bool ovm_selfcheck_any(const struct ovm_image *image);

/* If it may, refuse (SELF_CHECK) every region that the check may cover. */
void ovm_selfcheck_refuse(struct ovm_ctx *ctx, const struct ovm_image *image,
			  struct ovm_regions *regions);

#endif
