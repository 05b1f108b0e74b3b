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
 * Decoding takes longer than all else (the C++ compiler: 0.1 s and more), and who records waits for
 * it. But what is hot is known long before the program ends, and the recorder has time then:
 *
 *   ahead   ahead   ahead             hashes of what is hot so far, some milliseconds each time
 *   ----------------------- end       finish: counts, names, and hashes of what is new
 *
 * Limit: a file that was replaced or removed while it ran is not annotated.
 */
#include "analyzer/annotate.h"
#include "analyzer/blockhash.h"
#include "analyzer/region.h"
#include "analyzer/tunables.h"
#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

enum {
	AHEAD_SAMPLES = 100, /* before so many nothing is prepared */
	AHEAD_GROWTH = 110,  /* percent of the samples until it is looked again what is hot */
};

struct touch { /* an address that has counts */
	ovm_va va;
	uint64_t samples, count;
};

struct found {		   /* a region that has counts */
	uint32_t region;   /* in ovm_regions */
	uint32_t first, n; /* touches */
	uint64_t samples, count;
	uint32_t record; /* in module->regions */
};

struct hashed { /* a region */
	bool is_done;
	uint64_t hash; /* 0: it could not be decoded */
	OVM_VEC(struct ovm_hashed_block) blocks;
};

struct file { /* of a module */
	char *path, *id;
	struct ovm_image *image; /* NULL: not to be had */
	struct ovm_regions regions;
	struct hashed *hashed; /* [regions] */
};

struct due { /* to be hashed ahead */
	uint32_t file, region;
};

struct ovm_annotator {
	bool has_decoder; /* @dec was opened, or could not be */
	struct ovm_decoder *dec;
	OVM_VEC(struct file) files;
	OVM_VEC(struct due) due;
	uint32_t n_ahead;   /* of them that are done */
	uint64_t n_samples; /* when these were found */
};

