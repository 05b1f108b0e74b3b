/* How many branches, calls and instructions does a layout execute?
 *
 * The profile says how often each block and each edge of the original ran. Before, that is all
 * there is to add up. After, the overlay is read as it will be installed, instruction by
 * instruction, and each one is given the count of what it stands for:
 *
 *      original        count      overlay                  count
 *      A:  test                   A': test                 100    a copy runs as often as its
 * block, jne C     100 (90)         je  B'               100    a branch that was turned round is
 *      B:  ...        10          C': ...                   95    followed as often as the other
 * was jmp D      10              ret                   95    not, C:  ...        95          B':
 * ...                   10 ret        95              jmp D                 10    a jump of ours as
 * often as what f:  push        5          f:  jmp C'                 5    stands before it runs
 * on, and an original entry as often as no copy calls it
 *
 * So whatever emission does with jumps (left out, put in, threaded) is counted as it came out, not
 * as it was meant. A block that is nothing but a jump runs as often as it is not jumped over. What
 * has no copy goes on in the original and counts the same on both sides. Of a promoted call the
 * guard runs as often as its block, the direct call as often as it hits, the slow way otherwise.
 *
 * The rows are llvm-bolt's (DynoStats), so that both can be compared. As there a jump to another
 * function is a call and no branch, a call through the PLT is two calls, one of them indirect, and
 * returns are nothing. Other than there nops count as executed, a conditional jump to another
 * function is a branch too, not only a call, and the jumps at original entries are branches.
 *
 * Lines and pages: those with an instruction that ran at all, and "hot" the fewest in which 99 % of
 * the executed instructions begin.
 *
 * Limits: counts are only as good as the profile; inferred counts of caller and callee do not agree
 * with each other, so entries by a jump are counted only where counts are exact. Code whose graph
 * could not be made is left out on both sides. A copy whose original entry has no room for a jump
 * counts as if pointers led to it too. Second copies of a block count what falls into them, the
 * first one what is left; each is taken to go on as often to either side as the block does, although
 * those who come by one way may go on otherwise than those who come by another.
 */
#include "rewriter/dynostats.h"
#include "rewriter/dyno_units.h"

#include <stdlib.h>

enum { LINE_SHIFT = 6, PAGE_SHIFT = 12 };

static const char *const names[OVM_N_DYNO_ROWS] = {
#define ROW(id, name) name,
#include "rewriter/dynostats.def"
};

const char *ovm_dyno_name(enum ovm_dyno_row row)
{
	return names[row];
}

bool ovm_dyno_is_event(enum ovm_dyno_row row)
{
	return row < OVM_DYNO_LINES;
}

