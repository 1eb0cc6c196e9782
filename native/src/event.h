/*
 * event.h: one stray access on its way through the handler.
 *
 * fault.c makes it of a signal, record.c fills in and records the report, policy.c and callback.c say what happens next.
 * Everything here runs in a signal handler: see fault.c for what that allows.
 */
#ifndef BP_EVENT_H
#define BP_EVENT_H

#include "diagnose.h"
#include "machine.h"
#include "orders.h"
#include "pool.h"
#include "report.h"

#include <signal.h>

struct bp_event {
    int signo;
    siginfo_t *info;
    void *context;
    struct bp_machine machine;
    bufpool_pool *pool;    /* visited until bp_event_leave() */
    struct bp_order order; /* thread 0: the signal is the kernel's own */
    uint64_t known;        /* provenance's last sequence number when the handler began */
    int before;            /* errno of the interrupted code */
    bool guarded;          /* it ends a guarded call: nothing goes to stderr */
    struct bp_more more;
    uint32_t depth; /* of stack; walked before the fault is on the handler's stack: it has three KiB */
    uint64_t stack[BUFPOOL_STACK_DEPTH];
    bufpool_fault *fault;
};

/* Was it a system call? Then it is over by now. */
static inline bool bp_event_is_call(const struct bp_event *event)
{
    return event->order.in_syscall[0] != 0;
}

#endif
