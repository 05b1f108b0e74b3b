/* Source lines and functions of the copies, for `rewrite --debug`: to each compilation unit of the
 * input that has copied code a twin is added, with the same name and files and with the copies'
 * addresses.
 *
 *   .debug_info     ... | unit a.c | unit b.c | twin of a.c: ranges, functions f g |
 *   .debug_line     ... | table    | table    | header's bytes again, rows of the copies |
 *   .debug_abbrev .debug_aranges .debug_rnglists or .debug_ranges: likewise continued
 *
 * Line tables name their files by an index into the header's tables, and units their own name by an
 * offset into a section of strings. Both are repeated byte by byte, so nothing of them has to be
 * understood or moved. Functions are named by their symbols:
 *
 *   leaf, leaf.cold           one DW_TAG_subprogram "leaf" with two or more ranges
 *   leaf.constprop.0          "leaf", as the compiler calls it
 *   _ZN1a1fEv                 name and linkage name
 *
 * Not there: types, variables, inlined frames: in a copy they are the original's at the address the
 * map gives. Compressed sections are expanded for it, and an index (.gdb_index, .debug_names) does
 * not know the twins: it is renamed. Of split DWARF (.dwo, .dwp) the part in this file is
 * continued: line tables and ranges are in it; a twin is no skeleton, so nobody looks for its other
 * part. The old sections stay where they were, as the original can be restored: they are written
 * once more.
 */
#include "rewriter/elf_debug.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	TAG_COMPILE_UNIT = 0x11,
	TAG_SUBPROGRAM = 0x2e,
	AT_NAME = 0x03,
	AT_STMT_LIST = 0x10,
	AT_LOW_PC = 0x11,
	AT_HIGH_PC = 0x12,
	AT_LANGUAGE = 0x13,
	AT_COMP_DIR = 0x1b,
	AT_PRODUCER = 0x25,
	AT_RANGES = 0x55,
	AT_LINKAGE_NAME = 0x6e,
	AT_STR_OFFSETS_BASE = 0x72,
	FORM_ADDR = 0x01,
	FORM_DATA2 = 0x05,
	FORM_DATA8 = 0x07,
	FORM_STRING = 0x08,
	FORM_SEC_OFFSET = 0x17,
	RLE_END = 0,
	RLE_START_LENGTH = 7,
};

/* Abbreviations of functions; those of units follow. */
enum { FUNC_LINKAGE = 1, FUNC_RANGES = 2, ABBREV_FUNC = 1, ABBREV_UNIT = 5 };

static const char *const section_names[OVM_N_DEBUG] = {
    ".debug_info",    ".debug_abbrev",	 ".debug_line",
    ".debug_aranges", ".debug_rnglists", ".debug_ranges",
};

/* --- small things
 * --------------------------------------------------------------------------------------------- */

uint64_t ovm_debug_position(const struct ovm_debug *w, enum ovm_debug_section s)
{
	return w->old_size[s] + w->out[s].n;
}

static void put_offset(struct ovm_buf *out, uint64_t off, bool is_64)
{
	if (is_64)
		ovm_buf_u64(out, off);
	else
		ovm_buf_u32(out, (uint32_t)off);
}

static size_t open_unit(struct ovm_buf *out, bool is_64)
{
	if (is_64)
		ovm_buf_u32(out, UINT32_MAX);
	put_offset(out, 0, is_64);
	return out->n;
}

static void close_unit(struct ovm_buf *out, size_t start, bool is_64)
{
	if (is_64)
		ovm_put64(out->v + start - 8, out->n - start);
	else
		ovm_put32(out->v + start - 4, (uint32_t)(out->n - start));
}

/* --- functions
 * ------------------------------------------------------------------------------------------------
 */

/* Length of @name up to what the compiler appended for @suffixes, each ending the name or followed
 * by a number. */
static uint32_t cut_at(const char *name, const char *const *suffixes)
{
	size_t len = strlen(name);
	for (; *suffixes; suffixes++) {
		const char *p = strstr(name + 1, *suffixes);
		const char *tail = p ? p + strlen(*suffixes) : NULL;
		if (p && (!*tail || *tail == '.') && (size_t)(p - name) < len)
			len = (size_t)(p - name);
	}
	return len < UINT32_MAX ? (uint32_t)len : 0;
}