static uint64_t add(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* --- one side ---------------------------------------------------------------------------- */

struct side {
	const struct ovm_program *all;
	uint64_t *rows;
	ovm_dyno_units lines, pages;
};

static void count_row(struct side *side, enum ovm_dyno_row row, uint64_t n)
{
	side->rows[row] = add(side->rows[row], n);
}

static void touch(struct side *side, ovm_va va, unsigned len, uint64_t n)
{
	uint64_t last = va.v + len - 1;
	ovm_dyno_touch(&side->lines, va.v >> LINE_SHIFT, n);
	ovm_dyno_touch(&side->pages, va.v >> PAGE_SHIFT, n);
	if (last >> LINE_SHIFT != va.v >> LINE_SHIFT)
		ovm_dyno_touch(&side->lines, last >> LINE_SHIFT, 0);
	if (last >> PAGE_SHIFT != va.v >> PAGE_SHIFT)
		ovm_dyno_touch(&side->pages, last >> PAGE_SHIFT, 0);
}

/* An instruction of @block, which is part of @cfg, that ran @n times and, if it is a conditional
 * branch, was followed @taken times. */
struct run {
	const struct ovm_cfg *cfg;
	const struct ovm_block *block;
	uint64_t n, taken;
	bool is_part; /* there are other copies of the block */
};

static const struct ovm_insn *last_of(const struct run *run)
{
	return &run->cfg->insns[run->block->first_insn + run->block->n_insns - 1];
}

/* Executions of @edge in this run of its block: of many copies each one's part. */
static uint64_t part_of(const struct run *run, const struct ovm_edge *edge)
{
	uint64_t n = edge->count;
	if (run->is_part && run->block->count)
		n = (uint64_t)((double)n * (double)run->n / (double)run->block->count);
	return n < run->n ? n : run->n;
}

/* Executions of the edge of @kind out of the block. */
static uint64_t edge_count(const struct run *run, enum ovm_edge_kind kind)
{
	const struct ovm_edge *edges = &run->cfg->edges[run->block->first_edge];
	for (uint32_t e = 0; e < run->block->n_edges; e++)
		if (edges[e].kind == (uint8_t)kind)
			return part_of(run, &edges[e]);
	return 0;
}

/* The direct jump at the end of the block leads to the start of another function. */
static bool is_tail_call(const struct side *side, const struct run *run)
{
	const struct ovm_insn *last = last_of(run);
	const struct ovm_regions *regions = side->all->regions;
	uint32_t r = ovm_region_find(regions, last->target);
	if (r == OVM_NONE || regions->v.v[r].lo.v != last->target.v || regions->v.v[r].is_fragment)
		return ovm_image_plt(side->all->image, last->target) != NULL;
	return ovm_cfg_block_at(run->cfg, last->target) == OVM_NONE;
}

/* A call that ran @n times. Through the PLT it is followed by the stub's `jmp *slot(%rip)`. */
static void count_call(struct side *side, ovm_va target, uint64_t n)
{
	count_row(side, OVM_DYNO_CALLS, n);
	if (!ovm_image_plt(side->all->image, target))
		return;
	count_row(side, OVM_DYNO_PLT_CALLS, n);
	count_row(side, OVM_DYNO_CALLS, n);
	count_row(side, OVM_DYNO_INDIRECT_CALLS, n);
	count_row(side, OVM_DYNO_LOADS, n);
	count_row(side, OVM_DYNO_INSNS, n);
}

static void count_indirect_jump(struct side *side, const struct run *run)
{
	if (run->block->table != OVM_NONE) {
		count_row(side, OVM_DYNO_TABLE_JUMPS, run->n);
	} else if (run->block->flags & OVM_BLOCK_TAIL_CALL) {
		count_row(side, OVM_DYNO_CALLS, run->n);
		count_row(side, OVM_DYNO_INDIRECT_CALLS, run->n);
	} else {
		count_row(side, OVM_DYNO_UNKNOWN_JUMPS, run->n);
	}
}

static void count_cond(struct side *side, const struct ovm_insn *insn, const struct run *run)
{
	bool forward = insn->target.v > insn->va.v;
	count_row(side, forward ? OVM_DYNO_FORWARD : OVM_DYNO_BACKWARD, run->n);
	count_row(side, forward ? OVM_DYNO_FORWARD_TAKEN : OVM_DYNO_BACKWARD_TAKEN, run->taken);
}

/* Calls push, returns pop: as in llvm-bolt neither counts as a store or load. */
static void count_memory(struct side *side, const struct ovm_insn *insn, uint64_t n)
{
	bool is_stack = insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_CALL_IND ||
			insn->kind == OVM_INSN_RET;
	if ((insn->flags & OVM_INSN_LOADS) && (!is_stack || ovm_insn_has_mem(insn)))
		count_row(side, OVM_DYNO_LOADS, n);
	if ((insn->flags & OVM_INSN_STORES) && !is_stack)
		count_row(side, OVM_DYNO_STORES, n);
}

/* @insn as it stands, on whichever side. @is_ours: a jump that the original does not have. */
static void count_insn(struct side *side, const struct ovm_insn *insn, const struct run *run,
		       bool is_ours)
{
	if (!run->n)
		return;
	touch(side, insn->va, insn->len, run->n);
	count_row(side, OVM_DYNO_INSNS, run->n);
	count_memory(side, insn, run->n);
	switch ((enum ovm_insn_kind)insn->kind) {
	case OVM_INSN_JCC:
	case OVM_INSN_JCXZ:
		count_cond(side, insn, run);
		if (!is_ours && is_tail_call(side, run))
			count_call(side, last_of(run)->target, edge_count(run, OVM_EDGE_TAKEN));
		break;
	case OVM_INSN_JMP:
		if (!is_ours && is_tail_call(side, run))
			count_call(side, insn->target, run->n);
		else
			count_row(side, OVM_DYNO_UNCOND, run->n);
		break;
	case OVM_INSN_CALL:
		count_call(side, insn->target, run->n);
		break;
	case OVM_INSN_CALL_IND:
		count_row(side, OVM_DYNO_CALLS, run->n);
		count_row(side, OVM_DYNO_INDIRECT_CALLS, run->n);
		break;
	case OVM_INSN_JMP_IND:
		count_indirect_jump(side, run);
		break;
	default:
		break;
	}
}

/* Block @bb of @cfg in the original, where it runs @n times. */
static void count_original(struct side *side, const struct ovm_cfg *cfg, uint32_t bb, uint64_t n)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	struct run run = {cfg, block, n, 0, false};
	run.taken = edge_count(&run, OVM_EDGE_TAKEN);
	for (uint32_t k = block->first_insn; k < block->first_insn + block->n_insns; k++)
		count_insn(side, &cfg->insns[k], &run, false);
}

