#ifndef OVM_BOUND_H
#define OVM_BOUND_H
/* How large can an index be? Proofs from compares, masks and widths on all paths to its use. */
#include "analyzer/slice.h"

enum ovm_bound_proof {
	OVM_PROOF_CMP, /* as enum ovm_bound */
	OVM_PROOF_MASK,
	OVM_PROOF_WIDTH,
	OVM_PROOF_UNSIGNED, /* no bound, but certainly not negative: zero-extended from 32 bits or
			       less */
	OVM_PROOF_NONE,
};

/* Largest value of the 64-bit register @reg just before @at, into *max (valid for CMP, MASK and
 * WIDTH). */
enum ovm_bound_proof ovm_bound_find(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg,
				    uint64_t *max);

#endif
