/* Layout -> code bytes and map. Two steps with relax.c between them:
 *
 *   plan    each slot becomes a piece: how many instructions are copied, which branches end it,
 * where these go write   copy the instructions (rule R3), fix displacements, write the branches,
 * one map entry an instruction
 *
 * What changes against the original, and nothing else:
 *   - a conditional branch may be inverted so that its likelier way is the next piece;
 *   - a jmp to the next piece is left out, and a jmp is put where the fall-through successor is not
 * the next piece;
 *   - a branch to a block that is only `jmp X` goes to X;
 *   - trailing nops of a block that falls through (the compiler's alignment of the next block) are
 * left out;
 *   - a jump table's load gets another displacement (tables.c);
 *   - a call of a PLT stub becomes a call through the stub's GOT slot (lazy binding still works: an
 * unresolved slot points back into the stub), one byte longer.
 */
#include "rewriter/emit.h"
#include "base/parallel.h"
#include "rewriter/count.h"
#include "rewriter/fixup.h"
#include "rewriter/relax.h"
#include "rewriter/promote.h"
#include "rewriter/value.h"

#include <stdlib.h>
#include <string.h>

enum {
	MAX_HOPS = 8,	   /* jmp -> jmp chains are followed this far */
	PART_SLOTS = 8192, /* are planned, or written, by one worker at a time */
};

struct place { /* where control goes: a block of a cfg, or (bb OVM_NONE) just an address in the
		  original */
	uint32_t cfg, bb;
	ovm_va va;
};

static struct place place_at(const struct ovm_program *program, ovm_va va)
{
	struct place none = {OVM_NONE, OVM_NONE, va};
	uint32_t region = ovm_region_find(program->regions, va);
	uint32_t cfg = region == OVM_NONE ? OVM_NONE : program->cfg_of_region[region];
	if (cfg == OVM_NONE || !program->cfgs.v[cfg])
		return none;
	uint32_t bb = ovm_cfg_block_at(program->cfgs.v[cfg], va);
	return bb == OVM_NONE ? none : (struct place){cfg, bb, va};
}

static struct place place_of_edge(const struct ovm_program *program, uint32_t cfg,
				  const struct ovm_edge *edge)
{
	if (edge->dst == OVM_NONE)
		return place_at(program, edge->to);
	return (struct place){cfg, edge->dst, program->cfgs.v[cfg]->blocks[edge->dst].lo};
}

static const struct ovm_edge *edge_of_kind(const struct ovm_cfg *cfg, const struct ovm_block *block,
					   enum ovm_edge_kind kind)
{
	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
		if (cfg->edges[e].kind == (uint8_t)kind)
			return &cfg->edges[e];
	return NULL;
}

/* Skip blocks that are nothing but a direct jump, unless they may be counted. */
static struct place follow(const struct ovm_emit_plan *plan, struct place at)
{
	const struct ovm_program *program = plan->program;
	for (unsigned hop = plan->is_instrumented ? MAX_HOPS : 0;
	     hop < MAX_HOPS && at.bb != OVM_NONE; hop++) {
		const struct ovm_cfg *cfg = program->cfgs.v[at.cfg];
		const struct ovm_block *block = &cfg->blocks[at.bb];
		if (block->n_insns != 1 || cfg->insns[block->first_insn].kind != OVM_INSN_JMP)
			break;
		const struct ovm_edge *edge = edge_of_kind(cfg, block, OVM_EDGE_TAKEN);
		at = edge ? place_of_edge(program, at.cfg, edge)
			  : place_at(program, cfg->insns[block->first_insn].target);
	}
	return at;
}

static uint32_t slot_of_place(const struct ovm_emit_plan *plan, const struct place *at)
{
	return at->bb == OVM_NONE ? OVM_NONE : plan->slot_of[plan->cfg_base[at->cfg] + at->bb];
}

uint32_t ovm_emit_slot_at(const struct ovm_emit_plan *plan, ovm_va va)
{
	struct place at = place_at(plan->program, va);
	return slot_of_place(plan, &at);
}

