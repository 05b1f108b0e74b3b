/* Pieces -> code bytes and map: copy the instructions (rule R3), fix displacements, write the branches that emit_plan.c chose and
 * relax.c placed, one map entry an instruction.
 *
 *   slots     0 ... 8191 | 8192 ... | ...      a part for a worker; each knows how many entries it will make,
 *   map       [ part 0 ] [ part 1 ]            so all write at once, and the result is the same for any number
 *
 * What is left of promoted calls is written when all others are: it jumps back behind them.
 */
#include "rewriter/emit_private.h"
#include "base/parallel.h"
#include "rewriter/count.h"
#include "rewriter/fixup.h"
#include "rewriter/relax.h"
#include "rewriter/promote.h"
#include "rewriter/value.h"

#include <stdlib.h>
#include <string.h>

struct slow { /* to be written when all others are */
	uint32_t slot;
	uint32_t entry; /* its first */
};

struct writer { /* of one part of the slots */
	const struct ovm_emit_plan *plan;
	ovm_va base;
	uint32_t tables_off;
	uint8_t *bytes;
	uint32_t *back; /* [plan->promoted.n]: offset behind the direct call of the last copy */
	uint32_t first, end;	       /* slots to write */
	struct ovm_map_entry *entries; /* of these slots */
	uint32_t n, cap;	       /* how many there are, and must be */
	uint32_t off;		       /* next byte */
	uint16_t extra;		       /* OVM_MAP_DUPLICATE while writing a second copy */
	OVM_VEC(struct slow) slow;
	struct ovm_bad bad; /* why not NONE: could not be written */
};

static void map_add(struct writer *w, ovm_va old, uint32_t new_len, uint32_t old_len,
		    uint16_t flags)
{
	OVM_ASSERT(w->n < w->cap);
	w->entries[w->n++] = (struct ovm_map_entry){old, w->off, (uint8_t)new_len, (uint8_t)old_len,
						    (uint16_t)(flags | w->extra)};
	w->off += new_len;
}

static void write_padding(struct writer *w, const struct ovm_piece *piece, ovm_va next)
{
	bool fallen = piece->flags & OVM_PIECE_FALLEN;
	if (!piece->pad)
		return;
	if (fallen)
		ovm_fixup_nops(w->bytes + w->off, piece->pad);
	else
		memset(w->bytes + w->off, 0xcc, piece->pad); /* int3 */
	map_add(w, next, piece->pad, 0, fallen ? OVM_MAP_PAD | OVM_MAP_SYNTH : OVM_MAP_PAD);
}

/* The probe of piece @i, before which stands what was at @old. */
static enum ovm_refusal write_counter(struct writer *w, uint32_t i, ovm_va old)
{
	const struct ovm_emit_plan *plan = w->plan;
	uint32_t counter = plan->probes->v.v[plan->pieces[i].probe].counter;
	if (!ovm_count_write(w->bytes + w->off, ovm_va_add(w->base, w->off), plan->counters,
			     counter))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, old, OVM_COUNTER_LEN, 0, OVM_MAP_SYNTH | OVM_MAP_COUNT);
	return OVM_REFUSE_NONE;
}

static void write_exit(struct writer *w, const struct ovm_insn *call)
{
	ovm_fixup_nops(w->bytes + w->off, OVM_EXIT_LEN);
	map_add(w, ovm_va_add(call->va, call->len), OVM_EXIT_LEN, 0,
		OVM_MAP_SYNTH | OVM_MAP_PAD | OVM_MAP_EXIT);
}

static uint16_t insn_map_flags(const struct ovm_insn *insn)
{
	if (insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_CALL_IND)
		return OVM_MAP_CALL;
	return insn->kind == OVM_INSN_SYSCALL ? OVM_MAP_SYSCALL : 0;
}

static ovm_va call_target(const struct writer *w, ovm_va target)
{
	uint32_t slot = ovm_emit_slot_at(w->plan, target);
	return slot == OVM_NONE ? target : ovm_va_add(w->base, w->plan->pieces[slot].off);
}

