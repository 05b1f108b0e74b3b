/* The checker, one pair at a time: a few bytes of original code, a few of an overlay, the map
 * written by hand, and what must be said of them.
 */
#include "tests/support/by_hand.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_plain),
	    cmocka_unit_test(test_jumps),
	    cmocka_unit_test(test_conditions),
	    cmocka_unit_test(test_lock),
	    cmocka_unit_test(test_calls),
	    cmocka_unit_test(test_calls_of_stubs),
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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
