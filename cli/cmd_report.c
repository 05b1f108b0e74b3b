/* optvm report PROF: where time goes; --why: what was left alone, and why.
 *
 * A profile carries the regions of its samples, so a report can be read on another machine; only
 * --why needs the files. One model (rows sorted by samples), two printers: text and JSON.
 */
#include "analyzer/footprint.h"
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/summary.h"
#include "cli/why.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct row { /* samples of one region, or of a module's code outside all regions (lo == hi) */
	const struct ovm_prof_module *module;
	const struct ovm_prof_region *region; /* NULL: outside */
	uint64_t samples;
};

struct model {
	const struct ovm_profile *prof;
	uint64_t total; /* samples to take shares of */
	OVM_VEC(struct row) modules, regions;
	OVM_VEC(struct ovm_why) whys;
	struct ovm_style style;
	uint64_t limit;
};

static int row_cmp(const void *pa, const void *pb)
{
	const struct row *a = pa, *b = pb;
	if (a->samples != b->samples)
		return a->samples < b->samples ? 1 : -1;
	int c = strcmp(a->module->id, b->module->id);
	if (c)
		return c;
	uint64_t la = a->region ? a->region->lo.v : UINT64_MAX,
		 lb = b->region ? b->region->lo.v : UINT64_MAX;
	return la < lb ? -1 : la > lb;
}

static uint64_t add_sat(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}

/* Both lists are sorted; a hostile file may have overlapping regions: the first one that reaches
 * wins. */
static void fold_module(struct model *model, const struct ovm_prof_module *m)
{
	uint64_t outside = 0;
	uint32_t r = 0;
	for (uint32_t i = 0; i < m->samples.n;) {
		uint64_t va = m->samples.v[i].va.v;
		while (r < m->regions.n && m->regions.v[r].hi.v <= va)
			r++;
		if (r == m->regions.n || m->regions.v[r].lo.v > va) {
			outside = add_sat(outside, m->samples.v[i++].count);
			continue;
		}
		struct row row = {m, &m->regions.v[r], 0};
		for (; i < m->samples.n && m->samples.v[i].va.v < row.region->hi.v; i++)
			row.samples = add_sat(row.samples, m->samples.v[i].count);
		ovm_vec_push(&model->regions, row);
	}
	if (outside)
		ovm_vec_push(&model->regions, (struct row){m, NULL, outside});
}

static void fold(struct model *model)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < model->prof->modules.n; i++) {
		const struct ovm_prof_module *m = &model->prof->modules.v[i];
		uint64_t samples = ovm_prof_module_samples(m);
		sum = add_sat(sum, samples);
		if (samples)
			ovm_vec_push(&model->modules, (struct row){m, NULL, samples});
		fold_module(model, m);
	}
	model->total = model->prof->n_samples > sum ? model->prof->n_samples : sum;
	if (model->modules.n)
		qsort(model->modules.v, model->modules.n, sizeof(struct row), row_cmp);
	if (model->regions.n)
		qsort(model->regions.v, model->regions.n, sizeof(struct row), row_cmp);
}

static const char *path_of(const struct ovm_prof_module *m)
{
	return m->path ? m->path : m->id;
}

static const char *file_of(const struct ovm_prof_module *m)
{
	const char *slash = strrchr(path_of(m), '/');
	return slash && slash[1] ? slash + 1 : path_of(m);
}

/* --- text --- */

static void print_header(const struct model *model)
{
	const struct ovm_profile *p = model->prof;
	fputs("event     ", stdout);
	ovm_put_clean(p->event ? p->event : "unknown", stdout);
	fputs(" by ", stdout);
	ovm_put_clean(p->source ? p->source : "unknown", stdout);
	printf(" at %" PRIu64 " Hz\n", p->frequency);
	printf("samples   %" PRIu64 " in %" PRIu64 " processes, %" PRIu64 " lost\n", p->n_samples,
	       p->n_processes, p->n_lost);
	printf("unmapped  %" PRIu64 " (%.1f %%) outside every file\n", p->n_unmapped,
	       ovm_percent(p->n_unmapped, p->n_samples));
	struct ovm_footprint f = ovm_footprint(p);
	if (f.n_samples)
		printf(
		    "footprint %.0f lines in %.0f pages, %.0f %% outside the hottest 32 kB: %s\n",
		    f.lines, f.pages, 100 * f.outside,
		    ovm_footprint_may_gain(&f) ? "may gain" : "no gain to be expected");
}

static void print_title(const struct model *model, const char *text)
{
	printf("\n%s%9s %6s  %s%s\n", model->style.bold, "samples", "%", text, model->style.off);
}

static void print_count(const struct model *model, uint64_t samples)
{
	printf("%9" PRIu64 " %6.2f  ", samples, ovm_percent(samples, model->total));
}

