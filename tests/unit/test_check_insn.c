/* The checker's own decoder: what it takes instructions for, which flags it says they use, and what
 * "the same instruction" and "the same load of another table" mean to it.
 */
#include "rewriter/check_private.h"
#include "tests/support/by_hand.h"

enum { VA = 0x5000, NOT = -1 };

struct code {
	uint8_t bytes[16];
	unsigned len; /* of the text */
	struct ovm_check_insn insn;
	struct ovm_check_flags flags;
};

static unsigned hex(uint8_t *to, const char *text)
{
	unsigned n = 0, byte;
	for (int step; sscanf(text, "%2x%n", &byte, &step) == 1; text += step)
		to[n++] = (uint8_t)byte;
	return n;
}

static bool decode_at(const char *text, uint64_t va, struct code *out)
{
	ZydisDecoder dec;
	ovm_check_decoder_init(&dec);
	memset(out, 0, sizeof(*out));
	out->len = hex(out->bytes, text);
	return ovm_check_decode(&dec, out->bytes, out->len, va, &out->insn);
}

static struct code decode(const char *text)
{
	struct code code;
	if (!decode_at(text, VA, &code))
		fail_msg("%s does not decode", text);
	assert_int_equal(code.insn.len, code.len);
	return code;
}

/* --- kinds
 * ----------------------------------------------------------------------------------------------------
 */

static void test_kinds(void **state)
{
	static const struct {
		const char *text;
		int kind;
	} rows[] = {
	    {"e8 00 01 00 00", OVM_INSN_CALL},
	    {"e9 00 01 00 00", OVM_INSN_JMP},
	    {"eb 10", OVM_INSN_JMP},
	    {"75 10", OVM_INSN_JCC},
	    {"0f 85 00 01 00 00", OVM_INSN_JCC},
	    {"e0 10", OVM_INSN_JCXZ},
	    {"e1 10", OVM_INSN_JCXZ},
	    {"e2 10", OVM_INSN_JCXZ},
	    {"e3 10", OVM_INSN_JCXZ},
	    {"ff d0", OVM_INSN_CALL_IND},
	    {"ff e0", OVM_INSN_JMP_IND},
	    {"ff 25 00 01 00 00", OVM_INSN_JMP_IND},
	    {"66 48 ff e0", OVM_INSN_JMP_IND}, /* REX.W: 64 bits all the same */
	    {"c3", OVM_INSN_RET},
	    {"c2 08 00", OVM_INSN_RET},
	    {"f3 c3", OVM_INSN_RET},
	    {"0f 05", OVM_INSN_SYSCALL},
	    {"cd 80", OVM_INSN_SYSCALL},
	    {"cc", OVM_INSN_TRAP},
	    {"f4", OVM_INSN_TRAP},
	    {"0f 0b", OVM_INSN_TRAP},
	    {"0f b9 c0", OVM_INSN_TRAP},
	    {"0f ff c0", OVM_INSN_TRAP},
	    {"90", OVM_INSN_NOP},
	    {"66 90", OVM_INSN_NOP},
	    {"0f 1f 44 00 00", OVM_INSN_NOP},
	    {"f3 90", OVM_INSN_OTHER}, /* pause */
	    {"41 90", OVM_INSN_OTHER}, /* xchg %r8d, %eax */
	    {"ff c0", OVM_INSN_OTHER},
	    {"ff c8", OVM_INSN_OTHER},
	    {"ff f0", OVM_INSN_OTHER}, /* push */
	    {"c6 00 01", OVM_INSN_OTHER},
	    {"c7 c0 01 00 00 00", OVM_INSN_OTHER},
	    {"c7 38 01 00 00 00", NOT},
	    {"31 c0", OVM_INSN_OTHER},
	    {"0f af c1", OVM_INSN_OTHER},
	    {"0f 38 f0 07", OVM_INSN_OTHER}, /* movbe: another map */
	    {"c5 f8 77", OVM_INSN_OTHER},    /* vzeroupper: another encoding */
	    {"66 e8 00 01 00 00", OVM_INSN_REFUSE},
	    {"66 e9 00 01 00 00", OVM_INSN_REFUSE},
	    {"66 0f 85 00 01 00 00", OVM_INSN_REFUSE},
	    {"66 ff d0", OVM_INSN_REFUSE},
	    {"66 ff e0", OVM_INSN_REFUSE},
	    {"66 c3", OVM_INSN_REFUSE},
	    {"ff 18", OVM_INSN_REFUSE}, /* far call */
	    {"ff 28", OVM_INSN_REFUSE},
	    {"cd 21", OVM_INSN_REFUSE},
	    {"ca 08 00", OVM_INSN_REFUSE},
	    {"cb", OVM_INSN_REFUSE},
	    {"cf", OVM_INSN_REFUSE},
	    {"f1", OVM_INSN_REFUSE},
	    {"c7 f8 00 01 00 00", OVM_INSN_REFUSE}, /* xbegin */
	    {"c6 f8 01", OVM_INSN_REFUSE},	    /* xabort */
	    {"0f 07", OVM_INSN_REFUSE},
	    {"0f 34", OVM_INSN_REFUSE},
	    {"0f 35", OVM_INSN_REFUSE},
	    {"0f aa", OVM_INSN_REFUSE},
	    {"67 8b 05 00 01 00 00", OVM_INSN_REFUSE}, /* eip-relative */
	    {"06", NOT},
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct code code;
		bool ok = decode_at(rows[i].text, VA, &code);
		if (ok != (rows[i].kind != NOT) || (ok && code.insn.kind != rows[i].kind))
			fail_msg("%s: %d %u", rows[i].text, ok, code.insn.kind);
	}
}

