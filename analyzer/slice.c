/* Reaching definitions without SSA: walk backwards from the use through all predecessors until
 * every path meets a definition.
 *
 *      lea T(%rip),%r12         <- the only definition that reaches: %r12 is T
 *        │      ┌────────┐
 *        ▼      ▼        │
 *      [ loop head ]     │      calls in between keep %r12, so they define nothing here
 *        ▼               │
 *      [ movslq (%r12,%rax,4),%rax ... ]
 *
 * Places in the stack frame (frame.h) are followed as registers are.
 *
 * A path that meets a function's start or a landing pad first has a value nobody knows. If blocks
 * may be entered along edges that are not in the graph (cfg->has_unseen_entries), every block's
 * start is such a place.
 *
 * Cost: one bit test a block for blocks without a definition; MAX_VISITS blocks a question.
 */
#include "analyzer/slice.h"

#include <stdlib.h>

enum { MAX_VISITS = 1 << 16, MAX_DEPTH = 8 };

static void find_reachable(struct ovm_slicer *slicer);

void ovm_slicer_init(struct ovm_slicer *slicer, const struct ovm_image *image,
		     const struct ovm_regions *regions, const struct ovm_cfg *cfg,
		     const struct ovm_frame_rows *rows)
{
	*slicer = (struct ovm_slicer){.image = image, .regions = regions, .cfg = cfg, .rows = rows};
	slicer->block_defs = ovm_alloc_array(cfg->n_blocks, sizeof(uint32_t));
	slicer->is_reachable = ovm_alloc_array(cfg->n_blocks, sizeof(bool));
	slicer->seen = ovm_alloc_array(cfg->n_blocks, sizeof(uint32_t));
	slicer->taint = ovm_alloc_array(cfg->n_blocks, sizeof(uint64_t));
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		for (uint32_t i = 0; i < block->n_insns; i++)
			slicer->block_defs[bb] |= cfg->insns[block->first_insn + i].defs;
	}
	find_reachable(slicer);
}

void ovm_slicer_fini(struct ovm_slicer *slicer)
{
	free(slicer->block_defs);
	free(slicer->is_reachable);
	free(slicer->seen);
	free(slicer->taint);
	if (slicer->has_frame)
		ovm_frame_fini(&slicer->frame);
	ovm_vec_free(&slicer->stack);
}

static bool is_start(const struct ovm_slicer *slicer, uint32_t bb)
{
	const struct ovm_cfg *cfg = slicer->cfg;
	const struct ovm_block *block = &cfg->blocks[bb];
	if (block->flags & OVM_BLOCK_LANDING_PAD)
		return true;
	if (!(block->flags & OVM_BLOCK_REGION_START))
		return false;
	return !slicer->regions->v.v[block->region].is_fragment ||
	       cfg->first_pred[bb] == cfg->first_pred[bb + 1];
}

static bool is_root(const struct ovm_slicer *slicer, uint32_t bb)
{
	const struct ovm_cfg *cfg = slicer->cfg;
	return cfg->has_unseen_entries && cfg->first_pred[bb] == cfg->first_pred[bb + 1];
}

bool ovm_slice_is_entry(const struct ovm_slicer *slicer, uint32_t bb)
{
	return is_start(slicer, bb) || is_root(slicer, bb) ||
	       (slicer->cfg->has_unseen_entries && !slicer->is_reachable[bb]);
}

bool ovm_slice_is_edge(const struct ovm_slicer *slicer, const struct ovm_edge *edge)
{
	return slicer->is_reachable[edge->src] || slicer->cfg->has_unseen_entries;
}

static void find_reachable(struct ovm_slicer *slicer)
{
	const struct ovm_cfg *cfg = slicer->cfg;
	slicer->stack.n = 0;
	ovm_cfg_foreach_bb (cfg, bb) {
		if (!is_start(slicer, bb) && !is_root(slicer, bb))
			continue;
		slicer->is_reachable[bb] = true;
		ovm_vec_push(&slicer->stack, bb);
	}
	while (slicer->stack.n) {
		const struct ovm_block *block = &cfg->blocks[slicer->stack.v[--slicer->stack.n]];
		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			uint32_t dst = cfg->edges[e].dst;
			if (dst == OVM_NONE || slicer->is_reachable[dst])
				continue;
			slicer->is_reachable[dst] = true;
			ovm_vec_push(&slicer->stack, dst);
		}
	}
}

