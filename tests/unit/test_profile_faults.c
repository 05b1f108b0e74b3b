/* profile_io.c when calls fail, are interrupted, or do only part of their work: this program's own
 * read, write and so on stand before those of the libraries. */
#include "base/fault.h"
#include "profiler/profile.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum call {
	READ,
	WRITE,
	DUP,
	FDOPEN,
	FSYNC,
	CLOSE,
	RENAME,
	FOPENCOOKIE,
	CSTREAM,
	COMPRESS,
	DSTREAM,
	DECOMPRESS,
	N_CALLS,
};

static struct {
	unsigned nth; /* this call fails, 0: none */
	int errnum;
	size_t most; /* bytes of one read or write, 0: no limit */
	unsigned n;  /* calls so far */
} plan[N_CALLS];

static void *find_next(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);
	OVM_ASSERT(f);
	return f;
}
#define NEXT(name) ((__typeof__(&name))find_next(#name))

static bool fails(enum call call)
{
	if (++plan[call].n != plan[call].nth)
		return false;
	errno = plan[call].errnum;
	return true;
}

static size_t most(enum call call, size_t len)
{
	return plan[call].most && plan[call].most < len ? plan[call].most : len;
}

ssize_t read(int fd, void *to, size_t len)
{
	return fails(READ) ? -1 : NEXT(read)(fd, to, most(READ, len));
}

ssize_t write(int fd, const void *from, size_t len)
{
	return fails(WRITE) ? -1 : NEXT(write)(fd, from, most(WRITE, len));
}

int dup(int fd)
{
	return fails(DUP) ? -1 : NEXT(dup)(fd);
}

FILE *fdopen(int fd, const char *mode)
{
	return fails(FDOPEN) ? NULL : NEXT(fdopen)(fd, mode);
}

int fsync(int fd)
{
	return fails(FSYNC) ? -1 : NEXT(fsync)(fd);
}

int close(int fd)
{
	int rc = NEXT(close)(fd);
	return fails(CLOSE) ? -1 : rc;
}

int rename(const char *from, const char *to)
{
	return fails(RENAME) ? -1 : NEXT(rename)(from, to);
}

FILE *fopencookie(void *cookie, const char *mode, cookie_io_functions_t functions)
{
	return fails(FOPENCOOKIE) ? NULL : NEXT(fopencookie)(cookie, mode, functions);
}

ZSTD_CStream *ZSTD_createCStream(void)
{
	return fails(CSTREAM) ? NULL : NEXT(ZSTD_createCStream)();
}

size_t ZSTD_compressStream2(ZSTD_CCtx *stream, ZSTD_outBuffer *out, ZSTD_inBuffer *in,
			    ZSTD_EndDirective end)
{
	if (fails(COMPRESS))
		return (size_t)-1;
	ZSTD_inBuffer part = *in;
	if (end == ZSTD_e_continue)
		part.size = in->pos + most(COMPRESS, in->size - in->pos);
	size_t left = NEXT(ZSTD_compressStream2)(stream, out, &part, end);
	in->pos = part.pos;
	return left;
}

ZSTD_DStream *ZSTD_createDStream(void)
{
	return fails(DSTREAM) ? NULL : NEXT(ZSTD_createDStream)();
}

size_t ZSTD_decompressStream(ZSTD_DStream *stream, ZSTD_outBuffer *out, ZSTD_inBuffer *in)
{
	if (!fails(DECOMPRESS))
		return NEXT(ZSTD_decompressStream)(stream, out, in);
	out->pos = (size_t)5 << 30; /* so much text has come */
	return 1;
}

/* --- fixture
 * ---------------------------------------------------------------------------------------------------
 */

static char folder[] = "/tmp/optvm-test-XXXXXX", plain[64], packed[64];
static struct ovm_profile *small, *large;
static struct ovm_ctx ctx;

