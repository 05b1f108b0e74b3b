/* Unwinding through memory that ld.so does not know.
 *
 * When an exception, backtrace() or pthread_cancel meets a return address, libgcc asks glibc's
 * _dl_find_object which object it belongs to, and gets that object's .eh_frame_hdr. Our overlays
 * belong to no object: the answer would be "none", and a throw would end in std::terminate.
 * Registering unwind tables by a call inside the target takes locks that a stopped thread may hold.
 * So the question itself is answered in front of glibc, by a stub without locks, memory or state:
 *
 *   _dl_find_object:  jmp stub                     stub:  for each entry of the table
 *                     (rest of the function)                  if lo <= pc < hi: fill *result,
 * return 0 displaced instructions; jmp back
 *
 * One place serves every unwinder there is on a system with glibc >= 2.35: libgcc_s, also when it
 * is loaded much later (C programs, on the first backtrace() or cancellation), and copies of libgcc
 * linked into programs, because all of them import this symbol. An unwinder that walks
 * dl_iterate_phdr instead (LLVM's, nongnu's, an old libgcc) would still be blind: if one is mapped,
 * or if the symbol is missing (older glibc, static programs), we refuse and only leaf code is
 * overlaid.
 *
 * The stub's page also holds unwind data for the stub, so that a profiler's signal handler can
 * unwind from there. The jump is written before any code is redirected. Later overlays get further
 * entries while the program runs: first the entry, then the count that makes it visible, both
 * before anything leads to the overlay.
 */
#define OVM_LOG_DOMAIN "unwindhook"
#include "runtime/unwindhook.h"
#include "analyzer/region.h"
#include "base/fault.h"
#include "base/log.h"

#include <string.h>

enum { /* layout of the page */
       AT_COUNT = 0x200,
       AT_TABLE = 0x208,
       AT_HDR = 0x1700,
       AT_EH_FRAME = 0x1720,
       JUMP_LEN = 5,
       FRAME_LEN = 0x50,
};

_Static_assert(AT_TABLE + OVM_UNWINDHOOK_MAX * 32 <= AT_HDR,
	       "the table ends before the unwind data");

static const uint8_t stub_code[] = {
    0x4c, 0x8d, 0x15, 0x01, 0x02, 0x00, 0x00, /* lea table(%rip),%r10 */
    0x8b, 0x0d, 0xf3, 0x01, 0x00, 0x00,	      /* mov count(%rip),%ecx */
    0x85, 0xc9,				      /* next: test %ecx,%ecx */
    0x74, 0x38,				      /* je miss */
    0x49, 0x3b, 0x3a,			      /* cmp (%r10),%rdi          pc < lo? */
    0x72, 0x06,				      /* jb other */
    0x49, 0x3b, 0x7a, 0x08,		      /* cmp 8(%r10),%rdi         pc < hi? */
    0x72, 0x08,				      /* jb hit */
    0x49, 0x83, 0xc2, 0x20,		      /* other: add $32,%r10 */
    0xff, 0xc9,				      /* dec %ecx */
    0xeb, 0xe9,				      /* jmp next */
    0x31, 0xc0,				      /* hit: xor %eax,%eax */
    0x48, 0x89, 0x06,			      /* mov %rax,(%rsi)          dlfo_flags = 0 */
    0x49, 0x8b, 0x0a,			      /* mov (%r10),%rcx */
    0x48, 0x89, 0x4e, 0x08,		      /* mov %rcx,8(%rsi)         dlfo_map_start = lo */
    0x49, 0x8b, 0x4a, 0x08,		      /* mov 8(%r10),%rcx */
    0x48, 0x89, 0x4e, 0x10,		      /* mov %rcx,16(%rsi)        dlfo_map_end = hi */
    0x49, 0x8b, 0x4a, 0x10,		      /* mov 16(%r10),%rcx */
    0x48, 0x89, 0x4e, 0x18,		      /* mov %rcx,24(%rsi)        dlfo_link_map */
    0x49, 0x8b, 0x4a, 0x18,		      /* mov 24(%r10),%rcx */
    0x48, 0x89, 0x4e, 0x20,		      /* mov %rcx,32(%rsi)        dlfo_eh_frame */
    0xc3,				      /* ret                      0: found */
					      /* miss: displaced instructions, jmp back */
};

