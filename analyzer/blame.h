#ifndef OVM_BLAME_H
#define OVM_BLAME_H
/* How many samples one execution of a block attracts, compared with an average instruction's one. */
#include "analyzer/cfg.h"

/* Relative weight, > 0; divide a block's samples by it to compare executions. */
double ovm_blame_weight(const struct ovm_cfg *cfg, uint32_t bb);

#endif
