/* Which jump tables get a private copy, and what the copy says. See tables.h for why the base
 * register is left alone.
 *
 * Several jumps often share one table (the compiler duplicated the dispatch): they share the copy
 * too. The length is what jumptable.c claims; too long is harmless, since an entry that means
 * nothing is copied with its meaning unchanged.
 */
#include "rewriter/tables.h"
#include "rewriter/emit.h"
#include "rewriter/fixup.h"

#include <stdlib.h>

static const struct ovm_jumptable *table_of(const struct ovm_emit_plan *plan,
					    const struct ovm_tables_copy *copy)
{
	return &plan->program->cfgs.v[copy->cfg]->tables[copy->table];
}

static bool is_copied(const struct ovm_emit_plan *plan, uint32_t cfg, uint32_t bb)
{
	return bb != OVM_NONE && plan->slot_of[plan->cfg_base[cfg] + bb] != OVM_NONE;
}

/* The copy of a table equal to @want among those of the same cfg, which start at @first; made if
 * missing. */
static uint32_t copy_for(const struct ovm_emit_plan *plan, struct ovm_tables *tables,
			 uint32_t first, uint32_t cfg, uint32_t idx)
{
	const struct ovm_jumptable *want = &plan->program->cfgs.v[cfg]->tables[idx];
	for (uint32_t i = first; i < tables->copies.n; i++) {
		const struct ovm_jumptable *have = table_of(plan, &tables->copies.v[i]);
		if (have->table.v == want->table.v && have->base.v == want->base.v &&
		    have->n_entries == want->n_entries && have->entry_size == want->entry_size)
			return i;
	}
	tables->size = (tables->size + want->entry_size - 1) & ~(want->entry_size - 1u);
	ovm_vec_push(&tables->copies, (struct ovm_tables_copy){cfg, idx, tables->size});
	tables->size += want->n_entries * want->entry_size;
	return tables->copies.n - 1;
}

static int by_cfg_insn(const void *a, const void *b)
{
	const struct ovm_tables_load *x = a, *y = b;
	if (x->cfg != y->cfg)
		return x->cfg < y->cfg ? -1 : 1;
	return x->insn < y->insn ? -1 : x->insn > y->insn;
}

static int unique_loads(struct ovm_tables *tables, struct ovm_bad *bad)
{
	uint32_t n = 0;
	if (tables->loads.n)
		qsort(tables->loads.v, tables->loads.n, sizeof(tables->loads.v[0]), by_cfg_insn);
	for (uint32_t i = 0; i < tables->loads.n; i++) {
		const struct ovm_tables_load *load = &tables->loads.v[i];
		if (n && by_cfg_insn(&tables->loads.v[n - 1], load) == 0) {
			if (tables->loads.v[n - 1].copy == load->copy)
				continue;
			*bad = (struct ovm_bad){load->cfg, OVM_REFUSE_OUT_OF_RANGE};
			return OVM_REFUSED;
		}
		tables->loads.v[n++] = *load;
	}
	tables->loads.n = n;
	return 0;
}

/* A table is worth a copy if the load that reads it and the jump that uses it are both copied. */
static bool is_wanted(const struct ovm_emit_plan *plan, uint32_t cfg_idx,
		      const struct ovm_jumptable *table)
{
	const struct ovm_cfg *cfg = plan->program->cfgs.v[cfg_idx];
	if (!table->n_entries || (table->entry_size != 4 && table->entry_size != 8))
		return false;
	OVM_ASSERT(table->jump_insn < cfg->n_insns && table->load_insn < cfg->n_insns);
	return is_copied(plan, cfg_idx, ovm_cfg_block_of(cfg, cfg->insns[table->jump_insn].va)) &&
	       is_copied(plan, cfg_idx, ovm_cfg_block_of(cfg, cfg->insns[table->load_insn].va));
}

