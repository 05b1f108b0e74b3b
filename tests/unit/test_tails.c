/* Which ends of paths are copied a second time, on graphs made by hand. */
#include "analyzer/tails.h"
#include "tests/support/fake_cfg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct made {
	struct ovm_program program;
	struct ovm_regions regions;
	struct ovm_layout layout;
	struct ovm_cfg *cfg;
};

/* One region, laid out in original order, all hot. */
static void make(struct made *m, const uint32_t *n_insns, uint32_t n, const struct fake_edge *edges,
		 uint32_t n_edges)
{
	memset(m, 0, sizeof(*m));
	m->cfg = fake_cfg(n_insns, n, edges, n_edges);
	m->program.regions = &m->regions;
	ovm_vec_push(&m->regions.v, ((struct ovm_region){.lo = m->cfg->blocks[0].lo,
							 .hi = m->cfg->blocks[n - 1].hi}));
	ovm_vec_push(&m->program.cfgs, m->cfg);
	for (uint32_t bb = 0; bb < n; bb++) {
		m->cfg->blocks[bb].count = 100;
		ovm_vec_push(&m->layout.slots, ((struct ovm_slot){.block = bb, .align = 1}));
	}
	m->layout.n_hot = n;
}

static void fini(struct made *m)
{
	fake_free(m->cfg);
	ovm_vec_free(&m->program.cfgs);
	ovm_vec_free(&m->regions.v);
	ovm_layout_fini(&m->layout);
}

/* The blocks in order, second copies with their executions; the cold part behind a bar. */
static void expect(const struct made *m, const char *want)
{
	char got[256] = "";

	for (uint32_t i = 0; i < m->layout.slots.n; i++) {
		const struct ovm_slot *slot = &m->layout.slots.v[i];
		size_t n = strlen(got);

		n += (size_t)snprintf(got + n, sizeof(got) - n, "%s%s%u", i ? " " : "",
				      i == m->layout.n_hot ? "| " : "", slot->block);
		if (slot->second)
			snprintf(got + n, sizeof(got) - n, "'%llu",
				 (unsigned long long)slot->second);
	}
	assert_string_equal(got, want);
}

static void add(struct made *m, const char *want)
{
	ovm_tails_add(&m->program, &m->layout);
	expect(m, want);
}

/* 0 goes to 1 and 2; 1 jumps to 3, 2 falls into it, 3 returns. */
static const struct fake_edge diamond[] = {{0, 1, 60}, {0, 2, 40}, {1, 3, 60}, {2, 3, 40}};

static void a_return(void **state)
{
	static const uint32_t sizes[] = {2, 2, 2, 8}, longer[] = {2, 2, 2, 9};
	struct made m;

	(void)state;
	make(&m, sizes, 4, diamond, 4);
	add(&m, "0 1 3'60 2 3");
	assert_int_equal(m.layout.n_hot, 5);
	fini(&m);
	make(&m, longer, 4, diamond, 4); /* 36 bytes */
	add(&m, "0 1 2 3");
	fini(&m);
}

static void not_repeated(void **state)
{
	static const uint32_t sizes[] = {2, 2, 2, 2};
	struct fake_edge edges[4];
	struct made m;

	(void)state;
	memcpy(edges, diamond, sizeof(edges));
	edges[2].count = 0; /* never jumped to */
	make(&m, sizes, 4, edges, 4);
	add(&m, "0 1 2 3");
	fini(&m);
	edges[2] = (struct fake_edge){1, OVM_NONE, 60}; /* leaves the group */
	make(&m, sizes, 4, edges, 4);
	add(&m, "0 1 2 3");
	fini(&m);
	make(&m, sizes, 4, diamond, 4);
	m.cfg->insns[m.cfg->n_insns - 1].kind = OVM_INSN_TRAP;
	add(&m, "0 1 2 3");
	fini(&m);
	make(&m, sizes, 4, diamond, 4);
	m.cfg->blocks[3].count = 0;
	add(&m, "0 1 2 3");
	fini(&m);
	make(&m, sizes, 4, diamond, 4);
	m.cfg->blocks[3].region = 1; /* the entry of another one */
	ovm_vec_push(&m.regions.v, ((struct ovm_region){.lo = m.cfg->blocks[3].lo}));
	add(&m, "0 1 2 3");
	m.cfg->blocks[1].region = 1; /* even for its own blocks */
	add(&m, "0 1 2 3");
	fini(&m);
}

