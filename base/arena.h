#ifndef OVM_ARENA_H
#define OVM_ARENA_H
/* Bump allocation by lifetime (image, pass scratch, optimization round). Nothing in an arena is freed singly. */
#include <stddef.h>

struct ovm_arena_chunk;

struct ovm_arena {
	struct ovm_arena_chunk *head; /* newest chunk first */
};

void *ovm_arena_alloc(struct ovm_arena *arena, size_t size); /* zeroed, 16-byte aligned; valid until free */
void *ovm_arena_array(struct ovm_arena *arena, size_t n, size_t size);
void ovm_arena_free(struct ovm_arena *arena); /* everything; the arena is empty and usable again */

#endif
