/* Chunks of at least 64 KiB, each twice its neighbour's need; freed together. */
#include "base/arena.h"
#include "base/vec.h"

#include <stdlib.h>

struct ovm_arena_chunk {
	struct ovm_arena_chunk *next;
	size_t used, size; /* bytes of data */
	_Alignas(16) unsigned char data[];
};

enum { CHUNK = 64 << 10 };

void *ovm_arena_alloc(struct ovm_arena *arena, size_t size)
{
	size = (size + 15) & ~(size_t)15;
	struct ovm_arena_chunk *chunk = arena->head;
	if (!chunk || chunk->size - chunk->used < size) {
		size_t data = size > CHUNK ? size : CHUNK;
		chunk = ovm_alloc(sizeof(*chunk) + data);
		chunk->size = data;
		chunk->next = arena->head;
		arena->head = chunk;
	}
	void *p = chunk->data + chunk->used;
	chunk->used += size;
	return p;
}

void *ovm_arena_array(struct ovm_arena *arena, size_t n, size_t size)
{
	size_t total;
	if (__builtin_mul_overflow(n, size, &total))
		total = SIZE_MAX / 2; /* the allocator reports it */
	return ovm_arena_alloc(arena, total);
}

void ovm_arena_free(struct ovm_arena *arena)
{
	while (arena->head) {
		struct ovm_arena_chunk *next = arena->head->next;
		free(arena->head);
		arena->head = next;
	}
}
