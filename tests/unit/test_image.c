/* image.c, image_dyn.c, symbols.c: good files, and every way a file can be bad that has a message
 * of its own. */
#include "analyzer/image_private.h"
#include "tests/support/mini_elf.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

static struct mini mini;

static struct ovm_image *open_mini(void)
{
	struct ovm_ctx ctx;
	struct ovm_image *image = NULL;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "mini", &image), 0);
	return image;
}

/* Fails as a format error that names the file and says @what. */
static void expect_bad(const uint8_t *bytes, size_t size, const char *what)
{
	struct ovm_ctx ctx;
	struct ovm_image *image = NULL;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open_bytes(&ctx, bytes, size, "mini", &image), OVM_E_FORMAT);
	assert_null(image);
	assert_int_equal(strncmp(ctx.msg, "mini: ", 6), 0);
	if (!strstr(ctx.msg, what))
		fail_msg("\"%s\" does not say \"%s\"", ctx.msg, what);
}

static void test_minimum(void **state)
{
	(void)state;
	mini_init(&mini, 0);
	struct ovm_image *image = open_mini();
	assert_int_equal(image->segments.n, 1);
	assert_false(image->is_dyn);
	assert_true(image->is_static);
	assert_int_equal(image->lo.v, MINI_VA);
	assert_int_equal(image->hi.v, MINI_VA + MINI_SIZE);
	assert_int_equal(strncmp(image->id, "xxh3-", 5), 0);
	assert_int_equal(strlen(image->id), 37);
	assert_ptr_equal(ovm_image_at(image, ovm_va_of(MINI_VA), MINI_SIZE), mini.v);
	assert_null(ovm_image_at(image, ovm_va_of(MINI_VA), MINI_SIZE + 1));
	assert_null(ovm_image_at(image, ovm_va_of(MINI_VA - 1), 1));
	assert_null(ovm_image_at(image, ovm_va_of(MINI_VA + 8), UINT64_MAX));
	assert_null(ovm_image_symbol(image, ovm_va_of(MINI_VA)));
	assert_null(ovm_image_plt(image, ovm_va_of(MINI_VA)));
	assert_null(ovm_image_reloc(image, ovm_va_of(MINI_VA)));
	ovm_image_close(image);
	ovm_image_close(NULL);
}

static void test_bad_header(void **state)
{
	(void)state;
	Elf64_Ehdr ehdr;
	expect_bad(NULL, 0, "empty file");
	expect_bad((const uint8_t *)"#!/bin/sh\n", 10, "a script");
	expect_bad((const uint8_t *)"hello", 5, "not an ELF file");
	mini_init(&mini, 0);
	expect_bad(mini.v, 10, "truncated");
	expect_bad(mini.v, 63, "truncated");
	expect_bad(mini.v, 100, "truncated: program headers");
	expect_bad(mini.v, 0x1000, "truncated: segment");
	memcpy(&ehdr, mini.v, sizeof(ehdr));

#define WITH(field, value, what)                                                                   \
	do {                                                                                       \
		Elf64_Ehdr bad = ehdr;                                                             \
		bad.field = (value);                                                               \
		mini_put(&mini, 0, &bad, sizeof(bad));                                             \
		expect_bad(mini.v, MINI_SIZE, what);                                               \
	} while (0)
	WITH(e_machine, EM_AARCH64, "ELF for aarch64, optvm handles x86-64 only");
	WITH(e_machine, EM_386, "ELF for i386");
	WITH(e_machine, 0x1234, "machine 4660");
	WITH(e_ident[EI_CLASS], ELFCLASS32, "32-bit");
	WITH(e_ident[EI_DATA], ELFDATA2MSB, "big-endian");
	WITH(e_type, ET_CORE, "a core file");
	WITH(e_type, ET_REL, "link it first");
	WITH(e_type, 77, "ELF type 77");
	WITH(e_phnum, 0, "no program headers");
	WITH(e_phnum, 0xffff, "truncated");
	WITH(e_phentsize, 32, "expected 56");
	WITH(e_phoff, UINT64_MAX - 8, "truncated");
#undef WITH
}

