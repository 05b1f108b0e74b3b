#ifndef OVM_OSR_H
#define OVM_OSR_H
/* On-stack replacement: where a stopped thread, or a return, continues when overlays are armed and
 * disarmed. */
#include "rewriter/overlay.h"
#include "runtime/tracee.h"

struct ovm_osr_module {			   /* one overlay in place */
	const struct ovm_overlay *overlay; /* borrowed; it stands at overlay->base + bias */
	uint64_t bias;
	ovm_rta lo, hi; /* span of the original image; the same for all overlays of one image */
	bool is_armed;	/* after the switch that is planned */
};

/* Where to go on instead of at @pc, in the same state: from the original into an armed overlay,
 * from one that is not armed into an armed one or back to the original. The last armed module that
 * has a copy wins. @in_syscall: @pc is just behind a `syscall` that is being executed. False if
 * there is no such place or no need to move. */
bool ovm_osr_map(const struct ovm_osr_module *modules, uint32_t n, ovm_rta pc, bool in_syscall,
		 ovm_rta *out);

/* The same for a stopped @thread; false also if it is in a restartable sequence. */
bool ovm_osr_target(const struct ovm_osr_module *modules, uint32_t n,
		    const struct ovm_tracee *tracee, const struct ovm_thread *thread, ovm_rta *out);

/* Is @pc in an overlay that is not armed? */
bool ovm_osr_is_stale(const struct ovm_osr_module *modules, uint32_t n, ovm_rta pc);

/* Where control that is about to execute @old of the image of @modules[idx] goes on: the copy in
 * the last armed overlay of that image, else the original. */
ovm_rta ovm_osr_home(const struct ovm_osr_module *modules, uint32_t n, uint32_t idx, ovm_va old);

#endif
