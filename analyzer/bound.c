/* Bounding an index, walking backwards from its use.
 *
 *      cmp  $7,%dil         ▲  fact: low 8 bits of rdi <= 7 (if we came by the fall-through)
 *      ja   default         │  condition "not above" is pending: the next writer of flags explains it
 *      movzbl %dil,%edi     │  wanted was: rdi. It is the low 8 bits of rdi before this instruction.
 *      jmp  *T(,%rdi,8)     │  wanted: rdi
 *                          walk
 *
 * The walk carries what is wanted (a register or a memory operand, and how many of its low bits),
 * conditions of branches whose compare has not been met yet, and facts: upper bounds of other
 * registers and of one memory operand. A definition of the wanted register renames it, narrows it,
 * or ends the walk; a copy moves a fact to its source. A fact about the wanted thing with enough
 * bits is the proof. At a block's start every predecessor must give a proof, the largest bound
 * counts. A loop that comes back with the same wish and no fact less adds nothing new.
 *
 * Signed extensions need a bound that leaves the sign bit zero. Memory keeps its value only while
 * nothing stores but to other slots of the same base register, and nothing is called.
 */
#include "analyzer/bound.h"

enum {
	MAX_DEPTH = 48,
	MAX_VISITS = 400,
	MAX_PENDING = 4,
	MAX_BOUND = 1 << 20,
	MAX_WIDTH = 255,
	MAX_ACCESS = 16384
};

struct fact { /* low @bits bits are at most @max; bits 0: nothing known */
	uint32_t max;
	uint8_t bits;
};

struct wish { /* the value is the low @bits bits of a register or of the memory operand of an
		 instruction, extended */
	uint32_t mem; /* instruction, OVM_NONE: a register */
	uint8_t reg;
	uint8_t bits;
	bool is_signed; /* sign-extended from bits */
};

struct state {
	struct wish wish;
	uint32_t limit; /* the value is at most this by an and-mask or its width; UINT32_MAX none */
	uint8_t limit_by;  /* enum ovm_bound_proof of it */
	uint16_t is_tried; /* registers, by widen_fact */
	uint8_t n_pending;
	uint8_t pending[MAX_PENDING]; /* conditions that hold for the flags here */
	struct fact facts[16];
	struct fact mem_fact; /* about the memory operand of instruction mem_insn */
	uint32_t mem_insn;
};

struct walk {
	struct ovm_slicer *slicer;
	uint32_t n_visits, depth;
	struct {
		uint32_t bb;
		const struct state *state;
	} path[MAX_DEPTH];
};

struct result {
	uint8_t proof; /* enum ovm_bound_proof: the weakest of all paths */
	uint32_t max;
	bool is_path; /* at least one path ended in a result of its own */
};

static struct result make_result(uint8_t proof, uint32_t max)
{
	return (struct result){proof, max, true};
}

static struct result worst(struct result a, struct result b)
{
	return (struct result){a.proof > b.proof ? a.proof : b.proof, a.max > b.max ? a.max : b.max,
			       a.is_path || b.is_path};
}

/* What is known without a compare. */
static struct result without_fact(const struct state *s)
{
	if (s->limit <= MAX_BOUND && !s->wish.is_signed)
		return make_result(s->limit_by, s->limit);
	bool is_compared = s->wish.mem == OVM_NONE && s->facts[s->wish.reg].bits >= 32;
	bool is_unsigned = (s->wish.bits <= 32 || is_compared) && !s->wish.is_signed;
	return make_result(is_unsigned ? OVM_PROOF_UNSIGNED : OVM_PROOF_NONE, 0);
}

static void set_limit(struct state *s, uint64_t limit, uint8_t by)
{
	if (limit < s->limit) {
		s->limit = (uint32_t)limit;
		s->limit_by = by;
	}
}

/* --- memory operands --- */

static bool is_same_memory(const struct ovm_insn *a, const struct ovm_insn *b)
{
	if ((a->flags | b->flags) & OVM_INSN_ADDR32)
		return false;
	if (a->flags & OVM_INSN_RIP_REL)
		return (b->flags & OVM_INSN_RIP_REL) && a->target.v == b->target.v &&
		       a->segment == b->segment;
	return a->base == b->base && a->index == b->index && a->scale == b->scale &&
	       a->disp == b->disp && a->segment == b->segment;
}

