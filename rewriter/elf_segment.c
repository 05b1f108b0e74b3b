/* What stands around the overlay in the new segment: before it the note and the pieces that made
 * room for the program header, behind it what is made from the finished overlay.
 *
 *   va   +0             64 zero bytes (see elf_plan.c)
 *        +64            note "optvm": fixed size, so that the overlay's base is known before it
 *                       moved pieces: .interp, .note.ABI-tag
 *        +overlay_off   the overlay, 64-byte aligned
 *                       .eh_frame_hdr: every entry of the old table, then the overlay's: it lies
 *                       above, so that is sorted
 *                       map
 *                       undo list: what the changed bytes of the original were
 *
 * The old table is copied raw: FDEs that the analyzer dropped must still be found by the unwinder.
 */
#include "rewriter/elf_private.h"
#include "rewriter/ehframe.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define TOOL_VERSION "0.1.0"

enum { NOTE_HEAD = 12 + 8 }; /* namesz, descsz, type, "optvm\0" padded to 8 */
_Static_assert(sizeof(struct ovm_note) == 256,
	       "no holes: the note is hashed and padded to 4 bytes");

uint32_t ovm_elf_note_size(void)
{
	return NOTE_HEAD + sizeof(struct ovm_note);
}

void ovm_elf_new_build_id(const struct ovm_image *image, const struct ovm_overlay *overlay,
			  uint8_t *id)
{
	XXH64_hash_t seed = XXH3_64bits(overlay->bytes, overlay->size);
	for (uint32_t i = 0; i < overlay->patches.n; i++) {
		const struct ovm_patch *patch = &overlay->patches.v[i];
		seed = XXH3_64bits_withSeed(patch->new_bytes, sizeof(patch->new_bytes),
					    seed ^ patch->at.v);
	}
	for (uint32_t done = 0; done < image->build_id_len; done += 8) {
		XXH64_hash_t hash =
		    XXH3_64bits_withSeed(image->build_id, image->build_id_len, seed + done);
		uint32_t n = image->build_id_len - done;
		memcpy(id + done, &hash, n < 8 ? n : 8);
	}
}

typedef OVM_VEC(struct ovm_hdr_entry) hdr_entries;

static int by_code(const void *a, const void *b)
{
	const struct ovm_hdr_entry *x = a, *y = b;
	return (x->code.v > y->code.v) - (x->code.v < y->code.v);
}

/* The old table's entries, if it has the one layout that linkers write (udata4 count, sdata4 pairs
 * relative to the header). */
static void old_entries(const struct ovm_image *image, hdr_entries *out)
{
	uint64_t size = image->eh_frame_hdr_size, va = image->eh_frame_hdr.v;
	const uint8_t *p = size >= 12 ? ovm_image_at(image, image->eh_frame_hdr, size) : NULL;
	if (!p || p[0] != 1 || p[1] != 0x1b || p[2] != 0x03 || p[3] != 0x3b)
		return;
	uint64_t n = ovm_le32(p + 8);
	if (n > (size - 12) / 8)
		n = (size - 12) / 8;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t code = va + (uint64_t)(int64_t)(int32_t)ovm_le32(p + 12 + 8 * i);
		uint64_t fde = va + (uint64_t)(int64_t)(int32_t)ovm_le32(p + 16 + 8 * i);
		ovm_vec_push(out, (struct ovm_hdr_entry){{code}, {fde}});
	}
}

static bool is_sorted(const hdr_entries *entries)
{
	for (uint32_t i = 1; i < entries->n; i++)
		if (entries->v[i].code.v < entries->v[i - 1].code.v)
			return false;
	return true;
}

/* Regions the old table lacks. Both lists ascend; found ones are left out. */
static void add_regions(const struct ovm_regions *regions, hdr_entries *entries)
{
	uint32_t n_old = entries->n, k = 0;
	for (uint32_t i = 0; i < regions->v.n; i++) {
		const struct ovm_region *region = &regions->v.v[i];
		while (k < n_old && entries->v[k].code.v < region->lo.v)
			k++;
		if (k == n_old || entries->v[k].code.v != region->lo.v)
			ovm_vec_push(entries, (struct ovm_hdr_entry){region->lo, region->fde});
	}
	if (entries->n != n_old)
		qsort(entries->v, entries->n, sizeof(*entries->v), by_code);
}

void ovm_elf_segment_hdr(const struct ovm_image *image, const struct ovm_elf_plan *plan,
			 const struct ovm_regions *regions, const struct ovm_overlay *overlay,
			 struct ovm_elf_segment *segment)
{
	if (!image->eh_frame_hdr.v && !plan->adds_hdr)
		return;
	hdr_entries entries = {0};
	old_entries(image, &entries);
	if (!is_sorted(&entries))
		qsort(entries.v, entries.n, sizeof(*entries.v), by_code);
	add_regions(regions, &entries);
	for (uint32_t i = 0; i < overlay->fdes.n; i++) {
		const struct ovm_new_fde *fde = &overlay->fdes.v[i];
		ovm_vec_push(&entries,
			     (struct ovm_hdr_entry){ovm_va_add(overlay->base, fde->off),
						    ovm_va_add(overlay->base, fde->fde_off)});
	}
	ovm_buf_fill(&segment->tail, 0, -(overlay->base.v + overlay->size + segment->tail.n) & 3);
	size_t start = segment->tail.n;
	segment->eh_frame_hdr = ovm_va_of(overlay->base.v + overlay->size + start);
	ovm_ehframe_hdr(&segment->tail, segment->eh_frame_hdr, image->eh_frame, entries.v,
			entries.n);
	segment->eh_frame_hdr_size = segment->tail.n - start;
	ovm_vec_free(&entries);
}

