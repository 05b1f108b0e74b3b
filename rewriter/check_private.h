#ifndef OVM_CHECK_PRIVATE_H
#define OVM_CHECK_PRIVATE_H
/* Shared by check*.c, and by elf_map.c, which needs the second decoder. */
#include "rewriter/check.h"

#include <Zydis/Zydis.h>

struct ovm_check_insn {	 /* what the second decoder says */
	uint64_t target; /* direct branch or call; or address of a RIP-relative operand */
	int64_t disp;	 /* of any other memory operand */
	uint8_t len;
	uint8_t kind; /* enum ovm_insn_kind; REFUSE for what the checker does not prove */
	uint8_t cc;   /* JCC */
	uint8_t field_off, field_len; /* bytes that may differ: relative target or RIP-relative
					 disp32; len 0 none */
	bool is_rip;
	uint8_t modrm_off, sib_off, disp_off, disp_len; /* 0 none */
};

struct ovm_check_flags {	/* ZYDIS_CPUFLAG_* */
	uint32_t read, written; /* written: whatever the operands are; undefined counts */
};

void ovm_check_decoder_init(ZydisDecoder *dec);
void ovm_check_flags_decoder_init(ZydisDecoder *dec); /* for ovm_check_decode_flags */

/* Decode at most @avail bytes at @p (link-time address @va). False if they are no instruction. */
bool ovm_check_decode(const ZydisDecoder *dec, const uint8_t *p, size_t avail, uint64_t va,
		      struct ovm_check_insn *out);

/* The same, remembered in @known (not if NULL) for other places where the same bytes stand. */
bool ovm_check_decode_known(struct ovm_check_known *known, const ZydisDecoder *dec,
			    const uint8_t *p, size_t avail, uint64_t va,
			    struct ovm_check_insn *out);

/* ovm_check_decode, and what it does to flags. @dec from ovm_check_flags_decoder_init. */
bool ovm_check_decode_flags(const ZydisDecoder *dec, const uint8_t *p, size_t avail, uint64_t va,
			    struct ovm_check_insn *out, struct ovm_check_flags *flags);

/* Equal but for the field, and the field means the same address. */
bool ovm_check_same(const uint8_t *a, const struct ovm_check_insn *old, const uint8_t *b,
		    const struct ovm_check_insn *new);

/* Two loads (or jumps through memory) equal but for a displacement that grew by @delta; reads
 * entries of @entry_size. */
bool ovm_check_same_load(const uint8_t *a, const struct ovm_check_insn *old, const uint8_t *b,
			 const struct ovm_check_insn *new, int64_t delta, unsigned entry_size);

enum { OVM_CHECK_BUCKET = 64 }; /* overlay bytes that share one index word */

struct ovm_check { /* one run of the checker; its parts (check_run.c) have one each */
	const struct ovm_image *image;
	struct ovm_regions *regions; /* rows are added by check_unwind.c, and by it alone */
	const struct ovm_overlay *overlay;
	struct ovm_check_result *result;
	ZydisDecoder dec, flags_dec;
	struct ovm_check_known *known; /* by dec */
	uint32_t code_end; /* overlay bytes [0, code_end) are code */
	uint32_t *bucket;  /* [code_end / OVM_CHECK_BUCKET + 1]: first map entry at or behind that offset */
	uint32_t *by_load; /* claims of tables, sorted by (old_load) */
	const struct ovm_segment *segment; /* of the last original address */
};

