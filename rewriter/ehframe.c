/* Unwind data of copied code, from rows. The map says which original instruction stands where; its
 * region's rows say how to unwind there. Walk the map in overlay order:
 *
 *   copy of     row                       FDE program
 *   f+0         CFA=rsp+8  ra=c-8         (as the CIE starts)
 *   f+1         CFA=rsp+16 ra=c-8 r15=c-16   advance 2; def_cfa_offset 16; offset r15 2
 *   f+93 (moved)CFA=rsp+8  ra=c-8         advance 40; def_cfa_offset 8; restore r15
 *   g+0         ...                       a new FDE: another source region
 *
 * One FDE per maximal run of code of one region, and of thunks (value.c), which have the state of a
 * function's first instruction all through: their FDEs say nothing but what the CIE says. All CIEs
 * start at CFA=rsp+8, ra=c-8 with data alignment -8; they differ in personality and in whether
 * there is an LSDA. Reference: DWARF 4 section 6.4, LSB core specification (eh_frame).
 */
#include "rewriter/ehframe.h"
#include "rewriter/lsda_write.h"

#include <stdlib.h>
#include <string.h>

enum { /* DW_CFA_* */
       CFA_ADVANCE_LOC = 0x40,
       CFA_OFFSET = 0x80,
       CFA_RESTORE = 0xc0,
       CFA_ADVANCE_LOC1 = 0x02,
       CFA_ADVANCE_LOC2 = 0x03,
       CFA_ADVANCE_LOC4 = 0x04,
       CFA_UNDEFINED = 0x07,
       CFA_SAME_VALUE = 0x08,
       CFA_REGISTER = 0x09,
       CFA_DEF_CFA = 0x0c,
       CFA_DEF_CFA_REGISTER = 0x0d,
       CFA_DEF_CFA_OFFSET = 0x0e,
       CFA_DEF_CFA_EXPRESSION = 0x0f,
       CFA_EXPRESSION = 0x10,
       CFA_OFFSET_EXTENDED_SF = 0x11,
       CFA_DEF_CFA_SF = 0x12,
       CFA_DEF_CFA_OFFSET_SF = 0x13,
       CFA_VAL_OFFSET = 0x14,
       CFA_VAL_OFFSET_SF = 0x15,
       CFA_VAL_EXPRESSION = 0x16,
       CFA_GNU_ARGS_SIZE = 0x2e,
};

enum {
	DATA_ALIGN = -8,
	REG_RSP = 7,
	REG_RA = 16,
	PE_PCREL_SDATA4 = 0x1b,
	PE_INDIRECT = 0x80,
	PE_OMIT = 0xff
};

/* --- row differences
 * ------------------------------------------------------------------------------------------- */

static bool same_bytes(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len)
{
	return a_len == b_len && (!a_len || memcmp(a, b, a_len) == 0);
}

static bool same_rule(const struct ovm_cfi_rule *a, const struct ovm_cfi_rule *b)
{
	if (a->kind != b->kind)
		return false;
	switch ((enum ovm_cfi_kind)a->kind) {
	case OVM_CFI_UNSET:
	case OVM_CFI_UNDEFINED:
	case OVM_CFI_SAME:
		return true;
	case OVM_CFI_OFFSET:
	case OVM_CFI_VAL_OFFSET:
	case OVM_CFI_REGISTER:
		return a->off == b->off;
	case OVM_CFI_EXPR:
	case OVM_CFI_VAL_EXPR:
		return same_bytes(a->expr, a->expr_len, b->expr, b->expr_len);
	}
	return false;
}

static void put_block(struct ovm_buf *out, const uint8_t *expr, uint32_t len)
{
	ovm_buf_uleb(out, len);
	ovm_buf_put(out, expr, len);
}

