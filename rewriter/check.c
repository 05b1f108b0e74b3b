/* The proof that an overlay does what the original does: a simulation relation, checked pair by
 * pair.
 *
 * The map claims pairs (overlay offset, original address). Let R be all of them but those of jumps
 * we made. For each pair the two instructions must be the same, and each way on from the one must
 * arrive where the same way on from the other leads:
 *
 *   overlay            original
 *   +40 test           1000 test           same bytes
 *   +42 jne +10        1002 je 1080        inverted: taken must arrive at 1004, falling through at
 * 1080 +44 jmp 1080       1004 ...            +44 is a jump of ours: it arrives at original 1080,
 * which is right
 *
 * "Arrives" means: direct jumps and nops skipped on either side, the overlay stands at a member of
 * R with that original address, or is back in the original at that address. As every step from R
 * leads into R or to the original, nothing reachable is left out, in whatever order the pairs are
 * looked at: one pass over the map does it, without a worklist.
 *
 * Instrumented copies have counters between pairs, which "arrives" looks through and check_count.c
 * proves harmless, and call thunks where the original calls indirectly (check_value.c). Optimized
 * ones have comparisons and direct calls there (check_promote.c).
 *
 * Then the patches (check_patch.c), which enter R from the original; the tables (check_table.c),
 * whose entries must arrive too; and the unwind data (check_unwind.c). Nothing of what built the
 * overlay is used: Zydis decodes, and only overlay bytes and the map are read.
 *
 * Axioms, stated and not proved: a jump table is as long as claimed, its base is as claimed, the
 * register that held its entry is dead after the jump; control enters original code only at
 * instruction starts that xref.c knows; after a trap there is nothing.
 */
#include "rewriter/check_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	MAX_CHAIN = 256, /* direct jumps and nops skipped in the original */
	MAX_SKIP = 200,	 /* and in the overlay */
	INSN_MAX = 15,
};

bool ovm_check_no(struct ovm_check *check, ovm_va old, uint32_t off, const char *fmt, ...)
{
	va_list ap;
	check->result->bad_old = old;
	check->result->bad_off = off;
	va_start(ap, fmt);
	vsnprintf(check->result->reason, sizeof(check->result->reason), fmt, ap);
	va_end(ap);
	return false;
}

const uint8_t *ovm_check_old_code(struct ovm_check *check, uint64_t va, size_t *avail)
{
	const struct ovm_segment *segment = check->segment;
	if (!segment || va - segment->lo.v >= segment->filesz) {
		segment = check->segment = ovm_image_segment(check->image, ovm_va_of(va));
		if (!segment || va - segment->lo.v >= segment->filesz)
			return NULL;
	}
	uint64_t rest = segment->filesz - (va - segment->lo.v);
	*avail = rest < INSN_MAX ? (size_t)rest : INSN_MAX;
	return ovm_image_code(check->image, ovm_va_of(va), *avail);
}

static bool decode_old(struct ovm_check *check, uint64_t va, const uint8_t **p,
		       struct ovm_check_insn *out)
{
	size_t avail;
	*p = ovm_check_old_code(check, va, &avail);
	return *p && ovm_check_decode_known(check->known, &check->dec, *p, avail, va, out);
}

static bool decode_new(const struct ovm_check *check, uint32_t off, struct ovm_check_insn *out)
{
	if (off >= check->code_end)
		return false;
	uint32_t rest = check->code_end - off;
	return ovm_check_decode_known(check->known, &check->dec, check->overlay->bytes + off,
				      rest < INSN_MAX ? rest : INSN_MAX,
				      check->overlay->base.v + off, out);
}

/* --- arriving
 * --------------------------------------------------------------------------------------------------
 */

static bool is_copy(const struct ovm_map_entry *entry)
{
	return !(entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD | OVM_MAP_GUARD));
}

