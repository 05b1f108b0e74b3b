/* FIPS 140 modules hash their own code at start-up and abort if it is not what was built. A patched
 * entry is enough to fail. Those that lie in a program as a part of it (BoringSSL, AWS-LC, and what
 * they are linked into) compare with a hash in the program, and say the same words when it differs:
 *
 *   BORINGSSL_bcm_text_start  [ code ... ]  BORINGSSL_bcm_text_end     "FIPS integrity test"
 *
 * With the two symbols only what is between them is left alone, in a stripped file everything. The
 * words are looked for in read-only memory. Modules that hash a whole file against another one
 * (OpenSSL's fips.so, NSS, libgcrypt) need that file made anew, by their own tools: nothing in the
 * code tells. Limit: anti-tamper code of other kinds is not recognised.
 */
#include "analyzer/selfcheck.h"

#include <stdio.h>
#include <string.h>

/* Behind them " failed.", in newer ones elsewhere. In two pieces, so that this program does not hold
 * the words itself. */
bool ovm_selfcheck_any(const struct ovm_image *image)
{
	char words[32];
	snprintf(words, sizeof(words), "%s %s", "FIPS integrity", "test");
	return ovm_image_mentions(image, words);
}

static ovm_va symbol(const struct ovm_image *image, const char *name)
{
	for (uint32_t i = 0; i < image->symbols.n; i++)
		if (!strcmp(image->symbols.v[i].name, name))
			return image->symbols.v[i].va;
	return ovm_va_of(0);
}

void ovm_selfcheck_refuse(struct ovm_ctx *ctx, const struct ovm_image *image,
			  struct ovm_regions *regions)
{
	ovm_va lo = symbol(image, "BORINGSSL_bcm_text_start");
	ovm_va hi = symbol(image, "BORINGSSL_bcm_text_end");
	bool all = !lo.v || hi.v <= lo.v;
	for (uint32_t i = 0; i < regions->v.n; i++) {
		const struct ovm_region *region = &regions->v.v[i];
		if (all || (region->hi.v > lo.v && region->lo.v < hi.v))
			ovm_region_refuse(ctx, regions, i, OVM_REFUSE_SELF_CHECK);
	}
}
