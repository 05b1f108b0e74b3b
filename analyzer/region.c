/* FDE ranges -> regions.
 *
 *   .eh_frame   | len | 0     | version "zPLR" ... CIE program |     one for many functions
 *               | len | back  | pc_begin pc_range lsda program |     one FDE a code range
 *               | 0 |                                                terminator
 *   .eh_frame_hdr   pointer to .eh_frame, then a table (code, fde) sorted by code
 *
 * .eh_frame is walked from end to end, which costs no more than following the table. Some writers
 * leave the pointer behind and only keep the table whole (a table may also span several pieces of
 * .eh_frame): when it promises more FDEs than the walk found, the table is followed too. CIEs are
 * parsed when an FDE first names them, and kept once by content.
 *
 * Hostile input: every record is cut to the file-backed bytes of its segment; a bad FDE is dropped
 * and counted; a walk ends at the first record whose length makes no sense.
 */
#include "analyzer/region.h"
#include "analyzer/rseq.h"
#include "analyzer/selfcheck.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
	DWARF_RSP = 7,
	OMIT = 0xff,
	CIE_COMPARE_MAX = 256, /* only so many recent CIEs are compared: files have a handful */
	OVERLAP_WALK_MAX = 256,
};

/* --- reading records
 * --------------------------------------------------------------------------------------------- */

struct record {		/* a CIE or FDE, cut out and bounds-checked */
	ovm_va va;	/* of its length field */
	ovm_va body_va; /* of the id field */
	const uint8_t *body, *end;
	uint32_t id;   /* 0: CIE; else distance back from body_va */
	uint64_t size; /* to the next record */
};

struct cie_slot {
	ovm_va va;
	uint32_t cie; /* 1 + index, BAD_CIE, or 0 for a free slot */
};

enum { BAD_CIE = UINT32_MAX };

struct reader {
	const struct ovm_image *image;
	struct ovm_regions *out;
	const uint8_t *window; /* .eh_frame */
	struct cie_slot *cies; /* open addressing by va */
	uint32_t n_cies, cies_size;
	uint64_t n_fdes; /* records met, good or bad */
	ovm_cfi_spans scratch;
};

/* Bytes at @va and how many follow in the file. */
static const uint8_t *bytes_from(const struct reader *reader, ovm_va va, uint64_t *avail)
{
	const struct ovm_image *image = reader->image;
	uint64_t at = va.v - image->eh_frame.v;
	if (reader->window && at < image->eh_frame_size) {
		*avail = image->eh_frame_size - at;
		return reader->window + at;
	}
	const struct ovm_segment *seg = ovm_image_segment(image, va);
	if (!seg || va.v - seg->lo.v >= seg->filesz)
		return NULL;
	*avail = seg->filesz - (va.v - seg->lo.v);
	return ovm_image_at(image, va, *avail);
}

/* False at the terminator and where no record can be. */
static bool read_record(const struct reader *reader, ovm_va va, struct record *out)
{
	uint64_t avail, head = 4;
	const uint8_t *p = bytes_from(reader, va, &avail);
	if (!p || avail < 8)
		return false;
	uint64_t len = ovm_le32(p);
	if (len == UINT32_MAX) {
		if (avail < 16)
			return false;
		len = ovm_le64(p + 4);
		head = 12;
	}
	if (len < 4 || len > avail - head)
		return false;
	*out = (struct record){
	    .va = va,
	    .body_va = ovm_va_add(va, (int64_t)head),
	    .body = p + head,
	    .end = p + head + len,
	    .id = ovm_le32(p + head),
	    .size = head + len,
	};
	return true;
}

/* --- CIEs
 * --------------------------------------------------------------------------------------------------------
 */

struct cie_parse {
	const struct record *rec;
	const uint8_t *p;
	struct ovm_cie cie;
};

static ovm_va parse_va(const struct cie_parse *parse)
{
	return ovm_va_add(parse->rec->body_va, parse->p - parse->rec->body);
}

