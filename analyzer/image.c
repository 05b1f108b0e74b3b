/* One ELF64 x86-64 file as the loader would see it.
 *
 * The file may be stripped to the bone (no section headers) and may be hostile. So: segments first,
 * everything else by address through them, and one rule: no byte is read before ovm_image_file or
 * ovm_image_at said that it is there.
 *
 *   file   |ehdr|phdrs|....text....|..rodata..|..data..|   sections, symtab (bonus)
 *                      \            \          \
 *   memory              R+X segment  R segment  RW segment (RELRO part read-only after start)
 *
 * Nothing is copied: names, code and tables point into the private mapping. Costs what the symbols
 * and relocations cost.
 */
#include "analyzer/image_private.h"
#include "analyzer/cfi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
	PIECE = 8 << 20, /* of a file that is read in passing */
	PAGE = 4096,
	BUILD_ID_MAX = 39, /* its hex form fits image->id */
};
#define VA_LIMIT (UINT64_C(1) << 47) /* user addresses are below */

const uint8_t *ovm_image_file(const struct ovm_image *image, uint64_t off, uint64_t len)
{
	if (off > image->size || len > image->size - off)
		return NULL;
	return image->bytes + off;
}

struct ovm_strtab ovm_strtab_of(const uint8_t *p, uint64_t n)
{
	const uint8_t *last = p && n ? memrchr(p, 0, n) : NULL;
	if (!last)
		return (struct ovm_strtab){0};
	return (struct ovm_strtab){(const char *)p, (uint64_t)(last - p) + 1};
}

const char *ovm_strtab_get(const struct ovm_strtab *strtab, uint64_t off)
{
	return off < strtab->n && strtab->v[off] ? strtab->v + off : NULL;
}

/* --- look-ups by address
 * ------------------------------------------------------------------------------------- */

const struct ovm_segment *ovm_image_segment(const struct ovm_image *image, ovm_va va)
{
	uint32_t lo = 0, hi = image->segments.n;
	while (lo < hi) { /* first segment that ends after va */
		uint32_t mid = lo + (hi - lo) / 2;
		if (image->segments.v[mid].hi.v <= va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == image->segments.n || va.v < image->segments.v[lo].lo.v)
		return NULL;
	return &image->segments.v[lo];
}

static const uint8_t *segment_bytes(const struct ovm_image *image, const struct ovm_segment *seg,
				    ovm_va va, uint64_t len)
{
	uint64_t at = va.v - seg->lo.v;
	if (at > seg->filesz || len > seg->filesz - at)
		return NULL;
	return image->bytes + seg->off.v + at;
}

const uint8_t *ovm_image_at(const struct ovm_image *image, ovm_va va, uint64_t len)
{
	const struct ovm_segment *seg = ovm_image_segment(image, va);
	return seg ? segment_bytes(image, seg, va, len) : NULL;
}

const uint8_t *ovm_image_code(const struct ovm_image *image, ovm_va va, uint64_t len)
{
	const struct ovm_segment *seg = ovm_image_segment(image, va);
	return seg && (seg->flags & PF_X) ? segment_bytes(image, seg, va, len) : NULL;
}

const uint8_t *ovm_image_readonly(const struct ovm_image *image, ovm_va va, uint64_t len)
{
	const struct ovm_segment *seg = ovm_image_segment(image, va);
	if (!seg)
		return NULL;
	if (seg->flags & PF_W) {
		if (!ovm_va_in(va, image->relro_lo, image->relro_hi) ||
		    len > image->relro_hi.v - va.v)
			return NULL;
	}
	return segment_bytes(image, seg, va, len);
}

bool ovm_image_va_to_off(const struct ovm_image *image, ovm_va va, ovm_off *out)
{
	const uint8_t *p = ovm_image_at(image, va, 1);
	if (!p)
		return false;
	*out = ovm_off_of((uint64_t)(p - image->bytes));
	return true;
}

/* --- ELF header
 * ------------------------------------------------------------------------------------------------
 */

static const char *machine_name(unsigned machine)
{
	switch (machine) {
	case EM_386:
		return "i386";
	case EM_ARM:
		return "arm";
	case EM_AARCH64:
		return "aarch64";
	case EM_RISCV:
		return "riscv";
	case EM_PPC64:
		return "ppc64";
	case EM_S390:
		return "s390";
	case EM_MIPS:
		return "mips";
	default:
		return NULL;
	}
}

static int check_machine(struct ovm_ctx *ctx, const char *name, unsigned machine)
{
	const char *what = machine_name(machine);
	if (machine == EM_X86_64)
		return 0;
	if (what)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: ELF for %s, optvm handles x86-64 only",
				name, what);
	return ovm_fail(ctx, OVM_E_FORMAT, "%s: ELF for machine %u, optvm handles x86-64 only",
			name, machine);
}

