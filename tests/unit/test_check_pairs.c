/* The checker, one pair at a time: a few bytes of original code, a few of an overlay, the map
 * written by hand, and what must be said of them.
 */
#include "tests/support/by_hand.h"

#include <elf.h>

/* --- pairs
 * ----------------------------------------------------------------------------------------------------
 */

static void test_plain(void **state)
{
	(void)state;
	begin();
	old(0, "0f 0b");
	new (0, "0f 0b"); /* ud2: nothing after it */
	entry(0, 0, 2, 2, 0);
	expect(NULL);
	begin();
	old(0, "31 c0");
	new (0, "31 c0");
	branch(2, "e9", OLD + 2);
	entry(0, 0, 2, 2, 0); /* the last of the map falls into a jump that is not in it */
	expect(NULL);
	new (2, "06");
	expect("continues elsewhere");
	new (0, "31 c9");
	expect("instructions differ");
	new (0, "06");
	expect("the copy does not decode");
	old(0, "06");
	expect("the original does not decode");
	begin();
	old(0, "66 e9 00 00");
	memcpy(it.new, it.old, 8); /* a jump of 16 bits */
	entry(0, 0, 6, 6, 0);
	expect("an instruction that cannot be copied");
}

static void test_jumps(void **state)
{
	(void)state;
	begin();
	old(0, "eb fe"); /* forever */
	branch(0, "e9", OLD + 0x20);
	entry(0, 0, 5, 2, 0);
	expect("a jump goes elsewhere");
	old(0, "eb 0e 90");
	old(0x10, "90 90 c3");
	branch(0, "e9", OLD + 0x12); /* behind nops that the original runs through */
	expect(NULL);
	branch(0, "e9", OLD + 2); /* a nop, and then elsewhere */
	expect("a jump goes elsewhere");
	old(3, "eb 0b");
	expect(NULL);
	branch(0, "e9", OLD + SIZE + 1);
	expect("a jump goes elsewhere");
	begin(); /* past a jump, to the copy of where that leads */
	old(0, "eb 0e");
	old(0x10, "eb 0e");
	branch(0, "e9", NEW + 0x10);
	entry(0, 0, 5, 2, 0);
	entry(0x10, 0x20, 1, 1, 0);
	expect(NULL);
	it.entries[1].old.v++;
	expect("a jump goes elsewhere");
	branch(0, "eb", 0);
	new (0, "ff e0");
	it.entries[0].new_len = 2;
	expect("another kind of instruction");
}

static void test_conditions(void **state)
{
	(void)state;
	begin();
	old(0, "74 0e");
	branch(0, "0f 84", OLD + 0x10);
	branch(6, "e9", OLD + 2);
	entry(0, 0, 6, 2, 0);
	expect(NULL);
	branch(0, "0f 8c", OLD + 0x10);
	expect("another condition");
	branch(0, "0f 84", OLD + 0x11);
	expect("a branch goes elsewhere");
	branch(0, "0f 85", OLD + 2); /* inverted and crossed */
	branch(6, "e9", OLD + 0x10);
	expect(NULL);
	branch(6, "e9", OLD + 0x11);
	expect("falls through to something else");
	begin();
	old(0, "e3 0e");
	new (0, "e3 05");
	branch(2, "e9", OLD + 2);
	branch(7, "e9", OLD + 0x10);
	entry(0, 0, 2, 2, 0);
	expect(NULL);
	new (0, "e2"); /* loop */
	expect("another loop instruction");
	old(0, "67 e3 0d"); /* jecxz */
	it.entries[0].old_len = 3;
	expect("another loop instruction");
}

/* Code that jumps behind a lock prefix, which belongs to the instruction. */
static void test_lock(void **state)
{
	static const char code[] = "74 01 f0 48 ff 07";
	(void)state;
	begin();
	old(0, code);
	new (0, code);
	entry(0, 0, 2, 2, 0);
	entry(2, 2, 4, 4, 0);
	entry(6, 6, 1, 1, 0);
	expect(NULL);
	it.entries[1].old.v++; /* an instruction that starts elsewhere */
	expect("a branch goes elsewhere");
	it.entries[1].old.v--;
	new (2, "f3");
	expect("a branch goes elsewhere");
	new (2, "f0");
	old(2, "f3");
	expect("a branch goes elsewhere");
	old(2, "f0");
	it.entries[1].flags = SYNTH;
	expect("a branch goes elsewhere");
	it.entries[1].flags = 0;
	it.entries[1].new_len = 1;
	expect("a branch goes elsewhere");
	it.entries[1].new_len = 4;
	new (1, "02"); /* behind two bytes, of an original that ends between them */
	old(0, "0f 84 fb 00 00 00");
	it.entries[0] = (struct ovm_map_entry){{OLD}, 0, 2, 6, 0};
	old(SIZE - 1, "f0");
	it.entries[1].old.v = OLD + SIZE - 1;
	expect("a branch goes elsewhere");
	it.entries[1].old.v = OLD + SIZE + 1; /* outside */
	old(0, "0f 84 fd 00 00 00");
	expect("a branch goes elsewhere");
}

