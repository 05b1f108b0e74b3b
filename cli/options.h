#ifndef OVM_OPTIONS_H
#define OVM_OPTIONS_H
/* Commands and options, from the one table options.def. */
#include "base/err.h"
#include "base/vec.h"

#include <stdio.h>

enum ovm_cmd {
#define CMD(id, name, operands, is_wrapper, summary, examples) OVM_CMD_##id,
#include "cli/options.def"
	OVM_N_CMDS
};

enum ovm_opt {
#define OPT(id, letter, name, argument, commands, help) OVM_OPT_##id,
#include "cli/options.def"
	OVM_N_OPTS
};

/* A parsed command line. Strings are borrowed from argv. */
struct ovm_options {
	enum ovm_cmd cmd;
	const char
	    *value[OVM_N_OPTS]; /* argument (the last given); "" for a flag; NULL: not given */
	OVM_VEC(const char *) profiles; /* every -p PROF, in order */
	char **words;			/* operands, ended by NULL */
	int n_words;
};

/* Parse the words after "optvm", @argv[0] being the command's name. On OVM_E_USAGE the message is
 * in @ctx. Caller frees with ovm_options_fini in any case. */
int ovm_options_parse(struct ovm_ctx *ctx, int argc, char **argv, struct ovm_options *out);
void ovm_options_fini(struct ovm_options *opts);

static inline bool ovm_option_given(const struct ovm_options *opts, enum ovm_opt opt)
{
	return opts->value[opt] != NULL;
}

/* The number given to @opt, @fallback if it was not given; outside [lo, hi] or no number:
 * OVM_E_USAGE. */
int ovm_option_u64(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_opt opt,
		   uint64_t lo, uint64_t hi, uint64_t fallback, uint64_t *out);

/* The seconds given to @opt, 0 if it was not given; not a positive number: OVM_E_USAGE. */
int ovm_option_seconds(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_opt opt,
		       double *out);

enum ovm_when { OVM_WHEN_AUTO, OVM_WHEN_ON, OVM_WHEN_OFF };

/* auto, on or off given to @opt; auto if it was not given. Anything else: OVM_E_USAGE. */
int ovm_option_when(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_opt opt,
		    enum ovm_when *out);

/* "did you mean X?": the nearest of @n words within edit distance 2, else NULL. */
const char *ovm_nearest(const char *word, const char *const *words, size_t n);

/* The command called @name, or OVM_N_CMDS. */
enum ovm_cmd ovm_cmd_find(const char *name);
const char *ovm_cmd_name(enum ovm_cmd cmd);

/* help.c: the same table as text. */
void ovm_help_overview(FILE *to);
void ovm_help_command(enum ovm_cmd cmd, FILE *to);
void ovm_help_man(FILE *to);
void ovm_help_completion_bash(FILE *to);

/* The rows of the table, for help.c. */
struct ovm_cmd_row {
	const char *name, *operands, *summary, *examples;
	bool is_wrapper;
};
struct ovm_opt_row {
	const char *name, *argument, *help;
	uint32_t commands; /* bit 1 << enum ovm_cmd */
	char letter;	   /* 0 none */
};
extern const struct ovm_cmd_row ovm_cmd_rows[OVM_N_CMDS];
extern const struct ovm_opt_row ovm_opt_rows[OVM_N_OPTS];

#endif
