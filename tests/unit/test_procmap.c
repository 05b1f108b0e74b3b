/* procmap.c and elfid.c: mappings over time, files that are not what they seem, hostile ELF
 * headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/vec.h"
#include "profiler/elfid.h"
#include "profiler/procmap.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUILD_ID_LEN = 20 };

/* A small ELF file: text at file offset 0x1000 = address 0x401000, data at 0x2010 = 0x403010, a
 * build-id note if wanted. */
struct file {
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdrs[3];
	struct {
		Elf64_Nhdr head;
		char name[4];
		uint8_t desc[BUILD_ID_LEN];
	} note;
};

static struct file make_file(bool has_build_id)
{
	struct file file = {
	    .ehdr = {.e_type = ET_EXEC,
		     .e_machine = EM_X86_64,
		     .e_phoff = offsetof(struct file, phdrs),
		     .e_phentsize = sizeof(Elf64_Phdr),
		     .e_phnum = has_build_id ? 3 : 2},
	    .phdrs = {{.p_type = PT_LOAD,
		       .p_flags = PF_R | PF_X,
		       .p_offset = 0x1000,
		       .p_vaddr = 0x401000,
		       .p_filesz = 0x1010},
		      {.p_type = PT_LOAD,
		       .p_flags = PF_R | PF_W,
		       .p_offset = 0x2010,
		       .p_vaddr = 0x403010,
		       .p_filesz = 0x100},
		      {.p_type = PT_NOTE,
		       .p_offset = offsetof(struct file, note),
		       .p_filesz = sizeof(file.note)}},
	    .note = {.head = {4, BUILD_ID_LEN, NT_GNU_BUILD_ID}, .name = "GNU"},
	};
	memcpy(file.ehdr.e_ident, ELFMAG, SELFMAG);
	file.ehdr.e_ident[EI_CLASS] = ELFCLASS64;
	file.ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
	memset(file.note.desc, 0xab, BUILD_ID_LEN);
	return file;
}

static int open_bytes(const void *bytes, size_t n)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	return fd;
}

