#ifndef OVM_CODEMEM_H
#define OVM_CODEMEM_H
/* Executable memory for overlays in the target: where it may lie, and how it is filled (never
 * writable and executable). */
#include "runtime/livemap.h"
#include "runtime/tracee.h"

/* Choose an unmapped place of @size bytes (whole pages) from which every byte of @module is within
 * 2 GiB, and reserve it in @map. OVM_REFUSED with a message in ctx: no such gap. */
int ovm_codemem_place(struct ovm_ctx *ctx, struct ovm_livemap *map,
		      const struct ovm_live_module *module, uint64_t size, ovm_rta *out);

/* Write @n bytes at @at through the page protection and read them back. Fails: OVM_E_TARGET. */
int ovm_codemem_fill(struct ovm_ctx *ctx, const struct ovm_tracee *tracee, ovm_rta at,
		     const uint8_t *bytes, size_t n);

#endif
