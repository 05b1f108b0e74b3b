#ifndef OVM_PASSES_H
#define OVM_PASSES_H
/* Which optimizations are done. */
#include "analyzer/layout.h"

enum ovm_pass {
#define PASS(id, name, is_default, text) OVM_PASS_##id,
#include "analyzer/passes.def"
#undef PASS
	OVM_N_PASSES
};

struct ovm_pass_row {
	const char *name, *text;
	bool is_default;
};
extern const struct ovm_pass_row ovm_passes[OVM_N_PASSES];

/* Sets of passes: bit 1 << enum ovm_pass. */
uint32_t ovm_passes_default(void);

/* How code is laid out with the passes in @set; @order: with REGIONS. */
struct ovm_layout_opts ovm_passes_layout(uint32_t set, enum ovm_order order);

#endif
