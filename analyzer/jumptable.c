/* What does an indirect jump read, and from where?
 *
 *      lea    T(%rip),%rdx              K = T, maybe far away, on all paths the same
 *      movslq (%rdx,%rax,4),%rax        the load: address K2 + 4*index
 *      add    %rdx,%rax                 target = K1 + entry; K1 need not be K2
 *      jmp    *%rax
 *
 * From the jump backwards: the one definition of the target is an addition of a constant and a
 * sign-extended load, or a load of 8 bytes. The load's address must be a constant plus the scaled
 * index. Then the index is bounded (bound.c).
 *
 * Computed goto in position-independent code reads addresses that the dynamic linker has written:
 *
 *      lea    T(%rip),%r14              far away
 *      mov    (%r14,%rax,8),%rax        the file holds a relocation for each entry
 *      jmp    *%rax
 *
 * The copy's entries are differences from T, so its load needs the base register a second time, to
 * add it (rewriter/tables.h): the load must not overwrite it. Where the jump itself reads the table
 * (`jmp *(%r14,%rax,8)`) the sum goes into the index register, which nobody may read behind it;
 * that is so too if another jump of the first kind comes to the same places with its target there.
 *
 * The copy of the code reads a copy of the table, whose entries differ. So the loaded value, and
 * the target made of it, must be used for nothing but this jump; that is checked forwards over all
 * paths.
 *
 * A bound that is too small is the one dangerous error, so without a proof entries are copied as
 * long as they can be code addresses, and a little further; entry 0 must be a good one, the index
 * certainly not negative.
 *
 * Not understood, on purpose: tables in writable memory, biased or signed indices without proof,
 * one load for two different jumps; tables of relocated addresses whose own address is not in the
 * load (clang's `lea (%r14,%rax,8),%rcx; jmp *(%rcx)`).
 */
#include "analyzer/jumptable.h"
#include "analyzer/bound.h"
#include "analyzer/taint.h"

#include <stdlib.h>

enum {
	MAX_CHAIN = 8,
	MAX_ENTRIES = 1 << 16, /* of a proven table */
	MAX_COPIED = 4096,     /* of an unproven one */
	MAX_FOREIGN = 4,       /* regions outside the group that an unproven table may lead to */
	MAX_STRANGE = 8, /* entries in a row that are no code, before an unproven table ends */
	TAIL_DEPTH = 6,
};

struct match {
	struct ovm_slicer *slicer;
	const struct ovm_cfg *cfg;
	struct ovm_point jump;
	uint32_t chain[MAX_CHAIN]; /* instructions that hand the loaded value on to the jump */
	uint32_t n_chain;
	struct ovm_point load;
	uint64_t base;
	struct ovm_linear address;
	uint8_t entry_size;
	bool is_relocated;
};

static const struct ovm_insn *insn_at(const struct match *m, struct ovm_point at)
{
	return &m->cfg->insns[at.insn];
}

static bool add_chain(struct match *m, struct ovm_point at)
{
	if (m->n_chain == MAX_CHAIN)
		return false;
	m->chain[m->n_chain++] = at.insn;
	return true;
}

/* --- backwards: target, load, address --- */

/* The definition of @reg behind plain 64-bit copies, which are noted in the chain. */
static bool find_source(struct match *m, struct ovm_point at, uint8_t reg, struct ovm_point *out)
{
	while (ovm_slice_def(m->slicer, at, reg, &at)) {
		const struct ovm_insn *insn = insn_at(m, at);
		if (insn->dst != reg)
			return false;
		if (insn->op != OVM_OP_MOV || insn->form != OVM_FORM_RR || insn->dst_size != 8) {
			*out = at;
			return true;
		}
		reg = insn->src;
		if (!add_chain(m, at))
			return false;
	}
	return false;
}

static bool set_load(struct match *m, struct ovm_point at, uint8_t entry_size)
{
	m->load = at;
	m->entry_size = entry_size;
	return ovm_slice_address(m->slicer, at, entry_size, &m->address) &&
	       m->address.reg != OVM_REG_NONE && m->address.scale == entry_size;
}

