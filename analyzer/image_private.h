#ifndef OVM_IMAGE_PRIVATE_H
#define OVM_IMAGE_PRIVATE_H
/* What the parts of the image loader share; nobody else includes this.
 *
 *   image.c       ELF header, segments, notes, look-ups
 *   image_dyn.c   dynamic section: .dynsym, relocations, PLT stubs
 *   symbols.c     section headers: .symtab, probes; language runtimes; symbol look-up
 *   boltnames.c   .symtab once more, in its own order and with source files
 */
#include "analyzer/image.h"

#include <elf.h>

struct ovm_strtab {
	const char *v; /* v[n-1] is NUL, so every offset below n is a string */
	uint64_t n;
};

struct ovm_image_load {
	struct ovm_ctx *ctx;
	struct ovm_image *image;
	const uint8_t *sections; /* e_shnum checked records of 64 bytes, NULL if there are none or
				    they are broken */
	uint32_t n_sections;
	struct ovm_strtab section_names;
	ovm_va dynamic; /* PT_DYNAMIC, 0 if none */
	uint64_t dynamic_size;
	const uint8_t *dynsym; /* records of 24 bytes */
	uint64_t n_dynsym; /* hashed ones; relocations may name later ones, which must be checked */
	uint64_t max_dynsym; /* what the segment has room for */
	struct ovm_strtab dynstr;
	uint64_t flags_1; /* DT_FLAGS_1 */
};

/* The bytes [off, off+len) of the file, NULL if they are not all there. */
const uint8_t *ovm_image_file(const struct ovm_image *image, uint64_t off, uint64_t len);

/* A string table cut back to its last NUL; empty if @p is NULL. */
struct ovm_strtab ovm_strtab_of(const uint8_t *p, uint64_t n);
const char *ovm_strtab_get(const struct ovm_strtab *strtab,
			   uint64_t off); /* NULL if outside or empty */

/* symbols.c. Section headers are a bonus: broken ones are ignored. False if there is no section
 * @idx. */
void ovm_image_load_sections(struct ovm_image_load *load);
bool ovm_image_section(const struct ovm_image_load *load, uint32_t idx, Elf64_Shdr *out,
		       const char **name);
bool ovm_image_section_named(const struct ovm_image_load *load, const char *name, Elf64_Shdr *out);
void ovm_image_add_symbol(struct ovm_image *image, const Elf64_Sym *sym,
			  const struct ovm_strtab *names, bool dynamic);
void ovm_image_load_symtab(struct ovm_image_load *load);
void ovm_image_load_probes(struct ovm_image_load *load);
void ovm_image_sort_symbols(struct ovm_image *image);
void ovm_image_detect_runtimes(struct ovm_image_load *load); /* after symbols are sorted */

/* image_dyn.c. Fail with OVM_E_FORMAT. */
int ovm_image_load_dynamic(struct ovm_image_load *load);
void ovm_image_find_plts(struct ovm_image_load *load); /* after relocations are sorted */

/* For tests and fuzzing: the image of @size bytes at @bytes, which stay the caller's and must
 * outlive it. */
int ovm_image_open_bytes(struct ovm_ctx *ctx, const uint8_t *bytes, size_t size, const char *name,
			 struct ovm_image **out);

#endif
