/* Function pointers keep their original values, so an indirect call that leads to a copy goes
 * through the jump at the original's entry: one more taken branch, a line of the instruction cache
 * and a page of the iTLB, for nothing but five bytes. Where nearly all calls from one place reach
 * the same function, a comparison with that function's original address makes them direct:
 *
 *      call *8(%rax)                       cmp  $f, 8(%rax)          (rewriter/promote.c)
 *        900 times f, 20 times g    ──▶    jne  1f
 *                                          call f'                   900 times, past the original
 *
 * Chosen are calls with exact counts that reach one function of the program with at least
 * PROMOTE_SHARE, most executed first, until PROMOTE_COVER of all such calls are covered: the guard
 * costs room in the hot part, which calls that hardly ever run are not worth.
 *
 * Limits: one function a call; functions of other modules are not compared with.
 */
#include "analyzer/promote.h"
#include "analyzer/tunables.h"

#include <stdlib.h>

static int by_place(const void *a, const void *b)
{
	const struct ovm_promotion *x = a, *y = b;

	if (x->cfg != y->cfg)
		return x->cfg < y->cfg ? -1 : 1;
	return x->insn < y->insn ? -1 : x->insn > y->insn;
}

static int by_place_and_hits(const void *a, const void *b)
{
	const struct ovm_promotion *x = a, *y = b;
	int place = by_place(a, b);

	if (place)
		return place;
	if (x->hits != y->hits)
		return x->hits > y->hits ? -1 : 1;
	return x->callee < y->callee ? -1 : x->callee > y->callee;
}

static int by_hits(const void *a, const void *b)
{
	const struct ovm_promotion *x = a, *y = b;

	if (x->hits != y->hits)
		return x->hits > y->hits ? -1 : 1;
	return by_place(a, b);
}

/* Does anything follow the call? */
static bool returns(const struct ovm_block *block, uint32_t insn)
{
	return insn + 1 < block->first_insn + block->n_insns || block->n_edges;
}

static bool starts_hot(const struct ovm_program *program, uint32_t region)
{
	const struct ovm_cfg *cfg = program->cfgs.v[program->cfg_of_region[region]];
	uint32_t bb = ovm_cfg_block_at(cfg, program->regions->v.v[region].lo);

	return bb != OVM_NONE && cfg->blocks[bb].count &&
	       (cfg->blocks[bb].flags & OVM_BLOCK_REACHABLE);
}

/* Every target of every counted call. */
static void list(const struct ovm_program *program, ovm_promotions *out)
{
	for (uint32_t i = 0; i < program->indirect.n; i++) {
		const struct ovm_call *call = &program->indirect.v[i];
		const struct ovm_cfg *cfg = program->cfgs.v[call->cfg];

		if (!cfg || !cfg->is_exact || !call->count ||
		    program->cfg_of_region[call->callee] == OVM_NONE ||
		    program->regions->v.v[call->callee].is_plt)
			continue;
		const struct ovm_block *block = &cfg->blocks[call->block];
		uint32_t insn = ovm_call_insn(cfg, call);

		if ((block->flags & OVM_BLOCK_REACHABLE) && returns(block, insn) &&
		    starts_hot(program, call->callee))
			ovm_vec_push(
			    out, ((struct ovm_promotion){call->cfg, call->block, insn, call->callee,
							 call->count, block->count}));
	}
}

/* Of each call the target with most hits, if these are enough. */
static void keep_likely(ovm_promotions *list)
{
	struct ovm_promotion last = {.cfg = OVM_NONE};
	uint32_t n = 0;

	for (uint32_t i = 0; i < list->n; i++) {
		struct ovm_promotion p = list->v[i];

		if (by_place(&last, &p) &&
		    (double)p.hits * 100 >= (double)OVM_TUNE(PROMOTE_SHARE) * (double)p.total)
			list->v[n++] = p;
		last = p;
	}
	list->n = n;
}

static void keep_hot(ovm_promotions *list)
{
	double all = 0, seen = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < list->n; i++)
		all += (double)list->v[i].hits;
	while (n < list->n && seen * 1000 < all * (double)OVM_TUNE(PROMOTE_COVER))
		seen += (double)list->v[n++].hits;
	list->n = n;
}

void ovm_promote_choose(const struct ovm_program *program, ovm_promotions *out)
{
	*out = (ovm_promotions){0};
	list(program, out);
	if (!out->n)
		return;
	qsort(out->v, out->n, sizeof(out->v[0]), by_place_and_hits);
	keep_likely(out);
	qsort(out->v, out->n, sizeof(out->v[0]), by_hits);
	keep_hot(out);
	qsort(out->v, out->n, sizeof(out->v[0]), by_place);
}

const struct ovm_promotion *ovm_promote_find(const ovm_promotions *promotions, uint32_t cfg,
					     uint32_t insn)
{
	const struct ovm_promotion want = {.cfg = cfg, .insn = insn};

	return promotions->n ? bsearch(&want, promotions->v, promotions->n,
				       sizeof(promotions->v[0]), by_place)
			     : NULL;
}
