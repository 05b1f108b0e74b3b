/* gdb and perf know code by the files that are mapped. A live overlay is anonymous memory, so its
 * frames are "??" and a backtrace ends there. All it takes to name them is there, though:
 *
 *   state (genfile.h)      where each overlay is, which original instruction each copy stands for
 *   the original's file    what that code is called
 *   the process's memory   the overlay's own .eh_frame: where each run of copies begins and ends,
 * and how to unwind it
 *
 * Two answers are made of it: an ELF file for gdb's add-symbol-file (nameself.c) and a map for perf
 * (perfmap.c). All generations are named, not only the armed one: frames that were entered in an
 * older one go on there.
 *
 * The memory is read without stopping the process: overlays never change but for exits, which are
 * code.
 */
#define OVM_LOG_DOMAIN "names"
#include "runtime/names.h"
#include "analyzer/cfi.h"
#include "analyzer/region.h"
#include "base/log.h"
#include "rewriter/copysyms.h"
#include "rewriter/elf_debug_frame.h"
#include "runtime/tracee.h"

#include <stdlib.h>
#include <string.h>

enum {
	FDE_START = 8,
	FDE_LENGTH = 12,
	FDE_LEAST = 16
}; /* in an FDE as ehframe.c writes it: sdata4, pc-relative */

/* Runs of copies, from the unwind data in overlay->bytes. */
static void find_runs(struct ovm_overlay *overlay, const struct ovm_regions *regions)
{
	const struct ovm_section *section = &overlay->sections[OVM_SECTION_EH_FRAME];
	uint64_t end = (uint64_t)section->off + section->size, off = section->off;
	while (end <= overlay->size && off + FDE_LEAST <= end) {
		const uint8_t *p = overlay->bytes + off;
		uint64_t len = ovm_le32(p), next = off + 4 + len;
		if (!len || next > end)
			break;
		int64_t lo = (int64_t)off + FDE_START + (int32_t)ovm_le32(p + FDE_START);
		uint32_t size = ovm_le32(p + FDE_LENGTH);
		if (ovm_le32(p + 4) && lo >= 0 &&
		    (uint64_t)lo + size <= overlay->size) { /* not a CIE */
			const struct ovm_map_entry *entry =
			    ovm_map_new(&overlay->map, (uint32_t)lo);
			uint32_t region = entry ? ovm_region_find(regions, entry->old) : OVM_NONE;
			ovm_vec_push(&overlay->fdes, ((struct ovm_new_fde){.off = (uint32_t)lo,
									   .size = size,
									   .fde_off = (uint32_t)off,
									   .region = region}));
		}
		off = next;
	}
}

static int by_off(const void *a, const void *b)
{
	const struct ovm_new_fde *x = a, *y = b;
	return (x->off > y->off) - (x->off < y->off);
}

/* The overlay as it was when it was built, but at its run-time address. */
static bool complete(const struct ovm_tracee *tracee, const struct ovm_genfile_module *m,
		     const struct ovm_regions *regions, struct ovm_overlay *overlay)
{
	overlay->bytes = ovm_alloc_array(overlay->size, 1);
	if (!ovm_mem_read(tracee, m->at, overlay->bytes, overlay->size))
		return false;
	overlay->base = (ovm_va){m->at.v};
	find_runs(overlay, regions);
	if (overlay->fdes.n)
		qsort(overlay->fdes.v, overlay->fdes.n, sizeof(overlay->fdes.v[0]), by_off);
	return overlay->fdes.n > 0;
}

static bool name_overlay(const struct ovm_tracee *tracee, struct ovm_genfile_module *m,
			 const struct ovm_image *image, const struct ovm_regions *regions,
			 struct ovm_names *out)
{
	struct ovm_named named = {.at = m->at, .size = m->overlay.size};
	if (!complete(tracee, m, regions, &m->overlay))
		return false;
	struct ovm_copysyms symbols = {.image = image,
				       .overlay = &m->overlay,
				       .text = (uint16_t)(OVM_NAMES_TEXT + out->v.n),
				       .names = &out->strings};
	ovm_copysyms_put(&symbols, regions);
	named.symbols = symbols.symbols;
	ovm_elf_debug_frame(&m->overlay, 0, &out->frames);
	ovm_vec_push(&out->v, named);
	return true;
}

static void name_module(struct ovm_ctx *ctx, const struct ovm_tracee *tracee,
			struct ovm_genfile_module *m, struct ovm_names *out)
{
	struct ovm_image *image = NULL;
	struct ovm_regions regions = {0};
	struct ovm_ctx own = *ctx;
	bool ok = ovm_image_open(&own, m->module.path, &image) == 0 &&
		  !strncmp(image->id, m->id, sizeof(m->id) - 1) &&
		  ovm_regions_build(&own, image, &regions) == 0 &&
		  name_overlay(tracee, m, image, &regions, out);
	if (!ok) {
		ovm_log(OVM_LOG_INFO, "%s: its copies go without names", m->module.path);
		out->n_left_out++;
	}
	ovm_regions_free(&regions);
	ovm_image_close(image);
}

static int name_generations(struct ovm_ctx *ctx, const struct ovm_state *state,
			    const struct ovm_tracee *tracee, struct ovm_names *out)
{
	for (uint32_t i = 0; i < state->v.n; i++) {
		struct ovm_genfile file = {0};
		int rc = ovm_state_load(ctx, state, i, &file);
		if (rc)
			return rc;
		for (uint32_t k = 0; k < file.modules.n; k++)
			name_module(ctx, tracee, &file.modules.v[k], out);
		ovm_genfile_fini(&file);
	}
	return 0;
}

int ovm_names_read(struct ovm_ctx *ctx, pid_t pid, struct ovm_names *out)
{
	ovm_states states = {0};
	struct ovm_tracee tracee;
	*out = (struct ovm_names){0};
	ovm_buf_u8(&out->strings, 0);
	ovm_states_list(pid, &states);
	if (!states.n) {
		ovm_fail(ctx, OVM_OK, "process %d was not changed by optvm", (int)pid);
		return OVM_REFUSED;
	}
	ovm_tracee_init(&tracee, pid);
	int rc = ovm_tracee_open_mem(ctx, &tracee);
	if (rc == 0)
		rc = name_generations(ctx, states.v[0], &tracee, out);
	if (rc == 0 && !out->v.n) {
		ovm_fail(ctx, OVM_OK,
			 "process %d: the files its copies were made of are not there any more",
			 (int)pid);
		rc = OVM_REFUSED;
	}
	ovm_tracee_close(&tracee);
	ovm_states_fini(&states);
	return rc;
}

void ovm_names_fini(struct ovm_names *names)
{
	for (uint32_t i = 0; i < names->v.n; i++)
		ovm_buf_free(&names->v.v[i].symbols);
	ovm_vec_free(&names->v);
	ovm_buf_free(&names->frames);
	ovm_buf_free(&names->strings);
	*names = (struct ovm_names){0};
}
