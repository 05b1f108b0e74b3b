/* Failure messages are made once, where the facts are known, and carried up in the context. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ovm_ctx_init(struct ovm_ctx *ctx)
{
	memset(ctx, 0, sizeof(*ctx));
}

int ovm_fail(struct ovm_ctx *ctx, enum ovm_err err, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(ctx->msg, sizeof(ctx->msg), fmt, ap);
	va_end(ap);
	ctx->err = err;
	return err;
}

int ovm_fail_errno(struct ovm_ctx *ctx, enum ovm_err err, int errnum, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(ctx->msg, sizeof(ctx->msg), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(ctx->msg))
		snprintf(ctx->msg + n, sizeof(ctx->msg) - (size_t)n, ": %s", strerror(errnum));
	if (err == OVM_E_IO && (errnum == EPERM || errnum == EACCES))
		err = OVM_E_PERM;
	ctx->err = err;
	return err;
}

int ovm_exit_code(enum ovm_err err)
{
	switch (err) {
	case OVM_OK:
		return 0;
	case OVM_REFUSED:
		return 1;
	case OVM_E_USAGE:
		return 2;
	case OVM_E_FORMAT:
	case OVM_E_MISMATCH:
		return 3;
	case OVM_E_PERM:
	case OVM_E_UNAVAILABLE:
		return 4;
	case OVM_E_TARGET:
	case OVM_E_GONE:
		return 5;
	case OVM_E_IO:
		return 1;
	case OVM_E_NOMEM:
	case OVM_E_INTERNAL:
		return 70;
	}
	return 70;
}

static void (*last_resort)(void); /* whoever runs out of memory has no context */

void ovm_last_resort_set(void (*last)(void))
{
	last_resort = last;
}

void ovm_last_resort(void)
{
	if (last_resort)
		last_resort();
}

void ovm_assert_fail(const char *expr, const char *file, int line)
{
	fprintf(stderr, "optvm: internal error: %s:%d: assertion failed: %s\n", file, line, expr);
	fflush(stderr);
	ovm_last_resort();
	abort();
}
