/* options.c and help.c: parsing by the table, did-you-mean, help within 80 columns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/help.c"
#include "cli/options.c"
#include "cli/passes.c"

enum { MAX_WORDS = 16 };

static struct ovm_ctx ctx;

/* Parse the words up to NULL. */
static int parse(struct ovm_options *out, ...)
{
	static char *argv[MAX_WORDS];
	int argc = 0;
	va_list ap;
	va_start(ap, out);
	while ((argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	ovm_ctx_init(&ctx);
	return ovm_options_parse(&ctx, argc, argv, out);
}

static void assert_usage(struct ovm_options *opts, int err, const char *expect)
{
	assert_int_equal(err, OVM_E_USAGE);
	if (!strstr(ctx.msg, expect))
		fail_msg("message \"%s\" lacks \"%s\"", ctx.msg, expect);
	ovm_options_fini(opts);
}

static void test_wrapper_stops_at_the_program(void **state)
{
	(void)state;
	struct ovm_options o;
	assert_int_equal(parse(&o, "run", "-v", "-F", "99", "ls", "-l", "--help", NULL), 0);
	assert_int_equal(o.cmd, OVM_CMD_RUN);
	assert_non_null(o.value[OVM_OPT_VERBOSE]);
	assert_null(o.value[OVM_OPT_HELP]);
	assert_string_equal(o.value[OVM_OPT_FREQUENCY], "99");
	assert_int_equal(o.n_words, 3);
	assert_string_equal(o.words[0], "ls");
	assert_string_equal(o.words[2], "--help");
	assert_null(o.words[3]);
	ovm_options_fini(&o);
}

static void test_double_dash(void **state)
{
	(void)state;
	struct ovm_options o;
	assert_int_equal(parse(&o, "run", "--", "-strange", "--", "-v", NULL), 0);
	assert_int_equal(o.n_words, 3);
	assert_string_equal(o.words[0], "-strange");
	assert_string_equal(o.words[1], "--");
	assert_null(o.value[OVM_OPT_VERBOSE]);
	ovm_options_fini(&o);
	assert_int_equal(parse(&o, "merge", "a", "-o", "x", "--", "-o", NULL), 0);
	assert_int_equal(o.n_words, 2);
	assert_string_equal(o.words[1], "-o");
	assert_string_equal(o.value[OVM_OPT_OUTPUT], "x");
	ovm_options_fini(&o);
}

static void test_options_after_operands(void **state)
{
	(void)state;
	struct ovm_options o;
	assert_int_equal(
	    parse(&o, "rewrite", "in", "-p", "a", "-pb", "c", "--output=out", "-f", NULL), 0);
	assert_int_equal(o.n_words, 2);
	assert_string_equal(o.words[0], "in");
	assert_string_equal(o.words[1], "c");
	assert_int_equal(o.profiles.n, 2);
	assert_string_equal(o.profiles.v[0], "a");
	assert_string_equal(o.profiles.v[1], "b");
	assert_string_equal(o.value[OVM_OPT_OUTPUT], "out");
	assert_non_null(o.value[OVM_OPT_FORCE]);
	ovm_options_fini(&o);
}

static void test_letters_belong_to_commands(void **state)
{
	(void)state;
	struct ovm_options o;
	assert_int_equal(parse(&o, "record", "-p", "12", NULL), 0);
	assert_string_equal(o.value[OVM_OPT_PID], "12");
	assert_null(o.value[OVM_OPT_PROFILE]);
	assert_int_equal(o.profiles.n, 0);
	ovm_options_fini(&o);
	assert_int_equal(parse(&o, "dump", "--only", "main", "cfg", "a", NULL), 0);
	assert_string_equal(o.value[OVM_OPT_ONLY_REGION], "main");
	ovm_options_fini(&o);
}

static void test_empty(void **state)
{
	(void)state;
	struct ovm_options o;
	assert_int_equal(parse(&o, "run", NULL), 0);
	assert_int_equal(o.n_words, 0);
	assert_null(o.words[0]);
	ovm_options_fini(&o);
}

static void test_bad_options(void **state)
{
	(void)state;
	struct ovm_options o;
	assert_usage(&o, parse(&o, "report", "--jsn", "x", NULL), "--jsn: did you mean --json?");
	assert_usage(&o, parse(&o, "report", "x", "--utterly", NULL), "unknown option --utterly");
	assert_usage(&o, parse(&o, "report", "-Z", NULL), "unknown option -Z");
	assert_usage(&o, parse(&o, "report", "-vZ", NULL), "unknown option -Z");
	assert_usage(&o, parse(&o, "run", "-F", NULL), "-F needs an argument");
	assert_usage(&o, parse(&o, "run", "--frequency", NULL), "--frequency needs an argument");
	assert_usage(&o, parse(&o, "report", "--json=x", NULL), "--json takes no argument");
	assert_usage(&o, parse(&o, "report", "--uniform", NULL), "unknown option --uniform");
}

static uint32_t passes(const char *list)
{
	struct ovm_options o;
	uint32_t set = UINT32_MAX;
	assert_int_equal(parse(&o, "run", "--passes", list, NULL), 0);
	assert_int_equal(ovm_option_passes(&ctx, &o, &set), 0);
	ovm_options_fini(&o);
	return set;
}

static void test_passes(void **state)
{
	(void)state;
	static const char *const bad[] = {"icq",	"-",  "-all", "icp-",
					  "icp, worth", "ic", "icpp", ",,"};
	const uint32_t icp = 1u << OVM_PASS_ICP, worth = 1u << OVM_PASS_WORTH;
	struct ovm_options o;
	uint32_t set = 7;
	assert_int_equal(parse(&o, "run", NULL), 0);
	assert_int_equal(ovm_option_passes(&ctx, &o, &set), 0);
	assert_int_equal(set, ovm_passes_default());
	ovm_options_fini(&o);
	assert_int_equal(passes(""), ovm_passes_default());
	assert_int_equal(passes("all"), (1u << OVM_N_PASSES) - 1);
	assert_int_equal(passes("none"), 0);
	assert_int_equal(passes("none,icp,worth"), icp | worth);
	assert_int_equal(passes("none,+icp"), icp);
	assert_int_equal(passes("all,-icp"), ((1u << OVM_N_PASSES) - 1) & ~icp);
	assert_int_equal(passes("icp,-worth"), (ovm_passes_default() | icp) & ~worth);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set = 7;
		assert_int_equal(parse(&o, "run", "--passes", bad[i], NULL), 0);
		assert_int_equal(ovm_option_passes(&ctx, &o, &set), OVM_E_USAGE);
		assert_int_equal(set, 7);
		ovm_options_fini(&o);
	}
	assert_true(ovm_passes_layout(icp, OVM_ORDER_CDSORT).promote);
	assert_true(ovm_passes_layout(icp, OVM_ORDER_CDSORT).take_all);
	assert_int_equal(ovm_passes_layout(icp, OVM_ORDER_CDSORT).order, OVM_ORDER_ORIGINAL);
	assert_false(ovm_passes_layout(worth, OVM_ORDER_CDSORT).promote);
	assert_false(ovm_passes_layout(worth, OVM_ORDER_CDSORT).take_all);
}

static void test_numbers(void **state)
{
	(void)state;
	struct ovm_options o;
	uint64_t x = 7;
	static const char *const bad[] = {
	    "", "x", "-1", "+1", " 1", "1 ", "1k", "0", "101", "0x10", "99999999999999999999"};
	assert_int_equal(parse(&o, "run", NULL), 0);
	assert_int_equal(ovm_option_u64(&ctx, &o, OVM_OPT_FREQUENCY, 1, 100, 42, &x), 0);
	assert_int_equal(x, 42);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		o.value[OVM_OPT_FREQUENCY] = bad[i];
		assert_int_equal(ovm_option_u64(&ctx, &o, OVM_OPT_FREQUENCY, 1, 100, 42, &x),
				 OVM_E_USAGE);
		assert_int_equal(x, 42);
	}
	o.value[OVM_OPT_FREQUENCY] = "100";
	assert_int_equal(ovm_option_u64(&ctx, &o, OVM_OPT_FREQUENCY, 1, 100, 42, &x), 0);
	assert_int_equal(x, 100);
	ovm_options_fini(&o);
}

