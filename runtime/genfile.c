/* A million map entries in a few hundred kilobytes.
 *
 *   "OVMGEN2\n" | size | xxh3 of what follows | zstd frame of: numbers as (S)LEB128, strings with
 * their length
 *
 * Most copied instructions stand right behind each other in the overlay, as they did in the
 * original: an entry is written as the two distances from where it would be expected, usually zero,
 * and compresses well. Jumps are not stored but made again from where they stand and where they
 * lead.
 */
#include "runtime/genfile.h"
#include "analyzer/cfi.h"
#include "runtime/tunables.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

enum { HEAD = 24, JUMP_LEN = 5, ZSTD_LEVEL = 1, MAX_PATH = 4096, MAX_SEGMENTS = 64, PAGE = 4096 };

static const char magic[8] = "OVMGEN2\n";
static const uint64_t max_raw = UINT64_C(1) << 30;

/* --- writing
 * -------------------------------------------------------------------------------------------------
 */

static void put_string(struct ovm_buf *buf, const char *s)
{
	size_t n = strlen(s);
	ovm_buf_uleb(buf, n);
	ovm_buf_put(buf, s, n);
}

static void put_numbers(struct ovm_buf *buf, const uint64_t *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		ovm_buf_uleb(buf, v[i]);
}

static void put_live_module(struct ovm_buf *buf, const struct ovm_live_module *m)
{
	put_string(buf, m->path);
	put_numbers(buf,
		    (const uint64_t[]){m->bias, m->lo.v, m->hi.v, m->inode, m->major, m->minor,
				       m->is_dyn, m->is_exe, m->segments.n},
		    9);
	for (uint32_t i = 0; i < m->segments.n; i++) {
		const struct ovm_live_segment *s = &m->segments.v[i];
		put_numbers(buf,
			    (const uint64_t[]){s->va.v, s->off, s->filesz, s->memsz, s->is_exec,
					       s->is_writable},
			    6);
	}
}

static void put_map(struct ovm_buf *buf, const struct ovm_map *map)
{
	uint64_t off = 0, old = 0;
	ovm_buf_uleb(buf, map->v.n);
	for (uint32_t i = 0; i < map->v.n; i++) {
		const struct ovm_map_entry *e = &map->v.v[i];
		OVM_ASSERT(e->off >= off);
		ovm_buf_uleb(buf, e->off - off);
		ovm_buf_sleb(buf, (int64_t)(e->old.v - old));
		ovm_buf_u8(buf, e->new_len);
		ovm_buf_u8(buf, e->old_len);
		ovm_buf_uleb(buf, e->flags);
		off = (uint64_t)e->off + e->new_len;
		old = e->old.v + e->old_len;
	}
}

static void put_patches(struct ovm_buf *buf, const struct ovm_overlay *o)
{
	uint64_t at = 0;
	ovm_buf_uleb(buf, o->patches.n);
	for (uint32_t i = 0; i < o->patches.n; i++) {
		const struct ovm_patch *p = &o->patches.v[i];
		OVM_ASSERT(p->len == JUMP_LEN);
		ovm_buf_uleb(buf, p->at.v - at);
		ovm_buf_put(buf, p->old_bytes, JUMP_LEN);
		ovm_buf_uleb(buf, p->target);
		at = p->at.v;
	}
}

static void put_module(struct ovm_buf *buf, const struct ovm_built_module *m, const char *id)
{
	const struct ovm_overlay *o = &m->overlay;
	put_live_module(buf, m->module);
	put_string(buf, id);
	put_numbers(buf,
		    (const uint64_t[]){m->at.v, m->link_map.v, m->n_samples,
				       XXH3_64bits(o->bytes, o->size), m->print, o->base.v, o->size,
				       o->n_regions, o->n_blocks, o->n_insns, o->counters.v,
				       o->n_counters},
		    12);
	for (unsigned i = 0; i < OVM_N_SECTIONS; i++)
		put_numbers(buf, (const uint64_t[]){o->sections[i].off, o->sections[i].size}, 2);
	put_map(buf, &o->map);
	put_patches(buf, o);
}

