/*
 * orders.h: what the monitor tells a thread about the access that it sleeps in.
 *
 * The monitor queues SIGBUS to the thread and leaves an order here; our handler, which the signal brings to run in that
 * thread at the very instruction (or at the end of the system call), takes it and goes on as for a fault of the thread's
 * own: so guarded calls, callbacks, stacks and policies are the same. One order a thread at a time: a new one replaces
 * the old. Lock-free; all functions are thread-safe, and bp_order_take() is async-signal-safe.
 */
#ifndef BP_ORDERS_H
#define BP_ORDERS_H

#include "frozen.h"

#define BP_LONGEST_INSTRUCTION 16 /* bytes */
#define BP_ORDERS 256             /* threads that may sleep in stray accesses at one time; more wait for their turn */

struct bp_order {
    bufpool_pool *pool;
    int32_t thread;
    enum bp_frozen_wish thaw; /* the thread is frozen, and this is to become of it; else BP_WISH_NONE */
    bool poisoned;
    bool foreign; /* the thread is another process's */
    bufpool_access access;
    uint64_t address;
    uint64_t sp;
    uint64_t pc;         /* of the instruction that made the access; 0: not known */
    char in_syscall[32]; /* empty: made by the program itself */
};

/* The value of the signal that an order comes with; may come without, when the order has been replaced or withdrawn. */
void *bp_order_marker(void);

/* Leaves an order for order->thread. false: all places are taken. */
bool bp_order_put(const struct bp_order *order);

/* The order that waits for order->thread is about a system call, not an access of the program itself. false: none waits. */
bool bp_order_correct(const struct bp_order *order);

/* The granule of that order has been poisoned. false: none waits. */
bool bp_order_poisoned(int32_t thread);

/* The order for a thread, which is then gone; false if there is none. */
bool bp_order_take(int32_t thread, struct bp_order *order);

/* Is one waiting for the thread? */
bool bp_order_waits(int32_t thread);

/* Takes an order of this pool that has waited for longer than ns: the signal did not arrive, or somebody kept it. */
bool bp_order_overdue(const bufpool_pool *pool, int64_t ns, struct bp_order *order);

/* Is any waiting for threads of this pool? */
bool bp_orders_wait(const bufpool_pool *pool);

/* In a forked child: they were the parent's. */
void bp_orders_forget(void);

#endif
