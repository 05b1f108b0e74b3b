/* BOLT's text formats on hostile input: no crash, and what was read can be printed and is read
 * again with the same counts. */
#include "analyzer/fdata.h"
#include "analyzer/preagg.h"
#include "tests/support/sym_elf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static struct {
	struct mini mini;
	struct ovm_ctx ctx;
	struct ovm_image *image; /* NULL before the first input */
	struct ovm_regions regions;
	struct ovm_bolt_names names;
	struct ovm_decoder *dec;
} it;

static void set_up(void)
{
	if (it.image)
		return;
	ovm_ctx_init(&it.ctx);
	it.image = sym_elf_open(&it.mini);
	OVM_ASSERT(!ovm_regions_build(&it.ctx, it.image, &it.regions));
	ovm_bolt_names_build(it.image, &it.regions, &it.names);
	OVM_ASSERT(!ovm_decoder_open(&it.ctx, &it.dec));
}

/* Counts beyond 63 bits are cut when printed: then only that it can be read again is asked. */
static bool fits(const struct ovm_prof_module *m)
{
	bool ok = true;
	for (uint32_t i = 0; i < m->branches.n; i++)
		ok &= m->branches.v[i].count < INT64_MAX && m->branches.v[i].mispreds < INT64_MAX;
	for (uint32_t i = 0; i < m->ranges.n; i++)
		ok &= m->ranges.v[i].count < INT64_MAX;
	for (uint32_t i = 0; i < m->samples.n; i++)
		ok &= m->samples.v[i].count < INT64_MAX;
	return ok;
}

static char *print_preagg(const struct ovm_profile *prof, size_t *len, bool *exact)
{
	char *text = NULL;
	FILE *to = open_memstream(&text, len);
	OVM_ASSERT(to);
	for (uint32_t i = 0; i < prof->modules.n; i++) {
		ovm_preagg_print(&prof->modules.v[i], prof->event, true, it.dec, it.image, to);
		*exact &= fits(&prof->modules.v[i]);
	}
	fclose(to);
	return text;
}

static void check_preagg(const struct ovm_profile *prof)
{
	size_t len_a, len_b;
	bool exact = true;
	struct ovm_import met;
	struct ovm_profile *again;
	char *a = print_preagg(prof, &len_a, &exact);
	if (!len_a || ovm_preagg_parse(&it.ctx, NULL, a, len_a, "printed", &met, &again)) {
		free(a); /* only records that met nothing, or backward runs of zero */
		return;
	}
	char *b = print_preagg(again, &len_b, &exact);
	OVM_ASSERT(!exact || (len_a == len_b && !memcmp(a, b, len_a)));
	ovm_profile_free(again);
	free(a);
	free(b);
}

static void check_fdata(const struct ovm_profile *prof)
{
	char *text = NULL;
	size_t len = 0;
	uint64_t n_printed, n_left_out;
	struct ovm_import met;
	struct ovm_profile *again;
	FILE *to = open_memstream(&text, &len);
	OVM_ASSERT(to);
	OVM_ASSERT(!ovm_fdata_print(&it.ctx, it.image, &prof->modules.v[0], prof->event, to,
				    &n_printed, &n_left_out));
	fclose(to);
	if (n_printed) {
		OVM_ASSERT(!ovm_fdata_parse(&it.ctx, it.image, &it.names, it.dec, text, len,
					    "printed", &met, &again));
		OVM_ASSERT(!met.n_unknown);
		ovm_profile_free(again);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct ovm_import met;
	struct ovm_profile *prof;
	const char *text = (const char *)bytes;
	set_up();
	if (!ovm_fdata_parse(&it.ctx, it.image, &it.names, it.dec, text, len, "fuzz", &met,
			     &prof)) {
		check_fdata(prof);
		ovm_profile_free(prof);
	}
	for (int with_image = 0; with_image < 2; with_image++) {
		if (ovm_preagg_parse(&it.ctx, with_image ? it.image : NULL, text, len, "fuzz", &met,
				     &prof))
			continue;
		check_preagg(prof);
		ovm_profile_free(prof);
	}
	return 0;
}
