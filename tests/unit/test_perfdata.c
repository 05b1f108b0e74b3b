/* perfdata.c: files built byte by byte, as perf writes them: in a file or a pipe, compressed or
 * not; then cut at every length and damaged at every byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/vec.h"
#include "profiler/perfdata.h"

#include <elf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum {
	PID = 0x7ffffff0, /* above pid_max */
	LOAD = 0x10000,	  /* where the program is mapped; byte x of it has link-time address x */
	SIZE = 0x1000,
	HEADER = 104,
	ATTR = PERF_ATTR_SIZE_VER5,
};

#define TIMED (PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_IDENTIFIER)

static char program[] = "/tmp/test_perfdata.XXXXXX";
static uint8_t program_id[20];

static int make_program(void **state)
{
	(void)state;
	struct {
		Elf64_Ehdr ehdr;
		Elf64_Phdr phdrs[2];
		Elf64_Nhdr note;
		char name[4];
		uint8_t id[20];
	} elf = {.ehdr = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			  .e_type = ET_DYN,
			  .e_machine = EM_X86_64,
			  .e_phoff = sizeof(Elf64_Ehdr),
			  .e_phentsize = sizeof(Elf64_Phdr),
			  .e_phnum = 2},
		 .phdrs = {{.p_type = PT_LOAD, .p_flags = PF_X, .p_filesz = SIZE, .p_memsz = SIZE},
			   {.p_type = PT_NOTE,
			    .p_offset = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr),
			    .p_filesz = 36}},
		 .note = {4, 20, NT_GNU_BUILD_ID},
		 .name = "GNU"};
	memset(program_id, 0xa5, sizeof(program_id));
	memcpy(elf.id, program_id, sizeof(elf.id));
	int fd = mkstemp(program);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, &elf, sizeof(elf)), sizeof(elf));
	close(fd);
	ovm_log_setup("error"); /* cut files warn, thousands of them */
	return 0;
}

static int remove_program(void **state)
{
	(void)state;
	return unlink(program);
}

/* --- records --- */

static size_t begin(struct ovm_buf *buf, uint32_t type, uint16_t misc)
{
	size_t at = buf->n;
	ovm_buf_u32(buf, type);
	ovm_buf_u16(buf, misc);
	ovm_buf_u16(buf, 0);
	return at;
}

static void end(struct ovm_buf *buf, size_t at)
{
	uint16_t size = (uint16_t)(buf->n - at);
	memcpy(buf->v + at + 6, &size, 2);
}

static void put_id(struct ovm_buf *buf, uint32_t pid, uint64_t time, uint64_t id)
{
	ovm_buf_align(buf, 8, 0);
	ovm_buf_u32(buf, pid);
	ovm_buf_u32(buf, pid);
	ovm_buf_u64(buf, time);
	ovm_buf_u64(buf, id);
}

/* MMAP2 of the program, by dev and inode as stat says, or with its build-id inside. */
static void put_mmap(struct ovm_buf *buf, uint32_t pid, uint64_t time, const char *path,
		     bool has_build_id)
{
	struct stat st = {0};
	size_t at = begin(buf, PERF_RECORD_MMAP2, has_build_id ? 1 << 14 | 2 : 2);
	stat(path, &st);
	ovm_buf_u32(buf, pid);
	ovm_buf_u32(buf, pid);
	ovm_buf_u64(buf, LOAD);
	ovm_buf_u64(buf, SIZE);
	ovm_buf_u64(buf, 0);
	if (has_build_id) {
		ovm_buf_u32(buf, 20);
		ovm_buf_put(buf, program_id, 20);
	} else {
		ovm_buf_u32(buf, (uint32_t)(st.st_dev >> 8 & 0xfff));
		ovm_buf_u32(buf, (uint32_t)(st.st_dev & 0xff));
		ovm_buf_u64(buf, st.st_ino);
		ovm_buf_u64(buf, 0);
	}
	ovm_buf_u32(buf, 5);
	ovm_buf_u32(buf, 2);
	ovm_buf_put(buf, path, strlen(path) + 1);
	put_id(buf, pid, time, 0);
	end(buf, at);
}

