/* guard.c: guarded calls. The handler's side is in fault.c. */
#include "guard.h"

#include "error.h"
#include "notes.h"
#include "stack.h"
#include "thread.h"

#include <string.h>

void bp_fault_copy(bufpool_fault *to, const bufpool_fault *from)
{
    size_t size = to->size;
    if (size == 0 || size > sizeof *from) {
        size = sizeof *from;
    }
    memcpy(to, from, size);
    to->size = size;
}

int bp_guard_error(const bufpool_fault *fault)
{
    bp_notes()->fault = *fault;
    return bp_error(BUFPOOL_ESTRAY, "stray %s at 0x%llx: page %llu of pool \"%s\" is %s, offset %llu",
                    bufpool_access_name(fault->access), (unsigned long long)fault->address,
                    (unsigned long long)fault->page, fault->pool_name, bufpool_state_name(fault->state),
                    (unsigned long long)fault->offset);
}

int bufpool_last_fault(bufpool_fault *fault)
{
    if (fault == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "fault is NULL: pass a bufpool_fault set to BUFPOOL_FAULT_INIT");
    }
    if (bp_notes()->fault.size == 0) {
        return bp_error(BUFPOOL_EARGUMENT, "no call of this thread has ended with a stray access yet");
    }
    bp_fault_copy(fault, &bp_notes()->fault);
    return 0;
}

static int call(void (*function)(void *), void *argument, bufpool_fault *fault)
{
    struct bp_guard guard = {.outer = bp_thread.guards, .fault = fault};
    /* Without the signal mask (4 ns instead of a system call): the handler puts the mask back before it jumps. */
    if (sigsetjmp(guard.place, 0) != 0) {
        bp_thread.guards = guard.outer;
        return BUFPOOL_ESTRAY;
    }
    bp_thread.guards = &guard;
    function(argument);
    bp_thread.guards = guard.outer;
    return 0;
}

/* Through a pointer, so that it can be found on the stack. */
static int (*const volatile guarded)(void (*)(void *), void *, bufpool_fault *) = call;

bool bp_guard_interrupted(void)
{
    return bp_stack_handlers_above((uintptr_t)guarded) > 1;
}

int bufpool_guarded_call(void (*function)(void *), void *argument, bufpool_fault *fault)
{
    if (function == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "function is NULL: pass the function to call");
    }
    bufpool_fault local;
    int code = guarded(function, argument, &local);
    if (code == BUFPOOL_ESTRAY) {
        bp_guard_error(&local);
        if (fault != NULL) {
            bp_fault_copy(fault, &local);
        }
    }
    return code;
}

struct copy {
    void *to;
    const void *from;
    size_t size;
};

static void copy(void *argument)
{
    struct copy *request = argument;
    memcpy(request->to, request->from, request->size);
}

int bp_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault)
{
    bufpool_fault local;
    struct copy request = {to, from, size};
    return guarded(copy, &request, fault == NULL ? &local : fault);
}

int bufpool_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault)
{
    struct copy request = {to, from, size};
    return bufpool_guarded_call(copy, &request, fault);
}
