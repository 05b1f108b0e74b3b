/* The checker against wrong counters and exits. A small function of this very program is copied by
 * hand, with counters before its entry and its loop, a stub that counts one branch, and an exit
 * behind its call; then one thing is made wrong at a time and must be refused for what it is. What
 * is taken for dead flags is tried on snippets, each behind a counter of its own.
 */
#include "rewriter/check.h"
#include "rewriter/ehframe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- code to copy
 * ---------------------------------------------------------------------------------------------- */

void counted(void); /* never called */
extern const char __ehdr_start[];

__asm__(".text\n"
	".globl counted\n"
	".type counted, @function\n"
	"counted:\n"
	"	.cfi_startproc\n"
	"	push %rbx\n" /* +0 */
	"	.cfi_def_cfa_offset 16\n"
	"	.cfi_offset 3, -16\n"
	"	mov %edi, %ebx\n"  /* +1 */
	"	test %esi, %esi\n" /* +3 */
	"1:	mov %ebx, %edi\n"  /* +5 */
	"	call counted\n"	   /* +7 */
	"	sub $1, %ebx\n"	   /* +12 */
	"	jne 1b\n"	   /* +15 */
	"	pop %rbx\n"	   /* +17 */
	"	.cfi_def_cfa_offset 8\n"
	"	ret\n" /* +18 */
	"	.cfi_endproc\n"
	".size counted, .-counted\n");

enum { ENTRY = 0, LOOP = 5, CALL = 7, AFTER = 12, BRANCH = 15, POP = 17, RET = 18, END = 19 };

/* name, are the five flags that inc writes dead before it, code */
#define SNIPPETS(X)                                                                                \
	X(add, true, "add %eax, %ebx")                                                             \
	X(logic, true, "xor %eax, %eax")                                                           \
	X(moves, true, "mov (%rdi), %rax; lea 1(%rax), %rdx; push %rdx; add $8, %rsp")             \
	X(returns, true, "mov %rdx, %rax; ret")                                                    \
	X(calls, true, "call counted")                                                             \
	X(calls_indirectly, true, "call *%rax")                                                    \
	X(syscall, true, "syscall")                                                                \
	X(jumps, true, "jmp 1f; ud2; 1: test %eax, %eax")                                          \
	X(jumps_far, true, "jmp counted")                                                          \
	X(trap, true, "ud2; cmp $1, %eax")                                                         \
	X(carry, true, "setc %al; adc %eax, %edx")                                                 \
	X(then_read, true, "test %eax, %eax; setz %al")                                            \
	X(increments, true, "incl (%rdi)")                                                         \
	X(multiplies, true, "imul %eax, %edx")                                                     \
	X(compares_floats, true, "comisd %xmm0, %xmm1")                                            \
	X(pops_flags, true, "popf")                                                                \
	X(swaps, true, "lock cmpxchg %eax, (%rdi)")                                                \
	X(string, true, "cmpsb")                                                                   \
	X(strings_after, true, "cmp %rax, %rax; repe cmpsb")                                       \
	X(shift, true, "shl $3, %eax")                                                             \
	X(shift_one, true, "shr %eax")                                                             \
	X(shift_long, true, ".byte 0x48, 0xc1, 0xe0, 0x20")                                        \
	X(double_shift, true, "shld $3, %eax, %edx")                                               \
	X(longest, true, ".rept 31; nop; .endr; add %eax, %ebx")                                   \
	X(too_long, false, ".rept 32; nop; .endr; add %eax, %ebx")                                 \
	X(loop_of_nothing, false, "1: jmp 1b")                                                     \
	X(nothing, false, "")                                                                      \
	X(conditional, false, "je 1f; 1: add %eax, %ebx")                                          \
	X(conditional_carry, false, "jc 1f; 1: add %eax, %ebx")                                    \
	X(counter_zero, false, "jrcxz 1f; 1: add %eax, %ebx")                                      \
	X(loops, false, "loopne 1f; 1: add %eax, %ebx")                                            \
	X(indirect_jump, false, "jmp *(%rdi)")                                                     \
	X(reads_zero, false, "setz %al; add %eax, %ebx")                                           \
	X(reads_sign, false, "cmovs %eax, %ebx; add %eax, %ebx")                                   \
	X(reads_overflow, false, "adox %eax, %ebx; add %eax, %ebx")                                \
	X(reads_parity, false, "setp %al; add %eax, %ebx")                                         \
	X(pushes_flags, false, "pushf; add %eax, %ebx")                                            \
	X(lahf, false, "lahf; add %eax, %ebx")                                                     \
	X(sahf, false, "sahf")                                                                     \
	X(carry_only, false, "stc; cmc; clc")                                                      \
	X(bit_test, false, "bt $3, %eax; setz %al; add %eax, %ebx")                                \
	X(zero_only, false, "cmpxchg8b (%rdi)")                                                    \
	X(not_changes_none, false, "not %eax; setz %al")                                           \
	X(shift_cl, false, "shl %cl, %eax; setz %al; add %eax, %ebx")                              \
	X(shift_none, false, ".byte 0xc1, 0xe0, 0x20; setz %al; add %eax, %ebx")                   \
	X(double_shift_cl, false, "shld %cl, %eax, %edx; setz %al; add %eax, %ebx")                \
	X(double_shift_none, false, "shrd $0, %eax, %edx; setz %al; add %eax, %ebx")               \
	X(rotates, false, "rol $3, %eax; setz %al; add %eax, %ebx")                                \
	X(bmi_shift, false, "shlx %eax, %edx, %eax; setz %al; add %eax, %ebx")                     \
	X(strings, false, "repne scasb; setz %al; add %eax, %ebx")                                 \
	X(undecodable, false, ".byte 0x06; add %eax, %ebx")                                        \
	X(not_copied, false, "iretq")

