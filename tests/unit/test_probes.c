/* Where counters go: small functions by hand, and for all functions of a real program that what the
 * counters of random walks say is what was walked. */
#include "analyzer/probes.h"
#include "analyzer/weight.h"
#include "tests/support/selfexe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define TABLE(name)                                                                                \
	".section .rodata\n.balign 4\n.type " name ",@object\n" name ":\n.long 11b-" name          \
	"\n.long 12b-" name "\n.long 13b-" name "\n.zero 64\n.text\n"
#define DISPATCH(table)                                                                            \
	"cmp $2,%edi\nja 13f\nmov %edi,%edi\nlea " table                                           \
	"(%rip),%rdx\nmovslq (%rdx,%rdi,4),%rax\nadd %rdx,%rax\njmp *%rax\n"

ASM_FUNCTION("pr_one", "endbr64\nmov %edi,%eax\nret\n");
ASM_FUNCTION("pr_diamond", "test %edi,%edi\nje 1f\nmov $1,%eax\njmp 2f\n1: mov $2,%eax\n2: ret\n");
ASM_FUNCTION("pr_loop", "endbr64\n1: sub $1,%edi\njne 1b\nret\n");
ASM_FUNCTION("pr_self", "mov %edi,%eax\n1: sub $1,%edi\njne 1b\nret\n");
/* 2 has two ways in, the first block two ways out */
ASM_FUNCTION("pr_critical", "test %edi,%edi\nje 2f\nmov $1,%eax\n2: ret\n");
ASM_FUNCTION("pr_critical_live", "test %edi,%edi\nje 2f\ntest %esi,%esi\n2: setb %al\nret\n");
ASM_FUNCTION("pr_same", "test %edi,%edi\nje 2f\n2: ret\n");
ASM_FUNCTION("pr_spin", "1: pause\njmp 1b\n");
ASM_FUNCTION("pr_jcxz", "mov %edi,%ecx\n1: sub $1,%eax\njrcxz 1b\nret\n");
ASM_FUNCTION("pr_nops", "test %edi,%edi\nje 1f\nsetb %al\nnop\nnopl 0(%rax)\n1: ret\n");
ASM_FUNCTION("pr_only_nops", "test %edi,%edi\nje 1f\nnop\nnop\n1: ret\n");
ASM_FUNCTION("pr_syscall", "adc %eax,%eax\nsyscall\nmov %eax,%edx\nret\n");
ASM_FUNCTION("pr_table", DISPATCH("pr_t1") "11: mov $1,%eax\n12: mov $2,%eax\n13: ret\n");
__asm__(TABLE("pr_t1"));
ASM_FUNCTION("pr_shared", "test %esi,%esi\njne 1f\n" DISPATCH("pr_t2") "1: mov $5,%ecx\n" DISPATCH(
			      "pr_t2") "11: mov $1,%eax\n12: mov $2,%eax\n13: ret\n");
__asm__(TABLE("pr_t2"));
/* one group, entered at two functions; the second is also jumped into the middle of */
ASM_FUNCTION("pr_two", "test %edi,%edi\nje pr_two_middle\nmov $1,%eax\nret\n");
ASM_FUNCTION("pr_other", "mov $2,%eax\npr_two_middle: add $1,%eax\nret\n");
/* flags at the first instruction */
ASM_FUNCTION("fd_written", "mov %edi,%eax\nadd %esi,%eax\nret\n");
ASM_FUNCTION("fd_returns", "mov %edi,%eax\nret\n");
ASM_FUNCTION("fd_jump", "mov %edi,%eax\njmp fd_returns\n");
ASM_FUNCTION("fd_round", "1: pause\njmp 1b\n");
ASM_FUNCTION("fd_call", "call *%rax\nret\n");
ASM_FUNCTION("fd_read", "setb %al\nret\n");
ASM_FUNCTION("fd_branch", "mov %edi,%eax\njrcxz 1f\n1: ret\n");
ASM_FUNCTION("fd_indirect", "jmp *%rax\n");
ASM_FUNCTION("fd_trap", "ud2\n");
ASM_FUNCTION("fd_shift", "shl %cl,%eax\ntest %eax,%eax\nret\n");
ASM_FUNCTION("fd_rotate", "rol $3,%eax\ntest %eax,%eax\nret\n");
ASM_FUNCTION("fd_repe", "repe cmpsb\nret\n");
ASM_FUNCTION("fd_line31", ".rept 31\nmov %edi,%eax\n.endr\nret\n");
ASM_FUNCTION("fd_line32", ".rept 32\nmov %edi,%eax\n.endr\nret\n");