/* A member of R: a copy, or the guard of a promoted call, which check_promote.c proves. */
static bool is_arrival(const struct ovm_map_entry *entry)
{
	return is_copy(entry) ||
	       (entry->flags & (OVM_MAP_SYNTH | OVM_MAP_GUARD)) == (OVM_MAP_SYNTH | OVM_MAP_GUARD);
}

/* The last entry that starts at or before @off, NULL if none. */
static const struct ovm_map_entry *entry_before(const struct ovm_check *check, uint32_t off)
{
	const struct ovm_map *map = &check->overlay->map;
	if (off >= check->code_end)
		return NULL;
	uint32_t i = check->bucket[off / OVM_CHECK_BUCKET];
	while (i < map->v.n && map->v.v[i].off <= off)
		i++;
	return i ? &map->v.v[i - 1] : NULL;
}

/* @entry, or what control runs into from there through counters and nops behind calls: neither
 * changes what counts, which check_count.c proves of each. */
static const struct ovm_map_entry *behind_counters(const struct ovm_check *check,
						   const struct ovm_map_entry *entry)
{
	const struct ovm_map *map = &check->overlay->map;
	const struct ovm_map_entry *last = map->v.v + map->v.n - 1;
	for (unsigned i = 0; i < MAX_SKIP && (entry->flags & (OVM_MAP_COUNT | OVM_MAP_EXIT)) &&
			     entry < last && entry[1].off == entry->off + entry->new_len;
	     i++)
		entry++;
	return entry;
}

/* What is executed from @off on, counters left aside; NULL if no entry starts there. */
static const struct ovm_map_entry *entry_at(const struct ovm_check *check, uint32_t off)
{
	const struct ovm_map_entry *entry = entry_before(check, off);
	return entry && entry->off == off ? behind_counters(check, entry) : NULL;
}

/* Glued prefixes: code may jump over `lock`. Then both sides skip the same prefixes of one pair. */
static bool is_behind_lock(struct ovm_check *check, uint32_t off, uint64_t va)
{
	const struct ovm_map_entry *entry = entry_before(check, off);
	uint32_t skip = entry ? off - entry->off : 0;
	size_t avail;
	if (!skip || !is_copy(entry) || skip >= entry->new_len || entry->old.v + skip != va)
		return false;
	const uint8_t *old = ovm_check_old_code(check, entry->old.v, &avail);
	for (uint32_t i = 0; i < skip; i++)
		if (!old || i >= avail || old[i] != 0xf0 ||
		    check->overlay->bytes[entry->off + i] != 0xf0)
			return false;
	return true;
}

struct chain { /* original addresses that come to the same: nops and direct jumps lead from each to
		  the next */
	uint64_t v[MAX_CHAIN];
	unsigned n;
};

static void follow_original(struct ovm_check *check, uint64_t va, struct chain *out)
{
	struct ovm_check_insn insn;
	const uint8_t *p;
	out->n = 0;
	while (out->n < MAX_CHAIN) {
		out->v[out->n++] = va;
		if (!decode_old(check, va, &p, &insn))
			return;
		if (insn.kind == OVM_INSN_NOP)
			va += insn.len;
		else if (insn.kind == OVM_INSN_JMP)
			va = insn.target;
		else
			return;
	}
}

static bool in_chain(const struct chain *chain, uint64_t va)
{
	for (unsigned i = 0; i < chain->n; i++)
		if (chain->v[i] == va)
			return true;
	return false;
}

bool ovm_check_leaves_well(struct ovm_check *check, uint64_t to, uint64_t va)
{
	struct chain from, due;
	if (ovm_check_is_overwritten(check, to))
		return false;
	if (to == va)
		return true;
	follow_original(check, va, &due);
	if (in_chain(&due, to))
		return true;
	follow_original(check, to, &from);
	return in_chain(&from, due.v[due.n - 1]);
}