#define CODE(name, dead, text)                                                                     \
	__asm__(".text\nsnippet_" #name ":\n" text "\n	jmp *%rax\n");                             \
	extern const char snippet_##name[];
SNIPPETS(CODE)

/* --- an overlay made by hand
 * --------------------------------------------------------------------------------------------------
 */

enum item_kind { COPY, COUNT, EXIT, JUMP };

struct item {
	uint8_t kind; /* enum item_kind */
	uint8_t old;  /* offset in counted() */
	uint8_t to;   /* JUMP and the copy of the branch: item */
};

enum { AT_ENTRY = 0, AT_LOOP = 4, AT_EXIT = 7, AT_BRANCH = 9, AT_STUB = 12, N_ITEMS = 14 };

static const struct item ITEMS[N_ITEMS] = {
    {COUNT, ENTRY, 0}, {COPY, ENTRY, 0}, {COPY, 1, 0},	   {COPY, 3, 0},     {COUNT, LOOP, 0},
    {COPY, LOOP, 0},   {COPY, CALL, 0},	 {EXIT, AFTER, 0}, {COPY, AFTER, 0}, {COPY, BRANCH, 12},
    {COPY, POP, 0},    {COPY, RET, 0},	 {COUNT, LOOP, 0}, {JUMP, LOOP, 4},
};

struct fixture {
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct ovm_regions regions;
	struct ovm_overlay overlay; /* of the test at hand */
	struct ovm_buf buf;
	ovm_va code;
};

static ovm_va va_of(const struct fixture *f, const void *p)
{
	return ovm_va_add(f->image->segments.v[0].lo, (const char *)p - __ehdr_start);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	ovm_ctx_init(&f->ctx);
	if (ovm_image_open(&f->ctx, "/proc/self/exe", &f->image) ||
	    ovm_regions_build(&f->ctx, f->image, &f->regions))
		return -1;
	f->code = va_of(f, (const void *)counted);
	*state = f;
	return 0;
}

static void drop(struct fixture *f)
{
	ovm_overlay_fini(&f->overlay);
	f->overlay = (struct ovm_overlay){0};
	f->buf = (struct ovm_buf){0};
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	ovm_regions_free(&f->regions);
	ovm_image_close(f->image);
	free(f);
	return 0;
}

/* An empty overlay behind the image, its counters behind that. */
static void start(struct fixture *f)
{
	const struct ovm_segment *last = &f->image->segments.v[f->image->segments.n - 1];
	drop(f);
	f->overlay.base = ovm_va_of((last->hi.v + 0xffff) & ~(uint64_t)0xfff);
	f->overlay.counters = ovm_va_add(f->overlay.base, 0x100000);
	f->overlay.n_counters = 5;
}

static void map_add(struct fixture *f, ovm_va old, uint32_t old_len, uint32_t off, uint16_t flags)
{
	uint8_t new_len = (uint8_t)(f->buf.n - off);
	ovm_vec_push(&f->overlay.map.v,
		     (struct ovm_map_entry){old, off, new_len, (uint8_t)old_len, flags});
}

static void put_rel32(struct fixture *f, uint64_t to)
{
	ovm_buf_u32(&f->buf, (uint32_t)(to - (f->overlay.base.v + f->buf.n + 4)));
}

static void put_counter(struct fixture *f, ovm_va old, uint32_t counter)
{
	uint32_t off = (uint32_t)f->buf.n;
	ovm_buf_put(&f->buf, "\x48\xff\x05", 3);
	put_rel32(f, f->overlay.counters.v + (uint64_t)counter * 8);
	map_add(f, old, 0, off, OVM_MAP_SYNTH | OVM_MAP_COUNT);
}

static void put_jump(struct fixture *f, ovm_va old, uint64_t to)
{
	uint32_t off = (uint32_t)f->buf.n;
	ovm_buf_u8(&f->buf, 0xe9);
	put_rel32(f, to);
	map_add(f, old, 0, off, OVM_MAP_SYNTH);
}

static void put_exit(struct fixture *f, ovm_va old)
{
	uint32_t off = (uint32_t)f->buf.n;
	ovm_buf_put(&f->buf, "\x0f\x1f\x44\x00\x00", 5);
	map_add(f, old, 0, off, OVM_MAP_SYNTH | OVM_MAP_PAD | OVM_MAP_EXIT);
}

static void put_copy(struct fixture *f, const struct item *item, const uint32_t *offs)
{
	static const uint8_t starts[] = {0, 1, 3, 5, 7, 12, 15, 17, 18, END};
	uint32_t off = (uint32_t)f->buf.n, len = 0;
	ovm_va old = ovm_va_add(f->code, item->old);
	for (unsigned i = 0; i + 1 < sizeof(starts); i++)
		if (starts[i] == item->old)
			len = starts[i + 1] - starts[i];
	assert_true(len);
	if (item->old == CALL) {
		ovm_buf_u8(&f->buf, 0xe8);
		put_rel32(f, f->code.v);
	} else if (item->old == BRANCH) {
		ovm_buf_u8(&f->buf, 0x75);
		ovm_buf_u8(&f->buf, (uint8_t)(offs[item->to] - (off + 2)));
	} else {
		ovm_buf_put(&f->buf, ovm_image_code(f->image, old, len), len);
	}
	map_add(f, old, len, off, item->old == CALL ? OVM_MAP_CALL : 0);
}

static void put_items(struct fixture *f, const struct item *items, uint32_t n, uint32_t *offs)
{
	uint32_t counter = 0;
	for (uint32_t i = 0; i < n; i++) {
		ovm_va old = ovm_va_add(f->code, items[i].old);
		offs[i] = (uint32_t)f->buf.n;
		if (items[i].kind == COPY)
			put_copy(f, &items[i], offs);
		else if (items[i].kind == COUNT)
			put_counter(f, old, counter++);
		else if (items[i].kind == EXIT)
			put_exit(f, old);
		else
			put_jump(f, old, f->overlay.base.v + offs[items[i].to]);
	}
}

static void finish(struct fixture *f)
{
	struct ovm_program program = {.image = f->image, .regions = &f->regions};
	struct ovm_overlay *overlay = &f->overlay;
	uint32_t bad_region;
	enum ovm_refusal why;
	overlay->sections[OVM_SECTION_HOT] = (struct ovm_section){0, (uint32_t)f->buf.n};
	assert_int_equal(ovm_ehframe_emit(&f->ctx, &program, overlay, &f->buf, &bad_region, &why),
			 0);
	overlay->bytes = f->buf.v;
	overlay->size = (uint32_t)f->buf.n;
}

/* The copy of counted(), entered by a patch that lands on its first counter. */
static void make(struct fixture *f, const struct item *items, uint32_t n)
{
	uint32_t offs[32] = {0};
	struct ovm_patch patch = {.at = f->code, .len = 5, .new_bytes = {0xe9}};
	start(f);
	put_items(f, items, n, offs);
	f->buf.n = 0; /* again, as places ahead are known now */
	f->overlay.map.v.n = 0;
	put_items(f, items, n, offs);
	finish(f);
	patch.region = ovm_region_find(&f->regions, f->code);
	memcpy(patch.old_bytes, ovm_image_code(f->image, f->code, 5), 5);
	ovm_put32(patch.new_bytes + 1, (uint32_t)(f->overlay.base.v - (f->code.v + 5)));
	ovm_vec_push(&f->overlay.patches, patch);
}

static int check(struct fixture *f, struct ovm_check_result *result)
{
	int err = ovm_check(&f->ctx, f->image, &f->regions, &f->overlay, result);
	assert_true(!err || result->reason[0]);
	return err;
}

static void assert_proved(struct fixture *f)
{
	struct ovm_check_result result;
	if (check(f, &result))
		fail_msg("refused: %s (overlay +0x%x)", result.reason, result.bad_off);
}

static void assert_refused(struct fixture *f, const char *reason)
{
	struct ovm_check_result result;
	assert_int_equal(check(f, &result), OVM_REFUSED);
	assert_string_equal(result.reason, reason);
}

static struct ovm_map_entry *entry_of(struct fixture *f, uint32_t item)
{
	return &f->overlay.map.v.v[item];
}

/* --- tests
 * ----------------------------------------------------------------------------------------------------
 */

static void test_proves(void **state)
{
	struct fixture *f = *state;
	struct ovm_check_result result;
	make(f, ITEMS, N_ITEMS);
	assert_proved(f);
	assert_int_equal(check(f, &result), 0);
	assert_int_equal(result.n_pairs, 9);
	entry_of(f, AT_STUB)->flags |= OVM_MAP_DUPLICATE;
	assert_proved(f);
	drop(f);
}

/* All bits of all code: no byte of a counter or an exit may be another. */
static void test_every_bit(void **state)
{
	struct fixture *f = *state;
	struct ovm_check_result result;
	make(f, ITEMS, N_ITEMS);
	for (uint32_t off = 0; off < f->overlay.sections[OVM_SECTION_HOT].size; off++)
		for (unsigned bit = 0; bit < 8; bit++) {
			const struct ovm_map_entry *entry = ovm_map_new(&f->overlay.map, off);
			f->overlay.bytes[off] ^= (uint8_t)(1u << bit);
			int err = check(f, &result);
			f->overlay.bytes[off] ^= (uint8_t)(1u << bit);
			/* another counter of the five */
			uint32_t at = off - entry->off, counter = 0;
			if (!err && (entry->flags & OVM_MAP_COUNT) && at == 3 && bit >= 3)
				counter = 1;
			if (!err && !counter)
				fail_msg("bit %u of byte %x can change unseen", bit, off);
		}
	assert_proved(f);
	drop(f);
}

static void test_counter_address(void **state)
{
	static const int wrong[] = {-8, -1, 1, 4, 7, 33, 40, 48, 0x1000};
	struct fixture *f = *state;
	make(f, ITEMS, N_ITEMS);
	uint8_t *field = f->overlay.bytes + entry_of(f, AT_ENTRY)->off + 3;
	uint32_t right = ovm_le32(field);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		ovm_put32(field, right + (uint32_t)wrong[i]);
		assert_refused(f, "a counter outside the counters");
	}
	ovm_put32(field, right + 32);
	assert_proved(f);
	f->overlay.n_counters = 4;
	assert_refused(f, "a counter outside the counters");
	f->overlay.n_counters = 0;
	assert_refused(f, "a counter outside the counters");
	drop(f);
}

