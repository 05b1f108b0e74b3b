#ifndef OVM_SLICE_H
#define OVM_SLICE_H
/* Backward slicing over a cfg: which instructions define a register, and is its value a constant?
 */
#include "analyzer/frame.h"

struct ovm_slicer { /* scratch for many questions about one state of one cfg */
	const struct ovm_image *image;
	const struct ovm_regions *regions;
	const struct ovm_cfg *cfg;
	uint32_t *block_defs; /* [n_blocks]: union of the instructions' defs */
	bool *is_reachable;   /* [n_blocks]: from functions' starts and pads along the edges so far
				 known */
	uint32_t *seen;	      /* [n_blocks]: == generation if visited by the present walk */
	uint64_t *taint;      /* [n_blocks]: for forward walks, all zero between them */
	const struct ovm_frame_rows *rows; /* borrowed; NULL: nothing is known of the frame */
	struct ovm_frame frame;
	bool has_frame;	   /* frame is filled */
	bool is_tentative; /* what needs another jump to be understood may be taken for granted:
			      callers ask again without */
	uint32_t generation;
	OVM_VEC(uint32_t) stack;
};

struct ovm_point { /* just before instruction insn of block bb */
	uint32_t bb, insn;
};

enum { OVM_MAX_DEFS = 64 };

struct ovm_defs {
	uint32_t n;
	struct ovm_point at[OVM_MAX_DEFS]; /* the defining instructions */
	bool from_entry;		   /* the value a function was called with reaches too */
	bool is_unknown;		   /* too many, or a way in that is not understood */
};

/* @rows: of the cfg's instructions, or NULL; borrowed. */
void ovm_slicer_init(struct ovm_slicer *slicer, const struct ovm_image *image,
		     const struct ovm_regions *regions, const struct ovm_cfg *cfg,
		     const struct ovm_frame_rows *rows);
void ovm_slicer_fini(struct ovm_slicer *slicer);

/* May block @bb be entered with a state nobody knows: a function's start, a landing pad; and, if
 * not all jumps are understood, any block that no known edge leads to? */
bool ovm_slice_is_entry(const struct ovm_slicer *slicer, uint32_t bb);

/* Is @edge followed by the program as far as is known? Edges out of code that nothing reaches yet
 * are not. */
bool ovm_slice_is_edge(const struct ovm_slicer *slicer, const struct ovm_edge *edge);

/* All definitions of @reg that reach @at. */
void ovm_slice_defs(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg,
		    struct ovm_defs *out);

/* The one instruction that defines @reg for @at on all paths; false if there is not exactly one. */
bool ovm_slice_def(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg,
		   struct ovm_point *out);

/* True if @reg holds the same constant at @at on all paths; also through registers and places in
 * the frame that it was copied to. */
bool ovm_slice_const(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg, uint64_t *value);

/* An address: constant + scale * reg, reg read just before @at. */
struct ovm_linear {
	uint64_t constant;
	uint8_t reg;   /* OVM_REG_NONE: no variable part */
	uint8_t scale; /* 1, 2, 4, 8 */
	struct ovm_point at;
};

/* The address of the memory operand (or the value of the lea) at @at; follows shifts and leas until
 * the variable part has
 * @scale. False if it has another shape. */
bool ovm_slice_address(struct ovm_slicer *slicer, struct ovm_point at, uint8_t scale,
		       struct ovm_linear *out);

#endif
