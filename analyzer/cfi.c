/* Call-frame information: programs in, rows out.
 *
 * A CFI program is a delta code over code addresses. To lay copied code out in another order we
 * need the state, not the deltas, at every instruction. So each program is run once and every
 * distinct state becomes a row with an id:
 *
 *   DW_CFA_def_cfa rsp+8; offset ra,-8     row 1        (the CIE's part, common to all its FDEs)
 *   advance 1; def_cfa_offset 16           row 2 from 1
 *   advance 3; offset rbp,-16              row 3 from 4
 *   advance 9; restore_state               row 1 from 13
 *
 * Rows repeat a lot (some hundred for 50,000 FDEs), hence the hash table. remember_state keeps no
 * argument size, as in libgcc. Registers above the return address (vector registers of foreign
 * ABIs) have no column: refused. References: DWARF 4, 6.4.2 and 7.23; LSB 5, "DWARF Extensions".
 */
#include "analyzer/cfi.h"
#include "analyzer/refuse.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {			   /* DW_CFA_* */
       ADVANCE_LOC = 0x40, /* these three carry their operand in the low 6 bits */
       OFFSET = 0x80,
       RESTORE = 0xc0,
       NOP = 0x00,
       SET_LOC = 0x01,
       ADVANCE_LOC1 = 0x02,
       ADVANCE_LOC2 = 0x03,
       ADVANCE_LOC4 = 0x04,
       OFFSET_EXTENDED = 0x05,
       RESTORE_EXTENDED = 0x06,
       UNDEFINED = 0x07,
       SAME_VALUE = 0x08,
       REGISTER = 0x09,
       REMEMBER_STATE = 0x0a,
       RESTORE_STATE = 0x0b,
       DEF_CFA = 0x0c,
       DEF_CFA_REGISTER = 0x0d,
       DEF_CFA_OFFSET = 0x0e,
       DEF_CFA_EXPRESSION = 0x0f,
       EXPRESSION = 0x10,
       OFFSET_EXTENDED_SF = 0x11,
       DEF_CFA_SF = 0x12,
       DEF_CFA_OFFSET_SF = 0x13,
       VAL_OFFSET = 0x14,
       VAL_OFFSET_SF = 0x15,
       VAL_EXPRESSION = 0x16,
       GNU_ARGS_SIZE = 0x2e,
       GNU_NEGATIVE_OFFSET_EXTENDED = 0x2f,
};

enum { STACK_MAX = 64 }; /* remembered states; compilers nest one or two */

/* --- numbers
 * -------------------------------------------------------------------------------------------------------
 */

bool ovm_cfi_uleb(const uint8_t **p, const uint8_t *end, uint64_t *value)
{
	uint64_t x = 0;
	for (unsigned shift = 0; *p < end; shift += 7) {
		uint8_t byte = *(*p)++;
		uint64_t bits = byte & 0x7f;
		if (shift > 63 ? bits != 0 : shift == 63 && bits > 1)
			return false;
		if (shift <= 63)
			x |= bits << shift;
		if (!(byte & 0x80)) {
			*value = x;
			return true;
		}
	}
	return false;
}

bool ovm_cfi_sleb(const uint8_t **p, const uint8_t *end, int64_t *value)
{
	uint64_t x = 0;
	for (unsigned shift = 0; *p < end && shift < 70; shift += 7) {
		uint8_t byte = *(*p)++;
		if (shift <= 63)
			x |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			if ((byte & 0x40) && shift + 7 < 64)
				x |= ~UINT64_C(0) << (shift + 7);
			*value = (int64_t)x;
			return true;
		}
	}
	return false;
}

static bool read_fixed(const uint8_t **p, const uint8_t *end, unsigned format, uint64_t *value)
{
	unsigned len = format == 2 || format == 0xa ? 2 : format == 3 || format == 0xb ? 4 : 8;
	if ((size_t)(end - *p) < len)
		return false;
	if (len == 2)
		*value = format == 2 ? ovm_le16(*p) : (uint64_t)(int16_t)ovm_le16(*p);
	else if (len == 4)
		*value = format == 3 ? ovm_le32(*p) : (uint64_t)(int32_t)ovm_le32(*p);
	else
		*value = ovm_le64(*p);
	*p += len;
	return true;
}

