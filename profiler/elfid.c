/* Who is this ELF file, and where do its bytes live?
 *
 * The analyzer reads whole images; the profiler only needs a name for a file that stays the same on
 * every machine (the build-id, or a hash of the content where the linker wrote none), and the
 * PT_LOAD table, because the kernel reports mappings as (address, file offset) while profiles speak
 * link-time addresses:
 *
 *   run-time address --mapping--> file offset --PT_LOAD--> link-time address
 *
 * Everything is read with pread into small buffers: a file may be huge, truncated, hostile or
 * change under our feet.
 */
#include "profiler/elfid.h"
#include "base/vec.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
	MAX_PHDRS = 4096,      /* real files have about a dozen */
	MAX_NOTES = 64 * 1024, /* bytes of one PT_NOTE that are looked at */
	MAX_BUILD_ID = 20,     /* bytes; what the kernel reports, and every linker's default */
	PAGE = 4096,
};

/* Read exactly @n bytes; false at end of file or on error. */
static bool read_at(int fd, void *to, size_t n, uint64_t off)
{
	uint8_t *p = to;
	if (off > INT64_MAX)
		return false;
	while (n) {
		ssize_t got = pread(fd, p, n, (off_t)off);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		p += got;
		off += (uint64_t)got;
		n -= (size_t)got;
	}
	return true;
}

void ovm_elfid_hex(const uint8_t *bytes, size_t n, char *hex)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < n; i++) {
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 15];
	}
	hex[2 * n] = 0;
}

/* Find NT_GNU_BUILD_ID among the notes at @notes. Note fields are padded to 4 bytes (8 in segments
 * aligned so, which hold no build-id). */
static bool find_build_id(const uint8_t *notes, size_t n, char *hex)
{
	size_t at = 0;
	while (n - at >= 12) {
		uint64_t name_len = ovm_le32(notes + at), desc_len = ovm_le32(notes + at + 4);
		uint32_t type = ovm_le32(notes + at + 8);
		uint64_t desc = at + 12 + ((name_len + 3) & ~3ull);
		uint64_t next = desc + ((desc_len + 3) & ~3ull);
		if (desc + desc_len > n)
			return false;
		if (type == NT_GNU_BUILD_ID && name_len == 4 &&
		    !memcmp(notes + at + 12, "GNU", 4) && desc_len >= 1 &&
		    desc_len <= MAX_BUILD_ID) {
			ovm_elfid_hex(notes + desc, desc_len, hex);
			return true;
		}
		if (next > n)
			return false;
		at = next;
	}
	return false;
}

static bool read_build_id(int fd, const Elf64_Phdr *phdr, char *hex)
{
	size_t n = phdr->p_filesz < MAX_NOTES ? phdr->p_filesz : MAX_NOTES;
	uint8_t *notes = ovm_alloc(n + 1);
	bool found = read_at(fd, notes, n, phdr->p_offset) && find_build_id(notes, n, hex);
	free(notes);
	return found;
}

/* "xxh3-" and 128 bits of hash over the whole content. Read in pieces: a mapping could fault if the
 * file shrinks. */
static bool hash_content(int fd, char *id)
{
	enum { PIECE = 1 << 18 };
	XXH3_state_t *state = XXH3_createState();
	uint8_t *piece = ovm_alloc(PIECE);
	bool ok = state && XXH3_128bits_reset(state) == XXH_OK;
	for (off_t off = 0; ok;) {
		ssize_t got = pread(fd, piece, PIECE, off);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			ok = false;
		if (got <= 0)
			break;
		XXH3_128bits_update(state, piece, (size_t)got);
		off += got;
	}
	if (ok) {
		XXH128_canonical_t hash;
		XXH128_canonicalFromHash(&hash, XXH3_128bits_digest(state));
		memcpy(id, "xxh3-", 5);
		ovm_elfid_hex(hash.digest, sizeof(hash.digest), id + 5);
	}
	free(piece);
	XXH3_freeState(state);
	return ok;
}

