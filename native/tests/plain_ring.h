/* plain_ring.h: an io_uring of one entry at a time, without liburing. */
#ifndef PLAIN_RING_H
#define PLAIN_RING_H

#include "harness.h"

#include <linux/io_uring.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

struct ring {
    int fd;
    void *queue; /* both rings: one mapping */
    struct io_uring_params params;
    struct io_uring_sqe *entries;
};

/* false: refused here, errno says why. */
MAYBE_UNUSED static bool ring_open(struct ring *ring)
{
    memset(ring, 0, sizeof *ring);
    ring->fd = (int)syscall(SYS_io_uring_setup, 4, &ring->params);
    if (ring->fd < 0) {
        return false;
    }
    CHECK(ring->params.features & IORING_FEAT_SINGLE_MMAP);
    size_t sq = ring->params.sq_off.array + ring->params.sq_entries * sizeof(uint32_t);
    size_t cq = ring->params.cq_off.cqes + ring->params.cq_entries * sizeof(struct io_uring_cqe);
    ring->queue =
        mmap(NULL, sq > cq ? sq : cq, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
    ring->entries = mmap(NULL, ring->params.sq_entries * sizeof *ring->entries, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
    CHECK(ring->queue != MAP_FAILED && (void *)ring->entries != MAP_FAILED);
    return true;
}

MAYBE_UNUSED static _Atomic uint32_t *ring_word(struct ring *ring, uint32_t offset)
{
    return (_Atomic uint32_t *)((char *)ring->queue + offset);
}

/* Hands one entry to the kernel; what it does at once is done then. */
MAYBE_UNUSED static void ring_submit(struct ring *ring, struct io_uring_sqe entry)
{
    uint32_t tail = atomic_load(ring_word(ring, ring->params.sq_off.tail));
    uint32_t slot = tail & atomic_load(ring_word(ring, ring->params.sq_off.ring_mask));
    ring->entries[slot] = entry;
    atomic_store(ring_word(ring, ring->params.sq_off.array) + slot, slot);
    atomic_store(ring_word(ring, ring->params.sq_off.tail), tail + 1);
    long done;
    do {
        done = syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0);
        CHECK(done == 1 || (done < 0 && errno == EINTR));
    } while (done != 1);
}

/* Is the result there? */
MAYBE_UNUSED static bool ring_is_done(struct ring *ring)
{
    return atomic_load(ring_word(ring, ring->params.cq_off.tail)) !=
           atomic_load(ring_word(ring, ring->params.cq_off.head));
}

/* Waits for the result of one entry. */
MAYBE_UNUSED static int ring_result(struct ring *ring)
{
    while (!ring_is_done(ring)) {
        long done = syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
        CHECK(done >= 0 || errno == EINTR);
    }
    uint32_t head = atomic_load(ring_word(ring, ring->params.cq_off.head));
    uint32_t mask = atomic_load(ring_word(ring, ring->params.cq_off.ring_mask));
    struct io_uring_cqe *results = (struct io_uring_cqe *)((char *)ring->queue + ring->params.cq_off.cqes);
    int result = results[head & mask].res;
    atomic_store(ring_word(ring, ring->params.cq_off.head), head + 1);
    return result;
}

#endif