bool ovm_cfi_read_encoded(const uint8_t **p, const uint8_t *end, uint8_t enc, ovm_va p_va,
			  ovm_va data_base, uint64_t *value)
{
	const uint8_t *q = *p;
	unsigned format = enc & 0x0f, relative = enc & 0x70;
	uint64_t x, base = 0;
	int64_t sx;
	if (enc == 0xff || q > end)
		return false;
	switch (relative) {
	case 0x00: /* absolute */
		break;
	case 0x10: /* to the pointer's own place */
		base = p_va.v;
		break;
	case 0x30: /* to the data base */
		base = data_base.v;
		break;
	case 0x50: { /* an aligned absolute pointer */
		uint64_t pad = -p_va.v & 7;
		if ((size_t)(end - q) < pad)
			return false;
		q += pad;
		format = 0;
		break;
	}
	default: /* to text or function: nobody writes these on x86-64 */
		return false;
	}
	switch (format) {
	case 0x0:
	case 0x2:
	case 0x3:
	case 0x4:
	case 0x8:
	case 0xa:
	case 0xb:
	case 0xc:
		if (!read_fixed(&q, end, format, &x))
			return false;
		break;
	case 0x1:
		if (!ovm_cfi_uleb(&q, end, &x))
			return false;
		break;
	case 0x9:
		if (!ovm_cfi_sleb(&q, end, &sx))
			return false;
		x = (uint64_t)sx;
		break;
	default:
		return false;
	}
	*value = x ? x + base : 0;
	*p = q;
	return true;
}

/* --- rows
 * ------------------------------------------------------------------------------------------------------------
 */

void ovm_cfi_init(struct ovm_cfi *cfi)
{
	*cfi = (struct ovm_cfi){0};
}

void ovm_cfi_fini(struct ovm_cfi *cfi)
{
	ovm_vec_free(&cfi->rows);
	ovm_vec_free(&cfi->cies);
	free(cfi->row_hash);
	*cfi = (struct ovm_cfi){0};
}

static bool same_expr(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len)
{
	return a_len == b_len && (a == b || !a_len || !memcmp(a, b, a_len));
}

static bool same_row(const struct ovm_cfi_row *a, const struct ovm_cfi_row *b)
{
	if (a->cfa_reg != b->cfa_reg || a->cfa_off != b->cfa_off || a->args_size != b->args_size ||
	    !same_expr(a->cfa_expr, a->cfa_expr_len, b->cfa_expr, b->cfa_expr_len))
		return false;
	for (unsigned r = 0; r < OVM_CFI_REGS; r++) {
		const struct ovm_cfi_rule *x = &a->reg[r], *y = &b->reg[r];
		if (x->kind != y->kind || x->off != y->off ||
		    !same_expr(x->expr, x->expr_len, y->expr, y->expr_len))
			return false;
	}
	return true;
}

static uint64_t hash_row(const struct ovm_cfi_row *row)
{
	uint64_t word[4 + 3 * OVM_CFI_REGS];
	unsigned n = 0;
	word[n++] = row->cfa_reg;
	word[n++] = (uint64_t)row->cfa_off;
	word[n++] = row->args_size;
	word[n++] = row->cfa_expr_len ? XXH3_64bits(row->cfa_expr, row->cfa_expr_len) : 0;
	for (unsigned r = 0; r < OVM_CFI_REGS; r++) {
		const struct ovm_cfi_rule *rule = &row->reg[r];
		if (rule->kind == OVM_CFI_UNSET)
			continue;
		word[n++] = r << 8 | rule->kind;
		word[n++] = (uint64_t)rule->off;
		if (rule->expr_len)
			word[n++] = XXH3_64bits(rule->expr, rule->expr_len);
	}
	return XXH3_64bits(word, n * sizeof(word[0]));
}

/* A table with room for a row more. */
static void grow_hash(struct ovm_cfi *cfi)
{
	uint32_t size = cfi->row_hash_size ? cfi->row_hash_size : 256;
	while (cfi->rows.n >= size / 2)
		size *= 2;
	free(cfi->row_hash);
	cfi->row_hash = ovm_alloc_array(size, sizeof(uint32_t));
	cfi->row_hash_size = size;
	for (uint32_t id = 0; id < cfi->rows.n; id++) {
		uint32_t i = (uint32_t)hash_row(&cfi->rows.v[id]) & (size - 1);
		while (cfi->row_hash[i])
			i = (i + 1) & (size - 1);
		cfi->row_hash[i] = id + 1;
	}
}

