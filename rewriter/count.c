/* Instrumented copies: where the counters stand in the code, and how a frame gets out again.
 *
 *   block          copy                        edge       stub
 *   mov  ...       incq c3(%rip)               je  X  ->  je stub     stub: incq c4(%rip)
 *   call f         mov  ...                                                 jmp X
 *   test ...       call f
 *                  nopl 0(%rax,%rax,1)   <- exit
 *                  test ...
 *
 * The counter changes memory and flags, and stands only where flags are dead (probes.h), so the
 * copy's state is the original's at every instruction. When the counting is over threads are moved
 * out, but frames still return behind their calls: five bytes of nop stand there that become a jump
 * to wherever that place is then. All other instructions stay as they are, so a context saved by a
 * signal or by setjmp in the middle of an instrumented copy is good for ever.
 *
 * Limit: jumps through blocks that only jump are not shortened here, they might be counted.
 */
#include "rewriter/count.h"
#include "rewriter/fixup.h"
#include "rewriter/value.h"

#include <stdlib.h>
#include <string.h>

void ovm_count_layout(const struct ovm_program *program, const struct ovm_layout *layout,
		      const struct ovm_probes *probes, struct ovm_layout *out)
{
	*out =
	    (struct ovm_layout){.score = layout->score, .score_original = layout->score_original};
	ovm_vec_reserve(&out->slots, layout->slots.n + probes->v.n);
	for (uint32_t i = 0; i < layout->n_hot; i++)
		ovm_vec_push(&out->slots, layout->slots.v[i]);
	for (uint32_t i = 0; i < probes->v.n; i++) {
		const struct ovm_probe *probe = &probes->v.v[i];
		if (probe->kind == OVM_PROBE_EDGE)
			ovm_vec_push(&out->slots, (struct ovm_slot){.cfg = probe->cfg,
								    .block = probe->block,
								    .stub = probe->edge + 1});
	}
	ovm_value_layout(program, layout, out);
	out->n_hot = out->slots.n;
	for (uint32_t i = layout->n_hot; i < layout->slots.n; i++)
		ovm_vec_push(&out->slots, layout->slots.v[i]);
}

/* First probe not before (@cfg, @bb). */
static uint32_t find_block(const struct ovm_probes *probes, uint32_t cfg, uint32_t bb)
{
	uint32_t lo = 0, hi = probes->v.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct ovm_probe *probe = &probes->v.v[mid];
		if (probe->cfg < cfg || (probe->cfg == cfg && probe->block < bb))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static uint32_t find_probe(const struct ovm_probes *probes, uint32_t cfg, uint32_t bb,
			   enum ovm_probe_kind kind, uint32_t edge)
{
	for (uint32_t i = find_block(probes, cfg, bb); i < probes->v.n; i++) {
		const struct ovm_probe *probe = &probes->v.v[i];
		if (probe->cfg != cfg || probe->block != bb)
			break;
		if (probe->kind == (uint8_t)kind &&
		    (kind == OVM_PROBE_BLOCK || probe->edge == edge))
			return i;
	}
	return OVM_NONE;
}

void ovm_count_plan(struct ovm_emit_plan *plan)
{
	uint32_t n = plan->probes->v.n;
	plan->stub_of = ovm_alloc_array(n, sizeof(*plan->stub_of));
	memset(plan->stub_of, 0xff, n * sizeof(*plan->stub_of));
	for (uint32_t i = 0; i < plan->layout->slots.n; i++) {
		const struct ovm_slot *slot = &plan->layout->slots.v[i];
		plan->pieces[i].probe = OVM_NONE;
		if (slot->call || slot->slow)
			continue;
		uint32_t probe =
		    find_probe(plan->probes, slot->cfg, slot->block,
			       slot->stub ? OVM_PROBE_EDGE : OVM_PROBE_BLOCK, slot->stub - 1);
		plan->pieces[i].probe = probe;
		if (slot->stub) {
			OVM_ASSERT(probe != OVM_NONE);
			plan->stub_of[probe] = i;
		}
	}
}

uint32_t ovm_count_edge_probe(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t bb,
			      uint32_t edge)
{
	return find_probe(plan->probes, cfg, bb, OVM_PROBE_EDGE, edge);
}

uint32_t ovm_count_before(const struct ovm_cfg *cfg, const struct ovm_probe *probe)
{
	const struct ovm_block *block = &cfg->blocks[probe->block];
	/* entry patches lead behind endbr64, so the counter must too */
	if (cfg->insns[probe->insn].op == OVM_OP_ENDBR &&
	    probe->insn + 1 < block->first_insn + block->n_insns)
		return probe->insn + 1;
	return probe->insn;
}

bool ovm_count_has_exit(const struct ovm_cfg *cfg, uint32_t bb, uint32_t insn)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	uint8_t kind = cfg->insns[insn].kind;
	if (kind != OVM_INSN_CALL && kind != OVM_INSN_CALL_IND)
		return false;
	return insn + 1 < block->first_insn + block->n_insns || block->n_edges;
}

static uint32_t count_exits(const struct ovm_emit_plan *plan, const struct ovm_slot *slot,
			    uint32_t n_body)
{
	const struct ovm_cfg *cfg = plan->program->cfgs.v[slot->cfg];
	uint32_t first = cfg->blocks[slot->block].first_insn, n = 0;
	for (uint32_t k = first; plan->is_instrumented && k < first + n_body; k++)
		n += ovm_count_has_exit(cfg, slot->block, k);
	return n;
}

uint32_t ovm_count_extra(const struct ovm_emit_plan *plan, uint32_t slot, uint32_t n_body)
{
	const struct ovm_slot *s = &plan->layout->slots.v[slot];
	if (!plan->probes)
		return 0;
	return (plan->pieces[slot].probe == OVM_NONE ? 0 : OVM_COUNTER_LEN) +
	       OVM_EXIT_LEN * count_exits(plan, s, n_body);
}

uint32_t ovm_count_entries(const struct ovm_emit_plan *plan, uint32_t slot)
{
	const struct ovm_slot *s = &plan->layout->slots.v[slot];
	const struct ovm_piece *piece = &plan->pieces[slot];
	if (!plan->probes)
		return 0;
	return (piece->probe != OVM_NONE) + count_exits(plan, s, piece->n_body);
}

bool ovm_count_write(uint8_t *bytes, ovm_va at, ovm_va counters, uint32_t counter)
{
	bytes[0] = 0x48;
	bytes[1] = 0xff;
	bytes[2] = 0x05;
	return ovm_fixup_rel32(bytes + 3, ovm_va_add(at, OVM_COUNTER_LEN),
			       ovm_va_add(counters, (int64_t)counter * 8));
}