static bool overlay_off(const struct ovm_check *check, uint64_t va, uint32_t *off)
{
	if (va - check->overlay->base.v >= check->overlay->size)
		return false;
	*off = (uint32_t)(va - check->overlay->base.v);
	return true;
}

static bool arrives_slowly(struct ovm_check *check, uint32_t off, uint64_t va)
{
	struct chain due;
	struct ovm_check_insn insn;
	due.n = 0; /* nothing else is worth clearing */
	for (unsigned i = 0; i < MAX_SKIP; i++) {
		const struct ovm_map_entry *entry = entry_at(check, off);
		bool arrival = entry && is_arrival(entry);
		if (entry)
			off = entry->off;
		if (arrival && entry->old.v == va)
			return true;
		if (arrival && !due.n)
			follow_original(check, va, &due);
		if (arrival && in_chain(&due, entry->old.v))
			return true;
		if (!decode_new(check, off, &insn))
			return false;
		if (insn.kind == OVM_INSN_NOP)
			off += insn.len;
		else if (insn.kind != OVM_INSN_JMP)
			return is_behind_lock(check, off, va);
		else if (!overlay_off(check, insn.target, &off))
			return ovm_check_leaves_well(check, insn.target, va);
	}
	return false;
}

bool ovm_check_arrives(struct ovm_check *check, uint32_t off, uint64_t va)
{
	const struct ovm_map_entry *entry = entry_at(check, off);
	return (entry && is_arrival(entry) && entry->old.v == va) || arrives_slowly(check, off, va);
}

const struct ovm_map_entry *ovm_check_copy_at(const struct ovm_check *check, uint32_t off)
{
	const struct ovm_map_entry *entry = entry_before(check, off);
	return entry && entry->off == off && is_copy(entry) ? entry : NULL;
}

bool ovm_check_goes_to(struct ovm_check *check, uint64_t to, uint64_t va)
{
	uint32_t off;
	return overlay_off(check, to, &off) ? ovm_check_arrives(check, off, va)
					    : ovm_check_leaves_well(check, to, va);
}

/* --- one pair
 * --------------------------------------------------------------------------------------------------
 */

struct pair {
	const struct ovm_map_entry *entry;
	const uint8_t *a, *b; /* original and overlay bytes */
	struct ovm_check_insn old, new;
	uint8_t n_sum; /* bytes of the lea that belongs to a load from a table (check_table.c) */
};

static bool fails(struct ovm_check *check, const struct pair *pair, const char *what)
{
	return ovm_check_no(check, pair->entry->old, pair->entry->off, "%s", what);
}

static uint64_t end_of(const struct pair *pair)
{
	return pair->entry->old.v + pair->old.len;
}

static bool falls_well(struct ovm_check *check, const struct pair *pair, uint64_t va)
{
	const struct ovm_map_entry *next = pair->entry + 1, *map = check->overlay->map.v.v;
	uint32_t off = pair->entry->off + pair->new.len + pair->n_sum;
	if (next < map + check->overlay->map.v.n && next->off == off) {
		next = behind_counters(check, next);
		if (next->old.v == va && is_arrival(next))
			return true;
	}
	return ovm_check_arrives(check, off, va);
}

/* Conditional branches: the same, or inverted and crossed. */
static bool cond_is_same(struct ovm_check *check, const struct pair *pair)
{
	const struct ovm_check_insn *old = &pair->old, *new = &pair->new;
	bool crossed = old->kind == OVM_INSN_JCC && new->cc == (old->cc ^ 1);
	if (old->kind == OVM_INSN_JCC && !crossed && new->cc != old->cc)
		return fails(check, pair, "another condition");
	if (old->kind == OVM_INSN_JCXZ &&
	    (old->len != new->len || memcmp(pair->a, pair->b, old->field_off)))
		return fails(check, pair, "another loop instruction");
	if (!ovm_check_goes_to(check, new->target, crossed ? end_of(pair) : old->target))
		return fails(check, pair, "a branch goes elsewhere");
	if (!falls_well(check, pair, crossed ? old->target : end_of(pair)))
		return fails(check, pair, "falls through to something else");
	return true;
}

