/* The option table as help, manual page and shell completion. --help fits 80 columns; examples come
 * first. */
#include "cli/passes.h"

#include <string.h>

enum { WIDTH = 79, HELP_COLUMN = 24 };

static bool takes(enum ovm_cmd cmd, int opt)
{
	return ovm_opt_rows[opt].commands & UINT32_C(1) << cmd;
}

static void print_lines(const char *text, const char *before, FILE *to)
{
	while (*text) {
		size_t len = strcspn(text, "\n");
		fprintf(to, "%s%.*s\n", before, (int)len, text);
		text += len + (text[len] == '\n');
	}
}

/* Words of @text from column @at on, lines broken before WIDTH and indented by HELP_COLUMN. */
static void print_wrapped(const char *text, size_t at, FILE *to)
{
	if (at >= HELP_COLUMN) {
		fputc('\n', to);
		at = 0;
	}
	fprintf(to, "%*s", (int)(HELP_COLUMN - at), "");
	for (at = HELP_COLUMN; *text;) {
		size_t len = strcspn(text, " ");
		if (at > HELP_COLUMN && at + 1 + len > WIDTH) {
			fprintf(to, "\n%*s", HELP_COLUMN, "");
			at = HELP_COLUMN;
		}
		at += (size_t)fprintf(to, "%s%.*s", at > HELP_COLUMN ? " " : "", (int)len, text);
		text += len + (text[len] == ' ');
	}
	fputc('\n', to);
}

static void print_option(const struct ovm_opt_row *row, FILE *to)
{
	int at = row->letter ? fprintf(to, "  -%c, --%s", row->letter, row->name)
			     : fprintf(to, "      --%s", row->name);
	if (row->argument)
		at += fprintf(to, " %s", row->argument);
	print_wrapped(row->help, (size_t)at + 1 > HELP_COLUMN ? HELP_COLUMN : (size_t)at, to);
}

void ovm_help_command(enum ovm_cmd cmd, FILE *to)
{
	const struct ovm_cmd_row *row = &ovm_cmd_rows[cmd];
	fputs("Examples:\n", to);
	print_lines(row->examples, "  ", to);
	fprintf(to, "\nUsage: optvm %s [OPTION]... %s\n\n%c%s.\n\nOptions:\n", row->name,
		row->operands, row->summary[0] - 'a' + 'A', row->summary + 1);
	for (int i = 0; i < OVM_N_OPTS; i++)
		if (takes(cmd, i))
			print_option(&ovm_opt_rows[i], to);
}

void ovm_help_overview(FILE *to)
{
	fputs("Examples:\n"
	      "  optvm run ./server                          optimize a program while it runs\n"
	      "  optvm record -o a.prof -- ./prog            sample a program\n"
	      "  optvm rewrite ./prog -p a.prof -o prog.new  write an optimized copy\n"
	      "\nUsage: optvm COMMAND [OPTION]... [ARG]...\n"
	      "\nOptimizes x86-64 Linux programs by their profile; needs no source, no symbols.\n"
	      "\nCommands:\n",
	      to);
	for (int i = 0; i < OVM_N_CMDS; i++)
		fprintf(to, "  %-9s %s\n", ovm_cmd_rows[i].name, ovm_cmd_rows[i].summary);
	fputs("\nPasses (--passes):\n", to);
	for (int i = 0; i < OVM_N_PASSES; i++)
		fprintf(to, "  %-9s %s%s\n", ovm_passes[i].name, ovm_passes[i].text,
			ovm_passes[i].is_default ? "" : " (off)");
	fputs("\n'optvm help COMMAND' explains a command, 'optvm --version' tells the version.\n"
	      "OPTVM=off in the environment makes 'run' start the program untouched.\n",
	      to);
}

/* --- manual page --- */

/* Text for troff: '-' and '\' escaped, no line begins with a control character. */
static void put_troff(const char *text, FILE *to)
{
	for (bool start = true; *text; text++) {
		if (start && (*text == '.' || *text == '\''))
			fputs("\\&", to);
		if (*text == '-' || *text == '\\')
			fputc('\\', to);
		fputc(*text, to);
		start = *text == '\n';
	}
}

