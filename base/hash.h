#ifndef OVM_HASH_H
#define OVM_HASH_H
/* uthash with our allocator: its own answer to a lack of memory is a silent exit. */
#include "base/vec.h"

#define uthash_malloc(size) ovm_alloc(size)
#include <uthash.h>

#endif
