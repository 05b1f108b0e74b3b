/* Private jump tables: each entry leads where the original's leads, and who reads the copy reads it
 * as the original was read.
 *
 *   claim         original load              copy
 *   4 bytes       movslq (%rdx,%rax,4),%rax  movslq delta(%rdx,%rax,4),%rax
 *   8, absolute   mov T(,%rax,8),%rax        mov T'(,%rax,8),%rax
 *   8, relocated  mov (%rdx,%rax,8),%rax     mov delta(%rdx,%rax,8),%rax
 *                                            lea (%rdx,%rax),%rax
 *                 jmp *(%rdx,%rax,8)         the two above, jmp *%rax
 *
 * The entries of a relocated table are addresses that the dynamic linker has put there. The copy's
 * are differences from the table, so that they need no relocation, and the lea makes addresses of
 * them. All that is one entry of the map: nothing arrives in between, a thread that is stopped
 * there stays in this copy, and behind it the register holds a code address again, as in the
 * original. It needs the base register to outlive the load and touches no flags.
 *
 * Axioms, beside those of check.c: where a claim speaks of a relocated table, the load's base
 * register and displacement are the table's address; where the load is the jump, its index register
 * is dead behind it.
 */
#include "rewriter/check_private.h"

#include <stdlib.h>
#include <string.h>

/* --- loads --- */

struct load_key {
	uint64_t va;
	uint32_t idx;
};

static int by_va(const void *a, const void *b)
{
	const struct load_key *x = a, *y = b;
	return (x->va > y->va) - (x->va < y->va);
}

void ovm_check_index_loads(struct ovm_check *check)
{
	uint32_t n = check->overlay->tables.n;
	struct load_key *keys = ovm_alloc_array(n + 1, sizeof(*keys));
	for (uint32_t i = 0; i < n; i++)
		keys[i] = (struct load_key){check->overlay->tables.v[i].old_load.v, i};
	qsort(keys, n, sizeof(*keys), by_va);
	check->by_load = ovm_alloc_array(n + 1, sizeof(*check->by_load));
	for (uint32_t i = 0; i < n; i++)
		check->by_load[i] = keys[i].idx;
	free(keys);
}