static void finish(struct side *side)
{
	uint64_t *rows = side->rows;
	rows[OVM_DYNO_COND] = add(rows[OVM_DYNO_FORWARD], rows[OVM_DYNO_BACKWARD]);
	rows[OVM_DYNO_COND_TAKEN] =
	    add(rows[OVM_DYNO_FORWARD_TAKEN], rows[OVM_DYNO_BACKWARD_TAKEN]);
	rows[OVM_DYNO_COND_NOT_TAKEN] = less(rows[OVM_DYNO_COND], rows[OVM_DYNO_COND_TAKEN]);
	rows[OVM_DYNO_TAKEN] = add(rows[OVM_DYNO_COND_TAKEN], rows[OVM_DYNO_UNCOND]);
	rows[OVM_DYNO_BRANCHES] = add(rows[OVM_DYNO_COND], rows[OVM_DYNO_UNCOND]);
	ovm_dyno_measure(&side->lines, &rows[OVM_DYNO_LINES], &rows[OVM_DYNO_HOT_LINES]);
	ovm_dyno_measure(&side->pages, &rows[OVM_DYNO_PAGES], &rows[OVM_DYNO_HOT_PAGES]);
}

/* PLT stubs are counted with the calls that go through them. */
static bool is_counted(const struct ovm_program *program, const struct ovm_cfg *cfg)
{
	return cfg && !program->regions->v.v[cfg->regions[0]].is_plt;
}

/* --- the overlay ------------------------------------------------------------------------- */

struct promoted { /* a call with a guard */
	ovm_va at;
	uint64_t hits, misses;
};

struct copies {
	struct side *side;
	struct ovm_decoder *dec;
	const struct ovm_program *program;
	const struct ovm_overlay *overlay;
	uint32_t *first;   /* [cfgs.n]: where the cfg's blocks start in what follows */
	bool *is_copied;   /* [blocks] */
	uint64_t *seconds; /* [blocks]: how often second copies run */
	uint64_t *skipped; /* [blocks]: how often a block that is only a jump was jumped over */
	OVM_VEC(struct promoted) promoted; /* ascending at */
	uint64_t *into; /* [map.v.n]: how often copies call, jump or run into this one */
	/* while the map is walked */
	struct run run;	  /* of the block at hand */
	uint64_t flow;	  /* how often control runs on into the next instruction */
	uint64_t pending; /* of the second jump behind a jrcxz */
};

static bool is_only_jump(const struct ovm_cfg *cfg, const struct ovm_block *block)
{
	return block->n_insns == 1 && cfg->insns[block->first_insn].kind == OVM_INSN_JMP;
}

/* The block that starts at @va as an index into the arrays of @c; OVM_NONE. */
static uint32_t index_at(const struct copies *c, ovm_va va)
{
	uint32_t r = ovm_region_find(c->program->regions, va);
	uint32_t cfg = r == OVM_NONE ? OVM_NONE : c->program->cfg_of_region[r];
	uint32_t bb = cfg == OVM_NONE || !c->program->cfgs.v[cfg]
			  ? OVM_NONE
			  : ovm_cfg_block_at(c->program->cfgs.v[cfg], va);
	return bb == OVM_NONE ? OVM_NONE : c->first[cfg] + bb;
}

