/* Compressed sections: what is not loaded may be kept compressed (SHF_COMPRESSED, gcc -gz), with a
 * header that says how and how long it was. Whoever continues such a section has to expand it
 * first, and writes it as it then is.
 *
 *   | ch_type | - | ch_size | ch_addralign | zlib or zstd stream |
 */
#include "rewriter/elf_private.h"

#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { MAX_RATIO = 1100, COMPRESS_ZSTD = 2 }; /* zlib's best is 1032; ELFCOMPRESS_ZSTD is new */

static bool expand_zlib(const uint8_t *p, uint64_t n, uint8_t *out, uint64_t size)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)p, .next_out = out};
	if (n > UINT32_MAX || size > UINT32_MAX || inflateInit(&z) != Z_OK)
		return false;
	z.avail_in = (uInt)n;
	z.avail_out = (uInt)size;
	int end = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return end == Z_STREAM_END && !z.avail_out;
}

bool ovm_elf_section_bytes(const struct ovm_elf_view *view, const Elf64_Shdr *sh,
			   struct ovm_elf_bytes *out)
{
	Elf64_Chdr ch;
	*out = (struct ovm_elf_bytes){.v = view->bytes + sh->sh_offset, .n = sh->sh_size};
	if (!(sh->sh_flags & SHF_COMPRESSED))
		return true;
	if (out->n < sizeof(ch))
		return false;
	memcpy(&ch, out->v, sizeof(ch));
	const uint8_t *p = out->v + sizeof(ch);
	uint64_t n = out->n - sizeof(ch);
	/* a size that nobody could have compressed so well is no reason to take the memory; zstd
	 * says it itself, too */
	if (ch.ch_size > INT32_MAX ||
	    (ch.ch_type == ELFCOMPRESS_ZLIB && ch.ch_size > n * MAX_RATIO + MAX_RATIO) ||
	    (ch.ch_type == COMPRESS_ZSTD && ZSTD_getFrameContentSize(p, n) != ch.ch_size))
		return false;
	ovm_buf_fill(&out->owned, 0, ch.ch_size);
	bool ok = ch.ch_type == ELFCOMPRESS_ZLIB ? expand_zlib(p, n, out->owned.v, ch.ch_size)
		  : ch.ch_type == COMPRESS_ZSTD
		      ? ZSTD_decompress(out->owned.v, ch.ch_size, p, n) == ch.ch_size
		      : false;
	out->v = out->owned.v;
	out->n = ch.ch_size;
	out->align = ch.ch_addralign;
	return ok;
}
