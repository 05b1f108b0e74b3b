/* What a branch stack says.
 *
 * With each sample the CPU hands out its last 16 or 32 taken branches, newest first. Every entry is
 * one execution of a branch, and between two entries nothing jumped, so the code between them ran
 * straight through:
 *
 *   entry   from   to           old  0x10 -> 0x40
 *     0     0x68   0x20               0x40 .. 0x54     range   0x40 .. 0x54
 *     1     0x54   0x60               0x54 -> 0x60     branch  0x54 -> 0x60
 *     2     0x10   0x40               0x60 .. 0x68     range   0x60 .. 0x68
 *                               new  0x68 -> 0x20      branch  0x68 -> 0x20
 *
 * So one sample gives some thirty exact facts, where a plain PC sample gives one vague one. A range
 * ends with the instruction at its upper address, which is a taken branch. The oldest entry only
 * says where the first range begins: were its branch counted, taken edges would get 32 counts where
 * equally frequent fall-through edges get 31, and with stacks of 16 it would be 7 % too many.
 *
 * Hardware and kernels are not always right, and a wrong range would count blocks that never ran:
 *
 *   a range that runs backwards, far, or into another module    dropped, its two branches stay
 *   one end in the kernel (system call, interrupt)              no branch; ranges at its other end
 * stay a forward branch twice in a row                             it cannot be: the second is a
 * copy zeros                                                       no entry; nothing is known
 * around it
 *
 * A branch to another module is no edge of a graph and is only counted in total. An hour of samples
 * has billions of entries but only some ten thousand different ones, so they are counted in hash
 * tables at once.
 */
#include "profiler/lbr.h"

#include <stdlib.h>

enum { FIRST_CAP = 256 };

#define KERNEL_HALF (1ull << 63) /* set in every kernel address */

struct point {		 /* a run-time address, resolved */
	uint32_t module; /* OVM_NONE: nowhere */
	ovm_va va;
};

static struct ovm_lbr_pair *slot_of(const struct ovm_lbr_table *table, ovm_va from, ovm_va to)
{
	uint64_t hash = (from.v ^ (to.v << 32 | to.v >> 32)) * 0x9e3779b97f4a7c15ull;
	uint32_t mask = table->cap - 1, at = (uint32_t)(hash >> 32) & mask;
	while (table->v[at].count && (table->v[at].from.v != from.v || table->v[at].to.v != to.v))
		at = (at + 1) & mask;
	return &table->v[at];
}

static void grow(struct ovm_lbr_table *table)
{
	struct ovm_lbr_table old = *table;
	OVM_ASSERT(old.cap <= UINT32_MAX / 2);
	table->cap = old.cap ? 2 * old.cap : FIRST_CAP;
	table->v = ovm_alloc_array(table->cap, sizeof(*table->v));
	for (uint32_t i = 0; i < old.cap; i++)
		if (old.v[i].count)
			*slot_of(table, old.v[i].from, old.v[i].to) = old.v[i];
	free(old.v);
}

static void count(struct ovm_lbr_table *table, ovm_va from, ovm_va to, bool mispredicted)
{
	if (table->n >= table->cap / 4 * 3)
		grow(table);
	struct ovm_lbr_pair *pair = slot_of(table, from, to);
	if (!pair->count) {
		pair->from = from;
		pair->to = to;
		table->n++;
	}
	pair->count++;
	pair->mispreds += mispredicted;
}

static struct ovm_lbr_module *module_at(struct ovm_lbr *lbr, uint32_t module)
{
	while (lbr->modules.n <= module)
		ovm_vec_push(&lbr->modules, (struct ovm_lbr_module){0});
	return &lbr->modules.v[module];
}

static struct point resolve(struct ovm_procmap *map, const struct ovm_sample *sample, uint64_t addr)
{
	struct point point = {.module = OVM_NONE};
	if (!(addr & KERNEL_HALF))
		point.module =
		    ovm_procmap_resolve(map, (pid_t)sample->pid, ovm_rta_of(addr), &point.va);
	return point;
}

static void count_branch(struct ovm_lbr *lbr, struct point from, struct point to, bool mispredicted)
{
	if (from.module == OVM_NONE || to.module == OVM_NONE) {
		lbr->n_nowhere++;
	} else if (from.module != to.module) {
		lbr->n_crossing++;
	} else {
		count(&module_at(lbr, from.module)->branches, from.va, to.va, mispredicted);
		lbr->n_branches++;
	}
}

/* The straight run from where a branch arrived (@from) to where the next one left (@to). */
static void count_range(struct ovm_lbr *lbr, struct point from, struct point to)
{
	if (from.module == OVM_NONE || to.module == OVM_NONE) /* its branches were counted so */
		return;
	if (from.module != to.module || to.va.v < from.va.v ||
	    to.va.v - from.va.v > OVM_LBR_MAX_RANGE) {
		lbr->n_impossible++;
		return;
	}
	count(&module_at(lbr, from.module)->ranges, from.va, to.va, false);
	lbr->n_ranges++;
}

void ovm_lbr_add(struct ovm_lbr *lbr, struct ovm_procmap *map, const struct ovm_sample *sample)
{
	const struct point nowhere = {.module = OVM_NONE};
	struct ovm_branch_record newer = {0};
	struct point next = nowhere; /* where the newer entry left */

	lbr->n_stacks += sample->n_branches > 0;
	for (uint32_t i = 0; i < sample->n_branches; i++) {
		struct ovm_branch_record entry = ovm_record_branch(sample, i);
		bool is_copy =
		    entry.from == newer.from && entry.to == newer.to && entry.from < entry.to;
		newer = entry;
		if (is_copy || (!entry.from && !entry.to)) {
			lbr->n_impossible++;
			if (!is_copy)
				next = nowhere;
			continue;
		}
		struct point from = resolve(map, sample, entry.from);
		struct point to = resolve(map, sample, entry.to);
		count_range(lbr, to, next);
		if (i + 1 < sample->n_branches)
			count_branch(lbr, from, to, entry.mispredicted);
		next = from;
	}
}

void ovm_lbr_emit(const struct ovm_lbr *lbr, uint32_t module, struct ovm_prof_module *to)
{
	if (module >= lbr->modules.n)
		return;
	const struct ovm_lbr_table *branches = &lbr->modules.v[module].branches;
	const struct ovm_lbr_table *ranges = &lbr->modules.v[module].ranges;
	ovm_vec_reserve(&to->branches, to->branches.n + branches->n);
	for (uint32_t i = 0; i < branches->cap; i++) {
		const struct ovm_lbr_pair *pair = &branches->v[i];
		if (pair->count)
			ovm_vec_push(&to->branches,
				     (struct ovm_prof_branch){pair->from, pair->to, pair->count,
							      pair->mispreds});
	}
	ovm_vec_reserve(&to->ranges, to->ranges.n + ranges->n);
	for (uint32_t i = 0; i < ranges->cap; i++) {
		const struct ovm_lbr_pair *pair = &ranges->v[i];
		if (pair->count)
			ovm_vec_push(&to->ranges,
				     (struct ovm_prof_range){pair->from, pair->to, pair->count});
	}
}

void ovm_lbr_fini(struct ovm_lbr *lbr)
{
	for (uint32_t i = 0; i < lbr->modules.n; i++) {
		free(lbr->modules.v[i].branches.v);
		free(lbr->modules.v[i].ranges.v);
	}
	ovm_vec_free(&lbr->modules);
}
