#ifndef OVM_EMIT_H
#define OVM_EMIT_H
/* From a layout to bytes: the plan that emission, relaxation and table copies share.
 *
 * One piece a slot of the layout: the block's instructions but its final branch are copied (rule
 * R3, "body"), the final branch is symbolic until relax.c has fixed every offset.
 *
 *   slot  ->  [pad] [body: copied instructions] [branch 0] [branch 1]
 *
 * In instrumented copies the body also holds the block's counter and a nop behind each call
 * (count.c), and edges that are counted lead through stubs: pieces of nothing but a counter and a
 * jump. Indirect calls lead through thunks: pieces of nothing else (value.c). In plain ones the
 * body may hold a comparison and a direct call instead, and the call as it was is a piece of its
 * own (promote.c).
 *
 * Only this header's users know pieces; the overlay itself does not.
 */
#include "rewriter/overlay.h"
#include "rewriter/tables.h"

/* A branch goes to the piece of a slot, or (this bit set) to plan->originals[rest]. */
#define OVM_DEST_ORIGINAL (1u << 31)

enum ovm_shape {		    /* the end of a piece, in order of emission */
		 OVM_SHAPE_NONE,    /* falls into the next piece, or the body ends control (ret,
				       indirect jump, trap) */
		 OVM_SHAPE_JMP,	    /* jmp dest[0] */
		 OVM_SHAPE_JCC,	    /* jcc dest[0] */
		 OVM_SHAPE_JCC_JMP, /* jcc dest[0]; jmp dest[1] */
		 OVM_SHAPE_JCXZ,    /* jrcxz 1f; jmp dest[0] (fall); 1: jmp dest[1] (taken) */
};

enum {				 /* ovm_piece.flags */
       OVM_PIECE_FALLS = 1 << 0, /* control may run on into the next piece */
       OVM_PIECE_SYNTH = 1 << 1, /* SHAPE_JMP: the jump is ours, the block fell through */
       OVM_PIECE_INVERTED =
	   1 << 2, /* the conditional branch has the other sense: dest[0] is the fall-through */
       OVM_PIECE_FALLEN =
	   1 << 3, /* the piece before runs into this one: padding must be executable */
};

struct ovm_piece {
	uint32_t off;	  /* overlay offset of the first byte after padding (relax.c) */
	uint32_t body;	  /* bytes of the body, table loads widened, counter and exits included */
	uint32_t n_body;  /* instructions in it: the block's first n_body */
	uint32_t dest[2]; /* of branch 0 and 1 */
	uint32_t probe;	  /* index of the probe that stands in the body, OVM_NONE */
	uint8_t shape;	  /* enum ovm_shape */
	uint8_t cc;	  /* condition of the jcc as emitted; SHAPE_JCXZ: bytes of the jrcxz */
	uint8_t is_long;  /* bit k: branch k has a rel32 (relax.c) */
	uint8_t pad;	  /* filler bytes before off (relax.c) */
	uint8_t flags;
};

struct ovm_value_site { /* an indirect call whose targets are counted */
	uint32_t cfg, insn;
	uint32_t slot;	  /* of its thunk */
	uint32_t counter; /* its first */
};

struct ovm_promoted { /* an indirect call that became a comparison and a direct call (promote.h) */
	uint32_t cfg, insn;
	uint32_t slow;	 /* slot of the call as it was */
	uint32_t callee; /* slot of what is called directly */
	ovm_va target;	 /* the original address of that */
};

struct ovm_emit_plan {
	const struct ovm_program *program; /* borrowed */
	const struct ovm_layout *layout;   /* borrowed */
	const struct ovm_probes *probes;   /* borrowed; NULL: plain copies */
	bool is_instrumented;		   /* with probes: stubs, exits and thunks too */
	ovm_va counters;		   /* with probes: address of counter 0 */
	struct ovm_piece *pieces;	   /* [layout->slots.n] */
	uint32_t *cfg_base;		   /* [cfgs.n]: where the cfg's blocks start in slot_of */
	uint32_t *slot_of;		   /* first slot of a block, OVM_NONE if it is not copied */
	uint32_t *stub_of; /* [probes->v.n]: slot of an EDGE probe, OVM_NONE; NULL without probes */
	OVM_VEC(struct ovm_value_site) sites;  /* sorted by (cfg, insn); empty without probes */
	OVM_VEC(struct ovm_promoted) promoted; /* sorted by (cfg, insn) */
	OVM_VEC(ovm_va) originals;	       /* targets that stay in the original */
	struct ovm_tables tables;
	uint32_t hot_size, cold_off, cold_size; /* relax.c */
};

/* A refusal: which cfg, and why. */
struct ovm_bad {
	uint32_t cfg;
	enum ovm_refusal why;
};

/* Plan all pieces of @layout; relax.c must follow. @opts: probes and counters are used; with probes
 * the layout must hold their stubs (ovm_count_layout). OVM_REFUSED with @bad filled, or 0; free in
 * either case. */
int ovm_emit_plan_init(const struct ovm_program *program, const struct ovm_layout *layout,
		       const struct ovm_overlay_opts *opts, struct ovm_emit_plan *plan,
		       struct ovm_bad *bad);
void ovm_emit_plan_fini(struct ovm_emit_plan *plan);

/* First slot of the copied block that starts at @va, in whichever cfg; OVM_NONE if there is none.
 */
uint32_t ovm_emit_slot_at(const struct ovm_emit_plan *plan, ovm_va va);

/* The same, but blocks that are nothing but a direct jump are skipped first: *landed is the
 * original address where that led. */
uint32_t ovm_emit_slot_through(const struct ovm_emit_plan *plan, ovm_va va, ovm_va *landed);

/* Where entry of a table of block @bb leads: the stub of that edge or, as above, the copied block.
 */
uint32_t ovm_emit_slot_of_entry(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t bb,
				ovm_va target, ovm_va *landed);

/* Write the code of a relaxed plan at @bytes (cold_off + cold_size of them, for link-time address
 * @base) and append its map entries.
 * @tables_off: overlay offset of the tables section. OVM_REFUSED with @bad filled if a displacement
 * does not reach. */
int ovm_emit_write(const struct ovm_emit_plan *plan, ovm_va base, uint32_t tables_off,
		   uint8_t *bytes, struct ovm_map *map, struct ovm_bad *bad);

#endif
