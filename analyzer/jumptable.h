#ifndef OVM_JUMPTABLE_H
#define OVM_JUMPTABLE_H
/* Targets of indirect jumps by backward slicing with reaching definitions (rule R4; notes, section
 * a). */
#include "analyzer/cfg.h"

enum ovm_jump_class {
	OVM_JUMP_UNKNOWN, /* might be a table, not proven */
	OVM_JUMP_TABLE,	  /* proven, *out filled */
	OVM_JUMP_TAIL, /* a pointer loaded without scaled index, a register argument, ...: no table
			*/
};

/* Classify the indirect jump that ends block @bb of a cfg whose blocks and (so far known) edges are
 * built; @out->targets stays NULL. The result may change when more edges are known: callers
 * iterate. */
struct ovm_slicer;
enum ovm_jump_class ovm_jumptable_find(struct ovm_slicer *slicer, uint32_t bb,
				       struct ovm_jumptable *out);

/* Read the targets into @targets[n_entries]. */
void ovm_jumptable_read(const struct ovm_image *image, const struct ovm_jumptable *table,
			ovm_va *targets);

#endif
