#ifndef OVM_ERR_H
#define OVM_ERR_H
/* One convention for three kinds of "no".
 *
 *   failure   negative enum ovm_err, message made once by ovm_fail() where the facts are known
 *   refusal   OVM_REFUSED (positive), a normal result with a reason from analyzer/refuse.def
 *   bug       OVM_ASSERT(), kept in release builds
 *
 * Libraries never exit or print to stdout; only cli/ turns codes into exit status (ovm_exit_code).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ovm_err {
	OVM_OK = 0,
	OVM_REFUSED = 1,         /* normal: left alone, see the reason */
	OVM_E_USAGE = -1,        /* wrong words on the command line             -> exit 2 */
	OVM_E_FORMAT = -2,       /* malformed or unsupported input              -> exit 3 */
	OVM_E_MISMATCH = -3,     /* profile of another build, processed before  -> exit 3 */
	OVM_E_PERM = -4,         /* not permitted, message names the knob       -> exit 4 */
	OVM_E_UNAVAILABLE = -5,  /* machine or kernel cannot                    -> exit 4 */
	OVM_E_TARGET = -6,       /* target cannot be changed safely, untouched  -> exit 5 */
	OVM_E_GONE = -7,         /* target vanished                             -> exit 5 */
	OVM_E_IO = -8,           /* read, write, open                           -> exit 1; exit 3 for inputs is FORMAT */
	OVM_E_NOMEM = -9,        /* -> exit 70 */
	OVM_E_INTERNAL = -10,    /* -> exit 70 */
};

enum { OVM_MAX_REFUSALS = 64 }; /* room for the reasons of analyzer/refuse.def */

/* The one context, first parameter of everything. No other mutable globals (but the log levels). */
struct ovm_ctx {
	enum ovm_err err;                    /* last failure, OVM_OK if none */
	char msg[1024];                      /* its message, one line, no newline */
	uint64_t n_refused[OVM_MAX_REFUSALS]; /* regions refused, by reason */
	bool verbose;
	bool quiet;
};

void ovm_ctx_init(struct ovm_ctx *ctx);

/* Record failure @err with a printf-style message: what, its present value, what to type. Returns @err. */
int ovm_fail(struct ovm_ctx *ctx, enum ovm_err err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with ": strerror(errnum)" appended; EPERM and EACCES turn OVM_E_IO into OVM_E_PERM. */
int ovm_fail_errno(struct ovm_ctx *ctx, enum ovm_err err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Exit status for a subcommand that ended with @err (table in interfaces.md). */
int ovm_exit_code(enum ovm_err err);

/* What is done when the tool must end at once (out of memory, a bug): @last may see to others first
 * and not return. It must not allocate. NULL: nothing. */
void ovm_last_resort_set(void (*last)(void));
void ovm_last_resort(void);

_Noreturn void ovm_assert_fail(const char *expr, const char *file, int line);
#define OVM_ASSERT(cond) ((cond) ? (void)0 : ovm_assert_fail(#cond, __FILE__, __LINE__))

#endif