static int check_type(struct ovm_ctx *ctx, const char *name, unsigned type)
{
	switch (type) {
	case ET_EXEC:
	case ET_DYN:
		return 0;
	case ET_REL:
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: a relocatable object, link it first", name);
	case ET_CORE:
		return ovm_fail(ctx, OVM_E_FORMAT,
				"%s: a core file, give the program that dumped it", name);
	default:
		return ovm_fail(ctx, OVM_E_FORMAT,
				"%s: ELF type %u is neither executable nor shared library", name,
				type);
	}
}

static int check_header(struct ovm_image_load *load, Elf64_Ehdr *ehdr)
{
	struct ovm_ctx *ctx = load->ctx;
	const struct ovm_image *image = load->image;
	const char *name = image->path;
	const uint8_t *p = image->bytes;

	if (!image->size)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: empty file", name);
	if (image->size >= 2 && !memcmp(p, "#!", 2))
		return ovm_fail(ctx, OVM_E_FORMAT,
				"%s: a script, not an ELF file; give its interpreter", name);
	if (image->size < SELFMAG || memcmp(p, ELFMAG, SELFMAG))
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: not an ELF file", name);
	if (image->size < 20)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: ELF header truncated at %zu bytes", name,
				image->size);
	if (p[EI_DATA] != ELFDATA2LSB)
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: big-endian ELF, optvm handles x86-64 only",
				name);
	int err = check_machine(ctx, name, ovm_le16(p + 18));
	if (err)
		return err;
	if (p[EI_CLASS] != ELFCLASS64)
		return ovm_fail(ctx, OVM_E_FORMAT,
				"%s: 32-bit ELF, optvm handles 64-bit x86-64 only", name);
	if (image->size < sizeof(*ehdr))
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: ELF header truncated at %zu bytes", name,
				image->size);
	memcpy(ehdr, p, sizeof(*ehdr));
	return check_type(ctx, name, ehdr->e_type);
}

/* --- program headers
 * ------------------------------------------------------------------------------------------- */

static int add_segment(struct ovm_image_load *load, const Elf64_Phdr *ph)
{
	struct ovm_image *image = load->image;
	if (!ph->p_memsz)
		return 0;
	if (ph->p_filesz > ph->p_memsz)
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: segment at 0x%lx has more file than memory bytes", image->path,
				(unsigned long)ph->p_vaddr);
	if (!ovm_image_file(image, ph->p_offset, ph->p_filesz))
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: truncated: segment at 0x%lx ends after the file", image->path,
				(unsigned long)ph->p_vaddr);
	if (ph->p_vaddr >= VA_LIMIT || ph->p_memsz > VA_LIMIT - ph->p_vaddr)
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: segment at 0x%lx leaves the user address space", image->path,
				(unsigned long)ph->p_vaddr);
	ovm_vec_push(&image->segments, (struct ovm_segment){
					   .lo = ovm_va_of(ph->p_vaddr),
					   .hi = ovm_va_of(ph->p_vaddr + ph->p_memsz),
					   .off = ovm_off_of(ph->p_offset),
					   .filesz = ph->p_filesz,
					   .flags = ph->p_flags,
				       });
	return 0;
}

