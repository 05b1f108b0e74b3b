#ifndef OVM_FDES_H
#define OVM_FDES_H
/* Unwind records of a file as they stand there. */
#include "analyzer/region.h"

/* Append one region for each FDE of @image, in the order of the file, with its CIE in out->cfi. Nothing but range, fde, lsda, cie
 * and program is set; bad records are dropped and counted in n_dropped. Touches nothing but @out. */
void ovm_fdes_read(const struct ovm_image *image, struct ovm_regions *out);

#endif
