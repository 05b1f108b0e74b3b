#ifndef OVM_FAULT_H
#define OVM_FAULT_H
/* Fault points: places with a name, at which a test makes us die, stop or fail. Builds with
 * -DOPTVM_DEV=ON only; elsewhere the macros are nothing and OPTVM_FAULT is not read.
 *
 *   OPTVM_FAULT=STEP[#N]:WHAT[,...]   at the N-th passage of STEP (default 1; '*': each) do WHAT
 *   STEP  a name or number of base/fault.def; OPTVM_FAULT=list prints them
 *   WHAT  kill (SIGKILL to ourselves), stop (SIGSTOP), errno=EIO (the call here fails), sleep=MS
 */
#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

#ifdef OPTVM_FAULT_POINTS

enum ovm_fault {
#define OVM_FAULT_POINT(id, name, flags, text) OVM_FAULT_##id,
#include "base/fault.def"
#undef OVM_FAULT_POINT
	OVM_N_FAULTS
};

/* Call once, before any thread is started. NULL or "": no faults. OVM_E_USAGE with a message. */
int ovm_fault_setup(struct ovm_ctx *ctx, const char *spec);
void ovm_fault_print(FILE *to);
/* Passes @point. True: errno is set, and the call that stands here is to fail. */
bool ovm_fault_pass(enum ovm_fault point);

#define OVM_FAULT(id) ((void)ovm_fault_pass(OVM_FAULT_##id))
#define OVM_FAULT_FAILS(id) ovm_fault_pass(OVM_FAULT_##id)

#else

#define OVM_FAULT(id) ((void)0)
#define OVM_FAULT_FAILS(id) false

#endif
#endif
