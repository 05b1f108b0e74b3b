/* The checker and unwind data: CFI programs and exception tables of both sides are written by hand,
 * byte by byte, and changed one thing at a time. What is proved is right, what is refused has its
 * reason, and a record that ends too early is never read on.
 *
 *   original OLD   53 push %rbx   5b pop %rbx   c3 ret        region 0, [OLD, OLD + 0x40)
 *   overlay  NEW   the same, then a jump of ours               FDE 0
 */
#include "tests/support/by_hand.h"

enum {
	EH = 0x900,
	LSDA = 0xa00,
	HDR = 0xb00,
	OLD_LSDA = 0x80,
	PAD_AT = 0x20,
	ROUTINE = 0x60,
	TYPE = 0x30,
	FULL = 1000,
};
#define ROWS "41 0e 10 83 02 41 0e 08" /* of push and pop */
#define START "0c 07 08 90 01"	       /* CFA = rsp + 8, return address at CFA - 8 */

static struct {
	struct ovm_region regions[2];
	struct ovm_cie cie;
	struct ovm_new_fde fdes[4];
	uint8_t old_prog[32];
	struct ovm_cfi cfi;
	/* how the overlay's .eh_frame is written */
	const char *letters, *cie_prog, *prog;
	unsigned cie_cut, fde_cut; /* bytes of the bodies that are written */
	uint32_t lo, size, lsda;
	uint8_t version, ra, personality_enc, fde_enc;
	uint64_t personality;
	uint32_t extra; /* bytes of augmentation data that nobody knows */
	unsigned n_fdes;
} u;

/* --- writing .eh_frame
 * ----------------------------------------------------------------------------------------------------
 */

static uint32_t cursor; /* in it.new */

static void put8(unsigned x)
{
	it.new[cursor++] = (uint8_t)x;
}

static void put32(uint32_t x)
{
	ovm_put32(it.new + cursor, x);
	cursor += 4;
}

static void put_pcrel(uint64_t to)
{
	put32(to ? (uint32_t)(to - (NEW + cursor)) : 0);
}

static unsigned put_hex(const char *hex)
{
	unsigned n = 0, byte;
	for (int step; sscanf(hex, "%2x%n", &byte, &step) == 1; hex += step, n++)
		put8(byte);
	return n;
}

/* The body written since @start becomes one of at most @cut bytes, and the record gets its length.
 */
static void end_record(uint32_t start, unsigned cut)
{
	if (cursor - start - 4 > cut)
		cursor = start + 4 + cut;
	ovm_put32(it.new + start, cursor - start - 4);
}

static void put_cie(void)
{
	uint32_t start = cursor, length_at;
	put32(0);
	put32(0);
	put8(u.version);
	memcpy(it.new + cursor, u.letters, strlen(u.letters) + 1);
	cursor += (uint32_t)strlen(u.letters) + 1;
	put_hex("01 78"); /* code and data alignment */
	put8(u.ra);
	length_at = cursor;
	put8(0);
	for (const char *letter = u.letters + 1; *letter; letter++) {
		put8(*letter == 'P' ? u.personality_enc : *letter == 'R' ? u.fde_enc : 0x1b);
		if (*letter == 'P')
			put_pcrel(u.personality);
	}
	cursor += u.extra;
	it.new[length_at] = (uint8_t)(cursor - length_at - 1);
	put_hex(u.cie_prog);
	end_record(start, u.cie_cut);
}

static void put_fde(uint32_t cie, uint32_t lo, uint32_t size)
{
	uint32_t start = cursor, has_lsda = strchr(u.letters, 'L') != NULL;
	u.fdes[u.n_fdes++] = (struct ovm_new_fde){lo, size, start, 0};
	put32(0);
	put32(cursor - cie);
	put_pcrel(NEW + (uint64_t)lo);
	put32(size);
	put8(has_lsda ? 4 : 0);
	if (has_lsda)
		put_pcrel(u.lsda ? NEW + (uint64_t)u.lsda : 0);
	put_hex(u.prog);
	end_record(start, u.fde_cut);
}

/* Ends .eh_frame, writes .eh_frame_hdr and the list. */
static void end_frames(void)
{
	uint32_t end;
	put32(0);
	end = cursor;
	it.overlay.sections[OVM_SECTION_EH_FRAME] = (struct ovm_section){EH, end - EH};
	it.overlay.sections[OVM_SECTION_EH_FRAME_HDR] =
	    (struct ovm_section){HDR, 12 + 8 * u.n_fdes};
	it.overlay.sections[OVM_SECTION_LSDA] = (struct ovm_section){LSDA, 0x60};
	cursor = HDR;
	put_hex("01 1b 03 3b");
	put_pcrel(NEW + EH);
	put32(u.n_fdes);
	for (unsigned i = 0; i < u.n_fdes; i++) {
		put32(u.fdes[i].off - HDR);
		put32(u.fdes[i].fde_off - HDR);
	}
	it.overlay.fdes.v = u.fdes;
	it.overlay.fdes.n = u.n_fdes;
}

static void write_frames(void)
{
	u.n_fdes = 0;
	cursor = EH;
	put_cie();
	put_fde(EH, u.lo, u.size);
	end_frames();
}

