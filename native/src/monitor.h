/*
 * monitor.h: the thread that reads the faults of a pool whose threads sleep on them (flag MONITOR, or on_fault "freeze").
 *
 * It blocks all signals, touches no memory of any pool, and takes no lock. Each message of the userfaultfd names a
 * thread and an address. What the thread is doing decides:
 *
 *   an instruction of its own  it is sent an order (orders.h) and answers the fault in its own handler
 *   a system call              the granule is poisoned, so that the call ends with EFAULT or with what it has done so
 *                              far; the order reaches the thread as the call ends, and the thread takes the poison away
 *   neither can be told        threads that block SIGBUS, workers of io_uring, other processes: the monitor writes the
 *                              report itself, lets the access end (pattern, or poison until the call is over), and
 *                              under "abort" ends the process
 *
 * A poisoned granule traps as a hole does, but for system calls, which fail there without another message; that lasts
 * for as long as the end of the first call takes.
 */
#ifndef BP_MONITOR_H
#define BP_MONITOR_H

#include "orders.h"
#include "pool.h"

/* Starts the thread, if the pool's userfaultfd needs one. Errors: -errno, EUNSUPPORTED (no /proc), with a sentence. */
int bp_monitor_start(bufpool_pool *pool);

/* Ends it, once nobody is inside the pool. Threads that sleep go on sleeping until their mapping is replaced. */
void bp_monitor_stop(bufpool_pool *pool);

/* For a forked child, which has no such thread: drops what it inherited of it. */
void bp_monitor_forget(bufpool_pool *pool);

#endif