static enum ovm_refusal write_got_call(struct writer *w, const struct ovm_insn *insn, ovm_va slot)
{
	uint8_t *at = w->bytes + w->off;
	at[0] = 0xff;
	at[1] = 0x15;
	if (!ovm_fixup_rel32(at + 2, ovm_va_add(w->base, w->off + OVM_GOT_CALL_LEN), slot))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, insn->va, OVM_GOT_CALL_LEN, insn->len, OVM_MAP_CALL);
	return OVM_REFUSE_NONE;
}

/* The indirect call becomes a direct one of its thunk. */
static enum ovm_refusal write_thunk_call(struct writer *w, const struct ovm_insn *insn,
					 uint32_t slot)
{
	uint8_t *at = w->bytes + w->off;
	at[0] = 0xe8;
	if (!ovm_fixup_rel32(at + 1, ovm_va_add(w->base, w->off + OVM_VALUE_CALL_LEN),
			     ovm_va_add(w->base, w->plan->pieces[slot].off)))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, insn->va, OVM_VALUE_CALL_LEN, insn->len, OVM_MAP_CALL);
	return OVM_REFUSE_NONE;
}

/* Copies of one block may be written at the same time. */
static void raise_to(uint32_t *x, uint32_t value)
{
	uint32_t old = __atomic_load_n(x, __ATOMIC_RELAXED);
	while (old < value && !__atomic_compare_exchange_n(x, &old, value, true, __ATOMIC_RELAXED,
							   __ATOMIC_RELAXED))
		;
}

/* The indirect call becomes a guard and a direct call. */
static enum ovm_refusal write_promoted(struct writer *w, const struct ovm_insn *insn, uint32_t idx)
{
	uint32_t len = ovm_promote_guard_len(w->plan->program->image, insn);
	if (!ovm_promote_write_guard(w->plan, idx, w->base, w->off, w->bytes + w->off))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, insn->va, len, 0, OVM_MAP_SYNTH | OVM_MAP_GUARD);
	uint8_t *at = w->bytes + w->off;
	uint32_t callee = w->plan->promoted.v[idx].callee;
	at[0] = 0xe8;
	if (!ovm_fixup_rel32(at + 1, ovm_va_add(w->base, w->off + OVM_PROMOTE_CALL_LEN),
			     ovm_va_add(w->base, w->plan->pieces[callee].off)))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, insn->va, OVM_PROMOTE_CALL_LEN, insn->len, OVM_MAP_CALL | OVM_MAP_GUARD);
	raise_to(&w->back[idx], w->off);
	return OVM_REFUSE_NONE;
}

/* Copy one instruction; @load is its index in tables.loads or OVM_NONE. */
static enum ovm_refusal copy_insn(struct writer *w, const struct ovm_insn *insn,
				  const uint8_t *from, uint32_t load)
{
	uint8_t copy[32];
	unsigned len = insn->len;
	const struct ovm_plt *stub = ovm_emit_called_stub(w->plan, insn);
	if (stub)
		return write_got_call(w, insn, stub->slot);
	memcpy(copy, from, len);
	if (load != OVM_NONE) {
		int64_t delta = ovm_tables_delta(w->plan, w->base, w->tables_off, load);
		len = ovm_tables_is_relocated(w->plan, load)
			  ? ovm_fixup_relocated(insn, from, delta, copy)
			  : ovm_fixup_table_load(insn, copy, delta);
	}
	if (!len)
		return OVM_REFUSE_OUT_OF_RANGE;
	ovm_va next = ovm_va_add(w->base, w->off + len);
	bool direct = insn->kind == OVM_INSN_CALL;
	if (direct || (insn->flags & OVM_INSN_RIP_REL)) {
		if (insn->disp_len != 4 || insn->disp_off + 4u > len ||
		    (insn->flags & OVM_INSN_ADDR32))
			return OVM_REFUSE_SPECIAL_INSN;
		if (!ovm_fixup_rel32(copy + insn->disp_off, next,
				     direct ? call_target(w, insn->target) : insn->target))
			return OVM_REFUSE_OUT_OF_RANGE;
	}
	memcpy(w->bytes + w->off, copy, len);
	map_add(w, insn->va, len, insn->len, insn_map_flags(insn));
	return OVM_REFUSE_NONE;
}

