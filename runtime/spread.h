#ifndef OVM_SPREAD_H
#define OVM_SPREAD_H
/* One round, many processes: what was built for one is given to those forked from the same image.
 */
#include "runtime/round.h"

/* @from has optimized its process. Give the same overlays to all its kin (@from->root's tree) that
 * do not have them, the busiest first; @from->result tells how many have got them. Those that were
 * forked after the patch have them already. Never fails: who cannot be changed stays as it was. */
void ovm_spread(struct ovm_ctx *ctx, struct ovm_round *from);

#endif