void ovm_cfi_copy_rows(struct ovm_cfi *to, const struct ovm_cfi *from)
{
	ovm_vec_reserve(&to->rows, from->rows.n);
	if (from->rows.n)
		memcpy(to->rows.v, from->rows.v, from->rows.n * sizeof(*to->rows.v));
	to->rows.n = from->rows.n;
	grow_hash(to);
}

uint32_t ovm_cfi_intern(struct ovm_cfi *cfi, const struct ovm_cfi_row *row)
{
	if (cfi->rows.n >= cfi->row_hash_size / 2)
		grow_hash(cfi);
	uint32_t mask = cfi->row_hash_size - 1, i = (uint32_t)hash_row(row) & mask;
	for (; cfi->row_hash[i]; i = (i + 1) & mask) {
		if (same_row(&cfi->rows.v[cfi->row_hash[i] - 1], row))
			return cfi->row_hash[i] - 1;
	}
	cfi->row_hash[i] = cfi->rows.n + 1;
	ovm_vec_push(&cfi->rows, *row);
	return cfi->rows.n - 1;
}

/* --- the interpreter
 * --------------------------------------------------------------------------------------------------
 */

struct machine {
	const struct ovm_cie *cie;
	const uint8_t *p, *end;
	const uint8_t *prog;
	ovm_va prog_va, pc_base;
	struct ovm_cfi_row row, initial; /* initial: what restore goes back to */
	OVM_VEC(struct ovm_cfi_row) stack;
	uint64_t loc, next; /* offset of the current row, and of the one an advance opened */
	bool is_dirty;	    /* row may differ from the last interned one */
};

static bool uleb(struct machine *m, uint64_t *value)
{
	return ovm_cfi_uleb(&m->p, m->end, value);
}

/* An unsigned operand, or a signed one, as a number of bytes. */
static bool offset_operand(struct machine *m, bool is_signed, int64_t factor, int64_t *value)
{
	uint64_t u;
	int64_t x;
	if (is_signed ? !ovm_cfi_sleb(&m->p, m->end, &x) : !uleb(m, &u) || u > INT64_MAX)
		return false;
	return !__builtin_mul_overflow(is_signed ? x : (int64_t)u, factor, value);
}

static bool reg_operand(struct machine *m, uint64_t *reg)
{
	return uleb(m, reg) && *reg < OVM_CFI_REGS;
}

static bool expr_operand(struct machine *m, const uint8_t **expr, uint32_t *len)
{
	uint64_t n;
	if (!uleb(m, &n) || n > (uint64_t)(m->end - m->p) || n > UINT32_MAX)
		return false;
	*expr = m->p;
	*len = (uint32_t)n;
	m->p += n;
	return true;
}

static bool set_rule(struct machine *m, uint64_t reg, uint8_t kind, int64_t off)
{
	if (reg >= OVM_CFI_REGS)
		return false;
	m->row.reg[reg] = (struct ovm_cfi_rule){.kind = kind, .off = off};
	return true;
}

static bool offset_rule(struct machine *m, uint8_t kind, bool is_signed, int64_t factor)
{
	uint64_t reg;
	int64_t off;
	return reg_operand(m, &reg) && offset_operand(m, is_signed, factor, &off) &&
	       set_rule(m, reg, kind, off);
}

static bool expr_rule(struct machine *m, uint8_t kind)
{
	uint64_t reg;
	struct ovm_cfi_rule rule = {.kind = kind};
	if (!reg_operand(m, &reg) || !expr_operand(m, &rule.expr, &rule.expr_len))
		return false;
	m->row.reg[reg] = rule;
	return true;
}

static bool register_rule(struct machine *m)
{
	uint64_t reg, other;
	return reg_operand(m, &reg) && reg_operand(m, &other) &&
	       set_rule(m, reg, OVM_CFI_REGISTER, (int64_t)other);
}

static bool plain_rule(struct machine *m, uint8_t kind)
{
	uint64_t reg;
	return reg_operand(m, &reg) && set_rule(m, reg, kind, 0);
}

