/* record.c: each kind of record, every truncation of each, and random bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/vec.h"
#include "profiler/record.h"

#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

static const struct ovm_record_format USUAL = {
    .sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME, .sample_id_all = true};

/* Begin a record in @buf; end_record patches its size. */
static void begin_record(struct ovm_buf *buf, uint32_t type, uint16_t misc)
{
	buf->n = 0;
	ovm_buf_u32(buf, type);
	ovm_buf_u16(buf, misc);
	ovm_buf_u16(buf, 0);
}

static void end_record(struct ovm_buf *buf)
{
	ovm_buf_align(buf, 8, 0);
	buf->v[6] = (uint8_t)buf->n;
	buf->v[7] = (uint8_t)(buf->n >> 8);
}

static void put_sample_id(struct ovm_buf *buf, uint32_t pid, uint32_t tid, uint64_t time)
{
	ovm_buf_align(buf, 8, 0);
	ovm_buf_u32(buf, pid);
	ovm_buf_u32(buf, tid);
	ovm_buf_u64(buf, time);
}

/* Decode a heap copy of exactly @n bytes, so that AddressSanitizer sees any step beyond. */
static size_t decode(const struct ovm_record_format *format, const uint8_t *bytes, size_t n,
		     struct ovm_sample *out, uint8_t **copy)
{
	*copy = malloc(n ? n : 1);
	assert_non_null(*copy);
	memcpy(*copy, bytes, n);
	return ovm_record_decode(format, *copy, n, out);
}

static void expect_cut_refused(const struct ovm_record_format *format, const struct ovm_buf *buf)
{
	for (size_t n = 0; n < buf->n; n++) {
		struct ovm_sample out = {.ip = 77};
		uint8_t *copy;
		assert_int_equal(decode(format, buf->v, n, &out, &copy), 0);
		assert_int_equal(out.ip, 77);
		free(copy);
	}
}

static void test_sample(void **state)
{
	(void)state;
	struct ovm_buf buf = {0};
	struct ovm_sample out;
	begin_record(&buf, PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER);
	ovm_buf_u64(&buf, 0x401234);
	ovm_buf_u32(&buf, 7);
	ovm_buf_u32(&buf, 8);
	ovm_buf_u64(&buf, 999);
	end_record(&buf);
	assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), buf.n);
	assert_int_equal(out.kind, OVM_RECORD_SAMPLE);
	assert_true(out.is_user);
	assert_int_equal(out.ip, 0x401234);
	assert_int_equal(out.pid, 7);
	assert_int_equal(out.tid, 8);
	assert_int_equal(out.time, 999);
	assert_int_equal(out.period, 1);
	assert_int_equal(out.n_branches, 0);
	expect_cut_refused(&USUAL, &buf);
	ovm_buf_free(&buf);
}

static void test_branch_stack(void **state)
{
	(void)state;
	const struct ovm_record_format format = {
	    .sample_type = PERF_SAMPLE_IDENTIFIER | PERF_SAMPLE_IP | PERF_SAMPLE_PERIOD |
			   PERF_SAMPLE_CALLCHAIN | PERF_SAMPLE_RAW | PERF_SAMPLE_BRANCH_STACK,
	    .branch_sample_type = PERF_SAMPLE_BRANCH_HW_INDEX};
	struct ovm_buf buf = {0};
	struct ovm_sample out;
	begin_record(&buf, PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER);
	ovm_buf_u64(&buf, 1);	 /* identifier */
	ovm_buf_u64(&buf, 0x10); /* ip */
	ovm_buf_u64(&buf, 5000); /* period */
	ovm_buf_u64(&buf, 1);	 /* callchain of one */
	ovm_buf_u64(&buf, 0x10);
	ovm_buf_u32(&buf, 4); /* raw data, padded to 8 with its length */
	ovm_buf_u32(&buf, 0xabcd);
	size_t count_at = buf.n;
	ovm_buf_u64(&buf, 2);  /* branches */
	ovm_buf_u64(&buf, 31); /* hw_index */
	for (uint64_t i = 0; i < 2; i++) {
		ovm_buf_u64(&buf, 0x100 + i);
		ovm_buf_u64(&buf, 0x200 + i);
		ovm_buf_u64(&buf, i); /* the second was mispredicted */
	}
	end_record(&buf);
	assert_int_equal(ovm_record_decode(&format, buf.v, buf.n, &out), buf.n);
	assert_int_equal(out.period, 5000);
	assert_int_equal(out.n_branches, 2);
	assert_int_equal(ovm_record_branch(&out, 0).from, 0x100);
	assert_int_equal(ovm_record_branch(&out, 1).to, 0x201);
	assert_false(ovm_record_branch(&out, 0).mispredicted);
	assert_true(ovm_record_branch(&out, 1).mispredicted);
	expect_cut_refused(&format, &buf);

	const uint64_t bad[] = {3, UINT32_MAX, UINT64_MAX, 0x0aaaaaaaaaaaaaabull};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ovm_put64(buf.v + count_at, bad[i]);
		assert_int_equal(ovm_record_decode(&format, buf.v, buf.n, &out), 0);
	}
	ovm_put64(buf.v + count_at, 0); /* none: the rest is not looked at */
	assert_int_equal(ovm_record_decode(&format, buf.v, buf.n, &out), buf.n);
	assert_int_equal(out.n_branches, 0);
	ovm_buf_free(&buf);
}