static void add_relro(struct ovm_image *image, const Elf64_Phdr *ph)
{
	if (ph->p_vaddr >= VA_LIMIT || ph->p_memsz > VA_LIMIT)
		return;
	/* the loader protects whole pages only, the last one rounded down */
	image->relro_lo = ovm_va_of(ph->p_vaddr);
	image->relro_hi = ovm_va_of((ph->p_vaddr + ph->p_memsz) & ~(uint64_t)(PAGE - 1));
	if (image->relro_hi.v < image->relro_lo.v)
		image->relro_hi = image->relro_lo;
}

static int add_phdr(struct ovm_image_load *load, const Elf64_Phdr *ph)
{
	struct ovm_image *image = load->image;
	switch (ph->p_type) {
	case PT_LOAD:
		return add_segment(load, ph);
	case PT_DYNAMIC:
		load->dynamic = ovm_va_of(ph->p_vaddr);
		load->dynamic_size = ph->p_filesz;
		return 0;
	case PT_INTERP:
		image->has_interp = true;
		return 0;
	case PT_GNU_RELRO:
		add_relro(image, ph);
		return 0;
	case PT_GNU_EH_FRAME:
		image->eh_frame_hdr = ovm_va_of(ph->p_vaddr);
		image->eh_frame_hdr_size = ph->p_filesz;
		return 0;
	default:
		return 0;
	}
}

static int by_lo(const void *a, const void *b)
{
	uint64_t x = ((const struct ovm_segment *)a)->lo.v,
		 y = ((const struct ovm_segment *)b)->lo.v;
	return (x > y) - (x < y);
}

static int check_segments(struct ovm_image_load *load)
{
	struct ovm_image *image = load->image;
	uint32_t n = image->segments.n;
	struct ovm_segment *v = image->segments.v;
	if (!n)
		return ovm_fail(load->ctx, OVM_E_FORMAT, "%s: no loadable segment", image->path);
	qsort(v, n, sizeof(*v), by_lo);
	for (uint32_t i = 1; i < n; i++) {
		if (v[i].lo.v < v[i - 1].hi.v)
			return ovm_fail(load->ctx, OVM_E_FORMAT,
					"%s: segments at 0x%lx and 0x%lx overlap", image->path,
					(unsigned long)v[i - 1].lo.v, (unsigned long)v[i].lo.v);
	}
	image->lo = v[0].lo;
	image->hi = v[n - 1].hi;
	return 0;
}

static int load_phdrs(struct ovm_image_load *load, const Elf64_Ehdr *ehdr)
{
	struct ovm_image *image = load->image;
	if (!ehdr->e_phnum)
		return ovm_fail(load->ctx, OVM_E_FORMAT, "%s: no program headers", image->path);
	if (ehdr->e_phentsize != sizeof(Elf64_Phdr))
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: program headers of %u bytes, expected 56", image->path,
				ehdr->e_phentsize);
	const uint8_t *p =
	    ovm_image_file(image, ehdr->e_phoff, (uint64_t)ehdr->e_phnum * sizeof(Elf64_Phdr));
	if (!p)
		return ovm_fail(load->ctx, OVM_E_FORMAT,
				"%s: truncated: program headers end after the file", image->path);
	for (uint32_t i = 0; i < ehdr->e_phnum; i++) {
		Elf64_Phdr ph;
		memcpy(&ph, p + (size_t)i * sizeof(ph), sizeof(ph));
		int err = add_phdr(load, &ph);
		if (err)
			return err;
	}
	return check_segments(load);
}

/* --- notes
 * -----------------------------------------------------------------------------------------------------
 */

