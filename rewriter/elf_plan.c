/* Where the new segment's program header comes from.
 *
 * A new PT_LOAD needs 56 bytes in the program header table, and the table cannot move: strip,
 * objcopy and friends always write it right behind the ELF header, so a file whose table stands
 * elsewhere is broken by the first tool that touches it. Ways out, best first:
 *
 *   before   | ehdr | PHDR INTERP LOAD LOAD NOTE NOTE PROPERTY ... | .interp | notes | .gnu.hash
 * ... replace  | ehdr | PHDR INTERP LOAD LOAD LOAD' NOTE NOTE ...     | .interp | notes | .gnu.hash
 * ...     PROPERTY repeats a NOTE grow     | ehdr | PHDR INTERP LOAD LOAD LOAD' NOTE NOTE PROPERTY
 * ...      | build-id | .gnu.hash ...  .interp is in LOAD' now
 *
 * Growing takes what follows the table (the interpreter's name, notes) and moves it into the
 * segment, behind 64 bytes of padding: llvm-objcopy takes a PT_INTERP that starts where a PT_LOAD
 * starts for its parent. The build-id slides along in the first page if it can, as the kernel looks
 * for it there. A library without either has only its build-id note: then that PT_NOTE is replaced;
 * bytes and section header stay. One without any note has its hash table or symbols there, which
 * .dynamic names: they are moved and .dynamic is changed. Behind the table of files that patchelf
 * or a post-link optimizer went over is a gap. PT_PHDR is needed to find out how far a program was
 * moved: one that is not (ET_EXEC) can do without. PT_GNU_STACK is never given up (stacks would
 * become executable), nor is PT_GNU_RELRO.
 *
 * PT_LOADs must ascend, so the new one goes above all others, at the very next page: a hole would
 * make ld.so leave its fast path.
 */
#include "rewriter/elf_private.h"

#include <stdlib.h>
#include <string.h>