static void test_bad_segments(void **state)
{
	(void)state;
	const size_t first = sizeof(Elf64_Ehdr);
	Elf64_Phdr ph;
	mini_init(&mini, 0);
	memcpy(&ph, mini.v + first, sizeof(ph));

#define WITH(field, value, what)                                                                   \
	do {                                                                                       \
		Elf64_Phdr bad = ph;                                                               \
		bad.field = (value);                                                               \
		mini_put(&mini, first, &bad, sizeof(bad));                                         \
		expect_bad(mini.v, MINI_SIZE, what);                                               \
	} while (0)
	WITH(p_type, PT_NOTE, "no loadable segment");
	WITH(p_memsz, 1, "more file than memory");
	WITH(p_offset, UINT64_MAX, "truncated: segment");
	WITH(p_vaddr, UINT64_MAX - 100, "address space");
	WITH(p_memsz, UINT64_MAX, "address space");
#undef WITH
	mini_init(&mini, 0);
	mini_phdr(&mini, PT_LOAD, PF_R, 0x100, 0x100);
	expect_bad(mini.v, MINI_SIZE, "overlap");
}

static void test_relro_and_rights(void **state)
{
	(void)state;
	Elf64_Phdr ph;
	mini_init(&mini, 0);
	memcpy(&ph, mini.v + sizeof(Elf64_Ehdr), sizeof(ph));
	ph.p_flags = PF_R | PF_W;
	mini_put(&mini, sizeof(Elf64_Ehdr), &ph, sizeof(ph));
	mini_phdr(&mini, PT_GNU_RELRO, PF_R, 0x800, 0x900); /* protects up to 0x1000 */
	struct ovm_image *image = open_mini();
	assert_null(ovm_image_code(image, ovm_va_of(MINI_VA), 1));
	assert_null(ovm_image_readonly(image, ovm_va_of(MINI_VA + 0x7ff), 2));
	assert_non_null(ovm_image_readonly(image, ovm_va_of(MINI_VA + 0x800), 0x800));
	assert_null(ovm_image_readonly(image, ovm_va_of(MINI_VA + 0x800), 0x801));
	assert_null(ovm_image_readonly(image, ovm_va_of(MINI_VA + 0x1080), 1));
	ovm_image_close(image);
}

static void test_notes(void **state)
{
	(void)state;
	static const uint8_t notes[] = {
	    4, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 'G', 'N', 'U', 0,   0xde, 0xad, 0xbe, 0xef,
	    6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 'o', 'p', 't', 'v', 'm',  0,	0,    0};
	mini_init(&mini, 0);
	mini_put(&mini, MINI_DATA, notes, sizeof(notes));
	mini_phdr(&mini, PT_NOTE, PF_R, MINI_DATA, sizeof(notes));
	struct ovm_image *image = open_mini();
	assert_string_equal(image->id, "deadbeef");
	assert_int_equal(image->build_id_off.v, MINI_DATA + 16);
	assert_true(image->is_processed);
	ovm_image_close(image);

	/* a note that claims more than there is is ignored */
	mini.v[MINI_DATA + 4] = 200;
	image = open_mini();
	assert_int_equal(image->build_id_len, 0);
	ovm_image_close(image);
}

enum {
	DYN = 0x800,
	SYMTAB = 0xa00,
	STRTAB = 0xb00,
	HASH = 0xc00,
	RELA = 0xd00,
	RELR = 0xe00,
	PLT = 0x1000,
	GOT = 0x1100
};

static void put_dyn(unsigned idx, int64_t tag, uint64_t value)
{
	Elf64_Dyn dyn = {.d_tag = tag, .d_un.d_val = value};
	mini_put(&mini, DYN + idx * sizeof(dyn), &dyn, sizeof(dyn));
}

