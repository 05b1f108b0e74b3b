/* Section headers and symbols of a rewritten file: nothing of this is loaded, all of it is for
 * tools.
 *
 * Old sections keep their indices (st_shndx of every symbol stays right); new ones come last. The
 * new segment is covered by SHF_ALLOC sections without a gap that holds anything: strip and objcopy
 * rebuild a segment from its sections and drop what no section claims.
 *
 *   .optvm.pad .note.optvm (moved: .interp ...) .optvm.text .optvm.rodata .optvm.lsda
 *   .optvm.eh_frame .optvm.hdr .eh_frame_hdr .optvm.map .optvm.undo
 *   not loaded: .debug_frame (.symtab .strtab)
 *
 * The merged table takes the name .eh_frame_hdr (perf looks it up by name), the old one becomes
 * .optvm.org.eh_frame_hdr.
 *
 * Symbols: each run of copied code is a LOCAL FUNC "name.optvm.N". Locals must come before globals,
 * so the table is written anew; where a relocation section refers to it by index (-Wl,-q) it stays
 * as it is and the copies go without names.
 */
#include "rewriter/elf_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEW_SECTIONS = 16 };

struct table { /* the section table while it grows */
	Elf64_Shdr *v;
	uint32_t n;
	struct ovm_buf names; /* new .shstrtab */
};

static uint64_t natural_align(uint64_t x, uint64_t max)
{
	uint64_t align = x & -x;
	return !align || align > max ? max : align;
}

static Elf64_Shdr *add(struct table *table, const char *name, uint32_t type, uint64_t flags)
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
static void add_loaded(struct table *table, const struct ovm_elf_plan *plan, const char *name,
		       uint32_t type, uint64_t flags, uint64_t va, uint64_t size)
{
	if (!size)
		return;
	Elf64_Shdr *sh = add(table, name, type, SHF_ALLOC | flags);
	sh->sh_addr = va;
	sh->sh_offset = plan->off + (va - plan->va.v);
	sh->sh_size = size;
	sh->sh_addralign = type == SHT_NOTE ? 4 : natural_align(va, 64);
}

/* The overlay's own sections; each reaches to the next, so that padding is covered too. Returns the
 * index of the code's. */
static uint32_t add_overlay(struct table *table, const struct ovm_elf_plan *plan,
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

/* The move that took section @sh along, NULL if it stays. */
static const struct ovm_elf_move *move_of(const struct ovm_elf_plan *plan, const Elf64_Shdr *sh)
{
	for (uint32_t k = 0; k < plan->n_moves; k++)
		if ((sh->sh_flags & SHF_ALLOC) && sh->sh_offset == plan->moves[k].old_off &&
		    sh->sh_size == plan->moves[k].size)
			return &plan->moves[k];
	return NULL;
}

static void follow_moves(struct table *table, const struct ovm_elf_plan *plan)
{
	for (uint32_t i = 1; i < table->n; i++) {
		const struct ovm_elf_move *move = move_of(plan, &table->v[i]);
		if (!move)
			continue;
		table->v[i].sh_offset = move->new_off;
		table->v[i].sh_addr = move->new_va.v;
	}
}

/* PT_GNU_EH_FRAME names the merged table, so the section of that name must be the merged one too.
 */
static void rename_old_hdr(struct table *table, const struct ovm_image *image)
{
	for (uint32_t i = 1; i < table->n; i++) {
		Elf64_Shdr *sh = &table->v[i];
		if (!(sh->sh_flags & SHF_ALLOC) || sh->sh_addr != image->eh_frame_hdr.v ||
		    sh->sh_type != SHT_PROGBITS)
			continue;
		sh->sh_name = (uint32_t)table->names.n;
		ovm_buf_put(&table->names, ".optvm.org.eh_frame_hdr",
			    sizeof(".optvm.org.eh_frame_hdr"));
		return;
	}
}

/* --- symbols
 * ---------------------------------------------------------------------------------------------------
 */

/* The symbol table, if it may be rewritten. */
static uint32_t find_symtab(const struct ovm_elf_view *view, bool *locked)
{
	uint32_t symtab = 0;
	*locked = false;
	for (uint32_t i = 1; i < view->n_shdrs; i++)
		if (view->shdrs[i].sh_type == SHT_SYMTAB)
			symtab = i;
	if (!symtab)
		return 0;
	const Elf64_Shdr *sh = &view->shdrs[symtab];
	if (sh->sh_entsize != sizeof(Elf64_Sym) || sh->sh_link >= view->n_shdrs || !sh->sh_link ||
	    view->shdrs[sh->sh_link].sh_type != SHT_STRTAB ||
	    sh->sh_info > sh->sh_size / sizeof(Elf64_Sym))
		*locked = true;
	for (uint32_t i = 1; i < view->n_shdrs; i++) {
		const Elf64_Shdr *other = &view->shdrs[i];
		if (other->sh_link == symtab && other->sh_size &&
		    (other->sh_type == SHT_REL || other->sh_type == SHT_RELA ||
		     other->sh_type == SHT_GROUP || other->sh_type == SHT_SYMTAB_SHNDX))
			*locked = true;
	}
	return symtab;
}

/* One symbol a run of copied code; a region's later runs count up. */
static void put_copies(const struct ovm_image *image, const struct ovm_regions *regions,
		       const struct ovm_overlay *overlay, uint32_t text, struct ovm_buf *symbols,
		       struct ovm_buf *names)
{
	uint32_t *n_copies = ovm_alloc_array(regions->v.n + 1, sizeof(*n_copies));
	for (uint32_t i = 0; i < overlay->fdes.n; i++) {
		const struct ovm_new_fde *fde = &overlay->fdes.v[i];
		if (fde->region >= regions->v.n)
			continue;
		ovm_va lo = regions->v.v[fde->region].lo;
		const struct ovm_symbol *symbol = ovm_image_symbol(image, lo);
		char tail[64];
		uint32_t copy = n_copies[fde->region]++;
		Elf64_Sym sym = {
		    .st_name = (uint32_t)names->n,
		    .st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC),
		    .st_shndx = (uint16_t)text,
		    .st_value = overlay->base.v + fde->off,
		    .st_size = fde->size,
		};
		if (symbol && symbol->name && symbol->name[0]) {
			ovm_buf_put(names, symbol->name, strlen(symbol->name));
			snprintf(tail, sizeof(tail), ".optvm.%u", copy);
		} else if (copy) {
			snprintf(tail, sizeof(tail), "optvm_%llx.%u", (unsigned long long)lo.v,
				 copy);
		} else {
			snprintf(tail, sizeof(tail), "optvm_%llx", (unsigned long long)lo.v);
		}
		ovm_buf_put(names, tail, strlen(tail) + 1);
		ovm_buf_put(symbols, &sym, sizeof(sym));
	}
	free(n_copies);
}

