/* Which region of the new build is which of the old?
 *
 * Regions are paired by whatever identifies them best, each round among those the rounds before
 * have left over:
 *
 *   name         both files say `parse_line`, once each       unstripped files, exported functions
 *   code         equal hash, once on both sides               most regions of a stripped file
 *   order        equal hash, several: the one that lies       thunks, instances of templates
 *                where its neighbours' pairs say
 *   alike        most code in blocks they share               edited functions of a stripped file
 *
 * For the last, every block of the new file has three ballots for old regions with a block like it:
 * of the same code, of the same opcodes between the same neighbours, of the same opcodes. The
 * second and third do not ask for registers and offsets, which one more variable may change
 * everywhere. What occurs in many regions does not vote.
 *
 * Limits: a function whose every block was edited is not found without a name; nor are functions
 * that were split or joined.
 */
#include "analyzer/stale_private.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

enum { MIN_ALIKE_BYTES = 16 }; /* less code in common is chance */

struct named {
	const char *name;
	uint32_t region;
};

static uint64_t add_sat(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}

static int cmp64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

#define sort(list, cmp)                                                                            \
	do {                                                                                       \
		if ((list)->n)                                                                     \
			qsort((list)->v, (list)->n, sizeof(*(list)->v), cmp);                      \
	} while (0)

/* --- the old side --- */

static int twin_cmp(const void *pa, const void *pb)
{
	const struct ovm_stale_twin *a = pa, *b = pb;
	int c = cmp64(a->key, b->key);
	return c ? c : cmp64(a->old, b->old);
}

/* What a block is known by to other regions' blocks, each a ballot of its own. */
enum { N_KEYS = 3 };

static void twin_keys(uint64_t hash, uint64_t keys[N_KEYS])
{
	keys[0] = ovm_blockhash_code(hash);
	keys[1] = ovm_blockhash_shape(hash) | UINT64_C(1) << 63;
	keys[2] = ovm_blockhash_opcodes(hash) | UINT64_C(1) << 62;
}

static void index_blocks(struct ovm_stale_match *m, uint32_t idx)
{
	struct ovm_stale_region *old = &m->old.v[idx];
	const struct ovm_prof_module *module = m->module;
	uint32_t i;
	OVM_LOWER_BOUND(&module->blocks, lo.v, old->lo.v, i);
	old->first = i;
	for (; i < module->blocks.n && module->blocks.v[i].lo.v < old->hi.v; i++) {
		const struct ovm_prof_block *block = &module->blocks.v[i];
		uint64_t last = block->last, room = old->hi.v - 1 - block->lo.v;
		last = last < room ? last : room;
		uint32_t bytes = last < UINT32_MAX ? (uint32_t)last + 1 : UINT32_MAX;
		uint64_t keys[N_KEYS];
		twin_keys(block->hash, keys);
		old->code = add_sat(old->code, (uint64_t)bytes * N_KEYS);
		for (int k = 0; k < N_KEYS; k++)
			ovm_vec_push(&m->twins, (struct ovm_stale_twin){keys[k], idx, bytes});
	}
	old->n = i - old->first;
}

/* Recorded regions may overlap in a hostile file: each ends where the next begins. */
static void collect_old(struct ovm_stale_match *m)
{
	const struct ovm_prof_module *module = m->module;
	for (uint32_t i = 0; i < module->regions.n; i++) {
		const struct ovm_prof_region *r = &module->regions.v[i];
		struct ovm_stale_region old = {
		    .lo = r->lo, .hi = r->hi, .hash = r->hash, .name = r->name, .now = OVM_NONE};
		if (i + 1 < module->regions.n && module->regions.v[i + 1].lo.v < old.hi.v)
			old.hi = module->regions.v[i + 1].lo;
		if (old.hi.v <= old.lo.v)
			continue;
		ovm_vec_push(&m->old, old);
		index_blocks(m, m->old.n - 1);
	}
	sort(&m->twins, twin_cmp);
}

/* --- the new side --- */

static int vote_cmp(const void *pa, const void *pb)
{
	const struct ovm_stale_vote *a = pa, *b = pb;
	return cmp64(a->old, b->old);
}

/* Adds up what region @now's blocks, the votes from @first on, have said. */
static void sum_votes(struct ovm_stale_match *m, uint32_t first)
{
	uint32_t kept = first;
	if (m->votes.n == first)
		return;
	qsort(m->votes.v + first, m->votes.n - first, sizeof(struct ovm_stale_vote), vote_cmp);
	for (uint32_t i = first + 1; i < m->votes.n; i++) {
		if (m->votes.v[i].old == m->votes.v[kept].old)
			m->votes.v[kept].bytes += m->votes.v[i].bytes;
		else
			m->votes.v[++kept] = m->votes.v[i];
	}
	m->votes.n = kept + 1;
}

