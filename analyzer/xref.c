/* Who may enter these windows?
 *
 *   lo            lo+skip                  lo+skip+5
 *   | endbr64     | push %rbp | mov %rsp,%rbp ..|
 *   +-------------+-----x-----------x-----------+
 *
 * A jump written over the window destroys the instruction boundaries x inside, so nobody may arrive
 * there.
 *
 * A stripped file does not say where code begins or which data are pointers. So every byte position
 * of all code is read as if a direct branch or a RIP-relative lea stood there, and (in a file that
 * is never relocated) every byte position of everything as if it were a 32-bit address. What real
 * code does is a subset of that. The price is chance hits: for branches about one in some million
 * bytes of code, for addresses more (the last bytes of a string make good addresses), so those only
 * count where an instruction starts, and, found in code, where an instruction has an operand.
 *
 * Branches with an 8-bit distance would give a chance hit at each window. They come from nearby, so
 * the instructions there are decoded.
 *
 * Cost: 16 bytes at a time are asked whether an opcode or an address among the windows is there at
 * all; a target is looked up in a small bitmap (one bit for 64 bytes of code, fits the second-level
 * cache) before anything else.
 *
 * Not seen: a table of distances, in a region that is not copied, to a label within 5 bytes of
 * another region's start.
 */
#include "analyzer/xref.h"
#include "base/parallel.h"

#include <elf.h>
#include <emmintrin.h>
#include <stdlib.h>
#include <string.h>

enum {
	JMP_LEN = 5, /* what will be written */
	ENDBR_LEN = 4,
	GRANULE = 6,	      /* log2 of the bytes one filter bit stands for, at least */
	FILTER_LOG2_MAX = 23, /* bits in the filter, at most */
	STEP = 16,	      /* bytes that are looked at together */
	REL8_BEFORE = 128, /* where the opcode of a rel8 branch into a window may stand, before and
			      after its start */
	REL8_AFTER = 131,
	PART_BYTES = 4 << 10, /* are scanned by one worker at a time */
	GIVE_BACK = 1 << 20,  /* bytes without code that are given back together; a multiple */
};

enum how { HOW_BRANCH, HOW_LEA, HOW_POINTER, HOW_VALUE };

struct window {
	uint64_t lo, at; /* region start; first byte that would be overwritten */
	uint32_t starts; /* bit k: an instruction starts at at+k, 0 < k < 5 */
};

struct doubt { /* a value that may be a pointer into a window */
	uint32_t window;
	uint64_t from; /* where it stands */
};

struct scan {
	struct ovm_decoder *dec;
	const struct ovm_image *image;
	const struct ovm_regions *regions;
	struct ovm_cfg *const *cfg_of;
	struct ovm_xref *refs;
	struct window *windows; /* parallel to refs */
	uint32_t n;
	uint64_t lo, span; /* of all windows */
	unsigned shift;	   /* log2 of bytes a filter bit */
	uint64_t *filter;
	uint32_t decoded; /* region in insns, OVM_NONE */
	bool decoded_ok;
	ovm_insns insns;
	const struct ovm_cfg *last_cfg;
	bool last_unknown; /* whether last_cfg has a jump that may go anywhere */
};

struct part { /* of a segment */
	const struct scan *scan;
	const struct ovm_segment *seg;
	uint64_t first, n; /* bytes, from the segment's start */
	OVM_VEC(struct doubt) doubts;
};

/* --- instructions of any region
 * ------------------------------------------------------------------------------------- */