/* Is @reg just before @at a sign-extended 4-byte load from a table? */
static bool match_offset(struct match *m, struct ovm_point at, uint8_t reg)
{
	struct ovm_point def;
	if (!find_source(m, at, reg, &def))
		return false;
	const struct ovm_insn *insn = insn_at(m, def);
	if (insn->op != OVM_OP_MOVSX || insn->dst_size != 8 || insn->src_size != 4)
		return false;
	if (insn->form == OVM_FORM_RM)
		return set_load(m, def, 4);
	if (!add_chain(m, def) || !find_source(m, def, insn->src, &def))
		return false;
	insn = insn_at(m, def);
	return insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RM && insn->dst_size == 4 &&
	       set_load(m, def, 4);
}

/* target = constant + loaded offset, the constant in register @base_reg (NONE: @disp alone). */
static bool match_sum(struct match *m, struct ovm_point at, uint8_t base_reg, uint8_t offset_reg,
		      int64_t disp)
{
	uint32_t n_chain = m->n_chain;
	uint64_t base = 0;
	if ((base_reg == OVM_REG_NONE || ovm_slice_const(m->slicer, at, base_reg, &base)) &&
	    match_offset(m, at, offset_reg)) {
		m->base = base + (uint64_t)disp;
		return true;
	}
	m->n_chain = n_chain;
	return false;
}

static bool match_lea(struct match *m, struct ovm_point at, const struct ovm_insn *insn)
{
	if (insn->flags & (OVM_INSN_ADDR32 | OVM_INSN_RIP_REL) || insn->base >= OVM_RIP)
		return false;
	if (insn->index == OVM_REG_NONE)
		return match_sum(m, at, OVM_REG_NONE, insn->base, insn->disp);
	return insn->scale == 1 && (match_sum(m, at, insn->base, insn->index, insn->disp) ||
				    match_sum(m, at, insn->index, insn->base, insn->disp));
}

/* The target register of the jump. */
static bool match_target(struct match *m, uint8_t reg)
{
	struct ovm_point def;
	if (!find_source(m, m->jump, reg, &def))
		return false;
	const struct ovm_insn *insn = insn_at(m, def);
	if (insn->dst_size != 8)
		return false;
	if (insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RM)
		return set_load(m, def, 8);
	if (!add_chain(m, def))
		return false;
	if (insn->op == OVM_OP_ADD && insn->form == OVM_FORM_RR)
		return match_sum(m, def, insn->src, insn->dst, 0) ||
		       match_sum(m, def, insn->dst, insn->src, 0);
	if (insn->op == OVM_OP_ADD && insn->form == OVM_FORM_RI)
		return match_sum(m, def, OVM_REG_NONE, insn->dst, insn->imm);
	return insn->op == OVM_OP_LEA && match_lea(m, def, insn);
}

/* --- length --- */

static ovm_va target_of(const uint8_t *entry, uint8_t size, uint64_t base)
{
	return ovm_va_of(size == 8 ? ovm_le64(entry)
				   : base + (uint64_t)(int64_t)(int32_t)ovm_le32(entry));
}

/* Where the entry at @at leads; false if it is none. */
static bool read_target(const struct match *m, ovm_va at, ovm_va *to)
{
	const struct ovm_image *image = m->slicer->image;
	const uint8_t *entry = ovm_image_readonly(image, at, m->entry_size);
	if (!entry)
		return false;
	if (m->is_relocated)
		return ovm_image_relative(image, at, to);
	*to = target_of(entry, m->entry_size, m->base);
	return true;
}

/* Regions outside the group that a table's entries lead to. A function has at most one part that
 * the group may have missed. */
struct foreign {
	uint32_t n;
	uint32_t region[MAX_FOREIGN];
};

