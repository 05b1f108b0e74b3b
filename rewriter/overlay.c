/* The overlay as an object, and the order in which it is built:
 *
 *   plan -> relax -> code + map -> tables -> unwind data -> patches
 *
 * From "relax" on code offsets are final; the tables section follows the code, so its place is
 * final too. Nothing here knows where the result goes (a file or a process).
 */
#include "rewriter/overlay.h"
#include "base/parallel.h"
#include "rewriter/count.h"
#include "rewriter/ehframe.h"
#include "rewriter/emit.h"
#include "rewriter/patchplan.h"
#include "rewriter/promote.h"
#include "rewriter/relax.h"

#include <stdlib.h>
#include <string.h>

enum { TABLES_ALIGN = 64 };

static uint32_t align_up(uint32_t x, uint32_t align)
{
	return (x + align - 1) & ~(align - 1);
}

static void place_sections(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay)
{
	uint32_t code_end = plan->cold_size ? plan->cold_off + plan->cold_size : plan->hot_size;
	overlay->sections[OVM_SECTION_HOT] = (struct ovm_section){0, plan->hot_size};
	overlay->sections[OVM_SECTION_COLD] = (struct ovm_section){plan->cold_off, plan->cold_size};
	overlay->sections[OVM_SECTION_TABLES] =
	    (struct ovm_section){align_up(code_end, TABLES_ALIGN), plan->tables.size};
}

static void count_copied(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay)
{
	const struct ovm_program *program = plan->program;
	uint8_t *seen = ovm_alloc_array(program->regions->v.n, 1);
	for (uint32_t i = 0; i < plan->layout->slots.n; i++) {
		const struct ovm_slot *slot = &plan->layout->slots.v[i];
		uint32_t region = program->cfgs.v[slot->cfg]->blocks[slot->block].region;
		overlay->n_regions += !seen[region];
		seen[region] = 1;
	}
	free(seen);
	overlay->n_blocks = 0;
	for (uint32_t i = 0; i < plan->layout->slots.n; i++)
		overlay->n_blocks += ovm_slot_is_block(&plan->layout->slots.v[i]);
	for (uint32_t i = 0; i < overlay->map.v.n; i++)
		overlay->n_insns +=
		    !(overlay->map.v.v[i].flags & (OVM_MAP_SYNTH | OVM_MAP_PAD | OVM_MAP_GUARD));
}

static void keep_claims(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay)
{
	uint32_t off = overlay->sections[OVM_SECTION_TABLES].off;
	ovm_vec_reserve(&overlay->tables, plan->tables.claims.n);
	for (uint32_t i = 0; i < plan->tables.claims.n; i++) {
		overlay->tables.v[i] = plan->tables.claims.v[i];
		overlay->tables.v[i].new_off += off;
	}
	overlay->tables.n = plan->tables.claims.n;
}

static void keep_counters(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay)
{
	if (!plan->probes)
		return;
	overlay->counters = plan->counters;
	overlay->n_counters = plan->probes->n_counters + OVM_SITE_COUNTERS * plan->sites.n;
	ovm_vec_reserve(&overlay->sites, plan->sites.n);
	for (uint32_t i = 0; i < plan->sites.n; i++) {
		const struct ovm_value_site *site = &plan->sites.v[i];
		ovm_va at = plan->program->cfgs.v[site->cfg]->insns[site->insn].va;
		ovm_vec_push(&overlay->sites, (struct ovm_site){at, site->counter});
	}
}

/* Code and tables into @buf, the map into @overlay. */
static int write_code(const struct ovm_emit_plan *plan, struct ovm_overlay *overlay,
		      struct ovm_buf *buf, struct ovm_bad *bad)
{
	const struct ovm_section *tables = &overlay->sections[OVM_SECTION_TABLES];
	uint32_t code_end = plan->cold_size ? plan->cold_off + plan->cold_size : plan->hot_size;
	buf->cap = (size_t)tables->off + tables->size;
	buf->n = buf->cap;
	buf->v = ovm_alloc(buf->cap);
	memset(buf->v + code_end, 0xcc, tables->off - code_end);
	int rc = ovm_emit_write(plan, overlay->base, tables->off, buf->v, &overlay->map, bad);
	return rc ? rc : ovm_tables_write(plan, overlay->base, buf->v + tables->off, bad);
}

