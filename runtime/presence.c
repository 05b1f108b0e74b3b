/* Plugins come and go. What is at an address now need not be what was there when its copies were
 * made:
 *
 *   dlopen a.so     7f10..000  a.so        copies of a.so, jumps into them
 *   dlclose         7f10..000  -           the jumps are gone with the code, the copies stay
 *   dlopen b.so     7f10..000  b.so        other file, other inode: seen in maps
 *   a.so built anew 7f10..000  a.so        other code under the same inode (`cp` writes into it)
 *
 * The last case looks the same in every respect, down to the first bytes of its functions, which
 * are mostly `push %rbp`: a jump of ours would fit, and lead to a copy of what is no more. But a
 * new file has another build-id, which stands in the first page with the program headers, and
 * nobody writes to that page. Its bytes are the print of the module.
 *
 * Limit: a file without build-id whose sections all have the same sizes and places as before, and
 * other code.
 */
#include "runtime/presence.h"

#include <xxhash.h>

enum { PRINT_BYTES = 4096 };

uint64_t ovm_module_print(const struct ovm_tracee *tracee, ovm_rta lo)
{
	uint8_t bytes[PRINT_BYTES];
	uint64_t print = 0;
	if (ovm_mem_read(tracee, lo, bytes, sizeof(bytes)))
		print = XXH3_64bits(bytes, sizeof(bytes)) | 1;
	return print;
}

bool ovm_module_is_there(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			 const struct ovm_live_module *module, uint64_t print)
{
	for (uint32_t i = 0; i < module->segments.n; i++) {
		const struct ovm_live_segment *s = &module->segments.v[i];
		ovm_rta lo = ovm_va_to_rta(s->va, module->bias);
		if (s->is_exec && !s->is_writable && s->filesz &&
		    !ovm_livemap_covers(map, lo, ovm_rta_of(lo.v + s->filesz),
					OVM_PROT_R | OVM_PROT_X, module->inode))
			return false;
	}
	return !print || ovm_module_print(tracee, module->lo) == print;
}
