/* Symbols of a rewritten file: its own, and names for the copied code (copysyms.h).
 *
 * Locals must come before globals, so the table is written anew; where a relocation section refers
 * to it by index (-Wl,-q) it stays as it is and the copies go without names. A stripped file gets a
 * table of the copies only.
 */
#include "rewriter/copysyms.h"
#include "rewriter/elf_private.h"

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
	struct ovm_copysyms w = {.image = image,
				 .old_names = names_sh,
				 .overlay = overlay,
				 .text = (uint16_t)text,
				 .names = names};
	ovm_copysyms_put(&w, regions);
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
