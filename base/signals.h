#ifndef OVM_SIGNALS_H
#define OVM_SIGNALS_H
/* Ctrl-C, kill and the file size limit wait while a file is on the disk that has not got its name
 * yet: whoever ends us so finds no temporaries. */
#include <signal.h>

void ovm_signals_hold(sigset_t *saved);
void ovm_signals_release(const sigset_t *saved); /* what came meanwhile takes effect now */

#endif
