#ifndef OVM_WARM_H
#define OVM_WARM_H
/* Blocks that samples missed but that probably run: kept beside the hot code instead of far away.
 */
#include "analyzer/cfg.h"

/* Give a count to zero-count blocks of a cfg whose counts were inferred from samples, where not
 * having seen them proves little. Only raises zero counts of blocks and of edges into them; other
 * counts stay. */
void ovm_weight_warm(struct ovm_cfg *cfg);

#endif