static void test_calls(void **state)
{
	(void)state;
	begin();
	old(0, "2e e8 0a 00 00 00");
	branch(0, "2e e8", OLD + 0x10);
	branch(6, "e9", OLD + 6);
	entry(0, 0, 6, 6, CALL);
	expect(NULL);
	branch(0, "3e e8", OLD + 0x10);
	expect("another call instruction");
	branch(0, "2e e8", OLD + 0x11);
	expect("a call goes elsewhere");
	it.entries[0].flags = 0;
	expect("the map is wrong about calls");
	it.entries[0].flags = CALL | OVM_MAP_SYSCALL;
	expect("the map is wrong about calls");
	it.entries[0].old_len--;
	expect("the map is wrong about lengths");
	begin();
	old(0, "e8 0b 00 00 00");
	branch(0, "2e e8", OLD + 0x10);
	entry(0, 0, 6, 5, CALL);
	expect("another call instruction");
	begin();
	old(0, "ff d0"); /* into a copy that is no thunk: two reasons, the first is kept */
	branch(0, "e8", NEW + 0x10);
	entry(0, 0, 5, 2, CALL);
	entry(0x10, 0x10, 1, 1, 0);
	it.overlay.n_counters = 0;
	assert_int_equal(ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result),
			 OVM_REFUSED);
	assert_int_equal(it.result.bad_off, 0);
}

/* call stub -> call *slot(%rip) */
static void test_calls_of_stubs(void **state)
{
	(void)state;
	begin();
	old(0, "e8 0b 00 00 00");
	old(0x10, "f3 0f 1e fa ff 25 66 00 00 00"); /* endbr64; jmp *0x1080 */
	branch(0, "ff 15", OLD + 0x80);
	branch(6, "e9", OLD + 5);
	entry(0, 0, 6, 5, CALL);
	expect(NULL);
	new (6, "06");
	expect("continues elsewhere");
	branch(0, "ff 15", OLD + 0x88);
	expect("another kind of instruction");
	branch(0, "ff 15", OLD + 0x80);
	old(0x14, "ff e0");
	expect("another kind of instruction");
	old(0x14, "c3");
	expect("another kind of instruction");
	old(0x14, "06");
	expect("another kind of instruction");
	old(0x10, "ff 25 6a 00 00 00"); /* without endbr64 */
	branch(6, "e9", OLD + 5);
	expect(NULL);
	old(0, "e8 fb 0f 00 00"); /* no such stub */
	expect("another kind of instruction");
	old(0, "e8 f7 00 00 00"); /* endbr64 ends the file */
	old(SIZE - 4, "f3 0f 1e fa");
	expect("another kind of instruction");
	branch(0, "2e ff 15", OLD + 0x80);
	it.entries[0].new_len = 7;
	expect("another kind of instruction");
	new (0, "ff d0");
	it.entries[0].new_len = 2;
	expect("another kind of instruction");
}

/* call *8(%rax) -> compare, call directly; the form for absolute addresses (test_promote.c has the
 * other one). */
static void begin_promoted(void)
{
	begin();
	old(0, "ff 50 08");
	new (0, "48 81 78 08 40 10 00 00"); /* cmpq $OLD + 0x40, 8(%rax) */
	branch(8, "0f 85", NEW + 0x50);
	branch(14, "e8", NEW + 0x60);
	branch(19, "e9", OLD + 3);
	new (0x50, "ff 50 08");
	branch(0x53, "e9", NEW + 19);
	entry(0, 0, 14, 0, SYNTH | OVM_MAP_GUARD);
	entry(14, 0, 5, 3, CALL | OVM_MAP_GUARD);
	entry(19, 3, 5, 0, SYNTH);
	entry(0x50, 0, 3, 3, CALL);
	entry(0x53, 3, 5, 0, SYNTH);
	entry(0x60, 0x40, 1, 1, 0);
}

