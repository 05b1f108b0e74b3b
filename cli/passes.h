#ifndef OVM_CLI_PASSES_H
#define OVM_CLI_PASSES_H
/* --passes LIST. */
#include "analyzer/passes.h"
#include "cli/options.h"

/* The passes that --passes asks for; without it the default ones. LIST is read from left to right:
 * NAME or +NAME adds a pass, -NAME takes it away, all and none (at the front) say where to start;
 * else the default ones are the start. OVM_E_USAGE: a name that is none. */
int ovm_option_passes(struct ovm_ctx *ctx, const struct ovm_options *opts, uint32_t *set);

#endif
