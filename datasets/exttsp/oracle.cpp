// Makes random control-flow graphs, or with `-` reads graphs (without orders) from standard input, and asks LLVM for
// its Ext-TSP order of each; prints them with LLVM's order.
// Not part of the build. See README.md for the command.
#include "llvm/Transforms/Utils/CodeLayout.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <vector>

using namespace llvm::codelayout;

struct Graph {
	std::vector<uint64_t> sizes, counts;
	std::vector<EdgeCount> edges;
};

static uint64_t pick(std::mt19937_64 &random, uint64_t n)
{
	return random() % n;
}

// Structured: most blocks fall through, some jump near, few jump far; counts from walks through the graph.
static Graph make(std::mt19937_64 &random, unsigned n, bool structured)
{
	std::vector<std::vector<uint64_t>> succs(n);
	std::vector<std::vector<uint64_t>> taken(n);
	Graph graph;

	for (unsigned i = 0; i < n; i++) {
		graph.sizes.push_back(1 + pick(random, pick(random, 8) ? 40 : 400));
		std::set<uint64_t> to;
		if (structured) {
			unsigned kind = pick(random, 10);
			if (kind < 8 && i + 1 < n)
				to.insert(i + 1);
			if (kind < 6)
				to.insert((i + 1 + pick(random, 12)) % n);
			if (kind == 6)
				to.insert(i - pick(random, i < 10 ? i + 1 : 10));
			if (kind == 9 && !pick(random, 4))
				for (unsigned k = 0; k < 2 + n / 10; k++)
					to.insert(pick(random, n));
		} else {
			for (unsigned k = pick(random, 4); k > 0; k--)
				to.insert(pick(random, n));
		}
		succs[i].assign(to.begin(), to.end());
		taken[i].assign(to.size(), 0);
		graph.counts.push_back(0);
	}
	for (unsigned walk = 0; walk < 20; walk++) {
		uint64_t weight = 1 + pick(random, 1000);
		unsigned at = walk % 4 ? 0 : pick(random, n);
		for (unsigned step = 0; step < 3 * n; step++) {
			graph.counts[at] += weight;
			if (succs[at].empty())
				break;
			unsigned k = pick(random, 3) ? 0 : pick(random, succs[at].size());
			taken[at][k] += weight;
			at = succs[at][k];
		}
	}
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < succs[i].size(); k++)
			graph.edges.push_back({i, succs[i][k], taken[i][k]});
	return graph;
}

static void print(const Graph &graph)
{
	std::vector<uint64_t> order = computeExtTspLayout(graph.sizes, graph.counts, graph.edges);

	printf("graph %zu %zu\n", graph.sizes.size(), graph.edges.size());
	for (size_t i = 0; i < graph.sizes.size(); i++)
		printf("%llu %llu\n", (unsigned long long)graph.sizes[i], (unsigned long long)graph.counts[i]);
	for (const EdgeCount &edge : graph.edges)
		printf("%llu %llu %llu\n", (unsigned long long)edge.src, (unsigned long long)edge.dst,
		       (unsigned long long)edge.count);
	for (size_t i = 0; i < order.size(); i++)
		printf("%llu%c", (unsigned long long)order[i], i + 1 < order.size() ? ' ' : '\n');
}

static bool read(Graph &graph)
{
	unsigned n, n_edges;
	unsigned long long a, b, c;

	graph = {};
	if (scanf(" graph %u %u", &n, &n_edges) != 2)
		return false;
	for (unsigned i = 0; i < n && scanf("%llu %llu", &a, &b) == 2; i++) {
		graph.sizes.push_back(a);
		graph.counts.push_back(b);
	}
	for (unsigned i = 0; i < n_edges && scanf("%llu %llu %llu", &a, &b, &c) == 3; i++)
		graph.edges.push_back({a, b, c});
	return graph.sizes.size() == n && graph.edges.size() == n_edges;
}

int main(int argc, char **argv)
{
	Graph graph;

	if (argc > 1 && argv[1][0] == '-') {
		while (read(graph))
			print(graph);
		return 0;
	}
	std::mt19937_64 random(argc > 1 ? strtoull(argv[1], nullptr, 10) : 1);
	unsigned n_graphs = argc > 2 ? atoi(argv[2]) : 40, max = argc > 3 ? atoi(argv[3]) : 60;

	for (unsigned i = 0; i < n_graphs; i++)
		print(make(random, 2 + pick(random, max), i % 2));
}
