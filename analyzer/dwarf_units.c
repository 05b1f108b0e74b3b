/* Compilation units of .debug_info: only the first DIE of each is read. What has to be known for
 * that is the size of every attribute's value, by its form. */
#include "analyzer/cfi.h"
#include "analyzer/dwarf.h"

#include <stdlib.h>
#include <string.h>

enum {
	TAG_COMPILE_UNIT = 0x11,
	TAG_SKELETON_UNIT = 0x4a,
	AT_NAME = 0x03,
	AT_STMT_LIST = 0x10,
	AT_LANGUAGE = 0x13,
	AT_COMP_DIR = 0x1b,
	AT_PRODUCER = 0x25,
	AT_STR_OFFSETS_BASE = 0x72,
	UT_COMPILE = 1,
	UT_SKELETON = 4,
	LNCT_PATH = 1,
	FORM_BLOCK2 = 0x03,
	FORM_BLOCK4 = 0x04,
	FORM_DATA4 = 0x06,
	FORM_DATA8 = 0x07,
	FORM_STRING = 0x08,
	FORM_BLOCK = 0x09,
	FORM_BLOCK1 = 0x0a,
	FORM_SDATA = 0x0d,
	FORM_STRP = 0x0e,
	FORM_UDATA = 0x0f,
	FORM_REF_ADDR = 0x10,
	FORM_REF_UDATA = 0x15,
	FORM_SEC_OFFSET = 0x17,
	FORM_EXPRLOC = 0x18,
	FORM_STRX = 0x1a,
	FORM_ADDRX = 0x1b,
	FORM_STRP_SUP = 0x1d,
	FORM_LINE_STRP = 0x1f,
	FORM_IMPLICIT_CONST = 0x21,
	FORM_LOCLISTX = 0x22,
	FORM_RNGLISTX = 0x23,
	FORM_STRX1 = 0x25,
	FORM_STRX4 = 0x28,
	FORM_GNU_REF_ALT = 0x1f20,
	FORM_GNU_STRP_ALT = 0x1f21,
};

struct cursor {
	const uint8_t *p, *end;
	bool is_bad;
};

static const uint8_t *take(struct cursor *c, uint64_t n)
{
	const uint8_t *p = c->p;
	if (c->is_bad || n > (uint64_t)(c->end - p)) {
		c->is_bad = true;
		return NULL;
	}
	c->p += n;
	return p;
}

static uint64_t take_int(struct cursor *c, unsigned n)
{
	const uint8_t *p = take(c, n);
	uint64_t value = 0;
	for (unsigned i = 0; p && i < n; i++)
		value |= (uint64_t)p[i] << 8 * i;
	return value;
}

static uint64_t take_uleb(struct cursor *c)
{
	uint64_t value = 0;
	c->is_bad = c->is_bad || !ovm_cfi_uleb(&c->p, c->end, &value);
	return c->is_bad ? 0 : value;
}

/* An offset into a section: 8 bytes in 64-bit DWARF. */
static bool is_section_offset(uint64_t form)
{
	return form == FORM_STRP || form == FORM_SEC_OFFSET || form == FORM_STRP_SUP ||
	       form == FORM_LINE_STRP || form == FORM_GNU_REF_ALT || form == FORM_GNU_STRP_ALT;
}

/* Bytes of a form whose size says nothing else; -1: it does. */
static int fixed_size(uint64_t form, bool is_64)
{
	static const int8_t sizes[] = {
	    [0x01] = 8, [0x05] = 2, [0x06] = 4, [0x07] = 8, [0x0b] = 1, [0x0c] = 1,
	    [0x11] = 1, [0x12] = 2, [0x13] = 4, [0x14] = 8, [0x1c] = 4, [0x1e] = 16,
	    [0x20] = 8, [0x24] = 8, [0x25] = 1, [0x26] = 2, [0x27] = 3, [0x28] = 4,
	    [0x29] = 1, [0x2a] = 2, [0x2b] = 3, [0x2c] = 4,
	};
	if (is_section_offset(form))
		return is_64 ? 8 : 4;
	if (form == 0x19 || form == FORM_IMPLICIT_CONST) /* the value is in the abbreviation */
		return 0;
	return form < sizeof(sizes) && sizes[form] ? sizes[form] : -1;
}

