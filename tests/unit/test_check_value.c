/* The checker and thunks that count where an indirect call leads: written by hand byte by byte, for
 * each form of operand, then wrong in one thing at a time.
 */
#include "tests/support/by_hand.h"

enum {
	THUNK_AT = 0x40,
	PROBES = 2, /* counters that are no site's */
	FIRST = COUNTERS + 8 * PROBES,
};
#define REFUSED "another kind of instruction"

/* An indirect call and what reads its operand in a thunk; "R" stands for a disp32 to OLD + 0x80. */
struct form {
	const char *call, *load, *jump;
};

static const struct form REG = {"ff d0", "4c 8b d8", "ff e0"};

static uint32_t cursor; /* of the overlay */

static void put8(unsigned x)
{
	it.new[cursor++] = (uint8_t)x;
}

/* Bytes of an instruction that stands at @va, whose copy goes to @to. Returns how many. */
static unsigned encode(uint8_t *to, const char *text, uint64_t va)
{
	unsigned n = 0, byte;
	for (int step; sscanf(text, " %2x%n", &byte, &step) == 1; text += step)
		to[n++] = (uint8_t)byte;
	if (strchr(text, 'R')) {
		n += 4;
		ovm_put32(to + n - 4, (uint32_t)(OLD + 0x80 - (va + n)));
	}
	return n;
}

static void code(const char *text)
{
	cursor += encode(it.new + cursor, text, NEW + cursor);
}

/* An instruction with a disp32 to @to and @n_behind more bytes. */
static void rip(const char *text, uint64_t to, unsigned n_behind)
{
	code(text);
	ovm_put32(it.new + cursor, (uint32_t)(to - (NEW + cursor + 4 + n_behind)));
	cursor += 4;
}

static void leave(const struct form *form, uint64_t count)
{
	rip("48 ff 05", count, 0);
	code("4c 8b 5c 24 f8");
	code(form->jump);
}

static void thunk(const struct form *form, uint64_t first)
{
	cursor = THUNK_AT;
	code("4c 89 5c 24 f8");
	code(form->load);
	for (unsigned k = 0; k < OVM_SITE_TARGETS; k++) {
		uint64_t target = first + 16 * (uint64_t)k;
		rip("4c 39 1d", target, 0);
		uint32_t known = cursor;
		code("74 00");
		rip("48 83 3d", target, 1);
		put8(0);
		uint32_t other = cursor;
		code("75 00");
		rip("4c 89 1d", target, 0);
		it.new[known + 1] = (uint8_t)(cursor - known - 2);
		leave(form, target + 8);
		it.new[other + 1] = (uint8_t)(cursor - other - 2);
	}
	leave(form, first + 16 * (uint64_t)OVM_SITE_TARGETS);
}

static void with(const struct form *form)
{
	begin();
	unsigned len = encode(it.old, form->call, OLD);
	branch(0, "e8", NEW + THUNK_AT);
	branch(5, "e9", OLD + len);
	entry(0, 0, 5, len, CALL);
	it.overlay.counters = ovm_va_of(COUNTERS);
	it.overlay.n_counters = PROBES + OVM_SITE_COUNTERS;
	it.overlay.sites.n = 1;
	thunk(form, FIRST);
	entry(THUNK_AT, 0, cursor - THUNK_AT, 0, OVM_MAP_PAD | OVM_MAP_THUNK);
}