static bool put_cfa(struct ovm_buf *out, const struct ovm_cfi_row *from,
		    const struct ovm_cfi_row *to)
{
	if (to->cfa_reg == OVM_NONE) {
		if (from->cfa_reg == OVM_NONE &&
		    same_bytes(from->cfa_expr, from->cfa_expr_len, to->cfa_expr, to->cfa_expr_len))
			return true;
		ovm_buf_u8(out, CFA_DEF_CFA_EXPRESSION);
		put_block(out, to->cfa_expr, to->cfa_expr_len);
		return true;
	}
	bool reg = from->cfa_reg != to->cfa_reg;
	bool off = from->cfa_reg == OVM_NONE || from->cfa_off != to->cfa_off;
	if (!reg && !off)
		return true;
	if (!off) {
		ovm_buf_u8(out, CFA_DEF_CFA_REGISTER);
		ovm_buf_uleb(out, to->cfa_reg);
		return true;
	}
	bool sf = to->cfa_off < 0;
	if (sf && to->cfa_off % DATA_ALIGN)
		return false;
	ovm_buf_u8(out, reg ? (sf ? CFA_DEF_CFA_SF : CFA_DEF_CFA)
			    : (sf ? CFA_DEF_CFA_OFFSET_SF : CFA_DEF_CFA_OFFSET));
	if (reg)
		ovm_buf_uleb(out, to->cfa_reg);
	if (sf)
		ovm_buf_sleb(out, to->cfa_off / DATA_ALIGN);
	else
		ovm_buf_uleb(out, (uint64_t)to->cfa_off);
	return true;
}

static bool put_offset(struct ovm_buf *out, uint32_t reg, const struct ovm_cfi_rule *rule)
{
	bool val = rule->kind == OVM_CFI_VAL_OFFSET;
	int64_t n = rule->off / DATA_ALIGN;
	if (rule->off % DATA_ALIGN)
		return false;
	if (!val && n >= 0) {
		ovm_buf_u8(out, (uint8_t)(CFA_OFFSET | reg));
		ovm_buf_uleb(out, (uint64_t)n);
		return true;
	}
	ovm_buf_u8(out,
		   val ? (n < 0 ? CFA_VAL_OFFSET_SF : CFA_VAL_OFFSET) : CFA_OFFSET_EXTENDED_SF);
	ovm_buf_uleb(out, reg);
	if (n < 0)
		ovm_buf_sleb(out, n);
	else
		ovm_buf_uleb(out, (uint64_t)n);
	return true;
}

static bool put_rule(struct ovm_buf *out, uint32_t reg, const struct ovm_cfi_rule *rule)
{
	switch ((enum ovm_cfi_kind)rule->kind) {
	case OVM_CFI_UNSET: /* what the CIE leaves every register but the return address at */
		ovm_buf_u8(out, (uint8_t)(CFA_RESTORE | reg));
		return reg != REG_RA;
	case OVM_CFI_UNDEFINED:
	case OVM_CFI_SAME:
		ovm_buf_u8(out, rule->kind == OVM_CFI_SAME ? CFA_SAME_VALUE : CFA_UNDEFINED);
		ovm_buf_uleb(out, reg);
		return true;
	case OVM_CFI_OFFSET:
	case OVM_CFI_VAL_OFFSET:
		return put_offset(out, reg, rule);
	case OVM_CFI_REGISTER:
		ovm_buf_u8(out, CFA_REGISTER);
		ovm_buf_uleb(out, reg);
		ovm_buf_uleb(out, (uint64_t)rule->off);
		return true;
	case OVM_CFI_EXPR:
	case OVM_CFI_VAL_EXPR:
		ovm_buf_u8(out, rule->kind == OVM_CFI_EXPR ? CFA_EXPRESSION : CFA_VAL_EXPRESSION);
		ovm_buf_uleb(out, reg);
		put_block(out, rule->expr, rule->expr_len);
		return true;
	}
	return false;
}

/* The shortest program that turns row @from into row @to; false if it cannot be said with our CIE.
 */
