/* Minimum-cost maximum flow, primal-dual.
 *
 * Sending along one cheapest path at a time (successive shortest paths) is right but slow when many
 * paths cost the same. So each phase finds the distances from the source once (Dijkstra on reduced
 * costs, stopped at the sink), and then sends all that fits through arcs on cheapest paths at once
 * (Dinic: levels, then depth first):
 *
 *      reduced cost of u -> v:  cost + potential[u] - potential[v]
 *                               >= 0 on every arc with room, 0 on cheapest paths
 *
 * There are little more phases than different path costs, and the costs here are small integers, so
 * even large graphs need few. Zero-cost cycles are harmless: levels keep the depth-first search
 * from running around them.
 *
 * Ahuja, Magnanti, Orlin: Network Flows, 1993, section 9.8.
 */
#include "analyzer/flow.h"
#include "base/addr.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

struct half { /* an arc as its start sees it; each has a twin at the other end, the way back */
	uint32_t to, twin;
	int32_t cost;
	int64_t left; /* residual capacity */
};

struct reach { /* a tentative distance */
	int64_t dist;
	uint32_t node;
};

struct search {
	uint32_t n, src, dst;
	uint32_t *first; /* [n + 1] halves[first[v] .. first[v + 1]) start at v */
	struct half *halves;
	uint32_t *half_of;  /* [arcs] */
	int64_t *potential; /* [n] */
	int64_t *dist;	    /* [n] INT64_MAX between phases */
	uint32_t *level;    /* [n] steps on the cheapest-path graph; OVM_NONE between phases */
	uint32_t *at;	    /* [n] next half to try, valid if level is */
	uint32_t *path;	    /* [n] halves */
	uint32_t *queue;    /* [n] nodes touched by the search at hand: all that must be reset */
	uint32_t n_queue;
	OVM_VEC(struct reach) heap;
};

void ovm_flow_init(struct ovm_flow *flow, uint32_t n_nodes)
{
	memset(flow, 0, sizeof(*flow));
	flow->n = n_nodes;
}

void ovm_flow_fini(struct ovm_flow *flow)
{
	ovm_vec_free(&flow->arcs);
}

uint32_t ovm_flow_add(struct ovm_flow *flow, uint32_t from, uint32_t to, int64_t cap, int32_t cost)
{
	OVM_ASSERT(from < flow->n && to < flow->n && cap >= 0 && cost >= 0);
	ovm_vec_push(&flow->arcs, (struct ovm_flow_arc){from, to, cost, cap, 0});
	return flow->arcs.n - 1;
}

int64_t ovm_flow_on(const struct ovm_flow *flow, uint32_t arc)
{
	return flow->arcs.v[arc].sent;
}

static void heap_push(struct search *search, int64_t dist, uint32_t node)
{
	uint32_t i = search->heap.n;

	ovm_vec_push(&search->heap, (struct reach){dist, node});
	for (; i && dist < search->heap.v[(i - 1) / 2].dist; i = (i - 1) / 2)
		search->heap.v[i] = search->heap.v[(i - 1) / 2];
	search->heap.v[i] = (struct reach){dist, node};
}

static struct reach heap_pop(struct search *search)
{
	struct reach *v = search->heap.v, top = v[0], last = v[--search->heap.n];
	uint32_t n = search->heap.n, i = 0, child;

	while ((child = 2 * i + 1) < n) {
		if (child + 1 < n && v[child + 1].dist < v[child].dist)
			child++;
		if (v[child].dist >= last.dist)
			break;
		v[i] = v[child];
		i = child;
	}
	v[i] = last;
	return top;
}

static int64_t reduced_cost(const struct search *search, uint32_t from, const struct half *half)
{
	return half->cost + search->potential[from] - search->potential[half->to];
}

/* Reach every neighbour of @node that comes nearer this way and not beyond the sink. */
static void relax(struct search *search, uint32_t node)
{
	for (uint32_t a = search->first[node]; a < search->first[node + 1]; a++) {
		const struct half *half = &search->halves[a];
		int64_t dist;

		if (!half->left)
			continue;
		dist = search->dist[node] + reduced_cost(search, node, half);
		if (dist < search->dist[half->to] && dist < search->dist[search->dst]) {
			if (search->dist[half->to] == INT64_MAX)
				search->queue[search->n_queue++] = half->to;
			search->dist[half->to] = dist;
			heap_push(search, dist, half->to);
		}
	}
}

/* Distances from the source by reduced cost, then new potentials. Those of nodes beyond the sink
 * all change by the same amount, so the others change by the difference to it. False if the sink
 * cannot be reached. */
static bool find_distances(struct search *search)
{
	int64_t limit;

	search->heap.n = 0;
	search->n_queue = 0;
	search->queue[search->n_queue++] = search->src;
	search->dist[search->src] = 0;
	heap_push(search, 0, search->src);
	while (search->heap.n) {
		struct reach reach = heap_pop(search);

		if (reach.node == search->dst)
			break;
		if (reach.dist == search->dist[reach.node])
			relax(search, reach.node);
	}
	limit = search->dist[search->dst];
	for (uint32_t i = 0; i < search->n_queue; i++) {
		uint32_t node = search->queue[i];

		if (search->dist[node] < limit && limit != INT64_MAX)
			search->potential[node] -= limit - search->dist[node];
		search->dist[node] = INT64_MAX;
	}
	return limit != INT64_MAX;
}

static void set_level(struct search *search, uint32_t node, uint32_t level)
{
	search->level[node] = level;
	search->at[node] = search->first[node];
	search->queue[search->n_queue++] = node;
}

