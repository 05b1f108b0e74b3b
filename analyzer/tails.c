/* Where many paths of a function end in the same few instructions, all but one must jump there, in
 * whatever order blocks stand. A second copy of these instructions needs no jump:
 *
 *      order found      A  E  B  C        A: ... falls into E     B: ... jmp E     E: pop; ret
 *      with a tail      A  E  B  E' C                             B: ... E': pop; ret
 *
 * A jump less is an instruction less and, above all, a taken branch less. Such ends are returns,
 * the dispatch of an interpreter's operations (`jmp *table(,%rax,8)`), tail calls. A loop's test
 * saves an instruction, and no taken branch but where it leaves the loop:
 *
 *      order found      T  body  B  X     B: ... jmp T            T: test; jne X
 *      with a tail      T  body  B  T' X                          B: ... T': test; je body
 *
 * A tail is one or more blocks that lead nowhere else, of the same region, at most TAILS_SIZE bytes
 * together: the unconditional way on from a hot block, until control is gone, may go two ways, or
 * comes to what stands next anyway. Taken are the most executed ones until TAILS_COVER of all that
 * could be saved is: the rest costs room in the hot part, which is what layout is short of.
 *
 * Nothing else has to know: a block may have several slots (layout.h), all are copies of it, each
 * proved for itself. Others' branches go to the first copy, threads are moved to it.
 *
 * What it brings, one recording each, by `optvm stats`: taken branches 63.6 M to 42.4 M in
 * lua, 86.7 M to 82.1 M in cc1plus, 130.5 M to 125.0 M in python3.11, 39.2 M to 37.1 M in
 * libLLVM, 34.8 M to 33.6 M in postgres, 67.6 M to 66.1 M in CPython at -O2, 194.5 M to 192.3 M in
 * libsqlite3; hot lines grow by 1.3 to 2.3 %. Counted by cachegrind, lua executes 0.98 % fewer
 * instructions of its training input. Time did not change by what could be told from noise, so it
 * is not done unless asked for.
 *
 * Limits: not the entry of a region, where calls are counted; a conditional branch to a tail stays
 * one.
 */
#include "analyzer/tails.h"
#include "analyzer/tunables.h"

#include <stdlib.h>

enum { MAX_BLOCKS = 6 };

struct tail {
	uint32_t slot; /* stands behind this one */
	uint32_t block[MAX_BLOCKS], n;
	uint64_t count; /* executions */
	double gain;	/* jumps saved */
};
typedef OVM_VEC(struct tail) tails;

/* --- what one slot could be followed by --------------------------------------------------------
 */

static const struct ovm_edge *edge_of(const struct ovm_cfg *cfg, uint32_t bb,
				      enum ovm_edge_kind kind)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
		if (cfg->edges[e].kind == (uint8_t)kind)
			return &cfg->edges[e];
	return NULL;
}

/* Where control goes from the end of @bb if it goes to one place only; NULL. */
static const struct ovm_edge *only_way(const struct ovm_cfg *cfg, uint32_t bb)
{
	uint8_t kind = ovm_block_last(cfg, bb)->kind;

	if (kind == OVM_INSN_JMP)
		return edge_of(cfg, bb, OVM_EDGE_TAKEN);
	if (kind == OVM_INSN_JCC || kind == OVM_INSN_JCXZ || kind == OVM_INSN_JMP_IND ||
	    kind == OVM_INSN_RET || kind == OVM_INSN_TRAP)
		return NULL;
	return edge_of(cfg, bb, OVM_EDGE_FALL);
}

/* Emission goes past such a block anyway. */
static bool is_only_jump(const struct ovm_cfg *cfg, uint32_t bb)
{
	return cfg->blocks[bb].n_insns == 1 && ovm_block_last(cfg, bb)->kind == OVM_INSN_JMP;
}

static bool can_repeat(const struct ovm_program *program, const struct ovm_cfg *cfg,
		       const struct tail *tail, uint32_t from, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	for (uint32_t i = 0; i < tail->n; i++)
		if (tail->block[i] == bb)
			return false;
	return tail->n < MAX_BLOCKS && block->region == cfg->blocks[from].region &&
	       block->lo.v != program->regions->v.v[block->region].lo.v && block->count &&
	       (block->flags & OVM_BLOCK_REACHABLE);
}

/* Jumps saved when the tail ends in the conditional branch of @bb: all if one way on is @next,
 * which stands behind it, else those of the likelier way; the other one takes another jump instead.
 */