static void skip_value(struct cursor *c, uint64_t form, unsigned version, bool is_64)
{
	const uint8_t *nul;
	if (fixed_size(form, is_64) >= 0) {
		take(c, (uint64_t)fixed_size(form, is_64));
		return;
	}
	switch (form) {
	case FORM_BLOCK1:
		take(c, take_int(c, 1));
		break;
	case FORM_BLOCK2:
		take(c, take_int(c, 2));
		break;
	case FORM_BLOCK4:
		take(c, take_int(c, 4));
		break;
	case FORM_BLOCK:
	case FORM_EXPRLOC:
		take(c, take_uleb(c));
		break;
	case FORM_STRING:
		nul = c->is_bad ? NULL : memchr(c->p, 0, (size_t)(c->end - c->p));
		take(c, nul ? (uint64_t)(nul - c->p) + 1 : UINT64_MAX);
		break;
	case FORM_REF_ADDR:
		take(c, version == 2 || is_64 ? 8 : 4);
		break;
	case FORM_SDATA:
	case FORM_UDATA:
	case FORM_REF_UDATA:
	case FORM_STRX:
	case FORM_ADDRX:
	case FORM_LOCLISTX:
	case FORM_RNGLISTX:
	case 0x1f01: /* split DWARF before version 5: address, string by index */
	case 0x1f02:
		take_uleb(c);
		break;
	default:
		c->is_bad = true;
	}
}

/* A string that another unit of the same version can name with the same bytes. */
static bool is_string(uint64_t form)
{
	return form == FORM_STRING || form == FORM_STRP || form == FORM_LINE_STRP ||
	       form == FORM_STRX || form == FORM_STRP_SUP ||
	       (form >= FORM_STRX1 && form <= FORM_STRX4) || form == FORM_GNU_STRP_ALT;
}

/* The declaration with number @code, left behind its "has children". */
static bool find_abbrev(const struct ovm_dwarf *dwarf, uint64_t off, uint64_t code,
			struct cursor *out, uint64_t *tag)
{
	if (off >= dwarf->abbrev_size)
		return false;
	struct cursor c = {dwarf->abbrev + off, dwarf->abbrev + dwarf->abbrev_size, false};
	for (uint64_t is; (is = take_uleb(&c)) && !c.is_bad;) {
		*tag = take_uleb(&c);
		take(&c, 1);
		*out = c;
		if (is == code)
			return !c.is_bad;
		for (uint64_t name = 1, form = 1; (name || form) && !c.is_bad;) {
			name = take_uleb(&c);
			form = take_uleb(&c);
			if (form == FORM_IMPLICIT_CONST)
				take_uleb(&c);
		}
	}
	return false;
}

static void read_attr(struct ovm_dwarf_unit *unit, uint64_t name, uint64_t form,
		      const uint8_t *bytes, uint64_t size, uint64_t constant, bool *has_lines)
{
	struct ovm_dwarf_attr attr = {(uint16_t)form, bytes, size};
	uint64_t number = constant;
	for (uint64_t i = 0; i < size && i < 8 && form != FORM_IMPLICIT_CONST; i++)
		number = (i ? number : 0) | (uint64_t)bytes[i] << 8 * i;
	bool is_offset = form == FORM_SEC_OFFSET ||
			 (form == (unit->is_64 ? FORM_DATA8 : FORM_DATA4) && unit->version < 4);
	if (name == AT_STMT_LIST && is_offset) {
		unit->line_off = number;
		*has_lines = true;
	} else if (name == AT_LANGUAGE &&
		   (fixed_size(form, false) > 0 || form == FORM_IMPLICIT_CONST)) {
		unit->language = number <= UINT16_MAX ? (uint16_t)number : 0;
	} else if (name == AT_STR_OFFSETS_BASE && is_offset) {
		unit->str_offsets_base = attr;
	} else if (is_string(form)) {
		if (name == AT_NAME)
			unit->name = attr;
		else if (name == AT_COMP_DIR)
			unit->comp_dir = attr;
		else if (name == AT_PRODUCER)
			unit->producer = attr;
	}
}

/* The first DIE, at @c. False if it has no line table. */
static bool read_die(const struct ovm_dwarf *dwarf, struct cursor *c, uint64_t abbrev_off,
		     struct ovm_dwarf_unit *unit)
{
	struct cursor a;
	uint64_t tag, name, form, code = take_uleb(c);
	bool has_lines = false;
	if (c->is_bad || !code || !find_abbrev(dwarf, abbrev_off, code, &a, &tag) ||
	    (tag != TAG_COMPILE_UNIT && tag != TAG_SKELETON_UNIT))
		return false;
	for (;;) {
		name = take_uleb(&a);
		form = take_uleb(&a);
		uint64_t constant = form == FORM_IMPLICIT_CONST ? take_uleb(&a) : 0;
		if (a.is_bad)
			return false;
		if (!name && !form)
			return has_lines;
		const uint8_t *bytes = c->p;
		skip_value(c, form, unit->version, unit->is_64);
		if (c->is_bad)
			return false;
		read_attr(unit, name, form, bytes, (uint64_t)(c->p - bytes), constant, &has_lines);
	}
}

