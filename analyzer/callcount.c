/* A call runs as often as its block does, and the block as often as its outgoing arcs together:
 *
 *   1000  call f        arcs from 1008: to 1010  7, to 1040  3       =>  1000 -> f  10
 *   1005  test ...
 *   1008  je 1040
 *
 * What is learned of a callee that was not instrumented itself (no sample has ever hit it) is how
 * often it is entered: enough to know that it is not cold.
 *
 * Limit: a call that does not return, or a throw, ends the block early: calls behind it are counted
 * as if it had not.
 */
#include "analyzer/callcount.h"

#include <stdlib.h>

void ovm_callcount_list(const struct ovm_program *program, ovm_counted_calls *out)
{
	for (uint32_t c = 0; c < program->cfgs.n; c++) {
		const struct ovm_cfg *cfg = program->cfgs.v[c];
		for (uint32_t bb = 0; cfg && bb < cfg->n_blocks; bb++) {
			const struct ovm_block *block = &cfg->blocks[bb];
			ovm_va last = ovm_block_last(cfg, bb)->va;
			if (!(block->flags & OVM_BLOCK_REACHABLE))
				continue;
			for (uint32_t k = 0; k < block->n_insns; k++) {
				const struct ovm_insn *insn = &cfg->insns[block->first_insn + k];
				uint32_t r = insn->kind == OVM_INSN_CALL
						 ? ovm_region_find(program->regions, insn->target)
						 : OVM_NONE;
				if (r != OVM_NONE &&
				    program->regions->v.v[r].lo.v == insn->target.v &&
				    !program->regions->v.v[r].is_plt)
					ovm_vec_push(out, (struct ovm_counted_call){
							      insn->va, insn->target, last});
			}
		}
	}
}

struct sum { /* of arcs from one instruction, or of calls to one place */
	ovm_va va;
	uint64_t count;
};
typedef OVM_VEC(struct sum) sums;

static int by_va(const void *a, const void *b)
{
	const ovm_va *x = a, *y = b; /* first member of struct sum */
	return (x->v > y->v) - (x->v < y->v);
}

static void add_up(sums *list)
{
	uint32_t n = 0;
	if (list->n)
		qsort(list->v, list->n, sizeof(list->v[0]), by_va);
	for (uint32_t i = 0; i < list->n; i++)
		if (n && list->v[n - 1].va.v == list->v[i].va.v)
			list->v[n - 1].count += list->v[i].count;
		else
			list->v[n++] = list->v[i];
	list->n = n;
}

static uint64_t count_of(const sums *list, ovm_va va)
{
	const struct sum *found =
	    list->n ? bsearch(&va, list->v, list->n, sizeof(list->v[0]), by_va) : NULL;
	return found ? found->count : 0;
}

static void put(struct ovm_prof_module *module, ovm_va from, ovm_va to, uint64_t count)
{
	if (count)
		ovm_vec_push(&module->edges, (struct ovm_prof_edge){from, to, count});
}

void ovm_callcount_to_profile(const ovm_counted_calls *calls, const ovm_arcs *arcs,
			      const uint64_t *counts, const ovm_va *counted, uint32_t n_counted,
			      struct ovm_prof_module *module)
{
	sums blocks = {0}, callees = {0};
	for (uint32_t i = 0; i < arcs->n; i++)
		ovm_vec_push(&blocks, (struct sum){arcs->v[i].from, counts[i]});
	add_up(&blocks);
	for (uint32_t i = 0; i < calls->n; i++) {
		const struct ovm_counted_call *call = &calls->v[i];
		uint64_t n = count_of(&blocks, call->last);
		put(module, call->at, call->to, n);
		ovm_vec_push(&callees, (struct sum){call->to, n});
	}
	add_up(&callees);
	for (uint32_t i = 0; i < callees.n; i++)
		if (!n_counted ||
		    !bsearch(&callees.v[i].va, counted, n_counted, sizeof(*counted), by_va))
			put(module, ovm_va_of(0), callees.v[i].va, callees.v[i].count);
	ovm_vec_free(&blocks);
	ovm_vec_free(&callees);
}