static double gain_of_branch(const struct ovm_cfg *cfg, uint32_t bb, uint32_t next, uint64_t count)
{
	const struct ovm_edge *fall = edge_of(cfg, bb, OVM_EDGE_FALL);
	const struct ovm_edge *taken = edge_of(cfg, bb, OVM_EDGE_TAKEN);

	if (!fall || !taken)
		return 0;
	if (next != OVM_NONE && (fall->dst == next || taken->dst == next))
		return (double)count;
	double all = (double)fall->count + (double)taken->count;
	uint64_t likely = fall->count > taken->count ? fall->count : taken->count;

	return all > 0 ? (double)count * (double)likely / all : 0;
}

/* The tail behind slot @i; false if there is none worth it. */
static bool find_tail(const struct ovm_program *program, const struct ovm_layout *layout,
		      uint32_t i, struct tail *out)
{
	const struct ovm_slot *slot = &layout->slots.v[i];
	const struct ovm_cfg *cfg = program->cfgs.v[slot->cfg];
	const struct ovm_edge *way = only_way(cfg, slot->block);
	bool has_next = i + 1 < layout->n_hot && layout->slots.v[i + 1].cfg == slot->cfg;
	uint32_t next = has_next ? layout->slots.v[i + 1].block : OVM_NONE;
	uint64_t size = 0;

	*out = (struct tail){.slot = i, .count = way ? way->count : 0};
	while (way && way->dst != OVM_NONE && way->dst != next && out->count) {
		uint32_t bb = way->dst;

		if (!can_repeat(program, cfg, out, slot->block, bb))
			return false;
		out->block[out->n++] = bb;
		size += is_only_jump(cfg, bb) ? 0 : cfg->blocks[bb].hi.v - cfg->blocks[bb].lo.v;
		if (size > (uint64_t)OVM_TUNE(TAILS_SIZE))
			return false;
		uint8_t kind = ovm_block_last(cfg, bb)->kind;

		if (kind == OVM_INSN_JCXZ || kind == OVM_INSN_TRAP)
			return false;
		if (kind == OVM_INSN_JCC) {
			out->gain = gain_of_branch(cfg, bb, next, out->count);
			return out->gain > 0;
		}
		way = only_way(cfg, bb);
	}
	out->gain = (double)out->count;
	return size > 0;
}

/* --- which of them -----------------------------------------------------------------------------
 */

static int by_gain(const void *a, const void *b)
{
	const struct tail *x = a, *y = b;

	if (x->gain != y->gain)
		return x->gain > y->gain ? -1 : 1;
	return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static int by_slot(const void *a, const void *b)
{
	const struct tail *x = a, *y = b;

	return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static void keep_best(tails *list)
{
	double all = 0, seen = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < list->n; i++)
		all += list->v[i].gain;
	qsort(list->v, list->n, sizeof(list->v[0]), by_gain);
	while (n < list->n && seen * 1000 < all * (double)OVM_TUNE(TAILS_COVER))
		seen += list->v[n++].gain;
	list->n = n;
	qsort(list->v, list->n, sizeof(list->v[0]), by_slot);
}

static void insert(const tails *list, struct ovm_layout *layout)
{
	struct ovm_layout with = {0};
	uint32_t t = 0;

	for (uint32_t i = 0; i < layout->slots.n; i++) {
		if (i == layout->n_hot)
			with.n_hot = with.slots.n;
		ovm_vec_push(&with.slots, layout->slots.v[i]);
		if (t == list->n || list->v[t].slot != i)
			continue;
		for (uint32_t k = 0; k < list->v[t].n; k++)
			ovm_vec_push(&with.slots, ((struct ovm_slot){.cfg = layout->slots.v[i].cfg,
								     .block = list->v[t].block[k],
								     .align = 1,
								     .second = list->v[t].count}));
		t++;
	}
	if (layout->n_hot == layout->slots.n)
		with.n_hot = with.slots.n;
	ovm_vec_free(&layout->slots);
	layout->slots.v = with.slots.v;
	layout->slots.n = with.slots.n;
	layout->slots.cap = with.slots.cap;
	layout->n_hot = with.n_hot;
}

void ovm_tails_add(const struct ovm_program *program, struct ovm_layout *layout)
{
	tails list = {0};

	for (uint32_t i = 0; i < layout->n_hot; i++) {
		struct tail tail;

		if (find_tail(program, layout, i, &tail))
			ovm_vec_push(&list, tail);
	}
	if (list.n) {
		keep_best(&list);
		insert(&list, layout);
	}
	ovm_vec_free(&list);
}