static void old_rows(const char *hex)
{
	unsigned n = 0, byte;
	for (int step; sscanf(hex, "%2x%n", &byte, &step) == 1; hex += step)
		u.old_prog[n++] = (uint8_t)byte;
	u.regions[0].prog_len = n;
}

static void set_up(void)
{
	const struct ovm_cfi_row called = {
	    .cfa_reg = 7, .cfa_off = 8, .reg[16] = {.kind = OVM_CFI_OFFSET, .off = -8}};
	ovm_cfi_fini(&it.regions.cfi);
	begin();
	memset(&u, 0, sizeof(u));
	memset(it.old + OLD_LSDA, 0, SIZE - OLD_LSDA);
	memset(it.new + EH, 0, NEW_SIZE - EH);
	old(0, "53 5b c3");
	new (0, "53 5b c3");
	branch(3, "e9", OLD + 2);
	entry(0, 0, 1, 1, 0);
	entry(1, 1, 1, 1, 0);
	entry(2, 2, 1, 1, 0);
	entry(3, 2, 5, 0, SYNTH);
	ovm_cfi_init(&it.regions.cfi);
	u.cie = (struct ovm_cie){.code_align = 1,
				 .data_align = -8,
				 .ra_reg = 16,
				 .fde_enc = 0x1b,
				 .lsda_enc = 0xff,
				 .personality_enc = 0xff,
				 .initial_row = ovm_cfi_intern(&it.regions.cfi, &called)};
	ovm_vec_push(&it.regions.cfi.cies, u.cie);
	u.regions[0] = (struct ovm_region){.lo = {OLD}, .hi = {OLD + 0x40}, .prog = u.old_prog};
	u.regions[1] =
	    (struct ovm_region){.lo = {OLD + 0x40}, .hi = {OLD + 0x50}, .prog = u.old_prog};
	it.regions.v.v = u.regions;
	it.regions.v.n = 2;
	old_rows(ROWS);
	u.letters = "zR";
	u.cie_prog = START;
	u.prog = ROWS;
	u.cie_cut = u.fde_cut = FULL;
	u.size = 8;
	u.version = 1;
	u.ra = 16;
	u.personality_enc = u.fde_enc = 0x1b;
	write_frames();
}

static int set_up_one(void **state)
{
	(void)state;
	set_up();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	ovm_cfi_fini(&it.regions.cfi);
	it.regions = (struct ovm_regions){0};
	return 0;
}

static int check(void)
{
	return ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result);
}

static void proved_at(int line)
{
	if (check())
		fail_msg("line %d: %s", line, it.result.reason);
}
#define proved() proved_at(__LINE__)

/* --- records
 * ----------------------------------------------------------------------------------------------------
 */

static void test_proves(void **state)
{
	(void)state;
	proved();
	it.overlay.map.v.n = 0; /* nothing copied, nothing described */
	u.n_fdes = 0;
	cursor = EH;
	end_frames();
	proved();
}

static void test_end(void **state)
{
	(void)state;
	it.overlay.sections[OVM_SECTION_EH_FRAME].size += 4;
	expect(".eh_frame does not end where it should");
	it.overlay.sections[OVM_SECTION_EH_FRAME].size -= 8;
	expect(".eh_frame does not end where it should");
	set_up();
	ovm_put32(it.new + u.fdes[0].fde_off, 3);
	expect("a record of .eh_frame cannot be read");
	ovm_put32(it.new + u.fdes[0].fde_off, 0x1000);
	expect("a record of .eh_frame cannot be read");
	set_up(); /* the last record has no room for its length and kind */
	ovm_put32(it.new + cursor, 0);
	it.overlay.sections[OVM_SECTION_EH_FRAME].size = u.fdes[0].fde_off - EH + 6;
	expect("a record of .eh_frame cannot be read");
}

/* Bodies that end too early: refused or, if all that matters is there, proved. */
static void test_cuts(void **state)
{
	static const char *const letters[] = {"zR", "zPR", "zPLR", "zRRRRRRRRR"};
	(void)state;
	for (unsigned k = 0; k < 4; k++) {
		for (unsigned cut = FULL, full = FULL; cut != full || cut == FULL; cut++) {
			set_up();
			u.letters = letters[k];
			u.personality = OLD + ROUTINE;
			u.cie_cut = cut;
			write_frames();
			if (cut == FULL) {
				full = u.fdes[0].fde_off - EH - 4;
				cut = 3;
			} else if (!check()) { /* without rows for the return address */
				fail_msg("CIE %s of %u bytes", letters[k], cut);
			}
		}
	}
	for (unsigned cut = 4; cut < 13 + 8; cut++) {
		set_up();
		u.fde_cut = cut;
		write_frames();
		if (!check())
			fail_msg("FDE of %u bytes", cut);
	}
	set_up();
	u.letters = "zLR";
	u.fde_cut = 13 + 4; /* no program: another row */
	write_frames();
	expect("unwind rows differ");
	for (u.fde_cut = 4; u.fde_cut < 13 + 4; u.fde_cut++) {
		write_frames();
		expect("a record of .eh_frame cannot be read");
	}
}

static void expect_unreadable(void)
{
	write_frames();
	expect("a record of .eh_frame cannot be read");
}

