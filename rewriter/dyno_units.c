/* Which lines and pages run, and how few of them hold nearly all that is executed. Units are added
 * as code is walked, mostly one again and again, and united at the end. */
#include "rewriter/dyno_units.h"

#include <stdlib.h>

enum { HOT_PARTS = 100 }; /* hot: all but 1/HOT_PARTS */

static uint64_t add(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

void ovm_dyno_touch(ovm_dyno_units *list, uint64_t at, uint64_t weight)
{
	if (list->n && list->v[list->n - 1].at == at)
		list->v[list->n - 1].weight = add(list->v[list->n - 1].weight, weight);
	else
		ovm_vec_push(list, (struct ovm_dyno_unit){at, weight});
}

static int by_place(const void *pa, const void *pb)
{
	const struct ovm_dyno_unit *a = pa, *b = pb;
	return a->at < b->at ? -1 : a->at > b->at;
}

static int by_weight(const void *pa, const void *pb)
{
	const struct ovm_dyno_unit *a = pa, *b = pb;
	return a->weight > b->weight ? -1 : a->weight < b->weight;
}

static void unite(ovm_dyno_units *list)
{
	uint32_t n = 0;
	if (list->n)
		qsort(list->v, list->n, sizeof(*list->v), by_place);
	for (uint32_t i = 0; i < list->n; i++) {
		if (n && list->v[n - 1].at == list->v[i].at)
			list->v[n - 1].weight = add(list->v[n - 1].weight, list->v[i].weight);
		else
			list->v[n++] = list->v[i];
	}
	list->n = n;
}

void ovm_dyno_measure(ovm_dyno_units *list, uint64_t *all, uint64_t *hot)
{
	double total = 0, seen = 0;
	unite(list);
	*all = list->n;
	*hot = 0;
	if (list->n)
		qsort(list->v, list->n, sizeof(*list->v), by_weight);
	for (uint32_t i = 0; i < list->n; i++)
		total += (double)list->v[i].weight;
	for (uint32_t i = 0; i < list->n && seen < total - total / HOT_PARTS; i++, ++*hot)
		seen += (double)list->v[i].weight;
	ovm_vec_free(list);
}
