/* perf.data, the container.
 *
 *   file:  header | attrs, their ids | data: records ... | table of features | build-ids, names,
 * ... pipe:  16-byte header | records; attrs and build-ids are records too
 *
 * All numbers are in the byte order of the machine that recorded; we read little-endian. The data
 * is a stream of records, each with the kernel's 8-byte header (type, misc, size). Types below 64
 * come from the kernel; the rest is perf's own, and some of these have bytes behind them that their
 * size does not count (AUXTRACE). With -z the kernel's records are packed: the payloads of all
 * COMPRESSED records are one zstd stream, in which a record may begin in one payload and end in the
 * next. So they are unpacked into one buffer, and walked when that is complete:
 *
 *   offset 0 .......................... len ............................ len + unpacked.n
 *          the file as it is            |  what was compressed in it, as if appended
 *
 * Everything comes from a file of unknown origin: every offset, size and count is checked before it
 * is used. A file that ends too early (perf was killed, a pipe was cut) is used up to there.
 *
 * Limits: at most 4 GiB of records; no folders (perf record --threads); no big-endian files.
 */
#include "profiler/perfdata_file.h"
#include "profiler/perfdata.h"

#include <inttypes.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>

enum {
	RECORD_HEADER = 8,
	PIPE_HEADER = 16,
	FILE_HEADER = 104,
	SECTION = 16, /* offset, size */
	N_FEATURES = 256,
	MAX_ATTR = 4096, /* bytes; 136 today */
	MAX_ATTRS = 1 << 16,
	CHUNK = 128 << 10,
	/* A packed record of perf's is at most this many times larger when unpacked... */
	MAX_RATIO = 256,
};

/* ... with so much for small files, and never more than this. */
static const uint64_t min_unpacked_cap = UINT64_C(64) << 20;
static const uint64_t max_unpacked = UINT64_C(4) << 30;

enum { /* perf's own record types and features: tools/perf/util/event.h, header.h */
       FIRST_TOOL_TYPE = 64,
       TOOL_ATTR = 64,
       TOOL_TRACING_DATA = 66,
       TOOL_BUILD_ID = 67,
       TOOL_AUXTRACE = 71,
       TOOL_COMPRESSED = 81,
       TOOL_COMPRESSED2 = 83,
       FEATURE_BUILD_ID = 2,
       BUILD_ID_HAS_SIZE = 1 << 15, /* misc */
};

static const char magic[] = "PERFILE2", swapped[] = "2ELIFREP", old_magic[] = "PERFFILE";

/* --- small things --- */

bool ovm_perfdata_is(const uint8_t *bytes, size_t n)
{
	return n >= 8 && (!memcmp(bytes, magic, 8) || !memcmp(bytes, swapped, 8) ||
			  !memcmp(bytes, old_magic, 8));
}

int ovm_perfdata_damaged(const struct ovm_perfdata_file *file, uint64_t at, const char *what)
{
	bool is_unpacked = at >= file->len && file->unpacked.n;
	return ovm_fail(file->ctx, OVM_E_FORMAT,
			"%s: damaged perf.data at offset %" PRIu64 "%s: %s", file->name,
			is_unpacked ? at - file->len : at,
			is_unpacked ? " of the uncompressed records" : "", what);
}

static void set_cut(struct ovm_perfdata_file *file, uint64_t at)
{
	if (!file->is_cut)
		file->cut_at = at;
	file->is_cut = true;
}

struct section {
	uint64_t off, size;
};

static struct section section_at(const uint8_t *p)
{
	return (struct section){ovm_le64(p), ovm_le64(p + 8)};
}

static bool is_inside(const struct ovm_perfdata_file *file, struct section section)
{
	return section.off <= file->len && section.size <= file->len - section.off;
}

/* --- events --- */

static bool has_every_branch(const struct perf_event_attr *attr)
{
	return (attr->sample_type & PERF_SAMPLE_BRANCH_STACK) &&
	       (attr->branch_sample_type & PERF_SAMPLE_BRANCH_ANY) &&
	       !(attr->branch_sample_type & PERF_SAMPLE_BRANCH_CALL_STACK);
}

