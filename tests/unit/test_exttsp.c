/* Block order: by hand, against LLVM's scores on recorded random graphs (datasets/exttsp), and over
 * all orders of small graphs. */
#include "analyzer/exttsp.h"
#include "analyzer/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static double score_of(const struct ovm_tsp_graph *graph, const uint32_t *order)
{
	struct ovm_edge *edges = ovm_alloc_array(graph->n_jumps + 1, sizeof(*edges));
	uint32_t *degree = ovm_alloc_array(graph->n + 1, sizeof(*degree));
	double score;

	for (uint32_t i = 0; i < graph->n_jumps; i++) {
		edges[i].src = graph->jumps[i].src;
		edges[i].dst = graph->jumps[i].dst;
		edges[i].count = graph->jumps[i].count;
		degree[edges[i].src]++;
	}
	score = ovm_exttsp_score(order, graph->n, graph->sizes, edges, graph->n_jumps, degree);
	free(degree);
	free(edges);
	return score;
}

static void assert_permutation(const uint32_t *order, uint32_t n)
{
	bool *seen = ovm_alloc_array(n + 1, sizeof(*seen));

	for (uint32_t i = 0; i < n; i++) {
		assert_true(order[i] < n);
		assert_false(seen[order[i]]);
		seen[order[i]] = true;
	}
	free(seen);
}

static double best_order(const struct ovm_tsp_graph *graph)
{
	uint32_t *order = ovm_alloc_array(graph->n + 1, sizeof(*order));
	double score;

	ovm_exttsp_order(graph, order);
	assert_permutation(order, graph->n);
	assert_int_equal(order[0], 0);
	score = score_of(graph, order);
	free(order);
	return score;
}

static void test_empty_and_one(void **state)
{
	uint64_t size = 4, count = 1;
	struct ovm_tsp_graph graph = {0};
	uint32_t order = 77;

	(void)state;
	ovm_exttsp_order(&graph, &order);
	assert_int_equal(order, 77);
	graph = (struct ovm_tsp_graph){.n = 1, .sizes = &size, .counts = &count};
	ovm_exttsp_order(&graph, &order);
	assert_int_equal(order, 0);
	assert_true(ovm_exttsp_score(&order, 0, NULL, NULL, 0, NULL) == 0);
}

static void test_hot_arm_falls_through(void **state)
{
	/* 0 -> 1 (10), 0 -> 2 (90), 1 -> 3, 2 -> 3 */
	uint64_t sizes[] = {10, 10, 10, 10}, counts[] = {100, 10, 90, 100};
	struct ovm_tsp_jump jumps[] = {{0, 1, 10}, {0, 2, 90}, {1, 3, 10}, {2, 3, 90}};
	struct ovm_tsp_graph graph = {4, sizes, counts, NULL, jumps, 4};
	uint32_t order[4];

	(void)state;
	ovm_exttsp_order(&graph, order);
	assert_int_equal(order[0], 0);
	assert_int_equal(order[1], 2);
	assert_int_equal(order[2], 3);
	assert_int_equal(order[3], 1);
}

static void test_score_weights(void **state)
{
	uint64_t sizes[] = {16, 100, 8};
	struct ovm_edge edges[] = {{.src = 0, .dst = 1, .count = 100},
				   {.src = 0, .dst = 2, .count = 1000},
				   {.src = 2, .dst = 0, .count = 10},
				   {.src = 1, .dst = 1, .count = 640}};
	uint32_t degree[] = {2, 1, 1}, order[] = {0, 1, 2};
	double want = 100 * 1.0 + 1000 * 0.1 * (1 - 100 / 1024.0) + 10 * 0.1 * (1 - 124 / 640.0) +
		      640 * 0.1 * (1 - 100 / 640.0);

	(void)state;
	assert_true(ovm_exttsp_score(order, 3, sizes, edges, 4, degree) - want < 1e-9);
	assert_true(want - ovm_exttsp_score(order, 3, sizes, edges, 4, degree) < 1e-9);
	degree[0] = 1; /* unconditional: 1.05 */
	want += 100 * 0.05;
	assert_true(ovm_exttsp_score(order, 3, sizes, edges, 4, degree) - want < 1e-9);
	/* blocks left out do not count */
	order[0] = 2;
	assert_true(ovm_exttsp_score(order, 1, sizes, edges, 4, degree) == 0);
}

