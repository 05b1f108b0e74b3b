/* The checker and private jump tables: loads that read the copy, jumps through relocated addresses,
 * and every entry.
 */
#include "tests/support/by_hand.h"

#include <elf.h>

static void table(unsigned at, unsigned entry_size, uint32_t n, uint64_t base)
{
	it.tables[it.overlay.tables.n++] =
	    (struct ovm_table_copy){.old_table = {OLD + 0x80},
				    .base = {base},
				    .new_off = at,
				    .n_entries = n,
				    .entry_size = (uint8_t)entry_size,
				    .old_load = {OLD + 0x40 + it.overlay.tables.n % 2},
				    .old_jump = {OLD + 0x44}};
}

static void test_tables(void **state)
{
	enum { AT = CODE_END, BASE = OLD + 0x80 };
	(void)state;
	begin();
	entry(0, 0x10, 1, 1, 0);
	ovm_put32(it.old + 0x80, (uint32_t)(OLD + 0x10 - BASE));
	ovm_put32(it.old + 0x84, (uint32_t)(OLD + 0x20 - BASE));
	ovm_put32(it.new + AT, (uint32_t)(NEW - BASE));
	ovm_put32(it.new + AT + 4, (uint32_t)(OLD + 0x20 - BASE));
	table(AT, 4, 2, BASE);
	table(AT, 4, 2, BASE);
	table(AT, 4, 2, BASE);
	expect(NULL);
	for (int i = 0; i < 5; i++) { /* nearly the same as the one before */
		struct ovm_table_copy *copy = &it.tables[2], save = *copy;
		copy->new_off += i == 0 ? 4 : 0;
		copy->old_table.v += i == 1 ? 4 : 0;
		copy->base.v += i == 2 ? 4 : 0;
		copy->n_entries += i == 3 ? 1 : 0;
		copy->entry_size = i == 4 ? 8 : 4;
		assert_int_equal(
		    ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result),
		    OVM_REFUSED);
		*copy = save;
	}
	it.overlay.tables.n = 1;
	ovm_put32(it.new + AT + 4, (uint32_t)(OLD + 0x21 - BASE));
	expect("entry 1 of a table goes elsewhere");
	ovm_put32(it.old + 0x84, 0x7fff0000); /* not code, and not the same */
	expect("entry 1 of a table goes elsewhere");
	ovm_put32(it.new + AT + 4, 0x7fff0000);
	expect(NULL);
	old(0x20, "eb 0e"); /* one of two places that come to the same */
	ovm_put32(it.old + 0x84, (uint32_t)(OLD + 0x20 - BASE));
	ovm_put32(it.new + AT + 4, (uint32_t)(OLD + 0x30 - BASE));
	expect(NULL);
	memcpy(it.new + NEW_SIZE - 8, it.new + AT, 8); /* up to the last byte */
	it.tables[0].new_off = NEW_SIZE - 8;
	expect(NULL);
	it.tables[0].new_off = NEW_SIZE - 7;
	expect("a table outside its memory");
	it.tables[0].entry_size = 3;
	expect("a table of unknown shape");
	it.tables[0] = (struct ovm_table_copy){.old_table = {BASE}, .new_off = AT, .entry_size = 4};
	expect("a table of unknown shape");
}

/* An instruction may be another only where a table is claimed for it. */
static void test_table_loads(void **state)
{
	(void)state;
	begin();
	old(0, "48 63 04 82");
	new (0, "48 63 84 82 80 08 00 00");
	branch(8, "e9", OLD + 4);
	entry(0, 0, 8, 4, 0);
	memset(it.old + 0x80, 0, 4);
	memset(it.new + CODE_END, 0, 4);
	table(CODE_END, 4, 1, OLD + 0x80);
	it.tables[0].old_load.v = OLD;
	ovm_put32(it.new + 4, NEW + CODE_END - (OLD + 0x80));
	expect(NULL);
	it.tables[0].old_load.v = OLD + 1; /* of the instruction behind */
	expect("instructions differ");
	it.overlay.tables.n = 0;
	expect("instructions differ");
	table(CODE_END, 4, 1, OLD + 0x80);
	table(CODE_END, 4, 1, OLD + 0x84); /* the second of two claims */
	it.tables[0].old_load.v = it.tables[1].old_load.v = OLD;
	it.tables[0].old_table.v = OLD + 0x88;
	memset(it.old + 0x88, 0, 4);
	expect(NULL);
}

/* mov (%r14,%rax,8),%rax, and what it becomes */
static void begin_relocated(const char *sum)
{
	static struct ovm_reloc relocs[2];
	begin();
	it.image.is_dyn = true;
	old(0, "49 8b 04 c6");
	new (0, "49 8b 84 c6 80 08 00 00");
	new (8, sum);
	entry(0, 0, 12, 4, 0);
	entry(0x20, 0x10, 1, 1, 0);
	branch(12, "e9", OLD + 4);
	table(CODE_END, 8, 2, OLD + 0x80);
	it.tables[0].old_load.v = OLD;
	ovm_put32(it.new + 4, NEW + CODE_END - (OLD + 0x80));
	for (unsigned i = 0; i < 2; i++)
		relocs[i] = (struct ovm_reloc){.at = {OLD + 0x80 + 8 * i},
					       .type = R_X86_64_RELATIVE,
					       .addend = OLD + 0x10 + 0x10 * i};
	it.image.relocs.v = relocs;
	it.image.relocs.n = 2;
	ovm_put64(it.new + CODE_END, NEW + 0x20 - (OLD + 0x80));
	ovm_put64(it.new + CODE_END + 8, (uint64_t)(OLD + 0x20 - (OLD + 0x80)));
}

