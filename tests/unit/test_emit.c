/* Whole overlays over hand-made graphs: branch senses, jumps put in and left out, calls between
 * copies, RIP-relative operands, jrcxz, nops, padding, jump tables, patches. The expected code is
 * written as disassembly. */
#include "tests/support/minicfg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* f branches, calls g and refers to data; g loops with jrcxz; h has a jump table; k is reached
 * through a jump. */
__asm__(".pushsection .rodata\n"
	"mini_f: test %edi, %edi\n"
	"	je mini_f2\n"
	"mini_f1: call mini_g\n"
	"	lea mini_data(%rip), %rax\n"
	"	ret\n"
	"mini_f2: xor %eax, %eax\n"
	"	.byte 0x0f, 0x1f, 0x40, 0x00\n" /* nopl 0(%rax) */
	"mini_f3: ret\n"
	"mini_g: .byte 0xf3, 0x0f, 0x1e, 0xfa\n" /* endbr64 */
	"mini_g0: jrcxz mini_g2\n"
	"mini_g1: dec %ecx\n"
	"	jmp mini_g0\n"
	"mini_g2: jmp mini_f3\n"
	"mini_h: lea mini_table(%rip), %rdx\n"
	"	movslq (%rdx,%rdi,4), %rax\n"
	"	add %rdx, %rax\n"
	"	jmp *%rax\n"
	"mini_h1: mov $1, %eax\n"
	"	ret\n"
	"mini_h2: mov $2, %eax\n"
	"	ret\n"
	"mini_end_code:\n"
	"	.balign 4\n"
	"mini_table: .long mini_h1 - mini_table, mini_h2 - mini_table, mini_f - mini_table, 0x123\n"
	"mini_data: .long 0, 0\n"
	"mini_end: .popsection\n");
extern const char mini_f[], mini_f1[], mini_f2[], mini_f3[], mini_g[], mini_g0[], mini_g1[],
    mini_g2[], mini_h[], mini_h1[], mini_h2[], mini_end_code[], mini_table[], mini_data[],
    mini_end[];

enum { BASE = 0x500000 };

struct fixture {
	struct mini m;
	struct ovm_overlay overlay;
	uint32_t bad;
	enum ovm_refusal why;
};

static void init(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	mini_open(&f->m, mini_f, mini_end);
	mini_region(&f->m, mini_f, mini_g, (const char *const[]){mini_f, mini_f1, mini_f2, mini_f3},
		    4);
	mini_region(&f->m, mini_g, mini_h, (const char *const[]){mini_g, mini_g0, mini_g1, mini_g2},
		    4);
	mini_region(&f->m, mini_h, mini_end_code, (const char *const[]){mini_h, mini_h1, mini_h2},
		    3);
}

static int build(struct fixture *f, uint64_t base)
{
	struct ovm_overlay_opts opts = {.base = ovm_va_of(base)};
	return ovm_overlay_build(&f->m.ctx, &f->m.program, &f->m.layout, &opts, &f->overlay,
				 &f->bad, &f->why);
}

static void fini(struct fixture *f)
{
	ovm_overlay_fini(&f->overlay);
	mini_close(&f->m);
}

/* One copied instruction as text; direct branches with the address they go to. */
static void print_insn(const struct fixture *f, uint32_t off, char *text, size_t size)
{
	const uint8_t *at = f->overlay.bytes + off;
	ovm_va va = ovm_va_add(f->overlay.base, off);
	struct ovm_insn insn;
	assert_true(ovm_decode_one(f->m.dec, at, f->overlay.size - off, va, &insn) > 0);
	ovm_decoder_text(f->m.dec, at, f->overlay.size - off, va, text, size);
	for (char *c = text; *c; c++)
		if (*c == '\t')
			*c = ' ';
	if (insn.kind == OVM_INSN_JMP || insn.kind == OVM_INSN_JCXZ || insn.kind == OVM_INSN_JCC)
		snprintf(strchr(text, ' '), 32, " 0x%llx", (unsigned long long)insn.target.v);
}