/* One function f at 0x1200, one import g with a PLT stub, a RELATIVE word, two RELR words. */
static void make_dynamic(void)
{
	static const uint32_t hash[] = {1, 3, 1, 0, 0, 0};
	static const uint8_t stub[] = {0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0xf5,
				       0,    0,	   0,	 0x0f, 0x1f, 0x44, 0,	 0};
	Elf64_Sym f = {.st_name = 1,
		       .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
		       .st_shndx = 1,
		       .st_value = MINI_VA + 0x1200,
		       .st_size = 16};
	Elf64_Sym g = {.st_name = 3, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC)};
	Elf64_Rela rela[] = {
	    {.r_offset = MINI_VA + 0x1180, .r_info = R_X86_64_RELATIVE, .r_addend = 0x77},
	    {.r_offset = MINI_VA + GOT, .r_info = ELF64_R_INFO(2, R_X86_64_JUMP_SLOT)},
	};
	uint64_t relr[] = {MINI_VA + 0x1300,
			   1 | 1 << 2}; /* 0x1300, then the second word after it: 0x1310 */
	uint64_t word = 0x99;
	mini_init(&mini, 1);
	mini_put(&mini, SYMTAB + sizeof(f), &f, sizeof(f));
	mini_put(&mini, SYMTAB + 2 * sizeof(f), &g, sizeof(g));
	mini_put(&mini, STRTAB, "\0f\0g", 5);
	mini_put(&mini, HASH, hash, sizeof(hash));
	mini_put(&mini, RELA, rela, sizeof(rela));
	mini_put(&mini, RELR, relr, sizeof(relr));
	mini_put(&mini, PLT, stub, sizeof(stub));
	mini_put(&mini, 0x1310, &word, sizeof(word));
	mini_phdr(&mini, PT_DYNAMIC, PF_R, DYN, 0x200);
	put_dyn(0, DT_SYMTAB, MINI_VA + SYMTAB);
	put_dyn(1, DT_STRTAB, MINI_VA + STRTAB);
	put_dyn(2, DT_STRSZ, 5);
	put_dyn(3, DT_HASH, MINI_VA + HASH);
	put_dyn(4, DT_RELA, MINI_VA + RELA);
	put_dyn(5, DT_RELASZ, sizeof(rela));
	put_dyn(6, 36 /* DT_RELR */, MINI_VA + RELR);
	put_dyn(7, 35 /* DT_RELRSZ */, sizeof(relr));
	put_dyn(8, DT_FLAGS, DF_BIND_NOW);
	put_dyn(9, DT_INIT, MINI_VA + 0x1200);
}

static void test_dynamic(void **state)
{
	(void)state;
	make_dynamic();
	struct ovm_image *image = open_mini();
	assert_true(image->is_dyn && image->bind_now && !image->is_static);
	assert_int_equal(image->init.v, MINI_VA + 0x1200);
	assert_int_equal(image->symbols.n, 1);
	assert_string_equal(ovm_image_symbol(image, ovm_va_of(MINI_VA + 0x120f))->name, "f");
	assert_null(ovm_image_symbol(image, ovm_va_of(MINI_VA + 0x1210)));
	assert_int_equal(image->relocs.n, 4);
	assert_int_equal(image->relocs.v[0].at.v, MINI_VA + GOT); /* sorted */
	assert_int_equal(ovm_image_reloc(image, ovm_va_of(MINI_VA + 0x1310))->addend, 0x99);
	assert_null(ovm_image_reloc(image, ovm_va_of(MINI_VA + 0x1308)));
	assert_string_equal(ovm_image_slot_symbol(image, ovm_va_of(MINI_VA + GOT)), "g");
	assert_null(ovm_image_slot_symbol(image, ovm_va_of(MINI_VA + 0x1180)));
	assert_int_equal(image->plts.n, 1);
	assert_string_equal(ovm_image_plt(image, ovm_va_of(MINI_VA + PLT))->symbol, "g");
	assert_null(ovm_image_plt(image, ovm_va_of(MINI_VA + PLT + 4)));
	ovm_image_close(image);
}

static void test_bad_dynamic(void **state)
{
	(void)state;
	make_dynamic();
	put_dyn(5, DT_RELASZ, UINT64_MAX);
	expect_bad(mini.v, MINI_SIZE, "relocation table");
	make_dynamic();
	put_dyn(7, 35, MINI_SIZE);
	expect_bad(mini.v, MINI_SIZE, "RELR table");
	make_dynamic();
	ovm_put64(mini.v + RELR + 8, MINI_VA + 0x1000); /* backwards */
	expect_bad(mini.v, MINI_SIZE, "out of order");
	make_dynamic();
	ovm_put64(mini.v + RELR + 8, UINT64_MAX); /* fine: all words exist */
	ovm_image_close(open_mini());
	make_dynamic();
	put_dyn(3, DT_GNU_HASH, MINI_VA + MINI_SIZE - 8); /* no room: no symbols, no crash */
	struct ovm_image *image = open_mini();
	assert_int_equal(image->symbols.n, 0);
	ovm_image_close(image);
	make_dynamic();
	ovm_put32(mini.v + HASH + 4, UINT32_MAX); /* more symbols than bytes */
	ovm_image_close(open_mini());
}