/* Counter values lie before the branch stack: alone or as a group, with and without times. */
static void test_read_values(void **state)
{
	(void)state;
	struct ovm_record_format format = {
	    .sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_READ | PERF_SAMPLE_BRANCH_STACK,
	    .read_format = PERF_FORMAT_ID | PERF_FORMAT_TOTAL_TIME_ENABLED};
	struct ovm_buf buf = {0};
	struct ovm_sample out;
	for (uint32_t group = 0; group < 2; group++) {
		begin_record(&buf, PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER);
		ovm_buf_u64(&buf, 0x10);
		if (group)
			ovm_buf_u64(&buf, 2);
		ovm_buf_u64(&buf, 0x1111); /* time */
		for (uint32_t i = 0; i < 2 + 2 * group; i++)
			ovm_buf_u64(&buf, 0x2222); /* value, id */
		ovm_buf_u64(&buf, 1);
		ovm_buf_u64(&buf, 0x100);
		ovm_buf_u64(&buf, 0x200);
		ovm_buf_u64(&buf, 0);
		end_record(&buf);
		assert_int_equal(ovm_record_decode(&format, buf.v, buf.n, &out), buf.n);
		assert_int_equal(out.n_branches, 1);
		assert_int_equal(ovm_record_branch(&out, 0).to, 0x200);
		expect_cut_refused(&format, &buf);
		format.read_format |= PERF_FORMAT_GROUP;
	}
	ovm_put64(buf.v + 16, UINT64_MAX / 8); /* so many events */
	assert_int_equal(ovm_record_decode(&format, buf.v, buf.n, &out), 0);
	ovm_buf_free(&buf);
}

static void put_mmap2(struct ovm_buf *buf, uint16_t misc, const uint8_t id[24], uint32_t prot,
		      const char *path)
{
	begin_record(buf, PERF_RECORD_MMAP2, misc);
	ovm_buf_u32(buf, 7);
	ovm_buf_u32(buf, 7);
	ovm_buf_u64(buf, 0x7f0000001000);
	ovm_buf_u64(buf, 0x5000);
	ovm_buf_u64(buf, 0x3000);
	ovm_buf_put(buf, id, 24);
	ovm_buf_u32(buf, prot);
	ovm_buf_u32(buf, 2);
	ovm_buf_put(buf, path, strlen(path) + 1);
	put_sample_id(buf, 7, 7, 1234);
	end_record(buf);
}

static void test_mmap2(void **state)
{
	(void)state;
	struct ovm_buf buf = {0};
	struct ovm_sample out;
	uint8_t id[24] = {0};
	ovm_put32(id, 254);
	ovm_put32(id + 4, 1);
	ovm_put64(id + 8, 4242);
	put_mmap2(&buf, PERF_RECORD_MISC_USER, id, 5, "/usr/bin/xz");
	assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), buf.n);
	assert_int_equal(out.kind, OVM_RECORD_MMAP);
	assert_int_equal(out.dev, makedev(254, 1));
	assert_int_equal(out.inode, 4242);
	assert_int_equal(out.addr, 0x7f0000001000);
	assert_int_equal(out.len, 0x5000);
	assert_int_equal(out.file_offset, 0x3000);
	assert_int_equal(out.time, 1234);
	assert_true(out.is_exec);
	assert_null(out.build_id);
	assert_string_equal(out.path, "/usr/bin/xz");
	expect_cut_refused(&USUAL, &buf);

	memset(id, 0xee, sizeof(id));
	id[0] = 20;
	put_mmap2(&buf, PERF_RECORD_MISC_MMAP_BUILD_ID, id, 1, "/lib/x");
	assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), buf.n);
	assert_false(out.is_exec);
	assert_int_equal(out.build_id_len, 20);
	assert_int_equal(out.build_id[19], 0xee);
	assert_int_equal(out.inode, 0);
	const uint8_t bad[] = {0, 21, 255};
	for (size_t i = 0; i < sizeof(bad); i++) {
		id[0] = bad[i];
		put_mmap2(&buf, PERF_RECORD_MISC_MMAP_BUILD_ID, id, 1, "/lib/x");
		assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), 0);
	}
	ovm_buf_free(&buf);
}

static void test_path_without_end(void **state)
{
	(void)state;
	struct ovm_buf buf = {0};
	struct ovm_sample out;
	begin_record(&buf, PERF_RECORD_COMM, 0);
	ovm_buf_u32(&buf, 1);
	ovm_buf_u32(&buf, 1);
	ovm_buf_put(&buf, "abcdefgh", 8); /* no NUL */
	put_sample_id(&buf, 1, 1, 5);	  /* its zero bytes do not end the name */
	end_record(&buf);
	assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), 0);
	ovm_buf_free(&buf);
}