static bool put_diff(struct ovm_buf *out, const struct ovm_cfi_row *from,
		     const struct ovm_cfi_row *to)
{
	bool ok = put_cfa(out, from, to);
	for (uint32_t r = 0; r < OVM_CFI_REGS; r++)
		if (!same_rule(&from->reg[r], &to->reg[r]))
			ok &= put_rule(out, r, &to->reg[r]);
	if (from->args_size != to->args_size) {
		ovm_buf_u8(out, CFA_GNU_ARGS_SIZE);
		ovm_buf_uleb(out, to->args_size);
	}
	return ok;
}

static void put_advance(struct ovm_buf *out, uint32_t delta)
{
	if (!delta)
		return;
	if (delta < 0x40) {
		ovm_buf_u8(out, (uint8_t)(CFA_ADVANCE_LOC | delta));
	} else if (delta <= UINT8_MAX) {
		ovm_buf_u8(out, CFA_ADVANCE_LOC1);
		ovm_buf_u8(out, (uint8_t)delta);
	} else if (delta <= UINT16_MAX) {
		ovm_buf_u8(out, CFA_ADVANCE_LOC2);
		ovm_buf_u16(out, (uint16_t)delta);
	} else {
		ovm_buf_u8(out, CFA_ADVANCE_LOC4);
		ovm_buf_u32(out, delta);
	}
}

/* --- runs: which map entries make one FDE
 * ----------------------------------------------------------------------- */

struct cie_key { /* one CIE we write */
	ovm_va personality;
	bool indirect, has_lsda;
	uint32_t off; /* overlay offset */
};

struct run {
	uint32_t first, end; /* map entries */
	uint32_t lsda_off;   /* overlay offset, 0 none */
	bool is_thunks;
};

struct writer {
	const struct ovm_program *program;
	struct ovm_overlay *overlay;
	struct ovm_buf *out;
	ovm_cfi_spans *spans;	  /* [regions.n], filled on demand; n == 0: not yet */
	OVM_VEC(struct run) runs; /* parallel to overlay->fdes */
	OVM_VEC(struct cie_key) cies;
	struct ovm_cfi_row initial;
	uint32_t bad_region;
	enum ovm_refusal why;
};

static bool refuse(struct writer *w, uint32_t region, enum ovm_refusal why)
{
	w->bad_region = region;
	w->why = why;
	return false;
}

static const struct ovm_region *region_of(const struct writer *w, uint32_t idx)
{
	return &w->program->regions->v.v[idx];
}

static bool region_has(const struct writer *w, uint32_t idx, ovm_va va)
{
	const struct ovm_region *region = region_of(w, idx);
	return ovm_va_in(va, region->lo, region->hi);
}

/* Never executed. */
static bool is_filler(const struct ovm_map_entry *entry)
{
	return (entry->flags & (OVM_MAP_PAD | OVM_MAP_SYNTH | OVM_MAP_THUNK)) == OVM_MAP_PAD;
}

static void end_run(struct writer *w, uint32_t end)
{
	if (!w->runs.n || w->runs.v[w->runs.n - 1].end)
		return;
	struct run *run = &w->runs.v[w->runs.n - 1];
	struct ovm_new_fde *fde = &w->overlay->fdes.v[w->overlay->fdes.n - 1];
	const struct ovm_map_entry *map = w->overlay->map.v.v;
	while (end - 1 > run->first && is_filler(&map[end - 1]))
		end--; /* behind the run */
	run->end = end;
	fde->size = map[end - 1].off + map[end - 1].new_len - fde->off;
}

/* Does the entry belong to the run of @region before it? Jumps of ours, and the way out behind a
 * call that ends its region, have the row of what is before them; a counter and a guard have the
 * row of what follows. */
