/* The map of a rewritten file: which copy is of what, so that the file can be proved and its
 * profiles read without the tool that made it.
 *
 * All numbers are LEB128, signed where said. Differences keep them short.
 *
 *   version 3
 *   section * 6            offset in the overlay, size
 *   run ..., 0 0           overlay bytes since the last run, size << 3 | kind, signed: original
 *                          address - end of the last run's original
 *       kind 0             a copy byte by byte of one or more instructions
 *            1             one instruction of another length
 *            2             a jump of ours, about to execute the original address
 *            3             nops that are run through, likewise
 *            4             the guard of a promoted call, likewise
 *            5             the direct call behind it, a copy of that call
 *   n, patch * n           original bytes since the end of the last patch
 *   n, table * n           signed: old_table - the last one's, base - old_table, new_off - the last
 *                          one's; n_entries, entry_size; signed: old_load - the last one's,
 *                          old_jump - old_load
 *
 * Instruction boundaries are not in it: where the copy is byte by byte they are the original's, and
 * what they are there is asked of the second decoder. Fillers that nobody executes are left out.
 * Version 2 had no promoted calls and size << 2.
 */
#include "analyzer/cfi.h"
#include "rewriter/check_private.h"
#include "rewriter/elf_private.h"

enum { MAP_VERSION = 3, KIND_BITS = 3, OLD_VERSION = 2, OLD_KIND_BITS = 2 };
enum { INSN_MAX = 15, PATCH_LEN = 5 };
enum { COPIED, RESIZED, ADDED, NOPS, GUARD, GUARDED, N_KINDS }; /* kinds of runs */

/* --- writing
 * -------------------------------------------------------------------------------------------- */

static unsigned kind_of(const struct ovm_map_entry *entry)
{
	if (entry->flags & OVM_MAP_GUARD)
		return entry->flags & OVM_MAP_SYNTH ? GUARD : GUARDED;
	if (entry->flags & OVM_MAP_SYNTH)
		return entry->flags & OVM_MAP_PAD ? NOPS : ADDED;
	return entry->new_len == entry->old_len ? COPIED : RESIZED;
}

/* Something that the original has not. */
static bool is_extra(unsigned kind)
{
	return kind == ADDED || kind == NOPS || kind == GUARD;
}

static bool is_filler(const struct ovm_map_entry *entry)
{
	return (entry->flags & (OVM_MAP_PAD | OVM_MAP_SYNTH)) == OVM_MAP_PAD || !entry->new_len;
}

static void put_runs(const struct ovm_map *map, struct ovm_buf *out)
{
	uint64_t end = 0, old_end = 0;
	for (uint32_t i = 0; i < map->v.n;) {
		const struct ovm_map_entry *first = &map->v.v[i++];
		if (is_filler(first))
			continue;
		unsigned kind = kind_of(first);
		uint64_t size = first->new_len, old_size = is_extra(kind) ? 0 : first->old_len;
		for (; kind == COPIED && i < map->v.n; i++) {
			const struct ovm_map_entry *next = &map->v.v[i];
			if (is_filler(next) || kind_of(next) != COPIED ||
			    next->off != first->off + size || next->old.v != first->old.v + size)
				break;
			size += next->new_len;
			old_size = size;
		}
		ovm_buf_uleb(out, first->off - end);
		ovm_buf_uleb(out, size << KIND_BITS | kind);
		ovm_buf_sleb(out, (int64_t)(first->old.v - old_end));
		end = first->off + size;
		old_end = first->old.v + old_size;
	}
	ovm_buf_uleb(out, 0);
	ovm_buf_uleb(out, 0);
}

