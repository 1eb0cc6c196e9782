/* guard.h: guarded calls: where a stray access inside one continues. */
#ifndef BP_GUARD_H
#define BP_GUARD_H

#include <bufpool/bufpool.h>
#include <setjmp.h>

struct bp_guard {
    sigjmp_buf place;
    struct bp_guard *outer;
    bufpool_fault *fault; /* a whole one, in the frame of the guarded call, written by the handler */
};

/* bufpool_guarded_copy() for use inside the library: keeps no error sentence. fault may be NULL. */
int bp_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault);

/* In the handler, with a guarded call open: was the fault made by a signal handler of the host, which has interrupted
 * that call? Its stray accesses are not the call's, and to jump out of it would leave its signal blocked. */
bool bp_guard_interrupted(void);

/* Keeps a fault for bufpool_last_fault(), sets the error sentence, returns BUFPOOL_ESTRAY. */
int bp_guard_error(const bufpool_fault *fault);

/* Copies the part of a fault that the caller's struct, whose size is set, has room for. */
void bp_fault_copy(bufpool_fault *to, const bufpool_fault *from);

#endif