static bool is_x86_64(const Elf64_Ehdr *ehdr)
{
	return !memcmp(ehdr->e_ident, ELFMAG, SELFMAG) && ehdr->e_ident[EI_CLASS] == ELFCLASS64 &&
	       ehdr->e_ident[EI_DATA] == ELFDATA2LSB && ehdr->e_machine == EM_X86_64 &&
	       (ehdr->e_type == ET_EXEC || ehdr->e_type == ET_DYN) &&
	       ehdr->e_phentsize == sizeof(Elf64_Phdr) && ehdr->e_phnum > 0 &&
	       ehdr->e_phnum <= MAX_PHDRS;
}

static void add_load(struct ovm_elfid *id, const Elf64_Phdr *phdr)
{
	id->loads[id->n_loads++] = (struct ovm_elfid_load){
	    .off = ovm_off_of(phdr->p_offset),
	    .filesz = phdr->p_filesz,
	    .va = ovm_va_of(phdr->p_vaddr),
	    .is_exec = (phdr->p_flags & PF_X) != 0,
	};
}

int ovm_elfid_read(struct ovm_ctx *ctx, int fd, const char *name, struct ovm_elfid *out)
{
	struct ovm_elfid id = {0};
	Elf64_Ehdr ehdr;
	Elf64_Phdr *phdrs = NULL;
	int rc;

	if (!read_at(fd, &ehdr, sizeof(ehdr), 0) || !is_x86_64(&ehdr))
		return ovm_fail(ctx, OVM_E_FORMAT, "%s: not an ELF64 x86-64 program or library",
				name);
	phdrs = ovm_alloc_array(ehdr.e_phnum, sizeof(*phdrs));
	id.loads = ovm_alloc_array(ehdr.e_phnum, sizeof(*id.loads));
	if (!read_at(fd, phdrs, ehdr.e_phnum * sizeof(*phdrs), ehdr.e_phoff)) {
		rc = ovm_fail(ctx, OVM_E_FORMAT, "%s: program headers lie outside the file", name);
		goto out;
	}
	for (uint32_t i = 0; i < ehdr.e_phnum; i++) {
		if (phdrs[i].p_type == PT_NOTE && !id.has_build_id)
			id.has_build_id = read_build_id(fd, &phdrs[i], id.id);
		/* offsets near 2^64 would wrap below; no file has them */
		if (phdrs[i].p_type == PT_LOAD && phdrs[i].p_offset <= INT64_MAX &&
		    phdrs[i].p_filesz <= INT64_MAX - PAGE)
			add_load(&id, &phdrs[i]);
	}
	if (!id.has_build_id && !hash_content(fd, id.id)) {
		rc = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s", name);
		goto out;
	}
	*out = id;
	id.loads = NULL;
	rc = OVM_OK;
out:
	free(phdrs);
	free(id.loads);
	return rc;
}

void ovm_elfid_fini(struct ovm_elfid *id)
{
	free(id->loads);
	memset(id, 0, sizeof(*id));
}

bool ovm_elfid_va(const struct ovm_elfid *id, ovm_off off, ovm_va *va)
{
	const struct ovm_elfid_load *best = NULL;
	int best_rank = 0;
	for (uint32_t i = 0; i < id->n_loads; i++) {
		const struct ovm_elfid_load *load = &id->loads[i];
		uint64_t lo = load->off.v & ~(uint64_t)(PAGE - 1);
		uint64_t hi = (load->off.v + load->filesz + PAGE - 1) & ~(uint64_t)(PAGE - 1);
		if (!load->filesz || off.v < lo || off.v >= hi)
			continue;
		bool is_inside = off.v >= load->off.v && off.v - load->off.v < load->filesz;
		int rank = 1 + 2 * load->is_exec + is_inside;
		if (rank > best_rank) {
			best = load;
			best_rank = rank;
		}
	}
	if (!best)
		return false;
	*va = ovm_va_add(best->va, (int64_t)(off.v - best->off.v));
	return true;
}