static void print_more(const struct model *model, uint32_t n)
{
	if (n > model->limit)
		printf("%16s  ... and %" PRIu64 " more\n", "", n - model->limit);
}

static void print_modules(const struct model *model)
{
	print_title(model, "module");
	for (uint32_t i = 0; i < model->modules.n && i < model->limit; i++) {
		const struct ovm_prof_module *m = model->modules.v[i].module;
		print_count(model, model->modules.v[i].samples);
		ovm_put_clean(path_of(m), stdout);
		fputs(" (", stdout);
		ovm_put_clean(m->id, stdout);
		fputs(")\n", stdout);
	}
	print_more(model, model->modules.n);
}

static void print_regions(const struct model *model)
{
	print_title(model, "region");
	for (uint32_t i = 0; i < model->regions.n && i < model->limit; i++) {
		const struct row *row = &model->regions.v[i];
		print_count(model, row->samples);
		ovm_put_clean(file_of(row->module), stdout);
		fputc(' ', stdout);
		if (row->region && row->region->name)
			ovm_put_clean(row->region->name, stdout);
		else if (row->region)
			printf("0x%" PRIx64 "-0x%" PRIx64, row->region->lo.v, row->region->hi.v);
		else
			fputs("(outside every region)", stdout);
		fputc('\n', stdout);
	}
	print_more(model, model->regions.n);
}

static void print_why(const struct model *model, const struct ovm_why *why)
{
	printf("\n%s", model->style.bold);
	ovm_put_clean(path_of(why->module), stdout);
	printf("%s: %" PRIu64 " samples, %.2f %% of all\n", model->style.off, why->samples,
	       ovm_percent(why->samples, model->total));
	if (why->unavailable) {
		fputs("  not examined: ", stdout);
		ovm_put_clean(why->unavailable, stdout);
		fputc('\n', stdout);
		return;
	}
	printf("  %.2f %% of them in regions with unwind information\n",
	       ovm_percent(why->in_regions, why->samples));
	printf("  %.2f %% of these in %u copied regions; %u of %u regions refused\n",
	       ovm_percent(why->covered, why->in_regions), why->n_copied,
	       why->n_regions - why->n_copied, why->n_regions);
	for (int i = 0; i < OVM_REFUSE_COUNT; i++)
		if (why->refused[i])
			printf("  %6.2f %% in %u regions: %s: %s\n",
			       ovm_percent(why->refused_samples[i], why->in_regions),
			       why->refused[i], ovm_refusal_id((enum ovm_refusal)i),
			       ovm_refusal_text((enum ovm_refusal)i));
	if (why->regions.n)
		print_title(model, "refused region");
	for (uint32_t i = 0; i < why->regions.n && i < model->limit; i++) {
		const struct ovm_why_region *r = &why->regions.v[i];
		print_count(model, r->samples);
		ovm_put_clean(r->name, stdout);
		printf(" 0x%" PRIx64 "-0x%" PRIx64 ": %s\n", r->lo.v, r->hi.v,
		       ovm_refusal_id((enum ovm_refusal)r->reason));
	}
	print_more(model, why->regions.n);
}

static void print_text(const struct model *model)
{
	print_header(model);
	if (model->modules.n)
		print_modules(model);
	if (model->regions.n)
		print_regions(model);
	for (uint32_t i = 0; i < model->whys.n; i++)
		print_why(model, &model->whys.v[i]);
}

/* --- JSON --- */

/* A string value; bytes that are not UTF-8 (paths may have any) become '?'. */
static json_t *json_text(const char *text)
{
	json_t *value = text ? json_string(text) : json_null();
	if (value)
		return value;
	char *copy = ovm_strdup(text);
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	value = json_string(copy);
	free(copy);
	return value;
}

static json_t *json_hex(ovm_va va)
{
	char text[24];
	snprintf(text, sizeof(text), "0x%" PRIx64, va.v);
	return json_string(text);
}

static json_t *json_count(uint64_t n)
{
	return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static json_t *json_share(const struct model *model, uint64_t n)
{
	return json_real(model->total ? (double)n / (double)model->total : 0);
}

static json_t *json_modules(const struct model *model)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < model->modules.n; i++) {
		const struct row *row = &model->modules.v[i];
		json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:o}", "id",
						      json_text(row->module->id), "path",
						      json_text(row->module->path), "samples",
						      json_count(row->samples), "share",
						      json_share(model, row->samples)));
	}
	return list;
}

static json_t *json_regions(const struct model *model)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < model->regions.n && i < model->limit; i++) {
		const struct row *row = &model->regions.v[i];
		json_t *item =
		    json_pack("{s:o, s:o, s:o}", "module", json_text(row->module->id), "samples",
			      json_count(row->samples), "share", json_share(model, row->samples));
		if (row->region) {
			json_object_set_new(item, "lo", json_hex(row->region->lo));
			json_object_set_new(item, "hi", json_hex(row->region->hi));
			json_object_set_new(item, "name", json_text(row->region->name));
		}
		json_array_append_new(list, item);
	}
	return list;
}

