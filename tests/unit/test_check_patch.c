/* The checker and entry patches, one at a time: regions, their code and their exception tables are
 * written by hand, and every way in which five bytes of original code must not be overwritten is
 * tried.
 */
#include "tests/support/by_hand.h"

enum { AT = OLD, LEN = 5, LSDA = 0xc0 };

static struct ovm_region regions[3];
static struct ovm_cie cies[2];
static struct ovm_patch patches[3];

/* A function of 0x40 bytes at OLD whose first instruction has five, copied to NEW; its patch. */
static void with_patch(void)
{
	begin();
	old(0, "b8 01 00 00 00 31 c9");
	new (0, "b8 01 00 00 00");
	branch(5, "e9", OLD + 5);
	entry(0, 0, 5, 5, 0);
	memset(regions, 0, sizeof(regions));
	memset(cies, 0, sizeof(cies));
	regions[0] = (struct ovm_region){.lo = {OLD}, .hi = {OLD + 0x40}};
	regions[1] = (struct ovm_region){.lo = {OLD + 0x40}, .hi = {OLD + 0x80}};
	cies[0].personality_enc = 0xff;
	cies[1].personality_enc = 0x1b;
	it.regions.v.v = regions;
	it.regions.v.n = 2;
	it.regions.cfi.cies.v = cies;
	it.regions.cfi.cies.n = 2;
	it.overlay.patches.v = patches;
	it.overlay.patches.n = 1;
	patches[0] = (struct ovm_patch){.at = {AT}, .len = LEN};
	memcpy(patches[0].old_bytes, it.old, LEN);
	patches[0].new_bytes[0] = 0xe9;
	ovm_put32(patches[0].new_bytes + 1, (uint32_t)(NEW - (AT + LEN)));
}

/* Instructions @hex in place of the first, their copies in place of its copy. */
static void with_code(const char *hex, unsigned n, const unsigned *lens, unsigned flags)
{
	unsigned off = 0;
	with_patch();
	it.overlay.map.v.n = 0;
	old(0, hex);
	for (unsigned i = 0; i < n; off += lens[i++])
		entry(off, off, lens[i], lens[i], i == 0 ? flags : 0);
	memcpy(it.new, it.old, off);
	branch(off, "e9", OLD + off);
	memcpy(patches[0].old_bytes, it.old, LEN);
}

static void test_proves(void **state)
{
	(void)state;
	with_patch();
	expect(NULL);
	it.overlay.patches.n = 0;
	expect(NULL);
}

static void test_order(void **state)
{
	(void)state;
	with_patch();
	patches[1] = patches[0];
	it.overlay.patches.n = 2;
	expect("patches overlap or are out of order");
	patches[1].at.v += 4;
	expect("patches overlap or are out of order");
	patches[1].at.v = AT + LEN; /* side by side */
	expect("a patch of other bytes");
	patches[1].at.v = AT - 8;
	expect("patches overlap or are out of order");
	patches[0].len = 6;
	expect("patches overlap or are out of order");
	patches[0].len = 0;
	expect("patches overlap or are out of order");
	with_patch();
	patches[0].at.v = UINT64_MAX - 4; /* would end beyond all addresses */
	expect("patches overlap or are out of order");
	patches[0].at.v = UINT64_MAX - 5;
	expect("a patch outside its region");
}

static void test_regions(void **state)
{
	(void)state;
	with_patch();
	patches[0].region = 2;
	expect("a patch of no region");
	patches[0].region = 1;
	expect("a patch outside its region");
	patches[0].region = 0;
	regions[0].hi.v = AT + LEN - 1;
	expect("a patch outside its region");
	regions[0].hi.v = AT + LEN; /* the region ends with the patch */
	expect(NULL);
}

static void test_bytes(void **state)
{
	(void)state;
	with_patch();
	patches[0].old_bytes[4] = 1;
	expect("a patch of other bytes");
	with_patch();
	patches[0].new_bytes[0] = 0xe8;
	expect("a patch is no jump to its target");
	with_patch();
	patches[0].target = 5;
	expect("a patch is no jump to its target");
	ovm_put32(patches[0].new_bytes + 1, (uint32_t)(NEW + 5 - (AT + LEN)));
	expect("a patch goes elsewhere");
	with_patch(); /* a region in the middle of nowhere */
	regions[0] = (struct ovm_region){.lo = {OLD + 0x8000}, .hi = {OLD + 0x8040}};
	patches[0].at.v = OLD + 0x8000;
	expect("a patch of other bytes");
}

