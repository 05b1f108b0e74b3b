#ifndef OVM_INFER_H
#define OVM_INFER_H
/* Counts that obey flow conservation, as likely as possible given what the profile says. Behind
 * weight.h; see infer.c. */
#include "analyzer/cfg.h"

/* From PC samples: block->samples are given, block and edge counts are filled. */
void ovm_infer_samples(struct ovm_cfg *cfg);

/* From edge and block counts that may disagree a little: change as little as possible. */
void ovm_infer_repair(struct ovm_cfg *cfg);

#endif
