/* xref.c: who enters a window, on hand-made code. */
#include "analyzer/image_private.h"
#include "analyzer/xref.h"
#include "tests/support/mini_elf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* Region 0 (A) is what is asked about, region 1 (B) refers to it. Everything else is zero bytes,
 * which make no reference. */
enum {
	EH_HDR = 0x600,
	EH = 0x800,
	A = 0x1000,
	B = 0x1010,
	A_SIZE = 16,
	B_SIZE = 0x20,
	DATA = 0x3000
};

static struct mini mini;
static struct ovm_ctx ctx;
static struct ovm_decoder *dec;

/* push rbp; mov rsp,rbp; push rbx; sub $8,rsp; ret; nops: boundaries at 1, 4, 5 */
static const uint8_t plain[A_SIZE] = {0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec,
				      8,    0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90};

static void make(int is_dyn, const uint8_t *a, uint32_t a_size, const uint8_t *b, size_t b_size)
{
	struct ovm_buf buf = {0};
	mini_init(&mini, is_dyn);
	mini_cie(&buf);
	mini_fde(&buf, MINI_VA + EH, 0, MINI_VA + A, a_size, NULL, 0);
	mini_fde(&buf, MINI_VA + EH, 0, MINI_VA + B, B_SIZE, NULL, 0);
	mini_eh_frame(&mini, &buf, EH_HDR, EH);
	memset(mini.v + B, 0x90, B_SIZE);
	mini_put(&mini, A, a, a_size);
	mini_put(&mini, B, b, b_size);
}

static struct ovm_xref scan_with(struct ovm_cfg *cfg)
{
	struct ovm_image *image;
	struct ovm_regions regions;
	struct ovm_xref ref = {.region = 0, .flags = 0xff};
	struct ovm_cfg *cfg_of[2] = {cfg, NULL};
	assert_int_equal(ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "mini", &image), 0);
	assert_int_equal(ovm_regions_build(&ctx, image, &regions), 0);
	assert_int_equal(regions.v.n, 2);
	ovm_xref_scan(dec, image, &regions, cfg_of, NULL, 0);
	ovm_xref_scan(dec, image, &regions, cfg_of, &ref, 1);
	ovm_regions_free(&regions);
	ovm_image_close(image);
	return ref;
}

static unsigned flags(void)
{
	return scan_with(NULL).flags;
}