static bool joins(const struct writer *w, uint32_t region, const struct ovm_map_entry *entry)
{
	bool is_thunk = entry->flags & OVM_MAP_THUNK;
	if (region == OVM_NONE || w->runs.v[w->runs.n - 1].is_thunks != is_thunk)
		return false;
	if (is_thunk || region_has(w, region, entry->old) || (entry->flags & OVM_MAP_EXIT))
		return true;
	if (entry->flags & OVM_MAP_GUARD)
		return false;
	if (entry->flags & OVM_MAP_COUNT)
		return ovm_region_find(w->program->regions, entry->old) == OVM_NONE;
	return (entry->flags & (OVM_MAP_PAD | OVM_MAP_SYNTH)) == OVM_MAP_SYNTH;
}

static bool find_runs(struct writer *w)
{
	const struct ovm_map *map = &w->overlay->map;
	uint32_t region = OVM_NONE, at = 0;
	for (uint32_t i = 0; i < map->v.n; i++) {
		const struct ovm_map_entry *entry = &map->v.v[i];
		bool gap = entry->off != at;
		at = entry->off + entry->new_len;
		if (gap) {
			end_run(w, i);
			region = OVM_NONE;
		}
		if (is_filler(entry) || joins(w, region, entry))
			continue;
		end_run(w, i);
		region = ovm_region_find(w->program->regions, entry->old);
		if (region == OVM_NONE)
			return refuse(w,
				      w->overlay->fdes.n
					  ? w->overlay->fdes.v[w->overlay->fdes.n - 1].region
					  : 0,
				      OVM_REFUSE_CFI);
		ovm_vec_push(&w->runs, (struct run){i, 0, 0, entry->flags & OVM_MAP_THUNK});
		ovm_vec_push(&w->overlay->fdes, (struct ovm_new_fde){entry->off, 0, 0, region});
	}
	end_run(w, map->v.n);
	return true;
}

/* --- LSDA
 * ------------------------------------------------------------------------------------------------------
 */

/* The call sites of a run in output order. Jumps of ours cannot throw: they join what is around
 * them. A guard reads the operand of its call, and may fault like it. */
static void gather_sites(const struct writer *w, const struct run *run,
			 const struct ovm_new_fde *fde, const struct ovm_lsda *lsda,
			 ovm_callsites *sites)
{
	ovm_va lo = region_of(w, fde->region)->lo;
	const struct ovm_callsite *last = NULL;
	sites->n = 0;
	for (uint32_t i = run->first; i < run->end; i++) {
		const struct ovm_map_entry *entry = &w->overlay->map.v.v[i];
		uint32_t at = entry->off - fde->off;
		if ((entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD)) &&
		    !(entry->flags & OVM_MAP_GUARD))
			continue;
		const struct ovm_callsite *site =
		    ovm_lsda_site(lsda, (uint32_t)(entry->old.v - lo.v));
		if (site && last && site->landing == last->landing && site->action == last->action)
			sites->v[sites->n - 1].hi = at + entry->new_len;
		else if (site)
			ovm_vec_push(sites, (struct ovm_callsite){at, at + entry->new_len,
								  site->landing, site->action});
		last = site;
	}
}

static bool write_lsda(struct writer *w, struct run *run, const struct ovm_new_fde *fde,
		       ovm_callsites *sites)
{
	const struct ovm_region *region = region_of(w, fde->region);
	const struct ovm_cie *cie = &w->program->regions->cfi.cies.v[region->cie];
	const struct ovm_image *image = w->program->image;
	struct ovm_lsda lsda = {0};
	if (image->is_dyn && (cie->lsda_enc & 0x70) == 0)
		return refuse(w, fde->region, OVM_REFUSE_LSDA);
	if (ovm_lsda_parse(image, region->lsda, region->lo, region->hi.v - region->lo.v, &lsda))
		return refuse(w, fde->region, OVM_REFUSE_LSDA);
	gather_sites(w, run, fde, &lsda, sites);
	ovm_buf_align(w->out, 4, 0);
	run->lsda_off = (uint32_t)w->out->n;
	bool ok = ovm_lsda_can_move(&lsda, image->is_dyn) &&
		  ovm_lsda_write(w->out, w->overlay->base, ovm_va_add(w->overlay->base, fde->off),
				 &lsda, sites);
	ovm_lsda_fini(&lsda);
	return ok || refuse(w, fde->region, OVM_REFUSE_LSDA);
}

