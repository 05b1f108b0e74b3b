/* The dynamic section: symbols, relocations and the PLT stubs they explain.
 *
 * It is found by PT_DYNAMIC and says where its tables are by address, so it serves a file without
 * section headers. It does not say how long .dynsym is: DT_HASH does (nchain), DT_GNU_HASH lets us
 * count (the last chain's end).
 *
 * PLT stubs are recognised by what they do, jump through a slot that a relocation fills:
 *
 *   f3 0f 1e fa              endbr64            (CET builds)
 *   41 bb imm32              mov  $n, %r11d     (mold)
 *   f2                       bnd                (ld -z bndplt, -z ibtplt)
 *   ff 25 disp32             jmp  *slot(%rip)
 *
 * Where section headers name the PLT only that is searched. Else all code is, at 8-byte steps, and
 * a lone jump through a GLOB_DAT slot, which may as well be a tail call compiled with -fno-plt,
 * must look like a stub to its last byte.
 */
#include "analyzer/image_private.h"

#include <stdlib.h>
#include <string.h>

#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR 36
#endif

enum { SYM = sizeof(Elf64_Sym), RELA = sizeof(Elf64_Rela), DYN = sizeof(Elf64_Dyn) };

struct dyn { /* values of the tags we read; 0 if absent */
	uint64_t symtab, strtab, strsz, hash, gnu_hash;
	uint64_t rela, relasz, jmprel, pltrelsz, relr, relrsz;
};

/* --- tags
 * --------------------------------------------------------------------------------------------------------
 */

static void read_tag(struct ovm_image_load *load, struct dyn *dyn, int64_t tag, uint64_t value)
{
	struct ovm_image *image = load->image;
	switch (tag) {
	case DT_SYMTAB:
		dyn->symtab = value;
		break;
	case DT_STRTAB:
		dyn->strtab = value;
		break;
	case DT_STRSZ:
		dyn->strsz = value;
		break;
	case DT_HASH:
		dyn->hash = value;
		break;
	case DT_GNU_HASH:
		dyn->gnu_hash = value;
		break;
	case DT_RELA:
		dyn->rela = value;
		break;
	case DT_RELASZ:
		dyn->relasz = value;
		break;
	case DT_JMPREL:
		dyn->jmprel = value;
		break;
	case DT_PLTRELSZ:
		dyn->pltrelsz = value;
		break;
	case DT_RELR:
		dyn->relr = value;
		break;
	case DT_RELRSZ:
		dyn->relrsz = value;
		break;
	case DT_INIT:
		image->init = ovm_va_of(value);
		break;
	case DT_FINI:
		image->fini = ovm_va_of(value);
		break;
	case DT_BIND_NOW:
		image->bind_now = true;
		break;
	case DT_FLAGS:
		image->bind_now |= (value & DF_BIND_NOW) != 0;
		break;
	case DT_FLAGS_1:
		image->bind_now |= (value & DF_1_NOW) != 0;
		load->flags_1 = value;
		break;
	default:
		break;
	}
}

static int read_tags(struct ovm_image_load *load, struct dyn *dyn)
{
	const uint8_t *p = ovm_image_at(load->image, load->dynamic, load->dynamic_size);
	if (!p)
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: the dynamic section is not in the file", load->image->path);
	for (uint64_t at = 0; load->dynamic_size - at >= DYN; at += DYN) {
		int64_t tag = (int64_t)ovm_le64(p + at);
		if (tag == DT_NULL)
			break;
		read_tag(load, dyn, tag, ovm_le64(p + at + 8));
	}
	return 0;
}

/* --- .dynsym
 * -----------------------------------------------------------------------------------------------------
 */

static uint64_t room_at(const struct ovm_image *image, uint64_t va)
{
	const struct ovm_segment *seg = ovm_image_segment(image, ovm_va_of(va));
	if (!seg || va - seg->lo.v >= seg->filesz)
		return 0;
	return seg->filesz - (va - seg->lo.v);
}

/* header: nbuckets, symoffset, bloom words, shift; bloom (8 bytes a word); buckets; chains, the
 * last of each with bit 0 set */