int test_image_marker(int x);
int __attribute__((noinline)) test_image_marker(int x)
{
	return x + getpid();
}

static void test_own_file(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_image *image;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open(&ctx, "/proc/self/exe", &image), 0);
	const struct ovm_symbol *found = NULL;
	for (uint32_t i = 0; i < image->symbols.n; i++) {
		if (!strcmp(image->symbols.v[i].name, "test_image_marker"))
			found = &image->symbols.v[i];
	}
	assert_non_null(found);
	assert_ptr_equal(ovm_image_symbol(image, ovm_va_add(found->va, 3)), found);
	const uint8_t *p = ovm_image_code(image, found->va, 8);
	assert_non_null(p);
	assert_memory_equal(p, (const void *)(uintptr_t)test_image_marker, 8);
	assert_true(image->eh_frame.v && image->has_interp);
	ovm_image_close(image);
	assert_int_equal(ovm_image_open(&ctx, "/", &image), OVM_E_FORMAT);
	assert_int_equal(ovm_image_open(&ctx, "/dev/null", &image), OVM_E_FORMAT);
	assert_int_equal(ovm_image_open(&ctx, "/nonexistent", &image), OVM_E_IO);
}

/* Is the page at @p in our memory? */
static bool is_present(const void *p)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	off_t at = (off_t)((uintptr_t)p / (uintptr_t)sysconf(_SC_PAGESIZE) * sizeof(entry));
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, sizeof(entry), at), sizeof(entry));
	close(fd);
	return entry >> 63;
}

static void expect_hash(const struct ovm_image *image, XXH128_hash_t due)
{
	uint64_t hash[2] = {0};
	ovm_image_hash(image, hash);
	assert_true(hash[0] == due.low64 && hash[1] == due.high64);
}

/* All of the file is hashed, and what it took is given back; the bytes are still there. */
static void test_release(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_image *image;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open(&ctx, "/proc/self/exe", &image), 0);
	uint8_t *bytes = malloc(image->size);
	assert_non_null(bytes);
	memcpy(bytes, image->bytes, image->size);
	const uint8_t *last = image->bytes + image->size - 1;
	assert_true(is_present(image->bytes) && is_present(last));
	expect_hash(image, XXH3_128bits(bytes, image->size));
	assert_false(is_present(image->bytes) || is_present(last));
	assert_memory_equal(image->bytes, bytes, image->size);
	ovm_image_release(image, image->bytes + 1, 100); /* no whole page */
	ovm_image_release(image, bytes, image->size);	 /* not the file's */
	ovm_image_release(image, last, 2);		 /* beyond it */
	assert_true(is_present(image->bytes) && is_present(bytes) && is_present(last));
	ovm_image_close(image);
	free(bytes);
	make_dynamic();
	image = open_mini(); /* not mapped: nothing can be read again */
	expect_hash(image, XXH3_128bits(mini.v, MINI_SIZE));
	assert_true(is_present(mini.v) && !memcmp(mini.v, ELFMAG, SELFMAG));
	ovm_image_close(image);
}

/* Random damage to a file with everything in it must not crash (run with sanitizers). */
static void test_damage(void **state)
{
	(void)state;
	uint64_t x = 88172645463325252u;
	static struct mini good;
	make_dynamic();
	good = mini;
	for (unsigned round = 0; round < 20000; round++) {
		struct ovm_ctx ctx;
		struct ovm_image *image;
		mini = good;
		for (unsigned k = 0; k < 1 + round % 4; k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			uint64_t at = x % 3 == 0 ? DYN + (x >> 8) % 160 : (x >> 8) % 0x1400;
			mini.v[at] = (uint8_t)(x >> 40);
		}
		ovm_ctx_init(&ctx);
		if (!ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "mini", &image))
			ovm_image_close(image);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_minimum),	 cmocka_unit_test(test_bad_header),
	    cmocka_unit_test(test_bad_segments), cmocka_unit_test(test_relro_and_rights),
	    cmocka_unit_test(test_notes),	 cmocka_unit_test(test_dynamic),
	    cmocka_unit_test(test_bad_dynamic),	 cmocka_unit_test(test_own_file),
	    cmocka_unit_test(test_release),	 cmocka_unit_test(test_damage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
