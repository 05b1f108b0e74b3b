/* The ELF writer with an overlay of nops: the output must run, undo must give the input back byte
 * by byte, and no failure may leave a file. */
#include "rewriter/elf_write.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { OVERLAY_SIZE = 300, RAN = 42 };

static char folder[64];

static const char *in_folder(const char *name)
{
	static char paths[4][128];
	static unsigned turn;
	char *path = paths[turn++ % 4];
	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static uint8_t *slurp(const char *path, size_t *size)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0 && !fstat(fd, &st));
	uint8_t *bytes = malloc((size_t)st.st_size + 1);
	for (size_t done = 0; done < (size_t)st.st_size;) {
		ssize_t n = read(fd, bytes + done, (size_t)st.st_size - done);
		assert_true(n > 0);
		done += (size_t)n;
	}
	close(fd);
	*size = (size_t)st.st_size;
	return bytes;
}

static void spit(const char *path, const uint8_t *bytes, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, size), size);
	close(fd);
}

/* Rewrite @in with an overlay that holds nops and, if @patch, a patch that writes the bytes that
 * are there already. */
static int rewrite_file(struct ovm_ctx *ctx, const char *in, const char *out, bool force,
			bool patch)
{
	struct ovm_image *image;
	struct ovm_regions regions = {0};
	struct ovm_overlay overlay = {.size = OVERLAY_SIZE};
	ovm_ctx_init(ctx);
	int err = ovm_image_open(ctx, in, &image);
	if (err)
		return err;
	err = ovm_elf_plan(ctx, image, &overlay.base);
	overlay.bytes = malloc(OVERLAY_SIZE);
	memset(overlay.bytes, 0x90, OVERLAY_SIZE);
	overlay.sections[OVM_SECTION_HOT] = (struct ovm_section){0, 200};
	overlay.sections[OVM_SECTION_TABLES] = (struct ovm_section){208, 92};
	ovm_vec_push(&overlay.map.v,
		     (struct ovm_map_entry){.old = image->entry, .new_len = 1, .old_len = 1});
	if (!err && patch) {
		struct ovm_patch p = {.at = image->entry, .len = 5};
		memcpy(p.old_bytes, ovm_image_code(image, image->entry, 5), 5);
		memcpy(p.new_bytes, p.old_bytes, 5);
		ovm_vec_push(&overlay.patches, p);
	}
	if (!err) {
		assert_int_equal(overlay.base.v % 64, 0);
		assert_true(overlay.base.v >= image->hi.v);
		err = ovm_elf_write(ctx, image, &regions, &overlay,
				    &(struct ovm_elf_opts){.force = force}, out);
	}
	free(overlay.bytes);
	ovm_vec_free(&overlay.map.v);
	ovm_vec_free(&overlay.patches);
	ovm_image_close(image);
	return err;
}

static int run(const char *path)
{
	int status;
	pid_t pid = fork();
	if (!pid) {
		execl(path, path, "--run", (char *)NULL);
		_exit(126);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static const uint8_t *at_va(const uint8_t *bytes, uint64_t va)
{
	const Elf64_Ehdr *eh = (const void *)bytes;
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		const Elf64_Phdr *ph = (const Elf64_Phdr *)(bytes + eh->e_phoff) + i;
		if (ph->p_type == PT_LOAD && va - ph->p_vaddr < ph->p_filesz)
			return bytes + ph->p_offset + (va - ph->p_vaddr);
	}
	return NULL;
}

static uint64_t uleb(const uint8_t **p)
{
	uint64_t value = 0;
	for (unsigned shift = 0;; shift += 7) {
		uint8_t byte = *(*p)++;
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return value;
	}
}

/* Undo as documented in elf_write.h and compare with the original. */
static void check_undo(const char *in, const char *out)
{
	size_t n_in, n_out;
	uint8_t *original = slurp(in, &n_in), *bytes = slurp(out, &n_out);
	const Elf64_Ehdr *eh = (const void *)bytes;
	struct ovm_note note = {0};
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		const Elf64_Phdr *ph = (const Elf64_Phdr *)(bytes + eh->e_phoff) + i;
		if (ph->p_type == PT_LOAD && ph->p_filesz > 84 + sizeof(note) &&
		    !memcmp(bytes + ph->p_offset + 64 + 12, "optvm", 6))
			memcpy(&note, bytes + ph->p_offset + 84, sizeof(note));
	}
	assert_int_equal(note.version, OVM_NOTE_VERSION);
	assert_int_equal(note.original_size, n_in);
	const uint8_t *undo = at_va(bytes, note.undo);
	assert_non_null(undo);
	for (uint64_t at = 0;;) {
		at += uleb(&undo);
		uint64_t len = uleb(&undo);
		if (!len)
			break;
		assert_true(at + len <= n_in);
		memcpy(bytes + at, undo, len);
		undo += len;
		at += len;
	}
	assert_memory_equal(bytes, original, n_in);
	free(original);
	free(bytes);
}

