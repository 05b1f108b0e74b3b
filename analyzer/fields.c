/* Reading lines of words and numbers that other tools wrote. */
#include "analyzer/fields.h"
#include "base/vec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_READ = 64 << 10 };
static const size_t max_text = (size_t)4 << 30;

bool ovm_lines_next(struct ovm_lines *lines, struct ovm_fields *out)
{
	const char *nl =
	    lines->p == lines->end ? NULL : memchr(lines->p, '\n', (size_t)(lines->end - lines->p));
	if (!nl)
		return false;
	*out = (struct ovm_fields){lines->p, nl, NULL};
	lines->p = nl + 1;
	lines->n++;
	return true;
}

static void set_bad(struct ovm_fields *f, const char *what)
{
	if (!f->bad)
		f->bad = what;
}

static void skip_spaces(struct ovm_fields *f)
{
	while (f->p < f->end && *f->p == ' ')
		f->p++;
}

void ovm_field_word(struct ovm_fields *f, bool escapes, const char **word, size_t *len)
{
	skip_spaces(f);
	*word = f->p;
	for (; f->p < f->end && *f->p != ' '; f->p++) {
		if (*f->p != '\\' || !escapes)
			continue;
		if (f->p + 1 == f->end)
			set_bad(f, "a backslash ends the line");
		else
			f->p++;
	}
	*len = (size_t)(f->p - *word);
	if (!*len)
		set_bad(f, "too few fields");
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool ovm_text_hex(const char *text, size_t len, uint64_t *out)
{
	uint64_t x = 0;
	for (size_t i = 0; i < len; i++) {
		int digit = hex_digit(text[i]);
		if (digit < 0 || x >> 60)
			return false;
		x = x << 4 | (unsigned)digit;
	}
	*out = x;
	return len > 0;
}

uint64_t ovm_field_hex(struct ovm_fields *f)
{
	const char *word;
	size_t len;
	uint64_t x = 0;
	ovm_field_word(f, false, &word, &len);
	if (!ovm_text_hex(word, len, &x))
		set_bad(f, "not a hexadecimal number");
	return x;
}

uint64_t ovm_field_count(struct ovm_fields *f)
{
	const char *word;
	size_t len;
	uint64_t x = 0;
	ovm_field_word(f, false, &word, &len);
	if (len > 1 && word[0] == '-')
		set_bad(f, "negative count");
	for (size_t i = 0; i < len; i++) {
		unsigned digit = (unsigned)word[i] - '0';
		if (digit > 9)
			set_bad(f, "not a count");
		else if (__builtin_mul_overflow(x, 10, &x) || __builtin_add_overflow(x, digit, &x))
			set_bad(f, "a count beyond 64 bits");
	}
	return x;
}

void ovm_field_end(struct ovm_fields *f)
{
	skip_spaces(f);
	if (f->p != f->end)
		set_bad(f, "too many fields");
}

static int read_all(struct ovm_ctx *ctx, int fd, const char *path, char **text, size_t *len)
{
	size_t cap = FIRST_READ, have = 0;
	char *buf = ovm_alloc(cap);
	for (;;) {
		ssize_t n = read(fd, buf + have, cap - have - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			*len = have;
			*text = buf;
			buf[have] = 0;
			if (!n)
				return 0;
			free(buf);
			return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot read", path);
		}
		have += (size_t)n;
		if (have > max_text) {
			free(buf);
			return ovm_fail(ctx, OVM_E_FORMAT, "%s: more than 4 GiB of text", path);
		}
		if (have + 1 == cap)
			buf = ovm_realloc_array(buf, cap *= 2, 1);
	}
}

int ovm_text_load(struct ovm_ctx *ctx, const char *path, char **text, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot open", path);
	int err = read_all(ctx, fd, path, text, len);
	close(fd);
	return err;
}