uint32_t ovm_emit_slot_through(const struct ovm_emit_plan *plan, ovm_va va, ovm_va *landed)
{
	struct place at = follow(plan, place_at(plan->program, va));
	*landed = at.va;
	return slot_of_place(plan, &at);
}

uint32_t ovm_emit_slot_of_entry(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t bb,
				ovm_va target, ovm_va *landed)
{
	const struct ovm_cfg *graph = plan->program->cfgs.v[cfg];
	const struct ovm_block *block = &graph->blocks[bb];
	for (uint32_t e = block->first_edge;
	     plan->is_instrumented && e < block->first_edge + block->n_edges; e++) {
		uint32_t probe = graph->edges[e].to.v == target.v
				     ? ovm_count_edge_probe(plan, cfg, bb, e)
				     : OVM_NONE;
		if (probe == OVM_NONE)
			continue;
		*landed = target;
		return plan->stub_of[probe];
	}
	return ovm_emit_slot_through(plan, target, landed);
}

/* --- plan
 * ------------------------------------------------------------------------------------------------------
 */

struct planner { /* of one part of the slots */
	const struct ovm_emit_plan *plan;
	struct ovm_piece *pieces; /* the plan's */
	uint32_t first, end;	  /* slots */
	OVM_VEC(ovm_va) originals;
	uint32_t base; /* where they are in the plan's */
};

static uint32_t dest_at(struct planner *p, const struct place *at)
{
	uint32_t slot = slot_of_place(p->plan, at);
	if (slot != OVM_NONE)
		return slot;
	ovm_vec_push(&p->originals, at->va);
	return (p->originals.n - 1) | OVM_DEST_ORIGINAL;
}

/* True if slot @i + 1 stands right behind slot @i and is a copy of @at. */
static bool is_next(const struct ovm_emit_plan *plan, uint32_t i, const struct place *at)
{
	if (at->bb == OVM_NONE || i + 1 >= plan->layout->slots.n || i + 1 == plan->layout->n_hot)
		return false;
	const struct ovm_slot *next = &plan->layout->slots.v[i + 1];
	return next->cfg == at->cfg && next->block == at->bb && ovm_slot_is_block(next);
}

/* One way out of a block: where the original goes, and where that leads in the end. */
struct way {
	struct place at, end;
	uint64_t count;
	uint32_t stub; /* slot that counts it, OVM_NONE */
	bool next;     /* it is the next piece */
};

static struct way way_out(const struct ovm_emit_plan *plan, uint32_t i, enum ovm_edge_kind kind,
			  ovm_va to)
{
	const struct ovm_program *program = plan->program;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = program->cfgs.v[slot->cfg];
	const struct ovm_edge *edge = edge_of_kind(cfg, &cfg->blocks[slot->block], kind);
	struct way way;
	way.at =
	    edge ? place_of_edge(program, slot->cfg, edge) : (struct place){OVM_NONE, OVM_NONE, to};
	way.end = follow(plan, way.at);
	way.count = edge ? edge->count : 0;
	uint32_t probe =
	    edge && plan->is_instrumented
		? ovm_count_edge_probe(plan, slot->cfg, slot->block, (uint32_t)(edge - cfg->edges))
		: OVM_NONE;
	way.stub = probe == OVM_NONE ? OVM_NONE : plan->stub_of[probe];
	way.next =
	    way.stub == OVM_NONE && (is_next(plan, i, &way.at) || is_next(plan, i, &way.end));
	return way;
}

static uint32_t dest_of(struct planner *p, const struct way *way)
{
	return way->stub == OVM_NONE ? dest_at(p, &way->end) : way->stub;
}

static void end_jump(struct planner *p, uint32_t i, struct way way, uint8_t flags)
{
	struct ovm_piece *piece = &p->pieces[i];
	if (way.next) {
		piece->flags |= OVM_PIECE_FALLS;
		return;
	}
	piece->shape = OVM_SHAPE_JMP;
	piece->flags |= flags;
	piece->dest[0] = dest_of(p, &way);
}