/* Symbols of sections that moved (lld's __abi_tag). */
static void move_symbols(const struct ovm_elf_view *view, const struct ovm_elf_plan *plan,
			 uint8_t *symbols, size_t n)
{
	for (size_t i = 0; plan->n_moves && i < n; i++) {
		Elf64_Sym sym;
		memcpy(&sym, symbols + i * sizeof(sym), sizeof(sym));
		if (sym.st_shndx == SHN_UNDEF || sym.st_shndx >= view->n_shdrs)
			continue;
		const struct ovm_elf_move *move = move_of(plan, &view->shdrs[sym.st_shndx]);
		if (!move)
			continue;
		sym.st_value += move->new_va.v - move->old_va.v;
		memcpy(symbols + i * sizeof(sym), &sym, sizeof(sym));
	}
}

static void place(Elf64_Shdr *sh, uint64_t at, const struct ovm_buf *bytes, size_t from)
{
	sh->sh_offset = at + from;
	sh->sh_size = bytes->n - from;
}

static void align_out(struct ovm_buf *out, uint64_t at, uint64_t align)
{
	ovm_buf_fill(out, 0, -(at + out->n) & (align - 1));
}

/* Symbols and their names. The name section may be .shstrtab itself: then @table->names continues
 * it. */
static void put_symbols(const struct ovm_image *image, const struct ovm_elf_view *view,
			const struct ovm_elf_plan *plan, const struct ovm_regions *regions,
			const struct ovm_overlay *overlay, uint32_t text, uint64_t at,
			struct table *table, struct ovm_buf *out)
{
	bool locked;
	uint32_t symtab = find_symtab(view, &locked);
	if (locked)
		return;
	struct ovm_buf own = {0}, copies = {0};
	Elf64_Shdr old = {0};
	const Elf64_Shdr *names_sh = NULL;
	bool shared = symtab && view->shdrs[symtab].sh_link == view->ehdr.e_shstrndx;
	struct ovm_buf *names = shared ? &table->names : &own;
	if (symtab) {
		old = view->shdrs[symtab];
		names_sh = &view->shdrs[old.sh_link];
		if (!shared)
			ovm_buf_put(&own, view->bytes + names_sh->sh_offset, names_sh->sh_size);
	} else {
		ovm_buf_u8(&own, 0);
	}
	put_copies(image, regions, overlay, text, &copies, names);
	align_out(out, at, 8);
	size_t start = out->n, locals = (size_t)old.sh_info * sizeof(Elf64_Sym);
	if (symtab)
		ovm_buf_put(out, view->bytes + old.sh_offset, locals);
	else
		ovm_buf_fill(out, 0, sizeof(Elf64_Sym));
	ovm_buf_put(out, copies.v, copies.n);
	uint32_t n_locals = (uint32_t)((out->n - start) / sizeof(Elf64_Sym));
	if (symtab)
		ovm_buf_put(out, view->bytes + old.sh_offset + locals,
			    old.sh_size / sizeof(Elf64_Sym) * sizeof(Elf64_Sym) - locals);
	move_symbols(view, plan, out->v + start, (out->n - start) / sizeof(Elf64_Sym));
	Elf64_Shdr *sh = symtab ? &table->v[symtab] : add(table, ".symtab", SHT_SYMTAB, 0);
	place(sh, at, out, start);
	sh->sh_entsize = sizeof(Elf64_Sym);
	sh->sh_addralign = 8;
	sh->sh_info = n_locals;
	if (!shared) {
		Elf64_Shdr *str = symtab ? &table->v[old.sh_link] : NULL;
		if (!symtab) {
			sh->sh_link = table->n;
			str = add(table, ".strtab", SHT_STRTAB, 0);
		}
		start = out->n;
		ovm_buf_put(out, own.v, own.n);
		place(str, at, out, start);
	}
	ovm_buf_free(&own);
	ovm_buf_free(&copies);
}

