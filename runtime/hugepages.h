#ifndef OVM_HUGEPAGES_H
#define OVM_HUGEPAGES_H
/* Which part of an overlay shall lie on pages of 2 MiB. */
#include "base/addr.h"

#include <stdbool.h>
#include <sys/types.h>

#define OVM_HUGE_PAGE (UINT64_C(2) << 20)

/* How many bytes from @at on, a multiple of OVM_HUGE_PAGE, an overlay of @size bytes there should
 * have on huge pages; may be more than @size. 0: none, it is too small or begins elsewhere than a
 * huge page does. */
uint64_t ovm_huge_part(ovm_rta at, uint64_t size);

/* Address space to keep free from @at on for an overlay of @size bytes, huge pages or not. */
uint64_t ovm_huge_room(ovm_rta at, uint64_t size);

/* May memory be mapped in process @pid that is not needed? Not if its address space is limited. */
bool ovm_huge_is_allowed(pid_t pid);

#endif