static void push_func(struct ovm_debug *w, const struct ovm_debug_run *run)
{
	static const char *const cold[] = {".cold", NULL};
	const struct ovm_symbol *symbol = ovm_image_symbol(w->image, run->lo);
	if (!symbol || !symbol->name || !symbol->name[0])
		return;
	struct ovm_debug_func func = {.name = symbol->name,
				      .len = cut_at(symbol->name, cold),
				      .symbol = symbol->va.v,
				      .lo = run->first,
				      .hi = run->end};
	func.is_cold = symbol->name[func.len];
	ovm_vec_push(&w->funcs, func);
}

static int by_name(const void *a, const void *b)
{
	const struct ovm_debug_func *x = a, *y = b;
	int order = strncmp(x->name, y->name, x->len < y->len ? x->len : y->len);
	if (order || x->len != y->len)
		return order ? order : x->len < y->len ? -1 : 1;
	if (x->is_cold != y->is_cold)
		return x->is_cold ? 1 : -1;
	if (x->symbol != y->symbol)
		return x->symbol < y->symbol ? -1 : 1;
	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static bool is_same_func(const struct ovm_debug_func *head, const struct ovm_debug_func *func,
			 bool joins_cold)
{
	return head->symbol == func->symbol ||
	       (joins_cold && !head->is_cold && func->is_cold && head->len == func->len &&
		!strncmp(head->name, func->name, head->len));
}

/* Where a list of ranges will be that put_ranges writes. */
static uint64_t put_ranges(struct ovm_debug *w, unsigned version, const uint32_t *bounds,
			   uint32_t n)
{
	struct ovm_buf *out = &w->out[version >= 5 ? OVM_DEBUG_RNGLISTS : OVM_DEBUG_RANGES];
	uint64_t base = w->overlay->base.v;
	if (version >= 5 && !out->n) { /* one set of lists; its length is set at the end */
		ovm_buf_u32(out, 0);
		ovm_buf_u16(out, 5);
		ovm_buf_u8(out, 8);
		ovm_buf_u8(out, 0);
		ovm_buf_u32(out, 0);
	}
	uint64_t at = ovm_debug_position(w, version >= 5 ? OVM_DEBUG_RNGLISTS : OVM_DEBUG_RANGES);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t lo = bounds[2 * i], hi = bounds[2 * i + 1];
		for (; i + 1 < n && bounds[2 * i + 2] == hi; i++)
			hi = bounds[2 * i + 3];
		if (version >= 5) {
			ovm_buf_u8(out, RLE_START_LENGTH);
			ovm_buf_u64(out, base + lo);
			ovm_buf_uleb(out, hi - lo);
		} else {
			ovm_buf_u64(out, base + lo);
			ovm_buf_u64(out, base + hi);
		}
	}
	if (version >= 5)
		ovm_buf_u8(out, RLE_END);
	else
		ovm_buf_fill(out, 0, 16);
	return at;
}

/* One function: funcs [@first, @end). */
static void put_func(struct ovm_debug *w, const struct ovm_dwarf_unit *unit, uint32_t first,
		     uint32_t end)
{
	static const char *const clones[] = {".constprop", ".isra", ".part",	   ".cold",
					     ".lto_priv",  ".llvm", ".localalias", NULL};
	const struct ovm_debug_func *head = &w->funcs.v[first];
	uint32_t len = head->is_cold ? (uint32_t)strlen(head->name) : cut_at(head->name, clones);
	bool mangled =
	    len > 2 && head->name[0] == '_' && (head->name[1] == 'Z' || head->name[1] == 'R');
	unsigned kind = (mangled ? FUNC_LINKAGE : 0) | (end - first > 1 ? FUNC_RANGES : 0);
	struct ovm_buf *out = &w->out[OVM_DEBUG_INFO];
	ovm_buf_uleb(out, ABBREV_FUNC + kind);
	for (int times = mangled ? 2 : 1; times; times--) {
		ovm_buf_put(out, head->name, len);
		ovm_buf_u8(out, 0);
	}
	if (end - first == 1) {
		ovm_buf_u64(out, w->overlay->base.v + head->lo);
		ovm_buf_u64(out, head->hi - head->lo);
		return;
	}
	OVM_VEC(uint32_t) bounds = {0};
	for (uint32_t i = first; i < end; i++) {
		ovm_vec_push(&bounds, w->funcs.v[i].lo);
		ovm_vec_push(&bounds, w->funcs.v[i].hi);
	}
	put_offset(out, put_ranges(w, unit->version, bounds.v, bounds.n / 2), unit->is_64);
	ovm_vec_free(&bounds);
}

