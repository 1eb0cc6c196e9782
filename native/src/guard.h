/* guard.h: guarded calls: where a stray access inside one continues. */
#ifndef BP_GUARD_H
#define BP_GUARD_H

#include <bufpool/bufpool.h>

/* bufpool_guarded_copy() for use inside the library: keeps no error sentence. fault may be NULL. */
int bp_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault);

/* Keeps a fault for bufpool_last_fault(), sets the error sentence, returns BUFPOOL_ESTRAY. */
int bp_guard_error(const bufpool_fault *fault);

/* Copies the part of a fault that the caller's struct, whose size is set, has room for. */
void bp_fault_copy(bufpool_fault *to, const bufpool_fault *from);

#endif
