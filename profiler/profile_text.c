/* The profile file: text that people and diff can read, that a machine reads at some 100 MB/s, and
 * that a hostile author cannot use against us.
 *
 *   optvm-profile 1
 *   event cpu-clock
 *   source perf_event
 *   frequency 2000
 *   samples 1042
 *   lost 0
 *   unmapped 3
 *   processes 1
 *   module 8b3f0c.. /usr/bin/prog          id, path
 *   r 401000 401180 9f2c66e01b2d4a55 main  region: lo, hi, hash of its code, name
 *   h 401000 1c 5a9d01f3770c2e64           block: lo, offset of its last instruction, hash
 *   s 401012 17                            sample: address, count
 *   b 401020 401000 12 1                   taken branch: from, to, count, mispredicted
 *   f 401000 401020 12                     straight run: first, last instruction, count
 *   e 401020 401000 9000                   exact edge: from, to, count
 *   end 14                                 number of lines before this one: a cut file is found
 *
 * Addresses and hashes are lower-case hex, counts decimal, fields parted by one space. In words a
 * backslash, a space and control characters are written \xHH; "-" stands for an absent word. Lists
 * are sorted by address, modules by id, so equal profiles are equal files. Anything else is an
 * error that names its line. Version 2 brought the h lines: a file that has some says 2, any other
 * says 1, as before, and both are read.
 *
 * Limit: 64 KiB a line. profile_io.c feeds the reader from files.
 */
#include "profiler/profile_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE = OVM_PROFILE_MAX_LINE };
static const char first_line[] = "optvm-profile 1", first_line_blocks[] = "optvm-profile 2";

/* --- words --- */

static bool is_plain(unsigned char c)
{
	return c > 0x20 && c != 0x7f && c != '\\';
}

static void put_word(FILE *to, const char *word)
{
	if (!word || !*word) {
		fputc('-', to);
		return;
	}
	if (!strcmp(word, "-")) {
		fputs("\\x2d", to);
		return;
	}
	for (const unsigned char *p = (const unsigned char *)word; *p; p++) {
		if (is_plain(*p))
			fputc(*p, to);
		else
			fprintf(to, "\\x%02x", *p);
	}
}