static struct self self;
static struct ovm_program program;
static struct ovm_probes probes;

static int setup(void **state)
{
	(void)state;
	self_open(&self);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	self_close(&self);
	return 0;
}

/* --- by hand --- */

/* A program of the one function @name, each block and edge executed once. */
static const struct ovm_cfg *analyze(const char *name)
{
	struct ovm_cfg *cfg = self_cfg(&self, name);
	assert_non_null(cfg);
	ovm_weight_uniform(cfg);
	program = (struct ovm_program){.image = self.image, .regions = &self.regions};
	program.cfg_of_region = ovm_alloc_array(self.regions.v.n, sizeof(uint32_t));
	memset(program.cfg_of_region, 0xff, self.regions.v.n * sizeof(uint32_t));
	for (uint32_t i = 0; i < cfg->n_regions; i++)
		program.cfg_of_region[cfg->regions[i]] = 0;
	ovm_vec_push(&program.cfgs, cfg);
	ovm_probes_build(self.dec, &program, &probes);
	return cfg;
}

static void done(void)
{
	ovm_probes_fini(&probes);
	ovm_program_fini(&program);
}

static const struct ovm_arc *arc_of(uint64_t from, uint64_t to)
{
	for (uint32_t i = 0; i < probes.arcs.n; i++)
		if (probes.arcs.v[i].from.v == from && probes.arcs.v[i].to.v == to)
			return &probes.arcs.v[i];
	return NULL;
}

static uint32_t count_uncountable(void)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < probes.arcs.n; i++)
		n += !probes.arcs.v[i].on_tree && probes.arcs.v[i].counter == OVM_NONE;
	return n;
}

static void test_nothing(void **state)
{
	(void)state;
	program = (struct ovm_program){.image = self.image, .regions = &self.regions};
	ovm_vec_push(&program.cfgs, NULL); /* a dropped one */
	ovm_probes_build(self.dec, &program, &probes);
	assert_int_equal(probes.n_nodes, 0);
	assert_int_equal(probes.n_counters, 0);
	assert_int_equal(probes.arcs.n, 0);
	done();
	ovm_probes_fini(NULL);
}

static void test_one_block(void **state)
{
	(void)state;
	const struct ovm_cfg *cfg = analyze("pr_one");
	assert_int_equal(probes.n_nodes, 2);
	assert_int_equal(probes.arcs.n, 2);
	assert_int_equal(probes.v.n, 1);
	assert_int_equal(probes.n_counters, 1);
	assert_int_equal(probes.v.v[0].kind, OVM_PROBE_BLOCK);
	assert_int_equal(probes.v.v[0].insn, 1); /* behind endbr64 */
	assert_non_null(arc_of(0, cfg->blocks[0].lo.v));
	assert_non_null(arc_of(cfg->insns[2].va.v, 0));
	done();
}