/* Record a failure: callers stop at the first. Always returns false. */
bool ovm_check_no(struct ovm_check *check, ovm_va old, uint32_t off, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Original code at @va and how many bytes of it there are; NULL if none. */
const uint8_t *ovm_check_old_code(struct ovm_check *check, uint64_t va, size_t *avail);

/* Control is transferred to @to (an absolute address) where the original goes to @va. */
bool ovm_check_goes_to(struct ovm_check *check, uint64_t to, uint64_t va);

/* Control has left the overlay for original @to where original @va was due. */
bool ovm_check_leaves_well(struct ovm_check *check, uint64_t to, uint64_t va);

/* The copy of an instruction, and nothing else, that starts at overlay offset @off; NULL. */
const struct ovm_map_entry *ovm_check_copy_at(const struct ovm_check *check, uint32_t off);

/* Executing the overlay from @off is the same as executing the original from @va. */
bool ovm_check_arrives(struct ovm_check *check, uint32_t off, uint64_t va);

/* An entry patch starts before @va and ends behind it: the original bytes there are gone. */
bool ovm_check_is_overwritten(const struct ovm_check *check, uint64_t va);

/* check.c: the entries [@first, @end) of the map. */
bool ovm_check_map(struct ovm_check *check, uint32_t first, uint32_t end);

/* check_patch.c: ascending and disjoint; to be known before ovm_check_is_overwritten is asked. */
bool ovm_check_patch_order(struct ovm_check *check);

/* check_patch.c: every patch is what it claims, and nothing lands inside one. */
bool ovm_check_patches(struct ovm_check *check);

/* check_count.c: what is claimed of the counters' memory. */
bool ovm_check_counters(struct ovm_check *check);

/* check_count.c: a counter; the nop behind a call. Entries with OVM_MAP_COUNT or OVM_MAP_EXIT. */
bool ovm_check_count_entry(struct ovm_check *check, const struct ovm_map_entry *entry);

struct ovm_check_operand {   /* of an instruction of one opcode byte */
	uint8_t prefix, rex; /* 0 none */
	uint8_t opcode, mod, reg, rm;
	uint8_t sib;
	bool has_sib;
	const struct ovm_check_insn *insn; /* borrowed */
};

/* check_operand.c: take the instruction at @p apart; @n_behind: bytes of its immediate. False if it
 * is not of that form. */
bool ovm_check_operand(const uint8_t *p, const struct ovm_check_insn *insn, unsigned n_behind,
		       struct ovm_check_operand *out);

/* The same, and it is an indirect call whose operand can be read again when the return address is
 * on the stack and the word below it is written. */
bool ovm_check_call_operand(const uint8_t *p, const struct ovm_check_insn *insn,
			    struct ovm_check_operand *out);

/* Register @reg (hardware number) is the operand, or part of its address. */
bool ovm_check_operand_uses(const struct ovm_check_operand *op, unsigned reg);

/* @new reads what @old reads; @is_pushed: with a return address on the stack. */
bool ovm_check_reads_same(const struct ovm_check_operand *old, const struct ovm_check_operand *new,
			  bool is_pushed);

/* check_promote.c: an entry with OVM_MAP_GUARD. */
bool ovm_check_promoted(struct ovm_check *check, const struct ovm_map_entry *entry);

/* check_value.c: the copy @new, a direct call, of the indirect call @a (at @call) calls @thunk,
 * which counts and goes where the call goes. @thunk: the map entry there, may be NULL. */
bool ovm_check_value_call(const struct ovm_check *check, ovm_va call, const uint8_t *a,
			  const struct ovm_check_insn *old, const struct ovm_check_insn *new,
			  const struct ovm_map_entry *thunk);

/* check_value.c: an entry with OVM_MAP_THUNK that claims nothing else. */
bool ovm_check_is_thunk(const struct ovm_map_entry *entry);

/* check_table.c: fill check->by_load. Caller frees. */
void ovm_check_index_loads(struct ovm_check *check);

/* check_table.c: every entry of every private table leads where the original's leads. */
bool ovm_check_tables(struct ovm_check *check);

/* check_table.c: @new, at @b, is the copy of the load @old, at @a (address @va), of a claimed table,
 * and reads the private one; @n_sum: bytes of the lea behind it, which ovm_check_table_sum has seen. */
bool ovm_check_table_load(const struct ovm_check *check, ovm_va va, const uint8_t *a,
			  const struct ovm_check_insn *old, const uint8_t *b,
			  const struct ovm_check_insn *new, unsigned n_sum);

/* check_table.c: the @n bytes at @sum are the lea that adds the table's address to what the load
 * @old, at @a, has put into its register. */
bool ovm_check_table_sum(const struct ovm_check *check, const uint8_t *a,
			 const struct ovm_check_insn *old, const uint8_t *sum, unsigned n);

/* check_table.c: @entry is a load, a sum and a jump that stand for the jump @old, at @a, through a
 * claimed table. */
bool ovm_check_table_jump(const struct ovm_check *check, const struct ovm_map_entry *entry,
			  const uint8_t *a, const struct ovm_check_insn *old);

/* check_unwind.c: rows, personality and call sites of every copied instruction. */
bool ovm_check_unwind(struct ovm_check *check);

#endif