static void test_counters_memory(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->overlay;
	const struct ovm_segment *segments;
	make(f, ITEMS, N_ITEMS);
	ovm_va right = overlay->counters;
	static const uint64_t improper[] = {0, 4, UINT64_MAX - 7, UINT64_MAX - 39};
	for (unsigned i = 0; i < sizeof(improper) / sizeof(*improper); i++) {
		overlay->counters = ovm_va_of(improper[i]);
		assert_refused(f, "counters at no proper address");
	}
	uint64_t end = (overlay->base.v + overlay->size + 7) & ~(uint64_t)7;
	overlay->counters = overlay->base;
	assert_refused(f, "counters inside the overlay");
	overlay->counters = ovm_va_add(overlay->base, -32);
	assert_refused(f, "counters inside the overlay");
	overlay->counters = ovm_va_of(end - 8);
	assert_refused(f, "counters inside the overlay");
	overlay->counters = ovm_va_of(end); /* none is incremented there, but the place is good */
	assert_refused(f, "a counter outside the counters");
	segments = f->image->segments.v;
	for (uint32_t i = 0; i < f->image->segments.n; i++) {
		overlay->counters = ovm_va_of((segments[i].lo.v + 7) & ~(uint64_t)7);
		if (overlay->counters.v)
			assert_refused(f, "counters inside the image");
		overlay->counters = ovm_va_of((segments[i].hi.v - 1) & ~(uint64_t)7);
		assert_refused(f, "counters inside the image");
	}
	overlay->counters = right;
	overlay->n_counters = UINT32_MAX; /* 32 GiB, if there is room */
	assert_proved(f);
	overlay->counters = ovm_va_add(overlay->base, -8 * (int64_t)UINT32_MAX);
	struct ovm_check_result result;
	assert_int_equal(check(f, &result), OVM_REFUSED);
	drop(f);
}

