/* Line tables: the programs of .debug_line, run. Their tables of files are not read: who writes new
 * rows for the same files repeats the header's bytes. */
#include "analyzer/cfi.h"
#include "analyzer/dwarf.h"

#include <stdlib.h>

enum {
	LNS_COPY = 1,
	LNS_ADVANCE_PC,
	LNS_ADVANCE_LINE,
	LNS_SET_FILE,
	LNS_SET_COLUMN,
	LNS_NEGATE_STMT,
	LNS_SET_BASIC_BLOCK,
	LNS_CONST_ADD_PC,
	LNS_FIXED_ADVANCE_PC,
	LNS_SET_PROLOGUE_END,
	LNE_END_SEQUENCE = 1,
	LNE_SET_ADDRESS = 2,
	HEADER_MIN = 10, /* up to the header's length; 64-bit: 8 more */
};

bool ovm_line_program_open(const struct ovm_dwarf *dwarf, uint64_t off,
			   struct ovm_line_program *out)
{
	if (off > dwarf->line_size || dwarf->line_size - off < HEADER_MIN)
		return false;
	const uint8_t *unit = dwarf->line + off, *p = unit + 4;
	uint64_t len = ovm_le32(unit), rest = dwarf->line_size - off - 4;
	bool is_64 = len == UINT32_MAX;
	if (is_64) {
		if (rest < 8)
			return false;
		len = ovm_le64(p);
		p += 8;
		rest -= 8;
	} else if (len >= 0xfffffff0) {
		return false;
	}
	if (len > rest || len < HEADER_MIN + (is_64 ? 8 : 0))
		return false;
	const uint8_t *end = p + len;
	unsigned version = ovm_le16(p);
	p += 2;
	if (version < 2 || version > 5)
		return false;
	if (version == 5) {
		if (p[0] != 8 || p[1])
			return false;
		p += 2;
	}
	uint64_t header = is_64 ? ovm_le64(p) : ovm_le32(p);
	p += is_64 ? 8 : 4;
	unsigned fixed = version >= 4 ? 6 : 5; /* up to opcode_base */
	if (header > (uint64_t)(end - p) || header < fixed)
		return false;
	const uint8_t *program = p + header;
	*out = (struct ovm_line_program){.bytes = unit,
					 .program = program,
					 .end = end,
					 .version = (uint16_t)version,
					 .is_64 = is_64,
					 .min_len = p[0]};
	if (version >= 4) {
		if (p[1] != 1) /* operations an instruction: VLIW */
			return false;
		p++;
	}
	out->default_is_stmt = p[1];
	out->line_base = (int8_t)p[2];
	out->line_range = p[3];
	out->opcode_base = p[4];
	out->lengths = p + 5;
	return out->line_range && out->opcode_base > LNS_FIXED_ADVANCE_PC &&
	       (uint64_t)(program - out->lengths) >= out->opcode_base - 1u;
}

struct machine { /* the registers of a line program */
	const struct ovm_line_program *program;
	const uint8_t *p;
	ovm_line_rows *out;
	uint64_t va;
	uint32_t file;
	int64_t line;
	uint64_t column;
	bool is_stmt, behind_prologue;
	uint32_t first; /* row of the current sequence */
	bool is_bad;
};

static void reset(struct machine *m)
{
	m->va = 0;
	m->file = 1;
	m->line = 1;
	m->column = 0;
	m->is_stmt = m->program->default_is_stmt;
	m->behind_prologue = false;
	m->first = m->out->n;
}

static void put_row(struct machine *m, bool is_end)
{
	unsigned flags = (m->is_stmt ? OVM_LINE_STMT : 0) | (is_end ? OVM_LINE_END : 0) |
			 (m->behind_prologue ? OVM_LINE_PROLOGUE : 0);
	ovm_vec_push(m->out,
		     (struct ovm_line_row){
			 .va = {m->va},
			 .file = m->file,
			 .line = m->line > 0 && m->line <= INT32_MAX ? (uint32_t)m->line : 0,
			 .column = m->column <= UINT16_MAX ? (uint16_t)m->column : 0,
			 .flags = (uint8_t)flags});
	m->behind_prologue = false;
}

static uint64_t uleb(struct machine *m)
{
	uint64_t value = 0;
	m->is_bad = m->is_bad || !ovm_cfi_uleb(&m->p, m->program->end, &value);
	return m->is_bad ? 0 : value;
}

static int64_t sleb(struct machine *m)
{
	int64_t value = 0;
	m->is_bad = m->is_bad || !ovm_cfi_sleb(&m->p, m->program->end, &value);
	return m->is_bad ? 0 : value;
}

