/* Pre-aggregated text: what perf2bolt makes of branch stacks before it knows of
 * symbols.
 *
 *   E cycles                          event
 *   B 1149 1070 49800 12              taken branch: from, to, count,
 * mispredicted F 1070 1149 49600                 straight run: first, last
 * instruction, count f 1070 1149 200                   ... entered from
 * elsewhere; r: by a return T 1149 1070 1149 49800            B and F in one:
 * branch, run, count; R: the branch is a return S 1075 17 sample
 *
 * Addresses are link-time and hexadecimal, of the file at hand or, with a
 * build-id and a colon before them, of any. T and R use the four highest
 * addresses for "no branch" and "no run".
 *
 * A record whose ends lie in two files is kept in the one where it arrives, as
 * coming from outside.
 */
#include "analyzer/preagg.h"
#include "analyzer/boltnames.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t highest = UINT64_MAX - 3; /* from here on: not an address */

struct reader {
	struct ovm_ctx *ctx;
	const struct ovm_image *image;
	const char *file;
	struct ovm_profile *prof;
	struct ovm_import met;
	uint64_t n_known;
	bool lacks_image; /* an address without build-id, and no image */
	bool is_of_image; /* an address was of it */
};

struct place {
	uint32_t module; /* in the profile; OVM_NONE: of none */
	ovm_va va;
};

static bool is_id(const char *id, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)id[i] <= 0x20 || (unsigned char)id[i] >= 0x7f || id[i] == '\\')
			return false;
	return len > 0;
}

static uint32_t module_of(struct reader *reader, const char *id, size_t len, struct ovm_fields *f)
{
	char key[sizeof(reader->image->id)];
	if (!is_id(id, len) || len >= sizeof(key)) {
		f->bad = "not a build-id";
		return OVM_NONE;
	}
	memcpy(key, id, len);
	key[len] = 0;
	bool is_own = reader->image && !strcmp(key, reader->image->id);
	reader->is_of_image |= is_own;
	struct ovm_prof_module *m =
	    ovm_profile_module(reader->prof, key, is_own ? reader->image->path : NULL);
	return (uint32_t)(m - reader->prof->modules.v);
}

/* [buildid:]hex. Nothing of the image's code: no module. */
static struct place read_place(struct reader *reader, struct ovm_fields *f)
{
	struct place place = {OVM_NONE, {0}};
	const char *word;
	size_t len;
	ovm_field_word(f, false, &word, &len);
	const char *colon = len ? memchr(word, ':', len) : NULL;
	const char *hex = colon ? colon + 1 : word;
	if (f->bad)
		return place;
	if (!ovm_text_hex(hex, len - (size_t)(hex - word), &place.va.v)) {
		f->bad = "not a hexadecimal address";
		return place;
	}
	if (!place.va.v || place.va.v >= highest)
		return place;
	if (colon) {
		place.module = module_of(reader, word, (size_t)(colon - word), f);
	} else if (reader->image) {
		place.module = module_of(reader, reader->image->id, strlen(reader->image->id), f);
	} else {
		reader->lacks_image = true;
		f->bad = "an address without build-id: name its file with --binary";
	}
	if (place.module != OVM_NONE && reader->image &&
	    !strcmp(reader->prof->modules.v[place.module].id, reader->image->id) &&
	    !ovm_image_code(reader->image, place.va, 1))
		place.module = OVM_NONE;
	return place;
}

static void keep_branch(struct reader *reader, struct place from, struct place to, uint64_t count,
			uint64_t mispreds)
{
	if (to.module == OVM_NONE) {
		reader->met.n_unknown += from.module == OVM_NONE;
		return;
	}
	ovm_va src = from.module == to.module ? from.va : ovm_va_of(0);
	struct ovm_prof_module *m = &reader->prof->modules.v[to.module];
	ovm_vec_push(&m->branches, (struct ovm_prof_branch){src, to.va, count, mispreds});
	reader->n_known++;
}

