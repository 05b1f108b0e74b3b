/* Writes the new file: the input's bytes, changed where they must be, then the new segment, then
 * what only tools read.
 *
 * Order matters because sizes depend on each other: which bytes change is known first (their old
 * values make the undo list, which lies in the segment), the segment's size then gives the program
 * header, the section table comes last and sets the ELF header. Everything is made in memory but
 * the copy of the input, which the kernel does; a failure removes the temporary file, so an output
 * is whole or absent.
 */
#include "rewriter/elf_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- which bytes change
 * ---------------------------------------------------------------------------------------- */

static void push_edit(struct ovm_elf_edits *edits, uint64_t off, const void *bytes, size_t len)
{
	ovm_vec_push(&edits->v,
		     (struct ovm_elf_edit){.off = off, .len = (uint32_t)len, .at = edits->bytes.n});
	ovm_buf_put(&edits->bytes, bytes, len);
}

static int by_off(const void *a, const void *b)
{
	const struct ovm_elf_edit *x = a, *y = b;
	return (x->off > y->off) - (x->off < y->off);
}

static uint8_t *edit_at(struct ovm_elf_edits *edits, uint64_t off)
{
	for (uint32_t i = 0; i < edits->v.n; i++)
		if (edits->v.v[i].off == off)
			return edits->bytes.v + edits->v.v[i].at;
	return NULL;
}

static uint64_t table_size(const struct ovm_elf_output *w)
{
	if (w->plan.n_grow)
		return w->plan.table_end - w->view.ehdr.e_phoff;
	return (uint64_t)w->view.n_phdrs * sizeof(Elf64_Phdr);
}

static int patch_edits(struct ovm_ctx *ctx, struct ovm_elf_output *w)
{
	for (uint32_t i = 0; i < w->overlay->patches.n; i++) {
		const struct ovm_patch *patch = &w->overlay->patches.v[i];
		const uint8_t *old = ovm_image_code(w->image, patch->at, patch->len);
		ovm_off off;
		if (patch->len > sizeof(patch->old_bytes) || !old ||
		    memcmp(old, patch->old_bytes, patch->len) ||
		    !ovm_image_va_to_off(w->image, patch->at, &off))
			return ovm_fail(ctx, OVM_E_INTERNAL,
					"%s: the patch at 0x%llx is not for these bytes",
					w->image->path, (unsigned long long)patch->at.v);
		push_edit(&w->edits, off.v, patch->new_bytes, patch->len);
	}
	return 0;
}

/* The build-id where it stands, unless its note moves. */
static void build_id_edit(struct ovm_elf_output *w)
{
	uint64_t off = w->image->build_id_off.v;
	if (!w->image->build_id_len)
		return;
	ovm_elf_new_build_id(w->image, w->overlay, w->id);
	for (uint32_t i = 0; i < w->plan.n_moves; i++)
		if (off >= w->plan.moves[i].old_off &&
		    off - w->plan.moves[i].old_off < w->plan.moves[i].size)
			return;
	push_edit(&w->edits, off, w->id, w->image->build_id_len);
}

/* .dynamic names the new addresses of what moved. */
static void dynamic_edits(struct ovm_elf_output *w)
{
	for (uint32_t i = 0; i < w->plan.n_moves; i++) {
		uint8_t bytes[8];
		ovm_put64(bytes, w->plan.moves[i].new_va.v);
		if (w->plan.moves[i].dyn_off)
			push_edit(&w->edits, w->plan.moves[i].dyn_off, bytes, sizeof(bytes));
	}
}

static int collect_edits(struct ovm_ctx *ctx, struct ovm_elf_output *w)
{
	size_t size = table_size(w);
	w->phdrs = ovm_alloc(size);
	push_edit(&w->edits, 0, &w->view.ehdr, sizeof(w->view.ehdr));
	push_edit(&w->edits, w->view.ehdr.e_phoff, w->phdrs, size);
	build_id_edit(w);
	dynamic_edits(w);
	int err = patch_edits(ctx, w);
	if (err)
		return err;
	struct ovm_elf_edits *edits = &w->edits;
	qsort(edits->v.v, edits->v.n, sizeof(*edits->v.v), by_off);
	for (uint32_t i = 0; i < edits->v.n; i++) {
		uint64_t end = edits->v.v[i].off + edits->v.v[i].len;
		if (end > w->image->size || (i + 1 < edits->v.n && end > edits->v.v[i + 1].off))
			return ovm_fail(ctx, OVM_E_FORMAT,
					"%s: headers, build-id or code overlap at offset 0x%llx",
					w->image->path, (unsigned long long)edits->v.v[i].off);
	}
	return 0;
}

