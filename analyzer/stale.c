/* Yesterday's profile, today's build.
 *
 * A program is built again, and every address is another one, though most functions are what they
 * were. The recorder has left hashes without addresses (blockhash.h); here regions are paired by
 * whatever identifies them best, each round among those the rounds before have left over:
 *
 *   name         both files say `parse_line`, once each       unstripped files, exported functions
 *   code         equal hash, once on both sides               most regions of a stripped file
 *   order        equal hash, several: the one that lies       thunks, instances of templates
 *                where its neighbours' pairs say
 *   alike        most code in blocks they share               edited functions of a stripped file
 *
 * In a pair of equal code every offset is valid. In others the blocks are paired (stale_blocks.h),
 * and a count moves if all its addresses do: samples anywhere in a block, an edge from a block's
 * last instruction to another's first. Flow inference (infer.c) mends what is missing in between.
 *
 * A wrong pair costs speed only (rule R11): counts say what is hot, never what is true. A hostile
 * profile can do no more than that either: each list is searched by bisection and every walk over
 * candidates is bounded.
 *
 * Limits: a function whose every block was edited is not found without a name; nor are functions
 * that were split or joined.
 */
#define OVM_LOG_DOMAIN "stale"
#include "analyzer/stale.h"
#include "analyzer/blockhash.h"
#include "analyzer/stale_blocks.h"
#include "analyzer/tunables.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { MIN_ALIKE_BYTES = 16 }; /* less code in common is chance */

struct old_region {
	ovm_va lo, hi;
	uint64_t hash;
	const char *name;  /* borrowed, may be NULL */
	uint32_t first, n; /* recorded blocks */
	uint64_t code;	   /* bytes of these */
	uint32_t now;	   /* its pair, index into ovm_regions; OVM_NONE */
	bool is_same;	   /* its pair has equal code */
};

struct keyed { /* a region under what it is looked up by */
	uint64_t key;
	uint32_t region;
};

struct named {
	const char *name;
	uint32_t region;
};

struct twin { /* a recorded block under a part of its hash */
	uint64_t key;
	uint32_t old, bytes;
};

struct vote { /* code that an old and a new region share */
	uint32_t old, now;
	uint64_t bytes;
};