static bool inside(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

static uint64_t align_up(uint64_t x, uint64_t align)
{
	return (x + align - 1) & ~(align - 1);
}

/* Section headers are a bonus: any doubt and the file is treated as having none. */
static void view_sections(struct ovm_elf_view *view)
{
	const Elf64_Ehdr *eh = &view->ehdr;
	uint32_t n = eh->e_shnum;
	if (!eh->e_shoff || n < 2 || n >= SHN_LORESERVE - 32 ||
	    eh->e_shentsize != sizeof(Elf64_Shdr) || eh->e_shstrndx >= n ||
	    !inside(eh->e_shoff, (uint64_t)n * sizeof(Elf64_Shdr), view->size))
		return;
	Elf64_Shdr *sh = ovm_alloc_array(n, sizeof(*sh));
	memcpy(sh, view->bytes + eh->e_shoff, n * sizeof(*sh));
	bool ok = sh[eh->e_shstrndx].sh_type == SHT_STRTAB;
	for (uint32_t i = 1; i < n && ok; i++)
		ok = sh[i].sh_type == SHT_NOBITS || sh[i].sh_type == SHT_NULL ||
		     inside(sh[i].sh_offset, sh[i].sh_size, view->size);
	if (!ok) {
		free(sh);
		return;
	}
	view->shdrs = sh;
	view->n_shdrs = n;
}

int ovm_elf_view_init(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_elf_view *view)
{
	*view = (struct ovm_elf_view){.bytes = image->bytes, .size = image->size};
	if (image->size < sizeof(Elf64_Ehdr))
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: too short for an ELF file", image->path);
	memcpy(&view->ehdr, image->bytes, sizeof(view->ehdr));
	uint32_t n = view->ehdr.e_phnum;
	if (!n || n >= PN_XNUM - 1 || view->ehdr.e_phentsize != sizeof(Elf64_Phdr) ||
	    !inside(view->ehdr.e_phoff, (uint64_t)n * sizeof(Elf64_Phdr), image->size))
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: no usable program headers", image->path);
	view->phdrs = ovm_alloc_array(n, sizeof(Elf64_Phdr));
	view->n_phdrs = n;
	memcpy(view->phdrs, image->bytes + view->ehdr.e_phoff, n * sizeof(Elf64_Phdr));
	view_sections(view);
	return 0;
}

void ovm_elf_view_fini(struct ovm_elf_view *view)
{
	free(view->phdrs);
	free(view->shdrs);
	*view = (struct ovm_elf_view){0};
}

static uint32_t find_phdr(const struct ovm_elf_view *view, uint32_t type)
{
	for (uint32_t i = 0; i < view->n_phdrs; i++)
		if (view->phdrs[i].p_type == type)
			return i;
	return OVM_NONE;
}

static bool holds_build_id(const struct ovm_image *image, const Elf64_Phdr *ph)
{
	uint64_t off = image->build_id_off.v;
	return image->build_id_len && off >= ph->p_offset && off - ph->p_offset < ph->p_filesz;
}

static uint32_t find_note(const struct ovm_image *image, const struct ovm_elf_view *view,
			  bool with_build_id)
{
	for (uint32_t i = 0; i < view->n_phdrs; i++)
		if (view->phdrs[i].p_type == PT_NOTE &&
		    holds_build_id(image, &view->phdrs[i]) == with_build_id)
			return i;
	return OVM_NONE;
}

static void add_piece(struct ovm_elf_move *pieces, uint32_t *n, uint64_t off, uint64_t size,
		      uint64_t va, uint64_t align)
{
	if (size && *n < OVM_ELF_MAX_PIECES)
		pieces[(*n)++] = (struct ovm_elf_move){
		    .old_off = off, .size = size, .align = align ? align : 1, .old_va = {va}};
}

/* One piece for every note of a PT_NOTE. */
static void note_pieces(const struct ovm_elf_view *view, const Elf64_Phdr *ph,
			struct ovm_elf_move *pieces, uint32_t *n)
{
	uint64_t align = ph->p_align == 8 ? 8 : 4;
	if (!inside(ph->p_offset, ph->p_filesz, view->size))
		return;
	for (uint64_t at = 0; ph->p_filesz - at >= sizeof(Elf64_Nhdr);) {
		const uint8_t *p = view->bytes + ph->p_offset + at;
		uint64_t size =
		    align_up(12 + (uint64_t)ovm_le32(p), align) + align_up(ovm_le32(p + 4), align);
		if (size > ph->p_filesz - at)
			return;
		add_piece(pieces, n, ph->p_offset + at, size, ph->p_vaddr + at, align);
		at += size;
	}
}

static uint64_t address_tag(uint32_t section_type)
{
	switch (section_type) {
	case SHT_HASH:
		return DT_HASH;
	case SHT_GNU_HASH:
		return DT_GNU_HASH;
	case SHT_DYNSYM:
		return DT_SYMTAB;
	case SHT_STRTAB:
		return DT_STRTAB;
	case SHT_GNU_versym:
		return DT_VERSYM;
	case SHT_GNU_verneed:
		return DT_VERNEED;
	case SHT_GNU_verdef:
		return DT_VERDEF;
	default:
		return DT_NULL;
	}
}

/* Where .dynamic holds @va under @tag, file offset; 0: it does not. */
static uint64_t dynamic_slot(const struct ovm_elf_view *view, uint64_t tag, uint64_t va)
{
	uint32_t idx = find_phdr(view, PT_DYNAMIC);
	if (idx == OVM_NONE || tag == DT_NULL ||
	    !inside(view->phdrs[idx].p_offset, view->phdrs[idx].p_filesz, view->size))
		return 0;
	const Elf64_Phdr *ph = &view->phdrs[idx];
	for (uint64_t at = 0; ph->p_filesz - at >= sizeof(Elf64_Dyn); at += sizeof(Elf64_Dyn)) {
		const uint8_t *p = view->bytes + ph->p_offset + at;
		if (ovm_le64(p) == DT_NULL)
			break;
		if (ovm_le64(p) == tag)
			return ovm_le64(p + 8) == va ? ph->p_offset + at + 8 : 0;
	}
	return 0;
}

/* Sections that are found by .dynamic alone. */
static uint32_t find_dynamic_pieces(const struct ovm_elf_view *view, struct ovm_elf_move *pieces,
				    uint32_t n)
{
	for (uint32_t i = 1; i < view->n_shdrs; i++) {
		const Elf64_Shdr *sh = &view->shdrs[i];
		uint64_t slot = (sh->sh_flags & SHF_ALLOC) && !(sh->sh_flags & SHF_WRITE)
				    ? dynamic_slot(view, address_tag(sh->sh_type), sh->sh_addr)
				    : 0;
		uint32_t had = n;
		if (slot)
			add_piece(pieces, &n, sh->sh_offset, sh->sh_size, sh->sh_addr,
				  sh->sh_addralign);
		if (n != had)
			pieces[had].dyn_off = slot;
	}
	return n;
}

/* What may be moved: sections if there are any, so that their headers can follow; else what program
 * headers name. */
static uint32_t find_pieces(const struct ovm_elf_view *view, struct ovm_elf_move *pieces)
{
	uint32_t n = 0;
	uint32_t interp = find_phdr(view, PT_INTERP);
	for (uint32_t i = 1; i < view->n_shdrs; i++) {
		const Elf64_Shdr *sh = &view->shdrs[i];
		if ((sh->sh_flags & SHF_ALLOC) && !(sh->sh_flags & SHF_WRITE) &&
		    (sh->sh_type == SHT_NOTE ||
		     (interp != OVM_NONE && sh->sh_type == SHT_PROGBITS &&
		      sh->sh_offset == view->phdrs[interp].p_offset &&
		      sh->sh_size == view->phdrs[interp].p_filesz)))
			add_piece(pieces, &n, sh->sh_offset, sh->sh_size, sh->sh_addr,
				  sh->sh_addralign);
	}
	if (view->shdrs)
		return n;
	for (uint32_t i = 0; i < view->n_phdrs; i++) {
		const Elf64_Phdr *ph = &view->phdrs[i];
		if (ph->p_type == PT_INTERP)
			add_piece(pieces, &n, ph->p_offset, ph->p_filesz, ph->p_vaddr, 1);
		else if (ph->p_type == PT_NOTE)
			note_pieces(view, ph, pieces, &n);
	}
	return n;
}

static bool is_zero(const uint8_t *p, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

/* The piece that starts at @pos or after less than 8 zero bytes. */
static const struct ovm_elf_move *next_piece(const struct ovm_elf_view *view,
					     const struct ovm_elf_move *pieces, uint32_t n,
					     uint64_t pos)
{
	for (uint32_t i = 0; i < n; i++)
		if (pieces[i].old_off >= pos && pieces[i].old_off - pos < 8 &&
		    inside(pieces[i].old_off, pieces[i].size, view->size) &&
		    is_zero(view->bytes + pos, pieces[i].old_off - pos))
			return &pieces[i];
	return NULL;
}

static uint64_t nearest(uint64_t start, uint64_t pos, uint64_t best)
{
	return start >= pos && start < best ? start : best;
}

/* Bytes from @pos on, up to @need, that nothing claims and that hold only zeros or what patchelf
 * overwrites with. */
static uint64_t gap_end(const struct ovm_elf_view *view, uint64_t pos, uint64_t need)
{
	uint64_t end = need < view->size ? need : view->size;
	if (!view->shdrs || pos >= end)
		return pos;
	for (uint32_t i = 1; i < view->n_shdrs; i++)
		if (view->shdrs[i].sh_type != SHT_NOBITS && view->shdrs[i].sh_size)
			end = nearest(view->shdrs[i].sh_offset, pos, end);
	for (uint32_t i = 0; i < view->n_phdrs; i++)
		if (view->phdrs[i].p_filesz)
			end = nearest(view->phdrs[i].p_offset, pos, end);
	end = nearest(view->ehdr.e_shoff, pos, end);
	uint8_t filler = view->bytes[pos];
	if (filler && filler != 'X')
		return pos;
	for (uint64_t at = pos; at < end; at++)
		if (view->bytes[at] != filler)
			return pos;
	return end;
}

/* No section but the moved ones may have bytes in [lo, hi). */
static bool only_moved(const struct ovm_elf_view *view, const struct ovm_elf_plan *plan,
		       uint64_t lo, uint64_t hi)
{
	for (uint32_t i = 1; i < view->n_shdrs; i++) {
		const Elf64_Shdr *sh = &view->shdrs[i];
		if (sh->sh_type == SHT_NOBITS || !sh->sh_size || sh->sh_offset >= hi ||
		    sh->sh_offset + sh->sh_size <= lo)
			continue;
		bool moved = false;
		for (uint32_t k = 0; k < plan->n_moves; k++)
			moved |= plan->moves[k].old_off == sh->sh_offset &&
				 plan->moves[k].size == sh->sh_size;
		if (!moved)
			return false;
	}
	return true;
}

/* The segment that maps the table, the first one but for files of post-link optimizers, must map it
 * to the end of the bytes that are rewritten. */
static bool table_is_mapped(const struct ovm_elf_view *view, uint64_t lo, uint64_t hi)
{
	for (uint32_t i = 0; i < view->n_phdrs; i++) {
		const Elf64_Phdr *ph = &view->phdrs[i];
		if (ph->p_type == PT_LOAD && ph->p_offset <= lo && lo - ph->p_offset < ph->p_filesz)
			return hi - ph->p_offset <= ph->p_filesz;
	}
	return false;
}

static bool holds_id(const struct ovm_image *image, const struct ovm_elf_move *piece)
{
	uint64_t off = image->build_id_off.v;
	return image->build_id_len && off >= piece->old_off && off - piece->old_off < piece->size;
}

/* Room for @n_new more program headers behind the table. @all: also by moving what .dynamic names,
 * and in a gap. */
static bool plan_grow(const struct ovm_image *image, const struct ovm_elf_view *view,
		      uint32_t n_new, bool all, struct ovm_elf_plan *plan)
{
	struct ovm_elf_move pieces[OVM_ELF_MAX_PIECES];
	uint32_t n = find_pieces(view, pieces);
	n = all ? find_dynamic_pieces(view, pieces, n) : n;
	uint64_t lo = view->ehdr.e_phoff + (uint64_t)view->n_phdrs * sizeof(Elf64_Phdr);
	uint64_t need = lo + n_new * sizeof(Elf64_Phdr), pos = lo, id_need = 0;
	plan->n_moves = 0;
	while (pos < need ||
	       pos < id_need) { /* take more than the table needs if that keeps the build-id here */
		const struct ovm_elf_move *piece = next_piece(view, pieces, n, pos);
		uint64_t gap = !piece && all ? gap_end(view, pos, need) : pos;
		if (gap > pos) {
			pos = gap;
			continue;
		}
		if (!piece || plan->n_moves == OVM_ELF_MAX_MOVES) {
			if (pos < need)
				return false;
			break;
		}
		plan->moves[plan->n_moves++] = *piece;
		pos = piece->old_off + piece->size;
		if (holds_id(image, piece))
			id_need = align_up(need, piece->align) + piece->size;
	}
	if (!only_moved(view, plan, lo, pos) || !table_is_mapped(view, view->ehdr.e_phoff, pos))
		return false;
	plan->table_end = pos;
	for (uint32_t i = 0; i < plan->n_moves; i++) {
		struct ovm_elf_move *move = &plan->moves[i];
		uint64_t slid = align_up(need, move->align);
		move->in_segment = !holds_id(image, move) || slid + move->size > pos;
		if (!move->in_segment) {
			move->new_off = slid;
			move->new_va = ovm_va_add(move->old_va, (int64_t)(slid - move->old_off));
		}
	}
	return true;
}

static void take(struct ovm_elf_plan *plan, uint32_t need, uint32_t idx, enum ovm_elf_how how)
{
	if (idx == OVM_NONE || plan->n_victims == need)
		return;
	if (!plan->n_victims)
		plan->how = how;
	plan->victims[plan->n_victims++] = idx;
}

/* The PT_NOTE that says the same as PT_GNU_PROPERTY: who wants neither segment has the section. */
static uint32_t find_property_note(const struct ovm_elf_view *view)
{
	uint32_t property = find_phdr(view, PT_GNU_PROPERTY);
	for (uint32_t i = 0; property != OVM_NONE && i < view->n_phdrs; i++)
		if (view->phdrs[i].p_type == PT_NOTE &&
		    view->phdrs[i].p_offset == view->phdrs[property].p_offset &&
		    view->phdrs[i].p_filesz == view->phdrs[property].p_filesz)
			return i;
	return OVM_NONE;
}

static int choose(struct ovm_ctx *ctx, const struct ovm_image *image,
		  const struct ovm_elf_view *view, struct ovm_elf_plan *plan)
{
	plan->adds_hdr = image->eh_frame.v && find_phdr(view, PT_GNU_EH_FRAME) == OVM_NONE;
	uint32_t need = 1 + plan->adds_hdr;
	take(plan, need, find_phdr(view, PT_NULL), OVM_ELF_PT_NULL);
	take(plan, need, find_phdr(view, PT_GNU_PROPERTY), OVM_ELF_PROPERTY);
	take(plan, need, plan->n_victims ? find_property_note(view) : OVM_NONE, OVM_ELF_NOTE);
	if (plan->n_victims == need)
		return 0;
	if (plan_grow(image, view, need - plan->n_victims, false, plan)) {
		plan->how = plan->n_victims ? plan->how : OVM_ELF_GROW;
		plan->n_grow = need - plan->n_victims;
		return 0;
	}
	plan->n_moves = 0;
	take(plan, need, find_note(image, view, false), OVM_ELF_NOTE);
	take(plan, need, find_note(image, view, true), OVM_ELF_BUILD_ID);
	if (plan->n_victims == need)
		return 0;
	if (plan_grow(image, view, need - plan->n_victims, true, plan)) {
		plan->how = plan->n_victims ? plan->how : OVM_ELF_GROW_DYNAMIC;
		plan->n_grow = need - plan->n_victims;
		return 0;
	}
	plan->n_moves = 0;
	take(plan, need, image->is_dyn ? OVM_NONE : find_phdr(view, PT_PHDR), OVM_ELF_PHDR);
	if (plan->n_victims == need)
		return 0;
	return ovm_fail(
	    ctx, OVM_E_FORMAT,
	    "%s: no room for another program header (no PT_GNU_PROPERTY or PT_NOTE to replace, "
	    "nothing movable behind the table, no gap)",
	    image->path);
}

/* Place note and moved pieces behind the padding. */
static void place_head(struct ovm_elf_plan *plan)
{
	uint64_t at = OVM_ELF_PAD + plan->note_size;
	for (uint32_t i = 0; i < plan->n_moves; i++) {
		struct ovm_elf_move *move = &plan->moves[i];
		if (!move->in_segment)
			continue;
		at = align_up(at, move->align);
		move->new_off = plan->off + at;
		move->new_va = ovm_va_add(plan->va, (int64_t)at);
		at += move->size;
	}
	plan->overlay_off = (uint32_t)align_up(at, 64);
}

/* The note also marks files without section headers: it stands at a fixed place in a segment. */
static bool has_our_note(const struct ovm_elf_view *view)
{
	for (uint32_t i = 0; i < view->n_phdrs; i++) {
		const Elf64_Phdr *ph = &view->phdrs[i];
		if (ph->p_type != PT_LOAD || !inside(ph->p_offset, ph->p_filesz, view->size) ||
		    ph->p_filesz < OVM_ELF_PAD + 20)
			continue;
		const uint8_t *p = view->bytes + ph->p_offset + OVM_ELF_PAD;
		if (ovm_le32(p) == 6 && ovm_le32(p + 8) == OVM_NOTE_TYPE &&
		    !memcmp(p + 12, OVM_NOTE_OWNER, 6))
			return true;
	}
	return false;
}

/* A program of fixed address whose last segment is data without any zeros to add was dumped with
 * its heap. It goes on growing that at the program break, which must be the end of the segment: GNU
 * Common Lisp tells by it whether it is running yet. The break starts where the highest segment
 * ends, so a new one above moves it. Below the image there might be room (not in that Lisp's,
 * which start at 0x18000). */
static bool is_dumped(const struct ovm_image *image, const struct ovm_elf_view *view)
{
	const Elf64_Phdr *last = NULL;
	for (uint32_t i = 0; i < view->n_phdrs; i++) {
		const Elf64_Phdr *ph = &view->phdrs[i];
		if (ph->p_type == PT_LOAD &&
		    (!last || ph->p_vaddr + ph->p_memsz > last->p_vaddr + last->p_memsz))
			last = ph;
	}
	return !image->is_dyn && last && (last->p_flags & PF_W) && last->p_filesz == last->p_memsz;
}

int ovm_elf_plan_make(struct ovm_ctx *ctx, const struct ovm_image *image,
		      const struct ovm_elf_view *view, struct ovm_elf_plan *plan)
{
	*plan = (struct ovm_elf_plan){0};
	if (image->is_processed || has_our_note(view))
		return ovm_fail(ctx, OVM_E_MISMATCH,
				"%s: was already rewritten by optvm: start from the original file",
				image->path);
	if (is_dumped(image, view))
		return ovm_fail(
		    ctx, OVM_E_FORMAT,
		    "%s: an image dumped with its heap (no .bss): a new segment would be in the "
		    "heap's way",
		    image->path);
	int err = choose(ctx, image, view, plan);
	if (err)
		return err;
	uint64_t hi = 0;
	for (uint32_t i = 0; i < view->n_phdrs; i++) {
		const Elf64_Phdr *ph = &view->phdrs[i];
		if (ph->p_type != PT_LOAD)
			continue;
		if (ph->p_memsz > (1ull << 46) || ph->p_vaddr > (1ull << 46))
			return ovm_fail(ctx, OVM_E_FORMAT, "%s: segment address out of range",
					image->path);
		if (ph->p_vaddr + ph->p_memsz > hi)
			hi = ph->p_vaddr + ph->p_memsz;
	}
	plan->va = ovm_va_of(align_up(hi, OVM_ELF_PAGE));
	plan->off = align_up(image->size, OVM_ELF_PAGE);
	plan->note_size = ovm_elf_note_size();
	place_head(plan);
	if (!image->is_dyn && plan->va.v >= 0x7f000000)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: no room below 2 GiB for a new segment",
				image->path);
	return 0;
}

int ovm_elf_plan(struct ovm_ctx *ctx, const struct ovm_image *image, ovm_va *base)
{
	struct ovm_elf_view view;
	struct ovm_elf_plan plan;
	int err = ovm_elf_view_init(ctx, image, &view);
	if (!err)
		err = ovm_elf_plan_make(ctx, image, &view, &plan);
	if (!err)
		*base = ovm_va_add(plan.va, plan.overlay_off);
	ovm_elf_view_fini(&view);
	return err;
}

/* A program header whose bytes moved: it now names those still in the first page, or those in the
 * segment if none is left. */
static void follow_moves(const struct ovm_elf_plan *plan, Elf64_Phdr *ph)
{
	uint64_t lo[2] = {UINT64_MAX, UINT64_MAX}, hi[2] = {0, 0}, va[2] = {0, 0};
	uint64_t moved_end = ph->p_offset;
	bool touched = false;
	for (uint32_t i = 0; i < plan->n_moves; i++) {
		const struct ovm_elf_move *move = &plan->moves[i];
		if (move->old_off < ph->p_offset ||
		    move->old_off + move->size > ph->p_offset + ph->p_filesz)
			continue;
		touched = true;
		int k = move->in_segment;
		if (move->new_off < lo[k]) {
			lo[k] = move->new_off;
			va[k] = move->new_va.v;
		}
		if (move->new_off + move->size > hi[k])
			hi[k] = move->new_off + move->size;
		if (move->old_off + move->size > moved_end)
			moved_end = move->old_off + move->size;
	}
	if (!touched)
		return;
	uint64_t rest = ph->p_offset + ph->p_filesz - moved_end;
	uint64_t start = align_up(moved_end, ph->p_align == 8 ? 8 : 4);
	if (rest >= sizeof(Elf64_Nhdr) &&
	    lo[0] == UINT64_MAX) { /* notes behind the moved ones stay */
		lo[0] = start;
		va[0] = ph->p_vaddr + (start - ph->p_offset);
		hi[0] = ph->p_offset + ph->p_filesz;
	} else if (rest >= sizeof(Elf64_Nhdr) && hi[0] == start) {
		hi[0] = ph->p_offset + ph->p_filesz;
	}
	int k = lo[0] == UINT64_MAX;
	ph->p_offset = lo[k];
	ph->p_filesz = ph->p_memsz = hi[k] - lo[k];
	ph->p_vaddr = ph->p_paddr = va[k];
}

static Elf64_Phdr new_load(const struct ovm_elf_plan *plan, uint64_t segment_size)
{
	return (Elf64_Phdr){
	    .p_type = PT_LOAD,
	    .p_flags = PF_R | PF_X,
	    .p_offset = plan->off,
	    .p_vaddr = plan->va.v,
	    .p_paddr = plan->va.v,
	    .p_filesz = segment_size,
	    .p_memsz = segment_size,
	    .p_align = OVM_ELF_PAGE,
	};
}

static Elf64_Phdr new_hdr(const struct ovm_elf_plan *plan, ovm_va va, uint64_t size)
{
	return (Elf64_Phdr){
	    .p_type = PT_GNU_EH_FRAME,
	    .p_flags = PF_R,
	    .p_offset = plan->off + (va.v - plan->va.v),
	    .p_vaddr = va.v,
	    .p_paddr = va.v,
	    .p_filesz = size,
	    .p_memsz = size,
	    .p_align = 4,
	};
}

static bool is_victim(const struct ovm_elf_plan *plan, uint32_t idx)
{
	for (uint32_t i = 0; i < plan->n_victims; i++)
		if (plan->victims[i] == idx)
			return true;
	return false;
}

/* An old program header in the new file. */
static Elf64_Phdr changed(const struct ovm_elf_plan *plan, Elf64_Phdr ph, ovm_va eh_frame_hdr,
			  uint64_t hdr_size)
{
	if (ph.p_type == PT_PHDR) {
		ph.p_filesz += plan->n_grow * sizeof(Elf64_Phdr);
		ph.p_memsz += plan->n_grow * sizeof(Elf64_Phdr);
	} else if (ph.p_type == PT_INTERP || ph.p_type == PT_NOTE) {
		follow_moves(plan, &ph);
	} else if (ph.p_type == PT_GNU_EH_FRAME && eh_frame_hdr.v) {
		ph = new_hdr(plan, eh_frame_hdr, hdr_size);
	}
	return ph;
}

void ovm_elf_new_phdrs(const struct ovm_elf_view *view, const struct ovm_elf_plan *plan,
		       uint64_t segment_size, ovm_va eh_frame_hdr, uint64_t eh_frame_hdr_size,
		       struct ovm_buf *out)
{
	uint32_t last_load = 0;
	size_t start = out->n;
	for (uint32_t i = 0; i < view->n_phdrs; i++)
		if (view->phdrs[i].p_type == PT_LOAD)
			last_load = i;
	for (uint32_t i = 0; i < view->n_phdrs; i++) {
		Elf64_Phdr ph = changed(plan, view->phdrs[i], eh_frame_hdr, eh_frame_hdr_size);
		if (!is_victim(plan, i))
			ovm_buf_put(out, &ph, sizeof(ph));
		if (i == last_load) {
			ph = new_load(plan, segment_size);
			ovm_buf_put(out, &ph, sizeof(ph));
		}
	}
	if (plan->adds_hdr) {
		Elf64_Phdr ph = new_hdr(plan, eh_frame_hdr, eh_frame_hdr_size);
		ovm_buf_put(out, &ph, sizeof(ph));
	}
	if (!plan->n_grow)
		return;
	ovm_buf_fill(out, 0, plan->table_end - view->ehdr.e_phoff - (out->n - start));
	for (uint32_t i = 0; i < plan->n_moves; i++)
		if (!plan->moves[i].in_segment)
			memcpy(out->v + start + (plan->moves[i].new_off - view->ehdr.e_phoff),
			       view->bytes + plan->moves[i].old_off, plan->moves[i].size);
}