static bool note_owner_is(const uint8_t *owner, uint64_t len, const char *what)
{
	return len >= strlen(what) && len <= strlen(what) + 4 && !memcmp(owner, what, strlen(what));
}

static void add_note(struct ovm_image *image, uint32_t type, const uint8_t *owner,
		     uint64_t owner_len, const uint8_t *desc, uint64_t desc_len)
{
	if (note_owner_is(owner, owner_len, "optvm"))
		image->is_processed = true;
	else if (note_owner_is(owner, owner_len, "Go"))
		image->runtimes |= OVM_RUNTIME_GO;
	else if (type == NT_GNU_BUILD_ID && note_owner_is(owner, owner_len, "GNU") &&
		 !image->build_id_len && desc_len && desc_len <= BUILD_ID_MAX) {
		memcpy(image->build_id, desc, desc_len);
		image->build_id_len = (uint32_t)desc_len;
		image->build_id_off = ovm_off_of((uint64_t)(desc - image->bytes));
	}
}

/* @align: 8 for the 8-byte aligned kind (.note.gnu.property), else 4. */
static void load_notes(struct ovm_image *image, const uint8_t *p, uint64_t len, uint64_t align)
{
	uint64_t at = 0;
	align = align == 8 ? 8 : 4;
	while (len - at >= 12) {
		uint64_t owner_len = ovm_le32(p + at), desc_len = ovm_le32(p + at + 4);
		uint32_t type = ovm_le32(p + at + 8);
		uint64_t owner = at + 12, desc = (owner + owner_len + align - 1) & ~(align - 1);
		if (desc > len || desc_len > len - desc)
			return;
		add_note(image, type, p + owner, owner_len, p + desc, desc_len);
		at = (desc + desc_len + align - 1) & ~(align - 1);
		if (at > len)
			return;
	}
}

static void load_all_notes(struct ovm_image *image, const Elf64_Ehdr *ehdr)
{
	for (uint32_t i = 0; i < ehdr->e_phnum; i++) {
		Elf64_Phdr ph;
		memcpy(&ph, image->bytes + ehdr->e_phoff + (size_t)i * sizeof(ph), sizeof(ph));
		if (ph.p_type != PT_NOTE)
			continue;
		const uint8_t *p = ovm_image_file(image, ph.p_offset, ph.p_filesz);
		if (p)
			load_notes(image, p, ph.p_filesz, ph.p_align);
	}
}

static void make_id(struct ovm_image *image)
{
	if (image->build_id_len) {
		for (uint32_t i = 0; i < image->build_id_len; i++)
			snprintf(image->id + 2 * i, 3, "%02x", image->build_id[i]);
		return;
	}
	uint64_t hash[2];
	ovm_image_hash(image, hash);
	snprintf(image->id, sizeof(image->id), "xxh3-%016llx%016llx", (unsigned long long)hash[1],
		 (unsigned long long)hash[0]);
}

/* --- unwind sections
 * ------------------------------------------------------------------------------------------- */

/* Bytes from @va to the end of the file-backed part of its segment. */
static uint64_t room_at(const struct ovm_image *image, ovm_va va)
{
	const struct ovm_segment *seg = ovm_image_segment(image, va);
	if (!seg || va.v - seg->lo.v >= seg->filesz)
		return 0;
	return seg->filesz - (va.v - seg->lo.v);
}

/* eh_frame_hdr: version 1, encoding of eh_frame_ptr, of fde_count, of the table; eh_frame_ptr; ...
 */