static void keep_range(struct reader *reader, struct place from, struct place to, uint64_t count)
{
	if (from.module == OVM_NONE || from.module != to.module || from.va.v > to.va.v) {
		reader->met.n_unknown++;
		return;
	}
	ovm_vec_push(&reader->prof->modules.v[from.module].ranges,
		     (struct ovm_prof_range){from.va, to.va, count});
	reader->n_known++;
}

static void keep_sample(struct reader *reader, struct place at, uint64_t count)
{
	if (__builtin_add_overflow(reader->prof->n_samples, count, &reader->prof->n_samples))
		reader->prof->n_samples = UINT64_MAX;
	if (at.module == OVM_NONE) {
		reader->met.n_unknown++;
		return;
	}
	ovm_vec_push(&reader->prof->modules.v[at.module].samples,
		     (struct ovm_prof_sample){at.va, count});
	reader->n_known++;
}

static void read_event(struct reader *reader, struct ovm_fields *f)
{
	const char *word;
	size_t len;
	ovm_field_word(f, false, &word, &len);
	ovm_field_end(f);
	if (f->bad || reader->prof->event)
		return;
	if (memchr(word, 0, len))
		f->bad = "a zero byte in the event's name";
	else
		reader->prof->event = ovm_strndup(word, len);
}

static void read_trace(struct reader *reader, struct ovm_fields *f)
{
	struct place branch = read_place(reader, f), from = read_place(reader, f),
		     to = read_place(reader, f);
	uint64_t count = ovm_field_count(f);
	ovm_field_end(f);
	if (f->bad)
		return;
	if (branch.va.v < highest)
		keep_branch(reader, branch, from, count, 0);
	if (to.va.v < highest)
		keep_range(reader, from, to, count);
}

static void read_pair(struct reader *reader, char kind, struct ovm_fields *f)
{
	struct place from = read_place(reader, f), to = read_place(reader, f);
	uint64_t count = ovm_field_count(f), mispreds = kind == 'B' ? ovm_field_count(f) : 0;
	ovm_field_end(f);
	if (f->bad)
		return;
	if (kind == 'B')
		keep_branch(reader, from, to, count, mispreds);
	else
		keep_range(reader, from, to, count);
}

static void read_record(struct reader *reader, struct ovm_fields *f)
{
	const char *kind;
	size_t len;
	ovm_field_word(f, false, &kind, &len);
	if (f->bad || len != 1 || !strchr("EBFfrTRS", *kind) || !*kind) {
		f->bad = f->bad ? f->bad : "not a record of kind E, B, F, f, r, T, R or S";
		return;
	}
	if (*kind == 'E') {
		read_event(reader, f);
		return;
	}
	reader->met.n_records++;
	if (*kind == 'T' || *kind == 'R') {
		read_trace(reader, f);
	} else if (*kind == 'S') {
		struct place at = read_place(reader, f);
		uint64_t count = ovm_field_count(f);
		ovm_field_end(f);
		if (!f->bad)
			keep_sample(reader, at, count);
	} else {
		read_pair(reader, *kind, f);
	}
}

static int read_lines(struct reader *reader, const char *text, size_t len)
{
	struct ovm_lines lines = {text, text + len, 0};
	struct ovm_fields f;
	while (ovm_lines_next(&lines, &f)) {
		read_record(reader, &f);
		if (f.bad)
			return ovm_fail(reader->ctx,
					reader->lacks_image ? OVM_E_USAGE : OVM_E_FORMAT,
					"%s: line %" PRIu64 ": %s", reader->file, lines.n, f.bad);
	}
	if (lines.p != lines.end)
		return ovm_fail(reader->ctx, OVM_E_FORMAT,
				"%s: line %" PRIu64 ": has no end: the file is cut short",
				reader->file, lines.n + 1);
	if (!reader->met.n_records)
		return ovm_fail(reader->ctx, OVM_E_FORMAT,
				"%s: pre-aggregated text without a single record", reader->file);
	if (!reader->n_known || (reader->image && !reader->is_of_image))
		return ovm_fail(reader->ctx, OVM_E_MISMATCH,
				"%s: not one of its %" PRIu64
				" records lies in code of %s (build-id %s)",
				reader->file, reader->met.n_records,
				reader->image ? reader->image->path : "a file",
				reader->image ? reader->image->id : "?");
	return 0;
}

