/* Whom does a sample blame? A timer interrupt is taken between two instructions and reports the next one. So the time of an
 * instruction is charged to its successor, and a block's first instruction is charged with the branch that led there:
 *
 *                    samples per execution, 1.0 = average (a C++ compiler, 130,000 samples against exact counts, AMD EPYC)
 *      je   L        1.53
 *      mov  ...      0.10  <- first after a branch that was not taken
 *      test ...      1.75  <- pays for the mov
 *   L: mov  ...      0.45  <- first after a taken branch
 *
 * Dividing by the number of instructions therefore makes short fall-through blocks look as if they never ran, and a layout believes
 * that their branch is always taken. Here the weight of a block is what its instructions are expected to attract: little for the first, and
 * for each other the price of its predecessor, dearer if that one reads memory (1.2 to 8.8 measured) than if it only computes (0.5).
 *
 * Limits: prices by two classes only; precise events (PEBS, IBS) do not shift the blame, and are described slightly worse.
 */
#include "analyzer/blame.h"
#include "analyzer/tunables.h"

double ovm_blame_weight(const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	const struct ovm_insn *insn = &cfg->insns[block->first_insn];
	uint64_t weight = (uint64_t)OVM_TUNE(BLAME_FIRST);

	for (uint32_t i = 1; i < block->n_insns; i++)
		weight += insn[i - 1].flags & OVM_INSN_LOADS ? (uint64_t)OVM_TUNE(BLAME_LOAD)
							      : (uint64_t)OVM_TUNE(BLAME_OTHER);
	return (double)weight / 100;
}
