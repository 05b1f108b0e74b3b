/* Which regions belong together, and is each of them fit to be copied?
 *
 *      region f                     region f.cold
 *     ┌──────────────┐    jcc      ┌───────────┐   An edge into the middle of another region, or to
 *     │ 10  test     ├───────────▶ │ 90        │   the start of a fragment, makes the two one group:
 *     │ 12  jne 90   │             │ 95 jmp 17 │   the compiler split a function. A jump to the start
 *     │ 17  ret      │◀────────────┤           │   of another function is a tail call and stays an
 *     └──────────────┘    jmp      └───────────┘   edge that leaves.
 *
 * A region is fit if it decodes without gaps, its own direct branches hit instruction starts, it
 * does not call into itself, and its unwind rows and exception tables can be interpreted. One that
 * is not stays outside: edges to it lead to the original code, which is always right.
 *
 * Limits: MAX_PARTS regions and MAX_BYTES of code a group.
 */
#include "analyzer/cfg_private.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 64, MAX_BYTES = 1 << 20, DWARF_RBP = 6, DWARF_RSP = 7 };

struct ovm_part *ovm_group_part(struct ovm_cfg_build *build, ovm_va va)
{
	for (uint32_t p = 0; p < build->parts.n; p++)
		if (ovm_va_in(va, build->parts.v[p].lo, build->parts.v[p].hi))
			return &build->parts.v[p];
	return NULL;
}

static uint8_t *mark_at(struct ovm_cfg_build *build, const struct ovm_part *part, ovm_va va)
{
	return &build->marks.v[part->first_mark + (va.v - part->lo.v)];
}

bool ovm_group_mark(struct ovm_cfg_build *build, ovm_va va, uint8_t marks)
{
	const struct ovm_part *part = ovm_group_part(build, va);
	if (!part)
		return false;
	uint8_t *mark = mark_at(build, part, va);
	bool is_new = (*mark & OVM_MARK_START) && (*mark & marks) != marks;
	if (is_new)
		*mark |= marks;
	return is_new;
}

/* --- is the region fit? --- */

/* Is @va just behind the first byte, a lock prefix, of the instruction at @va - 1? glibc branches
 * there. */
static bool is_after_prefix(const struct ovm_cfg_build *build, const struct ovm_part *part,
			    ovm_va va)
{
	uint32_t lo = part->first_insn, hi = lo + part->n_insns;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (build->insns.v[mid].va.v <= va.v)
			lo = mid;
		else
			hi = mid;
	}
	const struct ovm_insn *insn = &build->insns.v[lo];
	if (!(insn->flags & OVM_INSN_GLUED) || insn->va.v + 1 != va.v)
		return false;
	const uint8_t *byte = ovm_image_at(build->image, insn->va, 1);
	return byte && *byte == 0xf0;
}

static enum ovm_refusal check_branches(struct ovm_cfg_build *build, const struct ovm_part *part)
{
	for (uint32_t i = part->first_insn; i < part->first_insn + part->n_insns; i++) {
		const struct ovm_insn *insn = &build->insns.v[i];
		if (insn->kind < OVM_INSN_JMP || insn->kind > OVM_INSN_CALL ||
		    !ovm_va_in(insn->target, part->lo, part->hi))
			continue;
		if (insn->kind == OVM_INSN_CALL && insn->target.v != part->lo.v)
			return OVM_REFUSE_SELF_CALL;
		if (!(*mark_at(build, part, insn->target) & OVM_MARK_START) &&
		    !is_after_prefix(build, part, insn->target))
			return OVM_REFUSE_MID_INSN_BRANCH;
	}
	return OVM_REFUSE_NONE;
}