static void put_task(struct ovm_buf *buf, uint32_t type, uint32_t pid, uint32_t ppid, uint32_t tid,
		     uint64_t time)
{
	size_t at = begin(buf, type, 0);
	ovm_buf_u32(buf, pid);
	ovm_buf_u32(buf, ppid);
	ovm_buf_u32(buf, tid);
	ovm_buf_u32(buf, ppid);
	ovm_buf_u64(buf, time);
	put_id(buf, pid, time, 0);
	end(buf, at);
}

static void put_sample(struct ovm_buf *buf, uint32_t pid, uint64_t time, uint64_t ip, uint64_t id)
{
	size_t at = begin(buf, PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER);
	ovm_buf_u64(buf, id);
	ovm_buf_u64(buf, ip);
	ovm_buf_u32(buf, pid);
	ovm_buf_u32(buf, pid);
	ovm_buf_u64(buf, time);
	end(buf, at);
}

static void put_stack_sample(struct ovm_buf *buf, uint32_t pid, uint64_t time, uint64_t id)
{
	static const uint64_t stack[][3] = {{LOAD + 0x68, LOAD + 0x20, 1},
					    {LOAD + 0x54, LOAD + 0x60, 2},
					    {LOAD + 0x10, LOAD + 0x40, 0}};
	size_t at = buf->n;
	put_sample(buf, pid, time, LOAD + 0x24, id);
	ovm_buf_u64(buf, 3);
	ovm_buf_put(buf, stack, sizeof(stack));
	end(buf, at);
}

static void put_round(struct ovm_buf *buf)
{
	end(buf, begin(buf, 68, 0));
}

static void put_build_id(struct ovm_buf *buf, const char *path)
{
	size_t at = begin(buf, 67, 1 << 15 | 2);
	ovm_buf_u32(buf, UINT32_MAX);
	ovm_buf_put(buf, program_id, 20);
	ovm_buf_u32(buf, 20);
	ovm_buf_put(buf, path, strlen(path) + 1);
	ovm_buf_align(buf, 8, 0);
	end(buf, at);
}

/* A little of everything: samples before the mmap they need, a child, a sample of a stranger. */
static void put_usual(struct ovm_buf *buf)
{
	put_sample(buf, PID, 10, LOAD + 0x20, 1);
	put_sample(buf, PID, 12, LOAD + 0x20, 1);
	put_task(buf, PERF_RECORD_FORK, PID + 1, PID, PID + 1, 20);
	put_round(buf);
	put_mmap(buf, PID, 5, program, false);
	put_sample(buf, PID + 1, 21, LOAD + 0x30, 1);
	put_task(buf, PERF_RECORD_EXIT, PID + 1, PID, PID + 1, 30);
	put_sample(buf, PID + 1, 31, LOAD + 0x30, 1); /* not any more */
	/* alive today, but who was it then? */
	put_sample(buf, (uint32_t)getpid(), 9, (uint64_t)(uintptr_t)&put_round, 1);
	put_sample(buf, PID, 4, LOAD + 0x20, 1);	 /* too early */
	put_sample(buf, UINT32_MAX, 40, LOAD + 0x20, 1); /* perf does not know */
	put_round(buf);
}

/* --- containers --- */

struct event {
	uint32_t type;
	uint64_t config, sample_type, branch_type, id;
};

static const struct event CLOCK = {PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, TIMED, 0, 1};

static void put_attr(struct ovm_buf *buf, const struct event *event)
{
	struct perf_event_attr attr = {.type = event->type,
				       .size = ATTR,
				       .config = event->config,
				       .sample_freq = 997,
				       .freq = 1,
				       .sample_type = event->sample_type,
				       .branch_sample_type = event->branch_type,
				       .sample_id_all = 1};
	ovm_buf_put(buf, &attr, ATTR);
}