/* Instruction @k, and what instrumentation puts around it. */
static enum ovm_refusal write_insn(struct writer *w, uint32_t i, uint32_t k, uint32_t count_at,
				   const uint8_t *from, uint32_t load)
{
	const struct ovm_slot *slot = &w->plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = w->plan->program->cfgs.v[slot->cfg];
	const struct ovm_insn *insn = &cfg->insns[k];
	enum ovm_refusal why = OVM_REFUSE_NONE;
	if (k == count_at)
		why = write_counter(w, i, insn->va);
	uint32_t thunk =
	    insn->kind == OVM_INSN_CALL_IND ? ovm_value_slot(w->plan, slot->cfg, k) : OVM_NONE;
	uint32_t promoted =
	    insn->kind == OVM_INSN_CALL_IND ? ovm_promote_index(w->plan, slot->cfg, k) : OVM_NONE;
	if (why == OVM_REFUSE_NONE && promoted != OVM_NONE)
		why = write_promoted(w, insn, promoted);
	else if (why == OVM_REFUSE_NONE)
		why = thunk == OVM_NONE ? copy_insn(w, insn, from, load)
					: write_thunk_call(w, insn, thunk);
	if (why == OVM_REFUSE_NONE && w->plan->is_instrumented &&
	    ovm_count_has_exit(cfg, slot->block, k))
		write_exit(w, insn);
	return why;
}

static enum ovm_refusal write_body(struct writer *w, uint32_t i, const uint8_t *from)
{
	const struct ovm_emit_plan *plan = w->plan;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	const struct ovm_piece *piece = &plan->pieces[i];
	const struct ovm_cfg *cfg = plan->program->cfgs.v[slot->cfg];
	const struct ovm_block *block = &cfg->blocks[slot->block];
	const struct ovm_tables_load *loads = plan->tables.loads.v;
	uint32_t t = ovm_tables_find(&plan->tables, slot->cfg, block->first_insn);
	uint32_t end = block->first_insn + piece->n_body, count_at = OVM_NONE;
	enum ovm_refusal why = OVM_REFUSE_NONE;
	if (plan->probes && piece->probe != OVM_NONE)
		count_at = ovm_count_before(cfg, &plan->probes->v.v[piece->probe]);
	for (uint32_t k = block->first_insn; k < end; k++) {
		bool is_load =
		    t < plan->tables.loads.n && loads[t].cfg == slot->cfg && loads[t].insn == k;
		why = write_insn(w, i, k, count_at, from + (cfg->insns[k].va.v - block->lo.v),
				 is_load ? t : OVM_NONE);
		if (why != OVM_REFUSE_NONE)
			return why;
		t += is_load;
	}
	if (count_at != OVM_NONE &&
	    count_at >= end) /* before a branch, or nops that were left out */
		why = write_counter(w, i, cfg->insns[end].va);
	OVM_ASSERT(why != OVM_REFUSE_NONE || w->off == piece->off + piece->body);
	return why;
}

/* Branch @k of a piece: jcc if @cc < 16, else jmp. Maps to @old; @old_len 0: the jump is ours. */
static bool write_branch(struct writer *w, const struct ovm_piece *piece, unsigned k, unsigned cc,
			 ovm_va old, uint32_t old_len)
{
	uint32_t dest = piece->dest[k], len = ovm_branch_len(piece, k);
	ovm_va to = dest & OVM_DEST_ORIGINAL ? w->plan->originals.v[dest & ~OVM_DEST_ORIGINAL]
					     : ovm_va_add(w->base, w->plan->pieces[dest].off);
	ovm_va next = ovm_va_add(w->base, w->off + len);
	uint8_t *at = w->bytes + w->off;
	if (len == 2) {
		at[0] = cc < 16 ? (uint8_t)(0x70 | cc) : 0xeb;
		at[1] = (uint8_t)(to.v - next.v);
	} else {
		if (cc < 16)
			*at++ = 0x0f;
		*at++ = cc < 16 ? (uint8_t)(0x80 | cc) : 0xe9;
		if (!ovm_fixup_rel32(at, next, to))
			return false;
	}
	map_add(w, old, len, old_len, old_len ? 0 : OVM_MAP_SYNTH);
	return true;
}