static void test_diamond(void **state)
{
	(void)state;
	const struct ovm_cfg *cfg = analyze("pr_diamond");
	assert_int_equal(probes.n_nodes, 5);
	assert_int_equal(probes.arcs.n, 6);
	assert_int_equal(probes.v.n, 2);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(probes.v.v[i].kind, OVM_PROBE_BLOCK);
	done();
	(void)cfg;
	for (uint32_t hot = 1; hot <= 2; hot++) { /* the counter stands in the cold arm */
		struct ovm_cfg *heavy = self_cfg(&self, "pr_diamond");
		heavy->blocks[0].count = heavy->blocks[3].count = 100;
		heavy->blocks[hot].count = 100;
		for (uint32_t e = 0; e < heavy->n_edges; e++)
			if (heavy->edges[e].src == hot || heavy->edges[e].dst == hot)
				heavy->edges[e].count = 100;
		program = (struct ovm_program){.image = self.image, .regions = &self.regions};
		ovm_vec_push(&program.cfgs, heavy);
		ovm_probes_build(self.dec, &program, &probes);
		bool is_cold_counted = false;
		for (uint32_t i = 0; i < probes.v.n; i++) {
			assert_int_not_equal(probes.v.v[i].block, hot);
			is_cold_counted |= probes.v.v[i].block == 3 - hot;
		}
		assert_true(is_cold_counted);
		done();
	}
}

static void test_loops(void **state)
{
	(void)state;
	const struct ovm_cfg *cfg = analyze("pr_self");
	const struct ovm_arc *arc = arc_of(ovm_block_last(cfg, 1)->va.v, cfg->blocks[1].lo.v);
	assert_non_null(arc);
	assert_false(arc->on_tree);
	assert_int_not_equal(arc->counter, OVM_NONE);
	assert_int_equal(probes.v.n, 2);
	assert_int_equal(probes.v.v[arc->counter].kind, OVM_PROBE_EDGE);
	assert_int_equal(probes.v.v[arc->counter].block, 1);
	done();
	/* the entry patch jumps into the loop: neither the entry nor the way to it has a counter */
	cfg = analyze("pr_loop");
	assert_int_equal(cfg->n_blocks, 3);
	assert_true(arc_of(0, cfg->blocks[0].lo.v)->on_tree);
	assert_true(arc_of(cfg->blocks[0].lo.v, cfg->blocks[1].lo.v)->on_tree);
	assert_int_equal(count_uncountable(), 0);
	assert_int_equal(probes.v.n, 2);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_not_equal(probes.v.v[i].block, 0);
	done();
	cfg = analyze("pr_spin"); /* is entered where it jumps to; flags never die */
	assert_int_equal(probes.v.n, 0);
	assert_int_equal(count_uncountable(), 1);
	assert_true(arc_of(0, cfg->blocks[0].lo.v)->on_tree);
	done();
}

static void test_critical_edge(void **state)
{
	(void)state;
	const struct ovm_cfg *cfg = analyze("pr_critical");
	ovm_va from = ovm_block_last(cfg, 0)->va;
	assert_int_equal(probes.v.n, 2);
	assert_int_equal(count_uncountable(), 0);
	done();
	cfg = analyze("pr_critical_live"); /* cannot be counted: it is on the tree */
	from = ovm_block_last(cfg, 0)->va;
	assert_true(arc_of(from.v, cfg->blocks[2].lo.v)->on_tree);
	assert_int_equal(count_uncountable(), 0);
	done();
	cfg = analyze("pr_same");
	for (uint32_t i = 0; i < probes.v.n; i++)
		assert_int_not_equal(probes.v.v[i].kind, OVM_PROBE_EDGE);
	assert_int_equal(count_uncountable(), 1); /* two ways between the same two */
	done();
	cfg = analyze("pr_jcxz");
	assert_int_equal(count_uncountable(), 0);
	from = ovm_block_last(cfg, 1)->va;
	assert_int_not_equal(arc_of(from.v, cfg->blocks[1].lo.v)->counter, OVM_NONE);
	done();
}

/* The graph again with every block and edge hot but those out of table jumps; how many of these
 * have a counter. */
