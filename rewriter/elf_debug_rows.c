/* Rows of line tables for the copies. A run of copied code belongs to the unit that has a row
 * exactly where its region starts (code that the linker threw away has rows too, at addresses that
 * mean nothing). Each run is a sequence of its own:
 *
 *   original  0x11d0 p.c:6   0x11dd p.c:8   0x11e1 p.c:10 ...
 *   copy      0x5230 p.c:6   0x523d p.c:10  ... end 0x5260 | 0x526b p.c:8 ... end 0x5279
 *
 * A row starts a statement where the original's row starts one and its first instruction is the one
 * copied; if that instruction vanished (a jump that became a fall-through), where any of the row's
 * is.
 */
#include "rewriter/elf_debug.h"

#include <stdlib.h>

enum {
	LNS_COPY = 1,
	LNS_ADVANCE_PC = 2,
	LNS_ADVANCE_LINE = 3,
	LNS_SET_FILE = 4,
	LNS_SET_COLUMN = 5,
	LNS_NEGATE_STMT = 6,
	LNS_SET_PROLOGUE_END = 10,
	LNE_END_SEQUENCE = 1,
	LNE_SET_ADDRESS = 2,
};

static uint32_t first_entry(const struct ovm_map *map, uint32_t off)
{
	uint32_t lo = 0, hi = map->v.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (map->v.v[mid].off < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool is_copy(const struct ovm_map_entry *entry)
{
	return entry->new_len && ovm_map_is_start(entry);
}

static int by_region(const void *a, const void *b)
{
	const struct ovm_debug_run *x = a, *y = b;
	if (x->lo.v != y->lo.v)
		return x->lo.v < y->lo.v ? -1 : 1;
	return x->fde < y->fde ? -1 : x->fde > y->fde;
}

void ovm_debug_list_runs(struct ovm_debug *w)
{
	const struct ovm_map *map = &w->overlay->map;
	for (uint32_t i = 0; i < w->overlay->fdes.n; i++) {
		const struct ovm_new_fde *fde = &w->overlay->fdes.v[i];
		uint32_t at = first_entry(map, fde->off), end = fde->off + fde->size;
		while (at < map->v.n && map->v.v[at].off < end && !is_copy(&map->v.v[at]))
			at++;
		if (fde->region < w->regions->v.n && at < map->v.n && map->v.v[at].off < end)
			ovm_vec_push(&w->runs,
				     (struct ovm_debug_run){.lo = w->regions->v.v[fde->region].lo,
							    .fde = i,
							    .first = map->v.v[at].off,
							    .end = end});
	}
	if (w->runs.n)
		qsort(w->runs.v, w->runs.n, sizeof(*w->runs.v), by_region);
}

static uint32_t first_run(const struct ovm_debug *w, ovm_va va)
{
	uint32_t lo = 0, hi = w->runs.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (w->runs.v[mid].lo.v < va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The last row at or before @va; OVM_NONE: in no sequence. @hint: where the last one was. */
static uint32_t row_of(const ovm_line_rows *rows, ovm_va va, uint32_t *hint)
{
	uint32_t lo = 0, hi = rows->n, at = *hint;
	if (at < rows->n && rows->v[at].va.v <= va.v && at + 1 < rows->n &&
	    rows->v[at + 1].va.v > va.v) {
		lo = hi = at + 1;
	}
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (rows->v[mid].va.v <= va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || (rows->v[lo - 1].flags & OVM_LINE_END))
		return OVM_NONE;
	*hint = lo - 1;
	return lo - 1;
}

void ovm_debug_claim_runs(struct ovm_debug *w)
{
	uint32_t hint = 0;
	w->claimed.n = 0;
	for (uint32_t i = 0, first = 0; i < w->rows.n; i++) {
		if (!(w->rows.v[i].flags & OVM_LINE_END))
			continue;
		for (uint32_t r = first_run(w, w->rows.v[first].va);
		     r < w->runs.n && w->runs.v[r].lo.v < w->rows.v[i].va.v; r++) {
			uint32_t row = row_of(&w->rows, w->runs.v[r].lo, &hint);
			if (!w->runs.v[r].is_claimed && row != OVM_NONE &&
			    w->rows.v[row].va.v == w->runs.v[r].lo.v) {
				w->runs.v[r].is_claimed = true;
				ovm_vec_push(&w->claimed, r);
			}
		}
		first = i + 1;
	}
}

/* --- lines
 * ----------------------------------------------------------------------------------------------------
 */

struct lines { /* the registers of the program that is written */
	const struct ovm_line_program *program;
	struct ovm_buf *out;
	uint64_t va;
	uint32_t file, line;
	uint16_t column;
	bool is_stmt;
};

static void put_row(struct lines *l, uint64_t va, const struct ovm_line_row *row, bool is_stmt)
{
	const struct ovm_line_program *program = l->program;
	struct ovm_buf *out = l->out;
	if (row->file != l->file) {
		ovm_buf_u8(out, LNS_SET_FILE);
		ovm_buf_uleb(out, row->file);
	}
	if (row->column != l->column) {
		ovm_buf_u8(out, LNS_SET_COLUMN);
		ovm_buf_uleb(out, row->column);
	}
	if (is_stmt != l->is_stmt)
		ovm_buf_u8(out, LNS_NEGATE_STMT);
	if ((row->flags & OVM_LINE_PROLOGUE) && is_stmt &&
	    program->opcode_base > LNS_SET_PROLOGUE_END)
		ovm_buf_u8(out, LNS_SET_PROLOGUE_END);
	int64_t up = (int64_t)row->line - l->line;
	uint64_t forth = va - l->va;
	if (up < program->line_base || up >= program->line_base + program->line_range) {
		ovm_buf_u8(out, LNS_ADVANCE_LINE);
		ovm_buf_sleb(out, up);
		up = 0;
	}
	uint64_t special = (uint64_t)(up - program->line_base) + program->line_range * forth +
			   program->opcode_base;
	if (up >= program->line_base && up < program->line_base + program->line_range &&
	    forth < 256 && special < 256 && program->min_len == 1) {
		ovm_buf_u8(out, (uint8_t)special);
	} else {
		if (forth) {
			ovm_buf_u8(out, LNS_ADVANCE_PC);
			ovm_buf_uleb(out, forth);
		}
		if (up) {
			ovm_buf_u8(out, LNS_ADVANCE_LINE);
			ovm_buf_sleb(out, up);
		}
		ovm_buf_u8(out, LNS_COPY);
	}
	l->va = va;
	l->file = row->file;
	l->line = row->line;
	l->column = row->column;
	l->is_stmt = is_stmt;
}

/* Mark the rows of which the first instruction is copied somewhere. */
static void mark_started(struct ovm_debug *w, const struct ovm_debug_run *run)
{
	const struct ovm_map *map = &w->overlay->map;
	uint32_t hint = 0;
	for (uint32_t i = first_entry(map, run->first); i < map->v.n && map->v.v[i].off < run->end;
	     i++) {
		uint32_t row =
		    is_copy(&map->v.v[i]) ? row_of(&w->rows, map->v.v[i].old, &hint) : OVM_NONE;
		if (row != OVM_NONE && w->rows.v[row].va.v == map->v.v[i].old.v)
			w->rows.v[row].flags |= OVM_LINE_STARTED;
	}
}

/* The rows for @entry, whose original is in row @row. */
static void put_rows(struct ovm_debug *w, struct lines *l, const struct ovm_map_entry *entry,
		     uint32_t row)
{
	uint64_t va = w->overlay->base.v + entry->off;
	const struct ovm_line_row *v = w->rows.v;
	if (v[row].va.v != entry->old.v) {
		put_row(l, va, &v[row],
			(v[row].flags & (OVM_LINE_STMT | OVM_LINE_STARTED)) == OVM_LINE_STMT);
		return;
	}
	uint32_t first = row; /* all rows of this address */
	while (first && v[first - 1].va.v == entry->old.v && !(v[first - 1].flags & OVM_LINE_END))
		first--;
	for (; first <= row; first++)
		put_row(l, va, &v[first], v[first].flags & OVM_LINE_STMT);
}

static void put_sequence(struct ovm_debug *w, const struct ovm_line_program *program,
			 const struct ovm_debug_run *run)
{
	const struct ovm_map *map = &w->overlay->map;
	struct ovm_buf *out = &w->out[OVM_DEBUG_LINE];
	struct lines l = {.program = program, .out = out};
	uint32_t hint = 0, last = OVM_NONE, end = run->end;
	for (uint32_t i = first_entry(map, run->first); i < map->v.n && map->v.v[i].off < end;
	     i++) {
		const struct ovm_map_entry *entry = &map->v.v[i];
		uint32_t row = is_copy(entry) ? row_of(&w->rows, entry->old, &hint) : OVM_NONE;
		if (row == OVM_NONE || (row == last && w->rows.v[row].va.v != entry->old.v))
			continue;
		if (last == OVM_NONE) {
			l.va = w->overlay->base.v + run->first;
			l.file = l.line = 1;
			l.is_stmt = program->default_is_stmt;
			ovm_buf_u8(out, 0);
			ovm_buf_uleb(out, 9);
			ovm_buf_u8(out, LNE_SET_ADDRESS);
			ovm_buf_u64(out, l.va);
		}
		put_rows(w, &l, entry, row);
		last = row;
	}
	if (last == OVM_NONE)
		return;
	if (w->overlay->base.v + end != l.va) {
		ovm_buf_u8(out, LNS_ADVANCE_PC);
		ovm_buf_uleb(out, w->overlay->base.v + end - l.va);
	}
	ovm_buf_u8(out, 0);
	ovm_buf_u8(out, 1);
	ovm_buf_u8(out, LNE_END_SEQUENCE);
}

uint64_t ovm_debug_put_lines(struct ovm_debug *w, const struct ovm_line_program *program)
{
	struct ovm_buf *out = &w->out[OVM_DEBUG_LINE];
	uint64_t at = ovm_debug_position(w, OVM_DEBUG_LINE);
	size_t start = out->n;
	ovm_buf_put(out, program->bytes, (size_t)(program->program - program->bytes));
	for (uint32_t i = 0; i < w->claimed.n; i++)
		mark_started(w, &w->runs.v[w->claimed.v[i]]);
	for (uint32_t i = 0; i < w->claimed.n; i++)
		put_sequence(w, program, &w->runs.v[w->claimed.v[i]]);
	if (program->is_64)
		ovm_put64(out->v + start + 4, out->n - start - 12);
	else
		ovm_put32(out->v + start, (uint32_t)(out->n - start - 4));
	return at;
}
