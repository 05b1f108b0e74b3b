/* Runs the engine for its verdicts alone. */
#include "cli/why.h"
#include "rewriter/elf_write.h"

#include <stdlib.h>
#include <string.h>

static int by_samples(const void *pa, const void *pb)
{
	const struct ovm_why_region *a = pa, *b = pb;
	if (a->samples != b->samples)
		return a->samples < b->samples ? 1 : -1;
	return a->lo.v < b->lo.v ? -1 : a->lo.v > b->lo.v;
}

static char *name_of(const struct ovm_image *image, ovm_va va)
{
	char name[512];
	return ovm_strdup(ovm_region_name(image, va, name, sizeof(name)));
}

static bool is_copied(const struct ovm_engine *engine, uint32_t region)
{
	const struct ovm_program *program = &engine->program;
	uint32_t cfg = program->cfg_of_region ? program->cfg_of_region[region] : OVM_NONE;
	return cfg < program->cfgs.n && program->cfgs.v[cfg] &&
	       !engine->regions.v.v[region].refused;
}

static void count_region(const struct ovm_image *image, const struct ovm_engine *engine,
			 uint32_t idx, uint64_t samples, struct ovm_why *out)
{
	const struct ovm_region *region = &engine->regions.v.v[idx];
	out->in_regions += samples;
	out->n_regions++;
	if (is_copied(engine, idx)) {
		out->covered += samples;
		out->n_copied++;
		return;
	}
	uint8_t reason = region->refused && region->refused < OVM_REFUSE_COUNT ? region->refused
									       : OVM_REFUSE_NOT_HOT;
	out->refused[reason]++;
	out->refused_samples[reason] += samples;
	ovm_vec_push(&out->regions, (struct ovm_why_region){region->lo, region->hi, samples, reason,
							    name_of(image, region->lo)});
}

/* Samples and regions are both sorted: one walk. */
static void count(const struct ovm_image *image, const struct ovm_engine *engine,
		  struct ovm_why *out)
{
	const struct ovm_regions *regions = &engine->regions;
	const struct ovm_prof_module *module = out->module;
	for (uint32_t i = 0; i < module->samples.n;) {
		uint32_t idx = ovm_region_find(regions, module->samples.v[i].va);
		if (idx == OVM_NONE) {
			i++;
			continue;
		}
		uint64_t samples = 0;
		for (; i < module->samples.n && module->samples.v[i].va.v < regions->v.v[idx].hi.v;
		     i++)
			samples += module->samples.v[i].count;
		count_region(image, engine, idx, samples, out);
	}
	if (out->regions.n)
		qsort(out->regions.v, out->regions.n, sizeof(*out->regions.v), by_samples);
}

static int explain(struct ovm_ctx *ctx, struct ovm_image *image, const struct ovm_engine_opts *opts,
		   struct ovm_why *out)
{
	struct ovm_engine_opts engine_opts = *opts;
	struct ovm_decoder *dec = NULL;
	struct ovm_engine engine = {0};
	int err = ovm_elf_plan(ctx, image, &engine_opts.base);
	if (!err)
		err = ovm_decoder_open(ctx, &dec);
	if (!err)
		err = ovm_engine_run(ctx, dec, image, out->module, &engine_opts, &engine);
	if (err >= 0)
		count(image, &engine, out);
	ovm_engine_fini(&engine);
	ovm_decoder_close(dec);
	return err < 0 ? err : 0;
}

void ovm_why_explain(const struct ovm_prof_module *module, const struct ovm_engine_opts *opts,
		     struct ovm_why *out)
{
	struct ovm_ctx ctx; /* its own: one module's trouble is not the command's failure */
	ovm_ctx_init(&ctx);
	memset(out, 0, sizeof(*out));
	out->module = module;
	out->samples = ovm_prof_module_samples(module);
	struct ovm_image *image = NULL;
	int err = module->path && module->path[0] == '/'
		      ? ovm_image_open(&ctx, module->path, &image)
		      : ovm_fail(&ctx, OVM_E_FORMAT, "not a file");
	if (!err && strcmp(image->id, module->id))
		err = ovm_fail(&ctx, OVM_E_MISMATCH, "the file here is another build (build-id %s)",
			       image->id);
	if (!err)
		err = explain(&ctx, image, opts, out);
	if (err)
		out->unavailable = ovm_strdup(ctx.msg);
	ovm_image_close(image);
}

void ovm_why_fini(struct ovm_why *why)
{
	for (uint32_t i = 0; i < why->regions.n; i++)
		free(why->regions.v[i].name);
	ovm_vec_free(&why->regions);
	free(why->unavailable);
}
