/* Where an overlay may lie in somebody else's address space.
 *
 * Direct jumps and RIP-relative operands reach 2 GiB, and absolute ones of a fixed-address program
 * only the low 2 GiB. Within that reach the place must not be one that the program, the kernel or
 * ld.so will want later:
 *
 *   - right above a program's bss grows the brk heap             -> a PIE's overlay goes below it,
 * a fixed one's near 0x7fff0000
 *   - right below the libraries the kernel puts the next mmap    -> a library's overlay goes 1 GiB
 * below
 *   - below a stack it grows                                      -> a wide guard
 *
 * A place that is large enough begins a huge page if it can (hugepages.h).
 *
 * MAP_FIXED_NOREPLACE at the end makes a lost race harmless: nothing is mapped and the program
 * stays as it is. Memory is mapped readable and executable, and written only through /proc/PID/mem,
 * which also works where W^X is enforced.
 */
#include "runtime/codemem.h"
#include "base/fault.h"
#include "runtime/hugepages.h"

#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

enum { PAGE_SIZE_ = 4096 };

static const uint64_t ALIGN = 64 * 1024;
static const uint64_t GUARD = MIB;	       /* kept free on both sides */
static const uint64_t STACK_GUARD = 256 * MIB; /* below "[stack]" */
static const uint64_t HEAP_GUARD = 4 * GIB;    /* above "[heap]": brk */
static const uint64_t LIB_DISTANCE = GIB;      /* below a library: room for mmaps to come */
static const uint64_t REACH = 2 * GIB - 16 * MIB;
static const uint64_t LOWEST = 64 * MIB; /* well above vm.mmap_min_addr */
static const uint64_t FIXED_TOP = UINT64_C(0x7fff0000);

struct wish {
	uint64_t lo, hi; /* the overlay must lie in [lo, hi) */
	uint64_t want;	 /* best start */
};

static struct wish make_wish(const struct ovm_live_module *m, uint64_t size)
{
	struct wish w;
	w.lo = m->hi.v > REACH + LOWEST ? m->hi.v - REACH : LOWEST;
	w.hi = m->lo.v + REACH;
	if (!m->is_dyn) {
		w.hi = FIXED_TOP;
		w.want = FIXED_TOP - size;
	} else if (m->is_exe) {
		w.want = m->lo.v - size - GUARD;
	} else {
		w.want = m->lo.v - size - LIB_DISTANCE;
	}
	if (w.want > m->lo.v && m->is_dyn) /* wrapped */
		w.want = w.lo;
	return w;
}

/* The start in gap [lo, hi), a multiple of @align, nearest to the wish; 0 if it does not fit. */
static uint64_t fit(uint64_t lo, uint64_t hi, const struct wish *w, uint64_t size, uint64_t align)
{
	lo = (lo > w->lo ? lo : w->lo) + align - 1;
	lo &= ~(align - 1);
	hi = hi < w->hi ? hi : w->hi;
	if (hi < size || lo > hi - size)
		return 0;
	uint64_t start = w->want & ~(align - 1);
	uint64_t last = (hi - size) & ~(align - 1);
	if (last < lo)
		return 0;
	return start < lo ? lo : start > last ? last : start;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

/* End of what must stay free after @range. */
static uint64_t end_of(const struct ovm_livemap *map, uint32_t i, bool fixed)
{
	const struct ovm_live_range *range = &map->ranges.v[i];
	/* Below 2 GiB a fixed program's heap and its overlay share what there is: the wish is the
	 * far end of it. */
	uint64_t guard = !strcmp(range->path, "[heap]") && !fixed ? HEAP_GUARD : GUARD;
	return range->hi.v > UINT64_MAX - guard ? UINT64_MAX : range->hi.v + guard;
}

static uint64_t start_of(const struct ovm_live_range *range)
{
	uint64_t guard = !strcmp(range->path, "[stack]") ? STACK_GUARD : GUARD;
	return range->lo.v > guard ? range->lo.v - guard : 0;
}

static uint64_t place(const struct ovm_livemap *map, const struct ovm_live_module *module,
		      uint64_t size, uint64_t align)
{
	struct wish w = make_wish(module, size);
	uint64_t best = 0, lo = LOWEST;
	for (uint32_t i = 0; i <= map->ranges.n; i++) {
		uint64_t hi =
		    i < map->ranges.n ? start_of(&map->ranges.v[i]) : UINT64_C(0x7fffffff0000);
		uint64_t start = hi > lo ? fit(lo, hi, &w, size, align) : 0;
		if (start && (!best || distance(start, w.want) < distance(best, w.want)))
			best = start;
		if (i < map->ranges.n) {
			uint64_t end = end_of(map, i, !module->is_dyn);
			lo = end > lo ? end : lo;
		}
	}
	return best;
}

int ovm_codemem_place(struct ovm_ctx *ctx, struct ovm_livemap *map,
		      const struct ovm_live_module *module, uint64_t size, ovm_rta *out)
{
	size = (size + PAGE_SIZE_ - 1) & ~(uint64_t)(PAGE_SIZE_ - 1);
	uint64_t best = size >= OVM_HUGE_PAGE ? place(map, module, size, OVM_HUGE_PAGE) : 0;
	if (!best)
		best = place(map, module, size, ALIGN);
	if (!best) {
		ovm_fail(ctx, OVM_OK, "no free %llu KiB within 2 GiB of %s",
			 (unsigned long long)size / 1024, module->path);
		return OVM_REFUSED;
	}
	ovm_livemap_reserve(map, ovm_rta_of(best), ovm_rta_of(best + size));
	*out = ovm_rta_of(best);
	return 0;
}

int ovm_codemem_fill(struct ovm_ctx *ctx, const struct ovm_tracee *tracee, ovm_rta at,
		     const uint8_t *bytes, size_t n)
{
	enum { CHUNK = 65536 };
	uint8_t back[CHUNK];
	if (OVM_FAULT_FAILS(OVERLAY_FILL) || !ovm_mem_write(tracee, at, bytes, n))
		return ovm_fail(ctx, OVM_E_TARGET, "cannot write %zu bytes at 0x%llx of process %d",
				n, (unsigned long long)at.v, (int)tracee->pid);
	for (size_t i = 0; i < n; i += CHUNK) {
		size_t len = n - i < CHUNK ? n - i : CHUNK;
		if (!ovm_mem_read(tracee, ovm_rta_of(at.v + i), back, len) ||
		    memcmp(back, bytes + i, len) != 0)
			return ovm_fail(ctx, OVM_E_TARGET,
					"bytes written at 0x%llx of process %d do not read back",
					(unsigned long long)(at.v + i), (int)tracee->pid);
	}
	OVM_FAULT(OVERLAY_FILLED);
	return 0;
}