static void test_cie(void **state)
{
	(void)state;
	static const struct {
		const char *letters, *reason;
	} rows[] = {
	    {"R", "a record of .eh_frame cannot be read"},
	    {"", "a record of .eh_frame cannot be read"},
	    {"z", "a record of .eh_frame cannot be read"}, /* FDEs of no known form */
	    {"zS", "a record of .eh_frame cannot be read"},
	    {"zSR", "a record of .eh_frame cannot be read"},
	    {"zLR", NULL},
	    {"zRR", NULL},
	    {"zPR", "another personality"},
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		set_up();
		u.letters = rows[i].letters;
		u.personality = OLD + ROUTINE;
		write_frames();
		if (rows[i].reason)
			expect(rows[i].reason);
		else
			proved();
	}
	set_up();
	u.version = 3;
	expect_unreadable();
	set_up();
	u.extra = 1;
	expect_unreadable();
	set_up();
	u.fde_enc = 0x9b;
	expect_unreadable();
	set_up();
	u.fde_enc = 0x03;
	expect_unreadable();
	set_up();
	u.letters = "zPR";
	u.personality_enc = 0x03;
	expect_unreadable();
	set_up();
	u.cie_prog = "3f"; /* no operation */
	expect_unreadable();
	set_up(); /* augmentation data longer than the record */
	it.new[EH + 4 + 4 + 1 + 3 + 3] = 0x7f;
	expect("a record of .eh_frame cannot be read");
}

static void test_fde(void **state)
{
	(void)state;
	uint32_t at = u.fdes[0].fde_off + 4;
	static const uint32_t wrong[] = {4, 0x800, 0xffffffff, 1}; /* itself; before; far; odd */
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		set_up();
		ovm_put32(it.new + at, wrong[i]);
		expect("a record of .eh_frame cannot be read");
	}
	set_up();
	u.size = 0;
	expect_unreadable();
	u.size = CODE_END + 1;
	expect_unreadable();
	u.size = CODE_END;
	write_frames();
	proved();
	u.lo = CODE_END;
	u.size = 1;
	expect_unreadable();
	set_up();
	it.new[at + 12] = 1; /* augmentation data where there is none */
	expect("a record of .eh_frame cannot be read");
	it.new[at + 12] = 0x70;
	expect("a record of .eh_frame cannot be read");
	set_up();
	u.fde_cut = 13; /* a length that does not end */
	write_frames();
	it.new[at + 12] = 0x80;
	expect("a record of .eh_frame cannot be read");
	set_up();
	u.prog = "3f";
	write_frames();
	expect("unwind rows cannot be read");
}

static void test_two_fdes(void **state)
{
	(void)state;
	u.n_fdes = 0; /* out of order, which is sorted */
	cursor = EH;
	put_cie();
	put_fde(EH, 8, 8);
	put_fde(EH, 0, 8);
	end_frames();
	struct ovm_new_fde fde = u.fdes[0];
	u.fdes[0] = u.fdes[1];
	u.fdes[1] = fde;
	ovm_put32(it.new + HDR + 12, u.fdes[0].off - HDR);
	ovm_put32(it.new + HDR + 16, u.fdes[0].fde_off - HDR);
	ovm_put32(it.new + HDR + 20, u.fdes[1].off - HDR);
	ovm_put32(it.new + HDR + 24, u.fdes[1].fde_off - HDR);
	proved();
	u.n_fdes = 0;
	cursor = EH;
	put_cie();
	put_fde(EH, 0, 9);
	put_fde(EH, 8, 8);
	end_frames();
	expect("FDEs overlap");
}

static void test_tables(void **state)
{
	(void)state;
	static const unsigned bytes[] = {0, 1, 2, 3, 4, 8};
	for (unsigned i = 0; i < sizeof(bytes) / sizeof(*bytes); i++) {
		set_up();
		it.new[HDR + bytes[i]] ^= 1;
		expect(".eh_frame_hdr is wrong");
	}
	set_up();
	it.overlay.sections[OVM_SECTION_EH_FRAME_HDR].size--;
	expect(".eh_frame_hdr is wrong");
	set_up();
	it.overlay.fdes.n = 0;
	expect(".eh_frame_hdr is wrong");
	for (unsigned i = 0; i < 5; i++) {
		set_up();
		it.new[HDR + 12] ^= i == 0;
		it.new[HDR + 16] ^= i == 1;
		u.fdes[0].off ^= i == 2;
		u.fdes[0].size ^= i == 3;
		u.fdes[0].fde_off ^= i == 4;
		expect("an entry of .eh_frame_hdr is wrong");
	}
}

/* --- rows
 * ----------------------------------------------------------------------------------------------------
 */