static bool has_lsda(const struct writer *w, uint32_t region)
{
	const struct ovm_region *r = region_of(w, region);
	return r->lsda.v && w->program->regions->cfi.cies.v[r->cie].personality_enc != PE_OMIT;
}

static bool write_lsdas(struct writer *w)
{
	ovm_callsites sites = {0};
	bool ok = true;
	ovm_buf_align(w->out, 4, 0);
	uint32_t start = (uint32_t)w->out->n;
	for (uint32_t i = 0; i < w->runs.n && ok; i++)
		if (!w->runs.v[i].is_thunks && has_lsda(w, w->overlay->fdes.v[i].region))
			ok = write_lsda(w, &w->runs.v[i], &w->overlay->fdes.v[i], &sites);
	w->overlay->sections[OVM_SECTION_LSDA] =
	    (struct ovm_section){start, (uint32_t)w->out->n - start};
	ovm_vec_free(&sites);
	return ok;
}

/* --- CIE and FDE records
 * --------------------------------------------------------------------------------------- */

static bool put_pcrel(struct writer *w, ovm_va target)
{
	int64_t d = (int64_t)(target.v - (w->overlay->base.v + w->out->n));
	ovm_buf_u32(w->out, (uint32_t)d);
	return d == (int32_t)d;
}

/* Pad the record that starts at @start and store its length. */
static void close_record(struct writer *w, size_t start)
{
	ovm_buf_align(w->out, 4, 0); /* DW_CFA_nop */
	ovm_put32(w->out->v + start, (uint32_t)(w->out->n - start - 4));
}

static bool write_cie(struct writer *w, struct cie_key *key)
{
	static const uint8_t initial[] = {CFA_DEF_CFA, REG_RSP, 8, CFA_OFFSET | REG_RA, 1};
	bool personality = key->personality.v, ok = true;
	const char *augmentation = !personality ? "zR" : key->has_lsda ? "zPLR" : "zPR";
	size_t start = w->out->n;
	key->off = (uint32_t)start;
	ovm_buf_u32(w->out, 0);
	ovm_buf_u32(w->out, 0); /* CIE id */
	ovm_buf_u8(w->out, 1);	/* version */
	ovm_buf_put(w->out, augmentation, strlen(augmentation) + 1);
	ovm_buf_uleb(w->out, 1); /* code alignment */
	ovm_buf_sleb(w->out, DATA_ALIGN);
	ovm_buf_u8(w->out, REG_RA);
	ovm_buf_uleb(w->out, 1 + (personality ? 5 : 0) + (key->has_lsda ? 1 : 0));
	if (personality) {
		ovm_buf_u8(w->out, PE_PCREL_SDATA4 | (key->indirect ? PE_INDIRECT : 0));
		ok = put_pcrel(w, key->personality);
	}
	if (key->has_lsda)
		ovm_buf_u8(w->out, PE_PCREL_SDATA4);
	ovm_buf_u8(w->out, PE_PCREL_SDATA4); /* FDE pointers */
	ovm_buf_put(w->out, initial, sizeof(initial));
	close_record(w, start);
	return ok;
}

/* The CIE that says what @key says, written if it is new. NULL: refused. */
static const struct cie_key *find_cie(struct writer *w, uint32_t region, struct cie_key key)
{
	for (uint32_t i = 0; i < w->cies.n; i++) {
		const struct cie_key *have = &w->cies.v[i];
		if (have->personality.v == key.personality.v && have->indirect == key.indirect &&
		    have->has_lsda == key.has_lsda)
			return have;
	}
	if (!write_cie(w, &key)) {
		refuse(w, region, OVM_REFUSE_OUT_OF_RANGE);
		return NULL;
	}
	ovm_vec_push(&w->cies, key);
	return &w->cies.v[w->cies.n - 1];
}

