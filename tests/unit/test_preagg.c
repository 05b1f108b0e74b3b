/* preagg.c: every kind of record, build-ids, refusals, and back to text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analyzer/preagg.h"
#include "tests/support/sym_elf.h"

#include <inttypes.h>
#include <stdlib.h>

static struct {
	struct mini mini;
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct ovm_decoder *dec;
} it;

static int set_up(void **state)
{
	(void)state;
	ovm_ctx_init(&it.ctx);
	it.image = sym_elf_open(&it.mini);
	return ovm_decoder_open(&it.ctx, &it.dec);
}

static int tear_down(void **state)
{
	(void)state;
	ovm_decoder_close(it.dec);
	ovm_image_close(it.image);
	return 0;
}

static int parse(const struct ovm_image *image, const char *text, struct ovm_import *met,
		 struct ovm_profile **prof)
{
	size_t len = strlen(text);
	char *exact = malloc(len ? len : 1);
	memcpy(exact, text, len);
	int err = ovm_preagg_parse(&it.ctx, image, exact, len, "in", met, prof);
	free(exact);
	return err;
}

static char *print(const struct ovm_profile *prof, bool with_id)
{
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);
	for (uint32_t i = 0; i < prof->modules.n; i++)
		ovm_preagg_print(&prof->modules.v[i], prof->event, with_id, it.dec, it.image, to);
	fclose(to);
	return text;
}

static void test_flow(void **state)
{
	(void)state;
	struct ovm_import met;
	struct ovm_profile *prof;
	assert_int_equal(parse(it.image,
			       "B 400410 400400 90 7\n"
			       "B 7f0000001234 400400 3 1\n" /* from elsewhere */
			       "B 0 400400 2 0\n"
			       "B 7f0000001234 7f0000001238 5 0\n" /* not ours */
			       "F 400400 400410 80\n"
			       "f 400400 400410 10\n"
			       "r 400417 400417 1\n"
			       "F 400410 400400 4\n" /* backwards */
			       "T 40043f 400417 40043f 6\n"
			       "T 40043f 400417 ffffffffffffffff 2\n"
			       "R ffffffffffffffff 400417 40043f 1\n",
			       &met, &prof),
			 0);
	assert_int_equal(met.n_records, 11);
	assert_int_equal(met.n_unknown, 2);
	char *text = print(prof, false);
	assert_string_equal(text, "B 0 400400 5 1\n"
				  "B 400410 400400 90 7\n"
				  "B 40043f 400417 8 0\n"
				  "F 400400 400410 90\n"
				  "F 400417 400417 1\n"
				  "F 400417 40043f 7\n");
	free(text);
	ovm_profile_free(prof);
}

static void test_samples_of_two_files(void **state)
{
	(void)state;
	struct ovm_import met;
	struct ovm_profile *prof;
	static const char text[] = "E cycles\nS aa:10 4\nE cycles\nS bb:20 1\n";
	assert_int_equal(parse(NULL, text, &met, &prof), 0);
	assert_int_equal(prof->n_samples, 5);
	assert_string_equal(prof->event, "cycles");
	assert_int_equal(prof->modules.n, 2);
	char *again = print(prof, true);
	assert_string_equal(again, text);
	free(again);
	ovm_profile_free(prof);
}

/* A branch between files arrives in one as coming from outside. */
static void test_branch_between_files(void **state)
{
	(void)state;
	struct ovm_import met;
	struct ovm_profile *prof;
	assert_int_equal(parse(NULL, "B aa:10 bb:20 4 0\n", &met, &prof), 0);
	const struct ovm_prof_module *bb = ovm_profile_find(prof, "bb");
	assert_int_equal(bb->branches.n, 1);
	assert_int_equal(bb->branches.v[0].from.v, 0);
	ovm_profile_free(prof);
}

static void test_edges(void **state)
{
	(void)state;
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_module *m = ovm_profile_module(prof, it.image->id, NULL);
	ovm_va main_va = ovm_va_of(MINI_VA + SYM_TEXT), jne = ovm_va_add(main_va, 0x10);
	ovm_vec_push(&m->edges, (struct ovm_prof_edge){ovm_va_of(0), main_va, 10});
	ovm_vec_push(&m->edges, (struct ovm_prof_edge){jne, main_va, UINT64_MAX});
	ovm_vec_push(&m->edges, (struct ovm_prof_edge){jne, ovm_va_add(jne, 2), 9});
	char *text = print(prof, false);
	assert_string_equal(text, "B 0 400400 10 0\n"
				  "B 400410 400400 9223372036854775807 0\n"
				  "F 400410 400412 9\n");
	free(text);
	ovm_profile_free(prof);
}

static void assert_refused(const struct ovm_image *image, const char *text, enum ovm_err err,
			   const char *expect)
{
	struct ovm_import met;
	struct ovm_profile *prof = NULL;
	assert_int_equal(parse(image, text, &met, &prof), err);
	assert_null(prof);
	if (!strstr(it.ctx.msg, expect))
		fail_msg("message \"%s\" lacks \"%s\"", it.ctx.msg, expect);
}

static void test_refusals(void **state)
{
	(void)state;
	assert_refused(NULL, "", OVM_E_FORMAT, "without a single record");
	assert_refused(NULL, "B 1 2 3 4\n", OVM_E_USAGE, "--binary");
	assert_refused(NULL, "S aa:1 3", OVM_E_FORMAT, "line 1: has no end");
	assert_refused(NULL, "S aa:1 3\nQ aa:1 3\n", OVM_E_FORMAT, "line 2: not a record");
	assert_refused(NULL, "S aa:1 -3\n", OVM_E_FORMAT, "negative");
	assert_refused(NULL, "S aa:1 99999999999999999999\n", OVM_E_FORMAT, "64 bits");
	assert_refused(NULL, "S aa:xyz 3\n", OVM_E_FORMAT, "address");
	assert_refused(NULL, "S aa: 3\n", OVM_E_FORMAT, "address");
	assert_refused(NULL, "S :1 3\n", OVM_E_FORMAT, "build-id");
	assert_refused(NULL, "S a\001:1 3\n", OVM_E_FORMAT, "build-id");
	assert_refused(NULL, "B aa:1 aa:2 3\n", OVM_E_FORMAT, "too few");
	assert_refused(NULL, "F aa:1 aa:2 3 4\n", OVM_E_FORMAT, "too many");
	assert_refused(NULL, "T aa:1 aa:2 aa:3\n", OVM_E_FORMAT, "too few");
	assert_refused(NULL, "E\n", OVM_E_FORMAT, "too few");
	assert_refused(it.image, "S aa:1 3\n", OVM_E_MISMATCH, "build-id");
	assert_refused(it.image, "S 1 3\n", OVM_E_MISMATCH, "not one");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_flow),
	    cmocka_unit_test(test_samples_of_two_files),
	    cmocka_unit_test(test_branch_between_files),
	    cmocka_unit_test(test_edges),
	    cmocka_unit_test(test_refusals),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
