/* Reads back what elf_write.c wrote, from files that other tools may have gone over since.
 *
 *   note            64 bytes into a segment: found without section headers, kept by every tool
 *   map, undo list  loaded too, at the addresses the note gives
 *
 * Everything is hashed in the note. strip and objcopy write section headers, names and offsets
 * anew, patchelf moves segments: whether the original can still be restored is not guessed, it is
 * restored and its hash compared.
 */
#include "rewriter/elf_read.h"
#include "analyzer/cfi.h"
#include "rewriter/elf_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { NOTE_HEAD = 20, PIECE = 8 << 20 /* of a file that is restored */ };

/* --- note
 * -------------------------------------------------------------------------------------------- */

static bool is_note(const uint8_t *p)
{
	return ovm_le32(p) == sizeof(OVM_NOTE_OWNER) && ovm_le32(p + 8) == OVM_NOTE_TYPE &&
	       !memcmp(p + 12, OVM_NOTE_OWNER, sizeof(OVM_NOTE_OWNER));
}

int ovm_elf_note(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_note *out)
{
	const uint8_t *p = NULL;
	for (uint32_t i = 0; i < image->segments.n && !p; i++) {
		ovm_va va = ovm_va_add(image->segments.v[i].lo, OVM_ELF_PAD);
		p = ovm_image_at(image, va, NOTE_HEAD + sizeof(*out));
		p = p && is_note(p) ? p : NULL;
	}
	if (!p)
		return ovm_fail(ctx, OVM_E_MISMATCH, "%s: was not written by optvm", image->path);
	memcpy(out, p + NOTE_HEAD, sizeof(*out));
	if (ovm_le32(p + 4) != sizeof(*out) || out->version != OVM_NOTE_VERSION)
		return ovm_fail(ctx, OVM_E_MISMATCH,
				"%s: was written by another version of optvm (format %u, not %d)",
				image->path, out->version, OVM_NOTE_VERSION);
	if (out->check != XXH3_64bits(out, offsetof(struct ovm_note, check)) ||
	    out->build_id_len > sizeof(out->build_id))
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: the note of optvm is damaged", image->path);
	return 0;
}

/* --- undo
 * -------------------------------------------------------------------------------------------- */

struct undo { /* the list, and where it has been followed to */
	const uint8_t *p, *end;
	uint64_t at, len; /* of the record, in the original; 0: no more */
	uint64_t size;	  /* of the original */
};

/* On to the record behind the present one. */
static bool next_record(struct undo *undo)
{
	uint64_t gap, len, from = undo->at + undo->len;
	undo->p += undo->len;
	if (!ovm_cfi_uleb(&undo->p, undo->end, &gap) || !ovm_cfi_uleb(&undo->p, undo->end, &len))
		return false;
	if (len && (gap > undo->size - from || len > undo->size - from - gap ||
		    len > (uint64_t)(undo->end - undo->p)))
		return false;
	undo->at = from + gap;
	undo->len = len;
	return true;
}

/* Write what the list has for the piece [@off, @off+@n) of the original over @piece. */
static bool undo_piece(struct undo *undo, uint8_t *piece, uint64_t off, uint64_t n)
{
	while (undo->len && undo->at < off + n) {
		uint64_t lo = undo->at > off ? undo->at : off, end = undo->at + undo->len;
		uint64_t hi = end < off + n ? end : off + n;
		memcpy(piece + (lo - off), undo->p + (lo - undo->at), hi - lo);
		if (end > off + n)
			return true;
		if (!next_record(undo))
			return false;
	}
	return true;
}

/* Piece by piece: what @image has, what the list has, into @fd and the hash. False: not the
 * original any more; an error of writing, and then *errnum. */
static bool restore(const struct ovm_image *image, const struct ovm_note *note, int fd, int *errnum)
{
	const uint8_t *list = ovm_image_at(image, ovm_va_of(note->undo), note->undo_size);
	struct undo undo = {.size = note->original_size};
	*errnum = 0;
	/* what is missing at the end can only come from the list */
	if (!list || undo.size > image->size + OVM_ELF_KEEP_MAX)
		return false;
	undo.p = list;
	undo.end = list + note->undo_size;
	uint8_t *piece = ovm_alloc(undo.size < PIECE ? undo.size : PIECE);
	XXH3_state_t *state = XXH3_createState();
	if (!state || XXH3_128bits_reset(state) == XXH_ERROR)
		ovm_out_of_memory(1, sizeof(note->original_hash));
	bool ok = next_record(&undo);
	for (uint64_t off = 0; off < undo.size && ok; off += PIECE) {
		uint64_t n = undo.size - off < PIECE ? undo.size - off : PIECE;
		uint64_t rest = off < image->size ? image->size - off : 0,
			 had = n < rest ? n : rest;
		memcpy(piece, image->bytes + off, had);
		memset(piece + had, 0, n - had);
		ovm_image_release(image, image->bytes + off, had);
		ok = undo_piece(&undo, piece, off, n);
		XXH3_128bits_update(state, piece, n);
		if (ok && !ovm_elf_put(fd, piece, n, off)) {
			*errnum = errno;
			ok = false;
		}
	}
	XXH128_hash_t hash = XXH3_128bits_digest(state);
	XXH3_freeState(state);
	free(piece);
	return ok && !undo.len && undo.p == undo.end && hash.low64 == note->original_hash[0] &&
	       hash.high64 == note->original_hash[1];
}

