/* Hot code that is spread over hundreds of pages of 4 KiB needs as many entries of the instruction
 * TLB. The kernel backs anonymous memory with pages of 2 MiB where it is told so (madvise) and a
 * whole, aligned piece of 2 MiB is mapped alike:
 *
 *   at (2 MiB aligned)
 *   +---------------+---------------+-----+
 *   | 2 MiB         | 2 MiB         |rest |     4.7 MiB of overlay: two huge pages, the rest in small ones
 *   +---------------+---------------+-----+
 *   | 2 MiB         | 1.6 MiB    :  |           3.6 MiB: two, 0.4 MiB of memory for nothing
 *   +---------------+----------+----+
 *   | 1.7 MiB      |                            none: so little fits the TLBs anyway
 *
 * so the last piece is made whole only where the overlay fills most of it. Nothing of this may
 * fail: without huge pages (THP "never", none free) the kernel takes small ones, and behaviour is
 * the same. A page comes when it is first written, which is when the overlay is filled, long before
 * anybody stops. If it pays, it pays late: processors of today have 1500 to 2000 entries in their
 * second TLB. CPU time with huge pages / with small ones, for calls in random order to functions of
 * 14 MiB: 0.86 (0.11), of 5 MiB: 0.99 (0.09), of 1.6 MiB: 1.005 (0.015).
 */
#include "runtime/hugepages.h"
#include "runtime/tunables.h"

#include <stddef.h>
#include <sys/resource.h>

#define SMALL_PAGE UINT64_C(4096)

uint64_t ovm_huge_part(ovm_rta at, uint64_t size)
{
	uint64_t whole = size & ~(OVM_HUGE_PAGE - 1), rest = size - whole;
	if (at.v & (OVM_HUGE_PAGE - 1) || !whole)
		return 0;
	return whole + (rest * 100 >= OVM_HUGE_PAGE * OVM_RT_HUGE_PERCENT ? OVM_HUGE_PAGE : 0);
}

uint64_t ovm_huge_room(ovm_rta at, uint64_t size)
{
	uint64_t part = ovm_huge_part(at, size);
	size = (size + SMALL_PAGE - 1) & ~(SMALL_PAGE - 1);
	return size > part ? size : part + SMALL_PAGE;
}

bool ovm_huge_is_allowed(pid_t pid)
{
	struct rlimit space;
	return prlimit(pid, RLIMIT_AS, NULL, &space) == 0 && space.rlim_cur == RLIM_INFINITY;
}
