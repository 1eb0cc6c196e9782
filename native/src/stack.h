/* stack.h: the native stack of an interrupted thread. */
#ifndef BP_STACK_H
#define BP_STACK_H

#include "machine.h"

#include <stdint.h>

/* Makes the unwinder load what it needs, outside of any handler. */
void bp_stack_prepare(void);

/* Writes the return addresses, innermost first, beginning with the interrupted instruction; returns how many. Never faults:
 * what cannot be read ends the stack. Async-signal-safe (see stack.c for the unwinder's terms). */
uint32_t bp_stack_walk(const struct bp_machine *machine, uint64_t *frames, uint32_t size);

#endif
