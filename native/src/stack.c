/*
 * stack.c: walking the native stack from a signal handler.
 *
 * _Unwind_Backtrace reads unwind tables that live in read-only memory. What makes it unsafe in a handler elsewhere is
 * finding those tables through dl_iterate_phdr, which takes the loader's lock; from glibc 2.35 on, libgcc finds them
 * through _dl_find_object, which is documented as async-signal-safe. So the unwinder is used only where that function
 * exists; else the walk follows frame pointers. Either way a fault during the walk (a broken stack) is caught by our
 * own handler and ends it.
 */
#include "stack.h"

#include "probe.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unwind.h>

#define MAX_FRAMES 100000 /* of a stack that is whole; a damaged one may go round */

static bool unwinder_is_safe;

struct walk {
    uint64_t *frames;
    uint32_t size;
    uint32_t count;
    uint64_t from; /* frames before this address (the handler's own) are skipped */
    bool found;
};

static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *argument)
{
    struct walk *walk = argument;
    uint64_t pc = (uint64_t)_Unwind_GetIP(context);
    if (pc == 0) {
        return _URC_END_OF_STACK;
    }
    walk->found = walk->found || pc == walk->from;
    if (walk->found) {
        if (walk->count == walk->size) {
            return _URC_END_OF_STACK;
        }
        walk->frames[walk->count++] = pc;
    }
    return _URC_NO_REASON;
}

static _Unwind_Reason_Code nothing(struct _Unwind_Context *context, void *argument)
{
    (void)context;
    (void)argument;
    return _URC_END_OF_STACK;
}

void bp_stack_prepare(void)
{
    static atomic_bool prepared;
    if (!atomic_load(&prepared)) {
        unwinder_is_safe = dlsym(RTLD_DEFAULT, "_dl_find_object") != NULL;
        _Unwind_Backtrace(nothing, NULL); /* the first use may load and allocate */
        atomic_store(&prepared, true);
    }
}

/* Frame pointers, on both architectures: [fp] is the caller's fp, [fp + 8] the return address. */
static uint32_t follow_frame_pointers(const struct bp_machine *machine, uint64_t *frames, uint32_t size)
{
    uint32_t count = 0;
    frames[count++] = machine->pc;
    uint64_t fp = machine->fp;
    uint64_t low = machine->sp;
    uint64_t pair[2];
    while (count < size && fp != 0 && fp >= low && fp < low + (1u << 20) && fp % 8 == 0 &&
           bp_probe_copy(pair, (const void *)(uintptr_t)fp, sizeof pair) && pair[1] != 0) {
        frames[count++] = pair[1];
        low = fp + 16;
        fp = pair[0];
    }
    return count;
}

/* A jump into a page leaves no frame there: the caller is what the call pushed, or the link register. */
static uint64_t jumped_from(const struct bp_machine *machine)
{
    uint64_t caller = machine->link;
    if (caller == 0 && !bp_probe_copy(&caller, (const void *)(uintptr_t)machine->sp, sizeof caller)) {
        return 0;
    }
    return caller;
}

/* Visits the running thread's frames; a fault on the way (a broken stack) ends the walk. In a handler only where
 * unwinder_is_safe. */
static void visit_frames(_Unwind_Trace_Fn visit, void *argument)
{
    sigjmp_buf *outer = bp_thread.probe;
    const size_t outer_size = bp_thread.probe_size;
    sigjmp_buf place;
    if (sigsetjmp(place, 0) == 0) {
        bp_thread.probe_size = 0;
        bp_thread.probe = &place;
        _Unwind_Backtrace(visit, argument);
    }
    bp_thread.probe = outer;
    bp_thread.probe_size = outer_size;
}

uint32_t bp_stack_walk(const struct bp_machine *machine, uint64_t *frames, uint32_t size)
{
    if (machine->access == BUFPOOL_EXECUTE) {
        frames[0] = machine->pc;
        frames[1] = jumped_from(machine);
        return frames[1] != 0 ? 2 : 1;
    }
    struct walk walk = {frames, size, 0, machine->pc, false};
    if (unwinder_is_safe) {
        visit_frames(step, &walk);
    }
    return walk.count > 1 ? walk.count : follow_frame_pointers(machine, frames, size);
}

uint32_t bp_stack_capture(uint64_t *frames, uint32_t size, uint64_t caller)
{
    struct walk walk = {frames, size, 0, caller, false};
    visit_frames(step, &walk);
    if (walk.count == 0) {
        frames[walk.count++] = caller;
    }
    return walk.count;
}

struct search {
    uintptr_t function; /* 0: what was interrupted by a signal */
    int found;
    int frames;
};

static _Unwind_Reason_Code compare(struct _Unwind_Context *context, void *argument)
{
    struct search *search = argument;
    int interrupted = 0;
    _Unwind_GetIPInfo(context, &interrupted);
    search->found += search->function != 0 ? _Unwind_GetRegionStart(context) == search->function : interrupted != 0;
    return ++search->frames < MAX_FRAMES ? _URC_NO_REASON : _URC_END_OF_STACK;
}

int bp_stack_count(uintptr_t function)
{
    struct search search = {function, 0, 0};
    if (!unwinder_is_safe) {
        return -1;
    }
    visit_frames(compare, &search);
    return search.found;
}

int bp_stack_handlers(void)
{
    return bp_stack_count(0);
}

struct hunt {
    uintptr_t frame;
    uintptr_t caller;
    int frames;
    int signals; /* signal frames met so far: the first is that of the fault itself */
    bool passed; /* what lies where the frame should be is something else */
    bool met;
};

static _Unwind_Reason_Code close_in(struct _Unwind_Context *context, void *argument)
{
    struct hunt *hunt = argument;
    int interrupted = 0;
    uintptr_t pc = _Unwind_GetIPInfo(context, &interrupted);
    uintptr_t sp = _Unwind_GetCFA(context); /* of this frame: where the frame of what it has called begins */
    hunt->signals += interrupted != 0;
    if (hunt->signals > 0) { /* before that it is our own handler */
        hunt->met = sp == hunt->frame && pc == hunt->caller && !interrupted;
        hunt->passed = hunt->passed || sp >= hunt->frame;
    }
    return !hunt->met && ++hunt->frames < MAX_FRAMES ? _URC_NO_REASON : _URC_END_OF_STACK;
}

enum bp_frame bp_stack_find(const struct bp_machine *machine, uintptr_t frame, uintptr_t caller)
{
    if (!unwinder_is_safe || machine->access == BUFPOOL_EXECUTE) { /* to unwind from a hole it would read the hole */
        return machine->sp < frame ? BP_FRAME_UNKNOWN : BP_FRAME_INTERRUPTED;
    }
    struct hunt hunt = {.frame = frame, .caller = caller};
    visit_frames(close_in, &hunt);
    if (hunt.signals > 1) {
        return BP_FRAME_INTERRUPTED;
    }
    return hunt.met ? BP_FRAME_RUNS : hunt.passed ? BP_FRAME_GONE : BP_FRAME_UNKNOWN;
}
