/* guard.c: guarded calls. A guarded call is a section (section.h) that has room for a fault. */
#include "guard.h"

#include "error.h"
#include "notes.h"
#include "section.h"

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
    bufpool_section guard;
    if (!bufpool_optimistic_enter(&guard)) {
        return BUFPOOL_ESTRAY;
    }
    bp_section_guard(&guard, fault);
    function(argument);
    bufpool_optimistic_leave(&guard);
    return 0;
}

int bufpool_guarded_call(void (*function)(void *), void *argument, bufpool_fault *fault)
{
    if (function == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "function is NULL: pass the function to call");
    }
    bufpool_fault local;
    int code = call(function, argument, &local);
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
    return call(copy, &request, fault == NULL ? &local : fault);
}

int bufpool_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault)
{
    struct copy request = {to, from, size};
    return bufpool_guarded_call(copy, &request, fault);
}
