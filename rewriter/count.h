#ifndef OVM_COUNT_H
#define OVM_COUNT_H
/* What an instrumented copy has that a plain one has not: counters, and a way out behind calls. */
#include "rewriter/emit.h"

enum {
	OVM_COUNTER_LEN = 7, /* 48 ff 05 disp32: incq disp32(%rip) */
	OVM_EXIT_LEN = 5,    /* 0f 1f 44 00 00: room for a jump */
};

/* @layout with a slot for each edge probe and for the thunk of each indirect call (value.h), behind
 * the hot part. Caller frees with ovm_layout_fini. */
void ovm_count_layout(const struct ovm_program *program, const struct ovm_layout *layout,
		      const struct ovm_probes *probes, struct ovm_layout *out);

/* Probes into the pieces of @plan: stub_of, and piece->probe of each first copy. Slots must be
 * known. */
void ovm_count_plan(struct ovm_emit_plan *plan);

/* Index of the probe on @edge of block @bb, OVM_NONE. */
uint32_t ovm_count_edge_probe(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t bb,
			      uint32_t edge);

/* The probe's place in the block: it stands before this instruction. */
uint32_t ovm_count_before(const struct ovm_cfg *cfg, const struct ovm_probe *probe);

/* True if an exit stands behind the copy of instruction @insn of block @bb: a call that returns. */
bool ovm_count_has_exit(const struct ovm_cfg *cfg, uint32_t bb, uint32_t insn);

/* Bytes that @n_body instructions of block @bb grow by. */
uint32_t ovm_count_extra(const struct ovm_emit_plan *plan, uint32_t slot, uint32_t n_body);

/* How many map entries that makes. */
uint32_t ovm_count_entries(const struct ovm_emit_plan *plan, uint32_t slot);

/* incq of @counter at @bytes, which stands at @at. False if it does not reach. */
bool ovm_count_write(uint8_t *bytes, ovm_va at, ovm_va counters, uint32_t counter);

#endif
