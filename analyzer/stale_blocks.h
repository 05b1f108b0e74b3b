#ifndef OVM_STALE_BLOCKS_H
#define OVM_STALE_BLOCKS_H
/* Where the recorded blocks of one region are in another build of it. Private to stale.c. */
#include "analyzer/blockhash.h"
#include "profiler/profile.h"

struct ovm_stale_block {
	ovm_va lo;     /* where it is now */
	uint32_t last; /* bytes from lo to its last instruction */
	bool is_found;
	bool is_same; /* every instruction is where it was, counted from lo */
};

/* Look for the @n recorded blocks @old, ascending, of a region that began at @old_lo. @now are the
 * hashes of the region as it is, at @now_lo. @out: n entries. No two blocks are found at one place.
 */
void ovm_stale_find_blocks(const struct ovm_prof_block *old, uint32_t n, ovm_va old_lo,
			   const struct ovm_blockhash *now, ovm_va now_lo,
			   struct ovm_stale_block *out);

#endif