static uint32_t count_table_probes(void)
{
	struct ovm_cfg *cfg = program.cfgs.v[0];
	uint32_t n = 0;
	ovm_probes_fini(&probes);
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		cfg->edges[e].count = cfg->edges[e].kind == OVM_EDGE_TABLE ? 0 : 100;
	ovm_probes_build(self.dec, &program, &probes);
	for (uint32_t i = 0; i < probes.v.n; i++)
		n += probes.v.v[i].kind == OVM_PROBE_EDGE &&
		     cfg->edges[probes.v.v[i].edge].kind == OVM_EDGE_TABLE;
	return n;
}

static void test_tables(void **state)
{
	(void)state;
	const struct ovm_cfg *cfg = analyze("pr_table");
	assert_int_equal(cfg->n_tables, 1);
	assert_int_equal(count_uncountable(), 0);
	assert_int_not_equal(count_table_probes(), 0);
	assert_int_equal(count_uncountable(), 0);
	done();
	cfg = analyze("pr_shared"); /* one entry of the copy serves both jumps */
	assert_int_equal(cfg->n_tables, 2);
	assert_int_equal(count_uncountable(), 0);
	assert_int_not_equal(count_table_probes(), 0);
	assert_int_equal(count_uncountable(), 0);
	done();
}

static void test_two_entries(void **state)
{
	(void)state;
	const struct ovm_cfg *cfg = analyze("pr_two");
	uint32_t n_entries = 0;
	assert_int_equal(cfg->n_regions, 2);
	for (uint32_t i = 0; i < probes.arcs.n; i++)
		n_entries += !probes.arcs.v[i].from.v;
	assert_int_equal(n_entries, 2);
	assert_non_null(arc_of(0, self_symbol(&self, "pr_other").v));
	assert_int_equal(probes.n_nodes, 5);
	assert_int_equal(probes.v.n, 3);
	done();
}

static void test_spots(void **state)
{
	(void)state;
	const struct ovm_cfg *cfg =
	    analyze("pr_nops"); /* dead only at the nops, which are left out */
	for (uint32_t i = 0; i < probes.v.n; i++)
		assert_true(probes.v.v[i].kind == OVM_PROBE_EDGE || probes.v.v[i].block != 1);
	done();
	cfg = analyze("pr_only_nops");
	for (uint32_t i = 0; i < probes.v.n; i++)
		if (probes.v.v[i].kind == OVM_PROBE_BLOCK && probes.v.v[i].block == 1)
			assert_int_equal(probes.v.v[i].insn, cfg->blocks[1].first_insn);
	done();
	cfg = analyze("pr_syscall");
	assert_int_equal(probes.v.n, 1);
	assert_int_equal(probes.v.v[0].insn, 2);
	done();
}

static void test_flags_dead(void **state)
{
	static const char *const dead[] = {"fd_written", "fd_returns", "fd_jump", "fd_call",
					   "fd_line31"};
	static const char *const live[] = {"fd_round",	  "fd_read", "fd_branch",
					   "fd_indirect", "fd_trap", "fd_shift",
					   "fd_rotate",	  "fd_repe", "fd_line32"};
	(void)state;
	for (size_t i = 0; i < sizeof(dead) / sizeof(*dead); i++)
		assert_true(ovm_flags_dead(self.dec, self.image, self_symbol(&self, dead[i])));
	for (size_t i = 0; i < sizeof(live) / sizeof(*live); i++)
		assert_false(ovm_flags_dead(self.dec, self.image, self_symbol(&self, live[i])));
	assert_false(ovm_flags_dead(self.dec, self.image, ovm_va_of(0)));
	assert_false(ovm_flags_dead(self.dec, self.image, ovm_va_of(UINT64_MAX)));
}

/* --- random walks --- */

enum { MAX_STEPS = 300 };

static uint64_t next_random(void)
{
	static uint64_t x = 0x9e3779b97f4a7c15;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x >> 11;
}

struct walks {			/* over all arcs of probes */
	uint32_t *first, *arcs; /* arcs out of node n: arcs[first[n]..first[n + 1]) */
	uint32_t *far;		/* arcs from a node home to EXT, OVM_NONE: no way */
	uint32_t *ext;		/* EXT of a node's graph */
	ovm_va *lo;		/* of a node's block */
	uint64_t *walked;	/* by arc */
	uint64_t *visits;	/* by node */
};

