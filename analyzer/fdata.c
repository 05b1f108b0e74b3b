/* Reading fdata.
 *
 *   1 main 149 1 main 70 0 49800           the branch at main+0x149 went to
 * main+0x70 1 main 149 1 main 14f 0 200            ... and fell through: told
 * by decoding the branch 1 main 16c 1 work/1 0 0 200            a call 0
 * [unknown] 0 1 cmp 0 0 1682009        called from outside 4 main 8 5 table/1
 * 10 3                a memory access, ignored
 *
 * kind, name and offset, twice; mispredicted; count. Kind 0 is no symbol, 1 a
 * global, 2 a local one; BOLT itself writes 1 for both. With "no_lbr EVENT..."
 * first, a line is a place and a count of samples. "boltedcollection" says that
 * the places were translated back from a file that BOLT had made: branches then
 * stand at the start of their block and may not be found again. Spaces and
 * backslashes in names have a backslash before them. BOLT wants no_lbr before
 * boltedcollection; here they may come in either order.
 *
 * A name that is not in the file is ignored and counted: profiles outlive
 * builds.
 */
#include "analyzer/fdata.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { KIND_UNKNOWN = 0, KIND_LOCAL = 2, KIND_MEMORY = 3, KIND_LAST = 5 };

struct reader {
	struct ovm_ctx *ctx;
	const struct ovm_image *image;
	const struct ovm_bolt_names *names;
	struct ovm_decoder *dec;
	const char *file;
	struct ovm_profile *prof;
	struct ovm_prof_module *module;
	struct ovm_import met;
	uint64_t n_known; /* records of which nothing was unknown */
	bool no_lbr;
	char *name; /* the last one, unescaped */
	size_t name_cap;
};

struct place {
	unsigned kind;
	bool is_known; /* va is set */
	ovm_va va;
};

/* Into reader->name; false if no symbol can be called so. */
static bool unescape(struct reader *reader, const char *word, size_t len)
{
	char *to;
	if (len >= reader->name_cap) {
		reader->name_cap = len + 64;
		reader->name = ovm_realloc_array(reader->name, reader->name_cap, 1);
	}
	to = reader->name;
	for (size_t i = 0; i < len; i++) {
		if (word[i] == '\\' && i + 1 < len)
			i++;
		if (!word[i])
			return false;
		*to++ = word[i];
	}
	*to = 0;
	return true;
}

static struct place read_place(struct reader *reader, struct ovm_fields *f)
{
	const char *kind, *word;
	size_t kind_len, len;
	struct place place = {0};
	ovm_field_word(f, false, &kind, &kind_len);
	ovm_field_word(f, true, &word, &len);
	uint64_t off = ovm_field_hex(f);
	if (kind_len != 1 || *kind < '0' || *kind > '0' + KIND_LAST)
		f->bad = f->bad ? f->bad : "the kind of a place is not 0 to 5";
	if (f->bad)
		return place;
	place.kind = (unsigned)(*kind - '0');
	if (place.kind == KIND_UNKNOWN || place.kind >= KIND_MEMORY)
		return place;
	if (unescape(reader, word, len) && ovm_bolt_find(reader->names, reader->name, &place.va)) {
		place.va.v += off;
		place.is_known = ovm_image_code(reader->image, place.va, 1) != NULL;
	}
	return place;
}

static void keep_branch(struct reader *reader, struct place from, struct place to, uint64_t count,
			uint64_t mispreds)
{
	struct ovm_prof_module *m = reader->module;
	ovm_va src = from.is_known ? from.va : ovm_va_of(0);
	if (from.is_known && ovm_bolt_is_fall(reader->dec, reader->image, from.va, to.va))
		ovm_vec_push(&m->ranges, (struct ovm_prof_range){from.va, to.va, count});
	else
		ovm_vec_push(&m->branches, (struct ovm_prof_branch){src, to.va, count, mispreds});
}

static bool is_lost(struct place place)
{
	return place.kind != KIND_UNKNOWN && !place.is_known;
}

static void read_record(struct reader *reader, struct ovm_fields *f)
{
	struct place from = read_place(reader, f), to = {0};
	uint64_t mispreds = 0, count;
	bool is_memory = from.kind >= KIND_MEMORY;
	if (is_memory || !reader->no_lbr)
		to = read_place(reader, f);
	if (!f->bad && !reader->no_lbr && (to.kind >= KIND_MEMORY) != is_memory)
		f->bad = "code and memory places are mixed";
	if (!is_memory && !reader->no_lbr)
		mispreds = ovm_field_count(f);
	count = ovm_field_count(f);
	ovm_field_end(f);
	if (f->bad || is_memory)
		return;
	reader->met.n_records++;
	bool lost = is_lost(from) || is_lost(to);
	reader->met.n_unknown += lost;
	reader->n_known += !lost && (from.is_known || to.is_known);
	if (reader->no_lbr && from.is_known) {
		ovm_vec_push(&reader->module->samples, (struct ovm_prof_sample){from.va, count});
		if (__builtin_add_overflow(reader->prof->n_samples, count,
					   &reader->prof->n_samples))
			reader->prof->n_samples = UINT64_MAX;
	} else if (!reader->no_lbr && to.is_known) {
		keep_branch(reader, from, to, count, mispreds);
	}
}

