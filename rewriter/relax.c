/* A branch is 2 bytes if its target is near and 5 or 6 if not, and its length moves every target
 * behind it. Start with all short, place everything, lengthen what does not reach, repeat until
 * nothing grows. Branches only ever grow, so it ends; each round is two linear walks over the
 * pieces. Where padding shrinks as code before it grows, a branch may stay long although short
 * would do: harmless.
 *
 * Branches to original code are long from the start: the original is never within 127 bytes.
 */
#include "rewriter/relax.h"

enum {
	MAX_ROUNDS = 40,    /* then everything is made long; real code needs about 8 */
	MAX_CODE = 1 << 30, /* bytes; keeps every branch inside the overlay within a rel32 */
	SECTION_ALIGN = 64,
};

/* Of each shape: branch 0 short and long, branch 1 short and long. */
static const uint8_t lengths[][2][2] = {
    [OVM_SHAPE_NONE] = {{0, 0}, {0, 0}}, [OVM_SHAPE_JMP] = {{2, 5}, {0, 0}},
    [OVM_SHAPE_JCC] = {{2, 6}, {0, 0}},	 [OVM_SHAPE_JCC_JMP] = {{2, 6}, {2, 5}},
    [OVM_SHAPE_JCXZ] = {{2, 5}, {2, 5}},
};

uint32_t ovm_branch_len(const struct ovm_piece *piece, unsigned k)
{
	return lengths[piece->shape][k][piece->is_long >> k & 1];
}

/* Bytes between the body and branch 0. */
static uint32_t prefix_len(const struct ovm_piece *piece)
{
	return piece->shape == OVM_SHAPE_JCXZ ? piece->cc : 0;
}

uint32_t ovm_piece_len(const struct ovm_piece *piece)
{
	return piece->body + prefix_len(piece) + ovm_branch_len(piece, 0) +
	       ovm_branch_len(piece, 1);
}

static uint8_t padding(const struct ovm_slot *slot, uint64_t off)
{
	if (slot->align < 2)
		return 0;
	uint64_t pad = -off & (slot->align - 1u);
	return pad > slot->max_pad || pad > UINT8_MAX ? 0 : (uint8_t)pad;
}

/* Give every piece its offset. Returns the slot that broke the size limit, OVM_NONE if all is well.
 */
static uint32_t place(struct ovm_emit_plan *plan)
{
	const struct ovm_layout *layout = plan->layout;
	uint64_t off = 0;
	plan->hot_size = plan->cold_size = 0;
	for (uint32_t i = 0; i < layout->slots.n; i++) {
		struct ovm_piece *piece = &plan->pieces[i];
		if (i == layout->n_hot) {
			plan->hot_size = (uint32_t)off;
			off = (off + SECTION_ALIGN - 1) & ~(uint64_t)(SECTION_ALIGN - 1);
			plan->cold_off = (uint32_t)off;
		}
		piece->pad = padding(&layout->slots.v[i], off);
		piece->off = (uint32_t)(off + piece->pad);
		off = piece->off + (uint64_t)ovm_piece_len(piece);
		if (off > MAX_CODE)
			return i;
	}
	if (layout->n_hot >= layout->slots.n) {
		plan->hot_size = (uint32_t)off;
		plan->cold_off =
		    (plan->hot_size + SECTION_ALIGN - 1) & ~(uint32_t)(SECTION_ALIGN - 1);
	} else {
		plan->cold_size = (uint32_t)off - plan->cold_off;
	}
	return OVM_NONE;
}

/* Lengthen branches that do not reach. */
static bool grow(struct ovm_emit_plan *plan, bool all)
{
	bool grew = false;
	for (uint32_t i = 0; i < plan->layout->slots.n; i++) {
		struct ovm_piece *piece = &plan->pieces[i];
		uint32_t at = piece->off + piece->body + prefix_len(piece);
		uint8_t now = piece->is_long;
		for (unsigned k = 0; k < 2; k++) {
			uint32_t len = ovm_branch_len(piece, k);
			at += len;
			if (!len || piece->is_long >> k & 1)
				continue;
			int64_t d = (int64_t)plan->pieces[piece->dest[k]].off - at;
			if (all || d < INT8_MIN || d > INT8_MAX)
				now = (uint8_t)(now | 1u << k);
		}
		grew |= now != piece->is_long;
		piece->is_long = now;
	}
	return grew;
}

static void start_short(struct ovm_emit_plan *plan)
{
	for (uint32_t i = 0; i < plan->layout->slots.n; i++) {
		struct ovm_piece *piece = &plan->pieces[i];
		piece->is_long = 0;
		for (unsigned k = 0; k < 2; k++)
			if (ovm_branch_len(piece, k) && (piece->dest[k] & OVM_DEST_ORIGINAL))
				piece->is_long = (uint8_t)(piece->is_long | 1u << k);
	}
}

int ovm_relax(struct ovm_emit_plan *plan, struct ovm_bad *bad)
{
	uint32_t over;
	start_short(plan);
	for (unsigned round = 0;; round++) {
		over = place(plan);
		if (over != OVM_NONE) {
			*bad = (struct ovm_bad){plan->layout->slots.v[over].cfg,
						OVM_REFUSE_OUT_OF_RANGE};
			return OVM_REFUSED;
		}
		if (!grow(plan, round >= MAX_ROUNDS))
			return 0;
	}
}