static void vote_key(struct ovm_stale_match *m, uint32_t now, uint64_t key)
{
	uint32_t i, n = 0, max_twins = (uint32_t)OVM_TUNE(STALE_MAX_TWINS);
	OVM_LOWER_BOUND(&m->twins, key, key, i);
	while (i + n < m->twins.n && n <= max_twins && m->twins.v[i + n].key == key)
		n++;
	for (uint32_t k = 0; n <= max_twins && k < n; k++)
		ovm_vec_push(&m->votes, (struct ovm_stale_vote){m->twins.v[i + k].old, now,
								m->twins.v[i + k].bytes});
}

static void vote(struct ovm_stale_match *m, uint32_t now, const struct ovm_blockhash *hashes)
{
	uint32_t first = m->votes.n;
	uint64_t keys[N_KEYS];
	for (uint32_t bb = 0; bb < hashes->blocks.n; bb++) {
		twin_keys(hashes->blocks.v[bb].hash, keys);
		for (int k = 0; k < N_KEYS; k++)
			vote_key(m, now, keys[k]);
	}
	sum_votes(m, first);
}

static int keyed_cmp(const void *pa, const void *pb)
{
	const struct ovm_stale_keyed *a = pa, *b = pb;
	int c = cmp64(a->key, b->key);
	return c ? c : cmp64(a->region, b->region);
}

static void scan_image(struct ovm_stale_match *m, struct ovm_decoder *dec)
{
	struct ovm_blockhash hashes = {0};
	for (uint32_t i = 0; i < m->regions->v.n; i++) {
		const struct ovm_region *region = &m->regions->v.v[i];
		if (region->is_plt ||
		    ovm_blockhash_build(dec, m->image, region->lo, region->hi, &hashes))
			continue;
		m->hash[i] = hashes.hash;
		ovm_vec_push(&m->by_hash, (struct ovm_stale_keyed){hashes.hash, i});
		vote(m, i, &hashes);
	}
	ovm_blockhash_fini(&hashes);
	sort(&m->by_hash, keyed_cmp);
}

/* --- pairs --- */

static void pair(struct ovm_stale_match *m, uint32_t old, uint32_t now)
{
	m->old.v[old].now = now;
	m->old.v[old].is_same = m->old.v[old].hash && m->old.v[old].hash == m->hash[now];
	m->is_taken[now] = true;
}

static int named_cmp(const void *pa, const void *pb)
{
	const struct named *a = pa, *b = pb;
	int c = strcmp(a->name, b->name);
	return c ? c : cmp64(a->region, b->region);
}

/* Keeps the names that occur once. */
static void drop_ambiguous(struct named *v, uint32_t *n)
{
	uint32_t kept = 0;
	for (uint32_t i = 0, end; i < *n; i = end) {
		for (end = i + 1; end < *n && !strcmp(v[i].name, v[end].name);)
			end++;
		if (end == i + 1)
			v[kept++] = v[i];
	}
	*n = kept;
}

static void pair_by_name(struct ovm_stale_match *m)
{
	OVM_VEC(struct named) old = {0}, now = {0};
	for (uint32_t i = 0; i < m->old.n; i++)
		if (m->old.v[i].name && m->old.v[i].name[0])
			ovm_vec_push(&old, (struct named){m->old.v[i].name, i});
	for (uint32_t i = 0; old.n && i < m->regions->v.n; i++) {
		const struct ovm_symbol *symbol = ovm_image_symbol(m->image, m->regions->v.v[i].lo);
		if (symbol && symbol->name[0] && !m->regions->v.v[i].is_plt)
			ovm_vec_push(&now, (struct named){symbol->name, i});
	}
	sort(&old, named_cmp);
	sort(&now, named_cmp);
	drop_ambiguous(old.v, &old.n);
	drop_ambiguous(now.v, &now.n);
	for (uint32_t i = 0, j = 0; i < old.n && j < now.n;) {
		int c = strcmp(old.v[i].name, now.v[j].name);
		if (!c)
			pair(m, old.v[i].region, now.v[j].region);
		i += c <= 0;
		j += c >= 0;
	}
	ovm_vec_free(&old);
	ovm_vec_free(&now);
}

/* Number of new regions of code @hash, and the first of them in by_hash. */
static uint32_t candidates(const struct ovm_stale_match *m, uint64_t hash, uint32_t *first)
{
	uint32_t i, end;
	OVM_LOWER_BOUND(&m->by_hash, key, hash, i);
	*first = i;
	if (hash == UINT64_MAX)
		end = m->by_hash.n;
	else
		OVM_LOWER_BOUND(&m->by_hash, key, hash + 1, end);
	return end - i;
}

static void pair_by_code(struct ovm_stale_match *m)
{
	OVM_VEC(struct ovm_stale_keyed) old = {0};
	for (uint32_t i = 0; i < m->old.n; i++)
		if (m->old.v[i].hash)
			ovm_vec_push(&old, (struct ovm_stale_keyed){m->old.v[i].hash, i});
	sort(&old, keyed_cmp);
	for (uint32_t i = 0; i < old.n; i++) {
		uint32_t first, idx = old.v[i].region;
		bool is_unique = (!i || old.v[i - 1].key != old.v[i].key) &&
				 (i + 1 == old.n || old.v[i + 1].key != old.v[i].key);
		if (m->old.v[idx].now != OVM_NONE || !is_unique ||
		    candidates(m, old.v[i].key, &first) != 1)
			continue;
		if (!m->is_taken[m->by_hash.v[first].region])
			pair(m, idx, m->by_hash.v[first].region);
	}
	ovm_vec_free(&old);
}