/* Counters that are something else, or that lead somewhere else. */
static void test_counter_form(void **state)
{
	struct fixture *f = *state;
	static const struct item plain[] = {{COPY, ENTRY, 0}, {JUMP, 1, 0}};
	make(f, plain, 2);
	entry_of(f, 0)->flags = OVM_MAP_SYNTH | OVM_MAP_COUNT;
	entry_of(f, 0)->old_len = 0;
	assert_refused(f, "a counter that is no incq");
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_ENTRY)->old_len = 1;
	assert_refused(f, "a counter that is no incq");
	static const uint16_t improper[] = {
	    OVM_MAP_COUNT,
	    OVM_MAP_COUNT | OVM_MAP_PAD,
	    OVM_MAP_COUNT | OVM_MAP_SYNTH | OVM_MAP_PAD,
	    OVM_MAP_COUNT | OVM_MAP_SYNTH | OVM_MAP_CALL,
	    OVM_MAP_COUNT | OVM_MAP_SYNTH | OVM_MAP_EXIT,
	    OVM_MAP_EXIT,
	    OVM_MAP_EXIT | OVM_MAP_SYNTH,
	    OVM_MAP_EXIT | OVM_MAP_PAD,
	};
	for (unsigned i = 0; i < sizeof(improper) / sizeof(*improper); i++) {
		make(f, ITEMS, N_ITEMS);
		entry_of(f, AT_ENTRY)->flags = improper[i];
		assert_refused(f, "a counter or exit of no known form");
	}
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_ENTRY)->flags = OVM_MAP_SYNTH;
	assert_refused(f, "what was added is no jump");
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_ENTRY)->flags = 0;
	entry_of(f, AT_ENTRY)->old_len = 7;
	assert_refused(f, "the map is wrong about lengths");
	drop(f);
}

