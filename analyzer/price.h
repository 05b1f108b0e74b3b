#ifndef OVM_PRICE_H
#define OVM_PRICE_H
/* What counts cost: how unlikely a flow through a cfg is, given its samples. Private to infer.c;
 * see price.c. */
#include "analyzer/cfg.h"

/* How unlikely it is that control enters or leaves here from or to the outside, before anything is
 * known. */
enum ovm_odds { OVM_ODDS_SURE, OVM_ODDS_LIKELY, OVM_ODDS_UNLIKELY, OVM_ODDS_ODD, OVM_N_ODDS };

enum ovm_odds ovm_odds_enter(const struct ovm_cfg *cfg, uint32_t bb, bool has_pred);
enum ovm_odds ovm_odds_leave(const struct ovm_cfg *cfg, uint32_t bb);

enum {
	OVM_PRICE_MAX = 1 << 20,   /* no price is higher */
	OVM_PRICE_NEVER = 1 << 24, /* taking away from a sampled block its last part */
	OVM_PRICE_PARTS = 3,	   /* of a wanted count that can be taken away: 1/2, 1/4, 3/16 */
};

struct ovm_pricing {
	const struct ovm_cfg *cfg;
	double *near; /* [n_blocks] flow of the neighbourhood, > 0 */
	double max;   /* the largest of them: prices are relative to it */
	bool refined; /* near is a first solution: unsampled blocks are priced at the margin */
};

/* From the estimates in cfg->blocks[].count (0: not sampled). Free with _fini. */
void ovm_pricing_init(struct ovm_pricing *pricing, const struct ovm_cfg *cfg);
void ovm_pricing_fini(struct ovm_pricing *pricing);

/* Use the block counts of a first solution, @flow[n_blocks], instead of the neighbourhood. */
void ovm_pricing_refine(struct ovm_pricing *pricing, const uint64_t *flow);

/* All prices are per unit of flow, integers from 0 (sure) to OVM_PRICE_MAX. */
int32_t ovm_price_unsampled(const struct ovm_pricing *pricing, uint32_t bb);
int32_t ovm_price_edge(const struct ovm_pricing *pricing, const struct ovm_edge *edge);
int32_t ovm_price_odds(const struct ovm_pricing *pricing, uint32_t bb, enum ovm_odds odds);

/* A block with samples and the estimate @count: more than it, and less of it by parts. */
void ovm_price_sampled(const struct ovm_pricing *pricing, uint32_t bb, uint64_t count,
		       int32_t *more, int32_t less[OVM_PRICE_PARTS]);

#endif
