/* Generations as files: round trip, every cut and flipped byte is noticed or harmless, numbers that
 * lie are refused. */
#include "runtime/genfile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include <cmocka.h>

enum { BIAS = 0x10000000, IMAGE = 0x1000, IMAGE_SIZE = 0x3000, BASE = 0x8000, SIZE = 40 };

struct sample { /* one module with one overlay: nop, jmp, exit, pad */
	struct ovm_live_module module;
	struct ovm_built built;
	uint8_t bytes[SIZE];
	char ids[1][48];
};

static void add_patch(struct ovm_overlay *o, uint64_t at, uint32_t target)
{
	struct ovm_patch p = {.at = {at}, .len = 5, .target = target};
	memcpy(p.old_bytes, "\x55\x48\x89\xe5\x90", 5);
	p.new_bytes[0] = 0xe9;
	ovm_put32(p.new_bytes + 1, (uint32_t)(BASE + target - (at + 5)));
	ovm_vec_push(&o->patches, p);
}

static void make(struct sample *s)
{
	memset(s, 0, sizeof(*s));
	strcpy(s->ids[0], "0123abcd");
	s->module = (struct ovm_live_module){.path = "/usr/bin/some program",
					     .bias = BIAS,
					     .lo = {IMAGE + BIAS},
					     .hi = {IMAGE + IMAGE_SIZE + BIAS},
					     .inode = 77,
					     .major = 8,
					     .minor = 1,
					     .is_dyn = true};
	ovm_vec_push(&s->module.segments,
		     (struct ovm_live_segment){
			 .va = {IMAGE}, .filesz = 0x2000, .memsz = 0x2000, .is_exec = true});
	memset(s->bytes, 0x90, SIZE);
	memcpy(s->bytes + 10, "\x0f\x1f\x44\x00\x00", 5);
	struct ovm_built_module m = {
	    .module = &s->module, .at = {BASE + BIAS}, .link_map = {0x7fff0000}, .n_samples = 5};
	struct ovm_overlay *o = &m.overlay;
	o->base = ovm_va_of(BASE);
	o->bytes = s->bytes;
	o->size = SIZE;
	o->n_regions = 1;
	o->sections[0] = (struct ovm_section){0, 32};
	o->counters = ovm_va_of(0x10000);
	o->n_counters = 3;
	ovm_vec_push(&o->map.v, (struct ovm_map_entry){{0x1100}, 0, 4, 4, 0});
	ovm_vec_push(&o->map.v, (struct ovm_map_entry){{0x1000}, 4, 5, 2, OVM_MAP_CALL});
	ovm_vec_push(
	    &o->map.v,
	    (struct ovm_map_entry){{0x1002}, 10, 5, 0, OVM_MAP_SYNTH | OVM_MAP_PAD | OVM_MAP_EXIT});
	ovm_vec_push(&o->map.v, (struct ovm_map_entry){{0}, 15, 25, 0, OVM_MAP_PAD});
	add_patch(o, 0x1100, 0);
	add_patch(o, 0x1200, 39);
	ovm_vec_push(&s->built.modules, m);
}

static void drop(struct sample *s)
{
	struct ovm_overlay *o = &s->built.modules.v[0].overlay;
	ovm_vec_free(&o->map.v);
	ovm_vec_free(&o->patches);
	ovm_vec_free(&s->built.modules);
	ovm_vec_free(&s->module.segments);
}

static void encode(struct ovm_ctx *ctx, struct sample *s, struct ovm_buf *out)
{
	const struct ovm_countmem counters = {.fd = -1, .inode = 4711, .major = 0, .minor = 5};
	ovm_ctx_init(ctx);
	assert_int_equal(ovm_genfile_encode(ctx, &s->built, s->ids, &counters, out), 0);
}

static void round_trip(void **state)
{
	struct ovm_ctx ctx;
	struct sample s;
	struct ovm_buf bytes = {0};
	struct ovm_genfile file;
	(void)state;
	make(&s);
	encode(&ctx, &s, &bytes);
	assert_int_equal(ovm_genfile_decode(&ctx, "x", bytes.v, bytes.n, &file), 0);
	assert_int_equal(file.modules.n, 1);
	assert_int_equal(file.counters_inode, 4711);
	assert_int_equal(file.counters_minor, 5);
	const struct ovm_genfile_module *m = &file.modules.v[0];
	const struct ovm_overlay *a = &s.built.modules.v[0].overlay, *b = &m->overlay;
	assert_string_equal(m->module.path, s.module.path);
	assert_string_equal(m->id, "0123abcd");
	assert_int_equal(m->module.lo.v, s.module.lo.v);
	assert_int_equal(m->module.hi.v, s.module.hi.v);
	assert_int_equal(m->module.inode, 77);
	assert_int_equal(m->module.segments.n, 1);
	assert_true(m->module.segments.v[0].is_exec && m->module.is_dyn && !m->module.is_exe);
	assert_int_equal(m->at.v, BASE + BIAS);
	assert_int_equal(m->link_map.v, 0x7fff0000);
	assert_int_equal(b->base.v, BASE);
	assert_int_equal(b->size, SIZE);
	assert_int_equal(b->n_counters, 3);
	assert_memory_equal(a->sections, b->sections, sizeof(a->sections));
	assert_int_equal(b->map.v.n, a->map.v.n);
	for (uint32_t i = 0; i < a->map.v.n; i++) {
		assert_int_equal(a->map.v.v[i].old.v, b->map.v.v[i].old.v);
		assert_int_equal(a->map.v.v[i].off, b->map.v.v[i].off);
		assert_int_equal(a->map.v.v[i].new_len, b->map.v.v[i].new_len);
		assert_int_equal(a->map.v.v[i].old_len, b->map.v.v[i].old_len);
		assert_int_equal(a->map.v.v[i].flags, b->map.v.v[i].flags);
	}
	assert_int_equal(ovm_map_old(&b->map, ovm_va_of(0x1000))->off, 4);
	assert_int_equal(b->patches.n, 2);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(a->patches.v[i].at.v, b->patches.v[i].at.v);
		assert_memory_equal(a->patches.v[i].old_bytes, b->patches.v[i].old_bytes, 5);
		assert_memory_equal(a->patches.v[i].new_bytes, b->patches.v[i].new_bytes, 5);
	}
	/* a jump over the exit is not a change */
	assert_int_equal(ovm_genfile_hash(&b->map, s.bytes, SIZE), m->hash);
	memcpy(s.bytes + 10, "\xe9\x01\x02\x03\x04", 5);
	assert_int_equal(ovm_genfile_hash(&b->map, s.bytes, SIZE), m->hash);
	s.bytes[0] = 0xcc;
	assert_int_not_equal(ovm_genfile_hash(&b->map, s.bytes, SIZE), m->hash);
	ovm_genfile_fini(&file);
	ovm_buf_free(&bytes);
	drop(&s);
}

