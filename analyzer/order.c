#include "analyzer/layout.h"
uint32_t ovm_order_regions(const struct ovm_program *program, enum ovm_order how,
			   const uint64_t *size, uint32_t *order)
{
	uint32_t n = 0;

	(void)how, (void)size;
	for (uint32_t i = 0; i < program->cfgs.n; i++)
		if (program->cfgs.v[i])
			order[n++] = i;
	return n;
}