static uint64_t count_gnu_hash(const struct ovm_image *image, uint64_t va)
{
	uint64_t room = room_at(image, va);
	if (room < 16)
		return 0;
	const uint8_t *p = ovm_image_at(image, ovm_va_of(va), room);
	uint64_t n_buckets = ovm_le32(p), first = ovm_le32(p + 4), n_bloom = ovm_le32(p + 8);
	uint64_t buckets = 16 + 8 * n_bloom, chains = buckets + 4 * n_buckets, last = 0;
	if (chains > room)
		return 0;
	for (uint64_t i = 0; i < n_buckets; i++) {
		uint64_t sym = ovm_le32(p + buckets + 4 * i);
		last = sym > last ? sym : last;
	}
	if (last < first)
		return first;
	for (;; last++) {
		uint64_t at = chains + 4 * (last - first);
		if (at + 4 > room)
			return 0;
		if (ovm_le32(p + at) & 1)
			return last + 1;
	}
}

static uint64_t count_dynsym(const struct ovm_image *image, const struct dyn *dyn)
{
	if (dyn->hash) {
		const uint8_t *p = ovm_image_at(image, ovm_va_of(dyn->hash), 8);
		return p ? ovm_le32(p + 4) : 0;
	}
	return dyn->gnu_hash ? count_gnu_hash(image, dyn->gnu_hash) : 0;
}

static void load_dynsym(struct ovm_image_load *load, const struct dyn *dyn)
{
	struct ovm_image *image = load->image;
	uint64_t room = room_at(image, dyn->symtab);
	uint64_t str_room = room_at(image, dyn->strtab);
	if (!dyn->symtab || room < SYM)
		return;
	load->dynsym = ovm_image_at(image, ovm_va_of(dyn->symtab), room);
	load->max_dynsym = room / SYM;
	load->n_dynsym = count_dynsym(image, dyn);
	if (load->n_dynsym > load->max_dynsym)
		load->n_dynsym = load->max_dynsym;
	if (dyn->strtab && str_room) {
		uint64_t n = dyn->strsz < str_room ? dyn->strsz : str_room;
		load->dynstr = ovm_strtab_of(ovm_image_at(image, ovm_va_of(dyn->strtab), n), n);
	}
	for (uint64_t i = 1; i < load->n_dynsym; i++) {
		Elf64_Sym sym;
		memcpy(&sym, load->dynsym + i * SYM, SYM);
		ovm_image_add_symbol(image, &sym, &load->dynstr, true);
	}
}

static const char *dynsym_name(const struct ovm_image_load *load, uint64_t idx)
{
	if (!idx || idx >= load->max_dynsym)
		return NULL;
	return ovm_strtab_get(&load->dynstr, ovm_le32(load->dynsym + idx * SYM));
}

/* --- relocations
 * -------------------------------------------------------------------------------------------------
 */

static int load_rela(struct ovm_image_load *load, uint64_t va, uint64_t size)
{
	struct ovm_image *image = load->image;
	const uint8_t *p = size ? ovm_image_at(image, ovm_va_of(va), size) : image->bytes;
	if (!p)
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: relocation table at 0x%lx is not in the file", image->path,
				(unsigned long)va);
	ovm_vec_reserve(&image->relocs, image->relocs.n + size / RELA);
	for (uint64_t at = 0; size - at >= RELA; at += RELA) {
		Elf64_Rela rela;
		memcpy(&rela, p + at, RELA);
		ovm_vec_push(&image->relocs,
			     (struct ovm_reloc){
				 .at = ovm_va_of(rela.r_offset),
				 .type = (uint32_t)ELF64_R_TYPE(rela.r_info),
				 .addend = rela.r_addend,
				 .symbol = dynsym_name(load, ELF64_R_SYM(rela.r_info)),
			     });
	}
	return 0;
}

/* One RELR place; they ascend, and each is a word of the file, which bounds how many a hostile
 * table can name. */
