/*
 * Optimistic sections: reading pages without a latch, pages that may be evicted or freed at any moment.
 *
 * An engine with optimistic readers (vmcache, LeanStore) looks at a page's version, reads the page, and looks at the
 * version again: if it is another one, what was read counts for nothing. Such a reader may meet a hole, and that is no
 * bug. In a section, a read of a page that is unallocated, freed or evicted jumps back to the section's beginning; it is
 * counted (bufpool_statistics.restarts) and not reported, by no callback, log or message:
 *
 *     bufpool_section section;
 *     if (bufpool_optimistic_enter(&section)) {
 *         ... look at the version, read the page, look again ...
 *         bufpool_optimistic_leave(&section);
 *     } else {
 *         ... a page was not there: section.address says where. Bring it in, and start again ...
 *     }
 *
 * Still reported, by the pool's on_fault, as bugs: a write or an execute, a system call's access (BUFPOOL_MONITOR), a page
 * of a closed pool or of a pool that this process does not have, a page that is there and closed because nobody has pinned
 * it (pins "all": a reader of that pool pins), a page whose file was truncated, and a stray access of
 * a signal handler that has interrupted the section. The section is entered as before, and goes on if the access does.
 *
 * Inside a section only read, and compute. Whatever is begun there may never be ended, as with longjmp: take no lock,
 * allocate no memory, call nothing that may not be abandoned, and in C++ have no object whose destructor does something.
 * Read through volatile or relaxed atomic accesses, since the page may change under the reader. Follow no page number
 * before the version was looked at again, or check that it is one of the pool's: an address outside of every pool faults
 * as ever. A page that was evicted and has come back, or was freed and given out again, does not trap: only the version
 * tells. Variables that the section changes and the other branch reads are volatile, as for setjmp.
 *
 * A section ends in the function and on the stack where it was entered, by leave or by the jump; not by return, break,
 * exception, longjmp or a change of coroutine. One that was forgotten is noticed by the next fault, where the stack can
 * be unwound, and does not take it; nor, perhaps, do those around it. Sections and guarded calls nest in any order: the innermost decides, and what a
 * section does not take goes to the guarded call around it, if there is one. errno and the signal mask are after the jump
 * what they were at the access. Sections need the fault's signal: a thread that blocks it is killed, and one that
 * on_fault "freeze" stops stays stopped.
 *
 * Both calls are async-signal-safe; a signal handler may have sections of its own. Entered and left in some nanoseconds.
 */
#ifndef BUFPOOL_OPTIMISTIC_H
#define BUFPOOL_OPTIMISTIC_H

#include <bufpool/bufpool.h>
#include <setjmp.h>

#ifdef __cplusplus
extern "C" {
#endif

/* On the stack of the function that enters it; needs no initialisation. */
typedef struct bufpool_section {
    const void *address; /* after a restart: the byte whose read trapped; bufpool_locate() says the page */

    /* The library's own. */
    uintptr_t seal;                /* over the next four, while it is open */
    struct bufpool_section *outer; /* what was innermost before */
    bufpool_fault *fault;          /* of a guarded call, which is a section that takes everything */
    uintptr_t frame;               /* of the function that entered it, */
    uintptr_t caller;              /* and where that returns to */
    uintptr_t reserved[2];
    jmp_buf place;
} bufpool_section;

/* bool bufpool_optimistic_enter(bufpool_section *section): true; and false a second time, if a read inside met a hole: the
 * section is left then. As with setjmp, use it alone as the condition of an if or a loop, with ! at most. */
#ifdef BUFPOOL_DISABLED
#define bufpool_optimistic_enter(section) ((void)(section), true)
static inline void bufpool_optimistic_leave(bufpool_section *section)
{
    (void)section;
}
#else
#define bufpool_optimistic_enter(section) \
    (setjmp(*bufpool_optimistic_begin((section), (uintptr_t)__builtin_dwarf_cfa(), \
                                      (uintptr_t)__builtin_return_address(0))) == 0)

BUFPOOL_API void bufpool_optimistic_leave(bufpool_section *section);

/* What bufpool_optimistic_enter() calls; not for other use. */
BUFPOOL_API jmp_buf *bufpool_optimistic_begin(bufpool_section *section, uintptr_t frame, uintptr_t caller);
#endif

#ifdef __cplusplus
}
#endif

#endif
