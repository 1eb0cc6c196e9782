/*
 * section.h: the open sections of a thread, which a stray access may end by a jump: optimistic sections and guarded calls.
 *
 * They form one list, innermost first, through structs on the threads' stacks. Entering and leaving are a few stores;
 * whether the list can be believed is found out by the handler: a section may have been forgotten (its function has
 * returned), or be below a signal handler that has interrupted it.
 */
#ifndef BP_SECTION_H
#define BP_SECTION_H

#include "machine.h"

#include <bufpool/optimistic.h>

/* The innermost section that takes this fault: of a read that is optimistic any, else only a guarded call. NULL: none.
 * Forgets those that are gone. Async-signal-safe. */
bufpool_section *bp_section_find(const struct bp_machine *machine, bool optimistic);

/* Makes a guarded call of the section that was just entered: it takes every stray access, and *fault receives it. */
void bp_section_guard(bufpool_section *section, bufpool_fault *fault);

/* Leaves the section and those inside it by the jump. errno and the signal mask are the caller's to set. */
_Noreturn void bp_section_jump(bufpool_section *section);

#endif