static void test_rows(void **state)
{
	(void)state;
	static const struct {
		const char *old, *new;
		bool same;
	} rows[] = {
	    {"", "", true},
	    {"0e 10", "0e 10", true},
	    {"0e 10", "0e 18", false}, /* offset of the CFA */
	    {"0d 06", "0d 06", true},  /* its register */
	    {"0d 06", "0d 05", false},
	    {"83 02", "83 02", true}, /* saved at an offset */
	    {"83 02", "83 03", false},
	    {"83 02", "", false},
	    {"08 03", "", true},  /* same value, and not mentioned */
	    {"07 03", "", false}, /* undefined */
	    {"07 03", "07 03", true},
	    {"14 03 02", "14 03 02", true}, /* is CFA + offset */
	    {"14 03 02", "14 03 03", false},
	    {"14 03 02", "83 02", false},
	    {"09 03 06", "09 03 06", true}, /* in a register */
	    {"09 03 06", "09 03 05", false},
	    {"10 03 01 30", "10 03 01 30", true}, /* saved where an expression says */
	    {"10 03 01 30", "10 03 01 31", false},
	    {"10 03 01 30", "10 03 02 30 30", false},
	    {"10 03 01 30", "16 03 01 30", false},
	    {"10 03 00", "10 03 00", true},
	    {"16 03 01 30", "16 03 01 30", true}, /* is what it says */
	    {"16 03 01 30", "16 03 01 31", false},
	    {"0f 02 77 08", "0f 02 77 08", true}, /* the CFA is what it says */
	    {"0f 02 77 08", "0f 02 77 10", false},
	    {"0f 02 77 08", "", false},
	    {"2e 10", "2e 10", true}, /* bytes of arguments on the stack */
	    {"2e 10", "2e 08", false},
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		set_up();
		old_rows(rows[i].old);
		u.prog = rows[i].new;
		write_frames();
		if (!check() != rows[i].same)
			fail_msg("%s | %s: %s", rows[i].old, rows[i].new, it.result.reason);
		if (!rows[i].same)
			assert_string_equal(it.result.reason, "unwind rows differ");
	}
}

/* A row that begins inside an instruction; rows one by one. */
static void test_places_of_rows(void **state)
{
	(void)state;
	old(0, "b8 01 00 00 00 c3");
	memcpy(it.new, it.old, 6);
	branch(6, "e9", OLD + 5);
	it.overlay.map.v.n = 0;
	entry(0, 0, 5, 5, 0);
	entry(5, 5, 1, 1, 0);
	entry(6, 5, 5, 0, SYNTH);
	u.size = 16;
	old_rows("45 0e 10");
	u.prog = "45 0e 10";
	write_frames();
	proved();
	u.prog = "43 0e 10 42";
	write_frames();
	expect("unwind rows differ");
	u.prog = "46 0e 10";
	write_frames();
	expect("unwind rows differ");
}

static void test_originals(void **state)
{
	(void)state;
	old_rows("3f");
	expect("unwind rows of the original cannot be read");
	set_up();
	it.regions.v.n = 0;
	expect("a copy of what has no unwind data");
	set_up();
	u.fdes[0].region = 1;
	expect("an FDE of another region");
	set_up();
	u.lo = 1; /* the FDE begins behind the first copy */
	u.size = 7;
	write_frames();
	expect("a copy without unwind data");
	u.lo = 0;
	u.size = 2; /* ends before the third */
	write_frames();
	expect("a copy without unwind data");
	u.size = 3;
	write_frames();
	proved(); /* a jump of ours may do without */
	set_up();
	u.lo = 0x40;
	write_frames();
	expect("a copy without unwind data");
	set_up(); /* an FDE that ends inside an instruction */
	old(0, "b8 01 00 00 00 c3");
	memcpy(it.new, it.old, 6);
	branch(6, "e9", OLD + 5);
	it.overlay.map.v.n = 0;
	entry(0, 0, 5, 5, 0);
	entry(5, 5, 1, 1, 0);
	u.size = 3;
	write_frames();
	expect("a copy without unwind data");
}

static void test_two_regions(void **state)
{
	(void)state;
	old(0x40, "31 c0 c3");
	new (0x10, "31 c0 c3");
	entry(0x10, 0x40, 2, 2, 0);
	entry(0x12, 0x42, 1, 1, 0);
	u.regions[1].prog_len = 0;
	u.n_fdes = 0;
	cursor = EH;
	put_cie();
	put_fde(EH, 0, 8);
	u.prog = "";
	put_fde(EH, 0x10, 8);
	u.fdes[1].region = 1;
	end_frames();
	proved();
	u.fdes[1].region = 0;
	expect("an FDE of another region");
	/* both in one FDE */
	u.prog = ROWS;
	u.size = 0x20;
	write_frames();
	expect("an FDE of another region");
}

/* --- personalities and signal frames
 * ----------------------------------------------------------------------------------------------------
 */

static void personality(uint64_t at, uint8_t enc)
{
	it.regions.cfi.cies.v[0].personality = ovm_va_of(at);
	it.regions.cfi.cies.v[0].personality_enc = enc;
}

static void test_personality(void **state)
{
	(void)state;
	it.regions.cfi.cies.v[0].is_signal = true;
	expect("another personality");
	set_up();
	it.regions.cfi.cies.v[0].ra_reg = 15;
	expect("another personality");
	set_up();
	u.ra = 15;
	write_frames();
	expect("another personality");
	set_up();
	personality(OLD + ROUTINE, 0x1b);
	expect("another personality");
	personality(0, 0x1b); /* none */
	proved();
	u.letters = "zPR";
	u.personality = OLD + ROUTINE;
	write_frames();
	expect("another personality");
	personality(OLD + ROUTINE, 0x1b);
	proved();
	personality(OLD + ROUTINE, 0x00); /* told in another way */
	proved();
	personality(OLD + ROUTINE + 1, 0x1b);
	expect("another personality");
	personality(OLD + ROUTINE, 0x9b); /* through a slot */
	expect("another personality");
	u.personality_enc = 0x9b;
	write_frames();
	proved();
}

/* --- exception tables
 * ----------------------------------------------------------------------------------------------------
 */