static bool is_insn_start(const struct ovm_cfg *cfg, uint32_t bb, ovm_va va)
{
	uint32_t lo = cfg->blocks[bb].first_insn, hi = lo + cfg->blocks[bb].n_insns;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (cfg->insns[mid].va.v <= va.v)
			lo = mid;
		else
			hi = mid;
	}
	return cfg->insns[lo].va.v == va.v;
}

enum plausibility { CODE, STRANGE, IMPOSSIBLE };

/* Could the program jump to @to from here? To an instruction of the group; to a region's end, the
 * compiler's mark for "never"; or into one of a few other regions. Never into the middle of an
 * instruction: the table has ended before. */
static enum plausibility judge(const struct match *m, ovm_va to, struct foreign *foreign)
{
	uint32_t region = ovm_region_find(m->slicer->regions, to);
	uint32_t bb = ovm_cfg_block_of(m->cfg, to);
	if (bb != OVM_NONE)
		return is_insn_start(m->cfg, bb, to) ? CODE : IMPOSSIBLE;
	if (ovm_cfg_block_of(m->cfg, ovm_va_add(to, -1)) != OVM_NONE)
		return CODE;
	if (region == OVM_NONE)
		return STRANGE;
	for (uint32_t i = 0; i < foreign->n; i++)
		if (foreign->region[i] == region)
			return CODE;
	if (foreign->n == MAX_FOREIGN)
		return STRANGE;
	foreign->region[foreign->n++] = region;
	return CODE;
}

static bool is_proven_table(const struct ovm_cfg *cfg, ovm_va va)
{
	for (uint32_t t = 0; t < cfg->n_tables; t++)
		if (cfg->tables[t].table.v == va.v && cfg->tables[t].bound != OVM_BOUND_COPY)
			return true;
	return false;
}

/* Entries to copy when nothing bounds the index; 0 if there is no end in sight. */
static uint32_t count_generously(const struct match *m, ovm_va table)
{
	struct foreign foreign = {0};
	uint32_t n_strange = 0;
	for (uint32_t i = 0; i < MAX_COPIED; i++) {
		ovm_va at = ovm_va_add(table, (int64_t)i * m->entry_size), to;
		if (!read_target(m, at, &to) || (i && is_proven_table(m->cfg, at)))
			return i;
		enum plausibility is = judge(m, to, &foreign);
		if (is == IMPOSSIBLE || (!i && is == STRANGE))
			return i;
		n_strange = is == CODE ? 0 : n_strange + 1;
		if (n_strange == MAX_STRANGE)
			return i + 1;
	}
	return 0;
}

/* Relocations show how many entries there can be: an index of 7 bits may have room for more. */
static uint32_t count_relocated(const struct match *m, ovm_va table, uint32_t max)
{
	ovm_va to;
	for (uint32_t i = 0; i < max; i++)
		if (!read_target(m, ovm_va_add(table, (int64_t)i * m->entry_size), &to))
			return i;
	return max;
}

static bool set_length(struct match *m, struct ovm_jumptable *out)
{
	uint64_t max = 0;
	enum ovm_bound_proof proof = ovm_bound_find(m->slicer, m->address.at, m->address.reg, &max);
	if (m->is_relocated && proof <= OVM_PROOF_WIDTH && max < MAX_ENTRIES) {
		uint32_t n = count_relocated(m, out->table, (uint32_t)max + 1);
		if (!n || (proof == OVM_PROOF_CMP && n <= max))
			return false;
		max = n - 1;
	}
	if (proof <= OVM_PROOF_WIDTH && max < MAX_ENTRIES &&
	    ovm_image_readonly(m->slicer->image, out->table, (max + 1) * m->entry_size)) {
		out->n_entries = (uint32_t)max + 1;
		out->bound = proof == OVM_PROOF_CMP    ? OVM_BOUND_CMP
			     : proof == OVM_PROOF_MASK ? OVM_BOUND_MASK
						       : OVM_BOUND_WIDTH;
		return true;
	}
	if (proof == OVM_PROOF_NONE)
		return false;
	out->n_entries = count_generously(m, out->table);
	out->bound = OVM_BOUND_COPY;
	return out->n_entries != 0;
}