/* Levels over arcs with room and reduced cost 0, up to the sink. */
static void find_levels(struct search *search)
{
	search->n_queue = 0;
	set_level(search, search->src, 0);
	for (uint32_t head = 0; head < search->n_queue && search->level[search->dst] == OVM_NONE;
	     head++) {
		uint32_t node = search->queue[head];

		for (uint32_t a = search->first[node]; a < search->first[node + 1]; a++) {
			const struct half *half = &search->halves[a];

			if (half->left && search->level[half->to] == OVM_NONE &&
			    reduced_cost(search, node, half) == 0)
				set_level(search, half->to, search->level[node] + 1);
		}
	}
}

static void clear_levels(struct search *search)
{
	for (uint32_t i = 0; i < search->n_queue; i++)
		search->level[search->queue[i]] = OVM_NONE;
}

/* Push what fits through path[0..n). Returns the first part of it that is full now. */
static uint32_t push(struct search *search, uint32_t n)
{
	int64_t amount = INT64_MAX;
	uint32_t full = 0;

	for (uint32_t i = 0; i < n; i++)
		if (search->halves[search->path[i]].left < amount)
			amount = search->halves[search->path[i]].left;
	for (uint32_t i = n; i-- > 0;) {
		struct half *half = &search->halves[search->path[i]];

		half->left -= amount;
		search->halves[half->twin].left += amount;
		if (!half->left)
			full = i;
	}
	return full;
}

static bool is_step(const struct search *search, uint32_t node, const struct half *half)
{
	return half->left && search->level[half->to] == search->level[node] + 1 &&
	       reduced_cost(search, node, half) == 0;
}

static uint32_t start_of(const struct search *search, uint32_t half)
{
	return search->halves[search->halves[half].twin].to;
}

/* Fill all paths of the level graph, depth first without recursion. */
static void fill_levels(struct search *search)
{
	uint32_t depth = 0, node = search->src;

	for (;;) {
		uint32_t *a = &search->at[node], end = search->first[node + 1];

		if (node == search->dst) {
			depth = push(search, depth);
			node = start_of(search, search->path[depth]);
			continue;
		}
		while (*a < end && !is_step(search, node, &search->halves[*a]))
			++*a;
		if (*a < end) {
			search->path[depth++] = *a;
			node = search->halves[*a].to;
		} else if (depth) {
			node = start_of(search, search->path[--depth]);
			search->at[node]++;
		} else {
			return;
		}
	}
}

/* Halves of all arcs, those of one node next to each other. */
static void split_arcs(struct search *search, const struct ovm_flow *flow)
{
	uint32_t *next = ovm_alloc_array((size_t)flow->n + 1, sizeof(*next));

	for (uint32_t i = 0; i < flow->arcs.n; i++) {
		search->first[flow->arcs.v[i].from + 1]++;
		search->first[flow->arcs.v[i].to + 1]++;
	}
	for (uint32_t v = 0; v < flow->n; v++)
		next[v + 1] = search->first[v + 1] += search->first[v];
	for (uint32_t i = 0; i < flow->arcs.n; i++) {
		const struct ovm_flow_arc *arc = &flow->arcs.v[i];
		uint32_t there = next[arc->from]++, back = next[arc->to]++;

		search->halves[there] = (struct half){arc->to, back, arc->cost, arc->cap};
		search->halves[back] = (struct half){arc->from, there, -arc->cost, 0};
		search->half_of[i] = there;
	}
	free(next);
}

static void search_init(struct search *search, const struct ovm_flow *flow)
{
	uint32_t n = flow->n, n_arcs = flow->arcs.n ? flow->arcs.n : 1;

	search->n = n;
	search->first = ovm_alloc_array((size_t)n + 1, sizeof(*search->first));
	search->halves = ovm_alloc_array(2 * (size_t)n_arcs, sizeof(*search->halves));
	search->half_of = ovm_alloc_array(n_arcs, sizeof(*search->half_of));
	search->potential = ovm_alloc_array(n, sizeof(*search->potential));
	search->dist = ovm_alloc_array(n, sizeof(*search->dist));
	search->level = ovm_alloc_array(n, sizeof(*search->level));
	search->at = ovm_alloc_array(n, sizeof(*search->at));
	search->path = ovm_alloc_array(n, sizeof(*search->path));
	search->queue = ovm_alloc_array(n, sizeof(*search->queue));
	memset(search->level, 0xff, n * sizeof(*search->level));
	for (uint32_t i = 0; i < n; i++)
		search->dist[i] = INT64_MAX;
	split_arcs(search, flow);
}

static void search_fini(struct search *search)
{
	free(search->first);
	free(search->halves);
	free(search->half_of);
	free(search->potential);
	free(search->dist);
	free(search->level);
	free(search->at);
	free(search->path);
	free(search->queue);
	ovm_vec_free(&search->heap);
}

bool ovm_flow_solve(struct ovm_flow *flow, uint32_t src, uint32_t dst, uint32_t max_phases)
{
	struct search search = {.src = src, .dst = dst};
	bool finished = false;

	OVM_ASSERT(src < flow->n && dst < flow->n && src != dst);
	search_init(&search, flow);
	for (uint32_t i = 0; i < max_phases && !finished; i++) {
		finished = !find_distances(&search);
		if (finished)
			break;
		find_levels(&search);
		fill_levels(&search);
		clear_levels(&search);
	}
	for (uint32_t i = 0; i < flow->arcs.n; i++)
		flow->arcs.v[i].sent = flow->arcs.v[i].cap - search.halves[search.half_of[i]].left;
	search_fini(&search);
	return finished;
}
