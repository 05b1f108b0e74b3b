/* Names as BOLT makes them.
 *
 * fdata names places by function and offset, so both sides must agree on what
 * is a function and what it is called. BOLT (llvm-project, bolt/lib/Rewrite,
 * discoverFileObjects) walks .symtab in order of address, symbols of one
 * address in order of the table but functions first:
 *
 *   main                 global: its name
 *   work/1  work/q.c/1   local: numbered among the locals of that name, and, of
 * functions, among work/2  work/p.c/1   those of that name and source file
 *   foo@PLT              a PLT stub
 *   __BOLT_FDE_FUNCat1a40    an FDE where no symbol is
 *
 * A symbol inside the last function is another entry of it, not a function.
 * .dynsym is not looked at; for reading, its names are accepted where nothing
 * else has them.
 *
 * Limits: section symbols are not numbered along; a control character in a name
 * cannot be written.
 */
#include "analyzer/boltnames.h"
#include "analyzer/image_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SYM = sizeof(Elf64_Sym), PLT_STUB = 16 };

static const char fde_prefix[] = "__BOLT_FDE_FUNCat";

struct symbol {
	Elf64_Sym sym;
	const char *name, *file; /* file NULL if unknown */
	uint32_t idx;		 /* in the table */
	bool in_text;
};

struct counter { /* how many locals have a name so far; sorted by name */
	const char *name;
	uint32_t idx, id;
};

struct walk {
	const struct ovm_image *image;
	struct ovm_bolt_names *out;
	OVM_VEC(struct symbol) symbols;
};

static void *arena_copy(struct ovm_arena *arena, const char *text)
{
	size_t len = strlen(text);
	return memcpy(ovm_arena_alloc(arena, len + 1), text, len + 1);
}

static bool is_local(const struct symbol *s)
{
	return ELF64_ST_BIND(s->sym.st_info) == STB_LOCAL;
}

static bool is_func(const struct symbol *s)
{
	unsigned type = ELF64_ST_TYPE(s->sym.st_info);
	return type == STT_FUNC || type == STT_GNU_IFUNC;
}

/* --- the symbols that BOLT sees, sorted as it sorts them --- */

/* Defined, in a section that is loaded, and not sticking out of it. */
static bool is_in_memory(const struct ovm_image_load *load, const Elf64_Sym *sym, bool *in_text)
{
	Elf64_Shdr sh;
	const char *name;
	unsigned type = ELF64_ST_TYPE(sym->st_info);
	*in_text = false;
	if (sym->st_shndx == SHN_ABS)
		return true;
	if (sym->st_shndx == SHN_UNDEF || type == STT_SECTION || type == STT_TLS ||
	    !ovm_image_section(load, sym->st_shndx, &sh, &name))
		return false;
	uint64_t off = sym->st_value - sh.sh_addr;
	*in_text = sh.sh_flags & SHF_EXECINSTR && off < sh.sh_size;
	return sh.sh_flags & SHF_ALLOC && off <= sh.sh_size && sym->st_size <= sh.sh_size - off;
}

static void read_table(struct walk *walk, const struct ovm_image_load *load, const Elf64_Shdr *sh)
{
	Elf64_Shdr str;
	const char *ignored, *file = NULL;
	const uint8_t *p = ovm_image_file(walk->image, sh->sh_offset, sh->sh_size);
	if (!p || !ovm_image_section(load, sh->sh_link, &str, &ignored))
		return;
	struct ovm_strtab names =
	    ovm_strtab_of(ovm_image_file(walk->image, str.sh_offset, str.sh_size), str.sh_size);
	for (uint64_t i = 1; i < sh->sh_size / SYM && i < OVM_NONE; i++) {
		struct symbol s = {.idx = (uint32_t)i};
		memcpy(&s.sym, p + i * SYM, SYM);
		s.name = ovm_strtab_get(&names, s.sym.st_name);
		if (s.sym.st_shndx == SHN_UNDEF || !s.name)
			continue;
		if (ELF64_ST_TYPE(s.sym.st_info) == STT_FILE) {
			if (strcmp(s.name, "ld-temp.o"))
				file = *s.name ? s.name : NULL;
			continue;
		}
		if (!*s.name || !s.sym.st_value || !is_in_memory(load, &s.sym, &s.in_text))
			continue;
		s.file = is_local(&s) && is_func(&s) ? file : NULL;
		ovm_vec_push(&walk->symbols, s);
	}
}

