#ifndef OVM_ISLANDS_H
#define OVM_ISLANDS_H
/* Hot loops that nothing is known to enter. Private to infer.c; see islands.c. */
#include "analyzer/cfg.h"

/* Connect every block with a count to an entry and an exit of the group. @entered[bb]: control
 * comes into bb from outside. Counts are a flow before and after. */
void ovm_islands_join(struct ovm_cfg *cfg, const bool *entered);

#endif