static bool is_word(const struct ovm_fields *f, const char *word)
{
	size_t len = strlen(word), have = (size_t)(f->end - f->p);
	return have >= len && !memcmp(f->p, word, len) && (have == len || f->p[len] == ' ');
}

/* One of the first two lines. The first of several events is kept. */
static bool read_header(struct reader *reader, struct ovm_fields *f)
{
	const char *word;
	size_t len;
	if (!reader->met.is_bolted && is_word(f, "boltedcollection")) {
		reader->met.is_bolted = true;
		f->p += strlen("boltedcollection");
		ovm_field_end(f);
		return true;
	}
	if (reader->no_lbr || !is_word(f, "no_lbr"))
		return false;
	reader->no_lbr = true;
	f->p += strlen("no_lbr");
	while (f->p < f->end && *f->p == ' ')
		f->p++;
	if (f->p == f->end)
		return true;
	ovm_field_word(f, true, &word, &len);
	if (unescape(reader, word, len))
		reader->prof->event = ovm_strdup(reader->name);
	return true;
}

static int fail_at(const struct reader *reader, uint64_t line, const char *what)
{
	return ovm_fail(reader->ctx, OVM_E_FORMAT, "%s: line %" PRIu64 ": %s", reader->file, line,
			what);
}

static int read_lines(struct reader *reader, const char *text, size_t len)
{
	struct ovm_lines lines = {text, text + len, 0};
	struct ovm_fields f;
	bool in_header = true;
	while (ovm_lines_next(&lines, &f)) {
		in_header = in_header && read_header(reader, &f);
		if (!in_header)
			read_record(reader, &f);
		if (f.bad)
			return fail_at(reader, lines.n, f.bad);
	}
	if (lines.p != lines.end)
		return fail_at(reader, lines.n + 1, "has no end: the file is cut short");
	if (!reader->met.n_records)
		return ovm_fail(reader->ctx, OVM_E_FORMAT, "%s: fdata without a single record",
				reader->file);
	if (!reader->n_known)
		return ovm_fail(reader->ctx, OVM_E_MISMATCH,
				"%s: not one of its %" PRIu64
				" records names code of %s: a profile of another program?",
				reader->file, reader->met.n_records, reader->image->path);
	return 0;
}

int ovm_fdata_parse(struct ovm_ctx *ctx, const struct ovm_image *image,
		    const struct ovm_bolt_names *names, struct ovm_decoder *dec, const char *text,
		    size_t len, const char *name, struct ovm_import *met, struct ovm_profile **out)
{
	struct reader reader = {
	    .ctx = ctx, .image = image, .names = names, .dec = dec, .file = name};
	reader.prof = ovm_profile_new();
	reader.prof->source = ovm_strdup("import");
	reader.module = ovm_profile_module(reader.prof, image->id, image->path);
	int err = read_lines(&reader, text, len);
	free(reader.name);
	if (err) {
		ovm_profile_free(reader.prof);
		return err;
	}
	ovm_profile_normalize(reader.prof);
	*met = reader.met;
	*out = reader.prof;
	return 0;
}

int ovm_fdata_load(struct ovm_ctx *ctx, struct ovm_image *image, const char *path,
		   struct ovm_import *met, struct ovm_profile **out)
{
	struct ovm_ctx quiet; /* a file without FDEs still has symbols */
	struct ovm_regions regions = {0};
	struct ovm_bolt_names names;
	struct ovm_decoder *dec = NULL;
	char *text;
	size_t len;
	int err = ovm_text_load(ctx, path, &text, &len);
	if (err)
		return err;
	ovm_ctx_init(&quiet);
	ovm_regions_build(&quiet, image, &regions);
	ovm_bolt_names_build(image, &regions, &names);
	err = ovm_decoder_open(ctx, &dec);
	if (!err)
		err = ovm_fdata_parse(ctx, image, &names, dec, text, len, path, met, out);
	ovm_decoder_close(dec);
	ovm_bolt_names_free(&names);
	ovm_regions_free(&regions);
	free(text);
	return err;
}
