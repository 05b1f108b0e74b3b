/* State as JSON, for people and for later versions. Addresses are hexadecimal strings. */
#include "runtime/state.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char schema[] = "optvm.state/1";

/* --- writing
 * -------------------------------------------------------------------------------------------------
 */

static json_t *hex(uint64_t x)
{
	return json_sprintf("0x%" PRIx64, x);
}

/* A path need not be UTF-8. */
static json_t *text(const char *s)
{
	json_t *string = json_string(s ? s : "");
	return string ? string : json_string("?");
}

static json_t *number(uint64_t x)
{
	return json_integer((json_int_t)x);
}

static json_t *module_to_json(const struct ovm_state_module *m)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "path", text(m->path),
			 "build_id", text(m->id), "image", hex(m->image.v), "bias", hex(m->bias),
			 "overlay", hex(m->overlay.v), "overlay_bytes", number(m->overlay_bytes),
			 "counters", hex(m->counters.v), "regions", number(m->n_regions), "patches",
			 number(m->n_patches));
}

static json_t *generation_to_json(const struct ovm_state_generation *gen)
{
	json_t *modules = json_array();
	for (uint32_t i = 0; i < gen->modules.n; i++)
		json_array_append_new(modules, module_to_json(&gen->modules.v[i]));
	return json_pack("{s:o, s:b, s:b, s:b, s:f, s:o}", "number", number(gen->number),
			 "counting", gen->is_counting, "armed", gen->is_armed, "wanted",
			 gen->is_wanted, "loaded", gen->loaded, "modules", modules);
}

json_t *ovm_state_to_json(const struct ovm_state *s)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < s->v.n; i++)
		json_array_append_new(list, generation_to_json(&s->v.v[i]));
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:b, s:o}", "schema",
			 schema, "pid", number((uint64_t)s->pid), "start", number(s->start),
			 "program", text(s->program), "version", text(s->version), "by",
			 text(s->by), "since", s->since, "pause_ms", s->pause_ms, "gain", s->gain,
			 "done", s->is_done, "generations", list);
}

/* --- reading
 * -------------------------------------------------------------------------------------------------
 */

static bool get_hex(const json_t *o, const char *key, uint64_t *out)
{
	const char *s = json_string_value(json_object_get(o, key));
	char *end;
	if (!s || strncmp(s, "0x", 2) != 0)
		return false;
	*out = strtoull(s, &end, 16);
	return !*end;
}

static bool get_u64(const json_t *o, const char *key, uint64_t max, uint64_t *out)
{
	const json_t *x = json_object_get(o, key);
	json_int_t value = json_integer_value(x);
	*out = (uint64_t)value;
	return json_is_integer(x) && value >= 0 && (uint64_t)value <= max;
}

static bool get_u32(const json_t *o, const char *key, uint32_t *out)
{
	uint64_t x;
	bool ok = get_u64(o, key, UINT32_MAX, &x);
	*out = ok ? (uint32_t)x : 0;
	return ok;
}

static bool get_real(const json_t *o, const char *key, double *out)
{
	const json_t *x = json_object_get(o, key);
	*out = json_number_value(x);
	return json_is_number(x);
}

static bool get_bool(const json_t *o, const char *key, bool *out)
{
	const json_t *x = json_object_get(o, key);
	*out = json_is_true(x);
	return json_is_boolean(x);
}

static bool get_text(const json_t *o, const char *key, char **out)
{
	const char *s = json_string_value(json_object_get(o, key));
	*out = s ? ovm_strdup(s) : NULL;
	return s != NULL;
}

static bool module_from_json(const json_t *o, struct ovm_state_module *m)
{
	const char *id = json_string_value(json_object_get(o, "build_id"));
	if (!id || strlen(id) >= sizeof(m->id))
		return false;
	memcpy(m->id, id, strlen(id) + 1);
	return get_text(o, "path", &m->path) && get_hex(o, "image", &m->image.v) &&
	       get_hex(o, "bias", &m->bias) && get_hex(o, "overlay", &m->overlay.v) &&
	       get_u64(o, "overlay_bytes", INT32_MAX, &m->overlay_bytes) &&
	       get_hex(o, "counters", &m->counters.v) && get_u32(o, "regions", &m->n_regions) &&
	       get_u32(o, "patches", &m->n_patches);
}

static bool generation_from_json(const json_t *o, struct ovm_state_generation *gen)
{
	const json_t *modules = json_object_get(o, "modules"), *m;
	size_t i;
	if (!get_u32(o, "number", &gen->number) || !get_bool(o, "counting", &gen->is_counting) ||
	    !get_bool(o, "armed", &gen->is_armed) || !get_bool(o, "wanted", &gen->is_wanted) ||
	    !get_real(o, "loaded", &gen->loaded) || !json_is_array(modules))
		return false;
	json_array_foreach(modules, i, m)
	{
		ovm_vec_push(&gen->modules, (struct ovm_state_module){0});
		if (!module_from_json(m, &gen->modules.v[i]))
			return false;
	}
	return true;
}

bool ovm_state_from_json(const json_t *o, struct ovm_state *s)
{
	const char *is = json_string_value(json_object_get(o, "schema"));
	const json_t *list = json_object_get(o, "generations"), *gen;
	uint64_t pid, start;
	size_t i;
	if (!is || strcmp(is, schema) != 0 || !get_u64(o, "pid", INT32_MAX, &pid) ||
	    !get_u64(o, "start", INT64_MAX, &start) || (pid_t)pid != s->pid || start != s->start ||
	    !get_text(o, "program", &s->program) || !get_text(o, "version", &s->version) ||
	    !get_text(o, "by", &s->by) || !get_real(o, "since", &s->since) ||
	    !get_real(o, "pause_ms", &s->pause_ms) || !get_real(o, "gain", &s->gain) ||
	    !get_bool(o, "done", &s->is_done) || !json_is_array(list))
		return false;
	json_array_foreach(list, i, gen)
	{
		ovm_vec_push(&s->v, (struct ovm_state_generation){0});
		if (!generation_from_json(gen, &s->v.v[i]))
			return false;
	}
	return true;
}
