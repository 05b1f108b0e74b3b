#ifndef OVM_TAILS_H
#define OVM_TAILS_H
/* Short ends of paths copied a second time to where they are jumped to: see tails.c. */
#include "analyzer/layout.h"

/* Put second copies of blocks (ovm_slot.second) into the hot part of @layout, each behind a slot
 * whose block would otherwise jump to it. Needs counts, exact or not. Deterministic. */
void ovm_tails_add(const struct ovm_program *program, struct ovm_layout *layout);

#endif