static void test_operands(void **state)
{
	(void)state;
	static const struct {
		struct form form;
		bool right;
	} rows[] = {
	    {{"ff d0", "4c 8b d8", "ff e0"}, true},
	    {{"41 ff d4", "4d 8b dc", "41 ff e4"}, true},
	    {{"3e ff d0", "3e 4c 8b d8", "3e ff e0"}, true}, /* notrack */
	    {{"ff d4", "4c 8b dc", "ff e4"}, false},	     /* rsp itself */
	    {{"41 ff d3", "4d 8b db", "41 ff e3"}, true},
	    {{"ff 13", "4c 8b 1b", "ff 23"}, true},
	    {{"ff 53 08", "4c 8b 5b 08", "ff 63 08"}, true},
	    {{"ff 53 f8", "4c 8b 5b f8", "ff 63 f8"}, true},
	    {{"ff 93 00 01 00 00", "4c 8b 9b 00 01 00 00", "ff a3 00 01 00 00"}, true},
	    {{"ff 14 c8", "4c 8b 1c c8", "ff 24 c8"}, true},
	    {{"42 ff 14 e0", "4e 8b 1c e0", "42 ff 24 e0"}, true}, /* index r12 */
	    {{"ff 14 cd 00 01 00 00", "4c 8b 1c cd 00 01 00 00", "ff 24 cd 00 01 00 00"}, true},
	    {{"ff 15 R", "4c 8b 1d R", "ff 25 R"}, true},
	    {{"64 ff 14 25 10 00 00 00", "64 4c 8b 1c 25 10 00 00 00", "64 ff 24 25 10 00 00 00"},
	     true},
	    {{"65 ff 14 25 10 00 00 00", "65 4c 8b 1c 25 10 00 00 00", "65 ff 24 25 10 00 00 00"},
	     true},
	    /* on the stack, which is 8 bytes lower by then */
	    {{"ff 14 24", "4c 8b 9c 24 08 00 00 00", "ff a4 24 08 00 00 00"}, true},
	    {{"ff 54 24 08", "4c 8b 9c 24 10 00 00 00", "ff a4 24 10 00 00 00"}, true},
	    {{"ff 14 24", "4c 8b 1c 24", "ff 24 24"}, false},
	    {{"ff 54 24 08", "4c 8b 5c 24 10", "ff 64 24 10"}, false}, /* a form never written */
	    {{"ff 54 24 f0", "4c 8b 9c 24 f8 ff ff ff", "ff a4 24 f8 ff ff ff"}, false},
	    {{"ff 14 cc", "4c 8b 9c cc 08 00 00 00", "ff a4 cc 08 00 00 00"}, false},
	    {{"42 ff 14 24", "4e 8b 9c 24 08 00 00 00", "42 ff a4 24 08 00 00 00"}, false},
	    {{"41 ff 14 24", "4d 8b 1c 24", "41 ff 24 24"}, true}, /* r12 is not the stack */
	    /* in a frame */
	    {{"ff 55 08", "4c 8b 5d 08", "ff 65 08"}, true},
	    {{"ff 55 f8", "4c 8b 5d f8", "ff 65 f8"}, false},
	    {{"ff 54 0d 08", "4c 8b 5c 0d 08", "ff 64 0d 08"}, false},
	    {{"41 ff 55 f8", "4d 8b 5d f8", "41 ff 65 f8"}, true}, /* r13 */
	    /* prefixes that are no part of any form */
	    {{"f2 ff d0", "f2 4c 8b d8", "f2 ff e0"}, false},
	    {{"3e 64 ff 13", "3e 64 4c 8b 1b", "3e 64 ff 23"}, false},
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		with(&rows[i].form);
		int err = ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result);
		const char *want =
		    rows[i].right ? ".eh_frame does not end where it should" : REFUSED;
		if (!err || strcmp(it.result.reason, want))
			fail_msg("%s: %s", rows[i].form.call, it.result.reason);
	}
}

/* Loads and jumps of another operand, or that are something else. */
static void test_other_operands(void **state)
{
	(void)state;
	static const struct form rows[] = {
	    {"ff d0", "4c 8b d9", "ff e0"}, /* another register */
	    {"ff d0", "4d 8b d8", "ff e0"},
	    {"ff d0", "4c 8b 18", "ff e0"}, /* where it points to */
	    {"ff d0", "4c 8b d0", "ff e0"}, /* into r10 */
	    {"ff d0", "48 8b d8", "ff e0"}, /* into rbx */
	    {"ff d0", "44 8b d8", "ff e0"}, /* half of it */
	    {"ff d0", "4c 89 d8", "ff e0"}, /* the other way round */
	    {"ff d0", "ff e0", "ff e0"},    /* a jump */
	    {"ff d0", "3e 4c 8b d8", "ff e0"},
	    {"ff d0", "4c 8b d8", "3e ff e0"},
	    {"ff d0", "4c 8b d8", "ff e1"},
	    {"ff d0", "4c 8b d8", "48 ff e0"}, /* a REX that the call has not */
	    {"ff d0", "4c 8b d8", "ff d0"},    /* a call */
	    {"ff d0", "90", "ff e0"},	       /* no operand at all */
	    {"ff d0", "06", "ff e0"},	       /* no instruction */
	    {"ff d0", "49 c7 c3 00 00 00 00", "ff e0"},
	    {"ff 53 08", "4c 8b 5b 10", "ff 63 08"},
	    {"ff 53 08", "4c 8b 5b 08", "ff 63 10"},
	    {"ff 53 08", "4c 8b 9b 08 00 00 00", "ff 63 08"},
	    {"ff 53 08", "4c 8b 5c 23 08", "ff 63 08"}, /* the same with a SIB */
	    {"ff 14 c8", "4c 8b 1c 88", "ff 24 c8"},
	    {"42 ff 14 e0", "4c 8b 1c e0", "42 ff 24 e0"},
	    {"64 ff 14 25 10 00 00 00", "4c 8b 1c 25 10 00 00 00", "64 ff 24 25 10 00 00 00"},
	    {"ff 15 R", "4c 8b 1d 00 00 00 00", "ff 25 R"},
	    {"ff 15 R", "4c 8b 1d R", "ff 25 00 00 00 00"},
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		with(&rows[i]);
		int err = ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result);
		if (!err || strcmp(it.result.reason, REFUSED))
			fail_msg("%s | %s | %s: %s", rows[i].call, rows[i].load, rows[i].jump,
				 it.result.reason);
	}
}

