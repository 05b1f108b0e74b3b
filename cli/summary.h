#ifndef OVM_SUMMARY_H
#define OVM_SUMMARY_H
/* What commands say to people: the one summary line on stderr, clean names, colour. */
#include "cli/options.h"

/* One line "optvm: ..." on stderr if that is a terminal or with -v, never with -q. */
void ovm_summary(const struct ovm_ctx *ctx, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* A warning on stderr unless -q. */
void ovm_warning(const struct ovm_ctx *ctx, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Put "@what: " before the message of failure @err. Returns @err. */
int ovm_fail_about(struct ovm_ctx *ctx, int err, const char *what);

/* "812 B", "1.3 MB". Returns @buf. */
const char *ovm_summary_bytes(uint64_t n, char *buf, size_t size);

double ovm_percent(uint64_t part, uint64_t whole); /* 0 if whole is 0 */

/* @text with control characters replaced by '?': names come from files. */
void ovm_put_clean(const char *text, FILE *to);

/* Escape sequences, all "" without colour. --color > NO_COLOR > CLICOLOR_FORCE > terminal. */
struct ovm_style {
	const char *bold, *good, *bad, *off;
};
int ovm_style_choose(struct ovm_ctx *ctx, const struct ovm_options *opts, FILE *to,
		     struct ovm_style *out);

#endif
