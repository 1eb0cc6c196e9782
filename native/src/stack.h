/* stack.h: the native stack of an interrupted thread. */
#ifndef BP_STACK_H
#define BP_STACK_H

#include "machine.h"

#include <stdint.h>

/* Makes the unwinder load what it needs, outside of any handler. */
void bp_stack_prepare(void);

/* Writes the return addresses, innermost first, beginning with the interrupted instruction; returns how many. Never
 * faults: what cannot be read ends the stack. Async-signal-safe (see stack.c for the unwinder's terms). */
uint32_t bp_stack_walk(const struct bp_machine *machine, uint64_t *frames, uint32_t size);

/* The running thread's own stack, beginning with the frame whose return address is `caller`. Where the unwinder does not
 * find that, the caller alone. Not for handlers. */
uint32_t bp_stack_capture(uint64_t *frames, uint32_t size, uint64_t caller);

/* How many calls of the function that begins at this address are on the running thread's stack, signal frames included;
 * -1 where the unwinder may not be used. The function must be called through a volatile pointer, so that it is not
 * inlined. Async-signal-safe on the same terms. */
int bp_stack_count(uintptr_t function);

/* How many signal handlers are running on top of each other in this thread; -1 and async-signal-safe as above. */
int bp_stack_handlers(void);

enum bp_frame {
    BP_FRAME_RUNS,        /* the fault happened in the frame or in what it called */
    BP_FRAME_INTERRUPTED, /* the fault happened in a signal handler, which may have interrupted that */
    BP_FRAME_GONE,        /* the frame has been left */
    BP_FRAME_UNKNOWN      /* the stack cannot be walked so far, but nothing speaks against the frame */
};

/* How does the fault at hand stand to a function's frame, known by its canonical frame address and by where it returns
 * to? Async-signal-safe on the same terms. */
enum bp_frame bp_stack_find(const struct bp_machine *machine, uintptr_t frame, uintptr_t caller);

#endif