static json_t *json_why(const struct model *model, const struct ovm_why *why)
{
	json_t *item = json_pack("{s:o, s:o, s:o}", "module", json_text(why->module->id), "path",
				 json_text(why->module->path), "samples", json_count(why->samples));
	if (why->unavailable) {
		json_object_set_new(item, "not_examined", json_text(why->unavailable));
		return item;
	}
	json_t *reasons = json_array(), *refused = json_array();
	for (int i = 0; i < OVM_REFUSE_COUNT; i++)
		if (why->refused[i])
			json_array_append_new(
			    reasons, json_pack("{s:s, s:s, s:o, s:o}", "id",
					       ovm_refusal_id((enum ovm_refusal)i), "text",
					       ovm_refusal_text((enum ovm_refusal)i), "regions",
					       json_count(why->refused[i]), "samples",
					       json_count(why->refused_samples[i])));
	for (uint32_t i = 0; i < why->regions.n && i < model->limit; i++) {
		const struct ovm_why_region *r = &why->regions.v[i];
		json_array_append_new(refused,
				      json_pack("{s:o, s:o, s:o, s:o, s:s}", "lo", json_hex(r->lo),
						"hi", json_hex(r->hi), "name", json_text(r->name),
						"samples", json_count(r->samples), "reason",
						ovm_refusal_id((enum ovm_refusal)r->reason)));
	}
	json_object_set_new(item, "samples_in_regions", json_count(why->in_regions));
	json_object_set_new(item, "samples_covered", json_count(why->covered));
	json_object_set_new(item, "regions", json_count(why->n_regions));
	json_object_set_new(item, "regions_copied", json_count(why->n_copied));
	json_object_set_new(item, "reasons", reasons);
	json_object_set_new(item, "refused", refused);
	return item;
}

static void print_json(const struct model *model, bool with_why)
{
	const struct ovm_profile *p = model->prof;
	json_t *doc =
	    json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "schema",
		      "optvm.report/1", "event", json_text(p->event), "source",
		      json_text(p->source), "frequency", json_count(p->frequency), "samples",
		      json_count(p->n_samples), "lost", json_count(p->n_lost), "unmapped",
		      json_count(p->n_unmapped), "processes", json_count(p->n_processes), "modules",
		      json_modules(model), "regions", json_regions(model));
	struct ovm_footprint f = ovm_footprint(p);
	json_object_set_new(doc, "footprint",
			    json_pack("{s:f, s:f, s:f, s:b}", "lines", f.lines, "pages", f.pages,
				      "outside", f.outside, "may_gain",
				      ovm_footprint_may_gain(&f)));
	if (with_why) {
		json_t *list = json_array();
		for (uint32_t i = 0; i < model->whys.n; i++)
			json_array_append_new(list, json_why(model, &model->whys.v[i]));
		json_object_set_new(doc, "why", list);
	}
	json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(doc);
}

/* --- the command --- */

static int parse(struct ovm_ctx *ctx, const struct ovm_options *opts, struct model *model,
		 struct ovm_engine_opts *engine)
{
	if (opts->n_words != 1)
		return ovm_fail(ctx, OVM_E_USAGE, "report: %s: optvm report PROF",
				opts->n_words ? "one profile at a time (optvm merge adds them up)"
					      : "no profile");
	int err = ovm_inputs_engine(ctx, opts, engine);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_LIMIT, 1, UINT32_MAX, 20, &model->limit);
	if (!err)
		err = ovm_style_choose(ctx, opts, stdout, &model->style);
	return err;
}

static void explain(struct model *model, const struct ovm_engine_opts *engine)
{
	for (uint32_t i = 0; i < model->modules.n; i++) {
		struct ovm_why why;
		ovm_why_explain(model->modules.v[i].module, engine, &why);
		ovm_vec_push(&model->whys, why);
	}
}

int ovm_cmd_report(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	struct model model = {0};
	struct ovm_engine_opts engine;
	struct ovm_profile *prof;
	int err = parse(ctx, opts, &model, &engine);
	if (!err)
		err = ovm_inputs_load(ctx, opts->words[0], &prof);
	if (err)
		return err;
	model.prof = prof;
	fold(&model);
	if (ovm_option_given(opts, OVM_OPT_WHY))
		explain(&model, &engine);
	if (ovm_option_given(opts, OVM_OPT_JSON))
		print_json(&model, ovm_option_given(opts, OVM_OPT_WHY));
	else
		print_text(&model);
	for (uint32_t i = 0; i < model.whys.n; i++)
		ovm_why_fini(&model.whys.v[i]);
	ovm_vec_free(&model.whys);
	ovm_vec_free(&model.modules);
	ovm_vec_free(&model.regions);
	ovm_profile_free(prof);
	return 0;
}
