/* .debug_frame for the copies. gdb takes unwind data from the sections .eh_frame and .debug_frame,
 * by name, and from nowhere else: it would not see what PT_GNU_EH_FRAME leads to. So the overlay's
 * .eh_frame is said again in the other dialect, in a section that is not loaded:
 *
 *   .eh_frame     id 0            "zPLR" + data   FDE: distance to CIE, pc-relative start, aug.
 * data .debug_frame  id 0xffffffff   ""              FDE: offset of CIE,   absolute start
 *
 * CFI programs are the same bytes in both. A .debug_frame of the input is continued. Input is what
 * ehframe.c wrote; what does not look like it ends the translation, and gdb knows less.
 */
#include "rewriter/elf_debug_frame.h"
#include "analyzer/cfi.h"

#include <stdlib.h>
#include <string.h>

struct record {
	const uint8_t *id, *end; /* body: id field, end of the record */
};

static bool read_record(const struct ovm_overlay *overlay, uint32_t off, struct record *out)
{
	const struct ovm_section *section = &overlay->sections[OVM_SECTION_EH_FRAME];
	uint64_t stop = (uint64_t)section->off + section->size;
	if (stop > overlay->size || off < section->off || off + 8ull > stop)
		return false;
	uint32_t len = ovm_le32(overlay->bytes + off);
	if (len < 4 || len > stop - off - 4)
		return false;
	out->id = overlay->bytes + off + 4;
	out->end = out->id + len;
	return true;
}

static size_t open_record(struct ovm_buf *out, uint32_t id)
{
	size_t start = out->n;
	ovm_buf_u32(out, 0);
	ovm_buf_u32(out, id);
	return start;
}

static void close_record(struct ovm_buf *out, size_t start, size_t section)
{
	while ((out->n - section) % 8)
		ovm_buf_u8(out, 0); /* DW_CFA_nop */
	ovm_put32(out->v + start, (uint32_t)(out->n - start - 4));
}

static bool put_cie(const struct record *rec, size_t section, struct ovm_buf *out)
{
	const uint8_t *p = rec->id + 4;
	uint64_t code_align, aug;
	int64_t data_align;
	const uint8_t *nul = rec->end - p > 2 ? memchr(p + 1, 0, (size_t)(rec->end - p - 1)) : NULL;
	if (!nul || p[0] != 1 || p[1] != 'z')
		return false;
	p = nul + 1;
	if (!ovm_cfi_uleb(&p, rec->end, &code_align) || !ovm_cfi_sleb(&p, rec->end, &data_align) ||
	    p == rec->end)
		return false;
	uint8_t ra = *p++;
	if (!ovm_cfi_uleb(&p, rec->end, &aug) || aug > (uint64_t)(rec->end - p))
		return false;
	p += aug;
	size_t start = open_record(out, UINT32_MAX);
	ovm_buf_u8(out, 1); /* version */
	ovm_buf_u8(out, 0); /* no augmentation */
	ovm_buf_uleb(out, code_align);
	ovm_buf_sleb(out, data_align);
	ovm_buf_u8(out, ra);
	ovm_buf_put(out, p, (size_t)(rec->end - p));
	close_record(out, start, section);
	return true;
}

static bool put_fde(const struct ovm_overlay *overlay, const struct ovm_new_fde *fde, uint32_t cie,
		    size_t section, struct ovm_buf *out)
{
	struct record rec;
	uint64_t aug;
	if (!read_record(overlay, fde->fde_off, &rec) || rec.end - rec.id < 13)
		return false;
	const uint8_t *p = rec.id + 12;
	if (!ovm_cfi_uleb(&p, rec.end, &aug) || aug > (uint64_t)(rec.end - p))
		return false;
	p += aug;
	size_t start = open_record(out, cie);
	ovm_buf_u64(out, overlay->base.v + fde->off);
	ovm_buf_u64(out, fde->size);
	ovm_buf_put(out, p, (size_t)(rec.end - p));
	close_record(out, start, section);
	return true;
}

/* Overlay offset of the CIE of @fde. */
static bool cie_of(const struct ovm_overlay *overlay, const struct ovm_new_fde *fde, uint32_t *off)
{
	struct record rec;
	if (!read_record(overlay, fde->fde_off, &rec))
		return false;
	uint32_t back = ovm_le32(rec.id);
	*off = fde->fde_off + 4 - back;
	return back <= fde->fde_off + 4 && back && read_record(overlay, *off, &rec);
}

void ovm_elf_debug_frame(const struct ovm_overlay *overlay, size_t section, struct ovm_buf *out)
{
	struct cie {
		uint32_t from, to; /* overlay offset, offset in .debug_frame */
	};
	OVM_VEC(struct cie) cies = {0}; /* a handful */
	for (uint32_t i = 0; i < overlay->fdes.n; i++) {
		uint32_t from, k = 0;
		struct record rec;
		if (!cie_of(overlay, &overlay->fdes.v[i], &from) ||
		    !read_record(overlay, from, &rec))
			break;
		while (k < cies.n && cies.v[k].from != from)
			k++;
		if (k == cies.n) {
			ovm_vec_push(&cies, (struct cie){from, (uint32_t)(out->n - section)});
			if (!put_cie(&rec, section, out))
				break;
		}
		if (!put_fde(overlay, &overlay->fdes.v[i], cies.v[k].to, section, out))
			break;
	}
	ovm_vec_free(&cies);
}