/* One site of each side over [0, @len) with an action of one type, encoded as @enc in @size bytes:
 * 0 in the overlay means the original's. */
static void with_types(uint8_t enc, unsigned size, const char *actions, const char *filters)
{
	set_up();
	personality(OLD + ROUTINE, 0x1b);
	u.regions[0].lsda = ovm_va_of(OLD + OLD_LSDA);
	u.letters = "zPLR";
	u.personality = OLD + ROUTINE;
	u.lsda = LSDA;
	write_frames();
	for (int side = 0; side < 2; side++) {
		uint8_t *p = side ? it.new + LSDA : it.old + OLD_LSDA, *head = p, *length, *base;
		uint64_t va = side ? NEW + LSDA : OLD + OLD_LSDA, value = OLD + TYPE;
		unsigned byte;
		*p++ = 0xff;
		*p++ = enc;
		if (enc != 0xff)
			*p++ = 0;
		base = p;
		*p++ = side ? 0x0b : 0x01;
		length = p++;
		if (side) {
			ovm_put32(p, 0);
			ovm_put32(p + 4, 1);
			ovm_put32(p + 8, (uint32_t)(OLD + PAD_AT - NEW));
			p += 12;
		} else {
			*p++ = 0;
			*p++ = 1;
			*p++ = PAD_AT;
		}
		*p++ = *actions ? 1 : 0;
		*length = (uint8_t)(p - length - 1);
		for (int step, at = 0; sscanf(actions + at, "%2x%n", &byte, &step) == 1; at += step)
			*p++ = (uint8_t)byte;
		if ((enc & 0x70) == 0x10)
			value -= va + (uint64_t)(p - head);
		memcpy(p, &value, size); /* little-endian */
		p += size;
		if (enc != 0xff)
			base[-1] = (uint8_t)(p - base);
		for (int step, at = 0; sscanf(filters + at, "%2x%n", &byte, &step) == 1; at += step)
			*p++ = (uint8_t)byte;
	}
}

static void with_lsda(void)
{
	with_types(0x1b, 4, "01 00", "");
}

static void test_types(void **state)
{
	(void)state;
	with_lsda();
	proved();
	static const struct {
		uint8_t enc;
		unsigned size;
	} rows[] = {{0x00, 8}, {0x03, 4}, {0x0b, 4}, {0x02, 2}, {0x0a, 2},
		    {0x04, 8}, {0x0c, 8}, {0x10, 8}, {0x9b, 4}};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		with_types(rows[i].enc, rows[i].size, "01 00", "");
		proved();
		it.image.is_dyn = true;
		if (rows[i].enc & 0x10)
			proved();
		else
			expect("exception types differ"); /* nobody relocates the copy */
	}
	with_types(0x08, 8, "01 00", ""); /* a form that we never write */
	expect("exception types differ");
	with_types(0x00, 8, "01 00", "");
	memset(it.new + LSDA + 20, 0, 8); /* catch-all on one side */
	expect("exception types differ");
	memset(it.old + OLD_LSDA + 11, 0, 8);
	proved();
	it.image.is_dyn = true; /* needs no relocation */
	proved();
}

static void test_actions(void **state)
{
	(void)state;
	with_types(0xff, 0, "00 00", ""); /* a cleanup with a record, and no types */
	proved();
	with_types(0xff, 0, "", "");
	proved();
	with_types(0x1b, 4, "", ""); /* types that nobody uses: not compared */
	it.new[LSDA + 1] = 0x03;
	proved();
	with_lsda();
	it.new[LSDA + 1] = 0x03;
	expect("exception types differ");
	with_lsda();
	it.new[LSDA + 18] = 0; /* another action */
	expect("exception types differ");
	with_types(0x1b, 4, "01 00", "");
	it.new[LSDA + 17] = 0; /* none */
	expect("handlers differ");
	with_types(0x1b, 4, "7f 00", "01 00"); /* filter -1: a list of one type */
	proved();
	it.new[LSDA + 24] = 2;
	expect("exception types differ");
	it.new[LSDA + 24] = 1;
	it.overlay.sections[OVM_SECTION_LSDA].size = 26; /* the list ends the section */
	proved();
	it.overlay.sections[OVM_SECTION_LSDA].size = 25; /* ends inside the list */
	expect("exception types differ");
	it.overlay.sections[OVM_SECTION_LSDA].size = 24;
	expect("exception types differ");
	/* the overlay says an action where the original has none, and no table of them */
	with_types(0x1b, 4, "", "");
	it.new[LSDA + 17] = 1;
	expect("handlers differ");
	with_lsda();
	it.new[LSDA + 2]--; /* no room for the type between sites and base */
	expect("exception types differ");
	with_lsda();
	it.overlay.sections[OVM_SECTION_LSDA].size = 19; /* ends inside the actions */
	expect("exception tables cannot be read");
	with_types(0xff, 0, "00 00", "");
	it.overlay.sections[OVM_SECTION_LSDA].size = 19;
	proved();
	it.overlay.sections[OVM_SECTION_LSDA].size = 17;
	expect("exception types differ");
}

