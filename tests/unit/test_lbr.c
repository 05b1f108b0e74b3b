/* lbr.c: what a branch stack counts and what it must not, and that counts of a walk over a real
 * graph come back as the walk was. The stacks are ring data: bytes of samples, decoded by
 * record.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analyzer/weight.h"
#include "profiler/lbr.h"
#include "profiler/sampler.h"
#include "profiler/tally.h"
#include "tests/support/selfexe.h"

#include <elf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PID = 0x7ffffff0 }; /* above pid_max: never scanned */

static const struct ovm_record_format FORMAT = {
    .sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_BRANCH_STACK,
    .branch_sample_type = PERF_SAMPLE_BRANCH_USER | PERF_SAMPLE_BRANCH_ANY,
    .sample_id_all = true};

struct stack { /* newest first, as the kernel writes it */
	uint64_t v[64][3];
	uint32_t n;
};

static void entry(struct stack *stack, uint64_t from, uint64_t to, uint64_t flags)
{
	assert_true(stack->n < 64);
	stack->v[stack->n][0] = from;
	stack->v[stack->n][1] = to;
	stack->v[stack->n++][2] = flags;
}

/* Write the sample as a ring holds it, decode it, fold it. */
static void fold(struct ovm_tally *tally, uint32_t pid, const struct stack *stack)
{
	struct ovm_buf ring = {0};
	struct ovm_sample sample;
	ovm_buf_u32(&ring, PERF_RECORD_SAMPLE);
	ovm_buf_u16(&ring, PERF_RECORD_MISC_USER);
	ovm_buf_u16(&ring, (uint16_t)(8 + 24 + 8 + 24 * stack->n));
	ovm_buf_u64(&ring, stack->n ? stack->v[0][1] : 0);
	ovm_buf_u32(&ring, pid);
	ovm_buf_u32(&ring, pid);
	ovm_buf_u64(&ring, 1);
	ovm_buf_u64(&ring, stack->n);
	ovm_buf_put(&ring, stack->v, 24 * (size_t)stack->n);
	assert_int_equal(ovm_record_decode(&FORMAT, ring.v, ring.n, &sample), ring.n);
	ovm_lbr_add(&tally->lbr, tally->map, &sample);
	ovm_buf_free(&ring);
}

/* --- small stacks ---
 * Two modules, "a" and "b", mapped one to one: run-time address = link-time address + bias. */

enum { A = 0x10000000, B = 0x20000000, MODULE_SIZE = 0x40000 };

static void map_module(struct ovm_tally *tally, const char *path, uint64_t at, char tag)
{
	static const Elf64_Ehdr ehdr = {
	    .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	    .e_type = ET_DYN,
	    .e_machine = EM_X86_64,
	    .e_phoff = sizeof(Elf64_Ehdr),
	    .e_phentsize = sizeof(Elf64_Phdr),
	    .e_phnum = 1};
	static const Elf64_Phdr load = {
	    .p_type = PT_LOAD, .p_flags = PF_X, .p_filesz = MODULE_SIZE, .p_memsz = MODULE_SIZE};
	struct stat st;
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fwrite(&ehdr, sizeof(ehdr), 1, file);
	fwrite(&load, sizeof(load), 1, file);
	fputc(tag, file);
	fclose(file);
	assert_int_equal(stat(path, &st), 0);
	ovm_procmap_apply(tally->map, &(struct ovm_sample){.kind = OVM_RECORD_MMAP,
							   .pid = PID,
							   .addr = at,
							   .len = MODULE_SIZE,
							   .dev = st.st_dev,
							   .inode = st.st_ino,
							   .is_exec = true,
							   .path = path});
}

static void open_modules(struct ovm_tally *tally)
{
	char dir[] = "/tmp/test_lbr.XXXXXX";
	assert_non_null(mkdtemp(dir));
	char *a = ovm_asprintf("%s/a", dir), *b = ovm_asprintf("%s/b", dir);
	ovm_tally_init(tally);
	map_module(tally, a, A, 'a');
	map_module(tally, b, B, 'b');
	unlink(a);
	unlink(b);
	rmdir(dir);
	free(a);
	free(b);
}