/* What is left when code and map are written; neither needs the other. */
struct ending {
	struct ovm_ctx *ctx;
	const struct ovm_program *program;
	struct ovm_overlay *overlay;
	struct ovm_buf *buf;
	struct ovm_bad *bad;
	int rc;
};

static void write_unwind(void *arg)
{
	struct ending *e = arg;
	uint32_t region = OVM_NONE;
	e->rc = ovm_ehframe_emit(e->ctx, e->program, e->overlay, e->buf, &region, &e->bad->why);
	if (e->rc == OVM_REFUSED)
		e->bad->cfg = e->program->cfg_of_region[region];
}

static void index_map(void *arg)
{
	struct ending *e = arg;
	ovm_map_index(&e->overlay->map);
}

static int build(struct ovm_ctx *ctx, struct ovm_emit_plan *plan,
		 const struct ovm_overlay_opts *opts, struct ovm_overlay *overlay,
		 struct ovm_buf *buf, struct ovm_bad *bad)
{
	int rc = ovm_relax(plan, bad);
	if (rc)
		return rc;
	place_sections(plan, overlay);
	rc = write_code(plan, overlay, buf, bad);
	if (rc)
		return rc;
	keep_claims(plan, overlay);
	keep_counters(plan, overlay);
	struct ending end = {ctx, plan->program, overlay, buf, bad, 0};
	const struct ovm_task tasks[] = {{write_unwind, &end}, {index_map, &end}};
	ovm_parallel_tasks(tasks, 2);
	if (end.rc)
		return end.rc;
	count_copied(plan, overlay);
	if (!opts->no_patches)
		ovm_patchplan(plan, overlay);
	return 0;
}

int ovm_overlay_build(struct ovm_ctx *ctx, const struct ovm_program *program,
		      const struct ovm_layout *layout, const struct ovm_overlay_opts *opts,
		      struct ovm_overlay *out, uint32_t *bad_cfg, enum ovm_refusal *why)
{
	struct ovm_overlay overlay = {.base = opts->base};
	struct ovm_layout with_more = {0};
	struct ovm_emit_plan plan;
	struct ovm_buf buf = {0};
	struct ovm_bad bad = {OVM_NONE, OVM_REFUSE_NONE};
	OVM_ASSERT((opts->base.v & 63) == 0);
	if (opts->probes && !opts->is_gauged) {
		OVM_ASSERT(!layout->promotions.n);
		ovm_count_layout(program, layout, opts->probes, &with_more);
		layout = &with_more;
	} else if (layout->promotions.n) {
		ovm_promote_layout(program, layout, &with_more);
		layout = &with_more;
	}
	int rc = ovm_emit_plan_init(program, layout, opts, &plan, &bad);
	if (!rc)
		rc = build(ctx, &plan, opts, &overlay, &buf, &bad);
	ovm_emit_plan_fini(&plan);
	ovm_layout_fini(&with_more);
	overlay.bytes = buf.v;
	overlay.size = (uint32_t)buf.n;
	if (rc) {
		ovm_overlay_fini(&overlay);
		if (rc == OVM_REFUSED) {
			*bad_cfg = bad.cfg;
			*why = bad.why;
		}
		return rc;
	}
	*out = overlay;
	return 0;
}

void ovm_overlay_fini(struct ovm_overlay *overlay)
{
	free(overlay->bytes);
	free(overlay->map.by_old);
	ovm_vec_free(&overlay->map.v);
	ovm_vec_free(&overlay->patches);
	ovm_vec_free(&overlay->tables);
	ovm_vec_free(&overlay->fdes);
	ovm_vec_free(&overlay->sites);
	*overlay = (struct ovm_overlay){0};
}
