#include "analyzer/passes.h"

const struct ovm_pass_row ovm_passes[OVM_N_PASSES] = {
#define PASS(id, name, is_default, text) {name, text, is_default},
#include "analyzer/passes.def"
#undef PASS
};

uint32_t ovm_passes_default(void)
{
	uint32_t set = 0;

	for (int i = 0; i < OVM_N_PASSES; i++)
		set |= ovm_passes[i].is_default ? UINT32_C(1) << i : 0;
	return set;
}

static bool has(uint32_t set, enum ovm_pass pass)
{
	return set >> pass & 1;
}

struct ovm_layout_opts ovm_passes_layout(uint32_t set, enum ovm_order order)
{
	return (struct ovm_layout_opts){
	    .order = has(set, OVM_PASS_REGIONS) ? order : OVM_ORDER_ORIGINAL,
	    .tails = has(set, OVM_PASS_TAILS),
	    .promote = has(set, OVM_PASS_ICP),
	    .take_all = !has(set, OVM_PASS_WORTH),
	    .keep_block_order = !has(set, OVM_PASS_BLOCKS),
	    .drop_cold = !has(set, OVM_PASS_COLD),
	};
}
