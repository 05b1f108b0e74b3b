/* A rewritten library is proved, undone, and its profile moved back; thousands of mutants of it are
 * all found, and most of those of the overlay by the proof itself, not by a checksum.
 *
 * The library is the C++ runtime that this test is linked with: exceptions, jump tables, patches.
 */
#include "analyzer/image_private.h"
#include "rewriter/check_private.h"
#include "rewriter/elf_private.h"
#include "rewriter/elf_profile.h"
#include "rewriter/elf_verify.h"
#include "rewriter/engine.h"

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
enum { N_MUTANTS = 300 };
#else
enum { N_MUTANTS = 2080 };
#endif
enum { N_REGIONS = 120 };

static struct {
	struct ovm_ctx ctx;
	struct ovm_decoder *dec;
	struct ovm_image *in, *out;
	struct ovm_profile *prof;
	struct ovm_overlay overlay; /* read back */
	struct ovm_regions regions;
	struct ovm_note note;
	uint8_t *bytes; /* of out, writable */
	char path[64];
} t;

static void find_library(char *path, size_t size)
{
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");
	path[0] = 0;
	while (maps && fgets(line, sizeof(line), maps)) {
		char *name = strchr(line, '/');
		if (!name || !strstr(name, "++.so"))
			continue;
		name[strcspn(name, "\n")] = 0;
		snprintf(path, size, "%s", name);
		break;
	}
	if (maps)
		fclose(maps);
}

/* Regions whose jump tables can be copied get samples. */
static void sample_tables(struct ovm_prof_module *module)
{
	struct ovm_engine engine;
	struct ovm_engine_opts opts = {
	    .uniform = true, .share = 1, .layout.keep_block_order = true};
	assert_int_equal(ovm_elf_plan(&t.ctx, t.in, &opts.base), 0);
	assert_int_equal(ovm_engine_run(&t.ctx, t.dec, t.in, NULL, &opts, &engine), 0);
	for (uint32_t i = 0; i < engine.overlay.tables.n; i++)
		ovm_vec_push(
		    &module->samples,
		    (struct ovm_prof_sample){engine.overlay.tables.v[i].old_jump, 20 + i % 5});
	ovm_engine_fini(&engine);
}

/* Samples in some regions, many with exception tables, and in those with jump tables. */
static void make_profile(void)
{
	struct ovm_regions regions;
	uint32_t n = 0;
	assert_int_equal(ovm_regions_build(&t.ctx, t.in, &regions), 0);
	t.prof = ovm_profile_new();
	struct ovm_prof_module *module = ovm_profile_module(t.prof, t.in->id, t.in->path);
	for (uint32_t i = 0; i < regions.v.n && n < N_REGIONS; i++) {
		const struct ovm_region *region = &regions.v.v[i];
		if (region->is_plt || (i % 16 && !(region->lsda.v && i % 2)) ||
		    region->hi.v - region->lo.v > 3000)
			continue;
		ovm_vec_push(&module->samples, (struct ovm_prof_sample){region->lo, 10 + i % 7});
		n++;
	}
	sample_tables(module);
	ovm_profile_normalize(t.prof);
	ovm_regions_free(&regions);
}

static int set_up(void **state)
{
	(void)state;
	char library[256];
	struct ovm_engine engine;
	struct ovm_engine_opts opts = {.share = 1};
	ovm_ctx_init(&t.ctx);
	find_library(library, sizeof(library));
	snprintf(t.path, sizeof(t.path), "/tmp/ovm-verify-%d", (int)getpid());
	if (!library[0] || ovm_image_open(&t.ctx, library, &t.in))
		return 1;
	assert_int_equal(ovm_decoder_open(&t.ctx, &t.dec), 0);
	make_profile();
	assert_int_equal(ovm_elf_plan(&t.ctx, t.in, &opts.base), 0);
	assert_int_equal(
	    ovm_engine_run(&t.ctx, t.dec, t.in, ovm_profile_find(t.prof, t.in->id), &opts, &engine),
	    0);
	struct ovm_elf_opts elf = {.force = true, .profile_hash = "test"};
	assert_int_equal(
	    ovm_elf_write(&t.ctx, t.in, &engine.regions, &engine.overlay, &elf, t.path), 0);
	ovm_engine_fini(&engine);
	assert_int_equal(ovm_image_open(&t.ctx, t.path, &t.out), 0);
	assert_int_equal(ovm_elf_note(&t.ctx, t.out, &t.note), 0);
	assert_int_equal(ovm_regions_build(&t.ctx, t.in, &t.regions), 0);
	assert_int_equal(ovm_elf_overlay(&t.ctx, t.out, t.in, &t.regions, &t.overlay), 0);
	t.bytes = malloc(t.out->size);
	memcpy(t.bytes, t.out->bytes, t.out->size);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(t.bytes);
	ovm_elf_overlay_fini(&t.overlay);
	ovm_regions_free(&t.regions);
	ovm_profile_free(t.prof);
	ovm_decoder_close(t.dec);
	ovm_image_close(t.in);
	ovm_image_close(t.out);
	unlink(t.path);
	return 0;
}