static void test_promoted_calls(void **state)
{
	(void)state;
	begin_promoted();
	expect(NULL);
	it.image.is_dyn = true; /* then nobody knows the address */
	expect("a guard of no known form");
	begin_promoted();
	old(0, "ff 60 08");
	expect("a guard of what is no call through a pointer");
	begin_promoted();
	new (4, "41");
	expect("a guarded call goes elsewhere");
	begin_promoted();
	branch(14, "e8", NEW + 0x50);
	expect("a guarded call goes elsewhere");
	begin_promoted();
	branch(14, "e8", OLD + 0x40); /* into the original: as good */
	expect(NULL);
	new (14, "e9");
	expect("a guarded call that is no call");
	begin_promoted();
	branch(8, "0f 84", NEW + 0x50); /* je */
	expect("a guard of no known form");
	begin_promoted();
	new (3, "10"); /* another operand */
	expect("a guard of no known form");
	begin_promoted();
	new (0, "48 81 79"); /* another register */
	expect("a guard of no known form");
	begin_promoted();
	new (0, "90 81 78"); /* 32 bits */
	expect("a guard of no known form");
	begin_promoted();
	branch(8, "0f 85", NEW); /* forever */
	expect("a guard leads elsewhere");
	branch(8, "0f 85", NEW + 14); /* whatever the operand is */
	expect("a guard leads elsewhere");
	branch(8, "0f 85", OLD);
	expect("a guard leads elsewhere");
	begin_promoted();
	branch(19, "e9", OLD + 5);
	expect("a guarded call continues elsewhere");
}

static void test_promoted_calls_alone(void **state)
{
	(void)state;
	begin_promoted();
	it.entries[1].flags = CALL;
	expect("a guard without its call");
	begin_promoted();
	it.entries[0].flags = SYNTH | OVM_MAP_GUARD | OVM_MAP_PAD;
	expect("a guard without its call");
	begin_promoted();
	it.entries[1].old.v++;
	expect("a guard without its call");
	begin_promoted();
	it.overlay.map.v.n = 1;
	expect("a guard without its call");
	begin_promoted();
	it.entries[0].flags = SYNTH | PAD;
	expect("padding that is run through is no nop");
	begin();
	old(0, "ff 50 08");
	branch(0, "e8", OLD + 0x40);
	branch(5, "e9", OLD + 3);
	entry(0, 0, 5, 3, CALL | OVM_MAP_GUARD);
	expect("a guarded call without its guard");
	begin_promoted();
	branch(0x70, "e9", NEW + 14); /* nobody arrives behind the guard */
	entry(0x70, 0, 5, 0, SYNTH);
	expect("a jump that was added goes elsewhere");
	branch(0x70, "e9", NEW);
	expect(NULL);
}

/* --- what was added
 * ----------------------------------------------------------------------------------------------------
 */

static void test_added_jumps(void **state)
{
	(void)state;
	begin();
	branch(8, "e9", OLD + 0x10);
	entry(8, 0x10, 5, 0, SYNTH);
	expect(NULL);
	branch(8, "e9", NEW); /* in front of the whole map: a return */
	expect("a jump that was added goes elsewhere");
	branch(0, "e9", OLD + 0x10); /* a jump that is in no map leads there, though */
	expect(NULL);
	new (0, "90 90 90");
	branch(3, "e9", NEW); /* nops and jumps in circles */
	expect("a jump that was added goes elsewhere");
	branch(0, "e9", NEW + CODE_END); /* tables are no code */
	expect("a jump that was added goes elsewhere");
	new (8, "ff e0");
	it.entries[0].new_len = 2;
	expect("what was added is no jump");
	new (8, "eb f6");
	it.entries[0].new_len = 3;
	expect("what was added is no jump");
	new (8, "06");
	expect("a jump that was added does not decode");
}

static void test_padding(void **state)
{
	(void)state;
	begin();
	new (0, "90 66 90");
	entry(0, 0, 3, 0, PAD);
	entry(3, 0, 1, 1, 0);
	expect(NULL);
	it.entries[0].old.v += 0x10;
	expect("padding leads elsewhere"); /* another return */
}

