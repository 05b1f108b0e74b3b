#ifndef OVM_PROBES_H
#define OVM_PROBES_H
/* Where counters go in an instrumented copy, so that few and cheap ones give every edge's count.
 *
 *   probes.c    arcs of each graph, maximum spanning tree, a place for each counter
 *   solve.c     counter values -> counts of all arcs -> edges of a profile
 *
 * An arc is an edge of the flow network: the edges of the cfg, and arcs from and to a node EXT (one
 * a cfg) that stands for the world outside: into region starts and other entries, out of returns
 * and whatever leaves. A jump table that several jumps share is a node too. Flow is conserved at
 * every node, so the arcs of a spanning tree need no counter (Knuth and Stevenson 1973; Ball and
 * Larus 1994): with weights from samples the tree takes the hot ones.
 */
#include "analyzer/program.h"

enum ovm_probe_kind {
	OVM_PROBE_BLOCK, /* stands before instruction `insn` of `block`: counts executions of the
			    block */
	OVM_PROBE_EDGE,	 /* stands on cfg edge `edge`, in a piece of code of its own */
};

struct ovm_probe {
	uint32_t cfg, block; /* into program->cfgs, cfg->blocks; EDGE: the edge's source */
	uint32_t insn; /* BLOCK: into cfg->insns, inside the block, behind endbr64. Flags are dead
			  before it */
	uint32_t edge; /* EDGE: into cfg->edges. Flags are dead at its target. Of a shared table:
			  counts all its jumps to there */
	uint32_t counter; /* 0.. n_counters - 1, unique */
	uint8_t kind;	  /* enum ovm_probe_kind */
};

enum ovm_arc_kind {
	OVM_ARC_PLAIN,
	OVM_ARC_TO_TABLE,   /* a jump through a table that other jumps share: `to` is the table */
	OVM_ARC_FROM_TABLE, /* of all these jumps to one target: `from` is the table */
};

struct ovm_arc {
	ovm_va from;	   /* last instruction of the source block; 0: from EXT */
	ovm_va to;	   /* where control arrives; 0: to EXT for a place that is not known */
	uint32_t src, dst; /* nodes, numbered over all cfgs */
	uint32_t counter;  /* OVM_NONE: on the tree, or cannot be counted */
	bool on_tree; /* false with OVM_NONE: cannot be counted (flags live everywhere); taken as
			 unknown */
	uint8_t kind; /* enum ovm_arc_kind */
};
typedef OVM_VEC(
    struct ovm_arc) ovm_arcs; /* grouped by cfg; nodes of a cfg are contiguous, EXT first */

struct ovm_probes {
	OVM_VEC(struct ovm_probe)
	v; /* sorted by (cfg, block, kind, insn or edge); two BLOCK probes never share a block */
	ovm_arcs arcs;
	uint32_t n_nodes, n_counters;
};

/* Plan probes for all cfgs of @program (NULL slots are skipped), whose counts are the weights: at
 * best sampled. Only REACHABLE blocks take part. Deterministic. Always succeeds; free with
 * ovm_probes_fini. */
void ovm_probes_build(struct ovm_decoder *dec, const struct ovm_program *program,
		      struct ovm_probes *out);
void ovm_probes_fini(struct ovm_probes *probes);

/* Nothing but one counter for each of @entries (ascending starts of regions) that can have one: it
 * counts the executions of the block that starts there. arcs says which counter is whose (`to`). */
void ovm_gauges_build(struct ovm_decoder *dec, const struct ovm_program *program,
		      const ovm_va *entries, uint32_t n, struct ovm_probes *out);

/* The instruction before which a counter of block @bb may stand, OVM_NONE if there is none. */
uint32_t ovm_probe_spot(struct ovm_decoder *dec, const struct ovm_image *image,
			const struct ovm_cfg *cfg, uint32_t bb);

/* True if the arithmetic flags are certainly dead before the instruction at @va of original code:
 * on the straight line from there (direct jumps followed, at most 32 instructions) they are all
 * written, or a call, return or system call comes, before anything reads them, branches
 * conditionally or jumps indirectly. An instruction that leaves some of them as they were counts as
 * a reader. The checker proves as much with its own decoder. */
bool ovm_flags_dead(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va va);

/* Counts of all arcs from the values of the counters. @counts: caller's array [arcs->n]. Small
 * disagreements (a thread in the middle, a throw) give negative results: these become 0. Returns
 * the sum of what was clipped. */
uint64_t ovm_arcs_solve(const ovm_arcs *arcs, uint32_t n_nodes, const uint64_t *counters,
			uint64_t *counts);

/* Append the arcs that were executed to module->edges: (from, to, count); from 0: entered from
 * elsewhere. Arcs to EXT without address are left out. Which of the jumps that share a table went
 * where is not known: they are taken to be alike. The caller normalizes. */
void ovm_arcs_to_profile(const ovm_arcs *arcs, const uint64_t *counts,
			 struct ovm_prof_module *module);

#endif