/* --- definitions --- */

struct place {	      /* what is defined */
	uint8_t reg;  /* OVM_REG_NONE: 8 bytes of the frame */
	int64_t slot; /* at this offset from the CFA */
};

static void add_def(struct ovm_defs *defs, uint32_t bb, uint32_t insn)
{
	if (defs->n == OVM_MAX_DEFS)
		defs->is_unknown = true;
	else
		defs->at[defs->n++] = (struct ovm_point){bb, insn};
}

static bool find_store(const struct ovm_slicer *slicer, uint32_t bb, uint32_t end, int64_t slot,
		       struct ovm_defs *out)
{
	const struct ovm_frame_store *store =
	    ovm_frame_last_store(&slicer->frame, slicer->cfg->blocks[bb].first_insn, end, slot);
	if (store && store->is_move && store->lo == slot)
		add_def(out, bb, store->insn);
	else if (store)
		out->is_unknown = true;
	return store;
}

/* Last definition of @place in block @bb before instruction @end; false if there is none. */
static bool find_in_block(const struct ovm_slicer *slicer, uint32_t bb, uint32_t end,
			  struct place place, struct ovm_defs *out)
{
	uint8_t reg = place.reg;
	if (reg == OVM_REG_NONE)
		return find_store(slicer, bb, end, place.slot, out);
	if (!(slicer->block_defs[bb] >> reg & 1))
		return false;
	for (uint32_t i = end; i-- > slicer->cfg->blocks[bb].first_insn;) {
		if (slicer->cfg->insns[i].defs >> reg & 1) {
			add_def(out, bb, i);
			return true;
		}
	}
	return false;
}

static void push_preds(struct ovm_slicer *slicer, uint32_t bb, struct ovm_defs *out)
{
	const struct ovm_cfg *cfg = slicer->cfg;
	if (ovm_slice_is_entry(slicer, bb)) {
		bool is_function =
		    (cfg->blocks[bb].flags & (OVM_BLOCK_REGION_START | OVM_BLOCK_LANDING_PAD)) ==
			OVM_BLOCK_REGION_START &&
		    cfg->first_pred[bb] == cfg->first_pred[bb + 1];
		*(is_function ? &out->from_entry : &out->is_unknown) = true;
	}
	for (uint32_t p = cfg->first_pred[bb]; p < cfg->first_pred[bb + 1]; p++) {
		const struct ovm_edge *edge = &cfg->edges[cfg->preds[p]];
		uint32_t src = edge->src;
		if (slicer->seen[src] == slicer->generation || !ovm_slice_is_edge(slicer, edge))
			continue;
		slicer->seen[src] = slicer->generation;
		ovm_vec_push(&slicer->stack, src);
	}
}

static void defs_of(struct ovm_slicer *slicer, struct ovm_point at, struct place place,
		    struct ovm_defs *out)
{
	const struct ovm_cfg *cfg = slicer->cfg;
	*out = (struct ovm_defs){0};
	slicer->generation++;
	slicer->stack.n = 0;
	if (find_in_block(slicer, at.bb, at.insn, place, out))
		return;
	push_preds(slicer, at.bb, out);
	for (uint32_t n = 0; slicer->stack.n && !out->is_unknown; n++) {
		uint32_t bb = slicer->stack.v[--slicer->stack.n];
		if (n == MAX_VISITS)
			out->is_unknown = true;
		if (!find_in_block(slicer, bb, cfg->blocks[bb].first_insn + cfg->blocks[bb].n_insns,
				   place, out))
			push_preds(slicer, bb, out);
	}
}

void ovm_slice_defs(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg,
		    struct ovm_defs *out)
{
	defs_of(slicer, at, (struct place){.reg = reg}, out);
}

bool ovm_slice_def(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg,
		   struct ovm_point *out)
{
	struct ovm_defs defs;
	if (reg >= OVM_RIP)
		return false;
	ovm_slice_defs(slicer, at, reg, &defs);
	if (defs.n != 1 || defs.from_entry || defs.is_unknown)
		return false;
	*out = defs.at[0];
	return true;
}

/* --- constants --- */

static bool const_at(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg, unsigned depth,
		     uint64_t *value);