/* Compare the code, one "offset flags text" a line. */
static void expect_code(const struct fixture *f, const char *want)
{
	char got[4096] = "", text[128];
	size_t n = 0;
	for (uint32_t i = 0; i < f->overlay.map.v.n; i++) {
		const struct ovm_map_entry *entry = &f->overlay.map.v.v[i];
		print_insn(f, entry->off, text, sizeof(text));
		n += (size_t)snprintf(got + n, sizeof(got) - n, "%x %s%s%s%s%s\n", entry->off,
				      entry->flags & OVM_MAP_SYNTH ? "s " : "",
				      entry->flags & OVM_MAP_CALL ? "c " : "",
				      entry->flags & OVM_MAP_DUPLICATE ? "d " : "",
				      entry->flags & OVM_MAP_PAD ? "p " : "", text);
	}
	assert_string_equal(got, want);
}

static void check_text(const struct fixture *f, uint32_t off, const uint8_t *bytes, size_t n)
{
	assert_true(off + n <= f->overlay.size);
	assert_memory_equal(f->overlay.bytes + off, bytes, n);
}

static void empty(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	assert_int_equal(build(&f, BASE), 0);
	assert_int_equal(f.overlay.map.v.n, 0);
	assert_int_equal(f.overlay.n_insns, 0);
	fini(&f);
}

static int64_t rel32_target(const struct fixture *f, uint32_t end)
{
	return (int64_t)f->overlay.base.v + end + (int32_t)ovm_le32(f->overlay.bytes + end - 4);
}

/* Original order: the bytes are the original's but for the call (unchanged distance within the
 * overlay) and the lea. */
static void pure_copy(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	for (uint32_t b = 0; b < 4; b++)
		mini_slot(&f.m, 0, b, 1);
	mini_slot(&f.m, 1, 0, 1);
	assert_int_equal(build(&f, BASE), 0);
	check_text(&f, 0, (const uint8_t[]){0x85, 0xff, 0x74, 0x0d}, 4); /* test; je f2 */
	assert_int_equal(f.overlay.bytes[4], 0xe8);
	assert_int_equal(rel32_target(&f, 9), BASE + 0x14); /* the copy of g, endbr64 kept */
	assert_int_equal(rel32_target(&f, 16), mini_va(&f.m, mini_data).v);
	check_text(&f, 16, (const uint8_t[]){0xc3, 0x31, 0xc0, 0xc3},
		   4); /* ret; xor; (nop gone) ret */
	check_text(&f, 20, (const uint8_t[]){0xf3, 0x0f, 0x1e, 0xfa, 0xe9}, 5);
	assert_int_equal(rel32_target(&f, 29),
			 mini_va(&f.m, mini_g0).v); /* rest of g is not copied */
	assert_int_equal(f.overlay.n_regions, 2);
	assert_int_equal(f.overlay.n_blocks, 5);
	assert_int_equal(f.overlay.n_insns, 8);
	fini(&f);
}

/* f2 before f1: the branch is inverted. f3 elsewhere: a jump is put in. */
static void inverted(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	mini_slot(&f.m, 0, 0, 1);
	mini_slot(&f.m, 0, 2, 1);
	mini_slot(&f.m, 0, 1, 1);
	mini_slot(&f.m, 0, 3, 1);
	assert_int_equal(build(&f, BASE), 0);
	check_text(&f, 0, (const uint8_t[]){0x85, 0xff, 0x75, 0x04, 0x31, 0xc0, 0xeb, 0x0d, 0xe8},
		   9);
	const struct ovm_map_entry *jump = ovm_map_new(&f.overlay.map, 6);
	assert_int_equal(jump->flags, OVM_MAP_SYNTH);
	assert_int_equal(jump->old.v, mini_va(&f.m, mini_f3).v - 4); /* about to execute the nop */
	assert_int_equal(ovm_map_new(&f.overlay.map, 8)->flags, OVM_MAP_CALL);
	assert_int_equal(rel32_target(&f, 13), mini_va(&f.m, mini_g).v); /* g is not copied */
	fini(&f);
}

