/* Levels by domain. The table is the one mutable global beside the context: it is set once at start. */
#include "base/log.h"

#include <stdarg.h>
#include <string.h>

enum { MAX_DOMAINS = 16 };

static struct {
	enum ovm_log_level all;
	struct {
		char name[16];
		enum ovm_log_level level;
	} domain[MAX_DOMAINS];
	int n_domains;
	FILE *to;
} config = {.all = OVM_LOG_WARN};

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};

static int level_of(const char *word, size_t len)
{
	for (int i = 0; i < 5; i++)
		if (strlen(level_names[i]) == len && !memcmp(word, level_names[i], len))
			return i;
	return -1;
}

static void setup_word(const char *word, size_t len)
{
	const char *eq = memchr(word, '=', len);
	if (!eq) {
		int level = level_of(word, len);
		if (level >= 0)
			config.all = (enum ovm_log_level)level;
		return;
	}
	size_t name_len = (size_t)(eq - word);
	int level = level_of(eq + 1, len - name_len - 1);
	if (level < 0 || name_len >= sizeof(config.domain[0].name) ||
	    config.n_domains == MAX_DOMAINS)
		return;
	memcpy(config.domain[config.n_domains].name, word, name_len);
	config.domain[config.n_domains].name[name_len] = 0;
	config.domain[config.n_domains++].level = (enum ovm_log_level)level;
}

void ovm_log_setup(const char *spec)
{
	while (spec && *spec) {
		size_t len = strcspn(spec, ",");
		setup_word(spec, len);
		spec += len + (spec[len] == ',');
	}
}

void ovm_log_to(FILE *stream)
{
	config.to = stream;
}

bool ovm_log_on(const char *domain, enum ovm_log_level level)
{
	for (int i = config.n_domains - 1; i >= 0; i--)
		if (!strcmp(config.domain[i].name, domain))
			return level <= config.domain[i].level;
	return level <= config.all;
}

void ovm_log_write(const char *domain, enum ovm_log_level level, const char *fmt, ...)
{
	FILE *to = config.to ? config.to : stderr;
	va_list ap;
	va_start(ap, fmt);
	fprintf(to, "optvm: %s: %s: ", level_names[level], domain);
	vfprintf(to, fmt, ap);
	fputc('\n', to);
	va_end(ap);
}