static void test_nearest(void **state)
{
	(void)state;
	static const char *const words[] = {"run", "record", "rewrite", "report"};
	assert_string_equal(ovm_nearest("reprot", words, 4), "report");
	assert_string_equal(ovm_nearest("recrod", words, 4), "record");
	assert_string_equal(ovm_nearest("rn", words, 4), "run");
	assert_null(ovm_nearest("", words, 4));
	assert_null(ovm_nearest("xyzzy", words, 4));
	assert_null(
	    ovm_nearest("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", words, 4));
	assert_null(ovm_nearest("run", words, 0));
}

static void assert_fits(const char *text)
{
	for (; *text; text += strcspn(text, "\n") + 1) {
		if (strcspn(text, "\n") >= 80)
			fail_msg("too long: %s", text ? text : "");
		if (!text[strcspn(text, "\n")])
			break;
	}
}

static void test_help_fits(void **state)
{
	(void)state;
	for (int cmd = -1; cmd < OVM_N_CMDS; cmd++) {
		char *text = NULL;
		size_t len = 0;
		FILE *to = open_memstream(&text, &len);
		if (cmd < 0)
			ovm_help_overview(to);
		else
			ovm_help_command((enum ovm_cmd)cmd, to);
		fclose(to);
		assert_int_equal(strncmp(text, "Examples:\n", 10), 0);
		assert_non_null(strstr(text, "Usage: optvm "));
		assert_fits(text);
		free(text);
	}
}

/* Within a command no two options share a letter or a name. */
static void test_table_is_unambiguous(void **state)
{
	(void)state;
	for (int i = 0; i < OVM_N_OPTS; i++) {
		for (int j = 0; j < i; j++) {
			const struct ovm_opt_row *a = &ovm_opt_rows[i], *b = &ovm_opt_rows[j];
			if (!(a->commands & b->commands))
				continue;
			assert_string_not_equal(a->name, b->name);
			assert_true(!a->letter || a->letter != b->letter);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_wrapper_stops_at_the_program),
	    cmocka_unit_test(test_double_dash),
	    cmocka_unit_test(test_options_after_operands),
	    cmocka_unit_test(test_letters_belong_to_commands),
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_bad_options),
	    cmocka_unit_test(test_passes),
	    cmocka_unit_test(test_numbers),
	    cmocka_unit_test(test_nearest),
	    cmocka_unit_test(test_help_fits),
	    cmocka_unit_test(test_table_is_unambiguous),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
