/* Layout -> pieces: how many instructions of each block are copied, which branches end it, where these go. First step of three:
 *
 *   plan (here)  ──▶  relax.c: lengths and offsets  ──▶  emit_write.c: bytes and map
 *
 * What changes against the original, and nothing else:
 *   - a conditional branch may be inverted so that its likelier way is the next piece;
 *   - a jmp to the next piece is left out, and a jmp is put where the fall-through successor is
 *     not the next piece;
 *   - a branch to a block that is only `jmp X` goes to X;
 *   - trailing nops of a block that falls through (the compiler's alignment of the next block)
 *     are left out;
 *   - a jump table's load gets another displacement (tables.c);
 *   - a call of a PLT stub becomes a call through the stub's GOT slot (lazy binding still works:
 *     an unresolved slot points back into the stub), one byte longer.
 */
#include "rewriter/emit_private.h"
#include "base/parallel.h"
#include "rewriter/count.h"
#include "rewriter/fixup.h"
#include "rewriter/promote.h"
#include "rewriter/value.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_HOPS = 8 }; /* jmp -> jmp chains are followed this far */

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

/* --- pieces
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

const struct ovm_plt *ovm_emit_called_stub(const struct ovm_emit_plan *plan,
					   const struct ovm_insn *insn)
{
	if (insn->kind != OVM_INSN_CALL || insn->len != OVM_GOT_CALL_LEN - 1)
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
	return ovm_emit_called_stub(plan, insn) ? OVM_GOT_CALL_LEN : insn->len;
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
	uint32_t n = plan->layout->slots.n, n_parts = n / OVM_PART_SLOTS + 1;
	struct planner *parts = ovm_alloc_array(n_parts, sizeof(*parts));
	uint64_t n_originals = 0;
	for (uint32_t k = 0; k < n_parts; k++)
		parts[k] = (struct planner){.plan = plan,
					    .pieces = plan->pieces,
					    .first = k * OVM_PART_SLOTS,
					    .end = k + 1 < n_parts ? (k + 1) * OVM_PART_SLOTS : n};
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