static void test_heads(void **state)
{
	(void)state;
	static const struct {
		unsigned at;
		uint8_t byte;
	} rows[] = {
	    {0, 0x1b}, /* a base of landing pads */
	    {2, 0x7f}, /* types outside the section */
	    {2, 0x0e}, /* types begin before the sites end */
	    {3, 0x01}, /* sites of another form */
	    {4, 0x7f}, /* sites outside the section */
	    {4, 0x0c}, /* half a site */
	    {4, 0x0e}, /* one and a bit */
	    {9, 0x00}, /* an empty site */
	    {9, 0x09}, /* longer than the FDE */
	    {5, 0x09}, /* behind the FDE */
	    {6, 0x01},
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		with_lsda();
		it.new[LSDA + rows[i].at] = rows[i].byte;
		expect("exception tables cannot be read");
	}
	for (unsigned size = 0; size < 18; size++) {
		with_lsda();
		it.overlay.sections[OVM_SECTION_LSDA].size = size;
		expect("exception tables cannot be read");
		with_types(0xff, 0, "", "");
		it.overlay.sections[OVM_SECTION_LSDA].size = size;
		if (size < 17)
			expect("exception tables cannot be read");
		else
			proved();
	}
	with_lsda();
	u.lsda = LSDA - 1;
	write_frames();
	expect("exception tables cannot be read");
	with_lsda();
	memset(it.new + LSDA + 2, 0x80, 0x5e); /* numbers that do not end */
	expect("exception tables cannot be read");
	with_types(0xff, 0, "", "");
	memset(it.new + LSDA + 3, 0x80, 0x5d);
	expect("exception tables cannot be read");
}

/* Sites of the overlay: start, length, landing pad at OLD + pad (0 none), action. */
static void sites(unsigned n, const uint8_t site[][4])
{
	cursor = LSDA;
	put8(0xff);
	put8(0xff);
	put8(0x0b);
	put8(13 * n);
	for (unsigned i = 0; i < n; i++) {
		put32(site[i][0]);
		put32(site[i][1]);
		put32(site[i][2] ? (uint32_t)(OLD + site[i][2] - (NEW + u.lo)) : 0);
		put8(site[i][3]);
	}
}

static void test_sites(void **state)
{
	(void)state;
	/* original: [0, 1) lands at PAD_AT, [1, 2) nowhere, behind that nothing may throw */
	const char *table = "ff ff 01 08 00 01 20 00 01 01 00 00";
	static const struct {
		uint8_t n, site[3][4];
		const char *reason;
	} rows[] = {
	    {2, {{0, 1, PAD_AT, 0}, {1, 1, 0, 0}}, NULL},
	    {2, {{0, 1, PAD_AT + 1, 0}, {1, 1, 0, 0}}, "handlers differ"},
	    {2, {{0, 1, 0, 0}, {1, 1, 0, 0}}, "handlers differ"},
	    {2, {{0, 1, PAD_AT, 0}, {1, 1, PAD_AT, 0}}, "handlers differ"},
	    {1, {{0, 1, PAD_AT, 0}}, "handlers differ"},
	    {1, {{1, 1, 0, 0}}, "handlers differ"},
	    {3, {{0, 1, PAD_AT, 0}, {1, 1, 0, 0}, {2, 1, 0, 0}}, "handlers differ"},
	    {2, {{0, 2, PAD_AT, 0}, {1, 1, 0, 0}}, "exception tables cannot be read"},
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		with_types(0xff, 0, "", "");
		old(OLD_LSDA, table);
		sites(rows[i].n, rows[i].site);
		if (rows[i].reason)
			expect(rows[i].reason);
		else
			proved();
	}
	/* actions: of a site with a landing pad, of one without */
	static const uint8_t cleanup[][4] = {{0, 1, PAD_AT, 1}, {1, 1, 0, 0}};
	static const uint8_t nowhere[][4] = {{0, 1, PAD_AT, 0}, {1, 1, 0, 1}};
	with_types(0xff, 0, "", "");
	old(OLD_LSDA, table);
	sites(2, cleanup);
	expect("handlers differ");
	sites(2, nowhere);
	expect("handlers differ");
	/* the last byte of an instruction has another one */
	static const uint8_t split[][4] = {{0, 4, PAD_AT, 0}};
	with_types(0xff, 0, "", "");
	old(0, "b8 01 00 00 00 c3");
	memcpy(it.new, it.old, 6);
	branch(6, "e9", OLD + 5);
	it.overlay.map.v.n = 0;
	entry(0, 0, 5, 5, 0);
	entry(5, 5, 1, 1, 0);
	old_rows("");
	u.prog = "";
	write_frames();
	old(OLD_LSDA, "ff ff 01 04 00 05 20 00");
	sites(1, split);
	expect("handlers differ");
}

static void test_one_side(void **state)
{
	(void)state;
	with_lsda();
	u.regions[0].lsda.v = 0;
	expect("exception tables on one side only");
	with_lsda();
	u.lsda = 0;
	write_frames();
	expect("exception tables on one side only");
	with_lsda();
	u.letters = "zPR";
	write_frames();
	expect("exception tables on one side only");
	with_lsda();
	it.old[OLD_LSDA + 4] = 0x7f; /* sites outside the file */
	expect("exception tables of the original cannot be read");
	/* a table that no personality reads */
	with_lsda();
	personality(0, 0xff);
	u.letters = "zR";
	write_frames();
	proved();
}

/* --- what was added
 * ----------------------------------------------------------------------------------------------------
 */

