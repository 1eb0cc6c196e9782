/*
 * stripe.h: what every call writes, once for each of a few groups of threads, so that threads do not meet on a cache line.
 *
 * Two threads that add to one word take its cache line from each other each time: measured on two cores, an allocation with
 * its free then took 330 ns of each, where one thread alone needs 37. So each thread has a stripe, by its serial number, and
 * what is counted is the sum over all stripes. Threads that share one are right, too, and only slower.
 */
#ifndef BP_STRIPE_H
#define BP_STRIPE_H

#include "thread.h"

#define BP_STRIPES 32
#define BP_CACHE_LINE 64

/* The thread's stripe; others for another process's threads of the same numbers, by `process`. Async-signal-safe. */
static inline unsigned bp_stripe(unsigned process)
{
    return (bp_thread_serial() + process * 7) % BP_STRIPES;
}

#endif
