#ifndef OVM_SYM_ELF_H
#define OVM_SYM_ELF_H
/* A small ELF file in memory with .symtab and .eh_frame, for formats that name code by symbol:
 *
 *   +400 main        +440 work (p.c)   +450 work (q.c)   +460 "a b\c"   +470 "x\ny"   +480 an FDE
 *
 *   main+8   label inner           main+10  jne main       main+12  call work (p.c)
 *   main+17  jmp *%rax             main+19  nops up to 3f, ret
 */
#include "analyzer/image_private.h"
#include "tests/support/mini_elf.h"

enum {
	SYM_TEXT = 0x400,
	SYM_TEXT_SIZE = 0x100,
	SYM_TABLE = 0x600,
	SYM_STRINGS = 0x800,
	SYM_SECTIONS = 0xa00,
	SYM_EH_HDR = 0xc00,
	SYM_EH = 0xc10,
};

struct sym_table {
	struct mini *mini;
	uint32_t n, names;
};

static inline uint32_t sym_string(struct sym_table *t, const char *name)
{
	uint32_t at = t->names;
	mini_put(t->mini, SYM_STRINGS + at, name, strlen(name) + 1);
	t->names += (uint32_t)strlen(name) + 1;
	return at;
}

static inline void sym_add(struct sym_table *t, const char *name, uint8_t bind, uint8_t type,
			   uint64_t off, uint64_t size)
{
	Elf64_Sym sym = {
	    .st_name = sym_string(t, name),
	    .st_info = ELF64_ST_INFO(bind, type),
	    .st_shndx = type == STT_FILE ? SHN_ABS : 1,
	    .st_value = off ? MINI_VA + off : 0,
	    .st_size = size,
	};
	mini_put(t->mini, SYM_TABLE + t->n++ * sizeof(sym), &sym, sizeof(sym));
}

static inline void sym_sections(struct mini *mini, const struct sym_table *t)
{
	Elf64_Shdr sh[4] = {
	    [1] = {.sh_type = SHT_PROGBITS,
		   .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
		   .sh_addr = MINI_VA + SYM_TEXT,
		   .sh_offset = SYM_TEXT,
		   .sh_size = SYM_TEXT_SIZE},
	    [2] = {.sh_type = SHT_SYMTAB,
		   .sh_offset = SYM_TABLE,
		   .sh_size = t->n * sizeof(Elf64_Sym),
		   .sh_link = 3,
		   .sh_entsize = sizeof(Elf64_Sym)},
	    [3] = {.sh_type = SHT_STRTAB, .sh_offset = SYM_STRINGS, .sh_size = t->names},
	};
	mini_put(mini, SYM_SECTIONS, sh, sizeof(sh));
	Elf64_Ehdr ehdr;
	memcpy(&ehdr, mini->v, sizeof(ehdr));
	ehdr.e_shoff = SYM_SECTIONS;
	ehdr.e_shentsize = sizeof(Elf64_Shdr);
	ehdr.e_shnum = 4;
	ehdr.e_shstrndx = 3;
	memcpy(mini->v, &ehdr, sizeof(ehdr));
}

/* The image borrows @mini. */
static inline struct ovm_image *sym_elf_open(struct mini *mini)
{
	struct sym_table t = {mini, 0, 0};
	struct ovm_buf frame = {0};
	struct ovm_ctx ctx;
	struct ovm_image *image;
	static const uint8_t code[] = {0x75, 0xee, 0xe8, 0x29, 0, 0, 0, 0xff, 0xe0};
	mini_init(mini, 0);
	memset(mini->v + SYM_TEXT, 0x90, SYM_TEXT_SIZE);
	mini_put(mini, SYM_TEXT + 0x10, code, sizeof(code));
	for (int off = 0x3f; off < 0xa0; off += 0x10)
		mini->v[SYM_TEXT + off] = 0xc3;
	sym_add(&t, "", STB_LOCAL, STT_NOTYPE, 0, 0);
	sym_add(&t, "p.c", STB_LOCAL, STT_FILE, 0, 0);
	sym_add(&t, "work", STB_LOCAL, STT_FUNC, SYM_TEXT + 0x40, 0x10);
	sym_add(&t, "inner", STB_LOCAL, STT_NOTYPE, SYM_TEXT + 8, 0);
	sym_add(&t, "q.c", STB_LOCAL, STT_FILE, 0, 0);
	sym_add(&t, "work", STB_LOCAL, STT_FUNC, SYM_TEXT + 0x50, 0x10);
	sym_add(&t, "a b\\c", STB_GLOBAL, STT_FUNC, SYM_TEXT + 0x60, 0x10);
	sym_add(&t, "x\ny", STB_GLOBAL, STT_FUNC, SYM_TEXT + 0x70, 0x10);
	sym_add(&t, "main", STB_GLOBAL, STT_FUNC, SYM_TEXT, 0x40);
	sym_sections(mini, &t);
	mini_cie(&frame);
	mini_fde(&frame, SYM_EH, 0, SYM_TEXT, 0x40, NULL, 0);
	mini_fde(&frame, SYM_EH, 0, SYM_TEXT + 0x80, 0x20, NULL, 0);
	mini_eh_frame(mini, &frame, SYM_EH_HDR, SYM_EH);
	ovm_ctx_init(&ctx);
	OVM_ASSERT(!ovm_image_open_bytes(&ctx, mini->v, MINI_SIZE, "sym_elf", &image));
	return image;
}

#endif