static int hex_digit(unsigned char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* --- one line, read from left to right --- */

struct line {
	const unsigned char *p, *end;
	bool bad;
};

static void skip_space(struct line *line)
{
	if (line->p < line->end && *line->p == ' ')
		line->p++;
	else
		line->bad = true;
}

static uint64_t get_hex(struct line *line)
{
	skip_space(line);
	const unsigned char *start = line->p;
	uint64_t x = 0;
	for (int digit; line->p < line->end && (digit = hex_digit(*line->p)) >= 0; line->p++) {
		if (x >> 60)
			line->bad = true;
		x = x << 4 | (unsigned)digit;
	}
	line->bad |= line->p == start;
	return x;
}

static uint64_t get_dec(struct line *line)
{
	skip_space(line);
	const unsigned char *start = line->p;
	uint64_t x = 0;
	for (; line->p < line->end && *line->p >= '0' && *line->p <= '9'; line->p++) {
		unsigned digit = *line->p - '0';
		if (x > (UINT64_MAX - digit) / 10)
			line->bad = true;
		x = x * 10 + digit;
	}
	line->bad |= line->p == start;
	return x;
}

/* One byte of an escaped word; 0 if malformed. */
static unsigned char get_char(struct line *line)
{
	unsigned char c = *line->p++;
	if (c != '\\')
		return is_plain(c) ? c : 0;
	if (line->end - line->p < 3 || line->p[0] != 'x')
		return 0;
	int hi = hex_digit(line->p[1]), lo = hex_digit(line->p[2]);
	line->p += 3;
	return hi < 0 || lo < 0 ? 0 : (unsigned char)(hi << 4 | lo);
}

/* The next word, unescaped; NULL if absent ("-") or malformed. Caller frees. */
static char *get_word(struct line *line)
{
	skip_space(line);
	const unsigned char *start = line->p;
	const unsigned char *stop =
	    line->bad ? NULL : memchr(start, ' ', (size_t)(line->end - start));
	stop = stop ? stop : line->end;
	if (line->bad || stop == start) {
		line->bad = true;
		return NULL;
	}
	if (stop == start + 1 && *start == '-') {
		line->p = stop;
		return NULL;
	}
	struct line word = {.p = start, .end = stop};
	char *text = ovm_alloc((size_t)(stop - start) + 1), *to = text;
	while (word.p < word.end) {
		unsigned char c = get_char(&word);
		line->bad |= !c;
		*to++ = (char)c;
	}
	line->p = stop;
	return text;
}

static void set_word(char **slot, struct line *line)
{
	char *word = get_word(line);
	free(*slot);
	*slot = word;
}

/* --- the reader --- */

static int fail_line(struct ovm_profile_reader *reader, const char *what)
{
	return ovm_fail(reader->ctx, OVM_E_FORMAT, "%s: line %" PRIu64 ": %s", reader->name,
			reader->n_lines + 1, what);
}

static void read_record(struct ovm_prof_module *m, char kind, struct line *line)
{
	ovm_va a = ovm_va_of(get_hex(line));
	if (kind == 's') {
		ovm_vec_push(&m->samples, (struct ovm_prof_sample){a, get_dec(line)});
		return;
	}
	ovm_va b = ovm_va_of(get_hex(line));
	if (kind == 'r') {
		uint64_t hash = get_hex(line);
		ovm_vec_push(&m->regions, (struct ovm_prof_region){a, b, hash, get_word(line)});
		return;
	}
	if (kind == 'h') {
		ovm_vec_push(&m->blocks, (struct ovm_prof_block){a, b.v, get_hex(line)});
		return;
	}
	uint64_t count = get_dec(line);
	if (kind == 'b')
		ovm_vec_push(&m->branches, (struct ovm_prof_branch){a, b, count, get_dec(line)});
	else if (kind == 'f')
		ovm_vec_push(&m->ranges, (struct ovm_prof_range){a, b, count});
	else
		ovm_vec_push(&m->edges, (struct ovm_prof_edge){a, b, count});
}

static void read_module(struct ovm_profile_reader *reader, struct line *line)
{
	struct ovm_prof_module module = {.id = get_word(line)};
	if (!module.id)
		line->bad = true;
	module.path = get_word(line);
	if (line->bad) {
		free(module.id);
		free(module.path);
		return;
	}
	ovm_vec_push(&reader->prof->modules, module);
	reader->module = &reader->prof->modules.v[reader->prof->modules.n - 1];
}

static bool is_word(const struct line *line, const char *word)
{
	size_t len = strlen(word);
	return (size_t)(line->end - line->p) > len && line->p[len] == ' ' &&
	       !memcmp(line->p, word, len);
}

/* A line that begins with a longer word. Returns false if the word is unknown here. */
static bool read_named(struct ovm_profile_reader *reader, struct line *line)
{
	struct ovm_profile *prof = reader->prof;
	const struct {
		const char *word;
		uint64_t *number;
		char **text;
	} header[] = {
	    {"event", NULL, &prof->event},	     {"source", NULL, &prof->source},
	    {"frequency", &prof->frequency, NULL},   {"samples", &prof->n_samples, NULL},
	    {"lost", &prof->n_lost, NULL},	     {"unmapped", &prof->n_unmapped, NULL},
	    {"processes", &prof->n_processes, NULL},
	};
	if (is_word(line, "module")) {
		line->p += strlen("module");
		read_module(reader, line);
		return true;
	}
	if (is_word(line, "end")) {
		line->p += strlen("end");
		line->bad |= get_dec(line) != reader->n_lines;
		reader->ended = true;
		return true;
	}
	for (size_t i = 0; i < sizeof(header) / sizeof(header[0]) && !reader->module; i++) {
		if (!is_word(line, header[i].word))
			continue;
		line->p += strlen(header[i].word);
		if (header[i].number)
			*header[i].number = get_dec(line);
		else
			set_word(header[i].text, line);
		return true;
	}
	return false;
}

static int read_line(struct ovm_profile_reader *reader, const char *text, size_t len)
{
	struct line line = {(const unsigned char *)text, (const unsigned char *)text + len, false};
	if (!reader->n_lines) {
		if (len != strlen(first_line) ||
		    (memcmp(text, first_line, len) && memcmp(text, first_line_blocks, len)))
			return ovm_fail(reader->ctx, OVM_E_FORMAT,
					"%s: not a profile: its first line is not \"%s\"",
					reader->name, first_line);
	} else if (reader->ended) {
		return fail_line(reader, "text after the end line");
	} else if (len > 1 && text[1] == ' ' && strchr("rhsbfe", text[0]) && text[0]) {
		if (!reader->module)
			return fail_line(reader, "a record before the first module");
		line.p++;
		read_record(reader->module, text[0], &line);
	} else if (!read_named(reader, &line)) {
		return fail_line(reader, "unknown kind of line");
	}
	if (reader->n_lines && reader->ended && line.bad)
		return fail_line(reader, "the end line counts other lines: the file is damaged");
	if (reader->n_lines && (line.bad || line.p != line.end))
		return fail_line(reader, "malformed line");
	reader->n_lines++;
	return 0;
}

int ovm_profile_reader_feed(struct ovm_profile_reader *reader, const char *text, size_t len,
			    size_t *used)
{
	size_t done = 0;
	for (const char *nl; done < len && (nl = memchr(text + done, '\n', len - done));) {
		size_t line_len = (size_t)(nl - (text + done));
		if (line_len > MAX_LINE)
			return fail_line(reader, "longer than 64 KiB");
		int err = read_line(reader, text + done, line_len);
		if (err)
			return err;
		done += line_len + 1;
	}
	if (len - done > MAX_LINE)
		return fail_line(reader, reader->n_lines ? "longer than 64 KiB" : "not a profile");
	*used = done;
	return 0;
}

int ovm_profile_reader_finish(struct ovm_profile_reader *reader, size_t rest,
			      struct ovm_profile **out)
{
	if (!reader->n_lines)
		return ovm_fail(reader->ctx, OVM_E_FORMAT,
				"%s: not a profile: its first line is not \"%s\"", reader->name,
				first_line);
	if (!reader->ended || rest)
		return ovm_fail(reader->ctx, OVM_E_FORMAT,
				"%s: a profile cut short after line %" PRIu64
				": it has no end line",
				reader->name, reader->n_lines);
	ovm_profile_normalize(reader->prof);
	*out = reader->prof;
	reader->prof = NULL;
	return 0;
}

void ovm_profile_reader_init(struct ovm_profile_reader *reader, struct ovm_ctx *ctx,
			     const char *name)
{
	*reader = (struct ovm_profile_reader){.ctx = ctx, .name = name, .prof = ovm_profile_new()};
}

void ovm_profile_reader_fini(struct ovm_profile_reader *reader)
{
	ovm_profile_free(reader->prof);
	reader->prof = NULL;
}

int ovm_profile_parse(struct ovm_ctx *ctx, const char *text, size_t len, const char *name,
		      struct ovm_profile **out)
{
	struct ovm_profile_reader reader;
	size_t used = 0;
	ovm_profile_reader_init(&reader, ctx, name);
	int err = ovm_profile_reader_feed(&reader, text, len, &used);
	if (!err)
		err = ovm_profile_reader_finish(&reader, len - used, out);
	ovm_profile_reader_fini(&reader);
	return err;
}

/* --- the writer --- */

struct text { /* one record line under construction */
	char v[128];
	unsigned n;
};

static void text_hex(struct text *text, uint64_t x)
{
	unsigned digits = x ? (67 - (unsigned)__builtin_clzll(x)) / 4 : 1;
	text->v[text->n++] = ' ';
	for (unsigned i = digits; i--; x >>= 4)
		text->v[text->n + i] = "0123456789abcdef"[x & 15];
	text->n += digits;
}

static void text_dec(struct text *text, uint64_t x)
{
	char digits[20];
	unsigned n = 0;
	do
		digits[n++] = (char)('0' + x % 10);
	while (x /= 10);
	text->v[text->n++] = ' ';
	while (n)
		text->v[text->n++] = digits[--n];
}

static void text_end(struct text *text, FILE *to)
{
	text->v[text->n++] = '\n';
	fwrite(text->v, 1, text->n, to);
}

static void print_edge(FILE *to, char kind, ovm_va from, ovm_va dest, uint64_t count)
{
	struct text text = {.v = {kind}, .n = 1};
	text_hex(&text, from.v);
	text_hex(&text, dest.v);
	text_dec(&text, count);
	text_end(&text, to);
}

static uint64_t print_module(const struct ovm_prof_module *m, FILE *to)
{
	fputs("module ", to);
	put_word(to, m->id);
	fputc(' ', to);
	put_word(to, m->path);
	fputc('\n', to);
	for (uint32_t i = 0; i < m->regions.n; i++) {
		const struct ovm_prof_region *r = &m->regions.v[i];
		fprintf(to, "r %" PRIx64 " %" PRIx64 " %" PRIx64 " ", r->lo.v, r->hi.v, r->hash);
		put_word(to, r->name);
		fputc('\n', to);
	}
	for (uint32_t i = 0; i < m->blocks.n; i++) {
		struct text text = {.v = {'h'}, .n = 1};
		text_hex(&text, m->blocks.v[i].lo.v);
		text_hex(&text, m->blocks.v[i].last);
		text_hex(&text, m->blocks.v[i].hash);
		text_end(&text, to);
	}
	for (uint32_t i = 0; i < m->samples.n; i++) {
		struct text text = {.v = {'s'}, .n = 1};
		text_hex(&text, m->samples.v[i].va.v);
		text_dec(&text, m->samples.v[i].count);
		text_end(&text, to);
	}
	for (uint32_t i = 0; i < m->branches.n; i++) {
		const struct ovm_prof_branch *b = &m->branches.v[i];
		struct text text = {.v = {'b'}, .n = 1};
		text_hex(&text, b->from.v);
		text_hex(&text, b->to.v);
		text_dec(&text, b->count);
		text_dec(&text, b->mispreds);
		text_end(&text, to);
	}
	for (uint32_t i = 0; i < m->ranges.n; i++)
		print_edge(to, 'f', m->ranges.v[i].from, m->ranges.v[i].to, m->ranges.v[i].count);
	for (uint32_t i = 0; i < m->edges.n; i++)
		print_edge(to, 'e', m->edges.v[i].from, m->edges.v[i].to, m->edges.v[i].count);
	return UINT64_C(1) + m->regions.n + m->blocks.n + m->samples.n + m->branches.n +
	       m->ranges.n + m->edges.n;
}

void ovm_profile_print(const struct ovm_profile *prof, FILE *to)
{
	uint64_t n_lines = 8;
	bool has_blocks = false;
	for (uint32_t i = 0; i < prof->modules.n; i++)
		has_blocks |= prof->modules.v[i].blocks.n > 0;
	fprintf(to, "%s\nevent ", has_blocks ? first_line_blocks : first_line);
	put_word(to, prof->event);
	fputs("\nsource ", to);
	put_word(to, prof->source);
	fprintf(to,
		"\nfrequency %" PRIu64 "\nsamples %" PRIu64 "\nlost %" PRIu64 "\nunmapped %" PRIu64
		"\nprocesses %" PRIu64 "\n",
		prof->frequency, prof->n_samples, prof->n_lost, prof->n_unmapped,
		prof->n_processes);
	for (uint32_t i = 0; i < prof->modules.n; i++)
		n_lines += print_module(&prof->modules.v[i], to);
	fprintf(to, "end %" PRIu64 "\n", n_lines);
}
