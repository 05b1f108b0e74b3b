/* The blocks of an edited function: which is which?
 *
 * Three rounds, each less exact, each over the blocks the round before has left over:
 *
 *   whole hash      same code between the same neighbours        most blocks
 *   code            same code, other neighbours                  beside the edit
 *   opcodes         other registers or constants                 the edited one; only between its
 *                                                                 neighbours' places
 *
 *   recorded   A  B  C  D  E        C was edited, X is new. X follows B, so B's neighbours changed.
 *   now        A  B  X  C' D  E     Round 1: A E, round 2: B D, round 3: C = C'
 *
 * Equal blocks are common (epilogues, calls of one helper), so of several candidates the one
 * nearest to where it is expected wins: at its old offset, moved as far as the block before it was
 * moved.
 *
 * Idea: BOLT's stale matching (Ayupov, Panchenko and Pupyrev 2024, arXiv:2401.17168).
 */
#include "analyzer/stale_blocks.h"
#include "analyzer/tunables.h"

#include <stdlib.h>
#include <string.h>

struct candidate {
	uint64_t key;
	uint32_t off, idx; /* of now->blocks */
};

struct search {
	const struct ovm_prof_block *old;
	uint32_t n_old;
	ovm_va old_lo, now_lo;
	const struct ovm_blockhash *now;
	struct candidate *candidates; /* [now->blocks.n], by (key, off) */
	bool *is_taken;		      /* [now->blocks.n] */
	struct ovm_stale_block *out;
};

static int candidate_cmp(const void *pa, const void *pb)
{
	const struct candidate *a = pa, *b = pb;
	if (a->key != b->key)
		return a->key < b->key ? -1 : 1;
	return a->off < b->off ? -1 : a->off > b->off;
}

static void sort_candidates(struct search *s, unsigned shift)
{
	for (uint32_t i = 0; i < s->now->blocks.n; i++) {
		const struct ovm_hashed_block *block = &s->now->blocks.v[i];
		s->candidates[i] = (struct candidate){block->hash >> shift, block->off, i};
	}
	if (s->now->blocks.n)
		qsort(s->candidates, s->now->blocks.n, sizeof(struct candidate), candidate_cmp);
}

static int64_t old_offset(const struct search *s, uint32_t i)
{
	uint64_t off = s->old[i].lo.v - s->old_lo.v;
	return off > UINT32_MAX ? (int64_t)UINT32_MAX : (int64_t)off;
}

static int64_t now_offset(const struct search *s, uint32_t i)
{
	return (int64_t)(s->out[i].lo.v - s->now_lo.v);
}

/* First candidate not below (@key, @off). */
static uint32_t lower_bound(const struct search *s, uint64_t key, int64_t off)
{
	uint32_t lo = 0, hi = s->now->blocks.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct candidate *c = &s->candidates[mid];
		if (c->key < key || (c->key == key && (int64_t)c->off < off))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The free candidate nearest to @off between @min and @max, OVM_NONE. */
static uint32_t nearest(const struct search *s, uint64_t key, int64_t off, int64_t min, int64_t max)
{
	uint32_t start = lower_bound(s, key, off), best = OVM_NONE;
	int64_t best_distance = INT64_MAX;
	uint32_t max_tried = (uint32_t)OVM_TUNE(STALE_MAX_TRIED);
	uint32_t n = s->now->blocks.n;
	uint32_t lo = start > max_tried ? start - max_tried : 0;
	uint32_t hi = n - start > max_tried ? start + max_tried : n;
	for (uint32_t i = lo; i < hi; i++) {
		const struct candidate *c = &s->candidates[i];
		int64_t distance = (int64_t)c->off - off;
		if (c->key != key || s->is_taken[c->idx] || c->off < min || c->off > max)
			continue;
		distance = distance < 0 ? -distance : distance;
		if (distance < best_distance) {
			best_distance = distance;
			best = c->idx;
		}
	}
	return best;
}

static void take(struct search *s, uint32_t i, uint32_t idx)
{
	const struct ovm_hashed_block *block = &s->now->blocks.v[idx];
	s->is_taken[idx] = true;
	s->out[i] = (struct ovm_stale_block){.lo = ovm_va_add(s->now_lo, block->off),
					     .last = block->last,
					     .is_found = true,
					     .is_same = ovm_blockhash_code(block->hash) ==
							ovm_blockhash_code(s->old[i].hash)};
}

/* Offset of the first block behind each one that is found. Caller frees. */
static int64_t *found_behind(const struct search *s)
{
	int64_t *behind = ovm_alloc_array(s->n_old, sizeof(*behind));
	int64_t next = INT64_MAX;
	for (uint32_t i = s->n_old; i-- > 0;) {
		behind[i] = next;
		if (s->out[i].is_found)
			next = now_offset(s, i);
	}
	return behind;
}

/* One round: hashes are equal from bit @shift up. @behind: keep the order of the blocks; NULL: any.
 */
static void search_round(struct search *s, unsigned shift, const int64_t *behind)
{
	int64_t moved = 0, before = 0;
	sort_candidates(s, shift);
	for (uint32_t i = 0; i < s->n_old; i++) {
		if (!s->out[i].is_found) {
			int64_t min = behind ? before : 0, max = behind ? behind[i] : INT64_MAX;
			uint32_t idx =
			    nearest(s, s->old[i].hash >> shift, old_offset(s, i) + moved, min, max);
			if (idx == OVM_NONE)
				continue;
			take(s, i, idx);
		}
		before = now_offset(s, i);
		moved = before - old_offset(s, i);
	}
}

void ovm_stale_find_blocks(const struct ovm_prof_block *old, uint32_t n, ovm_va old_lo,
			   const struct ovm_blockhash *now, ovm_va now_lo,
			   struct ovm_stale_block *out)
{
	struct search s = {.old = old,
			   .n_old = n,
			   .old_lo = old_lo,
			   .now_lo = now_lo,
			   .now = now,
			   .candidates = ovm_alloc_array(now->blocks.n, sizeof(*s.candidates)),
			   .is_taken = ovm_alloc_array(now->blocks.n, sizeof(*s.is_taken)),
			   .out = out};
	if (n)
		memset(out, 0, n * sizeof(*out));
	search_round(&s, 0, NULL);
	search_round(&s, 16, NULL);
	int64_t *behind = found_behind(&s);
	search_round(&s, 40, behind);
	free(behind);
	free(s.is_taken);
	free(s.candidates);
}
