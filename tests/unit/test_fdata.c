/* fdata.c, fdata_write.c, boltnames.c: names as BOLT makes them, reading, refusing, writing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analyzer/fdata.h"
#include "tests/support/sym_elf.h"

#include <inttypes.h>
#include <stdlib.h>

static struct {
	struct mini mini;
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct ovm_regions regions;
	struct ovm_bolt_names names;
	struct ovm_decoder *dec;
} it;

static int set_up(void **state)
{
	(void)state;
	ovm_ctx_init(&it.ctx);
	it.image = sym_elf_open(&it.mini);
	assert_int_equal(ovm_regions_build(&it.ctx, it.image, &it.regions), 0);
	assert_int_equal(it.regions.v.n, 2);
	ovm_bolt_names_build(it.image, &it.regions, &it.names);
	return ovm_decoder_open(&it.ctx, &it.dec);
}

static int tear_down(void **state)
{
	(void)state;
	ovm_decoder_close(it.dec);
	ovm_bolt_names_free(&it.names);
	ovm_regions_free(&it.regions);
	ovm_image_close(it.image);
	return 0;
}

static ovm_va at(uint64_t off)
{
	return ovm_va_of(MINI_VA + SYM_TEXT + off);
}

static void assert_names(const char *name, uint64_t off)
{
	ovm_va va;
	assert_true(ovm_bolt_find(&it.names, name, &va));
	assert_int_equal(va.v, at(off).v);
}

static void test_names(void **state)
{
	(void)state;
	ovm_va va;
	assert_names("main", 0);
	assert_names("inner/1", 8);
	assert_names("work/1", 0x40);
	assert_names("work/2", 0x50);
	assert_names("work/p.c/1", 0x40);
	assert_names("work/q.c/1", 0x50);
	assert_names("a b\\c", 0x60);
	assert_names("__BOLT_FDE_FUNCat400480", 0x80);
	assert_names("__BOLT_FDE_FUNCat400400", 0); /* also named: accepted all the same */
	assert_false(ovm_bolt_find(&it.names, "work", &va));
	assert_false(ovm_bolt_find(&it.names, "work/3", &va));
	assert_false(ovm_bolt_find(&it.names, "", &va));
	assert_false(ovm_bolt_find(&it.names, "__BOLT_FDE_FUNCat", &va));
	assert_false(ovm_bolt_find(&it.names, "__BOLT_FDE_FUNCat400481", &va));
	assert_string_equal(ovm_bolt_func_at(&it.names, at(9))->name, "main");
	assert_string_equal(ovm_bolt_func_at(&it.names, at(0x5f))->name, "work/2");
	assert_null(ovm_bolt_func_at(&it.names, at(0x70))->name);
	assert_string_equal(ovm_bolt_func_at(&it.names, at(0x9f))->name, "__BOLT_FDE_FUNCat400480");
	assert_null(ovm_bolt_func_at(&it.names, at(0xa0)));
	assert_null(ovm_bolt_func_at(&it.names, ovm_va_of(0)));
}

static void test_falls(void **state)
{
	(void)state;
	assert_true(ovm_bolt_is_fall(it.dec, it.image, at(0x10), at(0x12)));   /* jne not taken */
	assert_false(ovm_bolt_is_fall(it.dec, it.image, at(0x10), at(0)));     /* taken */
	assert_false(ovm_bolt_is_fall(it.dec, it.image, at(0x12), at(0x40)));  /* call */
	assert_true(ovm_bolt_is_fall(it.dec, it.image, at(0x12), at(0x17)));   /* behind it */
	assert_false(ovm_bolt_is_fall(it.dec, it.image, at(0x17), at(0x19)));  /* jmp *%rax */
	assert_false(ovm_bolt_is_fall(it.dec, it.image, ovm_va_of(1), at(0))); /* no code */
}

static int parse(const char *text, struct ovm_import *met, struct ovm_profile **prof)
{
	size_t len = strlen(text);
	char *exact = malloc(len ? len : 1); /* no NUL behind it: sanitizers see overreads */
	memcpy(exact, text, len);
	int err =
	    ovm_fdata_parse(&it.ctx, it.image, &it.names, it.dec, exact, len, "in", met, prof);
	free(exact);
	return err;
}