/* header | ids | attrs | data | feature table | build-ids */
static void make_file(struct ovm_buf *file, const struct event *events, uint32_t n_events,
		      const struct ovm_buf *data, const struct ovm_buf *build_ids)
{
	uint64_t ids = HEADER, attrs = ids + 8 * n_events;
	uint64_t data_at = attrs + n_events * (uint64_t)(ATTR + 16);
	*file = (struct ovm_buf){0};
	ovm_buf_put(file, "PERFILE2", 8);
	const uint64_t words[] = {
	    HEADER,  ATTR + 16, attrs, n_events * (uint64_t)(ATTR + 16), data_at,
	    data->n, 0,		0,     build_ids ? 1 << 2 | 1 << 3 : 0,	 0,
	    0,	     0};
	ovm_buf_put(file, words, sizeof(words));
	for (uint32_t i = 0; i < n_events; i++)
		ovm_buf_u64(file, events[i].id);
	for (uint32_t i = 0; i < n_events; i++) {
		put_attr(file, &events[i]);
		ovm_buf_u64(file, ids + 8 * i);
		ovm_buf_u64(file, 8);
	}
	ovm_buf_put(file, data->v, data->n);
	if (!build_ids)
		return;
	const uint64_t table[] = {file->n + 32, build_ids->n, 0, 0};
	ovm_buf_put(file, table, sizeof(table));
	ovm_buf_put(file, build_ids->v, build_ids->n);
}

static void make_pipe(struct ovm_buf *file, const struct event *event, const struct ovm_buf *data)
{
	*file = (struct ovm_buf){0};
	ovm_buf_put(file, "PERFILE2", 8);
	ovm_buf_u64(file, 16);
	size_t at = begin(file, 64, 0);
	put_attr(file, event);
	ovm_buf_u64(file, event->id);
	end(file, at);
	ovm_buf_put(file, data->v, data->n);
}

/* As perf does it: one stream, flushed for each record. @type 81 leaves sizes odd. */
static void put_compressed(struct ovm_buf *to, const struct ovm_buf *data, size_t piece,
			   uint32_t type)
{
	ZSTD_CStream *zstd = ZSTD_createCStream();
	ZSTD_initCStream(zstd, 1);
	for (size_t done = 0; done < data->n; done += piece) {
		uint8_t packed[60000];
		size_t n = data->n - done < piece ? data->n - done : piece;
		ZSTD_inBuffer in = {data->v + done, n, 0};
		ZSTD_outBuffer out = {packed, sizeof(packed), 0};
		while (in.pos < in.size)
			assert_false(ZSTD_isError(ZSTD_compressStream(zstd, &out, &in)));
		assert_int_equal(ZSTD_flushStream(zstd, &out), 0);
		size_t at = begin(to, type, 0);
		if (type == 83)
			ovm_buf_u64(to, out.pos);
		ovm_buf_put(to, packed, out.pos);
		if (type == 83)
			ovm_buf_align(to, 8, 0);
		end(to, at);
	}
	ZSTD_freeCStream(zstd);
}

static struct ovm_ctx ctx;

/* Parse a heap copy of exactly these bytes. */
static int parse(const uint8_t *bytes, size_t n, struct ovm_profile **out)
{
	uint8_t *copy = malloc(n ? n : 1);
	assert_non_null(copy);
	if (n)
		memcpy(copy, bytes, n);
	ovm_ctx_init(&ctx);
	*out = NULL;
	int rc = ovm_perfdata_parse(&ctx, copy, n, "test", out);
	assert_true((rc == 0) == (*out != NULL));
	free(copy);
	return rc;
}

static struct ovm_profile *parse_ok(struct ovm_buf *file)
{
	struct ovm_profile *prof;
	if (parse(file->v, file->n, &prof))
		fail_msg("%s", ctx.msg);
	ovm_buf_free(file);
	return prof;
}

