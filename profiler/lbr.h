#ifndef OVM_LBR_H
#define OVM_LBR_H
/* Branch stacks (Intel LBR, AMD LBRv2 and BRS) -> counted branches and straight-line ranges of each
 * module, in memory bounded by the code that runs. */
#include "profiler/procmap.h"
#include "profiler/profile.h"

enum { OVM_LBR_MAX_RANGE = 64 << 10 }; /* bytes; longer straight runs are not believed */

struct ovm_lbr_pair {
	ovm_va from, to;
	uint64_t count; /* 0: free slot */
	uint64_t mispreds;
};

struct ovm_lbr_table { /* open addressing by (from, to) */
	struct ovm_lbr_pair *v;
	uint32_t n, cap; /* cap: 0 or a power of two */
};

struct ovm_lbr_module {
	struct ovm_lbr_table branches, ranges;
};

struct ovm_lbr {
	OVM_VEC(struct ovm_lbr_module) modules; /* indices of ovm_procmap */
	uint64_t n_stacks;			/* samples with at least one entry */
	uint64_t n_branches, n_ranges;		/* counted; not the oldest branch of a stack */
	uint64_t n_crossing;   /* branches from one module to another: calls of libraries, mostly */
	uint64_t n_nowhere;    /* branches with an end in the kernel or in no file */
	uint64_t n_impossible; /* ranges that run backwards, too far or across modules; entries of
				  zeros; repeated entries */
};

void ovm_lbr_fini(struct ovm_lbr *lbr); /* accepts zeroed, which is also how to begin */

/* Count the branch stack of @sample, which may be empty. It must hold all kinds of taken branches
 * (PERF_SAMPLE_BRANCH_ANY): with some left out, what lies between two entries is no straight run.
 */
void ovm_lbr_add(struct ovm_lbr *lbr, struct ovm_procmap *map, const struct ovm_sample *sample);

/* Append what was counted for @module of the map to @to, unsorted. */
void ovm_lbr_emit(const struct ovm_lbr *lbr, uint32_t module, struct ovm_prof_module *to);

#endif