static void find_eh_frame(struct ovm_image_load *load)
{
	struct ovm_image *image = load->image;
	const uint8_t *hdr = NULL;
	uint64_t room = room_at(image, image->eh_frame_hdr), value;
	Elf64_Shdr sh;

	if (image->eh_frame_hdr_size > room)
		image->eh_frame_hdr_size = room;
	if (image->eh_frame_hdr_size >= 4)
		hdr = ovm_image_at(image, image->eh_frame_hdr, image->eh_frame_hdr_size);
	if (!hdr || hdr[0] != 1) {
		image->eh_frame_hdr = ovm_va_of(0);
		image->eh_frame_hdr_size = 0;
	} else {
		const uint8_t *p = hdr + 4;
		if (ovm_cfi_read_encoded(&p, hdr + image->eh_frame_hdr_size, hdr[1],
					 ovm_va_add(image->eh_frame_hdr, 4), image->eh_frame_hdr,
					 &value) &&
		    room_at(image, ovm_va_of(value)))
			image->eh_frame = ovm_va_of(value);
	}
	bool has_section = ovm_image_section_named(load, ".eh_frame", &sh);
	if (!image->eh_frame.v && has_section)
		image->eh_frame = ovm_va_of(sh.sh_addr);
	image->eh_frame_size = room_at(image, image->eh_frame);
	if (!image->eh_frame_size)
		image->eh_frame = ovm_va_of(0);
	else if (has_section && sh.sh_addr == image->eh_frame.v &&
		 sh.sh_size < image->eh_frame_size)
		image->eh_frame_size = sh.sh_size;
}

/* Where section @name is in memory; untouched if there is none or not all of it is in the file. */
static void find_section(const struct ovm_image_load *load, const char *name, ovm_va *va,
			 uint64_t *size)
{
	Elf64_Shdr sh;
	if (ovm_image_section_named(load, name, &sh) &&
	    ovm_image_at(load->image, ovm_va_of(sh.sh_addr), sh.sh_size)) {
		*va = ovm_va_of(sh.sh_addr);
		*size = sh.sh_size;
	}
}

/* --- open and close
 * -------------------------------------------------------------------------------------------- */

static int load_all(struct ovm_image_load *load)
{
	struct ovm_image *image = load->image;
	Elf64_Ehdr ehdr;
	Elf64_Shdr sh;
	int err = check_header(load, &ehdr);
	if (!err)
		err = load_phdrs(load, &ehdr);
	if (err)
		return err;
	image->is_dyn = ehdr.e_type == ET_DYN;
	image->entry = ovm_va_of(ehdr.e_entry);
	load_all_notes(image, &ehdr);
	ovm_image_load_sections(load);
	err = ovm_image_load_dynamic(load);
	if (err)
		return err;
	image->is_static = !load->dynamic.v || (!image->has_interp && (load->flags_1 & DF_1_PIE));
	if (ovm_image_section_named(load, ".note.optvm", &sh))
		image->is_processed = true;
	find_eh_frame(load);
	find_section(load, "__rseq_cs", &image->rseq_cs, &image->rseq_cs_size);
	find_section(load, "__rseq_cs_ptr_array", &image->rseq_ptrs, &image->rseq_ptrs_size);
	ovm_image_load_symtab(load);
	ovm_image_sort_symbols(image);
	ovm_image_load_probes(load);
	ovm_image_find_plts(load);
	ovm_image_detect_runtimes(load);
	make_id(image);
	return 0;
}

/* @is_mapped: @bytes are unmapped with the image, also if it cannot be opened. */
static int open_image(struct ovm_ctx *ctx, const uint8_t *bytes, size_t size, const char *name,
		      bool is_mapped, struct ovm_image **out)
{
	struct ovm_image *image = ovm_alloc(sizeof(*image));
	struct ovm_image_load load = {.ctx = ctx, .image = image};
	image->path = ovm_strdup(name);
	image->bytes = bytes;
	image->size = size;
	image->is_mapped = is_mapped;
	int err = load_all(&load);
	if (err)
		ovm_image_close(image);
	else
		*out = image;
	return err;
}

int ovm_image_open_bytes(struct ovm_ctx *ctx, const uint8_t *bytes, size_t size, const char *name,
			 struct ovm_image **out)
{
	return open_image(ctx, bytes, size, name, false, out);
}