static bool write_jcxz(struct writer *w, const struct ovm_piece *piece, const struct ovm_insn *last,
		       const uint8_t *from, ovm_va fall)
{
	uint8_t *at = w->bytes + w->off;
	if (last->disp_len != 1 || last->disp_off >= last->len)
		return false;
	memcpy(at, from, last->len);
	at[last->disp_off] = (uint8_t)ovm_branch_len(piece, 0);
	map_add(w, last->va, last->len, last->len, 0);
	return write_branch(w, piece, 0, 16, fall, 0) &&
	       write_branch(w, piece, 1, 16, last->target, 0);
}

static bool write_end(struct writer *w, uint32_t i, const uint8_t *from)
{
	const struct ovm_piece *piece = &w->plan->pieces[i];
	const struct ovm_slot *slot = &w->plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = w->plan->program->cfgs.v[slot->cfg];
	const struct ovm_block *block = &cfg->blocks[slot->block];
	const struct ovm_insn *last = ovm_block_last(cfg, slot->block);
	switch ((enum ovm_shape)piece->shape) {
	case OVM_SHAPE_NONE:
		return true;
	case OVM_SHAPE_JMP:
		if (!(piece->flags & OVM_PIECE_SYNTH))
			return write_branch(w, piece, 0, 16, last->va, last->len);
		/* about to execute the nops that were left out, or what follows */
		return write_branch(w, piece, 0, 16,
				    piece->n_body < block->n_insns
					? cfg->insns[block->first_insn + piece->n_body].va
					: block->hi,
				    0);
	case OVM_SHAPE_JCC:
		return write_branch(w, piece, 0, piece->cc, last->va, last->len);
	case OVM_SHAPE_JCC_JMP:
		return write_branch(w, piece, 0, piece->cc, last->va, last->len) &&
		       write_branch(w, piece, 1, 16,
				    piece->flags & OVM_PIECE_INVERTED ? last->target : block->hi,
				    0);
	case OVM_SHAPE_JCXZ:
		return write_jcxz(w, piece, last, from + (last->va.v - block->lo.v), block->hi);
	}
	return false;
}

static enum ovm_refusal write_stub(struct writer *w, uint32_t i)
{
	const struct ovm_slot *slot = &w->plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = w->plan->program->cfgs.v[slot->cfg];
	ovm_va to = cfg->edges[slot->stub - 1].to;
	w->extra = 0;
	enum ovm_refusal why = write_counter(w, i, to);
	if (why == OVM_REFUSE_NONE && !write_branch(w, &w->plan->pieces[i], 0, 16, to, 0))
		why = OVM_REFUSE_OUT_OF_RANGE;
	return why;
}

static enum ovm_refusal write_thunk(struct writer *w, uint32_t i)
{
	const struct ovm_slot *slot = &w->plan->layout->slots.v[i];
	ovm_va call = w->plan->program->cfgs.v[slot->cfg]->insns[slot->call - 1].va;
	w->extra = 0;
	if (!ovm_value_write(w->plan, i, ovm_va_add(w->base, w->off), w->bytes + w->off))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, call, w->plan->pieces[i].body, 0, OVM_MAP_PAD | OVM_MAP_THUNK);
	return OVM_REFUSE_NONE;
}

