#ifndef OVM_OSR_H
#define OVM_OSR_H
/* On-stack replacement: where a stopped thread continues in an overlay, and what its stack forbids
 * to patch. */
#include "rewriter/overlay.h"
#include "runtime/patch.h"
#include "runtime/remote.h"

struct ovm_osr_module {			   /* one overlay in place */
	const struct ovm_overlay *overlay; /* borrowed */
	uint64_t bias;
	ovm_rta lo, hi; /* span of the original image */
};

/* The PC in an overlay that is the same state as the stopped @thread's; false if there is none
 * (leave it where it is). */
bool ovm_osr_target(const struct ovm_osr_module *modules, uint32_t n,
		    const struct ovm_tracee *tracee, const struct ovm_thread *thread, ovm_rta *out);

/* Drop every patch of @set that has an 8-byte word of the thread's stack strictly inside. Returns
 * true if a word points into a stub of @remote (may be NULL), too. */
bool ovm_osr_scan_stack(const struct ovm_tracee *tracee, const struct ovm_thread *thread,
			struct ovm_patchset *set, const struct ovm_remote *remote);

#endif
