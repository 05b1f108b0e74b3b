#ifndef OVM_BLOCKHASH_H
#define OVM_BLOCKHASH_H
/* Hashes of code that another build of the same program shares: of a region, and of its blocks. */
#include "analyzer/disasm.h"

/* The parts of a block's hash, from what changes least to what changes most:
 *
 *   63        40 39        16 15      8 7       0
 *   | opcodes   | code       | before  | behind  |
 *
 * opcodes: operations without operands; code: with operands, addresses left out; before and behind:
 * the opcodes of the blocks that jump or fall here, and of those it jumps or falls to. */
static inline uint64_t ovm_blockhash_opcodes(uint64_t hash)
{
	return hash >> 40;
}

/* Blocks with equal opcodes and code are equal instruction by instruction, at equal offsets. */
static inline uint64_t ovm_blockhash_code(uint64_t hash)
{
	return hash >> 16;
}

/* Opcodes and those of the neighbours: a place in the graph, whatever registers and offsets it
 * uses. */
static inline uint64_t ovm_blockhash_shape(uint64_t hash)
{
	return hash >> 40 << 16 | (hash & 0xffff);
}

struct ovm_hashed_block {
	uint32_t off, len; /* from the region's lo, in bytes */
	uint32_t last;	   /* bytes from the block's first to its last instruction */
	uint64_t hash;
};

struct ovm_blockhash { /* of one region */
	uint64_t hash; /* of all its code; equal: instructions at equal offsets. Never 0 */
	OVM_VEC(struct ovm_hashed_block) blocks; /* ascending, without gaps */
	ovm_insns insns;			 /* of the region */
};

/* Hash [lo, hi) into @out, whose storage is used again; zero-initialised is empty. Returns 0, or
 * OVM_REFUSED if the range cannot be decoded (@out then has no blocks). */
int ovm_blockhash_build(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va lo,
			ovm_va hi, struct ovm_blockhash *out);
void ovm_blockhash_fini(struct ovm_blockhash *out);

#endif