static const struct ovm_prof_module *module_named(const struct ovm_profile *prof, char name)
{
	for (uint32_t i = 0; i < prof->modules.n; i++)
		if (prof->modules.v[i].path[strlen(prof->modules.v[i].path) - 1] == name)
			return &prof->modules.v[i];
	return NULL;
}

static void expect_branch(const struct ovm_prof_module *module, uint32_t i, uint64_t from,
			  uint64_t to, uint64_t count, uint64_t mispreds)
{
	assert_true(i < module->branches.n);
	assert_int_equal(module->branches.v[i].from.v, from);
	assert_int_equal(module->branches.v[i].to.v, to);
	assert_int_equal(module->branches.v[i].count, count);
	assert_int_equal(module->branches.v[i].mispreds, mispreds);
}

static void expect_range(const struct ovm_prof_module *module, uint32_t i, uint64_t from,
			 uint64_t to, uint64_t count)
{
	assert_true(i < module->ranges.n);
	assert_int_equal(module->ranges.v[i].from.v, from);
	assert_int_equal(module->ranges.v[i].to.v, to);
	assert_int_equal(module->ranges.v[i].count, count);
}

static void test_branches_and_ranges(void **state)
{
	(void)state;
	struct ovm_tally tally;
	struct stack stack = {0};
	open_modules(&tally);
	fold(&tally, PID, &stack); /* none */
	entry(&stack, A + 0x68, A + 0x20, 1);
	fold(&tally, PID, &stack); /* one branch, from where nobody knows: nothing */
	entry(&stack, A + 0x54, A + 0x60, 2);
	entry(&stack, A + 0x10, A + 0x40, 0);
	fold(&tally, PID, &stack);
	struct ovm_profile *prof = ovm_tally_profile(&tally, "cycles", "test", 1);
	assert_int_equal(prof->modules.n, 1); /* "b" was not seen, "a" has no PC samples */
	const struct ovm_prof_module *a = module_named(prof, 'a');
	assert_int_equal(a->samples.n, 0);
	assert_int_equal(a->branches.n, 2);
	expect_branch(a, 0, 0x54, 0x60, 1, 0);
	expect_branch(a, 1, 0x68, 0x20, 1, 1);
	assert_int_equal(a->ranges.n, 2);
	expect_range(a, 0, 0x40, 0x54, 1);
	expect_range(a, 1, 0x60, 0x68, 1);
	assert_int_equal(tally.lbr.n_stacks, 2);
	ovm_profile_free(prof);
	ovm_tally_fini(&tally);
}

static void test_between_modules(void **state)
{
	(void)state;
	struct ovm_tally tally;
	struct stack stack = {0};
	open_modules(&tally);
	entry(&stack, A + 0x50, A + 0x10, 0);
	entry(&stack, B + 0x30, A + 0x44, 0); /* return */
	entry(&stack, A + 0x40, B + 0x20, 0); /* call */
	entry(&stack, A + 0x08, A + 0x10, 0);
	fold(&tally, PID, &stack);
	struct ovm_profile *prof = ovm_tally_profile(&tally, "cycles", "test", 1);
	const struct ovm_prof_module *a = module_named(prof, 'a'), *b = module_named(prof, 'b');
	assert_int_equal(a->branches.n, 1);
	assert_int_equal(a->ranges.n, 2);
	expect_range(a, 0, 0x10, 0x40, 1);
	expect_range(a, 1, 0x44, 0x50, 1);
	assert_int_equal(b->branches.n, 0);
	expect_range(b, 0, 0x20, 0x30, 1);
	assert_int_equal(tally.lbr.n_crossing, 2);
	ovm_profile_free(prof);
	ovm_tally_fini(&tally);
}