static void test_bad_padding(void **state)
{
	(void)state;
	begin();
	old(0, "31 c0");
	new (0, "90 66 90 31 c0");
	branch(5, "e9", OLD + 2);
	entry(0, 0, 3, 0, PAD);
	entry(3, 0, 2, 2, 0);
	expect(NULL);
	it.entries[0].old.v += 2;
	expect("padding leads elsewhere");
	it.entries[0].old.v -= 2;
	it.entries[0].new_len = 2;
	expect("padding that is run through is no nop");
	it.entries[0].new_len = 3;
	new (1, "c3");
	expect("padding that is run through is no nop");
	new (1, "06");
	expect("padding that is run through is no nop");
}

/* A counter stands alone: what is behind it is reached on foot. */
static void test_behind_counters(void **state)
{
	(void)state;
	begin();
	old(0, "31 c0");
	it.overlay.counters = ovm_va_of(COUNTERS);
	it.overlay.n_counters = 1;
	branch(0, "48 ff 05", COUNTERS);
	new (7, "90 90 31 c0");
	branch(11, "e9", OLD + 2);
	branch(16, "e9", NEW);
	entry(0, 0, 7, 0, SYNTH | OVM_MAP_COUNT);
	entry(9, 0, 2, 2, 0);
	entry(16, 0, 5, 0, SYNTH);
	expect("a jump that was added goes elsewhere");
	it.overlay.map.v.n = 2;
	expect(NULL);
	it.overlay.map.v.n = 1;
	expect("a counter leads elsewhere");
	it.overlay.map.v.n = 0; /* the counter is the last of the map */
	branch(0, "e9", NEW + 8);
	branch(8, "48 ff 05", COUNTERS);
	branch(15, "e9", OLD);
	entry(0, 0, 5, 0, SYNTH);
	entry(8, 0, 7, 0, SYNTH | OVM_MAP_COUNT);
	expect("a jump that was added goes elsewhere");
}

/* Segments and overlays of no bytes overlap nothing. */
static void test_counters_and_nothing(void **state)
{
	(void)state;
	begin();
	it.overlay.counters = ovm_va_of(COUNTERS);
	it.overlay.n_counters = 1;
	it.segment.lo = it.segment.hi = it.overlay.counters;
	expect(NULL);
	it.segment.hi.v++;
	expect("counters inside the image");
	it.segment = (struct ovm_segment){
	    {COUNTERS + 8}, {COUNTERS + 0x1000}, {0}, SIZE, PF_R | PF_X}; /* right behind */
	expect(NULL);
	it.segment.lo.v--;
	expect("counters inside the image");
	it.segment = (struct ovm_segment){{OLD}, {COUNTERS}, {0}, SIZE, PF_R | PF_X};
	expect(NULL);
}

/* What stands before an exit must be the copy of a call, right before it. */
static void test_exits(void **state)
{
	(void)state;
	begin();
	old(0, "e8 0b 00 00 00");
	branch(0, "e8", OLD + 0x10);
	new (5, "90 0f 1f 44 00 00");
	branch(11, "e9", OLD + 5);
	entry(0, 0, 5, 5, CALL);
	entry(6, 5, 5, 0, PAD | OVM_MAP_EXIT);
	expect("an exit behind no call");
	new (5, "0f 1f 44 00 00");
	branch(10, "e9", OLD + 5);
	it.entries[1].off = 5;
	expect(NULL);
	branch(0, "e9", OLD); /* a jump of ours that says it is a call */
	it.entries[0].old_len = 0;
	it.entries[0].flags = CALL | SYNTH;
	it.entries[1].old.v = OLD;
	expect("an exit behind no call");
}

/* What lies behind the map's end is not believed, nor what stands in it but somewhere else. */
static void test_neighbours(void **state)
{
	(void)state;
	begin();
	old(0, "31 c0");
	new (0, "31 c0");
	entry(0, 0, 2, 2, 0);
	entry(2, 2, 1, 1, 0);
	expect(NULL);
	it.overlay.map.v.n = 1;
	expect("continues elsewhere");
	it.overlay.map.v.n = 2;
	it.entries[1].off = 0x10; /* the copy of what is due, but not here */
	expect("continues elsewhere");
	begin();
	it.overlay.counters = ovm_va_of(COUNTERS);
	it.overlay.n_counters = 1;
	branch(0, "48 ff 05", COUNTERS);
	entry(0, 0, 7, 0, SYNTH | OVM_MAP_COUNT);
	entry(7, 0, 1, 1, 0);
	expect(NULL);
	it.overlay.map.v.n = 1;
	expect("a counter leads elsewhere");
}