/* Slots of one base register that do not overlap. */
static bool is_other_slot(const struct ovm_insn *a, const struct ovm_insn *b)
{
	bool is_plain = a->base == b->base && a->base < OVM_RIP && a->index == OVM_REG_NONE &&
			b->index == OVM_REG_NONE && !a->segment && !b->segment &&
			ovm_insn_has_mem(b);
	unsigned width = b->src_size && b->op != OVM_OP_OTHER ? b->src_size : MAX_ACCESS;
	return is_plain && (b->disp >= (int64_t)a->disp + 8 || (int64_t)b->disp + width <= a->disp);
}

static bool changes_address(const struct ovm_insn *mem, const struct ovm_insn *insn)
{
	return (mem->base < OVM_RIP && (insn->defs >> mem->base & 1)) ||
	       (mem->index < OVM_RIP && (insn->defs >> mem->index & 1));
}

static bool is_opaque(const struct ovm_insn *insn)
{
	return insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_CALL_IND ||
	       insn->kind == OVM_INSN_SYSCALL || (insn->flags & OVM_INSN_OPAQUE);
}

/* May @insn change what the memory operand of @mem denotes or contains? */
static bool clobbers(const struct ovm_insn *mem, const struct ovm_insn *insn)
{
	return is_opaque(insn) || changes_address(mem, insn) ||
	       ((insn->flags & OVM_INSN_STORES) && !is_other_slot(mem, insn));
}

/* --- facts --- */

static void learn(struct fact *fact, uint64_t max, uint8_t bits)
{
	if (max >= MAX_BOUND || (fact->bits > bits) || (fact->bits == bits && fact->max <= max))
		return;
	*fact = (struct fact){(uint32_t)max, bits};
}

/* @insn copied its source to dst: what is known of dst holds for the source. */
static void move_fact(struct state *s, const struct ovm_insn *insn)
{
	struct fact fact = s->facts[insn->dst];
	unsigned width = insn->src_size * 8u;
	if (insn->form != OVM_FORM_RR || !fact.bits || (insn->flags & OVM_INSN_HIGH_BYTE) ||
	    insn->src >= OVM_RIP)
		return;
	if (insn->op == OVM_OP_MOV || insn->op == OVM_OP_MOVZX ||
	    (insn->op == OVM_OP_MOVSX && fact.max >> (width - 1) == 0)) {
		if (fact.bits < width)
			width = fact.bits;
		learn(&s->facts[insn->src], fact.max, (uint8_t)width);
	}
}

/* Facts about what @insn writes do not hold before it. */
static void forget(struct state *s, const struct ovm_cfg *cfg, const struct ovm_insn *insn)
{
	if (insn->dst < OVM_RIP && (insn->defs >> insn->dst & 1))
		move_fact(s, insn);
	for (uint32_t m = insn->defs & OVM_MASK_GPRS; m; m &= m - 1)
		s->facts[__builtin_ctz(m)].bits = 0;
	if (s->mem_fact.bits && clobbers(&cfg->insns[s->mem_insn], insn))
		s->mem_fact.bits = 0;
}

/* Largest x with "x cc n" after a compare of x with n; UINT64_MAX if the condition bounds nothing.
 */
static uint64_t bound_of(uint8_t cc, uint64_t n)
{
	switch (cc) {
	case 2: /* b */
		return n ? n - 1 : UINT64_MAX;
	case 4: /* e */
	case 6: /* be */
		return n;
	default:
		return UINT64_MAX;
	}
}

/* @insn wrote the flags that the pending conditions are about. */
static void explain(struct state *s, uint32_t at, const struct ovm_insn *insn)
{
	bool is_cmp =
	    insn->op == OVM_OP_CMP || (insn->op == OVM_OP_SUB && insn->form == OVM_FORM_RI);
	bool is_test = insn->op == OVM_OP_TEST;
	bool has_imm = insn->form == OVM_FORM_RI || insn->form == OVM_FORM_MI;
	unsigned bits = insn->dst_size * 8u;
	uint64_t mask = bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
	for (unsigned i = 0; i < s->n_pending && (is_cmp || is_test) && has_imm; i++) {
		uint64_t max = UINT64_MAX, n = (uint64_t)insn->imm & mask;
		if (is_cmp)
			max = bound_of(s->pending[i], n);
		else if (s->pending[i] == 4 && !((~n & mask) & ((~n & mask) + 1)))
			max = ~n & mask; /* test $-8,x; je: x <= 7 */
		if (insn->form == OVM_FORM_RI && insn->dst < OVM_RIP &&
		    !(insn->flags & OVM_INSN_HIGH_BYTE)) {
			learn(&s->facts[insn->dst], max, (uint8_t)bits);
		} else if (insn->form == OVM_FORM_MI && max < MAX_BOUND) {
			s->mem_fact = (struct fact){(uint32_t)max, (uint8_t)bits};
			s->mem_insn = at;
		}
	}
	s->n_pending = 0;
}