/* For gdb: a new .debug_frame, or the input's continued. A compressed one stays alone. */
static void put_debug_frame(const struct ovm_elf_view *view, const struct ovm_overlay *overlay,
			    uint64_t at, struct table *table, struct ovm_buf *out)
{
	static const char name[] = ".debug_frame";
	const Elf64_Shdr *names = &view->shdrs[view->ehdr.e_shstrndx];
	Elf64_Shdr *sh = NULL;
	for (uint32_t i = 1; i < view->n_shdrs && !sh; i++) {
		uint64_t off = table->v[i].sh_name;
		if (table->v[i].sh_type == SHT_PROGBITS && off < names->sh_size &&
		    names->sh_size - off >= sizeof(name) &&
		    !memcmp(view->bytes + names->sh_offset + off, name, sizeof(name)))
			sh = &table->v[i];
	}
	if (!overlay->fdes.n || (sh && ((sh->sh_flags & SHF_COMPRESSED) || sh->sh_size % 4)))
		return;
	align_out(out, at, 8);
	size_t start = out->n;
	if (sh)
		ovm_buf_put(out, view->bytes + sh->sh_offset, sh->sh_size);
	else
		sh = add(table, name, SHT_PROGBITS, 0);
	ovm_elf_debug_frame(overlay, start, out);
	place(sh, at, out, start);
	sh->sh_addralign = 8;
}

void ovm_elf_sections(const struct ovm_image *image, const struct ovm_elf_view *view,
		      const struct ovm_elf_plan *plan, const struct ovm_regions *regions,
		      const struct ovm_overlay *overlay, const struct ovm_elf_segment *segment,
		      uint64_t at, Elf64_Ehdr *ehdr, struct ovm_buf *out)
{
	if (!view->shdrs)
		return;
	struct table table = {.v =
				  ovm_alloc_array(view->n_shdrs + NEW_SECTIONS, sizeof(Elf64_Shdr)),
			      .n = view->n_shdrs};
	const Elf64_Shdr *names = &view->shdrs[view->ehdr.e_shstrndx];
	memcpy(table.v, view->shdrs, view->n_shdrs * sizeof(Elf64_Shdr));
	ovm_buf_put(&table.names, view->bytes + names->sh_offset, names->sh_size);
	follow_moves(&table, plan);

	add_loaded(&table, plan, ".optvm.pad", SHT_PROGBITS, 0, plan->va.v, OVM_ELF_PAD);
	add_loaded(&table, plan, ".note.optvm", SHT_NOTE, 0, plan->va.v + OVM_ELF_PAD,
		   plan->note_size);
	uint32_t text = add_overlay(&table, plan, overlay);
	if (segment->eh_frame_hdr.v)
		rename_old_hdr(&table, image);
	add_loaded(&table, plan, ".eh_frame_hdr", SHT_PROGBITS, 0, segment->eh_frame_hdr.v,
		   segment->eh_frame_hdr_size);
	add_loaded(&table, plan, ".optvm.map", SHT_PROGBITS, 0, segment->map.v, segment->map_size);
	add_loaded(&table, plan, ".optvm.undo", SHT_PROGBITS, 0, segment->undo.v,
		   segment->undo_size);

	put_debug_frame(view, overlay, at, &table, out);
	put_symbols(image, view, plan, regions, overlay, text, at, &table, out);
	size_t start = out->n;
	ovm_buf_put(out, table.names.v, table.names.n);
	place(&table.v[view->ehdr.e_shstrndx], at, out, start);

	align_out(out, at, 8);
	ehdr->e_shoff = at + out->n;
	ehdr->e_shnum = (uint16_t)table.n;
	ovm_buf_put(out, table.v, table.n * sizeof(Elf64_Shdr));
	free(table.v);
	ovm_buf_free(&table.names);
}
