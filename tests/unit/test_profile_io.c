/* profile_io.c: round trips, damage, hostile text, files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "profiler/profile.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char sample_text[] = "optvm-profile 1\n"
				  "event cpu-clock\n"
				  "source perf_event\n"
				  "frequency 2000\n"
				  "samples 1042\n"
				  "lost 1\n"
				  "unmapped 3\n"
				  "processes 2\n"
				  "module 00ff /usr/bin/a\\x20b\n"
				  "r 1000 1180 9f2c66e01b2d4a55 operator\\x20new(int)\n"
				  "r 1180 1200 0 -\n"
				  "s 1012 17\n"
				  "s ffffffffffffffff 18446744073709551615\n"
				  "b 1020 1000 12 1\n"
				  "f 1000 1020 12\n"
				  "e 1020 1000 9000\n"
				  "module 01 -\n"
				  "end 17\n";

static const char blocks_text[] = "optvm-profile 2\n"
				  "event -\n"
				  "source -\n"
				  "frequency 0\n"
				  "samples 0\n"
				  "lost 0\n"
				  "unmapped 0\n"
				  "processes 0\n"
				  "module 00ff a\n"
				  "r 1000 1180 9f2c66e01b2d4a55 main\n"
				  "h 1000 1c ffffffffffffffff\n"
				  "h ffffffffffffffff ffffffffffffffff 0\n"
				  "s 1012 17\n"
				  "end 13\n";

static char *print(const struct ovm_profile *prof)
{
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);
	assert_non_null(to);
	ovm_profile_print(prof, to);
	fclose(to);
	return text;
}

static int parse(const char *text, size_t len, char **printed, char *msg)
{
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	struct ovm_profile *prof = NULL;
	char *exact = malloc(len ? len : 1); /* no NUL behind it: sanitizers see overreads */
	memcpy(exact, text, len);
	int err = ovm_profile_parse(&ctx, exact, len, "in", &prof);
	free(exact);
	if (err)
		assert_null(prof);
	else if (printed)
		*printed = print(prof);
	if (err && msg)
		strcpy(msg, ctx.msg);
	ovm_profile_free(prof);
	return err;
}

static void assert_bad(const char *text, const char *expect)
{
	char msg[1024] = "";
	assert_int_equal(parse(text, strlen(text), NULL, msg), OVM_E_FORMAT);
	if (!strstr(msg, expect))
		fail_msg("message \"%s\" lacks \"%s\"", msg, expect);
}

static void test_round_trip(void **state)
{
	(void)state;
	char *printed = NULL;
	assert_int_equal(parse(sample_text, strlen(sample_text), &printed, NULL), 0);
	assert_string_equal(printed, sample_text);
	free(printed);
	assert_int_equal(parse(blocks_text, strlen(blocks_text), &printed, NULL), 0);
	assert_string_equal(printed, blocks_text);
	free(printed);
}

static void test_every_byte_in_a_name(void **state)
{
	(void)state;
	char all[256];
	for (int i = 0; i < 255; i++)
		all[i] = (char)(i + 1);
	all[255] = 0;
	const char *names[] = {all, "-", "\\x20", " ", "\n", "end 3"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct ovm_profile *prof = ovm_profile_new();
		struct ovm_prof_module *m = ovm_profile_module(prof, "id", names[i]);
		ovm_vec_push(&m->regions, (struct ovm_prof_region){ovm_va_of(1), ovm_va_of(2), 3,
								   ovm_strdup(names[i])});
		char *text = print(prof);
		struct ovm_ctx ctx;
		struct ovm_profile *back = NULL;
		assert_int_equal(ovm_profile_parse(&ctx, text, strlen(text), "in", &back), 0);
		assert_string_equal(back->modules.v[0].path, names[i]);
		assert_string_equal(back->modules.v[0].regions.v[0].name, names[i]);
		ovm_profile_free(back);
		ovm_profile_free(prof);
		free(text);
	}
}

/* No strict prefix of a profile is a profile. */
static void test_every_truncation(void **state)
{
	(void)state;
	for (size_t len = 0; len < strlen(sample_text); len++)
		assert_int_equal(parse(sample_text, len, NULL, NULL), OVM_E_FORMAT);
	for (size_t len = 0; len < strlen(blocks_text); len++)
		assert_int_equal(parse(blocks_text, len, NULL, NULL), OVM_E_FORMAT);
}

