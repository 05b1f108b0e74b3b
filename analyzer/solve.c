/* From counters to the counts of all arcs.
 *
 * What flows into a node flows out of it. On a tree of unknown arcs there is
 * always a node with just one of them (a leaf), whose value is then the rest of
 * the balance; take it away and the next leaf appears:
 *
 *        EXT                  counted: a->c 30, c->EXT 30
 *       ?/ \30                c: in 30 + ? = out 30        b->c = 0
 *      a    c                 b: in ? = out 0              a->b = 0
 *       ?\ /?                 a: in ? = out 30 + 0         EXT->a = 30
 *        b
 *
 * EXT is never taken as a leaf: so it is the root, and what the counters
 * disagree about (a thread that was in the middle, a throw) ends up there. A
 * negative result is taken as 0 at once, since the truth is at least that:
 * neighbours are then computed from the better value.
 *
 * Linear in nodes and arcs. Limit: arcs that could not be counted and closed a
 * cycle are taken as 0; their flow is missing on the tree's way between their
 * ends.
 */
#include "analyzer/probes.h"

#include <stdlib.h>

struct node {
	int64_t excess;	    /* known outflow - known inflow */
	uint32_t n_unknown; /* arcs of the tree not yet solved */
	uint32_t arcs;	    /* all their indices xored: the index itself when there is one
			       left */
	bool is_outside;    /* EXT */
};

struct solver {
	const ovm_arcs *arcs;
	struct node *nodes;
	uint64_t *counts;
	uint32_t *stack; /* nodes that became leaves; each at most once, for its last arc */
	uint32_t n_stack;
	uint64_t clipped;
};

static int64_t add(int64_t a, int64_t b)
{
	int64_t sum;
	if (__builtin_add_overflow(a, b, &sum))
		return a < 0 ? INT64_MIN : INT64_MAX;
	return sum;
}

static uint64_t magnitude(int64_t negative)
{
	return 0 - (uint64_t)negative;
}

static void set_count(struct solver *solver, uint32_t idx, uint64_t count)
{
	const struct ovm_arc *arc = &solver->arcs->v[idx];
	int64_t known = count > INT64_MAX ? INT64_MAX : (int64_t)count;
	struct node *src = &solver->nodes[arc->src], *dst = &solver->nodes[arc->dst];
	solver->counts[idx] = count;
	if (src == dst)
		return;
	src->excess = add(src->excess, known);
	dst->excess = add(dst->excess, -known);
}

static void add_unknown(struct node *node, uint32_t idx)
{
	node->n_unknown++;
	node->arcs ^= idx;
}

static void push_leaf(struct solver *solver, uint32_t node)
{
	if (solver->nodes[node].n_unknown == 1 && !solver->nodes[node].is_outside)
		solver->stack[solver->n_stack++] = node;
}

static void take_known(struct solver *solver, const uint64_t *counters)
{
	for (uint32_t i = 0; i < solver->arcs->n; i++) {
		const struct ovm_arc *arc = &solver->arcs->v[i];
		solver->counts[i] = 0;
		if (!arc->from.v)
			solver->nodes[arc->src].is_outside = true;
		if (arc->counter != OVM_NONE) {
			set_count(solver, i, counters[arc->counter]);
		} else if (arc->on_tree && arc->src != arc->dst) {
			add_unknown(&solver->nodes[arc->src], i);
			add_unknown(&solver->nodes[arc->dst], i);
		}
	}
}

/* The one unknown arc of @leaf is what makes its flow balance. */
static void solve_leaf(struct solver *solver, uint32_t leaf)
{
	uint32_t idx = solver->nodes[leaf].arcs;
	const struct ovm_arc *arc = &solver->arcs->v[idx];
	bool goes_in = arc->dst == leaf;
	uint32_t other = goes_in ? arc->src : arc->dst;
	int64_t excess = solver->nodes[leaf].excess;
	if (!goes_in)
		excess = excess == INT64_MIN ? INT64_MAX : -excess;
	if (excess < 0 &&
	    __builtin_add_overflow(solver->clipped, magnitude(excess), &solver->clipped))
		solver->clipped = UINT64_MAX;
	set_count(solver, idx, excess < 0 ? 0 : (uint64_t)excess);
	solver->nodes[leaf].n_unknown = 0;
	solver->nodes[other].n_unknown--;
	solver->nodes[other].arcs ^= idx;
	push_leaf(solver, other);
}