static void test_huge_counts(void **state)
{
	uint64_t sizes[] = {0, UINT32_MAX, 1}, counts[] = {UINT64_MAX, UINT64_MAX, UINT64_MAX};
	struct ovm_tsp_jump jumps[] = {
	    {0, 2, UINT64_MAX}, {2, 1, UINT64_MAX}, {1, 0, UINT64_MAX}, {1, 1, 5}};
	struct ovm_tsp_graph graph = {3, sizes, counts, NULL, jumps, 4};
	uint32_t order[3];

	(void)state;
	ovm_exttsp_order(&graph, order);
	assert_int_equal(order[0], 0);
	assert_int_equal(order[1], 2);
	assert_int_equal(order[2], 1);
}

static void test_ring_without_entry(void **state)
{
	/* 1 -> 2 -> 3 -> 1, never entered; 0 alone */
	uint64_t sizes[] = {1, 1, 1, 1}, counts[] = {1, 5, 5, 5};
	struct ovm_tsp_jump jumps[] = {{1, 2, 5}, {2, 3, 5}, {3, 1, 5}};
	struct ovm_tsp_graph graph = {4, sizes, counts, NULL, jumps, 3};

	(void)state;
	assert_true(best_order(&graph) > 10);
}

/* One graph and the score of the order LLVM gave it. */
static bool read_graph(FILE *file, struct ovm_tsp_graph *graph, double *score)
{
	unsigned long long a, b, c;
	uint32_t *order;

	memset(graph, 0, sizeof(*graph));
	if (fscanf(file, " graph %u %u", &graph->n, &graph->n_jumps) != 2)
		return false;
	graph->sizes = ovm_alloc_array(graph->n, sizeof(*graph->sizes));
	graph->counts = ovm_alloc_array(graph->n, sizeof(*graph->counts));
	graph->jumps = ovm_alloc_array(graph->n_jumps + 1, sizeof(*graph->jumps));
	for (uint32_t i = 0; i < graph->n; i++) {
		assert_int_equal(fscanf(file, "%llu %llu", &a, &b), 2);
		graph->sizes[i] = a;
		graph->counts[i] = b;
	}
	for (uint32_t i = 0; i < graph->n_jumps; i++) {
		assert_int_equal(fscanf(file, "%llu %llu %llu", &a, &b, &c), 3);
		graph->jumps[i] = (struct ovm_tsp_jump){(uint32_t)a, (uint32_t)b, c};
	}
	order = ovm_alloc_array(graph->n, sizeof(*order));
	for (uint32_t i = 0; i < graph->n; i++)
		assert_int_equal(fscanf(file, "%u", &order[i]), 1);
	assert_permutation(order, graph->n);
	*score = score_of(graph, order);
	free(order);
	return true;
}

static void free_graph(struct ovm_tsp_graph *graph)
{
	free(graph->sizes);
	free(graph->counts);
	free(graph->jumps);
}

/* The tests run somewhere in the build tree: find the data from the source file's own path. */
static FILE *open_recorded(void)
{
	const char *named = getenv("OVM_EXTTSP_GRAPHS");
	char path[4096];

	if (named)
		return fopen(named, "r");
	snprintf(path, sizeof(path), "%.*s/../../datasets/exttsp/graphs.txt",
		 (int)(strrchr(__FILE__, '/') - __FILE__), __FILE__);
	return fopen(path, "r");
}

/* Not a single recorded graph is below. Among hundreds of others (OVM_EXTTSP_GRAPHS) one may be:
 * where gains tie, LLVM's rounding errors choose, and sometimes well. */