static void test_bogus(void **state)
{
	(void)state;
	struct ovm_tally tally;
	struct stack stack = {0};
	open_modules(&tally);
	/* an interrupt: into the kernel and back; the code on both sides is known */
	entry(&stack, A + 0x58, A + 0x60, 0);
	entry(&stack, 0xffffffff81000010, A + 0x50, 0);
	entry(&stack, A + 0x4c, 0xffffffff81000000, 0);
	entry(&stack, A + 0x20, A + 0x40, 0);
	fold(&tally, PID, &stack);
	assert_int_equal(tally.lbr.n_nowhere, 2);
	assert_int_equal(tally.lbr.n_ranges, 2);
	assert_int_equal(tally.lbr.n_impossible, 0);

	/* backwards; as long as is believed, and longer; to where nothing is mapped; zeros */
	stack.n = 0;
	entry(&stack, A + 0x100, A + 0x108, 0);
	entry(&stack, A + 0x100, A + 0x180, 0);
	entry(&stack, A + 0x400 + OVM_LBR_MAX_RANGE, A + 0x4, 0);
	entry(&stack, A + 0x500, A + 0x400, 0);
	entry(&stack, 0x1000, A + 0x500, 0);
	entry(&stack, A + 0x500, 0x1000, 0);
	entry(&stack, 0, 0, 0);
	entry(&stack, A + 0x510, A + 0x400, 0);
	entry(&stack, A + 0x401 + OVM_LBR_MAX_RANGE, A + 0x4, 0);
	entry(&stack, A + 0x520, A + 0x400, 0);
	fold(&tally, PID, &stack);
	struct ovm_profile *prof = ovm_tally_profile(&tally, "cycles", "test", 1);
	const struct ovm_prof_module *a = module_named(prof, 'a');
	assert_int_equal(tally.lbr.n_nowhere, 4);
	/* 0x180..0x100, 0x400.. too long, the zeros */
	assert_int_equal(tally.lbr.n_impossible, 3);
	expect_range(a, 0, 0x4, 0x100, 1);
	expect_range(a, 1, 0x4, 0x510, 1);
	expect_range(a, 2, 0x40, 0x4c, 1);
	expect_range(a, 3, 0x50, 0x58, 1);
	expect_range(a, 4, 0x400, 0x400 + OVM_LBR_MAX_RANGE, 1);
	expect_range(a, 5, 0x500, 0x500, 1);
	assert_int_equal(a->ranges.n, 6);
	ovm_profile_free(prof);
	ovm_tally_fini(&tally);
}

static void test_repeated(void **state)
{
	(void)state;
	struct ovm_tally tally;
	struct stack stack = {0};
	open_modules(&tally);
	/* a forward branch cannot follow itself: one of the two is a copy */
	entry(&stack, A + 0x10, A + 0x40, 0);
	entry(&stack, A + 0x10, A + 0x40, 0);
	entry(&stack, A + 0x30, A + 0x08, 0);
	fold(&tally, PID, &stack);
	/* but a loop of one block does just that */
	stack.n = 0;
	for (int i = 0; i < 32; i++)
		entry(&stack, A + 0x98, A + 0x90, 0);
	fold(&tally, PID, &stack);
	struct ovm_profile *prof = ovm_tally_profile(&tally, "cycles", "test", 1);
	const struct ovm_prof_module *a = module_named(prof, 'a');
	expect_branch(a, 0, 0x10, 0x40, 1, 0);
	expect_branch(a, 1, 0x98, 0x90, 31, 0);
	expect_range(a, 0, 0x08, 0x10, 1);
	expect_range(a, 1, 0x90, 0x98, 31);
	assert_int_equal(tally.lbr.n_impossible, 1);
	ovm_profile_free(prof);
	ovm_tally_fini(&tally);
}

static void test_many(void **state) /* the tables grow */
{
	(void)state;
	struct ovm_tally tally;
	open_modules(&tally);
	for (uint32_t round = 0; round < 2; round++)
		for (uint64_t i = 0; i < 5000; i++) {
			struct stack stack = {0};
			entry(&stack, A + 0x20 + i, A + 0x10 + i, 0);
			entry(&stack, A + 0x30 + i, A + 0x12 + i, 0);
			entry(&stack, A + 0x14 + i, A + 0x16 + i, 0);
			fold(&tally, PID, &stack);
		}
	struct ovm_profile *prof = ovm_tally_profile(&tally, "cycles", "test", 1);
	const struct ovm_prof_module *a = module_named(prof, 'a');
	assert_int_equal(a->branches.n, 10000);
	assert_int_equal(a->ranges.n, 10000);
	for (uint32_t i = 0; i < a->ranges.n; i++)
		assert_int_equal(a->ranges.v[i].count, 2);
	ovm_profile_free(prof);
	ovm_tally_fini(&tally);
	ovm_lbr_fini(&(struct ovm_lbr){0});
}

