#include "analyzer/exttsp.h"
#include "analyzer/layout.h"
void ovm_exttsp_order(const struct ovm_tsp_graph *graph, uint32_t *order)
{
	for (uint32_t i = 0; i < graph->n; i++)
		order[i] = i;
}
double ovm_exttsp_score(const uint32_t *order, uint32_t n, const uint64_t *sizes,
			const struct ovm_edge *edges, uint32_t n_edges, const uint32_t *out_degree)
{
	(void)order, (void)n, (void)sizes, (void)edges, (void)n_edges, (void)out_degree;
	return 0;
}