static void test_fields(void **state)
{
	(void)state;
	struct code code = decode("0f 85 00 01 00 00");
	assert_int_equal(code.insn.cc, 5);
	assert_int_equal(code.insn.target, VA + 6 + 0x100);
	assert_int_equal(code.insn.field_off, 2);
	assert_int_equal(code.insn.field_len, 4);
	code = decode("eb fe");
	assert_int_equal(code.insn.target, VA);
	assert_int_equal(code.insn.field_len, 1);
	code = decode("48 8b 05 f0 ff ff ff");
	assert_true(code.insn.is_rip);
	assert_int_equal(code.insn.target, VA + 7 - 16);
	assert_int_equal(code.insn.field_off, 3);
	code = decode("8b 04 8d f0 ff ff ff"); /* an index without a base is no rip */
	assert_false(code.insn.is_rip);
	assert_int_equal(code.insn.disp, -16);
	assert_int_equal(code.insn.field_len, 0);
	assert_int_equal(code.insn.sib_off, 2);
	code = decode("a1 01 02 03 04 05 06 07 08"); /* an address and no ModRM */
	assert_int_equal(code.insn.modrm_off, 0);
	assert_int_equal(code.insn.disp_len, 8);
	code = decode("8b 45 08"); /* rbp and a displacement of 8 bits */
	assert_false(code.insn.is_rip);
	code = decode("8b 83 00 01 00 00");
	assert_false(code.insn.is_rip);
}

/* --- flags
 * ----------------------------------------------------------------------------------------------------
 */

static struct ovm_check_flags flags_of(const char *text)
{
	ZydisDecoder dec;
	struct code code = {.len = hex(code.bytes, text)};
	ovm_check_flags_decoder_init(&dec);
	if (!ovm_check_decode_flags(&dec, code.bytes, code.len, VA, &code.insn, &code.flags))
		fail_msg("%s does not decode", text);
	assert_int_equal(code.insn.len, code.len);
	return code.flags;
}

