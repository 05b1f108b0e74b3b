#ifndef OVM_PERFDATA_H
#define OVM_PERFDATA_H
/* Reads what Linux's `perf record` writes: perf.data files, plain or through a pipe, compressed or
 * not, with or without branch stacks. */
#include "profiler/profile.h"

/* Does the file begin like perf.data, of any byte order or version? @bytes: its first @n bytes. */
bool ovm_perfdata_is(const uint8_t *bytes, size_t n);

/* Read @path into a new normalized profile (source "import", or "import+branches" if branch stacks
 * were folded), which the caller frees with ovm_profile_free. User-space samples only. A file that
 * was cut off is used as far as it goes, with a warning. Files that were mapped but are not on this
 * machine (by build-id) leave their samples unmapped.
 *
 * Fails: OVM_E_IO, OVM_E_PERM (cannot be read), OVM_E_FORMAT (no perf.data, damaged: names the
 * offset; big-endian, too large, or without a single usable record). */
int ovm_perfdata_load(struct ovm_ctx *ctx, const char *path, struct ovm_profile **out);

/* The same over memory; @name is for messages. */
int ovm_perfdata_parse(struct ovm_ctx *ctx, const uint8_t *bytes, size_t len, const char *name,
		       struct ovm_profile **out);

#endif
