#ifndef OVM_CHAINS_H
#define OVM_CHAINS_H
/* Greedy merging of chains, shared by block order (exttsp.c) and region order (cdsort.c). See
 * chains.c.
 *
 * Nodes (blocks or regions) stand in chains, jumps (or calls) connect nodes, and all jumps between
 * two chains make one edge. The caller says what merging two chains gains; the engine merges the
 * best pair again and again.
 */
#include "base/addr.h"
#include "base/vec.h"

#include <stdbool.h>

enum ovm_merge { /* what becomes of X and Y; X1 and X2 are X cut before position `cut` */
		 OVM_MERGE_X_Y,
		 OVM_MERGE_X1_Y_X2,
		 OVM_MERGE_Y_X2_X1, /* with cut 0: Y X */
		 OVM_MERGE_X2_X1_Y,
};

struct ovm_gain {
	double score; /* > 0 is worth it */
	uint32_t cut;
	enum ovm_merge how;
};

typedef OVM_VEC(uint32_t) ovm_indices;

struct ovm_place {     /* of a node */
	uint64_t size; /* bytes, at least 1 */
	uint64_t off;  /* bytes from the start of its chain */
	uint32_t chain, pos;
};

struct ovm_chain_link { /* an edge as one of its chains sees it */
	uint32_t other, edge;
};

struct ovm_chain {
	ovm_indices nodes; /* empty: merged into another */
	ovm_indices self;  /* jumps inside, ascending */
	OVM_VEC(struct ovm_chain_link) links;
	uint64_t count, size;
};

struct ovm_chain_side {	      /* of an edge: the merge with its chain[side] as X */
	struct ovm_gain gain; /* unless is_bound */
	double score;	      /* of the gain, or an upper bound */
	bool is_bound;
};

struct ovm_chain_edge {
	uint32_t chain[2];
	ovm_indices jumps; /* ascending; empty: gone */
	struct ovm_chain_side side[2];
	uint32_t at;   /* 1 + place in the queue, 0: not there */
	bool is_stale; /* its chains have changed since it was queued */
};

struct ovm_chain_item { /* the better side of an edge */
	double score;
	uint32_t x, y; /* first nodes of the chains, for ties; X is chain[side] */
	uint32_t edge : 30, side : 1, is_bound : 1;
};

struct ovm_chains {
	uint32_t n;		  /* nodes; at first chain i is node i */
	struct ovm_place *places; /* [n] */
	struct ovm_chain *chains; /* [n] */
	OVM_VEC(struct ovm_chain_edge) edges;
	OVM_VEC(struct ovm_chain_item) queue; /* a heap */
	uint32_t *edge_to;  /* [n] scratch: 1 + edge from the chain at hand to this chain */
	uint32_t max_eager; /* chains with more edges refresh them lazily */
};

/* @sizes, @counts: [n]. A size of 0 counts as 1. */
void ovm_chains_init(struct ovm_chains *chains, uint32_t n, const uint64_t *sizes,
		     const uint64_t *counts);
void ovm_chains_fini(struct ovm_chains *chains);

/* Connect nodes: jump j goes from src(j) to dst(j); only before the first merge. @first[i] ..
 * @first[i+1]: jumps out of node i. */
void ovm_chains_connect(struct ovm_chains *chains, const uint32_t *first, const uint32_t *dst);

/* Merge chain @y into @x. */
void ovm_chains_merge(struct ovm_chains *chains, uint32_t x, uint32_t y, uint32_t cut,
		      enum ovm_merge how);

/* The best way to merge two chains of an edge, score <= 0 if none. Called for both orders of the
 * chains. */
typedef struct ovm_gain (*ovm_gain_fn)(const struct ovm_chains *chains, const void *user,
				       const struct ovm_chain_edge *edge, uint32_t x, uint32_t y);

/* At least the score that would give, quickly. */
typedef double (*ovm_bound_fn)(const struct ovm_chains *chains, const void *user,
			       const struct ovm_chain_edge *edge, uint32_t x, uint32_t y);

/* Merge the best pair until none gains. Ties: lowest first node of x, then of y. @bound may be
 * NULL. */
void ovm_chains_run(struct ovm_chains *chains, ovm_gain_fn gain, ovm_bound_fn bound,
		    const void *user);

/* All chains, @first_chain (or none: OVM_NONE) first, the others by count a byte, descending; then
 * their nodes to @order. */
void ovm_chains_concat(const struct ovm_chains *chains, uint32_t first_chain, uint32_t *order);

#endif
