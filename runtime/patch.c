/* Writing the jumps into a stopped process, quickly and so that any instant is a good one to die.
 *
 *   page  ....[E9 xx xx xx xx]......[E9 ..].......     all patches of one page: one read, one
 * check, one write
 *
 * The kernel copies one page's worth in one go that no signal interrupts, so after a kill -9 each
 * page holds either all of its patches or none, and either is a valid program: overlays are
 * complete before the first jump leads there, and the original code is valid for ever. A patch that
 * would cross a page has no such guarantee and is dropped (1 in 1000).
 *
 * The first write to a page of a private file mapping makes the kernel copy it, which costs more
 * than the write itself. So each page gets one of its own bytes written back before the stop;
 * during the stop only memory of our own is written.
 */
#define OVM_LOG_DOMAIN "patch"
#include "runtime/patch.h"
#include "base/fault.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096 };

static uint64_t page_of(ovm_rta at)
{
	return at.v / PAGE;
}

static int by_at(const void *a, const void *b)
{
	const struct ovm_live_patch *x = a, *y = b;
	return (x->at.v > y->at.v) - (x->at.v < y->at.v);
}

void ovm_patchset_add(struct ovm_patchset *set, const struct ovm_live_patch *patch)
{
	OVM_ASSERT(patch->len > 0 && patch->len <= sizeof(patch->old_bytes));
	ovm_vec_push(&set->v, *patch);
}

void ovm_patchset_add_overlay(struct ovm_patchset *set, const struct ovm_overlay *overlay,
			      uint64_t bias)
{
	ovm_vec_reserve(&set->v, set->v.n + overlay->patches.n);
	for (uint32_t i = 0; i < overlay->patches.n; i++) {
		const struct ovm_patch *p = &overlay->patches.v[i];
		struct ovm_live_patch live = {.at = ovm_va_to_rta(p->at, bias), .len = p->len};
		memcpy(live.old_bytes, p->old_bytes, sizeof(live.old_bytes));
		memcpy(live.new_bytes, p->new_bytes, sizeof(live.new_bytes));
		ovm_patchset_add(set, &live);
	}
}

void ovm_patchset_drop(struct ovm_patchset *set, uint32_t idx)
{
	OVM_ASSERT(set->v.v[idx].state != OVM_PATCH_APPLIED);
	set->n_dropped += set->v.v[idx].state == OVM_PATCH_PLANNED;
	set->v.v[idx].state = OVM_PATCH_DROPPED;
}

void ovm_patchset_seal(struct ovm_patchset *set)
{
	if (set->v.n)
		qsort(set->v.v, set->v.n, sizeof(set->v.v[0]), by_at);
	uint64_t end = 0;
	for (uint32_t i = 0; i < set->v.n; i++) {
		const struct ovm_live_patch *p = &set->v.v[i];
		uint64_t p_end = p->at.v + p->len;
		if (p->at.v < end || page_of(p->at) != page_of(ovm_rta_of(p_end - 1)))
			ovm_patchset_drop(set, i);
		else
			end = p_end;
	}
}

void ovm_patchset_fini(struct ovm_patchset *set)
{
	ovm_vec_free(&set->v);
	set->n_dropped = 0;
}

static bool ends_before(const struct ovm_live_patch *a, const struct ovm_live_patch *b)
{
	return a->at.v + a->len <= b->at.v;
}

void ovm_patchset_merge(struct ovm_patchset *set, const struct ovm_patchset *more)
{
	struct ovm_patchset both = {.n_dropped = set->n_dropped};
	uint32_t i = 0;
	ovm_vec_reserve(&both.v, set->v.n + more->v.n); /* there is room for all of both */
	for (uint32_t k = 0; k < more->v.n; k++) {
		const struct ovm_live_patch *p = &more->v.v[k];
		if (p->state == OVM_PATCH_DROPPED)
			continue;
		while (i < set->v.n && ends_before(&set->v.v[i], p))
			both.v.v[both.v.n++] = set->v.v[i++];
		if (i == set->v.n || ends_before(p, &set->v.v[i]))
			both.v.v[both.v.n++] = *p;
	}
	while (i < set->v.n)
		both.v.v[both.v.n++] = set->v.v[i++];
	ovm_vec_free(&set->v);
	*set = both;
}

void ovm_patchset_forget(struct ovm_patchset *set, const struct ovm_patchset *of, ovm_rta lo,
			 ovm_rta hi)
{
	uint32_t kept = 0, k = 0;
	for (uint32_t i = 0; i < set->v.n; i++) {
		const struct ovm_live_patch *p = &set->v.v[i];
		while (k < of->v.n && of->v.v[k].at.v < p->at.v)
			k++;
		bool is_same = k < of->v.n && of->v.v[k].at.v == p->at.v &&
			       !memcmp(of->v.v[k].new_bytes, p->new_bytes, p->len);
		if (!is_same || p->at.v < lo.v || p->at.v >= hi.v)
			set->v.v[kept++] = *p;
	}
	set->v.n = kept;
}

/* One page's patches: [first, end), and the bytes [lo, lo + len) of the target that hold them. */
struct run {
	uint32_t first, end;
	ovm_rta lo;
	size_t len;
};

static bool next_run(const struct ovm_patchset *set, uint32_t from, struct run *run)
{
	if (from >= set->v.n)
		return false;
	uint64_t page = page_of(set->v.v[from].at), end = set->v.v[from].at.v;
	uint32_t i = from;
	for (; i < set->v.n && page_of(set->v.v[i].at) == page; i++)
		end = set->v.v[i].at.v + set->v.v[i].len;
	uint64_t page_end = (page + 1) * PAGE; /* the last may cross: it is dropped */
	*run = (struct run){.first = from, .end = i, .lo = set->v.v[from].at};
	run->len = (end < page_end ? end : page_end) - run->lo.v;
	return true;
}