int ovm_preagg_parse(struct ovm_ctx *ctx, const struct ovm_image *image, const char *text,
		     size_t len, const char *name, struct ovm_import *met, struct ovm_profile **out)
{
	struct reader reader = {.ctx = ctx, .image = image, .file = name};
	reader.prof = ovm_profile_new();
	reader.prof->source = ovm_strdup("import");
	int err = read_lines(&reader, text, len);
	if (err) {
		ovm_profile_free(reader.prof);
		return err;
	}
	ovm_profile_normalize(reader.prof);
	*met = reader.met;
	*out = reader.prof;
	return 0;
}

int ovm_preagg_load(struct ovm_ctx *ctx, const struct ovm_image *image, const char *path,
		    struct ovm_import *met, struct ovm_profile **out)
{
	char *text;
	size_t len;
	int err = ovm_text_load(ctx, path, &text, &len);
	if (err)
		return err;
	err = ovm_preagg_parse(ctx, image, text, len, path, met, out);
	free(text);
	return err;
}

/* --- printing --- */

struct writer {
	FILE *to;
	const char *id, *colon; /* "" without */
	uint64_t n;
};

/* BOLT's counts have a sign. */
static uint64_t signed_count(uint64_t count)
{
	return count < INT64_MAX ? count : INT64_MAX;
}

static void put_pair(struct writer *w, char kind, ovm_va from, ovm_va to)
{
	fprintf(w->to, "%c %s%s%" PRIx64 " %s%s%" PRIx64, kind, w->id, w->colon, from.v, w->id,
		w->colon, to.v);
	w->n++;
}

static void put_branch(struct writer *w, ovm_va from, ovm_va to, uint64_t count, uint64_t mispreds)
{
	put_pair(w, 'B', from, to);
	fprintf(w->to, " %" PRIu64 " %" PRIu64 "\n", signed_count(count), signed_count(mispreds));
}

static void put_range(struct writer *w, ovm_va from, ovm_va to, uint64_t count)
{
	put_pair(w, 'F', from, to);
	fprintf(w->to, " %" PRIu64 "\n", signed_count(count));
}

static void put_edges(struct writer *w, const struct ovm_prof_module *m, struct ovm_decoder *dec,
		      const struct ovm_image *image)
{
	for (uint32_t i = 0; i < m->edges.n; i++) {
		const struct ovm_prof_edge *e = &m->edges.v[i];
		if (e->from.v && ovm_bolt_is_fall(dec, image, e->from, e->to))
			put_range(w, e->from, e->to, e->count);
		else
			put_branch(w, e->from, e->to, e->count, 0);
	}
}

uint64_t ovm_preagg_print(const struct ovm_prof_module *m, const char *event, bool with_id,
			  struct ovm_decoder *dec, const struct ovm_image *image, FILE *to)
{
	struct writer w = {to, with_id ? m->id : "", with_id ? ":" : "", 0};
	bool has_flow = m->edges.n || m->branches.n || m->ranges.n;
	OVM_ASSERT(!m->edges.n || (dec && image));
	if (m->edges.n) {
		put_edges(&w, m, dec, image);
		return w.n;
	}
	for (uint32_t i = 0; i < m->branches.n; i++)
		put_branch(&w, m->branches.v[i].from, m->branches.v[i].to, m->branches.v[i].count,
			   m->branches.v[i].mispreds);
	for (uint32_t i = 0; i < m->ranges.n; i++)
		put_range(&w, m->ranges.v[i].from, m->ranges.v[i].to, m->ranges.v[i].count);
	if (!has_flow && m->samples.n && event && *event && !strpbrk(event, " \n"))
		fprintf(to, "E %s\n", event);
	for (uint32_t i = 0; i < m->samples.n && !has_flow; i++) {
		fprintf(to, "S %s%s%" PRIx64 " %" PRIu64 "\n", w.id, w.colon, m->samples.v[i].va.v,
			signed_count(m->samples.v[i].count));
		w.n++;
	}
	return w.n;
}
