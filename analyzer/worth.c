/* A copy costs a jump each time it is entered through the original code: by a pointer, from another
 * module, from code that was not copied. The jump itself is cheap, but it takes a line of the
 * instruction cache and a place in the branch predictor that the program would not need without it.
 * A small function that only pointers lead to (a method, an allocator's hook, an interpreter's
 * operation) is often as straight as can be, and then its copy only costs:
 *
 *      call *%rax ──▶ f: jmp f' ──▶ f': same two instructions, ret
 *
 * Everything here is in executions of a taken branch. For a graph f, J being the price of such a
 * jump,
 *
 *      for the copy       gain of f's order  +  J * direct calls from f to copies
 *      against it         J * entries of f that are no direct calls from copies
 *
 * since without the copy, f's calls would enter what it calls through the original code. So each
 * graph that is left where it is may change the balance of its callers and callees, and they are
 * looked at again until nothing changes. Whoever has left does not come back, which makes it end.
 * A promoted call (promote.c) is as direct as often as it hits, if both of its ends are copied.
 *
 * Limits: only where counts are exact; samples do not tell entries well. A graph that spends most
 * of its time otherwise is copied, whatever its entries cost: its calls and its place near others
 * are not in the score.
 */
#include "analyzer/worth.h"
#include "analyzer/tunables.h"

#include <stdlib.h>

struct link { /* direct calls from one graph to another */
	uint32_t from, to;
	uint64_t count;
};

struct choice {
	const struct ovm_program *program;
	const ovm_promotions *promotions;
	const double *gain;
	bool *is_worth;
	double *direct_in, *direct_out; /* [cfgs.n]: calls from and to graphs that are copied */
	OVM_VEC(struct link) links;	/* sorted by from */
	uint32_t *first_out;		/* [cfgs.n + 1] into links */
	uint32_t *first_in, *in;	/* [cfgs.n + 1] into in; link indices sorted by to */
	uint32_t *queue, n_queue;	/* graphs to look at (again) */
	bool *is_queued;
};

/* How many of the executions of the call are direct from copy to copy. */
static uint64_t direct_count(const struct choice *c, const struct ovm_call *call)
{
	const struct ovm_cfg *cfg = c->program->cfgs.v[call->cfg];
	uint32_t insn = ovm_call_insn(cfg, call);
	uint8_t kind = cfg->insns[insn].kind;
	const struct ovm_promotion *p;

	if (kind == OVM_INSN_JMP_IND)
		return 0;
	if (kind != OVM_INSN_CALL_IND)
		return call->count;
	p = ovm_promote_find(c->promotions, call->cfg, insn);
	return p && p->callee == call->callee ? p->hits : 0;
}

static void add_links(struct choice *c, const ovm_calls *calls)
{
	const struct ovm_program *program = c->program;
	uint32_t next = 0;

	for (uint32_t i = 0; i < calls->n; i++) {
		const struct ovm_call *call = &calls->v[i];
		uint32_t to = program->cfg_of_region[call->callee];
		uint64_t count = direct_count(c, call);

		if (count && call->cfg != to)
			ovm_vec_push(&c->links, ((struct link){call->cfg, to, count}));
	}
	for (uint32_t i = 0; i < program->cfgs.n; i++) {
		c->first_out[i] = next;
		while (next < c->links.n && c->links.v[next].from == i)
			next++;
	}
	c->first_out[program->cfgs.n] = next;
}

static void index_callees(struct choice *c)
{
	uint32_t n = c->program->cfgs.n;
	uint32_t *next = ovm_alloc_array((size_t)n + 1, sizeof(*next));

	for (uint32_t i = 0; i < c->links.n; i++)
		c->first_in[c->links.v[i].to + 1]++;
	for (uint32_t i = 0; i < n; i++)
		next[i + 1] = c->first_in[i + 1] += c->first_in[i];
	for (uint32_t i = 0; i < c->links.n; i++) {
		const struct link *link = &c->links.v[i];

		c->in[next[link->to]++] = i;
		c->direct_out[link->from] += (double)link->count;
		c->direct_in[link->to] += (double)link->count;
	}
	free(next);
}

/* Instructions executed in the graph. */
static double work_of(const struct ovm_cfg *cfg)
{
	double work = 0;

	ovm_cfg_foreach_bb (cfg, bb)
		work += (double)cfg->blocks[bb].count * cfg->blocks[bb].n_insns;
	return work;
}

static bool costs_more(const struct choice *c, uint32_t idx)
{
	const struct ovm_cfg *cfg = c->program->cfgs.v[idx];
	double jump = (double)OVM_TUNE(WORTH_ENTRY) / 100;
	double entries = (double)cfg->blocks[0].count - c->direct_in[idx];
	double cost = jump * entries;

	return cfg->is_exact && cost > c->gain[idx] + jump * c->direct_out[idx] &&
	       cost * (double)OVM_TUNE(WORTH_MAX_WORK) > work_of(cfg);
}

static void look_again(struct choice *c, uint32_t idx)
{
	if (c->is_worth[idx] && !c->is_queued[idx]) {
		c->is_queued[idx] = true;
		c->queue[c->n_queue++] = idx;
	}
}

static void leave(struct choice *c, uint32_t idx)
{
	c->is_worth[idx] = false;
	for (uint32_t i = c->first_out[idx]; i < c->first_out[idx + 1]; i++) {
		c->direct_in[c->links.v[i].to] -= (double)c->links.v[i].count;
		look_again(c, c->links.v[i].to);
	}
	for (uint32_t k = c->first_in[idx]; k < c->first_in[idx + 1]; k++) {
		const struct link *link = &c->links.v[c->in[k]];

		c->direct_out[link->from] -= (double)link->count;
		look_again(c, link->from);
	}
}

uint32_t ovm_worth_choose(const struct ovm_program *program, const ovm_calls *calls,
			  const ovm_promotions *promotions, const double *gain, bool *is_worth)
{
	size_t n = program->cfgs.n ? program->cfgs.n : 1;
	struct choice c = {
	    .program = program, .promotions = promotions, .gain = gain, .is_worth = is_worth};
	uint32_t n_left = 0;

	c.direct_in = ovm_alloc_array(n, sizeof(*c.direct_in));
	c.direct_out = ovm_alloc_array(n, sizeof(*c.direct_out));
	c.first_out = ovm_alloc_array(n + 1, sizeof(*c.first_out));
	c.first_in = ovm_alloc_array(n + 1, sizeof(*c.first_in));
	c.queue = ovm_alloc_array(n, sizeof(*c.queue));
	c.is_queued = ovm_alloc_array(n, sizeof(*c.is_queued));
	add_links(&c, calls);
	c.in = ovm_alloc_array(c.links.n ? c.links.n : 1, sizeof(*c.in));
	index_callees(&c);
	for (uint32_t i = program->cfgs.n; i-- > 0;) {
		is_worth[i] = true;
		if (program->cfgs.v[i])
			look_again(&c, i);
	}
	while (c.n_queue) {
		uint32_t idx = c.queue[--c.n_queue];

		c.is_queued[idx] = false;
		if (costs_more(&c, idx)) {
			leave(&c, idx);
			n_left++;
		}
	}
	ovm_vec_free(&c.links);
	free(c.direct_in);
	free(c.direct_out);
	free(c.first_out);
	free(c.first_in);
	free(c.in);
	free(c.queue);
	free(c.is_queued);
	return n_left;
}
