/* A compile job is a hundred processes of a second each. To build instrumented copies takes as long
 * as one of them lives: each would start a builder and end before it is done.
 *
 *   process 1   sample ------ build ----| end
 *   process 2                     . ----+-- take, count | end
 *   process 3                           |            take, count | end
 *   stock                               put
 *
 * Copies refer to their module by distances only, so they serve any process that has mapped the
 * same file, wherever that is; only the place at the same distance must be free, and the module's
 * code the file's, which is found out in each process (target.h, ovm_target_take). What they are
 * made of was proved by the checker when they were built.
 *
 * A builder whose process has ended works on: it compares no memory then, which is no loss, as
 * every process that gets the copies is compared.
 */
#define OVM_LOG_DOMAIN "stock"
#include "runtime/stock.h"
#include "base/clock.h"
#include "base/log.h"
#include "runtime/generation.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

void ovm_stock_init(struct ovm_stock *stock)
{
	*stock = (struct ovm_stock){.builder = {.fd = -1, .order_fd = -1, .watch_fd = -1}};
	stock->pace.started_at = ovm_now_ms();
}

static void end_builder(struct ovm_stock *stock)
{
	ovm_builder_close(&stock->builder);
	ovm_livemap_fini(&stock->map);
	stock->map = (struct ovm_livemap){0};
}

void ovm_stock_fini(struct ovm_stock *stock)
{
	end_builder(stock);
	for (uint32_t i = 0; i < stock->v.n; i++) {
		struct ovm_stock_item *item = stock->v.v[i];
		for (uint32_t m = 0; m < item->built.modules.n; m++)
			free((char *)item->modules[m].path);
		free(item->modules);
		ovm_built_fini(&item->built);
		free(item);
	}
	ovm_vec_free(&stock->v);
}

void ovm_stock_put(struct ovm_stock *stock, struct ovm_built *built, bool is_new)
{
	struct ovm_stock_item *item = ovm_alloc(sizeof(*item));
	*item = (struct ovm_stock_item){.built = *built, .is_new = is_new};
	item->modules = ovm_alloc_array(built->modules.n, sizeof(*item->modules));
	for (uint32_t i = 0; i < built->modules.n; i++) {
		struct ovm_live_module *copy = &item->modules[i];
		*copy = *built->modules.v[i].module;
		copy->path = ovm_strdup(copy->path);
		memset(&copy->segments, 0, sizeof(copy->segments));
		item->built.modules.v[i].module = copy;
	}
	item->built.hook.module = NULL; /* each process has its own */
	ovm_vec_push(&stock->v, item);
	*built = (struct ovm_built){0};
}

void ovm_stock_adopt(struct ovm_stock *stock, struct ovm_builder *builder, struct ovm_livemap *map)
{
	end_builder(stock);
	stock->builder = *builder;
	stock->map = *map;
	*builder = (struct ovm_builder){.fd = -1, .order_fd = -1, .watch_fd = -1};
	*map = (struct ovm_livemap){0};
}

void ovm_stock_poll(struct ovm_ctx *ctx, struct ovm_stock *stock)
{
	struct pollfd watch = {.fd = stock->builder.watch_fd, .events = POLLIN};
	struct ovm_built built = {0};
	if (!stock->builder.pid || poll(&watch, 1, 0) == 0)
		return;
	if (ovm_builder_result(ctx, &stock->builder, &stock->map, &built, NULL))
		ovm_log(OVM_LOG_INFO, "nothing built: %s", ctx->msg);
	else if (!built.modules.n)
		ovm_log(OVM_LOG_INFO, "nothing built: %s", built.why_not);
	else
		ovm_stock_put(stock, &built, true);
	stock->pace.build_ms = stock->builder.used_ms;
	ovm_built_fini(&built);
	end_builder(stock);
}

uint32_t ovm_stock_next(const struct ovm_stock *stock, uint32_t from, const struct ovm_livemap *map)
{
	for (uint32_t i = from; i < stock->v.n; i++)
		for (uint32_t m = 0; m < stock->v.v[i]->built.modules.n; m++)
			if (ovm_livemap_same_file(map, stock->v.v[i]->built.modules.v[m].module))
				return i;
	return OVM_NONE;
}