static struct ovm_profile *make(uint32_t n)
{
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_module *module = ovm_profile_module(prof, "00ff", "/usr/bin/x");
	uint64_t x = 88172645463325252;
	for (uint32_t i = 0; i < n; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17; /* what zstd cannot make small */
		ovm_vec_push(&module->samples, (struct ovm_prof_sample){ovm_va_of(x), x * 3});
	}
	ovm_profile_normalize(prof);
	return prof;
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(folder))
		return -1;
	snprintf(plain, sizeof(plain), "%s/p", folder);
	snprintf(packed, sizeof(packed), "%s/p.zst", folder);
	small = make(3);
	large = make(50000);
	ovm_ctx_init(&ctx);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	ovm_profile_free(small);
	ovm_profile_free(large);
	unlink(plain);
	unlink(packed);
	return rmdir(folder); /* fails if a temporary was left behind */
}

static void reset(void)
{
	memset(plan, 0, sizeof(plan));
}

static void fail_at(enum call call, unsigned nth, int errnum)
{
	reset();
	plan[call].nth = nth;
	plan[call].errnum = errnum;
}

static void assert_loads(const char *path, const struct ovm_profile *want)
{
	struct ovm_profile *got;
	assert_int_equal(ovm_profile_load(&ctx, path, &got), 0);
	assert_int_equal(got->modules.v[0].samples.n, want->modules.v[0].samples.n);
	assert_memory_equal(got->modules.v[0].samples.v, want->modules.v[0].samples.v,
			    want->modules.v[0].samples.n * sizeof(struct ovm_prof_sample));
	ovm_profile_free(got);
}

/* --- tests
 * ---------------------------------------------------------------------------------------------------
 */

static void test_part_by_part(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		const char *path = i ? packed : plain;
		fail_at(WRITE, 2, EINTR);
		plan[WRITE].most = 7;
		assert_int_equal(ovm_profile_save(&ctx, small, path), 0);
		for (unsigned nth = 1; nth < 4; nth++) {
			fail_at(READ, nth, EINTR);
			plan[READ].most = 1;
			assert_loads(path, small);
		}
	}
	reset();
	plan[COMPRESS].most = 1000;
	assert_int_equal(ovm_profile_save(&ctx, large, packed), 0);
	assert_loads(packed, large);
}

static void test_reading_fails(void **state)
{
	struct ovm_profile *got = NULL;
	(void)state;
	reset();
	assert_int_equal(ovm_profile_save(&ctx, small, packed), 0);
	assert_int_equal(ovm_profile_save(&ctx, small, plain), 0);
	for (int i = 0; i < 2; i++)
		for (unsigned nth = 1; nth < 20; nth++) {
			fail_at(READ, nth, EIO);
			plan[READ].most = 3;
			assert_int_equal(ovm_profile_load(&ctx, i ? packed : plain, &got),
					 OVM_E_IO);
			assert_null(got);
		}
	fail_at(DSTREAM, 1, ENOMEM);
	assert_int_equal(ovm_profile_load(&ctx, packed, &got), OVM_E_NOMEM);
}

/* The file that was there stays, and nothing else does. */
static void expect_no_save(const struct ovm_profile *prof, const char *path, enum call call,
			   unsigned nth)
{
	fail_at(call, nth, EIO);
	assert_int_equal(ovm_profile_save(&ctx, prof, path), OVM_E_IO);
	assert_true(plan[call].n >= nth);
	reset();
	assert_loads(path, small);
}

static void test_writing_fails(void **state)
{
	(void)state;
	reset();
	assert_int_equal(ovm_profile_save(&ctx, small, packed), 0);
	assert_int_equal(ovm_profile_save(&ctx, small, plain), 0);
	expect_no_save(large, plain, DUP, 1);
	expect_no_save(large, plain, FDOPEN, 1);
	for (int i = 0; i < 2; i++) {
		expect_no_save(large, i ? packed : plain, FSYNC, 1);
		expect_no_save(large, i ? packed : plain, CLOSE, 1);
		expect_no_save(large, i ? packed : plain, RENAME, 1);
	}
	expect_no_save(large, packed, FOPENCOOKIE, 1);
	expect_no_save(large, packed, CSTREAM, 1);
	expect_no_save(large, packed, COMPRESS, 1);
	expect_no_save(small, packed, COMPRESS, 2);
	expect_no_save(large, packed, WRITE, 1);
	expect_no_save(large, packed, WRITE, 3);
	expect_no_save(small, packed, WRITE, 1);
}

