/* Moves at the end of Ext-TSP.
 *
 * Greedy merging decides early what it cannot take back: a block that was put behind one jump may
 * stand better behind another that came along later, and where gains tie, which pair is first is
 * luck. So look at the finished order once more. Runs of blocks that fall through from one to the
 * next are moved as they are, to where the score gains most, as long as anything gains:
 *
 *      A B │ C D E │ F │ G H          A B │ F │ C D E │ G H
 *            ───────►                       moved behind F
 *
 * A run stays among chains about as hot as its own, so that no cold code comes between hot. As in
 * exttsp_merge.c, how far jumps between other blocks go does not depend on which of the places
 * between their ends the run has, so one pass over the jumps gives their losses for all places. The
 * gain is small (below 0.01 % of the score on measured profiles, 0.2 % on random graphs), so the
 * time is bounded; big graphs have only their first chains improved, which are the hottest.
 */
#include "analyzer/exttsp_private.h"

#include <stdlib.h>
#include <string.h>

/* Places are numbered as if the run had been taken out. */
struct run {
	uint32_t a, b;	  /* it is order[a] .. order[b - 1], now at place a */
	uint32_t lo, hi;  /* first and last place allowed */
	uint64_t size;	  /* bytes */
	uint32_t n_jumps; /* between it and the others */
	int64_t most;	  /* of their scores anywhere */
};

struct mover {
	struct ovm_tsp *tsp;
	uint32_t *order;
	int64_t *loss;	 /* [n + 2] by place, from run.lo on */
	uint32_t *jumps; /* those between the run and the others */
	int64_t work;	 /* jumps and blocks that may still be looked at */
};

static void number(const struct mover *mover, uint32_t from, uint32_t to)
{
	struct ovm_place *places = mover->tsp->chains.places;
	uint64_t off =
	    from ? places[mover->order[from - 1]].off + places[mover->order[from - 1]].size : 0;

	for (uint32_t i = from; i < to; i++) {
		struct ovm_place *place = &places[mover->order[i]];

		place->pos = i;
		place->off = off;
		off += place->size;
	}
}

static bool is_inside(const struct run *run, const struct ovm_place *place)
{
	return place->pos >= run->a && place->pos < run->b;
}

/* Where a block outside the run stands without it. */
static struct ovm_place without(const struct run *run, const struct ovm_place *place)
{
	struct ovm_place at = *place;

	if (at.pos >= run->b) {
		at.pos -= run->b - run->a;
		at.off -= run->size;
	}
	return at;
}

/* A jump between blocks outside the run: what it loses with the run between its ends. */
static void add_loss(const struct mover *mover, const struct run *run,
		     const struct ovm_tsp_branch *jump)
{
	const struct ovm_place *places = mover->tsp->chains.places;
	struct ovm_place src = without(run, &places[jump->src]);
	struct ovm_place dst = without(run, &places[jump->dst]);
	bool forward = src.pos < dst.pos;
	uint32_t from = (forward ? src.pos : dst.pos) + 1, to = forward ? dst.pos : src.pos;
	uint64_t end = src.off + src.size;
	int64_t loss;

	if (from < run->lo)
		from = run->lo;
	if (to > run->hi)
		to = run->hi;
	if (from > to)
		return;
	loss = ovm_tsp_score(end, dst.off, jump->cond) -
	       ovm_tsp_score(end + (forward ? 0 : run->size), dst.off + (forward ? run->size : 0),
			     jump->cond);
	mover->loss[from - run->lo] += loss * jump->count;
	mover->loss[to + 1 - run->lo] -= loss * jump->count;
}

/* All losses, and the list of the run's own jumps. */
static void look_around(const struct mover *mover, struct run *run)
{
	const struct ovm_tsp *tsp = mover->tsp;
	const struct ovm_place *places = tsp->chains.places;
	uint32_t n_jumps = tsp->first_out[tsp->chains.n];
	int64_t into = 0, out = 0;

	memset(mover->loss, 0, (run->hi - run->lo + 2) * sizeof(*mover->loss));
	for (uint32_t j = 0; j < n_jumps; j++) {
		const struct ovm_tsp_branch *jump = &tsp->jumps[j];
		bool src_inside = is_inside(run, &places[jump->src]);
		bool dst_inside = is_inside(run, &places[jump->dst]);
		int64_t fall = ovm_tsp_fall_gain(jump);

		if (!src_inside && !dst_inside)
			add_loss(mover, run, jump);
		if (src_inside == dst_inside)
			continue;
		mover->jumps[run->n_jumps++] = j;
		run->most += ovm_tsp_near_score() * jump->count;
		if (places[jump->dst].pos == run->a && fall > into)
			into = fall;
		if (places[jump->src].pos == run->b - 1 && fall > out)
			out = fall;
	}
	run->most += into + out;
	for (uint32_t i = 1; i <= run->hi - run->lo; i++)
		mover->loss[i] += mover->loss[i - 1];
}

/* Block at a place with the run taken out. */
static uint32_t block_at(const struct mover *mover, const struct run *run, uint32_t place)
{
	return mover->order[place < run->a ? place : place + run->b - run->a];
}

