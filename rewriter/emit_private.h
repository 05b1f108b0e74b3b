#ifndef OVM_EMIT_PRIVATE_H
#define OVM_EMIT_PRIVATE_H
/* What planning and writing pieces must agree on. */
#include "rewriter/emit.h"

enum {
	OVM_PART_SLOTS = 8192, /* slots that are planned, or written, by one worker at a time */
	OVM_GOT_CALL_LEN = 6,  /* ff 15 disp32: call *slot(%rip) */
};

/* The PLT stub a plain `e8` call goes to, NULL if none. */
const struct ovm_plt *ovm_emit_called_stub(const struct ovm_emit_plan *plan, const struct ovm_insn *insn);

#endif
