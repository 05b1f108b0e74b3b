/* One line a group, in layout order:   0x401230: bb0 bb2 bb1 | cold: bb3
 * A second copy of a block (tails.h) is bb1'.
 * One line a promoted call:            promoted: 0x401250 -> 0x401400, 900 of 1000 */
#include "analyzer/layout.h"

#include <stdlib.h>

static void print_run(const struct ovm_layout *layout, uint32_t *i, uint32_t end, uint32_t cfg,
		      FILE *to)
{
	for (; *i < end && layout->slots.v[*i].cfg == cfg; ++*i)
		fprintf(to, " bb%u%s", layout->slots.v[*i].block,
			layout->slots.v[*i].second ? "'" : "");
}

static void print_group(const struct ovm_program *program, const struct ovm_layout *layout,
			uint32_t cfg, uint32_t *hot, uint32_t cold, FILE *to)
{
	ovm_va head = program->regions->v.v[program->cfgs.v[cfg]->regions[0]].lo;
	char name[160];

	fprintf(to, "%s:", ovm_region_name(program->image, head, name, sizeof(name)));
	if (hot)
		print_run(layout, hot, layout->n_hot, cfg, to);
	if (cold != OVM_NONE) {
		fprintf(to, " | cold:");
		print_run(layout, &cold, layout->slots.n, cfg, to);
	}
	fprintf(to, "\n");
}

static void print_promotions(const struct ovm_program *program, const ovm_promotions *promotions,
			     FILE *to)
{
	for (uint32_t i = 0; i < promotions->n; i++) {
		const struct ovm_promotion *p = &promotions->v[i];
		ovm_va callee = program->regions->v.v[p->callee].lo;
		char name[160];

		fprintf(to, "promoted: 0x%llx -> %s, %llu of %llu\n",
			(unsigned long long)program->cfgs.v[p->cfg]->insns[p->insn].va.v,
			ovm_region_name(program->image, callee, name, sizeof(name)),
			(unsigned long long)p->hits, (unsigned long long)p->total);
	}
}

void ovm_layout_dump(const struct ovm_program *program, const struct ovm_layout *layout, FILE *to)
{
	uint32_t n = program->cfgs.n;
	uint32_t *first_cold = ovm_alloc_array(n ? n : 1, sizeof(*first_cold));
	bool *seen = ovm_alloc_array(n ? n : 1, sizeof(*seen));

	fprintf(to, "layout: %u hot blocks, %u cold, score %.0f, originally %.0f\n", layout->n_hot,
		layout->slots.n - layout->n_hot, layout->score, layout->score_original);
	for (uint32_t i = 0; i < n; i++)
		first_cold[i] = OVM_NONE;
	for (uint32_t i = layout->slots.n; i > layout->n_hot; i--)
		first_cold[layout->slots.v[i - 1].cfg] = i - 1;
	for (uint32_t i = 0; i < layout->n_hot;) {
		uint32_t cfg = layout->slots.v[i].cfg;

		print_group(program, layout, cfg, &i, seen[cfg] ? OVM_NONE : first_cold[cfg], to);
		seen[cfg] = true;
	}
	for (uint32_t i = layout->n_hot; i < layout->slots.n; i++) {
		uint32_t cfg = layout->slots.v[i].cfg;

		if (!seen[cfg])
			print_group(program, layout, cfg, NULL, first_cold[cfg], to);
		seen[cfg] = true;
	}
	print_promotions(program, &layout->promotions, to);
	free(seen);
	free(first_cold);
}
