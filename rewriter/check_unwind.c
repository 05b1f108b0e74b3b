/* Unwind data of copied code, read back from the bytes that were written and compared instruction
 * by instruction.
 *
 *   overlay FDE [off, off+size) -> rows, call sites      original's region -> rows, call sites
 *
 * A copied instruction must have the original's row and call site (landing pad as an absolute
 * address, same action), at its first and at its last byte: a frame is looked up at its return
 * address less 1. Personality, and the tables behind actions, are compared once an FDE. Jumps of
 * ours neither throw nor are called from: only their row counts, for signals, and only where they
 * stay in their region; a counter's and an exit's always, and a guard's with its call sites. In a
 * thunk (check_value.c) the row is that of a function's first instruction, and nothing else is
 * said. The readers are strict about form (what we write is one form): anything else is refused.
 */
#include "rewriter/check_private.h"

#include <stdlib.h>
#include <string.h>

enum { OMIT = 0xff, PCREL4 = 0x1b, SDATA4 = 0x0b, INDIRECT = 0x80, RSP = 7, RA = 16 };

struct new_cie {
	uint32_t off;
	bool has_lsda;
	struct ovm_cie cie;
};

struct new_fde {
	uint32_t off, size, fde_off; /* as in struct ovm_new_fde */
	uint32_t cie;		     /* index into unwind.cies */
	uint64_t lsda;		     /* absolute, 0 none */
	const uint8_t *prog;
	uint32_t prog_len;
};

struct unwind {
	struct ovm_check *check;
	const uint8_t *bytes; /* the overlay's */
	uint64_t base;
	struct ovm_cfi cfi; /* rows of the overlay: its own table, as rows borrow from the bytes */
	OVM_VEC(struct new_cie) cies;
	OVM_VEC(struct new_fde) fdes;
	OVM_VEC(uint32_t)
	same; /* row of the overlay -> equal row of the image, OVM_NONE not known */
	/* the FDE and region at hand */
	uint32_t fde, region;
	ovm_cfi_spans new_spans, old_spans;
	uint32_t new_at; /* span of the last instruction */
	struct ovm_lsda new_lsda, old_lsda;
	bool has_lsda;
};

static bool no(struct unwind *u, ovm_va old, uint32_t off, const char *what)
{
	return ovm_check_no(u->check, old, off, "%s", what);
}

/* --- reading .eh_frame
 * ----------------------------------------------------------------------------------------- */

static ovm_va va_of(const struct unwind *u, const uint8_t *p)
{
	return ovm_va_of(u->base + (uint64_t)(p - u->bytes));
}

static bool read_pcrel(const struct unwind *u, const uint8_t **p, const uint8_t *end,
		       uint64_t *value)
{
	return ovm_cfi_read_encoded(p, end, PCREL4, va_of(u, *p), ovm_va_of(0), value);
}

static bool parse_letters(const struct unwind *u, const uint8_t **p, const uint8_t *end,
			  const char *letters, struct new_cie *out)
{
	uint64_t len, value;
	if (*letters++ != 'z' || !ovm_cfi_uleb(p, end, &len) || len > (uint64_t)(end - *p))
		return false;
	const uint8_t *stop = *p + len;
	for (; *letters; letters++) {
		if (*p == stop)
			return false;
		uint8_t enc = *(*p)++;
		if ((enc & ~INDIRECT) != PCREL4 || (enc != PCREL4 && *letters != 'P'))
			return false;
		if (*letters == 'P') {
			if (!read_pcrel(u, p, stop, &value))
				return false;
			out->cie.personality = ovm_va_of(value);
			out->cie.personality_enc = enc;
		} else if (*letters == 'L') {
			out->has_lsda = true;
		} else if (*letters == 'R') {
			out->cie.fde_enc = enc;
		} else {
			return false;
		}
	}
	return *p == stop && out->cie.fde_enc == PCREL4;
}

