/* section.c: entering, leaving and finding optimistic sections and guarded calls, see section.h. */
#include "section.h"

#include "stack.h"
#include "thread.h"

#define DEEPEST 10000 /* a list that is longer has been damaged, and may be a ring */

/* The compiler, which may see through these functions, moves no read of a page over the boundaries. */
static inline void fence(void)
{
    __asm__ volatile("" ::: "memory");
}

static inline uintptr_t seal(const bufpool_section *words, const bufpool_section *at)
{
    return (uintptr_t)at ^ (uintptr_t)words->outer ^ (uintptr_t)words->fault ^ words->frame ^ words->caller;
}

jmp_buf *bufpool_optimistic_begin(bufpool_section *section, uintptr_t frame, uintptr_t caller)
{
    bufpool_section *outer = bp_thread.section;
    if (outer == section) { /* entered again without having been left */
        outer = section->seal == seal(section, section) ? section->outer : NULL;
    }
    section->outer = outer;
    section->fault = NULL;
    section->frame = frame;
    section->caller = caller;
    section->seal = seal(section, section);
    fence();
    bp_thread.section = section;
    fence();
    return &section->place;
}

void bufpool_optimistic_leave(bufpool_section *section)
{
    fence();
    section->seal = 0;
    bp_thread.section = section->outer;
    fence();
}

void bp_section_guard(bufpool_section *section, bufpool_fault *fault)
{
    section->fault = fault;
    section->seal = seal(section, section);
    fence();
}

/* Reads the words of a section that may be gone: its memory is another function's by now, or nobody's. */
__attribute__((no_sanitize("address"))) static bool look(const bufpool_section *section, bufpool_section *copy)
{
    sigjmp_buf *outer = bp_thread.probe;
    const size_t outer_size = bp_thread.probe_size;
    sigjmp_buf place;
    bool readable = sigsetjmp(place, 0) == 0;
    if (readable) {
        bp_thread.probe_size = 0;
        bp_thread.probe = &place;
        fence();
        copy->seal = section->seal;
        copy->outer = section->outer;
        copy->fault = section->fault;
        copy->frame = section->frame;
        copy->caller = section->caller;
        fence();
    }
    bp_thread.probe = outer;
    bp_thread.probe_size = outer_size;
    return readable;
}

bufpool_section *bp_section_find(const struct bp_machine *machine, bool optimistic)
{
    bufpool_section **link = &bp_thread.section;
    for (int depth = 0; *link != NULL && depth < DEEPEST; depth++) {
        bufpool_section seen;
        if (!look(*link, &seen) || seen.seal != seal(&seen, *link)) {
            *link = NULL;
            return NULL;
        }
        switch (bp_stack_find(machine, seen.frame, seen.caller)) {
        case BP_FRAME_INTERRUPTED:
            return NULL; /* and so are those around it */
        case BP_FRAME_GONE:
            *link = seen.outer;
            continue;
        case BP_FRAME_RUNS:
        case BP_FRAME_UNKNOWN:
            break;
        }
        if (optimistic || seen.fault != NULL) {
            return *link;
        }
        link = &(*link)->outer;
    }
    return NULL;
}

void bp_section_jump(bufpool_section *section)
{
    section->seal = 0;
    bp_thread.section = section->outer;
    longjmp(section->place, 1);
}
