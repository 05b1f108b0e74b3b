/* The signals that end a tool at its user's wish. Not SIGQUIT, which wants a core of this very
 * instant, and SIGKILL cannot wait. */
#include "base/signals.h"

#include <stddef.h>

void ovm_signals_hold(sigset_t *saved)
{
	static const int held[] = {SIGINT, SIGTERM, SIGHUP, SIGXFSZ};
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(held) / sizeof(held[0]); i++)
		sigaddset(&set, held[i]);
	pthread_sigmask(SIG_BLOCK, &set, saved);
}

void ovm_signals_release(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}