static int compress(struct ovm_ctx *ctx, const struct ovm_buf *raw, struct ovm_buf *out)
{
	size_t room = ZSTD_compressBound(raw->n);
	uint8_t *packed = ovm_alloc_array(room, 1);
	size_t n = ZSTD_compress(packed, room, raw->v, raw->n, ZSTD_LEVEL);
	int rc = 0;
	if (ZSTD_isError(n)) {
		rc = ovm_fail(ctx, OVM_E_UNAVAILABLE, "zstd: %s", ZSTD_getErrorName(n));
	} else {
		ovm_buf_put(out, magic, sizeof(magic));
		ovm_buf_u64(out, raw->n);
		ovm_buf_u64(out, XXH3_64bits(raw->v, raw->n));
		ovm_buf_put(out, packed, n);
	}
	free(packed);
	return rc;
}

int ovm_genfile_encode(struct ovm_ctx *ctx, const struct ovm_built *built, char (*ids)[48],
		       const struct ovm_countmem *counters, struct ovm_buf *out)
{
	struct ovm_buf raw = {0};
	put_numbers(&raw,
		    (const uint64_t[]){counters ? counters->inode : 0,
				       counters ? counters->major : 0,
				       counters ? counters->minor : 0, built->modules.n},
		    4);
	for (uint32_t i = 0; i < built->modules.n; i++)
		put_module(&raw, &built->modules.v[i], ids[i]);
	int rc = compress(ctx, &raw, out);
	ovm_buf_free(&raw);
	return rc;
}

/* --- reading
 * -------------------------------------------------------------------------------------------------
 */

struct reader {
	const uint8_t *p, *end;
};

/* A number of at most @max. */
static bool take(struct reader *r, uint64_t max, uint64_t *x)
{
	return ovm_cfi_uleb(&r->p, r->end, x) && *x <= max;
}

static bool take_u32(struct reader *r, uint64_t max, uint32_t *out)
{
	uint64_t x;
	bool ok = take(r, max, &x);
	*out = ok ? (uint32_t)x : 0;
	return ok;
}

static bool take_bool(struct reader *r, bool *out)
{
	uint64_t x;
	bool ok = take(r, 1, &x);
	*out = ok && x;
	return ok;
}

static bool take_bytes(struct reader *r, uint8_t *to, size_t n)
{
	if ((size_t)(r->end - r->p) < n)
		return false;
	memcpy(to, r->p, n);
	r->p += n;
	return true;
}

/* A number of things that take at least @size bytes each. */
static bool take_count(struct reader *r, size_t size, uint32_t *out)
{
	uint64_t left = (uint64_t)(r->end - r->p) / size;
	return take_u32(r, left < UINT32_MAX ? left : UINT32_MAX - 1, out);
}

/* A string of at most @max bytes without NUL, to a new array. */
static char *take_string(struct reader *r, uint64_t max)
{
	uint64_t n;
	if (!take(r, max, &n) || (uint64_t)(r->end - r->p) < n || memchr(r->p, 0, n))
		return NULL;
	char *s = ovm_strndup((const char *)r->p, n);
	r->p += n;
	return s;
}

static bool take_segments(struct reader *r, struct ovm_live_module *m)
{
	uint64_t n;
	if (!take(r, MAX_SEGMENTS, &n))
		return false;
	for (uint64_t i = 0; i < n; i++) {
		struct ovm_live_segment s;
		if (!take(r, UINT64_MAX, &s.va.v) || !take(r, UINT64_MAX, &s.off) ||
		    !take(r, UINT64_MAX, &s.filesz) || !take(r, UINT64_MAX, &s.memsz) ||
		    !take_bool(r, &s.is_exec) || !take_bool(r, &s.is_writable))
			return false;
		uint64_t lo = s.va.v + m->bias;
		if (lo < m->lo.v || lo > m->hi.v || s.filesz > m->hi.v - lo || s.filesz > s.memsz)
			return false;
		ovm_vec_push(&m->segments, s);
	}
	return true;
}