/* The claims are sorted by load: the first at or behind @va. */
static uint32_t find_claim(const struct ovm_check *check, uint64_t va)
{
	uint32_t lo = 0, hi = check->overlay->tables.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (check->overlay->tables.v[check->by_load[mid]].old_load.v < va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool is_relocated(const struct ovm_table_copy *claim)
{
	return claim->entry_size == 8 && claim->base.v;
}

/* From the original table to its copy. */
static int64_t delta_of(const struct ovm_check *check, const struct ovm_table_copy *claim)
{
	return (int64_t)(check->overlay->base.v + claim->new_off - claim->old_table.v);
}

bool ovm_check_table_load(const struct ovm_check *check, ovm_va va, const uint8_t *a,
			  const struct ovm_check_insn *old, const uint8_t *b,
			  const struct ovm_check_insn *new, unsigned n_sum)
{
	for (uint32_t i = find_claim(check, va.v); i < check->overlay->tables.n; i++) {
		const struct ovm_table_copy *claim = &check->overlay->tables.v[check->by_load[i]];
		if (claim->old_load.v != va.v)
			return false;
		int64_t delta = delta_of(check, claim);
		if (is_relocated(claim) == !!n_sum &&
		    ovm_check_same_load(a, old, b, new, delta, claim->entry_size))
			return true;
	}
	return false;
}

/* The operands of `mov disp(base, index, 8), dst` and of `lea disp(base, index), dst`. */
struct sum {
	unsigned dst, base, index, scale; /* registers by hardware number; log2 of the scale */
	int64_t disp;
};

enum { REX = 0x40, REX_W = 8, REX_R = 4, REX_X = 2, REX_B = 1, NO_INDEX = 4, NO_BASE = 5 };

/* REX.W @opcode with base and index register. */
static bool take_sum(const uint8_t *p, const struct ovm_check_insn *insn, uint8_t opcode,
		     struct sum *out)
{
	if (insn->kind != OVM_INSN_OTHER || insn->modrm_off != 2 || !insn->sib_off ||
	    (p[0] & (0xf0 | REX_W)) != (REX | REX_W) || p[1] != opcode)
		return false;
	unsigned mod = p[2] >> 6, sib = p[insn->sib_off];
	*out = (struct sum){.dst = (p[2] >> 3 & 7) | (p[0] & REX_R ? 8 : 0),
			    .base = (sib & 7) | (p[0] & REX_B ? 8 : 0),
			    .index = (sib >> 3 & 7) | (p[0] & REX_X ? 8 : 0),
			    .scale = sib >> 6,
			    .disp = insn->disp};
	return out->index != NO_INDEX && (mod || (sib & 7) != NO_BASE);
}

bool ovm_check_table_sum(const struct ovm_check *check, const uint8_t *a,
			 const struct ovm_check_insn *old, const uint8_t *sum, unsigned n)
{
	struct ovm_check_insn lea;
	struct sum load, add;
	return take_sum(a, old, 0x8b, &load) && load.base != load.dst &&
	       ovm_check_decode(&check->dec, sum, n, 0, &lea) && lea.len == n &&
	       take_sum(sum, &lea, 0x8d, &add) && add.dst == load.dst && add.index == load.dst &&
	       add.base == load.base && !add.scale && add.disp == load.disp;
}

struct table_jump { /* [3e] [REX] ff /4 with base, index and scale 8 */
	unsigned base, index, mod;
	bool is_notrack;
};

static bool take_jump(const uint8_t *p, const struct ovm_check_insn *insn, struct table_jump *out)
{
	unsigned op = insn->modrm_off - 1u, rex = 0;
	out->is_notrack = p[0] == 0x3e;
	if (!insn->sib_off || op > out->is_notrack + 1u)
		return false;
	if (op > out->is_notrack)
		rex = p[op - 1];
	unsigned sib = p[insn->sib_off];
	out->mod = p[insn->modrm_off] >> 6;
	out->base = (sib & 7) | (rex & REX_B ? 8 : 0);
	out->index = (sib >> 3 & 7) | (rex & REX_X ? 8 : 0);
	return (!rex || (rex & 0xf0) == REX) && sib >> 6 == 3 && out->index != NO_INDEX &&
	       out->base != out->index && (out->mod || (sib & 7) != NO_BASE);
}

/* Opcode, ModRM and SIB of an instruction that works on dst and memory at (base, index). */
static uint8_t *put_head(uint8_t *p, uint8_t opcode, unsigned mod, const struct table_jump *jump,
			 unsigned scale)
{
	unsigned reg = jump->index;
	*p++ =
	    (uint8_t)(REX | REX_W | (reg & 8 ? REX_R | REX_X : 0) | (jump->base & 8 ? REX_B : 0));
	*p++ = opcode;
	*p++ = (uint8_t)(mod << 6 | (reg & 7) << 3 | 4);
	*p++ = (uint8_t)(scale << 6 | (reg & 7) << 3 | (jump->base & 7));
	return p;
}

/* What the jump must have become: nothing is left open but @delta. */
static unsigned due_jump(const uint8_t *a, const struct ovm_check_insn *old,
			 const struct table_jump *jump, int64_t delta, uint8_t *out)
{
	uint8_t *p = put_head(out, 0x8b, 2, jump, 3);
	ovm_put32(p, (uint32_t)(old->disp + delta));
	p = put_head(p + 4, 0x8d, jump->mod, jump, 0);
	memcpy(p, a + old->sib_off + 1, old->disp_len);
	p += old->disp_len;
	if (jump->is_notrack)
		*p++ = 0x3e;
	if (jump->index & 8)
		*p++ = REX | REX_B;
	*p++ = 0xff;
	*p++ = (uint8_t)(0xe0 | (jump->index & 7));
	return (unsigned)(p - out);
}

bool ovm_check_table_jump(const struct ovm_check *check, const struct ovm_map_entry *entry,
			  const uint8_t *a, const struct ovm_check_insn *old)
{
	struct table_jump jump;
	uint8_t due[32];
	if (!take_jump(a, old, &jump))
		return false;
	for (uint32_t i = find_claim(check, entry->old.v); i < check->overlay->tables.n; i++) {
		const struct ovm_table_copy *claim = &check->overlay->tables.v[check->by_load[i]];
		int64_t delta = delta_of(check, claim);
		if (claim->old_load.v != entry->old.v)
			return false;
		if (!is_relocated(claim) || old->disp + delta != (int32_t)(old->disp + delta))
			continue;
		unsigned n = due_jump(a, old, &jump, delta, due);
		if (n == entry->new_len && !memcmp(due, check->overlay->bytes + entry->off, n))
			return true;
	}
	return false;
}

/* --- entries --- */

static bool check_entry(struct ovm_check *check, const struct ovm_table_copy *table, uint64_t at,
			const uint8_t *a, const uint8_t *b)
{
	bool wide = table->entry_size == 8;
	uint64_t base = table->base.v, off;
	ovm_va due;
	uint64_t to = base + (wide ? ovm_le64(b) : (uint64_t)(int64_t)(int32_t)ovm_le32(b));
	if (is_relocated(table)) {
		if (!ovm_image_relative(check->image, ovm_va_add(table->old_table, (int64_t)at),
					&due))
			return false;
		if (to == due.v)
			return true;
	} else {
		if (!memcmp(a, b, table->entry_size)) /* the original target, whatever it is */
			return true;
		due = ovm_va_of(base +
				(wide ? ovm_le64(a) : (uint64_t)(int64_t)(int32_t)ovm_le32(a)));
	}
	off = to - check->overlay->base.v;
	if (off < check->overlay->size)
		return ovm_check_arrives(check, (uint32_t)off, due.v);
	return ovm_image_code(check->image, due, 1) && ovm_check_leaves_well(check, to, due.v);
}

/* 4 bytes: relative to a base. 8: addresses, or in position-independent files differences from the
 * table. */
static bool is_known_shape(const struct ovm_check *check, const struct ovm_table_copy *table)
{
	if (table->entry_size == 4)
		return table->base.v;
	return table->entry_size == 8 &&
	       (check->image->is_dyn ? table->base.v && table->base.v == table->old_table.v
				     : !table->base.v);
}

/* Joined overlays (join.c) have tables between their code: no instruction stands in [@lo, @hi). */
static bool is_without_code(const struct ovm_check *check, uint64_t lo, uint64_t hi)
{
	const struct ovm_map *map = &check->overlay->map;
	uint32_t i = lo < check->code_end ? check->bucket[lo / OVM_CHECK_BUCKET] : map->v.n;
	if (i && (uint64_t)map->v.v[i - 1].off + map->v.v[i - 1].new_len > lo)
		return false;
	while (i < map->v.n && (uint64_t)map->v.v[i].off + map->v.v[i].new_len <= lo)
		i++;
	return i == map->v.n || map->v.v[i].off >= hi;
}

static bool check_table(struct ovm_check *check, const struct ovm_table_copy *table)
{
	const struct ovm_overlay *overlay = check->overlay;
	uint64_t size = (uint64_t)table->n_entries * table->entry_size;
	const uint8_t *old = ovm_image_readonly(check->image, table->old_table, size);
	if (!is_known_shape(check, table))
		return ovm_check_no(check, table->old_load, table->new_off,
				    "a table of unknown shape");
	if (!old || table->new_off > overlay->size || size > overlay->size - table->new_off ||
	    !is_without_code(check, table->new_off, table->new_off + size))
		return ovm_check_no(check, table->old_load, table->new_off,
				    "a table outside its memory");
	for (uint64_t i = 0; i < size; i += table->entry_size)
		if (!check_entry(check, table, i, old + i, overlay->bytes + table->new_off + i))
			return ovm_check_no(check, table->old_load, table->new_off + (uint32_t)i,
					    "entry %llu of a table goes elsewhere",
					    (unsigned long long)(i / table->entry_size));
	return true;
}

bool ovm_check_tables(struct ovm_check *check)
{
	const struct ovm_table_copy *last = NULL;
	for (uint32_t i = 0; i < check->overlay->tables.n; i++) {
		const struct ovm_table_copy *table = &check->overlay->tables.v[i];
		bool again = last && last->new_off == table->new_off &&
			     last->old_table.v == table->old_table.v &&
			     last->base.v == table->base.v && last->n_entries == table->n_entries &&
			     last->entry_size == table->entry_size;
		if (!again && !check_table(check, table))
			return false;
		last = table;
	}
	return true;
}