static void expect_usual(struct ovm_profile *prof)
{
	assert_string_equal(prof->event, "cpu-clock");
	assert_string_equal(prof->source, "import");
	assert_int_equal(prof->frequency, 997);
	assert_int_equal(prof->n_samples, 7);
	assert_int_equal(prof->n_unmapped, 4);
	assert_int_equal(prof->modules.n, 1);
	const struct ovm_prof_module *module = &prof->modules.v[0];
	assert_string_equal(module->path, program);
	assert_string_equal(module->id, "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5");
	assert_int_equal(module->samples.n, 2);
	assert_int_equal(module->samples.v[0].va.v, 0x20);
	assert_int_equal(module->samples.v[0].count, 2);
	assert_int_equal(module->samples.v[1].va.v, 0x30);
	assert_int_equal(module->samples.v[1].count, 1);
	ovm_profile_free(prof);
}

/* --- tests --- */

static void test_file_and_pipe(void **state)
{
	(void)state;
	struct ovm_buf data = {0}, file;
	put_usual(&data);
	make_file(&file, &CLOCK, 1, &data, NULL);
	expect_usual(parse_ok(&file));
	make_pipe(&file, &CLOCK, &data);
	expect_usual(parse_ok(&file));
	ovm_buf_free(&data);
}

static void test_compressed(void **state)
{
	(void)state;
	static const size_t pieces[] = {7, 50, 100000}; /* bytes: records are torn apart */
	struct ovm_buf data = {0}, file;
	put_usual(&data);
	for (size_t i = 0; i < 3; i++)
		for (uint32_t type = 81; type <= 83; type += 2) {
			struct ovm_buf packed = {0};
			put_compressed(&packed, &data, pieces[i], type);
			put_round(&packed);
			make_file(&file, &CLOCK, 1, &packed, NULL);
			expect_usual(parse_ok(&file));
			make_pipe(&file, &CLOCK, &packed);
			expect_usual(parse_ok(&file));
			ovm_buf_free(&packed);
		}
	ovm_buf_free(&data);
}

static void test_unpacks_too_large(void **state)
{
	(void)state;
	struct ovm_buf data = {0}, packed = {0}, file;
	struct ovm_profile *prof;
	uint8_t *ones = ovm_alloc(80 << 20);
	memset(ones, 1, 80 << 20);
	ovm_buf_put(&data, ones, 80 << 20);
	free(ones);
	put_compressed(&packed, &data, 1 << 20, 81);
	make_pipe(&file, &CLOCK, &packed);
	assert_int_equal(parse(file.v, file.n, &prof), OVM_E_FORMAT);
	assert_non_null(strstr(ctx.msg, "unpack to more than"));
	ovm_buf_free(&file);
	ovm_buf_free(&packed);
	ovm_buf_free(&data);
}

/* A path and build-id in the feature section decide which file is meant, and whether it is here. */
static void test_build_ids(void **state)
{
	(void)state;
	struct ovm_buf data = {0}, ids = {0}, file;
	put_mmap(&data, PID, 1, program, false);
	put_sample(&data, PID, 2, LOAD + 0x20, 1);
	put_mmap(&data, PID + 1, 3, program, true); /* inside the record */
	put_sample(&data, PID + 1, 4, LOAD + 0x20, 1);
	put_build_id(&ids, "/no/such/file");
	put_build_id(&ids, program);
	make_file(&file, &CLOCK, 1, &data, &ids);
	struct ovm_profile *prof = parse_ok(&file);
	assert_int_equal(prof->n_unmapped, 0);
	assert_int_equal(prof->modules.n, 1);
	ovm_profile_free(prof);

	program_id[0]++; /* another build was running then */
	ids.n = 0;
	put_build_id(&ids, program);
	program_id[0]--;
	make_file(&file, &CLOCK, 1, &data, &ids);
	prof = parse_ok(&file);
	assert_int_equal(prof->n_unmapped, 1);
	ovm_profile_free(prof);

	put_build_id(&ids, program); /* both names: only the inode can tell */
	make_file(&file, &CLOCK, 1, &data, &ids);
	prof = parse_ok(&file);
	assert_int_equal(prof->n_unmapped, 0);
	ovm_profile_free(prof);

	struct ovm_buf piped = {0}; /* as a record, at the end */
	ovm_buf_put(&piped, data.v, data.n);
	put_build_id(&piped, program);
	make_pipe(&file, &CLOCK, &piped);
	prof = parse_ok(&file);
	assert_int_equal(prof->n_unmapped, 0);
	ovm_profile_free(prof);
	ovm_buf_free(&piped);
	ovm_buf_free(&data);
	ovm_buf_free(&ids);
}