/* Edges of copied blocks lead past copies that are only a jump (emit_plan.c). */
static void find_skipped(struct copies *c, const struct ovm_cfg *cfg, uint32_t first)
{
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];
		uint32_t to = c->is_copied[first + edge->src] ? index_at(c, edge->to) : OVM_NONE;
		if (to != OVM_NONE)
			c->skipped[to] = add(c->skipped[to], edge->count);
	}
}

static bool is_guard(const struct ovm_map_entry *entry)
{
	return (entry->flags & OVM_MAP_GUARD) && (entry->flags & OVM_MAP_SYNTH);
}

static int by_address(const void *pa, const void *pb)
{
	const struct promoted *a = pa, *b = pb;
	return a->at.v < b->at.v ? -1 : a->at.v > b->at.v;
}

static struct promoted *promoted_at(const struct copies *c, ovm_va at)
{
	const struct promoted want = {.at = at};
	return c->promoted.n ? bsearch(&want, c->promoted.v, c->promoted.n,
				       sizeof(c->promoted.v[0]), by_address)
			     : NULL;
}

/* The promotions of the layout that have come to be: those with a guard in the map. */
static void find_promoted(struct copies *c, const struct ovm_layout *layout)
{
	for (uint32_t i = 0; i < c->overlay->map.v.n; i++)
		if (is_guard(&c->overlay->map.v.v[i]))
			ovm_vec_push(&c->promoted,
				     (struct promoted){c->overlay->map.v.v[i].old, 0, 0});
	if (c->promoted.n)
		qsort(c->promoted.v, c->promoted.n, sizeof(c->promoted.v[0]), by_address);
	for (uint32_t i = 0; i < layout->promotions.n; i++) {
		const struct ovm_promotion *p = &layout->promotions.v[i];
		struct promoted *to = promoted_at(c, c->program->cfgs.v[p->cfg]->insns[p->insn].va);
		if (to)
			*to = (struct promoted){to->at, p->hits, less(p->total, p->hits)};
	}
}

static void copies_init(struct copies *c, const struct ovm_layout *layout)
{
	const struct ovm_program *program = c->program;
	uint32_t n = 0, m = c->overlay->map.v.n;
	c->first = ovm_alloc_array(program->cfgs.n ? program->cfgs.n : 1, sizeof(*c->first));
	for (uint32_t i = 0; i < program->cfgs.n; i++) {
		c->first[i] = n;
		n += program->cfgs.v[i] ? program->cfgs.v[i]->n_blocks : 0;
	}
	c->is_copied = ovm_alloc_array(n ? n : 1, sizeof(*c->is_copied));
	c->seconds = ovm_alloc_array(n ? n : 1, sizeof(*c->seconds));
	c->skipped = ovm_alloc_array(n ? n : 1, sizeof(*c->skipped));
	c->into = ovm_alloc_array(m ? m : 1, sizeof(*c->into));
	for (uint32_t i = 0; i < layout->slots.n; i++) {
		const struct ovm_slot *slot = &layout->slots.v[i];
		uint32_t idx = c->first[slot->cfg] + slot->block;
		c->is_copied[idx] = true;
		c->seconds[idx] = add(c->seconds[idx], slot->second);
	}
	for (uint32_t i = 0; i < program->cfgs.n; i++)
		if (program->cfgs.v[i])
			find_skipped(c, program->cfgs.v[i], c->first[i]);
	find_promoted(c, layout);
}

static void copies_fini(struct copies *c)
{
	free(c->first);
	free(c->is_copied);
	free(c->seconds);
	free(c->skipped);
	free(c->into);
	ovm_vec_free(&c->promoted);
}

/* The copied block of @entry begins here: it runs as often as the original, but for what is jumped
 * over and for what its second copies do. What the piece before runs into it is @flow. */
static void begin_block(struct copies *c, const struct ovm_map_entry *entry,
			const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	uint64_t seconds = c->seconds[index_at(c, block->lo)];
	uint64_t n = less(block->count, seconds);
	if (is_only_jump(cfg, block))
		n = add(less(n, c->skipped[index_at(c, block->lo)]), c->flow);
	if (entry->flags & OVM_MAP_DUPLICATE)
		n = c->flow;
	c->run = (struct run){cfg, block, n, 0, seconds > 0};
}

