/* One overlay out of pieces.
 *
 *   piece 0   code | tables | unwind data        code 0 | tables 0 |
 *   piece 1   code | tables | unwind data   ->   code 1 | tables 1 | ... | unwind data of all
 *
 * A piece knows nothing of the others: what it calls in them goes to the original. Once all are
 * there such a branch leads to the copy, if that is of a region's first instruction; nothing else
 * is entered from outside often. Unwind data are made anew, so that they are one table, as tools
 * expect. Jump tables stay behind the code that reads them, since their distance is in it.
 *
 * Limit: in the section of the code there are tables, which a disassembler takes for code.
 */
#include "rewriter/join.h"
#include "rewriter/ehframe.h"
#include "rewriter/fixup.h"

#include <stdlib.h>

enum { ALIGN = 64, FILLER = 0xcc };

ovm_va ovm_join_base(const struct ovm_join *join)
{
	return ovm_va_add(join->overlay.base, (int64_t)join->bytes.n);
}

static void add_map(struct ovm_map *map, const struct ovm_map *piece, uint32_t at)
{
	OVM_ASSERT(piece->v.n < UINT32_MAX - map->v.n);
	ovm_vec_reserve(&map->v, map->v.n + piece->v.n);
	for (uint32_t i = 0; i < piece->v.n; i++) {
		map->v.v[map->v.n] = piece->v.v[i];
		map->v.v[map->v.n++].off += at;
	}
}

void ovm_join_add(struct ovm_join *join, const struct ovm_overlay *piece)
{
	struct ovm_overlay *all = &join->overlay;
	const struct ovm_section *tables = &piece->sections[OVM_SECTION_TABLES];
	uint32_t at = (uint32_t)join->bytes.n;
	OVM_ASSERT(piece->base.v == ovm_join_base(join).v && !piece->n_counters);
	OVM_ASSERT((uint64_t)at + tables->off + tables->size + ALIGN < UINT32_MAX);
	ovm_buf_put(&join->bytes, piece->bytes, (size_t)tables->off + tables->size);
	ovm_buf_align(&join->bytes, ALIGN, FILLER);
	add_map(&all->map, &piece->map, at);
	for (uint32_t i = 0; i < piece->patches.n; i++) {
		ovm_vec_push(&all->patches, piece->patches.v[i]);
		all->patches.v[all->patches.n - 1].target += at;
	}
	for (uint32_t i = 0; i < piece->tables.n; i++) {
		ovm_vec_push(&all->tables, piece->tables.v[i]);
		all->tables.v[all->tables.n - 1].new_off += at;
	}
	all->n_regions += piece->n_regions;
	all->n_blocks += piece->n_blocks;
	all->n_insns += piece->n_insns;
}

/* --- branches between pieces --- */

struct linker {
	const struct ovm_regions *regions;
	const struct ovm_overlay *overlay;
	uint8_t *bytes;
	uint32_t size;	    /* of the code */
	uint32_t *start_of; /* [regions.n]: overlay offset of the copy of its first instruction */
};

static void find_starts(struct linker *l)
{
	l->start_of = ovm_alloc_array((size_t)l->regions->v.n + 1, sizeof(*l->start_of));
	for (uint32_t r = 0; r < l->regions->v.n; r++) {
		const struct ovm_map_entry *entry =
		    ovm_map_old(&l->overlay->map, l->regions->v.v[r].lo);
		l->start_of[r] = entry ? entry->off : OVM_NONE;
	}
}

/* Bytes of the opcode of a direct branch with a 32-bit displacement that is all of @entry; 0: it is
 * something else. */
static unsigned branch_opcode(const struct linker *l, const struct ovm_map_entry *entry)
{
	const uint8_t *p = l->bytes + entry->off;
	if (entry->new_len == 5 && (p[0] == 0xe8 || p[0] == 0xe9))
		return 1;
	return entry->new_len == 6 && p[0] == 0x0f && (p[1] & 0xf0) == 0x80 ? 2 : 0;
}

static void link_branch(const struct linker *l, const struct ovm_map_entry *entry)
{
	unsigned n = branch_opcode(l, entry);
	if (!n)
		return;
	uint8_t *field = l->bytes + entry->off + n;
	ovm_va next = ovm_va_add(l->overlay->base, (int64_t)entry->off + entry->new_len);
	ovm_va to = ovm_va_add(next, (int32_t)ovm_le32(field));
	if (to.v - l->overlay->base.v < l->size)
		return;
	uint32_t r = ovm_region_find(l->regions, to);
	if (r == OVM_NONE || l->regions->v.v[r].lo.v != to.v || l->start_of[r] == OVM_NONE)
		return;
	ovm_va start = ovm_va_add(l->overlay->base, l->start_of[r]);
	bool reaches = ovm_fixup_rel32(field, next, start); /* the overlay is below 4 GiB */
	(void)reaches;					    /* if not, the original is as good */
}

static void link_pieces(const struct ovm_regions *regions, struct ovm_join *join)
{
	struct linker l = {.regions = regions,
			   .overlay = &join->overlay,
			   .bytes = join->bytes.v,
			   .size = (uint32_t)join->bytes.n};
	find_starts(&l);
	for (uint32_t i = 0; i < join->overlay.map.v.n; i++)
		link_branch(&l, &join->overlay.map.v.v[i]);
	free(l.start_of);
}

/* --- all of it --- */

static int by_address(const void *a, const void *b)
{
	const struct ovm_patch *x = a, *y = b;
	return (x->at.v > y->at.v) - (x->at.v < y->at.v);
}

static void place_sections(struct ovm_join *join)
{
	struct ovm_overlay *all = &join->overlay;
	uint32_t end = (uint32_t)join->bytes.n;
	all->sections[OVM_SECTION_HOT] = (struct ovm_section){0, end};
	all->sections[OVM_SECTION_COLD] = (struct ovm_section){end, 0};
	all->sections[OVM_SECTION_TABLES] = (struct ovm_section){end, 0};
}

int ovm_join_finish(struct ovm_ctx *ctx, struct ovm_image *image, struct ovm_regions *regions,
		    struct ovm_join *join, struct ovm_overlay *out)
{
	struct ovm_overlay *all = &join->overlay;
	struct ovm_program program = {.image = image, .regions = regions};
	enum ovm_refusal why;
	uint32_t region;
	if (all->patches.n)
		qsort(all->patches.v, all->patches.n, sizeof(all->patches.v[0]), by_address);
	place_sections(join);
	ovm_map_index(&all->map);
	link_pieces(regions, join);
	int rc = ovm_ehframe_emit(ctx, &program, all, &join->bytes, &region, &why);
	if (rc == OVM_REFUSED)
		ovm_region_refuse(ctx, regions, region, why);
	if (rc)
		return rc;
	all->bytes = join->bytes.v;
	all->size = (uint32_t)join->bytes.n;
	*out = *all;
	*join = (struct ovm_join){0};
	return 0;
}

void ovm_join_fini(struct ovm_join *join)
{
	ovm_buf_free(&join->bytes);
	ovm_overlay_fini(&join->overlay);
	*join = (struct ovm_join){0};
}