/* The instruction of @insns, ascending, that covers @va. */
static const struct ovm_insn *insn_at(const struct ovm_insn *insns, uint32_t n, uint64_t va)
{
	uint32_t lo = 0, hi = n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (insns[mid].va.v <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && va - insns[lo - 1].va.v < insns[lo - 1].len ? &insns[lo - 1] : NULL;
}

/* The instruction of region @idx that covers @va. False if its instructions are not known. */
static bool decoded_insn(struct scan *scan, uint32_t idx, uint64_t va, const struct ovm_insn **out)
{
	const struct ovm_region *region = &scan->regions->v.v[idx];
	const struct ovm_cfg *cfg = scan->cfg_of[idx];
	enum ovm_refusal why;
	if (cfg) {
		uint32_t bb = ovm_cfg_block_of(cfg, ovm_va_of(va));
		if (bb == OVM_NONE)
			return false;
		*out =
		    insn_at(cfg->insns + cfg->blocks[bb].first_insn, cfg->blocks[bb].n_insns, va);
		return true;
	}
	if (scan->decoded != idx) {
		scan->insns.n = 0;
		scan->decoded_ok = !ovm_decode_range(scan->dec, scan->image, region->lo, region->hi,
						     &scan->insns, &why);
		scan->decoded = idx;
	}
	if (scan->decoded_ok)
		*out = insn_at(scan->insns.v, scan->insns.n, va);
	return scan->decoded_ok;
}

/* --- a target is known
 * --------------------------------------------------------------------------------------------- */

static bool is_inside(const struct window *win, uint64_t va)
{
	return va > win->at && va < win->at + JMP_LEN;
}

/* May the 4 (or 8) bytes at @from be an operand? In code that decodes, only where an instruction
 * has one. */
static bool is_operand(struct scan *scan, uint64_t from)
{
	const struct ovm_insn *insn;
	uint32_t idx = ovm_region_find(scan->regions, ovm_va_of(from));
	if (idx == OVM_NONE || !decoded_insn(scan, idx, from, &insn) || !insn)
		return true;
	uint64_t at = from - insn->va.v;
	bool is_disp = insn->disp_len >= 4 && at == insn->disp_off;
	return is_disp || at + 4 == insn->len || at + 8 == insn->len;
}

/* The parts are scanned at the same time, and most of their hits say nothing new. */
static void set_flag(struct ovm_xref *ref, uint8_t flag)
{
	if (!(__atomic_load_n(&ref->flags, __ATOMIC_RELAXED) & flag))
		__atomic_fetch_or(&ref->flags, flag, __ATOMIC_RELAXED);
}

/* @from: where the reference stands, for HOW_VALUE. */
static void found(struct part *part, uint64_t target, enum how how, uint64_t from)
{
	const struct scan *scan = part->scan;
	uint32_t lo = 0, hi = scan->n;
	while (lo < hi) { /* first window beyond the target */
		uint32_t mid = lo + (hi - lo) / 2;
		if (scan->windows[mid].lo <= target)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return;
	const struct window *win = &scan->windows[lo - 1];
	struct ovm_xref *ref = &scan->refs[lo - 1];
	if (target == win->lo || target == win->at)
		set_flag(ref, how == HOW_BRANCH ? OVM_XREF_CALLED : OVM_XREF_ADDRESS);
	else if (is_inside(win, target) && how != HOW_VALUE)
		set_flag(ref, OVM_XREF_INSIDE);
	else if (is_inside(win, target) && (win->starts >> (target - win->at) & 1))
		ovm_vec_push(&part->doubts, ((struct doubt){lo - 1, from}));
}

static inline bool may_hit(const struct scan *scan, uint64_t target)
{
	uint64_t at = target - scan->lo;
	if (at >= scan->span)
		return false;
	at >>= scan->shift;
	return scan->filter[at >> 6] >> (at & 63) & 1;
}

static inline void meet(struct part *part, uint64_t target, enum how how)
{
	if (may_hit(part->scan, target))
		found(part, target, how, 0);
}

static void make_filter(struct scan *scan)
{
	scan->lo = scan->windows[0].lo;
	for (uint32_t i = 0; i < scan->n; i++) { /* not the last window's if ranges overlap */
		uint64_t span = scan->windows[i].at + JMP_LEN - scan->lo;
		scan->span = span > scan->span ? span : scan->span;
	}
	scan->shift = GRANULE;
	while (scan->span >> scan->shift >> FILTER_LOG2_MAX)
		scan->shift++;
	scan->filter = ovm_alloc_array((scan->span >> scan->shift) / 64 + 1, sizeof(uint64_t));
	for (uint32_t i = 0; i < scan->n; i++) {
		const struct window *win = &scan->windows[i];
		uint64_t first = (win->lo - scan->lo) >> scan->shift;
		uint64_t last = (win->at + JMP_LEN - 1 - scan->lo) >> scan->shift;
		for (uint64_t bit = first; bit <= last; bit++)
			scan->filter[bit >> 6] |= UINT64_C(1) << (bit & 63);
	}
}

/* --- the whole image
 * ------------------------------------------------------------------------------------------------
 */

static inline uint32_t load32(const uint8_t *p) /* ovm_le32 where a call would show */
{
	uint32_t x;
	memcpy(&x, p, sizeof(x));
	return x;
}

/* e8/e9 disp32; 0f 80..8f disp32; 8d modrm(rip) disp32. @n: bytes of the segment. */
static void scan_opcode(struct part *part, const uint8_t *p, uint64_t i, uint64_t n, uint64_t va)
{
	if (p[i] == 0xe8 || p[i] == 0xe9) {
		if (i + 5 <= n)
			meet(part, va + i + 5 + (uint64_t)(int32_t)load32(p + i + 1), HOW_BRANCH);
		return;
	}
	if (i + 6 > n)
		return;
	uint64_t target = va + i + 6 + (uint64_t)(int32_t)load32(p + i + 2);
	if (p[i] == 0x0f && (p[i + 1] & 0xf0) == 0x80)
		meet(part, target, HOW_BRANCH);
	else if (p[i] == 0x8d && (p[i + 1] & 0xc7) == 0x05)
		meet(part, target, HOW_LEA);
}

/* A bit for each of 16 bytes that may be an opcode of the above. */
static inline unsigned opcodes(const uint8_t *p)
{
	__m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
	__m128i branch = _mm_cmpeq_epi8(_mm_and_si128(bytes, _mm_set1_epi8((char)0xfe)),
					_mm_set1_epi8((char)0xe8));
	__m128i other = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x0f)),
				     _mm_cmpeq_epi8(bytes, _mm_set1_epi8((char)0x8d)));
	return (unsigned)_mm_movemask_epi8(_mm_or_si128(branch, other));
}

