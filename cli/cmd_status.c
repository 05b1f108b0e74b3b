/* optvm status [PID]: what is remembered of processes that were changed. */
#include "cli/commands.h"
#include "cli/live_options.h"
#include "cli/summary.h"
#include "runtime/attach.h"
#include "runtime/family.h"
#include "runtime/state.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What is armed, or being armed; if nothing is, what has been. */
struct totals {
	uint32_t n_regions, n_modules, n_patches, n_generations;
	uint64_t bytes, kept_bytes; /* armed; all that is mapped */
	bool is_counting;
};

static struct totals add_up(const struct ovm_state *s)
{
	struct totals t = {.n_generations = s->v.n};
	for (uint32_t i = 0; i < s->v.n; i++) {
		const struct ovm_state_generation *gen = &s->v.v[i];
		for (uint32_t k = 0; k < gen->modules.n; k++) {
			const struct ovm_state_module *m = &gen->modules.v[k];
			t.kept_bytes += m->overlay_bytes;
			if (!gen->is_armed)
				continue;
			t.n_modules++;
			t.n_regions += m->n_regions;
			t.n_patches += m->n_patches;
			t.bytes += m->overlay_bytes;
		}
		t.is_counting |= gen->is_armed && gen->is_counting;
	}
	return t;
}

static const char *state_word(const struct ovm_state *s, const struct totals *t)
{
	return s->busy		? "at work"
	       : !s->is_done	? "unfinished"
	       : t->is_counting ? "counting"
	       : t->n_modules	? "optimized"
				: "original";
}

static void put_time(double at, char *out, size_t size)
{
	time_t seconds = (time_t)at;
	struct tm tm;
	out[0] = '\0';
	if (localtime_r(&seconds, &tm))
		strftime(out, size, "%Y-%m-%d %H:%M:%S", &tm);
}

static const char *short_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static void print_line(const struct ovm_state *s)
{
	struct totals t = add_up(s);
	char since[32], bytes[32];
	put_time(s->since, since, sizeof(since));
	printf("%-8d %-19s %8u %8u %9s %8u %-10s ", (int)s->pid, since, t.n_regions, t.n_modules,
	       ovm_summary_bytes(t.bytes, bytes, sizeof(bytes)), t.n_patches, state_word(s, &t));
	ovm_put_clean(short_name(s->program), stdout);
	putchar('\n');
}

static void print_table(const ovm_states *states)
{
	if (states->n)
		printf("%-8s %-19s %8s %8s %9s %8s %-10s %s\n", "PID", "SINCE", "REGIONS",
		       "MODULES", "SIZE", "PATCHES", "STATE", "PROGRAM");
	for (uint32_t i = 0; i < states->n; i++)
		print_line(states->v[i]);
}

/* --- one process --- */

static void print_generation(const struct ovm_state_generation *gen)
{
	char at[32], bytes[32];
	put_time(gen->loaded, at, sizeof(at));
	printf("generation %u, %s, %s%s\n", gen->number, at,
	       gen->is_counting ? "counting copies" : "optimized copies",
	       gen->is_armed ? ", in use" : "");
	for (uint32_t i = 0; i < gen->modules.n; i++) {
		const struct ovm_state_module *m = &gen->modules.v[i];
		printf("  %6u regions %6u patches %9s at 0x%llx of ", m->n_regions, m->n_patches,
		       ovm_summary_bytes(m->overlay_bytes, bytes, sizeof(bytes)),
		       (unsigned long long)m->overlay.v);
		ovm_put_clean(m->path, stdout);
		putchar('\n');
	}
}

static void print_details(const struct ovm_state *s)
{
	struct totals t = add_up(s);
	char since[32], bytes[32];
	put_time(s->since, since, sizeof(since));
	printf("process    %d ", (int)s->pid);
	ovm_put_clean(s->program, stdout);
	printf("\nstate      %s since %s, by optvm %s %s\n", state_word(s, &t), since, s->by,
	       s->version);
	if (s->busy)
		printf("at work    process %d\n", (int)s->busy);
	printf("in use     %u regions of %u modules, %u patches; last pause %.2f ms\n", t.n_regions,
	       t.n_modules, t.n_patches, s->pause_ms);
	if (s->gain > 0)
		printf("gain       time %.3f of what it was, measured\n", s->gain);
	printf("mapped     %s in %u generations\n",
	       ovm_summary_bytes(t.kept_bytes, bytes, sizeof(bytes)), t.n_generations);
	for (uint32_t i = 0; i < s->v.n; i++)
		print_generation(&s->v.v[i]);
}

/* --- JSON --- */

static void print_json(const ovm_states *states)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < states->n; i++) {
		struct totals t = add_up(states->v[i]);
		json_t *o = ovm_state_to_json(states->v[i]);
		json_object_del(o, "schema");
		json_object_set_new(o, "state", json_string(state_word(states->v[i], &t)));
		json_object_set_new(o, "regions", json_integer(t.n_regions));
		json_object_set_new(o, "modules", json_integer(t.n_modules));
		json_object_set_new(o, "patches", json_integer(t.n_patches));
		json_object_set_new(o, "overlay_bytes", json_integer((json_int_t)t.bytes));
		json_array_append_new(list, o);
	}
	json_t *doc = json_pack("{s:s, s:o}", "schema", "optvm.status/1", "processes", list);
	json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(doc);
}

/* The process and its kin; those forked since have inherited what nobody has written down yet. */
static void list_tree(const struct ovm_ctx *ctx, pid_t root, ovm_states *out)
{
	ovm_family kin;
	ovm_family_kin(root, root, &kin);
	for (uint32_t i = 0; i < kin.n; i++) {
		struct ovm_ctx own = *ctx;
		ovm_states one = {0};
		ovm_refresh(&own, kin.v[i].pid);
		ovm_states_list(kin.v[i].pid, &one);
		for (uint32_t k = 0; k < one.n; k++)
			ovm_vec_push(out, one.v[k]);
		ovm_vec_free(&one);
	}
	ovm_vec_free(&kin);
}

int ovm_cmd_status(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	ovm_states states = {0};
	pid_t pid = 0;
	(void)status;
	int err = opts->n_words ? ovm_live_pid(ctx, opts, &pid) : 0;
	if (err)
		return err;
	bool is_tree = ovm_option_given(opts, OVM_OPT_TREE);
	if (is_tree && !pid)
		return ovm_fail(ctx, OVM_E_USAGE, "status --tree: of which process?");
	if (is_tree)
		list_tree(ctx, pid, &states);
	else
		ovm_states_list(pid, &states);
	if (ovm_option_given(opts, OVM_OPT_JSON))
		print_json(&states);
	else if (pid && states.n && !is_tree)
		print_details(states.v[0]);
	else
		print_table(&states);
	if (pid && !states.n) {
		ovm_fail(ctx, OVM_OK, "process %d was not changed by optvm", (int)pid);
		err = OVM_REFUSED;
	}
	ovm_states_fini(&states);
	return err;
}
