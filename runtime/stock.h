#ifndef OVM_STOCK_H
#define OVM_STOCK_H
/* Instrumented copies that were built for one process of a recording, for the next ones that run
 * the same files; and what all of them have cost together. */
#include "runtime/builder.h"
#include "runtime/countpace.h"

struct ovm_stock_item {
	struct ovm_built built;		 /* owned; its modules are copies of their own: */
	struct ovm_live_module *modules; /* [built.modules.n], paths owned; without segments */
	bool is_new; /* no process has had it yet: its process ended before it was built */
};

struct ovm_stock {
	OVM_VEC(struct ovm_stock_item *) v; /* stay where they are: processes borrow from them */
	struct ovm_builder builder;	  /* goes on after its process has ended; pid 0: none */
	struct ovm_livemap map;		  /* of that process */
	struct ovm_count_pace pace;
};

void ovm_stock_init(struct ovm_stock *stock);
void ovm_stock_fini(struct ovm_stock *stock); /* accepts zeroed; ends the builder */

/* Keep @built, which is then empty. Its modules' map may go. */
void ovm_stock_put(struct ovm_stock *stock, struct ovm_built *built, bool is_new);

/* The process with @map has ended, its @builder works on: both are moved in. */
void ovm_stock_adopt(struct ovm_stock *stock, struct ovm_builder *builder, struct ovm_livemap *map);

/* Has the adopted builder ended? Then keep what it made. Does not block. */
void ovm_stock_poll(struct ovm_ctx *ctx, struct ovm_stock *stock);

/* The first item from @from on of which @map has a module; OVM_NONE. */
uint32_t ovm_stock_next(const struct ovm_stock *stock, uint32_t from,
			const struct ovm_livemap *map);

#endif