/* A file of that content in the file system; caller unlinks and frees. */
static char *write_bytes(const void *bytes, size_t n)
{
	char *path = ovm_strdup("/tmp/test_procmap.XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	close(fd);
	return path;
}

/* --- elfid
 * ---------------------------------------------------------------------------------------------------
 */

static int read_bytes(const void *bytes, size_t n, struct ovm_elfid *id)
{
	struct ovm_ctx ctx;
	int fd = open_bytes(bytes, n);
	ovm_ctx_init(&ctx);
	int rc = ovm_elfid_read(&ctx, fd, "test", id);
	close(fd);
	return rc;
}

static void test_elfid_ids(void **state)
{
	(void)state;
	struct file file = make_file(true);
	struct ovm_elfid id = {0};
	assert_int_equal(read_bytes(&file, sizeof(file), &id), OVM_OK);
	assert_true(id.has_build_id);
	assert_string_equal(id.id, "abababababababababababababababababababab");
	ovm_elfid_fini(&id);

	file = make_file(false);
	assert_int_equal(read_bytes(&file, sizeof(file), &id), OVM_OK);
	assert_false(id.has_build_id);
	assert_int_equal(strncmp(id.id, "xxh3-", 5), 0);
	assert_int_equal(strlen(id.id), 5 + 32);
	char first[sizeof(id.id)];
	strcpy(first, id.id);
	ovm_elfid_fini(&id);
	file.note.desc[0]++;
	assert_int_equal(read_bytes(&file, sizeof(file), &id), OVM_OK);
	assert_string_not_equal(id.id, first);
	ovm_elfid_fini(&id);
}

static void test_elfid_addresses(void **state)
{
	(void)state;
	struct file file = make_file(true);
	struct ovm_elfid id = {0};
	ovm_va va = {1};
	assert_int_equal(read_bytes(&file, sizeof(file), &id), OVM_OK);
	assert_true(ovm_elfid_va(&id, ovm_off_of(0x1000), &va));
	assert_int_equal(va.v, 0x401000);
	assert_true(ovm_elfid_va(&id, ovm_off_of(0x200f), &va)); /* last byte of the text */
	assert_int_equal(va.v, 0x40200f);
	assert_true(ovm_elfid_va(&id, ovm_off_of(0x2010), &va)); /* shared page: still code */
	assert_int_equal(va.v, 0x402010);
	assert_false(ovm_elfid_va(&id, ovm_off_of(0xfff), &va));
	assert_false(ovm_elfid_va(&id, ovm_off_of(0x3000), &va));
	assert_false(ovm_elfid_va(&id, ovm_off_of(UINT64_MAX), &va));
	ovm_elfid_fini(&id);
}

static void test_elfid_hostile(void **state)
{
	(void)state;
	const struct file good = make_file(true);
	struct ovm_elfid id = {0};
	for (size_t n = 0; n < offsetof(struct file, note); n++)
		assert_int_equal(read_bytes(&good, n, &id), OVM_E_FORMAT);
	for (size_t n = offsetof(struct file, note);
	     n < offsetof(struct file, note) + sizeof(good.note); n++) { /* no whole note: hashed */
		assert_int_equal(read_bytes(&good, n, &id), OVM_OK);
		assert_false(id.has_build_id);
		ovm_elfid_fini(&id);
	}
	uint64_t rng = 88172645463325252u;
	for (int round = 0; round < 3000; round++) {
		struct file bad = good;
		for (int k = 0; k < 3; k++) {
			rng ^= rng << 13;
			rng ^= rng >> 7;
			rng ^= rng << 17;
			((uint8_t *)&bad)[rng % sizeof(bad)] = (uint8_t)(rng >> 32);
		}
		ovm_va va;
		if (read_bytes(&bad, sizeof(bad), &id) == OVM_OK) {
			ovm_elfid_va(&id, ovm_off_of(rng % 0x4000), &va);
			ovm_elfid_fini(&id);
		}
	}
}

/* --- procmap
 * -------------------------------------------------------------------------------------------------
 */

static struct ovm_sample mmap_record(const char *path, uint32_t pid, uint64_t addr, uint64_t len,
				     uint64_t off)
{
	struct stat st = {0};
	(void)!stat(path, &st);
	return (struct ovm_sample){.kind = OVM_RECORD_MMAP,
				   .pid = pid,
				   .tid = pid,
				   .addr = addr,
				   .len = len,
				   .file_offset = off,
				   .dev = st.st_dev,
				   .inode = st.st_ino,
				   .is_exec = true,
				   .path = path};
}

/* Link-time address that @rta of @pid resolves to; 0 if to none. */
static uint64_t resolve(struct ovm_procmap *map, uint32_t pid, uint64_t rta)
{
	ovm_va va = {0};
	return ovm_procmap_resolve(map, (pid_t)pid, ovm_rta_of(rta), &va) == OVM_NONE ? 0 : va.v;
}

/* Numbers no process of this machine has. */
enum { PID = 0x7ffffff0, CHILD = PID + 1 };

static void test_mmap_and_holes(void **state)
{
	(void)state;
	struct file file = make_file(true);
	char *path = write_bytes(&file, sizeof(file));
	struct ovm_procmap *map = ovm_procmap_new();
	assert_int_equal(resolve(map, PID, 0x7000), 0);

	struct ovm_sample record = mmap_record(path, PID, 0x10000, 0x2000, 0x1000);
	ovm_procmap_apply(map, &record);
	assert_int_equal(resolve(map, PID, 0xffff), 0);
	assert_int_equal(resolve(map, PID, 0x10000), 0x401000);
	assert_int_equal(resolve(map, PID, 0x11fff), 0x402fff);
	assert_int_equal(resolve(map, PID, 0x12000), 0);
	assert_int_equal(resolve(map, CHILD, 0x10000), 0);
	assert_string_equal(ovm_procmap_module_path(map, 0), path);
	assert_string_equal(ovm_procmap_module_id(map, 0),
			    "abababababababababababababababababababab");

	struct ovm_sample anon = mmap_record("//anon", PID, 0x10800, 0x100, 0);
	ovm_procmap_apply(map, &anon); /* a hole in the middle */
	assert_int_equal(resolve(map, PID, 0x107ff), 0x4017ff);
	assert_int_equal(resolve(map, PID, 0x10800), 0);
	assert_int_equal(resolve(map, PID, 0x108ff), 0);
	assert_int_equal(resolve(map, PID, 0x10900), 0x401900);

	anon = mmap_record("//anon", PID, 0xf000, 0x1100, 0); /* over the beginning */
	ovm_procmap_apply(map, &anon);
	assert_int_equal(resolve(map, PID, 0x10000), 0);
	assert_int_equal(resolve(map, PID, 0x10100), 0x401100);

	anon = mmap_record("//anon", PID, 0, UINT64_MAX, 0); /* over everything */
	ovm_procmap_apply(map, &anon);
	assert_int_equal(resolve(map, PID, 0x10100), 0);
	anon = mmap_record("//anon", PID, UINT64_MAX - 5, 100, 0); /* wraps around: ignored */
	ovm_procmap_apply(map, &anon);
	assert_int_equal(ovm_procmap_n_modules(map), 1);
	ovm_procmap_free(map);
	unlink(path);
	free(path);
}

static void test_fork_exec_exit(void **state)
{
	(void)state;
	struct file file = make_file(true);
	char *path = write_bytes(&file, sizeof(file));
	struct ovm_procmap *map = ovm_procmap_new();
	struct ovm_sample mapped = mmap_record(path, PID, 0x10000, 0x1000, 0x1000);
	struct ovm_sample thread = {.kind = OVM_RECORD_FORK, .pid = PID, .tid = 5, .ppid = PID};
	struct ovm_sample fork = {.kind = OVM_RECORD_FORK, .pid = CHILD, .tid = CHILD, .ppid = PID};
	struct ovm_sample exec = {.kind = OVM_RECORD_COMM, .pid = CHILD, .is_exec = true};
	struct ovm_sample exit_thread = {.kind = OVM_RECORD_EXIT, .pid = PID, .tid = 5};

	ovm_procmap_apply(map, &mapped);
	ovm_procmap_apply(map, &thread);
	ovm_procmap_apply(map, &fork);
	assert_int_equal(resolve(map, CHILD, 0x10000), 0x401000);
	ovm_procmap_apply(map, &exec);
	assert_int_equal(resolve(map, CHILD, 0x10000), 0);
	assert_int_equal(resolve(map, PID, 0x10000), 0x401000);
	exec.is_exec = false; /* only a new name */
	exec.pid = PID;
	ovm_procmap_apply(map, &exec);
	ovm_procmap_apply(map, &exit_thread); /* one of two threads */
	assert_int_equal(resolve(map, PID, 0x10000), 0x401000);
	ovm_procmap_apply(map, &exit_thread);
	assert_int_equal(resolve(map, PID, 0x10000), 0);
	assert_true(ovm_procmap_n_processes(map) >= 2);
	ovm_procmap_free(map);
	unlink(path);
	free(path);
}

static void test_wrong_files(void **state)
{
	(void)state;
	struct file file = make_file(true);
	uint8_t other[BUILD_ID_LEN];
	char *path = write_bytes(&file, sizeof(file));
	struct ovm_procmap *map = ovm_procmap_new();
	struct ovm_sample record = mmap_record(path, PID, 0x10000, 0x1000, 0x1000);

	memset(other, 0x11,
	       sizeof(other)); /* the mapped file had another build-id: replaced since */
	record.build_id = other;
	record.build_id_len = sizeof(other);
	ovm_procmap_apply(map, &record);
	assert_int_equal(resolve(map, PID, 0x10000), 0);

	memset(other, 0xab, sizeof(other)); /* the same path, now as it is */
	ovm_procmap_apply(map, &record);
	assert_int_equal(resolve(map, PID, 0x10000), 0x401000);

	record.build_id = NULL; /* another inode, and the file is newer than the map */
	record.inode = UINT64_MAX; /* the next number may be that of the new file */
	char *newer = write_bytes(&file, sizeof(file));
	record.path = newer;
	ovm_procmap_apply(map, &record);
	assert_int_equal(resolve(map, PID, 0x10000), 0);

	char *deleted = ovm_asprintf("%s (deleted)", path);
	record = mmap_record(path, PID, 0x10000, 0x1000, 0x1000);
	record.path = deleted; /* but the inode is still there under that name */
	ovm_procmap_apply(map, &record);
	assert_int_equal(resolve(map, PID, 0x10000), 0x401000);

	record = mmap_record("/dev/zero", PID, 0x10000, 0x1000, 0);
	ovm_procmap_apply(map, &record);
	record = mmap_record("/tmp", PID, 0x20000, 0x1000, 0);
	ovm_procmap_apply(map, &record);
	record = mmap_record("[vdso]", PID, 0x30000, 0x1000, 0);
	ovm_procmap_apply(map, &record);
	record = mmap_record("", PID, 0x40000, 0x1000, 0);
	ovm_procmap_apply(map, &record);
	for (uint64_t at = 0x10000; at <= 0x40000; at += 0x10000)
		assert_int_equal(resolve(map, PID, at), 0);
	ovm_procmap_free(map);
	unlink(path);
	unlink(newer);
	free(path);
	free(newer);
	free(deleted);
}

static void test_scan(void **state)
{
	(void)state;
	struct ovm_procmap *map = ovm_procmap_new();
	ovm_va va;
	ovm_rta here = ovm_rta_of((uint64_t)(uintptr_t)&test_scan);
	char path[4096] = {0};
	assert_true(readlink("/proc/self/exe", path, sizeof(path) - 1) > 0);
	uint32_t module = ovm_procmap_resolve(map, getpid(), here, &va); /* scans by itself */
	assert_int_not_equal(module, OVM_NONE);
	assert_string_equal(ovm_procmap_module_path(map, module), path);
	assert_int_equal(va.v & 4095, here.v & 4095);
	assert_true(ovm_procmap_scan(map, getpid()));
	assert_int_equal(ovm_procmap_resolve(map, getpid(), here, &va), module);
	assert_false(ovm_procmap_scan(map, PID));
	ovm_procmap_free(map);
	ovm_procmap_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_elfid_ids),	   cmocka_unit_test(test_elfid_addresses),
	    cmocka_unit_test(test_elfid_hostile),  cmocka_unit_test(test_mmap_and_holes),
	    cmocka_unit_test(test_fork_exec_exit), cmocka_unit_test(test_wrong_files),
	    cmocka_unit_test(test_scan),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
