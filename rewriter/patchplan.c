/* Entry patches: `e9 rel32` at a region's start, behind endbr64 if there is one. Whether anything
 * may enter the five bytes elsewhere than at their first is xref.c's answer; here it is only
 * combined with what was copied.
 *
 *   f:  f3 0f 1e fa  endbr64          f:  f3 0f 1e fa  endbr64
 *       41 57 ...    push %r15   ->       e9 ...       jmp copy of the push
 *
 * Landing points inside regions would be further calls of try_patch(), sorted in afterwards.
 */
#include "rewriter/patchplan.h"
#include "rewriter/fixup.h"

#include <string.h>

enum { JMP_LEN = 5 };

/* Overlay offset of the copy of what stands at @va: an instruction with the counter before it, or a
 * block whose first instructions were left out. */
static bool copy_of(const struct ovm_emit_plan *plan, const struct ovm_overlay *overlay, ovm_va va,
		    uint32_t *off)
{
	const struct ovm_map_entry *entry = ovm_map_old(&overlay->map, va);
	uint32_t slot = entry ? OVM_NONE : ovm_emit_slot_at(plan, va);
	bool is_counted = entry && entry > overlay->map.v.v && (entry[-1].flags & OVM_MAP_COUNT) &&
			  entry[-1].old.v == va.v;
	if (entry)
		*off = is_counted ? entry[-1].off : entry->off;
	else if (slot != OVM_NONE)
		*off = plan->pieces[slot].off;
	return entry || slot != OVM_NONE;
}

static void try_patch(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay,
		      uint32_t region, ovm_va at)
{
	struct ovm_patch patch = {.at = at, .len = JMP_LEN, .region = region};
	const uint8_t *code = ovm_image_code(plan->program->image, at, JMP_LEN);
	if (!code || ovm_va_add(at, JMP_LEN).v > plan->program->regions->v.v[region].hi.v)
		return;
	if (!copy_of(plan, overlay, at, &patch.target))
		return;
	memcpy(patch.old_bytes, code, JMP_LEN);
	patch.new_bytes[0] = 0xe9;
	if (ovm_fixup_rel32(patch.new_bytes + 1, ovm_va_add(at, JMP_LEN),
			    ovm_va_add(overlay->base, patch.target)))
		ovm_vec_push(&overlay->patches, patch);
}

static bool has_symbol(const struct ovm_image *image, ovm_va va)
{
	const struct ovm_symbol *symbol = ovm_image_symbol(image, va);
	return symbol && symbol->va.v == va.v;
}

static bool is_way_in(const struct ovm_program *program, const struct ovm_xref *xref)
{
	const struct ovm_region *region = &program->regions->v.v[xref->region];
	uint32_t cfg = program->cfg_of_region[xref->region];
	if (cfg == OVM_NONE || !program->cfgs.v[cfg] || region->is_fragment)
		return false;
	if (xref->flags & (OVM_XREF_INSIDE | OVM_XREF_NO_ROOM))
		return false;
	return (xref->flags & (OVM_XREF_CALLED | OVM_XREF_ADDRESS)) ||
	       has_symbol(program->image, region->lo);
}

/* Region starts, in ascending order since xrefs and regions are. */
void ovm_patchplan(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay)
{
	const struct ovm_program *program = plan->program;
	for (uint32_t i = 0; i < program->xrefs.n; i++) {
		const struct ovm_xref *xref = &program->xrefs.v[i];
		if (is_way_in(program, xref))
			try_patch(plan, overlay, xref->region,
				  ovm_va_add(program->regions->v.v[xref->region].lo, xref->skip));
	}
}