static void test_counter_leads_elsewhere(void **state)
{
	struct fixture *f = *state;
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_ENTRY)->old = ovm_va_add(f->code, 1);
	assert_refused(f, "a counter leads elsewhere");
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_STUB)->old = ovm_va_add(f->code, AFTER);
	assert_refused(f, "a counter leads elsewhere");
	/* counters that lead to each other for ever */
	static const struct item forever[] = {
	    {COUNT, ENTRY, 0}, {COUNT, ENTRY, 0}, {JUMP, ENTRY, 0}};
	make(f, forever, 3);
	assert_refused(f, "a counter leads elsewhere");
	/* a counter at the very end of the code */
	static const struct item alone[] = {{COUNT, ENTRY, 0}};
	make(f, alone, 1);
	assert_refused(f, "a counter leads elsewhere");
	/* two in a row are well */
	static const struct item twice[] = {
	    {COUNT, ENTRY, 0}, {COUNT, ENTRY, 0}, {COPY, ENTRY, 0}, {COPY, 1, 0},
	    {COPY, 3, 0},      {JUMP, LOOP, 7},	  {COUNT, RET, 0},  {COPY, LOOP, 0},
	    {COPY, CALL, 0},   {EXIT, AFTER, 0},  {COPY, AFTER, 0}, {COPY, BRANCH, 7},
	    {COPY, POP, 0},    {COPY, RET, 0},
	};
	make(f, twice, 14);
	assert_refused(f, "a counter leads elsewhere"); /* the one before LOOP that says RET */
	entry_of(f, 6)->old = ovm_va_add(f->code, LOOP);
	assert_refused(f, "the unwind row of a counter or exit differs"); /* row of RET */
	drop(f);
}

