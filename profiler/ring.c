/* The kernel writes records behind data_head, we read from data_tail; both only grow, and the place
 * in the buffer is their value modulo its size:
 *
 *        data_tail            data_head
 *            v                    v
 *   |........rrrrrrrrrrrrrrrrrrrrr............|      a record may wrap around the end
 *
 * The pairing of barriers is the one perf_event_open(2) asks for: head is read before the data
 * (acquire), the data before tail is written (release).
 */
#include "profiler/ring.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIN_RING_PAGES = 4 };

int ovm_ring_map(struct ovm_ring *ring, int fd, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	for (; size >= MIN_RING_PAGES * page; size /= 2) {
		void *map = mmap(NULL, page + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map != MAP_FAILED) {
			ring->map = map;
			ring->size = size;
			return 0;
		}
		if (errno != EPERM && errno != ENOMEM)
			return -errno;
	}
	return -EPERM;
}

void ovm_ring_unmap(struct ovm_ring *ring)
{
	if (ring->map)
		munmap(ring->map, (size_t)sysconf(_SC_PAGESIZE) + ring->size);
	ring->map = NULL;
}

size_t ovm_ring_drain(struct ovm_ring *ring, struct ovm_buf *to)
{
	struct perf_event_mmap_page *control = ring->map;
	const uint8_t *data = (const uint8_t *)ring->map + sysconf(_SC_PAGESIZE);
	uint64_t head = __atomic_load_n(&control->data_head, __ATOMIC_ACQUIRE);
	uint64_t tail = control->data_tail;
	size_t n = (size_t)(head - tail);
	if (!n)
		return 0;
	size_t at = tail & (ring->size - 1);
	size_t first = n < ring->size - at ? n : ring->size - at;
	ovm_buf_put(to, data + at, first);
	ovm_buf_put(to, data, n - first);
	__atomic_store_n(&control->data_tail, head, __ATOMIC_RELEASE);
	return n;
}
