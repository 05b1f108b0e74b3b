/* One run of the checker: what it needs to know of the overlay's form, then its parts, on all
 * processors.
 *
 *   map [0, n/16) [n/16, n/8) ...    tables    patches    unwind data
 *   each part has decoders and a result of its own; they share what is read only
 *
 * Parts depend on nothing another part finds, so all of them are done even if one fails. The
 * failure that is told is the first in this order, so it is the same for any number of threads.
 */
#include "rewriter/check_private.h"
#include "base/parallel.h"

#include <stdlib.h>

enum {
	MAX_PIECES = 16,     /* of the map */
	MIN_PIECE = 1 << 12, /* entries: less is not worth a thread */
};

/* --- form
 * ----------------------------------------------------------------------------------------------------
 */

static bool find_code_end(struct ovm_check *check)
{
	const struct ovm_overlay *overlay = check->overlay;
	for (int kind = OVM_SECTION_HOT; kind < OVM_N_SECTIONS; kind++) {
		const struct ovm_section *section = &overlay->sections[kind];
		uint64_t end = (uint64_t)section->off + section->size;
		if (end > overlay->size)
			return ovm_check_no(check, (ovm_va){0}, section->off,
					    "a section outside the overlay");
		if (kind <= OVM_SECTION_COLD && section->size && end > check->code_end)
			check->code_end = (uint32_t)end;
	}
	return true;
}

/* The map ascends, does not overlap and stays in the code. Fills the index. */
static bool index_map(struct ovm_check *check)
{
	const struct ovm_map *map = &check->overlay->map;
	uint32_t n = check->code_end / OVM_CHECK_BUCKET + 1, filled = 0;
	uint64_t end = 0;
	check->bucket = ovm_alloc_array(n, sizeof(*check->bucket));
	for (uint32_t i = 0; i < map->v.n; i++) {
		const struct ovm_map_entry *entry = &map->v.v[i];
		if (entry->off < end || !entry->new_len ||
		    (uint64_t)entry->off + entry->new_len > check->code_end)
			return ovm_check_no(check, entry->old, entry->off,
					    "the map is out of order");
		end = (uint64_t)entry->off + entry->new_len;
		for (; (uint64_t)filled * OVM_CHECK_BUCKET <= entry->off;
		     filled++) /* which is below n */
			check->bucket[filled] = i;
	}
	for (; filled < n; filled++)
		check->bucket[filled] = map->v.n;
	return true;
}

/* --- parts
 * ----------------------------------------------------------------------------------------------------
 */

struct part {
	struct ovm_check check;
	struct ovm_check_result result;
	bool ok;
};

struct parts {
	struct part v[MAX_PIECES + 3];
	uint32_t n_pieces;
};

static bool do_part(struct ovm_check *check, uint32_t i, uint32_t n_pieces)
{
	uint64_t n = check->overlay->map.v.n;
	if (i < n_pieces)
		return ovm_check_map(check, (uint32_t)(n * i / n_pieces),
				     (uint32_t)(n * (i + 1) / n_pieces));
	return i == n_pieces	   ? ovm_check_tables(check)
	       : i == n_pieces + 1 ? ovm_check_patches(check)
				   : ovm_check_unwind(check);
}

/* The unwind data first: it takes longest. */
static void run_part(void *arg, uint32_t i)
{
	struct parts *parts = arg;
	uint32_t n = parts->n_pieces + 3;
	struct part *part = &parts->v[n - 1 - i];
	part->check.known = ovm_check_known_new();
	part->ok = do_part(&part->check, n - 1 - i, parts->n_pieces);
	free(part->check.known);
}

static bool run_parts(const struct ovm_check *check)
{
	struct parts *parts = ovm_alloc(sizeof(*parts));
	uint32_t pieces = check->overlay->map.v.n / MIN_PIECE + 1, n, done = 0;
	parts->n_pieces = pieces < MAX_PIECES ? pieces : MAX_PIECES;
	n = parts->n_pieces + 3;
	for (uint32_t i = 0; i < n; i++) {
		parts->v[i].check = *check;
		parts->v[i].check.result = &parts->v[i].result;
	}
	ovm_parallel(n, run_part, parts);
	while (done < n && parts->v[done].ok)
		check->result->n_pairs += parts->v[done++].result.n_pairs;
	bool ok = done == n;
	if (!ok) {
		parts->v[done].result.n_pairs += check->result->n_pairs;
		*check->result = parts->v[done].result;
	}
	free(parts);
	return ok;
}

int ovm_check(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_regions *regions,
	      const struct ovm_overlay *overlay, struct ovm_check_result *result)
{
	struct ovm_check check = {
	    .image = image, .regions = regions, .overlay = overlay, .result = result};
	(void)ctx;
	*result = (struct ovm_check_result){0};
	ovm_check_decoder_init(&check.dec);
	ovm_check_flags_decoder_init(&check.flags_dec);
	ovm_check_index_loads(&check);
	bool ok = find_code_end(&check) && index_map(&check) && ovm_check_counters(&check) &&
		  ovm_check_patch_order(&check) && run_parts(&check);
	free(check.bucket);
	free(check.by_load);
	return ok ? 0 : OVM_REFUSED;
}