struct match {
	const struct ovm_image *image;
	const struct ovm_regions *regions;
	const struct ovm_prof_module *module;
	OVM_VEC(struct old_region) old; /* ascending, disjoint */
	struct ovm_stale_block *blocks; /* [module->blocks.n] */
	uint64_t *hash;			/* [regions], 0 unknown */
	bool *is_taken;			/* [regions] */
	OVM_VEC(struct keyed) by_hash;	/* new regions by (hash, index) */
	OVM_VEC(struct twin) twins;	/* by (key, old) */
	OVM_VEC(struct vote) votes;
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

/* First index of a sorted list whose field @key is >= @x. */
#define lower_bound(list, key, x, out)                                                             \
	do {                                                                                       \
		uint32_t lo_ = 0, hi_ = (list)->n;                                                 \
		while (lo_ < hi_) {                                                                \
			uint32_t mid_ = lo_ + (hi_ - lo_) / 2;                                     \
			if ((list)->v[mid_].key < (x))                                             \
				lo_ = mid_ + 1;                                                    \
			else                                                                       \
				hi_ = mid_;                                                        \
		}                                                                                  \
		(out) = lo_;                                                                       \
	} while (0)

/* --- which module --- */

static uint64_t module_counts(const struct ovm_prof_module *m, bool *has_samples)
{
	uint64_t sum = 0;
	*has_samples = m->samples.n > 0;
	if (*has_samples)
		return ovm_prof_module_samples(m);
	for (uint32_t i = 0; i < m->edges.n; i++)
		sum = add_sat(sum, m->edges.v[i].count);
	for (uint32_t i = 0; i < m->branches.n; i++)
		sum = add_sat(sum, m->branches.v[i].count);
	for (uint32_t i = 0; i < m->ranges.n; i++)
		sum = add_sat(sum, m->ranges.v[i].count);
	return sum;
}

static const char *file_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* Length of "libfoo" in "libfoo-1.2.so.3", of "postgres" in "postgres-15". */
static size_t stem_len(const char *file)
{
	const char *so = strstr(file, ".so");
	size_t len = so ? (size_t)(so - file) : strlen(file);
	size_t stem = len;
	while (stem && strchr("0123456789.-_", file[stem - 1]))
		stem--;
	return stem ? stem : len;
}

static bool same_stem(const char *a, const char *b)
{
	size_t len = stem_len(a);
	return len == stem_len(b) && !memcmp(a, b, len);
}

static const struct ovm_prof_module *find_module(const struct ovm_profile *prof,
						 const struct ovm_image *image)
{
	const struct ovm_prof_module *best = NULL;
	const char *file = file_of(image->path);
	uint64_t most = 0;
	bool best_exact = false;
	for (uint32_t i = 0; i < prof->modules.n; i++) {
		const struct ovm_prof_module *m = &prof->modules.v[i];
		const char *other = m->path ? file_of(m->path) : "";
		bool has_samples, exact = !strcmp(other, file);
		uint64_t counts = module_counts(m, &has_samples);
		if (!counts || !m->regions.n || (!exact && !same_stem(other, file)))
			continue;
		if (!best || exact > best_exact || (exact == best_exact && counts > most)) {
			best = m;
			best_exact = exact;
			most = counts;
		}
	}
	return best;
}

/* --- the old side --- */

static int twin_cmp(const void *pa, const void *pb)
{
	const struct twin *a = pa, *b = pb;
	int c = cmp64(a->key, b->key);
	return c ? c : cmp64(a->old, b->old);
}

/* What a block is known by to other regions' blocks: its code, or its place in the graph. */
enum { N_KEYS = 2 };

static void twin_keys(uint64_t hash, uint64_t keys[N_KEYS])
{
	keys[0] = ovm_blockhash_code(hash);
	keys[1] = ovm_blockhash_shape(hash) | UINT64_C(1) << 63;
}

static void index_blocks(struct match *m, uint32_t idx)
{
	struct old_region *old = &m->old.v[idx];
	const struct ovm_prof_module *module = m->module;
	uint32_t i;
	lower_bound(&module->blocks, lo.v, old->lo.v, i);
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
			ovm_vec_push(&m->twins, (struct twin){keys[k], idx, bytes});
	}
	old->n = i - old->first;
}

