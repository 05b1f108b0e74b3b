#ifndef OVM_MINI_ELF_H
#define OVM_MINI_ELF_H
/* Small ELF files in memory for tests: byte at file offset x stands at link-time address MINI_VA +
 * x. */
#include "base/vec.h"

#include <elf.h>
#include <string.h>

enum {
	MINI_SIZE = 0x4000,
	MINI_PHDRS = 8,	   /* room; unused ones are PT_NULL */
	MINI_DATA = 0x400, /* first free offset */
};
#define MINI_VA UINT64_C(0x400000)

struct mini {
	uint8_t v[MINI_SIZE];
	unsigned n_phdrs;
};

static inline void mini_put(struct mini *mini, size_t off, const void *p, size_t n)
{
	memcpy(mini->v + off, p, n);
}

static inline void mini_phdr(struct mini *mini, uint32_t type, uint32_t flags, uint64_t off,
			     uint64_t size)
{
	Elf64_Phdr ph = {
	    .p_type = type,
	    .p_flags = flags,
	    .p_offset = off,
	    .p_vaddr = MINI_VA + off,
	    .p_filesz = size,
	    .p_memsz = size,
	    .p_align = 1,
	};
	mini_put(mini, sizeof(Elf64_Ehdr) + mini->n_phdrs++ * sizeof(ph), &ph, sizeof(ph));
}

/* An executable, one R+X segment over the whole file. @is_dyn: ET_DYN, addresses start at MINI_VA
 * all the same. */
static inline void mini_init(struct mini *mini, int is_dyn)
{
	Elf64_Ehdr ehdr = {
	    .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	    .e_type = is_dyn ? ET_DYN : ET_EXEC,
	    .e_machine = EM_X86_64,
	    .e_version = EV_CURRENT,
	    .e_phoff = sizeof(ehdr),
	    .e_ehsize = sizeof(ehdr),
	    .e_phentsize = sizeof(Elf64_Phdr),
	    .e_phnum = MINI_PHDRS,
	};
	memset(mini, 0, sizeof(*mini));
	mini_put(mini, 0, &ehdr, sizeof(ehdr));
	mini_phdr(mini, PT_LOAD, PF_R | PF_X, 0, MINI_SIZE);
}

/* --- unwind records, appended to @buf, which will stand at offset @base of the file --- */

enum { MINI_CIE_BYTES = 24 };

/* "zR": code_align 1, data_align -8, ra 16, pcrel sdata4; def_cfa rsp+8; offset ra, -8. 24 bytes.
 */
static inline void mini_cie(struct ovm_buf *buf)
{
	static const uint8_t cie[MINI_CIE_BYTES] = {20,	  0,	0,   0, 0,    0,    0,	  0,
						    1,	  'z',	'R', 0, 1,    0x78, 0x10, 0x01,
						    0x1b, 0x0c, 7,   8, 0x90, 1,    0,	  0};
	ovm_buf_put(buf, cie, sizeof(cie));
}

static inline void mini_fde(struct ovm_buf *buf, uint64_t base, size_t cie, uint64_t code,
			    uint32_t size, const uint8_t *prog, size_t n)
{
	size_t start = buf->n;
	ovm_buf_u32(buf, 0);
	ovm_buf_u32(buf, (uint32_t)(buf->n - cie));
	ovm_buf_u32(buf, (uint32_t)(code - (base + buf->n)));
	ovm_buf_u32(buf, size);
	ovm_buf_u8(buf, 0);
	ovm_buf_put(buf, prog, n);
	ovm_buf_align(buf, 4, 0);
	ovm_put32(buf->v + start, (uint32_t)(buf->n - start - 4));
}

/* Puts @buf at @off with a header without table at @hdr. */
static inline void mini_eh_frame(struct mini *mini, struct ovm_buf *buf, uint64_t hdr, uint64_t off)
{
	uint8_t head[8] = {1, 0x1b, 0xff, 0xff};
	ovm_buf_u32(buf, 0);
	mini_put(mini, off, buf->v, buf->n);
	ovm_put32(head + 4, (uint32_t)(off - (hdr + 4)));
	mini_put(mini, hdr, head, sizeof(head));
	mini_phdr(mini, PT_GNU_EH_FRAME, PF_R, hdr, sizeof(head));
	ovm_buf_free(buf);
}

#endif