/* A record's body: bounds-checked against its section, before whose end @off is. */
static const uint8_t *record(const struct unwind *u, const struct ovm_section *section,
			     uint32_t off, const uint8_t **end)
{
	uint32_t stop = section->off + section->size;
	if (off < section->off || stop - off < 8)
		return NULL;
	uint32_t len = ovm_le32(u->bytes + off);
	if (len < 4 || len > stop - off - 4)
		return NULL;
	*end = u->bytes + off + 4 + len;
	return u->bytes + off + 4;
}

static bool parse_cie(struct unwind *u, const struct ovm_section *section, uint32_t off,
		      struct new_cie *out)
{
	const uint8_t *end, *p = record(u, section, off, &end);
	struct ovm_cfi_row blank = {.cfa_reg = OVM_NONE};
	ovm_cfi_spans spans = {0};
	*out = (struct new_cie){.off = off, .cie = {.lsda_enc = OMIT, .personality_enc = OMIT}};
	if (!p || ovm_le32(p) != 0 || end - p < 12 || p[4] != 1)
		return false;
	const char *letters = (const char *)p + 5;
	const uint8_t *nul = memchr(letters, 0, (size_t)(end - p - 5));
	if (!nul)
		return false;
	p = nul + 1;
	if (!ovm_cfi_uleb(&p, end, &out->cie.code_align) ||
	    !ovm_cfi_sleb(&p, end, &out->cie.data_align) || p == end)
		return false;
	out->cie.ra_reg = *p++;
	if (!parse_letters(u, &p, end, letters, out))
		return false;
	uint32_t first = ovm_cfi_intern(&u->cfi, &blank);
	int err = ovm_cfi_run(&u->cfi, &out->cie, p, (size_t)(end - p), va_of(u, p), ovm_va_of(0),
			      0, first, &spans);
	if (!err)
		out->cie.initial_row = spans.v[0].row;
	ovm_vec_free(&spans);
	return !err;
}

static uint32_t cie_at(struct unwind *u, const struct ovm_section *section, uint32_t off)
{
	struct new_cie cie;
	for (uint32_t i = u->cies.n; i-- > 0;)
		if (u->cies.v[i].off == off)
			return i;
	if (!parse_cie(u, section, off, &cie))
		return OVM_NONE;
	ovm_vec_push(&u->cies, cie);
	return u->cies.n - 1;
}

static bool parse_fde(struct unwind *u, const struct ovm_section *section, uint32_t off,
		      const uint8_t *p, const uint8_t *end)
{
	uint32_t back = ovm_le32(p);
	uint64_t at = (uint64_t)(p - u->bytes), lo, aug;
	struct new_fde fde = {.fde_off = off};
	if (back > at || (fde.cie = cie_at(u, section, (uint32_t)(at - back))) == OVM_NONE)
		return false;
	p += 4;
	if (!read_pcrel(u, &p, end, &lo) || end - p < 5)
		return false;
	fde.size = ovm_le32(p);
	p += 4;
	if (!ovm_cfi_uleb(&p, end, &aug) || aug > (uint64_t)(end - p))
		return false;
	const uint8_t *prog = p + aug;
	if (u->cies.v[fde.cie].has_lsda && !read_pcrel(u, &p, prog, &fde.lsda))
		return false;
	if (p != prog || lo - u->base >= u->check->code_end || !fde.size ||
	    fde.size > u->check->code_end - (lo - u->base))
		return false;
	fde.off = (uint32_t)(lo - u->base);
	fde.prog = prog;
	fde.prog_len = (uint32_t)(end - prog);
	ovm_vec_push(&u->fdes, fde);
	return true;
}

static int by_off(const void *a, const void *b)
{
	const struct new_fde *x = a, *y = b;
	return (x->off > y->off) - (x->off < y->off);
}

