#ifndef OVM_LOG_H
#define OVM_LOG_H
/* Diagnostics on stderr (or --log-file), by domain and level: OVM_LOG=warn,cfg=debug,patch=trace.
 * A .c file names its domain once, before including this header:  #define OVM_LOG_DOMAIN "cfg"
 */
#include <stdbool.h>
#include <stdio.h>

enum ovm_log_level { OVM_LOG_ERROR, OVM_LOG_WARN, OVM_LOG_INFO, OVM_LOG_DEBUG, OVM_LOG_TRACE };

/* Reads a level list ("warn,cfg=debug"); unknown words are ignored. NULL keeps the default, warn. */
void ovm_log_setup(const char *spec);
void ovm_log_to(FILE *stream); /* borrowed until the end of the program */
bool ovm_log_on(const char *domain, enum ovm_log_level level);
void ovm_log_write(const char *domain, enum ovm_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), nonnull(3)));

#define ovm_log(level, ...)                                                                        \
	do {                                                                                       \
		if (ovm_log_on(OVM_LOG_DOMAIN, (level)))                                           \
			ovm_log_write(OVM_LOG_DOMAIN, (level), __VA_ARGS__);                       \
	} while (0)

#endif
