#ifndef OVM_SELFCHECK_H
#define OVM_SELFCHECK_H
/* Code that computes a checksum of itself when it starts. */
#include "analyzer/region.h"

/* Refuse (SELF_CHECK) every region that a self-check of @image may cover. */
void ovm_selfcheck_refuse(struct ovm_ctx *ctx, const struct ovm_image *image,
			  struct ovm_regions *regions);

#endif