/* --- what is added
 * --------------------------------------------------------------------------------------------- */

/* The headers' new values, now that all sizes are known. */
static void finish_headers(struct ovm_elf_output *w)
{
	const struct ovm_elf_plan *plan = &w->plan;
	uint64_t phoff = w->view.ehdr.e_phoff;
	struct ovm_buf table = {0};
	ovm_elf_new_phdrs(&w->view, plan, w->segment.size, w->segment.eh_frame_hdr,
			  w->segment.eh_frame_hdr_size, &table);
	OVM_ASSERT(table.n == table_size(w));
	for (uint32_t i = 0; i < plan->n_moves; i++) { /* the build-id in a note that slid */
		const struct ovm_elf_move *move = &plan->moves[i];
		uint64_t delta = w->image->build_id_off.v - move->old_off;
		if (!move->in_segment && delta < move->size &&
		    w->image->build_id_len <= move->size - delta)
			memcpy(table.v + (move->new_off - phoff) + delta, w->id,
			       w->image->build_id_len);
	}
	memcpy(edit_at(&w->edits, phoff), table.v, table.n);
	ovm_buf_free(&table);
	w->ehdr.e_phnum = (uint16_t)(w->ehdr.e_phnum + plan->n_grow);
	memcpy(edit_at(&w->edits, 0), &w->ehdr, sizeof(w->ehdr));
}

static int compose(struct ovm_ctx *ctx, const struct ovm_regions *regions, const char *profile_hash,
		   struct ovm_elf_output *w)
{
	const struct ovm_overlay *overlay = w->overlay;
	if (overlay->base.v != w->plan.va.v + w->plan.overlay_off)
		return ovm_fail(ctx, OVM_E_INTERNAL, "overlay built for 0x%llx, planned 0x%llx",
				(unsigned long long)overlay->base.v,
				(unsigned long long)(w->plan.va.v + w->plan.overlay_off));
	int err = collect_edits(ctx, w);
	if (err)
		return err;
	ovm_elf_segment_hdr(w->image, &w->plan, regions, overlay, &w->segment);
	ovm_elf_segment_map(overlay, &w->segment);
	ovm_elf_segment_undo(&w->view, &w->edits, overlay, &w->segment);
	ovm_elf_segment_head(w->image, &w->view, &w->plan, overlay, profile_hash, w->id,
			     &w->segment);
	if (!w->image->is_dyn && w->plan.va.v + w->segment.size > 0x7fffffff)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: the new segment does not fit below 2 GiB",
				w->image->path);
	w->ehdr = w->view.ehdr;
	ovm_elf_sections(w->image, &w->view, &w->plan, regions, overlay, &w->segment,
			 w->plan.off + w->segment.size, &w->ehdr, &w->sections);
	w->appended = ovm_elf_appended(&w->view);
	finish_headers(w);
	return 0;
}

int ovm_elf_compose(struct ovm_ctx *ctx, const struct ovm_image *image,
		    const struct ovm_regions *regions, const struct ovm_overlay *overlay,
		    const struct ovm_elf_opts *opts, struct ovm_elf_output *out)
{
	*out = (struct ovm_elf_output){.image = image, .overlay = overlay};
	int err = ovm_elf_view_init(ctx, image, &out->view);
	if (!err)
		err = ovm_elf_plan_make(ctx, image, &out->view, &out->plan);
	out->plan.debug = opts->debug;
	return err ? err : compose(ctx, regions, opts->profile_hash, out);
}

void ovm_elf_output_fini(struct ovm_elf_output *out)
{
	ovm_elf_view_fini(&out->view);
	ovm_vec_free(&out->edits.v);
	ovm_buf_free(&out->edits.bytes);
	ovm_buf_free(&out->segment.head);
	ovm_buf_free(&out->segment.tail);
	ovm_buf_free(&out->sections);
	free(out->phdrs);
	*out = (struct ovm_elf_output){0};
}