/* The letters after 'z' and their data. */
static bool parse_augmentation(struct cie_parse *parse, const char *letters)
{
	uint64_t len, value;
	if (!ovm_cfi_uleb(&parse->p, parse->rec->end, &len) ||
	    len > (uint64_t)(parse->rec->end - parse->p))
		return false;
	const uint8_t *end = parse->p + len;
	for (; *letters; letters++) {
		switch (*letters) {
		case 'R':
		case 'L':
			if (parse->p == end)
				return false;
			*(*letters == 'R' ? &parse->cie.fde_enc : &parse->cie.lsda_enc) =
			    *parse->p++;
			break;
		case 'P':
			if (parse->p == end)
				return false;
			parse->cie.personality_enc = *parse->p++;
			if (parse->cie.personality_enc == OMIT)
				break;
			if (!ovm_cfi_read_encoded(&parse->p, end, parse->cie.personality_enc,
						  parse_va(parse), ovm_va_of(0), &value))
				return false;
			parse->cie.personality = ovm_va_of(value);
			break;
		case 'S':
			parse->cie.is_signal = true;
			break;
		case 'B': /* return addresses signed with the other key: another machine's, harmless
			   */
			break;
		default:
			return false;
		}
	}
	parse->p = end;
	return true;
}

static bool parse_cie_head(struct cie_parse *parse)
{
	const uint8_t *end = parse->rec->end;
	uint64_t ra;
	parse->p = parse->rec->body + 4;
	if (parse->p == end)
		return false;
	unsigned version = *parse->p++;
	const char *letters = (const char *)parse->p;
	const uint8_t *nul = memchr(parse->p, 0, (size_t)(end - parse->p));
	if (!nul || (version != 1 && version != 3 && version != 4))
		return false;
	parse->p = nul + 1;
	if (version == 4) { /* address size, segment size */
		if (end - parse->p < 2 || parse->p[0] != 8 || parse->p[1] != 0)
			return false;
		parse->p += 2;
	}
	if (!ovm_cfi_uleb(&parse->p, end, &parse->cie.code_align) ||
	    !ovm_cfi_sleb(&parse->p, end, &parse->cie.data_align) || parse->p == end)
		return false;
	if (version == 1)
		ra = *parse->p++;
	else if (!ovm_cfi_uleb(&parse->p, end, &ra))
		return false;
	if (ra >= OVM_CFI_REGS)
		return false;
	parse->cie.ra_reg = (uint32_t)ra;
	return *letters == 'z' ? parse_augmentation(parse, letters + 1) : !*letters;
}

static bool same_cie(const struct ovm_cie *a, const struct ovm_cie *b)
{
	return a->code_align == b->code_align && a->data_align == b->data_align &&
	       a->ra_reg == b->ra_reg && a->fde_enc == b->fde_enc && a->lsda_enc == b->lsda_enc &&
	       a->personality_enc == b->personality_enc && a->is_signal == b->is_signal &&
	       a->personality.v == b->personality.v && a->initial_row == b->initial_row;
}

static uint32_t keep_cie(struct ovm_cfi *cfi, const struct ovm_cie *cie)
{
	uint32_t least = cfi->cies.n > CIE_COMPARE_MAX ? cfi->cies.n - CIE_COMPARE_MAX : 0;
	for (uint32_t i = cfi->cies.n; i-- > least;) {
		if (same_cie(&cfi->cies.v[i], cie))
			return i;
	}
	ovm_vec_push(&cfi->cies, *cie);
	return cfi->cies.n - 1;
}

/* Index of the CIE at @va, BAD_CIE if it is none. */
static uint32_t parse_cie(struct reader *reader, ovm_va va)
{
	struct record rec;
	struct ovm_cfi *cfi = &reader->out->cfi;
	struct ovm_cfi_row row = {.cfa_reg = OVM_NONE};
	if (!read_record(reader, va, &rec) || rec.id)
		return BAD_CIE;
	struct cie_parse parse = {.rec = &rec};
	parse.cie = (struct ovm_cie){.va = va, .lsda_enc = OMIT, .personality_enc = OMIT};
	if (!parse_cie_head(&parse))
		return BAD_CIE;
	reader->scratch.n = 0;
	if (ovm_cfi_run(cfi, &parse.cie, parse.p, (size_t)(rec.end - parse.p), parse_va(&parse),
			ovm_va_of(0), 0, ovm_cfi_intern(cfi, &row), &reader->scratch))
		return BAD_CIE;
	parse.cie.initial_row = reader->scratch.v[0].row;
	return keep_cie(cfi, &parse.cie);
}