static bool take_live_module(struct reader *r, struct ovm_live_module *m)
{
	return (m->path = take_string(r, MAX_PATH)) && take(r, UINT64_MAX, &m->bias) &&
	       take(r, INT64_MAX, &m->lo.v) && take(r, INT64_MAX, &m->hi.v) && m->lo.v < m->hi.v &&
	       take(r, UINT64_MAX, &m->inode) && take_u32(r, UINT32_MAX, &m->major) &&
	       take_u32(r, UINT32_MAX, &m->minor) && take_bool(r, &m->is_dyn) &&
	       take_bool(r, &m->is_exe) && take_segments(r, m);
}

static bool take_map(struct reader *r, uint32_t size, struct ovm_map *map)
{
	uint32_t n;
	uint64_t off = 0, old = 0, gap, flags;
	if (!take_count(r, 5, &n))
		return false;
	ovm_vec_reserve(&map->v, n);
	for (uint32_t i = 0; i < n; i++) {
		struct ovm_map_entry e;
		int64_t distance;
		if (!take(r, size - off, &gap) || !ovm_cfi_sleb(&r->p, r->end, &distance) ||
		    !take_bytes(r, &e.new_len, 1) || !take_bytes(r, &e.old_len, 1) ||
		    !take(r, UINT16_MAX, &flags))
			return false;
		off += gap;
		if (e.new_len > size - off)
			return false;
		e.off = (uint32_t)off;
		e.old = ovm_va_of(old + (uint64_t)distance);
		e.flags = (uint16_t)flags;
		off += e.new_len;
		old = e.old.v + e.old_len;
		ovm_vec_push(&map->v, e);
	}
	ovm_map_index(map);
	return true;
}

static bool make_jump(struct ovm_patch *p, ovm_va base)
{
	int64_t rel = (int64_t)(base.v + p->target - (p->at.v + JUMP_LEN));
	p->len = JUMP_LEN;
	p->new_bytes[0] = 0xe9;
	ovm_put32(p->new_bytes + 1, (uint32_t)rel);
	return rel == (int32_t)rel;
}

static bool take_patches(struct reader *r, const struct ovm_live_module *m, struct ovm_overlay *o)
{
	uint32_t n;
	uint64_t at = 0, distance;
	if (!take_count(r, 2 + JUMP_LEN, &n))
		return false;
	ovm_vec_reserve(&o->patches, n);
	for (uint32_t i = 0; i < n; i++) {
		struct ovm_patch p = {0};
		if (!take(r, UINT64_MAX, &distance) || (i && !distance) ||
		    !take_bytes(r, p.old_bytes, JUMP_LEN) || !take_u32(r, o->size - 1, &p.target))
			return false;
		p.at = ovm_va_of(at += distance);
		uint64_t live = p.at.v + m->bias;
		if (live < m->lo.v || live >= m->hi.v || m->hi.v - live < JUMP_LEN ||
		    !make_jump(&p, o->base))
			return false;
		ovm_vec_push(&o->patches, p);
	}
	return true;
}