/* Recorded regions may overlap in a hostile file: each ends where the next begins. */
static void collect_old(struct match *m)
{
	const struct ovm_prof_module *module = m->module;
	for (uint32_t i = 0; i < module->regions.n; i++) {
		const struct ovm_prof_region *r = &module->regions.v[i];
		struct old_region old = {
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
	const struct vote *a = pa, *b = pb;
	return cmp64(a->old, b->old);
}

/* Adds up what region @now's blocks, the votes from @first on, have said. */
static void sum_votes(struct match *m, uint32_t first)
{
	uint32_t kept = first;
	if (m->votes.n == first)
		return;
	qsort(m->votes.v + first, m->votes.n - first, sizeof(struct vote), vote_cmp);
	for (uint32_t i = first + 1; i < m->votes.n; i++) {
		if (m->votes.v[i].old == m->votes.v[kept].old)
			m->votes.v[kept].bytes += m->votes.v[i].bytes;
		else
			m->votes.v[++kept] = m->votes.v[i];
	}
	m->votes.n = kept + 1;
}

static void vote_key(struct match *m, uint32_t now, uint64_t key)
{
	uint32_t i, n = 0, max_twins = (uint32_t)OVM_TUNE(STALE_MAX_TWINS);
	lower_bound(&m->twins, key, key, i);
	while (i + n < m->twins.n && n <= max_twins && m->twins.v[i + n].key == key)
		n++;
	for (uint32_t k = 0; n <= max_twins && k < n; k++)
		ovm_vec_push(&m->votes,
			     (struct vote){m->twins.v[i + k].old, now, m->twins.v[i + k].bytes});
}

static void vote(struct match *m, uint32_t now, const struct ovm_blockhash *hashes)
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
	const struct keyed *a = pa, *b = pb;
	int c = cmp64(a->key, b->key);
	return c ? c : cmp64(a->region, b->region);
}

static void scan_image(struct match *m, struct ovm_decoder *dec)
{
	struct ovm_blockhash hashes = {0};
	for (uint32_t i = 0; i < m->regions->v.n; i++) {
		const struct ovm_region *region = &m->regions->v.v[i];
		if (region->is_plt ||
		    ovm_blockhash_build(dec, m->image, region->lo, region->hi, &hashes))
			continue;
		m->hash[i] = hashes.hash;
		ovm_vec_push(&m->by_hash, (struct keyed){hashes.hash, i});
		vote(m, i, &hashes);
	}
	ovm_blockhash_fini(&hashes);
	sort(&m->by_hash, keyed_cmp);
}

/* --- pairs --- */

static void pair(struct match *m, uint32_t old, uint32_t now)
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

static void pair_by_name(struct match *m)
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
static uint32_t candidates(const struct match *m, uint64_t hash, uint32_t *first)
{
	uint32_t i, end;
	lower_bound(&m->by_hash, key, hash, i);
	*first = i;
	if (hash == UINT64_MAX)
		end = m->by_hash.n;
	else
		lower_bound(&m->by_hash, key, hash + 1, end);
	return end - i;
}

static void pair_by_code(struct match *m)
{
	OVM_VEC(struct keyed) old = {0};
	for (uint32_t i = 0; i < m->old.n; i++)
		if (m->old.v[i].hash)
			ovm_vec_push(&old, (struct keyed){m->old.v[i].hash, i});
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

static uint64_t now_lo(const struct match *m, uint32_t old)
{
	return m->regions->v.v[m->old.v[old].now].lo.v;
}

/* Where old region @idx ought to be: as far from the pair of the region @before it as then.
 * OVM_NONE: from that of the region @behind, or where it was. */
static uint64_t expected_at(const struct match *m, uint32_t idx, uint32_t before, uint32_t behind)
{
	uint64_t lo = m->old.v[idx].lo.v;
	if (before != OVM_NONE)
		return now_lo(m, before) + (lo - m->old.v[before].lo.v);
	if (behind != OVM_NONE)
		return now_lo(m, behind) - (m->old.v[behind].lo.v - lo);
	return lo;
}

/* The free region of code @hash nearest to @at, OVM_NONE. */
static uint32_t nearest(const struct match *m, uint64_t hash, uint64_t at)
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

static void pair_by_order(struct match *m)
{
	uint32_t before = OVM_NONE, behind = 0;
	for (uint32_t i = 0; i < m->old.n; i++) {
		struct old_region *old = &m->old.v[i];
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
	const struct vote *a = pa, *b = pb;
	if (a->bytes != b->bytes)
		return a->bytes < b->bytes ? 1 : -1;
	int c = cmp64(a->old, b->old);
	return c ? c : cmp64(a->now, b->now);
}

static void pair_alike(struct match *m)
{
	sort(&m->votes, most_alike_first);
	for (uint32_t i = 0; i < m->votes.n; i++) {
		const struct vote *vote = &m->votes.v[i];
		const struct old_region *old = &m->old.v[vote->old];
		double share = (double)vote->bytes / (double)old->code;
		if (old->now == OVM_NONE && !m->is_taken[vote->now] &&
		    vote->bytes >= MIN_ALIKE_BYTES &&
		    share * 100 >= (double)OVM_TUNE(STALE_MIN_ALIKE))
			pair(m, vote->old, vote->now);
	}
}

static void pair_blocks(struct match *m, struct ovm_decoder *dec)
{
	struct ovm_blockhash hashes = {0};
	for (uint32_t i = 0; i < m->old.n; i++) {
		const struct old_region *old = &m->old.v[i];
		if (old->now == OVM_NONE || old->is_same || !old->n)
			continue;
		const struct ovm_region *now = &m->regions->v.v[old->now];
		if (!ovm_blockhash_build(dec, m->image, now->lo, now->hi, &hashes))
			ovm_stale_find_blocks(m->module->blocks.v + old->first, old->n, old->lo,
					      &hashes, now->lo, m->blocks + old->first);
	}
	ovm_blockhash_fini(&hashes);
}

/* --- counts --- */

enum role { /* of an address in a record: where in a changed block it must be to be found */
	    ANYWHERE,
	    START, /* first instruction */
	    LAST,  /* last instruction */
};

static const struct old_region *old_region_of(const struct match *m, ovm_va va)
{
	uint32_t i;
	lower_bound(&m->old, lo.v, va.v, i);
	if (i == m->old.n || m->old.v[i].lo.v > va.v) {
		if (!i--)
			return NULL;
	}
	return ovm_va_in(va, m->old.v[i].lo, m->old.v[i].hi) ? &m->old.v[i] : NULL;
}

static bool move_in_block(const struct ovm_prof_block *old, const struct ovm_stale_block *now,
			  ovm_va va, enum role role, ovm_va *out)
{
	uint64_t off = va.v - old->lo.v;
	if (off > old->last || !now->is_found)
		return false;
	if (off == 0 && role != LAST)
		*out = now->lo;
	else if (off == old->last && role != START)
		*out = ovm_va_add(now->lo, now->last);
	else if (now->is_same && off <= now->last)
		*out = ovm_va_add(now->lo, (int64_t)off);
	else if (role == ANYWHERE)
		*out = ovm_va_add(now->lo, off < now->last ? (int64_t)off : now->last);
	else
		return false;
	return true;
}

/* Where the code at @va is now. */
static bool move(const struct match *m, ovm_va va, enum role role, ovm_va *out)
{
	const struct old_region *old = old_region_of(m, va);
	uint32_t i;
	if (!old || old->now == OVM_NONE)
		return false;
	if (old->is_same) {
		const struct ovm_region *now = &m->regions->v.v[old->now];
		*out = ovm_va_add(now->lo, (int64_t)(va.v - old->lo.v));
		return ovm_va_in(*out, now->lo, now->hi);
	}
	lower_bound(&m->module->blocks, lo.v, va.v, i);
	if (i == m->module->blocks.n || m->module->blocks.v[i].lo.v > va.v)
		i--; /* wraps at 0 */
	if (i < old->first || i - old->first >= old->n)
		return false;
	return move_in_block(&m->module->blocks.v[i], &m->blocks[i], va, role, out);
}

static bool move_pair(const struct match *m, ovm_va from, enum role from_role, ovm_va to,
		      enum role to_role, ovm_va out[2])
{
	return move(m, from, from_role, &out[0]) && move(m, to, to_role, &out[1]);
}

static void move_samples(const struct match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->samples.n; i++) {
		struct ovm_prof_sample s = m->module->samples.v[i];
		if (move(m, s.va, ANYWHERE, &s.va))
			ovm_vec_push(&out->samples, s);
	}
}

static void move_branches(const struct match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->branches.n; i++) {
		struct ovm_prof_branch b = m->module->branches.v[i];
		ovm_va now[2];
		if (!move_pair(m, b.from, LAST, b.to, START, now))
			continue;
		b.from = now[0];
		b.to = now[1];
		ovm_vec_push(&out->branches, b);
	}
}

static void move_ranges(const struct match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->ranges.n; i++) {
		const struct ovm_prof_range *r = &m->module->ranges.v[i];
		ovm_va now[2];
		if (move_pair(m, r->from, START, r->to, LAST, now) && now[0].v <= now[1].v)
			ovm_vec_push(&out->ranges,
				     (struct ovm_prof_range){now[0], now[1], r->count});
	}
}