static uint32_t slot_of(const struct cie_slot *slots, uint32_t size, ovm_va va)
{
	uint32_t i = (uint32_t)((va.v * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (size - 1);
	while (slots[i].cie && slots[i].va.v != va.v)
		i = (i + 1) & (size - 1);
	return i;
}

static void grow_cies(struct reader *reader)
{
	uint32_t size = reader->cies_size ? reader->cies_size * 2 : 64;
	struct cie_slot *slots = ovm_alloc_array(size, sizeof(*slots));
	for (uint32_t i = 0; i < reader->cies_size; i++) {
		if (reader->cies[i].cie)
			slots[slot_of(slots, size, reader->cies[i].va)] = reader->cies[i];
	}
	free(reader->cies);
	reader->cies = slots;
	reader->cies_size = size;
}

static uint32_t find_cie(struct reader *reader, ovm_va va)
{
	if (reader->n_cies >= reader->cies_size / 2)
		grow_cies(reader);
	struct cie_slot *slot = &reader->cies[slot_of(reader->cies, reader->cies_size, va)];
	if (!slot->cie) {
		uint32_t cie = parse_cie(reader, va);
		*slot = (struct cie_slot){.va = va, .cie = cie == BAD_CIE ? BAD_CIE : cie + 1};
		reader->n_cies++;
	}
	return slot->cie == BAD_CIE ? BAD_CIE : slot->cie - 1;
}

/* --- FDEs
 * --------------------------------------------------------------------------------------------------------
 */

static bool parse_fde(struct reader *reader, const struct record *rec, struct ovm_region *out)
{
	const uint8_t *p = rec->body + 4, *end = rec->end;
	uint64_t lo, size, aug, lsda = 0;
	uint32_t idx = find_cie(reader, ovm_va_add(rec->body_va, -(int64_t)rec->id));
	if (idx == BAD_CIE)
		return false;
	const struct ovm_cie *cie = &reader->out->cfi.cies.v[idx];
	ovm_va data = reader->image->eh_frame_hdr;
	if (!ovm_cfi_read_encoded(&p, end, cie->fde_enc, ovm_va_add(rec->body_va, 4), data, &lo) ||
	    !ovm_cfi_read_encoded(&p, end, cie->fde_enc & 0x0f, ovm_va_of(0), ovm_va_of(0), &size))
		return false;
	/* the augmentation data has a length only with 'z', and without 'z' we accept no letters at
	 * all */
	bool has_aug =
	    cie->fde_enc || cie->lsda_enc != OMIT || cie->personality_enc != OMIT || cie->is_signal;
	if (has_aug) {
		if (!ovm_cfi_uleb(&p, end, &aug) || aug > (uint64_t)(end - p))
			return false;
		const uint8_t *q = p;
		ovm_va q_va = ovm_va_add(rec->body_va, q - rec->body);
		if (cie->lsda_enc != OMIT && aug &&
		    !ovm_cfi_read_encoded(&q, p + aug, cie->lsda_enc, q_va, ovm_va_of(0), &lsda))
			return false;
		p += aug;
	}
	if (!size || size > UINT32_MAX || lo > UINT64_MAX - size)
		return false;
	*out = (struct ovm_region){
	    .lo = ovm_va_of(lo),
	    .hi = ovm_va_of(lo + size),
	    .fde = rec->va,
	    .lsda = ovm_va_of(lsda),
	    .cie = idx,
	    .prog = p,
	    .prog_len = (uint32_t)(end - p),
	};
	return true;
}

static void add_fde(struct reader *reader, const struct record *rec)
{
	struct ovm_region region;
	reader->n_fdes++;
	if (parse_fde(reader, rec, &region))
		ovm_vec_push(&reader->out->v, region);
	else
		reader->out->n_dropped++;
}

static void walk(struct reader *reader)
{
	const struct ovm_image *image = reader->image;
	struct record rec;
	for (uint64_t at = 0; at < image->eh_frame_size; at += rec.size) {
		if (!read_record(reader, ovm_va_add(image->eh_frame, (int64_t)at), &rec))
			break;
		if (rec.id)
			add_fde(reader, &rec);
	}
}

/* --- the binary-search table
 * --------------------------------------------------------------------------------------- */

static int by_fde(const void *a, const void *b)
{
	uint64_t x = ((const struct ovm_region *)a)->fde.v,
		 y = ((const struct ovm_region *)b)->fde.v;
	return (x > y) - (x < y);
}

/* FDEs that only the table knows: @n_walked regions, ascending fde, are there already. */
static void follow_table(struct reader *reader, const uint8_t *p, const uint8_t *end, ovm_va p_va,
			 uint8_t enc, uint64_t n, uint32_t n_walked)
{
	const uint8_t *start = p;
	ovm_va base = reader->image->eh_frame_hdr;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t code, fde;
		struct record rec;
		if (!ovm_cfi_read_encoded(&p, end, enc, ovm_va_add(p_va, p - start), base, &code) ||
		    !ovm_cfi_read_encoded(&p, end, enc, ovm_va_add(p_va, p - start), base, &fde))
			break;
		struct ovm_region key = {.fde = ovm_va_of(fde)};
		if (n_walked && bsearch(&key, reader->out->v.v, n_walked, sizeof(key), by_fde))
			continue;
		if (read_record(reader, key.fde, &rec) && rec.id)
			add_fde(reader, &rec);
		else
			reader->out->n_dropped++;
	}
}

static void read_header(struct reader *reader)
{
	const struct ovm_image *image = reader->image;
	uint64_t n, eh_frame;
	const uint8_t *hdr = NULL;
	if (image->eh_frame_hdr_size >= 4)
		hdr = ovm_image_at(image, image->eh_frame_hdr, image->eh_frame_hdr_size);
	if (!hdr || hdr[2] == OMIT || hdr[3] == OMIT || (hdr[3] & 0x0f) == 1 ||
	    (hdr[3] & 0x0f) == 9)
		return; /* a table of LEB128 numbers cannot be searched, nobody makes one */
	const uint8_t *p = hdr + 4, *end = hdr + image->eh_frame_hdr_size;
	ovm_va va = image->eh_frame_hdr;
	if (hdr[1] != OMIT &&
	    !ovm_cfi_read_encoded(&p, end, hdr[1], ovm_va_add(va, p - hdr), va, &eh_frame))
		return;
	if (!ovm_cfi_read_encoded(&p, end, hdr[2], ovm_va_add(va, p - hdr), va, &n) ||
	    n <= reader->n_fdes)
		return;
	follow_table(reader, p, end, ovm_va_add(va, p - hdr), hdr[3], n, reader->out->v.n);
}

/* --- what kind of region
 * ------------------------------------------------------------------------------------------- */

static int by_range(const void *a, const void *b)
{
	const struct ovm_region *x = a, *y = b;
	if (x->lo.v != y->lo.v)
		return x->lo.v < y->lo.v ? -1 : 1;
	if (x->hi.v != y->hi.v)
		return x->hi.v < y->hi.v ? -1 : 1;
	return (x->fde.v > y->fde.v) - (x->fde.v < y->fde.v);
}

static void sort_regions(struct ovm_regions *regions)
{
	struct ovm_region *v = regions->v.v;
	uint32_t n = regions->v.n, kept = 0, i = 1;
	while (i < n && by_range(&v[i - 1], &v[i]) <= 0)
		i++;
	if (i < n)
		qsort(v, n, sizeof(*v), by_range);
	for (i = 0; i < n; i++) {
		if (kept && v[kept - 1].lo.v == v[i].lo.v && v[kept - 1].hi.v == v[i].hi.v)
			regions->n_dropped++;
		else
			v[kept++] = v[i];
	}
	regions->v.n = kept;
}

static void refuse_overlaps(struct ovm_ctx *ctx, struct ovm_regions *regions)
{
	uint32_t last = 0; /* the region that reaches farthest so far */
	for (uint32_t i = 1; i < regions->v.n; i++) {
		if (regions->v.v[i].lo.v < regions->v.v[last].hi.v) {
			ovm_region_refuse(ctx, regions, last, OVM_REFUSE_OVERLAP);
			ovm_region_refuse(ctx, regions, i, OVM_REFUSE_OVERLAP);
		}
		if (regions->v.v[i].hi.v > regions->v.v[last].hi.v)
			last = i;
	}
}

/* The CFA of a lazy PLT entry: rsp+8, and 8 more once rip mod 16 is past the push at 11.
 * DW_OP_breg7 8; breg16 0; lit15; and; ... */
static bool has_plt_expression(const struct ovm_region *region)
{
	static const uint8_t expr[] = {0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a};
	return memmem(region->prog, region->prog_len, expr, sizeof(expr)) != NULL;
}

/* Most programs are empty, padded, or begin with an advance: then the first row is the CIE's. */
static bool starts_like_function(struct ovm_ctx *ctx, struct ovm_regions *regions, uint32_t idx)
{
	const struct ovm_region *region = &regions->v.v[idx];
	const struct ovm_cie *cie = &regions->cfi.cies.v[region->cie];
	struct ovm_cfi_row row;
	const struct ovm_cfi_row *first = &regions->cfi.rows.v[cie->initial_row];
	if (region->prog_len && (region->prog[0] & 0xc0) != 0x40) {
		if (ovm_cfi_first_row(&regions->cfi, cie, region->prog, region->prog_len,
				      ovm_va_of(0), region->lo, &row)) {
			ovm_region_refuse(ctx, regions, idx, OVM_REFUSE_CFI);
			return false;
		}
		first = &row;
	}
	return first->cfa_reg == DWARF_RSP && first->cfa_off == 8;
}

static void classify(struct ovm_ctx *ctx, const struct ovm_image *image,
		     struct ovm_regions *regions, uint32_t idx)
{
	struct ovm_region *region = &regions->v.v[idx];
	bool is_start = starts_like_function(ctx, regions, idx);
	region->is_plt =
	    ovm_image_plt(image, region->lo) || (!is_start && has_plt_expression(region));
	region->is_fragment = !is_start && !region->is_plt;
	if (!ovm_image_code(image, region->lo, region->hi.v - region->lo.v))
		ovm_region_refuse(ctx, regions, idx, OVM_REFUSE_NOT_IN_TEXT);
	if (regions->cfi.cies.v[region->cie].is_signal)
		ovm_region_refuse(ctx, regions, idx, OVM_REFUSE_SIGNAL_FRAME);
	if (region->is_plt)
		ovm_region_refuse(ctx, regions, idx, OVM_REFUSE_PLT);
}

/* Both lists ascend. Regions that overlap were refused for that. */
static void refuse_rseqs(struct ovm_ctx *ctx, const struct ovm_image *image,
			 struct ovm_regions *regions)
{
	ovm_rseqs rseqs;
	ovm_rseq_find(image, &rseqs);
	for (uint32_t i = 0, next = 0; i < regions->v.n; i++) {
		while (next < rseqs.n && rseqs.v[next].hi.v <= regions->v.v[i].lo.v)
			next++;
		if (next == rseqs.n)
			break;
		if (rseqs.v[next].lo.v < regions->v.v[i].hi.v)
			ovm_region_refuse(ctx, regions, i, OVM_REFUSE_RSEQ);
	}
	ovm_vec_free(&rseqs);
}

/* --- public
 * ----------------------------------------------------------------------------------------------------------
 */

int ovm_regions_build(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_regions *out)
{
	struct ovm_regions regions = {0};
	struct reader reader = {.image = image, .out = &regions};
	ovm_cfi_init(&regions.cfi);
	if (image->eh_frame_size)
		reader.window = ovm_image_at(image, image->eh_frame, image->eh_frame_size);
	if (reader.window)
		walk(&reader);
	read_header(&reader);
	free(reader.cies);
	ovm_vec_free(&reader.scratch);
	if (!regions.v.n) {
		ovm_regions_free(&regions);
		return ovm_fail(ctx, OVM_E_FORMAT,
				"%s: no FDEs: without unwind information no code can be found",
				image->path);
	}
	sort_regions(&regions);
	refuse_overlaps(ctx, &regions);
	for (uint32_t i = 0; i < regions.v.n; i++)
		classify(ctx, image, &regions, i);
	refuse_rseqs(ctx, image, &regions);
	ovm_selfcheck_refuse(ctx, image, &regions);
	*out = regions;
	return 0;
}

void ovm_regions_free(struct ovm_regions *regions)
{
	if (!regions)
		return;
	ovm_vec_free(&regions->v);
	ovm_cfi_fini(&regions->cfi);
	regions->n_dropped = 0;
}

uint32_t ovm_region_find(const struct ovm_regions *regions, ovm_va va)
{
	uint32_t lo = 0, hi = regions->v.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (regions->v.v[mid].lo.v <= va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* only refused, overlapping ranges can make more than one step necessary */
	for (uint32_t i = lo, n = 0; i-- > 0 && n < OVERLAP_WALK_MAX; n++) {
		const struct ovm_region *region = &regions->v.v[i];
		if (va.v < region->hi.v)
			return i;
		if (region->refused != OVM_REFUSE_OVERLAP)
			break;
	}
	return OVM_NONE;
}

int ovm_region_spans_in(const struct ovm_regions *regions, struct ovm_cfi *cfi,
			const struct ovm_image *image, uint32_t idx, ovm_cfi_spans *spans)
{
	const struct ovm_region *region = &regions->v.v[idx];
	struct ovm_cie cie = regions->cfi.cies.v[region->cie];
	uint64_t avail;
	struct reader reader = {.image = image};
	const uint8_t *fde = bytes_from(&reader, region->fde, &avail);
	ovm_va prog_va = ovm_va_add(region->fde, fde ? region->prog - fde : 0);
	spans->n = 0;
	return ovm_cfi_run(cfi, &cie, region->prog, region->prog_len, prog_va, region->lo,
			   region->hi.v - region->lo.v, cie.initial_row, spans);
}

int ovm_region_spans(struct ovm_regions *regions, const struct ovm_image *image, uint32_t idx,
		     ovm_cfi_spans *spans)
{
	return ovm_region_spans_in(regions, &regions->cfi, image, idx, spans);
}

uint32_t ovm_spans_row(const ovm_cfi_spans *spans, uint32_t off)
{
	uint32_t lo = 0, hi = spans->n;
	while (hi - lo > 1) { /* spans.v[0].off is 0 */
		uint32_t mid = lo + (hi - lo) / 2;
		if (spans->v[mid].off <= off)
			lo = mid;
		else
			hi = mid;
	}
	return spans->v[lo].row;
}

void ovm_region_refuse(struct ovm_ctx *ctx, struct ovm_regions *regions, uint32_t idx,
		       enum ovm_refusal why)
{
	struct ovm_region *region = &regions->v.v[idx];
	if (region->refused || why == OVM_REFUSE_NONE)
		return;
	region->refused = (uint8_t)why;
	ctx->n_refused[why]++;
}

const char *ovm_region_name(const struct ovm_image *image, ovm_va va, char *buf, size_t size)
{
	const struct ovm_plt *plt = ovm_image_plt(image, va);
	const struct ovm_symbol *sym = ovm_image_symbol(image, va);
	if (plt && plt->symbol)
		snprintf(buf, size, "%s@plt", plt->symbol);
	else if (sym && sym->va.v == va.v)
		snprintf(buf, size, "%s", sym->name);
	else if (sym)
		snprintf(buf, size, "%s+0x%" PRIx64, sym->name, va.v - sym->va.v);
	else
		snprintf(buf, size, "0x%" PRIx64, va.v);
	return buf;
}

void ovm_regions_dump(const struct ovm_image *image, const struct ovm_regions *regions, FILE *to)
{
	char name[256];
	fprintf(to, "regions %u dropped %" PRIu64 "\n", regions->v.n, regions->n_dropped);
	for (uint32_t i = 0; i < regions->v.n; i++) {
		const struct ovm_region *region = &regions->v.v[i];
		fprintf(to, "0x%" PRIx64 " 0x%" PRIx64 " %s cie=%u", region->lo.v, region->hi.v,
			ovm_region_name(image, region->lo, name, sizeof(name)), region->cie);
		if (region->lsda.v)
			fprintf(to, " lsda=0x%" PRIx64, region->lsda.v);
		if (region->is_fragment)
			fprintf(to, " fragment");
		if (region->is_plt)
			fprintf(to, " plt");
		if (region->refused)
			fprintf(to, " refused=%s", ovm_refusal_id(region->refused));
		fprintf(to, "\n");
	}
}
