/* Raw perf records, decoded.
 *
 * A record is an 8-byte header and a body whose fields depend on the record's type and on the
 * sample_type bits the event was opened with. Sizes come from the kernel here, but the same decoder
 * reads files of unknown origin, so every field is taken through a cursor that refuses to move past
 * the end of the record:
 *
 *   +------+------+------+--------------------------+-------------------+
 *   | type | misc | size | body, 8-byte words       | sample_id words   |
 *   +------+------+------+--------------------------+-------------------+
 *                         cursor ->                  ^ all but samples, if sample_id_all
 *
 * A cursor that was refused once stays refused (ok is false) and yields zeros, so callers check
 * once, at the end. The order of the fields is the kernel's ABI: include/uapi/linux/perf_event.h,
 * "enum perf_event_type".
 */
#include "profiler/record.h"
#include "base/err.h"
#include "base/vec.h"

#include <linux/perf_event.h>
#include <string.h>
#include <sys/sysmacros.h>

enum { HEADER_SIZE = 8, BRANCH_SIZE = 24 };

#define BRANCH_MISPRED 1u /* bit 0 of the third word of a branch entry */

struct cursor {
	const uint8_t *at, *end;
	bool ok;
};

static const uint8_t *take(struct cursor *cur, uint64_t n)
{
	if (!cur->ok || n > (uint64_t)(cur->end - cur->at)) {
		cur->ok = false;
		return NULL;
	}
	const uint8_t *p = cur->at;
	cur->at += n;
	return p;
}

static uint64_t take64(struct cursor *cur)
{
	const uint8_t *p = take(cur, 8);
	return p ? ovm_le64(p) : 0;
}

static uint32_t take32(struct cursor *cur)
{
	const uint8_t *p = take(cur, 4);
	return p ? ovm_le32(p) : 0;
}

/* A NUL-terminated string inside the rest of the record. */
static const char *take_string(struct cursor *cur)
{
	const uint8_t *p = cur->at;
	const uint8_t *nul = cur->ok ? memchr(p, 0, (size_t)(cur->end - p)) : NULL;
	if (!nul) {
		cur->ok = false;
		return NULL;
	}
	cur->at = nul + 1;
	return (const char *)p;
}

static void decode_branches(const struct ovm_record_format *format, struct cursor *cur,
			    struct ovm_sample *out)
{
	uint64_t n = take64(cur);
	if (format->branch_sample_type & PERF_SAMPLE_BRANCH_HW_INDEX)
		take64(cur);
	if (n > UINT32_MAX)
		cur->ok = false;
	const uint8_t *entries = take(cur, cur->ok ? n * BRANCH_SIZE : 0);
	if (!entries)
		return;
	out->branches = entries;
	out->n_branches = (uint32_t)n;
}

/* Counter values: one, or one for each event of a group. */
static void skip_read(const struct ovm_record_format *format, struct cursor *cur)
{
	uint64_t how = format->read_format, n = 1;
	uint64_t n_words = 1 + !!(how & PERF_FORMAT_ID) + !!(how & PERF_FORMAT_LOST);
	uint64_t n_times =
	    !!(how & PERF_FORMAT_TOTAL_TIME_ENABLED) + !!(how & PERF_FORMAT_TOTAL_TIME_RUNNING);
	if (how & PERF_FORMAT_GROUP)
		n = take64(cur);
	if (n > UINT32_MAX)
		cur->ok = false;
	take(cur, cur->ok ? 8 * (n_times + n * n_words) : 0);
}

static void decode_sample(const struct ovm_record_format *format, struct cursor *cur,
			  struct ovm_sample *out)
{
	uint64_t type = format->sample_type;
	out->period = 1;
	if (type & PERF_SAMPLE_IDENTIFIER)
		take64(cur);
	if (type & PERF_SAMPLE_IP)
		out->ip = take64(cur);
	if (type & PERF_SAMPLE_TID) {
		out->pid = take32(cur);
		out->tid = take32(cur);
	}
	if (type & PERF_SAMPLE_TIME)
		out->time = take64(cur);
	if (type & PERF_SAMPLE_ADDR)
		take64(cur);
	if (type & PERF_SAMPLE_ID)
		take64(cur);
	if (type & PERF_SAMPLE_STREAM_ID)
		take64(cur);
	if (type & PERF_SAMPLE_CPU)
		take64(cur);
	if (type & PERF_SAMPLE_PERIOD)
		out->period = take64(cur);
	if (type & PERF_SAMPLE_READ)
		skip_read(format, cur);
	if (type & PERF_SAMPLE_CALLCHAIN) {
		uint64_t n = take64(cur);
		if (n > UINT32_MAX)
			cur->ok = false;
		take(cur, cur->ok ? n * 8 : 0);
	}
	if (type & PERF_SAMPLE_RAW)
		take(cur, take32(cur));
	if (type & PERF_SAMPLE_BRANCH_STACK)
		decode_branches(format, cur, out);
}

/* The words at the end of every record that is not a sample. They are found from the end, because
 * strings and newer kernels' additions lie before them. */