/* When all copies of the block that the call is in are written, so where they go on is known. */
static enum ovm_refusal write_slow(struct writer *w, uint32_t i, const uint8_t *from)
{
	const struct ovm_slot *slot = &w->plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = w->plan->program->cfgs.v[slot->cfg];
	const struct ovm_insn *insn = &cfg->insns[slot->slow - 1];
	uint32_t back = w->back[ovm_promote_index(w->plan, slot->cfg, slot->slow - 1)];
	OVM_ASSERT(back);
	w->extra = 0;
	enum ovm_refusal why =
	    copy_insn(w, insn, from + (insn->va.v - cfg->blocks[slot->block].lo.v), OVM_NONE);
	if (why != OVM_REFUSE_NONE)
		return why;
	uint8_t *at = w->bytes + w->off;
	at[0] = 0xe9;
	if (!ovm_fixup_rel32(at + 1, ovm_va_add(w->base, w->off + OVM_PROMOTE_BACK_LEN),
			     ovm_va_add(w->base, back)))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, ovm_va_add(insn->va, insn->len), OVM_PROMOTE_BACK_LEN, 0, OVM_MAP_SYNTH);
	return OVM_REFUSE_NONE;
}

static enum ovm_refusal write_piece(struct writer *w, uint32_t i)
{
	const struct ovm_emit_plan *plan = w->plan;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	const struct ovm_block *block = &plan->program->cfgs.v[slot->cfg]->blocks[slot->block];
	const uint8_t *from =
	    ovm_image_code(plan->program->image, block->lo, block->hi.v - block->lo.v);
	if (!from)
		return OVM_REFUSE_NOT_IN_TEXT;
	if (slot->stub)
		return write_stub(w, i);
	if (slot->call)
		return write_thunk(w, i);
	if (slot->slow)
		return write_slow(w, i, from);
	w->extra =
	    plan->slot_of[plan->cfg_base[slot->cfg] + slot->block] == i ? 0 : OVM_MAP_DUPLICATE;
	write_padding(w, &plan->pieces[i], block->lo);
	enum ovm_refusal why = write_body(w, i, from);
	if (why != OVM_REFUSE_NONE)
		return why;
	return write_end(w, i, from) ? OVM_REFUSE_NONE : OVM_REFUSE_OUT_OF_RANGE;
}

/* Promoted calls in the body of slot @i: each has a guard of its own. */
static uint32_t count_guards(const struct ovm_emit_plan *plan, uint32_t i)
{
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	uint32_t first = plan->program->cfgs.v[slot->cfg]->blocks[slot->block].first_insn, n = 0;
	if (!plan->promoted.n || !ovm_slot_is_block(slot))
		return 0;
	for (uint32_t k = first; k < first + plan->pieces[i].n_body; k++)
		n += ovm_promote_index(plan, slot->cfg, k) != OVM_NONE;
	return n;
}

/* Exact number of map entries of slot @i. */
static uint32_t count_entries(const struct ovm_emit_plan *plan, uint32_t i)
{
	const struct ovm_piece *piece = &plan->pieces[i];
	return piece->n_body + (piece->pad != 0) + (ovm_branch_len(piece, 0) != 0) +
	       (ovm_branch_len(piece, 1) != 0) + (piece->shape == OVM_SHAPE_JCXZ) +
	       ovm_count_entries(plan, i) + !!plan->layout->slots.v[i].call +
	       (plan->layout->slots.v[i].slow ? 2 : 0) + count_guards(plan, i);
}

static bool write_or_refuse(struct writer *w, uint32_t i)
{
	enum ovm_refusal why = write_piece(w, i);
	if (why != OVM_REFUSE_NONE)
		w->bad = (struct ovm_bad){w->plan->layout->slots.v[i].cfg, why};
	return why == OVM_REFUSE_NONE;
}

static void count_part(void *arg, uint32_t part)
{
	struct writer *w = (struct writer *)arg + part;
	for (uint32_t i = w->first; i < w->end; i++)
		w->cap += count_entries(w->plan, i);
}

/* All but the promoted calls as they were: these go back to behind the direct ones, which may be
 * another part's. */
