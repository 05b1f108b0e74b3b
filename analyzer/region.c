/* FDE ranges -> regions: sorted, disjoint, each with what speaks against copying it.
 *
 *   FDEs (fdes.c)             ──┐
 *   rseqs (rseq.c)            ──┼──▶  sort, drop doubles  ──▶  PLT? fragment? signal frame?  ──▶  regions
 *   self-check (selfcheck.c)  ──┘
 *
 * The three read the whole file, and do so at the same time.
 */
#include "analyzer/region.h"
#include "analyzer/fdes.h"
#include "analyzer/rseq.h"
#include "analyzer/selfcheck.h"
#include "base/parallel.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
	DWARF_RSP = 7,
	OVERLAP_WALK_MAX = 256,
	WORTH_THREADS = 1 << 20, /* bytes of a file from which on threads save time */
};

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
static void refuse_rseqs(struct ovm_ctx *ctx, const ovm_rseqs *rseqs, struct ovm_regions *regions)
{
	for (uint32_t i = 0, next = 0; i < regions->v.n; i++) {
		while (next < rseqs->n && rseqs->v[next].hi.v <= regions->v.v[i].lo.v)
			next++;
		if (next == rseqs->n)
			break;
		if (rseqs->v[next].lo.v < regions->v.v[i].hi.v)
			ovm_region_refuse(ctx, regions, i, OVM_REFUSE_RSEQ);
	}
}

/* What has to read the whole file, each by itself. */
struct survey {
	const struct ovm_image *image;
	struct ovm_regions *regions;
	ovm_rseqs rseqs;
	bool checks_itself;
};

static void survey_fdes(void *arg)
{
	struct survey *s = arg;
	ovm_fdes_read(s->image, s->regions);
}

static void survey_rseqs(void *arg)
{
	struct survey *s = arg;
	ovm_rseq_find(s->image, &s->rseqs);
}

static void survey_selfcheck(void *arg)
{
	struct survey *s = arg;
	s->checks_itself = ovm_selfcheck_any(s->image);
}

static void survey(struct survey *s)
{
	const struct ovm_task tasks[] = {
	    {survey_fdes, s}, {survey_rseqs, s}, {survey_selfcheck, s}};
	const uint32_t n = sizeof(tasks) / sizeof(tasks[0]);
	if (s->image->size > WORTH_THREADS)
		ovm_parallel_tasks(tasks, n);
	else
		for (uint32_t i = 0; i < n; i++)
			tasks[i].work(tasks[i].arg);
}

/* --- public
 * ----------------------------------------------------------------------------------------------------------
 */

int ovm_regions_build(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_regions *out)
{
	struct ovm_regions regions = {0};
	struct survey all = {.image = image, .regions = &regions};
	ovm_cfi_init(&regions.cfi);
	survey(&all);
	if (!regions.v.n) {
		ovm_regions_free(&regions);
		ovm_vec_free(&all.rseqs);
		return ovm_fail(ctx, OVM_E_FORMAT,
				"%s: no FDEs: without unwind information no code can be found",
				image->path);
	}
	sort_regions(&regions);
	refuse_overlaps(ctx, &regions);
	for (uint32_t i = 0; i < regions.v.n; i++)
		classify(ctx, image, &regions, i);
	refuse_rseqs(ctx, &all.rseqs, &regions);
	ovm_vec_free(&all.rseqs);
	if (all.checks_itself)
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
	const uint8_t *fde = ovm_image_at(image, region->fde, 1);
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
