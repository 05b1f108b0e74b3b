/* What was appended to an ELF file: self-extracting archives, images of interpreters, scripts.
 *
 *   IN    | ELF file | appended |
 *   OUT   | ELF file | appended | segment | symbols, section headers | appended |
 *
 * ELF says nothing of it; programs find theirs from the end of the file (ZIP archives, dumped
 * cores), where the section headers end (AppImage), or at an offset they keep. So it stays where it
 * is and is repeated at the very end, right behind the section headers. Zero bytes are some
 * linker's padding.
 */
#include "rewriter/elf_private.h"

static void reach(uint64_t off, uint64_t len, uint64_t *end)
{
	if (off + len > *end)
		*end = off + len;
}

uint64_t ovm_elf_appended(const struct ovm_elf_view *view)
{
	const Elf64_Ehdr *eh = &view->ehdr;
	uint64_t end = eh->e_phoff + view->n_phdrs * sizeof(Elf64_Phdr);
	for (uint32_t i = 0; i < view->n_phdrs; i++)
		reach(view->phdrs[i].p_offset, view->phdrs[i].p_filesz, &end);
	for (uint32_t i = 1; i < view->n_shdrs; i++)
		if (view->shdrs[i].sh_type != SHT_NOBITS && view->shdrs[i].sh_type != SHT_NULL)
			reach(view->shdrs[i].sh_offset, view->shdrs[i].sh_size, &end);
	if (eh->e_shoff)
		reach(eh->e_shoff, (uint64_t)eh->e_shnum * eh->e_shentsize, &end);
	for (uint64_t at = end; at < view->size; at++)
		if (view->bytes[at])
			return view->size - end;
	return 0;
}
