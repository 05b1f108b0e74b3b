#ifndef OVM_STALE_PRIVATE_H
#define OVM_STALE_PRIVATE_H
/* What stale.c and stale_pairs.c share. */
#include "analyzer/blockhash.h"
#include "analyzer/region.h"
#include "analyzer/stale_blocks.h"

struct ovm_stale_region {
	ovm_va lo, hi;
	uint64_t hash;
	const char *name;  /* borrowed, may be NULL */
	uint32_t first, n; /* recorded blocks */
	uint64_t code;	   /* bytes of these */
	uint32_t now;	   /* its pair, index into ovm_regions; OVM_NONE */
	bool is_same;	   /* its pair has equal code */
};

struct ovm_stale_keyed { /* a region under what it is looked up by */
	uint64_t key;
	uint32_t region;
};

struct ovm_stale_twin { /* a recorded block under a part of its hash */
	uint64_t key;
	uint32_t old, bytes;
};

struct ovm_stale_vote { /* code that an old and a new region share */
	uint32_t old, now;
	uint64_t bytes;
};

struct ovm_stale_match {
	const struct ovm_image *image;
	const struct ovm_regions *regions;
	const struct ovm_prof_module *module;
	OVM_VEC(struct ovm_stale_region) old;	 /* ascending, disjoint */
	struct ovm_stale_block *blocks;		 /* [module->blocks.n] */
	uint64_t *hash;				 /* [regions], 0 unknown */
	bool *is_taken;				 /* [regions] */
	OVM_VEC(struct ovm_stale_keyed) by_hash; /* new regions by (hash, index) */
	OVM_VEC(struct ovm_stale_twin) twins;	 /* by (key, old) */
	OVM_VEC(struct ovm_stale_vote) votes;
};

/* First index of a sorted list whose field @key is >= @x. */
#define OVM_LOWER_BOUND(list, key, x, out)                                                         \
	do {                                                                                       \
		uint32_t lo_ = 0, hi_ = (list)->n;                                                 \
		while (lo_ < hi_) {                                                                \
			uint32_t mid_ = lo_ + (hi_ - lo_) / 2;                                     \
			if ((list)->v[mid_].key < (x))                                             \
				lo_ = mid_ + 1;                                                    \
			else                                                                       \
				hi_ = mid_;                                                        \
		}                                                                                  \
		(out) = lo_;                                                                       \
	} while (0)

/* stale_pairs.c: fill old, hash and the pairs: old.v[i].now, and m->blocks for those whose code
 * changed. The rest of @m is set up by the caller, the arrays zeroed. */
void ovm_stale_pair(struct ovm_stale_match *m, struct ovm_decoder *dec);

#endif