/* Read a perf_event_attr of @n readable bytes. Returns the size it says it has, 0 if that is
 * nonsense. */
static size_t add_attr(struct ovm_perfdata_file *file, const uint8_t *p, size_t n)
{
	struct perf_event_attr attr = {0};
	if (n < PERF_ATTR_SIZE_VER0 || file->attrs.n == MAX_ATTRS)
		return 0;
	size_t size = ovm_le32(p + 4) ? ovm_le32(p + 4) : PERF_ATTR_SIZE_VER0;
	if (size < PERF_ATTR_SIZE_VER0 || size > n || size > MAX_ATTR)
		return 0;
	memcpy(&attr, p, size < sizeof(attr) ? size : sizeof(attr));
	ovm_vec_push(&file->attrs, (struct ovm_perfdata_attr){
				       .format = {.sample_type = attr.sample_type,
						  .branch_sample_type = attr.branch_sample_type,
						  .read_format = attr.read_format,
						  .sample_id_all = attr.sample_id_all},
				       .type = attr.type,
				       .config = attr.config,
				       .frequency = attr.freq ? attr.sample_freq : 0,
				       .has_stacks = has_every_branch(&attr)});
	return size;
}

/* @n bytes of ids for the event added last. */
static void add_ids(struct ovm_perfdata_file *file, const uint8_t *p, uint64_t n)
{
	for (uint64_t i = 0; i + 8 <= n; i += 8)
		ovm_vec_push(&file->ids,
			     (struct ovm_perfdata_id){ovm_le64(p + i), file->attrs.n - 1});
}

static int read_attrs(struct ovm_perfdata_file *file, struct section attrs, uint64_t attr_size)
{
	uint64_t n_ids = 0;
	if (!is_inside(file, attrs) || attr_size < PERF_ATTR_SIZE_VER0 + SECTION ||
	    attr_size > MAX_ATTR || attrs.size / attr_size > MAX_ATTRS)
		return ovm_perfdata_damaged(file, 16, "the list of events");
	for (uint64_t i = 0; i < attrs.size / attr_size; i++) {
		uint64_t at = attrs.off + i * attr_size;
		if (!add_attr(file, file->bytes + at, attr_size - SECTION))
			return ovm_perfdata_damaged(file, at, "an event");
		struct section ids = section_at(file->bytes + at + attr_size - SECTION);
		n_ids += ids.size / 8;
		if (!is_inside(file, ids) || n_ids > file->len / 8)
			return ovm_perfdata_damaged(file, at, "the ids of an event");
		add_ids(file, file->bytes + ids.off, ids.size);
	}
	return OVM_OK;
}

static int compare_ids(const void *a, const void *b)
{
	const struct ovm_perfdata_id *x = a, *y = b;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return (x->attr > y->attr) - (x->attr < y->attr);
}