static int verify_bytes(uint64_t size, struct ovm_verify_result *result)
{
	struct ovm_image *image;
	*result = (struct ovm_verify_result){.by = OVM_VERIFY_FORM};
	int err = ovm_image_open_bytes(&t.ctx, t.bytes, size, "mutant", &image);
	if (err)
		return err;
	err = ovm_elf_verify(&t.ctx, t.in, image, result);
	ovm_image_close(image);
	return err;
}

static void test_proves(void **state)
{
	struct ovm_verify_result result;
	(void)state;
	assert_int_equal(verify_bytes(t.out->size, &result), 0);
	assert_false(result.only_loaded);
	assert_true(result.n_pairs > 1000 && result.n_patches > 5 && result.n_fdes > 50);
	assert_true(t.overlay.sections[OVM_SECTION_LSDA].size > 100);
	assert_int_equal(ovm_elf_verify(&t.ctx, t.in, t.in, &result), OVM_E_MISMATCH);
	assert_int_equal(ovm_elf_verify(&t.ctx, t.out, t.out, &result), OVM_E_MISMATCH);
}

/* --- mutants
 * -------------------------------------------------------------------------------------------- */

struct part { /* of the file, in which bytes are changed */
	const char *name;
	uint64_t off, size;
	unsigned n, by_proof;
};

static uint64_t off_of(uint64_t va)
{
	ovm_off off;
	assert_true(ovm_image_va_to_off(t.out, ovm_va_of(va), &off));
	return off.v;
}

static unsigned random_below(unsigned n)
{
	static uint64_t seed = 88172645463325252u;
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed % n);
}

static void mutate(struct part *part)
{
	struct ovm_verify_result result;
	uint64_t at = part->off + random_below((unsigned)part->size);
	if (part->size == 5) { /* one of the patches */
		uint32_t i = random_below(t.overlay.patches.n);
		at = off_of(t.overlay.patches.v[i].at.v) + random_below(5);
	}
	uint8_t old = t.bytes[at];
	t.bytes[at] ^= (uint8_t)(random_below(2) ? 1u << random_below(8) : 1 + random_below(255));
	int rc = verify_bytes(t.out->size, &result);
	if (rc == 0 || (rc == OVM_REFUSED && !result.reason[0]))
		fail_msg("%s: byte 0x%llx changed from 0x%02x to 0x%02x is not found", part->name,
			 (unsigned long long)at, old, t.bytes[at]);
	if (rc == OVM_REFUSED && result.by <= OVM_VERIFY_PROOF)
		part->by_proof++;
	part->n++;
	t.bytes[at] = old;
}

static struct part section(const char *name, enum ovm_section_kind kind)
{
	const struct ovm_section *s = &t.overlay.sections[kind];
	return (struct part){name, off_of(t.overlay.base.v + s->off), s->size, 0, 0};
}

static void test_mutants(void **state)
{
	(void)state;
	struct part parts[] = {
	    section("code", OVM_SECTION_HOT),
	    section("cold code", OVM_SECTION_COLD),
	    section("tables", OVM_SECTION_TABLES),
	    section("lsda", OVM_SECTION_LSDA),
	    section("eh_frame", OVM_SECTION_EH_FRAME),
	    section("eh_frame_hdr", OVM_SECTION_EH_FRAME_HDR),
	    {"map", off_of(t.note.map), t.note.map_size, 0, 0},
	    {"patches", off_of(t.overlay.patches.v[0].at.v), 5, 0, 0},
	    {"note", off_of(t.note.overlay) - sizeof(t.note), sizeof(t.note), 0, 0},
	    {"undo", off_of(t.note.undo), t.note.undo_size, 0, 0},
	    {"original", 0, t.in->size, 0, 0},
	    {"headers", 0, 1024, 0, 0},
	    {"the rest", t.in->size, t.out->size - t.in->size, 0, 0},
	};
	unsigned n_parts = sizeof(parts) / sizeof(parts[0]), used = 0;
	for (unsigned i = 0; i < n_parts; i++)
		used += parts[i].size > 0;
	for (unsigned i = 0; i < n_parts; i++)
		for (unsigned k = 0; parts[i].size && k < N_MUTANTS / used + 1; k++)
			mutate(&parts[i]);
	for (unsigned i = 0; i < n_parts; i++)
		print_message("%-12s %8llu bytes: %u mutants, %u found before bytes are compared\n",
			      parts[i].name, (unsigned long long)parts[i].size, parts[i].n,
			      parts[i].by_proof);
	assert_true(parts[0].by_proof * 10 >= parts[0].n * 8);
	assert_true(parts[5].by_proof == parts[5].n);
	assert_true(parts[7].by_proof == parts[7].n);
}