/* The stub pushes nothing: CFA is rsp+8 everywhere. Offsets below are from AT_EH_FRAME. */
static const uint8_t frame_template[FRAME_LEN] = {
    /* CIE */ 0x14,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    1,
    'z',
    'R',
    0,
    1,
    0x78,
    16,
    1,
    0x1b, /* version 1, "zR", code 1, data -8, ra 16, pcrel sdata4 */
    0x0c,
    7,
    8,
    0x90,
    1,
    0,
    0, /* def_cfa rsp+8, ra at cfa-8 */
    /* FDE at 24 */ 0x14,
    0,
    0,
    0,
    28,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0, /* pc begin (32), range (36), no augmentation */
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    /* end mark at 48 */ 0,
    0,
    0,
    0,
};
enum { FDE_OFF = 24, FDE_PC = 32, FDE_RANGE = 36 };

static bool fits32(int64_t x)
{
	return x == (int32_t)x;
}

/* --- what to hook
 * ---------------------------------------------------------------------------------------------- */

static const char *const unwinder_symbols[] = {"_Unwind_RaiseException", "_Unwind_Backtrace",
					       "unw_step", "_ULx86_64_step"};

/* Does the image handle exceptions at all? Then it needs an unwinder, and if it imports none, it
 * has one inside. */
static bool handles_exceptions(struct ovm_ctx *ctx, const struct ovm_live_module *module)
{
	struct ovm_image *image = NULL;
	struct ovm_regions regions = {0};
	bool found = false;
	if (ovm_image_open(ctx, module->path, &image))
		return true;
	if (ovm_regions_build(ctx, image, &regions) == 0)
		for (uint32_t i = 0; i < regions.v.n && !found; i++)
			found = regions.v.v[i].lsda.v != 0;
	ovm_regions_free(&regions);
	ovm_image_close(image);
	return found;
}

/* Does @module unwind by itself and find unwind tables by other means than _dl_find_object? */
static bool is_blind_unwinder(struct ovm_ctx *ctx, const struct ovm_live_module *module,
			      const struct ovm_livedyn *dyn)
{
	if (!ovm_livedyn_imports(dyn, "dl_iterate_phdr", true) ||
	    ovm_livedyn_imports(dyn, "_dl_find_object", true))
		return false;
	for (size_t i = 0; i < sizeof(unwinder_symbols) / sizeof(unwinder_symbols[0]); i++) {
		ovm_rta at;
		uint64_t size;
		if (ovm_livedyn_export(dyn, unwinder_symbols[i], &at, &size))
			return true;
	}
	return !ovm_livedyn_imports(dyn, "_Unwind_", false) && handles_exceptions(ctx, module);
}

static int refuse(struct ovm_ctx *ctx, const char *why, const char *what)
{
	ovm_fail(ctx, OVM_OK, why, what);
	return OVM_REFUSED;
}

/* Does our jump stand there already? */
static bool find_installed(const struct ovm_tracee *tracee, struct ovm_unwindhook *hook)
{
	static const uint8_t endbr[] = {0xf3, 0x0f, 0x1e, 0xfa};
	uint8_t page[OVM_UNWINDHOOK_SIZE];
	uint32_t skip = memcmp(hook->old_bytes, endbr, sizeof(endbr)) ? 0 : sizeof(endbr);
	const uint8_t *jump = hook->old_bytes + skip;
	uint64_t end = hook->function.v + skip + JUMP_LEN;
	ovm_rta at = {end + (uint64_t)(int64_t)(int32_t)ovm_le32(jump + 1)};
	if (jump[0] != 0xe9 || !ovm_mem_read(tracee, at, page, sizeof(page)) ||
	    memcmp(page, stub_code, sizeof(stub_code)) != 0)
		return false;
	uint32_t n = ovm_le32(page + AT_COUNT);
	if (n == 0 || n > OVM_UNWINDHOOK_MAX)
		return false;
	hook->is_installed = true;
	hook->skip = skip;
	hook->page = at;
	hook->n_entries = n;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < 4; k++)
			hook->entries[i][k] = ovm_le64(page + AT_TABLE + i * 32 + k * 8);
	return true;
}