struct annotation {
	const struct ovm_prof_module *module;
	const struct file *file;
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

static void find_regions(struct annotation *a)
{
	const struct ovm_regions *regions = &a->file->regions;
	for (uint32_t i = 0; i < a->touches.n;) {
		uint32_t idx = ovm_region_find(regions, a->touches.v[i].va);
		if (idx == OVM_NONE) {
			i++;
			continue;
		}
		struct found found = {.region = idx, .first = i};
		for (; i < a->touches.n && a->touches.v[i].va.v < regions->v.v[idx].hi.v; i++) {
			found.samples = add_sat(found.samples, a->touches.v[i].samples);
			found.count = add_sat(found.count, a->touches.v[i].count);
		}
		found.n = i - found.first;
		ovm_vec_push(&a->found, found);
	}
}

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

/* How many of them, the hottest, are to be hashed. */
static uint32_t sort_by_heat(struct annotation *a)
{
	double total = 0, covered = 0;
	bool by_samples = a->module->samples.n > 0;
	uint32_t n = 0;
	for (uint32_t i = 0; i < a->found.n; i++)
		total += (double)heat(&a->found.v[i], by_samples);
	if (a->found.n)
		qsort(a->found.v, a->found.n, sizeof(struct found), hottest_first);
	while (n < a->found.n && covered * 1000 < total * (double)OVM_TUNE(ANNOTATE_SHARE))
		covered += (double)heat(&a->found.v[n++], by_samples);
	return n;
}

static void annotation_fini(struct annotation *a)
{
	ovm_vec_free(&a->touches);
	ovm_vec_free(&a->found);
}

/* --- files and their hashes --- */

static struct ovm_decoder *decoder(struct ovm_annotator *an)
{
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	if (!an->has_decoder && ovm_decoder_open(&ctx, &an->dec))
		an->dec = NULL; /* names at least */
	an->has_decoder = true;
	return an->dec;
}

static void open_file(struct file *file)
{
	struct ovm_ctx ctx; /* its own: trouble here is not the command's */
	ovm_ctx_init(&ctx);
	if (file->path[0] == '/' && !ovm_image_open(&ctx, file->path, &file->image) &&
	    !strcmp(file->image->id, file->id) &&
	    !ovm_regions_build(&ctx, file->image, &file->regions)) {
		file->hashed = ovm_alloc_array(file->regions.v.n, sizeof(*file->hashed));
		return;
	}
	ovm_image_close(file->image);
	file->image = NULL;
}

/* OVM_NONE: not known yet. */
static uint32_t find_file(const struct ovm_annotator *an, const struct ovm_prof_module *module)
{
	for (uint32_t i = 0; i < an->files.n; i++)
		if (!strcmp(an->files.v[i].path, module->path) &&
		    !strcmp(an->files.v[i].id, module->id))
			return i;
	return OVM_NONE;
}

static uint32_t add_file(struct ovm_annotator *an, const struct ovm_prof_module *module)
{
	struct file file = {.path = ovm_strdup(module->path), .id = ovm_strdup(module->id)};
	open_file(&file);
	ovm_vec_push(&an->files, file);
	return an->files.n - 1;
}

static const struct hashed *hash_region(struct ovm_annotator *an, struct file *file, uint32_t idx)
{
	const struct ovm_region *region = &file->regions.v.v[idx];
	struct hashed *hashed = &file->hashed[idx];
	struct ovm_blockhash hashes = {0};
	if (!hashed->is_done && decoder(an) &&
	    !ovm_blockhash_build(an->dec, file->image, region->lo, region->hi, &hashes)) {
		hashed->hash = hashes.hash;
		for (uint32_t i = 0; i < hashes.blocks.n; i++)
			ovm_vec_push(&hashed->blocks, hashes.blocks.v[i]);
	}
	hashed->is_done = true;
	ovm_blockhash_fini(&hashes);
	return hashed;
}

/* --- ahead --- */

/* What is hot and has no hash. False: there is a file to be opened first. */
static bool find_due(struct ovm_annotator *an, const struct ovm_profile *samples)
{
	for (uint32_t i = 0; i < samples->modules.n; i++)
		if (samples->modules.v[i].path && samples->modules.v[i].samples.n &&
		    find_file(an, &samples->modules.v[i]) == OVM_NONE) {
			add_file(an, &samples->modules.v[i]);
			return false;
		}
	an->due.n = an->n_ahead = 0;
	an->n_samples = samples->n_samples;
	for (uint32_t i = 0; i < samples->modules.n; i++) {
		struct annotation a = {.module = &samples->modules.v[i]};
		if (!a.module->path || !a.module->samples.n)
			continue;
		uint32_t file = find_file(an, a.module);
		a.file = &an->files.v[file];
		if (!a.file->image)
			continue;
		collect_touches(&a);
		find_regions(&a);
		for (uint32_t k = 0, n = sort_by_heat(&a); k < n; k++)
			if (!a.file->hashed[a.found.v[k].region].is_done)
				ovm_vec_push(&an->due, ((struct due){file, a.found.v[k].region}));
		annotation_fini(&a);
	}
	return true;
}

bool ovm_annotator_wants(const struct ovm_annotator *an, uint64_t n_samples)
{
	return n_samples >= AHEAD_SAMPLES && n_samples * 100 >= an->n_samples * AHEAD_GROWTH &&
	       an->n_ahead == an->due.n;
}

void ovm_annotator_look(struct ovm_annotator *an, const struct ovm_profile *samples)
{
	if (!an->has_decoder)
		decoder(an);
	else
		find_due(an, samples);
}

void ovm_annotator_ahead(struct ovm_annotator *an, double ms)
{
	double until = ovm_now_ms() + ms;
	while (an->n_ahead < an->due.n && ovm_now_ms() < until) {
		const struct due *due = &an->due.v[an->n_ahead++];
		hash_region(an, &an->files.v[due->file], due->region);
	}
}

/* --- the profile --- */

static void add_record(struct ovm_prof_module *module, const struct file *file, struct found *found)
{
	const struct ovm_region *region = &file->regions.v.v[found->region];
	const struct ovm_symbol *symbol = ovm_image_symbol(file->image, region->lo);
	struct ovm_prof_region record = {region->lo, region->hi, 0, NULL};
	if (symbol && symbol->name[0])
		record.name = ovm_strdup(symbol->name);
	ovm_vec_push(&module->regions, record);
	found->record = module->regions.n - 1;
}

static void add_blocks(struct ovm_prof_module *module, const struct annotation *a,
		       const struct found *found, const struct hashed *hashed)
{
	const struct touch *touches = a->touches.v + found->first;
	uint64_t lo = a->file->regions.v.v[found->region].lo.v;
	uint32_t t = 0;
	for (uint32_t bb = 0; bb < hashed->blocks.n && t < found->n; bb++) {
		const struct ovm_hashed_block *block = &hashed->blocks.v[bb];
		uint64_t start = lo + block->off;
		if (touches[t].va.v >= start + block->len)
			continue;
		ovm_vec_push(&module->blocks,
			     (struct ovm_prof_block){ovm_va_of(start), block->last, block->hash});
		while (t < found->n && touches[t].va.v < start + block->len)
			t++;
	}
}

static void annotate_module(struct ovm_annotator *an, struct ovm_prof_module *module)
{
	struct annotation a = {.module = module};
	if (!module->path)
		return;
	collect_touches(&a);
	uint32_t idx = a.touches.n ? find_file(an, module) : OVM_NONE;
	if (a.touches.n && idx == OVM_NONE)
		idx = add_file(an, module);
	if (idx != OVM_NONE && an->files.v[idx].image) {
		struct file *file = &an->files.v[idx];
		a.file = file;
		find_regions(&a);
		for (uint32_t i = 0; i < a.found.n; i++)
			add_record(module, file, &a.found.v[i]);
		for (uint32_t i = 0, n = sort_by_heat(&a); i < n; i++) {
			const struct hashed *hashed = hash_region(an, file, a.found.v[i].region);
			module->regions.v[a.found.v[i].record].hash = hashed->hash;
			add_blocks(module, &a, &a.found.v[i], hashed);
		}
	}
	annotation_fini(&a);
}

struct ovm_annotator *ovm_annotator_new(void)
{
	return ovm_alloc(sizeof(struct ovm_annotator));
}

void ovm_annotator_free(struct ovm_annotator *an)
{
	if (!an)
		return;
	for (uint32_t i = 0; i < an->files.n; i++) {
		struct file *file = &an->files.v[i];
		for (uint32_t k = 0; file->hashed && k < file->regions.v.n; k++)
			ovm_vec_free(&file->hashed[k].blocks);
		free(file->hashed);
		ovm_regions_free(&file->regions);
		ovm_image_close(file->image);
		free(file->path);
		free(file->id);
	}
	ovm_vec_free(&an->files);
	ovm_vec_free(&an->due);
	ovm_decoder_close(an->dec);
	free(an);
}

void ovm_annotator_finish(struct ovm_annotator *an, struct ovm_profile *prof)
{
	ovm_profile_normalize(prof);
	for (uint32_t i = 0; i < prof->modules.n; i++)
		annotate_module(an, &prof->modules.v[i]);
	ovm_profile_normalize(prof);
}

void ovm_annotate_profile(struct ovm_profile *prof)
{
	struct ovm_annotator *an = ovm_annotator_new();
	ovm_annotator_finish(an, prof);
	ovm_annotator_free(an);
}