static uint32_t find_id(const struct ovm_perfdata_file *file, uint64_t id)
{
	uint32_t lo = 0, hi = file->ids.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (file->ids.v[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < file->ids.n && file->ids.v[lo].id == id ? file->ids.v[lo].attr : OVM_NONE;
}

static size_t n_bits(uint64_t set, uint64_t among)
{
	return (size_t)__builtin_popcountll(set & among);
}

/* Where the id lies in a record of this format, in bytes; 0: nowhere. All events of a recording
 * agree on it, else nobody could read the records. */
static size_t id_offset(const struct ovm_record_format *format, bool is_sample, size_t size)
{
	uint64_t type = format->sample_type;
	size_t word;
	if (is_sample) {
		if (!(type & (PERF_SAMPLE_IDENTIFIER | PERF_SAMPLE_ID)))
			return 0;
		word = type & PERF_SAMPLE_IDENTIFIER
			   ? 0
			   : n_bits(type, PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME |
					      PERF_SAMPLE_ADDR);
		return size >= RECORD_HEADER + 8 * (word + 1) ? RECORD_HEADER + 8 * word : 0;
	}
	if (!format->sample_id_all)
		return 0;
	if (type & PERF_SAMPLE_IDENTIFIER)
		word = 1;
	else if (type & PERF_SAMPLE_ID)
		word = 1 + n_bits(type, PERF_SAMPLE_STREAM_ID | PERF_SAMPLE_CPU);
	else
		return 0;
	return size >= RECORD_HEADER + 8 * word ? size - 8 * word : 0;
}

uint32_t ovm_perfdata_attr_of(const struct ovm_perfdata_file *file, const uint8_t *record,
			      size_t size)
{
	bool is_sample = ovm_le32(record) == PERF_RECORD_SAMPLE;
	if (file->attrs.n <= 1)
		return file->attrs.n ? 0 : OVM_NONE;
	size_t at = id_offset(&file->attrs.v[0].format, is_sample, size);
	if (!at)
		return 0;
	uint32_t attr = find_id(file, ovm_le64(record + at));
	return attr == OVM_NONE && !is_sample ? 0 : attr; /* perf's own have id 0 */
}

/* --- build-ids --- */

const struct ovm_perfdata_build_id *ovm_perfdata_find_build_id(const struct ovm_perfdata_file *file,
							       const char *path)
{
	struct ovm_perfdata_build_id *found;
	HASH_FIND_STR(file->build_ids, path, found);
	return found && found->len ? found : NULL;
}

/* Record header, pid, 20 bytes of build-id, its length if misc says so, path. What makes no sense
 * is left out: the file on disk can still tell who it is. */
static void add_build_id(struct ovm_perfdata_file *file, const uint8_t *p, size_t size)
{
	enum { ID = 12, LEN = ID + 20, PATH = ID + 24 };
	struct ovm_perfdata_build_id *found;
	if (size <= PATH || !memchr(p + PATH, 0, size - PATH))
		return;
	const char *path = (const char *)p + PATH;
	uint32_t len = ovm_le16(p + 4) & BUILD_ID_HAS_SIZE ? p[LEN] : 20;
	if (!*path || len < 1 || len > 20)
		return;
	HASH_FIND_STR(file->build_ids, path, found);
	if (found) {
		if (found->len != len || memcmp(found->bytes, p + ID, len))
			found->len = 0;
		return;
	}
	found = ovm_alloc(sizeof(*found));
	found->path = ovm_strdup(path);
	found->len = len;
	memcpy(found->bytes, p + ID, len);
	HASH_ADD_KEYPTR(hh, file->build_ids, found->path, strlen(found->path), found);
}

static void read_build_ids(struct ovm_perfdata_file *file, struct section section)
{
	const uint8_t *p = file->bytes + section.off;
	for (uint64_t at = 0; section.size - at >= RECORD_HEADER;) {
		size_t size = ovm_le16(p + at + 6);
		if (size < RECORD_HEADER || size > section.size - at)
			return;
		add_build_id(file, p + at, size);
		at += size;
	}
}

/* One section for each bit that is set, in order of the bits, described right behind the data. */
static void read_features(struct ovm_perfdata_file *file, uint64_t data_end)
{
	const uint8_t *bits = file->bytes + FILE_HEADER - N_FEATURES / 8;
	for (uint32_t bit = 0, n = 0; bit < N_FEATURES; bit++) {
		if (!(bits[bit / 8] >> bit % 8 & 1))
			continue;
		struct section entry = {data_end + SECTION * (uint64_t)n++, SECTION};
		if (!is_inside(file, entry)) {
			set_cut(file, file->len);
			return;
		}
		struct section section = section_at(file->bytes + entry.off);
		if (bit != FEATURE_BUILD_ID)
			continue;
		if (is_inside(file, section))
			read_build_ids(file, section);
		else
			set_cut(file, file->len);
	}
}

/* --- records --- */

static int unpack(struct ovm_perfdata_file *file, const uint8_t *p, size_t n, uint64_t at)
{
	ZSTD_inBuffer in = {p, n, 0};
	ZSTD_outBuffer out;
	uint64_t cap = file->len * MAX_RATIO + min_unpacked_cap;
	cap = cap < max_unpacked ? cap : max_unpacked;
	if (!file->zstd) {
		file->zstd = ZSTD_createDStream();
		file->chunk = ovm_alloc(CHUNK);
		if (!file->zstd)
			return ovm_fail(file->ctx, OVM_E_NOMEM, "out of memory");
	}
	do {
		out = (ZSTD_outBuffer){file->chunk, CHUNK, 0};
		size_t rc = ZSTD_decompressStream(file->zstd, &out, &in);
		if (ZSTD_isError(rc))
			return ovm_perfdata_damaged(file, at, ZSTD_getErrorName(rc));
		if (out.pos > cap - file->unpacked.n)
			return ovm_fail(file->ctx, OVM_E_FORMAT,
					"%s: compressed records at offset %" PRIu64
					" unpack to more than %" PRIu64 " MiB",
					file->name, at, cap >> 20);
		ovm_buf_put(&file->unpacked, file->chunk, out.pos);
	} while (in.pos < in.size || out.pos == out.size);
	return OVM_OK;
}

static int read_attr_record(struct ovm_perfdata_file *file, const uint8_t *p, size_t size,
			    uint64_t at)
{
	size_t used = add_attr(file, p + RECORD_HEADER, size - RECORD_HEADER);
	if (!used)
		return ovm_perfdata_damaged(file, at, "an event");
	add_ids(file, p + RECORD_HEADER + used, size - RECORD_HEADER - used);
	return OVM_OK;
}

static int unpack_record2(struct ovm_perfdata_file *file, const uint8_t *p, size_t size,
			  uint64_t at)
{
	enum { DATA = 16 }; /* behind the number of its bytes that count */
	if (size < DATA || ovm_le64(p + 8) > size - DATA)
		return ovm_perfdata_damaged(file, at, "a compressed record");
	return unpack(file, p + DATA, ovm_le64(p + 8), at);
}

/* One of perf's own records. *behind: bytes that follow it and are not in its size. */
static int read_tool_record(struct ovm_perfdata_file *file, const uint8_t *p, size_t size,
			    uint64_t at, uint64_t *behind)
{
	switch (ovm_le32(p)) {
	case TOOL_ATTR:
		return file->is_pipe ? read_attr_record(file, p, size, at) : OVM_OK;
	case TOOL_BUILD_ID:
		add_build_id(file, p, size);
		return OVM_OK;
	case TOOL_TRACING_DATA:
		if (size >= 12 && file->is_pipe)
			*behind = ovm_le32(p + 8);
		return OVM_OK;
	case TOOL_AUXTRACE:
		if (size < 16)
			return ovm_perfdata_damaged(file, at, "an AUXTRACE record");
		*behind = ovm_le64(p + 8);
		file->n_aux++;
		return OVM_OK;
	case TOOL_COMPRESSED:
	case TOOL_COMPRESSED2:
		if (at >= file->len)
			return ovm_perfdata_damaged(file, at, "compressed twice");
		return ovm_le32(p) == TOOL_COMPRESSED
			   ? unpack(file, p + RECORD_HEADER, size - RECORD_HEADER, at)
			   : unpack_record2(file, p, size, at);
	default:
		return OVM_OK;
	}
}

static bool is_wanted(uint32_t type)
{
	switch (type) {
	case PERF_RECORD_MMAP:
	case PERF_RECORD_MMAP2:
	case PERF_RECORD_LOST:
	case PERF_RECORD_LOST_SAMPLES:
	case PERF_RECORD_COMM:
	case PERF_RECORD_FORK:
	case PERF_RECORD_EXIT:
	case PERF_RECORD_SAMPLE:
		return true;
	default:
		return false;
	}
}

/* Walk the records in the @len bytes at @bytes, which are at offset @base. */
static int walk(struct ovm_perfdata_file *file, const uint8_t *bytes, uint64_t len, uint64_t base)
{
	for (uint64_t at = 0, behind = 0; at < len; at += behind) {
		const uint8_t *p = bytes + at;
		size_t size = len - at >= RECORD_HEADER ? ovm_le16(p + 6) : UINT16_MAX;
		if (size > len - at || (!size && !ovm_le64(p))) { /* a crash leaves zeros */
			set_cut(file, base + at);
			return OVM_OK;
		}
		if (size < RECORD_HEADER)
			return ovm_perfdata_damaged(file, base + at,
						    "a record of less than 8 bytes");
		uint32_t type = ovm_le32(p);
		behind = 0;
		if (is_wanted(type)) {
			ovm_vec_push(&file->items, (struct ovm_perfdata_item){0, base + at});
		} else if (type >= FIRST_TOOL_TYPE) {
			int rc = read_tool_record(file, p, size, base + at, &behind);
			if (rc)
				return rc;
		}
		at += size;
		if (behind > len - at) {
			set_cut(file, base + at);
			return OVM_OK;
		}
	}
	return OVM_OK;
}

const uint8_t *ovm_perfdata_record(const struct ovm_perfdata_file *file, uint64_t at, size_t *size)
{
	const uint8_t *p = at < file->len ? file->bytes + at : file->unpacked.v + (at - file->len);
	*size = ovm_le16(p + 6); /* checked by walk() */
	return p;
}

/* --- headers --- */

static int walk_file(struct ovm_perfdata_file *file)
{
	const uint8_t *p = file->bytes;
	if (file->len < FILE_HEADER || ovm_le64(p + 8) < FILE_HEADER)
		return ovm_perfdata_damaged(file, 8, "the header is incomplete");
	int rc = read_attrs(file, section_at(p + 24), ovm_le64(p + 16));
	if (rc)
		return rc;
	struct section data = section_at(p + 40);
	if (data.off > file->len)
		return ovm_perfdata_damaged(file, 40, "the records begin behind the end");
	if (!data.size || data.size > file->len - data.off) { /* perf did not get to the end */
		data.size = file->len - data.off;
		set_cut(file, file->len);
	} else {
		read_features(file, data.off + data.size);
	}
	return walk(file, p + data.off, data.size, data.off);
}

static int check_magic(struct ovm_perfdata_file *file)
{
	const char *name = file->name;
	if (!ovm_perfdata_is(file->bytes, file->len) || file->len < PIPE_HEADER)
		return ovm_fail(file->ctx, OVM_E_FORMAT, "%s: not a perf.data file", name);
	if (!memcmp(file->bytes, swapped, 8))
		return ovm_fail(file->ctx, OVM_E_FORMAT, "%s: perf.data of a big-endian machine",
				name);
	if (!memcmp(file->bytes, old_magic, 8))
		return ovm_fail(file->ctx, OVM_E_FORMAT,
				"%s: perf.data version 1 (before Linux 3.2): record it again",
				name);
	return OVM_OK;
}

int ovm_perfdata_open(struct ovm_ctx *ctx, const uint8_t *bytes, size_t len, const char *name,
		      struct ovm_perfdata_file *file)
{
	*file = (struct ovm_perfdata_file){.ctx = ctx, .name = name, .bytes = bytes, .len = len};
	int rc = check_magic(file);
	if (rc)
		return rc;
	file->is_pipe = ovm_le64(bytes + 8) == PIPE_HEADER;
	rc = file->is_pipe ? walk(file, bytes + PIPE_HEADER, len - PIPE_HEADER, PIPE_HEADER)
			   : walk_file(file);
	if (!rc && file->unpacked.n)
		rc = walk(file, file->unpacked.v, file->unpacked.n, len);
	if (!rc && !file->attrs.n)
		rc = ovm_fail(ctx, OVM_E_FORMAT, "%s: no event is described in it", name);
	if (file->ids.n)
		qsort(file->ids.v, file->ids.n, sizeof(*file->ids.v), compare_ids);
	return rc;
}

void ovm_perfdata_close(struct ovm_perfdata_file *file)
{
	struct ovm_perfdata_build_id *id, *next;
	HASH_ITER(hh, file->build_ids, id, next)
	{
		HASH_DEL(file->build_ids, id);
		free(id->path);
		free(id);
	}
	ZSTD_freeDStream(file->zstd);
	free(file->chunk);
	ovm_buf_free(&file->unpacked);
	ovm_vec_free(&file->attrs);
	ovm_vec_free(&file->ids);
	ovm_vec_free(&file->items);
}