/* Does another jump come to the targets of this one with its target in @reg? Then nobody expects
 * anything else there. Such jumps are often found only behind this one. */
static bool is_target_reg(const struct match *m, uint8_t reg)
{
	for (uint32_t t = 0; t < m->cfg->n_tables; t++) {
		const struct ovm_jumptable *table = &m->cfg->tables[t];
		const struct ovm_insn *jump = &m->cfg->insns[table->jump_insn];
		if (ovm_jumptable_is_relocated(table) && table->table.v == m->address.constant &&
		    jump->form == OVM_FORM_R && jump->dst == reg)
			return true;
	}
	ovm_cfg_foreach_bb (m->cfg, bb) {
		const struct ovm_insn *jump = ovm_block_last(m->cfg, bb);
		if (m->slicer->is_tentative && jump->kind == OVM_INSN_JMP_IND &&
		    jump->form == OVM_FORM_R && jump->dst == reg)
			return true;
	}
	return false;
}

/* Callers may rely on a register that a function never writes (gcc's -fipa-ra). */
static bool is_written(struct match *m, uint8_t reg)
{
	struct ovm_defs defs;
	ovm_slice_defs(m->slicer, m->jump, reg, &defs);
	return defs.n && !defs.from_entry && !defs.is_unknown;
}

/* `mov disp(base,index,8),dst`, or `jmp *disp(base,index,8)` with an index that is not used any
 * more, with the table's address in the base register. It must be there still when the entry is in
 * dst or, instead, in the index. */
static bool keeps_base(struct match *m)
{
	const struct ovm_insn *load = insn_at(m, m->load);
	bool is_jump = m->load.insn == m->jump.insn;
	uint64_t base;
	if (load->base >= OVM_RIP || load->index == OVM_REG_NONE || load->scale != 8)
		return false;
	if (is_jump ? load->base == load->index
		    : load->modrm_off != 2 || load->form != OVM_FORM_RM || load->base == load->dst)
		return false;
	return ovm_slice_const(m->slicer, m->load, load->base, &base) &&
	       base + (uint64_t)(int64_t)load->disp == m->address.constant &&
	       (!is_jump || (is_written(m, load->index) &&
			     (is_target_reg(m, load->index) ||
			      ovm_taint_is_dead_behind(m->slicer, m->jump, load->index))));
}

static bool find_table(struct match *m, struct ovm_jumptable *out)
{
	const struct ovm_insn *jump = insn_at(m, m->jump);
	bool is_match =
	    jump->form == OVM_FORM_M ? set_load(m, m->jump, 8) : match_target(m, jump->dst);
	if (!is_match)
		return false;
	m->is_relocated = m->entry_size == 8 && m->slicer->image->is_dyn;
	if (m->is_relocated) {
		if (!keeps_base(m))
			return false;
		m->base = m->address.constant;
	}
	*out = (struct ovm_jumptable){.jump_insn = m->jump.insn,
				      .load_insn = m->load.insn,
				      .table = ovm_va_of(m->address.constant),
				      .base = ovm_va_of(m->base),
				      .entry_size = m->entry_size};
	return ovm_image_readonly(m->slicer->image, out->table, m->entry_size) &&
	       ovm_taint_feeds_only(m->slicer, m->load, m->chain, m->n_chain, m->jump.insn) &&
	       set_length(m, out);
}

/* --- tail calls --- */

static bool is_pointer_reg(struct match *m, struct ovm_point at, uint8_t reg, unsigned depth);

