#ifndef OVM_SAVE_H
#define OVM_SAVE_H
#include "base/err.h"

#include <stddef.h>

/* Make the file @path of @bytes[@n], mode 0600, whole or not at all: a temporary in the same
 * folder, fsync, rename. What is there and no regular file (a pipe, a device) is written to
 * directly. Fails: OVM_E_IO; what was at @path is as it was then. */
int ovm_save(struct ovm_ctx *ctx, const char *path, const void *bytes, size_t n);

#endif
