/* Reads a command line by the table of options.def.
 *
 *   optvm run -F 1000 ls -l         a wrapper: "ls" ends the options, -l is the program's
 *   optvm rewrite a.out -p x -o y   others: options and operands in any order, "--" ends the
 * options
 *
 * Each command has its own options; getopt_long gets only the rows of that command, so that -p is a
 * process for one command and a profile for another.
 */
#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct ovm_cmd_row ovm_cmd_rows[OVM_N_CMDS] = {
#define CMD(id, name, operands, is_wrapper, summary, examples)                                     \
	[OVM_CMD_##id] = {name, operands, summary, examples, is_wrapper},
#include "cli/options.def"
};

#define C(id) (UINT32_C(1) << OVM_CMD_##id)
#define ALL UINT32_MAX
const struct ovm_opt_row ovm_opt_rows[OVM_N_OPTS] = {
#define OPT(id, letter, name, argument, commands, help)                                            \
	[OVM_OPT_##id] = {name, argument, help, commands, letter},
#include "cli/options.def"
};

enum { LONG_BASE = 256, MAX_DISTANCE = 2, MAX_WORD = 32 };

const char *ovm_cmd_name(enum ovm_cmd cmd)
{
	return ovm_cmd_rows[cmd].name;
}

enum ovm_cmd ovm_cmd_find(const char *name)
{
	for (int i = 0; i < OVM_N_CMDS; i++)
		if (!strcmp(ovm_cmd_rows[i].name, name))
			return (enum ovm_cmd)i;
	return OVM_N_CMDS;
}

/* Levenshtein distance, one row at a time. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[MAX_WORD + 1];
	size_t la = strlen(a), lb = strlen(b);
	if (la > MAX_WORD || lb > MAX_WORD)
		return MAX_WORD;
	for (unsigned j = 0; j <= lb; j++)
		row[j] = j;
	for (unsigned i = 1; i <= la; i++) {
		unsigned diagonal = row[0];
		row[0] = i;
		for (unsigned j = 1; j <= lb; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			best = best < row[j] + 1 ? best : row[j] + 1;
			row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
		}
	}
	return row[lb];
}

const char *ovm_nearest(const char *word, const char *const *words, size_t n)
{
	const char *best = NULL;
	unsigned best_distance = MAX_DISTANCE + 1;
	for (size_t i = 0; i < n; i++) {
		unsigned d = distance(word, words[i]);
		if (d < best_distance && d < strlen(words[i])) {
			best = words[i];
			best_distance = d;
		}
	}
	return best;
}

/* What getopt_long needs for one command. */
struct grammar {
	char letters[2 * OVM_N_OPTS + 3];
	struct option longs[OVM_N_OPTS + 1];
	const char *names[OVM_N_OPTS];
	size_t n;
};

static void grammar_of(enum ovm_cmd cmd, struct grammar *g)
{
	char *p = g->letters;
	*p++ = ovm_cmd_rows[cmd].is_wrapper ? '+' : '-';
	*p++ = ':';
	g->n = 0;
	for (int i = 0; i < OVM_N_OPTS; i++) {
		const struct ovm_opt_row *row = &ovm_opt_rows[i];
		if (!(row->commands & UINT32_C(1) << cmd))
			continue;
		int has_arg = row->argument ? required_argument : no_argument;
		g->names[g->n] = row->name;
		g->longs[g->n++] = (struct option){row->name, has_arg, NULL, LONG_BASE + i};
		if (!row->letter)
			continue;
		*p++ = row->letter;
		if (row->argument)
			*p++ = ':';
	}
	*p = 0;
	g->longs[g->n] = (struct option){0};
}

static enum ovm_opt opt_by_letter(enum ovm_cmd cmd, int letter)
{
	for (int i = 0; i < OVM_N_OPTS; i++)
		if (ovm_opt_rows[i].letter == letter && ovm_opt_rows[i].commands & UINT32_C(1)
										       << cmd)
			return (enum ovm_opt)i;
	return OVM_N_OPTS;
}

static int fail_unknown(struct ovm_ctx *ctx, enum ovm_cmd cmd, const struct grammar *g,
			const char *word)
{
	const char *name = ovm_cmd_name(cmd);
	if (word[0] == '-' && word[1] == '-') {
		char stem[MAX_WORD + 1];
		snprintf(stem, sizeof(stem), "%.*s", (int)strcspn(word + 2, "="), word + 2);
		const char *near = ovm_nearest(stem, g->names, g->n);
		if (near)
			return ovm_fail(ctx, OVM_E_USAGE,
					"%s: unknown option %s: did you mean --%s?", name, word,
					near);
	}
	return ovm_fail(ctx, OVM_E_USAGE, "%s: unknown option %s: see optvm %s --help", name, word,
			name);
}

static void accept(struct ovm_options *out, int opt)
{
	out->value[opt] = ovm_opt_rows[opt].argument ? optarg : "";
	if (opt == OVM_OPT_PROFILE)
		ovm_vec_push(&out->profiles, optarg);
}

int ovm_options_parse(struct ovm_ctx *ctx, int argc, char **argv, struct ovm_options *out)
{
	memset(out, 0, sizeof(*out));
	out->cmd = ovm_cmd_find(argv[0]);
	OVM_ASSERT(out->cmd != OVM_N_CMDS);
	out->words = ovm_alloc_array((size_t)argc + 1, sizeof(*out->words));
	struct grammar g;
	grammar_of(out->cmd, &g);
	opterr = 0;
	optind = 0; /* a fresh start also for the second call in one process */
	for (;;) {
		int at = optind ? optind : 1;
		int c = getopt_long(argc, argv, g.letters, g.longs, NULL);
		if (c == -1)
			break;
		if (c == 1) { /* an operand between options */
			out->words[out->n_words++] = optarg;
			continue;
		}
		if (c == ':')
			return ovm_fail(ctx, OVM_E_USAGE, "%s: option %s needs an argument",
					argv[0], argv[optind - 1]);
		if (c == '?' && optopt >= LONG_BASE)
			return ovm_fail(ctx, OVM_E_USAGE, "%s: option --%s takes no argument",
					argv[0], ovm_opt_rows[optopt - LONG_BASE].name);
		if (c == '?' && optopt) {
			char word[] = {'-', (char)optopt, 0};
			return fail_unknown(ctx, out->cmd, &g, word);
		}
		if (c == '?')
			return fail_unknown(ctx, out->cmd, &g, argv[at]);
		accept(out, c >= LONG_BASE ? c - LONG_BASE : (int)opt_by_letter(out->cmd, c));
	}
	while (optind < argc)
		out->words[out->n_words++] = argv[optind++];
	return 0;
}

void ovm_options_fini(struct ovm_options *opts)
{
	ovm_vec_free(&opts->profiles);
	free(opts->words);
	opts->words = NULL;
	opts->n_words = 0;
}

int ovm_option_u64(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_opt opt,
		   uint64_t lo, uint64_t hi, uint64_t fallback, uint64_t *out)
{
	const char *text = opts->value[opt];
	if (!text) {
		*out = fallback;
		return 0;
	}
	char *end;
	errno = 0;
	unsigned long long x = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno || x < lo || x > hi)
		return ovm_fail(ctx, OVM_E_USAGE, "--%s: '%s' is not a number from %llu to %llu",
				ovm_opt_rows[opt].name, text, (unsigned long long)lo,
				(unsigned long long)hi);
	*out = x;
	return 0;
}

int ovm_option_seconds(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_opt opt,
		       double *out)
{
	const char *text = opts->value[opt];
	char *end;
	*out = text ? strtod(text, &end) : 0;
	if (text && (end == text || *end || !isfinite(*out) || *out <= 0))
		return ovm_fail(ctx, OVM_E_USAGE, "--%s: '%s' is not a number of seconds",
				ovm_opt_rows[opt].name, text);
	return 0;
}

int ovm_option_when(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_opt opt,
		    enum ovm_when *out)
{
	static const char *const names[] = {
	    [OVM_WHEN_AUTO] = "auto", [OVM_WHEN_ON] = "on", [OVM_WHEN_OFF] = "off"};
	const char *text = opts->value[opt] ? opts->value[opt] : "auto";
	for (int i = OVM_WHEN_AUTO; i <= OVM_WHEN_OFF; i++) {
		if (!strcmp(text, names[i])) {
			*out = (enum ovm_when)i;
			return 0;
		}
	}
	return ovm_fail(ctx, OVM_E_USAGE, "--%s: '%s' is not auto, on or off",
			ovm_opt_rows[opt].name, text);
}