static void test_several_events(void **state)
{
	(void)state;
	const struct event events[] = {
	    {PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS, TIMED | PERF_SAMPLE_CPU, 0, 11},
	    {PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY, TIMED, 0, 12},
	    {PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES, TIMED, 0, 13}};
	struct ovm_buf data = {0}, file;
	put_mmap(&data, PID, 1, program, true);
	put_sample(&data, PID, 2, LOAD + 0x20, 13);
	size_t at = data.n;
	put_sample(&data, PID, 3, LOAD + 0x30, 11);
	ovm_buf_u64(&data, 0); /* its CPU */
	end(&data, at);
	put_sample(&data, PID, 4, LOAD + 0x40, 99); /* nobody's */
	data.v[12] = 0;
	struct ovm_buf with_id = {0}; /* the mmap belongs to the dummy: its last word is the id */
	ovm_buf_put(&with_id, data.v, data.n);
	ovm_put64(with_id.v + ovm_le16(with_id.v + 6) - 8, 12);
	make_file(&file, events, 3, &with_id, NULL);
	struct ovm_profile *prof = parse_ok(&file);
	assert_string_equal(prof->event, "cycles");
	assert_int_equal(prof->n_samples, 1);
	assert_int_equal(prof->n_lost, 1);
	ovm_profile_free(prof);
	ovm_buf_free(&with_id);
	ovm_buf_free(&data);
}

static void test_branch_stacks(void **state)
{
	(void)state;
	struct event event = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES,
			      TIMED | PERF_SAMPLE_BRANCH_STACK,
			      PERF_SAMPLE_BRANCH_ANY | PERF_SAMPLE_BRANCH_USER, 1};
	struct ovm_buf data = {0}, file;
	put_mmap(&data, PID, 1, program, true);
	put_stack_sample(&data, PID, 2, 1);
	put_stack_sample(&data, PID, 3, 1);
	make_file(&file, &event, 1, &data, NULL);
	struct ovm_profile *prof = parse_ok(&file);
	assert_string_equal(prof->source, "import+branches");
	assert_int_equal(prof->n_samples, 2);
	const struct ovm_prof_module *module = &prof->modules.v[0];
	assert_int_equal(module->samples.v[0].va.v, 0x24);
	assert_int_equal(module->branches.n, 2);
	assert_int_equal(module->branches.v[1].from.v, 0x68);
	assert_int_equal(module->branches.v[1].mispreds, 2);
	assert_int_equal(module->ranges.n, 2);
	assert_int_equal(module->ranges.v[0].from.v, 0x40);
	assert_int_equal(module->ranges.v[0].to.v, 0x54);
	assert_int_equal(module->ranges.v[0].count, 2);
	ovm_profile_free(prof);

	event.branch_type = PERF_SAMPLE_BRANCH_ANY_CALL; /* gaps everywhere: of no use */
	make_file(&file, &event, 1, &data, NULL);
	prof = parse_ok(&file);
	assert_string_equal(prof->source, "import");
	assert_int_equal(prof->modules.v[0].branches.n, 0);
	assert_int_equal(prof->modules.v[0].ranges.n, 0);
	ovm_profile_free(prof);
	ovm_buf_free(&data);
}

