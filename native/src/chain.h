/* chain.h: the library's handlers of SIGBUS and SIGSEGV. */
#ifndef BP_CHAIN_H
#define BP_CHAIN_H

#include <signal.h>
#include <stdbool.h>

/* Marks the module that this code lies in as one that dlclose() leaves in place, since the kernel will have the handler's
 * address. Takes the loader's lock: call it without any of ours. */
void bp_signal_stay(void);

/* Makes our handler the one that the kernel calls for SIGBUS and SIGSEGV, and remembers whom it displaced. Called at
 * each open and by bufpool_install_handlers(), under the registry's lock, so that a handler installed meanwhile is found
 * and put behind ours. Errors: EUNSUPPORTED (somebody keeps the signal to itself), -errno. */
int bp_signal_install(void);

/* For a signal that is none of ours: does what would have happened without this library. Async-signal-safe. */
void bp_signal_pass_on(int signo, siginfo_t *info, void *context);

/* Around the few steps of a library call that a handler of the host's must not interrupt, lest it strays and waits in
 * vain for what this very thread holds. Async-signal-safe. */
void bp_signal_block(sigset_t *before);
void bp_signal_restore(const sigset_t *before);

/* Our handler runs with most signals blocked. Before it calls code of the host: sets the mask that this code would have
 * without us, and gives in before what to set afterwards. Async-signal-safe. */
void bp_signal_open_mask(const void *context, sigset_t *before);

/* On return from the handler the signal's default action takes place at the interrupted instruction. Async-signal-safe.
 */
void bp_signal_default(int signo, const siginfo_t *info);

#endif
