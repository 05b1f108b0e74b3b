#ifndef OVM_CFI_H
#define OVM_CFI_H
/* Unwind information as rows, not programs: a CIE+FDE is interpreted once, every instruction knows its row.
 *
 *   off 0   CFA=rsp+8  ra=c-8
 *   off 1   CFA=rsp+16 ra=c-8 rbp=c-16      <- a row; equal rows share one id (hash-consed per image)
 *
 * Copied code is laid out in another order, so its CFI program is written from rows (shortest difference between
 * neighbours) and never by replaying instructions. DWARF 4 section 6.4, LSB eh_frame, System V ABI register numbers.
 */
#include "analyzer/image.h"

enum { OVM_CFI_REGS = 17 }; /* DWARF 0..16: rax rdx rcx rbx rsi rdi rbp rsp r8..r15 ra */

enum ovm_cfi_kind {
	OVM_CFI_UNSET,      /* not mentioned: same value by convention */
	OVM_CFI_UNDEFINED,
	OVM_CFI_SAME,
	OVM_CFI_OFFSET,     /* saved at CFA+off */
	OVM_CFI_VAL_OFFSET, /* is CFA+off */
	OVM_CFI_REGISTER,   /* saved in register off */
	OVM_CFI_EXPR,       /* saved at the address the expression gives */
	OVM_CFI_VAL_EXPR,   /* is the expression's value */
};

struct ovm_cfi_rule {
	uint8_t kind;        /* enum ovm_cfi_kind */
	int64_t off;         /* bytes (data alignment applied), or a DWARF register */
	const uint8_t *expr; /* borrowed from the image; NULL unless EXPR or VAL_EXPR */
	uint32_t expr_len;
};

struct ovm_cfi_row {
	uint32_t cfa_reg;        /* DWARF register; OVM_NONE: the CFA is cfa_expr */
	int64_t cfa_off;
	const uint8_t *cfa_expr; /* borrowed */
	uint32_t cfa_expr_len;
	struct ovm_cfi_rule reg[OVM_CFI_REGS];
	uint64_t args_size;      /* DW_CFA_GNU_args_size */
};

struct ovm_cie { /* deduplicated by content */
	ovm_va va;             /* one place where it stands in the image's .eh_frame */
	uint64_t code_align;
	int64_t data_align;
	uint32_t ra_reg;
	uint8_t fde_enc, lsda_enc, personality_enc; /* DW_EH_PE_*, 0xff (omit) if absent */
	bool is_signal;        /* 'S' */
	ovm_va personality;    /* the encoded value made absolute: with the indirect bit the slot's address, else the routine's; 0 none */
	uint32_t initial_row;  /* row id after the CIE's own program */
};

struct ovm_cfi_span { /* the row of all bytes from region lo + off to the next span */
	uint32_t off;
	uint32_t row;
};

struct ovm_cfi { /* one per image */
	OVM_VEC(struct ovm_cfi_row) rows;  /* row ids index this */
	OVM_VEC(struct ovm_cie) cies;
	uint32_t *row_hash;                /* open addressing, private to cfi.c */
	uint32_t row_hash_size;
};

typedef OVM_VEC(struct ovm_cfi_span) ovm_cfi_spans;

struct ovm_callsite { /* one LSDA call-site record, normalised */
	uint32_t lo, hi;     /* byte offsets from the FDE's start, half-open */
	uint64_t landing;    /* offset of the landing pad from lp_start, 0 none */
	uint64_t action;     /* as in the table: 0 cleanup only, else 1 + byte offset into the action table */
};

struct ovm_lsda { /* parsed .gcc_except_table record; arrays owned, free with ovm_lsda_fini */
	ovm_va va;
	ovm_va lp_start;             /* base of landing pads: region lo unless the record says otherwise */
	OVM_VEC(struct ovm_callsite) sites; /* ascending lo, disjoint; a gap means terminate */
	const uint8_t *actions;      /* borrowed bytes of the action table */
	uint32_t actions_len;
	uint8_t type_enc;            /* DW_EH_PE_*, 0xff none */
	OVM_VEC(ovm_va) types;       /* types[i]: absolute value of type index i+1 (the slot's address if indirect), 0 catch-all */
	const uint8_t *filters;      /* borrowed: exception specification lists that follow the type base */
	uint32_t filters_len;
};

void ovm_cfi_init(struct ovm_cfi *cfi);
void ovm_cfi_fini(struct ovm_cfi *cfi);

/* The same rows under the same ids in @to, which is empty: one to intern more in beside another thread. */
void ovm_cfi_copy_rows(struct ovm_cfi *to, const struct ovm_cfi *from);

/* Intern @row, return its id. */
uint32_t ovm_cfi_intern(struct ovm_cfi *cfi, const struct ovm_cfi_row *row);

/* Interpret a CFI program of @len bytes at @prog over code [0, code_len) that starts in @first_row; appends spans.
 * Used for the image's own FDEs and by the checker for the FDEs we wrote. @pc_base: link-time address of the code, for
 * DW_CFA_set_loc; @prog_va: link-time address of @prog (encoded pointers).
 * Returns 0, or OVM_REFUSED (CFI): unknown opcode, underflowing state stack, advance beyond the code. */
int ovm_cfi_run(struct ovm_cfi *cfi, const struct ovm_cie *cie, const uint8_t *prog, size_t len, ovm_va prog_va,
		ovm_va pc_base, uint64_t code_len, uint32_t first_row, ovm_cfi_spans *spans);

/* The row of the first code byte alone, not interned. Same result as ovm_cfi_run up to the first advance. */
int ovm_cfi_first_row(const struct ovm_cfi *cfi, const struct ovm_cie *cie, const uint8_t *prog, size_t len, ovm_va prog_va,
		      ovm_va pc_base, struct ovm_cfi_row *out);

/* LEB128 numbers at *p, before @end; advance *p. False if they do not end there or need more than 64 bits. */
bool ovm_cfi_uleb(const uint8_t **p, const uint8_t *end, uint64_t *value);
bool ovm_cfi_sleb(const uint8_t **p, const uint8_t *end, int64_t *value);

/* Read an encoded pointer (DW_EH_PE_*) at @p (link-time address @p_va), before @end. @data_base is for datarel.
 * The indirect bit is NOT followed: *value is the slot's address. A stored 0 stays 0, whatever it is relative to. Advances *p. False if malformed or omitted. */
bool ovm_cfi_read_encoded(const uint8_t **p, const uint8_t *end, uint8_t enc, ovm_va p_va, ovm_va data_base, uint64_t *value);

/* Parse the LSDA at @lsda_va of a region [lo, lo+size). Returns 0 or OVM_REFUSED (LSDA); never reads outside the image. */
int ovm_lsda_parse(const struct ovm_image *image, ovm_va lsda_va, ovm_va lo, uint64_t size, struct ovm_lsda *out);
void ovm_lsda_fini(struct ovm_lsda *lsda);

/* The call site that covers offset @off, NULL if none (gap). */
const struct ovm_callsite *ovm_lsda_site(const struct ovm_lsda *lsda, uint32_t off);

#endif