static void move_edges(const struct match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->edges.n; i++) {
		const struct ovm_prof_edge *e = &m->module->edges.v[i];
		ovm_va now[2] = {{0}, {0}};
		bool is_found = e->from.v ? move_pair(m, e->from, LAST, e->to, START, now)
					  : move(m, e->to, START, &now[1]);
		if (is_found)
			ovm_vec_push(&out->edges, (struct ovm_prof_edge){now[0], now[1], e->count});
	}
}

static struct ovm_profile *move_counts(const struct match *m, const struct ovm_profile *prof,
				       struct ovm_stale_stats *stats)
{
	struct ovm_profile *out = ovm_profile_new();
	struct ovm_prof_module *module = ovm_profile_module(out, m->image->id, m->image->path);
	bool has_samples;
	move_samples(m, module);
	move_branches(m, module);
	move_ranges(m, module);
	move_edges(m, module);
	out->event = prof->event ? ovm_strdup(prof->event) : NULL;
	out->source = prof->source ? ovm_strdup(prof->source) : NULL;
	out->frequency = prof->frequency;
	out->n_samples = ovm_prof_module_samples(module);
	stats->counts = module_counts(m->module, &stats->has_samples);
	stats->kept = stats->has_samples ? out->n_samples : module_counts(module, &has_samples);
	ovm_profile_normalize(out);
	return out;
}

