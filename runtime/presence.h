#ifndef OVM_PRESENCE_H
#define OVM_PRESENCE_H
/* Is a module still there, and is it still the same one? */
#include "runtime/livemap.h"
#include "runtime/tracee.h"

/* A number that tells the module at @lo from others: of the bytes of its first page in the process.
 * 0: they cannot be read. Allocates nothing: also while the process is stopped. */
uint64_t ovm_module_print(const struct ovm_tracee *tracee, ovm_rta lo);

/* True if all code of @module is mapped, as @map says, where it was and from the same file, and
 * that has the print that it had. @print 0: not known, not compared. */
bool ovm_module_is_there(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			 const struct ovm_live_module *module, uint64_t print);

#endif
