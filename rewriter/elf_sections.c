/* Section headers of a rewritten file: nothing of this is loaded, all of it is for tools.
 *
 * Old sections keep their indices (st_shndx of every symbol stays right); new ones come last. A
 * section that moved is a new one; an empty one keeps its place, since patchelf looks for what
 * stands behind the program headers from the first section on and stops at one that stands
 * elsewhere. The new segment is covered by SHF_ALLOC sections without a gap that holds anything:
 * strip and objcopy rebuild a segment from its sections and drop what no section claims.
 *
 *   .optvm.pad .note.optvm (moved: .interp ...) .optvm.text .optvm.rodata .optvm.lsda
 *   .optvm.eh_frame .optvm.hdr .eh_frame_hdr .optvm.map .optvm.undo
 *   not loaded: .debug_frame (.symtab .strtab), with --debug the other .debug_*
 *
 * The merged table takes the name .eh_frame_hdr (perf looks it up by name), the old one becomes
 * .optvm.org.eh_frame_hdr.
 */
#include "rewriter/elf_debug_frame.h"
#include "rewriter/elf_private.h"

#include <stdlib.h>
#include <string.h>

enum { NEW_SECTIONS = 24 + OVM_ELF_MAX_MOVES };

static uint64_t natural_align(uint64_t x, uint64_t max)
{
	uint64_t align = x & -x;
	return !align || align > max ? max : align;
}

Elf64_Shdr *ovm_elf_table_add(struct ovm_elf_table *table, const char *name, uint32_t type,
			      uint64_t flags)
{
	Elf64_Shdr *sh = &table->v[table->n++];
	*sh = (Elf64_Shdr){.sh_name = (uint32_t)table->names.n,
			   .sh_type = type,
			   .sh_flags = flags,
			   .sh_addralign = 1};
	ovm_buf_put(&table->names, name, strlen(name) + 1);
	return sh;
}

/* A loaded section [va, va+size) of the new segment; absent if empty. */
static void add_loaded(struct ovm_elf_table *table, const struct ovm_elf_plan *plan,
		       const char *name, uint32_t type, uint64_t flags, uint64_t va, uint64_t size)
{
	if (!size)
		return;
	Elf64_Shdr *sh = ovm_elf_table_add(table, name, type, SHF_ALLOC | flags);
	sh->sh_addr = va;
	sh->sh_offset = plan->off + (va - plan->va.v);
	sh->sh_size = size;
	sh->sh_addralign = type == SHT_NOTE ? 4 : natural_align(va, 64);
}

/* The overlay's own sections; each reaches to the next, so that padding is covered too. Returns the
 * index of the code's. */
static uint32_t add_overlay(struct ovm_elf_table *table, const struct ovm_elf_plan *plan,
			    const struct ovm_overlay *overlay)
{
	static const char *const names[OVM_N_SECTIONS] = {
	    ".optvm.text", ".optvm.text",     ".optvm.rodata",
	    ".optvm.lsda", ".optvm.eh_frame", ".optvm.hdr",
	};
	uint32_t text = table->n, end = overlay->size;
	uint32_t start[OVM_N_SECTIONS], stop[OVM_N_SECTIONS];
	for (int kind = OVM_N_SECTIONS - 1; kind >= 0; kind--) {
		const struct ovm_section *section = &overlay->sections[kind];
		start[kind] = section->size && section->off < end ? section->off : end;
		stop[kind] = end;
		end = start[kind];
	}
	start[OVM_SECTION_HOT] = 0; /* code: hot and cold part together */
	stop[OVM_SECTION_HOT] = stop[OVM_SECTION_COLD];
	for (int kind = 0; kind < OVM_N_SECTIONS; kind++)
		if (kind != OVM_SECTION_COLD)
			add_loaded(table, plan, names[kind], SHT_PROGBITS,
				   kind == OVM_SECTION_HOT ? SHF_EXECINSTR : 0,
				   overlay->base.v + start[kind], stop[kind] - start[kind]);
	return text;
}

const struct ovm_elf_move *ovm_elf_move_of(const struct ovm_elf_plan *plan, const Elf64_Shdr *sh)
{
	for (uint32_t k = 0; k < plan->n_moves; k++)
		if ((sh->sh_flags & SHF_ALLOC) && sh->sh_offset == plan->moves[k].old_off &&
		    sh->sh_size == plan->moves[k].size)
			return &plan->moves[k];
	return NULL;
}

