/* An overlay as text: sections, patches, tables, FDEs, then every instruction with the original it
 * stands for. Addresses are link-time, order is the overlay's, so equal input gives equal text.
 */
#include "rewriter/overlay.h"

static const char *const section_names[OVM_N_SECTIONS] = {"hot",  "cold",     "tables",
							  "lsda", "eh_frame", "eh_frame_hdr"};

static void dump_head(const struct ovm_overlay *overlay, FILE *to)
{
	fprintf(to, "overlay base 0x%llx size %u regions %u blocks %u insns %u\n",
		(unsigned long long)overlay->base.v, overlay->size, overlay->n_regions,
		overlay->n_blocks, overlay->n_insns);
	for (unsigned s = 0; s < OVM_N_SECTIONS; s++)
		if (overlay->sections[s].size)
			fprintf(to, "section %s +0x%x size 0x%x\n", section_names[s],
				overlay->sections[s].off, overlay->sections[s].size);
}

static void dump_patches(const struct ovm_program *program, const struct ovm_overlay *overlay,
			 FILE *to)
{
	char name[128];
	for (uint32_t i = 0; i < overlay->patches.n; i++) {
		const struct ovm_patch *patch = &overlay->patches.v[i];
		fprintf(to, "patch 0x%llx %s -> +0x%x\n", (unsigned long long)patch->at.v,
			ovm_region_name(program->image, patch->at, name, sizeof(name)),
			patch->target);
	}
}

static void dump_tables(const struct ovm_overlay *overlay, FILE *to)
{
	for (uint32_t i = 0; i < overlay->tables.n; i++) {
		const struct ovm_table_copy *table = &overlay->tables.v[i];
		fprintf(
		    to,
		    "table 0x%llx base 0x%llx entries %u x %u copy +0x%x load 0x%llx jump 0x%llx:",
		    (unsigned long long)table->old_table.v, (unsigned long long)table->base.v,
		    table->n_entries, table->entry_size, table->new_off,
		    (unsigned long long)table->old_load.v, (unsigned long long)table->old_jump.v);
		for (uint32_t e = 0; e < table->n_entries; e++) {
			const uint8_t *at =
			    overlay->bytes + table->new_off + (size_t)e * table->entry_size;
			uint64_t target = table->base.v + (table->entry_size == 4
							       ? (uint64_t)(int32_t)ovm_le32(at)
							       : ovm_le64(at));
			if (target - overlay->base.v < overlay->size)
				fprintf(to, " +0x%llx",
					(unsigned long long)(target - overlay->base.v));
			else
				fprintf(to, " 0x%llx", (unsigned long long)target);
		}
		fputc('\n', to);
	}
}

static void dump_fdes(const struct ovm_program *program, const struct ovm_overlay *overlay,
		      FILE *to)
{
	for (uint32_t i = 0; i < overlay->fdes.n; i++) {
		const struct ovm_new_fde *fde = &overlay->fdes.v[i];
		fprintf(to, "fde +0x%x..+0x%x region 0x%llx\n", fde->off, fde->off + fde->size,
			(unsigned long long)program->regions->v.v[fde->region].lo.v);
	}
}

static void dump_code(const struct ovm_overlay *overlay, struct ovm_decoder *dec, FILE *to)
{
	char text[160];
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		const struct ovm_map_entry *entry = &overlay->map.v.v[i];
		const char *insn = entry->flags & OVM_MAP_THUNK ? "thunk" : "int3 filler";
		if ((entry->flags & (OVM_MAP_PAD | OVM_MAP_SYNTH)) != OVM_MAP_PAD)
			insn = ovm_decoder_text(
			    dec, overlay->bytes + entry->off, overlay->size - entry->off,
			    ovm_va_add(overlay->base, entry->off), text, sizeof(text));
		fprintf(to, "+0x%06x 0x%llx %c%c%c%c%c %s\n", entry->off,
			(unsigned long long)entry->old.v,
			entry->flags & OVM_MAP_GUARD   ? 'g'
			: entry->flags & OVM_MAP_SYNTH ? 's'
						       : '-',
			entry->flags & OVM_MAP_CALL ? 'c' : '-',
			entry->flags & OVM_MAP_SYSCALL ? 'y' : '-',
			entry->flags & OVM_MAP_DUPLICATE ? 'd' : '-',
			entry->flags & OVM_MAP_PAD ? 'p' : '-', insn);
	}
}

void ovm_overlay_dump(const struct ovm_program *program, const struct ovm_overlay *overlay,
		      struct ovm_decoder *dec, FILE *to)
{
	dump_head(overlay, to);
	dump_patches(program, overlay, to);
	dump_tables(overlay, to);
	dump_fdes(program, overlay, to);
	dump_code(overlay, dec, to);
}