static void make_b(int is_dyn, const uint8_t *b, size_t n)
{
	make(is_dyn, plain, A_SIZE, b, n);
}
#define MAKE_B(is_dyn, ...)                                                                        \
	make_b(is_dyn, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define MAKE_A(size, ...) make(1, (const uint8_t[]){__VA_ARGS__}, size, plain, 0)

static void test_nobody(void **state)
{
	(void)state;
	MAKE_B(1, 0x90);
	struct ovm_xref ref = scan_with(NULL);
	assert_int_equal(ref.flags, 0);
	assert_int_equal(ref.skip, 0);
}

/* B is at A + 0x10; a 5-byte branch there to A+k has displacement k - 0x15. */
static void test_branches(void **state)
{
	(void)state;
	MAKE_B(1, 0xe8, 0xeb, 0xff, 0xff, 0xff);
	assert_int_equal(flags(), OVM_XREF_CALLED);
	MAKE_B(1, 0xe9, 0xeb, 0xff, 0xff, 0xff);
	assert_int_equal(flags(), OVM_XREF_CALLED);
	MAKE_B(1, 0x0f, 0x84, 0xea, 0xff, 0xff, 0xff);
	assert_int_equal(flags(), OVM_XREF_CALLED);
	MAKE_B(1, 0xe9, 0xec, 0xff, 0xff, 0xff); /* A+1 */
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(1, 0x90, 0xe9, 0xee, 0xff, 0xff, 0xff); /* A+4 */
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(1, 0xe9, 0xf0, 0xff, 0xff, 0xff); /* A+5: behind the window */
	assert_int_equal(flags(), 0);
	/* inside another instruction, mov $imm, %eax: taken for a branch all the same */
	MAKE_B(1, 0x48, 0xb8, 0x0f, 0x85, 0xe9, 0xff, 0xff, 0xff, 0, 0);
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	/* the last bytes of the segment */
	MAKE_B(1, 0x90);
	mini_put(&mini, MINI_SIZE - 5, "\xe8", 1);
	ovm_put32(mini.v + MINI_SIZE - 4, (uint32_t)(A - MINI_SIZE));
	assert_int_equal(flags(), OVM_XREF_CALLED);
	mini_put(&mini, MINI_SIZE - 4, "\xe8\xff\xff\xff", 4); /* cut */
	assert_int_equal(flags(), 0);
}

static void test_short_branches(void **state)
{
	(void)state;
	MAKE_B(1, 0x74, 0xef); /* je A+1 */
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(1, 0xe3, 0xf2); /* jrcxz A+4 */
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(1, 0x74, 0xf3); /* je A+5 */
	assert_int_equal(flags(), 0);
	MAKE_B(1, 0x74, 0xee); /* je A: short branches to the start do no harm */
	assert_int_equal(flags(), 0);
	MAKE_B(1, 0xb0, 0x74, 0x0c, 0xee); /* mov $0x74, %al; or $-18, %al */
	assert_int_equal(flags(), 0);
	MAKE_B(1, 0xb8, 0, 0, 0x74, 0xec); /* an immediate that reads like je A+1 */
	assert_int_equal(flags(), 0);
	MAKE_B(1, 0x06, 0x74, 0xee); /* B does not decode: in doubt it is one */
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(1, 0x90); /* code without FDE */
	mini_put(&mini, A - 0x20, "\xeb\x1f", 2);
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	/* farthest before and behind */
	MAKE_B(1, 0x90);
	mini_put(&mini, A + 4 - 2 - 127, "\xeb\x7f", 2);
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(1, 0x90);
	mini_put(&mini, A + 4 - 2 + 128, "\xeb\x80", 2);
	assert_int_equal(flags(), OVM_XREF_INSIDE);
}

static void test_addresses(void **state)
{
	(void)state;
	MAKE_B(1, 0x48, 0x8d, 0x05, 0xe9, 0xff, 0xff, 0xff); /* lea A(%rip), %rax */
	assert_int_equal(flags(), OVM_XREF_ADDRESS);
	MAKE_B(1, 0x4c, 0x8d, 0x3d, 0xea, 0xff, 0xff, 0xff); /* lea A+1(%rip), %r15 */
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(1, 0x48, 0x8b, 0x05, 0xe9, 0xff, 0xff,
	       0xff); /* mov A(%rip), %rax: reads, does not enter */
	assert_int_equal(flags(), 0);
	/* the entry point */
	MAKE_B(1, 0x90);
	ovm_put64(mini.v + 24, MINI_VA + A);
	assert_int_equal(flags(), OVM_XREF_ADDRESS);
	/* values count only in files that are not moved */
	MAKE_B(1, 0x90);
	ovm_put64(mini.v + DATA + 3, MINI_VA + A);
	assert_int_equal(flags(), 0);
	MAKE_B(0, 0x90);
	ovm_put64(mini.v + DATA + 3, MINI_VA + A);
	assert_int_equal(flags(), OVM_XREF_ADDRESS);
	ovm_put64(mini.v + DATA + 3, MINI_VA + A + 1);
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	ovm_put64(mini.v + DATA + 3, MINI_VA + A + 2); /* no instruction starts there */
	assert_int_equal(flags(), 0);
	/* in code: where an operand stands, and where none can */
	MAKE_B(0, 0xbf, 0x01, 0x10, 0x40, 0x00);
	assert_int_equal(flags(), OVM_XREF_INSIDE);
	MAKE_B(0, 0x24, 0x01, 0x10, 0x40, 0x00); /* and $1, %al; adc %al, 0(%rax) */
	assert_int_equal(flags(), 0);
}

static void test_relocations(void **state)
{
	(void)state;
	Elf64_Dyn dyn[] = {{.d_tag = DT_RELA, .d_un.d_val = MINI_VA + DATA + 0x100},
			   {.d_tag = DT_RELASZ, .d_un.d_val = sizeof(Elf64_Rela)},
			   {.d_tag = DT_NULL}};
	Elf64_Rela rela = {.r_offset = MINI_VA + DATA + 0x200,
			   .r_info = R_X86_64_RELATIVE,
			   .r_addend = MINI_VA + A};
	MAKE_B(1, 0x90);
	mini_put(&mini, DATA, dyn, sizeof(dyn));
	mini_put(&mini, DATA + 0x100, &rela, sizeof(rela));
	mini_phdr(&mini, PT_DYNAMIC, PF_R, DATA, sizeof(dyn));
	assert_int_equal(flags(), OVM_XREF_ADDRESS);
	rela.r_addend += 4;
	mini_put(&mini, DATA + 0x100, &rela, sizeof(rela));
	assert_int_equal(flags(), OVM_XREF_INSIDE);
}

static void test_room(void **state)
{
	(void)state;
	MAKE_A(4, 0x31, 0xc0, 0xc3, 0x90);
	assert_int_equal(flags(), OVM_XREF_NO_ROOM);
	MAKE_A(5, 0xe8, 0, 1, 0, 0); /* the call ends where the window ends */
	assert_int_equal(flags(), 0);
	MAKE_A(6, 0xff, 0xd0, 0x90, 0x90, 0x90, 0xc3); /* call *%rax returns inside */
	assert_int_equal(flags(), OVM_XREF_NO_ROOM);
	MAKE_A(6, 0x0f, 0x05, 0x90, 0x90, 0x90, 0xc3); /* syscall */
	assert_int_equal(flags(), OVM_XREF_NO_ROOM);
	MAKE_A(6, 0x90, 0x90, 0x90, 0xff, 0xd0, 0xc3); /* returns at 5 */
	assert_int_equal(flags(), 0);
}

static void test_endbr64(void **state)
{
	(void)state;
	MAKE_A(9, 0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 1, 0, 0, 0);
	struct ovm_xref ref = scan_with(NULL);
	assert_int_equal(ref.skip, 4);
	assert_int_equal(ref.flags, 0);
	MAKE_A(8, 0xf3, 0x0f, 0x1e, 0xfa, 0x31, 0xc0, 0x90, 0xc3);
	assert_int_equal(flags(), OVM_XREF_NO_ROOM);
	/* jmp A+4: to the first byte of the window; jmp A+5: inside */
	static const uint8_t to_window[] = {0xe9, 0xef, 0xff, 0xff, 0xff},
			     inside[] = {0xe9, 0xf0, 0xff, 0xff, 0xff};
	static const uint8_t a[A_SIZE] = {0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x55, 0x55, 0x55,
					  0x55, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90};
	make(1, a, A_SIZE, to_window, sizeof(to_window));
	assert_int_equal(flags(), OVM_XREF_CALLED);
	make(1, a, A_SIZE, inside, sizeof(inside));
	assert_int_equal(flags(), OVM_XREF_INSIDE);
}

/* With a graph: its leaders and its unknown jumps count. */
static void test_graph(void **state)
{
	(void)state;
	struct ovm_insn insns[] = {
	    {.va = {MINI_VA + A}, .len = 1},
	    {.va = {MINI_VA + A + 1}, .len = 3},
	    {.va = {MINI_VA + A + 4}, .len = 1},
	    {.va = {MINI_VA + A + 5}, .len = 4},
	    {.va = {MINI_VA + A + 9}, .len = 1, .kind = OVM_INSN_RET},
	};
	struct ovm_block blocks[] = {
	    {.lo = {MINI_VA + A}, .hi = {MINI_VA + A + 5}, .first_insn = 0, .n_insns = 3},
	    {.lo = {MINI_VA + A + 5}, .hi = {MINI_VA + A + 10}, .first_insn = 3, .n_insns = 2},
	};
	uint32_t region = 0, by_va[] = {0, 1};
	struct ovm_cfg cfg = {.regions = &region,
			      .n_regions = 1,
			      .insns = insns,
			      .n_insns = 5,
			      .blocks = blocks,
			      .n_blocks = 2,
			      .by_va = by_va};
	MAKE_B(1, 0x90);
	assert_int_equal(scan_with(&cfg).flags, 0);
	blocks[1].flags = OVM_BLOCK_UNKNOWN_JUMP | OVM_BLOCK_TAIL_CALL;
	cfg.n_unknown_jumps = 1;
	assert_int_equal(scan_with(&cfg).flags, 0);
	blocks[1].flags = OVM_BLOCK_UNKNOWN_JUMP;
	assert_int_equal(scan_with(&cfg).flags, OVM_XREF_INSIDE);
	blocks[1].flags = 0;
	blocks[0].hi.v = blocks[1].lo.v = MINI_VA + A + 4; /* a leader at 4 */
	blocks[0].n_insns = blocks[1].first_insn = 2;
	blocks[1].n_insns = 3;
	assert_int_equal(scan_with(&cfg).flags, OVM_XREF_NO_ROOM);
}

/* Pages are scanned by different workers: what stands across their border is seen, once. */
static void test_page_borders(void **state)
{
	(void)state;
	for (uint64_t at = DATA - 8; at <= DATA; at++) {
		uint8_t jump[5] = {0xe9};
		ovm_put32(jump + 1, (uint32_t)(A + 1 - (at + 5)));
		MAKE_B(1, 0x90);
		mini_put(&mini, at, jump, sizeof(jump));
		assert_int_equal(flags(), OVM_XREF_INSIDE);
		uint8_t value[4];
		ovm_put32(value, (uint32_t)(MINI_VA + A + 4));
		MAKE_B(0, 0x90);
		mini_put(&mini, at, value, sizeof(value));
		assert_int_equal(flags(), OVM_XREF_INSIDE);
	}
}

int main(void)
{
	ovm_ctx_init(&ctx);
	if (ovm_decoder_open(&ctx, &dec))
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nobody),	   cmocka_unit_test(test_branches),
	    cmocka_unit_test(test_short_branches), cmocka_unit_test(test_addresses),
	    cmocka_unit_test(test_relocations),	   cmocka_unit_test(test_room),
	    cmocka_unit_test(test_endbr64),	   cmocka_unit_test(test_graph),
	    cmocka_unit_test(test_page_borders),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	ovm_decoder_close(dec);
	return failed;
}