/* The same as the fault points of a build for tests do it. Wishes stay: latest step first, and this
 * test last. */
static void test_fault_points(void **state)
{
	(void)state;
#ifdef OPTVM_FAULT_POINTS
	static const char *const points[] = {"save.rename", "save.fsync", "save.write",
					     "save.open"};
	reset();
	assert_int_equal(ovm_profile_save(&ctx, small, plain), 0);
	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		char spec[64];
		snprintf(spec, sizeof(spec), "%s#*:errno=ENOSPC", points[i]);
		assert_int_equal(ovm_fault_setup(&ctx, spec), 0);
		assert_int_equal(ovm_profile_save(&ctx, large, plain), OVM_E_IO);
		assert_non_null(strstr(ctx.msg, strerror(ENOSPC)));
		assert_loads(plain, small);
	}
#else
	skip();
#endif
}

static void test_damage(void **state)
{
	(void)state;
	struct ovm_profile *got = NULL;
	reset();
	assert_int_equal(ovm_profile_save(&ctx, large, packed), 0);
	FILE *file;
	for (long at = 6; at < 10000; at += 4994) { /* the head of a block, and text */
		file = fopen(packed, "r+");
		assert_non_null(file);
		assert_int_equal(fseek(file, at, SEEK_SET), 0);
		fputs("\xff\xff\xff\xff\xff\xff\xff", file);
		fclose(file);
		assert_int_equal(ovm_profile_load(&ctx, packed, &got), OVM_E_FORMAT);
		assert_int_equal(!strstr(ctx.msg, "zstd"), at > 6);
		assert_int_equal(ovm_profile_save(&ctx, large, packed), 0);
	}
	file = fopen(plain, "w");
	assert_non_null(file);
	fputs("optvm-profile 1\nnonsense 5\n", file);
	fclose(file);
	assert_int_equal(ovm_profile_load(&ctx, plain, &got), OVM_E_FORMAT);
	assert_null(got);
	fail_at(DECOMPRESS, 1, 0);
	assert_int_equal(ovm_profile_load(&ctx, packed, &got), OVM_E_FORMAT);
	assert_non_null(strstr(ctx.msg, "4 GiB"));
	fail_at(FSYNC, 1, EIO); /* the first failure is the one that is told */
	plan[CLOSE].nth = 1;
	plan[CLOSE].errnum = ENOSPC;
	assert_int_equal(ovm_profile_save(&ctx, small, packed), OVM_E_IO);
	assert_non_null(strstr(ctx.msg, strerror(EIO)));
	reset();
}

static void test_names(void **state)
{
	(void)state;
	struct ovm_profile *got;
	char path[80];
	reset();
	assert_int_equal(chdir(folder), 0);
	assert_int_equal(ovm_profile_save(&ctx, small, "p"), 0); /* shorter than the suffix */
	assert_loads("p", small);
	snprintf(path, sizeof(path), "%s/short", folder);
	for (size_t n = 0; n < 4; n++) { /* the beginning of a zstd frame, and less */
		FILE *file = fopen(path, "w");
		assert_non_null(file);
		fwrite("\x28\xb5\x2f\xfd", 1, n, file);
		fclose(file);
		assert_int_equal(ovm_profile_load(&ctx, path, &got), OVM_E_FORMAT);
	}
	unlink(path);
	assert_int_equal(chdir("/"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_part_by_part),  cmocka_unit_test(test_reading_fails),
	    cmocka_unit_test(test_writing_fails), cmocka_unit_test(test_names),
	    cmocka_unit_test(test_damage),	  cmocka_unit_test(test_fault_points),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
