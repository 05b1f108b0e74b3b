/* Plain numbers and arrays, written and read in the same order by the same program: what a builder
 * was ordered to make, and what it made. Both go through memory files, which are mapped to be read.
 */
#include "runtime/handover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct head {
	uint32_t n_modules;
	bool is_passing, is_hooked;
	struct ovm_unwindhook hook;
	uint64_t n_refused[OVM_MAX_REFUSALS];
	char why_not[200];
};

struct module_head {
	ovm_rta module; /* any address of it */
	uint64_t inode; /* and its file */
	ovm_rta at, link_map;
	uint64_t n_samples, print;
	uint64_t code;
	uint32_t like; /* nothing follows: the reader has it; else OVM_NONE */
	bool is_unseen;
	struct ovm_engine_stats stats;
	ovm_va base;
	uint32_t size, n_map, n_patches;
	struct ovm_section sections[OVM_N_SECTIONS];
	uint32_t n_regions, n_blocks, n_insns;
	ovm_va counters;
	uint32_t n_counters, n_sites, n_nodes, n_arcs, n_calls;
};

static bool put(int fd, const void *from, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t got = write(fd, (const char *)from + done, n - done);
		if (got <= 0)
			return false;
		done += (size_t)got;
	}
	return true;
}

static bool put_module(int fd, const struct ovm_handover *from, const struct ovm_target *target)
{
	const struct ovm_overlay *o = &target->engine.overlay;
	struct module_head head = {
	    .module = target->module->lo,
	    .inode = target->module->inode,
	    .at = target->at,
	    .link_map = ovm_livedyn_link_map(from->tracee, from->map, target->module),
	    .n_samples = target->n_samples,
	    .print = target->print,
	    .code = target->code,
	    .like = target->like,
	    .is_unseen = target->is_unseen,
	    .stats = target->engine.stats,
	    .base = o->base,
	    .size = o->size,
	    .n_map = o->map.v.n,
	    .n_patches = o->patches.n,
	    .n_regions = o->n_regions,
	    .n_blocks = o->n_blocks,
	    .n_insns = o->n_insns,
	    .counters = o->counters,
	    .n_counters = o->n_counters,
	    .n_sites = o->sites.n,
	    .n_nodes = target->engine.probes.n_nodes,
	    .n_arcs = target->engine.probes.arcs.n,
	    .n_calls = target->engine.calls.n,
	};
	memcpy(head.sections, o->sections, sizeof(head.sections));
	if (head.like != OVM_NONE)
		return put(fd, &head, sizeof(head));
	return put(fd, &head, sizeof(head)) && put(fd, o->bytes, o->size) &&
	       put(fd, o->map.v.v, o->map.v.n * sizeof(o->map.v.v[0])) &&
	       put(fd, o->map.by_old, o->map.v.n * sizeof(o->map.by_old[0])) &&
	       put(fd, o->patches.v, o->patches.n * sizeof(o->patches.v[0])) &&
	       put(fd, o->sites.v, o->sites.n * sizeof(o->sites.v[0])) &&
	       put(fd, target->engine.probes.arcs.v, head.n_arcs * sizeof(struct ovm_arc)) &&
	       put(fd, target->engine.calls.v, head.n_calls * sizeof(struct ovm_counted_call));
}

bool ovm_handover_put(int fd, const struct ovm_ctx *ctx, const struct ovm_handover *from)
{
	struct head head = {.n_modules = from->targets->n,
			    .is_passing = from->is_passing,
			    .is_hooked = from->is_hooked,
			    .hook = *from->hook};
	memcpy(head.n_refused, ctx->n_refused, sizeof(head.n_refused));
	snprintf(head.why_not, sizeof(head.why_not), "%s", from->why_not);
	bool ok = put(fd, &head, sizeof(head));
	for (uint32_t i = 0; i < from->targets->n && ok; i++)
		ok = put_module(fd, from, &from->targets->v[i]);
	return ok;
}

static bool take(struct ovm_handover_reader *r, void *to, size_t n)
{
	if ((size_t)(r->end - r->p) < n)
		return false;
	if (n)
		memcpy(to, r->p, n);
	r->p += n;
	return true;
}

/* A new array of @n elements of @size bytes, NULL if the file is too short. */
static void *take_array(struct ovm_handover_reader *r, uint32_t n, size_t size)
{
	if ((size_t)(r->end - r->p) / size < n)
		return NULL;
	void *to = ovm_alloc_array(n, size);
	take(r, to, n * size);
	return to;
}

