/* Text for people: summary lines, sizes, colour. stdout is for results, stderr for these. */
#include "cli/summary.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One write a line, so that it does not mix with what the program writes. */
static void print_line(const char *before, const char *fmt, va_list ap)
{
	char line[1024];
	int at = snprintf(line, sizeof(line), "optvm: %s", before);
	int n = vsnprintf(line + at, sizeof(line) - (size_t)at, fmt, ap);
	if (n >= 0)
		fprintf(stderr, "%s\n", line);
}

void ovm_summary(const struct ovm_ctx *ctx, const char *fmt, ...)
{
	if (ctx->quiet || (!ctx->verbose && !isatty(STDERR_FILENO)))
		return;
	va_list ap;
	va_start(ap, fmt);
	print_line("", fmt, ap);
	va_end(ap);
}

void ovm_warning(const struct ovm_ctx *ctx, const char *fmt, ...)
{
	if (ctx->quiet)
		return;
	va_list ap;
	va_start(ap, fmt);
	print_line("warning: ", fmt, ap);
	va_end(ap);
}

int ovm_fail_about(struct ovm_ctx *ctx, int err, const char *what)
{
	char msg[sizeof(ctx->msg)];
	memcpy(msg, ctx->msg, sizeof(msg));
	return ovm_fail(ctx, (enum ovm_err)err, "%.200s: %s", what, msg);
}

const char *ovm_summary_bytes(uint64_t n, char *buf, size_t size)
{
	static const char *const units[] = {"B", "kB", "MB", "GB"};
	double x = (double)n;
	int unit = 0;
	for (; x >= 1000 && unit < 3; unit++)
		x /= 1000;
	snprintf(buf, size, unit ? "%.1f %s" : "%.0f %s", x, units[unit]);
	return buf;
}

double ovm_percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

void ovm_put_clean(const char *text, FILE *to)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		fputc(c < 0x20 || c == 0x7f ? '?' : c, to);
	}
}

static bool is_set(const char *name)
{
	const char *value = getenv(name);
	return value && *value;
}

int ovm_style_choose(struct ovm_ctx *ctx, const struct ovm_options *opts, FILE *to,
		     struct ovm_style *out)
{
	const char *when = opts->value[OVM_OPT_COLOR];
	bool on = isatty(fileno(to));
	if (when && strcmp(when, "auto") && strcmp(when, "always") && strcmp(when, "never"))
		return ovm_fail(ctx, OVM_E_USAGE, "--color: '%s' is not auto, always or never",
				when);
	if (when && strcmp(when, "auto"))
		on = !strcmp(when, "always");
	else if (is_set("NO_COLOR"))
		on = false;
	else if (is_set("CLICOLOR_FORCE") && strcmp(getenv("CLICOLOR_FORCE"), "0"))
		on = true;
	*out = on ? (struct ovm_style){"\033[1m", "\033[32m", "\033[31m", "\033[0m"}
		  : (struct ovm_style){"", "", "", ""};
	return 0;
}
