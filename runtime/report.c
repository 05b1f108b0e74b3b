/* What was done to the process, for machines. Addresses are hexadecimal strings, because JSON
 * numbers lose 64-bit ones. */
#include "runtime/report.h"
#include "base/save.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static json_t *hex(uint64_t x)
{
	return json_sprintf("0x%" PRIx64, x);
}

static void set_u64(json_t *object, const char *key, uint64_t x)
{
	json_object_set_new(object, key, json_integer((json_int_t)x));
}

/* A path need not be UTF-8. */
static json_t *text(const char *s)
{
	json_t *string = json_string(s);
	return string ? string : json_string("?");
}

static json_t *module_json(const struct ovm_built_module *m)
{
	json_t *o = json_object();
	json_object_set_new(o, "path", text(m->module->path));
	json_object_set_new(o, "image", hex(m->module->lo.v));
	json_object_set_new(o, "bias", hex(m->module->bias));
	json_object_set_new(o, "overlay", hex(m->at.v));
	set_u64(o, "overlay_bytes", m->overlay.size);
	set_u64(o, "samples", m->n_samples);
	set_u64(o, "samples_in_regions", m->stats.samples_in_regions);
	set_u64(o, "samples_covered", m->stats.samples_covered);
	set_u64(o, "samples_left", m->stats.samples_left);
	set_u64(o, "regions", m->overlay.n_regions);
	set_u64(o, "blocks", m->overlay.n_blocks);
	set_u64(o, "instructions", m->overlay.n_insns);
	set_u64(o, "patches", m->overlay.patches.n);
	set_u64(o, "pairs_proved", m->stats.n_pairs);
	set_u64(o, "dropped_by_checker", m->stats.n_dropped_by_checker);
	json_object_set_new(o, "score_ratio", json_real(m->stats.score_ratio));
	return o;
}

static json_t *footprint_json(const struct ovm_footprint *f)
{
	json_t *o = json_object();
	set_u64(o, "samples", f->n_samples);
	json_object_set_new(o, "lines", json_real(f->lines));
	json_object_set_new(o, "pages", json_real(f->pages));
	json_object_set_new(o, "outside", json_real(f->outside));
	json_object_set_new(o, "may_gain", json_boolean(ovm_footprint_may_gain(f)));
	return o;
}

static json_t *measured_json(const struct ovm_measured *m)
{
	json_t *o = json_object();
	set_u64(o, "pairs", m->verdict.n_pairs);
	if (m->verdict.n_pairs) {
		json_object_set_new(o, "time_ratio", json_real(m->verdict.ratio));
		json_object_set_new(o, "at_least", json_real(m->verdict.lo));
		json_object_set_new(o, "at_most", json_real(m->verdict.hi));
		json_object_set_new(o, "undone", json_boolean(m->is_loss));
	}
	if (m->why_not[0])
		json_object_set_new(o, "why_not_measured", text(m->why_not));
	json_object_set_new(o, "by",
			    json_string(m->n_gauges ? "entries per CPU second" : "metric"));
	set_u64(o, "gauges", m->n_gauges);
	json_object_set_new(o, "seconds", json_real(m->took_s));
	json_object_set_new(o, "measuring_pause_ms", json_real(m->max_pause_ms));
	return o;
}

static json_t *refusals_json(const struct ovm_built *built)
{
	json_t *o = json_object();
	for (uint32_t why = 1; built && why < OVM_REFUSE_COUNT; why++)
		if (built->n_refused[why])
			set_u64(o, ovm_refusal_id((enum ovm_refusal)why), built->n_refused[why]);
	return o;
}

static json_t *report_json(const struct ovm_round *round, const struct ovm_profile *profile,
			   const int *wstatus)
{
	const struct ovm_round_result *r = &round->result;
	const struct ovm_built *built = ovm_round_built(round);
	json_t *o = json_object(), *modules = json_array();
	json_object_set_new(o, "schema", json_sprintf("optvm.%s/1", round->by));
	json_object_set_new(o, "optimized",
			    json_boolean((r->n_patches || r->n_moved) && !r->measured.is_loss));
	if (r->why_not[0])
		json_object_set_new(o, "why_not", text(r->why_not));
	if (wstatus && WIFEXITED(*wstatus))
		set_u64(o, "exit_status", (uint64_t)WEXITSTATUS(*wstatus));
	else if (wstatus)
		set_u64(o, "signal", (uint64_t)WTERMSIG(*wstatus));
	set_u64(o, "pid", (uint64_t)round->pid);
	set_u64(o, "rounds", r->n_rounds);
	set_u64(o, "others_optimized", r->n_others);
	set_u64(o, "others_left", r->n_others_left);
	set_u64(o, "samples", profile ? profile->n_samples : 0);
	set_u64(o, "samples_lost", profile ? profile->n_lost : 0);
	set_u64(o, "regions", r->n_regions);
	set_u64(o, "regions_counted", r->n_counted);
	set_u64(o, "patches", r->n_patches);
	set_u64(o, "overlay_bytes", r->overlay_bytes);
	set_u64(o, "threads", r->n_threads);
	set_u64(o, "threads_moved", r->n_moved);
	json_object_set_new(o, "pause_ms", json_real(r->pause_ms));
	json_object_set_new(o, "patched_after_s", json_real(r->patched_after_s));
	for (uint32_t i = 0; built && i < built->modules.n; i++)
		json_array_append_new(modules, module_json(&built->modules.v[i]));
	if (r->footprint.n_samples)
		json_object_set_new(o, "footprint", footprint_json(&r->footprint));
	if (r->measured.verdict.n_pairs || r->measured.why_not[0])
		json_object_set_new(o, "measured", measured_json(&r->measured));
	json_object_set_new(o, "modules", modules);
	json_object_set_new(o, "refused", refusals_json(built));
	return o;
}

struct ovm_live_processes {
	json_t *list;
};

struct ovm_live_processes *ovm_live_processes_new(void)
{
	struct ovm_live_processes *p = ovm_alloc(sizeof(*p));
	p->list = json_array();
	return p;
}

void ovm_live_processes_free(struct ovm_live_processes *p)
{
	if (p)
		json_decref(p->list);
	free(p);
}

void ovm_live_processes_add(struct ovm_live_processes *p, const struct ovm_round *round,
			    const struct ovm_profile *profile)
{
	json_array_append_new(p->list, report_json(round, profile, NULL));
}

uint32_t ovm_live_processes_count(const struct ovm_live_processes *p)
{
	return p ? (uint32_t)json_array_size(p->list) : 0;
}

int ovm_live_report(struct ovm_ctx *ctx, const char *path, const struct ovm_round *round,
		    const struct ovm_profile *profile, const int *wstatus,
		    const struct ovm_live_processes *processes)
{
	json_t *json = report_json(round, profile, wstatus);
	if (processes)
		json_object_set(json, "processes", processes->list);
	char *text = json_dumps(json, JSON_INDENT(2)), *line;
	json_decref(json);
	if (!text)
		return ovm_fail(ctx, OVM_E_NOMEM, "out of memory");
	line = ovm_asprintf("%s\n", text);
	int rc = ovm_save(ctx, path, line, strlen(line));
	free(text);
	free(line);
	return rc;
}