uint64_t ovm_arcs_solve(const ovm_arcs *arcs, uint32_t n_nodes, const uint64_t *counters,
			uint64_t *counts)
{
	struct solver solver = {.arcs = arcs, .counts = counts};
	for (uint32_t i = 0; i < arcs->n; i++)
		OVM_ASSERT(arcs->v[i].src < n_nodes && arcs->v[i].dst < n_nodes);
	solver.nodes = ovm_alloc_array(n_nodes ? n_nodes : 1, sizeof(*solver.nodes));
	solver.stack = ovm_alloc_array(n_nodes ? n_nodes : 1, sizeof(*solver.stack));
	take_known(&solver, counters);
	for (uint32_t node = 0; node < n_nodes; node++)
		push_leaf(&solver, node);
	while (solver.n_stack) {
		uint32_t leaf = solver.stack[--solver.n_stack];
		if (solver.nodes[leaf].n_unknown == 1)
			solve_leaf(&solver, leaf);
	}
	free(solver.stack);
	free(solver.nodes);
	return solver.clipped;
}

/* --- the profile --- */

static int by_table(const void *a, const void *b)
{
	const struct ovm_arc *const *x = a, *const *y = b;
	if ((*x)->dst != (*y)->dst)
		return (*x)->dst < (*y)->dst ? -1 : 1;
	return *x < *y ? -1 : *x > *y;
}

/* @count jumps from @from, spread over the targets arcs[first..last) as all jumps are. */
static void spread(const ovm_arcs *arcs, const uint64_t *counts, uint32_t first, uint32_t last,
		   ovm_va from, uint64_t count, struct ovm_prof_module *module)
{
	double total = 0, sum = 0;
	uint64_t done = 0;
	for (uint32_t i = first; i < last; i++)
		total += (double)counts[i];
	for (uint32_t i = first; i < last && total > 0; i++) {
		sum += (double)counts[i];
		/* rounding down of the running sum keeps the whole */
		double share = sum / total * (double)count;
		uint64_t upto = share < (double)count ? (uint64_t)share : count;
		if (upto > done)
			ovm_vec_push(&module->edges,
				     (struct ovm_prof_edge){from, arcs->v[i].to, upto - done});
		done = upto > done ? upto : done;
	}
}

/* Tables that jumps share: what goes in and what comes out is known, not which is which. */
static void tables_to_profile(const ovm_arcs *arcs, const uint64_t *counts,
			      struct ovm_prof_module *module)
{
	OVM_VEC(const struct ovm_arc *) jumps = {0};
	for (uint32_t i = 0; i < arcs->n; i++)
		if (arcs->v[i].kind == OVM_ARC_TO_TABLE && counts[i])
			ovm_vec_push(&jumps, &arcs->v[i]);
	if (jumps.n)
		qsort(jumps.v, jumps.n, sizeof(*jumps.v), by_table);
	for (uint32_t i = 0, end; jumps.n && i < arcs->n; i = end) {
		uint32_t table = arcs->v[i].src, lo = 0, hi = jumps.n;
		end = i + 1;
		if (arcs->v[i].kind != OVM_ARC_FROM_TABLE)
			continue;
		while (end < arcs->n && arcs->v[end].kind == OVM_ARC_FROM_TABLE &&
		       arcs->v[end].src == table)
			end++;
		while (lo < hi) {
			uint32_t mid = lo + (hi - lo) / 2;
			if (jumps.v[mid]->dst < table)
				lo = mid + 1;
			else
				hi = mid;
		}
		for (; lo < jumps.n && jumps.v[lo]->dst == table; lo++)
			spread(arcs, counts, i, end, jumps.v[lo]->from,
			       counts[jumps.v[lo] - arcs->v], module);
	}
	ovm_vec_free(&jumps);
}

void ovm_arcs_to_profile(const ovm_arcs *arcs, const uint64_t *counts,
			 struct ovm_prof_module *module)
{
	for (uint32_t i = 0; i < arcs->n; i++) {
		const struct ovm_arc *arc = &arcs->v[i];
		if (counts[i] && arc->to.v && arc->kind == OVM_ARC_PLAIN)
			ovm_vec_push(&module->edges,
				     (struct ovm_prof_edge){arc->from, arc->to, counts[i]});
	}
	tables_to_profile(arcs, counts, module);
}
