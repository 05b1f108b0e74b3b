#ifndef OVM_CFG_H
#define OVM_CFG_H
/* The control-flow graph of one group: a region, and the regions it exchanges mid-body edges with
 * (its .cold parts).
 *
 * Blocks, edges and instructions are indices. Blocks are sorted by address within a region, regions
 * in the order of cfg->regions (head first). An edge may leave to any address: then dst is OVM_NONE
 * and `to` says where. Calls do not end blocks. Whatever is not understood (an unproven indirect
 * jump) has no edges: copied as it is, it lands in the original code, which stays valid.
 */
#include "analyzer/disasm.h"
#include "analyzer/region.h"

enum { /* ovm_block.flags */
       OVM_BLOCK_REGION_START = 1 << 0,
       OVM_BLOCK_LANDING_PAD = 1 << 1,	/* the unwinder may enter here */
       OVM_BLOCK_TABLE_TARGET = 1 << 2, /* target of a proven jump table */
       OVM_BLOCK_REACHABLE = 1 << 3, /* from a region start that is not a fragment, along edges */
       OVM_BLOCK_UNKNOWN_JUMP = 1 << 4, /* ends in an indirect jump without proven table */
       OVM_BLOCK_TAIL_CALL = 1 << 5,	/* ends in an indirect jump that is certainly a tail call
					   (pointer load without index) */
};

struct ovm_block {
	ovm_va lo, hi;
	uint32_t region;	      /* index into ovm_regions */
	uint32_t first_insn, n_insns; /* in cfg->insns; n_insns >= 1 */
	uint32_t first_edge,
	    n_edges; /* out edges, contiguous in cfg->edges: fall-through first if any */
	uint32_t
	    table; /* index into cfg->tables if it ends in a proven table jump, else OVM_NONE */
	uint32_t flags;
	uint64_t samples; /* PC samples inside (weight.c) */
	uint64_t count;	  /* executions, inferred or exact (weight.c) */
};

enum ovm_edge_kind { OVM_EDGE_FALL, OVM_EDGE_TAKEN, OVM_EDGE_TABLE };

struct ovm_edge {
	uint32_t src, dst; /* blocks; dst OVM_NONE: leaves the group to `to` */
	ovm_va to;	   /* target address, always set */
	uint8_t kind;	   /* enum ovm_edge_kind; TABLE edges are unique by target */
	uint64_t count;	   /* executions (weight.c) */
};

enum ovm_bound {		  /* how a jump table's length is known */
		 OVM_BOUND_CMP,	  /* compare and branch dominate the load */
		 OVM_BOUND_MASK,  /* and-mask of the index */
		 OVM_BOUND_WIDTH, /* zero-extended byte or word index */
		 OVM_BOUND_COPY,  /* not proven: copied generously up to the next referenced address
				   */
};

/* target = base + sign-extend(load4[table + 4*i])  (relative)   or   load8[table + 8*i] (absolute),
 * i in [0, n_entries). Absolute entries of position-independent images are relocations. */
struct ovm_jumptable {
	uint32_t jump_insn; /* index of the indirect jump */
	uint32_t load_insn; /* index of the instruction whose displacement is changed; may equal
			       jump_insn */
	ovm_va table;	    /* address of entry 0 */
	ovm_va base;	    /* K1; 0 for absolute tables; the table itself where they are relocated */
	uint32_t n_entries;
	uint8_t entry_size; /* 4 or 8 */
	uint8_t bound;	    /* enum ovm_bound */
	ovm_va *targets;    /* n_entries original targets, live as long as the cfg; any value is
			       possible (over-copied entries) */
};

static inline bool ovm_jumptable_is_relocated(const struct ovm_jumptable *table)
{
	return table->entry_size == 8 && table->base.v;
}

struct ovm_cfg {
	uint32_t *regions; /* indices into ovm_regions; regions[0] is the head */
	uint32_t n_regions;
	struct ovm_insn *insns;
	uint32_t n_insns;
	struct ovm_block *blocks;
	uint32_t n_blocks;
	struct ovm_edge *edges;
	uint32_t n_edges;
	struct ovm_jumptable *tables;
	uint32_t n_tables;
	uint32_t n_unknown_jumps;
	uint32_t *by_va;      /* [n_blocks]: block indices sorted by lo */
	uint32_t *first_pred; /* [n_blocks + 1]: preds[first_pred[bb]..first_pred[bb + 1]) are the
				 edges into block bb */
	uint32_t *preds;      /* edge indices, ascending for each block */
	bool has_unseen_entries; /* an unknown jump, or a region outside with edges into the middle:
				  * blocks may be entered along edges that are not here */
	uint64_t samples;	 /* PC samples in the group */
	bool has_counts;	 /* weight.c has run */
	bool is_exact;		 /* counts are executions; else what samples suggest (rescale.c) */
	void *storage;		 /* one allocation that holds the arrays above */
	struct ovm_arena arena;	 /* for what is added later */
};

#define ovm_cfg_foreach_bb(cfg, bb) for (uint32_t bb = 0; bb < (cfg)->n_blocks; bb++)

/* Build the graph of the group of region @head: decode, follow mid-body edges into other regions
 * (and into fragments) and pull these in, find leaders (branch targets, landing pads, region
 * starts, proven table targets), split, resolve jump tables to a fixed point. A pulled-in region
 * that is refused stays outside; its edges become external. Returns 0, or OVM_REFUSED with
 * regions->v[head].refused set and counted. */
int ovm_cfg_build(struct ovm_ctx *ctx, struct ovm_decoder *dec, const struct ovm_image *image,
		  struct ovm_regions *regions, uint32_t head, struct ovm_cfg **out);
void ovm_cfg_free(struct ovm_cfg *cfg); /* accepts NULL */

uint32_t ovm_cfg_block_at(const struct ovm_cfg *cfg,
			  ovm_va va); /* block that starts at @va, OVM_NONE */
uint32_t ovm_cfg_block_of(const struct ovm_cfg *cfg,
			  ovm_va va); /* block that contains @va, OVM_NONE */
const struct ovm_insn *ovm_block_last(const struct ovm_cfg *cfg, uint32_t bb);

/* Invariants (edges sorted by source, tiling, fall-throughs adjacent, ...); asserts on violation.
 */
void ovm_cfg_verify(const struct ovm_cfg *cfg, const struct ovm_regions *regions);
void ovm_cfg_dump(const struct ovm_image *image, const struct ovm_cfg *cfg, FILE *to);

#endif
