#ifndef OVM_PATCH_H
#define OVM_PATCH_H
/* Sink 2: the jumps into the overlays, written into a stopped process, and taken back. */
#include "rewriter/overlay.h"
#include "runtime/tracee.h"

enum ovm_patch_state { OVM_PATCH_PLANNED, OVM_PATCH_DROPPED, OVM_PATCH_APPLIED };

struct ovm_live_patch {
	ovm_rta at;
	uint8_t len, state; /* enum ovm_patch_state */
	bool is_over_jump;  /* a jump is there now: nobody is inside, and nothing but its bytes
			     * matters
			     */
	uint8_t old_bytes[8], new_bytes[8];
};

struct ovm_patchset {
	OVM_VEC(struct ovm_live_patch) v; /* ascending at after ovm_patchset_seal */
	uint32_t n_dropped;
};

/* Plan one patch, or all of @overlay's, whose image has @bias. */
void ovm_patchset_add(struct ovm_patchset *set, const struct ovm_live_patch *patch);
void ovm_patchset_add_overlay(struct ovm_patchset *set, const struct ovm_overlay *overlay,
			      uint64_t bias);

/* Sort; drop what overlaps or crosses a page. To be called once, after the last add. */
void ovm_patchset_seal(struct ovm_patchset *set);
void ovm_patchset_fini(struct ovm_patchset *set);

/* Add patches of @more (both sealed) that are not dropped and touch none of @set. */
void ovm_patchset_merge(struct ovm_patchset *set, const struct ovm_patchset *more);

/* Leave out of @set (sealed) what is the same jump as one of @of (sealed) and lies in [lo, hi):
 * that code is not there any more. */
void ovm_patchset_forget(struct ovm_patchset *set, const struct ovm_patchset *of, ovm_rta lo,
			 ovm_rta hi);

/* Add patches of @of whose new bytes are in the process's memory now (@of sealed, @set empty). */
void ovm_patchset_find(const struct ovm_tracee *tracee, const struct ovm_patchset *of,
		       struct ovm_patchset *set);

/* While the target runs: drop patches whose place does not hold the expected bytes, and write each
 * page's own byte back, so that the kernel makes its private copy of the page now and not during
 * the stop. */
void ovm_patchset_touch(const struct ovm_tracee *tracee, struct ovm_patchset *set);

/* The planned patch that has @at strictly inside the bytes it changes, OVM_NONE if none. At its
 * first byte is fine, and where a jump was before, everywhere. */
uint32_t ovm_patchset_window(const struct ovm_patchset *set, ovm_rta at);
void ovm_patchset_drop(struct ovm_patchset *set, uint32_t idx);

/* All threads stopped: re-check and write, one write a page. A patch whose bytes have changed is
 * dropped. If a write fails what was written is undone. Returns 0 or OVM_E_TARGET. */
int ovm_patchset_apply(struct ovm_ctx *ctx, const struct ovm_tracee *tracee,
		       struct ovm_patchset *set);

/* All threads stopped, none with its PC inside a patch. Returns 0 or OVM_E_TARGET if any original
 * byte could not be put back. */
int ovm_patchset_undo(struct ovm_ctx *ctx, const struct ovm_tracee *tracee,
		      struct ovm_patchset *set);

uint32_t ovm_patchset_applied(const struct ovm_patchset *set);

#endif
