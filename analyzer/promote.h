#ifndef OVM_PROMOTE_H
#define OVM_PROMOTE_H
/* Indirect calls that mostly reach one function: see promote.c. */
#include "analyzer/program.h"

struct ovm_promotion {
	uint32_t cfg, block, insn; /* the call: cfg->insns[insn], in a block that ran */
	uint32_t callee;	   /* region of the program that it mostly reaches, at its start */
	uint64_t hits, total;	   /* executions that reach it, of all */
};
typedef OVM_VEC(struct ovm_promotion) ovm_promotions;

/* The calls of @program worth a comparison with the address they mostly reach; sorted by (cfg,
 * insn), at most one a call. The callee's first block ran. Empty without exact counts. Caller frees
 * with ovm_vec_free. */
void ovm_promote_choose(const struct ovm_program *program, ovm_promotions *out);

/* The promotion of instruction @insn of @cfg, NULL if there is none. */
const struct ovm_promotion *ovm_promote_find(const ovm_promotions *promotions, uint32_t cfg,
					     uint32_t insn);

#endif