/* Landing pads are remembered: they may lie in a region that joins later. */
static enum ovm_refusal check_pads(struct ovm_cfg_build *build, const struct ovm_part *part)
{
	const struct ovm_region *region = &build->regions->v.v[part->region];
	struct ovm_lsda lsda = {0};
	enum ovm_refusal why = OVM_REFUSE_NONE;
	if (!region->lsda.v)
		return why;
	if (ovm_lsda_parse(build->image, region->lsda, part->lo, part->hi.v - part->lo.v, &lsda) !=
	    0)
		return OVM_REFUSE_LSDA;
	for (uint32_t i = 0; i < lsda.sites.n; i++) {
		if (!lsda.sites.v[i].landing)
			continue;
		ovm_va pad = ovm_va_add(lsda.lp_start, (int64_t)lsda.sites.v[i].landing);
		if (ovm_va_in(pad, part->lo, part->hi) &&
		    !(*mark_at(build, part, pad) & OVM_MARK_START))
			why = OVM_REFUSE_LSDA;
		ovm_vec_push(&build->pads, (struct ovm_pad){pad});
	}
	ovm_lsda_fini(&lsda);
	return why;
}

static bool is_frame_empty(const struct ovm_cfg_build *build, const ovm_cfi_spans *spans,
			   uint32_t off)
{
	const struct ovm_cfi_row *row = &build->cfi->rows.v[ovm_spans_row(spans, off)];
	return row->cfa_reg == DWARF_RSP && row->cfa_off == 8;
}

static struct ovm_frame_row frame_row(const struct ovm_cfi_row *row, uint32_t insn)
{
	struct ovm_frame_row out = {.insn = insn, .reg = OVM_REG_NONE};
	if (row->cfa_off != (int32_t)row->cfa_off)
		return out;
	if (row->cfa_reg == DWARF_RSP || row->cfa_reg == DWARF_RBP) {
		out.reg = row->cfa_reg == DWARF_RSP ? OVM_RSP : OVM_RBP;
		out.cfa_off = (int32_t)row->cfa_off;
	}
	return out;
}

static void keep_rows(struct ovm_cfg_build *build, const struct ovm_part *part,
		      const ovm_cfi_spans *spans)
{
	uint32_t last = OVM_NONE;
	for (uint32_t i = part->first_insn; i < part->first_insn + part->n_insns; i++) {
		uint32_t row =
		    ovm_spans_row(spans, (uint32_t)(build->insns.v[i].va.v - part->lo.v));
		if (row != last)
			ovm_vec_push(&build->rows.v, frame_row(&build->cfi->rows.v[row], i));
		last = row;
	}
}

/* Unwind rows must be known for every instruction; they also tell where the frame is gone, as
 * before a tail call. */
static enum ovm_refusal check_rows(struct ovm_cfg_build *build, const struct ovm_part *part)
{
	ovm_cfi_spans spans = {0};
	if (ovm_region_spans_in(build->regions, build->cfi, build->image, part->region, &spans) ||
	    !spans.n) {
		ovm_vec_free(&spans);
		return OVM_REFUSE_CFI;
	}
	for (uint32_t i = part->first_insn; i < part->first_insn + part->n_insns; i++) {
		if (build->insns.v[i].kind != OVM_INSN_JMP_IND)
			continue;
		uint32_t off = (uint32_t)(build->insns.v[i].va.v - part->lo.v);
		ovm_vec_push(&build->jumps, (struct ovm_jump){.insn = i,
							      .block = OVM_NONE,
							      .is_frame_empty = is_frame_empty(
								  build, &spans, off)});
	}
	keep_rows(build, part, &spans);
	ovm_vec_free(&spans);
	return OVM_REFUSE_NONE;
}

static enum ovm_refusal check_part(struct ovm_cfg_build *build, struct ovm_part *part)
{
	enum ovm_refusal why;
	uint64_t size = part->hi.v - part->lo.v;
	if (build->marks.n + size > MAX_BYTES && build->parts.n)
		return OVM_REFUSE_TOO_BIG;
	if (size > UINT32_MAX / 2)
		return OVM_REFUSE_TOO_BIG;
	if (ovm_decode_range(build->dec, build->image, part->lo, part->hi, &build->insns, &why) !=
	    0)
		return why;
	part->n_insns = build->insns.n - part->first_insn;
	ovm_vec_reserve(&build->marks, build->marks.n + size);
	memset(build->marks.v + build->marks.n, 0, size);
	build->marks.n += (uint32_t)size;
	for (uint32_t i = part->first_insn; i < build->insns.n; i++)
		*mark_at(build, part, build->insns.v[i].va) = OVM_MARK_START;
	*mark_at(build, part, part->lo) |= OVM_MARK_LEADER;
	why = check_branches(build, part);
	if (why == OVM_REFUSE_NONE)
		why = check_pads(build, part);
	if (why == OVM_REFUSE_NONE)
		why = check_rows(build, part);
	return why;
}