/* Each byte of a thunk counts, and each bit of it, but for which of its counters a site has. */
static void test_every_bit(void **state)
{
	(void)state;
	static const struct form forms[] = {
	    {"ff d0", "4c 8b d8", "ff e0"},
	    {"ff 53 08", "4c 8b 5b 08", "ff 63 08"},
	    {"ff 15 R", "4c 8b 1d R", "ff 25 R"},
	    {"ff 14 24", "4c 8b 9c 24 08 00 00 00", "ff a4 24 08 00 00 00"}};
	for (unsigned k = 0; k < 4; k++) {
		with(&forms[k]);
		uint32_t end = cursor;
		for (uint32_t off = THUNK_AT; off < end; off++)
			for (unsigned bit = 0; bit < 8; bit++) {
				it.new[off] ^= (uint8_t)(1u << bit);
				expect(REFUSED);
				it.new[off] ^= (uint8_t)(1u << bit);
			}
		expect(NULL);
	}
}

static void test_lengths(void **state)
{
	(void)state;
	with(&REG);
	unsigned len = it.entries[1].new_len;
	for (unsigned n = 1; n <= len + 1; n++) {
		it.entries[1].new_len = (uint8_t)n;
		expect(n == len ? NULL : REFUSED);
	}
}

static void test_counters(void **state)
{
	(void)state;
	static const int64_t wrong[] = {-8, -16, 1, 4, 8, 16, 72, 0x10000, -0x10000};
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		with(&REG);
		thunk(&REG, FIRST + (uint64_t)wrong[i]);
		expect(REFUSED);
	}
	with(&REG);
	it.overlay.n_counters++; /* of one more probe: the site's come behind it */
	expect(REFUSED);
	it.overlay.n_counters -= 2;
	expect(REFUSED);
	it.overlay.sites.n = 0;
	expect(REFUSED);
	it.overlay.sites.n = 2;
	expect("more sites than counters");
	it.overlay.n_counters = PROBES + 2 * OVM_SITE_COUNTERS;
	expect(NULL);
	thunk(&REG, FIRST + 8 * (uint64_t)OVM_SITE_COUNTERS);
	expect(NULL);
}

/* Who calls what. */
static void test_calls(void **state)
{
	(void)state;
	with(&REG);
	it.entries[1].old.v++; /* the thunk of another call */
	expect(REFUSED);
	with(&REG);
	it.entries[1].old_len = 1; /* claims to be a copy of something */
	expect(REFUSED);
	it.overlay.map.v.n = 0;
	entry(THUNK_AT, 0, 5, 1, OVM_MAP_PAD | OVM_MAP_THUNK);
	expect("a thunk that claims to be more");
	with(&REG);
	it.entries[1].flags |= OVM_MAP_SYNTH;
	expect(REFUSED);
	with(&REG);
	branch(0, "e8", NEW + THUNK_AT + 5); /* behind its first instruction */
	expect(REFUSED);
	branch(0, "e8", NEW + CODE_END);
	expect(REFUSED);
	branch(0, "e8", NEW + NEW_SIZE);
	expect(REFUSED);
	branch(0, "e9", NEW + THUNK_AT); /* a jump */
	expect(REFUSED);
	with(&REG);
	it.entries[0].new_len = 6; /* a prefix, and then the call */
	branch(0, "2e e8", NEW + THUNK_AT);
	branch(6, "e9", OLD + 2);
	expect(REFUSED);
	with(&REG);
	old(0, "ff e0"); /* the original jumps */
	it.entries[0].flags = 0;
	expect(REFUSED);
	with(&REG);
	it.entries[0].off = 8; /* before the first entry of the map */
	memmove(it.new + 8, it.new, 10);
	branch(8, "e8", NEW + 4);
	branch(13, "e9", OLD + 2);
	expect(REFUSED);
	with(&REG);
	branch(5, "e9", OLD + 3);
	expect("continues elsewhere");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_operands),  cmocka_unit_test(test_other_operands),
	    cmocka_unit_test(test_every_bit), cmocka_unit_test(test_lengths),
	    cmocka_unit_test(test_counters),  cmocka_unit_test(test_calls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