/* Map the regular file @path; an empty one maps to NULL. */
static int map_file(struct ovm_ctx *ctx, const char *path, const uint8_t **bytes, size_t *size)
{
	struct stat st;
	int err = 0;
	int fd =
	    open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* NONBLOCK: a FIFO must not hang us */
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s", path);
	*bytes = NULL;
	*size = 0;
	if (fstat(fd, &st) < 0) {
		err = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s", path);
	} else if (!S_ISREG(st.st_mode)) {
		err = ovm_fail(ctx, OVM_E_FORMAT, "%s: %s, not an ELF file", path,
			       S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
	} else if (st.st_size) {
		void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED) {
			err = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: mmap", path);
		} else {
			*bytes = p;
			*size = (size_t)st.st_size;
		}
	}
	close(fd);
	return err;
}

int ovm_image_open(struct ovm_ctx *ctx, const char *path, struct ovm_image **out)
{
	const uint8_t *bytes;
	size_t size;
	int err = map_file(ctx, path, &bytes, &size);
	return err ? err : open_image(ctx, bytes, size, path, bytes != NULL, out);
}

/* --- reading all of it --- */

void ovm_image_release(const struct ovm_image *image, const uint8_t *bytes, uint64_t len)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), lo = (uintptr_t)bytes;
	uintptr_t begin = (uintptr_t)image->bytes, end = begin + image->size;
	if (!image->is_mapped || lo < begin || lo > end || len > end - lo)
		return;
	uintptr_t hi = lo + len == end ? lo + len : (lo + len) & ~(page - 1);
	lo = (lo + page - 1) & ~(page - 1);
	if (lo < hi)
		madvise((void *)lo, hi - lo, MADV_DONTNEED); /* advice: what stays does no harm */
}

void ovm_image_hash(const struct ovm_image *image, uint64_t hash[2])
{
	XXH3_state_t *state = XXH3_createState();
	if (!state || XXH3_128bits_reset(state) == XXH_ERROR)
		ovm_out_of_memory(1, sizeof(hash[0]));
	for (uint64_t at = 0; at < image->size; at += PIECE) {
		uint64_t len = image->size - at < PIECE ? image->size - at : PIECE;
		XXH3_128bits_update(state, image->bytes + at, (size_t)len);
		ovm_image_release(image, image->bytes + at, len);
	}
	XXH128_hash_t all = XXH3_128bits_digest(state);
	XXH3_freeState(state);
	hash[0] = all.low64;
	hash[1] = all.high64;
}

bool ovm_image_mentions(const struct ovm_image *image, const char *text)
{
	size_t n = strlen(text);
	bool found = false;
	for (uint32_t i = 0; i < image->segments.n && !found; i++) {
		const struct ovm_segment *seg = &image->segments.v[i];
		const uint8_t *bytes = ovm_image_at(image, seg->lo, seg->filesz);
		if (!bytes || (seg->flags & PF_W))
			continue;
		for (uint64_t at = 0; at < seg->filesz && !found; at += PIECE) {
			uint64_t rest = seg->filesz - at, len = rest < PIECE ? rest : PIECE;
			uint64_t more = rest - len < n - 1 ? rest - len : n - 1;
			found = memmem(bytes + at, len + more, text, n);
			ovm_image_release(image, bytes + at, len);
		}
	}
	return found;
}

void ovm_image_close(struct ovm_image *image)
{
	if (!image)
		return;
	if (image->is_mapped)
		munmap((void *)(uintptr_t)image->bytes, image->size);
	ovm_vec_free(&image->segments);
	ovm_vec_free(&image->symbols);
	ovm_vec_free(&image->relocs);
	ovm_vec_free(&image->plts);
	ovm_vec_free(&image->probes);
	ovm_arena_free(&image->arena);
	free(image->path);
	free(image);
}
