/* What section headers add: .symtab, probe points, hints of language runtimes; and the look-up of
 * symbols by address.
 *
 * Section headers serve tools, not the loader; strip may remove them and anything may be wrong in
 * them. So they never cause an error: a table that does not fit the file is ignored.
 *
 * Look-up: symbols are sorted by (address, rank); the best one for an address is the nearest at or
 * below it that covers it. Nested ones are rare, so a short walk backwards from the upper bound
 * finds it.
 */
#include "analyzer/image_private.h"

#include <stdlib.h>
#include <ctype.h>
#include <string.h>

enum { SYM = sizeof(Elf64_Sym), SHDR = sizeof(Elf64_Shdr), WALK_BACK = 32 };

/* --- section headers
 * --------------------------------------------------------------------------------------------- */

static Elf64_Shdr raw_section(const struct ovm_image_load *load, uint32_t idx)
{
	Elf64_Shdr sh;
	memcpy(&sh, load->sections + (size_t)idx * SHDR, SHDR);
	return sh;
}

static const uint8_t *section_bytes(const struct ovm_image_load *load, const Elf64_Shdr *sh)
{
	if (sh->sh_type == SHT_NOBITS)
		return NULL;
	return ovm_image_file(load->image, sh->sh_offset, sh->sh_size);
}

void ovm_image_load_sections(struct ovm_image_load *load)
{
	Elf64_Ehdr ehdr;
	memcpy(&ehdr, load->image->bytes, sizeof(ehdr));
	uint64_t n = ehdr.e_shnum, names = ehdr.e_shstrndx;
	const uint8_t *first = ovm_image_file(load->image, ehdr.e_shoff, SHDR);
	if (!ehdr.e_shoff || ehdr.e_shentsize != SHDR || !first)
		return;
	Elf64_Shdr sh;
	memcpy(&sh, first, SHDR);
	if (!n)
		n = sh.sh_size;
	if (names == SHN_XINDEX)
		names = sh.sh_link;
	if (n > load->image->size / SHDR || !ovm_image_file(load->image, ehdr.e_shoff, n * SHDR) ||
	    names >= n)
		return;
	load->sections = first;
	load->n_sections = (uint32_t)n;
	sh = raw_section(load, (uint32_t)names);
	load->section_names = ovm_strtab_of(section_bytes(load, &sh), sh.sh_size);
}

bool ovm_image_section(const struct ovm_image_load *load, uint32_t idx, Elf64_Shdr *out,
		       const char **name)
{
	if (idx >= load->n_sections)
		return false;
	*out = raw_section(load, idx);
	const char *s = ovm_strtab_get(&load->section_names, out->sh_name);
	*name = s ? s : "";
	return true;
}

bool ovm_image_section_named(const struct ovm_image_load *load, const char *name, Elf64_Shdr *out)
{
	const char *s;
	for (uint32_t i = 0; ovm_image_section(load, i, out, &s); i++) {
		if (!strcmp(s, name))
			return true;
	}
	return false;
}

/* --- symbols
 * -----------------------------------------------------------------------------------------------------
 */

/* Functions and objects; untyped symbols too if they name code (hand-written assembly). */
void ovm_image_add_symbol(struct ovm_image *image, const Elf64_Sym *sym,
			  const struct ovm_strtab *names, bool dynamic)
{
	const char *name = ovm_strtab_get(names, sym->st_name);
	ovm_va va = ovm_va_of(sym->st_value);
	unsigned type = ELF64_ST_TYPE(sym->st_info);
	if (!name || sym->st_shndx == SHN_UNDEF || sym->st_shndx == SHN_ABS)
		return;
	const struct ovm_segment *seg = ovm_image_segment(image, va);
	if (!seg)
		return;
	if (type == STT_NOTYPE ? !(seg->flags & PF_X)
			       : type != STT_FUNC && type != STT_OBJECT && type != STT_GNU_IFUNC)
		return;
	ovm_vec_push(&image->symbols, (struct ovm_symbol){
					  .va = va,
					  .size = sym->st_size,
					  .name = name,
					  .type = (uint8_t)type,
					  .bind = ELF64_ST_BIND(sym->st_info),
					  .dynamic = dynamic,
				      });
}