static bool take_overlay(struct reader *r, struct ovm_genfile_module *out)
{
	struct ovm_overlay *o = &out->overlay;
	const struct ovm_live_module *m = &out->module;
	if (!take(r, INT64_MAX, &out->at.v) || !take(r, UINT64_MAX, &out->link_map.v) ||
	    !take(r, UINT64_MAX, &out->n_samples) || !take(r, UINT64_MAX, &out->hash) ||
	    !take(r, UINT64_MAX, &out->print) || !take(r, UINT64_MAX, &o->base.v) ||
	    !take_u32(r, INT32_MAX, &o->size) || !take_u32(r, UINT32_MAX, &o->n_regions) ||
	    !take_u32(r, UINT32_MAX, &o->n_blocks) || !take_u32(r, UINT32_MAX, &o->n_insns) ||
	    !take(r, UINT64_MAX, &o->counters.v) || !take_u32(r, INT32_MAX, &o->n_counters))
		return false;
	for (unsigned i = 0; i < OVM_N_SECTIONS; i++)
		if (!take_u32(r, o->size, &o->sections[i].off) ||
		    !take_u32(r, o->size - o->sections[i].off, &o->sections[i].size))
			return false;
	bool is_apart = out->at.v >= m->hi.v || out->at.v + o->size <= m->lo.v;
	return o->size && out->at.v % PAGE == 0 && is_apart && o->base.v + m->bias == out->at.v &&
	       take_map(r, o->size, &o->map) && take_patches(r, m, o);
}

static bool take_module(struct reader *r, struct ovm_genfile_module *out)
{
	if (!take_live_module(r, &out->module))
		return false;
	char *id = take_string(r, sizeof(out->id) - 1);
	if (!id)
		return false;
	memcpy(out->id, id, strlen(id) + 1);
	free(id);
	return take_overlay(r, out);
}

static bool take_all(struct reader *r, struct ovm_genfile *out)
{
	uint64_t n;
	if (!take(r, UINT64_MAX, &out->counters_inode) ||
	    !take_u32(r, UINT32_MAX, &out->counters_major) ||
	    !take_u32(r, UINT32_MAX, &out->counters_minor) || !take(r, OVM_RT_MAX_MODULES, &n) ||
	    !n)
		return false;
	for (uint64_t i = 0; i < n; i++) {
		ovm_vec_push(&out->modules, (struct ovm_genfile_module){0});
		if (!take_module(r, &out->modules.v[i]))
			return false;
	}
	return r->p == r->end;
}

int ovm_genfile_decode(struct ovm_ctx *ctx, const char *name, const uint8_t *bytes, size_t n,
		       struct ovm_genfile *out)
{
	struct ovm_genfile file = {0};
	uint64_t size = n >= HEAD ? ovm_le64(bytes + 8) : 0;
	if (n < HEAD || memcmp(bytes, magic, sizeof(magic)) != 0)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: not written by this version of optvm",
				name);
	if (size > max_raw || ZSTD_getFrameContentSize(bytes + HEAD, n - HEAD) != size)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: damaged", name);
	uint8_t *raw = ovm_alloc_array(size + 1, 1);
	bool ok = ZSTD_decompress(raw, size, bytes + HEAD, n - HEAD) == size &&
		  XXH3_64bits(raw, size) == ovm_le64(bytes + 16);
	struct reader r = {raw, raw + size};
	ok = ok && take_all(&r, &file);
	free(raw);
	if (!ok) {
		ovm_genfile_fini(&file);
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: damaged", name);
	}
	*out = file;
	return 0;
}

void ovm_genfile_fini(struct ovm_genfile *file)
{
	for (uint32_t i = 0; i < file->modules.n; i++) {
		struct ovm_genfile_module *m = &file->modules.v[i];
		free((char *)m->module.path);
		ovm_vec_free(&m->module.segments);
		ovm_overlay_fini(&m->overlay);
	}
	ovm_vec_free(&file->modules);
}

uint64_t ovm_genfile_hash(const struct ovm_map *map, uint8_t *bytes, uint32_t size)
{
	static const uint8_t nop[JUMP_LEN] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
	for (uint32_t i = 0; i < map->v.n; i++) {
		const struct ovm_map_entry *e = &map->v.v[i];
		if ((e->flags & OVM_MAP_EXIT) && e->new_len == JUMP_LEN &&
		    (uint64_t)e->off + JUMP_LEN <= size)
			memcpy(bytes + e->off, nop, JUMP_LEN);
	}
	return XXH3_64bits(bytes, size);
}