static void test_branches(void **state)
{
	(void)state;
	struct ovm_import met;
	struct ovm_profile *prof;
	assert_int_equal(parse("1 main 10 1 main 0 7 90\n"
			       "1 main 10 1 main 12 0 10\n"
			       "1 main  12 2 work/p.c/1 0 0 10 \n"
			       "0 [unknown] 0 1 a\\ b\\\\c 0 0 3\n"
			       "1 main 17 0 [unknown] 0 0 1\n"
			       "4 main 1 5 table/1 10 3\n"
			       "1 gone 4 1 main 0 0 5\n"
			       "1 main 10 1 main fffff 0 5\n"
			       "1 main 10 1 main 0 1 18446744073709551615\n",
			       &met, &prof),
			 0);
	assert_int_equal(met.n_records, 8);
	assert_int_equal(met.n_unknown, 2);
	assert_false(met.is_bolted);
	assert_int_equal(prof->modules.n, 1);
	const struct ovm_prof_module *m = &prof->modules.v[0];
	assert_string_equal(m->id, it.image->id);
	assert_int_equal(m->branches.n, 4);
	assert_int_equal(m->branches.v[0].from.v, 0); /* from gone */
	assert_int_equal(m->branches.v[0].to.v, at(0).v);
	assert_int_equal(m->branches.v[1].to.v, at(0x60).v);
	assert_int_equal(m->branches.v[2].from.v, at(0x10).v);
	assert_true(m->branches.v[2].count == UINT64_MAX); /* saturated */
	assert_int_equal(m->branches.v[2].mispreds, 8);
	assert_int_equal(m->branches.v[3].to.v, at(0x40).v);
	assert_int_equal(m->ranges.n, 1);
	assert_int_equal(m->ranges.v[0].to.v, at(0x12).v);
	assert_int_equal(m->ranges.v[0].count, 10);
	ovm_profile_free(prof);
}

static void test_samples(void **state)
{
	(void)state;
	static const char *const heads[] = {"no_lbr cycles:u x\nboltedcollection\n",
					    "boltedcollection\nno_lbr cycles:u\n"};
	for (int i = 0; i < 2; i++) {
		struct ovm_import met;
		struct ovm_profile *prof;
		char text[200];
		snprintf(text, sizeof(text), "%s1 main 3 12\n1 gone 3 4\n2 work/2 0 1\n", heads[i]);
		assert_int_equal(parse(text, &met, &prof), 0);
		assert_true(met.is_bolted);
		assert_string_equal(prof->event, "cycles:u");
		assert_int_equal(prof->n_samples, 13);
		assert_int_equal(prof->modules.v[0].samples.n, 2);
		assert_int_equal(met.n_unknown, 1);
		ovm_profile_free(prof);
	}
}

static void assert_refused(const char *text, enum ovm_err err, const char *expect)
{
	struct ovm_import met;
	struct ovm_profile *prof = NULL;
	assert_int_equal(parse(text, &met, &prof), err);
	assert_null(prof);
	if (!strstr(it.ctx.msg, expect))
		fail_msg("message \"%s\" lacks \"%s\"", it.ctx.msg, expect);
}

static void test_refusals(void **state)
{
	(void)state;
	assert_refused("", OVM_E_FORMAT, "without a single record");
	assert_refused("no_lbr\n", OVM_E_FORMAT, "without a single record");
	assert_refused("1 main 0 1 main 0 0 1", OVM_E_FORMAT, "line 1: has no end");
	assert_refused("1 main 0 1 main 0 0 1\n1 main 0 1 main 0 0 -1\n", OVM_E_FORMAT,
		       "line 2: negative count");
	assert_refused("1 main 0 1 main 0 -2 1\n", OVM_E_FORMAT, "negative count");
	assert_refused("1 main 0 1 main 0 0 18446744073709551616\n", OVM_E_FORMAT, "64 bits");
	assert_refused("1 main 0 1 main 0 0 1x\n", OVM_E_FORMAT, "not a count");
	assert_refused("1 main 0 1 main 0 0\n", OVM_E_FORMAT, "too few");
	assert_refused("1 main 0 1 main 0 0 1 1\n", OVM_E_FORMAT, "too many");
	assert_refused("1 main 0x1 1 main 0 0 1\n", OVM_E_FORMAT, "hexadecimal");
	assert_refused("1 main 11112222333344445 1 main 0 0 1\n", OVM_E_FORMAT, "hexadecimal");
	assert_refused("7 main 0 1 main 0 0 1\n", OVM_E_FORMAT, "kind");
	assert_refused("1 main 0 4 main 0 0 1\n", OVM_E_FORMAT, "mixed");
	assert_refused("1 main\\\n", OVM_E_FORMAT, "backslash");
	assert_refused("\n", OVM_E_FORMAT, "too few");
	assert_refused("no_lbr\nno_lbr\n", OVM_E_FORMAT, "line 2");
	assert_refused("1 other 0 1 other 4 0 1\n", OVM_E_MISMATCH, "another program");
}