static int by_address(const void *pa, const void *pb)
{
	const struct symbol *a = pa, *b = pb;
	if (a->sym.st_value != b->sym.st_value)
		return a->sym.st_value < b->sym.st_value ? -1 : 1;
	if (is_func(a) != is_func(b))
		return is_func(a) ? -1 : 1;
	return (a->idx > b->idx) - (a->idx < b->idx);
}

static void read_symbols(struct walk *walk)
{
	struct ovm_ctx quiet;
	ovm_ctx_init(&quiet);
	/* the loader changes the image only where sections are taken from it: not
	 * here */
	struct ovm_image_load load = {.ctx = &quiet, .image = (struct ovm_image *)walk->image};
	Elf64_Shdr sh;
	const char *name;
	ovm_image_load_sections(&load);
	for (uint32_t i = 0; ovm_image_section(&load, i, &sh, &name); i++) {
		if (sh.sh_type == SHT_SYMTAB) {
			read_table(walk, &load, &sh);
			break; /* there is at most one */
		}
	}
	if (walk->symbols.n)
		qsort(walk->symbols.v, walk->symbols.n, sizeof(*walk->symbols.v), by_address);
}

/* --- numbers of locals --- */

static int by_counter(const void *pa, const void *pb)
{
	const struct counter *a = pa, *b = pb;
	int c = strcmp(a->name, b->name);
	return c ? c : (a->idx > b->idx) - (a->idx < b->idx);
}

/* ids[i] of symbol i: its place among the symbols whose @keys entry is the same
 * text. NULL keys take no part. */
static uint32_t *number(const char *const *keys, uint32_t n)
{
	struct counter *v = ovm_alloc_array(n ? n : 1, sizeof(*v));
	uint32_t *ids = ovm_alloc_array(n ? n : 1, sizeof(*ids)), used = 0;
	for (uint32_t i = 0; i < n; i++)
		if (keys[i])
			v[used++] = (struct counter){keys[i], i, 0};
	if (used)
		qsort(v, used, sizeof(*v), by_counter);
	for (uint32_t i = 0; i < used; i++) {
		bool same = i && !strcmp(v[i].name, v[i - 1].name);
		v[i].id = same ? v[i - 1].id + 1 : 1;
		ids[v[i].idx] = v[i].id;
	}
	free(v);
	return ids;
}

/* --- names and functions --- */

static void add_name(struct ovm_bolt_names *out, const char *name, uint64_t va)
{
	ovm_vec_push(&out->names, (struct ovm_bolt_name){name, ovm_va_of(va), out->names.n});
}

static const char *numbered(struct ovm_bolt_names *out, const char *name, uint32_t id)
{
	char *text = ovm_asprintf("%s/%" PRIu32, name, id);
	const char *kept = arena_copy(&out->arena, text);
	free(text);
	return kept;
}

static bool can_be_written(const char *name)
{
	for (const unsigned char *p = (const unsigned char *)name; *p; p++)
		if (*p < 0x20 || *p == 0x7f)
			return false;
	return true;
}

static void add_func(struct ovm_bolt_names *out, uint64_t lo, uint64_t size, const char *name)
{
	uint64_t hi;
	if (__builtin_add_overflow(lo, size, &hi))
		hi = UINT64_MAX;
	struct ovm_bolt_func func = {ovm_va_of(lo), ovm_va_of(hi),
				     can_be_written(name) ? name : NULL};
	ovm_vec_push(&out->funcs, func);
}

/* The walk that tells functions from labels inside them. */
static void add_symbol_func(struct walk *walk, const struct symbol *s, const char *name)
{
	struct ovm_bolt_names *out = walk->out;
	uint64_t va = s->sym.st_value, size = s->sym.st_size;
	uint32_t r = ovm_region_find(out->regions, ovm_va_of(va));
	if (!s->in_text)
		return;
	if (r != OVM_NONE && out->regions->v.v[r].lo.v == va &&
	    size < out->regions->v.v[r].hi.v - va)
		size = out->regions->v.v[r].hi.v - va;
	struct ovm_bolt_func *last = out->funcs.n ? &out->funcs.v[out->funcs.n - 1] : NULL;
	if (last && va == last->lo.v) {
		if (is_func(s) && size > last->hi.v - va && va + size > va)
			last->hi.v = va + size;
		return;
	}
	if (!last || va >= last->hi.v)
		add_func(out, va, size, name);
}

