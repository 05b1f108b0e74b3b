/* The checker and promoted calls: the guard, its two forms, and the call behind it. */
#include "tests/support/by_hand.h"

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

static void test_absolute_form(void **state)
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
	begin_promoted();
	it.entries[1].old_len = 2;
	expect("a guarded call that is no call");
	begin_promoted();
	it.entries[1].new_len = 4;
	expect("a guarded call that is no call");
	begin_promoted();
	old(0, "06");
	expect("a guard of what is no call through a pointer");
	begin_promoted(); /* of nothing in the file */
	it.entries[0].old.v = it.entries[1].old.v = OLD + SIZE;
	expect("a guard of what is no call through a pointer");
}

static void test_alone(void **state)
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
	entry(5, 3, 5, 0, SYNTH);
	it.entries[2] = it.entries[0];
	it.entries[2].off = 10;
	it.overlay.map.v.n = 3;
	it.entries[0].flags = CALL;
	new (0, "ff 50 08 90 90");
	it.entries[0].new_len = 3;
	expect("a guarded call without its guard"); /* behind something else */
	begin_promoted();
	branch(0x70, "e9", NEW + 14); /* nobody arrives behind the guard */
	entry(0x70, 0, 5, 0, SYNTH);
	expect("a jump that was added goes elsewhere");
	branch(0x70, "e9", NEW);
	expect(NULL);
}

/* The form for addresses that are known when the program runs:
 *   mov %r11,-8(%rsp); lea T(%rip),%r11; cmp %r11,@operand; mov -8(%rsp),%r11; jne slow
 */
enum { SAVE = 5, LEA = 7, SLOW = 0x50 };

static unsigned begin_register_form(const char *call, const char *compare)
{
	unsigned call_len = ((unsigned)strlen(call) + 1) / 3,
		 len = SAVE + LEA + ((unsigned)strlen(compare) + 1) / 3;
	begin();
	it.image.is_dyn = true;
	old(0, call);
	new (0, "4c 89 5c 24 f8");
	branch(SAVE, "4c 8d 1d", OLD + 0x40);
	new (SAVE + LEA, compare);
	new (len, "4c 8b 5c 24 f8");
	branch(len + SAVE, "0f 85", NEW + SLOW);
	len += SAVE + 6;
	branch(len, "e8", OLD + 0x40);
	branch(len + 5, "e9", OLD + call_len);
	new (SLOW, call);
	branch(SLOW + call_len, "e9", OLD + call_len);
	entry(0, 0, len, 0, SYNTH | OVM_MAP_GUARD);
	entry(len, 0, 5, call_len, CALL | OVM_MAP_GUARD);
	entry(SLOW, 0, call_len, call_len, CALL);
	entry(SLOW + call_len, call_len, 5, 0, SYNTH);
	return len;
}

static void test_register_form(void **state)
{
	(void)state;
	begin_register_form("ff 50 08", "4c 39 58 08"); /* 8(%rax) */
	expect(NULL);
	begin_register_form("ff 14 48", "4c 39 1c 48"); /* (%rax,%rcx,2) */
	expect(NULL);
	begin_register_form("ff d2", "4c 39 da"); /* %rdx */
	expect(NULL);
	begin_register_form("41 ff 53 08", "4d 39 5b 08"); /* 8(%r11): overwritten */
	expect("a guard of no known form");
	begin_register_form("42 ff 14 18", "4e 39 1c 18"); /* (%rax,%r11) */
	expect("a guard of no known form");
	begin_register_form("41 ff d3", "4d 39 db"); /* %r11 */
	expect("a guard of no known form");
}

/* No bit of a guard may be another but in what says where it leads, which is proved then; and no
 * end of it may be missing. */
static void test_bits(void **state)
{
	(void)state;
	unsigned len = begin_register_form("ff 50 08", "4c 39 58 08");
	for (unsigned bit = 0; bit < 8 * len; bit++) {
		it.new[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(
		    ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result),
		    OVM_REFUSED);
		it.new[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (unsigned shorter = 1; shorter < len; shorter++) {
		it.entries[0].new_len = (uint8_t)shorter;
		it.entries[1].off = shorter;
		expect("a guard of no known form");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_absolute_form),
	    cmocka_unit_test(test_alone),
	    cmocka_unit_test(test_register_form),
	    cmocka_unit_test(test_bits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