/* Does a fact prove the wish? */
static bool is_proved(const struct state *s, const struct ovm_cfg *cfg, struct result *out)
{
	const struct fact *fact = &s->mem_fact;
	if (s->wish.mem == OVM_NONE)
		fact = &s->facts[s->wish.reg];
	else if (!fact->bits || !is_same_memory(&cfg->insns[s->wish.mem], &cfg->insns[s->mem_insn]))
		return false;
	if (!fact->bits || fact->bits < s->wish.bits ||
	    (s->wish.is_signed && fact->max >> (s->wish.bits - 1)))
		return false;
	uint32_t max = s->limit < fact->max ? s->limit : fact->max;
	*out = make_result(OVM_PROOF_CMP, max);
	return true;
}

/* --- the wish --- */

static void narrow(struct state *s, unsigned bits)
{
	if (bits < s->wish.bits) {
		s->wish.bits = (uint8_t)bits;
		s->wish.is_signed = false;
	}
}

/* Continue with the source of a move, extension or load. False: the walk ends here. */
static bool follow_move(struct state *s, uint32_t at, const struct ovm_insn *insn)
{
	unsigned width = insn->src_size * 8u;
	if (insn->dst_size < 4 && s->wish.bits > insn->dst_size * 8u)
		return false;
	if (insn->flags & OVM_INSN_HIGH_BYTE) {
		if (insn->op == OVM_OP_MOVZX)
			set_limit(s, MAX_WIDTH, OVM_PROOF_WIDTH);
		return false;
	}
	if (insn->op == OVM_OP_MOVSX) {
		if (insn->dst_size == 4 && s->wish.bits == 64)
			s->wish.bits = 32;
		if (width < s->wish.bits) {
			s->wish.bits = (uint8_t)width;
			s->wish.is_signed = true;
		}
	} else if (insn->dst_size >= 4) {
		narrow(s, width);
		if (width == 8)
			set_limit(s, MAX_WIDTH, OVM_PROOF_WIDTH);
	}
	if (insn->form == OVM_FORM_RR) {
		s->wish.reg = insn->src;
		return insn->src < OVM_RIP;
	}
	s->wish.mem = at;
	return insn->form == OVM_FORM_RM && !(insn->flags & OVM_INSN_ADDR32);
}

static bool is_move(const struct ovm_insn *insn)
{
	return (insn->op == OVM_OP_MOV || insn->op == OVM_OP_MOVZX || insn->op == OVM_OP_MOVSX) &&
	       (insn->form == OVM_FORM_RR || insn->form == OVM_FORM_RM);
}

/* The wanted register is computed here from an immediate: a mask, a shift, a constant. Sets the
 * limit if that bounds it. */
static void limit_by_value(struct state *s, const struct ovm_insn *insn)
{
	unsigned width = insn->dst_size * 8u;
	bool is_self = insn->form == OVM_FORM_RR && insn->dst == insn->src;
	if (width < 32 && s->wish.bits > width)
		return;
	if ((insn->op == OVM_OP_XOR || insn->op == OVM_OP_SUB) && is_self && width >= 32)
		set_limit(s, 0, OVM_PROOF_MASK);
	if (insn->form != OVM_FORM_RI || (insn->flags & OVM_INSN_HIGH_BYTE))
		return;
	uint64_t imm =
	    width == 64 ? (uint64_t)insn->imm : (uint64_t)insn->imm & ((1ull << width) - 1);
	if ((insn->op == OVM_OP_AND || insn->op == OVM_OP_MOV) && imm < MAX_BOUND)
		set_limit(s, imm, OVM_PROOF_MASK);
	if (insn->op == OVM_OP_SHR && imm < width && width - imm <= 16)
		set_limit(s, (1ull << (width - imm)) - 1, OVM_PROOF_MASK);
}