static void test_jumps(void **state)
{
	(void)state;
	branch(3, "e9", OLD + 1); /* the row there is another */
	it.entries[3].old.v = OLD + 1;
	expect("the unwind row of an added jump differs");
	branch(3, "e9", OLD + 0x44); /* in another region: nothing is said of its row */
	it.entries[3].old.v = OLD + 0x44;
	proved();
	set_up();
	u.size = 7; /* the jump ends behind the FDE */
	write_frames();
	proved();
	/* nothing but a jump, and no FDE */
	set_up();
	it.entries[0] = it.entries[3];
	it.overlay.map.v.n = 1;
	u.n_fdes = 0;
	cursor = EH;
	end_frames();
	proved();
	/* jumps before all FDEs, as the first of one, and behind the last */
	set_up();
	it.overlay.map.v.n = 0;
	branch(0, "e9", OLD + 2);
	entry(0, 2, 5, 0, SYNTH);
	memcpy(it.new + 8, it.old, 3);
	branch(11, "e9", OLD + 2);
	entry(8, 0, 1, 1, 0);
	entry(9, 1, 1, 1, 0);
	entry(10, 2, 1, 1, 0);
	entry(11, 2, 5, 0, SYNTH);
	branch(16, "e9", OLD + 2);
	entry(16, 2, 5, 0, SYNTH);
	u.lo = 8;
	u.size = 8;
	write_frames();
	proved();
	u.n_fdes = 0;
	cursor = EH;
	put_cie();
	put_fde(EH, 8, 8);
	put_fde(EH, 32, 8); /* the jump at 16 stands between two */
	end_frames();
	proved();
	memcpy(it.new + 32, it.old, 3);
	entry(32, 0, 1, 1, 0);
	entry(33, 1, 1, 1, 0);
	entry(34, 2, 1, 1, 0);
	branch(40, "e9", OLD + 2);
	entry(40, 2, 5, 0, SYNTH);
	proved();
}

/* A counter before the push, one in the middle, an exit. */
static void test_counters(void **state)
{
	(void)state;
	it.overlay.counters = ovm_va_of(COUNTERS);
	it.overlay.n_counters = 1;
	it.overlay.map.v.n = 0;
	branch(0, "48 ff 05", COUNTERS);
	new (7, "53");
	branch(8, "48 ff 05", COUNTERS);
	new (15, "5b c3");
	entry(0, 0, 7, 0, SYNTH | OVM_MAP_COUNT);
	entry(7, 0, 1, 1, 0);
	entry(8, 1, 7, 0, SYNTH | OVM_MAP_COUNT);
	entry(15, 1, 1, 1, 0);
	entry(16, 2, 1, 1, 0);
	u.size = 24;
	u.prog = "48 0e 10 83 02 48 0e 08";
	write_frames();
	proved();
	u.prog = "4f 0e 10 83 02 41 0e 08"; /* from the pop on, not from its counter */
	write_frames();
	expect("the unwind row of a counter or exit differs");
	u.prog = "48 0e 10 83 02 48 0e 08";
	u.lo = 7; /* not of the first counter */
	u.prog = "41 0e 10 83 02 48 0e 08";
	u.size = 17;
	write_frames();
	expect("a copy without unwind data");
}

/* push %rbx; call *8(%rax); pop %rbx; ret, the call with a guard before it. */
static void guarded(void)
{
	it.overlay.map.v.n = 0;
	old(0, "53 ff 50 08 5b c3");
	old_rows("41 0e 10 83 02 44 0e 08");
	new (0, "53 48 81 78 08 40 10 00 00"); /* cmpq $OLD + 0x40, 8(%rax) */
	branch(9, "0f 85", NEW + 0x30);
	branch(15, "e8", OLD + 0x40);
	new (20, "5b c3");
	new (0x30, "ff 50 08");
	branch(0x33, "e9", NEW + 20);
	entry(0, 0, 1, 1, 0);
	entry(1, 1, 14, 0, SYNTH | OVM_MAP_GUARD);
	entry(15, 1, 5, 3, CALL | OVM_MAP_GUARD);
	entry(20, 4, 1, 1, 0);
	entry(21, 5, 1, 1, 0);
	entry(0x30, 1, 3, 3, CALL);
	entry(0x33, 4, 5, 0, SYNTH);
	u.size = 0x38;
	u.prog = "41 0e 10 83 02 54 0e 08 5b 0e 10";
	write_frames();
}

static void test_guards(void **state)
{
	(void)state;
	static const uint8_t all[][4] = {{1, 19, PAD_AT, 0}, {0x30, 3, PAD_AT, 0}};
	static const uint8_t behind[][4] = {{15, 5, PAD_AT, 0}, {0x30, 3, PAD_AT, 0}};
	guarded();
	proved();
	u.prog = "4f 0e 10 83 02 46 0e 08 5b 0e 10"; /* from the call on */
	write_frames();
	expect("the unwind row of a guard differs");
	set_up(); /* the first thing of the overlay, not in its FDE */
	guarded();
	memmove(it.new, it.new + 1, 0x3f);
	branch(14, "e8", OLD + 0x40);
	memmove(it.entries, it.entries + 1, 6 * sizeof(it.entries[0]));
	it.overlay.map.v.n = 6;
	for (unsigned i = 0; i < 6; i++)
		it.entries[i].off--;
	u.lo = 14;
	write_frames();
	expect("a copy without unwind data");
	for (int i = 0; i < 2; i++) { /* what the call may throw, its guard may */
		with_types(0xff, 0, "", "");
		guarded();
		old(OLD_LSDA, "ff ff 01 04 01 03 20 00");
		sites(2, i ? behind : all);
		if (i)
			expect("handlers of a guard differ");
		else
			proved();
	}
}