static char *print(const struct ovm_profile *prof, uint64_t *n_left_out)
{
	char *text = NULL;
	size_t len = 0;
	uint64_t n_printed;
	FILE *to = open_memstream(&text, &len);
	assert_int_equal(ovm_fdata_print(&it.ctx, it.image, &prof->modules.v[0], prof->event, to,
					 &n_printed, n_left_out),
			 0);
	fclose(to);
	return text;
}

static void test_print_samples(void **state)
{
	(void)state;
	uint64_t left;
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_module *m = ovm_profile_module(prof, it.image->id, NULL);
	prof->event = ovm_strdup("cpu-clock");
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){at(0x52), 4});
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){at(0x61), 1});
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){at(0x71), 2}); /* unspeakable name */
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){at(0x81), UINT64_MAX});
	ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(9), 2}); /* nowhere */
	char *text = print(prof, &left);
	assert_string_equal(text, "no_lbr cpu-clock cycles\n"
				  "1 work/2 2 4\n"
				  "1 a\\ b\\\\c 1 1\n"
				  "1 __BOLT_FDE_FUNCat400480 1 9223372036854775807\n");
	assert_int_equal(left, 2);
	free(text);
	ovm_profile_free(prof);
}

/* Exact: arrivals at main less the jump that has a line; the call has its block's count. */
static void test_print_edges(void **state)
{
	(void)state;
	uint64_t left;
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_module *m = ovm_profile_module(prof, it.image->id, NULL);
	ovm_vec_push(&m->edges, (struct ovm_prof_edge){ovm_va_of(0), at(0), 10});
	ovm_vec_push(&m->edges, (struct ovm_prof_edge){ovm_va_of(0), at(0x40), 12});
	ovm_vec_push(&m->edges, (struct ovm_prof_edge){at(0x10), at(0), 90});
	ovm_vec_push(&m->edges, (struct ovm_prof_edge){at(0x10), at(0x12), 10});
	ovm_vec_push(&m->branches, (struct ovm_prof_branch){at(0x10), at(0), 3, 3});
	ovm_profile_normalize(prof);
	char *text = print(prof, &left);
	assert_string_equal(text, "1 main 10 1 main 0 0 90\n"
				  "1 main 10 1 main 12 0 10\n"
				  "1 main 12 1 work/1 0 0 10\n"
				  "0 [unknown] 0 1 main 0 0 10\n"
				  "0 [unknown] 0 1 work/1 0 0 2\n");
	assert_int_equal(left, 0);
	free(text);
	ovm_profile_free(prof);
}

static void test_round_trip(void **state)
{
	(void)state;
	uint64_t left;
	struct ovm_import met;
	struct ovm_profile *prof;
	static const char text[] = "0 [unknown] 0 1 main 0 0 10\n"
				   "1 main 10 1 main 0 4 90\n"
				   "1 main 10 1 main 12 0 10\n"
				   "1 main 12 1 work/1 0 0 10\n"
				   "1 main 17 1 a\\ b\\\\c 0 2 10\n";
	assert_int_equal(parse(text, &met, &prof), 0);
	char *again = print(prof, &left);
	assert_string_equal(again, text);
	assert_int_equal(left, 0);
	free(again);
	ovm_profile_free(prof);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_names),	cmocka_unit_test(test_falls),
	    cmocka_unit_test(test_branches),	cmocka_unit_test(test_samples),
	    cmocka_unit_test(test_refusals),	cmocka_unit_test(test_print_samples),
	    cmocka_unit_test(test_print_edges), cmocka_unit_test(test_round_trip),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