/* The CIE for code of @region. NULL: refused. */
static const struct cie_key *cie_for(struct writer *w, uint32_t region)
{
	const struct ovm_cie *cie = &w->program->regions->cfi.cies.v[region_of(w, region)->cie];
	bool personality = cie->personality_enc != PE_OMIT && cie->personality.v;
	struct cie_key key = {{0}, false, false, 0};
	if (cie->ra_reg != REG_RA || cie->is_signal) {
		refuse(w, region, OVM_REFUSE_CFI);
		return NULL;
	}
	if (cie->personality_enc != PE_OMIT && w->program->image->is_dyn &&
	    (cie->personality_enc & 0x70) == 0) {
		refuse(w, region, OVM_REFUSE_LSDA); /* would need a relocation */
		return NULL;
	}
	if (personality) {
		key.personality = cie->personality;
		key.indirect = cie->personality_enc & PE_INDIRECT;
		key.has_lsda = has_lsda(w, region);
	}
	return find_cie(w, region, key);
}

static const ovm_cfi_spans *spans_of(struct writer *w, uint32_t region)
{
	ovm_cfi_spans *spans = &w->spans[region];
	if (!spans->n && (ovm_region_spans(w->program->regions, w->program->image, region, spans) ||
			  !spans->n)) {
		refuse(w, region, OVM_REFUSE_CFI);
		return NULL;
	}
	return spans;
}

/* The row's differences at each instruction of the run, as advance and change instructions. */
static bool write_program(struct writer *w, const struct run *run, const struct ovm_new_fde *fde)
{
	const ovm_cfi_spans *spans = spans_of(w, fde->region);
	if (!spans)
		return false;
	ovm_va lo = region_of(w, fde->region)->lo;
	uint32_t row = OVM_NONE, at = fde->off;
	for (uint32_t i = run->first; i < run->end; i++) {
		const struct ovm_map_entry *entry = &w->overlay->map.v.v[i];
		if (!region_has(w, fde->region, entry->old))
			continue; /* a jump of ours out of the region: as before it */
		uint32_t now = ovm_spans_row(spans, (uint32_t)(entry->old.v - lo.v));
		if (now == row)
			continue;
		const struct ovm_cfi_row *rows = w->program->regions->cfi.rows.v;
		put_advance(w->out, entry->off - at);
		if (!put_diff(w->out, row == OVM_NONE ? &w->initial : &rows[row], &rows[now]))
			return refuse(w, fde->region, OVM_REFUSE_CFI);
		at = entry->off;
		row = now;
	}
	return true;
}

static bool write_fde(struct writer *w, const struct run *run, struct ovm_new_fde *fde)
{
	const struct cie_key *cie =
	    run->is_thunks ? find_cie(w, fde->region, (struct cie_key){{0}, false, false, 0})
			   : cie_for(w, fde->region);
	if (!cie)
		return false;
	size_t start = w->out->n;
	fde->fde_off = (uint32_t)start;
	ovm_buf_u32(w->out, 0);
	ovm_buf_u32(w->out, (uint32_t)(w->out->n - cie->off));
	bool ok = put_pcrel(w, ovm_va_add(w->overlay->base, fde->off));
	ovm_buf_u32(w->out, fde->size);
	ovm_buf_uleb(w->out, cie->has_lsda ? 4 : 0);
	if (cie->has_lsda)
		ok &= put_pcrel(w, ovm_va_add(w->overlay->base, run->lsda_off));
	if (!ok)
		return refuse(w, fde->region, OVM_REFUSE_OUT_OF_RANGE);
	if (!run->is_thunks && !write_program(w, run, fde))
		return false;
	close_record(w, start);
	return true;
}

