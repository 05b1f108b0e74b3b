#ifndef OVM_ADOPT_H
#define OVM_ADOPT_H
/* Going on where an earlier optvm stopped, or was killed: its generations as ours. */
#include "runtime/generation.h"
#include "runtime/state.h"

struct ovm_adopted { /* modules that are not in the map any more: their files were replaced */
	OVM_VEC(struct ovm_live_module *) modules;
};

/* Everything that @set->state tells of and that is in the process becomes generations of @set
 * (fresh, its tracee's memory open), numbered as in the state. What is not there any more, or never
 * came there, is dropped from the state. Which jumps and exits are written is read from the
 * process's memory, so that it does not matter at which moment the other tool ended. *out: to be
 * freed after the set. Fails: OVM_E_TARGET (overlays were changed by somebody else), OVM_E_FORMAT,
 * OVM_E_IO. */
int ovm_adopt(struct ovm_ctx *ctx, struct ovm_generations *set, struct ovm_adopted *out);
void ovm_adopted_fini(struct ovm_adopted *adopted); /* accepts zeroed */

#endif