static void end_cond(struct planner *p, uint32_t i, uint8_t cc, struct way taken, struct way fall)
{
	struct ovm_piece *piece = &p->pieces[i];
	bool invert = !fall.next && (taken.next || fall.count > taken.count);
	const struct way *first = invert ? &fall : &taken, *second = invert ? &taken : &fall;
	piece->cc = invert ? cc ^ 1 : cc;
	piece->flags |= invert ? OVM_PIECE_INVERTED : 0;
	piece->shape = second->next ? OVM_SHAPE_JCC : OVM_SHAPE_JCC_JMP;
	piece->flags |= second->next ? OVM_PIECE_FALLS : 0;
	piece->dest[0] = dest_of(p, first);
	if (!second->next)
		piece->dest[1] = dest_of(p, second);
}

static void end_jcxz(struct planner *p, uint32_t i, uint8_t len, struct way taken, struct way fall)
{
	struct ovm_piece *piece = &p->pieces[i];
	piece->shape = OVM_SHAPE_JCXZ;
	piece->cc = len;
	piece->dest[0] = dest_of(p, &fall);
	piece->dest[1] = dest_of(p, &taken);
}

static uint32_t drop_nops(const struct ovm_cfg *cfg, const struct ovm_block *block, uint32_t n)
{
	while (n && cfg->insns[block->first_insn + n - 1].kind == OVM_INSN_NOP)
		n--;
	return n;
}

static void plan_end(struct planner *p, uint32_t i)
{
	const struct ovm_emit_plan *plan = p->plan;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = plan->program->cfgs.v[slot->cfg];
	const struct ovm_block *block = &cfg->blocks[slot->block];
	const struct ovm_insn *last = ovm_block_last(cfg, slot->block);
	struct ovm_piece *piece = &p->pieces[i];
	piece->n_body = block->n_insns;
	if (last->kind == OVM_INSN_JMP) {
		piece->n_body--;
		end_jump(p, i, way_out(plan, i, OVM_EDGE_TAKEN, last->target), 0);
	} else if (last->kind == OVM_INSN_JCC) {
		piece->n_body--;
		end_cond(p, i, last->cc, way_out(plan, i, OVM_EDGE_TAKEN, last->target),
			 way_out(plan, i, OVM_EDGE_FALL, block->hi));
	} else if (last->kind == OVM_INSN_JCXZ) {
		piece->n_body--;
		end_jcxz(p, i, last->len, way_out(plan, i, OVM_EDGE_TAKEN, last->target),
			 way_out(plan, i, OVM_EDGE_FALL, block->hi));
	} else if (!ovm_insn_is_end(last)) {
		piece->n_body = drop_nops(cfg, block, piece->n_body);
		end_jump(p, i, way_out(plan, i, OVM_EDGE_FALL, block->hi), OVM_PIECE_SYNTH);
	}
}

enum { GOT_CALL_LEN = 6 }; /* ff 15 disp32: call *slot(%rip) */

/* The PLT stub a plain `e8` call goes to, NULL if none. */
static const struct ovm_plt *called_stub(const struct ovm_emit_plan *plan,
					 const struct ovm_insn *insn)
{
	if (insn->kind != OVM_INSN_CALL || insn->len != GOT_CALL_LEN - 1)
		return NULL;
	return ovm_image_plt(plan->program->image, insn->target);
}

/* Bytes of the copy of instruction @k, which is no table load. */
static uint32_t call_len(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t k)
{
	const struct ovm_insn *insn = &plan->program->cfgs.v[cfg]->insns[k];
	if (insn->kind == OVM_INSN_CALL_IND && ovm_value_slot(plan, cfg, k) != OVM_NONE)
		return OVM_VALUE_CALL_LEN;
	if (insn->kind == OVM_INSN_CALL_IND && ovm_promote_index(plan, cfg, k) != OVM_NONE)
		return ovm_promote_guard_len(plan->program->image, insn) + OVM_PROMOTE_CALL_LEN;
	return called_stub(plan, insn) ? GOT_CALL_LEN : insn->len;
}

