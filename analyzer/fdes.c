/* The FDEs of a file, one region each.
 *
 *   .eh_frame   | len | 0     | version "zPLR" ... CIE program |     one for many functions
 *               | len | back  | pc_begin pc_range lsda program |     one FDE a code range
 *               | 0 |                                                terminator
 *   .eh_frame_hdr   pointer to .eh_frame, then a table (code, fde) sorted by code
 *
 * leave the pointer behind and only keep the table whole (a table may also span several pieces of
 * .eh_frame): when it promises more FDEs than the walk found, the table is followed too. CIEs are
 * parsed when an FDE first names them, and kept once by content.
 *
 * Hostile input: every record is cut to the file-backed bytes of its segment; a bad FDE is dropped
 * and counted; a walk ends at the first record whose length makes no sense.
 */
#include "analyzer/fdes.h"

#include <stdlib.h>
#include <string.h>

enum {
	OMIT = 0xff,
	CIE_COMPARE_MAX = 256, /* only so many recent CIEs are compared: files have a handful */
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

void ovm_fdes_read(const struct ovm_image *image, struct ovm_regions *out)
{
	struct reader reader = {.image = image, .out = out};
	if (image->eh_frame_size)
		reader.window = ovm_image_at(image, image->eh_frame, image->eh_frame_size);
	if (reader.window)
		walk(&reader);
	read_header(&reader);
	free(reader.cies);
	ovm_vec_free(&reader.scratch);
}