/* Step over @insn, which defines the wanted register. False: the walk ends. */
static bool follow_def(struct state *s, uint32_t at, const struct ovm_insn *insn,
		       const struct ovm_cfg *cfg, struct result *out)
{
	if (insn->dst != s->wish.reg || is_opaque(insn)) {
		*out = without_fact(s);
		return false;
	}
	if (insn->dst_size == 4 && s->wish.bits > 32) {
		narrow(s, 32); /* written in 32 bits: the rest is zero */
		if (is_proved(s, cfg, out))
			return false;
	}
	if (is_move(insn)) {
		struct state before = *s;
		if (insn->op == OVM_OP_MOVZX && !(insn->flags & OVM_INSN_HIGH_BYTE)) {
			narrow(&before, insn->src_size * 8u);
			if (is_proved(&before, cfg, out))
				return false;
		}
		if (follow_move(s, at, insn))
			return true;
	} else {
		limit_by_value(s, insn);
		if (s->limit <= MAX_BOUND)
			s->wish.is_signed = s->wish.is_signed && s->limit >> (s->wish.bits - 1);
		if (s->wish.bits <= 8 && insn->dst_size <= 1 && !s->wish.is_signed)
			set_limit(s, MAX_WIDTH, OVM_PROOF_WIDTH);
	}
	*out = without_fact(s);
	return false;
}

/* A store to the wanted memory hands the wish to the stored register. */
static bool follow_store(struct state *s, const struct ovm_insn *insn, const struct ovm_cfg *cfg,
			 struct result *out)
{
	const struct ovm_insn *mem = &cfg->insns[s->wish.mem];
	if (!clobbers(mem, insn))
		return true;
	*out = without_fact(s);
	if (insn->op != OVM_OP_MOV || insn->form != OVM_FORM_MR || !is_same_memory(mem, insn) ||
	    insn->src_size * 8u < s->wish.bits || (insn->flags & OVM_INSN_HIGH_BYTE) ||
	    insn->src >= OVM_RIP)
		return false;
	s->wish.mem = OVM_NONE;
	s->wish.reg = insn->src;
	return true;
}

/* Do all definitions of @reg that reach @at leave nothing but zeros above its low @bits bits? */
static bool is_extended(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg, unsigned bits)
{
	struct ovm_defs defs;
	ovm_slice_defs(slicer, at, reg, &defs);
	for (uint32_t i = 0; i < defs.n; i++) {
		const struct ovm_insn *insn = &slicer->cfg->insns[defs.at[i].insn];
		unsigned width =
		    insn->op == OVM_OP_MOVZX ? insn->src_size * 8u : insn->dst_size * 8u;
		if (insn->dst != reg || insn->dst_size < 4 || is_opaque(insn) || width > bits)
			return false;
	}
	return defs.n && !defs.from_entry && !defs.is_unknown;
}

/* A compare told of too few bits: enough if the others are zero. Tried once a path and register. */
static void widen_fact(struct state *s, struct ovm_slicer *slicer, struct ovm_point at)
{
	if (s->wish.mem != OVM_NONE || (s->is_tried >> s->wish.reg & 1))
		return;
	struct fact *fact = &s->facts[s->wish.reg];
	if (!fact->bits || fact->bits >= s->wish.bits)
		return;
	s->is_tried |= (uint16_t)(1u << s->wish.reg);
	if (is_extended(slicer, at, s->wish.reg, fact->bits))
		fact->bits = 64;
}

/* One instruction backwards. False: *out is the result of this path. */
static bool step(struct state *s, struct ovm_slicer *slicer, struct ovm_point at,
		 struct result *out)
{
	const struct ovm_cfg *cfg = slicer->cfg;
	const struct ovm_insn *insn = &cfg->insns[at.insn];
	if (s->wish.mem != OVM_NONE) {
		if (!follow_store(s, insn, cfg, out))
			return false;
	} else if (insn->defs >> s->wish.reg & 1) {
		if (!follow_def(s, at.insn, insn, cfg, out))
			return false;
	}
	forget(s, cfg, insn);
	if (insn->defs & OVM_MASK_FLAGS)
		explain(s, at.insn, insn);
	widen_fact(s, slicer, at);
	return !is_proved(s, cfg, out);
}

/* --- blocks --- */