static bool read_eh_frame(struct unwind *u)
{
	const struct ovm_section *section = &u->check->overlay->sections[OVM_SECTION_EH_FRAME];
	uint32_t at = section->off, stop = at + section->size;
	while (stop - at >= 4 && ovm_le32(u->bytes + at)) {
		const uint8_t *end, *p = record(u, section, at, &end);
		if (!p || (ovm_le32(p) && !parse_fde(u, section, at, p, end)))
			return no(u, (ovm_va){0}, at, "a record of .eh_frame cannot be read");
		at = (uint32_t)(end - u->bytes);
	}
	if (stop - at != 4)
		return no(u, (ovm_va){0}, at, ".eh_frame does not end where it should");
	if (u->fdes.n)
		qsort(u->fdes.v, u->fdes.n, sizeof(*u->fdes.v), by_off);
	for (uint32_t i = 1; i < u->fdes.n; i++)
		if (u->fdes.v[i].off - u->fdes.v[i - 1].off < u->fdes.v[i - 1].size)
			return no(u, (ovm_va){0}, u->fdes.v[i].off, "FDEs overlap");
	return true;
}

/* The binary-search table and the list the ELF writer uses say what .eh_frame says. */
static bool check_tables(struct unwind *u)
{
	const struct ovm_overlay *overlay = u->check->overlay;
	const struct ovm_section *section = &overlay->sections[OVM_SECTION_EH_FRAME_HDR];
	const uint8_t *p = u->bytes + section->off;
	uint64_t hdr = u->base + section->off,
		 eh_frame = u->base + overlay->sections[OVM_SECTION_EH_FRAME].off;
	static const uint8_t head[] = {1, PCREL4, 0x03, 0x3b};
	if (section->size != 12 + 8 * (uint64_t)u->fdes.n || memcmp(p, head, 4) ||
	    hdr + 4 + (uint64_t)(int64_t)(int32_t)ovm_le32(p + 4) != eh_frame ||
	    ovm_le32(p + 8) != u->fdes.n || overlay->fdes.n != u->fdes.n)
		return no(u, (ovm_va){0}, section->off, ".eh_frame_hdr is wrong");
	for (uint32_t i = 0; i < u->fdes.n; i++) {
		const struct new_fde *fde = &u->fdes.v[i];
		const struct ovm_new_fde *claim = &overlay->fdes.v[i];
		uint64_t code = hdr + (uint64_t)(int64_t)(int32_t)ovm_le32(p + 12 + 8 * (size_t)i);
		uint64_t at = hdr + (uint64_t)(int64_t)(int32_t)ovm_le32(p + 16 + 8 * (size_t)i);
		if (code != u->base + fde->off || at != u->base + fde->fde_off ||
		    claim->off != fde->off || claim->size != fde->size ||
		    claim->fde_off != fde->fde_off)
			return no(u, (ovm_va){0}, fde->off, "an entry of .eh_frame_hdr is wrong");
	}
	return true;
}

/* --- LSDA
 * ------------------------------------------------------------------------------------------------------
 */

struct lsda_reader { /* of one record in the overlay */
	const uint8_t *p, *end, *sites_end, *type_base;
	uint8_t type_enc;
};

static bool read_lsda_head(struct unwind *u, uint64_t lsda, struct lsda_reader *r)
{
	const struct ovm_section *section = &u->check->overlay->sections[OVM_SECTION_LSDA];
	uint64_t off = lsda - u->base, value;
	if (off < section->off || off - section->off >= section->size)
		return false;
	*r = (struct lsda_reader){.p = u->bytes + off,
				  .end = u->bytes + section->off + section->size};
	if (*r->p++ != OMIT || r->p == r->end)
		return false;
	r->type_enc = *r->p++;
	if (r->type_enc != OMIT) {
		if (!ovm_cfi_uleb(&r->p, r->end, &value) || value > (uint64_t)(r->end - r->p))
			return false;
		r->type_base = r->p + value;
	}
	if (r->p == r->end || *r->p++ != SDATA4 || !ovm_cfi_uleb(&r->p, r->end, &value) ||
	    value > (uint64_t)(r->end - r->p))
		return false;
	r->sites_end = r->p + value;
	return !r->type_base || r->sites_end <= r->type_base;
}

static bool read_sdata4(struct lsda_reader *r, uint64_t *value)
{
	return ovm_cfi_read_encoded(&r->p, r->sites_end, SDATA4, ovm_va_of(0), ovm_va_of(0), value);
}