static void link_arcs(struct walks *w)
{
	const ovm_arcs *arcs = &probes.arcs;
	for (uint32_t i = 0; i < arcs->n; i++)
		w->first[arcs->v[i].src]++;
	for (uint32_t n = 1; n <= probes.n_nodes; n++)
		w->first[n] += w->first[n - 1];
	for (uint32_t i = arcs->n; i-- > 0;)
		w->arcs[--w->first[arcs->v[i].src]] = i;
}

static void walks_init(struct walks *w)
{
	uint32_t n = probes.n_nodes + 2, ext = 0;
	w->first = ovm_alloc_array(n, sizeof(uint32_t));
	w->arcs = ovm_alloc_array(probes.arcs.n + 1, sizeof(uint32_t));
	w->far = ovm_alloc_array(n, sizeof(uint32_t));
	w->ext = ovm_alloc_array(n, sizeof(uint32_t));
	w->lo = ovm_alloc_array(n, sizeof(ovm_va));
	w->walked = ovm_alloc_array(probes.arcs.n + 1, sizeof(uint64_t));
	w->visits = ovm_alloc_array(n, sizeof(uint64_t));
	link_arcs(w);
	memset(w->far, 0xff, n * sizeof(uint32_t));
	for (uint32_t i = 0; i < probes.arcs.n; i++) {
		const struct ovm_arc *arc = &probes.arcs.v[i];
		if (!arc->from.v)
			w->far[arc->src] = 0;
		w->lo[arc->dst] = arc->to;
	}
	for (uint32_t node = 0; node < probes.n_nodes; node++) {
		ext = w->far[node] == 0 ? node : ext;
		w->ext[node] = ext;
	}
	for (bool is_changed = true; is_changed;) {
		is_changed = false;
		for (uint32_t i = probes.arcs.n; i-- > 0;) {
			const struct ovm_arc *arc = &probes.arcs.v[i];
			if (w->far[arc->dst] == OVM_NONE ||
			    w->far[arc->src] <= w->far[arc->dst] + 1)
				continue;
			w->far[arc->src] = w->far[arc->dst] + 1;
			is_changed = true;
		}
	}
}

static void walks_fini(struct walks *w)
{
	free(w->first);
	free(w->arcs);
	free(w->far);
	free(w->ext);
	free(w->lo);
	free(w->walked);
	free(w->visits);
}

/* From EXT to EXT; after MAX_STEPS the shortest way. */
static void walk(struct walks *w, uint32_t ext)
{
	uint32_t at = ext, steps = 0;
	do {
		uint32_t pick = OVM_NONE, n = 0;
		for (uint32_t k = w->first[at]; k < w->first[at + 1]; k++) {
			uint32_t dst = probes.arcs.v[w->arcs[k]].dst;
			if (w->far[dst] == OVM_NONE ||
			    (steps > MAX_STEPS && w->far[dst] >= w->far[at]))
				continue;
			if (next_random() % ++n == 0)
				pick = w->arcs[k];
		}
		if (pick == OVM_NONE)
			return; /* a function that never ends */
		steps++;
		w->visits[at]++;
		w->walked[pick]++;
		at = probes.arcs.v[pick].dst;
	} while (at != ext);
}

static uint32_t node_at(const struct walks *w, ovm_va lo)
{
	for (uint32_t node = 0; node < probes.n_nodes; node++)
		if (w->lo[node].v == lo.v && w->ext[node] != node)
			return node;
	return OVM_NONE;
}