/* --- a walk over a real graph --- */

ASM_FUNCTION("lw_leaf", "nop\nret\n");
ASM_FUNCTION("lw_walk", "push %rbx\n"
			"1: test $7,%dil\njne 2f\ncall lw_leaf\nadd $1,%eax\njmp 3f\n"
			"2: test $1,%sil\nje 4f\nnop\n"
			"3: inc %eax\ncall lw_leaf\n"
			"4: cmp $3,%eax\nja 5f\nxor %ecx,%ecx\n"
			"5: dec %ecx\njne 5b\n" /* a loop of one block */
			"dec %edi\njne 1b\n"
			"test %eax,%eax\njs 6f\npop %rbx\nret\n"
			"6: call lw_leaf\npop %rbx\nret\n");
ASM_FUNCTION("lw_main", "1: call lw_walk\ntest %eax,%eax\njne 1b\nret\n");

struct walk {
	const struct ovm_cfg *cfg;
	uint64_t *edge_count; /* the truth */
	uint64_t bias;
	ovm_va caller, leaf_ret; /* the call in lw_main; the ret of lw_leaf */
	uint64_t taken[32][2];	 /* a ring: what the hardware remembers */
	uint32_t n_taken;
	uint64_t rng;
};

static uint32_t random_below(struct walk *walk, uint32_t n)
{
	walk->rng ^= walk->rng << 13;
	walk->rng ^= walk->rng >> 7;
	walk->rng ^= walk->rng << 17;
	return (uint32_t)(walk->rng >> 33) % n;
}

static void take(struct walk *walk, ovm_va from, ovm_va to)
{
	uint64_t *slot = walk->taken[walk->n_taken++ % 32];
	slot[0] = ovm_va_to_rta(from, walk->bias).v;
	slot[1] = ovm_va_to_rta(to, walk->bias).v;
}

/* One block; returns the next, or OVM_NONE after a return. */
static uint32_t step(struct walk *walk, uint32_t bb)
{
	const struct ovm_cfg *cfg = walk->cfg;
	const struct ovm_block *block = &cfg->blocks[bb];
	for (uint32_t i = block->first_insn; i < block->first_insn + block->n_insns; i++) {
		const struct ovm_insn *insn = &cfg->insns[i];
		if (insn->kind != OVM_INSN_CALL)
			continue;
		take(walk, insn->va, insn->target);
		take(walk, walk->leaf_ret, ovm_va_add(insn->va, insn->len));
	}
	if (!block->n_edges)
		return OVM_NONE;
	uint32_t e = block->first_edge;
	/* every two-way block has its own odds, 10 to 89 % taken */
	if (block->n_edges == 2 && random_below(walk, 100) < 10 + bb * 37 % 80)
		e++;
	walk->edge_count[e]++;
	if (cfg->edges[e].kind == OVM_EDGE_TAKEN)
		take(walk, ovm_block_last(cfg, bb)->va, cfg->edges[e].to);
	return cfg->edges[e].dst;
}

static void sample_walk(struct walk *walk, struct ovm_tally *tally, uint32_t depth)
{
	struct stack stack = {0};
	for (uint32_t i = 1; i <= depth && i <= walk->n_taken; i++) {
		const uint64_t *slot = walk->taken[(walk->n_taken - i) % 32];
		entry(&stack, slot[0], slot[1], 0);
	}
	fold(tally, (uint32_t)getpid(), &stack);
}

extern char lw_walk[];