static bool is_same_wish(const struct state *a, const struct state *b)
{
	return a->wish.mem == b->wish.mem && a->wish.reg == b->wish.reg &&
	       a->wish.bits == b->wish.bits && a->wish.is_signed == b->wish.is_signed &&
	       a->limit == b->limit;
}

static bool has_fact(const struct fact *now, const struct fact *old)
{
	return !old->bits || (now->bits == old->bits && now->max == old->max);
}

/* Is everything known in @old still known in @now? */
static bool knows_all(const struct state *now, const struct state *old)
{
	if (old->n_pending || !has_fact(&now->mem_fact, &old->mem_fact) ||
	    (old->mem_fact.bits && now->mem_insn != old->mem_insn))
		return false;
	for (unsigned r = 0; r < 16; r++)
		if (!has_fact(&now->facts[r], &old->facts[r]))
			return false;
	return true;
}

/* Has the same wish been here on this path, with no fact that is gone by now? */
static bool is_loop(const struct walk *walk, uint32_t bb, const struct state *s)
{
	for (uint32_t i = 0; i < walk->depth; i++)
		if (walk->path[i].bb == bb && is_same_wish(walk->path[i].state, s) &&
		    knows_all(s, walk->path[i].state))
			return true;
	return false;
}

static struct result walk_back(struct walk *walk, uint32_t bb, uint32_t end,
			       const struct state *from);

/* The condition that holds when control leaves block @src by edge @e. */
static void add_condition(struct state *s, const struct ovm_cfg *cfg, const struct ovm_edge *edge)
{
	const struct ovm_insn *last = ovm_block_last(cfg, edge->src);
	const struct ovm_block *block = &cfg->blocks[edge->src];
	bool goes_on = last->target.v == block->hi.v; /* both ways lead here */
	if (last->kind != OVM_INSN_JCC || goes_on || s->n_pending == MAX_PENDING)
		return;
	s->pending[s->n_pending++] = edge->kind == OVM_EDGE_TAKEN ? last->cc : last->cc ^ 1;
}

static struct result walk_preds(struct walk *walk, uint32_t bb, const struct state *s)
{
	const struct ovm_cfg *cfg = walk->slicer->cfg;
	struct result all = {OVM_PROOF_CMP, 0, false};
	if (is_loop(walk, bb, s))
		return all;
	if (ovm_slice_is_entry(walk->slicer, bb) || walk->depth == MAX_DEPTH ||
	    ++walk->n_visits > MAX_VISITS)
		return without_fact(s);
	walk->path[walk->depth].bb = bb;
	walk->path[walk->depth++].state = s;
	for (uint32_t p = cfg->first_pred[bb]; p < cfg->first_pred[bb + 1]; p++) {
		const struct ovm_edge *edge = &cfg->edges[cfg->preds[p]];
		const struct ovm_block *src = &cfg->blocks[edge->src];
		struct state before = *s;
		if (!ovm_slice_is_edge(walk->slicer, edge))
			continue;
		add_condition(&before, cfg, edge);
		all =
		    worst(all, walk_back(walk, edge->src, src->first_insn + src->n_insns, &before));
		if (all.proof == OVM_PROOF_NONE)
			break;
	}
	walk->depth--;
	return all;
}

static struct result walk_back(struct walk *walk, uint32_t bb, uint32_t end,
			       const struct state *from)
{
	const struct ovm_cfg *cfg = walk->slicer->cfg;
	struct state s = *from;
	struct result result;
	for (uint32_t i = end; i-- > cfg->blocks[bb].first_insn;)
		if (!step(&s, walk->slicer, (struct ovm_point){bb, i}, &result))
			return result;
	return walk_preds(walk, bb, &s);
}

enum ovm_bound_proof ovm_bound_find(struct ovm_slicer *slicer, struct ovm_point at, uint8_t reg,
				    uint64_t *max)
{
	struct walk walk = {.slicer = slicer};
	OVM_ASSERT(reg < OVM_RIP);
	struct state start = {.wish = {.mem = OVM_NONE, .reg = reg, .bits = 64},
			      .limit = UINT32_MAX};
	struct result result = walk_back(&walk, at.bb, at.insn, &start);
	if (!result.is_path)
		return OVM_PROOF_NONE;
	if (result.proof <= OVM_PROOF_WIDTH)
		*max = result.max;
	return (enum ovm_bound_proof)result.proof;
}