static void test_truncated(void **state)
{
	(void)state;
	struct ovm_verify_result result;
	for (uint64_t size = 0; size < t.out->size; size += t.out->size / 40 + 1)
		assert_int_not_equal(verify_bytes(size, &result), 0);
}

/* --- undo
 * -------------------------------------------------------------------------------------------- */

/* What ovm_elf_undo returns; its output must be the original if it claims so. */
static int undo(const struct ovm_image *image)
{
	int fd = memfd_create("undone", MFD_CLOEXEC), err = ovm_elf_undo(&t.ctx, image, fd);
	if (!err) {
		struct stat st;
		uint8_t *bytes = malloc(t.in->size);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_size, t.in->size);
		assert_int_equal(pread(fd, bytes, t.in->size, 0), t.in->size);
		assert_memory_equal(bytes, t.in->bytes, t.in->size);
		free(bytes);
	}
	close(fd);
	return err;
}

static void test_undo(void **state)
{
	struct ovm_image *original;
	(void)state;
	assert_int_equal(undo(t.out), 0);
	assert_int_equal(undo(t.in), OVM_E_MISMATCH);
	assert_int_equal(ovm_elf_open_original(&t.ctx, t.out, &original), 0);
	assert_string_equal(original->id, t.in->id);
	assert_string_equal(original->path, t.out->path);
	ovm_image_close(original);
}

/* Anything but the original, or a crash, would be wrong. */
static void test_undo_of_mutants(void **state)
{
	(void)state;
	for (int i = 0; i < N_MUTANTS / 8; i++) {
		uint64_t at = i & 1 ? off_of(t.note.undo) + random_below((unsigned)t.note.undo_size)
				    : random_below((unsigned)t.out->size);
		uint8_t old = t.bytes[at];
		struct ovm_image *image;
		t.bytes[at] ^= (uint8_t)(1 + random_below(255));
		if (!ovm_image_open_bytes(&t.ctx, t.bytes, t.out->size, "mutant", &image)) {
			undo(image);
			ovm_image_close(image);
		}
		t.bytes[at] = old;
	}
}

static void test_names(void **state)
{
	(void)state;
	assert_non_null(ovm_elf_soname(t.in));
	assert_string_equal(ovm_elf_soname(t.in), ovm_elf_soname(t.out));
	assert_null(ovm_elf_interp(t.in));
}

/* --- profiles
 * -------------------------------------------------------------------------------------------- */

static struct ovm_check_insn decode_old(ovm_va va)
{
	struct ovm_check_insn insn = {0};
	ZydisDecoder dec;
	ovm_check_decoder_init(&dec);
	const uint8_t *p = ovm_image_code(t.in, va, 15);
	assert_true(p && ovm_check_decode(&dec, p, 15, va.v, &insn));
	return insn;
}

/* A whole FDE run through from its first to its last copy; its runs and branches in the original
 * must be steps the original can make. */
static void test_runs_move_back(void **state)
{
	(void)state;
	struct ovm_profile *prof = ovm_profile_new(), *moved;
	struct ovm_prof_module *module = ovm_profile_module(prof, t.out->id, "x");
	uint64_t base = t.overlay.base.v;
	for (uint32_t i = 0; i < t.overlay.fdes.n; i++) {
		const struct ovm_new_fde *fde = &t.overlay.fdes.v[i];
		ovm_vec_push(&module->samples, (struct ovm_prof_sample){{base + fde->off}, 1});
		ovm_vec_push(&module->ranges,
			     (struct ovm_prof_range){
				 {base + fde->off}, {base + fde->off + fde->size - 1}, 1});
	}
	ovm_profile_normalize(prof);
	assert_int_equal(ovm_elf_profile_back(&t.ctx, t.out, t.in, prof, &moved), 0);
	const struct ovm_prof_module *back = ovm_profile_find(moved, t.in->id);
	assert_non_null(back);
	assert_int_equal(ovm_prof_module_samples(back), t.overlay.fdes.n);
	for (uint32_t i = 0; i < back->samples.n; i++)
		assert_true(ovm_region_find(&t.regions, back->samples.v[i].va) != OVM_NONE);
	assert_true(back->ranges.n >= 100 && back->branches.n >= 20);
	unsigned n_true = 0;
	for (uint32_t i = 0; i < back->branches.n; i++) {
		const struct ovm_prof_branch *branch = &back->branches.v[i];
		struct ovm_check_insn insn = decode_old(branch->from);
		n_true += insn.target == branch->to.v;
	}
	print_message("%u of %u steps are branches of the original\n", n_true, back->branches.n);
	assert_true(n_true > 0);
	ovm_profile_free(moved);
	ovm_profile_free(prof);
}

