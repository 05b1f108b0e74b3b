#ifndef OVM_WEIGHT_H
#define OVM_WEIGHT_H
/* Attaches a profile to a cfg and makes the counts obey flow conservation.
 *
 * PC samples blame time, so a block's first estimate is samples / instructions. Branch records and
 * exact edges are used where the profile has them. Then minimum-cost flow (Levin, Newman, Haber
 * 2008; "profi", He et al. 2022) changes as little as possible until every block's inflow equals
 * its outflow. Cost constants: the notes, section e.
 */
#include "analyzer/cfg.h"
#include "profiler/profile.h"

/* Fill samples and count of all blocks and edges of @cfg, cfg->samples and has_counts. @module may
 * be NULL (all zero). Always succeeds; counts saturate; graphs above the tunable block cap get the
 * local estimate without flow. */
void ovm_weight_attach(struct ovm_ctx *ctx, struct ovm_cfg *cfg,
		       const struct ovm_prof_module *module);

/* Every block and edge gets the same small count: for "copy everything" (tests, --uniform). */
void ovm_weight_uniform(struct ovm_cfg *cfg);

/* Repair only: counts of blocks/edges are given (maybe inconsistent), make them a flow. Used after
 * counters were read. */
void ovm_weight_repair(struct ovm_cfg *cfg);

void ovm_weights_dump(const struct ovm_image *image, const struct ovm_cfg *cfg, FILE *to);

#endif
