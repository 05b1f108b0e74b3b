#ifndef OVM_CFG_PRIVATE_H
#define OVM_CFG_PRIVATE_H
/* The graph under construction. Private to cfg.c, draft.c and group.c. */
#include "analyzer/draft.h"
#include "analyzer/jumptable.h"
#include "analyzer/slice.h"

enum {				 /* marks of one code byte */
       OVM_MARK_START = 1 << 0,	 /* an instruction starts here */
       OVM_MARK_LEADER = 1 << 1, /* a block starts here */
       OVM_MARK_PAD = 1 << 2,	 /* a landing pad */
       OVM_MARK_TABLE = 1 << 3,	 /* target of a jump table */
};

struct ovm_part { /* one region of the group */
	uint32_t region;
	ovm_va lo, hi;
	uint32_t first_insn, n_insns;
	uint32_t first_mark; /* marks[first_mark + (va - lo)] */
	uint32_t first_block, n_blocks;
};

struct ovm_jump { /* one indirect jump */
	uint32_t insn;
	uint32_t block;		    /* that it ends, in the present split */
	uint8_t cls;		    /* enum ovm_jump_class */
	bool is_frame_empty;	    /* CFA is rsp+8: where a tail call must be */
	bool is_given_up;	    /* contradicting results: stays unknown */
	struct ovm_jumptable table; /* valid if cls is TABLE; targets not yet read */
};

struct ovm_pad { /* a landing pad to mark when its region is known */
	ovm_va va;
};

struct ovm_cfg_build {
	struct ovm_decoder *dec;
	const struct ovm_image *image;
	const struct ovm_regions *regions;
	struct ovm_cfi *cfi; /* the unwind rows are interned here */
	ovm_draft_regions assumed_free;
	ovm_draft_refusals refused;
	OVM_VEC(struct ovm_part) parts;
	ovm_insns insns;
	OVM_VEC(uint8_t) marks;
	OVM_VEC(struct ovm_jump) jumps; /* ascending insn */
	struct ovm_frame_rows rows;    /* of insns */
	OVM_VEC(struct ovm_pad) pads;
	OVM_VEC(struct ovm_block) blocks;
	OVM_VEC(struct ovm_edge) edges;
	OVM_VEC(struct ovm_jumptable) tables;
	OVM_VEC(uint32_t) by_va;
	OVM_VEC(uint32_t) first_pred;
	OVM_VEC(uint32_t) preds;
	OVM_VEC(ovm_va) targets;  /* scratch: one table's unique targets */
	uint32_t n_followed;	  /* parts whose branches were followed */
	bool has_outside_partner; /* a mid-body edge goes to a region that could not join */
};

/* Build the graph of the group of @head into @cfg, which is zeroed. Returns NONE, or why @head is
 * refused; @cfg is then half-built. */
enum ovm_refusal ovm_cfg_build_group(struct ovm_cfg_build *build, uint32_t head,
				     struct ovm_cfg *cfg);

/* Part that contains @va, NULL if the group does not. */
struct ovm_part *ovm_group_part(struct ovm_cfg_build *build, ovm_va va);

/* Mark @va as a block start if an instruction of the group starts there. True if the mark is new.
 */
bool ovm_group_mark(struct ovm_cfg_build *build, ovm_va va, uint8_t marks);

/* Decode and check region @idx and make it a part. Returns 0, or OVM_REFUSED with *why; the build
 * is then unchanged. */
int ovm_group_add(struct ovm_cfg_build *build, uint32_t idx, enum ovm_refusal *why);

/* An edge goes to @va: pull its region in if it is entered in its middle or is a fragment. */
void ovm_group_pull(struct ovm_cfg_build *build, ovm_va va);

/* Pull in along the direct branches of all parts until nothing new comes; marks leaders. */
void ovm_group_close(struct ovm_cfg_build *build);

#endif