struct format { /* of the entries of a line table's header */
	uint64_t content, form;
};

/* The path of the first of the entries at @c, of which the others are passed over. */
static struct ovm_dwarf_attr read_entries(struct cursor *c, bool is_64)
{
	struct ovm_dwarf_attr path = {0};
	struct format formats[16];
	uint64_t n_formats = take_int(c, 1);
	c->is_bad = c->is_bad || n_formats > 16;
	for (uint64_t i = 0; i < n_formats && !c->is_bad; i++) {
		formats[i].content = take_uleb(c);
		formats[i].form = take_uleb(c);
	}
	uint64_t n = take_uleb(c);
	for (uint64_t i = 0; i < n && n_formats && !c->is_bad; i++)
		for (uint64_t k = 0; k < n_formats; k++) {
			const uint8_t *bytes = c->p;
			skip_value(c, formats[k].form, 5, is_64);
			if (!i && !c->is_bad && formats[k].content == LNCT_PATH)
				path = (struct ovm_dwarf_attr){(uint16_t)formats[k].form, bytes,
							       (uint64_t)(c->p - bytes)};
		}
	return path;
}

/* The name of the first file of a line table, as an attribute for a unit of the same kind. */
static struct ovm_dwarf_attr first_file(const struct ovm_dwarf *dwarf, uint64_t off, bool is_64)
{
	struct ovm_line_program program;
	struct ovm_dwarf_attr name = {0};
	if (!ovm_line_program_open(dwarf, off, &program) || program.is_64 != is_64)
		return name;
	struct cursor c = {program.lengths + program.opcode_base - 1, program.program, false};
	if (program.version >= 5) {
		read_entries(&c, is_64); /* folders */
		name = read_entries(&c, is_64);
		return c.is_bad || !is_string(name.form) ? (struct ovm_dwarf_attr){0} : name;
	}
	while (!c.is_bad && c.p < c.end && *c.p) /* folders */
		skip_value(&c, FORM_STRING, 4, is_64);
	take(&c, 1);
	name = (struct ovm_dwarf_attr){.form = FORM_STRING, .bytes = c.p};
	skip_value(&c, FORM_STRING, 4, is_64);
	name.size = (uint64_t)(c.p - name.bytes);
	return c.is_bad || name.size < 2 ? (struct ovm_dwarf_attr){0} : name;
}

static int by_lines(const void *a, const void *b)
{
	const struct ovm_dwarf_unit *x = a, *y = b;
	if (x->line_off != y->line_off)
		return x->line_off < y->line_off ? -1 : 1;
	return x->off < y->off ? -1 : x->off > y->off;
}

/* Keep the first of those that share a line table. */
static void sort_units(ovm_dwarf_units *units)
{
	if (units->n)
		qsort(units->v, units->n, sizeof(*units->v), by_lines);
	uint32_t n = 0;
	for (uint32_t i = 0; i < units->n; i++)
		if (!n || units->v[n - 1].line_off != units->v[i].line_off)
			units->v[n++] = units->v[i];
	units->n = n;
}

void ovm_dwarf_units_read(const struct ovm_dwarf *dwarf, ovm_dwarf_units *out)
{
	struct cursor all = {dwarf->info, dwarf->info + dwarf->info_size, false};
	while (all.p < all.end) {
		uint64_t off = (uint64_t)(all.p - dwarf->info), len = take_int(&all, 4);
		bool is_64 = len == UINT32_MAX;
		if (is_64)
			len = take_int(&all, 8);
		const uint8_t *p = take(&all, len);
		if (!p)
			break;
		struct cursor c = {p, p + len, false};
		struct ovm_dwarf_unit unit = {
		    .off = off, .is_64 = is_64, .version = (uint16_t)take_int(&c, 2)};
		if (unit.version < 2 || unit.version > 5)
			continue;
		uint64_t type = unit.version == 5 ? take_int(&c, 1) : UT_COMPILE;
		uint64_t address_size = unit.version == 5 ? take_int(&c, 1) : 0;
		uint64_t abbrev_off = take_int(&c, is_64 ? 8 : 4);
		if (unit.version < 5)
			address_size = take_int(&c, 1);
		if (type == UT_SKELETON)
			take(&c, 8); /* number of the .dwo */
		if ((type != UT_COMPILE && type != UT_SKELETON) || address_size != 8 ||
		    !read_die(dwarf, &c, abbrev_off, &unit))
			continue;
		if (!unit.name.form)
			unit.name = first_file(dwarf, unit.line_off, is_64);
		ovm_vec_push(out, unit);
	}
	sort_units(out);
}