static bool take_module(struct ovm_handover_reader *r, const struct ovm_livemap *map,
			struct ovm_built_module *out)
{
	struct module_head head;
	if (!take(r, &head, sizeof(head)))
		return false;
	struct ovm_overlay *o = &out->overlay;
	out->module = ovm_livemap_module(map, head.module);
	out->at = head.at;
	out->link_map = head.link_map;
	out->n_samples = head.n_samples;
	out->print = head.print;
	out->code = head.code;
	out->like = head.like;
	out->is_unseen = head.is_unseen;
	out->stats = head.stats;
	out->n_nodes = head.n_nodes;
	if (out->module && out->module->inode != head.inode)
		out->module = NULL;
	if (head.like != OVM_NONE)
		return true;
	o->base = head.base;
	o->size = head.size;
	o->n_regions = head.n_regions;
	o->n_blocks = head.n_blocks;
	o->n_insns = head.n_insns;
	memcpy(o->sections, head.sections, sizeof(head.sections));
	o->bytes = take_array(r, head.size, 1);
	o->map.v.v = take_array(r, head.n_map, sizeof(o->map.v.v[0]));
	o->map.v.n = o->map.v.cap = o->map.v.v ? head.n_map : 0;
	o->map.by_old = take_array(r, head.n_map, sizeof(o->map.by_old[0]));
	o->patches.v = take_array(r, head.n_patches, sizeof(o->patches.v[0]));
	o->patches.n = o->patches.cap = o->patches.v ? head.n_patches : 0;
	o->counters = head.counters;
	o->n_counters = head.n_counters;
	o->sites.v = take_array(r, head.n_sites, sizeof(o->sites.v[0]));
	o->sites.n = o->sites.cap = o->sites.v ? head.n_sites : 0;
	out->arcs.v = take_array(r, head.n_arcs, sizeof(out->arcs.v[0]));
	out->arcs.n = out->arcs.cap = out->arcs.v ? head.n_arcs : 0;
	out->calls.v = take_array(r, head.n_calls, sizeof(out->calls.v[0]));
	out->calls.n = out->calls.cap = out->calls.v ? head.n_calls : 0;
	return o->bytes && o->map.v.v && o->map.by_old && o->patches.v && o->sites.v &&
	       out->arcs.v && out->calls.v;
}

bool ovm_handover_take(struct ovm_handover_reader *r, const struct ovm_livemap *map,
		       struct ovm_built *out)
{
	struct head head;
	if (!take(r, &head, sizeof(head)))
		return false;
	out->is_passing = head.is_passing;
	out->is_hooked = head.is_hooked;
	out->hook = head.hook;
	out->hook.module = head.is_hooked ? ovm_livemap_module(map, head.hook.function) : NULL;
	memcpy(out->n_refused, head.n_refused, sizeof(out->n_refused));
	memcpy(out->why_not, head.why_not, sizeof(out->why_not));
	out->why_not[sizeof(out->why_not) - 1] = '\0';
	for (uint32_t i = 0; i < head.n_modules; i++) {
		ovm_vec_push(&out->modules, (struct ovm_built_module){0});
		struct ovm_built_module *m = &out->modules.v[out->modules.n - 1];
		if (!take_module(r, map, m))
			return false;
		if (m->module)
			continue;
		ovm_built_module_fini(
		    m); /* loaded after we had looked, or another one is there now */
		out->modules.n--;
		snprintf(out->why_not, sizeof(out->why_not),
			 "libraries were loaded and unloaded meanwhile");
	}
	return true;
}

/* --- orders
 * ------------------------------------------------------------------------------------------------------
 */

struct order { /* then so many gauges, then the profile's text */
	uint64_t n_gauges, n_text;
};

struct ordered_gauge {
	ovm_rta module;
	ovm_va entry;
};

bool ovm_handover_put_order(int fd, const struct ovm_profile *profile,
			    const struct ovm_gauges *gauges)
{
	char *text = NULL;
	size_t n_text = 0;
	FILE *to = open_memstream(&text, &n_text);
	if (!to)
		return false;
	ovm_profile_print(profile, to);
	bool ok = fclose(to) == 0;
	struct order order = {gauges->v.n, n_text};
	ok = ok && put(fd, &order, sizeof(order));
	for (uint32_t i = 0; i < gauges->v.n && ok; i++) {
		struct ordered_gauge g = {gauges->v.v[i].module->lo, gauges->v.v[i].entry};
		ok = put(fd, &g, sizeof(g));
	}
	ok = ok && put(fd, text, n_text);
	free(text);
	return ok;
}

bool ovm_handover_take_order(struct ovm_ctx *ctx, struct ovm_handover_reader *r,
			     const struct ovm_livemap *map, struct ovm_gauges *gauges,
			     struct ovm_profile **profile)
{
	struct order order;
	struct ordered_gauge g;
	if (!take(r, &order, sizeof(order)))
		return false;
	for (uint64_t i = 0; i < order.n_gauges; i++) {
		if (!take(r, &g, sizeof(g)))
			return false;
		const struct ovm_live_module *module = ovm_livemap_module(map, g.module);
		if (module)
			ovm_vec_push(&gauges->v, ((struct ovm_gauge){module, g.entry}));
	}
	return (size_t)(r->end - r->p) == order.n_text &&
	       ovm_profile_parse(ctx, (const char *)r->p, order.n_text, "order", profile) == 0;
}

bool ovm_handover_open(int fd, struct ovm_handover_reader *r)
{
	struct stat st;
	if (fstat(fd, &st) || !st.st_size)
		return false;
	void *mem = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (mem == MAP_FAILED)
		return false;
	r->lo = r->p = mem;
	r->end = r->p + st.st_size;
	return true;
}

void ovm_handover_close(struct ovm_handover_reader *r)
{
	munmap((void *)r->lo, (size_t)(r->end - r->lo));
}