static void plan_body(struct planner *p, uint32_t i)
{
	const struct ovm_emit_plan *plan = p->plan;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = plan->program->cfgs.v[slot->cfg];
	const struct ovm_block *block = &cfg->blocks[slot->block];
	struct ovm_piece *piece = &p->pieces[i];
	uint32_t end = block->first_insn + piece->n_body;
	piece->body = ovm_count_extra(plan, i, piece->n_body);
	if (!piece->n_body)
		return;
	const struct ovm_insn *last = &cfg->insns[end - 1];
	piece->body += (uint32_t)(last->va.v + last->len - block->lo.v);
	for (uint32_t k = block->first_insn; k < end; k++)
		piece->body += call_len(plan, slot->cfg, k) - cfg->insns[k].len;
	for (uint32_t t = ovm_tables_find(&plan->tables, slot->cfg, block->first_insn);
	     t < plan->tables.loads.n; t++) {
		const struct ovm_tables_load *load = &plan->tables.loads.v[t];
		if (load->cfg != slot->cfg || load->insn >= end)
			break;
		const struct ovm_insn *insn = &cfg->insns[load->insn];
		piece->body += (ovm_tables_is_relocated(plan, t) ? ovm_fixup_relocated_len(insn)
								 : ovm_fixup_table_load_len(insn)) -
			       insn->len;
	}
}

static void index_slots(struct ovm_emit_plan *plan)
{
	const struct ovm_program *program = plan->program;
	uint64_t n = 0;
	plan->cfg_base = ovm_alloc_array(program->cfgs.n, sizeof(*plan->cfg_base));
	for (uint32_t c = 0; c < program->cfgs.n; c++) {
		plan->cfg_base[c] = (uint32_t)n;
		n += program->cfgs.v[c] ? program->cfgs.v[c]->n_blocks : 0;
	}
	OVM_ASSERT(n < OVM_DEST_ORIGINAL && plan->layout->slots.n < OVM_DEST_ORIGINAL);
	plan->slot_of = ovm_alloc_array(n, sizeof(*plan->slot_of));
	memset(plan->slot_of, 0xff, n * sizeof(*plan->slot_of));
	for (uint32_t i = plan->layout->slots.n; i-- > 0;) {
		const struct ovm_slot *slot = &plan->layout->slots.v[i];
		OVM_ASSERT(slot->cfg < program->cfgs.n && program->cfgs.v[slot->cfg] &&
			   slot->block < program->cfgs.v[slot->cfg]->n_blocks);
		if (ovm_slot_is_block(slot) && !slot->second)
			plan->slot_of[plan->cfg_base[slot->cfg] + slot->block] = i;
	}
}

/* A stub counts and goes where the edge goes. */
static void plan_stub(struct planner *p, uint32_t i)
{
	const struct ovm_emit_plan *plan = p->plan;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	const struct ovm_cfg *cfg = plan->program->cfgs.v[slot->cfg];
	struct place to = place_of_edge(plan->program, slot->cfg, &cfg->edges[slot->stub - 1]);
	struct ovm_piece *piece = &p->pieces[i];
	piece->body = OVM_COUNTER_LEN;
	piece->shape = OVM_SHAPE_JMP;
	piece->flags = OVM_PIECE_SYNTH;
	piece->dest[0] = dest_at(p, &to);
}

static void plan_thunk(struct planner *p, uint32_t i)
{
	const struct ovm_emit_plan *plan = p->plan;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	const struct ovm_insn *insn = &plan->program->cfgs.v[slot->cfg]->insns[slot->call - 1];
	p->pieces[i].body = ovm_value_len(plan->program->image, insn);
}

/* The call as it was, and a jump back. */
static void plan_slow(struct planner *p, uint32_t i)
{
	const struct ovm_emit_plan *plan = p->plan;
	const struct ovm_slot *slot = &plan->layout->slots.v[i];
	p->pieces[i].body =
	    plan->program->cfgs.v[slot->cfg]->insns[slot->slow - 1].len + OVM_PROMOTE_BACK_LEN;
}

/* Everything but what a piece says of the next one. */
static void plan_part(void *arg, uint32_t part)
{
	struct planner *p = (struct planner *)arg + part;
	for (uint32_t i = p->first; i < p->end; i++) {
		const struct ovm_slot *slot = &p->plan->layout->slots.v[i];
		if (slot->call) {
			plan_thunk(p, i);
		} else if (slot->slow) {
			plan_slow(p, i);
		} else if (slot->stub) {
			plan_stub(p, i);
		} else {
			plan_end(p, i);
			plan_body(p, i);
		}
	}
}