static bool read_sites(struct unwind *u, struct lsda_reader *r, uint32_t size)
{
	uint64_t at = 0, start, len, landing, action;
	while (r->p < r->sites_end) {
		if (!read_sdata4(r, &start) || !read_sdata4(r, &len) || !read_sdata4(r, &landing) ||
		    !ovm_cfi_uleb(&r->p, r->sites_end, &action))
			return false;
		if (start < at || start > size || !len || len > size - start)
			return false;
		at = start + len;
		ovm_vec_push(&u->new_lsda.sites,
			     (struct ovm_callsite){(uint32_t)start, (uint32_t)at, landing, action});
	}
	return true;
}

static unsigned type_size(uint8_t enc)
{
	switch (enc & 0x0f) {
	case 0x0:
	case 0x4:
	case 0xc:
		return 8;
	case 0x3:
	case 0xb:
		return 4;
	case 0x2:
	case 0xa:
		return 2;
	default:
		return 0;
	}
}

static bool types_equal(const struct unwind *u, const struct lsda_reader *r)
{
	const struct ovm_lsda *old = &u->old_lsda;
	unsigned size = type_size(r->type_enc);
	if (r->type_enc != old->type_enc)
		return false;
	if (!r->type_base) /* on either side */
		return true;
	if ((old->types.n && !size) ||
	    (uint64_t)(r->type_base - r->sites_end) <
		old->actions_len + (uint64_t)old->types.n * size ||
	    (uint64_t)(r->end - r->type_base) < old->filters_len)
		return false;
	for (uint32_t i = 0; i < old->types.n; i++) {
		const uint8_t *p = r->type_base - (size_t)(i + 1) * size;
		uint64_t value;
		/* as it was of the original's, in the same form */
		bool is_read = ovm_cfi_read_encoded(&p, r->type_base, r->type_enc, va_of(u, p),
						    ovm_va_of(0), &value);
		OVM_ASSERT(is_read);
		if (value != old->types.v[i].v)
			return false;
		if (value && !(r->type_enc & 0x70) && u->check->image->is_dyn)
			return false; /* absolute, and nobody relocates it */
	}
	return !old->filters_len || !memcmp(r->type_base, old->filters, old->filters_len);
}

/* Actions are offsets into a table that must then be the same, as must be what it refers to. */
static bool actions_equal(const struct unwind *u, const struct lsda_reader *r)
{
	const struct ovm_lsda *old = &u->old_lsda;
	bool used = false;
	for (uint32_t i = 0; i < u->new_lsda.sites.n && !used; i++)
		used = u->new_lsda.sites.v[i].action;
	if (!used)
		return true;
	return (uint64_t)(r->end - r->sites_end) >= old->actions_len &&
	       (!old->actions_len || !memcmp(r->sites_end, old->actions, old->actions_len)) &&
	       types_equal(u, r);
}

static bool site_is(const struct unwind *u, const struct ovm_callsite *old,
		    const struct ovm_callsite *new)
{
	if (!old || !new)
		return old == new;
	if (!old->landing || !new->landing)
		return old->landing == new->landing && old->action == new->action;
	return u->old_lsda.lp_start.v + old->landing == u->new_lsda.lp_start.v + new->landing &&
	       old->action == new->action;
}

static bool sites_equal(const struct unwind *u, uint32_t old_off, uint32_t old_len,
			uint32_t new_off, uint32_t new_len)
{
	return site_is(u, ovm_lsda_site(&u->old_lsda, old_off),
		       ovm_lsda_site(&u->new_lsda, new_off)) &&
	       site_is(u, ovm_lsda_site(&u->old_lsda, old_off + old_len - 1),
		       ovm_lsda_site(&u->new_lsda, new_off + new_len - 1));
}

/* --- rows
 * ------------------------------------------------------------------------------------------------------
 */

static bool expr_equal(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len)
{
	return a_len == b_len && (!a_len || !memcmp(a, b, a_len));
}

static uint8_t plain_kind(const struct ovm_cfi_rule *rule)
{
	return rule->kind == OVM_CFI_UNSET ? OVM_CFI_SAME : rule->kind;
}

