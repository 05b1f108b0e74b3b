/* Layout of a .gcc_except_table record:
 *
 *   ff (no LPStart)  type_enc  uleb(bytes to type base)  0b uleb(call-site bytes)  {sdata4 start,
 * len, pad, uleb action}* actions  [0..3 zero bytes]  type[n] ... type[1]  <- type base, 4-aligned
 * filters
 *
 * Landing pads lie in original code, in front of the overlay: their offsets from the FDE's start
 * are negative. An LPStart that points to the original would do for g++, but compilers never write
 * one, and personalities of other languages do not read it: druntime aborts at a pc-relative one,
 * compiler-rt's for C skips it. All of them read signed 4-byte call sites.
 *
 * The distance to the type base is a uleb whose own length moves the base: it is widened with 80
 * bytes until it fits. The action table and the filters are position-independent and copied
 * verbatim.
 */
#include "rewriter/lsda_write.h"

#include <stdlib.h>

enum { /* DW_EH_PE_* */
       PE_OMIT = 0xff,
       PE_SDATA4 = 0x0b,
       PE_FORMAT = 0x0f,
       PE_APPLICATION = 0x70,
       PE_PCREL = 0x10,
       PE_SIGNED = 0x08,
};

/* Bytes of one type entry, 0 if they vary or are unknown. */
static unsigned type_size(uint8_t enc)
{
	switch (enc & PE_FORMAT) {
	case 0x00: /* absptr */
	case 0x04: /* udata8 */
	case 0x0c: /* sdata8 */
		return 8;
	case 0x02: /* udata2 */
	case 0x0a: /* sdata2 */
		return 2;
	case 0x03: /* udata4 */
	case 0x0b: /* sdata4 */
		return 4;
	}
	return 0;
}

bool ovm_lsda_can_move(const struct ovm_lsda *lsda, bool is_dyn)
{
	if (lsda->type_enc == PE_OMIT || !lsda->types.n)
		return true;
	unsigned application = lsda->type_enc & PE_APPLICATION;
	if (!type_size(lsda->type_enc) || (application != 0 && application != PE_PCREL))
		return false;
	return application == PE_PCREL || !is_dyn;
}

static bool put_type(struct ovm_buf *out, ovm_va base, uint8_t enc, ovm_va type)
{
	uint64_t x = type.v;
	unsigned size = type_size(enc);
	if (x && (enc & PE_APPLICATION) == PE_PCREL) {
		x -= base.v + out->n;
		if (!x) /* would read as "catch all" */
			return false;
	}
	if (size == 2)
		ovm_buf_u16(out, (uint16_t)x);
	else if (size == 4)
		ovm_buf_u32(out, (uint32_t)x);
	else
		ovm_buf_u64(out, x);
	if (size == 8)
		return true;
	unsigned bits = size * 8;
	int64_t s = (int64_t)(x << (64 - bits)) >> (64 - bits);
	return enc & PE_SIGNED ? (uint64_t)s == x : x >> bits == 0;
}

static void put_uleb_wide(struct ovm_buf *out, uint64_t x, unsigned len)
{
	for (unsigned i = 0; i + 1 < len; i++, x >>= 7)
		ovm_buf_u8(out, (uint8_t)((x & 0x7f) | 0x80));
	ovm_buf_u8(out, (uint8_t)x);
}

static unsigned uleb_len(uint64_t x)
{
	unsigned n = 1;
	for (; x >>= 7;)
		n++;
	return n;
}

/* @pads: what landing pads count from, from where they are to count. */
static bool put_sites(struct ovm_buf *out, int64_t pads, const ovm_callsites *sites)
{
	bool ok = true;
	for (uint32_t i = 0; i < sites->n; i++) {
		const struct ovm_callsite *site = &sites->v[i];
		int64_t pad = site->landing ? (int64_t)site->landing + pads : 0;
		ok &= pad == (int32_t)pad && !pad == !site->landing && site->hi <= INT32_MAX;
		ovm_buf_u32(out, site->lo);
		ovm_buf_u32(out, site->hi - site->lo);
		ovm_buf_u32(out, (uint32_t)pad);
		ovm_buf_uleb(out, site->action);
	}
	return ok;
}

/* type_enc and the distance to the type base, for @rest bytes between that distance and the type
 * entries. */
static uint32_t put_type_base(struct ovm_buf *out, ovm_va base, const struct ovm_lsda *lsda,
			      uint64_t rest)
{
	uint64_t types = (uint64_t)lsda->types.n * type_size(lsda->type_enc);
	ovm_buf_u8(out, lsda->type_enc);
	for (unsigned len = 1;; len++) {
		uint64_t end = base.v + out->n + len + rest + types;
		uint32_t pad = (uint32_t)(-end & 3);
		if (uleb_len(rest + pad + types) > len)
			continue;
		put_uleb_wide(out, rest + pad + types, len);
		return pad;
	}
}

static bool uses_actions(const ovm_callsites *sites)
{
	for (uint32_t i = 0; i < sites->n; i++)
		if (sites->v[i].action)
			return true;
	return false;
}

bool ovm_lsda_write(struct ovm_buf *out, ovm_va base, ovm_va code, const struct ovm_lsda *lsda,
		    const ovm_callsites *sites)
{
	bool actions = uses_actions(sites);
	bool types = actions && lsda->type_enc != PE_OMIT;
	uint32_t pad = 0;
	struct ovm_buf table = {0};
	bool ok = put_sites(&table, (int64_t)(lsda->lp_start.v - code.v), sites);
	ovm_buf_u8(out, PE_OMIT);
	uint64_t rest = 1 + uleb_len(table.n) + table.n + (actions ? lsda->actions_len : 0);
	if (types)
		pad = put_type_base(out, base, lsda, rest);
	else
		ovm_buf_u8(out, PE_OMIT);
	ovm_buf_u8(out, PE_SDATA4);
	ovm_buf_uleb(out, table.n);
	ovm_buf_put(out, table.v, table.n);
	ovm_buf_free(&table);
	if (actions)
		ovm_buf_put(out, lsda->actions, lsda->actions_len);
	if (!types)
		return ok;
	ovm_buf_fill(out, 0, pad);
	for (uint32_t i = lsda->types.n; i-- > 0;)
		ok &= put_type(out, base, lsda->type_enc, lsda->types.v[i]);
	ovm_buf_put(out, lsda->filters, lsda->filters_len);
	return ok;
}