static bool const_lea(struct ovm_slicer *slicer, struct ovm_point at, const struct ovm_insn *insn,
		      unsigned depth, uint64_t *value)
{
	uint64_t base = 0;
	if (insn->flags & OVM_INSN_ADDR32)
		return false;
	if (insn->flags & OVM_INSN_RIP_REL) {
		*value = insn->target.v;
		return true;
	}
	if (insn->index != OVM_REG_NONE ||
	    (insn->base != OVM_REG_NONE && !const_at(slicer, at, insn->base, depth, &base)))
		return false;
	*value = base + (uint64_t)(int64_t)insn->disp;
	return true;
}

/* Value of the register that the instruction at @at defines. */
static bool const_of(struct ovm_slicer *slicer, struct ovm_point at, unsigned depth,
		     uint64_t *value)
{
	const struct ovm_insn *insn = &slicer->cfg->insns[at.insn];
	bool is_self = insn->form == OVM_FORM_RR && insn->dst == insn->src;
	uint64_t x = 0;
	if (insn->dst_size < 4)
		return false;
	if (insn->op == OVM_OP_LEA) {
		if (!const_lea(slicer, at, insn, depth, &x))
			return false;
	} else if (insn->op == OVM_OP_MOV &&
		   (insn->form == OVM_FORM_RI || insn->form == OVM_FORM_MI)) {
		x = (uint64_t)insn->imm;
	} else if (insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RR) {
		if (!const_at(slicer, at, insn->src, depth, &x))
			return false;
	} else if ((insn->op == OVM_OP_ADD || insn->op == OVM_OP_SUB) &&
		   insn->form == OVM_FORM_RI) {
		if (!const_at(slicer, at, insn->dst, depth, &x))
			return false;
		x += (uint64_t)(insn->op == OVM_OP_ADD ? insn->imm : -insn->imm);
	} else if (!((insn->op == OVM_OP_XOR || insn->op == OVM_OP_SUB) && is_self)) {
		return false;
	}
	*value = insn->dst_size == 4 ? (uint32_t)x : x;
	return true;
}

struct copies { /* definitions that hand the same value on to each other */
	struct ovm_point at[OVM_MAX_DEFS];
	uint32_t n;
};

/* The definitions of @place too; false if they are not all known. */
static bool add_defs(struct ovm_slicer *slicer, struct ovm_point at, struct place place,
		     struct copies *copies)
{
	struct ovm_defs defs;
	if (place.reg != OVM_REG_NONE && place.reg >= OVM_RIP)
		return false;
	defs_of(slicer, at, place, &defs);
	if (!defs.n || defs.from_entry || defs.is_unknown)
		return false;
	for (uint32_t i = 0; i < defs.n; i++) {
		uint32_t k = 0;
		while (k < copies->n && copies->at[k].insn != defs.at[i].insn)
			k++;
		if (k < copies->n)
			continue;
		if (k == OVM_MAX_DEFS)
			return false;
		copies->at[copies->n++] = defs.at[i];
	}
	return true;
}

static bool is_frame_load(struct ovm_slicer *slicer, uint32_t insn, int64_t *slot)
{
	if (!slicer->rows)
		return false;
	if (!slicer->has_frame)
		ovm_frame_init(&slicer->frame, slicer->cfg, slicer->rows);
	slicer->has_frame = true;
	return ovm_frame_load(&slicer->frame, insn, slot);
}

/* Where the definition at @at has its value from, if it only hands it on. */
static bool source_of(struct ovm_slicer *slicer, struct ovm_point at, struct place *out)
{
	const struct ovm_insn *insn = &slicer->cfg->insns[at.insn];
	bool is_move = insn->op == OVM_OP_MOV && insn->dst_size == 8 && insn->src < OVM_RIP &&
		       (insn->form == OVM_FORM_RR || insn->form == OVM_FORM_MR);
	*out = (struct place){.reg = is_move ? insn->src : OVM_REG_NONE};
	return is_move || is_frame_load(slicer, at.insn, &out->slot);
}

/* The value goes round in circles (spilled before a call, loaded behind it): what is in one of
 * these places got there from another, or from where it was made. All those must be the same. */
