/* blockhash.c, stale_blocks.c, stale.c: code found again in another build, and nothing worse than
 * lost counts where the profile lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analyzer/stale.h"
#include "analyzer/stale_blocks.h"
#include "tests/support/minicfg.h"

/* Two builds of one program. In the second `old_gone` is not there any more, `new_first` is new,
 * the functions stand in another order, and `work` has another constant and one more block. */
__asm__(".pushsection .rodata\n"
	"old_start:\n"
	"old_work: push %rbx; mov %edi, %ebx; call old_leaf; test %ebx, %ebx; je 1f\n"
	"old_work_b: lea old_start(%rip), %rax; add $5, %rax; cmp %rax, %rbx; jne 2f\n"
	"1: imul $77, %rbx, %rbx; xor %edx, %edx; mov %rbx, %rax; pop %rbx; ret\n"
	"2: shl $3, %rbx; or $1, %rbx; sub %rdi, %rbx; jmp 1b\n"
	"old_work_end: .skip 5, 0x90\n"
	"old_gone: mov $1, %eax; cpuid; bswap %eax; rol $3, %ebx; ret\n"
	"old_gone_end: .skip 3, 0x90\n"
	"old_leaf: test %edi, %edi; jle 1f; dec %edi; not %edi; bswap %edi\n"
	"1: xchg %eax, %edi; ret\n"
	"old_leaf_end: .skip 1, 0x90\n"
	"old_twin1: xor %eax, %eax; ret\n"
	"old_twin1_end: .skip 13, 0x90\n"
	"old_twin2: xor %eax, %eax; ret\n"
	"old_twin2_end:\n"
	"old_end:\n"
	"new_start:\n"
	"new_twin1: xor %eax, %eax; ret\n"
	"new_twin1_end: .skip 13, 0x90\n"
	"new_twin2: xor %eax, %eax; ret\n"
	"new_twin2_end: .skip 7, 0x90\n"
	"new_first: mov %rdi, %rax; neg %rax; adc $9, %rax; ret\n"
	"new_first_end: .skip 40, 0x90\n"
	"new_leaf: test %edi, %edi; jle 1f; dec %edi; not %edi; bswap %edi\n"
	"1: xchg %eax, %edi; ret\n"
	"new_leaf_end: .skip 300, 0x90\n"
	"new_work: push %rbx; mov %edi, %ebx; call new_leaf; test %ebx, %ebx; je 1f\n"
	"new_work_b: lea new_start(%rip), %rax; add $7, %rax; cmp %rax, %rbx; jne 2f\n"
	"new_work_x: test $4, %bl; jne 2f\n"
	"1: imul $77, %rbx, %rbx; xor %edx, %edx; mov %rbx, %rax; pop %rbx; ret\n"
	"2: shl $3, %rbx; or $1, %rbx; sub %rdi, %rbx; jmp 1b\n"
	"new_work_end:\n"
	"new_end:\n"
	".popsection\n");