static void test_not_below_llvm(void **state)
{
	FILE *file = open_recorded();
	struct ovm_tsp_graph graph;
	double llvm, ours, sum_llvm = 0, sum_ours = 0;
	unsigned n = 0, n_below = 0;

	(void)state;
	if (!file)
		skip();
	for (; read_graph(file, &graph, &llvm); n++) {
		ours = best_order(&graph);
		sum_ours += ours;
		sum_llvm += llvm;
		if (ours < llvm * (1 - 1e-9)) {
			print_message("graph %u (%u blocks): %.3f, LLVM %.3f\n", n, graph.n, ours,
				      llvm);
			n_below++;
		}
		free_graph(&graph);
	}
	fclose(file);
	print_message("%u graphs, %u below LLVM's score; sums %.0f, LLVM %.0f\n", n, n_below,
		      sum_ours, sum_llvm);
	assert_true(n > 0);
	assert_true(n_below <= n / 250);
	assert_true(sum_ours >= sum_llvm);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void random_graph(uint64_t *seed, uint32_t n, uint32_t n_jumps, struct ovm_tsp_graph *graph)
{
	graph->n = n;
	graph->n_jumps = n_jumps;
	graph->out_degree = NULL;
	graph->sizes = ovm_alloc_array(n, sizeof(*graph->sizes));
	graph->counts = ovm_alloc_array(n, sizeof(*graph->counts));
	graph->jumps = ovm_alloc_array(n_jumps + 1, sizeof(*graph->jumps));
	for (uint32_t i = 0; i < n; i++) {
		graph->sizes[i] = 1 + next_random(seed) % 60;
		graph->counts[i] = 1;
	}
	for (uint32_t i = 0; i < n_jumps; i++)
		graph->jumps[i] = (struct ovm_tsp_jump){(uint32_t)(next_random(seed) % n),
							(uint32_t)(next_random(seed) % n),
							next_random(seed) % 1000};
}

/* Whatever the graph: every block once, the entry first (best_order() asserts it). */
static void test_any_graph(void **state)
{
	uint64_t seed = 11;

	(void)state;
	for (unsigned i = 0; i < 400; i++) {
		struct ovm_tsp_graph graph;
		uint32_t n = 2 + i % 60;

		random_graph(&seed, n, 1 + n * (1 + i % 4) / 2, &graph);
		for (uint32_t j = 0; i % 3 == 0 && j < graph.n_jumps; j++)
			graph.jumps[j].count = 100; /* ties everywhere */
		for (uint32_t j = 0; i % 5 == 0 && j < graph.n_jumps; j += 2)
			graph.jumps[j].count = 0;
		best_order(&graph);
		free_graph(&graph);
	}
}

static double optimum(const struct ovm_tsp_graph *graph, uint32_t *order, uint32_t at)
{
	double best = at == graph->n ? score_of(graph, order) : 0;

	for (uint32_t i = at; i < graph->n; i++) {
		uint32_t swap = order[at];
		double score;

		order[at] = order[i];
		order[i] = swap;
		score = optimum(graph, order, at + 1);
		best = score > best ? score : best;
		order[i] = order[at];
		order[at] = swap;
	}
	return best;
}

/* Greedy stays near the best of all orders. */
static void test_near_optimum(void **state)
{
	uint64_t seed = 42;
	double sum_ours = 0, sum_best = 0;

	(void)state;
	for (unsigned i = 0; i < 60; i++) {
		struct ovm_tsp_graph graph;
		uint32_t order[7] = {0, 1, 2, 3, 4, 5, 6};
		double ours, best;

		random_graph(&seed, 2 + i % 6, 3 + i % 9, &graph);
		ours = best_order(&graph);
		best = optimum(&graph, order, 1);
		assert_true(ours <= best * (1 + 1e-9));
		sum_ours += ours;
		sum_best += best;
		free_graph(&graph);
	}
	assert_true(sum_ours >= 0.97 * sum_best);
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* A switch with thousands of targets in a loop, and a long random graph: no blow-up. Generous bound
 * for slow sanitizer builds. */
static void test_big(void **state)
{
	uint64_t seed = 7;
	struct ovm_tsp_graph graph;
	double start = seconds();

	(void)state;
	random_graph(&seed, 10000, 15000, &graph);
	for (uint32_t i = 0; i < 5000; i++) {
		graph.jumps[i] = (struct ovm_tsp_jump){1, 2 * i, 1 + next_random(&seed) % 100};
		graph.jumps[i + 5000] = (struct ovm_tsp_jump){2 * i, 1, graph.jumps[i].count};
	}
	best_order(&graph);
	free_graph(&graph);
	print_message("switch: %.3f s\n", seconds() - start);
	start = seconds();
	random_graph(&seed, 10000, 20000, &graph);
	for (uint32_t i = 0; i < 10000; i++)
		graph.jumps[i] =
		    (struct ovm_tsp_jump){i, (i + 1) % 10000, next_random(&seed) % 1000};
	best_order(&graph);
	free_graph(&graph);
	print_message("long: %.3f s\n", seconds() - start);
	assert_true(seconds() - start < 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty_and_one),
	    cmocka_unit_test(test_hot_arm_falls_through),
	    cmocka_unit_test(test_score_weights),
	    cmocka_unit_test(test_huge_counts),
	    cmocka_unit_test(test_ring_without_entry),
	    cmocka_unit_test(test_not_below_llvm),
	    cmocka_unit_test(test_any_graph),
	    cmocka_unit_test(test_near_optimum),
	    cmocka_unit_test(test_big),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