static void test_flags(void **state)
{
	enum { C = ZYDIS_CPUFLAG_CF, Z = ZYDIS_CPUFLAG_ZF };
	static const struct {
		const char *text;
		bool reads_zero, writes_zero, writes_carry;
	} rows[] = {
	    {"01 c3", false, true, true},	/* add */
	    {"ff c3", false, true, false},	/* inc */
	    {"89 c3", false, false, false},	/* mov */
	    {"0f 94 c0", true, false, false},	/* setz */
	    {"c1 e0 03", false, true, true},	/* shl $3 */
	    {"c1 e0 20", false, false, false},	/* shl $32: by 0 */
	    {"48 c1 e0 20", false, true, true}, /* of 64 bits */
	    {"48 c1 e0 40", false, false, false},
	    {"c0 e0 03", false, true, true},
	    {"c0 e0 20", false, false, false},
	    {"d3 e0", false, false, false}, /* shl %cl: perhaps by 0 */
	    {"d2 e0", false, false, false},
	    {"d1 e0", false, true, true},
	    {"0f a4 c3 03", false, true, true}, /* shld $3 */
	    {"0f ac c3 00", false, false, false},
	    {"0f a5 c3", false, false, false},
	    {"0f ad c3", false, false, false},
	    {"0f af c3", false, true, true}, /* imul */
	    {"a6", false, true, true},	     /* cmpsb */
	    {"a7", false, true, true},
	    {"ae", false, true, true},
	    {"af", false, true, true},
	    {"f3 a6", true, false, false}, /* perhaps of no bytes */
	    {"f2 ae", true, false, false},
	    {"f3 a7", true, false, false},
	    {"f2 af", true, false, false},
	    {"c4 e2 78 f2 c1", false, true, true}, /* andn: another encoding */
	    {"0f 38 f0 07", false, false, false},  /* movbe: another map */
	    {"62 f1 7c 48 28 c1", false, false, false},
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct ovm_check_flags flags = flags_of(rows[i].text);
		if (!!(flags.read & Z) != rows[i].reads_zero ||
		    !!(flags.written & Z) != rows[i].writes_zero ||
		    !!(flags.written & C) != rows[i].writes_carry)
			fail_msg("%s: reads %x, writes %x", rows[i].text, flags.read,
				 flags.written);
	}
	struct code code;
	ZydisDecoder dec;
	ovm_check_flags_decoder_init(&dec);
	code.bytes[0] = 0x06;
	assert_false(ovm_check_decode_flags(&dec, code.bytes, 1, VA, &code.insn, &code.flags));
}

/* --- the same
 * ----------------------------------------------------------------------------------------------------
 */

static bool same(const char *a, const char *b, uint64_t b_va)
{
	struct code old = decode(a), new;
	if (!decode_at(b, b_va, &new))
		fail_msg("%s does not decode", b);
	return ovm_check_same(old.bytes, &old.insn, new.bytes, &new.insn);
}

static void test_same(void **state)
{
	(void)state;
	assert_true(same("31 c0", "31 c0", 0x9000));
	assert_false(same("31 c0", "31 c1", VA));
	assert_false(same("31 c0", "48 31 c0", VA));
	assert_false(same("90", "c3", VA)); /* length alone */
	assert_true(same("8b 05 00 00 01 00", "8b 05 00 00 00 00", VA + 0x10000));
	assert_false(same("8b 05 00 00 01 00", "8b 05 01 00 00 00", VA + 0x10000));
	assert_false(same("8b 05 00 00 01 00", "8b 05 00 00 01 00", VA + 0x10000));
	assert_false(same("8b 05 00 00 01 00", "8b 0d 00 00 00 00", VA + 0x10000));
	assert_false(same("8b 05 00 00 01 00", "8b 83 00 00 01 00", VA)); /* rip and a register */
	/* an immediate behind the displacement */
	assert_true(same("80 3d 00 00 01 00 07", "80 3d 00 00 00 00 07", VA + 0x10000));
	assert_false(same("80 3d 00 00 01 00 07", "80 3d 00 00 00 00 08", VA + 0x10000));
	/* fields that differ in where they are, or in how long */
	assert_false(same("48 8b 05 00 00 01 00", "80 3d 00 00 01 00 07", VA));
	struct code jump = decode("e9 00 00 01 00"), other = jump;
	other.insn.field_len = 1;
	assert_false(ovm_check_same(jump.bytes, &jump.insn, other.bytes, &other.insn));
	other = jump;
	other.insn.kind = OVM_INSN_CALL;
	assert_false(ovm_check_same(jump.bytes, &jump.insn, other.bytes, &other.insn));
	other = jump;
	other.insn.field_off = 2;
	assert_false(ovm_check_same(jump.bytes, &jump.insn, other.bytes, &other.insn));
	other = jump;
	other.insn.target++;
	assert_false(ovm_check_same(jump.bytes, &jump.insn, other.bytes, &other.insn));
}

