/* Old address <-> overlay offset. `v` is in overlay order, so new -> old is a binary search; old ->
 * new goes through by_old, which is sorted by radix: millions of entries, keys of about 30 bits.
 */
#include "base/parallel.h"
#include "rewriter/overlay.h"

#include <stdlib.h>
#include <string.h>

enum {
	BUCKETS = 1 << 12,
	RADIX_BITS = 8,
	RADIX = 1 << RADIX_BITS,
	FEW = 32, /* sorted by inserting */
};

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

struct keyed {
	uint64_t key;
	uint32_t idx;
};

/* One stable pass over @n keys, few enough to stay in the cache. */
static void radix_pass(const struct keyed *from, struct keyed *to, uint32_t n, unsigned shift)
{
	uint32_t start[RADIX + 1] = {0};
	for (uint32_t i = 0; i < n; i++)
		start[(from[i].key >> shift & (RADIX - 1)) + 1]++;
	for (uint32_t i = 0; i < RADIX; i++)
		start[i + 1] += start[i];
	for (uint32_t i = 0; i < n; i++)
		to[start[from[i].key >> shift & (RADIX - 1)]++] = from[i];
}

static void insert_sort(struct keyed *v, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		struct keyed x = v[i];
		uint32_t k = i;
		for (; k && v[k - 1].key > x.key; k--)
			v[k] = v[k - 1];
		v[k] = x;
	}
}

struct bucket_sort {
	struct ovm_map *map;
	uint64_t min;
	unsigned shift;		   /* bits of the key that a bucket has not decided */
	uint32_t end[BUCKETS + 1]; /* bucket b is by_old[end[b], end[b + 1]) */
};

static void sort_bucket(void *arg, uint32_t b)
{
	const struct bucket_sort *s = arg;
	uint32_t n = s->end[b + 1] - s->end[b], *idx = s->map->by_old + s->end[b];
	if (n < 2)
		return;
	struct keyed *from = ovm_alloc_array(2 * (size_t)n, sizeof(*from)), *v = from, *to = v + n;
	for (uint32_t i = 0; i < n; i++)
		v[i] = (struct keyed){sort_key(&s->map->v.v[idx[i]], s->min), idx[i]};
	if (n <= FEW)
		insert_sort(v, n);
	for (unsigned shift = 0; n > FEW && shift < s->shift; shift += RADIX_BITS) {
		radix_pass(v, to, n, shift);
		struct keyed *swap = v;
		v = to;
		to = swap;
	}
	for (uint32_t i = 0; i < n; i++)
		idx[i] = v[i].idx;
	free(from);
}

/* Into buckets by the upper bits first, all in one place, then each bucket by itself: an array of
 * all keys would be the largest one of a rewriting. */
void ovm_map_index(struct ovm_map *map)
{
	struct bucket_sort s = {.map = map, .min = UINT64_MAX};
	uint64_t max = 0;
	free(map->by_old);
	map->by_old = ovm_alloc_array(map->v.n, sizeof(*map->by_old));
	for (uint32_t i = 0; i < map->v.n; i++) {
		uint64_t old = map->v.v[i].old.v;
		s.min = old < s.min ? old : s.min;
		max = old > max ? old : max;
	}
	if (!map->v.n)
		return;
	while (((max - s.min) << 2 | 3) >> s.shift >= BUCKETS)
		s.shift++;
	for (uint32_t i = 0; i < map->v.n; i++)
		s.end[(sort_key(&map->v.v[i], s.min) >> s.shift) + 1]++;
	for (uint32_t b = 0; b < BUCKETS; b++)
		s.end[b + 1] += s.end[b];
	uint32_t next[BUCKETS];
	memcpy(next, s.end, sizeof(next));
	for (uint32_t i = 0; i < map->v.n; i++)
		map->by_old[next[sort_key(&map->v.v[i], s.min) >> s.shift]++] = i;
	ovm_parallel(BUCKETS, sort_bucket, &s);
}