/* All functions of the unit. A cold part belongs to the one function of its name. */
static void put_funcs(struct ovm_debug *w, const struct ovm_dwarf_unit *unit)
{
	if (w->funcs.n)
		qsort(w->funcs.v, w->funcs.n, sizeof(*w->funcs.v), by_name);
	for (uint32_t first = 0; first < w->funcs.n;) {
		const struct ovm_debug_func *head = &w->funcs.v[first];
		uint32_t end = first + 1;
		bool is_only = !first || w->funcs.v[first - 1].is_cold ||
			       w->funcs.v[first - 1].len != head->len ||
			       strncmp(w->funcs.v[first - 1].name, head->name, head->len);
		while (end < w->funcs.n && is_same_func(head, &w->funcs.v[end], is_only))
			end++;
		put_func(w, unit, first, end);
		first = end;
	}
}

/* --- units
 * ----------------------------------------------------------------------------------------------------
 */

static void put_abbrev(struct ovm_buf *out, uint64_t code, unsigned tag, bool has_children,
		       const uint16_t *pairs, size_t n)
{
	ovm_buf_uleb(out, code);
	ovm_buf_uleb(out, tag);
	ovm_buf_u8(out, has_children);
	for (size_t i = 0; i < 2 * n; i += 2)
		if (pairs[i + 1]) {
			ovm_buf_uleb(out, pairs[i]);
			ovm_buf_uleb(out, pairs[i + 1]);
		}
	ovm_buf_u16(out, 0);
}

static void put_func_abbrevs(struct ovm_buf *out)
{
	for (unsigned kind = 0; kind < 4; kind++) {
		bool ranges = kind & FUNC_RANGES;
		const uint16_t pairs[] = {AT_NAME,
					  FORM_STRING,
					  AT_LINKAGE_NAME,
					  kind & FUNC_LINKAGE ? FORM_STRING : 0,
					  ranges ? AT_RANGES : AT_LOW_PC,
					  ranges ? FORM_SEC_OFFSET : FORM_ADDR,
					  AT_HIGH_PC,
					  ranges ? 0 : FORM_DATA8};
		put_abbrev(out, ABBREV_FUNC + kind, TAG_SUBPROGRAM, false, pairs, 4);
	}
}

/* The abbreviation for a unit of this shape, made if there is none yet. */
static uint64_t unit_abbrev(struct ovm_debug *w, const struct ovm_debug_shape *shape)
{
	for (uint32_t i = 0; i < w->shapes.n; i++)
		if (!memcmp(&w->shapes.v[i], shape, sizeof(*shape)))
			return ABBREV_UNIT + i;
	ovm_vec_push(&w->shapes, *shape);
	uint64_t code = ABBREV_UNIT + w->shapes.n - 1;
	const uint16_t pairs[] = {AT_PRODUCER,
				  shape->producer,
				  AT_LANGUAGE,
				  shape->language,
				  AT_NAME,
				  shape->name,
				  AT_COMP_DIR,
				  shape->comp_dir,
				  AT_STR_OFFSETS_BASE,
				  shape->str_offsets_base,
				  AT_LOW_PC,
				  FORM_ADDR,
				  AT_RANGES,
				  FORM_SEC_OFFSET,
				  AT_STMT_LIST,
				  FORM_SEC_OFFSET};
	put_abbrev(&w->out[OVM_DEBUG_ABBREV], code, TAG_COMPILE_UNIT, true, pairs, 8);
	return code;
}

static void put_attr(struct ovm_buf *out, const struct ovm_dwarf_attr *attr)
{
	if (attr->form)
		ovm_buf_put(out, attr->bytes, attr->size);
}

