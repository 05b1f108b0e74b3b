#ifndef OVM_LAYOUT_H
#define OVM_LAYOUT_H
/* In which order the copied blocks stand in the overlay: one flat list over all regions, hot part
 * first.
 *
 *   trace.c   hot paths inside a group (seeds for layout)
 *   layout.c  block order inside a group by ext-TSP
 *   order.c   order of groups by call-graph clustering (CDSort, HFSort)
 *
 * A slot is one copy of one block. A flat list lets later passes interleave regions or duplicate
 * blocks without changing the rewriter: a block may appear in several slots; its first slot that is
 * no second copy is where direct edges from elsewhere go.
 */
#include "analyzer/promote.h"

struct ovm_slot {
	uint32_t cfg, block; /* into program->cfgs, cfg->blocks */
	uint16_t
	    align; /* power of two; pad so that the slot starts aligned, at most max_pad bytes */
	uint16_t max_pad;
	uint64_t second; /* 0: the copy of the block; else one of its other copies, that runs so
			    often (tails.h) */
	uint32_t stub; /* 0: a copy of the block; else 1 + a cfg edge out of it: only the counter of
			  that edge stands here */
	uint32_t call; /* else 1 + an indirect call in it: only the thunk that counts its targets
			  stands here */
	uint32_t slow; /* else 1 + a promoted call in it: only the call as it was stands here, for
			  what the comparison does not expect */
};

struct ovm_layout {
	OVM_VEC(struct ovm_slot) slots;
	uint32_t n_hot;		     /* slots [0, n_hot) are hot, the rest the cold part */
	double score;		     /* sum of ext-TSP scores of the block orders, for dumps */
	double score_original;	     /* the same for the original order */
	ovm_promotions promotions;   /* among the cfgs that have slots; sorted by (cfg, insn) */
	OVM_VEC(uint32_t) not_worth; /* cfgs without slots: better left where they are (worth.h) */
};

/* A copy of the block itself? */
static inline bool ovm_slot_is_block(const struct ovm_slot *slot)
{
	return !slot->stub && !slot->call && !slot->slow;
}

/* Order the blocks of one weighted cfg to raise its Ext-TSP score (Newell and Pupyrev 2020,
 * arXiv:1809.04676; LLVM's constants). Only REACHABLE blocks are placed. @order: caller's array of
 * n_blocks; order[0] is the head's entry block if it is reachable. *n_hot: blocks order[0..*n_hot)
 * have a non-zero count; cold ones follow in original order. Returns the number of blocks placed.
 * Ties keep the input order; deterministic. */
uint32_t ovm_layout_blocks(const struct ovm_cfg *cfg, uint32_t *order, uint32_t *n_hot);

/* Ext-TSP score of an order of blocks with the given sizes (bytes) and jumps; for tests, dumps and
 * the LLVM oracle. */
double ovm_exttsp_score(const uint32_t *order, uint32_t n, const uint64_t *sizes,
			const struct ovm_edge *edges, uint32_t n_edges, const uint32_t *out_degree);

enum ovm_order { OVM_ORDER_ORIGINAL, OVM_ORDER_HFSORT, OVM_ORDER_CDSORT };

/* Order of the cfgs of a program (NULL slots left out): @order receives cfg indices, returns how
 * many. @calls: of ovm_program_calls. @size[i]: hot bytes of cfg i. */
uint32_t ovm_order_regions(const struct ovm_program *program, const ovm_calls *calls,
			   enum ovm_order how, const uint64_t *size, uint32_t *order);

/* The whole layout: blocks, regions, hot part, cold part. */
struct ovm_layout_opts {
	enum ovm_order order;
	bool tails;	       /* second copies of short ends of paths (tails.h) */
	bool promote;	       /* compare in place of indirect calls (promote.h) */
	bool take_all;	       /* also what is not worth copying */
	bool keep_block_order; /* pure copy: original order inside each group */
	bool drop_cold; /* leave zero-count blocks in the original instead of copying them to the
			   cold part */
};
void ovm_layout_build(struct ovm_ctx *ctx, const struct ovm_program *program,
		      const struct ovm_layout_opts *opts, struct ovm_layout *out);
void ovm_layout_fini(struct ovm_layout *layout);
void ovm_layout_dump(const struct ovm_program *program, const struct ovm_layout *layout, FILE *to);

#endif