/* Could @reg point into a table, because an index went into it? */
static bool is_indexed(struct match *m, struct ovm_point at, uint8_t reg)
{
	struct ovm_defs defs;
	ovm_slice_defs(m->slicer, at, reg, &defs);
	for (uint32_t i = 0; i < defs.n; i++) {
		const struct ovm_insn *insn = insn_at(m, defs.at[i]);
		bool is_sum = insn->op == OVM_OP_ADD && insn->form != OVM_FORM_RI;
		if (is_sum || insn->op == OVM_OP_SHL ||
		    (insn->op == OVM_OP_LEA && insn->index != OVM_REG_NONE))
			return true;
	}
	return false;
}

/* A pointer read from memory without an index: a virtual table's slot, a structure's member, a
 * global, a GOT slot. */
static bool is_pointer_load(struct match *m, struct ovm_point at)
{
	const struct ovm_insn *insn = insn_at(m, at);
	if (insn->index != OVM_REG_NONE || (insn->flags & OVM_INSN_ADDR32))
		return false;
	return insn->base >= OVM_RIP || !is_indexed(m, at, insn->base);
}

/* Is the value that the instruction at @at gives to @reg a pointer as is_pointer_reg wants it? */
static bool is_pointer_def(struct match *m, struct ovm_point at, uint8_t reg, unsigned depth)
{
	const struct ovm_insn *insn = insn_at(m, at);
	if (insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_CALL_IND)
		return reg == OVM_RAX;
	if (insn->dst_size != 8 || insn->dst != reg)
		return false;
	if (insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RM)
		return is_pointer_load(m, at);
	return insn->op == OVM_OP_MOV && insn->form == OVM_FORM_RR &&
	       is_pointer_reg(m, at, insn->src, depth);
}

/* Is the value of @reg at @at an argument, a call's result, or a pointer loaded as above, on all
 * paths? */
static bool is_pointer_reg(struct match *m, struct ovm_point at, uint8_t reg, unsigned depth)
{
	struct ovm_defs defs;
	if (reg >= OVM_RIP || !depth)
		return false;
	ovm_slice_defs(m->slicer, at, reg, &defs);
	if (defs.is_unknown)
		return false;
	for (uint32_t i = 0; i < defs.n; i++)
		if (!is_pointer_def(m, defs.at[i], reg, depth - 1))
			return false;
	return true;
}

static bool is_tail_call(struct match *m)
{
	const struct ovm_insn *jump = insn_at(m, m->jump);
	return jump->form == OVM_FORM_M ? is_pointer_load(m, m->jump)
					: is_pointer_reg(m, m->jump, jump->dst, TAIL_DEPTH);
}

/* --- public --- */

enum ovm_jump_class ovm_jumptable_find(struct ovm_slicer *slicer, uint32_t bb,
				       struct ovm_jumptable *out)
{
	const struct ovm_block *block = &slicer->cfg->blocks[bb];
	struct match m = {.slicer = slicer,
			  .cfg = slicer->cfg,
			  .jump = {bb, block->first_insn + block->n_insns - 1}};
	const struct ovm_insn *jump = insn_at(&m, m.jump);
	struct ovm_jumptable table;
	if (jump->kind != OVM_INSN_JMP_IND || (jump->flags & OVM_INSN_ADDR32) || jump->segment)
		return OVM_JUMP_UNKNOWN;
	if (find_table(&m, &table)) {
		*out = table;
		return OVM_JUMP_TABLE;
	}
	return is_tail_call(&m) ? OVM_JUMP_TAIL : OVM_JUMP_UNKNOWN;
}

void ovm_jumptable_read(const struct ovm_image *image, const struct ovm_jumptable *table,
			ovm_va *targets)
{
	const uint8_t *bytes =
	    ovm_image_readonly(image, table->table, (uint64_t)table->n_entries * table->entry_size);
	for (uint32_t i = 0; i < table->n_entries; i++) {
		size_t off = (size_t)i * table->entry_size;
		targets[i] = ovm_va_of(0);
		if (ovm_jumptable_is_relocated(table))
			ovm_image_relative(image, ovm_va_add(table->table, (int64_t)off),
					   &targets[i]);
		else if (bytes)
			targets[i] = target_of(bytes + off, table->entry_size, table->base.v);
	}
}