static void check_walk(uint32_t depth)
{
	struct self self;
	struct ovm_tally tally;
	self_open(&self);
	ovm_tally_init(&tally);
	struct ovm_cfg *cfg = self_cfg(&self, "lw_walk");
	assert_non_null(cfg);
	struct walk walk = {.cfg = cfg,
			    .edge_count = ovm_alloc_array(cfg->n_edges, sizeof(uint64_t)),
			    .bias = (uint64_t)(uintptr_t)lw_walk - cfg->blocks[0].lo.v,
			    .caller = self_symbol(&self, "lw_main"),
			    .leaf_ret = ovm_va_add(self_symbol(&self, "lw_leaf"), 1),
			    .rng = 88172645463325252u};
	uint32_t bb = OVM_NONE, until = 100;
	uint64_t total = 0;
	for (uint32_t n = 0; n < 2000000; n++) {
		if (bb == OVM_NONE) {
			take(&walk, walk.caller, cfg->blocks[0].lo);
			bb = 0;
		}
		uint32_t next = step(&walk, bb);
		if (next == OVM_NONE)
			take(&walk, ovm_block_last(cfg, bb)->va, ovm_va_add(walk.caller, 5));
		if (next == OVM_NONE)
			take(&walk, ovm_va_add(walk.caller, 7), walk.caller);
		bb = next;
		if (walk.n_taken >= until) { /* as an event that counts taken branches would */
			sample_walk(&walk, &tally, depth);
			until = walk.n_taken + 50 + random_below(&walk, 101);
		}
	}
	struct ovm_profile *prof = ovm_tally_profile(&tally, "cycles", "test", 1);
	assert_int_equal(prof->modules.n, 1);
	assert_int_equal(tally.lbr.n_impossible, 0);
	assert_int_equal(tally.lbr.n_nowhere, 0);
	ovm_weight_attach(&self.ctx, cfg, &prof->modules.v[0]);

	uint64_t sum = 0;
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		total += walk.edge_count[e];
		sum += cfg->edges[e].count;
	}
	assert_true(sum > 0);
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		double truth = (double)walk.edge_count[e] / (double)total;
		double seen = (double)cfg->edges[e].count / (double)sum;
		if (truth > 0.01 && (seen < truth * 0.98 || seen > truth * 1.02))
			fail_msg("edge %u: %.4f of all, measured %.4f", e, truth, seen);
		for (uint32_t f = 0; f < cfg->n_edges; f++)
			if (walk.edge_count[e] > walk.edge_count[f] + walk.edge_count[f] / 5 &&
			    walk.edge_count[e] > total / 1000)
				assert_true(cfg->edges[e].count > cfg->edges[f].count);
	}
	free(walk.edge_count);
	ovm_profile_free(prof);
	ovm_tally_fini(&tally);
	ovm_cfg_free(cfg);
	self_close(&self);
}

static void test_walk(void **state)
{
	(void)state;
	check_walk(32);
	check_walk(16);
}

/* --- asking for them --- */

static void test_sampler_option(void **state)
{
	(void)state;
	struct ovm_sampler_opts opts = {.event = "cpu-clock", .branch_stack = OVM_BRANCH_STACK_ON};
	struct ovm_sampler *sampler = NULL;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	/* a software event has no branch stacks on any machine */
	int rc = ovm_sampler_open(&ctx, &opts, getpid(), true, &sampler);
	assert_true(rc == OVM_E_UNAVAILABLE);
	assert_null(sampler);
	assert_non_null(strstr(ctx.msg, "branch stacks"));
	opts.force_ptrace = true;
	assert_int_equal(ovm_sampler_open(&ctx, &opts, getpid(), true, &sampler),
			 OVM_E_UNAVAILABLE);
	opts.force_ptrace = false;
	for (int how = OVM_BRANCH_STACK_AUTO; how <= OVM_BRANCH_STACK_OFF; how++) {
		opts.branch_stack = (enum ovm_branch_stack)how;
		if (how == OVM_BRANCH_STACK_ON ||
		    ovm_sampler_open(&ctx, &opts, getpid(), true, &sampler))
			continue; /* perf_event is not permitted here */
		assert_string_equal(ovm_sampler_profile(sampler)->source, "perf_event");
		ovm_sampler_close(sampler);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_branches_and_ranges),
	    cmocka_unit_test(test_between_modules),
	    cmocka_unit_test(test_bogus),
	    cmocka_unit_test(test_repeated),
	    cmocka_unit_test(test_many),
	    cmocka_unit_test(test_walk),
	    cmocka_unit_test(test_sampler_option),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