/* --- loads of tables
 * ----------------------------------------------------------------------------------------------------
 */

static bool same_load(const char *a, const char *b, int64_t delta, unsigned entry_size)
{
	struct code old = decode(a), new = decode(b);
	return ovm_check_same_load(old.bytes, &old.insn, new.bytes, &new.insn, delta, entry_size);
}

static void test_same_load(void **state)
{
	static const struct {
		const char *a, *b;
		int64_t delta;
		unsigned entry_size;
		bool same;
	} rows[] = {
	    /* movslq (%rdx,%rax,4), %rax; the displacement is put in */
	    {"48 63 04 82", "48 63 84 82 00 01 00 00", 0x100, 4, true},
	    {"48 63 04 82", "48 63 84 82 00 01 00 00", 0x101, 4, false},
	    {"48 63 44 82 08", "48 63 84 82 08 01 00 00", 0x100, 4, true},
	    {"48 63 84 82 08 00 00 00", "48 63 84 82 08 01 00 00", 0x100, 4, true},
	    {"48 63 84 82 08 00 00 00", "48 63 44 82 08", 0, 4, true},
	    {"48 63 04 82", "48 63 84 82 00 01 00 00", 0x100, 8, false}, /* reads half an entry */
	    {"8b 04 82", "8b 84 82 00 01 00 00", 0x100, 4, true},
	    {"63 04 82", "63 84 82 00 01 00 00", 0x100, 4, false}, /* no REX.W */
	    {"48 8b 04 c2", "48 8b 84 c2 00 01 00 00", 0x100, 8, true},
	    {"48 8b 04 c2", "48 8b 84 c2 00 01 00 00", 0x100, 4, false}, /* reads two entries */
	    {"8b 04 c2", "8b 84 c2 00 01 00 00", 0x100, 8, false},
	    {"48 89 04 c2", "48 89 84 c2 00 01 00 00", 0x100, 8, false}, /* a store */
	    {"48 8b 04 c2", "48 8b 84 c2 00 01 00 00", 0x100, 2, false},
	    {"48 8b 07", "48 8b 87 00 01 00 00", 0x100, 8, true}, /* no SIB */
	    {"ff 24 c2", "ff a4 c2 00 01 00 00", 0x100, 8, true},
	    {"3e ff 24 c2", "3e ff a4 c2 00 01 00 00", 0x100, 8, true},
	    {"64 ff 24 c2", "64 ff a4 c2 00 01 00 00", 0x100, 8, false},
	    {"3e 3e ff 24 c2", "3e 3e ff a4 c2 00 01 00 00", 0x100, 8, false},
	    {"ff 24 c2", "ff a4 c2 00 01 00 00", 0x100, 4, false},
	    {"41 ff 24 c2", "41 ff a4 c2 00 01 00 00", 0x100, 8, true},
	    {"ff 14 c2", "ff 94 c2 00 01 00 00", 0x100, 8, false}, /* a call */
	    {"64 48 8b 04 c2", "64 48 8b 84 c2 00 01 00 00", 0x100, 8, false},
	    {"64 8b 04 c2", "64 8b 84 c2 00 01 00 00", 0x100, 4, false},
	    {"48 8b 47 00", "48 8b 07", 0, 8, true},
	    {"8b 44 82 00", "8b 04 82", 0, 4, true},
	    /* another register, base, index, or form */
	    {"48 63 04 82", "48 63 8c 82 00 01 00 00", 0x100, 4, false},
	    {"48 63 04 82", "48 63 84 83 00 01 00 00", 0x100, 4, false},
	    {"48 63 04 82", "48 63 80 00 01 00 00", 0x100, 4, false},
	    {"48 63 04 82", "4c 63 84 82 00 01 00 00", 0x100, 4, false},
	    {"48 63 04 82", "48 0f be 04 82", 0, 4, false},
	    {"48 63 c2", "48 63 c2", 0, 4, false}, /* registers */
	    {"48 63 02", "48 63 c2", 0, 4, false},
	    {"48 63 05 00 00 01 00", "48 63 05 00 00 01 00", 0, 4, false}, /* rip */
	    {"48 63 45 00", "48 63 05 00 00 01 00", 0x10000, 4, false},
	    {"48 63 05 00 00 01 00", "48 63 45 00", 0x10000, 4, false},
	    {"90", "90", 0, 4, false},
	    {"c3", "90", 0, 4, false},
	    /* an index and no base: the address is the displacement, and must not turn negative */
	    {"8b 04 8d 00 10 00 00", "8b 04 8d 00 11 00 00", 0x100, 4, true},
	    {"8b 04 8d 00 00 00 00", "8b 04 8d 00 01 00 00", 0x100, 4, true},
	    {"8b 04 8d 00 01 00 00", "8b 04 8d 00 00 00 00", -0x100, 4, true},
	    {"8b 04 8d 00 10 00 00", "8b 04 8d 00 00 00 80", -0x80001000LL, 4, false},
	    {"8b 04 8d 00 00 00 80", "8b 04 8d 00 10 00 00", 0x80001000LL, 4, false},
	    {"8b 04 8d 00 10 00 00", "8b 84 8d 00 11 00 00", 0x100, 4, false}, /* rbp is added */
	    {"8b 44 8d 00", "8b 04 8d 00 01 00 00", 0x100, 4, false},
	    {"8b 44 8d 00", "8b 84 8d 00 01 00 00", 0x100, 4, true},
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		if (same_load(rows[i].a, rows[i].b, rows[i].delta, rows[i].entry_size) !=
		    rows[i].same)
			fail_msg("%s | %s", rows[i].a, rows[i].b);
}

/* What no decoder says, but a hostile map could: lengths that do not fit. */
static void test_same_load_lengths(void **state)
{
	(void)state;
	struct code old = decode("48 63 04 82"), new = decode("48 63 84 82 00 01 00 00");
	old.insn.len++; /* an immediate would stand there */
	assert_false(ovm_check_same_load(old.bytes, &old.insn, new.bytes, &new.insn, 0x100, 4));
	old.insn.len--;
	new.insn.len++;
	assert_false(ovm_check_same_load(old.bytes, &old.insn, new.bytes, &new.insn, 0x100, 4));
	new.insn.len--;
	new.insn.modrm_off++;
	assert_false(ovm_check_same_load(old.bytes, &old.insn, new.bytes, &new.insn, 0x100, 4));
}

/* --- both decoders
 * ----------------------------------------------------------------------------------------------------
 */

/* What the first decoder would say of `jne +0x10`, `mov 0x100(%rip), %eax`, ... at OLD. */
static struct ovm_insn first(uint8_t kind, uint8_t len, uint64_t target, uint8_t off, uint8_t size)
{
	return (struct ovm_insn){.va = {OLD},
				 .len = len,
				 .kind = kind,
				 .target = {target},
				 .disp_off = off,
				 .disp_len = size};
}

static int agrees(const struct ovm_insn *insn)
{
	return ovm_check_decoders(&it.image, insn, 1, NULL);
}

static void test_decoders(void **state)
{
	(void)state;
	begin();
	old(0, "75 10");
	struct ovm_insn insn = first(OVM_INSN_JCC, 2, OLD + 0x12, 1, 1), good = insn;
	insn.cc = good.cc = 5;
	assert_int_equal(agrees(&insn), 0);
	insn.cc = 4;
	assert_int_equal(agrees(&insn), OVM_REFUSED);
	insn = good;
	insn.len = 3;
	assert_int_equal(agrees(&insn), OVM_REFUSED);
	insn = good;
	insn.kind = OVM_INSN_JMP;
	assert_int_equal(agrees(&insn), OVM_REFUSED);
	insn = good;
	insn.flags = OVM_INSN_RIP_REL;
	assert_int_equal(agrees(&insn), OVM_REFUSED);
	insn = good;
	insn.target.v++;
	assert_int_equal(agrees(&insn), OVM_REFUSED);
	insn = good;
	insn.disp_off++;
	assert_int_equal(agrees(&insn), OVM_REFUSED);
	insn = good;
	insn.disp_len = 4;
	assert_int_equal(agrees(&insn), OVM_REFUSED);
	static const struct {
		const char *text;
		uint8_t kind, off;
	} others[] = {{"eb 10", OVM_INSN_JMP, 1}, {"e3 10", OVM_INSN_JCXZ, 1}};
	for (unsigned i = 0; i < 2; i++) {
		old(0, others[i].text);
		insn = first(others[i].kind, 2, OLD + 0x12, others[i].off, 1);
		assert_int_equal(agrees(&insn), 0);
		insn.target.v++;
		assert_int_equal(agrees(&insn), OVM_REFUSED);
	}
	old(0, "e8 00 01 00 00");
	insn = first(OVM_INSN_CALL, 5, OLD + 0x105, 1, 4);
	assert_int_equal(agrees(&insn), 0);
	old(0, "8b 05 00 01 00 00");
	insn = first(OVM_INSN_OTHER, 6, OLD + 0x106, 2, 4);
	assert_int_equal(agrees(&insn), OVM_REFUSED); /* it is relative */
	insn.flags = OVM_INSN_RIP_REL;
	assert_int_equal(agrees(&insn), 0);
	old(0, "31 c0");
	insn = first(OVM_INSN_OTHER, 2, 0x1234, 9, 9); /* fields of something that has none */
	assert_int_equal(agrees(&insn), 0);
	old(0, "06");
	assert_int_equal(agrees(&insn), OVM_REFUSED);
}

/* Instructions from segment to segment, up to the last byte, and outside. */
static void test_decoders_at_the_edge(void **state)
{
	struct ovm_segment segments[2];
	struct ovm_insn insns[3];
	(void)state;
	begin();
	segments[0] = (struct ovm_segment){{OLD}, {OLD + 0x80}, {0}, 0x80, PF_R | PF_X};
	segments[1] = (struct ovm_segment){{OLD + 0x80}, {OLD + SIZE}, {0x80}, 0x40, PF_R | PF_X};
	it.image.segments.v = segments;
	it.image.segments.n = 2;
	for (unsigned i = 0; i < 3; i++)
		insns[i] = first(OVM_INSN_RET, 1, 0, 0, 0);
	insns[1].va.v = OLD + 0x7f;
	insns[2].va.v = OLD + 0xbf; /* the last byte of the file */
	assert_int_equal(ovm_check_decoders(&it.image, insns, 3, NULL), 0);
	old(0xbf, "31"); /* half an instruction */
	assert_int_equal(ovm_check_decoders(&it.image, insns, 3, NULL), OVM_REFUSED);
	assert_int_equal(ovm_check_decoders(&it.image, insns, 2, NULL), 0);
	insns[2].va.v = OLD + 0xc0; /* memory, but not of the file */
	assert_int_equal(ovm_check_decoders(&it.image, insns, 3, NULL), OVM_REFUSED);
	insns[2].va.v = OLD + SIZE; /* nothing */
	assert_int_equal(ovm_check_decoders(&it.image, insns, 3, NULL), OVM_REFUSED);
	segments[0].flags = PF_R; /* no code */
	assert_int_equal(ovm_check_decoders(&it.image, insns, 1, NULL), OVM_REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_kinds),     cmocka_unit_test(test_fields),
	    cmocka_unit_test(test_flags),     cmocka_unit_test(test_same),
	    cmocka_unit_test(test_same_load), cmocka_unit_test(test_same_load_lengths),
	    cmocka_unit_test(test_decoders),  cmocka_unit_test(test_decoders_at_the_edge),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