/* Each direct jump of the overlay as an edge: moved back it is an edge of the original. */
static void test_edges_move_back(void **state)
{
	(void)state;
	struct ovm_profile *prof = ovm_profile_new(), *moved;
	struct ovm_prof_module *module = ovm_profile_module(prof, t.out->id, "x");
	const struct ovm_map *map = &t.overlay.map;
	uint32_t n_jumps = 0, n_bad = 0;
	ZydisDecoder dec;
	ovm_check_decoder_init(&dec);
	for (uint32_t i = 0; i < map->v.n; i++) {
		const struct ovm_map_entry *entry = &map->v.v[i];
		struct ovm_check_insn insn;
		uint64_t va = t.overlay.base.v + entry->off;
		assert_true(ovm_check_decode(&dec, t.overlay.bytes + entry->off, entry->new_len, va,
					     &insn));
		if ((entry->flags & OVM_MAP_SYNTH) || insn.kind != OVM_INSN_JCC)
			continue;
		ovm_vec_push(&module->edges, (struct ovm_prof_edge){{va}, {insn.target}, 1});
		ovm_vec_push(&module->edges, (struct ovm_prof_edge){{va}, {va + insn.len}, 1});
		n_jumps += 2;
	}
	ovm_profile_normalize(prof);
	assert_int_equal(ovm_elf_profile_back(&t.ctx, t.out, t.in, prof, &moved), 0);
	const struct ovm_prof_module *back = ovm_profile_find(moved, t.in->id);
	assert_true(n_jumps > 200);
	for (uint32_t i = 0; i < back->edges.n; i++) {
		const struct ovm_prof_edge *edge = &back->edges.v[i];
		struct ovm_check_insn insn = decode_old(edge->from);
		n_bad += edge->to.v != insn.target && edge->to.v != edge->from.v + insn.len;
	}
	print_message("%u edges, %u of them no edges of the original\n", back->edges.n, n_bad);
	assert_true(n_bad * 50 <= back->edges.n); /* jumps to jumps are followed in the copy */
	ovm_profile_free(moved);
	ovm_profile_free(prof);
}

static void test_other_addresses_stay(void **state)
{
	(void)state;
	struct ovm_profile *prof = ovm_profile_new(), *moved;
	struct ovm_prof_module *module = ovm_profile_module(prof, t.out->id, "x");
	ovm_va va = t.regions.v.v[5].lo, beyond = ovm_va_of(UINT64_MAX - 3);
	ovm_vec_push(&module->samples, (struct ovm_prof_sample){va, 7});
	ovm_vec_push(&module->samples, (struct ovm_prof_sample){beyond, 1});
	ovm_vec_push(&module->ranges, (struct ovm_prof_range){beyond, va, 1});
	ovm_vec_push(&module->edges, (struct ovm_prof_edge){{0}, va, 3});
	module = ovm_profile_module(prof, t.in->id, "y");
	ovm_vec_push(&module->samples, (struct ovm_prof_sample){va, 5});
	ovm_profile_normalize(prof);
	assert_int_equal(ovm_elf_profile_back(&t.ctx, t.out, t.in, prof, &moved), 0);
	const struct ovm_prof_module *back = ovm_profile_find(moved, t.in->id);
	assert_int_equal(back->samples.v[0].va.v, va.v);
	assert_int_equal(back->samples.v[0].count, 12);
	assert_int_equal(back->edges.v[0].from.v, 0);
	assert_int_equal(back->edges.v[0].to.v, va.v);
	assert_int_equal(ovm_elf_profile_back(&t.ctx, t.in, t.in, prof, &moved), OVM_E_MISMATCH);
	ovm_profile_free(moved);
	ovm_profile_free(prof);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_proves),
	    cmocka_unit_test(test_mutants),
	    cmocka_unit_test(test_truncated),
	    cmocka_unit_test(test_undo),
	    cmocka_unit_test(test_undo_of_mutants),
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_runs_move_back),
	    cmocka_unit_test(test_edges_move_back),
	    cmocka_unit_test(test_other_addresses_stay),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
