#ifndef OVM_DWARF_H
#define OVM_DWARF_H
/* As much of DWARF 2 to 5 as naming copies takes: compilation units without what is inside them,
 * and line tables.
 *
 *   .debug_info   | unit | DIE: name, folder, language, stmt_list --+   (children: not read)
 *   .debug_abbrev |   its form                                      |
 *   .debug_line   | header: folders, files | program <--------------+   -> rows (address, file,
 * line, ...)
 *
 * Everything is borrowed from the sections' bytes. Sections come from files: any byte may be wrong,
 * and what is wrong or not known is left out; nothing here fails or warns.
 *
 * A skeleton unit (split DWARF: the rest is in a .dwo or .dwp file) has no name of its own; then it
 * is that of the first file of its line table.
 */
#include "base/addr.h"
#include "base/vec.h"

struct ovm_dwarf { /* bytes of sections; size 0: absent */
	const uint8_t *info, *abbrev, *line;
	uint64_t info_size, abbrev_size, line_size;
};

struct ovm_dwarf_attr { /* as it stands in the unit */
	uint16_t form;	/* DW_FORM_*; 0: the unit has no such attribute, or in a form that means
			   something there only */
	const uint8_t *bytes;
	uint64_t size;
};

struct ovm_dwarf_unit {
	uint64_t off;	   /* in .debug_info */
	uint64_t line_off; /* DW_AT_stmt_list */
	bool is_64;	   /* 64-bit DWARF: lengths and offsets of 8 bytes */
	uint16_t version;
	uint16_t language; /* DW_LANG_*; 0: not said */
	struct ovm_dwarf_attr producer, name, comp_dir, str_offsets_base;
};

typedef OVM_VEC(struct ovm_dwarf_unit) ovm_dwarf_units;

/* Every compilation unit with a line table, ascending line_off, one for each line_off (link-time
 * optimization: several share one, then the first). Appended to @out; caller frees. */
void ovm_dwarf_units_read(const struct ovm_dwarf *dwarf, ovm_dwarf_units *out);

enum {				   /* ovm_line_row.flags */
       OVM_LINE_STMT = 1 << 0,	   /* a good place for a breakpoint */
       OVM_LINE_PROLOGUE = 1 << 1, /* so is this one, behind a function's prologue */
       OVM_LINE_END = 1 << 2,	   /* no row: first address behind a sequence */
       OVM_LINE_STARTED = 1 << 3,  /* for the reader of the rows, not set here */
};

struct ovm_line_row {
	ovm_va va;
	uint32_t file, line;
	uint16_t column; /* 0: not known, or too big */
	uint8_t flags;
};

typedef OVM_VEC(struct ovm_line_row) ovm_line_rows;

struct ovm_line_program {
	const uint8_t *bytes, *program,
	    *end;		/* unit from its length field on, its program, its end */
	const uint8_t *lengths; /* operands of standard opcodes 1 .. opcode_base - 1 */
	uint16_t version;
	bool is_64;
	int8_t line_base;
	uint8_t line_range, opcode_base, min_len;
	bool default_is_stmt;
};

/* The line table at @off. False if it is none that is understood. */
bool ovm_line_program_open(const struct ovm_dwarf *dwarf, uint64_t off,
			   struct ovm_line_program *out);

/* Its rows, appended to @out: ascending va; at one va the end of one sequence first, then rows in
 * their order. A sequence whose addresses do not ascend or that starts at 0 (its code was thrown
 * away by the linker) is left out. Each sequence has its END. */
void ovm_line_rows_read(const struct ovm_line_program *program, ovm_line_rows *out);

#endif