void ovm_elf_segment_map(const struct ovm_overlay *overlay, struct ovm_elf_segment *segment)
{
	size_t start = segment->tail.n;
	ovm_elf_map_put(overlay, &segment->tail);
	segment->map = ovm_va_of(overlay->base.v + overlay->size + start);
	segment->map_size = segment->tail.n - start;
	segment->map_hash = XXH3_64bits(segment->tail.v + start, segment->map_size);
}

/* The rest of the file behind the last loaded byte, if nothing of it was recorded before @end. */
static void put_unloaded(const struct ovm_elf_view *view, uint64_t end, struct ovm_buf *out)
{
	uint64_t loaded = end;
	for (uint32_t i = 0; i < view->n_phdrs; i++) {
		const Elf64_Phdr *ph = &view->phdrs[i];
		if (ph->p_type == PT_LOAD && ph->p_offset + ph->p_filesz > loaded)
			loaded = ph->p_offset + ph->p_filesz;
	}
	if (loaded >= view->size || view->size - loaded > OVM_ELF_KEEP_MAX)
		return;
	ovm_buf_uleb(out, loaded - end);
	ovm_buf_uleb(out, view->size - loaded);
	ovm_buf_put(out, view->bytes + loaded, view->size - loaded);
}

void ovm_elf_segment_undo(const struct ovm_elf_view *view, const struct ovm_elf_edits *edits,
			  const struct ovm_overlay *overlay, struct ovm_elf_segment *segment)
{
	size_t start = segment->tail.n;
	uint64_t end = 0;
	for (uint32_t i = 0; i < edits->v.n; i++) {
		const struct ovm_elf_edit *edit = &edits->v.v[i];
		ovm_buf_uleb(&segment->tail, edit->off - end);
		ovm_buf_uleb(&segment->tail, edit->len);
		ovm_buf_put(&segment->tail, view->bytes + edit->off, edit->len);
		end = edit->off + edit->len;
	}
	put_unloaded(view, end, &segment->tail);
	ovm_buf_uleb(&segment->tail, 0);
	ovm_buf_uleb(&segment->tail, 0);
	segment->undo = ovm_va_of(overlay->base.v + overlay->size + start);
	segment->undo_size = segment->tail.n - start;
}

static void put_note(const struct ovm_image *image, const struct ovm_elf_plan *plan,
		     const struct ovm_overlay *overlay, const char *profile_hash,
		     struct ovm_elf_segment *segment)
{
	struct ovm_note note = {
	    .version = OVM_NOTE_VERSION,
	    .how = (uint16_t)plan->how,
	    .flags = plan->debug ? OVM_NOTE_DEBUG : 0,
	    .original_size = image->size,
	    .overlay = overlay->base.v,
	    .overlay_size = overlay->size,
	    .undo = segment->undo.v,
	    .undo_size = segment->undo_size,
	    .n_patches = overlay->patches.n,
	    .build_id_len = image->build_id_len,
	    .tool = TOOL_VERSION,
	    .map = segment->map.v,
	    .map_size = segment->map_size,
	    .map_hash = segment->map_hash,
	    .overlay_hash = XXH3_64bits(overlay->bytes, overlay->size),
	};
	ovm_image_hash(image, note.original_hash);
	memcpy(note.build_id, image->build_id, image->build_id_len);
	if (profile_hash)
		snprintf(note.profile_hash, sizeof(note.profile_hash), "%s", profile_hash);
	note.check = XXH3_64bits(&note, offsetof(struct ovm_note, check));
	ovm_buf_u32(&segment->head, sizeof(OVM_NOTE_OWNER));
	ovm_buf_u32(&segment->head, sizeof(note));
	ovm_buf_u32(&segment->head, OVM_NOTE_TYPE);
	ovm_buf_put(&segment->head, (const char[8]){OVM_NOTE_OWNER}, 8);
	ovm_buf_put(&segment->head, &note, sizeof(note));
}

void ovm_elf_segment_head(const struct ovm_image *image, const struct ovm_elf_view *view,
			  const struct ovm_elf_plan *plan, const struct ovm_overlay *overlay,
			  const char *profile_hash, const uint8_t *new_id,
			  struct ovm_elf_segment *segment)
{
	ovm_buf_fill(&segment->head, 0, OVM_ELF_PAD);
	put_note(image, plan, overlay, profile_hash, segment);
	for (uint32_t i = 0; i < plan->n_moves; i++) {
		const struct ovm_elf_move *move = &plan->moves[i];
		if (!move->in_segment)
			continue;
		ovm_buf_fill(&segment->head, 0, move->new_off - plan->off - segment->head.n);
		ovm_buf_put(&segment->head, view->bytes + move->old_off, move->size);
		if (image->build_id_len && image->build_id_off.v >= move->old_off &&
		    image->build_id_off.v + image->build_id_len <= move->old_off + move->size)
			memcpy(segment->head.v + (move->new_off - plan->off) +
				   (image->build_id_off.v - move->old_off),
			       new_id, image->build_id_len);
	}
	ovm_buf_fill(&segment->head, 0, plan->overlay_off - segment->head.n);
	segment->size = segment->head.n + overlay->size + segment->tail.n;
}