/* `call stub` became `call *slot(%rip)`: right if the stub, decoded here, does nothing but jump
 * through that slot. */
static bool is_got_call(struct ovm_check *check, const struct pair *pair)
{
	static const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
	const struct ovm_check_insn *old = &pair->old, *new = &pair->new;
	struct ovm_check_insn jump;
	size_t avail;
	if (old->kind != OVM_INSN_CALL || new->kind != OVM_INSN_CALL_IND || !new->is_rip ||
	    new->len != 6) /* ff 15 disp32: no room for a prefix */
		return false;
	uint64_t stub = old->target;
	const uint8_t *p = ovm_check_old_code(check, stub, &avail);
	if (p && avail > sizeof(endbr64) && !memcmp(p, endbr64, sizeof(endbr64))) {
		stub += sizeof(endbr64);
		p = ovm_check_old_code(check, stub, &avail);
	}
	return p && ovm_check_decode(&check->dec, p, avail, stub, &jump) &&
	       jump.kind == OVM_INSN_JMP_IND && jump.is_rip && jump.target == new->target;
}

/* `call *X` became a call of a thunk that counts where X leads. */
static bool is_counted_call(struct ovm_check *check, const struct pair *pair)
{
	uint32_t off;
	if (pair->old.kind != OVM_INSN_CALL_IND || pair->new.kind != OVM_INSN_CALL)
		return false;
	return overlay_off(check, pair->new.target, &off) &&
	       ovm_check_value_call(check, pair->entry->old, pair->a, &pair->old, &pair->new,
				    entry_before(check, off));
}

static bool call_is_same(struct ovm_check *check, const struct pair *pair)
{
	const struct ovm_check_insn *old = &pair->old, *new = &pair->new;
	if (old->len != new->len || memcmp(pair->a, pair->b, old->field_off))
		return fails(check, pair, "another call instruction");
	if (!ovm_check_goes_to(check, new->target, old->target))
		return fails(check, pair, "a call goes elsewhere");
	return true;
}

static bool flags_are_right(struct ovm_check *check, const struct pair *pair)
{
	bool call = pair->old.kind == OVM_INSN_CALL || pair->old.kind == OVM_INSN_CALL_IND;
	bool syscall = pair->old.kind == OVM_INSN_SYSCALL;
	if (!!(pair->entry->flags & OVM_MAP_CALL) != call ||
	    !!(pair->entry->flags & OVM_MAP_SYSCALL) != syscall)
		return fails(check, pair, "the map is wrong about calls");
	return true;
}

static bool pair_is_same(struct ovm_check *check, const struct pair *pair)
{
	const struct ovm_check_insn *old = &pair->old, *new = &pair->new;
	if (is_got_call(check, pair) || is_counted_call(check, pair)) {
		if (!falls_well(check, pair, end_of(pair)))
			return fails(check, pair, "continues elsewhere");
		return true;
	}
	if (old->kind != new->kind)
		return fails(check, pair, "another kind of instruction");
	switch ((enum ovm_insn_kind)old->kind) {
	case OVM_INSN_JMP:
		if (!ovm_check_goes_to(check, new->target, old->target))
			return fails(check, pair, "a jump goes elsewhere");
		return true;
	case OVM_INSN_JCC:
	case OVM_INSN_JCXZ:
		return cond_is_same(check, pair);
	case OVM_INSN_CALL:
		if (!call_is_same(check, pair))
			return false;
		break;
	case OVM_INSN_REFUSE:
		return fails(check, pair, "an instruction that cannot be copied");
	default:
		if ((pair->n_sum || !ovm_check_same(pair->a, old, pair->b, new)) &&
		    !ovm_check_table_load(check, pair->entry->old, pair->a, old, pair->b, new,
					  pair->n_sum))
			return fails(check, pair, "instructions differ");
		if (old->kind == OVM_INSN_JMP_IND || old->kind == OVM_INSN_RET ||
		    old->kind == OVM_INSN_TRAP)
			return true;
	}
	if (!falls_well(check, pair, end_of(pair)))
		return fails(check, pair, "continues elsewhere");
	return true;
}

