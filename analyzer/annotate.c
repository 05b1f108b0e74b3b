/* Regions, names and hashes of what a profile has counts of.
 *
 *   touched addresses, sorted    400510 400514 400520            400610
 *   regions                     [400500 main 400580)            [400600 400640)
 *   blocks of the hot ones      [400510 400518) [400520 ..      nothing: too few samples
 *
 * Names cost nothing and every touched region gets one. Hashes cost a decoding, so regions are
 * taken by samples until they hold nearly all (tunable ANNOTATE_SHARE); what is left would not
 * change a layout. Only blocks with counts are recorded.
 *
 * Limit: a file that was replaced or removed while it ran is not annotated.
 */
#include "analyzer/annotate.h"
#include "analyzer/blockhash.h"
#include "analyzer/region.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

struct touch { /* an address that has counts */
	ovm_va va;
	uint64_t samples, count;
};

struct found {		   /* a region that has counts */
	uint32_t region;   /* in ovm_regions */
	uint32_t record;   /* in module->regions */
	uint32_t first, n; /* touches */
	uint64_t samples, count;
};

struct annotation {
	struct ovm_prof_module *module;
	const struct ovm_image *image;
	const struct ovm_regions *regions;
	OVM_VEC(struct touch) touches;
	OVM_VEC(struct found) found;
};

static uint64_t add_sat(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}

/* --- what has counts --- */

static void touch(struct annotation *a, ovm_va va, uint64_t samples, uint64_t count)
{
	ovm_vec_push(&a->touches, (struct touch){va, samples, count});
}

static int touch_cmp(const void *pa, const void *pb)
{
	const struct touch *a = pa, *b = pb;
	return (a->va.v > b->va.v) - (a->va.v < b->va.v);
}

static void collect_touches(struct annotation *a)
{
	const struct ovm_prof_module *m = a->module;
	for (uint32_t i = 0; i < m->samples.n; i++)
		touch(a, m->samples.v[i].va, m->samples.v[i].count, 0);
	for (uint32_t i = 0; i < m->branches.n; i++) {
		touch(a, m->branches.v[i].from, 0, m->branches.v[i].count);
		touch(a, m->branches.v[i].to, 0, m->branches.v[i].count);
	}
	for (uint32_t i = 0; i < m->ranges.n; i++) {
		touch(a, m->ranges.v[i].from, 0, m->ranges.v[i].count);
		touch(a, m->ranges.v[i].to, 0, m->ranges.v[i].count);
	}
	for (uint32_t i = 0; i < m->edges.n; i++) {
		touch(a, m->edges.v[i].from, 0, m->edges.v[i].count);
		touch(a, m->edges.v[i].to, 0, m->edges.v[i].count);
	}
	if (a->touches.n)
		qsort(a->touches.v, a->touches.n, sizeof(struct touch), touch_cmp);
}

/* --- names --- */

static uint32_t add_record(struct annotation *a, const struct ovm_region *region)
{
	const struct ovm_symbol *symbol = ovm_image_symbol(a->image, region->lo);
	struct ovm_prof_region record = {region->lo, region->hi, 0, NULL};
	if (symbol && symbol->name[0])
		record.name = ovm_strdup(symbol->name);
	ovm_vec_push(&a->module->regions, record);
	return a->module->regions.n - 1;
}

static void find_regions(struct annotation *a)
{
	for (uint32_t i = 0; i < a->touches.n;) {
		uint32_t idx = ovm_region_find(a->regions, a->touches.v[i].va);
		if (idx == OVM_NONE) {
			i++;
			continue;
		}
		const struct ovm_region *region = &a->regions->v.v[idx];
		struct found found = {.region = idx, .first = i};
		for (; i < a->touches.n && a->touches.v[i].va.v < region->hi.v; i++) {
			found.samples = add_sat(found.samples, a->touches.v[i].samples);
			found.count = add_sat(found.count, a->touches.v[i].count);
		}
		found.n = i - found.first;
		found.record = add_record(a, region);
		ovm_vec_push(&a->found, found);
	}
}