/* Sections that only slid; the others' places are kept, right behind the program headers. */
static void leave_places(struct ovm_elf_table *table, const struct ovm_elf_view *view,
			 const struct ovm_elf_plan *plan)
{
	uint64_t end = view->ehdr.e_phoff + (view->n_phdrs + plan->n_grow) * sizeof(Elf64_Phdr);
	for (uint32_t i = 1; i < view->n_shdrs; i++) {
		const struct ovm_elf_move *move = ovm_elf_move_of(plan, &view->shdrs[i]);
		Elf64_Shdr *sh = &table->v[i];
		if (!move)
			continue;
		if (!move->in_segment || move->old_off > end) {
			sh->sh_offset = move->new_off;
			sh->sh_addr = move->new_va.v;
			continue;
		}
		*sh = (Elf64_Shdr){.sh_name = (uint32_t)table->names.n,
				   .sh_type = SHT_PROGBITS,
				   .sh_flags = SHF_ALLOC,
				   .sh_addr = move->old_va.v + (end - move->old_off),
				   .sh_offset = end,
				   .sh_addralign = 1};
		ovm_buf_put(&table->names, ".optvm.moved", sizeof(".optvm.moved"));
	}
}

/* Sections whose places were left to others, and who refers to them. */
static void add_moved(struct ovm_elf_table *table, const struct ovm_elf_view *view,
		      const struct ovm_elf_plan *plan)
{
	for (uint32_t i = 1; i < view->n_shdrs; i++) {
		const struct ovm_elf_move *move = ovm_elf_move_of(plan, &view->shdrs[i]);
		if (!move || table->v[i].sh_size)
			continue;
		uint32_t at = table->n++;
		table->v[at] = view->shdrs[i];
		table->v[at].sh_offset = move->new_off;
		table->v[at].sh_addr = move->new_va.v;
		table->moved[move - plan->moves] = at;
	}
	for (uint32_t i = 1; i < table->n; i++) {
		uint32_t link = table->v[i].sh_link;
		const struct ovm_elf_move *move =
		    link && link < view->n_shdrs ? ovm_elf_move_of(plan, &view->shdrs[link]) : NULL;
		if (move && table->moved[move - plan->moves])
			table->v[i].sh_link = table->moved[move - plan->moves];
	}
}

/* PT_GNU_EH_FRAME names the merged table, so the section of that name must be the merged one too.
 */
static void rename_old_hdr(struct ovm_elf_table *table, const struct ovm_image *image)
{
	for (uint32_t i = 1; i < table->n; i++) {
		Elf64_Shdr *sh = &table->v[i];
		if (!(sh->sh_flags & SHF_ALLOC) || sh->sh_addr != image->eh_frame_hdr.v ||
		    (sh->sh_type != SHT_PROGBITS && sh->sh_type != SHT_X86_64_UNWIND))
			continue; /* gold uses the latter */
		sh->sh_name = (uint32_t)table->names.n;
		ovm_buf_put(&table->names, ".optvm.org.eh_frame_hdr",
			    sizeof(".optvm.org.eh_frame_hdr"));
		return;
	}
}

size_t ovm_elf_table_start(const struct ovm_elf_table *table, uint64_t align)
{
	ovm_buf_fill(table->out, 0, -(table->at + table->out->n) & (align - 1));
	return table->out->n;
}

void ovm_elf_table_place(const struct ovm_elf_table *table, Elf64_Shdr *sh, size_t start)
{
	sh->sh_offset = table->at + start;
	sh->sh_size = table->out->n - start;
}

void ovm_elf_table_expand(const struct ovm_elf_table *table, Elf64_Shdr *sh,
			  const struct ovm_elf_bytes *bytes)
{
	ovm_buf_put(table->out, bytes->v, bytes->n);
	if (!(sh->sh_flags & SHF_COMPRESSED))
		return;
	sh->sh_flags &= ~(uint64_t)SHF_COMPRESSED;
	sh->sh_addralign = bytes->align;
}