/* Whole instructions over the jump's five bytes, all of which can be executed elsewhere. */
static bool take_displaced(struct ovm_decoder *dec, struct ovm_unwindhook *hook)
{
	uint32_t at = 0;
	size_t avail = hook->function_size < sizeof(hook->old_bytes) ? (size_t)hook->function_size
								     : sizeof(hook->old_bytes);
	struct ovm_insn insn;
	unsigned len =
	    ovm_decode_one(dec, hook->old_bytes, avail, ovm_va_of(hook->function.v), &insn);
	if (len && insn.op == OVM_OP_ENDBR)
		at = hook->skip = len;
	while (hook->displaced_len < JUMP_LEN) {
		len = ovm_decode_one(dec, hook->old_bytes + at, avail - at,
				     ovm_va_of(hook->function.v + at), &insn);
		if (!len || (insn.kind != OVM_INSN_OTHER && insn.kind != OVM_INSN_NOP))
			return false;
		if ((insn.flags & OVM_INSN_RIP_REL) && insn.disp_len != 4)
			return false;
		hook->displaced[hook->n_displaced++] = insn;
		hook->displaced_len += len;
		at += len;
	}
	return true;
}

int ovm_unwindhook_find(struct ovm_ctx *ctx, struct ovm_decoder *dec,
			const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			struct ovm_unwindhook *out)
{
	*out = (struct ovm_unwindhook){.n_entries = 1};
	for (uint32_t m = 0; m < map->modules.n; m++) {
		const struct ovm_live_module *module = &map->modules.v[m];
		struct ovm_livedyn dyn;
		ovm_rta at;
		uint64_t size;
		if (!ovm_livedyn_open(tracee, module, &dyn))
			continue;
		if (is_blind_unwinder(ctx, module, &dyn))
			return refuse(ctx, "%s unwinds without asking _dl_find_object",
				      module->path);
		if (!ovm_livedyn_export(&dyn, "_dl_find_object", &at, &size))
			continue;
		if (out->module)
			return refuse(ctx, "two C libraries are loaded (%s)", module->path);
		out->module = module;
		out->function = at;
		out->function_size = size;
	}
	if (!out->module)
		return refuse(ctx,
			      "%s has no _dl_find_object (static program or glibc before 2.35)",
			      "the program");
	size_t n = out->function_size < sizeof(out->old_bytes) ? (size_t)out->function_size
							       : sizeof(out->old_bytes);
	bool is_read = ovm_mem_read(tracee, out->function, out->old_bytes, n);
	if (is_read && n >= 4 + JUMP_LEN && find_installed(tracee, out))
		return 0;
	if (!is_read || !take_displaced(dec, out))
		return refuse(ctx, "the start of _dl_find_object in %s cannot be moved",
			      out->module->path);
	uint64_t at = out->function.v + out->skip;
	if (at / 4096 != (at + JUMP_LEN - 1) / 4096)
		return refuse(ctx, "the start of _dl_find_object in %s crosses a page",
			      out->module->path);
	ovm_rta link_map = ovm_livedyn_link_map(tracee, map, out->module);
	out->entries[0][2] = link_map.v;
	return 0;
}

bool ovm_unwindhook_add(struct ovm_unwindhook *hook, ovm_rta lo, ovm_rta hi, ovm_rta link_map,
			ovm_rta eh_frame_hdr)
{
	if (hook->n_entries == OVM_UNWINDHOOK_MAX)
		return false;
	uint64_t *entry = hook->entries[hook->n_entries++];
	entry[0] = lo.v;
	entry[1] = hi.v;
	entry[2] = link_map.v;
	entry[3] = eh_frame_hdr.v;
	return true;
}

