/* Two files, one proof.
 *
 *   IN  --------------- regions ----------------+
 *                                               v
 *   OUT -- note, map, bytes --> overlay --> ovm_check: every copy does what its original does
 *                                  |
 *   IN  --> ovm_elf_compose <------+   the file the writer would write: compared with OUT
 *
 * The checker believes nothing of OUT: the map only says what is to be proved. Composing the file
 * once more is how all the rest is checked; there is no list of what may differ from IN which could
 * be too long. So there is no byte that does not matter: what the proof does not care about
 * (fillers, unwind data of the same meaning) is still held to the hash in the note.
 *
 * strip, objcopy and others keep what is loaded but make section headers and names anew; then only
 * what is loaded is compared, and section numbers and file offsets of the new segment are left out
 * of it.
 */
#include "rewriter/elf_verify.h"
#include "rewriter/check.h"
#include "rewriter/elf_private.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { PIECE = 8 << 20 }; /* of what is compared at once */

struct verify {
	struct ovm_ctx *ctx;
	const struct ovm_image *in, *out;
	struct ovm_note note;
	struct ovm_regions regions;
	struct ovm_overlay overlay;
	struct ovm_elf_output due; /* what OUT should be */
	struct ovm_verify_result *result;
};

static int no(struct verify *v, enum ovm_verify_by by, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int no(struct verify *v, enum ovm_verify_by by, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(v->result->reason, sizeof(v->result->reason), fmt, ap);
	va_end(ap);
	v->result->by = by;
	return OVM_REFUSED;
}

/* A part that cannot be read is a mismatch; another file is none. */
static int no_of(struct verify *v, enum ovm_verify_by by, int err)
{
	return err == OVM_E_FORMAT ? no(v, by, "%s", v->ctx->msg) : err;
}

/* --- the pair
 * -------------------------------------------------------------------------------------------- */

static int check_pair(struct verify *v)
{
	uint64_t hash[2];
	ovm_image_hash(v->in, hash);
	int err = ovm_elf_note(v->ctx, v->out, &v->note);
	if (err)
		return no_of(v, OVM_VERIFY_NOTE, err);
	if (v->note.original_size != v->in->size || v->note.original_hash[0] != hash[0] ||
	    v->note.original_hash[1] != hash[1])
		return ovm_fail(v->ctx, OVM_E_MISMATCH,
				"%s: was made from another file than %s, or that was changed since",
				v->out->path, v->in->path);
	return 0;
}

/* --- the overlay
 * -------------------------------------------------------------------------------------------- */

/* How much of the code is copied, by whole regions. */
static void measure(struct verify *v)
{
	const struct ovm_map *map = &v->overlay.map;
	uint8_t *has_copy = ovm_alloc_array(v->regions.v.n + 1, 1);
	uint32_t last = OVM_NONE;
	for (uint32_t i = 0; i < map->v.n; i++) {
		ovm_va old = map->v.v[i].old;
		if (map->v.v[i].flags & (OVM_MAP_SYNTH | OVM_MAP_PAD))
			continue;
		if (last == OVM_NONE ||
		    !ovm_va_in(old, v->regions.v.v[last].lo, v->regions.v.v[last].hi))
			last = ovm_region_find(&v->regions, old);
		if (last != OVM_NONE)
			has_copy[last] = 1;
	}
	for (uint32_t i = 0; i < v->regions.v.n; i++) {
		const struct ovm_region *region = &v->regions.v.v[i];
		uint64_t size = region->is_plt ? 0 : region->hi.v - region->lo.v;
		v->result->bytes += size;
		v->result->copied += has_copy[i] ? size : 0;
	}
	free(has_copy);
}

static int prove(struct verify *v)
{
	struct ovm_check_result checked;
	int err = ovm_regions_build(v->ctx, v->in, &v->regions);
	if (!err)
		err = ovm_elf_overlay(v->ctx, v->out, v->in, &v->regions, &v->overlay);
	if (err)
		return no_of(v, OVM_VERIFY_FORM, err);
	if (ovm_check(v->ctx, v->in, &v->regions, &v->overlay, &checked) == OVM_REFUSED)
		return no(v, OVM_VERIFY_PROOF, "%s: copy 0x%llx of 0x%llx: %s", v->out->path,
			  (unsigned long long)(v->overlay.base.v + checked.bad_off),
			  (unsigned long long)checked.bad_old.v, checked.reason);
	v->result->n_pairs = checked.n_pairs;
	v->result->n_patches = v->overlay.patches.n;
	v->result->n_tables = v->overlay.tables.n;
	v->result->n_fdes = v->overlay.fdes.n;
	measure(v);
	if (v->note.overlay_hash != XXH3_64bits(v->overlay.bytes, v->overlay.size))
		return no(v, OVM_VERIFY_CHECKSUM,
			  "%s: the overlay was changed, where that makes no difference",
			  v->out->path);
	return 0;
}

/* --- the rest
 * -------------------------------------------------------------------------------------------- */

/* What stands at offset @off of the file that is due. */
static const char *part_at(const struct ovm_elf_output *due, uint64_t off)
{
	const struct ovm_elf_segment *segment = &due->segment;
	uint64_t at = due->plan.off;
	if (off < sizeof(Elf64_Ehdr))
		return "the ELF header";
	if (off < due->image->size) {
		for (uint32_t i = 0; i < due->edits.v.n; i++)
			if (off >= due->edits.v.v[i].off &&
			    off - due->edits.v.v[i].off < due->edits.v.v[i].len)
				return due->edits.v.v[i].off == due->view.ehdr.e_phoff
					   ? "the program headers"
					   : "the build-id, .dynamic or an entry patch";
		return "bytes of the original";
	}
	if (off < at)
		return "padding";
	if (off - at < segment->head.n)
		return "the note and what moved behind it";
	at += segment->head.n;
	if (off - at < due->overlay->size)
		return "the overlay";
	at += due->overlay->size;
	if (off - at < segment->tail.n)
		return "the merged .eh_frame_hdr, the map or the undo list";
	at += segment->tail.n;
	return off - at < due->sections.n ? "symbols or section headers"
					  : "what was appended to the original";
}

static int same_piece(struct verify *v, const uint8_t *due, const uint8_t *is, uint64_t off,
		      uint64_t len)
{
	if (!len || !memcmp(due, is, len))
		return 0;
	uint64_t at = 0;
	while (due[at] == is[at])
		at++;
	return no(v, OVM_VERIFY_BYTES, "%s: %s at file offset 0x%llx: 0x%02x, should be 0x%02x",
		  v->out->path, part_at(&v->due, off + at), (unsigned long long)(off + at), is[at],
		  due[at]);
}

/* Compare [off, off+len) of the due file, which is @due, with @is. By pieces, so that files of any
 * size need little memory. */
static int same(struct verify *v, const uint8_t *due, const uint8_t *is, uint64_t off, uint64_t len)
{
	int rc = 0;
	for (uint64_t at = 0; at < len && !rc; at += PIECE) {
		uint64_t n = len - at < PIECE ? len - at : PIECE;
		rc = same_piece(v, due + at, is + at, off + at, n);
		ovm_image_release(v->in, due + at, n);
		ovm_image_release(v->out, is + at, n);
	}
	return rc;
}

/* [@lo, @hi) of the part that comes from the input, with what was changed in it; @is: what stands
 * there in OUT. */
static int compare_input(struct verify *v, uint64_t lo, uint64_t hi, const uint8_t *is)
{
	const struct ovm_elf_edits *edits = &v->due.edits;
	const uint8_t *in = v->in->bytes;
	uint64_t at = lo;
	int rc = 0;
	for (uint32_t i = 0; i < edits->v.n && !rc; i++) {
		const struct ovm_elf_edit *edit = &edits->v.v[i];
		uint64_t start = edit->off > at ? edit->off : at, end = edit->off + edit->len;
		if (end <= at || start >= hi)
			continue;
		end = end < hi ? end : hi;
		rc = same(v, in + at, is + (at - lo), at, start - at);
		if (!rc)
			rc = same(v, edits->bytes.v + edit->at + (start - edit->off),
				  is + (start - lo), start, end - start);
		at = end;
	}
	return rc ? rc : same(v, in + at, is + (at - lo), at, hi - at);
}

/* The new segment; @is: its first byte in OUT. The overlay itself was borrowed from OUT. */
static int compare_segment(struct verify *v, const uint8_t *is)
{
	const struct ovm_elf_segment *segment = &v->due.segment;
	uint64_t at = v->due.plan.off, tail = segment->head.n + v->overlay.size;
	int rc = same(v, segment->head.v, is, at, segment->head.n);
	return rc ? rc : same(v, segment->tail.v, is + tail, at + tail, segment->tail.n);
}

static int compare_all(struct verify *v)
{
	const struct ovm_elf_output *due = &v->due;
	const uint8_t *is = v->out->bytes;
	uint64_t end = due->plan.off + due->segment.size, last = end + due->sections.n;
	int rc = compare_input(v, 0, v->in->size, is);
	for (uint64_t at = v->in->size; at < due->plan.off && !rc; at++)
		rc = same(v, (const uint8_t[1]){0}, is + at, at, 1);
	if (!rc)
		rc = compare_segment(v, is + due->plan.off);
	if (!rc)
		rc = same(v, due->sections.v, is + end, end, due->sections.n);
	return rc ? rc
		  : same(v, v->in->bytes + v->in->size - due->appended, is + last, last,
			 due->appended);
}

/* --- what is loaded
 * -------------------------------------------------------------------------------------------- */

/* The ELF header but for where sections are. */
static int compare_ehdr(struct verify *v, const Elf64_Ehdr *is)
{
	Elf64_Ehdr due = v->due.ehdr;
	due.e_shoff = is->e_shoff;
	due.e_shnum = is->e_shnum;
	due.e_shentsize = is->e_shentsize;
	due.e_shstrndx = is->e_shstrndx;
	return same(v, (const uint8_t *)&due, (const uint8_t *)is, 0, sizeof(due));
}

/* Program headers but for offsets in the new segment, which may stand elsewhere in the file. */
static int compare_phdrs(struct verify *v, const struct ovm_elf_view *is, const Elf64_Phdr *due)
{
	uint64_t moved = 0, size = v->due.segment.size, off = v->due.plan.off;
	for (uint32_t i = 0; i < is->n_phdrs; i++)
		if (due[i].p_type == PT_LOAD && due[i].p_offset == off)
			moved = is->phdrs[i].p_offset - off;
	for (uint32_t i = 0; i < is->n_phdrs; i++) {
		Elf64_Phdr ph = due[i];
		if (ph.p_offset >= off && ph.p_offset - off < size)
			ph.p_offset += moved;
		int rc = same(v, (const uint8_t *)&ph, (const uint8_t *)&is->phdrs[i],
			      is->ehdr.e_phoff + i * sizeof(ph), sizeof(ph));
		if (rc)
			return rc;
	}
	return 0;
}

/* [@lo, @hi) but [@not_lo, @not_hi). */
static int compare_but(struct verify *v, uint64_t lo, uint64_t hi, uint64_t not_lo, uint64_t not_hi)
{
	uint64_t end = hi < not_lo ? hi : not_lo, start = lo > not_hi ? lo : not_hi;
	int rc = lo < end ? compare_input(v, lo, end, v->out->bytes + lo) : 0;
	return !rc && start < hi ? compare_input(v, start, hi, v->out->bytes + start) : rc;
}

static int compare_loads(struct verify *v, const struct ovm_elf_view *is)
{
	const struct ovm_elf_edits *edits = &v->due.edits;
	uint64_t phoff = v->due.ehdr.e_phoff, phend = phoff + is->n_phdrs * sizeof(Elf64_Phdr);
	const uint8_t *table = NULL;
	for (uint32_t i = 0; i < edits->v.n; i++)
		if (edits->v.v[i].off == phoff)
			table = edits->bytes.v + edits->v.v[i].at;
	int rc = compare_ehdr(v, &is->ehdr);
	if (!rc)
		rc = compare_phdrs(v, is, (const Elf64_Phdr *)(const void *)table);
	for (uint32_t i = 0; i < is->n_phdrs && !rc; i++) {
		const Elf64_Phdr *ph = &is->phdrs[i];
		if (ph->p_type != PT_LOAD || ph->p_offset > is->size ||
		    ph->p_filesz > is->size - ph->p_offset)
			continue;
		const uint8_t *bytes = v->out->bytes + ph->p_offset;
		uint64_t lo = ph->p_offset, hi = lo + ph->p_filesz;
		if (ph->p_vaddr == v->due.plan.va.v) {
			rc = compare_segment(v, bytes);
			continue;
		}
		if (hi <= v->in->size) /* but what was compared above */
			rc = compare_but(v, lo < sizeof(Elf64_Ehdr) ? sizeof(Elf64_Ehdr) : lo, hi,
					 phoff, phend);
	}
	return rc;
}

static int compare_loaded(struct verify *v)
{
	struct ovm_elf_view is;
	int rc = ovm_elf_view_init(v->ctx, v->out, &is);
	if (rc)
		return no_of(v, OVM_VERIFY_BYTES, rc);
	v->result->only_loaded = true;
	if (is.n_phdrs != v->due.ehdr.e_phnum)
		rc = no(v, OVM_VERIFY_BYTES, "%s: %u program headers, should be %u", v->out->path,
			is.n_phdrs, v->due.ehdr.e_phnum);
	else
		rc = compare_loads(v, &is);
	ovm_elf_view_fini(&is);
	return rc;
}

/* Section headers elsewhere than they were written, which still know where the map is: not damage,
 * a tool. */
static bool is_made_anew(const struct verify *v)
{
	struct ovm_elf_view view;
	struct ovm_ctx ctx;
	bool knows_map = false;
	if (v->out->size !=
	    v->due.plan.off + v->due.segment.size + v->due.sections.n + v->due.appended)
		return true;
	ovm_ctx_init(&ctx);
	if (ovm_elf_view_init(&ctx, v->out, &view))
		return false;
	bool moved = view.ehdr.e_shoff != v->due.ehdr.e_shoff ||
		     view.ehdr.e_shstrndx != v->due.ehdr.e_shstrndx;
	const Elf64_Shdr *names = view.shdrs ? &view.shdrs[view.ehdr.e_shstrndx] : NULL;
	for (uint32_t i = 1; moved && i < view.n_shdrs; i++) {
		const Elf64_Shdr *sh = &view.shdrs[i];
		knows_map |= sh->sh_addr == v->note.map && sh->sh_size == v->note.map_size &&
			     sh->sh_name < names->sh_size &&
			     names->sh_size - sh->sh_name >= sizeof(".optvm.map") &&
			     !memcmp(view.bytes + names->sh_offset + sh->sh_name, ".optvm.map",
				     sizeof(".optvm.map"));
	}
	ovm_elf_view_fini(&view);
	return knows_map;
}

static int compare(struct verify *v)
{
	char hash[sizeof(v->note.profile_hash) + 1] = "";
	memcpy(hash, v->note.profile_hash, sizeof(v->note.profile_hash));
	const struct ovm_elf_opts opts = {.profile_hash = hash[0] ? hash : NULL,
					  .debug = v->note.flags & OVM_NOTE_DEBUG};
	int err = ovm_elf_compose(v->ctx, v->in, &v->regions, &v->overlay, &opts, &v->due);
	if (err)
		return no(v, OVM_VERIFY_BYTES, "%s", v->ctx->msg);
	return is_made_anew(v) ? compare_loaded(v) : compare_all(v);
}

int ovm_elf_verify(struct ovm_ctx *ctx, const struct ovm_image *in, const struct ovm_image *out,
		   struct ovm_verify_result *result)
{
	struct verify v = {.ctx = ctx, .in = in, .out = out, .result = result};
	*result = (struct ovm_verify_result){0};
	int rc = check_pair(&v);
	if (!rc)
		rc = prove(&v);
	if (!rc)
		rc = compare(&v);
	ovm_elf_output_fini(&v.due);
	ovm_elf_overlay_fini(&v.overlay);
	ovm_regions_free(&v.regions);
	return rc;
}