/* Neither successor follows: jcc and jmp, both to the original. */
static void lone_branch(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	mini_slot(&f.m, 0, 0, 1);
	assert_int_equal(build(&f, BASE), 0);
	assert_int_equal(f.overlay.sections[OVM_SECTION_HOT].size, 2 + 6 + 5);
	assert_int_equal(rel32_target(&f, 8), mini_va(&f.m, mini_f2).v);
	assert_int_equal(rel32_target(&f, 13), mini_va(&f.m, mini_f1).v);
	fini(&f);
}

static void jcxz_stub(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	mini_slot(&f.m, 1, 1, 1);
	mini_slot(&f.m, 1, 2, 1);
	mini_slot(&f.m, 0, 3, 1);
	assert_int_equal(build(&f, BASE), 0);
	expect_code(&f, "0 jrcxz 0x500004\n"
			"2 s jmp 0x500006\n"
			"4 s jmp 0x50000a\n" /* g2 is only a jump to f3: straight there */
			"6 decl %ecx\n"
			"8 jmp 0x500000\n"
			"a retq\n");
	fini(&f);
}

/* A second copy is marked, and direct branches prefer the first. */
static void duplicate(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	mini_slot(&f.m, 0, 3, 1);
	mini_slot(&f.m, 0, 2, 1);
	mini_slot(&f.m, 0, 3, 1);
	assert_int_equal(build(&f, BASE), 0);
	expect_code(&f, "0 retq\n"
			"1 xorl %eax, %eax\n"
			"3 d retq\n"); /* falls into the copy that follows */
	assert_int_equal(ovm_map_old(&f.overlay.map, mini_va(&f.m, mini_f3))->off, 0);
	fini(&f);
}

/* A second copy may stand before the first: branches, threads and patches go to the first. */
static void second(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	mini_slot(&f.m, 0, 2, 1);
	mini_slot(&f.m, 0, 3, 1);
	f.m.layout.slots.v[1].second = 7;
	mini_slot(&f.m, 1, 2, 1);
	mini_slot(&f.m, 0, 3, 1);
	mini_slot(&f.m, 1, 3, 1);
	assert_int_equal(build(&f, BASE), 0);
	expect_code(&f, "0 xorl %eax, %eax\n"
			"2 d retq\n"
			"3 decl %ecx\n"
			"5 jmp 0x40101c\n"
			"a retq\n"
			"b jmp 0x50000a\n");
	assert_int_equal(ovm_map_old(&f.overlay.map, mini_va(&f.m, mini_f3))->off, 0xa);
	fini(&f);
}

/* Padding: int3 where nothing runs through, nops where something does. */
static void padding(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	mini_slot(&f.m, 0, 2, 1);
	mini_slot(&f.m, 0, 3, 8);
	mini_slot(&f.m, 1, 3, 16);
	assert_int_equal(build(&f, BASE), 0);
	expect_code(&f, "0 xorl %eax, %eax\n"
			"2 s p nopw (%rax,%rax)\n"
			"8 retq\n"
			"9 p int3\n"
			"10 jmp 0x500008\n");
	assert_int_equal(ovm_map_new(&f.overlay.map, 3)->old.v, mini_va(&f.m, mini_f3).v);
	fini(&f);
}

static void give_table(struct fixture *f)
{
	struct ovm_cfg *cfg = f->m.program.cfgs.v[2];
	cfg->tables = ovm_alloc(sizeof(*cfg->tables));
	cfg->n_tables = 1;
	cfg->tables[0] = (struct ovm_jumptable){.jump_insn = 3,
						.load_insn = 1,
						.table = mini_va(&f->m, mini_table),
						.base = mini_va(&f->m, mini_table),
						.n_entries = 4,
						.entry_size = 4};
	cfg->tables[0].targets = ovm_arena_array(&cfg->arena, 4, sizeof(ovm_va));
	for (uint32_t i = 0; i < 4; i++)
		cfg->tables[0].targets[i] =
		    ovm_va_add(mini_va(&f->m, mini_table),
			       (int32_t)ovm_le32((const uint8_t *)mini_table + 4 * i));
	cfg->blocks[0].table = 0;
}

