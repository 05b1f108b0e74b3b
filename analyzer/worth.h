#ifndef OVM_WORTH_H
#define OVM_WORTH_H
/* Which copies are worth it: see worth.c. */
#include "analyzer/promote.h"

/* @calls: of ovm_program_calls. @promotions: indirect calls that will be direct ones where both
 * ends are copied. @gain:
 * [program->cfgs.n], by how much the copy's order beats the original one (ext-TSP score, as in
 * layout.h). @is_worth: [program->cfgs.n], caller's; receives false for graphs better left where
 * they are, true for all others (also for those without exact counts). Returns how many are not
 * worth it. Deterministic. */
uint32_t ovm_worth_choose(const struct ovm_program *program, const ovm_calls *calls,
			  const ovm_promotions *promotions, const double *gain, bool *is_worth);

#endif
