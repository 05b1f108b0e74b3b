/* Forward flow of a jump table's entry.
 *
 *      movslq delta(%rdx,%rax,4),%rax     %rax differs between original and copy
 *      add    %rdx,%rax                   in the chain: %rax still differs
 *      jmp    *%rax                       the one use that is meant
 *   target:
 *      sete   %al                         low 8 bits equal again, the rest of %rax still differs
 *      and    %edx,%eax                   so does the rest of this result ...
 *      test   %al,%al                     ... which nobody reads
 *
 * State must be the same in original and copy at every instruction (rule R1) but for what is dead.
 * So every path from the load is followed until the value is overwritten. Two grades are told
 * apart: a register that differs anywhere, and one that differs above its low 8 bits only, because
 * compilers compute booleans that way.
 *
 * Calls, returns and pushes are taken not to read the entry: it is nothing that a compiler would
 * pass on or save, but it may push any dead register to align the stack. Any other value, like a
 * table's index, may well be an argument or a result: then calls read all registers, and so does
 * what is not known.
 */
#include "analyzer/taint.h"

#include <stdlib.h>

enum { MAX_VISITS = 1 << 14 };

struct taint {
	uint32_t full;	/* OVM_MASK_*: differs */
	uint32_t upper; /* differs above bit 7 only */
};

struct flow {
	struct ovm_slicer *slicer;
	const struct ovm_cfg *cfg;
	uint32_t load, jump;
	const uint32_t *chain;
	uint32_t n_chain;
	bool is_any; /* the value may be anything, not only a table's entry */
};

static uint32_t reg_bit(uint8_t reg)
{
	return reg < OVM_RIP ? 1u << reg : 0;
}

static uint32_t address_regs(const struct ovm_insn *insn)
{
	return reg_bit(insn->base) | reg_bit(insn->index);
}

/* Registers and flags whose whole content @insn reads. */
static uint32_t reads_of(const struct ovm_insn *insn)
{
	switch (insn->kind) {
	case OVM_INSN_CALL:
	case OVM_INSN_RET:
	case OVM_INSN_TRAP:
		return 0;
	case OVM_INSN_CALL_IND:
	case OVM_INSN_JMP_IND:
		return reg_bit(insn->dst) | address_regs(insn);
	default:
		if (insn->op == OVM_OP_PUSH && insn->form == OVM_FORM_R) /* to align the stack */
			return 0;
		return insn->flags & OVM_INSN_MERGE ? insn->uses & ~reg_bit(insn->dst) : insn->uses;
	}
}

/* What @insn overwrites completely. */
static uint32_t kills_of(const struct ovm_insn *insn)
{
	return insn->dst_size < 4 ? insn->defs & ~reg_bit(insn->dst) : insn->defs;
}

/* The same if the value may be passed on. */
static uint32_t reads_of_any(const struct ovm_insn *insn)
{
	switch (insn->kind) {
	case OVM_INSN_CALL:
	case OVM_INSN_CALL_IND:
		return OVM_MASK_ALL;
	case OVM_INSN_RET: /* results, and what belongs to the caller */
		return 1u << OVM_RAX | 1u << OVM_RDX | 1u << OVM_RBX | 1u << OVM_RBP |
		       1u << OVM_R12 | 1u << OVM_R13 | 1u << OVM_R14 | 1u << OVM_R15;
	default:
		return insn->op == OVM_OP_PUSH ? insn->uses : reads_of(insn);
	}
}

static bool is_in_chain(const struct flow *flow, uint32_t insn)
{
	for (uint32_t i = 0; i < flow->n_chain; i++)
		if (flow->chain[i] == insn)
			return true;
	return false;
}

static bool is_low_mask(const struct ovm_insn *insn)
{
	return insn->form == OVM_FORM_RI && insn->imm >= 0 && insn->imm <= 255;
}

/* Do the low bits of the result depend on the low bits of the operands only? */
static bool is_low_to_low(const struct ovm_insn *insn)
{
	bool is_reg = insn->form == OVM_FORM_RR || insn->form == OVM_FORM_RI;
	switch (insn->op) {
	case OVM_OP_MOV:
	case OVM_OP_ADD:
	case OVM_OP_SUB:
	case OVM_OP_AND:
	case OVM_OP_OR:
	case OVM_OP_XOR:
		return is_reg;
	case OVM_OP_LEA:
		return true;
	default:
		return false;
	}
}

