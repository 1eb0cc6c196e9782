/*
 * uring.h: many requests of the kernel in flight together, by io_uring (uring.c), where this build has liburing and the
 * kernel allows it.
 *
 * A ring serves one batch of one thread at a time. Those of the process stand in a row, from which a thread takes one by
 * an exchange: no lock is held across a system call, and there are as many descriptors as there were batches at the same
 * time, not as there are pools or threads. A forked child sets up rings of its own. What is tried and refused is
 * remembered, so that it is not asked for with every batch.
 */
#ifndef BP_URING_H
#define BP_URING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define BP_URING_BATCH 128 /* requests of one batch, at most */

struct bp_uring;

struct bp_request {
    struct iovec *parts;
    size_t count;
    uint64_t offset;
    int64_t result; /* bytes moved, or -errno; -EAGAIN: the request was not made, or may be made again */
};

/* A ring for this thread; NULL: none is to be had, now or at all. */
struct bp_uring *bp_uring_take(void);

/* Makes the requests and waits for all: nobody reads or writes the memory of one any more when this returns. */
void bp_uring_run(struct bp_uring *ring, int fd, bool write, struct bp_request *requests, size_t count);

void bp_uring_give(struct bp_uring *ring);

/* Closes the rings that nobody uses. */
void bp_uring_rest(void);

/* Can a ring be had? Sets one up. Errors: EUNSUPPORTED, with a sentence. */
int bp_uring_probe(void);

#endif