static int add_relr(struct ovm_image_load *load, uint64_t at, uint64_t *least)
{
	struct ovm_image *image = load->image;
	const uint8_t *word = at >= *least ? ovm_image_at(image, ovm_va_of(at), 8) : NULL;
	if (!word)
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: RELR entry for 0x%lx out of order or range", image->path,
				(unsigned long)at);
	ovm_vec_push(&image->relocs, (struct ovm_reloc){
					 .at = ovm_va_of(at),
					 .type = R_X86_64_RELATIVE,
					 .addend = (int64_t)ovm_le64(word),
				     });
	*least = at + 8;
	return 0;
}

/* An even word is an address to relocate; an odd one a bitmap of the 63 words that follow the last.
 */
static int load_relr(struct ovm_image_load *load, uint64_t va, uint64_t size)
{
	uint64_t where = 0, least = 0;
	const uint8_t *p =
	    size ? ovm_image_at(load->image, ovm_va_of(va), size) : load->image->bytes;
	if (!p)
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: RELR table at 0x%lx is not in the file", load->image->path,
				(unsigned long)va);
	for (uint64_t at = 0; size - at >= 8; at += 8) {
		uint64_t word = ovm_le64(p + at);
		int err = 0;
		if (!(word & 1)) {
			err = add_relr(load, word, &least);
			where = word + 8;
		} else {
			for (unsigned bit = 1; bit < 64 && !err; bit++) {
				if (word >> bit & 1)
					err = add_relr(load, where + 8 * (bit - 1), &least);
			}
			where += 63 * 8;
		}
		if (err)
			return err;
	}
	return 0;
}

static int by_at(const void *a, const void *b)
{
	uint64_t x = ((const struct ovm_reloc *)a)->at.v, y = ((const struct ovm_reloc *)b)->at.v;
	return (x > y) - (x < y);
}

/* Linkers write long sorted runs (RELATIVE first): find the runs, sort what is left, merge. */
static void sort_relocs(struct ovm_image *image)
{
	struct ovm_reloc *v = image->relocs.v;
	uint32_t n = image->relocs.n, run = 1, i = 0, j, k = 0;
	while (run < n && v[run - 1].at.v <= v[run].at.v)
		run++;
	if (run >= n)
		return;
	qsort(v + run, n - run, sizeof(*v), by_at);
	struct ovm_reloc *merged = ovm_alloc_array(n, sizeof(*v));
	for (j = run; i < run || j < n;)
		merged[k++] = j == n || (i < run && v[i].at.v <= v[j].at.v) ? v[i++] : v[j++];
	free(v);
	image->relocs.v = merged;
	image->relocs.cap = n;
}

int ovm_image_load_dynamic(struct ovm_image_load *load)
{
	struct dyn dyn = {0};
	if (!load->dynamic.v)
		return 0;
	int err = read_tags(load, &dyn);
	if (err)
		return err;
	load_dynsym(load, &dyn);
	err = load_rela(load, dyn.rela, dyn.rela ? dyn.relasz : 0);
	bool inside = dyn.jmprel - dyn.rela <
		      dyn.relasz; /* some linkers count the PLT's relocations in RELASZ too */
	if (!err && dyn.jmprel && !inside)
		err = load_rela(load, dyn.jmprel, dyn.pltrelsz);
	if (!err && dyn.relr)
		err = load_relr(load, dyn.relr, dyn.relrsz);
	if (!err)
		sort_relocs(load->image);
	return err;
}

const struct ovm_reloc *ovm_image_reloc(const struct ovm_image *image, ovm_va at)
{
	uint32_t lo = 0, hi = image->relocs.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (image->relocs.v[mid].at.v < at.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == image->relocs.n || image->relocs.v[lo].at.v != at.v)
		return NULL;
	return &image->relocs.v[lo];
}

const char *ovm_image_slot_symbol(const struct ovm_image *image, ovm_va slot)
{
	const struct ovm_reloc *reloc = ovm_image_reloc(image, slot);
	if (!reloc || (reloc->type != R_X86_64_JUMP_SLOT && reloc->type != R_X86_64_GLOB_DAT &&
		       reloc->type != R_X86_64_64))
		return NULL;
	return reloc->symbol;
}

/* --- PLT
 * -----------------------------------------------------------------------------------------------------------
 */

static bool is_padding(const uint8_t *p, uint64_t avail)
{
	return avail < 2 || (p[0] == 0x66 && p[1] == 0x90) || (p[0] == 0x0f && p[1] == 0x1f) ||
	       (p[0] == 0x66 && p[1] == 0x0f) || p[0] == 0x90 || p[0] == 0xcc;
}

