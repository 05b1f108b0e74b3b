#ifndef OVM_COUNTMEM_H
#define OVM_COUNTMEM_H
/* Counters of instrumented copies: a memory file that the target increments and the tool reads.
 *
 *   tool    memfd "optvm-counters" (sealed: neither shrinks nor grows) ---- mapped rw, shared: v[]
 *   target  opens /proc/<tool>/fd/<n>, maps slices of it rw, shared, never x, and closes it
 *
 * Both see one memory: reading a million counters costs the target nothing, and they are still
 * there when it has ended. Children forked while counters are mapped count in the same places.
 */
#include "base/err.h"

struct ovm_countmem {
	int fd;	       /* -1: none */
	uint64_t size; /* bytes, whole pages */
	uint64_t *v;   /* [size / 8], written by the target at any time */
	uint64_t inode;
	uint32_t major, minor; /* of the memory file, as /proc/PID/maps shows them */
};

/* Make and map @size bytes of zeroed counters (rounded up to whole pages, at least one). Fails:
 * OVM_E_UNAVAILABLE. Close with ovm_countmem_close; the target's mapping stays valid. */
int ovm_countmem_open(struct ovm_ctx *ctx, uint64_t size, struct ovm_countmem *out);
void ovm_countmem_close(struct ovm_countmem *mem);

#endif