static void test_task_records(void **state)
{
	(void)state;
	struct ovm_buf buf = {0};
	struct ovm_sample out;
	begin_record(&buf, PERF_RECORD_FORK, 0);
	ovm_buf_u32(&buf, 9); /* pid */
	ovm_buf_u32(&buf, 7); /* ppid */
	ovm_buf_u32(&buf, 10);
	ovm_buf_u32(&buf, 8);
	ovm_buf_u64(&buf, 100);
	put_sample_id(&buf, 7, 8, 100);
	end_record(&buf);
	assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), buf.n);
	assert_int_equal(out.kind, OVM_RECORD_FORK);
	assert_int_equal(out.pid, 9);
	assert_int_equal(out.ppid, 7);
	assert_int_equal(out.tid, 10);
	assert_int_equal(out.ptid, 8);
	expect_cut_refused(&USUAL, &buf);

	begin_record(&buf, PERF_RECORD_COMM, PERF_RECORD_MISC_COMM_EXEC);
	ovm_buf_u32(&buf, 9);
	ovm_buf_u32(&buf, 9);
	ovm_buf_put(&buf, "xz", 3);
	put_sample_id(&buf, 9, 9, 101);
	end_record(&buf);
	assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), buf.n);
	assert_int_equal(out.kind, OVM_RECORD_COMM);
	assert_true(out.is_exec);
	assert_string_equal(out.path, "xz");

	begin_record(&buf, PERF_RECORD_LOST, 0);
	ovm_buf_u64(&buf, 1);
	ovm_buf_u64(&buf, 33);
	put_sample_id(&buf, 9, 9, 102);
	end_record(&buf);
	assert_int_equal(ovm_record_decode(&USUAL, buf.v, buf.n, &out), buf.n);
	assert_int_equal(out.kind, OVM_RECORD_LOST);
	assert_int_equal(out.n_lost, 33);
	ovm_buf_free(&buf);
}

static void test_headers(void **state)
{
	(void)state;
	const struct ovm_record_format bare = {0};
	struct ovm_sample out;
	const uint8_t unknown[8] = {200, 0, 0, 0, 0, 0, 8, 0};
	const uint8_t too_small[8] = {9, 0, 0, 0, 0, 0, 7, 0};
	const uint8_t zero_size[8] = {9, 0, 0, 0, 0, 0, 0, 0};
	const uint8_t too_big[8] = {9, 0, 0, 0, 0, 0, 16, 0};
	const uint8_t odd[12] = {200, 0, 0, 0, 0, 0, 12, 0};
	assert_int_equal(ovm_record_decode(&bare, unknown, 8, &out), 8);
	assert_int_equal(out.kind, OVM_RECORD_OTHER);
	assert_int_equal(ovm_record_decode(&bare, too_small, 8, &out), 0);
	assert_int_equal(ovm_record_decode(&bare, zero_size, 8, &out), 0);
	assert_int_equal(ovm_record_decode(&bare, too_big, 8, &out), 0);
	assert_int_equal(ovm_record_decode(&bare, odd, 12, &out), 0);
	assert_int_equal(ovm_record_decode(&bare, NULL, 0, &out), 0);
}

static void test_random_bytes(void **state)
{
	(void)state;
	uint64_t rng = 88172645463325252u, sum = 0;
	for (int round = 0; round < 200000; round++) {
		uint8_t bytes[96];
		for (size_t i = 0; i < sizeof(bytes); i += 8) {
			rng ^= rng << 13;
			rng ^= rng >> 7;
			rng ^= rng << 17;
			ovm_put64(bytes + i, rng & (rng >> 3) & (rng >> 9)); /* many zeros */
		}
		struct ovm_record_format format = {.sample_type = ovm_le64(bytes + 80),
						   .branch_sample_type = ovm_le64(bytes + 88),
						   .read_format = ovm_le64(bytes + 72) & 31,
						   .sample_id_all = round & 1};
		size_t n = 8 * (size_t)(round % 11);
		bytes[0] &= 15;
		bytes[1] = bytes[2] = bytes[3] = bytes[7] = 0;
		bytes[6] = (uint8_t)(round % 16 * 8);
		struct ovm_sample out;
		uint8_t *copy;
		if (decode(&format, bytes, n, &out, &copy)) {
			for (uint32_t i = 0; i < out.n_branches; i++)
				sum += ovm_record_branch(&out, i).to;
			for (uint32_t i = 0; i < out.build_id_len; i++)
				sum += out.build_id[i];
			sum += out.path ? strlen(out.path) : 0;
		}
		free(copy);
	}
	assert_true(sum > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sample),	 cmocka_unit_test(test_branch_stack),
	    cmocka_unit_test(test_mmap2),	 cmocka_unit_test(test_path_without_end),
	    cmocka_unit_test(test_task_records), cmocka_unit_test(test_headers),
	    cmocka_unit_test(test_random_bytes), cmocka_unit_test(test_read_values),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
