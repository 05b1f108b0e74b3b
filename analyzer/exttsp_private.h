#ifndef OVM_EXTTSP_PRIVATE_H
#define OVM_EXTTSP_PRIVATE_H
/* One Ext-TSP run. exttsp.c sets it up, exttsp_merge.c says what merging two chains gains,
 * exttsp_moves.c improves the order at the end. */
#include "analyzer/chains.h"
#include "analyzer/exttsp.h"
#include "analyzer/tunables.h"

struct ovm_tsp_branch { /* never to its own source */
	uint32_t src, dst;
	int64_t count;
	bool cond; /* the source has other successors */
};

struct ovm_tsp_node {
	uint32_t forced_succ, forced_pred;
	uint32_t first_succ, n_succ; /* in tsp.succs: all, also those never taken */
	uint32_t n_preds;
};

struct ovm_tsp_cuts {	 /* what a cut changes inside a chain, by cut, [n_nodes + 1] */
	int64_t *swap;	 /* its second half is put first */
	int64_t *broken; /* something comes between: the fall-through there is lost at least */
	int64_t *apart;	 /* TSP_APART bytes come between */
	int64_t best;	 /* largest swap, at least 0 */
	uint32_t *open;	 /* cuts that part no jump from its successor, if the chain is short */
	uint32_t n_open;
	int64_t open_swap, open_apart; /* largest and least of those */
	uint32_t n_nodes; /* length of the chain when computed: valid as long as it has that */
};

struct ovm_tsp_spread { /* what @size bytes put between its halves cost a chain */
	int64_t *loss;	/* [n_nodes + 1] by cut */
	uint32_t cap;
	uint32_t chain, n_nodes; /* valid for the chain as long as it has that length */
	uint64_t size;
};

struct ovm_tsp {
	struct ovm_chains chains;
	struct ovm_tsp_node *nodes;
	struct ovm_tsp_branch *jumps; /* with a count, sorted by source */
	uint32_t *first_out;	      /* [n + 1] */
	uint32_t *succs;
	struct ovm_tsp_cuts *cuts;     /* [n] by chain */
	struct ovm_tsp_spread *spread; /* the last one asked for */
};

/* Score of one execution of a jump from a block's end to another's start, in 1/51200. Here because
 * it is the innermost step of everything else. */
static inline int64_t ovm_tsp_score(uint64_t src_end, uint64_t dst, bool cond)
{
	uint64_t d;

	if (src_end == dst)
		return cond ? OVM_TUNE(TSP_UNIT) : OVM_TUNE(TSP_FALL_UNCOND);
	if (src_end < dst) {
		d = dst - src_end;
		return d < (uint64_t)OVM_TUNE(TSP_FORWARD_DISTANCE)
			   ? OVM_TUNE(TSP_FORWARD_SLOPE) *
				 (OVM_TUNE(TSP_FORWARD_DISTANCE) - (int64_t)d)
			   : 0;
	}
	d = src_end - dst;
	return d < (uint64_t)OVM_TUNE(TSP_BACKWARD_DISTANCE)
		   ? OVM_TUNE(TSP_BACKWARD_SLOPE) * (OVM_TUNE(TSP_BACKWARD_DISTANCE) - (int64_t)d)
		   : 0;
}

/* A jump that does not fall through counts at most this much. */
static inline int64_t ovm_tsp_near_score(void)
{
	int64_t forward = OVM_TUNE(TSP_FORWARD_SLOPE) * OVM_TUNE(TSP_FORWARD_DISTANCE);
	int64_t backward = OVM_TUNE(TSP_BACKWARD_SLOPE) * OVM_TUNE(TSP_BACKWARD_DISTANCE);

	return forward > backward ? forward : backward;
}

static inline int64_t ovm_tsp_fall_gain(const struct ovm_tsp_branch *jump)
{
	int64_t fall = jump->cond ? OVM_TUNE(TSP_UNIT) : OVM_TUNE(TSP_FALL_UNCOND);

	return (fall - ovm_tsp_near_score()) * jump->count;
}

/* Jump with a count from node @a to node @b? */
bool ovm_tsp_is_successor(const struct ovm_tsp *tsp, uint32_t a, uint32_t b);

/* exttsp_merge.c: for ovm_chains_run(); @user is a struct ovm_tsp. */
struct ovm_gain ovm_tsp_best_merge(const struct ovm_chains *chains, const void *user,
				   const struct ovm_chain_edge *edge, uint32_t x, uint32_t y);
double ovm_tsp_merge_bound(const struct ovm_chains *chains, const void *user,
			   const struct ovm_chain_edge *edge, uint32_t x, uint32_t y);
void ovm_tsp_merge_fini(struct ovm_tsp *tsp);

/* exttsp_moves.c: improve @order, in which chains stand one behind the other. Moves the places of
 * nodes, so nothing can be merged afterwards. */
void ovm_tsp_move(struct ovm_tsp *tsp, uint32_t *order);

#endif