/* Look up the block of a copied instruction, if it is not the one at hand. */
static void find_block(struct copies *c, const struct ovm_map_entry *entry)
{
	const struct ovm_block *now = c->run.block;
	uint32_t r, bb;
	if (now && ovm_va_in(entry->old, now->lo, now->hi) && entry->old.v != now->lo.v)
		return;
	r = ovm_region_find(c->program->regions, entry->old);
	OVM_ASSERT(r != OVM_NONE && c->program->cfg_of_region[r] != OVM_NONE);
	const struct ovm_cfg *cfg = c->program->cfgs.v[c->program->cfg_of_region[r]];
	bb = ovm_cfg_block_of(cfg, entry->old);
	OVM_ASSERT(bb != OVM_NONE);
	c->into[entry - c->overlay->map.v.v] = add(c->into[entry - c->overlay->map.v.v], c->flow);
	begin_block(c, entry, cfg, bb);
}

/* How often the branch at the end of the block is followed in the copy. */
static uint64_t taken_of(const struct run *run, const struct ovm_insn *insn)
{
	bool is_turned = insn->kind == OVM_INSN_JCC && insn->cc != last_of(run)->cc;
	return edge_count(run, is_turned ? OVM_EDGE_FALL : OVM_EDGE_TAKEN);
}

/* Control leaves the copy @insn @n times for its target. */
static void lead_to(struct copies *c, const struct ovm_insn *insn, uint64_t n)
{
	uint64_t off = insn->target.v - c->overlay->base.v;
	const struct ovm_map_entry *entry =
	    off < c->overlay->size ? ovm_map_new(&c->overlay->map, (uint32_t)off) : NULL;
	if (entry)
		c->into[entry - c->overlay->map.v.v] = add(c->into[entry - c->overlay->map.v.v], n);
}

/* What runs on behind @insn, and what goes elsewhere. */
static void follow(struct copies *c, const struct ovm_insn *insn, const struct run *run)
{
	c->flow = ovm_insn_is_end(insn) ? 0 : run->n;
	if (insn->kind == OVM_INSN_JCC) {
		lead_to(c, insn, run->taken);
		c->flow = less(run->n, run->taken);
	} else if (insn->kind == OVM_INSN_JCXZ) { /* past the first of the two jumps behind it */
		c->pending = run->taken;
		c->flow = less(run->n, run->taken);
	} else if (insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_JMP) {
		lead_to(c, insn, run->n);
		if (insn->kind == OVM_INSN_JMP) {
			c->flow = c->pending;
			c->pending = 0;
		}
	}
}

static void count_entry(struct copies *c, const struct ovm_map_entry *entry)
{
	bool is_ours = entry->flags & OVM_MAP_SYNTH;
	bool is_call = entry->flags & OVM_MAP_CALL, is_guarded = entry->flags & OVM_MAP_GUARD;
	const struct promoted *p = is_call || is_guarded ? promoted_at(c, entry->old) : NULL;
	if (!is_ours && (entry->flags & OVM_MAP_PAD)) {
		c->flow = 0;
		return;
	}
	if (is_guard(entry) || (!is_ours && !is_guarded))
		find_block(c, entry);
	for (uint32_t at = entry->off; at < entry->off + entry->new_len;) {
		struct ovm_insn insn;
		struct run run = c->run;
		if (!ovm_decode_one(c->dec, c->overlay->bytes + at,
				    entry->off + entry->new_len - at,
				    ovm_va_add(c->overlay->base, at), &insn))
			return;
		if (is_ours && !is_guarded)
			run.n = c->flow;
		if (p && is_call)
			run.n = is_guarded ? p->hits : p->misses;
		run.taken = p	      ? p->misses /* of the guard */
			    : is_ours ? 0
				      : taken_of(&run, &insn);
		count_insn(c->side, &insn, &run, is_ours);
		follow(c, &insn, &run);
		at += insn.len;
	}
	if (p && is_call && is_guarded) /* the slow way comes back behind it */
		c->flow = c->run.n;
}

/* Jump tables that lead to the start of their own function: rare, but no entry from outside. */
static uint64_t from_tables(const struct ovm_cfg *cfg, uint32_t bb)
{
	uint64_t n = 0;
	for (uint32_t i = cfg->first_pred[bb]; i < cfg->first_pred[bb + 1]; i++)
		if (cfg->edges[cfg->preds[i]].kind == OVM_EDGE_TABLE)
			n = add(n, cfg->edges[cfg->preds[i]].count);
	return n;
}