/* The stub that begins at @p, if one does. @strict: nothing but the bytes says that this is a PLT.
 */
static bool stub_at(const struct ovm_image *image, const uint8_t *p, uint64_t avail, ovm_va va,
		    bool strict, struct ovm_plt *out)
{
	static const uint8_t endbr64[4] = {0xf3, 0x0f, 0x1e, 0xfa};
	uint64_t at = 0;
	if (avail >= 16 && !memcmp(p, endbr64, 4))
		at = 4;
	bool has_endbr = at;
	if (at && p[4] == 0x41 && p[5] == 0xbb)
		at += 6;
	if (at < avail && p[at] == 0xf2)
		at++;
	if (avail < at + 6 || p[at] != 0xff || p[at + 1] != 0x25)
		return false;
	int32_t disp = (int32_t)ovm_le32(p + at + 2);
	ovm_va slot = ovm_va_add(va, (int64_t)at + 6 + disp);
	const struct ovm_reloc *reloc = ovm_image_reloc(image, slot);
	if (!reloc)
		return false;
	bool is_jump_slot = reloc->type == R_X86_64_JUMP_SLOT;
	if (!is_jump_slot && reloc->type != R_X86_64_GLOB_DAT && reloc->type != R_X86_64_IRELATIVE)
		return false;
	if (strict && !is_jump_slot && !(has_endbr || is_padding(p + at + 6, avail - at - 6)))
		return false;
	*out = (struct ovm_plt){.stub = va, .slot = slot, .symbol = reloc->symbol};
	return true;
}

static void find_stubs(struct ovm_image *image, ovm_va lo, uint64_t size, bool strict)
{
	const uint8_t *p = ovm_image_code(image, lo, size);
	uint64_t at = -lo.v & 7;
	for (; p && at + 8 <= size; at += 8) {
		struct ovm_plt plt;
		uint32_t word = ovm_le32(p + at);
		bool maybe = (word & 0xffff) == 0x25ff || (word & 0xffffff) == 0x25fff2 ||
			     word == 0xfa1e0ff3;
		if (maybe &&
		    stub_at(image, p + at, size - at, ovm_va_add(lo, (int64_t)at), strict, &plt))
			ovm_vec_push(&image->plts, plt);
	}
}

static int by_stub(const void *a, const void *b)
{
	uint64_t x = ((const struct ovm_plt *)a)->stub.v, y = ((const struct ovm_plt *)b)->stub.v;
	return (x > y) - (x < y);
}

void ovm_image_find_plts(struct ovm_image_load *load)
{
	struct ovm_image *image = load->image;
	Elf64_Shdr sh;
	const char *name;
	if (!image->relocs.n)
		return;
	for (uint32_t i = 0; ovm_image_section(load, i, &sh, &name); i++) {
		if (!strncmp(name, ".plt", 4) || !strncmp(name, ".iplt", 5))
			find_stubs(image, ovm_va_of(sh.sh_addr), sh.sh_size, false);
	}
	for (uint32_t i = 0; !load->n_sections && i < image->segments.n; i++) {
		const struct ovm_segment *seg = &image->segments.v[i];
		if (seg->flags & PF_X)
			find_stubs(image, seg->lo, seg->filesz, true);
	}
	if (image->plts.n)
		qsort(image->plts.v, image->plts.n, sizeof(*image->plts.v), by_stub);
}

const struct ovm_plt *ovm_image_plt(const struct ovm_image *image, ovm_va stub)
{
	struct ovm_plt key = {.stub = stub};
	if (!image->plts.n)
		return NULL;
	return bsearch(&key, image->plts.v, image->plts.n, sizeof(key), by_stub);
}

bool ovm_image_relative(const struct ovm_image *image, ovm_va at, ovm_va *to)
{
	const struct ovm_reloc *reloc = ovm_image_reloc(image, at);
	if (!reloc || reloc->type != R_X86_64_RELATIVE)
		return false;
	*to = ovm_va_of((uint64_t)reloc->addend);
	return true;
}