static bool rule_equal(const struct ovm_cfi_rule *a, const struct ovm_cfi_rule *b)
{
	if (plain_kind(a) != plain_kind(b))
		return false;
	switch ((enum ovm_cfi_kind)a->kind) {
	case OVM_CFI_OFFSET:
	case OVM_CFI_VAL_OFFSET:
	case OVM_CFI_REGISTER:
		return a->off == b->off;
	case OVM_CFI_EXPR:
	case OVM_CFI_VAL_EXPR:
		return expr_equal(a->expr, a->expr_len, b->expr, b->expr_len);
	default:
		return true;
	}
}

static bool row_equal(const struct ovm_cfi_row *a, const struct ovm_cfi_row *b)
{
	if (a->cfa_reg != b->cfa_reg || a->args_size != b->args_size)
		return false;
	if (a->cfa_reg == OVM_NONE
		? !expr_equal(a->cfa_expr, a->cfa_expr_len, b->cfa_expr, b->cfa_expr_len)
		: a->cfa_off != b->cfa_off)
		return false;
	for (unsigned i = 0; i < OVM_CFI_REGS; i++)
		if (!rule_equal(&a->reg[i], &b->reg[i]))
			return false;
	return true;
}

static bool same_row(struct unwind *u, uint32_t new, uint32_t old)
{
	while (u->same.n <= new)
		ovm_vec_push(&u->same, OVM_NONE);
	if (u->same.v[new] == old)
		return true;
	if (!row_equal(&u->cfi.rows.v[new], &u->check->regions->cfi.rows.v[old]))
		return false;
	u->same.v[new] = old;
	return true;
}

/* --- instruction by instruction
 * -------------------------------------------------------------------------------- */

static bool enter_region(struct unwind *u, const struct ovm_map_entry *entry)
{
	struct ovm_regions *regions = u->check->regions;
	u->region = ovm_region_find(regions, entry->old);
	ovm_lsda_fini(&u->old_lsda);
	u->old_lsda = (struct ovm_lsda){0};
	if (u->region == OVM_NONE)
		return no(u, entry->old, entry->off, "a copy of what has no unwind data");
	const struct ovm_region *region = &regions->v.v[u->region];
	if (ovm_region_spans(regions, u->check->image, u->region, &u->old_spans))
		return no(u, entry->old, entry->off, "unwind rows of the original cannot be read");
	u->has_lsda = region->lsda.v && regions->cfi.cies.v[region->cie].personality_enc != OMIT;
	if (u->has_lsda && ovm_lsda_parse(u->check->image, region->lsda, region->lo,
					  region->hi.v - region->lo.v, &u->old_lsda))
		return no(u, entry->old, entry->off,
			  "exception tables of the original cannot be read");
	return true;
}

static bool cie_equal(const struct ovm_cie *old, const struct ovm_cie *new)
{
	bool has = old->personality_enc != OMIT && old->personality.v;
	if (old->is_signal || old->ra_reg != RA || new->ra_reg != RA ||
	    has != (new->personality_enc != OMIT))
		return false;
	return !has || (old->personality.v == new->personality.v &&
			(old->personality_enc & INDIRECT) == (new->personality_enc &INDIRECT));
}

static bool run_fde(struct unwind *u, const struct new_fde *fde, const struct ovm_cie *cie)
{
	u->new_spans.n = u->new_at = 0;
	return !ovm_cfi_run(&u->cfi, cie, fde->prog, fde->prog_len, va_of(u, fde->prog),
			    ovm_va_of(u->base + fde->off), fde->size, cie->initial_row,
			    &u->new_spans);
}

/* A new FDE; the region of its code is at hand. */
static bool enter_fde(struct unwind *u, const struct ovm_map_entry *entry)
{
	const struct new_fde *fde = &u->fdes.v[u->fde];
	const struct new_cie *cie = &u->cies.v[fde->cie];
	const struct ovm_region *region = &u->check->regions->v.v[u->region];
	struct lsda_reader reader;
	u->new_lsda.sites.n = 0;
	u->new_lsda.lp_start = ovm_va_of(u->base + fde->off);
	if (u->check->overlay->fdes.v[u->fde].region != u->region)
		return no(u, entry->old, entry->off, "an FDE of another region");
	if (!cie_equal(&u->check->regions->cfi.cies.v[region->cie], &cie->cie))
		return no(u, entry->old, entry->off, "another personality");
	if (!run_fde(u, fde, &cie->cie))
		return no(u, entry->old, entry->off, "unwind rows cannot be read");
	if (u->has_lsda != !!fde->lsda)
		return no(u, entry->old, entry->off, "exception tables on one side only");
	if (u->has_lsda &&
	    (!read_lsda_head(u, fde->lsda, &reader) || !read_sites(u, &reader, fde->size)))
		return no(u, entry->old, entry->off, "exception tables cannot be read");
	if (u->has_lsda && !actions_equal(u, &reader))
		return no(u, entry->old, entry->off, "exception types differ");
	return true;
}