/* Threads whose beginning was missed end; the process goes on. */
static void test_threads(void **state)
{
	(void)state;
	struct ovm_buf data = {0}, file;
	size_t at = begin(&data, PERF_RECORD_FORK, 1 << 13); /* found running */
	ovm_buf_u32(&data, PID);
	ovm_buf_u32(&data, 1);
	ovm_buf_u32(&data, PID);
	ovm_buf_u32(&data, 1);
	ovm_buf_u64(&data, 0);
	put_id(&data, 0, 0, 0);
	end(&data, at);
	put_mmap(&data, PID, 0, program, true);
	put_task(&data, PERF_RECORD_EXIT, PID, 1, PID + 1, 5);
	put_task(&data, PERF_RECORD_EXIT, PID, 1, PID + 2, 6);
	put_sample(&data, PID, 7, LOAD + 0x20, 1);
	put_task(&data, PERF_RECORD_FORK, PID, PID, PID + 3, 8);
	put_task(&data, PERF_RECORD_FORK, PID, PID, PID + 4, 8);
	put_task(&data, PERF_RECORD_FORK, PID, PID, PID + 5, 8);
	put_task(&data, PERF_RECORD_EXIT, PID, 1, PID, 9); /* the first thread, not the last */
	put_sample(&data, PID, 10, LOAD + 0x20, 1);
	put_task(&data, PERF_RECORD_EXIT, PID, 1, PID + 3, 11);
	put_sample(&data, PID, 12, LOAD + 0x20, 1);
	make_file(&file, &CLOCK, 1, &data, NULL);
	struct ovm_profile *prof = parse_ok(&file);
	assert_int_equal(prof->n_samples, 3);
	assert_int_equal(prof->n_unmapped, 1);
	ovm_profile_free(prof);
	ovm_buf_free(&data);
}

static void test_foreign_records(void **state)
{
	(void)state;
	struct ovm_buf data = {0}, file;
	size_t at =
	    begin(&data, 71, 0); /* AUXTRACE, and 24 bytes behind it that look like records */
	ovm_buf_u64(&data, 24);
	ovm_buf_fill(&data, 0, 32);
	end(&data, at);
	ovm_buf_fill(&data, 9, 24);
	end(&data, begin(&data, 200, 0));
	at = begin(&data, PERF_RECORD_LOST, 0);
	ovm_buf_u64(&data, 1);
	ovm_buf_u64(&data, 5);
	put_id(&data, PID, 2, 1);
	end(&data, at);
	put_usual(&data);
	make_file(&file, &CLOCK, 1, &data, NULL);
	struct ovm_profile *prof = parse_ok(&file);
	assert_int_equal(prof->n_lost, 5);
	expect_usual(prof);
	ovm_buf_free(&data);
}

static void expect_refused(const uint8_t *bytes, size_t n, const char *why)
{
	struct ovm_profile *prof;
	assert_int_equal(parse(bytes, n, &prof), OVM_E_FORMAT);
	if (!strstr(ctx.msg, why))
		fail_msg("'%s' without '%s'", ctx.msg, why);
}

static void test_refused(void **state)
{
	(void)state;
	struct ovm_buf data = {0}, file;
	struct ovm_profile *prof = NULL;
	put_usual(&data);
	make_file(&file, &CLOCK, 1, &data, NULL);
	expect_refused(NULL, 0, "not a perf.data");
	expect_refused((const uint8_t *)"optvm profile 1\n", 16, "not a perf.data");
	expect_refused((const uint8_t *)"2ELIFREP\0\0\0\0\0\0\0\x68", 16, "big-endian");
	expect_refused((const uint8_t *)"PERFFILE\x68\0\0\0\0\0\0\0", 16, "version 1");
	expect_refused((const uint8_t *)"PERFILE2\x10\0\0\0\0\0\0\0", 16, "no event");
	expect_refused(file.v, HEADER, "list of events");
	expect_refused(file.v, HEADER + 8 + ATTR + 16, "before any record");

	file.v[16] = 8; /* size of an event */
	expect_refused(file.v, file.n, "offset 16");
	file.v[16] = ATTR + 16;
	file.v[HEADER + 8 + ATTR + 16 + 6] = 4; /* size of the first record */
	expect_refused(file.v, file.n, "less than 8 bytes");
	ovm_buf_free(&file);
	data.n = 0;
	size_t at = begin(&data, PERF_RECORD_SAMPLE, 2); /* too small for all its fields */
	ovm_buf_u64(&data, 1);
	end(&data, at);
	make_file(&file, &CLOCK, 1, &data, NULL);
	expect_refused(file.v, file.n, "offset 240: a record that makes no sense");
	ovm_buf_free(&file);
	ovm_buf_free(&data);
	assert_int_equal(ovm_perfdata_load(&ctx, "/no/such/file", &prof), OVM_E_IO);
	assert_int_equal(ovm_perfdata_load(&ctx, "/tmp", &prof), OVM_E_FORMAT);
	assert_int_equal(ovm_perfdata_load(&ctx, "/dev/zero", &prof), OVM_E_FORMAT);
	assert_int_equal(ovm_perfdata_load(&ctx, "/dev/null", &prof), OVM_E_FORMAT);
}

