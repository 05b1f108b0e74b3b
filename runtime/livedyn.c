/* Symbols of a module in a live process, without opening its file.
 *
 * The dynamic section, symbol and string tables and DT_GNU_HASH are all mapped: an export is found
 * as ld.so finds it, in three or four reads. The hash table leaves out undefined symbols, which
 * stand before the hashed ones: these are the imports.
 *
 *   .dynsym   0 | imports ...            | exports, ordered by hash bucket
 *              1                 symoffset
 *
 * ld.so has replaced the addresses in most dynamic sections by run-time ones, but not in all: what
 * is below the bias is still a link-time address. Every number read may be nonsense; sizes are
 * capped and failed reads end the search.
 */
#include "runtime/livedyn.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

enum {
	MAX_DYN = 512,
	MAX_IMPORTS = 1 << 16,
	MAX_CHAIN = 1 << 12,
	MAX_LINK_MAPS = 4096,
	NAME_MAX_ = 256,
};

static bool peek(const struct ovm_tracee *tracee, uint64_t at, void *to, size_t n)
{
	return ovm_mem_read(tracee, ovm_rta_of(at), to, n);
}

bool ovm_livedyn_open(const struct ovm_tracee *tracee, const struct ovm_live_module *module,
		      struct ovm_livedyn *out)
{
	*out = (struct ovm_livedyn){.tracee = tracee, .bias = module->bias};
	uint64_t n = module->dynamic_size / sizeof(Elf64_Dyn);
	uint64_t at = ovm_va_to_rta(module->dynamic, module->bias).v;
	for (uint64_t i = 0; module->dynamic.v && i < n && i < MAX_DYN; i++) {
		Elf64_Dyn dyn;
		if (!peek(tracee, at + i * sizeof(dyn), &dyn, sizeof(dyn)) || dyn.d_tag == DT_NULL)
			break;
		uint64_t value = dyn.d_un.d_val;
		uint64_t address = value < module->bias ? value + module->bias : value;
		switch (dyn.d_tag) {
		case DT_SYMTAB:
			out->symtab = address;
			break;
		case DT_STRTAB:
			out->strtab = address;
			break;
		case DT_STRSZ:
			out->strsz = value;
			break;
		case DT_GNU_HASH:
			out->gnu_hash = address;
			break;
		case DT_DEBUG:
			out->debug = value;
			break;
		}
	}
	return out->symtab && out->strtab && out->strsz;
}

/* Does the string at offset @off begin with / equal @name? */
static bool name_is(const struct ovm_livedyn *dyn, uint32_t off, const char *name, bool whole)
{
	char buf[NAME_MAX_];
	size_t n = strlen(name) + whole;
	if (n > sizeof(buf) || off >= dyn->strsz || dyn->strsz - off < n)
		return false;
	return peek(dyn->tracee, dyn->strtab + off, buf, n) && !memcmp(buf, name, n);
}

static uint32_t gnu_hash(const char *name)
{
	uint32_t h = 5381;
	for (; *name; name++)
		h = h * 33 + (uint8_t)*name;
	return h;
}

struct gnu_header {
	uint32_t n_buckets, symoffset, bloom_size, bloom_shift;
};

bool ovm_livedyn_export(const struct ovm_livedyn *dyn, const char *name, ovm_rta *at,
			uint64_t *size)
{
	struct gnu_header header;
	uint32_t hash = gnu_hash(name), idx, chain;
	if (!dyn->gnu_hash || !peek(dyn->tracee, dyn->gnu_hash, &header, sizeof(header)) ||
	    !header.n_buckets)
		return false;
	uint64_t buckets = dyn->gnu_hash + sizeof(header) + 8ull * header.bloom_size;
	uint64_t chains = buckets + 4ull * header.n_buckets;
	if (!peek(dyn->tracee, buckets + 4ull * (hash % header.n_buckets), &idx, 4) ||
	    idx < header.symoffset)
		return false;
	for (uint32_t n = 0; n < MAX_CHAIN; n++, idx++) {
		if (!peek(dyn->tracee, chains + 4ull * (idx - header.symoffset), &chain, 4))
			return false;
		Elf64_Sym sym;
		if ((chain | 1) == (hash | 1) &&
		    peek(dyn->tracee, dyn->symtab + (uint64_t)idx * sizeof(sym), &sym,
			 sizeof(sym)) &&
		    sym.st_shndx != SHN_UNDEF && ELF64_ST_TYPE(sym.st_info) == STT_FUNC &&
		    name_is(dyn, sym.st_name, name, true)) {
			*at = ovm_rta_of(sym.st_value + dyn->bias);
			*size = sym.st_size;
			return true;
		}
		if (chain & 1)
			return false;
	}
	return false;
}

bool ovm_livedyn_imports(const struct ovm_livedyn *dyn, const char *prefix, bool whole)
{
	struct gnu_header header;
	if (!dyn->gnu_hash || !peek(dyn->tracee, dyn->gnu_hash, &header, sizeof(header)))
		return false;
	uint32_t n = header.symoffset < MAX_IMPORTS ? header.symoffset : MAX_IMPORTS;
	Elf64_Sym *syms = ovm_alloc_array(n, sizeof(Elf64_Sym));
	bool found = false;
	if (peek(dyn->tracee, dyn->symtab, syms, n * sizeof(Elf64_Sym)))
		for (uint32_t i = 1; i < n && !found; i++)
			found = syms[i].st_shndx == SHN_UNDEF &&
				name_is(dyn, syms[i].st_name, prefix, whole);
	free(syms);
	return found;
}

/* The public head of glibc's struct link_map (link.h). */
struct link_map_head {
	uint64_t addr, name, ld, next, prev;
};

ovm_rta ovm_livedyn_link_map(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			     const struct ovm_live_module *module)
{
	uint64_t want_ld = ovm_va_to_rta(module->dynamic, module->bias).v;
	for (uint32_t m = 0; m < map->modules.n; m++) {
		struct ovm_livedyn exe;
		uint64_t at = 0; /* struct r_debug: int version; struct link_map *map; */
		if (!map->modules.v[m].is_exe ||
		    !ovm_livedyn_open(tracee, &map->modules.v[m], &exe) || !exe.debug ||
		    !peek(tracee, exe.debug + 8, &at, sizeof(at)))
			continue;
		struct link_map_head link;
		for (uint32_t n = 0; at && n < MAX_LINK_MAPS; n++, at = link.next) {
			if (!peek(tracee, at, &link, sizeof(link)))
				break;
			if (link.ld == want_ld && link.addr == module->bias)
				return ovm_rta_of(at);
		}
	}
	return ovm_rta_of(0);
}
