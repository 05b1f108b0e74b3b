/* Minimum-cost maximum flow, primal-dual.
 *
 * Sending along one cheapest path at a time (successive shortest paths) is right but slow when many
 * paths cost the same. So each phase finds the distances from the source once (Dijkstra on reduced
 * costs, stopped at the sink), and then sends all that fits through arcs on cheapest paths at once
 * (Dinic: levels, then depth first):
 *
 *      reduced cost of u -> v:  cost + potential[u] - potential[v] >= 0 on every arc with room;  0
 * on cheapest paths
 *
 * There are as many phases as different path costs, and the costs here are small integers, so even
 * large graphs need few. Zero-cost cycles are harmless: levels keep the depth-first search from
 * running around them.
 *
 * Ahuja, Magnanti, Orlin: Network Flows, 1993, section 9.8.
 */
#include "analyzer/flow.h"
#include "base/addr.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

struct reach { /* a tentative distance */
	int64_t dist;
	uint32_t node;
};

struct search {
	struct ovm_flow *flow;
	uint32_t src, dst;
	int64_t *potential; /* [n] */
	int64_t *dist;	    /* [n] INT64_MAX between phases */
	uint32_t *level;    /* [n] steps on the cheapest-path graph; OVM_NONE between phases */
	uint32_t *at;	    /* [n] next arc to try, valid if level is */
	uint32_t *path;	    /* [n] arcs */
	uint32_t *queue;    /* [n] nodes touched by the search at hand: all that must be reset */
	uint32_t n_queue;
	OVM_VEC(struct reach) heap;
};

void ovm_flow_init(struct ovm_flow *flow, uint32_t n_nodes)
{
	memset(flow, 0, sizeof(*flow));
	flow->n = n_nodes;
	flow->first = ovm_alloc_array(n_nodes ? n_nodes : 1, sizeof(*flow->first));
	memset(flow->first, 0xff, n_nodes * sizeof(*flow->first));
}

void ovm_flow_fini(struct ovm_flow *flow)
{
	free(flow->first);
	flow->first = NULL;
	ovm_vec_free(&flow->arcs);
}

uint32_t ovm_flow_add(struct ovm_flow *flow, uint32_t from, uint32_t to, int64_t cap, int32_t cost)
{
	uint32_t arc = flow->arcs.n;

	OVM_ASSERT(from < flow->n && to < flow->n && cap >= 0 && cost >= 0);
	ovm_vec_push(&flow->arcs, (struct ovm_flow_arc){to, flow->first[from], cost, cap});
	flow->first[from] = arc;
	ovm_vec_push(&flow->arcs, (struct ovm_flow_arc){from, flow->first[to], -cost, 0});
	flow->first[to] = arc + 1;
	return arc;
}

