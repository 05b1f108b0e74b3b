/* optvm: dispatch, and the one place where failures become messages and exit statuses (table in
 * README). */
#include "base/fault.h"
#include "base/log.h"
#include "cli/commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef OPTVM_VERSION
#define OPTVM_VERSION "0.1.0"
#endif

static int cmd_help(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);

static int (*const commands[OVM_N_CMDS])(struct ovm_ctx *, const struct ovm_options *, int *) = {
    [OVM_CMD_ATTACH] = ovm_cmd_attach,	 [OVM_CMD_DETACH] = ovm_cmd_detach,
    [OVM_CMD_STATUS] = ovm_cmd_status,	 [OVM_CMD_SYMBOLS] = ovm_cmd_symbols,
    [OVM_CMD_RUN] = ovm_cmd_run,	 [OVM_CMD_RECORD] = ovm_cmd_record,
    [OVM_CMD_REWRITE] = ovm_cmd_rewrite, [OVM_CMD_MERGE] = ovm_cmd_merge,
    [OVM_CMD_CONVERT] = ovm_cmd_convert, [OVM_CMD_REPORT] = ovm_cmd_report,
    [OVM_CMD_DUMP] = ovm_cmd_dump,	 [OVM_CMD_DOCTOR] = ovm_cmd_doctor,
    [OVM_CMD_VERIFY] = ovm_cmd_verify,	 [OVM_CMD_STATS] = ovm_cmd_stats,
    [OVM_CMD_HELP] = cmd_help,
};

static int fail_command(struct ovm_ctx *ctx, const char *word)
{
	const char *names[OVM_N_CMDS];
	for (int i = 0; i < OVM_N_CMDS; i++)
		names[i] = ovm_cmd_name((enum ovm_cmd)i);
	const char *near = ovm_nearest(word, names, OVM_N_CMDS);
	if (near)
		return ovm_fail(ctx, OVM_E_USAGE, "unknown command '%s': did you mean '%s'?", word,
				near);
	return ovm_fail(ctx, OVM_E_USAGE, "unknown command '%s': see optvm --help", word);
}

static int cmd_help(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	const char *shell = opts->value[OVM_OPT_COMPLETION];
	if (shell && strcmp(shell, "bash"))
		return ovm_fail(ctx, OVM_E_USAGE, "help: completion is made for bash, not '%s'",
				shell);
	if (opts->n_words > 1)
		return ovm_fail(ctx, OVM_E_USAGE, "help: takes one command, not %d", opts->n_words);
	if (shell) {
		ovm_help_completion_bash(stdout);
	} else if (ovm_option_given(opts, OVM_OPT_MAN)) {
		ovm_help_man(stdout);
	} else if (!opts->n_words) {
		ovm_help_overview(stdout);
	} else {
		enum ovm_cmd cmd = ovm_cmd_find(opts->words[0]);
		if (cmd == OVM_N_CMDS)
			return fail_command(ctx, opts->words[0]);
		ovm_help_command(cmd, stdout);
	}
	return 0;
}

/* What -v, -q, --log-file and OVM_LOG ask for. */
static int set_up(struct ovm_ctx *ctx, const struct ovm_options *opts)
{
	const char *levels = getenv("OVM_LOG");
	/* around a program, -v is the summary line and no more */
	bool is_around = ovm_cmd_rows[opts->cmd].is_wrapper || opts->cmd == OVM_CMD_ATTACH ||
			 opts->cmd == OVM_CMD_DETACH;
	bool is_chatty = ovm_option_given(opts, OVM_OPT_VERBOSE) && !is_around;
	ctx->verbose = ovm_option_given(opts, OVM_OPT_VERBOSE);
	ctx->quiet = ovm_option_given(opts, OVM_OPT_QUIET);
	if (!levels || !*levels)
		levels = ctx->quiet ? "error" : is_chatty ? "info" : NULL;
	ovm_log_setup(levels);
	const char *path = opts->value[OVM_OPT_LOG_FILE];
	if (!path)
		return 0;
	FILE *to = fopen(path, "ae");
	if (!to)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot write", path);
	setvbuf(to, NULL, _IOLBF, 0);
	ovm_log_to(to); /* open until the end of the program */
	return 0;
}

/* Without memory before the program has started: a wrapper's own failure. profiler/launch.c takes
 * over when there is a program. */
static void fail_wrapper(void)
{
	_Exit(125);
}

static int run_command(struct ovm_ctx *ctx, int argc, char **argv, int *status)
{
#ifdef OPTVM_FAULT_POINTS
	const char *faults = getenv("OPTVM_FAULT");
	if (faults && !strcmp(faults, "list")) {
		ovm_fault_print(stdout);
		return 0;
	}
	int bad_fault = ovm_fault_setup(ctx, faults);
	if (bad_fault)
		return bad_fault;
#endif
	if (argc < 2)
		return ovm_fail(ctx, OVM_E_USAGE, "no command: see optvm --help");
	const char *word = argv[1];
	if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
		puts("optvm " OPTVM_VERSION);
		return 0;
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
		ovm_help_overview(stdout);
		return 0;
	}
	if (word[0] == '-')
		return ovm_fail(ctx, OVM_E_USAGE,
				"unknown option %s: options follow the command, see optvm --help",
				word);
	if (ovm_cmd_find(word) == OVM_N_CMDS)
		return fail_command(ctx, word);
	if (ovm_cmd_rows[ovm_cmd_find(word)].is_wrapper)
		ovm_last_resort_set(fail_wrapper);
	struct ovm_options opts;
	int err = ovm_options_parse(ctx, argc - 1, argv + 1, &opts);
	if (!err && ovm_option_given(&opts, OVM_OPT_HELP))
		ovm_help_command(opts.cmd, stdout);
	else if (!err && !(err = set_up(ctx, &opts)))
		err = commands[opts.cmd](ctx, &opts, status);
	ovm_options_fini(&opts);
	return err;
}

int main(int argc, char **argv)
{
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	int status = -1;
	int err = run_command(&ctx, argc, argv, &status);
	if (err && ctx.msg[0])
		fprintf(stderr, "optvm: %s\n", ctx.msg);
	bool bad = ferror(stdout);
	bad = (fflush(stdout) && errno != EBADF) ||
	      bad;			 /* a closed stdout is no error if nothing is said */
	if (bad && !err && status < 0) { /* else it is the program's */
		fputs("optvm: cannot write to standard output\n", stderr);
		return 1;
	}
	return status >= 0 ? status : ovm_exit_code((enum ovm_err)err);
}
