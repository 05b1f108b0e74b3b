/* The reader of line tables, on the DWARF of this program: a line known to the compiler is found at
 * its address; damaged sections give other rows or none, but never a crash (the sanitizers see to
 * that), and always rows in order. */
#include "analyzer/dwarf.h"

#include <elf.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { N_MUTANTS = 100 };
#else
enum { N_MUTANTS = 600 };
#endif

static struct {
	const uint8_t *bytes;
	size_t size;
	struct ovm_dwarf dwarf;
} t;

extern const char __ehdr_start[];

enum { KNOWN_LINE = __LINE__ + 1 };
__attribute__((noinline)) static int known(int x)
{
	return x * 3 + 1;
}

static Elf64_Shdr section(const char *name)
{
	const Elf64_Ehdr *eh = (const void *)t.bytes;
	const Elf64_Shdr *sh = (const void *)(t.bytes + eh->e_shoff);
	for (unsigned i = 1; i < eh->e_shnum; i++)
		if (!strcmp((const char *)t.bytes + sh[eh->e_shstrndx].sh_offset + sh[i].sh_name,
			    name))
			return sh[i];
	fail_msg("%s is missing: built without -g?", name);
	return sh[0];
}

static int setup(void **state)
{
	struct stat st;
	int fd = open("/proc/self/exe", O_RDONLY);
	(void)state;
	assert_true(fd >= 0 && !fstat(fd, &st));
	t.size = (size_t)st.st_size;
	t.bytes = mmap(NULL, t.size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	assert_true(t.bytes != MAP_FAILED);
	Elf64_Shdr info = section(".debug_info"), abbrev = section(".debug_abbrev"),
		   line = section(".debug_line");
	t.dwarf = (struct ovm_dwarf){t.bytes + info.sh_offset, t.bytes + abbrev.sh_offset,
				     t.bytes + line.sh_offset, info.sh_size,
				     abbrev.sh_size,	       line.sh_size};
	return 0;
}

static void check_rows(const ovm_line_rows *rows)
{
	for (uint32_t i = 1; i < rows->n; i++)
		assert_true(rows->v[i - 1].va.v <= rows->v[i].va.v);
	assert_true(!rows->n || (rows->v[rows->n - 1].flags & OVM_LINE_END));
	assert_true(!rows->n || rows->v[0].va.v);
}

/* Reads all there is; returns how many rows stand at @va, *line is the first one's. */
static uint32_t read_all(const struct ovm_dwarf *dwarf, uint64_t va, uint32_t *line,
			 uint32_t *n_units)
{
	ovm_dwarf_units units = {0};
	ovm_line_rows rows = {0};
	uint32_t found = 0;
	ovm_dwarf_units_read(dwarf, &units);
	for (uint32_t i = 0; i < units.n; i++) {
		struct ovm_line_program program;
		assert_true(!i || units.v[i - 1].line_off < units.v[i].line_off);
		rows.n = 0;
		if (!ovm_line_program_open(dwarf, units.v[i].line_off, &program))
			continue;
		ovm_line_rows_read(&program, &rows);
		check_rows(&rows);
		for (uint32_t k = 0; k < rows.n; k++)
			if (rows.v[k].va.v == va && !(rows.v[k].flags & OVM_LINE_END) && !found++)
				*line = rows.v[k].line;
	}
	*n_units = units.n;
	ovm_vec_free(&units);
	ovm_vec_free(&rows);
	return found;
}

static void test_known_line(void **state)
{
	uint32_t line = 0, n_units;
	(void)state;
	uint64_t va = (uint64_t)((uintptr_t)known - (uintptr_t)__ehdr_start);
	const Elf64_Ehdr *eh = (const void *)t.bytes;
	if (eh->e_type == ET_EXEC)
		va = (uint64_t)(uintptr_t)known;
	assert_int_equal(known(2), 7);
	assert_true(read_all(&t.dwarf, va, &line, &n_units) > 0);
	assert_in_range(line, KNOWN_LINE, KNOWN_LINE + 1); /* of the name or of the brace */
	assert_true(n_units > 5);
}

static void test_units(void **state)
{
	ovm_dwarf_units units = {0};
	bool found = false;
	(void)state;
	ovm_dwarf_units_read(&t.dwarf, &units);
	for (uint32_t i = 0; i < units.n; i++) {
		const struct ovm_dwarf_unit *unit = &units.v[i];
		found |=
		    unit->language && unit->name.size && unit->comp_dir.size && unit->producer.size;
		assert_true(unit->version >= 2 && unit->version <= 5);
	}
	assert_true(found);
	ovm_vec_free(&units);
}

static void test_nothing(void **state)
{
	const struct ovm_dwarf empty = {t.bytes, t.bytes, t.bytes, 0, 0, 0};
	struct ovm_line_program program;
	uint32_t line, n_units;
	(void)state;
	assert_int_equal(read_all(&empty, 0, &line, &n_units), 0);
	assert_int_equal(n_units, 0);
	assert_false(ovm_line_program_open(&empty, 0, &program));
	assert_false(ovm_line_program_open(&t.dwarf, t.dwarf.line_size, &program));
	assert_false(ovm_line_program_open(&t.dwarf, UINT64_MAX, &program));
}

static uint64_t rng = 1;

static uint64_t random_below(uint64_t n)
{
	rng = rng * 6364136223846793005u + 1442695040888963407u;
	return (rng >> 20) % n;
}

static uint8_t *copy_of(const uint8_t *bytes, uint64_t size)
{
	uint8_t *copy = malloc(size); /* not a byte more */
	memcpy(copy, bytes, size);
	return copy;
}

/* The first units only: the whole would take too long. */
static void test_mutants(void **state)
{
	struct ovm_dwarf d = t.dwarf;
	uint32_t line, n_units;
	(void)state;
	d.info_size = d.info_size < 60000 ? d.info_size : 60000;
	d.abbrev_size = d.abbrev_size < 20000 ? d.abbrev_size : 20000;
	d.line_size = d.line_size < 60000 ? d.line_size : 60000;
	for (int i = 0; i < N_MUTANTS; i++) {
		uint8_t *info = copy_of(d.info, d.info_size),
			*abbrev = copy_of(d.abbrev, d.abbrev_size);
		uint8_t *lines = copy_of(d.line, d.line_size);
		struct ovm_dwarf m = {info, abbrev, lines, d.info_size, d.abbrev_size, d.line_size};
		for (int k = 0; k < 40; k++) {
			info[random_below(k & 1 ? d.info_size : 64)] = (uint8_t)random_below(256);
			abbrev[random_below(k & 1 ? d.abbrev_size : 64)] =
			    (uint8_t)random_below(256);
			lines[random_below(d.line_size)] ^= (uint8_t)(1 << random_below(8));
		}
		if (i % 4 == 2) { /* said to be 64-bit DWARF, and a skeleton */
			memset(info, 0xff, 4);
			memset(lines, 0xff, 4);
			ovm_put64(info + 4, d.info_size - 12);
			ovm_put64(lines + 4, d.line_size - 12);
			memcpy(info + 12, "\5\0\4\10", 4);
			memset(info + 16, 0, 8);
			memcpy(lines + 12, "\5\0\10\0", 4);
			ovm_put64(lines + 16, 60);
		}
		if (i & 1) { /* units and abbreviations well, lines cut short */
			memcpy(info, d.info, d.info_size);
			memcpy(abbrev, d.abbrev, d.abbrev_size);
			m.line_size = random_below(d.line_size);
		}
		read_all(&m, 0, &line, &n_units);
		free(info);
		free(abbrev);
		free(lines);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_known_line),
	    cmocka_unit_test(test_units),
	    cmocka_unit_test(test_nothing),
	    cmocka_unit_test(test_mutants),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