int ovm_group_add(struct ovm_cfg_build *build, uint32_t idx, enum ovm_refusal *why)
{
	const struct ovm_region *region = &build->regions->v.v[idx];
	struct ovm_part part = {.region = idx,
				.lo = region->lo,
				.hi = region->hi,
				.first_insn = build->insns.n,
				.first_mark = build->marks.n};
	uint32_t n_jumps = build->jumps.n, n_pads = build->pads.n, n_rows = build->rows.v.n;
	*why = check_part(build, &part);
	if (*why == OVM_REFUSE_NONE) {
		ovm_vec_push(&build->parts, part);
		return 0;
	}
	build->insns.n = part.first_insn;
	build->marks.n = part.first_mark;
	build->jumps.n = n_jumps;
	build->pads.n = n_pads;
	build->rows.v.n = n_rows;
	return OVM_REFUSED;
}

/* --- closing over edges --- */

static bool is_refused_here(const struct ovm_cfg_build *build, uint32_t region)
{
	for (uint32_t i = 0; i < build->refused.n; i++)
		if (build->refused.v[i].region == region)
			return true;
	return false;
}

void ovm_group_pull(struct ovm_cfg_build *build, ovm_va va)
{
	enum ovm_refusal why;
	if (ovm_group_part(build, va))
		return;
	uint32_t idx = ovm_region_find(build->regions, va);
	if (idx == OVM_NONE)
		return;
	const struct ovm_region *region = &build->regions->v.v[idx];
	if (region->is_plt || (va.v == region->lo.v && !region->is_fragment))
		return;
	if (build->parts.n >= MAX_PARTS || region->refused != OVM_REFUSE_NONE ||
	    is_refused_here(build, idx)) {
		build->has_outside_partner = true;
		return;
	}
	ovm_vec_push(&build->assumed_free, idx);
	if (ovm_group_add(build, idx, &why) == 0)
		return;
	build->has_outside_partner = true;
	if (why != OVM_REFUSE_TOO_BIG)
		ovm_vec_push(&build->refused, (struct ovm_draft_refusal){idx, why});
}

static bool is_branch(const struct ovm_insn *insn)
{
	return insn->kind == OVM_INSN_JMP || insn->kind == OVM_INSN_JCC ||
	       insn->kind == OVM_INSN_JCXZ;
}

void ovm_group_close(struct ovm_cfg_build *build)
{
	uint32_t first = build->n_followed;
	for (; build->n_followed < build->parts.n; build->n_followed++) {
		struct ovm_part part = build->parts.v[build->n_followed];
		for (uint32_t i = part.first_insn; i < part.first_insn + part.n_insns; i++) {
			ovm_va target = build->insns.v[i].target;
			if (is_branch(&build->insns.v[i]) && !ovm_va_in(target, part.lo, part.hi))
				ovm_group_pull(build, target);
		}
	}
	for (uint32_t p = first; p < build->parts.n; p++) {
		const struct ovm_part *part = &build->parts.v[p];
		for (uint32_t i = part->first_insn; i < part->first_insn + part->n_insns; i++) {
			ovm_va target = build->insns.v[i].target;
			if (!is_branch(&build->insns.v[i]))
				continue;
			if (!ovm_va_in(target, part->lo, part->hi))
				ovm_group_mark(build, target, OVM_MARK_LEADER);
			else if (*mark_at(build, part, target) & OVM_MARK_START)
				*mark_at(build, part, target) |= OVM_MARK_LEADER;
		}
	}
	for (uint32_t i = 0; i < build->pads.n; i++)
		ovm_group_mark(build, build->pads.v[i].va, OVM_MARK_LEADER | OVM_MARK_PAD);
}