/* A sequence is complete: keep it if it is of code. */
static void end_sequence(struct machine *m)
{
	bool ok = m->out->v[m->first].va.v;
	for (uint32_t i = m->first + 1; i < m->out->n; i++)
		ok &= m->out->v[i - 1].va.v <= m->out->v[i].va.v;
	if (!ok || m->out->n - m->first < 2)
		m->out->n = m->first;
	reset(m);
}

static void run_extended(struct machine *m)
{
	uint64_t len = uleb(m);
	if (m->is_bad || !len || len > (uint64_t)(m->program->end - m->p)) {
		m->is_bad = true;
		return;
	}
	const uint8_t *p = m->p;
	m->p += len;
	if (p[0] == LNE_END_SEQUENCE) {
		put_row(m, true);
		end_sequence(m);
	} else if (p[0] == LNE_SET_ADDRESS && len == 9) {
		m->va = ovm_le64(p + 1);
	}
}

static void run_special(struct machine *m, unsigned opcode)
{
	unsigned by = opcode - m->program->opcode_base;
	m->va += (uint64_t)(by / m->program->line_range) * m->program->min_len;
	m->line += m->program->line_base + (int)(by % m->program->line_range);
	put_row(m, false);
}

static void run_standard(struct machine *m, unsigned opcode)
{
	const struct ovm_line_program *program = m->program;
	switch (opcode) {
	case LNS_COPY:
		put_row(m, false);
		return;
	case LNS_ADVANCE_PC:
		m->va += uleb(m) * program->min_len;
		return;
	case LNS_ADVANCE_LINE:
		m->line = (int64_t)((uint64_t)m->line + (uint64_t)sleb(m));
		return;
	case LNS_SET_FILE:
		m->file = (uint32_t)uleb(m);
		return;
	case LNS_SET_COLUMN:
		m->column = uleb(m);
		return;
	case LNS_NEGATE_STMT:
		m->is_stmt = !m->is_stmt;
		return;
	case LNS_CONST_ADD_PC:
		m->va += (uint64_t)((255u - program->opcode_base) / program->line_range) *
			 program->min_len;
		return;
	case LNS_FIXED_ADVANCE_PC:
		if (program->end - m->p < 2) {
			m->is_bad = true;
			return;
		}
		m->va += ovm_le16(m->p);
		m->p += 2;
		return;
	case LNS_SET_PROLOGUE_END:
		m->behind_prologue = true;
		return;
	default: /* the header says how many operands it has */
		for (unsigned i = program->lengths[opcode - 1]; i && !m->is_bad; i--)
			uleb(m);
	}
}

struct sequence {
	uint32_t first, n;
	uint64_t va;
};

static int by_va(const void *a, const void *b)
{
	const struct sequence *x = a, *y = b;
	if (x->va != y->va)
		return x->va < y->va ? -1 : 1;
	return x->first < y->first ? -1 : x->first > y->first;
}

/* Sequences come as the compiler wrote them; code may stand in another order. One that overlaps
 * what stands before it is left out. */
static void sort_sequences(ovm_line_rows *rows, uint32_t start)
{
	OVM_VEC(struct sequence) sequences = {0};
	ovm_line_rows sorted = {0};
	for (uint32_t i = start, first = start; i < rows->n; i++)
		if (rows->v[i].flags & OVM_LINE_END) {
			ovm_vec_push(&sequences,
				     (struct sequence){first, i + 1 - first, rows->v[first].va.v});
			first = i + 1;
		}
	if (sequences.n)
		qsort(sequences.v, sequences.n, sizeof(*sequences.v), by_va);
	for (uint32_t i = 0; i < sequences.n; i++) {
		const struct sequence *s = &sequences.v[i];
		if (sorted.n && sorted.v[sorted.n - 1].va.v > s->va)
			continue;
		for (uint32_t k = 0; k < s->n; k++)
			ovm_vec_push(&sorted, rows->v[s->first + k]);
	}
	rows->n = start;
	for (uint32_t i = 0; i < sorted.n; i++)
		ovm_vec_push(rows, sorted.v[i]);
	ovm_vec_free(&sequences);
	ovm_vec_free(&sorted);
}

void ovm_line_rows_read(const struct ovm_line_program *program, ovm_line_rows *out)
{
	struct machine m = {.program = program, .p = program->program, .out = out};
	uint32_t start = out->n;
	reset(&m);
	while (m.p < program->end && !m.is_bad) {
		unsigned opcode = *m.p++;
		if (!opcode)
			run_extended(&m);
		else if (opcode >= program->opcode_base)
			run_special(&m, opcode);
		else
			run_standard(&m, opcode);
	}
	out->n = m.first; /* without its end */
	sort_sequences(out, start);
}