static void table_copy(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	give_table(&f);
	mini_slot(&f.m, 2, 0, 1);
	mini_slot(&f.m, 2, 2, 1);
	assert_int_equal(build(&f, BASE), 0);
	assert_int_equal(f.overlay.tables.n, 1);
	const struct ovm_table_copy *table = &f.overlay.tables.v[0];
	assert_int_equal(table->new_off, f.overlay.sections[OVM_SECTION_TABLES].off);
	assert_int_equal(f.overlay.sections[OVM_SECTION_TABLES].size, 16);
	/* movslq delta(%rdx,%rdi,4): the base register keeps its value */
	check_text(&f, 7, (const uint8_t[]){0x48, 0x63, 0x84, 0xba}, 4);
	assert_int_equal((int32_t)ovm_le32(f.overlay.bytes + 11),
			 (int64_t)(BASE + table->new_off) - (int64_t)table->old_table.v);
	const uint8_t *entry = f.overlay.bytes + table->new_off;
	uint64_t k1 = table->base.v;
	assert_int_equal(k1 + (int32_t)ovm_le32(entry), mini_va(&f.m, mini_h1).v); /* not copied */
	assert_int_equal(k1 + (int32_t)ovm_le32(entry + 4), BASE + 20);		   /* copy of h2 */
	assert_int_equal(k1 + (int32_t)ovm_le32(entry + 8), mini_va(&f.m, mini_f).v);
	assert_int_equal((int32_t)ovm_le32(entry + 12), 0x123); /* over-copied: kept */
	ovm_arena_free(&f.m.program.cfgs.v[2]->arena);
	fini(&f);
}

/* The load is copied but its jump is not: the load must stay as it is. */
static void table_without_jump(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	give_table(&f);
	mini_slot(&f.m, 2, 1, 1);
	assert_int_equal(build(&f, BASE), 0);
	assert_int_equal(f.overlay.tables.n, 0);
	ovm_arena_free(&f.m.program.cfgs.v[2]->arena);
	fini(&f);
}

static void out_of_range(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	mini_slot(&f.m, 0, 1, 1);
	assert_int_equal(build(&f, 0x100000000), OVM_REFUSED);
	assert_int_equal(f.bad, 0);
	assert_int_equal(f.why, OVM_REFUSE_OUT_OF_RANGE);
	fini(&f);
}

static void patches(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
	ovm_vec_push(&f.m.program.xrefs,
		     (struct ovm_xref){0, 0, OVM_XREF_CALLED | OVM_XREF_INSIDE});
	ovm_vec_push(&f.m.program.xrefs, (struct ovm_xref){1, 4, OVM_XREF_CALLED});
	ovm_vec_push(&f.m.program.xrefs, (struct ovm_xref){2, 0, OVM_XREF_ADDRESS});
	mini_slot(&f.m, 0, 0, 1);
	mini_slot(&f.m, 1, 0, 1);
	mini_slot(&f.m, 1, 1, 1);
	assert_int_equal(build(&f, BASE), 0);
	assert_int_equal(f.overlay.patches.n, 1); /* f: something refers inside; h: not copied */
	const struct ovm_patch *patch = &f.overlay.patches.v[0];
	assert_int_equal(patch->at.v, mini_va(&f.m, mini_g0).v);
	assert_int_equal(patch->len, 5);
	assert_memory_equal(patch->old_bytes, mini_g0, 5);
	assert_int_equal(patch->new_bytes[0], 0xe9);
	assert_int_equal(patch->at.v + 5 + (int32_t)ovm_le32(patch->new_bytes + 1),
			 BASE + patch->target);
	assert_int_equal(patch->target, ovm_map_old(&f.overlay.map, mini_va(&f.m, mini_g0))->off);
	fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(empty),	    cmocka_unit_test(pure_copy),
	    cmocka_unit_test(inverted),	    cmocka_unit_test(lone_branch),
	    cmocka_unit_test(jcxz_stub),    cmocka_unit_test(duplicate),
	    cmocka_unit_test(second),	    cmocka_unit_test(padding),
	    cmocka_unit_test(table_copy),   cmocka_unit_test(table_without_jump),
	    cmocka_unit_test(out_of_range), cmocka_unit_test(patches),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