int ovm_elf_undo(struct ovm_ctx *ctx, const struct ovm_image *image, int fd)
{
	struct ovm_note note;
	int errnum, err = ovm_elf_note(ctx, image, &note);
	if (err)
		return err;
	if (restore(image, &note, fd, &errnum))
		return 0;
	if (errnum)
		return ovm_fail_errno(ctx, OVM_E_IO, errnum, "cannot write the original of %s",
				      image->path);
	return ovm_fail(ctx, OVM_E_MISMATCH,
			"%s: was changed after optvm wrote it (strip, objcopy, patchelf?): "
			"the original cannot be restored from it",
			image->path);
}

static int fill_undone(struct ovm_ctx *ctx, void *arg, int in, int fd)
{
	(void)in;
	return ovm_elf_undo(ctx, arg, fd);
}

int ovm_elf_undo_to(struct ovm_ctx *ctx, struct ovm_image *image, bool force, const char *path)
{
	return ovm_elf_save(ctx, image->path, path, force, fill_undone, image);
}

int ovm_elf_open_original(struct ovm_ctx *ctx, const struct ovm_image *image,
			  struct ovm_image **out)
{
	char path[32];
	int fd = memfd_create("optvm-original", MFD_CLOEXEC);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot keep the original in memory");
	int err = ovm_elf_undo(ctx, image, fd);
	if (!err) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		err = ovm_image_open(ctx, path, out);
	}
	close(fd);
	if (err)
		return err;
	free((*out)->path);
	(*out)->path = ovm_strdup(image->path);
	return 0;
}

/* --- overlay
 * -------------------------------------------------------------------------------------------- */

/* The patches' bytes, on both sides, and their regions. */
static int read_patches(struct ovm_ctx *ctx, const struct ovm_image *image,
			const struct ovm_image *original, const struct ovm_regions *regions,
			struct ovm_overlay *overlay)
{
	for (uint32_t i = 0; i < overlay->patches.n; i++) {
		struct ovm_patch *patch = &overlay->patches.v[i];
		const uint8_t *old = ovm_image_code(original, patch->at, patch->len);
		const uint8_t *new = ovm_image_code(image, patch->at, patch->len);
		if (!old || !new)
			return ovm_fail(ctx, OVM_E_FORMAT, "%s: no code at 0x%llx to be patched",
					image->path, (unsigned long long)patch->at.v);
		memcpy(patch->old_bytes, old, patch->len);
		memcpy(patch->new_bytes, new, patch->len);
		int64_t jump = (int32_t)ovm_le32(new + 1);
		patch->target =
		    (uint32_t)(ovm_va_add(patch->at, patch->len + jump).v - overlay->base.v);
		patch->region = ovm_region_find(regions, patch->at);
	}
	return 0;
}

/* The region whose code stands first in [@lo, @hi). */
static uint32_t region_at(const struct ovm_overlay *overlay, const struct ovm_regions *regions,
			  uint32_t lo, uint32_t hi)
{
	const struct ovm_map *map = &overlay->map;
	uint32_t region = OVM_NONE, a = 0, b = map->v.n;
	while (a < b) { /* first entry at or behind @lo */
		uint32_t mid = a + (b - a) / 2;
		if (map->v.v[mid].off < lo)
			a = mid + 1;
		else
			b = mid;
	}
	for (; region == OVM_NONE && a < map->v.n && map->v.v[a].off < hi; a++)
		region = ovm_region_find(regions, map->v.v[a].old);
	return region;
}

/* As the binary-search table and the FDEs it leads to have it. Whether that is true of .eh_frame
 * is for the checker. */
static int read_fdes(struct ovm_ctx *ctx, const struct ovm_image *image,
		     const struct ovm_regions *regions, struct ovm_overlay *overlay)
{
	const struct ovm_section *hdr = &overlay->sections[OVM_SECTION_EH_FRAME_HDR];
	const uint8_t *p = overlay->bytes + hdr->off;
	uint32_t n = hdr->size < 12 ? 0 : (hdr->size - 12) / 8;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t off = hdr->off + ovm_le32(p + 12 + 8 * (size_t)i);
		uint32_t fde = hdr->off + ovm_le32(p + 16 + 8 * (size_t)i);
		if (off > overlay->size || fde > overlay->size || overlay->size - fde < 16)
			return ovm_fail(ctx, OVM_E_FORMAT,
					"%s: entry %u of the copies' .eh_frame_hdr leads nowhere",
					image->path, i);
		uint32_t size = ovm_le32(overlay->bytes + fde + 12), hi = off + size;
		ovm_vec_push(&overlay->fdes,
			     (struct ovm_new_fde){
				 off, size, fde,
				 region_at(overlay, regions, off, hi < off ? UINT32_MAX : hi)});
	}
	return 0;
}

