/* Entry patches: five bytes of original code become `jmp copy`. Nothing may arrive at the other
 * four.
 *
 *   at       e9 rel32          control enters here only: this is the pair (target, at)
 *   at+1..4  gone              no fallback of ours, no direct branch of the same region, no landing
 * pad, no return address
 *
 * Branches from elsewhere (other regions, data) are xref.c's to find; this looks again at what can
 * be seen of the region itself.
 */
#include "rewriter/check_private.h"

#include <stdlib.h>
#include <string.h>

bool ovm_check_is_overwritten(const struct ovm_check *check, uint64_t va)
{
	uint32_t lo = 0, hi = check->overlay->patches.n;
	while (lo < hi) { /* first patch at or behind @va */
		uint32_t mid = lo + (hi - lo) / 2;
		if (check->overlay->patches.v[mid].at.v < va)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return false;
	const struct ovm_patch *patch = &check->overlay->patches.v[lo - 1];
	return va - patch->at.v < patch->len;
}

bool ovm_check_patch_order(struct ovm_check *check)
{
	uint64_t end = 0;
	for (uint32_t i = 0; i < check->overlay->patches.n; i++) {
		const struct ovm_patch *patch = &check->overlay->patches.v[i];
		if (patch->at.v < end || patch->len != 5 || patch->at.v > UINT64_MAX - patch->len)
			return ovm_check_no(check, patch->at, patch->target,
					    "patches overlap or are out of order");
		end = patch->at.v + patch->len;
	}
	return true;
}

static bool no(struct ovm_check *check, const struct ovm_patch *patch, const char *what)
{
	return ovm_check_no(check, patch->at, patch->target, "%s", what);
}

static bool decode(struct ovm_check *check, uint64_t va, struct ovm_check_insn *out)
{
	size_t avail;
	const uint8_t *p = ovm_check_old_code(check, va, &avail);
	return p && ovm_check_decode_known(check->known, &check->dec, p, avail, va, out);
}

/* No instruction but the last of the window may leave a return address. */
static bool check_window(struct ovm_check *check, const struct ovm_patch *patch)
{
	for (uint64_t va = patch->at.v, end = va + patch->len; va < end;) {
		struct ovm_check_insn insn;
		if (!decode(check, va, &insn))
			return no(check, patch, "a patch over what is no code");
		va += insn.len;
		bool calls = insn.kind == OVM_INSN_CALL || insn.kind == OVM_INSN_CALL_IND ||
			     insn.kind == OVM_INSN_SYSCALL;
		if (calls && va < end)
			return no(check, patch, "a patch over a return address");
	}
	return true;
}

static bool check_bytes(struct ovm_check *check, const struct ovm_patch *patch)
{
	const struct ovm_overlay *overlay = check->overlay;
	const uint8_t *code = ovm_image_code(check->image, patch->at, patch->len);
	if (!code || memcmp(code, patch->old_bytes, patch->len))
		return no(check, patch, "a patch of other bytes");
	uint64_t to =
	    patch->at.v + patch->len + (uint64_t)(int64_t)(int32_t)ovm_le32(patch->new_bytes + 1);
	if (patch->new_bytes[0] != 0xe9 || to != overlay->base.v + patch->target)
		return no(check, patch, "a patch is no jump to its target");
	if (!ovm_check_arrives(check, patch->target, patch->at.v))
		return no(check, patch, "a patch goes elsewhere");
	return true;
}

static bool check_pads(struct ovm_check *check, const struct ovm_patch *patch,
		       const struct ovm_region *region)
{
	struct ovm_lsda lsda = {0};
	bool ok = true;
	if (!region->lsda.v || check->regions->cfi.cies.v[region->cie].personality_enc == 0xff)
		return true;
	if (ovm_lsda_parse(check->image, region->lsda, region->lo, region->hi.v - region->lo.v,
			   &lsda))
		return no(check, patch, "exception tables of a patched region cannot be read");
	for (uint32_t i = 0; i < lsda.sites.n && ok; i++)
		ok = !lsda.sites.v[i].landing ||
		     !ovm_check_is_overwritten(check, lsda.lp_start.v + lsda.sites.v[i].landing);
	ovm_lsda_fini(&lsda);
	if (!ok)
		return no(check, patch, "a patch over a landing pad");
	return true;
}

/* Direct branches there may be in @n bytes at @va, whatever their place: does one go into a patch?
 * Decoding finds no others. */
static bool may_enter_patch(const struct ovm_check *check, const uint8_t *p, uint64_t n,
			    uint64_t va)
{
	for (uint64_t i = 0; i + 2 <= n; i++) {
		uint64_t rest = n - i, at = va + i;
		bool is_rel8 = (p[i] & 0xf0) == 0x70 || p[i] == 0xeb || (p[i] & 0xfc) == 0xe0;
		if (is_rel8 && ovm_check_is_overwritten(check, at + 2 + (uint64_t)(int8_t)p[i + 1]))
			return true;
		unsigned opcode_len = p[i] == 0xe8 || p[i] == 0xe9		  ? 1
				      : p[i] == 0x0f && (p[i + 1] & 0xf0) == 0x80 ? 2
										  : 0;
		if (!opcode_len || rest < opcode_len + 4)
			continue;
		uint64_t distance = (uint64_t)(int32_t)ovm_le32(p + i + opcode_len);
		if (ovm_check_is_overwritten(check, at + opcode_len + 4 + distance))
			return true;
	}
	return false;
}

/* Bytes that look like such a branch are common enough only near patches for decoding to be rare,
 * which takes some fifty times as long. */
static bool check_branches(struct ovm_check *check, const struct ovm_patch *patch,
			   const struct ovm_region *region)
{
	uint64_t size = region->hi.v - region->lo.v;
	const uint8_t *p = ovm_image_code(check->image, region->lo, size);
	if (!p)
		return no(check, patch, "a patched region does not decode");
	if (!may_enter_patch(check, p, size, region->lo.v))
		return true;
	for (uint64_t va = region->lo.v; va < region->hi.v;) {
		struct ovm_check_insn insn;
		if (!decode(check, va, &insn))
			return no(check, patch, "a patched region does not decode");
		bool direct = insn.kind == OVM_INSN_JMP || insn.kind == OVM_INSN_JCC ||
			      insn.kind == OVM_INSN_JCXZ || insn.kind == OVM_INSN_CALL;
		if (direct && ovm_check_is_overwritten(check, insn.target))
			return no(check, patch, "a branch into a patch");
		va += insn.len;
	}
	return true;
}

bool ovm_check_patches(struct ovm_check *check)
{
	uint32_t last = OVM_NONE;
	for (uint32_t i = 0; i < check->overlay->patches.n; i++) {
		const struct ovm_patch *patch = &check->overlay->patches.v[i];
		if (patch->region >= check->regions->v.n)
			return no(check, patch, "a patch of no region");
		const struct ovm_region *region = &check->regions->v.v[patch->region];
		if (patch->at.v < region->lo.v || patch->at.v + patch->len > region->hi.v)
			return no(check, patch, "a patch outside its region");
		if (!check_bytes(check, patch) || !check_window(check, patch))
			return false;
		if (patch->region != last &&
		    (!check_pads(check, patch, region) || !check_branches(check, patch, region)))
			return false;
		last = patch->region;
	}
	return true;
}