/* The parts numbered their originals from 0 on. */
static void renumber(void *arg, uint32_t part)
{
	struct planner *p = (struct planner *)arg + part;
	for (uint32_t i = p->first; i < p->end; i++) {
		struct ovm_piece *piece = &p->pieces[i];
		for (unsigned k = 0; k < 2; k++)
			if (piece->dest[k] & OVM_DEST_ORIGINAL)
				piece->dest[k] += p->base;
	}
}

static void plan_pieces(struct ovm_emit_plan *plan)
{
	uint32_t n = plan->layout->slots.n, n_parts = n / PART_SLOTS + 1;
	struct planner *parts = ovm_alloc_array(n_parts, sizeof(*parts));
	uint64_t n_originals = 0;
	for (uint32_t k = 0; k < n_parts; k++)
		parts[k] = (struct planner){.plan = plan,
					    .pieces = plan->pieces,
					    .first = k * PART_SLOTS,
					    .end = k + 1 < n_parts ? (k + 1) * PART_SLOTS : n};
	ovm_parallel(n_parts, plan_part, parts);
	for (uint32_t k = 0; k < n_parts; k++) {
		parts[k].base = (uint32_t)n_originals;
		n_originals += parts[k].originals.n;
		OVM_ASSERT(n_originals < OVM_DEST_ORIGINAL);
	}
	ovm_vec_reserve(&plan->originals, (uint32_t)n_originals);
	for (uint32_t k = 0; k < n_parts; k++) {
		for (uint32_t i = 0; i < parts[k].originals.n; i++)
			ovm_vec_push(&plan->originals, parts[k].originals.v[i]);
		ovm_vec_free(&parts[k].originals);
	}
	ovm_parallel(n_parts, renumber, parts);
	free(parts);
	for (uint32_t i = 0; i + 1 < n; i++)
		if (plan->pieces[i].flags & OVM_PIECE_FALLS)
			plan->pieces[i + 1].flags |= OVM_PIECE_FALLEN;
}

int ovm_emit_plan_init(const struct ovm_program *program, const struct ovm_layout *layout,
		       const struct ovm_overlay_opts *opts, struct ovm_emit_plan *plan,
		       struct ovm_bad *bad)
{
	*plan = (struct ovm_emit_plan){.program = program,
				       .layout = layout,
				       .probes = opts->probes,
				       .is_instrumented = opts->probes && !opts->is_gauged,
				       .counters = opts->counters};
	index_slots(plan);
	int rc = ovm_tables_plan(plan, &plan->tables, bad);
	if (rc)
		return rc;
	plan->pieces = ovm_alloc_array(layout->slots.n, sizeof(*plan->pieces));
	if (plan->probes)
		ovm_count_plan(plan);
	if (plan->is_instrumented)
		ovm_value_plan(plan);
	ovm_promote_plan(plan);
	plan_pieces(plan);
	return 0;
}

void ovm_emit_plan_fini(struct ovm_emit_plan *plan)
{
	free(plan->pieces);
	free(plan->cfg_base);
	free(plan->slot_of);
	free(plan->stub_of);
	ovm_vec_free(&plan->sites);
	ovm_vec_free(&plan->promoted);
	ovm_vec_free(&plan->originals);
	ovm_tables_fini(&plan->tables);
	*plan = (struct ovm_emit_plan){0};
}

/* --- write
 * -----------------------------------------------------------------------------------------------------
 */

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
	if (!ovm_fixup_rel32(at + 2, ovm_va_add(w->base, w->off + GOT_CALL_LEN), slot))
		return OVM_REFUSE_OUT_OF_RANGE;
	map_add(w, insn->va, GOT_CALL_LEN, insn->len, OVM_MAP_CALL);
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
	const struct ovm_plt *stub = called_stub(w->plan, insn);
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
		parts[k].first = k * PART_SLOTS;
		parts[k].end = k + 1 < n_parts ? (k + 1) * PART_SLOTS : n_slots;
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
	uint32_t n_parts = plan->layout->slots.n / PART_SLOTS + 1;
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
