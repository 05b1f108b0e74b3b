#ifndef OVM_TABLES_H
#define OVM_TABLES_H
/* Private copies of jump tables (rule R4). The base register keeps its value and the original table
 * is never touched: only the displacement of the copied load changes, by (new table - old table),
 * so a frame may enter or leave the overlay between the load and the jump.
 *
 *   movslq (%r12,%rax,4), %rax   ->   movslq delta(%r12,%rax,4), %rax       delta = copy - original
 *
 * An entry leads to the copy of its target where there is one, else to the original target, so
 * entries need not be understood.
 *
 * Tables of addresses in position-independent images are filled by the dynamic linker. The copy
 * holds differences from the original table instead, which need no relocation and no writable
 * memory; what makes addresses of them is one more instruction, for which the base register is
 * still there:
 *
 *   mov (%r14,%rax,8), %rcx      ->   mov delta(%r14,%rax,8), %rcx
 *                                     lea (%r14,%rcx), %rcx            no flags, no other register
 *   jmp *(%r14,%rax,8)           ->   mov delta(%r14,%rax,8), %rax     if nobody reads %rax then
 *                                     lea (%r14,%rax), %rax
 *                                     jmp *%rax
 */
#include "rewriter/overlay.h"

struct ovm_emit_plan;
struct ovm_bad;

struct ovm_tables_copy {
	uint32_t cfg, table; /* into program->cfgs and cfg->tables: the first that uses this copy */
	uint32_t off;	     /* of entry 0, from the start of the tables section */
};

struct ovm_tables_load { /* a copied instruction whose displacement changes */
	uint32_t cfg, insn;
	uint32_t copy; /* into copies */
};

struct ovm_tables {
	OVM_VEC(struct ovm_tables_copy) copies;
	OVM_VEC(struct ovm_tables_load) loads; /* sorted by (cfg, insn), unique */
	OVM_VEC(struct ovm_table_copy)
	claims;	       /* one a proven jump; new_off from the start of the section until written */
	uint32_t size; /* of the section */
};

/* Choose which tables are copied: those whose jump and load blocks are. Slots of @plan must be
 * known. OVM_REFUSED with @bad if one load serves two tables. */
int ovm_tables_plan(const struct ovm_emit_plan *plan, struct ovm_tables *tables,
		    struct ovm_bad *bad);
void ovm_tables_fini(struct ovm_tables *tables);

/* First load of @cfg at or after instruction @insn; loads.n if none. */
uint32_t ovm_tables_find(const struct ovm_tables *tables, uint32_t cfg, uint32_t insn);

/* Address of the copy minus address of the original, for load @idx. */
int64_t ovm_tables_delta(const struct ovm_emit_plan *plan, ovm_va base, uint32_t tables_off,
			 uint32_t idx);

/* Is the table of load @idx one of relocated addresses? */
bool ovm_tables_is_relocated(const struct ovm_emit_plan *plan, uint32_t idx);

/* Write the section at @bytes; pieces are final. OVM_REFUSED with @bad if an entry does not reach.
 */
int ovm_tables_write(const struct ovm_emit_plan *plan, ovm_va base, uint8_t *bytes,
		     struct ovm_bad *bad);

#endif
