/* Symbols of a rewritten file: names for copied code, for debuggers and profilers.
 *
 * Each run of copied code is a LOCAL FUNC "name.optvm.N", so that a profile tells the copies apart.
 * And where the first instruction of a function was copied, its copy is a LOCAL FUNC of the same
 * name: a debugger that is asked to break at a name does so at all functions of that name, and
 * calls from copy to copy never pass the original.
 *
 *   0000000000001220    28 FUNC    GLOBAL  middle              the original: who takes its address
 * comes here 0000000000005210    28 FUNC    LOCAL   middle.optvm.0      the copy 0000000000005210
 * 28 FUNC    LOCAL   middle
 *
 * Not so for indirect functions (their resolver runs once, and debuggers look through it). Locals
 * must come before globals, so the table is written anew; where a relocation section refers to it
 * by index (-Wl,-q) it stays as it is and the copies go without names. A stripped file gets a table
 * of the copies only.
 */
#include "rewriter/elf_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* What the symbols of copies are made of. */
struct writer {
	const struct ovm_image *image;
	const Elf64_Shdr *old_names; /* the input's names of symbols, NULL if it has none */
	const struct ovm_overlay *overlay;
	uint16_t text;
	struct ovm_buf symbols, *names;
	uint8_t *is_named; /* [image->symbols.n]: its copy has a symbol */
};

static void put_symbol(struct writer *w, uint32_t name, uint32_t lo, uint32_t hi)
{
	Elf64_Sym sym = {
	    .st_name = name,
	    .st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC),
	    .st_shndx = w->text,
	    .st_value = w->overlay->base.v + lo,
	    .st_size = hi - lo,
	};
	ovm_buf_put(&w->symbols, &sym, sizeof(sym));
}

/* Valgrind takes names that start so for orders ("replace malloc by this", "call this when
 * loaded"), so a second symbol of the name would be a second order, and one with a tail an unknown
 * one. */
static bool is_order(const char *name)
{
	return !strncmp(name, "_vgr", 4) || !strncmp(name, "_vgw", 4) || !strncmp(name, "_vgn", 4);
}

/* "f.optvm.0": run number @copy of the region at @lo. */
static void put_run(struct writer *w, const struct ovm_new_fde *fde, ovm_va lo, uint32_t copy)
{
	const struct ovm_symbol *symbol = ovm_image_symbol(w->image, lo);
	char tail[64];
	put_symbol(w, (uint32_t)w->names->n, fde->off, fde->off + fde->size);
	if (symbol && symbol->name && symbol->name[0] && !is_order(symbol->name)) {
		ovm_buf_put(w->names, symbol->name, strlen(symbol->name));
		snprintf(tail, sizeof(tail), ".optvm.%u", copy);
	} else if (copy) {
		snprintf(tail, sizeof(tail), "optvm_%llx.%u", (unsigned long long)lo.v, copy);
	} else {
		snprintf(tail, sizeof(tail), "optvm_%llx", (unsigned long long)lo.v);
	}
	ovm_buf_put(w->names, tail, strlen(tail) + 1);
}

/* The name's offset: where the input has it, or appended. */
static uint32_t name_of(struct writer *w, const char *name)
{
	uint64_t off = (uint64_t)((uintptr_t)name - (uintptr_t)w->image->bytes);
	if (w->old_names && off >= w->old_names->sh_offset &&
	    off - w->old_names->sh_offset < w->old_names->sh_size)
		return (uint32_t)(off - w->old_names->sh_offset);
	uint32_t at = (uint32_t)w->names->n;
	ovm_buf_put(w->names, name, strlen(name) + 1);
	return at;
}