static void put_tables(const struct ovm_overlay *overlay, struct ovm_buf *out)
{
	struct ovm_table_copy last = {0};
	ovm_buf_uleb(out, overlay->tables.n);
	for (uint32_t i = 0; i < overlay->tables.n; i++) {
		const struct ovm_table_copy *table = &overlay->tables.v[i];
		ovm_buf_sleb(out, (int64_t)(table->old_table.v - last.old_table.v));
		ovm_buf_sleb(out, (int64_t)(table->base.v - table->old_table.v));
		ovm_buf_sleb(out, (int64_t)table->new_off - last.new_off);
		ovm_buf_uleb(out, table->n_entries);
		ovm_buf_uleb(out, table->entry_size);
		ovm_buf_sleb(out, (int64_t)(table->old_load.v - last.old_load.v));
		ovm_buf_sleb(out, (int64_t)(table->old_jump.v - table->old_load.v));
		last = *table;
	}
}

void ovm_elf_map_put(const struct ovm_overlay *overlay, struct ovm_buf *out)
{
	uint64_t end = 0;
	ovm_buf_uleb(out, MAP_VERSION);
	for (int kind = 0; kind < OVM_N_SECTIONS; kind++) {
		ovm_buf_uleb(out, overlay->sections[kind].off);
		ovm_buf_uleb(out, overlay->sections[kind].size);
	}
	put_runs(&overlay->map, out);
	ovm_buf_uleb(out, overlay->patches.n);
	for (uint32_t i = 0; i < overlay->patches.n; i++) {
		ovm_buf_uleb(out, overlay->patches.v[i].at.v - end);
		end = overlay->patches.v[i].at.v + overlay->patches.v[i].len;
	}
	put_tables(overlay, out);
}

/* --- reading
 * -------------------------------------------------------------------------------------------- */

struct reader {
	const uint8_t *p, *end;
	bool is_bad; /* ran over the end, or a number out of range */
	const struct ovm_image *image;
	const struct ovm_segment *segment; /* of the last original address */
	ZydisDecoder dec;
	struct ovm_overlay *overlay;
	unsigned kind_bits;
};

static uint64_t get(struct reader *r, uint64_t max)
{
	uint64_t value = 0;
	r->is_bad = r->is_bad || !ovm_cfi_uleb(&r->p, r->end, &value) || value > max;
	return r->is_bad ? 0 : value;
}

static uint64_t get_signed(struct reader *r)
{
	int64_t value = 0;
	r->is_bad = r->is_bad || !ovm_cfi_sleb(&r->p, r->end, &value);
	return r->is_bad ? 0 : (uint64_t)value;
}

static bool decode(struct reader *r, uint64_t va, struct ovm_check_insn *out)
{
	if (!r->segment || va - r->segment->lo.v >= r->segment->filesz)
		r->segment = ovm_image_segment(r->image, ovm_va_of(va));
	if (!r->segment || va - r->segment->lo.v >= r->segment->filesz)
		return false;
	uint64_t rest = r->segment->filesz - (va - r->segment->lo.v);
	size_t avail = rest < INSN_MAX ? (size_t)rest : INSN_MAX;
	const uint8_t *p = ovm_image_code(r->image, ovm_va_of(va), avail);
	return p && ovm_check_decode(&r->dec, p, avail, va, out);
}

static uint16_t flags_of(const struct ovm_check_insn *insn)
{
	switch (insn->kind) {
	case OVM_INSN_CALL:
	case OVM_INSN_CALL_IND:
		return OVM_MAP_CALL;
	case OVM_INSN_SYSCALL:
		return OVM_MAP_SYSCALL;
	default:
		return 0;
	}
}

/* A run that copies @size bytes: one entry an instruction. Returns the original bytes it is of. */
static uint64_t get_copies(struct reader *r, uint64_t off, uint64_t size, uint64_t old,
			   unsigned kind)
{
	struct ovm_check_insn insn;
	uint64_t done = 0;
	while (done < size) {
		if (!decode(r, old + done, &insn) ||
		    (kind == COPIED ? insn.len > size - done : size > INSN_MAX)) {
			r->is_bad = true;
			return 0;
		}
		uint8_t new_len = kind == COPIED ? insn.len : (uint8_t)size;
		ovm_vec_push(&r->overlay->map.v,
			     (struct ovm_map_entry){
				 .old = {old + done},
				 .off = (uint32_t)(off + done),
				 .new_len = new_len,
				 .old_len = insn.len,
				 .flags = (uint16_t)(flags_of(&insn) |
						     (kind == GUARDED ? OVM_MAP_GUARD : 0))});
		done += new_len;
	}
	return kind == COPIED ? size : insn.len;
}