static bool write_eh_frame(struct writer *w)
{
	ovm_buf_align(w->out, 8, 0);
	uint32_t start = (uint32_t)w->out->n;
	for (uint32_t i = 0; i < w->runs.n; i++)
		if (!write_fde(w, &w->runs.v[i], &w->overlay->fdes.v[i]))
			return false;
	ovm_buf_u32(w->out, 0); /* end of .eh_frame */
	w->overlay->sections[OVM_SECTION_EH_FRAME] =
	    (struct ovm_section){start, (uint32_t)w->out->n - start};
	return true;
}

/* --- .eh_frame_hdr
 * --------------------------------------------------------------------------------------------- */

void ovm_ehframe_hdr(struct ovm_buf *out, ovm_va hdr_va, ovm_va eh_frame,
		     const struct ovm_hdr_entry *entries, uint32_t n)
{
	static const uint8_t head[] = {
	    1,	  /* version */
	    0x1b, /* eh_frame_ptr: pcrel sdata4 */
	    0x03, /* count: udata4 */
	    0x3b, /* table: datarel sdata4 */
	};
	ovm_buf_put(out, head, sizeof(head));
	ovm_buf_u32(out, (uint32_t)(eh_frame.v - (hdr_va.v + sizeof(head))));
	ovm_buf_u32(out, n);
	for (uint32_t i = 0; i < n; i++) {
		ovm_buf_u32(out, (uint32_t)(entries[i].code.v - hdr_va.v));
		ovm_buf_u32(out, (uint32_t)(entries[i].fde.v - hdr_va.v));
	}
}

static void write_hdr(struct writer *w)
{
	struct ovm_overlay *overlay = w->overlay;
	struct ovm_hdr_entry *entries = ovm_alloc_array(overlay->fdes.n, sizeof(*entries));
	for (uint32_t i = 0; i < overlay->fdes.n; i++) {
		entries[i].code = ovm_va_add(overlay->base, overlay->fdes.v[i].off);
		entries[i].fde = ovm_va_add(overlay->base, overlay->fdes.v[i].fde_off);
	}
	ovm_buf_align(w->out, 4, 0);
	uint32_t start = (uint32_t)w->out->n;
	ovm_ehframe_hdr(w->out, ovm_va_add(overlay->base, start),
			ovm_va_add(overlay->base, overlay->sections[OVM_SECTION_EH_FRAME].off),
			entries, overlay->fdes.n);
	overlay->sections[OVM_SECTION_EH_FRAME_HDR] =
	    (struct ovm_section){start, (uint32_t)w->out->n - start};
	free(entries);
}

static void writer_init(struct writer *w, const struct ovm_program *program,
			struct ovm_overlay *overlay, struct ovm_buf *bytes)
{
	*w = (struct writer){
	    .program = program, .overlay = overlay, .out = bytes, .bad_region = OVM_NONE};
	w->spans = ovm_alloc_array(program->regions->v.n, sizeof(*w->spans));
	w->initial.cfa_reg = REG_RSP;
	w->initial.cfa_off = 8;
	w->initial.reg[REG_RA] = (struct ovm_cfi_rule){.kind = OVM_CFI_OFFSET, .off = -8};
}

static void writer_fini(struct writer *w)
{
	for (uint32_t i = 0; i < w->program->regions->v.n; i++)
		free(w->spans[i].v);
	free(w->spans);
	ovm_vec_free(&w->runs);
	ovm_vec_free(&w->cies);
}

int ovm_ehframe_emit(struct ovm_ctx *ctx, const struct ovm_program *program,
		     struct ovm_overlay *overlay, struct ovm_buf *bytes, uint32_t *bad_region,
		     enum ovm_refusal *why)
{
	struct writer w;
	(void)ctx;
	writer_init(&w, program, overlay, bytes);
	bool ok = find_runs(&w) && write_lsdas(&w) && write_eh_frame(&w);
	if (ok)
		write_hdr(&w);
	else {
		*bad_region = w.bad_region;
		*why = w.why;
	}
	writer_fini(&w);
	return ok ? 0 : OVM_REFUSED;
}