static void test_window(void **state)
{
	static const unsigned two_three[] = {2, 3}, three_two[] = {3, 2};
	(void)state;
	/* a call returns into the window, or right behind it */
	with_code("ff d0 83 c0 01", 2, two_three, CALL);
	expect("a patch over a return address");
	with_code("83 c0 01 ff d0", 2, three_two, 0);
	it.entries[1].flags = CALL;
	expect(NULL);
	with_code("0f 05 83 c0 01", 2, two_three, OVM_MAP_SYSCALL);
	expect("a patch over a return address");
	with_patch();
	it.overlay.map.v.n = 0;
	old(0, "e8 3b 00 00 00"); /* a direct call fills the window */
	branch(0, "e8", OLD + 0x40);
	branch(5, "e9", OLD + 5);
	entry(0, 0, 5, 5, CALL);
	memcpy(patches[0].old_bytes, it.old, LEN);
	expect(NULL);
	/* behind a jump: bytes that nobody executes, and nobody knows where code would begin */
	with_patch();
	it.overlay.map.v.n = 0;
	old(0, "eb 0e 06 06 06");
	branch(0, "e9", OLD + 0x10);
	entry(0, 0, 5, 2, 0);
	memcpy(patches[0].old_bytes, it.old, LEN);
	expect("a patch over what is no code");
}

static void test_branches(void **state)
{
	(void)state;
	with_patch();
	old(0x10, "eb ef"); /* to OLD + 1 */
	expect("a branch into a patch");
	old(0x10, "75 f2"); /* + 4 */
	expect("a branch into a patch");
	old(0x10, "e3 ee"); /* + 0: the patch itself is well */
	expect(NULL);
	old(0x10, "e3 f0");
	expect("a branch into a patch");
	old(0x10, "e8 ed ff ff ff");
	expect("a branch into a patch");
	old(0x10, "e8 f0 ff ff ff"); /* + 5: behind it */
	expect(NULL);
	old(0x10, "48 8d 05 ea ff ff ff"); /* lea: no branch, xref.c's to find */
	expect(NULL);
	old(0x40, "06"); /* not of this region */
	expect(NULL);
	old(0x10, "06"); /* which matters only if there could be a branch */
	expect(NULL);
	old(0x10, "06 eb ee");
	expect("a patched region does not decode");
	old(0x10, "06 0f 84 ea ff ff ff");
	expect("a patched region does not decode");
	with_patch();
	old(0x10, "48 b8 eb ed 00 00 00 00 00 00"); /* looks like one, but is an immediate */
	expect(NULL);
	old(0x10, "48 b8 eb ed 00 00 00 00 00 00 e9 e2 ff ff ff");
	expect("a branch into a patch");
	with_patch();
	old(0x3b, "00 00 00 0f 84"); /* cut off by the region's end: nothing that is executed */
	expect(NULL);
	with_patch();
	regions[0].hi.v = OLD + SIZE + 1; /* runs out of the file */
	regions[1] = (struct ovm_region){.lo = {OLD + SIZE + 1}, .hi = {OLD + SIZE + 2}};
	expect("a patched region does not decode");
}

static void test_two_patches(void **state)
{
	(void)state;
	with_patch();
	old(0x20, "b9 01 00 00 00");
	new (0x20, "b9 01 00 00 00");
	branch(0x25, "e9", OLD + 0x25);
	entry(0x20, 0x20, 5, 5, 0);
	patches[1] = (struct ovm_patch){.at = {OLD + 0x20}, .len = LEN, .target = 0x20};
	memcpy(patches[1].old_bytes, it.old + 0x20, LEN);
	patches[1].new_bytes[0] = 0xe9;
	ovm_put32(patches[1].new_bytes + 1, (uint32_t)(NEW + 0x20 - (OLD + 0x20 + LEN)));
	it.overlay.patches.n = 2;
	expect(NULL);
	old(0x30, "eb f1"); /* into the second */
	expect("a branch into a patch");
	old(0x30, "c3 c3");
	branch(0x25, "e9", OLD + 0x21); /* a way out that leads into one */
	expect("continues elsewhere");
	branch(5, "e9", OLD + 4);
	expect("continues elsewhere");
}

/* A call site of the function's whole length whose landing pad is @pad bytes into it. */
static void with_pad(unsigned pad)
{
	with_patch();
	regions[0].lsda = ovm_va_of(OLD + LSDA);
	regions[0].cie = 1;
	memset(it.old + LSDA, 0, 16);
	old(LSDA, "ff ff 01 04 00 40 00 00");
	it.old[LSDA + 6] = (uint8_t)pad;
}

static void test_landing_pads(void **state)
{
	(void)state;
	with_pad(3);
	expect("a patch over a landing pad");
	regions[0].cie = 0; /* nobody reads the table */
	expect(NULL);
	with_pad(5);
	expect(NULL);
	with_pad(0); /* none */
	expect(NULL);
	with_pad(3);
	regions[0].lsda = ovm_va_of(OLD + 0x8000);
	expect("exception tables of a patched region cannot be read");
	/* the second of two sites */
	with_pad(0x20);
	old(LSDA, "ff ff 01 08 00 20 20 00 20 20 04 00");
	expect("a patch over a landing pad");
	old(LSDA, "ff ff 01 08 00 20 03 00 20 20 20 00"); /* the first one */
	expect("a patch over a landing pad");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_proves),	cmocka_unit_test(test_order),
	    cmocka_unit_test(test_regions),	cmocka_unit_test(test_bytes),
	    cmocka_unit_test(test_window),	cmocka_unit_test(test_branches),
	    cmocka_unit_test(test_two_patches), cmocka_unit_test(test_landing_pads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
