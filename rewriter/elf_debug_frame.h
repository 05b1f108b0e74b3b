#ifndef OVM_ELF_DEBUG_FRAME_H
#define OVM_ELF_DEBUG_FRAME_H
#include "rewriter/overlay.h"

/* The overlay's FDEs as .debug_frame records, appended to @out; the section starts at out->v +
 * @section. */
void ovm_elf_debug_frame(const struct ovm_overlay *overlay, size_t section, struct ovm_buf *out);

#endif