static uint16_t extra_flags(unsigned kind)
{
	return kind == NOPS    ? OVM_MAP_SYNTH | OVM_MAP_PAD
	       : kind == GUARD ? OVM_MAP_SYNTH | OVM_MAP_GUARD
			       : OVM_MAP_SYNTH;
}

static void get_runs(struct reader *r)
{
	uint64_t off = 0, old = 0, limit = r->overlay->size, mask = (1u << r->kind_bits) - 1;
	for (;;) {
		off += get(r, limit - off);
		uint64_t word = get(r, (limit - off) << r->kind_bits | mask);
		uint64_t size = word >> r->kind_bits;
		unsigned kind = word & mask;
		if (r->is_bad || !size) {
			r->is_bad = r->is_bad || word || off > limit;
			return;
		}
		old += get_signed(r);
		r->is_bad = r->is_bad || kind >= N_KINDS || (is_extra(kind) && size > UINT8_MAX);
		if (r->is_bad)
			return;
		if (is_extra(kind))
			ovm_vec_push(&r->overlay->map.v,
				     (struct ovm_map_entry){.old = {old},
							    .off = (uint32_t)off,
							    .new_len = (uint8_t)size,
							    .flags = extra_flags(kind)});
		else
			old += get_copies(r, off, size, old, kind);
		off += size;
	}
}

static void get_patches(struct reader *r)
{
	uint64_t at = 0;
	for (uint64_t n = get(r, UINT32_MAX); n && !r->is_bad; n--) {
		at += get(r, UINT64_MAX);
		ovm_vec_push(&r->overlay->patches,
			     (struct ovm_patch){.at = {at}, .len = PATCH_LEN, .region = OVM_NONE});
		at += PATCH_LEN;
	}
}

static void get_tables(struct reader *r)
{
	struct ovm_table_copy table = {0};
	for (uint64_t n = get(r, UINT32_MAX); n && !r->is_bad; n--) {
		table.old_table.v += get_signed(r);
		table.base.v = table.old_table.v + get_signed(r);
		uint64_t new_off = table.new_off + get_signed(r);
		r->is_bad = r->is_bad || new_off > r->overlay->size;
		table.new_off = (uint32_t)new_off;
		table.n_entries = (uint32_t)get(r, UINT32_MAX);
		table.entry_size = (uint8_t)get(r, 8);
		table.old_load.v += get_signed(r);
		table.old_jump.v = table.old_load.v + get_signed(r);
		ovm_vec_push(&r->overlay->tables, table);
	}
}

bool ovm_elf_map_read(const struct ovm_image *image, const uint8_t *map, uint64_t size,
		      struct ovm_overlay *overlay)
{
	struct reader r = {.p = map, .end = map + size, .image = image, .overlay = overlay};
	ovm_check_decoder_init(&r.dec);
	uint64_t version = get(&r, UINT32_MAX);
	if (version != MAP_VERSION && version != OLD_VERSION)
		return false;
	r.kind_bits = version == MAP_VERSION ? KIND_BITS : OLD_KIND_BITS;
	for (int kind = 0; kind < OVM_N_SECTIONS; kind++) {
		overlay->sections[kind].off = (uint32_t)get(&r, overlay->size);
		overlay->sections[kind].size =
		    (uint32_t)get(&r, overlay->size - overlay->sections[kind].off);
	}
	get_runs(&r);
	get_patches(&r);
	get_tables(&r);
	return !r.is_bad && r.p == r.end;
}