static void check_whole(const char *in, const char *out)
{
	struct ovm_ctx ctx;
	assert_int_equal(rewrite_file(&ctx, in, out, false, true), 0);
	assert_int_equal(run(out), RAN);
	check_undo(in, out);
	assert_int_equal(rewrite_file(&ctx, out, in_folder("twice"), false, false), OVM_E_MISMATCH);
	struct stat a, b;
	assert_true(!stat(in, &a) && !stat(out, &b));
	assert_int_equal(a.st_mode & 0777, b.st_mode & 0777);
	struct ovm_image *x, *y;
	assert_int_equal(ovm_image_open(&ctx, in, &x), 0);
	assert_int_equal(ovm_image_open(&ctx, out, &y), 0);
	assert_int_equal(x->build_id_len, y->build_id_len);
	if (x->build_id_len)
		assert_memory_not_equal(x->build_id, y->build_id, x->build_id_len);
	ovm_image_close(x);
	ovm_image_close(y);
	unlink(out);
}

static void test_self(void **state)
{
	(void)state;
	check_whole("/proc/self/exe", in_folder("self"));
}

static uint8_t *self_without_property(size_t *size)
{
	uint8_t *bytes = slurp("/proc/self/exe", size);
	const Elf64_Ehdr *eh = (const void *)bytes;
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr *ph = (Elf64_Phdr *)(bytes + eh->e_phoff) + i;
		if (ph->p_type == PT_GNU_PROPERTY)
			ph->p_type = 0x6fffffff; /* a type nobody knows */
	}
	return bytes;
}

static void test_grown_table(void **state)
{
	(void)state;
	size_t size;
	uint8_t *bytes = self_without_property(&size);
	spit(in_folder("plain"), bytes, size);
	check_whole(in_folder("plain"), in_folder("grown"));
	free(bytes);
}

static void test_no_section_headers(void **state)
{
	(void)state;
	size_t size;
	uint8_t *bytes = slurp("/proc/self/exe", &size);
	Elf64_Ehdr *eh = (void *)bytes;
	eh->e_shoff = 0;
	eh->e_shnum = eh->e_shstrndx = 0;
	spit(in_folder("headless"), bytes, size);
	check_whole(in_folder("headless"), in_folder("headless.out"));
	free(bytes);
	bytes = self_without_property(&size);
	eh = (void *)bytes;
	eh->e_shoff = 0;
	eh->e_shnum = eh->e_shstrndx = 0;
	spit(in_folder("bare"), bytes, size);
	check_whole(in_folder("bare"), in_folder("bare.out"));
	free(bytes);
}

static void test_deterministic(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	size_t n, m;
	assert_int_equal(rewrite_file(&ctx, "/proc/self/exe", in_folder("a"), false, false), 0);
	assert_int_equal(rewrite_file(&ctx, "/proc/self/exe", in_folder("b"), false, false), 0);
	uint8_t *a = slurp(in_folder("a"), &n), *b = slurp(in_folder("b"), &m);
	assert_int_equal(n, m);
	assert_memory_equal(a, b, n);
	free(a);
	free(b);
}

