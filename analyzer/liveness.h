#ifndef OVM_LIVENESS_H
#define OVM_LIVENESS_H
/* Which registers and flags are live, by backward dataflow over a cfg. Conservative: at every exit
 * from the group (external edge, unknown jump, return) everything is live, but flags at calls and
 * returns. */
#include "analyzer/cfg.h"

/* @live_in: caller's array of cfg->n_blocks masks (OVM_MASK_*), receives what is live at each
 * block's start. */
void ovm_liveness(const struct ovm_cfg *cfg, uint32_t *live_in);

/* What is live before instruction @insn of block @bb, given live_in of all blocks. */
uint32_t ovm_live_before(const struct ovm_cfg *cfg, const uint32_t *live_in, uint32_t bb,
			 uint32_t insn);

#endif