/* Runs of the unit as bounds in the overlay, ascending. */
static int by_bound(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static void put_aranges(struct ovm_debug *w, uint64_t unit, const uint32_t *bounds, uint32_t n)
{
	struct ovm_buf *out = &w->out[OVM_DEBUG_ARANGES];
	size_t start = open_unit(out, false);
	ovm_buf_u16(out, 2);
	ovm_buf_u32(out, (uint32_t)unit);
	ovm_buf_u8(out, 8);
	ovm_buf_u8(out, 0);
	ovm_buf_u32(out, 0); /* pairs are aligned */
	for (uint32_t i = 0; i < n; i++) {
		ovm_buf_u64(out, w->overlay->base.v + bounds[2 * i]);
		ovm_buf_u64(out, bounds[2 * i + 1] - bounds[2 * i]);
	}
	ovm_buf_fill(out, 0, 16);
	close_unit(out, start, false);
}

static void put_unit(struct ovm_debug *w, const struct ovm_dwarf_unit *unit, uint64_t lines,
		     const uint32_t *bounds, uint32_t n)
{
	struct ovm_buf *out = &w->out[OVM_DEBUG_INFO];
	unsigned version = unit->version >= 5 ? 5 : 4;
	const struct ovm_debug_shape shape = {unit->producer.form, unit->language ? FORM_DATA2 : 0,
					      unit->name.form, unit->comp_dir.form,
					      unit->str_offsets_base.form ? FORM_SEC_OFFSET : 0};
	uint64_t at = ovm_debug_position(w, OVM_DEBUG_INFO), code = unit_abbrev(w, &shape);
	size_t start = open_unit(out, unit->is_64);
	ovm_buf_u16(out, (uint16_t)version);
	if (version >= 5) {
		ovm_buf_u8(out, 1); /* DW_UT_compile */
		ovm_buf_u8(out, 8);
	}
	put_offset(out, w->old_size[OVM_DEBUG_ABBREV], unit->is_64);
	if (version < 5)
		ovm_buf_u8(out, 8);
	ovm_buf_uleb(out, code);
	put_attr(out, &unit->producer);
	if (unit->language)
		ovm_buf_u16(out, unit->language);
	put_attr(out, &unit->name);
	put_attr(out, &unit->comp_dir);
	put_attr(out, &unit->str_offsets_base);
	ovm_buf_u64(out, 0); /* ranges are absolute */
	put_offset(out, put_ranges(w, version, bounds, n), unit->is_64);
	put_offset(out, lines, unit->is_64);
	put_funcs(w, unit);
	ovm_buf_u8(out, 0);
	close_unit(out, start, unit->is_64);
	put_aranges(w, at, bounds, n);
}

/* The twin of @unit, whose rows are read and whose runs are claimed. */
static void put_twin(struct ovm_debug *w, const struct ovm_dwarf_unit *unit,
		     const struct ovm_line_program *program)
{
	OVM_VEC(uint32_t) bounds = {0};
	uint64_t lines = ovm_debug_put_lines(w, program);
	w->funcs.n = 0;
	for (uint32_t i = 0; i < w->claimed.n; i++) {
		const struct ovm_debug_run *run = &w->runs.v[w->claimed.v[i]];
		push_func(w, run);
		ovm_vec_push(&bounds, run->first);
		ovm_vec_push(&bounds, run->end);
	}
	qsort(bounds.v, bounds.n / 2, 2 * sizeof(*bounds.v), by_bound);
	put_unit(w, unit, lines, bounds.v, bounds.n / 2);
	ovm_vec_free(&bounds);
}

static void put_twins(struct ovm_debug *w)
{
	ovm_dwarf_units units = {0};
	ovm_dwarf_units_read(&w->dwarf, &units);
	ovm_debug_list_runs(w);
	put_func_abbrevs(&w->out[OVM_DEBUG_ABBREV]);
	for (uint32_t i = 0; i < units.n; i++) {
		struct ovm_line_program program;
		w->rows.n = 0;
		if (!ovm_line_program_open(&w->dwarf, units.v[i].line_off, &program) ||
		    program.min_len != 1)
			continue;
		ovm_line_rows_read(&program, &w->rows);
		ovm_debug_claim_runs(w);
		if (w->claimed.n)
			put_twin(w, &units.v[i], &program);
	}
	ovm_buf_u8(&w->out[OVM_DEBUG_ABBREV], 0);
	if (w->out[OVM_DEBUG_RNGLISTS].n)
		ovm_put32(w->out[OVM_DEBUG_RNGLISTS].v,
			  (uint32_t)(w->out[OVM_DEBUG_RNGLISTS].n - 4));
	ovm_vec_free(&units);
}

/* --- sections
 * -------------------------------------------------------------------------------------------------
 */

static const char *read_sections(const struct ovm_elf_view *view,
				 struct ovm_elf_bytes bytes[OVM_N_DEBUG])
{
	for (unsigned s = 0; s < OVM_N_DEBUG; s++) {
		const Elf64_Shdr *sh = ovm_elf_section_named(view, view->shdrs, section_names[s]);
		if (sh && !ovm_elf_section_bytes(view, sh, &bytes[s]))
			return "its DWARF is compressed in a way that is not known, or damaged";
		if (bytes[s].n > INT32_MAX)
			return "its DWARF is too big for 32-bit offsets";
	}
	return NULL;
}

static void free_sections(struct ovm_elf_bytes bytes[OVM_N_DEBUG])
{
	for (unsigned s = 0; s < OVM_N_DEBUG; s++)
		ovm_buf_free(&bytes[s].owned);
}

const char *ovm_elf_debug_lines_missing(const struct ovm_elf_view *view)
{
	static const enum ovm_debug_section needed[] = {OVM_DEBUG_INFO, OVM_DEBUG_ABBREV,
							OVM_DEBUG_LINE};
	if (!view->shdrs)
		return "it has no section headers";
	if (ovm_elf_section_named(view, view->shdrs, ".zdebug_info"))
		return "its DWARF is compressed the old way, as .zdebug_info (objcopy "
		       "--decompress-debug-sections)";
	for (unsigned i = 0; i < 3; i++)
		if (!ovm_elf_section_named(view, view->shdrs, section_names[needed[i]]))
			return "it has no DWARF line table (built without -g, or stripped)";
	struct ovm_elf_bytes bytes[OVM_N_DEBUG] = {0};
	const char *why = read_sections(view, bytes);
	free_sections(bytes);
	return why;
}

static void view_dwarf(struct ovm_debug *w, const struct ovm_elf_bytes bytes[OVM_N_DEBUG])
{
	for (unsigned s = 0; s < OVM_N_DEBUG; s++)
		w->old_size[s] = bytes[s].n;
	w->dwarf = (struct ovm_dwarf){bytes[OVM_DEBUG_INFO].v,	 bytes[OVM_DEBUG_ABBREV].v,
				      bytes[OVM_DEBUG_LINE].v,	 bytes[OVM_DEBUG_INFO].n,
				      bytes[OVM_DEBUG_ABBREV].n, bytes[OVM_DEBUG_LINE].n};
}

/* An index would hide what it does not know. */
static void rename_indexes(const struct ovm_elf_view *view, struct ovm_elf_table *table)
{
	static const char *const indexes[] = {".gdb_index", ".debug_names"};
	for (unsigned i = 0; i < 2; i++) {
		Elf64_Shdr *sh = ovm_elf_section_named(view, table->v, indexes[i]);
		if (sh) {
			char name[64];
			int len = snprintf(name, sizeof(name), ".optvm.org%s", indexes[i]);
			sh->sh_name = (uint32_t)table->names.n;
			ovm_buf_put(&table->names, name, (size_t)len + 1);
		}
	}
}

void ovm_elf_debug_lines(const struct ovm_image *image, const struct ovm_elf_view *view,
			 const struct ovm_regions *regions, const struct ovm_overlay *overlay,
			 struct ovm_elf_table *table)
{
	struct ovm_debug w = {.image = image, .overlay = overlay, .regions = regions};
	struct ovm_elf_bytes bytes[OVM_N_DEBUG] = {0};
	if (ovm_elf_debug_lines_missing(view))
		return;
	read_sections(view, bytes);
	view_dwarf(&w, bytes);
	put_twins(&w);
	if (w.out[OVM_DEBUG_INFO].n)
		rename_indexes(view, table);
	for (unsigned s = 0; s < OVM_N_DEBUG && w.out[OVM_DEBUG_INFO].n; s++) {
		if (!w.out[s].n)
			continue;
		Elf64_Shdr *sh = ovm_elf_section_named(view, table->v, section_names[s]);
		size_t start = ovm_elf_table_start(table, s == OVM_DEBUG_ARANGES ? 16 : 8);
		if (sh)
			ovm_elf_table_expand(table, sh, &bytes[s]);
		else
			sh = ovm_elf_table_add(table, section_names[s], SHT_PROGBITS, 0);
		ovm_buf_put(table->out, w.out[s].v, w.out[s].n);
		ovm_elf_table_place(table, sh, start);
	}
	free_sections(bytes);
	for (unsigned s = 0; s < OVM_N_DEBUG; s++)
		ovm_buf_free(&w.out[s]);
	ovm_vec_free(&w.runs);
	ovm_vec_free(&w.shapes);
	ovm_vec_free(&w.rows);
	ovm_vec_free(&w.claimed);
	ovm_vec_free(&w.funcs);
}
