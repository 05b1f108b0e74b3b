#ifndef OVM_BY_HAND_H
#define OVM_BY_HAND_H
/* Overlays written by hand for the checker: a few bytes of original code at OLD, a few of an
 * overlay at NEW, the map, and what must be said of them. There is no unwind data unless a test
 * writes some, so what is right is told by the checker getting as far as missing that.
 */
#include "rewriter/check.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>

enum {
	OLD = 0x1000,
	NEW = 0x100000,
	COUNTERS = 0x200000,
	SIZE = 0x100,
	NEW_SIZE = 0x1000,
	CODE_END = 0x800,
	MAX = 256
};
enum { SYNTH = OVM_MAP_SYNTH, PAD = OVM_MAP_SYNTH | OVM_MAP_PAD, CALL = OVM_MAP_CALL };

static struct {
	struct ovm_ctx ctx;
	struct ovm_image image;
	struct ovm_segment segment;
	struct ovm_regions regions;
	struct ovm_overlay overlay;
	struct ovm_map_entry entries[MAX];
	struct ovm_table_copy tables[MAX];
	uint8_t old[SIZE], new[NEW_SIZE];
	struct ovm_check_result result;
} it;

static inline void begin(void)
{
	memset(&it, 0, sizeof(it));
	ovm_ctx_init(&it.ctx);
	it.segment = (struct ovm_segment){{OLD}, {OLD + SIZE}, {0}, SIZE, PF_R | PF_X};
	it.image =
	    (struct ovm_image){.bytes = it.old, .size = SIZE, .lo = {OLD}, .hi = {OLD + SIZE}};
	it.image.segments.v = &it.segment;
	it.image.segments.n = 1;
	it.overlay = (struct ovm_overlay){.base = {NEW}, .bytes = it.new, .size = NEW_SIZE};
	it.overlay.sections[OVM_SECTION_HOT] = (struct ovm_section){0, CODE_END};
	it.overlay.sections[OVM_SECTION_COLD] = (struct ovm_section){64, 32};
	it.overlay.map.v.v = it.entries;
	it.overlay.tables.v = it.tables;
	memset(it.old, 0xc3, SIZE);
	memset(it.new, 0xc3, NEW_SIZE);
}

static inline void put(uint8_t *to, const char *hex)
{
	unsigned byte;
	for (int n; sscanf(hex, "%2x%n", &byte, &n) == 1; hex += n)
		*to++ = (uint8_t)byte;
}

static inline void old(unsigned off, const char *hex)
{
	put(it.old + off, hex);
}

static inline void new (unsigned off, const char *hex)
{
	put(it.new + off, hex);
}

/* Opcode bytes @hex, then a rel32 to @target; of the overlay at @off. */
static inline void branch(unsigned off, const char *hex, uint64_t target)
{
	unsigned len = ((unsigned)strlen(hex) + 1) / 3;
	new (off, hex);
	ovm_put32(it.new + off + len, (uint32_t)(target - (NEW + off + len + 4)));
}

static inline void entry(unsigned off, uint64_t at, unsigned new_len, unsigned old_len,
			 unsigned flags)
{
	it.entries[it.overlay.map.v.n++] = (struct ovm_map_entry){
	    ovm_va_of(OLD + at), off, (uint8_t)new_len, (uint8_t)old_len, (uint16_t)flags};
}

/* NULL: all pairs and tables are right. */
static inline void expect_at(int line, const char *reason)
{
	const char *want = reason ? reason : ".eh_frame does not end where it should";
	int err = ovm_check(&it.ctx, &it.image, &it.regions, &it.overlay, &it.result);
	if (!err || strcmp(it.result.reason, want))
		fail_msg("line %d: %s", line, it.result.reason);
}
#define expect(reason) expect_at(__LINE__, reason)

#endif
