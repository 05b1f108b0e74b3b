/* Is anybody interested in the flags here? Whoever puts an `inc` into code must
 * know.
 *
 * Dataflow over the graph would say so more often, but then the checker had to
 * believe the graph. One straight line is enough nearly everywhere, since
 * compilers set flags right before they use them:
 *
 *        mov  8(%rdi),%rax     kept
 *        jmp  1f               kept: go on at 1
 *     1: lea  (%rax,%rsi),%rcx kept
 *        test %rcx,%rcx        written: dead at all four
 *        je   2f               read:    alive here, and before any other
 * conditional branch
 *
 * Calls, tail calls through a slot, returns and system calls end the line well: the psABI passes no
 * flags.
 * Instructions that leave some flags as they were (inc, bt, rotates, shifts by
 * %cl, repeated compares) count as readers, which opcode.c sees to by giving
 * them the flags to read.
 */
#include "analyzer/flagsdead.h"
#include "analyzer/probes.h"

enum { MAX_INSN = 15 };

struct reader { /* instructions in order of execution, from the graph where it
		   has them */
	struct ovm_decoder *dec;
	const struct ovm_image *image;
	const struct ovm_cfg *cfg; /* or NULL */
	uint32_t next;		   /* likely index of the next one in cfg->insns */
	struct ovm_insn decoded;
};

enum ovm_flags_effect ovm_flags_effect(const struct ovm_insn *insn)
{
	switch (insn->kind) {
	case OVM_INSN_CALL:
	case OVM_INSN_CALL_IND:
	case OVM_INSN_RET:
	case OVM_INSN_SYSCALL:
		return OVM_FLAGS_WRITTEN;
	case OVM_INSN_JMP_IND: /* through one fixed slot: a tail call, often a PLT stub's */
		return insn->flags & OVM_INSN_RIP_REL ? OVM_FLAGS_WRITTEN : OVM_FLAGS_READ;
	case OVM_INSN_JCC:
	case OVM_INSN_JCXZ:
	case OVM_INSN_TRAP:
	case OVM_INSN_REFUSE:
		return OVM_FLAGS_READ;
	default:
		if (insn->uses & OVM_MASK_FLAGS)
			return OVM_FLAGS_READ;
		return insn->defs & OVM_MASK_FLAGS ? OVM_FLAGS_WRITTEN : OVM_FLAGS_KEPT;
	}
}

static const struct ovm_insn *known(struct reader *reader, ovm_va va)
{
	const struct ovm_cfg *cfg = reader->cfg;
	if (!cfg)
		return NULL;
	if (reader->next >= cfg->n_insns || cfg->insns[reader->next].va.v != va.v) {
		uint32_t bb = ovm_cfg_block_at(cfg, va);
		if (bb == OVM_NONE)
			return NULL;
		reader->next = cfg->blocks[bb].first_insn;
	}
	return &cfg->insns[reader->next++];
}

static const struct ovm_insn *read_insn(struct reader *reader, ovm_va va)
{
	const struct ovm_insn *insn = known(reader, va);
	if (insn)
		return insn;
	const struct ovm_segment *segment = ovm_image_segment(reader->image, va);
	if (!segment || va.v - segment->lo.v >= segment->filesz)
		return NULL;
	uint64_t avail = segment->filesz - (va.v - segment->lo.v);
	avail = avail < MAX_INSN ? avail : MAX_INSN;
	const uint8_t *bytes = ovm_image_code(reader->image, va, avail);
	if (!bytes || !ovm_decode_one(reader->dec, bytes, avail, va, &reader->decoded))
		return NULL;
	return &reader->decoded;
}

unsigned ovm_flags_distance(struct ovm_decoder *dec, const struct ovm_image *image,
			    const struct ovm_cfg *cfg, ovm_va va, unsigned limit)
{
	struct reader reader = {.dec = dec, .image = image, .cfg = cfg, .next = OVM_NONE};
	for (unsigned n = 1; n <= limit; n++) {
		const struct ovm_insn *insn = read_insn(&reader, va);
		enum ovm_flags_effect effect = insn ? ovm_flags_effect(insn) : OVM_FLAGS_READ;
		if (effect != OVM_FLAGS_KEPT)
			return effect == OVM_FLAGS_WRITTEN ? n : 0;
		va = insn->kind == OVM_INSN_JMP ? insn->target : ovm_va_add(va, insn->len);
	}
	return 0;
}

bool ovm_flags_dead(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va va)
{
	return ovm_flags_distance(dec, image, NULL, va, OVM_FLAGS_HORIZON) != 0;
}