int ovm_elf_overlay(struct ovm_ctx *ctx, const struct ovm_image *image,
		    const struct ovm_image *original, const struct ovm_regions *regions,
		    struct ovm_overlay *out)
{
	struct ovm_note note;
	*out = (struct ovm_overlay){0};
	int err = ovm_elf_note(ctx, image, &note);
	if (err)
		return err;
	const uint8_t *bytes = note.overlay_size < UINT32_MAX
				   ? ovm_image_at(image, ovm_va_of(note.overlay), note.overlay_size)
				   : NULL;
	if (!bytes)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: the overlay is not in the file",
				image->path);
	out->base = ovm_va_of(note.overlay);
	out->size = (uint32_t)note.overlay_size;
	out->bytes = (uint8_t *)(uintptr_t)bytes; /* only read */
	const uint8_t *map = ovm_image_at(image, ovm_va_of(note.map), note.map_size);
	if (!map || !ovm_elf_map_read(original, map, note.map_size, out))
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: the map cannot be read", image->path);
	err = read_patches(ctx, image, original, regions, out);
	return err ? err : read_fdes(ctx, image, regions, out);
}

void ovm_elf_overlay_fini(struct ovm_overlay *overlay)
{
	overlay->bytes = NULL;
	ovm_overlay_fini(overlay);
}

/* --- names
 * -------------------------------------------------------------------------------------------- */

static const Elf64_Phdr *phdr(const struct ovm_elf_view *view, uint32_t type)
{
	for (uint32_t i = 0; i < view->n_phdrs; i++)
		if (view->phdrs[i].p_type == type)
			return &view->phdrs[i];
	return NULL;
}

/* The string at @va, NULL if it does not end in its segment or is empty. */
static const char *string_at(const struct ovm_image *image, ovm_va va)
{
	const struct ovm_segment *segment = ovm_image_segment(image, va);
	if (!segment || va.v - segment->lo.v >= segment->filesz)
		return NULL;
	uint64_t room = segment->filesz - (va.v - segment->lo.v);
	const char *s = (const char *)ovm_image_at(image, va, room);
	return s && *s && memchr(s, 0, room) ? s : NULL;
}

static const char *dynamic_string(const struct ovm_image *image, const Elf64_Phdr *dynamic,
				  int64_t tag)
{
	const uint8_t *p = ovm_image_at(image, ovm_va_of(dynamic->p_vaddr), dynamic->p_filesz);
	uint64_t strtab = 0, off = 0;
	for (uint64_t at = 0; p && dynamic->p_filesz - at >= sizeof(Elf64_Dyn);
	     at += sizeof(Elf64_Dyn)) {
		int64_t found = (int64_t)ovm_le64(p + at);
		if (found == DT_NULL)
			break;
		if (found == DT_STRTAB)
			strtab = ovm_le64(p + at + 8);
		else if (found == tag)
			off = ovm_le64(p + at + 8);
	}
	return strtab && off ? string_at(image, ovm_va_of(strtab + off)) : NULL;
}

/* The string that entry @tag of the dynamic section means, NULL if there is none. */
static const char *find_string(const struct ovm_image *image, int64_t tag)
{
	struct ovm_elf_view view;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	if (ovm_elf_view_init(&ctx, image, &view))
		return NULL;
	const Elf64_Phdr *dynamic = phdr(&view, PT_DYNAMIC);
	const char *name = dynamic ? dynamic_string(image, dynamic, tag) : NULL;
	ovm_elf_view_fini(&view);
	return name;
}

const char *ovm_elf_soname(const struct ovm_image *image)
{
	return find_string(image, DT_SONAME);
}

const char *ovm_elf_search_path(const struct ovm_image *image)
{
	const char *path = find_string(image, DT_RUNPATH);
	return path ? path : find_string(image, DT_RPATH);
}

const char *ovm_elf_interp(const struct ovm_image *image)
{
	struct ovm_elf_view view;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	if (ovm_elf_view_init(&ctx, image, &view))
		return NULL;
	const Elf64_Phdr *interp = phdr(&view, PT_INTERP);
	const char *name = interp ? string_at(image, ovm_va_of(interp->p_vaddr)) : NULL;
	ovm_elf_view_fini(&view);
	return name;
}