/* Blocks that run on into each other are one tail; it may end at what stands next. */
static void several_blocks(void **state)
{
	static const uint32_t sizes[] = {2, 2, 2, 3, 3};
	static const struct fake_edge returns[] = {
	    {0, 1, 60}, {0, 2, 40}, {1, 3, 60}, {2, 3, 40}, {3, 4, 100}};
	static const struct fake_edge comes_back[] = {
	    {0, 1, 60}, {0, 3, 40}, {1, 3, 60}, {2, 4, 100}, {3, 2, 100}};
	static const uint32_t longer[] = {2, 2, 2, 5, 4};
	struct made m;

	(void)state;
	make(&m, sizes, 5, returns, 5);
	add(&m, "0 1 3'60 4'60 2 3 4");
	fini(&m);
	make(&m, longer, 5, returns, 5);
	add(&m, "0 1 2 3 4");
	fini(&m);
	make(&m, sizes, 5, comes_back, 5); /* 3 jumps to 2, 2 to 4: both are tails, of 1 and of 3 */
	m.cfg->blocks[3].count = 90;
	add(&m, "0 1 3'60 2 4'100 3 2'100 4");
	fini(&m);
}

/* An endless loop is no tail. */
static void no_end(void **state)
{
	static const uint32_t sizes[] = {2, 2, 2, 2, 2, 2};
	static const struct fake_edge edges[] = {{0, 1, 60}, {0, 2, 40}, {1, 4, 60},
						 {2, 5, 40}, {4, 5, 60}, {5, 4, 100}};
	struct made m;

	(void)state;
	make(&m, sizes, 6, edges, 6);
	add(&m, "0 1 2 3 4 5");
	fini(&m);
}

static void a_loops_test(void **state)
{
	static const uint32_t sizes[] = {2, 2, 2, 2};
	static const struct fake_edge edges[] = {{0, 1, 10}, {1, 2, 90}, {1, 3, 10}, {2, 1, 90}};
	struct made m;

	(void)state;
	make(&m, sizes, 4, edges, 4);
	add(&m, "0 1 2 1'90 3");
	fini(&m);
	make(&m, sizes, 4, edges, 4);
	m.layout.n_hot = 3; /* nothing stands next */
	add(&m, "0 1 2 1'90 | 3");
	assert_int_equal(m.layout.n_hot, 4);
	fini(&m);
}

/* The most executed ones only. */
static void cover(void **state)
{
	static const uint32_t sizes[] = {2, 2, 2, 2, 2};
	struct fake_edge edges[] = {
	    {0, 1, 1000}, {0, 2, 900}, {1, 4, 1000}, {2, 4, 40}, {3, 4, 900}};
	struct made m;

	(void)state;
	make(&m, sizes, 5, edges, 5);
	add(&m, "0 1 4'1000 2 3 4"); /* 40 of 1040 are not worth it */
	fini(&m);
	edges[3].count = 60;
	make(&m, sizes, 5, edges, 5);
	add(&m, "0 1 4'1000 2 4'60 3 4");
	fini(&m);
}

static void nothing(void **state)
{
	struct made m = {0};

	(void)state;
	ovm_tails_add(&m.program, &m.layout);
	assert_int_equal(m.layout.slots.n, 0);
	assert_int_equal(m.layout.n_hot, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing),	    cmocka_unit_test(a_return),
	    cmocka_unit_test(not_repeated), cmocka_unit_test(several_blocks),
	    cmocka_unit_test(no_end),	    cmocka_unit_test(a_loops_test),
	    cmocka_unit_test(cover),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