/* What a probe would have counted. @node: of its block. */
static uint64_t seen_by(const struct walks *w, const struct ovm_probe *probe, uint32_t node)
{
	const struct ovm_cfg *cfg = program.cfgs.v[probe->cfg];
	uint64_t n = 0, n_found = 0;
	if (probe->kind == OVM_PROBE_BLOCK)
		return w->visits[node];
	if (probes.arcs.v[w->arcs[w->first[node]]].kind == OVM_ARC_TO_TABLE)
		node = probes.arcs.v[w->arcs[w->first[node]]].dst;
	for (uint32_t k = w->first[node]; k < w->first[node + 1]; k++)
		if (probes.arcs.v[w->arcs[k]].to.v == cfg->edges[probe->edge].to.v) {
			n = w->walked[w->arcs[k]];
			n_found++;
		}
	assert_int_equal(n_found, 1);
	return n;
}

static void read_counters(const struct walks *w, uint64_t *counters)
{
	uint32_t hint = 0;
	for (uint32_t i = 0; i < probes.v.n; i++) {
		const struct ovm_probe *probe = &probes.v.v[i];
		ovm_va lo = program.cfgs.v[probe->cfg]->blocks[probe->block].lo;
		while (hint < probes.n_nodes && (w->lo[hint].v != lo.v || w->ext[hint] == hint))
			hint++; /* both are in the order of graphs and blocks */
		if (hint == probes.n_nodes)
			hint = node_at(w, lo);
		assert_int_not_equal(hint, OVM_NONE);
		counters[probe->counter] = seen_by(w, probe, hint);
	}
}

/* Every promise of probes.h that needs no walk. */
static void check_probes(struct ovm_decoder *dec)
{
	uint8_t *is_used = ovm_alloc(probes.n_counters + 1u);
	for (uint32_t i = 0; i < probes.v.n; i++) {
		const struct ovm_probe *p = &probes.v.v[i], *q = i ? p - 1 : NULL;
		const struct ovm_cfg *cfg = program.cfgs.v[p->cfg];
		const struct ovm_block *block = &cfg->blocks[p->block];
		bool is_block = p->kind == OVM_PROBE_BLOCK;
		assert_true(p->counter == i && block->flags & OVM_BLOCK_REACHABLE);
		if (q && q->cfg == p->cfg && q->block == p->block)
			assert_true(p->kind == OVM_PROBE_EDGE &&
				    (q->kind == OVM_PROBE_BLOCK || q->edge < p->edge));
		else if (q)
			assert_true(q->cfg < p->cfg || (q->cfg == p->cfg && q->block < p->block));
		if (is_block)
			assert_true(p->insn - block->first_insn < block->n_insns);
		else
			assert_int_equal(cfg->edges[p->edge].src, p->block);
		assert_true(
		    ovm_flags_dead(dec, program.image,
				   is_block ? cfg->insns[p->insn].va : cfg->edges[p->edge].to));
	}
	for (uint32_t i = 0; i < probes.arcs.n; i++) {
		const struct ovm_arc *arc = &probes.arcs.v[i];
		assert_true(arc->counter == OVM_NONE || !arc->on_tree);
		if (arc->counter != OVM_NONE)
			is_used[arc->counter] = 1;
	}
	for (uint32_t i = 0; i < probes.n_counters; i++)
		assert_true(is_used[i]);
	free(is_used);
}

static void check_walks(unsigned n_walks)
{
	struct walks w = {0};
	walks_init(&w);
	uint64_t *counters = ovm_alloc_array(probes.n_counters + 1u, sizeof(uint64_t));
	uint64_t *counts = ovm_alloc_array(probes.arcs.n + 1u, sizeof(uint64_t));
	uint8_t *is_partly = ovm_alloc(probes.n_nodes + 1u);
	uint32_t n_wrong = 0, n_partly = 0;
	for (uint32_t node = 0; node < probes.n_nodes; node++)
		for (unsigned i = 0; w.ext[node] == node && i < n_walks; i++)
			walk(&w, node);
	read_counters(&w, counters);
	uint64_t clipped = ovm_arcs_solve(&probes.arcs, probes.n_nodes, counters, counts);
	for (uint32_t i = 0; i < probes.arcs.n; i++) {
		const struct ovm_arc *arc = &probes.arcs.v[i];
		if (!arc->on_tree && arc->counter == OVM_NONE)
			is_partly[w.ext[arc->src]] = 1;
	}
	for (uint32_t i = 0; i < probes.arcs.n; i++) {
		n_wrong += counts[i] != w.walked[i] && !is_partly[w.ext[probes.arcs.v[i].src]];
		n_partly += is_partly[w.ext[probes.arcs.v[i].src]];
	}
	print_message(
	    "%u graphs: %u arcs, %u counted, %u cannot be; %u in such graphs; clipped %lu\n",
	    program.cfgs.n, probes.arcs.n, probes.n_counters, count_uncountable(), n_partly,
	    (unsigned long)clipped);
	assert_int_equal(n_wrong, 0);
	free(is_partly);
	free(counts);
	free(counters);
	walks_fini(&w);
}