/* @insn reads registers that differ in their upper bits only. False if that can matter. */
static bool flow_upper(const struct ovm_insn *insn, struct taint *t)
{
	uint32_t kills = kills_of(insn);
	bool is_byte = insn->op != OVM_OP_OTHER && insn->src_size == 1 &&
		       !(insn->flags & OVM_INSN_HIGH_BYTE) &&
		       !(address_regs(insn) & t->upper && insn->op != OVM_OP_LEA);
	bool is_masked = (insn->op == OVM_OP_AND || insn->op == OVM_OP_TEST) && is_low_mask(insn);
	if (is_byte || is_masked) { /* reads the low byte */
		t->upper &= ~kills;
		return true;
	}
	if (!is_low_to_low(insn) || insn->dst_size < 4 || insn->dst == OVM_REG_NONE)
		return false;
	t->upper = (t->upper & ~kills) | reg_bit(insn->dst);
	t->full |= insn->defs & OVM_MASK_FLAGS;
	return true;
}

static bool flow_insn(const struct flow *flow, uint32_t i, struct taint *t)
{
	const struct ovm_insn *insn = &flow->cfg->insns[i];
	uint32_t reads = flow->is_any ? reads_of_any(insn) : reads_of(insn);
	uint32_t kills = kills_of(insn);
	if (i == flow->jump)
		return true;
	if (is_in_chain(flow, i)) {
		bool is_fed = reads & t->full;
		t->full = (t->full & ~kills) | (is_fed ? reg_bit(insn->dst) : 0);
		t->upper &= ~kills;
		return true;
	}
	if (reads & t->full)
		return false;
	uint32_t upper = reads & t->upper;
	t->full &= ~kills;
	if (upper && !flow_upper(insn, t))
		return false;
	if (!upper)
		t->upper &= ~kills;
	if ((insn->flags & OVM_INSN_MERGE) && (t->full & reg_bit(insn->dst)) &&
	    !(insn->flags & OVM_INSN_HIGH_BYTE)) {
		t->full &= ~reg_bit(insn->dst);
		t->upper |= reg_bit(insn->dst);
	}
	if (i == flow->load)
		t->full |= reg_bit(insn->dst);
	return true;
}

static void push(struct ovm_slicer *slicer, uint32_t bb, struct taint t)
{
	uint64_t known = slicer->taint[bb], now = known | t.full | (uint64_t)t.upper << 32;
	if (now == known)
		return;
	slicer->taint[bb] = now;
	ovm_vec_push(&slicer->stack, bb);
}

static bool flow_block(const struct flow *flow, uint32_t bb, uint32_t first, struct taint t)
{
	const struct ovm_block *block = &flow->cfg->blocks[bb];
	for (uint32_t i = first; i < block->first_insn + block->n_insns; i++) {
		if (!flow_insn(flow, i, &t))
			return false;
		if (!t.full && !t.upper)
			return true;
	}
	bool is_lost = !block->n_edges && ovm_block_last(flow->cfg, bb)->kind == OVM_INSN_JMP_IND &&
		       block->first_insn + block->n_insns - 1 != flow->jump &&
		       !flow->slicer->is_tentative;
	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
		if (flow->cfg->edges[e].dst != OVM_NONE)
			push(flow->slicer, flow->cfg->edges[e].dst, t);
		else
			is_lost = true;
	}
	return !flow->is_any || !is_lost;
}

/* From instruction @from on, where @t differs. */
static bool flow_all(const struct flow *flow, struct ovm_point from, struct taint t)
{
	struct ovm_slicer *slicer = flow->slicer;
	OVM_VEC(uint32_t) visited = {0};
	uint32_t n = 0;
	slicer->stack.n = 0;
	bool is_ok = flow_block(flow, from.bb, from.insn, t);
	while (is_ok && slicer->stack.n) {
		uint32_t bb = slicer->stack.v[--slicer->stack.n];
		uint64_t now = slicer->taint[bb];
		ovm_vec_push(&visited, bb);
		is_ok = ++n < MAX_VISITS &&
			flow_block(flow, bb, slicer->cfg->blocks[bb].first_insn,
				   (struct taint){(uint32_t)now, (uint32_t)(now >> 32)});
	}
	for (uint32_t i = 0; i < visited.n; i++)
		slicer->taint[visited.v[i]] = 0;
	for (uint32_t i = 0; i < slicer->stack.n; i++)
		slicer->taint[slicer->stack.v[i]] = 0;
	ovm_vec_free(&visited);
	return is_ok;
}

bool ovm_taint_feeds_only(struct ovm_slicer *slicer, struct ovm_point load, const uint32_t *chain,
			  uint32_t n_chain, uint32_t jump)
{
	struct flow flow = {slicer, slicer->cfg, load.insn, jump, chain, n_chain, false};
	return load.insn == jump || flow_all(&flow, load, (struct taint){0});
}

bool ovm_taint_is_dead_behind(struct ovm_slicer *slicer, struct ovm_point jump, uint8_t reg)
{
	struct flow flow = {slicer, slicer->cfg, OVM_NONE, jump.insn, NULL, 0, true};
	return flow_all(&flow, jump, (struct taint){.full = reg_bit(reg)});
}