static void log_pair(const struct match *m, const struct old_region *old)
{
	if (old->now == OVM_NONE)
		ovm_log(OVM_LOG_DEBUG, "0x%llx not found", (unsigned long long)old->lo.v);
	else
		ovm_log(OVM_LOG_DEBUG, "0x%llx is 0x%llx%s", (unsigned long long)old->lo.v,
			(unsigned long long)m->regions->v.v[old->now].lo.v,
			old->is_same ? "" : ", changed");
}

static void count_regions(const struct match *m, struct ovm_stale_stats *stats)
{
	snprintf(stats->id, sizeof(stats->id), "%s", m->module->id);
	for (uint32_t i = 0; i < m->old.n; i++) {
		bool is_found = m->old.v[i].now != OVM_NONE;
		log_pair(m, &m->old.v[i]);
		stats->n_regions += is_found || m->old.v[i].hash;
		stats->n_same += is_found && m->old.v[i].is_same;
		stats->n_changed += is_found && !m->old.v[i].is_same;
	}
}

static void match_init(struct match *m)
{
	m->hash = ovm_alloc_array(m->regions->v.n, sizeof(*m->hash));
	m->is_taken = ovm_alloc_array(m->regions->v.n, sizeof(*m->is_taken));
	m->blocks = ovm_alloc_array(m->module->blocks.n, sizeof(*m->blocks));
}

static void match_fini(struct match *m)
{
	ovm_vec_free(&m->old);
	ovm_vec_free(&m->by_hash);
	ovm_vec_free(&m->twins);
	ovm_vec_free(&m->votes);
	free(m->hash);
	free(m->is_taken);
	free(m->blocks);
}

int ovm_stale_match(struct ovm_ctx *ctx, struct ovm_decoder *dec, const struct ovm_image *image,
		    const struct ovm_regions *regions, const struct ovm_profile *prof,
		    struct ovm_profile **out, struct ovm_stale_stats *stats)
{
	struct match m = {.image = image, .regions = regions, .module = find_module(prof, image)};
	struct ovm_stale_stats counted = {0};
	if (!m.module)
		return OVM_REFUSED;
	match_init(&m);
	collect_old(&m);
	scan_image(&m, dec);
	pair_by_name(&m);
	pair_by_code(&m);
	pair_by_order(&m);
	pair_alike(&m);
	pair_blocks(&m, dec);
	count_regions(&m, &counted);
	struct ovm_profile *moved = move_counts(&m, prof, &counted);
	match_fini(&m);
	double kept = 100 * (double)counted.kept / (double)counted.counts;
	if (kept < (double)OVM_TUNE(STALE_MIN_KEPT)) {
		ovm_profile_free(moved);
		return ovm_fail(ctx, OVM_E_MISMATCH,
				"%s: the profile is of another build (build-id %.40s) and only "
				"%.1f %% of its samples are in code that this one has too",
				image->path, counted.id, kept);
	}
	*out = moved;
	*stats = counted;
	return 0;
}
