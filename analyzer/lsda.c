/* One record of .gcc_except_table, the "language specific data area" of an FDE: which code ranges
 * have handlers.
 *
 *   LPStart encoding [LPStart]            base of landing pads, normally omitted: the FDE's start
 *   TType encoding [offset to TType base] -----------------------------------------------+
 *   call-site encoding, table length                                                     |
 *   call sites   start, length, landing pad, action    (sorted by start)                 |
 *   actions      filter, distance to the next          (chains, as small trees)          |
 *   types        ... type 3, type 2, type 1            (negative index from the base)    |
 *   TType base <------------------------------------------------------------------------+
 *   filters      lists of type indices ended by 0      (exception specifications)
 *
 * Neither actions, types nor filters say how long they are. What is reachable from the call sites
 * is what counts: we walk the action chains and note the largest type index and the farthest byte
 * of each area. A hostile table may chain in circles or share tails many times over, so the walk
 * has a budget. Layout: gcc/except.cc and libstdc++'s eh_personality.cc.
 */
#include "analyzer/cfi.h"
#include "analyzer/refuse.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

enum {
	OMIT = 0xff,
	CHAIN_MAX = 4096,    /* records in one action chain */
	STEPS_MIN = 1 << 16, /* budget of action records and filter entries for one table, */
	STEPS_PER_SITE = 16, /* and this much more for each call site */
	TYPES_MAX = 1 << 20,
};

struct parse {
	const struct ovm_image *image;
	ovm_va va; /* of bytes[0] */
	const uint8_t *bytes, *p, *end;
	const uint8_t *type_base; /* NULL without types */
	uint8_t site_enc;
	const uint8_t *sites_end;
	uint64_t steps; /* left */
	uint64_t n_types;
	struct ovm_lsda *out;
};

static ovm_va here(const struct parse *parse)
{
	return ovm_va_add(parse->va, parse->p - parse->bytes);
}

/* --- head
 * ----------------------------------------------------------------------------------------------------------
 */

static bool read_head(struct parse *parse, ovm_va lo)
{
	struct ovm_lsda *out = parse->out;
	uint64_t value;
	if (parse->end - parse->p < 4)
		return false;
	uint8_t enc = *parse->p++;
	out->lp_start = lo;
	if (enc != OMIT) {
		if (!ovm_cfi_read_encoded(&parse->p, parse->end, enc, here(parse), ovm_va_of(0),
					  &value))
			return false;
		out->lp_start = ovm_va_of(value);
	}
	if (parse->p == parse->end)
		return false;
	out->type_enc = *parse->p++;
	if (out->type_enc != OMIT) {
		if (!ovm_cfi_uleb(&parse->p, parse->end, &value) ||
		    value > (uint64_t)(parse->end - parse->p))
			return false;
		parse->type_base = parse->p + value;
	}
	if (parse->p == parse->end)
		return false;
	parse->site_enc = *parse->p++;
	if (!ovm_cfi_uleb(&parse->p, parse->end, &value) ||
	    value > (uint64_t)(parse->end - parse->p))
		return false;
	parse->sites_end = parse->p + value;
	return !parse->type_base || parse->sites_end <= parse->type_base;
}

/* --- call sites
 * ----------------------------------------------------------------------------------------------------
 */

static bool site_number(struct parse *parse, uint64_t *value)
{
	/* plain numbers: nothing to be relative to */
	return !(parse->site_enc & 0xf0) &&
	       ovm_cfi_read_encoded(&parse->p, parse->sites_end, parse->site_enc, ovm_va_of(0),
				    ovm_va_of(0), value);
}

static bool read_site(struct parse *parse, uint64_t size)
{
	struct ovm_lsda *out = parse->out;
	uint64_t start, len, landing, action;
	if (!site_number(parse, &start) || !site_number(parse, &len) ||
	    !site_number(parse, &landing) || !ovm_cfi_uleb(&parse->p, parse->sites_end, &action))
		return false;
	if (start > size || len > size - start)
		return false;
	if (out->sites.n && start < out->sites.v[out->sites.n - 1].hi)
		return false;
	if (landing &&
	    !ovm_image_code(parse->image, ovm_va_add(out->lp_start, (int64_t)landing), 1))
		return false;
	if (len)
		ovm_vec_push(&out->sites, (struct ovm_callsite){
					      .lo = (uint32_t)start,
					      .hi = (uint32_t)(start + len),
					      .landing = landing,
					      .action = action,
					  });
	return true;
}

static bool read_sites(struct parse *parse, uint64_t size)
{
	while (parse->p < parse->sites_end) {
		if (!read_site(parse, size))
			return false;
	}
	parse->steps = STEPS_MIN + (uint64_t)STEPS_PER_SITE * parse->out->sites.n;
	return true;
}

/* --- actions, filters, types
 * ----------------------------------------------------------------------------------------- */

static bool note_type(struct parse *parse, uint64_t idx)
{
	if (idx > TYPES_MAX)
		return false;
	if (idx > parse->n_types)
		parse->n_types = idx;
	return true;
}

/* The list of an exception specification: filter -1 begins at the type base, -2 one byte later, ...
 */
