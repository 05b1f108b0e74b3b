/* The old <-> new map: lookups at entry starts, inside, in gaps and at both ends; order of first
 * and second copies. */
#include "rewriter/overlay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void add(struct ovm_map *map, uint64_t old, uint32_t off, uint8_t len, uint16_t flags)
{
	ovm_vec_push(&map->v, (struct ovm_map_entry){{old}, off, len, len, flags});
}

static void drop(struct ovm_map *map)
{
	ovm_vec_free(&map->v);
	free(map->by_old);
}

static void empty_map(void **state)
{
	struct ovm_map map = {0};
	(void)state;
	assert_null(ovm_map_new(&map, 0));
	assert_null(ovm_map_old(&map, ovm_va_of(1)));
	ovm_map_index(&map);
	assert_null(ovm_map_old(&map, ovm_va_of(1)));
	drop(&map);
}

static void new_to_old(void **state)
{
	struct ovm_map map = {0};
	(void)state;
	add(&map, 0x1000, 4, 3, 0);
	add(&map, 0x1003, 7, 2, 0);
	add(&map, 0x1010, 16, 5, 0);
	assert_null(ovm_map_new(&map, 3));
	assert_int_equal(ovm_map_new(&map, 4)->old.v, 0x1000);
	assert_int_equal(ovm_map_new(&map, 6)->old.v, 0x1000);
	assert_int_equal(ovm_map_new(&map, 7)->old.v, 0x1003);
	assert_null(ovm_map_new(&map, 9)); /* gap */
	assert_int_equal(ovm_map_new(&map, 20)->old.v, 0x1010);
	assert_null(ovm_map_new(&map, 21));
	assert_null(ovm_map_new(&map, UINT32_MAX));
	drop(&map);
}

static void first_copy_wins(void **state)
{
	struct ovm_map map = {0};
	(void)state;
	add(&map, 0x1010, 0, 1, OVM_MAP_SYNTH);
	add(&map, 0x1010, 1, 1, OVM_MAP_DUPLICATE);
	add(&map, 0x1010, 2, 1, 0);
	add(&map, 0x1000, 3, 1, OVM_MAP_SYNTH);
	add(&map, 0x0fff, 4, 1, OVM_MAP_DUPLICATE);
	ovm_map_index(&map);
	assert_int_equal(ovm_map_old(&map, ovm_va_of(0x1010))->off, 2);
	assert_null(ovm_map_old(&map, ovm_va_of(0x1000))); /* only a jump of ours stands for it */
	assert_int_equal(ovm_map_old(&map, ovm_va_of(0x0fff))->off, 4);
	assert_null(ovm_map_old(&map, ovm_va_of(0x0ffe)));
	assert_null(ovm_map_old(&map, ovm_va_of(0x1011)));
	drop(&map);
}

/* Nobody may go on at a direct call whose comparison he has not made. */
static void guarded_calls_are_no_way_in(void **state)
{
	struct ovm_map map = {0};
	(void)state;
	add(&map, 0x1010, 0, 9, OVM_MAP_SYNTH | OVM_MAP_GUARD);
	add(&map, 0x1010, 9, 5, OVM_MAP_CALL | OVM_MAP_GUARD);
	add(&map, 0x1013, 14, 1, 0);
	ovm_map_index(&map);
	assert_null(ovm_map_old(&map, ovm_va_of(0x1010)));
	assert_int_equal(ovm_map_new(&map, 9)->old.v, 0x1010);
	add(&map, 0x1010, 15, 3, OVM_MAP_CALL | OVM_MAP_DUPLICATE);
	ovm_map_index(&map);
	assert_int_equal(ovm_map_old(&map, ovm_va_of(0x1010))->off, 15);
	drop(&map);
}

static unsigned rank(const struct ovm_map_entry *entry)
{
	return entry->flags & OVM_MAP_SYNTH ? 2 : entry->flags & OVM_MAP_DUPLICATE ? 1 : 0;
}

/* Many addresses in all sorts of crowds: @bits of them differ, and one is far away. */
static void check_order(unsigned bits)
{
	static const uint16_t kinds[] = {0, OVM_MAP_DUPLICATE, OVM_MAP_SYNTH, 0};
	struct ovm_map map = {0};
	uint64_t x = bits;
	for (uint32_t i = 0; i < 5000; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		add(&map, i == 77 ? UINT64_C(1) << 40 : x >> (64 - bits), i * 4, 4,
		    kinds[x >> 20 & 3]);
	}
	ovm_map_index(&map);
	for (uint32_t i = 1; i < map.v.n; i++) {
		uint32_t a = map.by_old[i - 1], b = map.by_old[i];
		const struct ovm_map_entry *p = &map.v.v[a], *q = &map.v.v[b];
		assert_true(p->old.v <= q->old.v);
		if (p->old.v == q->old.v)
			assert_true(rank(p) < rank(q) || (rank(p) == rank(q) && a < b));
	}
	drop(&map);
}

static void many_entries(void **state)
{
	(void)state;
	for (unsigned bits = 4; bits <= 39; bits += 7)
		check_order(bits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(empty_map),       cmocka_unit_test(new_to_old),
	    cmocka_unit_test(first_copy_wins), cmocka_unit_test(guarded_calls_are_no_way_in),
	    cmocka_unit_test(many_entries),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
