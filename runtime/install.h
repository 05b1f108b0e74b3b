#ifndef OVM_INSTALL_H
#define OVM_INSTALL_H
/* Puts built overlays into the running process: map, fill, stop, check, patch, move, resume. */
#include "runtime/builder.h"

struct ovm_install_result {
	uint32_t n_patches, n_dropped; /* written; left out (bytes or stacks forbade it) */
	uint32_t n_threads, n_moved;   /* stopped; moved into an overlay */
	double pause_ms;	       /* from the first interrupt to the last resume */
};

/* Fails: OVM_E_TARGET, OVM_E_GONE, OVM_E_PERM, with the program as it was (but for unused memory).
 * Afterwards the caller looks at tracee->ended and calls ovm_tracee_service until it returns false.
 */
int ovm_install(struct ovm_ctx *ctx, struct ovm_tracee *tracee, const struct ovm_livemap *map,
		struct ovm_built *built, int max_pause_ms, struct ovm_install_result *out);

#endif