static void decode_sample_id(const struct ovm_record_format *format, struct cursor *cur,
			     struct ovm_sample *out)
{
	static const uint64_t bits[] = {PERF_SAMPLE_TID, PERF_SAMPLE_TIME,
					PERF_SAMPLE_ID,	 PERF_SAMPLE_STREAM_ID,
					PERF_SAMPLE_CPU, PERF_SAMPLE_IDENTIFIER};
	if (!format->sample_id_all)
		return;
	size_t n_words = 0;
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		n_words += (format->sample_type & bits[i]) != 0;
	if (n_words * 8 > (size_t)(cur->end - cur->at)) {
		cur->ok = false;
		return;
	}
	struct cursor tail = {cur->end - n_words * 8, cur->end, true};
	cur->end = tail.at;
	if (format->sample_type & PERF_SAMPLE_TID) {
		out->pid = take32(&tail);
		out->tid = take32(&tail);
	}
	if (format->sample_type & PERF_SAMPLE_TIME)
		out->time = take64(&tail);
}

static void decode_mmap(struct cursor *cur, uint32_t type, uint16_t misc, struct ovm_sample *out)
{
	out->pid = take32(cur);
	out->tid = take32(cur);
	out->addr = take64(cur);
	out->len = take64(cur);
	out->file_offset = take64(cur);
	out->is_exec = !(misc & PERF_RECORD_MISC_MMAP_DATA);
	if (type == PERF_RECORD_MMAP2) {
		const uint8_t *id = take(cur, 24);
		if (id && (misc & PERF_RECORD_MISC_MMAP_BUILD_ID)) {
			out->build_id_len = id[0];
			out->build_id = id + 4;
			if (id[0] < 1 || id[0] > 20)
				cur->ok = false;
		} else if (id) {
			out->dev = makedev(ovm_le32(id), ovm_le32(id + 4));
			out->inode = ovm_le64(id + 8);
		}
		uint32_t prot = take32(cur);
		take32(cur); /* flags */
		out->is_exec = (prot & 4) != 0;
	}
	out->path = take_string(cur);
}

static void decode_body(struct cursor *cur, uint32_t type, uint16_t misc, struct ovm_sample *out)
{
	switch (type) {
	case PERF_RECORD_MMAP:
	case PERF_RECORD_MMAP2:
		out->kind = OVM_RECORD_MMAP;
		decode_mmap(cur, type, misc, out);
		break;
	case PERF_RECORD_LOST:
		out->kind = OVM_RECORD_LOST;
		take64(cur); /* event id */
		out->n_lost = take64(cur);
		break;
	case PERF_RECORD_LOST_SAMPLES:
		out->kind = OVM_RECORD_LOST;
		out->n_lost = take64(cur);
		break;
	case PERF_RECORD_COMM:
		out->kind = OVM_RECORD_COMM;
		out->pid = take32(cur);
		out->tid = take32(cur);
		out->is_exec = (misc & PERF_RECORD_MISC_COMM_EXEC) != 0;
		out->path = take_string(cur);
		break;
	case PERF_RECORD_FORK:
	case PERF_RECORD_EXIT:
		out->kind = type == PERF_RECORD_FORK ? OVM_RECORD_FORK : OVM_RECORD_EXIT;
		out->is_exec = type == PERF_RECORD_FORK && (misc & PERF_RECORD_MISC_FORK_EXEC);
		out->pid = take32(cur);
		out->ppid = take32(cur);
		out->tid = take32(cur);
		out->ptid = take32(cur);
		out->time = take64(cur);
		break;
	default:
		break;
	}
}

size_t ovm_record_decode(const struct ovm_record_format *format, const uint8_t *bytes, size_t n,
			 struct ovm_sample *out)
{
	if (n < HEADER_SIZE)
		return 0;
	uint32_t type = ovm_le32(bytes);
	uint16_t misc = ovm_le16(bytes + 4);
	size_t size = ovm_le16(bytes + 6);
	if (size < HEADER_SIZE || size > n || size % 8)
		return 0;
	struct cursor cur = {bytes + HEADER_SIZE, bytes + size, true};
	struct ovm_sample sample = {.kind = OVM_RECORD_OTHER};
	if (type == PERF_RECORD_SAMPLE) {
		sample.kind = OVM_RECORD_SAMPLE;
		sample.is_user = (misc & PERF_RECORD_MISC_CPUMODE_MASK) == PERF_RECORD_MISC_USER;
		decode_sample(format, &cur, &sample);
	} else if (type < 64) { /* 64 and up are made by tools, without a sample_id */
		decode_sample_id(format, &cur, &sample);
		decode_body(&cur, type, misc, &sample);
	}
	if (!cur.ok)
		return 0;
	*out = sample;
	return size;
}

struct ovm_branch_record ovm_record_branch(const struct ovm_sample *sample, uint32_t idx)
{
	OVM_ASSERT(idx < sample->n_branches);
	const uint8_t *p = sample->branches + (size_t)idx * BRANCH_SIZE;
	return (struct ovm_branch_record){ovm_le64(p), ovm_le64(p + 8),
					  (ovm_le64(p + 16) & BRANCH_MISPRED) != 0};
}
