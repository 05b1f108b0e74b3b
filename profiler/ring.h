#ifndef OVM_RING_H
#define OVM_RING_H
/* One perf ring buffer: the memory a perf event writes its records to. */
#include "base/vec.h"

struct ovm_ring {
	void *map;   /* control page and data; NULL if not mapped */
	size_t size; /* bytes of data, a power of two */
};

/* Map a ring on event @fd: @size bytes of data (a power of two), halved while the locked-memory
 * limit forbids it. Returns 0 or a negative errno (-EPERM: not even the smallest ring is allowed).
 */
int ovm_ring_map(struct ovm_ring *ring, int fd, size_t size);
void ovm_ring_unmap(struct ovm_ring *ring); /* accepts zeroed */

/* Append all whole records that are in the ring to @to and free their room. Returns the bytes
 * moved. */
size_t ovm_ring_drain(struct ovm_ring *ring, struct ovm_buf *to);

#endif