static void test_refuses_to_overwrite(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	size_t size;
	uint8_t *bytes = slurp("/proc/self/exe", &size);
	const char *in = in_folder("input"), *out = in_folder("output");
	spit(in, bytes, size);
	spit(out, bytes, 10);
	assert_int_equal(rewrite_file(&ctx, in, in, true, false), OVM_E_USAGE);
	assert_int_equal(rewrite_file(&ctx, in, out, false, false), OVM_E_USAGE);
	assert_int_equal(rewrite_file(&ctx, in, out, true, false), 0);
	assert_int_equal(run(out), RAN);
	assert_int_equal(rewrite_file(&ctx, in, folder, true, false), OVM_E_USAGE);
	assert_int_not_equal(rewrite_file(&ctx, in, in_folder("no/such"), false, false), 0);
	free(bytes);
}

static unsigned count_files(void)
{
	char command[128];
	unsigned n = 0;
	snprintf(command, sizeof(command), "ls %s | wc -l", folder);
	FILE *f = popen(command, "r");
	assert_int_equal(fscanf(f, "%u", &n), 1);
	pclose(f);
	return n;
}

/* A full disk, played by a limit on file size: an error, and nothing stays. */
static void test_no_space(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct rlimit old, low;
	unsigned before = count_files();
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	low = old;
	for (rlim_t limit = 0; limit < 200000; limit += 50000) {
		low.rlim_cur = limit;
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
		int err = rewrite_file(&ctx, "/proc/self/exe", in_folder("full"), false, false);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
		assert_int_equal(err, OVM_E_IO);
	}
	assert_int_equal(count_files(), before);
}

static void test_wrong_base_and_patch(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct ovm_regions regions = {0};
	uint8_t nops[64] = {0x90};
	struct ovm_overlay overlay = {.bytes = nops, .size = sizeof(nops)};
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open(&ctx, "/proc/self/exe", &image), 0);
	assert_int_equal(ovm_elf_plan(&ctx, image, &overlay.base), 0);
	struct ovm_elf_opts opts = {0};
	overlay.base.v += 64;
	assert_int_equal(ovm_elf_write(&ctx, image, &regions, &overlay, &opts, in_folder("x")),
			 OVM_E_INTERNAL);
	overlay.base.v -= 64;
	ovm_vec_push(&overlay.patches, (struct ovm_patch){.at = image->entry, .len = 5});
	assert_int_equal(ovm_elf_write(&ctx, image, &regions, &overlay, &opts, in_folder("x")),
			 OVM_E_INTERNAL);
	assert_int_not_equal(access(in_folder("x"), F_OK), 0);
	ovm_vec_free(&overlay.patches);
	ovm_image_close(image);
}

/* Damaged headers: any answer but a crash. */
static void test_hostile_headers(void **state)
{
	(void)state;
	size_t size;
	uint8_t *bytes = slurp("/proc/self/exe", &size);
	unsigned seed = 1;
	for (int i = 0; i < 150; i++) {
		uint8_t save[1024];
		const Elf64_Ehdr *eh = (const void *)bytes;
		uint64_t at = i & 1 && eh->e_shoff + sizeof(save) < size ? eh->e_shoff : 0;
		struct ovm_ctx ctx;
		memcpy(save, bytes + at, sizeof(save));
		for (int k = 0; k < 4; k++) {
			seed = seed * 1103515245 + 12345;
			bytes[at + 24 + (seed >> 8) % (sizeof(save) - 24)] = (uint8_t)(seed >> 24);
		}
		spit(in_folder("hostile"), bytes, size);
		rewrite_file(&ctx, in_folder("hostile"), in_folder("hostile.out"), true, false);
		memcpy(bytes + at, save, sizeof(save));
	}
	free(bytes);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--run"))
		return RAN;
	snprintf(folder, sizeof(folder), "/tmp/ovm-elf-XXXXXX");
	if (!mkdtemp(folder))
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_self),
	    cmocka_unit_test(test_grown_table),
	    cmocka_unit_test(test_no_section_headers),
	    cmocka_unit_test(test_deterministic),
	    cmocka_unit_test(test_refuses_to_overwrite),
	    cmocka_unit_test(test_no_space),
	    cmocka_unit_test(test_wrong_base_and_patch),
	    cmocka_unit_test(test_hostile_headers),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command) ? 1 : failed;
}