void ovm_image_load_symtab(struct ovm_image_load *load)
{
	for (uint32_t i = 0; i < load->n_sections; i++) {
		Elf64_Shdr sh = raw_section(load, i), str;
		const uint8_t *p = section_bytes(load, &sh);
		if (sh.sh_type != SHT_SYMTAB || sh.sh_link >= load->n_sections || !p)
			continue;
		str = raw_section(load, sh.sh_link);
		struct ovm_strtab names = ovm_strtab_of(section_bytes(load, &str), str.sh_size);
		for (uint64_t at = SYM; at < sh.sh_size && sh.sh_size - at >= SYM; at += SYM) {
			Elf64_Sym sym;
			memcpy(&sym, p + at, SYM);
			ovm_image_add_symbol(load->image, &sym, &names, false);
		}
		return; /* there is at most one */
	}
}

/* Best last: walking down from the upper bound meets it first. */
static int rank(const struct ovm_symbol *sym)
{
	int is_func = sym->type == STT_FUNC || sym->type == STT_GNU_IFUNC;
	int bind = sym->bind == STB_GLOBAL ? 2 : sym->bind == STB_WEAK ? 1 : 0;
	return is_func * 8 + (sym->size != 0) * 4 + bind;
}

static int by_va(const void *a, const void *b)
{
	const struct ovm_symbol *x = a, *y = b;
	if (x->va.v != y->va.v)
		return x->va.v < y->va.v ? -1 : 1;
	if (rank(x) != rank(y))
		return rank(x) < rank(y) ? -1 : 1;
	int order = strcmp(y->name, x->name);
	return order ? order : (int)x->dynamic - (int)y->dynamic;
}

void ovm_image_sort_symbols(struct ovm_image *image)
{
	if (image->symbols.n)
		qsort(image->symbols.v, image->symbols.n, sizeof(*image->symbols.v), by_va);
}