bool ovm_unwindhook_append(const struct ovm_tracee *tracee, struct ovm_unwindhook *hook, ovm_rta lo,
			   ovm_rta hi, ovm_rta link_map, ovm_rta eh_frame_hdr)
{
	uint32_t idx = hook->n_entries;
	uint8_t bytes[32], count[8];
	if (!ovm_unwindhook_add(hook, lo, hi, link_map, eh_frame_hdr))
		return false;
	for (uint32_t k = 0; k < 4; k++)
		ovm_put64(bytes + 8 * k, hook->entries[idx][k]);
	ovm_put64(count, hook->n_entries); /* only its low byte changes: seen whole */
	if (!OVM_FAULT_FAILS(HOOK_ENTRY) &&
	    ovm_mem_write(tracee, ovm_rta_of(hook->page.v + AT_TABLE + idx * 32), bytes,
			  sizeof(bytes)) &&
	    !OVM_FAULT_FAILS(HOOK_COUNT) &&
	    ovm_mem_write(tracee, ovm_rta_of(hook->page.v + AT_COUNT), count, sizeof(count)))
		return true;
	hook->n_entries = idx;
	return false;
}

/* --- the page
 * --------------------------------------------------------------------------------------------------
 */

static bool put_rel32(uint8_t *p, uint64_t end, uint64_t target)
{
	int64_t rel = (int64_t)(target - end);
	if (!fits32(rel))
		return false;
	ovm_put32(p, (uint32_t)rel);
	return true;
}

/* The displaced instructions at @off of the page, and the jump back. */
static bool put_displaced(const struct ovm_unwindhook *hook, uint8_t *page, uint32_t off)
{
	uint32_t from = hook->skip;
	for (uint32_t i = 0; i < hook->n_displaced; i++) {
		const struct ovm_insn *insn = &hook->displaced[i];
		memcpy(page + off, hook->old_bytes + from, insn->len);
		if ((insn->flags & OVM_INSN_RIP_REL) &&
		    !put_rel32(page + off + insn->disp_off, hook->page.v + off + insn->len,
			       insn->target.v))
			return false;
		off += insn->len;
		from += insn->len;
	}
	page[off] = 0xe9;
	return put_rel32(page + off + 1, hook->page.v + off + JUMP_LEN, hook->function.v + from);
}

static void put_unwind_data(uint8_t *page)
{
	uint8_t *hdr = page + AT_HDR, *frame = page + AT_EH_FRAME;
	memcpy(frame, frame_template, sizeof(frame_template));
	ovm_put32(frame + FDE_PC, 0u - (AT_EH_FRAME + FDE_PC)); /* pc-relative: the page's start */
	ovm_put32(frame + FDE_RANGE, AT_COUNT);
	memcpy(hdr, (const uint8_t[]){1, 0x1b, 0x03, 0x3b}, 4);
	ovm_put32(hdr + 4, AT_EH_FRAME - (AT_HDR + 4));
	ovm_put32(hdr + 8, 1);
	ovm_put32(hdr + 12, 0u - AT_HDR); /* relative to the header */
	ovm_put32(hdr + 16, AT_EH_FRAME + FDE_OFF - AT_HDR);
}

bool ovm_unwindhook_build(const struct ovm_unwindhook *hook, uint8_t *page,
			  struct ovm_live_patch *jump)
{
	memset(page, 0xcc, AT_COUNT);
	memset(page + AT_COUNT, 0, OVM_UNWINDHOOK_SIZE - AT_COUNT);
	memcpy(page, stub_code, sizeof(stub_code));
	if (!put_displaced(hook, page, sizeof(stub_code)))
		return false;
	put_unwind_data(page);
	ovm_put32(page + AT_COUNT, hook->n_entries);
	for (uint32_t i = 0; i < hook->n_entries; i++) {
		uint64_t entry[4];
		memcpy(entry, hook->entries[i], sizeof(entry));
		if (i == 0) {
			entry[0] = hook->page.v;
			entry[1] = hook->page.v + OVM_UNWINDHOOK_SIZE;
			entry[3] = hook->page.v + AT_HDR;
		}
		for (uint32_t k = 0; k < 4; k++)
			ovm_put64(page + AT_TABLE + i * 32 + k * 8, entry[k]);
	}
	*jump = (struct ovm_live_patch){.at = {hook->function.v + hook->skip}, .len = JUMP_LEN};
	memcpy(jump->old_bytes, hook->old_bytes + hook->skip, JUMP_LEN);
	jump->new_bytes[0] = 0xe9;
	return put_rel32(jump->new_bytes + 1, jump->at.v + JUMP_LEN, hook->page.v);
}