static void test_relocated_tables(void **state)
{
	static const char sum[] = "49 8d 04 06"; /* lea (%r14,%rax),%rax */
	static const char *const others[] = {
	    "48 8d 04 06", /* lea (%rsi,%rax),%rax */
	    "49 8d 04 46", /* lea (%r14,%rax,2),%rax */
	    "4d 8d 04 06", /* lea (%r14,%rax),%r8 */
	    "4b 8d 04 06", /* lea (%r14,%r8),%rax */
	    "49 8b 04 06", /* mov */
	    "41 8d 04 06", /* lea (%r14,%rax),%eax */
	    "49 8d 46 01", /* lea 1(%r14),%rax */
	    "49 01 c6 90", /* add %rax,%r14 */
	    "90 90 90 90", /* nothing */
	    "06 06 06 06", /* no instruction */
	};
	(void)state;
	begin_relocated(sum);
	expect(NULL);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		begin_relocated(others[i]);
		expect("the map is wrong about lengths");
	}
	begin_relocated(sum); /* the sum is missing */
	it.entries[0].new_len = 8;
	branch(8, "e9", OLD + 4);
	expect("instructions differ");
	begin_relocated("49 8d 44 06 01"); /* lea 1(%r14,%rax),%rax */
	it.entries[0].new_len = 13;
	branch(13, "e9", OLD + 4);
	expect("the map is wrong about lengths");
	begin_relocated(sum); /* the load overwrites the table's address */
	old(0, "4d 8b 34 c6");
	new (0, "4d 8b b4 c6");
	new (8, "4f 8d 34 36"); /* lea (%r14,%r14),%r14 */
	expect("the map is wrong about lengths");
	begin_relocated("48 8d 04 06"); /* a load without index, mov (%rsi),%rax */
	old(0, "48 8b 04 26");
	new (0, "48 8b 84 26");
	expect("the map is wrong about lengths");
	begin_relocated("48 8d 04 06"); /* one without base */
	old(0, "48 8b 04 c5 80 10 00 00");
	new (0, "48 8b 04 c5");
	it.entries[0].old_len = 8;
	expect("the map is wrong about lengths");
	begin_relocated(sum); /* no table is claimed */
	it.overlay.tables.n = 0;
	expect("instructions differ");
	begin_relocated(sum); /* one of differences that the original adds up itself */
	it.tables[0].entry_size = 4;
	expect("instructions differ");
	begin_relocated(sum); /* differences from something else */
	it.tables[0].base.v += 8;
	expect("a table of unknown shape");
	begin_relocated(sum);
	it.tables[0].base.v = 0;
	expect("instructions differ");
	begin_relocated(sum);
	it.image.is_dyn = false;
	expect("a table of unknown shape");
}

/* [3e] jmp *1(%r14,%rax,8), and what it becomes */
static void begin_relocated_jump(const char *jump, const char *copy)
{
	begin_relocated("90");
	unsigned old_len = ((unsigned)strlen(jump) + 1) / 3,
		 new_len = ((unsigned)strlen(copy) + 1) / 3;
	old(0, jump);
	new (0, copy);
	it.entries[0] = (struct ovm_map_entry){{OLD}, 0, (uint8_t)new_len, (uint8_t)old_len, 0};
	ovm_put32(it.new + 4, NEW + CODE_END - (OLD + 0x80) + !!strstr(jump, "64 c6 01"));
}