/* At any byte. */
static void scan_code(struct part *part, const uint8_t *p, uint64_t va)
{
	uint64_t i = part->first, end = i + part->n, n = part->seg->filesz;
	for (; i + STEP <= end; i += STEP)
		for (unsigned bits = opcodes(p + i); bits; bits &= bits - 1)
			scan_opcode(part, p, i + (unsigned)__builtin_ctz(bits), n, va);
	for (; i < end; i++)
		scan_opcode(part, p, i, n, va);
}

/* A bit for each of the 16 32-bit values from @p on, one at every byte, that lies in [lo, lo +
 * span). Reads 19 bytes. */
static inline unsigned nears(const uint8_t *p, uint32_t lo, uint32_t span)
{
	const __m128i sign = _mm_set1_epi32(INT32_MIN); /* compares are signed */
	const __m128i base = _mm_set1_epi32((int32_t)lo);
	const __m128i limit = _mm_xor_si128(_mm_set1_epi32((int32_t)span), sign);
	__m128i hit[4];
	for (unsigned k = 0; k < 4; k++) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + k));
		__m128i at = _mm_xor_si128(_mm_sub_epi32(v, base), sign);
		hit[k] = _mm_srli_epi32(_mm_cmplt_epi32(at, limit), 24); /* one byte a value */
	}
	__m128i bytes =
	    _mm_or_si128(_mm_or_si128(hit[0], _mm_slli_epi32(hit[1], 8)),
			 _mm_or_si128(_mm_slli_epi32(hit[2], 16), _mm_slli_epi32(hit[3], 24)));
	return (unsigned)_mm_movemask_epi8(bytes);
}

static inline void scan_value(struct part *part, uint64_t value, uint64_t va)
{
	if (may_hit(part->scan, value))
		found(part, value, HOW_VALUE, va);
}

static void scan_values(struct part *part, const uint8_t *p, uint64_t va)
{
	const struct scan *scan = part->scan;
	bool is_low = scan->lo + scan->span <= UINT32_MAX;
	uint64_t len = is_low ? 4 : 8, i = part->first, end = i + part->n, n = part->seg->filesz;
	for (; is_low && i + STEP <= end && i + STEP + len <= n; i += STEP)
		for (unsigned bits = nears(p + i, (uint32_t)scan->lo, (uint32_t)scan->span); bits;
		     bits &= bits - 1) {
			uint64_t at = i + (unsigned)__builtin_ctz(bits);
			scan_value(part, load32(p + at), va + at);
		}
	for (; i < end && i + len <= n; i++)
		scan_value(part, is_low ? load32(p + i) : ovm_le64(p + i), va + i);
}

