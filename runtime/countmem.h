#ifndef OVM_COUNTMEM_H
#define OVM_COUNTMEM_H
/* Counters of instrumented copies: a memory file that the target increments and the tool reads.
 *
 *   tool    memfd "optvm-counters" (sealed: neither shrinks nor grows) ---- mapped rw, shared: v[]
 *   target  opens /proc/<tool>/fd/<n>, maps slices of it rw, shared, never x, and closes it
 *
 * A target of another user (we are root then) may not look into our /proc folder. It gets a file of
 * its own in its /dev/shm instead, which is gone from there as soon as it is mapped.
 *
 * Both see one memory: reading a million counters costs the target nothing, and they are still
 * there when it has ended. Children forked while counters are mapped count in the same places.
 */
#include "base/err.h"

#include <sys/types.h>

struct ovm_countmem {
	int fd;	       /* -1: none */
	uint64_t size; /* bytes, whole pages */
	uint64_t *v;   /* [size / 8], written by the target at any time */
	uint64_t inode;
	uint32_t major, minor; /* of the memory file, as /proc/PID/maps shows them */
	char path[96];	       /* by which the target opens it */
	char name[96];	       /* of the file to be removed, "" for a memfd */
};

/* Make and map @size bytes of zeroed counters (rounded up to whole pages, at least one) for process
 * @pid. Fails: OVM_E_UNAVAILABLE. Close with ovm_countmem_close; the target's mapping stays valid.
 */
int ovm_countmem_open(struct ovm_ctx *ctx, uint64_t size, pid_t pid, struct ovm_countmem *out);

/* The target has mapped it, or never will: nobody else shall open it. */
void ovm_countmem_hide(struct ovm_countmem *mem);
void ovm_countmem_close(struct ovm_countmem *mem);

#endif