static void test_relocated_jumps(void **state)
{
	static const char jump[] = "41 ff 24 c6";
	static const char copy[] = "49 8b 84 c6 00 00 00 00 49 8d 04 06 ff e0";
	static const struct {
		const char *jump, *copy;
	} others[] = {
	    {jump, "49 8b 84 c6 00 00 00 00 49 8d 04 06 ff e1"},
	    {jump, "49 8b 84 c6 00 00 00 00 49 8d 04 06 3e ff e0"},
	    {jump, "49 8b 84 c6 00 00 00 00 48 8d 04 06 ff e0"},
	    {jump, "49 8b 84 c6 00 00 00 00 49 8d 04 06"},
	    {jump, "48 8b 84 c6 00 00 00 00 49 8d 04 06 ff e0"},
	    {jump, "49 8b 84 c6 00 00 00 00 ff e0"},
	    {"41 ff 24 46", "49 8b 84 46 00 00 00 00 49 8d 04 06 ff e0"}, /* scale 2 */
	    {"41 ff 24 26", "49 8b 84 e6 00 00 00 00 49 8d 04 06 ff e0"}, /* no index */
	    {"ff 24 c0", "48 8b 84 c0 00 00 00 00 48 8d 04 00 ff e0"},	  /* index is base */
	    {"ff 24 c5 00 00 00 00", "48 8b 84 c5 00 00 00 00 48 8d 04 05 ff e0"}, /* no base */
	    {"64 ff 24 c6", "48 8b 84 c6 00 00 00 00 48 8d 04 06 ff e0"},
	    {"64 41 ff 24 c6", "49 8b 84 c6 00 00 00 00 49 8d 04 06 ff e0"},
	    {"41 ff 66 00", "49 8b 84 c6 00 00 00 00 49 8d 04 06 ff e0"},
	};
	(void)state;
	begin_relocated_jump(jump, copy);
	expect(NULL);
	begin_relocated_jump("3e 43 ff 24 c6", "4f 8b 84 c6 00 00 00 00 4f 8d 04 06 3e 41 ff e0");
	expect(NULL); /* notrack, index r8 */
	begin_relocated_jump("ff 24 c6", "48 8b 84 c6 00 00 00 00 48 8d 04 06 ff e0");
	expect(NULL);
	begin_relocated_jump("41 ff 64 c6 01", "49 8b 84 c6 00 00 00 00 49 8d 44 06 01 ff e0");
	expect(NULL);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		begin_relocated_jump(others[i].jump, others[i].copy);
		assert_int_equal(
		    ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result),
		    OVM_REFUSED);
	}
	begin_relocated_jump(jump, copy);
	it.new[4]++;
	expect("the map is wrong about lengths");
	begin_relocated_jump(jump, copy);
	it.overlay.tables.n = 0;
	expect("the map is wrong about lengths");
	begin_relocated_jump(jump, copy);
	it.tables[0].entry_size = 4;
	expect("the map is wrong about lengths");
	begin_relocated_jump(jump, copy);
	it.tables[0].old_load.v++;
	expect("the map is wrong about lengths");
	begin_relocated_jump(jump, copy);
	it.entries[0].flags = OVM_MAP_CALL;
	expect("the map is wrong about lengths");
	begin_relocated_jump(jump, copy);
	it.entries[0].old_len++;
	expect("the map is wrong about lengths");
	begin_relocated_jump("41 ff a4 c6 00 00 00 80", /* the displacement has no room */
			     "49 8b 84 c6 00 00 00 00 49 8d 84 06 00 00 00 80 ff e0");
	it.overlay.base.v = NEW;
	it.tables[0].old_table.v += 0x7fff0000;
	assert_int_equal(ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result),
			 OVM_REFUSED);
}

static void test_relocated_entries(void **state)
{
	static const char sum[] = "49 8d 04 06";
	(void)state;
	begin_relocated(sum);
	ovm_put64(it.new + CODE_END + 8, (uint64_t)(OLD + 0x21 - (OLD + 0x80)));
	expect("entry 1 of a table goes elsewhere");
	begin_relocated(sum);
	it.image.relocs.v[0].addend++;
	expect("entry 0 of a table goes elsewhere");
	begin_relocated(sum);
	it.image.relocs.v[0].type = R_X86_64_64;
	expect("entry 0 of a table goes elsewhere");
	begin_relocated(sum);
	it.image.relocs.n = 1;
	expect("entry 1 of a table goes elsewhere");
	begin_relocated(sum); /* what the file holds is not what the program reads */
	it.image.relocs.n = 1;
	memcpy(it.old + 0x88, it.new + CODE_END + 8, 8);
	expect("entry 1 of a table goes elsewhere");
}

static void test_wide_tables(void **state)
{
	enum { AT = CODE_END };
	(void)state;
	begin();
	entry(0, 0x10, 1, 1, 0);
	entry(9, 0x11, 1, 1, 0);
	ovm_put64(it.old + 0x80, OLD + 0x10);
	ovm_put64(it.new + AT, NEW);
	ovm_put64(it.new + 1, NEW);
	ovm_put64(it.new + 10, NEW);
	table(AT, 8, 1, 0);
	expect(NULL);
	it.tables[0].new_off = 1; /* between instructions */
	expect(NULL);
	it.tables[0].new_off = 10; /* behind all of them */
	expect(NULL);
	it.tables[0].new_off = AT;
	it.image.is_dyn = true;
	expect("a table of unknown shape");
	it.image.is_dyn = false;
	for (int i = 0; i < 6; i++) {
		struct ovm_table_copy save = it.tables[0];
		it.tables[0].new_off = i == 0	? 0
				       : i == 1 ? NEW_SIZE + 1
				       : i == 2 ? NEW_SIZE - 4
				       : i == 4 ? 2
				       : i == 5 ? 9
						: AT;
		it.tables[0].old_table.v += i == 3 ? SIZE : 0;
		expect("a table outside its memory");
		it.tables[0] = save;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tables),	    cmocka_unit_test(test_wide_tables),
	    cmocka_unit_test(test_table_loads),	    cmocka_unit_test(test_relocated_tables),
	    cmocka_unit_test(test_relocated_jumps), cmocka_unit_test(test_relocated_entries),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