/* Does any region reach into [@lo, @hi)? */
static bool has_regions(const struct ovm_regions *regions, uint64_t lo, uint64_t hi)
{
	uint32_t first = 0, end = regions->v.n;
	while (first < end) { /* the first that ends behind @lo */
		uint32_t mid = first + (end - first) / 2;
		if (regions->v.v[mid].hi.v <= lo)
			first = mid + 1;
		else
			end = mid;
	}
	return first < regions->v.n && regions->v.v[first].lo.v < hi;
}

/* Data are seldom read again. The parts before, of the same piece, have been scanned or soon are. */
static void give_back(const struct part *part)
{
	uint64_t end = part->first + part->n, first = (end - 1) / GIVE_BACK * GIVE_BACK;
	const struct ovm_segment *seg = part->seg;
	if (end % GIVE_BACK && end != seg->filesz)
		return;
	if (!has_regions(part->scan->regions, seg->lo.v + first, seg->lo.v + end))
		ovm_image_release(part->scan->image, part->scan->image->bytes + seg->off.v + first,
				  end - first);
}

static void scan_part(void *arg, uint32_t i)
{
	struct part *part = (struct part *)arg + i;
	const struct ovm_image *image = part->scan->image;
	const uint8_t *p = image->bytes + part->seg->off.v;
	if (part->seg->flags & PF_X)
		scan_code(part, p, part->seg->lo.v);
	if (!image->is_dyn)
		scan_values(part, p, part->seg->lo.v);
	give_back(part);
}

/* Decoding is the scanner's own: no part does it. */
static void settle_doubts(struct scan *scan, const struct part *part)
{
	for (uint32_t i = 0; i < part->doubts.n; i++) {
		struct ovm_xref *ref = &scan->refs[part->doubts.v[i].window];
		if (!(ref->flags & OVM_XREF_INSIDE) && is_operand(scan, part->doubts.v[i].from))
			ref->flags |= OVM_XREF_INSIDE;
	}
}

static void scan_segments(struct scan *scan)
{
	const struct ovm_image *image = scan->image;
	OVM_VEC(struct part) parts = {0};
	for (uint32_t i = 0; i < image->segments.n; i++) {
		const struct ovm_segment *seg = &image->segments.v[i];
		for (uint64_t at = 0; at < seg->filesz; at += PART_BYTES) {
			uint64_t left = seg->filesz - at;
			ovm_vec_push(&parts,
				     ((struct part){.scan = scan,
						    .seg = seg,
						    .first = at,
						    .n = left < PART_BYTES ? left : PART_BYTES}));
		}
	}
	ovm_parallel(parts.n, scan_part, parts.v);
	for (uint32_t i = 0; i < parts.n; i++) {
		settle_doubts(scan, &parts.v[i]);
		ovm_vec_free(&parts.v[i].doubts);
	}
	ovm_vec_free(&parts);
}

static void scan_records(struct scan *scan)
{
	const struct ovm_image *image = scan->image;
	struct part part = {.scan = scan};
	for (uint32_t i = 0; i < image->relocs.n; i++) {
		const struct ovm_reloc *reloc = &image->relocs.v[i];
		if (reloc->type == R_X86_64_RELATIVE || reloc->type == R_X86_64_IRELATIVE ||
		    reloc->type == R_X86_64_RELATIVE64)
			meet(&part, (uint64_t)reloc->addend, HOW_POINTER);
	}
	for (uint32_t i = 0; i < image->symbols.n; i++)
		meet(&part, image->symbols.v[i].va.v, HOW_POINTER);
	meet(&part, image->entry.v, HOW_POINTER);
	meet(&part, image->init.v, HOW_POINTER);
	meet(&part, image->fini.v, HOW_POINTER);
}