static uint32_t first_symbol(const struct ovm_image *image, ovm_va va)
{
	uint32_t lo = 0, hi = image->symbols.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (image->symbols.v[mid].va.v < va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Every function that starts at the original of the instruction at overlay offset @off. */
static void put_entries(struct writer *w, ovm_va old, uint32_t off, uint32_t end)
{
	const struct ovm_image *image = w->image;
	const char *last = "";
	for (uint32_t i = first_symbol(image, old);
	     i < image->symbols.n && image->symbols.v[i].va.v == old.v; i++) {
		const struct ovm_symbol *symbol = &image->symbols.v[i];
		if (symbol->type != STT_FUNC || !symbol->name[0] || w->is_named[i] ||
		    is_order(symbol->name))
			continue;
		w->is_named[i] = 1;
		if (strcmp(symbol->name, last)) /* .symtab and .dynsym say the same */
			put_symbol(w, name_of(w, symbol->name), off, end);
		last = symbol->name;
	}
}

/* The names of the functions that start in the run @fde of @region; @map: the run's first entry.
 * Returns the entry behind the run's last. */
static uint32_t put_functions(struct writer *w, const struct ovm_new_fde *fde,
			      const struct ovm_region *region, uint32_t map)
{
	const struct ovm_image *image = w->image;
	const struct ovm_map *v = &w->overlay->map;
	uint32_t end = fde->off + fde->size, first = first_symbol(image, region->lo);
	bool has_more = first < image->symbols.n && image->symbols.v[first].va.v < region->hi.v;
	bool inside = false; /* a symbol behind the first address */
	for (uint32_t i = first; i < image->symbols.n && image->symbols.v[i].va.v < region->hi.v;
	     i++)
		inside |= image->symbols.v[i].va.v != region->lo.v;
	for (; map < v->v.n && v->v.v[map].off < end; map++) {
		const struct ovm_map_entry *entry = &v->v.v[map];
		if (has_more && entry->off >= fde->off && entry->new_len &&
		    ovm_map_is_start(entry) && (inside || entry->old.v == region->lo.v))
			put_entries(w, entry->old, entry->off, end);
	}
	return map;
}

/* One symbol a run of copied code, a region's later runs count up; and the functions' own names. */
static void put_copies(struct writer *w, const struct ovm_regions *regions)
{
	uint32_t *n_copies = ovm_alloc_array(regions->v.n + 1, sizeof(*n_copies)), map = 0;
	w->is_named = ovm_alloc_array(w->image->symbols.n + 1, 1);
	for (uint32_t i = 0; i < w->overlay->fdes.n; i++) {
		const struct ovm_new_fde *fde = &w->overlay->fdes.v[i];
		if (fde->region >= regions->v.n)
			continue;
		const struct ovm_region *region = &regions->v.v[fde->region];
		put_run(w, fde, region->lo, n_copies[fde->region]++);
		map = put_functions(w, fde, region, map);
	}
	free(w->is_named);
	free(n_copies);
}

/* Symbols of sections that moved (lld's __abi_tag). */
static void move_symbols(const struct ovm_elf_view *view, const struct ovm_elf_plan *plan,
			 const struct ovm_elf_table *table, uint8_t *symbols, size_t n)
{
	for (size_t i = 0; plan->n_moves && i < n; i++) {
		Elf64_Sym sym;
		memcpy(&sym, symbols + i * sizeof(sym), sizeof(sym));
		if (sym.st_shndx == SHN_UNDEF || sym.st_shndx >= view->n_shdrs)
			continue;
		const struct ovm_elf_move *move = ovm_elf_move_of(plan, &view->shdrs[sym.st_shndx]);
		if (!move)
			continue;
		sym.st_value += move->new_va.v - move->old_va.v;
		if (table->moved[move - plan->moves])
			sym.st_shndx = (uint16_t)table->moved[move - plan->moves];
		memcpy(symbols + i * sizeof(sym), &sym, sizeof(sym));
	}
}

/* Symbols and their names. The name section may be .shstrtab itself: then @table->names continues
 * it. */
void ovm_elf_symbols(const struct ovm_image *image, const struct ovm_elf_view *view,
		     const struct ovm_elf_plan *plan, const struct ovm_regions *regions,
		     const struct ovm_overlay *overlay, uint32_t text, struct ovm_elf_table *table)
{
	bool locked;
	uint32_t symtab = find_symtab(view, &locked);
	if (locked)
		return;
	struct ovm_buf own = {0}, *out = table->out;
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
	struct writer w = {.image = image,
			   .old_names = names_sh,
			   .overlay = overlay,
			   .text = (uint16_t)text,
			   .names = names};
	put_copies(&w, regions);
	size_t start = ovm_elf_table_start(table, 8);
	size_t locals = (size_t)old.sh_info * sizeof(Elf64_Sym);
	if (symtab)
		ovm_buf_put(out, view->bytes + old.sh_offset, locals);
	else
		ovm_buf_fill(out, 0, sizeof(Elf64_Sym));
	ovm_buf_put(out, w.symbols.v, w.symbols.n);
	uint32_t n_locals = (uint32_t)((out->n - start) / sizeof(Elf64_Sym));
	if (symtab)
		ovm_buf_put(out, view->bytes + old.sh_offset + locals,
			    old.sh_size / sizeof(Elf64_Sym) * sizeof(Elf64_Sym) - locals);
	move_symbols(view, plan, table, out->v + start, (out->n - start) / sizeof(Elf64_Sym));
	Elf64_Shdr *sh =
	    symtab ? &table->v[symtab] : ovm_elf_table_add(table, ".symtab", SHT_SYMTAB, 0);
	ovm_elf_table_place(table, sh, start);
	sh->sh_entsize = sizeof(Elf64_Sym);
	sh->sh_addralign = 8;
	sh->sh_info = n_locals;
	if (!shared) {
		Elf64_Shdr *str = symtab ? &table->v[old.sh_link] : NULL;
		if (!symtab) {
			sh->sh_link = table->n;
			str = ovm_elf_table_add(table, ".strtab", SHT_STRTAB, 0);
		}
		start = out->n;
		ovm_buf_put(out, own.v, own.n);
		ovm_elf_table_place(table, str, start);
	}
	ovm_buf_free(&own);
	ovm_buf_free(&w.symbols);
}