static bool rows_equal(struct unwind *u, uint32_t old_off, uint32_t new_off, uint32_t new_len)
{
	const ovm_cfi_spans *spans = &u->new_spans;
	while (u->new_at + 1 < spans->n && spans->v[u->new_at + 1].off <= new_off)
		u->new_at++;
	if (u->new_at + 1 < spans->n && spans->v[u->new_at + 1].off < new_off + new_len)
		return false; /* changes inside the instruction */
	return same_row(u, spans->v[u->new_at].row, ovm_spans_row(&u->old_spans, old_off));
}

static bool in_region(const struct unwind *u, ovm_va va)
{
	const struct ovm_regions *regions = u->check->regions;
	return u->region != OVM_NONE &&
	       ovm_va_in(va, regions->v.v[u->region].lo, regions->v.v[u->region].hi);
}

/* Make the FDE that covers @entry the one at hand. */
static bool find_fde(struct unwind *u, const struct ovm_map_entry *entry)
{
	while (u->fde < u->fdes.n && u->fdes.v[u->fde].off + u->fdes.v[u->fde].size <= entry->off)
		u->fde++;
	if (u->fde == u->fdes.n || entry->off < u->fdes.v[u->fde].off ||
	    entry->off + entry->new_len > u->fdes.v[u->fde].off + u->fdes.v[u->fde].size)
		return no(u, entry->old, entry->off, "a copy without unwind data");
	return true;
}

/* The same, and the region of its original. */
static bool enter(struct unwind *u, const struct ovm_map_entry *entry)
{
	uint32_t last = u->fde, last_region = u->region;
	if (!find_fde(u, entry))
		return false;
	if (!in_region(u, entry->old) && !enter_region(u, entry))
		return false;
	return (last == u->fde && last_region == u->region) || enter_fde(u, entry);
}

static bool check_insn(struct unwind *u, const struct ovm_map_entry *entry)
{
	if (!enter(u, entry))
		return false;
	uint32_t old_off = (uint32_t)(entry->old.v - u->check->regions->v.v[u->region].lo.v);
	uint32_t new_off = entry->off - u->fdes.v[u->fde].off;
	if (!rows_equal(u, old_off, new_off, entry->new_len))
		return no(u, entry->old, entry->off, "unwind rows differ");
	if (u->has_lsda && !sites_equal(u, old_off, entry->old_len, new_off, entry->new_len))
		return no(u, entry->old, entry->off, "handlers differ");
	return true;
}

/* A jump of ours, about to execute what it maps to: the row is that one's, where that is in the
 * same FDE's region. */
static bool check_jump(struct unwind *u, const struct ovm_map_entry *entry)
{
	const struct new_fde *fde = u->fde < u->fdes.n ? &u->fdes.v[u->fde] : NULL;
	if (!fde || !u->new_spans.n || /* and it does not begin before */
	    entry->off + entry->new_len > fde->off + fde->size || !in_region(u, entry->old))
		return true;
	if (!rows_equal(u, (uint32_t)(entry->old.v - u->check->regions->v.v[u->region].lo.v),
			entry->off - fde->off, entry->new_len))
		return no(u, entry->old, entry->off, "the unwind row of an added jump differs");
	return true;
}

/* A counter may be the first thing of its FDE, behind another region's code; so it is taken like a
 * copy, and so is an exit. But where a call ends its region nothing returns to the exit, and a
 * counter may stand before a jump to what has no unwind data. */