static void test_live_flags(void **state)
{
	struct fixture *f = *state;
	static const struct item before_branch[] = {
	    {COPY, ENTRY, 0},  {COPY, 1, 0},	 {COPY, 3, 0},	   {COPY, LOOP, 0},
	    {COPY, CALL, 0},   {EXIT, AFTER, 0}, {COPY, AFTER, 0}, {COUNT, BRANCH, 0},
	    {COPY, BRANCH, 3}, {COPY, POP, 0},	 {COPY, RET, 0},
	};
	make(f, before_branch, 11);
	assert_refused(f, "a counter where flags may be live");
	drop(f);
}

static void test_exit(void **state)
{
	struct fixture *f = *state;
	static const uint8_t others[][5] = {
	    {0x90, 0x90, 0x90, 0x90, 0x90}, /* five nops: a thread may stand between */
	    {0x0f, 0x1f, 0x44, 0x00, 0x08}, /* another nop */
	    {0x66, 0x66, 0x66, 0x66, 0x90},
	    {0x48, 0x8d, 0x64, 0x24, 0x00}, /* lea 0(%rsp), %rsp */
	};
	for (unsigned i = 0; i < sizeof(others) / sizeof(*others); i++) {
		make(f, ITEMS, N_ITEMS);
		memcpy(f->overlay.bytes + entry_of(f, AT_EXIT)->off, others[i], 5);
		assert_refused(f, "an exit that is no nop of five bytes");
	}
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_EXIT)->old = ovm_va_add(f->code, BRANCH);
	assert_refused(f, "an exit of another call");
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_EXIT)->old_len = 5;
	assert_refused(f, "an exit that is no nop of five bytes");
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_EXIT)->new_len = 4;
	assert_refused(f, "an exit that is no nop of five bytes");
	/* without the flag it is padding, and well */
	make(f, ITEMS, N_ITEMS);
	entry_of(f, AT_EXIT)->flags = OVM_MAP_SYNTH | OVM_MAP_PAD;
	assert_proved(f);
	drop(f);
}

static void test_exit_without_call(void **state)
{
	struct fixture *f = *state;
	static const struct item behind_move[] = {
	    {COPY, ENTRY, 0}, {COPY, 1, 0},	{EXIT, 3, 0},	   {COPY, 3, 0},   {COPY, LOOP, 0},
	    {COPY, CALL, 0},  {COPY, AFTER, 0}, {COPY, BRANCH, 4}, {COPY, POP, 0}, {COPY, RET, 0},
	};
	make(f, behind_move, 10);
	assert_refused(f, "an exit behind no call");
	static const struct item first[] = {{EXIT, ENTRY, 0}, {COPY, ENTRY, 0}};
	make(f, first, 2);
	assert_refused(f, "an exit behind no call");
	static const struct item second[] = {
	    {COPY, ENTRY, 0},  {COPY, 1, 0},	 {COPY, 3, 0},	   {COPY, LOOP, 0},
	    {COPY, CALL, 0},   {EXIT, AFTER, 0}, {EXIT, AFTER, 0}, {COPY, AFTER, 0},
	    {COPY, BRANCH, 3}, {COPY, POP, 0},	 {COPY, RET, 0},
	};
	make(f, second, 11);
	assert_refused(f, "an exit behind no call");
	/* it leads to something else than what the call returns to */
	static const struct item elsewhere[] = {
	    {COPY, ENTRY, 0}, {COPY, 1, 0},	 {COPY, 3, 0},	 {COPY, LOOP, 0}, {COPY, CALL, 0},
	    {EXIT, AFTER, 0}, {COPY, BRANCH, 3}, {COPY, POP, 0}, {COPY, RET, 0},
	};
	make(f, elsewhere, 9);
	assert_refused(f, "continues elsewhere");
	drop(f);
}

