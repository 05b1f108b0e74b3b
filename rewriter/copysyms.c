/* How a copy is named.
 *
 *   0000000000001220    28 FUNC    GLOBAL  middle            the original: who takes its address
 *                                                            comes here
 *   0000000000005210    28 FUNC    LOCAL   middle.optvm.0    the copy
 *   0000000000005210    28 FUNC    LOCAL   middle
 *
 * The name with a tail tells a profile the copies apart. The second one is there because a debugger
 * that is asked to break at a name does so at all functions of that name, and calls from copy to
 * copy never pass the original. Not so for indirect functions (their resolver runs once, and
 * debuggers look through it).
 */
#include "rewriter/copysyms.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_symbol(struct ovm_copysyms *w, uint32_t name, uint32_t lo, uint32_t hi)
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
static void put_run(struct ovm_copysyms *w, const struct ovm_new_fde *fde, ovm_va lo, uint32_t copy)
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
static uint32_t name_of(struct ovm_copysyms *w, const char *name)
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
static void put_entries(struct ovm_copysyms *w, ovm_va old, uint32_t off, uint32_t end)
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
static uint32_t put_functions(struct ovm_copysyms *w, const struct ovm_new_fde *fde,
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

void ovm_copysyms_put(struct ovm_copysyms *w, const struct ovm_regions *regions)
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
