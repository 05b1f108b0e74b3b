#ifndef OVM_FRAME_H
#define OVM_FRAME_H
/* Where a function stores into its own stack frame: registers that the compiler keeps there. */
#include "analyzer/cfg.h"

struct ovm_frame_row { /* how instructions from @insn on name the frame */
	uint32_t insn;
	uint8_t reg;	 /* the CFA is this register, OVM_RSP or OVM_RBP, ... */
	int32_t cfa_off; /* ... plus this; OVM_REG_NONE: something else */
};

struct ovm_frame_rows {
	OVM_VEC(struct ovm_frame_row) v; /* ascending insn */
};

struct ovm_frame_store {
	uint32_t insn;
	int64_t lo; /* offset from the CFA */
	uint32_t size;
	bool is_move; /* of a register or constant, and nothing else */
};

struct ovm_frame {
	const struct ovm_cfg *cfg;		/* borrowed */
	const struct ovm_frame_rows *rows;	/* borrowed */
	OVM_VEC(struct ovm_frame_store) stores; /* ascending insn */
	int64_t
	    taken; /* offset from the CFA: from here on the frame may be written through pointers */
};

/* All of @cfg. @rows: of its instructions. */
void ovm_frame_init(struct ovm_frame *frame, const struct ovm_cfg *cfg,
		    const struct ovm_frame_rows *rows);
void ovm_frame_fini(struct ovm_frame *frame);

/* Instruction @insn is a plain load of 8 bytes from a place that only the stores of the list write:
 * its offset from the CFA. */
bool ovm_frame_load(const struct ovm_frame *frame, uint32_t insn, int64_t *slot);

/* The last store of instructions [@first, @end) that overlaps [@slot, @slot + 8); NULL if none. */
const struct ovm_frame_store *ovm_frame_last_store(const struct ovm_frame *frame, uint32_t first,
						   uint32_t end, int64_t slot);

#endif
