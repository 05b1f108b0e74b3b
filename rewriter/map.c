/* Old address <-> overlay offset. `v` is in overlay order, so new -> old is a binary search; old ->
 * new goes through by_old, which is sorted by a radix sort: millions of entries, keys of about 30
 * bits.
 */
#include "rewriter/overlay.h"

#include <stdlib.h>
#include <string.h>

enum { RADIX_BITS = 11, RADIX = 1 << RADIX_BITS };

const struct ovm_map_entry *ovm_map_new(const struct ovm_map *map, uint32_t off)
{
	uint32_t lo = 0, hi = map->v.n;
	while (lo < hi) { /* first entry behind @off */
		uint32_t mid = lo + (hi - lo) / 2;
		if (map->v.v[mid].off <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return NULL;
	const struct ovm_map_entry *entry = &map->v.v[lo - 1];
	return off - entry->off < entry->new_len ? entry : NULL;
}

/* May somebody who is about to execute the original go on here? */
static bool is_way_in(const struct ovm_map_entry *entry)
{
	return !(entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD | OVM_MAP_GUARD));
}

const struct ovm_map_entry *ovm_map_old(const struct ovm_map *map, ovm_va old)
{
	uint32_t lo = 0, hi = map->by_old ? map->v.n : 0;
	while (lo < hi) { /* first entry not before @old */
		uint32_t mid = lo + (hi - lo) / 2;
		if (map->v.v[map->by_old[mid]].old.v < old.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!map->by_old || lo == map->v.n)
		return NULL;
	const struct ovm_map_entry *entry = &map->v.v[map->by_old[lo]];
	return entry->old.v != old.v || !is_way_in(entry) ? NULL : entry;
}

/* Old address, then first copies before second ones before what is no copy at all. */
static uint64_t sort_key(const struct ovm_map_entry *entry, uint64_t min)
{
	unsigned rank = !is_way_in(entry) ? 2 : entry->flags & OVM_MAP_DUPLICATE ? 1 : 0;
	return (entry->old.v - min) << 2 | rank;
}

static void radix_pass(const struct ovm_map *map, const uint32_t *from, uint32_t *to, uint64_t min,
		       unsigned shift)
{
	uint32_t start[RADIX + 1] = {0};
	for (uint32_t i = 0; i < map->v.n; i++)
		start[(sort_key(&map->v.v[i], min) >> shift & (RADIX - 1)) + 1]++;
	for (uint32_t i = 0; i < RADIX; i++)
		start[i + 1] += start[i];
	for (uint32_t i = 0; i < map->v.n; i++)
		to[start[sort_key(&map->v.v[from[i]], min) >> shift & (RADIX - 1)]++] = from[i];
}

void ovm_map_index(struct ovm_map *map)
{
	uint64_t min = UINT64_MAX, max = 0;
	free(map->by_old);
	map->by_old = ovm_alloc_array(map->v.n, sizeof(*map->by_old));
	for (uint32_t i = 0; i < map->v.n; i++) {
		uint64_t old = map->v.v[i].old.v;
		min = old < min ? old : min;
		max = old > max ? old : max;
		map->by_old[i] = i;
	}
	if (map->v.n < 2)
		return;
	uint32_t *other = ovm_alloc_array(map->v.n, sizeof(*other));
	uint64_t span = (max - min) << 2 | 3;
	for (unsigned shift = 0; shift < 64 && span >> shift; shift += RADIX_BITS) {
		radix_pass(map, map->by_old, other, min, shift);
		uint32_t *swap = map->by_old;
		map->by_old = other;
		other = swap;
	}
	free(other);
}