const struct ovm_symbol *ovm_image_symbol(const struct ovm_image *image, ovm_va va)
{
	const struct ovm_symbol *v = image->symbols.v, *loose = NULL;
	uint32_t lo = 0, hi = image->symbols.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (v[mid].va.v <= va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	const struct ovm_segment *seg = ovm_image_segment(image, va);
	for (uint32_t i = lo, n = 0; i-- > 0 && n < WALK_BACK; n++) {
		if (va.v - v[i].va.v < v[i].size)
			return &v[i];
		/* without size it reaches to the next symbol */
		if (!v[i].size && !loose && v[i].va.v == v[lo - 1].va.v && seg &&
		    v[i].va.v >= seg->lo.v)
			loose = &v[i];
	}
	return loose;
}

/* --- probe points
 * ------------------------------------------------------------------------------------------------
 */

static int by_probe(const void *a, const void *b)
{
	uint64_t x = ((const ovm_va *)a)->v, y = ((const ovm_va *)b)->v;
	return (x > y) - (x < y);
}

/* .note.stapsdt: notes "stapsdt" type 3; desc: address of the nop, link-time address of
 * .stapsdt.base, ... */
void ovm_image_load_probes(struct ovm_image_load *load)
{
	struct ovm_image *image = load->image;
	Elf64_Shdr sh, base;
	if (!ovm_image_section_named(load, ".note.stapsdt", &sh))
		return;
	const uint8_t *p = section_bytes(load, &sh);
	bool has_base = ovm_image_section_named(load, ".stapsdt.base", &base);
	for (uint64_t at = 0; p && sh.sh_size - at >= 12;) {
		uint64_t owner = ((uint64_t)ovm_le32(p + at) + 3) & ~(uint64_t)3;
		uint64_t desc = at + 12 + owner, len = ovm_le32(p + at + 4);
		uint64_t end = desc + ((len + 3) & ~(uint64_t)3);
		if (desc > sh.sh_size || len > sh.sh_size - desc)
			break;
		if (ovm_le32(p + at + 8) == 3 && len >= 24) {
			/* prelink moves .stapsdt.base but not the note's contents */
			uint64_t moved = has_base ? base.sh_addr - ovm_le64(p + desc + 8) : 0;
			ovm_vec_push(&image->probes, ovm_va_of(ovm_le64(p + desc) + moved));
		}
		if (end > sh.sh_size)
			break;
		at = end;
	}
	if (image->probes.n)
		qsort(image->probes.v, image->probes.n, sizeof(ovm_va), by_probe);
}

/* --- language runtimes (rule R14)
 * --------------------------------------------------------------------------------- */

static const struct {
	const char *section; /* exact section name, or */
	const char *symbol;  /* prefix of a defined symbol */
	uint32_t runtime;
} signs[] = {
    {".gopclntab", NULL, OVM_RUNTIME_GO},
    {".data.rel.ro.gopclntab", NULL, OVM_RUNTIME_GO},
    {".note.go.buildid", NULL, OVM_RUNTIME_GO},
    {".llvm_stackmaps", NULL, OVM_RUNTIME_STATEPOINTS},
    {".svm_heap", NULL, OVM_RUNTIME_GRAAL},
    {"__managedcode", NULL, OVM_RUNTIME_DOTNET},
    {NULL, "caml_frametable", OVM_RUNTIME_OCAML},
    {NULL, "caml_system__frametable", OVM_RUNTIME_OCAML},
    {NULL, "__LLVM_StackMaps", OVM_RUNTIME_STATEPOINTS},
    {NULL, "graal_create_isolate", OVM_RUNTIME_GRAAL},
    {NULL, "DotNetRuntimeDebugHeader", OVM_RUNTIME_DOTNET},
    {NULL, "coreclr_initialize", OVM_RUNTIME_DOTNET},
    {NULL, "stg_ap_v_info", OVM_RUNTIME_GHC},
    {NULL, "hs_main", OVM_RUNTIME_GHC},
    {NULL, "JVM_FindClassFromBootLoader", OVM_RUNTIME_JVM},
    {NULL, "JVM_GetInterfaceVersion", OVM_RUNTIME_JVM},
    {NULL, "JNI_CreateJavaVM", OVM_RUNTIME_JVM},
};

enum { N_SIGNS = sizeof(signs) / sizeof(signs[0]) };

/* A stripped OCaml program keeps no symbol, but its start-up code reads the variable
 * ocamlrunparam, in capitals: not spelled so here, or this program would find itself. */
static bool is_ocaml(const struct ovm_image *image)
{
	char text[] = "ocamlrunparam";
	for (char *c = text; *c; c++)
		*c = (char)toupper(*c);
	return ovm_image_mentions(image, text);
}

void ovm_image_detect_runtimes(struct ovm_image_load *load)
{
	struct ovm_image *image = load->image;
	Elf64_Shdr sh;
	const char *name;
	for (uint32_t i = 0; ovm_image_section(load, i, &sh, &name); i++) {
		for (unsigned s = 0; s < N_SIGNS; s++) {
			if (signs[s].section && !strcmp(name, signs[s].section))
				image->runtimes |= signs[s].runtime;
		}
	}
	for (uint32_t i = 0; i < image->symbols.n; i++) {
		name = image->symbols.v[i].name;
		for (unsigned s = 0; s < N_SIGNS; s++) {
			if (signs[s].symbol && *name == *signs[s].symbol &&
			    !strncmp(name, signs[s].symbol, strlen(signs[s].symbol)))
				image->runtimes |= signs[s].runtime;
		}
	}
	if (is_ocaml(image))
		image->runtimes |= OVM_RUNTIME_OCAML;
}
