/* From the addresses of a rewritten program back to the original's.
 *
 * A sample is easy: the map says of what the instruction is a copy. Branches and runs are not, as
 * the copy has other ones:
 *
 *   original             copy
 *   1000 je 1080         je was inverted: taken in the copy means fallen through in the original
 *   1002 ...             a run through it passes a branch of the original: it is cut there
 *   1040 jmp 1080        left out: the run goes on with what stood at 1080, so that is a branch
 *                        from 1040, an address nobody executed
 *   1080 ...             jumps that were added are no branches of the original, but what they go
 *                        to may have been fallen into
 *
 * So every step is looked at as "control went from instruction A to instruction B of the original",
 * and becomes a run where B follows A, else a branch. Exact edges stay edges in either case.
 */
#include "rewriter/elf_profile.h"
#include "rewriter/check_private.h"

#include <stdlib.h>

enum { INSN_MAX = 15, MAX_RUN = 4096 }; /* instructions of one run that are followed */

struct back {
	const struct ovm_image *original;
	struct ovm_overlay overlay;
	ZydisDecoder dec;
	struct ovm_prof_module *out;
};

static const struct ovm_map_entry *entry_at(const struct back *back, ovm_va va)
{
	uint64_t off = va.v - back->overlay.base.v;
	return off < back->overlay.size ? ovm_map_new(&back->overlay.map, (uint32_t)off) : NULL;
}

static bool in_overlay(const struct back *back, ovm_va va)
{
	return va.v - back->overlay.base.v < back->overlay.size;
}

/* Where @va of the rewritten program is in the original. False: nowhere. */
static bool old_of(const struct back *back, ovm_va va, ovm_va *out)
{
	const struct ovm_map_entry *entry = entry_at(back, va);
	*out = entry ? entry->old : va;
	return entry || !in_overlay(back, va);
}

static bool is_copy(const struct ovm_map_entry *entry)
{
	return !(entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD));
}