#define LABEL(name) extern const char name[]
LABEL(old_start);
LABEL(old_end);
LABEL(new_start);
LABEL(new_end);
#define FUNCTION(name)                                                                             \
	LABEL(name);                                                                               \
	LABEL(name##_end)
FUNCTION(old_work);
FUNCTION(old_gone);
FUNCTION(old_leaf);
FUNCTION(old_twin1);
FUNCTION(old_twin2);
FUNCTION(new_work);
FUNCTION(new_first);
FUNCTION(new_leaf);
FUNCTION(new_twin1);
FUNCTION(new_twin2);
LABEL(old_work_b);
LABEL(new_work_b);
LABEL(new_work_x);

struct builds {
	struct mini a, b; /* old, new */
	struct ovm_profile *prof, *out;
	struct ovm_prof_module *module;
	struct ovm_stale_stats stats;
	struct ovm_ctx ctx;
};

static void add_region(struct mini *m, const char *lo, const char *hi)
{
	ovm_vec_push(&m->regions.v,
		     (struct ovm_region){.lo = mini_va(m, lo), .hi = mini_va(m, hi)});
}

/* What annotate.c records, of every block. */
static void record(struct builds *t, const char *lo, const char *hi, const char *name)
{
	struct ovm_blockhash hashes = {0};
	ovm_va start = mini_va(&t->a, lo), end = mini_va(&t->a, hi);
	assert_int_equal(ovm_blockhash_build(t->a.dec, &t->a.image, start, end, &hashes), 0);
	ovm_vec_push(&t->module->regions, (struct ovm_prof_region){start, end, hashes.hash,
								   name ? ovm_strdup(name) : NULL});
	for (uint32_t i = 0; i < hashes.blocks.n; i++)
		ovm_vec_push(&t->module->blocks,
			     (struct ovm_prof_block){ovm_va_add(start, hashes.blocks.v[i].off),
						     hashes.blocks.v[i].last,
						     hashes.blocks.v[i].hash});
	ovm_blockhash_fini(&hashes);
}

static void sample(struct builds *t, const char *at, uint64_t count)
{
	ovm_vec_push(&t->module->samples, (struct ovm_prof_sample){mini_va(&t->a, at), count});
}

static void open_builds(struct builds *t)
{
	memset(t, 0, sizeof(*t));
	mini_open(&t->a, old_start, old_end);
	mini_open(&t->b, new_start, new_end);
	ovm_ctx_init(&t->ctx);
	t->b.image.path = ovm_strdup("/opt/v2/prog");
	strcpy(t->b.image.id, "0b");
	add_region(&t->b, new_twin1, new_twin1_end);
	add_region(&t->b, new_twin2, new_twin2_end);
	add_region(&t->b, new_first, new_first_end);
	add_region(&t->b, new_leaf, new_leaf_end);
	add_region(&t->b, new_work, new_work_end);
	t->prof = ovm_profile_new();
	t->module = ovm_profile_module(t->prof, "0a", "/opt/v1/prog");
}

static void open_recorded(struct builds *t)
{
	open_builds(t);
	record(t, old_work, old_work_end, NULL);
	record(t, old_gone, old_gone_end, NULL);
	record(t, old_leaf, old_leaf_end, NULL);
	record(t, old_twin1, old_twin1_end, NULL);
	record(t, old_twin2, old_twin2_end, NULL);
}

static int match(struct builds *t)
{
	ovm_profile_normalize(t->prof);
	return ovm_stale_match(&t->ctx, t->b.dec, &t->b.image, &t->b.regions, t->prof, &t->out,
			       &t->stats);
}

static void close_builds(struct builds *t)
{
	ovm_profile_free(t->prof);
	ovm_profile_free(t->out);
	free(t->b.image.path);
	mini_close(&t->a);
	mini_close(&t->b);
}

static const struct ovm_prof_module *moved(const struct builds *t)
{
	const struct ovm_prof_module *m = ovm_profile_find(t->out, "0b");
	assert_non_null(m);
	return m;
}

static uint64_t samples_at(const struct builds *t, const char *at)
{
	const struct ovm_prof_module *m = moved(t);
	for (uint32_t i = 0; i < m->samples.n; i++)
		if (m->samples.v[i].va.v == mini_va(&t->b, at).v)
			return m->samples.v[i].count;
	return 0;
}

/* --- hashes --- */

static void hash(struct mini *m, const char *lo, const char *hi, struct ovm_blockhash *out)
{
	assert_int_equal(
	    ovm_blockhash_build(m->dec, &m->image, mini_va(m, lo), mini_va(m, hi), out), 0);
}

static void test_addresses_do_not_count(void **state)
{
	(void)state;
	struct builds t;
	struct ovm_blockhash a = {0}, b = {0};
	open_builds(&t);
	hash(&t.a, old_leaf, old_leaf_end, &a);
	hash(&t.b, new_leaf, new_leaf_end, &b);
	assert_true(a.hash && a.hash == b.hash);
	hash(&t.a, old_work, old_work_end, &a);
	hash(&t.b, new_work, new_work_end, &b);
	assert_true(a.hash != b.hash);
	assert_int_equal(a.blocks.n, 4);
	assert_int_equal(b.blocks.n, 5);
	/* the block that calls: same code, and the same blocks before and behind it but for a
	 * constant */
	assert_true(a.blocks.v[0].hash == b.blocks.v[0].hash);
	/* the one with another constant */
	assert_true(ovm_blockhash_opcodes(a.blocks.v[1].hash) ==
		    ovm_blockhash_opcodes(b.blocks.v[1].hash));
	assert_true(ovm_blockhash_code(a.blocks.v[1].hash) !=
		    ovm_blockhash_code(b.blocks.v[1].hash));
	for (uint32_t i = 0, off = 0; i < b.blocks.n; off += b.blocks.v[i++].len) {
		assert_int_equal(b.blocks.v[i].off, off);
		assert_true(b.blocks.v[i].last < b.blocks.v[i].len);
	}
	ovm_blockhash_fini(&a);
	ovm_blockhash_fini(&b);
	close_builds(&t);
}

static void test_what_cannot_be_hashed(void **state)
{
	(void)state;
	struct builds t;
	struct ovm_blockhash a = {0};
	open_builds(&t);
	ovm_va lo = t.a.image.lo, hi = t.a.image.hi;
	assert_int_equal(ovm_blockhash_build(t.a.dec, &t.a.image, lo, lo, &a), OVM_REFUSED);
	assert_int_equal(ovm_blockhash_build(t.a.dec, &t.a.image, hi, lo, &a), OVM_REFUSED);
	assert_int_equal(
	    ovm_blockhash_build(t.a.dec, &t.a.image, lo, ovm_va_add(hi, INT64_C(1) << 40), &a),
	    OVM_REFUSED);
	assert_int_equal(a.blocks.n, 0);
	ovm_blockhash_fini(&a);
	close_builds(&t);
}

/* --- blocks --- */

#define HASH(opcodes, code, context)                                                               \
	((uint64_t)(opcodes) << 40 | (uint64_t)(code) << 16 | (uint64_t)(context))

static void test_example_of_the_essay(void **state)
{
	(void)state;
	const struct ovm_prof_block old[] = {
	    {{100}, 3, HASH('A', 1, 1)}, {{110}, 3, HASH('B', 1, 1)}, {{120}, 3, HASH('C', 1, 1)},
	    {{130}, 3, HASH('D', 1, 1)}, {{140}, 3, HASH('E', 1, 1)},
	};
	struct ovm_hashed_block blocks[] = {
	    {0, 10, 3, HASH('A', 1, 1)},  {10, 10, 3, HASH('B', 1, 2)}, {20, 8, 3, HASH('X', 1, 1)},
	    {28, 12, 5, HASH('C', 2, 2)}, {40, 10, 3, HASH('D', 1, 2)}, {50, 9, 3, HASH('E', 1, 1)},
	};
	struct ovm_blockhash now = {.blocks = {blocks, 6, 6}};
	struct ovm_stale_block out[5];
	static const uint64_t expect[] = {1000, 1010, 1028, 1040, 1050};
	ovm_stale_find_blocks(old, 5, ovm_va_of(100), &now, ovm_va_of(1000), out);
	for (int i = 0; i < 5; i++) {
		assert_true(out[i].is_found);
		assert_int_equal(out[i].lo.v, expect[i]);
		assert_int_equal(out[i].is_same, i != 2);
	}
	assert_int_equal(out[2].last, 5);
}

/* Of equal blocks each takes the one where it is expected, and none is taken twice. */
static void test_equal_blocks(void **state)
{
	(void)state;
	enum { N = 200 };
	static struct ovm_prof_block old[N];
	static struct ovm_hashed_block blocks[N];
	static struct ovm_stale_block out[N];
	for (uint32_t i = 0; i < N; i++) {
		old[i] = (struct ovm_prof_block){{4 * i}, 0, 7};
		blocks[i] = (struct ovm_hashed_block){4 * i, 4, 0, 7};
	}
	struct ovm_blockhash now = {.blocks = {blocks, N, N}};
	ovm_stale_find_blocks(old, N, ovm_va_of(0), &now, ovm_va_of(0), out);
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(out[i].lo.v, 4 * i);
	now.blocks.n = 0;
	ovm_stale_find_blocks(old, N, ovm_va_of(0), &now, ovm_va_of(0), out);
	for (uint32_t i = 0; i < N; i++)
		assert_false(out[i].is_found);
	ovm_stale_find_blocks(NULL, 0, ovm_va_of(0), &now, ovm_va_of(0), NULL);
}

/* --- regions and counts --- */

static void test_counts_move(void **state)
{
	(void)state;
	struct builds t;
	open_recorded(&t);
	sample(&t, old_work, 10);
	sample(&t, old_work_b, 20);
	sample(&t, old_leaf, 30);
	sample(&t, old_gone, 15);
	sample(&t, old_gone_end, 5); /* in no region */
	const struct ovm_prof_edge edges[] = {
	    {{0}, mini_va(&t.a, old_leaf), 30},
	    {{0}, mini_va(&t.a, old_gone), 15},
	    {ovm_va_add(mini_va(&t.a, old_work_b), -2), mini_va(&t.a, old_work_b), 20},
	};
	for (int i = 0; i < 3; i++)
		ovm_vec_push(&t.module->edges, edges[i]);
	assert_int_equal(match(&t), 0);
	assert_string_equal(t.stats.id, "0a");
	assert_int_equal(t.stats.n_regions, 5);
	assert_int_equal(t.stats.n_same, 3);
	assert_int_equal(t.stats.n_changed, 1);
	assert_int_equal(t.stats.counts, 80);
	assert_int_equal(t.stats.kept, 60);
	assert_int_equal(samples_at(&t, new_work), 10);
	assert_int_equal(samples_at(&t, new_work_b), 20);
	assert_int_equal(samples_at(&t, new_leaf), 30);
	const struct ovm_prof_module *m = moved(&t);
	assert_int_equal(m->edges.n, 2);
	assert_int_equal(m->edges.v[0].from.v, 0);
	assert_int_equal(m->edges.v[0].to.v, mini_va(&t.b, new_leaf).v);
	assert_int_equal(m->edges.v[1].from.v, mini_va(&t.b, new_work_b).v - 2);
	assert_int_equal(m->edges.v[1].to.v, mini_va(&t.b, new_work_b).v);
	close_builds(&t);
}

/* In the changed block the offset of an instruction in the middle says nothing: only its ends are
 * found. */
static void test_changed_block(void **state)
{
	(void)state;
	struct builds t;
	open_recorded(&t);
	ovm_va b = mini_va(&t.a, old_work_b), last = ovm_va_add(mini_va(&t.a, old_work_end), 0);
	sample(&t, old_work_b + 7, 9);
	for (uint32_t i = 0; i < t.module->blocks.n; i++)
		if (t.module->blocks.v[i].lo.v == b.v)
			last = ovm_va_add(b, (int64_t)t.module->blocks.v[i].last);
	ovm_vec_push(&t.module->branches, (struct ovm_prof_branch){ovm_va_add(b, 7), b, 1, 0});
	ovm_vec_push(&t.module->branches, (struct ovm_prof_branch){last, b, 2, 1});
	ovm_vec_push(&t.module->ranges, (struct ovm_prof_range){b, last, 3});
	ovm_vec_push(&t.module->ranges, (struct ovm_prof_range){ovm_va_add(b, 7), last, 4});
	assert_int_equal(match(&t), 0);
	const struct ovm_prof_module *m = moved(&t);
	assert_int_equal(m->samples.n, 1);
	assert_true(
	    ovm_va_in(m->samples.v[0].va, mini_va(&t.b, new_work_b), mini_va(&t.b, new_work_x)));
	assert_int_equal(m->branches.n, 1);
	assert_int_equal(m->branches.v[0].count, 2);
	assert_int_equal(m->branches.v[0].to.v, mini_va(&t.b, new_work_b).v);
	assert_int_equal(m->ranges.n, 1);
	assert_int_equal(m->ranges.v[0].to.v, m->branches.v[0].from.v);
	close_builds(&t);
}

/* Equal functions keep their order. */
static void test_twins(void **state)
{
	(void)state;
	struct builds t;
	open_recorded(&t);
	sample(&t, old_twin1, 1);
	sample(&t, old_twin2, 2);
	assert_int_equal(match(&t), 0);
	assert_int_equal(samples_at(&t, new_twin1) + samples_at(&t, new_twin2), 3);
	close_builds(&t);
}

/* A name beats code, and serves where there is no hash. */
static void test_names(void **state)
{
	(void)state;
	for (int with_hash = 0; with_hash < 2; with_hash++) {
		struct builds t;
		open_builds(&t);
		record(&t, old_leaf, old_leaf_end, "leaf");
		record(&t, old_twin1, old_twin1_end, "second");
		if (!with_hash)
			t.module->regions.v[0].hash = 0;
		const struct ovm_symbol symbols[] = {
		    {.va = mini_va(&t.b, new_twin2), .size = 3, .name = "second"},
		    {.va = mini_va(&t.b, new_leaf), .size = 5, .name = "leaf"},
		};
		ovm_vec_push(&t.b.image.symbols, symbols[0]);
		ovm_vec_push(&t.b.image.symbols, symbols[1]);
		sample(&t, old_leaf, 10);
		sample(&t, old_twin1, 20);
		assert_int_equal(match(&t), 0);
		assert_int_equal(t.stats.n_same, 1 + with_hash);
		assert_int_equal(t.stats.n_changed, 1 - with_hash);
		assert_int_equal(samples_at(&t, new_leaf), 10);
		assert_int_equal(samples_at(&t, new_twin2), 20);
		ovm_vec_free(&t.b.image.symbols);
		close_builds(&t);
	}
}

static void test_which_module(void **state)
{
	(void)state;
	static const struct {
		const char *path;
		int expect;
	} cases[] = {
	    {"/opt/v1/prog", 0},   {"prog", 0},
	    {"/opt/prog-1.2", 0},  {"/opt/v1/prog2x", OVM_REFUSED},
	    {"", OVM_REFUSED},	   {"/opt/prog/", OVM_REFUSED},
	    {"/opt/prog.so.3", 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct builds t;
		open_recorded(&t);
		sample(&t, old_leaf, 10);
		free(t.module->path);
		t.module->path = ovm_strdup(cases[i].path);
		assert_int_equal(match(&t), cases[i].expect);
		if (cases[i].expect)
			assert_null(t.out);
		close_builds(&t);
	}
}

static void test_too_little(void **state)
{
	(void)state;
	struct builds t;
	open_recorded(&t);
	sample(&t, old_leaf, 1);
	sample(&t, old_gone, 99);
	assert_int_equal(match(&t), OVM_E_MISMATCH);
	assert_null(t.out);
	assert_non_null(strstr(t.ctx.msg, "another build"));
	close_builds(&t);
}

static void test_empty(void **state)
{
	(void)state;
	struct builds t;
	open_builds(&t);
	assert_int_equal(match(&t), OVM_REFUSED); /* no counts */
	sample(&t, old_leaf, 1);
	assert_int_equal(match(&t), OVM_REFUSED); /* no regions */
	ovm_vec_push(&t.module->regions, (struct ovm_prof_region){{0}, {UINT64_MAX}, 1, NULL});
	assert_int_equal(match(&t), OVM_E_MISMATCH);
	close_builds(&t);
}

/* --- a profile that lies --- */

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(uint64_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state % below;
}

static ovm_va any_va(void)
{
	return ovm_va_of(rng(8) ? MINI_VA + rng(200) : rng(2) ? UINT64_MAX - rng(3) : rng(3));
}

static uint64_t any_count(void)
{
	return rng(5) ? rng(100) : UINT64_MAX - rng(2);
}

static void spoil(struct builds *t)
{
	struct ovm_prof_module *m = t->module;
	uint32_t n_regions = m->regions.n, n_blocks = m->blocks.n;
	for (uint64_t i = rng(30); i--;)
		ovm_vec_push(&m->regions, (struct ovm_prof_region){
					      any_va(), any_va(),
					      rng(2) ? rng(3) : m->regions.v[rng(n_regions)].hash,
					      rng(3) ? NULL : ovm_strdup("x")});
	for (uint64_t i = rng(60); i--;)
		ovm_vec_push(&m->blocks,
			     (struct ovm_prof_block){
				 any_va(), rng(2) ? rng(20) : UINT64_MAX - rng(2),
				 rng(4) ? m->blocks.v[rng(n_blocks)].hash : rng(UINT64_MAX)});
	for (uint64_t i = rng(60); i--;) {
		ovm_vec_push(&m->samples, (struct ovm_prof_sample){any_va(), any_count()});
		ovm_vec_push(&m->branches, (struct ovm_prof_branch){any_va(), any_va(), any_count(),
								    any_count()});
		ovm_vec_push(&m->ranges, (struct ovm_prof_range){any_va(), any_va(), any_count()});
		ovm_vec_push(&m->edges, (struct ovm_prof_edge){any_va(), any_va(), any_count()});
	}
}

static bool in_region(const struct builds *t, ovm_va va)
{
	return ovm_region_find(&t->b.regions, va) != OVM_NONE;
}

static void check_addresses(const struct builds *t)
{
	const struct ovm_prof_module *m = moved(t);
	for (uint32_t i = 0; i < m->samples.n; i++)
		assert_true(in_region(t, m->samples.v[i].va));
	for (uint32_t i = 0; i < m->branches.n; i++)
		assert_true(in_region(t, m->branches.v[i].from) &&
			    in_region(t, m->branches.v[i].to));
	for (uint32_t i = 0; i < m->ranges.n; i++)
		assert_true(in_region(t, m->ranges.v[i].from) && in_region(t, m->ranges.v[i].to));
	for (uint32_t i = 0; i < m->edges.n; i++)
		assert_true((!m->edges.v[i].from.v || in_region(t, m->edges.v[i].from)) &&
			    in_region(t, m->edges.v[i].to));
}

static void test_garbage(void **state)
{
	(void)state;
	uint32_t n_moved = 0;
	for (int round = 0; round < 300; round++) {
		struct builds t;
		open_recorded(&t);
		spoil(&t);
		int err = match(&t);
		assert_true(err == 0 || err == OVM_REFUSED || err == OVM_E_MISMATCH);
		if (!err) {
			check_addresses(&t);
			n_moved++;
		}
		close_builds(&t);
	}
	assert_true(n_moved > 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_addresses_do_not_count),
	    cmocka_unit_test(test_what_cannot_be_hashed),
	    cmocka_unit_test(test_example_of_the_essay),
	    cmocka_unit_test(test_equal_blocks),
	    cmocka_unit_test(test_counts_move),
	    cmocka_unit_test(test_changed_block),
	    cmocka_unit_test(test_twins),
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_which_module),
	    cmocka_unit_test(test_too_little),
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_garbage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