static uint64_t now_lo(const struct ovm_stale_match *m, uint32_t old)
{
	return m->regions->v.v[m->old.v[old].now].lo.v;
}

/* Where old region @idx ought to be: as far from the pair of the region @before it as then.
 * OVM_NONE: from that of the region @behind, or where it was. */
static uint64_t expected_at(const struct ovm_stale_match *m, uint32_t idx, uint32_t before,
			    uint32_t behind)
{
	uint64_t lo = m->old.v[idx].lo.v;
	if (before != OVM_NONE)
		return now_lo(m, before) + (lo - m->old.v[before].lo.v);
	if (behind != OVM_NONE)
		return now_lo(m, behind) - (m->old.v[behind].lo.v - lo);
	return lo;
}

/* The free region of code @hash nearest to @at, OVM_NONE. */
static uint32_t nearest(const struct ovm_stale_match *m, uint64_t hash, uint64_t at)
{
	uint32_t first, n = candidates(m, hash, &first), lo = 0, hi = n;
	uint32_t max_tried = (uint32_t)OVM_TUNE(STALE_MAX_TRIED), best = OVM_NONE;
	uint64_t least = UINT64_MAX;
	while (lo < hi) { /* the first not below @at */
		uint32_t mid = lo + (hi - lo) / 2;
		if (m->regions->v.v[m->by_hash.v[first + mid].region].lo.v < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	uint32_t start = lo > max_tried ? lo - max_tried : 0;
	uint32_t end = n - lo > max_tried ? lo + max_tried : n;
	for (uint32_t i = start; i < end; i++) {
		uint32_t region = m->by_hash.v[first + i].region;
		uint64_t there = m->regions->v.v[region].lo.v;
		uint64_t distance = there > at ? there - at : at - there;
		if (!m->is_taken[region] && distance < least) {
			least = distance;
			best = region;
		}
	}
	return best;
}

static void pair_by_order(struct ovm_stale_match *m)
{
	uint32_t before = OVM_NONE, behind = 0;
	for (uint32_t i = 0; i < m->old.n; i++) {
		struct ovm_stale_region *old = &m->old.v[i];
		if (old->now == OVM_NONE && old->hash) {
			behind = behind > i ? behind : i;
			while (behind < m->old.n && m->old.v[behind].now == OVM_NONE)
				behind++;
			uint64_t at =
			    expected_at(m, i, before, behind < m->old.n ? behind : OVM_NONE);
			uint32_t now = nearest(m, old->hash, at);
			if (now != OVM_NONE)
				pair(m, i, now);
		}
		if (old->now != OVM_NONE)
			before = i;
	}
}

static int most_alike_first(const void *pa, const void *pb)
{
	const struct ovm_stale_vote *a = pa, *b = pb;
	if (a->bytes != b->bytes)
		return a->bytes < b->bytes ? 1 : -1;
	int c = cmp64(a->old, b->old);
	return c ? c : cmp64(a->now, b->now);
}

static void pair_alike(struct ovm_stale_match *m)
{
	sort(&m->votes, most_alike_first);
	for (uint32_t i = 0; i < m->votes.n; i++) {
		const struct ovm_stale_vote *vote = &m->votes.v[i];
		const struct ovm_stale_region *old = &m->old.v[vote->old];
		double share = (double)vote->bytes / (double)old->code;
		if (old->now == OVM_NONE && !m->is_taken[vote->now] &&
		    vote->bytes >= MIN_ALIKE_BYTES &&
		    share * 100 >= (double)OVM_TUNE(STALE_MIN_ALIKE))
			pair(m, vote->old, vote->now);
	}
}

static void pair_blocks(struct ovm_stale_match *m, struct ovm_decoder *dec)
{
	struct ovm_blockhash hashes = {0};
	for (uint32_t i = 0; i < m->old.n; i++) {
		const struct ovm_stale_region *old = &m->old.v[i];
		if (old->now == OVM_NONE || old->is_same || !old->n)
			continue;
		const struct ovm_region *now = &m->regions->v.v[old->now];
		if (!ovm_blockhash_build(dec, m->image, now->lo, now->hi, &hashes))
			ovm_stale_find_blocks(m->module->blocks.v + old->first, old->n, old->lo,
					      &hashes, now->lo, m->blocks + old->first);
	}
	ovm_blockhash_fini(&hashes);
}

void ovm_stale_pair(struct ovm_stale_match *m, struct ovm_decoder *dec)
{
	collect_old(m);
	scan_image(m, dec);
	pair_by_name(m);
	pair_by_code(m);
	pair_by_order(m);
	pair_alike(m);
	pair_blocks(m, dec);
}