static void write_part(void *arg, uint32_t part)
{
	struct writer *w = (struct writer *)arg + part;
	const struct ovm_emit_plan *plan = w->plan;
	if (w->first < w->end)
		w->off = plan->pieces[w->first].off - plan->pieces[w->first].pad;
	for (uint32_t i = w->first; i < w->end; i++) {
		const struct ovm_piece *piece = &plan->pieces[i];
		if (i == plan->layout->n_hot)
			w->off = plan->cold_off;
		OVM_ASSERT(w->off + piece->pad == piece->off);
		if (plan->layout->slots.v[i].slow) {
			ovm_vec_push(&w->slow, ((struct slow){i, w->n}));
			w->off += piece->pad + ovm_piece_len(piece);
			w->n += count_entries(plan, i);
			continue;
		}
		if (!write_or_refuse(w, i))
			return;
	}
	OVM_ASSERT(w->n == w->cap);
}

static void write_slow_part(void *arg, uint32_t part)
{
	struct writer *w = (struct writer *)arg + part;
	for (uint32_t k = 0; k < w->slow.n; k++) {
		w->off = w->plan->pieces[w->slow.v[k].slot].off;
		w->n = w->slow.v[k].entry;
		if (!write_or_refuse(w, w->slow.v[k].slot))
			return;
	}
}

/* The parts, each with room for its entries in @map. */
static struct writer *make_parts(const struct writer *common, struct ovm_map *map, uint32_t n_parts)
{
	struct writer *parts = ovm_alloc_array(n_parts, sizeof(*parts));
	uint32_t n_slots = common->plan->layout->slots.n;
	uint64_t n = 0;
	for (uint32_t k = 0; k < n_parts; k++) {
		parts[k] = *common;
		parts[k].first = k * OVM_PART_SLOTS;
		parts[k].end = k + 1 < n_parts ? (k + 1) * OVM_PART_SLOTS : n_slots;
	}
	ovm_parallel(n_parts, count_part, parts);
	for (uint32_t k = 0; k < n_parts; k++)
		n += parts[k].cap;
	OVM_ASSERT(map->v.n == 0 && n < UINT32_MAX);
	map->v.v = ovm_realloc_array(map->v.v, n, sizeof(map->v.v[0]));
	map->v.n = map->v.cap = (uint32_t)n;
	n = 0;
	for (uint32_t k = 0; k < n_parts; k++) {
		parts[k].entries = map->v.v + n;
		n += parts[k].cap;
	}
	return parts;
}

/* The first refusal, in the order of the slots, if there is one. */
static int refusal_of(const struct writer *parts, uint32_t n_parts, struct ovm_bad *bad)
{
	for (uint32_t k = 0; k < n_parts; k++) {
		if (parts[k].bad.why == OVM_REFUSE_NONE)
			continue;
		*bad = parts[k].bad;
		return OVM_REFUSED;
	}
	return 0;
}

int ovm_emit_write(const struct ovm_emit_plan *plan, ovm_va base, uint32_t tables_off,
		   uint8_t *bytes, struct ovm_map *map, struct ovm_bad *bad)
{
	uint32_t n_parts = plan->layout->slots.n / OVM_PART_SLOTS + 1;
	uint32_t *back = ovm_alloc_array((size_t)plan->promoted.n + 1, sizeof(*back));
	struct writer common = {
	    .plan = plan, .base = base, .tables_off = tables_off, .bytes = bytes, .back = back};
	struct writer *parts = make_parts(&common, map, n_parts);
	if (plan->cold_size)
		memset(bytes + plan->hot_size, 0xcc, plan->cold_off - plan->hot_size);
	ovm_parallel(n_parts, write_part, parts);
	int rc = refusal_of(parts, n_parts, bad);
	if (!rc) {
		ovm_parallel(n_parts, write_slow_part, parts);
		rc = refusal_of(parts, n_parts, bad);
	}
	for (uint32_t k = 0; k < n_parts; k++)
		ovm_vec_free(&parts[k].slow);
	free(parts);
	free(back);
	return rc;
}