static bool note_filter(struct parse *parse, int64_t filter)
{
	uint64_t skip = (uint64_t)(-(filter + 1)), idx;
	if (!parse->type_base || skip >= (uint64_t)(parse->end - parse->type_base))
		return false;
	const uint8_t *p = parse->type_base + skip;
	do {
		if (!parse->steps-- || !ovm_cfi_uleb(&p, parse->end, &idx) ||
		    !note_type(parse, idx))
			return false;
	} while (idx);
	uint32_t len = (uint32_t)(p - parse->type_base);
	if (len > parse->out->filters_len)
		parse->out->filters_len = len;
	return true;
}

static bool walk_chain(struct parse *parse, uint64_t action)
{
	const uint8_t *first = parse->sites_end;
	const uint8_t *end = parse->type_base ? parse->type_base : parse->end;
	uint64_t at = action - 1;
	for (unsigned n = 0; n < CHAIN_MAX; n++) {
		int64_t filter, next;
		if (!parse->steps || at >= (uint64_t)(end - first))
			return false;
		parse->steps--;
		const uint8_t *p = first + at, *field;
		if (!ovm_cfi_sleb(&p, end, &filter))
			return false;
		field = p;
		if (!ovm_cfi_sleb(&p, end, &next))
			return false;
		if (p - first > UINT32_MAX)
			return false;
		if ((uint32_t)(p - first) > parse->out->actions_len)
			parse->out->actions_len = (uint32_t)(p - first);
		if (filter > 0 && (!parse->type_base || !note_type(parse, (uint64_t)filter)))
			return false;
		if (filter < 0 && !note_filter(parse, filter))
			return false;
		if (!next)
			return true;
		at = (uint64_t)(field - first) +
		     (uint64_t)next; /* before the start wraps, and is caught above */
	}
	return false;
}

static bool walk_actions(struct parse *parse)
{
	struct ovm_lsda *out = parse->out;
	uint64_t last = 0;
	out->actions = parse->sites_end;
	for (uint32_t i = 0; i < out->sites.n; i++) {
		uint64_t action = out->sites.v[i].action;
		if (action && action != last && !walk_chain(parse, action))
			return false;
		last = action;
	}
	return true;
}

static unsigned type_size(uint8_t enc)
{
	if ((enc & 0x70) == 0x50)
		return 0;
	switch (enc & 0x0f) {
	case 0x0:
	case 0x4:
	case 0x8:
	case 0xc:
		return 8;
	case 0x3:
	case 0xb:
		return 4;
	case 0x2:
	case 0xa:
		return 2;
	default:
		return 0;
	}
}

/* An absolute pointer in a file that is loaded anywhere is what its relocation says, not what is in
 * the file. */
static bool relocated(const struct parse *parse, ovm_va at, uint64_t *value)
{
	const struct ovm_reloc *reloc = ovm_image_reloc(parse->image, at);
	if (!reloc)
		return true;
	if (reloc->type != R_X86_64_RELATIVE)
		return false;
	*value = (uint64_t)reloc->addend;
	return true;
}

static bool read_types(struct parse *parse)
{
	struct ovm_lsda *out = parse->out;
	if (!parse->type_base)
		return true;
	unsigned size = type_size(out->type_enc);
	uint64_t room = (uint64_t)(parse->type_base - out->actions) - out->actions_len;
	if (parse->n_types && (!size || parse->n_types > room / size))
		return false;
	for (uint64_t i = 1; i <= parse->n_types; i++) {
		uint64_t value;
		parse->p = parse->type_base - i * size;
		ovm_va at = here(parse);
		if (!ovm_cfi_read_encoded(&parse->p, parse->type_base, out->type_enc, at,
					  ovm_va_of(0), &value) ||
		    !relocated(parse, at, &value))
			return false;
		ovm_vec_push(&out->types, ovm_va_of(value));
	}
	out->filters = parse->type_base;
	return true;
}

/* --- public
 * ----------------------------------------------------------------------------------------------------------
 */

int ovm_lsda_parse(const struct ovm_image *image, ovm_va lsda_va, ovm_va lo, uint64_t size,
		   struct ovm_lsda *out)
{
	const struct ovm_segment *seg = ovm_image_segment(image, lsda_va);
	if (!seg || lsda_va.v - seg->lo.v >= seg->filesz || size > UINT32_MAX)
		return OVM_REFUSED;
	uint64_t avail = seg->filesz - (lsda_va.v - seg->lo.v);
	struct ovm_lsda lsda = {.va = lsda_va};
	struct parse parse = {.image = image, .va = lsda_va, .out = &lsda};
	parse.bytes = parse.p = ovm_image_at(image, lsda_va, avail);
	parse.end = parse.p + avail;
	if (!read_head(&parse, lo) || !read_sites(&parse, size) || !walk_actions(&parse) ||
	    !read_types(&parse)) {
		ovm_lsda_fini(&lsda);
		return OVM_REFUSED;
	}
	*out = lsda;
	return 0;
}

void ovm_lsda_fini(struct ovm_lsda *lsda)
{
	if (!lsda)
		return;
	ovm_vec_free(&lsda->sites);
	ovm_vec_free(&lsda->types);
}

const struct ovm_callsite *ovm_lsda_site(const struct ovm_lsda *lsda, uint32_t off)
{
	uint32_t lo = 0, hi = lsda->sites.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (lsda->sites.v[mid].hi <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == lsda->sites.n || off < lsda->sites.v[lo].lo)
		return NULL;
	return &lsda->sites.v[lo];
}