/* --- the file
 * --------------------------------------------------------------------------------------------------
 */

/* Let the kernel copy (and share blocks where the file system can); what it will not, we write from
 * the mapping. */
static bool copy_input(const struct ovm_image *image, int in, int fd)
{
	uint64_t done = 0;
	while (in >= 0 && done < image->size) {
		off_t from = (off_t)done, to = (off_t)done;
		ssize_t n = copy_file_range(in, &from, fd, &to, image->size - done, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (uint64_t)n;
	}
	return ovm_elf_put(fd, image->bytes + done, image->size - done, done);
}

/* The copy comes from the path, everything else from the mapping: the bytes that change must be the
 * same in both. */
static int same_bytes(struct ovm_ctx *ctx, const struct ovm_elf_output *w, int fd)
{
	uint8_t now[256];
	for (uint32_t i = 0; i < w->edits.v.n; i++) {
		const struct ovm_elf_edit *edit = &w->edits.v.v[i];
		size_t n = edit->len < sizeof(now) ? edit->len : sizeof(now);
		if (pread(fd, now, n, (off_t)edit->off) != (ssize_t)n ||
		    memcmp(now, w->view.bytes + edit->off, n))
			return ovm_fail(ctx, OVM_E_IO, "%s changed while it was being read",
					w->image->path);
	}
	return 0;
}

struct filling {
	const struct ovm_elf_output *output;
	bool from_memory;
	const char *path; /* for messages */
};

static int fill(struct ovm_ctx *ctx, void *arg, int in, int fd)
{
	const struct filling *filling = arg;
	const struct ovm_elf_output *w = filling->output;
	const struct ovm_elf_segment *segment = &w->segment;
	uint64_t at = w->plan.off;
	struct stat st;
	if (!filling->from_memory && (fstat(in, &st) || (uint64_t)st.st_size != w->image->size))
		return ovm_fail(ctx, OVM_E_IO, "%s changed while it was being read",
				w->image->path);
	bool ok = copy_input(w->image, filling->from_memory ? -1 : in, fd);
	if (ok) {
		int err = same_bytes(ctx, w, fd);
		if (err)
			return err;
	}
	for (uint32_t i = 0; i < w->edits.v.n && ok; i++) {
		const struct ovm_elf_edit *edit = &w->edits.v.v[i];
		ok = ovm_elf_put(fd, w->edits.bytes.v + edit->at, edit->len, edit->off);
	}
	ok = ok && ovm_elf_put(fd, segment->head.v, segment->head.n, at);
	at += segment->head.n;
	ok = ok && ovm_elf_put(fd, w->overlay->bytes, w->overlay->size, at);
	at += w->overlay->size;
	ok = ok && ovm_elf_put(fd, segment->tail.v, segment->tail.n, at);
	at += segment->tail.n;
	ok = ok && ovm_elf_put(fd, w->sections.v, w->sections.n, at);
	at += w->sections.n;
	ok = ok && ovm_elf_put(fd, w->view.bytes + w->view.size - w->appended, w->appended, at);
	return ok ? 0 : ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot write %s", filling->path);
}

const char *ovm_elf_no_debug(struct ovm_ctx *ctx, const struct ovm_image *image)
{
	struct ovm_elf_view view;
	const char *why = ovm_elf_view_init(ctx, image, &view) ? "it cannot be read"
							       : ovm_elf_debug_lines_missing(&view);
	ovm_elf_view_fini(&view);
	return why;
}

int ovm_elf_write(struct ovm_ctx *ctx, const struct ovm_image *image,
		  const struct ovm_regions *regions, const struct ovm_overlay *overlay,
		  const struct ovm_elf_opts *opts, const char *path)
{
	struct ovm_elf_output output;
	struct filling filling = {&output, opts->from_memory, path};
	int err = ovm_elf_compose(ctx, image, regions, overlay, opts, &output);
	if (!err)
		err = ovm_elf_save(ctx, image->path, path, opts->force, fill, &filling);
	ovm_elf_output_fini(&output);
	return err;
}