/* The code ends where the later of both sections does. */
static void test_cold_code(void **state)
{
	(void)state;
	begin();
	it.overlay.sections[OVM_SECTION_HOT] = (struct ovm_section){0, 0x40};
	it.overlay.sections[OVM_SECTION_COLD] = (struct ovm_section){0x40, 0x40};
	entry(0x7f, 0, 1, 1, 0);
	expect(NULL);
	it.overlay.sections[OVM_SECTION_COLD].size--;
	expect("the map is out of order");
	it.overlay.sections[OVM_SECTION_HOT].size = 0x80;
	expect(NULL);
}

/* More counters in a row than anyone looks through: on foot then. */
static void test_many_counters(void **state)
{
	enum { N = 210 };
	(void)state;
	begin();
	old(0, "31 c0");
	it.overlay.counters = ovm_va_of(COUNTERS);
	it.overlay.n_counters = 1;
	for (unsigned i = 0; i < N; i++) {
		branch(i * 7, "48 ff 05", COUNTERS);
		entry(i * 7, 0, 7, 0, SYNTH | OVM_MAP_COUNT);
	}
	new (N * 7, "31 c0");
	branch(N * 7 + 2, "e9", OLD + 2);
	entry(N * 7, 0, 2, 2, 0);
	expect("a counter leads elsewhere");
}

/* --- lists
 * ----------------------------------------------------------------------------------------------------
 */

static void test_map_order(void **state)
{
	(void)state;
	begin();
	entry(0, 0, 1, 1, 0);
	entry(0, 0, 1, 1, 0);
	expect("the map is out of order");
	it.entries[1] = (struct ovm_map_entry){{OLD}, 1, 0, 1, 0};
	expect("the map is out of order");
	it.entries[1] = (struct ovm_map_entry){{OLD}, CODE_END - 1, 2, 1, 0};
	expect("the map is out of order");
	it.entries[1] = (struct ovm_map_entry){{OLD}, CODE_END - 1, 1, 1, 0};
	expect(NULL);
	it.overlay.sections[OVM_SECTION_TABLES] = (struct ovm_section){NEW_SIZE, 1};
	expect("a section outside the overlay");
}

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
	ovm_put64(it.old + 0x80, OLD + 0x10);
	ovm_put64(it.new + AT, NEW);
	table(AT, 8, 1, 0);
	expect(NULL);
	it.image.is_dyn = true;
	expect("a table of unknown shape");
	it.image.is_dyn = false;
	for (int i = 0; i < 4; i++) {
		struct ovm_table_copy save = it.tables[0];
		it.tables[0].new_off = i == 0	? AT - 4
				       : i == 1 ? NEW_SIZE + 1
				       : i == 2 ? NEW_SIZE - 4
						: AT;
		it.tables[0].old_table.v += i == 3 ? SIZE : 0;
		expect("a table outside its memory");
		it.tables[0] = save;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_plain),
	    cmocka_unit_test(test_jumps),
	    cmocka_unit_test(test_conditions),
	    cmocka_unit_test(test_lock),
	    cmocka_unit_test(test_calls),
	    cmocka_unit_test(test_calls_of_stubs),
	    cmocka_unit_test(test_promoted_calls),
	    cmocka_unit_test(test_promoted_calls_alone),
	    cmocka_unit_test(test_added_jumps),
	    cmocka_unit_test(test_padding),
	    cmocka_unit_test(test_bad_padding),
	    cmocka_unit_test(test_behind_counters),
	    cmocka_unit_test(test_neighbours),
	    cmocka_unit_test(test_cold_code),
	    cmocka_unit_test(test_counters_and_nothing),
	    cmocka_unit_test(test_exits),
	    cmocka_unit_test(test_many_counters),
	    cmocka_unit_test(test_map_order),
	    cmocka_unit_test(test_tables),
	    cmocka_unit_test(test_wide_tables),
	    cmocka_unit_test(test_relocated_tables),
	    cmocka_unit_test(test_relocated_jumps),
	    cmocka_unit_test(test_relocated_entries),
	    cmocka_unit_test(test_table_loads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