/* --- hashes --- */

static int hottest_first(const void *pa, const void *pb)
{
	const struct found *a = pa, *b = pb;
	if (a->samples != b->samples)
		return a->samples < b->samples ? 1 : -1;
	if (a->count != b->count)
		return a->count < b->count ? 1 : -1;
	return a->region < b->region ? -1 : a->region > b->region;
}

/* Where a module has samples they say what is hot, else its other counts do. */
static uint64_t heat(const struct found *found, bool by_samples)
{
	return by_samples ? found->samples : found->count;
}

static void add_blocks(struct annotation *a, const struct found *found,
		       const struct ovm_blockhash *hashes)
{
	const struct touch *touches = a->touches.v + found->first;
	uint64_t lo = a->regions->v.v[found->region].lo.v;
	uint32_t t = 0;
	for (uint32_t bb = 0; bb < hashes->blocks.n && t < found->n; bb++) {
		const struct ovm_hashed_block *block = &hashes->blocks.v[bb];
		uint64_t start = lo + block->off;
		if (touches[t].va.v >= start + block->len)
			continue;
		ovm_vec_push(&a->module->blocks,
			     (struct ovm_prof_block){ovm_va_of(start), block->last, block->hash});
		while (t < found->n && touches[t].va.v < start + block->len)
			t++;
	}
}

static void add_hashes(struct annotation *a, struct ovm_decoder *dec)
{
	struct ovm_blockhash hashes = {0};
	double total = 0, covered = 0;
	bool by_samples = a->module->samples.n > 0;
	for (uint32_t i = 0; i < a->found.n; i++)
		total += (double)heat(&a->found.v[i], by_samples);
	if (a->found.n)
		qsort(a->found.v, a->found.n, sizeof(struct found), hottest_first);
	for (uint32_t i = 0; i < a->found.n; i++) {
		const struct found *found = &a->found.v[i];
		const struct ovm_region *region = &a->regions->v.v[found->region];
		if (covered * 1000 >= total * (double)OVM_TUNE(ANNOTATE_SHARE))
			break;
		covered += (double)heat(found, by_samples);
		if (ovm_blockhash_build(dec, a->image, region->lo, region->hi, &hashes))
			continue;
		a->module->regions.v[found->record].hash = hashes.hash;
		add_blocks(a, found, &hashes);
	}
	ovm_blockhash_fini(&hashes);
}

static void annotate_module(struct ovm_decoder *dec, struct ovm_prof_module *module)
{
	struct annotation a = {.module = module};
	struct ovm_regions regions = {0};
	struct ovm_image *image = NULL;
	struct ovm_ctx ctx; /* its own: trouble here is not the command's */
	ovm_ctx_init(&ctx);
	if (!module->path || module->path[0] != '/')
		return;
	collect_touches(&a);
	if (a.touches.n && !ovm_image_open(&ctx, module->path, &image) &&
	    !strcmp(image->id, module->id) && !ovm_regions_build(&ctx, image, &regions)) {
		a.image = image;
		a.regions = &regions;
		find_regions(&a);
		if (dec)
			add_hashes(&a, dec);
	}
	ovm_vec_free(&a.touches);
	ovm_vec_free(&a.found);
	ovm_regions_free(&regions);
	ovm_image_close(image);
}

void ovm_annotate_profile(struct ovm_profile *prof)
{
	struct ovm_decoder *dec = NULL;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	if (ovm_decoder_open(&ctx, &dec))
		dec = NULL; /* names at least */
	ovm_profile_normalize(prof);
	for (uint32_t i = 0; i < prof->modules.n; i++)
		annotate_module(dec, &prof->modules.v[i]);
	ovm_profile_normalize(prof);
	ovm_decoder_close(dec);
}