static bool const_at(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg, unsigned depth,
		     uint64_t *value)
{
	struct copies copies = {.n = 0};
	struct place source;
	bool is_any = false;
	uint64_t x;
	if (!depth || !add_defs(slicer, at, (struct place){.reg = reg}, &copies))
		return false;
	for (uint32_t i = 0; i < copies.n; i++) {
		if (source_of(slicer, copies.at[i], &source)) {
			if (!add_defs(slicer, copies.at[i], source, &copies))
				return false;
			continue;
		}
		if (!const_of(slicer, copies.at[i], depth - 1, &x) || (is_any && x != *value))
			return false;
		*value = x;
		is_any = true;
	}
	return is_any;
}

bool ovm_slice_const(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg, uint64_t *value)
{
	uint64_t x;
	if (!const_at(slicer, at, reg, MAX_DEPTH, &x))
		return false;
	*value = x;
	return true;
}

/* --- addresses --- */

static bool linear_operand(struct ovm_slicer *slicer, struct ovm_point at, uint8_t scale,
			   unsigned depth, struct ovm_linear *out);

/* Multiply what is known of the variable part: reg was @factor times something. */
static bool linear_reg(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg, uint8_t scale,
		       unsigned depth, struct ovm_linear *out)
{
	struct ovm_point def;
	if (ovm_slice_const(slicer, at, reg, &out->constant)) {
		out->reg = OVM_REG_NONE;
		return true;
	}
	*out = (struct ovm_linear){.reg = reg, .scale = 1, .at = at};
	if (scale == 1 || !depth || !ovm_slice_def(slicer, at, reg, &def))
		return scale == 1;
	const struct ovm_insn *insn = &slicer->cfg->insns[def.insn];
	if (insn->dst_size != 8 || insn->dst != reg)
		return false;
	if (insn->op == OVM_OP_SHL && insn->form == OVM_FORM_RI &&
	    insn->imm == (scale == 8 ? 3 : 2)) {
		*out = (struct ovm_linear){.reg = reg, .scale = scale, .at = def};
		return true;
	}
	if (insn->op == OVM_OP_LEA && !(insn->flags & (OVM_INSN_ADDR32 | OVM_INSN_RIP_REL)))
		return linear_operand(slicer, def, scale, depth - 1, out);
	if (insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RR)
		return linear_reg(slicer, def, insn->src, scale, depth - 1, out);
	if (insn->op == OVM_OP_ADD && insn->form == OVM_FORM_RR) {
		struct ovm_linear a, b;
		if (!linear_reg(slicer, def, insn->dst, scale, depth - 1, &a) ||
		    !linear_reg(slicer, def, insn->src, scale, depth - 1, &b) ||
		    (a.reg != OVM_REG_NONE && b.reg != OVM_REG_NONE))
			return false;
		*out = a.reg != OVM_REG_NONE ? a : b;
		out->constant = a.constant + b.constant;
		return true;
	}
	return false;
}

static bool linear_operand(struct ovm_slicer *slicer, struct ovm_point at, uint8_t scale,
			   unsigned depth, struct ovm_linear *out)
{
	const struct ovm_insn *insn = &slicer->cfg->insns[at.insn];
	struct ovm_linear base = {.reg = OVM_REG_NONE}, index = {.reg = OVM_REG_NONE};
	if (insn->index != OVM_REG_NONE && insn->scale == scale)
		index = (struct ovm_linear){.reg = insn->index, .scale = scale, .at = at};
	else if (insn->index != OVM_REG_NONE &&
		 (insn->scale != 1 || !linear_reg(slicer, at, insn->index, scale, depth, &index)))
		return false;
	if (insn->base != OVM_REG_NONE) {
		bool is_const_only = index.reg != OVM_REG_NONE;
		if (is_const_only ? !ovm_slice_const(slicer, at, insn->base, &base.constant)
				  : !linear_reg(slicer, at, insn->base, scale, depth, &base))
			return false;
	}
	*out = index.reg != OVM_REG_NONE ? index : base;
	out->constant = base.constant + index.constant + (uint64_t)(int64_t)insn->disp;
	return true;
}

bool ovm_slice_address(struct ovm_slicer *slicer, struct ovm_point at, uint8_t scale,
		       struct ovm_linear *out)
{
	const struct ovm_insn *insn = &slicer->cfg->insns[at.insn];
	if (insn->segment || (insn->flags & (OVM_INSN_ADDR32 | OVM_INSN_RIP_REL)))
		return false;
	return linear_operand(slicer, at, scale, MAX_DEPTH, out);
}