static bool check_copy(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	struct pair pair = {.entry = entry, .b = check->overlay->bytes + entry->off};
	if (!decode_old(check, entry->old.v, &pair.a, &pair.old))
		return fails(check, &pair, "the original does not decode");
	if (pair.old.kind == OVM_INSN_JMP_IND && entry->old_len == pair.old.len && !entry->flags &&
	    ovm_check_table_jump(check, entry, pair.a, &pair.old)) {
		check->result->n_pairs++;
		return true;
	}
	bool equal = entry->new_len == pair.old.len && !memcmp(pair.a, pair.b, pair.old.len);
	if (equal && !pair.old.field_len)
		pair.new = pair.old; /* equal bytes decode alike */
	else if (!decode_new(check, entry->off, &pair.new))
		return fails(check, &pair, "the copy does not decode");
	if (entry->new_len > pair.new.len &&
	    ovm_check_table_sum(check, pair.a, &pair.old, pair.b + pair.new.len,
				entry->new_len - pair.new.len))
		pair.n_sum = (uint8_t)(entry->new_len - pair.new.len);
	if (pair.new.len + pair.n_sum != entry->new_len || pair.old.len != entry->old_len)
		return fails(check, &pair, "the map is wrong about lengths");
	check->result->n_pairs++;
	return flags_are_right(check, &pair) && pair_is_same(check, &pair);
}

/* A jump of ours, or nops that are run through: about to execute `old`. */
static bool check_added(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	struct ovm_check_insn insn;
	uint32_t off = entry->off, end = off + entry->new_len;
	if (!decode_new(check, off, &insn))
		return ovm_check_no(check, entry->old, off,
				    "a jump that was added does not decode");
	if (!(entry->flags & OVM_MAP_PAD)) {
		if (insn.kind != OVM_INSN_JMP || insn.len != entry->new_len)
			return ovm_check_no(check, entry->old, off, "what was added is no jump");
		if (!ovm_check_goes_to(check, insn.target, entry->old.v))
			return ovm_check_no(check, entry->old, off,
					    "a jump that was added goes elsewhere");
		return true;
	}
	for (; off < end; off += insn.len)
		if (!decode_new(check, off, &insn) || insn.kind != OVM_INSN_NOP ||
		    insn.len > end - off)
			return ovm_check_no(check, entry->old, off,
					    "padding that is run through is no nop");
	if (!ovm_check_arrives(check, end, entry->old.v))
		return ovm_check_no(check, entry->old, off, "padding leads elsewhere");
	return true;
}

static bool check_entry_of_map(struct ovm_check *check, const struct ovm_map_entry *entry)
{
	if (entry->flags & OVM_MAP_GUARD)
		return ovm_check_promoted(check, entry);
	if (entry->flags & (OVM_MAP_COUNT | OVM_MAP_EXIT))
		return ovm_check_count_entry(check, entry);
	if (entry->flags & OVM_MAP_THUNK) {
		if (!ovm_check_is_thunk(entry))
			return ovm_check_no(check, entry->old, entry->off,
					    "a thunk that claims to be more");
		return true;
	}
	if (is_copy(entry))
		return check_copy(check, entry);
	return !(entry->flags & OVM_MAP_SYNTH) || check_added(check, entry);
}

bool ovm_check_map(struct ovm_check *check, uint32_t first, uint32_t end)
{
	for (uint32_t i = first; i < end; i++)
		if (!check_entry_of_map(check, &check->overlay->map.v.v[i]))
			return false;
	return true;
}