static bool restore_rule(struct machine *m, uint64_t reg)
{
	if (reg >= OVM_CFI_REGS)
		return false;
	m->row.reg[reg] = m->initial.reg[reg];
	return true;
}

static bool def_cfa(struct machine *m, bool is_signed)
{
	uint64_t reg;
	int64_t off;
	if (!reg_operand(m, &reg) ||
	    !offset_operand(m, is_signed, is_signed ? m->cie->data_align : 1, &off))
		return false;
	m->row.cfa_reg = (uint32_t)reg;
	m->row.cfa_off = off;
	m->row.cfa_expr = NULL;
	m->row.cfa_expr_len = 0;
	return true;
}

static bool def_cfa_register(struct machine *m)
{
	uint64_t reg;
	if (m->row.cfa_reg == OVM_NONE || !reg_operand(m, &reg))
		return false;
	m->row.cfa_reg = (uint32_t)reg;
	return true;
}

static bool def_cfa_offset(struct machine *m, bool is_signed)
{
	return m->row.cfa_reg != OVM_NONE &&
	       offset_operand(m, is_signed, is_signed ? m->cie->data_align : 1, &m->row.cfa_off);
}

static bool def_cfa_expression(struct machine *m)
{
	if (!expr_operand(m, &m->row.cfa_expr, &m->row.cfa_expr_len))
		return false;
	m->row.cfa_reg = OVM_NONE;
	m->row.cfa_off = 0;
	return true;
}

static bool remember(struct machine *m)
{
	if (m->stack.n == STACK_MAX)
		return false;
	ovm_vec_push(&m->stack, m->row);
	return true;
}

static bool restore_state(struct machine *m)
{
	uint64_t args_size = m->row.args_size;
	if (!m->stack.n)
		return false;
	m->row = m->stack.v[--m->stack.n];
	m->row.args_size = args_size;
	return true;
}

static bool advance(struct machine *m, uint64_t delta)
{
	uint64_t by;
	return !__builtin_mul_overflow(delta, m->cie->code_align, &by) &&
	       !__builtin_add_overflow(m->loc, by, &m->next);
}

static bool advance_fixed(struct machine *m, unsigned len)
{
	if ((size_t)(m->end - m->p) < len)
		return false;
	uint64_t delta = len == 1 ? *m->p : len == 2 ? ovm_le16(m->p) : ovm_le32(m->p);
	m->p += len;
	return advance(m, delta);
}

static bool set_loc(struct machine *m)
{
	uint64_t pc;
	ovm_va here = ovm_va_add(m->prog_va, m->p - m->prog);
	if (!ovm_cfi_read_encoded(&m->p, m->end, m->cie->fde_enc, here, ovm_va_of(0), &pc))
		return false;
	m->next = pc - m->pc_base.v; /* backwards wraps to beyond the code */
	return m->next >= m->loc;
}

static bool extended_step(struct machine *m, uint8_t op)
{
	uint64_t reg;
	switch (op) {
	case SET_LOC:
		return set_loc(m);
	case ADVANCE_LOC1:
		return advance_fixed(m, 1);
	case ADVANCE_LOC2:
		return advance_fixed(m, 2);
	case ADVANCE_LOC4:
		return advance_fixed(m, 4);
	case OFFSET_EXTENDED:
		return offset_rule(m, OVM_CFI_OFFSET, false, m->cie->data_align);
	case OFFSET_EXTENDED_SF:
		return offset_rule(m, OVM_CFI_OFFSET, true, m->cie->data_align);
	case GNU_NEGATIVE_OFFSET_EXTENDED:
		return m->cie->data_align != INT64_MIN &&
		       offset_rule(m, OVM_CFI_OFFSET, false, -m->cie->data_align);
	case VAL_OFFSET:
		return offset_rule(m, OVM_CFI_VAL_OFFSET, false, m->cie->data_align);
	case VAL_OFFSET_SF:
		return offset_rule(m, OVM_CFI_VAL_OFFSET, true, m->cie->data_align);
	case RESTORE_EXTENDED:
		return reg_operand(m, &reg) && restore_rule(m, reg);
	case UNDEFINED:
		return plain_rule(m, OVM_CFI_UNDEFINED);
	case SAME_VALUE:
		return plain_rule(m, OVM_CFI_SAME);
	case REGISTER:
		return register_rule(m);
	case EXPRESSION:
		return expr_rule(m, OVM_CFI_EXPR);
	case VAL_EXPRESSION:
		return expr_rule(m, OVM_CFI_VAL_EXPR);
	case REMEMBER_STATE:
		return remember(m);
	case RESTORE_STATE:
		return restore_state(m);
	case DEF_CFA:
		return def_cfa(m, false);
	case DEF_CFA_SF:
		return def_cfa(m, true);
	case DEF_CFA_REGISTER:
		return def_cfa_register(m);
	case DEF_CFA_OFFSET:
		return def_cfa_offset(m, false);
	case DEF_CFA_OFFSET_SF:
		return def_cfa_offset(m, true);
	case DEF_CFA_EXPRESSION:
		return def_cfa_expression(m);
	case GNU_ARGS_SIZE:
		return uleb(m, &m->row.args_size);
	default:
		return false;
	}
}