static int64_t score_at(const struct mover *mover, const struct run *run, uint32_t place)
{
	const struct ovm_tsp *tsp = mover->tsp;
	const struct ovm_place *places = tsp->chains.places;
	const struct ovm_place before = without(run, &places[block_at(mover, run, place - 1)]);
	/* bytes to add to offsets in the run, which start at that of its first block */
	uint64_t shift = before.off + before.size - places[mover->order[run->a]].off;
	int64_t score = -mover->loss[place - run->lo];

	for (uint32_t i = 0; i < run->n_jumps; i++) {
		const struct ovm_tsp_branch *jump = &tsp->jumps[mover->jumps[i]];
		struct ovm_place src = places[jump->src], dst = places[jump->dst];

		if (is_inside(run, &src)) {
			dst = without(run, &dst);
			src.off += shift;
			dst.off += dst.pos >= place ? run->size : 0;
		} else {
			src = without(run, &src);
			dst.off += shift;
			src.off += src.pos >= place ? run->size : 0;
		}
		score += ovm_tsp_score(src.off + src.size, dst.off, jump->cond) * jump->count;
	}
	return score;
}

static bool stay_together(const struct ovm_tsp *tsp, uint32_t a, uint32_t b)
{
	return tsp->nodes[a].forced_succ == b;
}

static uint32_t best_place(struct mover *mover, const struct run *run)
{
	uint32_t best = run->a;
	int64_t best_score = score_at(mover, run, best);

	for (uint32_t place = run->lo; place <= run->hi; place++) {
		int64_t score;

		if (place == run->a || run->most - mover->loss[place - run->lo] <= best_score)
			continue;
		if (place < run->hi && stay_together(mover->tsp, block_at(mover, run, place - 1),
						     block_at(mover, run, place)))
			continue;
		score = score_at(mover, run, place);
		mover->work -= run->n_jumps;
		if (score > best_score) {
			best_score = score;
			best = place;
		}
	}
	return best;
}

static void apply(const struct mover *mover, const struct run *run, uint32_t place)
{
	uint32_t n = run->b - run->a, *order = mover->order;
	uint32_t *blocks = ovm_alloc_array(n, sizeof(*blocks));

	memcpy(blocks, order + run->a, n * sizeof(*blocks));
	if (place < run->a)
		memmove(order + place + n, order + place, (run->a - place) * sizeof(*order));
	else
		memmove(order + run->a, order + run->b, (place - run->a) * sizeof(*order));
	memcpy(order + place, blocks, n * sizeof(*blocks));
	free(blocks);
	number(mover, place < run->a ? place : run->a, (place > run->a ? place : run->a) + n);
}

/* The run order[a..b) may go anywhere in order[lo..hi). */
static bool try_run(struct mover *mover, uint32_t a, uint32_t b, uint32_t lo, uint32_t hi)
{
	const struct ovm_place *last = &mover->tsp->chains.places[mover->order[b - 1]];
	struct run run = {.a = a, .b = b, .lo = lo ? lo : 1, .hi = hi - (b - a)};
	uint32_t place;

	if (run.lo >= run.hi)
		return false;
	run.size = last->off + last->size - mover->tsp->chains.places[mover->order[a]].off;
	look_around(mover, &run);
	place = best_place(mover, &run);
	if (place != a)
		apply(mover, &run, place);
	return place != a;
}

static bool falls_through(const struct mover *mover, uint32_t i)
{
	uint32_t block = mover->order[i - 1], next = mover->order[i];

	return ovm_tsp_is_successor(mover->tsp, block, next) ||
	       stay_together(mover->tsp, block, next);
}

static double density_at(const struct mover *mover, uint32_t i)
{
	const struct ovm_chains *chains = &mover->tsp->chains;
	const struct ovm_chain *chain = &chains->chains[chains->places[mover->order[i]].chain];

	return (double)chain->count / (double)chain->size;
}

static bool is_alike(double a, double b)
{
	return a > b ? a <= b * (double)OVM_TUNE(TSP_DENSITY_RATIO)
		     : b <= a * (double)OVM_TUNE(TSP_DENSITY_RATIO);
}

/* Chains around the one of order[i] that are about as hot. */
static void find_alike(const struct mover *mover, uint32_t i, uint32_t *lo, uint32_t *hi)
{
	double density = density_at(mover, i);

	for (*lo = i; *lo && is_alike(density_at(mover, *lo - 1), density);)
		--*lo;
	for (*hi = i + 1; *hi < mover->tsp->chains.n && is_alike(density_at(mover, *hi), density);)
		++*hi;
}

static bool try_all(struct mover *mover)
{
	uint32_t n = mover->tsp->chains.n, lo, hi;
	bool any = false;

	for (uint32_t a = 0, b; a < n && mover->work > 0; a = b) {
		for (b = a + 1; b < n && falls_through(mover, b);)
			b++;
		if (!a)
			continue; /* the entry stays first */
		mover->work -= mover->tsp->first_out[n] + n;
		find_alike(mover, a, &lo, &hi);
		any |= hi >= b && try_run(mover, a, b, lo, hi);
	}
	return any;
}

void ovm_tsp_move(struct ovm_tsp *tsp, uint32_t *order)
{
	uint32_t n = tsp->chains.n, n_jumps = tsp->first_out[n];
	struct mover mover = {tsp, order, ovm_alloc_array((size_t)n + 2, sizeof(int64_t)),
			      ovm_alloc_array(n_jumps ? n_jumps : 1, sizeof(uint32_t)),
			      OVM_TUNE(TSP_MOVE_WORK)};

	number(&mover, 0, n);
	while (mover.work > 0 && try_all(&mover))
		;
	free(mover.loss);
	free(mover.jumps);
}