/* Who comes to the original entry, which is now a jump: whoever no copy led to its copy. */
static uint64_t count_patch(struct copies *c, const struct ovm_patch *patch)
{
	const struct ovm_cfg *cfg = c->program->cfgs.v[c->program->cfg_of_region[patch->region]];
	ovm_va lo = c->program->regions->v.v[patch->region].lo;
	uint32_t bb = ovm_cfg_block_at(cfg, lo);
	const struct ovm_map_entry *start = ovm_map_old(&c->overlay->map, lo);
	const struct ovm_map_entry *target = ovm_map_new(&c->overlay->map, patch->target);
	uint64_t known = from_tables(cfg, bb), n = cfg->blocks[bb].count;
	if (is_only_jump(cfg, &cfg->blocks[bb]))
		known = add(known, c->skipped[index_at(c, lo)]);
	if (start)
		known = add(known, c->into[start - c->overlay->map.v.v]);
	if (target && target != start)
		known = add(known, c->into[target - c->overlay->map.v.v]);
	n = cfg->is_exact ? less(n, known) : 0;
	if (!n)
		return 0;
	touch(c->side, patch->at, patch->len, n);
	if (patch->at.v != lo.v) /* endbr64 */
		touch(c->side, lo, 1, 0);
	count_row(c->side, OVM_DYNO_INSNS, n);
	count_row(c->side, OVM_DYNO_UNCOND, n);
	return n;
}

/* Blocks that stay in the original: of graphs without copies, and those without a slot. */
static void count_rest(struct copies *c, const struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		uint32_t idx = index_at(c, block->lo);
		uint64_t n = block->count;
		if (idx != OVM_NONE && c->is_copied[idx])
			continue;
		if (idx != OVM_NONE && is_only_jump(cfg, block))
			n = less(n, c->skipped[idx]);
		count_original(c->side, cfg, bb, n);
	}
}

static void count_after(struct copies *c, const struct ovm_layout *layout,
			struct ovm_dynostats *out)
{
	copies_init(c, layout);
	for (uint32_t i = 0; i < c->overlay->map.v.n; i++)
		count_entry(c, &c->overlay->map.v.v[i]);
	for (uint32_t i = 0; i < c->overlay->patches.n; i++)
		out->entries = add(out->entries, count_patch(c, &c->overlay->patches.v[i]));
	for (uint32_t i = 0; i < c->side->all->cfgs.n; i++)
		if (is_counted(c->side->all, c->side->all->cfgs.v[i]))
			count_rest(c, c->side->all->cfgs.v[i]);
	out->n_copied = c->overlay->n_regions;
	copies_fini(c);
}

/* --- both sides -------------------------------------------------------------------------- */

static void count_before(struct side *side, struct ovm_dynostats *out)
{
	for (uint32_t i = 0; i < side->all->cfgs.n; i++) {
		const struct ovm_cfg *cfg = side->all->cfgs.v[i];
		uint64_t insns = side->rows[OVM_DYNO_INSNS];
		if (!is_counted(side->all, cfg))
			continue;
		ovm_cfg_foreach_bb (cfg, bb)
			count_original(side, cfg, bb, cfg->blocks[bb].count);
		out->n_regions += cfg->n_regions;
		out->samples = add(out->samples, cfg->samples);
		if (cfg->is_exact)
			out->insns_exact =
			    add(out->insns_exact, side->rows[OVM_DYNO_INSNS] - insns);
	}
}

void ovm_dynostats(struct ovm_decoder *dec, const struct ovm_program *all,
		   const struct ovm_program *program, const struct ovm_layout *layout,
		   const struct ovm_overlay *overlay, struct ovm_dynostats *out)
{
	*out = (struct ovm_dynostats){0};
	struct side before = {.all = all, .rows = out->before};
	struct side after = {.all = all, .rows = out->after};
	struct copies c = {.side = &after, .dec = dec, .program = program, .overlay = overlay};
	count_before(&before, out);
	finish(&before);
	if (overlay) {
		count_after(&c, layout, out);
		finish(&after);
		return;
	}
	for (unsigned row = 0; row < OVM_N_DYNO_ROWS; row++)
		out->after[row] = out->before[row];
}