static void damaged(void **state)
{
	struct ovm_ctx ctx;
	struct sample s;
	struct ovm_buf bytes = {0};
	struct ovm_genfile file;
	(void)state;
	make(&s);
	encode(&ctx, &s, &bytes);
	for (size_t n = 0; n < bytes.n; n++)
		assert_int_equal(ovm_genfile_decode(&ctx, "x", bytes.v, n, &file), OVM_E_FORMAT);
	for (size_t i = 0; i < bytes.n * 8; i++) {
		bytes.v[i / 8] ^= (uint8_t)(1 << i % 8);
		if (ovm_genfile_decode(&ctx, "x", bytes.v, bytes.n, &file) == 0)
			ovm_genfile_fini(&file); /* a bit that zstd does not use */
		bytes.v[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	ovm_buf_free(&bytes);
	drop(&s);
}

/* Any content behind a right hash: nothing may crash, and what is accepted keeps its promises. */
static void hostile(void **state)
{
	struct ovm_ctx ctx;
	struct sample s;
	struct ovm_buf bytes = {0};
	struct ovm_genfile file;
	uint32_t seed = 12345, n_accepted = 0;
	(void)state;
	make(&s);
	encode(&ctx, &s, &bytes);
	uint64_t n = ovm_le64(bytes.v + 8);
	uint8_t *raw = malloc(n), *work = malloc(n), *packed = malloc(ZSTD_compressBound(n) + 24);
	assert_int_equal(ZSTD_decompress(raw, n, bytes.v + 24, bytes.n - 24), n);
	for (unsigned i = 0; i < 20000; i++) {
		memcpy(work, raw, n);
		for (unsigned k = 0; k <= i % 3; k++) {
			seed = seed * 1103515245u + 12345u;
			work[(seed >> 8) % n] = (uint8_t)((seed >> 3) % 5 ? seed >> 24 : 0xff);
		}
		memcpy(packed, bytes.v, 8);
		ovm_put64(packed + 8, n);
		ovm_put64(packed + 16, XXH3_64bits(work, n));
		size_t len = ZSTD_compress(packed + 24, ZSTD_compressBound(n), work, n, 1);
		if (ovm_genfile_decode(&ctx, "x", packed, len + 24, &file))
			continue;
		n_accepted++;
		for (uint32_t m = 0; m < file.modules.n; m++) {
			const struct ovm_genfile_module *g = &file.modules.v[m];
			const struct ovm_overlay *o = &g->overlay;
			for (uint32_t k = 0; k < o->map.v.n; k++)
				assert_true((uint64_t)o->map.v.v[k].off + o->map.v.v[k].new_len <=
					    o->size);
			for (uint32_t k = 0; k < o->patches.n; k++) {
				uint64_t at = o->patches.v[k].at.v + g->module.bias;
				assert_true(at >= g->module.lo.v && at + 5 <= g->module.hi.v);
				assert_true(o->patches.v[k].target < o->size);
			}
		}
		ovm_genfile_fini(&file);
	}
	assert_true(n_accepted > 0);
	free(raw);
	free(work);
	free(packed);
	ovm_buf_free(&bytes);
	drop(&s);
}

static void nothing_in_it(void **state)
{
	struct ovm_ctx ctx;
	struct ovm_built built = {0};
	struct ovm_buf bytes = {0};
	struct ovm_genfile file = {0};
	(void)state;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_genfile_encode(&ctx, &built, NULL, NULL, &bytes), 0);
	assert_int_equal(ovm_genfile_decode(&ctx, "x", bytes.v, bytes.n, &file), OVM_E_FORMAT);
	ovm_genfile_fini(&file);
	ovm_buf_free(&bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(round_trip),
	    cmocka_unit_test(damaged),
	    cmocka_unit_test(hostile),
	    cmocka_unit_test(nothing_in_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