static void test_damage(void **state)
{
	(void)state;
#define HEAD "optvm-profile 1\nevent x\n"
	assert_bad("", "not a profile");
	assert_bad("optvm-profile 3\nend 1\n", "not a profile");
	assert_bad("\x7f"
		   "ELF",
		   "not a profile");
	assert_bad(HEAD, "cut short after line 2");
	assert_bad(HEAD "end 3\n", "line 3: the end line counts");
	assert_bad(HEAD "end 2\nend 3\n", "line 4: text after");
	assert_bad(HEAD "wibble 2\nend 3\n", "line 3: unknown kind");
	assert_bad(HEAD "\nend 3\n", "line 3: unknown kind");
	assert_bad(HEAD "s 1 1\nend 3\n", "line 3: a record before");
	assert_bad(HEAD "module a b\nsamples 3\nend 4\n", "line 4: unknown kind");
	assert_bad(HEAD "module - b\nend 3\n", "line 3: malformed");
	assert_bad(HEAD "module a\nend 3\n", "line 3: malformed");
	assert_bad(HEAD "module a b\ns 1\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\ns 1 1 \nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\ns  1 1\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\ns 0x1 1\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\ns A 1\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\ns 1 -1\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\ns 1 18446744073709551616\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\ns 10000000000000000 1\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\nh 1 1\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\nh 1 1 -\nend 4\n", "line 4: malformed");
	assert_bad(HEAD "module a b\\x00c\nend 3\n", "line 3: malformed");
	assert_bad(HEAD "module a b\\x\nend 3\n", "line 3: malformed");
	assert_bad(HEAD "module a b\tc\nend 3\n", "line 3: malformed");
	assert_bad(HEAD "module a b\\q20\nend 3\n", "line 3: malformed");
	char *lines = malloc(200000);
	memset(lines, 'x', 199999);
	lines[199999] = 0;
	assert_bad(lines, "not a profile");
	memcpy(lines, HEAD, strlen(HEAD));
	assert_bad(lines, "line 3: longer than");
	free(lines);
}

static void test_unsorted_input_is_folded(void **state)
{
	(void)state;
	char *printed = NULL;
	static const char text[] = "optvm-profile 1\nmodule b x\ns 2 1\ns 1 1\nmodule a y\ns 7 1\n"
				   "module b w\ns 2 4\nend 8\n";
	assert_int_equal(parse(text, strlen(text), &printed, NULL), 0);
	assert_non_null(strstr(printed, "module a y\ns 7 1\nmodule b w\ns 1 1\ns 2 5\nend 13\n"));
	free(printed);
}

static char folder[] = "/tmp/optvm-test-XXXXXX";

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	(void)state;
	return rmdir(folder); /* fails if a temporary was left behind */
}

static void file_round_trip(const char *name)
{
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	char *path = ovm_asprintf("%s/%s", folder, name);
	struct ovm_profile *prof = NULL, *back = NULL;
	assert_int_equal(ovm_profile_parse(&ctx, sample_text, strlen(sample_text), "in", &prof), 0);
	struct ovm_prof_module *m = ovm_profile_module(prof, "big", NULL);
	for (uint64_t i = 0; i < 200000; i++)
		ovm_vec_push(&m->samples, (struct ovm_prof_sample){ovm_va_of(i * 7919), i});
	ovm_profile_normalize(prof);
	assert_int_equal(ovm_profile_save(&ctx, prof, path), 0);
	assert_int_equal(ovm_profile_save(&ctx, prof, path), 0); /* again, over it */
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(ovm_profile_load(&ctx, path, &back), 0);
	char *a = print(prof), *b = print(back);
	assert_string_equal(a, b);
	free(a);
	free(b);
	ovm_profile_free(back);
	ovm_profile_free(prof);
	for (off_t len = st.st_size - 1; len > 0; len = len * 9 / 10 - 1) {
		assert_int_equal(truncate(path, len), 0);
		assert_int_equal(ovm_profile_load(&ctx, path, &back), OVM_E_FORMAT);
	}
	unlink(path);
	free(path);
}

static void test_plain_file(void **state)
{
	(void)state;
	file_round_trip("a.prof");
}

static void test_zstd_file(void **state)
{
	(void)state;
	file_round_trip("a.prof.zst");
}

static void test_no_file(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_profile *prof = ovm_profile_new(), *back = NULL;
	assert_int_equal(ovm_profile_load(&ctx, "/nonexistent/x", &back), OVM_E_IO);
	assert_int_equal(ovm_profile_load(&ctx, "/", &back), OVM_E_IO);
	assert_int_equal(ovm_profile_save(&ctx, prof, "/nonexistent/x"), OVM_E_IO);
	assert_int_equal(ovm_profile_save(&ctx, prof, "/tmp"), OVM_E_IO);
	assert_int_equal(ovm_profile_save(&ctx, prof, "/dev/full"), OVM_E_IO);
	assert_int_equal(ovm_profile_save(&ctx, prof, "/dev/null"), 0);
	struct stat st;
	assert_int_equal(stat("/dev/null", &st), 0);
	assert_true(S_ISCHR(st.st_mode)); /* written to, not replaced */
	ovm_profile_free(prof);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_every_byte_in_a_name),
	    cmocka_unit_test(test_every_truncation),
	    cmocka_unit_test(test_damage),
	    cmocka_unit_test(test_unsorted_input_is_folded),
	    cmocka_unit_test(test_plain_file),
	    cmocka_unit_test(test_zstd_file),
	    cmocka_unit_test(test_no_file),
	};
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
