#ifndef OVM_PATCHPLAN_H
#define OVM_PATCHPLAN_H
/* Which original instructions are overwritten by a jump into the overlay (rule R6). */
#include "rewriter/emit.h"

/* Fill overlay->patches, ascending: one 5-byte jump at each region start that is entered from
 * elsewhere and has room. The map must be indexed. A region without a patch is still entered by
 * direct branches from other copies. */
void ovm_patchplan(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay);

#endif
