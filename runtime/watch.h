#ifndef OVM_WATCH_H
#define OVM_WATCH_H
/* Between rounds: is what was optimized still what runs? */
#include "runtime/round.h"

struct ovm_watch {
	struct ovm_round *round; /* borrowed; it has been run once */
	unsigned max_rounds;	 /* the first included */
	unsigned n_rounds;
	struct ovm_sampler *sampler; /* of the window that is open; NULL: none */
	double opened_ms;	     /* see ovm_now_ms */
	unsigned window_ms;	     /* how long it lasts at least */
	struct ovm_profile *seen;    /* samples of all windows since the last that was nothing new;
					NULL: that was the last. Owned */
	OVM_VEC(struct ovm_known {
		struct ovm_profile *profile; /* samples of a time that had its round; owned */
		double outside;		     /* share of them in code that was not copied then */
	})
	known;
	bool is_over; /* nothing more will happen */
};

/* @round was run, with result @rc. @max_rounds 1: there is nothing to watch. */
void ovm_watch_init(struct ovm_watch *watch, struct ovm_round *round, unsigned max_rounds, int rc);
void ovm_watch_fini(struct ovm_watch *watch); /* accepts zeroed */

/* To be called every OVM_RT_WATCH_STEP_MS or so while the process runs. Takes samples at a low
 * rate; when they tell that the program does something else than before, another round is run,
 * which blocks as long as that takes. round->result is then that of the new round, but of the one
 * before if nothing came of it. Never fails: what goes wrong ends the watch. */
void ovm_watch_step(struct ovm_ctx *ctx, struct ovm_watch *watch);

#endif