int ovm_tables_plan(const struct ovm_emit_plan *plan, struct ovm_tables *tables,
		    struct ovm_bad *bad)
{
	const struct ovm_program *program = plan->program;
	*tables = (struct ovm_tables){0};
	for (uint32_t c = 0; c < program->cfgs.n; c++) {
		const struct ovm_cfg *cfg = program->cfgs.v[c];
		uint32_t first = tables->copies.n;
		for (uint32_t t = 0; cfg && t < cfg->n_tables; t++) {
			const struct ovm_jumptable *table = &cfg->tables[t];
			if (!is_wanted(plan, c, table))
				continue;
			if (table->n_entries > (1u << 24) || tables->size > (1u << 28)) {
				*bad = (struct ovm_bad){c, OVM_REFUSE_OUT_OF_RANGE};
				return OVM_REFUSED;
			}
			uint32_t copy = copy_for(plan, tables, first, c, t);
			ovm_vec_push(&tables->loads,
				     (struct ovm_tables_load){c, table->load_insn, copy});
			ovm_vec_push(&tables->claims,
				     (struct ovm_table_copy){table->table, table->base,
							     tables->copies.v[copy].off,
							     table->n_entries, table->entry_size,
							     cfg->insns[table->load_insn].va,
							     cfg->insns[table->jump_insn].va});
		}
	}
	return unique_loads(tables, bad);
}

void ovm_tables_fini(struct ovm_tables *tables)
{
	ovm_vec_free(&tables->copies);
	ovm_vec_free(&tables->loads);
	ovm_vec_free(&tables->claims);
}

uint32_t ovm_tables_find(const struct ovm_tables *tables, uint32_t cfg, uint32_t insn)
{
	struct ovm_tables_load key = {cfg, insn, 0};
	uint32_t lo = 0, hi = tables->loads.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (by_cfg_insn(&tables->loads.v[mid], &key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int64_t ovm_tables_delta(const struct ovm_emit_plan *plan, ovm_va base, uint32_t tables_off,
			 uint32_t idx)
{
	const struct ovm_tables_copy *copy = &plan->tables.copies.v[plan->tables.loads.v[idx].copy];
	return (int64_t)(base.v + tables_off + copy->off - table_of(plan, copy)->table.v);
}

bool ovm_tables_is_relocated(const struct ovm_emit_plan *plan, uint32_t idx)
{
	const struct ovm_tables_load *load = &plan->tables.loads.v[idx];
	return ovm_jumptable_is_relocated(table_of(plan, &plan->tables.copies.v[load->copy]));
}

static bool write_copy(const struct ovm_emit_plan *plan, ovm_va base,
		       const struct ovm_tables_copy *copy, uint8_t *at)
{
	const struct ovm_cfg *cfg = plan->program->cfgs.v[copy->cfg];
	const struct ovm_jumptable *table = table_of(plan, copy);
	uint32_t bb = ovm_cfg_block_of(cfg, cfg->insns[table->jump_insn].va);
	for (uint32_t i = 0; i < table->n_entries; i++, at += table->entry_size) {
		ovm_va to;
		uint32_t slot = ovm_emit_slot_of_entry(plan, copy->cfg, bb, table->targets[i], &to);
		if (slot != OVM_NONE)
			to = ovm_va_add(base, plan->pieces[slot].off);
		int64_t entry = (int64_t)(to.v - table->base.v);
		if (table->entry_size == 8) {
			ovm_put64(at, (uint64_t)entry);
			continue;
		}
		if (entry != (int32_t)entry)
			return false;
		ovm_put32(at, (uint32_t)entry);
	}
	return true;
}

int ovm_tables_write(const struct ovm_emit_plan *plan, ovm_va base, uint8_t *bytes,
		     struct ovm_bad *bad)
{
	for (uint32_t i = 0; i < plan->tables.copies.n; i++) {
		const struct ovm_tables_copy *copy = &plan->tables.copies.v[i];
		if (write_copy(plan, base, copy, bytes + copy->off))
			continue;
		*bad = (struct ovm_bad){copy->cfg, OVM_REFUSE_OUT_OF_RANGE};
		return OVM_REFUSED;
	}
	return 0;
}