/* Rows at counters and exits, for signals that hit them. */
static void test_unwind(void **state)
{
	struct fixture *f = *state;
	struct ovm_check_result result;
	make(f, ITEMS, N_ITEMS);
	const struct ovm_section *section = &f->overlay.sections[OVM_SECTION_EH_FRAME];
	unsigned missed = 0;
	for (uint32_t off = section->off; off < section->off + section->size; off++)
		for (unsigned bit = 0; bit < 8; bit++) {
			f->overlay.bytes[off] ^= (uint8_t)(1u << bit);
			missed += !check(f, &result);
			f->overlay.bytes[off] ^= (uint8_t)(1u << bit);
		}
	assert_true(missed * 6 <= section->size * 8);
	/* the FDE ends before the stub */
	make(f, ITEMS, N_ITEMS);
	f->overlay.map.v.n = AT_STUB;
	f->buf.n = f->overlay.sections[OVM_SECTION_HOT].size;
	f->overlay.fdes.n = 0;
	finish(f);
	f->overlay.map.v.n = N_ITEMS;
	assert_refused(f, "a copy without unwind data");
	drop(f);
}

static void test_flags(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *name;
		bool dead;
		const char *code;
	} snippets[] = {
#define ROW(name, dead, text) {#name, dead, snippet_##name},
	    SNIPPETS(ROW)};
	for (unsigned i = 0; i < sizeof(snippets) / sizeof(*snippets); i++) {
		struct ovm_check_result result;
		ovm_va va = va_of(f, snippets[i].code);
		start(f);
		/* snippets have no region, so an FDE of something else is lent */
		put_counter(f, f->code, 1);
		put_jump(f, va, va.v);
		finish(f);
		entry_of(f, 0)->old = va;
		int err = check(f, &result);
		if (!err != snippets[i].dead)
			fail_msg("%s: %s", snippets[i].name, err ? result.reason : "proved");
		if (err)
			assert_string_equal(result.reason, "a counter where flags may be live");
	}
	drop(f);
}

/* Map, bytes and numbers of an attacker: any answer but a crash. */
static void test_hostile(void **state)
{
	struct fixture *f = *state;
	struct ovm_check_result result;
	make(f, ITEMS, N_ITEMS);
	uint8_t *map = (uint8_t *)f->overlay.map.v.v;
	uint32_t size = f->overlay.map.v.n * (uint32_t)sizeof(*f->overlay.map.v.v);
	for (uint32_t i = 0; i < size; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			map[i] ^= (uint8_t)(1u << bit);
			check(f, &result);
			map[i] ^= (uint8_t)(1u << bit);
		}
	for (unsigned bit = 0; bit < 64; bit++) {
		f->overlay.counters.v ^= UINT64_C(1) << bit;
		assert_int_equal(check(f, &result), OVM_REFUSED);
		f->overlay.n_counters ^= 1u << bit % 32;
		check(f, &result);
		f->overlay.counters.v ^= UINT64_C(1) << bit;
		check(f, &result);
		f->overlay.n_counters ^= 1u << bit % 32;
	}
	assert_proved(f);
	drop(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_proves),
	    cmocka_unit_test(test_every_bit),
	    cmocka_unit_test(test_counter_address),
	    cmocka_unit_test(test_counters_memory),
	    cmocka_unit_test(test_counter_form),
	    cmocka_unit_test(test_counter_leads_elsewhere),
	    cmocka_unit_test(test_live_flags),
	    cmocka_unit_test(test_exit),
	    cmocka_unit_test(test_exit_without_call),
	    cmocka_unit_test(test_unwind),
	    cmocka_unit_test(test_flags),
	    cmocka_unit_test(test_hostile),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