/* Read a run and drop the planned patches that do not find their old bytes. Returns how many are
 * left. */
static uint32_t read_run(const struct ovm_tracee *tracee, struct ovm_patchset *set,
			 const struct run *run, uint8_t *bytes)
{
	bool readable = ovm_mem_read(tracee, run->lo, bytes, run->len);
	uint32_t left = 0;
	for (uint32_t i = run->first; i < run->end; i++) {
		const struct ovm_live_patch *p = &set->v.v[i];
		if (p->state != OVM_PATCH_PLANNED)
			continue;
		if (readable && !memcmp(bytes + (p->at.v - run->lo.v), p->old_bytes, p->len))
			left++;
		else
			ovm_patchset_drop(set, i);
	}
	return left;
}

void ovm_patchset_touch(const struct ovm_tracee *tracee, struct ovm_patchset *set)
{
	struct run run;
	uint8_t bytes[PAGE];
	for (uint32_t i = 0; next_run(set, i, &run); i = run.end) {
		if (!read_run(tracee, set, &run, bytes))
			continue;
		if (OVM_FAULT_FAILS(PATCH_TOUCH) || !ovm_mem_write(tracee, run.lo, bytes, 1))
			for (uint32_t k = run.first; k < run.end; k++)
				ovm_patchset_drop(set, k);
	}
}

void ovm_patchset_find(const struct ovm_tracee *tracee, const struct ovm_patchset *of,
		       struct ovm_patchset *set)
{
	struct run run;
	uint8_t bytes[PAGE];
	for (uint32_t i = 0; next_run(of, i, &run); i = run.end) {
		if (!ovm_mem_read(tracee, run.lo, bytes, run.len))
			continue;
		for (uint32_t k = run.first; k < run.end; k++) {
			const struct ovm_live_patch *p = &of->v.v[k];
			if (p->state != OVM_PATCH_DROPPED &&
			    !memcmp(bytes + (p->at.v - run.lo.v), p->new_bytes, p->len))
				ovm_vec_push(&set->v, *p);
		}
	}
}

uint32_t ovm_patchset_window(const struct ovm_patchset *set, ovm_rta at)
{
	uint32_t lo = 0, hi = set->v.n; /* last patch with .at < at */
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (set->v.v[mid].at.v < at.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* dropped patches may overlap planned ones: look at all that can reach here */
	while (lo-- > 0 && at.v - set->v.v[lo].at.v < sizeof(set->v.v[0].old_bytes)) {
		const struct ovm_live_patch *p = &set->v.v[lo];
		if (p->state != OVM_PATCH_DROPPED && !p->is_over_jump && at.v - p->at.v < p->len)
			return lo;
	}
	return OVM_NONE;
}

static bool write_run(const struct ovm_tracee *tracee, struct ovm_patchset *set,
		      const struct run *run, uint8_t *bytes)
{
	for (uint32_t i = run->first; i < run->end; i++) {
		const struct ovm_live_patch *p = &set->v.v[i];
		if (p->state == OVM_PATCH_PLANNED)
			memcpy(bytes + (p->at.v - run->lo.v), p->new_bytes, p->len);
	}
	if (OVM_FAULT_FAILS(PATCH_PAGE) || !ovm_mem_write(tracee, run->lo, bytes, run->len))
		return false;
	OVM_FAULT(PATCH_WRITTEN);
	for (uint32_t i = run->first; i < run->end; i++)
		if (set->v.v[i].state == OVM_PATCH_PLANNED)
			set->v.v[i].state = OVM_PATCH_APPLIED;
	return true;
}

int ovm_patchset_apply(struct ovm_ctx *ctx, const struct ovm_tracee *tracee,
		       struct ovm_patchset *set)
{
	struct run run;
	uint8_t bytes[PAGE];
	for (uint32_t i = 0; next_run(set, i, &run); i = run.end) {
		if (!read_run(tracee, set, &run, bytes))
			continue;
		if (!write_run(tracee, set, &run, bytes)) {
			ovm_patchset_undo(ctx, tracee, set);
			return ovm_fail(ctx, OVM_E_TARGET,
					"cannot write code at 0x%llx of process %d",
					(unsigned long long)run.lo.v, (int)tracee->pid);
		}
	}
	return 0;
}

int ovm_patchset_undo(struct ovm_ctx *ctx, const struct ovm_tracee *tracee,
		      struct ovm_patchset *set)
{
	int rc = 0;
	for (uint32_t i = 0; i < set->v.n; i++) {
		struct ovm_live_patch *p = &set->v.v[i];
		if (p->state != OVM_PATCH_APPLIED)
			continue;
		if (!OVM_FAULT_FAILS(PATCH_UNDO) &&
		    ovm_mem_write(tracee, p->at, p->old_bytes, p->len))
			p->state = OVM_PATCH_PLANNED;
		else
			rc = ovm_fail(ctx, OVM_E_TARGET,
				      "cannot restore code at 0x%llx of process %d",
				      (unsigned long long)p->at.v, (int)tracee->pid);
	}
	return rc;
}

uint32_t ovm_patchset_applied(const struct ovm_patchset *set)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < set->v.n; i++)
		n += set->v.v[i].state == OVM_PATCH_APPLIED;
	return n;
}
