#ifndef OVM_FIELDS_H
#define OVM_FIELDS_H
/* Fields of a line of a foreign text format: words and numbers parted by
 * spaces. The first thing that is wrong stays in `bad`; reading on is harmless.
 */
#include "base/err.h"

#include <stddef.h>

struct ovm_fields {
	const char *p, *end; /* the rest of the line */
	const char *bad;     /* what is wrong, NULL if nothing is */
};

struct ovm_lines { /* the lines of a text; every line must end in a newline */
	const char *p, *end;
	uint64_t n; /* lines taken, so the number of the last one */
};

/* What an import met, for the one message that tells of it. */
struct ovm_import {
	uint64_t n_records;
	uint64_t n_unknown; /* left out: name or address not in the file */
	bool is_bolted;	    /* fdata: taken from a file that BOLT had rewritten */
};

/* The next line without its newline. False at the end, or if the last line has
 * none (then p != end). */
bool ovm_lines_next(struct ovm_lines *lines, struct ovm_fields *out);

/* The next word, up to a space; with @escapes a backslash takes the next
 * character as it is. */
void ovm_field_word(struct ovm_fields *f, bool escapes, const char **word, size_t *len);
uint64_t ovm_field_hex(struct ovm_fields *f);	/* no 0x; either case */
uint64_t ovm_field_count(struct ovm_fields *f); /* decimal; a minus sign is told as such */
void ovm_field_end(struct ovm_fields *f);	/* nothing but spaces may be left */

/* @len characters as a hexadecimal number without 0x. */
bool ovm_text_hex(const char *text, size_t len, uint64_t *out);

/* The whole file @path, NUL behind it; caller frees. OVM_E_IO, OVM_E_PERM,
 * OVM_E_FORMAT (over 4 GiB). */
int ovm_text_load(struct ovm_ctx *ctx, const char *path, char **text, size_t *len);

#endif
