#ifndef OVM_LIVEDYN_H
#define OVM_LIVEDYN_H
/* What a mapped module exports and imports, read from the dynamic section in the target's memory.
 */
#include "runtime/livemap.h"
#include "runtime/tracee.h"

struct ovm_livedyn { /* run-time addresses; zero if absent */
	const struct ovm_tracee *tracee;
	uint64_t bias;
	uint64_t symtab, strtab, strsz, gnu_hash, debug;
};

/* Read @module's dynamic section. False if it has none that can be used. */
bool ovm_livedyn_open(const struct ovm_tracee *tracee, const struct ovm_live_module *module,
		      struct ovm_livedyn *out);

/* Run-time address and size of a defined dynamic function @name. */
bool ovm_livedyn_export(const struct ovm_livedyn *dyn, const char *name, ovm_rta *at,
			uint64_t *size);

/* Does it import a symbol whose name begins with @prefix (or is exactly that: @whole)? */
bool ovm_livedyn_imports(const struct ovm_livedyn *dyn, const char *prefix, bool whole);

/* ld.so's link_map of @module, found through the program's r_debug; 0 if unknown. */
ovm_rta ovm_livedyn_link_map(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			     const struct ovm_live_module *module);

#endif