int64_t ovm_flow_on(const struct ovm_flow *flow, uint32_t arc)
{
	return flow->arcs.v[arc ^ 1].left;
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

static int64_t reduced_cost(const struct search *search, uint32_t from,
			    const struct ovm_flow_arc *arc)
{
	return arc->cost + search->potential[from] - search->potential[arc->to];
}

/* Reach every neighbour of @node that comes nearer this way and not beyond the sink. */
static void relax(struct search *search, uint32_t node)
{
	const struct ovm_flow *flow = search->flow;

	for (uint32_t a = flow->first[node]; a != OVM_NONE; a = flow->arcs.v[a].next) {
		const struct ovm_flow_arc *arc = &flow->arcs.v[a];
		int64_t dist;

		if (!arc->left)
			continue;
		dist = search->dist[node] + reduced_cost(search, node, arc);
		if (dist < search->dist[arc->to] && dist < search->dist[search->dst]) {
			if (search->dist[arc->to] == INT64_MAX)
				search->queue[search->n_queue++] = arc->to;
			search->dist[arc->to] = dist;
			heap_push(search, dist, arc->to);
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
	search->at[node] = search->flow->first[node];
	search->queue[search->n_queue++] = node;
}

/* Levels over arcs with room and reduced cost 0. False if the sink has none. */
static bool find_levels(struct search *search)
{
	const struct ovm_flow *flow = search->flow;

	search->n_queue = 0;
	set_level(search, search->src, 0);
	for (uint32_t head = 0; head < search->n_queue && search->level[search->dst] == OVM_NONE;
	     head++) {
		uint32_t node = search->queue[head];

		for (uint32_t a = flow->first[node]; a != OVM_NONE; a = flow->arcs.v[a].next) {
			const struct ovm_flow_arc *arc = &flow->arcs.v[a];

			if (arc->left && search->level[arc->to] == OVM_NONE &&
			    reduced_cost(search, node, arc) == 0)
				set_level(search, arc->to, search->level[node] + 1);
		}
	}
	return search->level[search->dst] != OVM_NONE;
}

static void clear_levels(struct search *search)
{
	for (uint32_t i = 0; i < search->n_queue; i++)
		search->level[search->queue[i]] = OVM_NONE;
}

/* Push what fits through the arcs path[0..n). Returns the first arc that is full now. */
static uint32_t push(struct ovm_flow *flow, const uint32_t *path, uint32_t n)
{
	int64_t amount = INT64_MAX;
	uint32_t full = 0;

	for (uint32_t i = 0; i < n; i++)
		if (flow->arcs.v[path[i]].left < amount)
			amount = flow->arcs.v[path[i]].left;
	for (uint32_t i = n; i-- > 0;) {
		flow->arcs.v[path[i]].left -= amount;
		flow->arcs.v[path[i] ^ 1].left += amount;
		if (!flow->arcs.v[path[i]].left)
			full = i;
	}
	return full;
}

static bool is_step(const struct search *search, uint32_t node, const struct ovm_flow_arc *arc)
{
	return arc->left && search->level[arc->to] == search->level[node] + 1 &&
	       reduced_cost(search, node, arc) == 0;
}

/* Fill all paths of the level graph, depth first without recursion; search->path holds the arcs. */
static void fill_levels(struct search *search)
{
	struct ovm_flow *flow = search->flow;
	uint32_t depth = 0, node = search->src;

	for (;;) {
		uint32_t *a = &search->at[node];

		if (node == search->dst) {
			depth = push(flow, search->path, depth);
			node = flow->arcs.v[search->path[depth] ^ 1].to;
			continue;
		}
		while (*a != OVM_NONE && !is_step(search, node, &flow->arcs.v[*a]))
			*a = flow->arcs.v[*a].next;
		if (*a != OVM_NONE) {
			search->path[depth++] = *a;
			node = flow->arcs.v[*a].to;
		} else if (depth) {
			node = flow->arcs.v[search->path[--depth] ^ 1].to;
			search->at[node] = flow->arcs.v[search->at[node]].next;
		} else {
			return;
		}
	}
}

bool ovm_flow_solve(struct ovm_flow *flow, uint32_t src, uint32_t dst, uint32_t max_phases)
{
	struct search search = {.flow = flow, .src = src, .dst = dst};
	bool finished = false;

	OVM_ASSERT(src < flow->n && dst < flow->n && src != dst);
	search.potential = ovm_alloc_array(flow->n, sizeof(*search.potential));
	search.dist = ovm_alloc_array(flow->n, sizeof(*search.dist));
	search.level = ovm_alloc_array(flow->n, sizeof(*search.level));
	search.at = ovm_alloc_array(flow->n, sizeof(*search.at));
	search.path = ovm_alloc_array(flow->n, sizeof(*search.path));
	search.queue = ovm_alloc_array(flow->n, sizeof(*search.queue));
	memset(search.level, 0xff, flow->n * sizeof(*search.level));
	for (uint32_t i = 0; i < flow->n; i++)
		search.dist[i] = INT64_MAX;
	for (uint32_t i = 0; i < max_phases && !finished; i++) {
		finished = !find_distances(&search);
		while (!finished && find_levels(&search)) {
			fill_levels(&search);
			clear_levels(&search);
		}
		clear_levels(&search);
	}
	free(search.potential);
	free(search.dist);
	free(search.level);
	free(search.at);
	free(search.path);
	free(search.queue);
	ovm_vec_free(&search.heap);
	return finished;
}