/* Counters before a jump to what has no unwind data, and exits behind the last call of a region. */
static void test_counters_at_borders(void **state)
{
	(void)state;
	it.overlay.counters = ovm_va_of(COUNTERS);
	it.overlay.n_counters = 1;
	branch(8, "48 ff 05", COUNTERS);
	branch(15, "e9", OLD + 0x60); /* in no region */
	entry(8, 0x60, 7, 0, SYNTH | OVM_MAP_COUNT);
	entry(15, 0x60, 5, 0, SYNTH);
	u.size = 24;
	write_frames();
	proved();
	/* in another one, whose FDE this is not */
	branch(15, "e9", OLD + 0x44);
	it.entries[4].old.v = it.entries[5].old.v = OLD + 0x44;
	expect("an FDE of another region");
	/* a call that ends region 0, with an exit: returns to region 1 */
	set_up();
	old(0x3b, "e8 0f 00 00 00"); /* to OLD + 0x4f */
	branch(8, "e8", OLD + 0x4f);
	new (13, "0f 1f 44 00 00");
	branch(18, "e9", OLD + 0x40);
	entry(8, 0x3b, 5, 5, CALL);
	entry(13, 0x40, 5, 0, PAD | OVM_MAP_EXIT);
	entry(18, 0x40, 5, 0, SYNTH);
	u.size = 32;
	write_frames();
	proved();
}

/* A thunk is called like a function and belongs to no region. The code is no thunk, and no call
 * leads there; its row counts all the same. */
static void test_thunks(void **state)
{
	(void)state;
	enum { THUNK = OVM_MAP_PAD | OVM_MAP_THUNK };
	entry(16, 0, 4, 0, THUNK);
	entry(20, 0, 4, 0, THUNK);
	expect("a copy without unwind data");
	u.n_fdes = 0;
	cursor = EH;
	put_cie();
	put_fde(EH, 0, 8);
	u.prog = "";
	put_fde(EH, 16, 8);
	end_frames();
	proved();
	/* code of a function between thunks */
	memcpy(it.new + 24, it.old, 3);
	entry(24, 0, 1, 1, 0);
	entry(25, 1, 1, 1, 0);
	entry(26, 2, 1, 1, 0);
	entry(32, 0, 4, 0, THUNK);
	u.n_fdes = 0;
	cursor = EH;
	put_cie();
	u.prog = ROWS;
	put_fde(EH, 0, 8);
	u.prog = "";
	put_fde(EH, 16, 8);
	u.prog = ROWS;
	put_fde(EH, 24, 8);
	u.prog = "";
	put_fde(EH, 32, 8);
	end_frames();
	proved();
	/* in the FDE of a function */
	it.overlay.map.v.n = 4;
	entry(16, 0, 4, 0, THUNK);
	u.n_fdes = 0;
	cursor = EH;
	put_cie();
	u.prog = ROWS;
	put_fde(EH, 0, 24);
	end_frames();
	expect("the unwind row of a thunk differs");
	/* other rows, more than one, none that can be read */
	static const char *const wrong[] = {"0e 10", "41 0e 10", "3f"};
	for (unsigned i = 0; i < 3; i++) {
		u.n_fdes = 0;
		cursor = EH;
		put_cie();
		u.prog = ROWS;
		put_fde(EH, 0, 8);
		u.prog = wrong[i];
		put_fde(EH, 16, 8);
		end_frames();
		expect("the unwind row of a thunk differs");
	}
}

/* Records of thunks with what belongs to functions only. */
static void test_odd_thunks(void **state)
{
	(void)state;
	it.overlay.map.v.n = 0;
	entry(16, 0, 4, 0, OVM_MAP_PAD | OVM_MAP_THUNK);
	u.lo = 16;
	u.prog = "";
	write_frames();
	proved();
	u.ra = 15;
	write_frames();
	expect("the unwind row of a thunk differs");
	u.ra = 16;
	u.letters = "zPR";
	u.personality = OLD + ROUTINE;
	write_frames();
	expect("the unwind row of a thunk differs");
	u.letters = "zLR";
	u.lsda = LSDA;
	write_frames();
	expect("the unwind row of a thunk differs");
	u.lsda = 0;
	write_frames();
	proved();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_one, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_proves),
	    TEST(test_end),
	    TEST(test_cuts),
	    TEST(test_cie),
	    TEST(test_fde),
	    TEST(test_two_fdes),
	    TEST(test_tables),
	    TEST(test_rows),
	    TEST(test_places_of_rows),
	    TEST(test_originals),
	    TEST(test_two_regions),
	    TEST(test_personality),
	    TEST(test_types),
	    TEST(test_actions),
	    TEST(test_heads),
	    TEST(test_sites),
	    TEST(test_one_side),
	    TEST(test_jumps),
	    TEST(test_counters),
	    TEST(test_counters_at_borders),
	    TEST(test_guards),
	    TEST(test_thunks),
	    TEST(test_odd_thunks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