/* Cut anywhere: refused or used up to there, and more is never less. */
static void test_cut(void **state)
{
	(void)state;
	struct ovm_buf data = {0}, packed = {0}, files[3];
	put_usual(&data);
	put_compressed(&packed, &data, 100, 81);
	make_file(&files[0], &CLOCK, 1, &data, &data);
	make_pipe(&files[1], &CLOCK, &data);
	make_file(&files[2], &CLOCK, 1, &packed, NULL);
	for (size_t i = 0; i < 3; i++) {
		uint64_t most = 0;
		for (size_t n = 0; n <= files[i].n; n++) {
			struct ovm_profile *prof;
			int rc = parse(files[i].v, n, &prof);
			assert_true(rc == OVM_E_FORMAT || (!rc && prof->n_samples >= most));
			if (!rc)
				most = prof->n_samples;
			ovm_profile_free(prof);
		}
		assert_int_equal(most, 7);
	}
	ovm_buf_fill(&files[1], 0, 64); /* a disk that was not synced */
	expect_usual(parse_ok(&files[1]));
	ovm_buf_free(&files[0]);
	ovm_buf_free(&files[2]);
	ovm_buf_free(&packed);
	ovm_buf_free(&data);
}

static void test_damaged(void **state)
{
	(void)state;
	static const uint8_t flips[] = {1, 0x80, 0xff};
	struct ovm_buf data = {0}, ids = {0}, packed = {0}, files[2];
	put_usual(&data);
	put_build_id(&ids, program);
	put_compressed(&packed, &data, 100, 81);
	make_file(&files[0], &CLOCK, 1, &data, &ids);
	make_pipe(&files[1], &CLOCK, &packed);
	for (size_t i = 0; i < 2; i++) {
		for (size_t at = 0; at < files[i].n; at++)
			for (size_t k = 0; k < sizeof(flips); k++) {
				struct ovm_profile *prof;
				files[i].v[at] ^= flips[k];
				int rc = parse(files[i].v, files[i].n, &prof);
				assert_true(!rc || rc == OVM_E_FORMAT);
				ovm_profile_free(prof);
				files[i].v[at] ^= flips[k];
			}
		ovm_buf_free(&files[i]);
	}
	ovm_buf_free(&packed);
	ovm_buf_free(&ids);
	ovm_buf_free(&data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_file_and_pipe),     cmocka_unit_test(test_compressed),
	    cmocka_unit_test(test_unpacks_too_large), cmocka_unit_test(test_build_ids),
	    cmocka_unit_test(test_several_events),    cmocka_unit_test(test_branch_stacks),
	    cmocka_unit_test(test_threads),	      cmocka_unit_test(test_foreign_records),
	    cmocka_unit_test(test_refused),	      cmocka_unit_test(test_cut),
	    cmocka_unit_test(test_damaged),
	};
	return cmocka_run_group_tests(tests, make_program, remove_program);
}
