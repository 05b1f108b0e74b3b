/* The ELF file that gives gdb names and unwind data of live copies:
 *
 *   .text .text ...   NOBITS, one an overlay, at its run-time address: the code itself is in the
 * process .debug_frame      gdb looks for it by name; starts are absolute, so one serves all
 * overlays .symtab .strtab .shstrtab
 *
 * ET_EXEC: its addresses are final. All symbols are local.
 */
#include "runtime/names.h"

#include <elf.h>
#include <string.h>

static const char section_names[] = "\0.text\0.debug_frame\0.symtab\0.strtab\0.shstrtab";
enum { NAME_TEXT = 1, NAME_FRAME = 7, NAME_SYMTAB = 20, NAME_STRTAB = 28, NAME_SHSTRTAB = 36 };

static void put_section(struct ovm_buf *headers, Elf64_Shdr sh)
{
	ovm_buf_put(headers, &sh, sizeof(sh));
}

static void put_texts(const struct ovm_names *names, struct ovm_buf *headers)
{
	for (uint32_t i = 0; i < names->v.n; i++)
		put_section(headers, (Elf64_Shdr){.sh_name = NAME_TEXT,
						  .sh_type = SHT_NOBITS,
						  .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
						  .sh_addr = names->v.v[i].at.v,
						  .sh_offset = sizeof(Elf64_Ehdr),
						  .sh_size = names->v.v[i].size,
						  .sh_addralign = 64});
}

void ovm_names_elf(const struct ovm_names *names, struct ovm_buf *out)
{
	struct ovm_buf headers = {0};
	size_t start = out->n, at;
	ovm_buf_fill(out, 0, sizeof(Elf64_Ehdr));
	put_section(&headers, (Elf64_Shdr){0});
	put_texts(names, &headers);
	at = out->n - start;
	ovm_buf_put(out, names->frames.v, names->frames.n);
	put_section(&headers, (Elf64_Shdr){.sh_name = NAME_FRAME,
					   .sh_type = SHT_PROGBITS,
					   .sh_offset = at,
					   .sh_size = out->n - start - at,
					   .sh_addralign = 8});
	ovm_buf_align(out, 8, 0);
	at = out->n - start;
	ovm_buf_fill(out, 0, sizeof(Elf64_Sym));
	for (uint32_t i = 0; i < names->v.n; i++)
		ovm_buf_put(out, names->v.v[i].symbols.v, names->v.v[i].symbols.n);
	uint64_t symtab_size = out->n - start - at;
	uint32_t symtab = (uint32_t)(headers.n / sizeof(Elf64_Shdr));
	put_section(&headers, (Elf64_Shdr){.sh_name = NAME_SYMTAB,
					   .sh_type = SHT_SYMTAB,
					   .sh_offset = at,
					   .sh_size = symtab_size,
					   .sh_link = symtab + 1,
					   .sh_info = (uint32_t)(symtab_size / sizeof(Elf64_Sym)),
					   .sh_addralign = 8,
					   .sh_entsize = sizeof(Elf64_Sym)});
	at = out->n - start;
	ovm_buf_put(out, names->strings.v, names->strings.n);
	put_section(&headers, (Elf64_Shdr){.sh_name = NAME_STRTAB,
					   .sh_type = SHT_STRTAB,
					   .sh_offset = at,
					   .sh_size = names->strings.n,
					   .sh_addralign = 1});
	at = out->n - start;
	ovm_buf_put(out, section_names, sizeof(section_names));
	put_section(&headers, (Elf64_Shdr){.sh_name = NAME_SHSTRTAB,
					   .sh_type = SHT_STRTAB,
					   .sh_offset = at,
					   .sh_size = sizeof(section_names),
					   .sh_addralign = 1});
	ovm_buf_align(out, 8, 0);
	uint16_t n_headers = (uint16_t)(headers.n / sizeof(Elf64_Shdr));
	Elf64_Ehdr ehdr = {
	    .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	    .e_type = ET_EXEC,
	    .e_machine = EM_X86_64,
	    .e_version = EV_CURRENT,
	    .e_shoff = out->n - start,
	    .e_ehsize = sizeof(Elf64_Ehdr),
	    .e_shentsize = sizeof(Elf64_Shdr),
	    .e_shnum = n_headers,
	    .e_shstrndx = (uint16_t)(n_headers - 1)};
	memcpy(out->v + start, &ehdr, sizeof(ehdr));
	ovm_buf_put(out, headers.v, headers.n);
	ovm_buf_free(&headers);
}