static void add_symbols(struct walk *walk)
{
	uint32_t n = walk->symbols.n;
	const char **plain = ovm_alloc_array(n ? n : 1, sizeof(*plain));
	const char **with_file = ovm_alloc_array(n ? n : 1, sizeof(*with_file));
	for (uint32_t i = 0; i < n; i++) {
		const struct symbol *s = &walk->symbols.v[i];
		plain[i] = is_local(s) ? s->name : NULL;
		if (!s->file)
			continue;
		char *text = ovm_asprintf("%s/%s", s->name, s->file);
		with_file[i] = arena_copy(&walk->out->arena, text);
		free(text);
	}
	uint32_t *ids = number(plain, n), *file_ids = number(with_file, n);
	for (uint32_t i = 0; i < n; i++) {
		const struct symbol *s = &walk->symbols.v[i];
		const char *name = plain[i] ? numbered(walk->out, s->name, ids[i]) : s->name;
		add_name(walk->out, name, s->sym.st_value);
		if (with_file[i])
			add_name(walk->out, numbered(walk->out, with_file[i], file_ids[i]),
				 s->sym.st_value);
		add_symbol_func(walk, s, name);
	}
	free(ids);
	free(file_ids);
	free(plain);
	free(with_file);
}

static const struct ovm_bolt_func *func_among(const struct ovm_bolt_func *v, uint32_t n, ovm_va va)
{
	uint32_t lo = 0, hi = n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (v[mid].lo.v <= va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && (va.v < v[lo - 1].hi.v || va.v == v[lo - 1].lo.v) ? &v[lo - 1] : NULL;
}

static int by_lo(const void *pa, const void *pb)
{
	const struct ovm_bolt_func *a = pa, *b = pb;
	return (a->lo.v > b->lo.v) - (a->lo.v < b->lo.v);
}

static void add_plts(const struct ovm_image *image, struct ovm_bolt_names *out)
{
	uint32_t n = out->funcs.n; /* sorted so far */
	for (uint32_t i = 0; i < image->plts.n; i++) {
		const struct ovm_plt *plt = &image->plts.v[i];
		if (!plt->symbol || !*plt->symbol || func_among(out->funcs.v, n, plt->stub))
			continue;
		char *text = ovm_asprintf("%s@PLT", plt->symbol);
		const char *name = arena_copy(&out->arena, text);
		free(text);
		uint64_t size = PLT_STUB;
		if (i + 1 < image->plts.n && image->plts.v[i + 1].stub.v - plt->stub.v < size)
			size = image->plts.v[i + 1].stub.v - plt->stub.v;
		add_name(out, name, plt->stub.v);
		ovm_vec_push(&out->funcs,
			     (struct ovm_bolt_func){plt->stub, ovm_va_add(plt->stub, (int64_t)size),
						    can_be_written(name) ? name : NULL});
	}
}

static void sort_funcs(struct ovm_bolt_names *out)
{
	struct ovm_bolt_func *v = out->funcs.v;
	if (out->funcs.n)
		qsort(v, out->funcs.n, sizeof(*v), by_lo);
	for (uint32_t i = 0; i + 1 < out->funcs.n; i++) /* disjoint, whatever the file says */
		if (v[i].hi.v > v[i + 1].lo.v)
			v[i].hi = v[i + 1].lo;
}

/* Functions without size and FDE reach to the next function, or to the end of their segment. */
static void stretch_funcs(const struct ovm_image *image, struct ovm_bolt_names *out)
{
	for (uint32_t i = 0; i < out->funcs.n; i++) {
		struct ovm_bolt_func *func = &out->funcs.v[i];
		const struct ovm_segment *seg = ovm_image_segment(image, func->lo);
		if (func->lo.v != func->hi.v || !seg)
			continue;
		func->hi = seg->hi;
		if (i + 1 < out->funcs.n && out->funcs.v[i + 1].lo.v < func->hi.v)
			func->hi = out->funcs.v[i + 1].lo;
	}
}

static void add_fdes(struct ovm_bolt_names *out)
{
	uint32_t n = out->funcs.n; /* sorted so far */
	for (uint32_t i = 0; i < out->regions->v.n; i++) {
		const struct ovm_region *region = &out->regions->v.v[i];
		char name[sizeof(fde_prefix) + 16];
		if (region->is_plt || func_among(out->funcs.v, n, region->lo))
			continue;
		snprintf(name, sizeof(name), "%s%" PRIx64, fde_prefix, region->lo.v);
		ovm_vec_push(&out->funcs, (struct ovm_bolt_func){region->lo, region->hi,
								 arena_copy(&out->arena, name)});
	}
}

static int by_name(const void *pa, const void *pb)
{
	const struct ovm_bolt_name *a = pa, *b = pb;
	int c = strcmp(a->name, b->name);
	return c ? c : (a->rank > b->rank) - (a->rank < b->rank);
}

void ovm_bolt_names_build(const struct ovm_image *image, const struct ovm_regions *regions,
			  struct ovm_bolt_names *out)
{
	struct walk walk = {.image = image, .out = out};
	*out = (struct ovm_bolt_names){.regions = regions};
	read_symbols(&walk);
	add_symbols(&walk);
	sort_funcs(out);
	add_plts(image, out);
	sort_funcs(out);
	add_fdes(out);
	sort_funcs(out);
	stretch_funcs(image, out);
	for (uint32_t i = 0; i < image->symbols.n; i++)
		if (image->symbols.v[i].dynamic)
			add_name(out, image->symbols.v[i].name, image->symbols.v[i].va.v);
	if (out->names.n)
		qsort(out->names.v, out->names.n, sizeof(*out->names.v), by_name);
	ovm_vec_free(&walk.symbols);
}

void ovm_bolt_names_free(struct ovm_bolt_names *names)
{
	if (!names)
		return;
	ovm_vec_free(&names->funcs);
	ovm_vec_free(&names->names);
	ovm_arena_free(&names->arena);
}

/* --- look-up --- */

const struct ovm_bolt_func *ovm_bolt_func_at(const struct ovm_bolt_names *names, ovm_va va)
{
	return func_among(names->funcs.v, names->funcs.n, va);
}

/* __BOLT_FDE_FUNCat<hex> of any region, also of one that has a symbol here. */
static bool find_fde(const struct ovm_bolt_names *names, const char *name, ovm_va *out)
{
	size_t len = strlen(fde_prefix);
	uint64_t va = 0;
	char *end;
	if (strncmp(name, fde_prefix, len) || !name[len] || name[len] == '-' || name[len] == '+')
		return false;
	va = strtoull(name + len, &end, 16);
	uint32_t r = *end ? OVM_NONE : ovm_region_find(names->regions, ovm_va_of(va));
	*out = ovm_va_of(va);
	return r != OVM_NONE && names->regions->v.v[r].lo.v == va;
}

bool ovm_bolt_find(const struct ovm_bolt_names *names, const char *name, ovm_va *out)
{
	uint32_t lo = 0, hi = names->names.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (strcmp(names->names.v[mid].name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < names->names.n && !strcmp(names->names.v[lo].name, name)) {
		*out = names->names.v[lo].va;
		return true;
	}
	return find_fde(names, name, out);
}

bool ovm_bolt_is_fall(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va from,
		      ovm_va to)
{
	const struct ovm_segment *seg = ovm_image_segment(image, from);
	struct ovm_insn insn;
	if (!seg || to.v <= from.v || !ovm_image_code(image, from, 1))
		return false;
	uint64_t avail = seg->lo.v + seg->filesz - from.v;
	avail = avail < 16 ? avail : 16;
	if (!ovm_decode_one(dec, ovm_image_code(image, from, avail), avail, from, &insn))
		return false;
	switch (insn.kind) {
	case OVM_INSN_JCC:
	case OVM_INSN_JCXZ:
		return insn.target.v != to.v;
	case OVM_INSN_JMP:
	case OVM_INSN_JMP_IND:
	case OVM_INSN_RET:
		return false;
	case OVM_INSN_CALL:
	case OVM_INSN_CALL_IND:
		return to.v == from.v + insn.len;
	default:
		return true;
	}
}