static bool is_patch(const struct back *back, ovm_va va)
{
	uint32_t lo = 0, hi = back->overlay.patches.n;
	while (lo < hi) { /* first patch at or behind @va */
		uint32_t mid = lo + (hi - lo) / 2;
		if (back->overlay.patches.v[mid].at.v < va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < back->overlay.patches.n && back->overlay.patches.v[lo].at.v == va.v;
}

/* OVM_INSN_REFUSE if there is no code. */
static struct ovm_check_insn decode(const struct back *back, ovm_va va)
{
	struct ovm_check_insn insn = {.kind = OVM_INSN_REFUSE}, found;
	for (size_t avail = INSN_MAX; avail; avail--) { /* less at the end of a segment */
		const uint8_t *p = ovm_image_code(back->original, va, avail);
		if (p && ovm_check_decode(&back->dec, p, avail, va.v, &found))
			return found;
		if (p)
			break;
	}
	return insn;
}

/* The original's instruction that took control from copy @entry to @to: the one copied, or a jump
 * behind it that was left out. */
static ovm_va origin(const struct back *back, const struct ovm_map_entry *entry, ovm_va to)
{
	struct ovm_check_insn insn = decode(back, entry->old), jump;
	ovm_va end = ovm_va_add(entry->old, entry->old_len);
	bool branches = insn.kind == OVM_INSN_JCC || insn.kind == OVM_INSN_JCXZ ||
			insn.kind == OVM_INSN_JMP || insn.kind == OVM_INSN_CALL;
	bool anywhere = insn.kind == OVM_INSN_JMP_IND || insn.kind == OVM_INSN_CALL_IND ||
			insn.kind == OVM_INSN_RET;
	if (to.v == end.v || anywhere || (branches && insn.target == to.v))
		return entry->old;
	jump = decode(back, end);
	return jump.kind == OVM_INSN_JMP && jump.target == to.v ? end : entry->old;
}

static bool ends_block(const struct back *back, const struct ovm_map_entry *entry)
{
	switch (decode(back, entry->old).kind) {
	case OVM_INSN_JCC:
	case OVM_INSN_JCXZ:
	case OVM_INSN_JMP:
	case OVM_INSN_JMP_IND:
	case OVM_INSN_RET:
		return true;
	default:
		return false;
	}
}

/* The copy that runs into the jump or nops @entry, NULL if there is none. */
static const struct ovm_map_entry *runs_into(const struct back *back,
					     const struct ovm_map_entry *entry)
{
	const struct ovm_map_entry *first = back->overlay.map.v.v, *at = entry;
	while (at > first && !is_copy(at) && at[-1].off + at[-1].new_len == at->off)
		at--;
	return is_copy(at) ? at : NULL;
}

/* Control went from @from to @to, both of the rewritten program. @exact: the step from a block's
 * last instruction to a jump that was added is counted of its own. False: no step of the original.
 */
static bool move_step(const struct back *back, ovm_va from, ovm_va to, bool exact, ovm_va *old_from,
		      ovm_va *old_to)
{
	const struct ovm_map_entry *entry = entry_at(back, from);
	if (!old_of(back, to, old_to))
		return false;
	*old_from = from;
	if (entry && (entry->flags & OVM_MAP_SYNTH) && (entry->flags & OVM_MAP_GUARD))
		return false;	     /* the call that it decides is a step */
	if (!in_overlay(back, from)) /* 0, too: from elsewhere */
		return !is_patch(back, from) || !in_overlay(back, to);
	if (entry && !is_copy(entry)) {
		entry = runs_into(back, entry);
		if (entry && exact && ends_block(back, entry))
			return false;
	}
	if (entry)
		*old_from = origin(back, entry, *old_to);
	return entry;
}

static void push_range(struct back *back, ovm_va from, ovm_va to, uint64_t count)
{
	ovm_vec_push(&back->out->ranges, (struct ovm_prof_range){from, to, count});
}

/* A step that no exact counter saw: a run of two instructions where they follow each other. */
static void push_step(struct back *back, ovm_va from, ovm_va to, uint64_t count, uint64_t mispreds)
{
	if (from.v && ovm_va_add(from, decode(back, from).len).v == to.v)
		push_range(back, from, to, count);
	else
		ovm_vec_push(&back->out->branches,
			     (struct ovm_prof_branch){from, to, count, mispreds});
}

/* A run in the copy is one or more runs of the original, with steps between them. */
static void move_range(struct back *back, const struct ovm_prof_range *range)
{
	const struct ovm_map_entry *entry = entry_at(back, range->from), *last = NULL;
	const struct ovm_map_entry *end = back->overlay.map.v.v + back->overlay.map.v.n;
	ovm_va start = range->from;
	uint64_t stop = range->to.v - back->overlay.base.v;
	if (!in_overlay(back, range->from)) {
		if (!in_overlay(back, range->to))
			push_range(back, range->from, range->to, range->count);
		return;
	}
	for (int i = 0; entry && entry < end && entry->off <= stop && i < MAX_RUN; i++, entry++) {
		if (!is_copy(entry))
			continue;
		if (!last) {
			start = entry->old;
		} else if (ovm_va_add(last->old, last->old_len).v != entry->old.v) {
			ovm_va from = origin(back, last, entry->old);
			push_range(back, start, from, range->count);
			push_step(back, from, entry->old, range->count, 0);
			start = entry->old;
		}
		last = entry;
	}
	if (last)
		push_range(back, start, last->old, range->count);
}

static void move_module(struct back *back, const struct ovm_prof_module *module)
{
	ovm_va from, to;
	for (uint32_t i = 0; i < module->samples.n; i++)
		if (old_of(back, module->samples.v[i].va, &to))
			ovm_vec_push(&back->out->samples,
				     (struct ovm_prof_sample){to, module->samples.v[i].count});
	for (uint32_t i = 0; i < module->edges.n; i++) {
		const struct ovm_prof_edge *edge = &module->edges.v[i];
		if (move_step(back, edge->from, edge->to, true, &from, &to))
			ovm_vec_push(&back->out->edges,
				     (struct ovm_prof_edge){from, to, edge->count});
	}
	for (uint32_t i = 0; i < module->branches.n; i++) {
		const struct ovm_prof_branch *branch = &module->branches.v[i];
		if (move_step(back, branch->from, branch->to, false, &from, &to))
			push_step(back, from, to, branch->count, branch->mispreds);
	}
	for (uint32_t i = 0; i < module->ranges.n; i++)
		move_range(back, &module->ranges.v[i]);
}

int ovm_elf_profile_back(struct ovm_ctx *ctx, const struct ovm_image *image,
			 const struct ovm_image *original, const struct ovm_profile *prof,
			 struct ovm_profile **out)
{
	struct back back = {.original = original};
	struct ovm_regions regions = {0};
	const struct ovm_prof_module *module = ovm_profile_find(prof, image->id);
	int err = ovm_regions_build(ctx, original, &regions);
	if (!err)
		err = ovm_elf_overlay(ctx, image, original, &regions, &back.overlay);
	if (!err) {
		struct ovm_profile *moved = ovm_profile_new();
		ovm_check_decoder_init(&back.dec);
		back.out = ovm_profile_module(moved, original->id, image->path);
		if (module)
			move_module(&back, module);
		ovm_profile_merge(moved, prof);
		*out = moved;
	}
	ovm_elf_overlay_fini(&back.overlay);
	ovm_regions_free(&regions);
	return err;
}