Elf64_Shdr *ovm_elf_section_named(const struct ovm_elf_view *view, Elf64_Shdr *shdrs,
				  const char *name)
{
	const Elf64_Shdr *names = &view->shdrs[view->ehdr.e_shstrndx];
	size_t size = strlen(name) + 1;
	for (uint32_t i = 1; i < view->n_shdrs; i++) {
		uint64_t off = shdrs[i].sh_name;
		if (shdrs[i].sh_type == SHT_PROGBITS && off < names->sh_size &&
		    names->sh_size - off >= size &&
		    !memcmp(view->bytes + names->sh_offset + off, name, size))
			return &shdrs[i];
	}
	return NULL;
}

/* For gdb: a new .debug_frame, or the input's continued. One that cannot be read stays alone. */
static void put_debug_frame(const struct ovm_elf_view *view, const struct ovm_overlay *overlay,
			    struct ovm_elf_table *table)
{
	Elf64_Shdr *sh = ovm_elf_section_named(view, table->v, ".debug_frame");
	struct ovm_elf_bytes bytes = {0};
	if (overlay->fdes.n && (!sh || ovm_elf_section_bytes(view, sh, &bytes)) && !(bytes.n % 4)) {
		size_t start = ovm_elf_table_start(table, 8);
		if (sh)
			ovm_elf_table_expand(table, sh, &bytes);
		else
			sh = ovm_elf_table_add(table, ".debug_frame", SHT_PROGBITS, 0);
		ovm_elf_debug_frame(overlay, start, table->out);
		ovm_elf_table_place(table, sh, start);
		sh->sh_addralign = 8;
	}
	ovm_buf_free(&bytes.owned);
}

void ovm_elf_sections(const struct ovm_image *image, const struct ovm_elf_view *view,
		      const struct ovm_elf_plan *plan, const struct ovm_regions *regions,
		      const struct ovm_overlay *overlay, const struct ovm_elf_segment *segment,
		      uint64_t at, Elf64_Ehdr *ehdr, struct ovm_buf *out)
{
	if (!view->shdrs)
		return;
	struct ovm_elf_table table = {
	    .v = ovm_alloc_array(view->n_shdrs + NEW_SECTIONS, sizeof(Elf64_Shdr)),
	    .n = view->n_shdrs,
	    .out = out,
	    .at = at};
	const Elf64_Shdr *names = &view->shdrs[view->ehdr.e_shstrndx];
	memcpy(table.v, view->shdrs, view->n_shdrs * sizeof(Elf64_Shdr));
	ovm_buf_put(&table.names, view->bytes + names->sh_offset, names->sh_size);
	leave_places(&table, view, plan);

	add_loaded(&table, plan, ".optvm.pad", SHT_PROGBITS, 0, plan->va.v, OVM_ELF_PAD);
	add_loaded(&table, plan, ".note.optvm", SHT_NOTE, 0, plan->va.v + OVM_ELF_PAD,
		   plan->note_size);
	add_moved(&table, view, plan);
	uint32_t text = add_overlay(&table, plan, overlay);
	if (segment->eh_frame_hdr.v)
		rename_old_hdr(&table, image);
	add_loaded(&table, plan, ".eh_frame_hdr", SHT_PROGBITS, 0, segment->eh_frame_hdr.v,
		   segment->eh_frame_hdr_size);
	add_loaded(&table, plan, ".optvm.map", SHT_PROGBITS, 0, segment->map.v, segment->map_size);
	add_loaded(&table, plan, ".optvm.undo", SHT_PROGBITS, 0, segment->undo.v,
		   segment->undo_size);

	put_debug_frame(view, overlay, &table);
	if (plan->debug)
		ovm_elf_debug_lines(image, view, regions, overlay, &table);
	ovm_elf_symbols(image, view, plan, regions, overlay, text, &table);
	size_t start = out->n;
	ovm_buf_put(out, table.names.v, table.names.n);
	ovm_elf_table_place(&table, &table.v[view->ehdr.e_shstrndx], start);

	ovm_elf_table_start(&table, 8);
	ehdr->e_shoff = at + out->n;
	ehdr->e_shnum = (uint16_t)table.n;
	ovm_buf_put(out, table.v, table.n * sizeof(Elf64_Shdr));
	free(table.v);
	ovm_buf_free(&table.names);
}