static void man_option(const struct ovm_opt_row *row, FILE *to)
{
	fputs(".TP\n", to);
	if (row->letter)
		fprintf(to, "\\fB\\-%c\\fR, ", row->letter);
	fputs("\\fB\\-\\-", to);
	put_troff(row->name, to);
	fputs("\\fR", to);
	if (row->argument)
		fprintf(to, " \\fI%s\\fR", row->argument);
	fputc('\n', to);
	put_troff(row->help, to);
	fputs(".\n", to);
}

static void man_command(enum ovm_cmd cmd, FILE *to)
{
	const struct ovm_cmd_row *row = &ovm_cmd_rows[cmd];
	fprintf(to, ".SS optvm %s\n", row->name);
	fprintf(to, "\\fBoptvm %s\\fR [\\fIOPTION\\fR]... ", row->name);
	put_troff(row->operands, to);
	fputs("\n.PP\n", to);
	put_troff(row->summary, to);
	fputs(".\n.PP\n.nf\n", to);
	put_troff(row->examples, to);
	fputs("\n.fi\n", to);
	for (int i = 0; i < OVM_N_OPTS; i++)
		if (takes(cmd, i) && ovm_opt_rows[i].commands != UINT32_MAX)
			man_option(&ovm_opt_rows[i], to);
}

void ovm_help_man(FILE *to)
{
	fputs(".TH OPTVM 1\n"
	      ".SH NAME\noptvm \\- optimizes x86\\-64 Linux programs by their profile\n"
	      ".SH SYNOPSIS\n\\fBoptvm\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARG\\fR]...\n"
	      ".SH DESCRIPTION\n"
	      "Hot code is copied into an overlay with a better layout; the original code stays in "
	      "place and\n"
	      "valid. Input is any ELF64 x86\\-64 executable or shared library, stripped or not.\n"
	      ".SH COMMANDS\n",
	      to);
	for (int i = 0; i < OVM_N_CMDS; i++)
		man_command((enum ovm_cmd)i, to);
	fputs(".SH OPTIONS OF EVERY COMMAND\n", to);
	for (int i = 0; i < OVM_N_OPTS; i++)
		if (ovm_opt_rows[i].commands == UINT32_MAX)
			man_option(&ovm_opt_rows[i], to);
	fputs(".SH EXIT STATUS\n"
	      "\\fBrun\\fR and \\fBrecord\\fR end as the program did; 125: optvm failed before the "
	      "program\n"
	      "started, 126: not executable, 127: not found. Others: 0 done or yes, 1 no, 2 usage, "
	      "3 input\n"
	      "refused, 4 not permitted or not available, 5 target left as it was, 70 internal "
	      "error.\n"
	      ".SH ENVIRONMENT\n"
	      "\\fBOPTVM=off\\fR: \\fBrun\\fR starts the program untouched.\n.br\n"
	      "\\fBOPTVM_LOG\\fR: diagnostics by domain and level, such as warn,cfg=debug.\n.br\n"
	      "\\fBNO_COLOR\\fR, \\fBCLICOLOR_FORCE\\fR: colour of query results.\n",
	      to);
}

/* --- bash completion --- */

static void bash_words(enum ovm_cmd cmd, FILE *to)
{
	fprintf(to, "\t%s) words=\"", ovm_cmd_name(cmd));
	const char *gap = "";
	for (int i = 0; i < OVM_N_OPTS; i++) {
		if (!takes(cmd, i))
			continue;
		fprintf(to, "%s--%s", gap, ovm_opt_rows[i].name);
		gap = " ";
	}
	fputs("\" ;;\n", to);
}

void ovm_help_completion_bash(FILE *to)
{
	fputs("_optvm() {\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=\n"
	      "\tif ((COMP_CWORD == 1)); then\n"
	      "\t\tCOMPREPLY=($(compgen -W \"",
	      to);
	for (int i = 0; i < OVM_N_CMDS; i++)
		fprintf(to, "%s%s", i ? " " : "", ovm_cmd_name((enum ovm_cmd)i));
	fputs(" --help --version\" -- \"$cur\"))\n"
	      "\t\treturn\n"
	      "\tfi\n"
	      "\tcase ${COMP_WORDS[1]} in\n",
	      to);
	for (int i = 0; i < OVM_N_CMDS; i++)
		bash_words((enum ovm_cmd)i, to);
	fputs("\tesac\n"
	      "\tif [[ $cur == -* ]]; then\n"
	      "\t\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
	      "\tfi\n"
	      "}\n"
	      "complete -o default -o bashdefault -F _optvm optvm\n",
	      to);
}