static bool check_counter(struct unwind *u, const struct ovm_map_entry *entry)
{
	if (!in_region(u, entry->old) &&
	    ((entry->flags & OVM_MAP_EXIT) ||
	     ovm_region_find(u->check->regions, entry->old) == OVM_NONE))
		return check_jump(u, entry);
	if (!enter(u, entry))
		return false;
	if (!rows_equal(u, (uint32_t)(entry->old.v - u->check->regions->v.v[u->region].lo.v),
			entry->off - u->fdes.v[u->fde].off, entry->new_len))
		return no(u, entry->old, entry->off, "the unwind row of a counter or exit differs");
	return true;
}

/* It reads the operand of its call, and may fault like it: row and handlers are that one's. */
static bool check_guard(struct unwind *u, const struct ovm_map_entry *entry)
{
	if (!enter(u, entry))
		return false;
	uint32_t old_off = (uint32_t)(entry->old.v - u->check->regions->v.v[u->region].lo.v);
	uint32_t new_off = entry->off - u->fdes.v[u->fde].off;
	if (!rows_equal(u, old_off, new_off, entry->new_len))
		return no(u, entry->old, entry->off, "the unwind row of a guard differs");
	if (u->has_lsda && !sites_equal(u, old_off, 1, new_off, entry->new_len))
		return no(u, entry->old, entry->off, "handlers of a guard differ");
	return true;
}

/* Entered by a call like a function, and the stack pointer stays as it is. Belongs to no region:
 * the next copy enters one anew. */
static bool check_thunk(struct unwind *u, const struct ovm_map_entry *entry)
{
	const struct ovm_cfi_row called = {
	    .cfa_reg = RSP, .cfa_off = 8, .reg[RA] = {.kind = OVM_CFI_OFFSET, .off = -8}};
	uint32_t last = u->fde, last_region = u->region;
	if (!find_fde(u, entry))
		return false;
	const struct new_fde *fde = &u->fdes.v[u->fde];
	const struct ovm_cie *cie = &u->cies.v[fde->cie].cie;
	u->region = OVM_NONE;
	if (last == u->fde && last_region == OVM_NONE && u->new_spans.n)
		return true; /* one FDE for many */
	if (cie->ra_reg != RA || cie->personality_enc != OMIT || fde->lsda ||
	    !run_fde(u, fde, cie) || u->new_spans.n != 1 ||
	    !row_equal(&u->cfi.rows.v[u->new_spans.v[0].row], &called))
		return no(u, entry->old, entry->off, "the unwind row of a thunk differs");
	return true;
}

static bool check_entry(struct unwind *u, const struct ovm_map_entry *entry)
{
	if (entry->flags & OVM_MAP_THUNK)
		return check_thunk(u, entry);
	if (entry->flags & (OVM_MAP_COUNT | OVM_MAP_EXIT))
		return check_counter(u, entry);
	if ((entry->flags & OVM_MAP_GUARD) && (entry->flags & OVM_MAP_SYNTH))
		return check_guard(u, entry);
	if (entry->flags & OVM_MAP_SYNTH)
		return check_jump(u, entry);
	return (entry->flags & OVM_MAP_PAD) || check_insn(u, entry);
}

bool ovm_check_unwind(struct ovm_check *check)
{
	struct unwind u = {
	    .check = check, .bytes = check->overlay->bytes, .base = check->overlay->base.v};
	const struct ovm_map *map = &check->overlay->map;
	ovm_cfi_init(&u.cfi);
	bool ok = read_eh_frame(&u) && check_tables(&u);
	u.region = OVM_NONE;
	for (uint32_t i = 0; i < map->v.n && ok; i++)
		ok = check_entry(&u, &map->v.v[i]);
	ovm_cfi_fini(&u.cfi);
	ovm_vec_free(&u.cies);
	ovm_vec_free(&u.fdes);
	ovm_vec_free(&u.same);
	ovm_vec_free(&u.new_spans);
	ovm_vec_free(&u.old_spans);
	ovm_lsda_fini(&u.new_lsda);
	ovm_lsda_fini(&u.old_lsda);
	return ok;
}