/* One operation. An advance shows as next != loc. */
static bool step(struct machine *m)
{
	uint8_t op = *m->p++;
	int64_t off;
	switch (op & 0xc0) {
	case ADVANCE_LOC:
		return advance(m, op & 0x3f);
	case OFFSET:
		m->is_dirty = true;
		return offset_operand(m, false, m->cie->data_align, &off) &&
		       set_rule(m, op & 0x3f, OVM_CFI_OFFSET, off);
	case RESTORE:
		m->is_dirty = true;
		return restore_rule(m, op & 0x3f);
	default:
		if (op == NOP)
			return true;
		m->is_dirty |= op > ADVANCE_LOC4;
		return extended_step(m, op);
	}
}

static void machine_init(struct machine *m, const struct ovm_cie *cie, const uint8_t *prog,
			 size_t len, ovm_va prog_va, ovm_va pc_base,
			 const struct ovm_cfi_row *first)
{
	m->cie = cie;
	m->p = m->prog = prog;
	m->end = prog + len;
	m->prog_va = prog_va;
	m->pc_base = pc_base;
	m->row = m->initial = *first;
	memset(&m->stack, 0, sizeof(m->stack));
	m->loc = m->next = 0;
	m->is_dirty = false;
}

static void add_span(ovm_cfi_spans *spans, uint32_t first, uint64_t off, uint32_t row)
{
	if (spans->n > first && spans->v[spans->n - 1].row == row)
		return;
	ovm_vec_push(spans, (struct ovm_cfi_span){.off = (uint32_t)off, .row = row});
}

int ovm_cfi_run(struct ovm_cfi *cfi, const struct ovm_cie *cie, const uint8_t *prog, size_t len,
		ovm_va prog_va, ovm_va pc_base, uint64_t code_len, uint32_t first_row,
		ovm_cfi_spans *spans)
{
	struct machine m;
	uint32_t first = spans->n, row = first_row;
	bool ok = code_len <= UINT32_MAX;
	machine_init(&m, cie, prog, len, prog_va, pc_base, &cfi->rows.v[first_row]);
	while (ok && m.p < m.end) {
		ok = step(&m);
		if (!ok || m.next == m.loc)
			continue;
		if (m.is_dirty)
			row = ovm_cfi_intern(cfi, &m.row);
		m.is_dirty = false;
		/* a row that begins at the very end describes nothing */
		ok = m.next <= code_len;
		add_span(spans, first, m.loc, row);
		m.loc = m.next;
	}
	if (ok && (m.loc < code_len || spans->n == first))
		add_span(spans, first, m.loc, m.is_dirty ? ovm_cfi_intern(cfi, &m.row) : row);
	ovm_vec_free(&m.stack);
	if (ok)
		return 0;
	spans->n = first;
	return OVM_REFUSED;
}

int ovm_cfi_first_row(const struct ovm_cfi *cfi, const struct ovm_cie *cie, const uint8_t *prog,
		      size_t len, ovm_va prog_va, ovm_va pc_base, struct ovm_cfi_row *out)
{
	struct machine m;
	bool ok = true;
	machine_init(&m, cie, prog, len, prog_va, pc_base, &cfi->rows.v[cie->initial_row]);
	while (ok && m.p < m.end && m.next == m.loc)
		ok = step(&m);
	ovm_vec_free(&m.stack);
	if (!ok)
		return OVM_REFUSED;
	*out = m.row;
	return 0;
}