/* --- the instructions in a window
 * ----------------------------------------------------------------------------------- */

static void note_insn(const struct scan *scan, struct window *win, struct ovm_xref *ref,
		      const struct ovm_insn *insn)
{
	uint64_t va = insn->va.v, end = va + insn->len;
	const uint8_t *p = ovm_image_code(scan->image, insn->va, 1);
	if (is_inside(win, va))
		win->starts |= 1u << (va - win->at);
	/* hand-written code jumps over a lock prefix */
	if (p && *p == 0xf0 && is_inside(win, va + 1))
		win->starts |= 1u << (va + 1 - win->at);
	bool returns = insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_CALL_IND ||
		       insn->kind == OVM_INSN_SYSCALL;
	if (returns && is_inside(win, end))
		ref->flags |= OVM_XREF_NO_ROOM;
}

static void window_of_cfg(const struct scan *scan, struct window *win, struct ovm_xref *ref,
			  const struct ovm_cfg *cfg)
{
	uint32_t bb = ovm_cfg_block_at(cfg, ovm_va_of(win->lo));
	if (bb == OVM_NONE) {
		ref->flags |= OVM_XREF_NO_ROOM;
		return;
	}
	for (; bb < cfg->n_blocks && cfg->blocks[bb].region == ref->region; bb++) {
		const struct ovm_block *block = &cfg->blocks[bb];
		if (block->lo.v >= win->at + JMP_LEN)
			break;
		if (is_inside(win, block->lo.v))
			ref->flags |= OVM_XREF_NO_ROOM;
		for (uint32_t i = 0; i < block->n_insns; i++)
			note_insn(scan, win, ref, &cfg->insns[block->first_insn + i]);
	}
}

/* Without a graph: decode the window, ask the exception table for landing pads. */
static void window_of_bytes(const struct scan *scan, struct window *win, struct ovm_xref *ref)
{
	const struct ovm_region *region = &scan->regions->v.v[ref->region];
	struct ovm_lsda lsda;
	for (uint64_t va = win->lo; va < win->at + JMP_LEN;) {
		struct ovm_insn insn;
		uint64_t avail = region->hi.v - va;
		const uint8_t *p = ovm_image_code(scan->image, ovm_va_of(va), avail);
		unsigned len = p ? ovm_decode_one(scan->dec, p, avail, ovm_va_of(va), &insn) : 0;
		if (!len) {
			ref->flags |= OVM_XREF_NO_ROOM;
			return;
		}
		note_insn(scan, win, ref, &insn);
		va += len;
	}
	if (!region->lsda.v)
		return;
	if (ovm_lsda_parse(scan->image, region->lsda, region->lo, region->hi.v - region->lo.v,
			   &lsda)) {
		ref->flags |= OVM_XREF_NO_ROOM;
		return;
	}
	for (uint32_t i = 0; i < lsda.sites.n; i++) {
		if (lsda.sites.v[i].landing &&
		    is_inside(win, lsda.lp_start.v + lsda.sites.v[i].landing))
			ref->flags |= OVM_XREF_NO_ROOM;
	}
	ovm_lsda_fini(&lsda);
}

static void make_window(const struct scan *scan, uint32_t i)
{
	static const uint8_t endbr64[ENDBR_LEN] = {0xf3, 0x0f, 0x1e, 0xfa};
	struct ovm_xref *ref = &scan->refs[i];
	struct window *win = &scan->windows[i];
	const struct ovm_region *region = &scan->regions->v.v[ref->region];
	const struct ovm_cfg *cfg = scan->cfg_of[ref->region];
	const uint8_t *p = ovm_image_code(scan->image, region->lo, ENDBR_LEN);
	ref->skip = p && !memcmp(p, endbr64, ENDBR_LEN) ? ENDBR_LEN : 0;
	ref->flags = 0;
	*win = (struct window){.lo = region->lo.v, .at = region->lo.v + ref->skip};
	if (region->hi.v - region->lo.v < ref->skip + (uint64_t)JMP_LEN)
		ref->flags |= OVM_XREF_NO_ROOM;
	else if (cfg)
		window_of_cfg(scan, win, ref, cfg);
	else
		window_of_bytes(scan, win, ref);
}