static void randomize(void)
{
	for (uint32_t c = 0; c < program.cfgs.n; c++) {
		struct ovm_cfg *cfg = program.cfgs.v[c];
		for (uint32_t e = 0; e < cfg->n_edges; e++)
			cfg->edges[e].count = next_random() % 8 ? 0 : next_random() % 1000;
		ovm_cfg_foreach_bb (cfg, bb)
			cfg->blocks[bb].count = next_random() % 1000;
	}
}

static void check_same_again(struct ovm_decoder *dec)
{
	struct ovm_probes again;
	ovm_probes_build(dec, &program, &again);
	assert_int_equal(again.v.n, probes.v.n);
	assert_int_equal(again.arcs.n, probes.arcs.n);
	for (uint32_t i = 0; i < again.v.n; i++)
		assert_true(again.v.v[i].insn == probes.v.v[i].insn &&
			    again.v.v[i].edge == probes.v.v[i].edge);
	ovm_probes_fini(&again);
}

static void test_real_program(void **state)
{
	static const char path[] = "/bin/bash";
	struct ovm_image *image;
	struct ovm_regions regions = {0};
	(void)state;
	if (access(path, R_OK) != 0) {
		print_message("%s is not here: skipped\n", path);
		skip();
	}
	assert_int_equal(ovm_image_open(&self.ctx, path, &image), 0);
	assert_int_equal(ovm_regions_build(&self.ctx, image, &regions), 0);
	const struct ovm_program_opts opts = {.share = 1.0};
	assert_int_equal(
	    ovm_program_build(&self.ctx, self.dec, image, &regions, NULL, &opts, &program), 0);
	for (unsigned round = 0; round < 3; round++) {
		ovm_probes_build(self.dec, &program, &probes);
		check_probes(self.dec);
		check_same_again(self.dec);
		check_walks(20);
		assert_true(probes.n_counters < probes.arcs.n / 2);
		assert_true(count_uncountable() < probes.arcs.n / 500);
		ovm_probes_fini(&probes);
		randomize();
	}
	ovm_program_fini(&program);
	ovm_regions_free(&regions);
	ovm_image_close(image);
}

/* The same for the small functions above, whose oddities compilers seldom make. */
static void test_own_functions(void **state)
{
	static const char *const names[] = {
	    "pr_one",  "pr_diamond",   "pr_loop",    "pr_self",	 "pr_critical", "pr_jcxz",
	    "pr_nops", "pr_only_nops", "pr_syscall", "pr_table", "pr_shared",	"pr_two"};
	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		analyze(names[i]);
		check_probes(self.dec);
		check_walks(100);
		done();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nothing),	  cmocka_unit_test(test_one_block),
	    cmocka_unit_test(test_diamond),	  cmocka_unit_test(test_loops),
	    cmocka_unit_test(test_critical_edge), cmocka_unit_test(test_tables),
	    cmocka_unit_test(test_two_entries),	  cmocka_unit_test(test_spots),
	    cmocka_unit_test(test_flags_dead),	  cmocka_unit_test(test_own_functions),
	    cmocka_unit_test(test_real_program),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