/* A jump that is not understood may go to any instruction of its group. */
static bool has_unknown_jump(struct scan *scan, const struct ovm_cfg *cfg)
{
	if (cfg == scan->last_cfg)
		return scan->last_unknown;
	bool unknown = false;
	ovm_cfg_foreach_bb (cfg, bb) {
		uint32_t flags = cfg->blocks[bb].flags;
		if ((flags & OVM_BLOCK_UNKNOWN_JUMP) && !(flags & OVM_BLOCK_TAIL_CALL)) {
			unknown = true;
			break;
		}
	}
	scan->last_cfg = cfg;
	scan->last_unknown = unknown;
	return unknown;
}

static void check_unknown_jumps(struct scan *scan, uint32_t i)
{
	const struct ovm_cfg *cfg = scan->cfg_of[scan->refs[i].region];
	if (cfg && scan->windows[i].starts && has_unknown_jump(scan, cfg))
		scan->refs[i].flags |= OVM_XREF_INSIDE;
}

/* --- short branches
 * -------------------------------------------------------------------------------------------------
 */

static bool is_rel8_opcode(uint8_t op)
{
	return (op & 0xf0) == 0x70 || op == 0xeb || (op & 0xfc) == 0xe0;
}

/* Does the instruction whose last two bytes stand at @va branch to @target? In doubt, yes. */
static bool is_branch(struct scan *scan, uint64_t va, uint64_t target)
{
	const struct ovm_insn *insn;
	uint32_t idx = ovm_region_find(scan->regions, ovm_va_of(va));
	if (idx == OVM_NONE || !decoded_insn(scan, idx, va, &insn))
		return true;
	return insn && insn->va.v + insn->len == va + 2 && insn->target.v == target &&
	       (insn->kind == OVM_INSN_JMP || insn->kind == OVM_INSN_JCC ||
		insn->kind == OVM_INSN_JCXZ);
}

static void check_rel8(struct scan *scan, uint32_t i)
{
	const struct window *win = &scan->windows[i];
	const struct ovm_segment *seg = ovm_image_segment(scan->image, ovm_va_of(win->lo));
	if (!seg || !(seg->flags & PF_X))
		return;
	const uint8_t *p = scan->image->bytes + seg->off.v;
	uint64_t at = win->at - seg->lo.v, first = at > REL8_BEFORE ? at - REL8_BEFORE : 0;
	uint64_t end = at + REL8_AFTER + 1 < seg->filesz ? at + REL8_AFTER + 1 : seg->filesz;
	for (uint64_t k = first; k + 2 <= end; k++) {
		uint64_t target = seg->lo.v + k + 2 + (uint64_t)(int8_t)p[k + 1];
		if (!is_inside(win, target) || !is_rel8_opcode(p[k]))
			continue;
		if (is_branch(scan, seg->lo.v + k, target)) {
			scan->refs[i].flags |= OVM_XREF_INSIDE;
			return;
		}
	}
}

/* --- public
 * ----------------------------------------------------------------------------------------------------------
 */

void ovm_xref_scan(struct ovm_decoder *dec, const struct ovm_image *image,
		   const struct ovm_regions *regions, struct ovm_cfg *const *cfg_of,
		   struct ovm_xref *refs, uint32_t n)
{
	struct scan scan = {
	    .dec = dec, .image = image, .regions = regions, .cfg_of = cfg_of, .refs = refs, .n = n};
	if (!n)
		return;
	scan.decoded = OVM_NONE;
	scan.windows = ovm_alloc_array(n, sizeof(*scan.windows));
	for (uint32_t i = 0; i < n; i++) {
		OVM_ASSERT(!i || refs[i - 1].region < refs[i].region);
		make_window(&scan, i);
	}
	make_filter(&scan);
	scan_segments(&scan);
	scan_records(&scan);
	for (uint32_t i = 0; i < n; i++) {
		check_unknown_jumps(&scan, i);
		if (!(refs[i].flags & (OVM_XREF_NO_ROOM | OVM_XREF_INSIDE)))
			check_rel8(&scan, i);
	}
	free(scan.filter);
	free(scan.windows);
	ovm_vec_free(&scan.insns);
}
