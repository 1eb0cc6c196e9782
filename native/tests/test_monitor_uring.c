/* Stray buffers of io_uring, in the call and in its workers, and of O_DIRECT: seen by a monitor, and answered with EFAULT.
 * Without liburing: one entry at a time. */
#include "monitor.h"

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

static bool ring_open(struct ring *ring)
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

static _Atomic uint32_t *word(struct ring *ring, uint32_t offset)
{
    return (_Atomic uint32_t *)((char *)ring->queue + offset);
}

/* Writes from `from` and waits for the result. */
static int ring_write(struct ring *ring, int fd, const void *from, unsigned length, unsigned char flags)
{
    uint32_t tail = atomic_load(word(ring, ring->params.sq_off.tail));
    uint32_t slot = tail & atomic_load(word(ring, ring->params.sq_off.ring_mask));
    ring->entries[slot] = (struct io_uring_sqe){
        .opcode = IORING_OP_WRITE, .fd = fd, .addr = (uintptr_t)from, .len = length, .flags = flags};
    atomic_store(word(ring, ring->params.sq_off.array) + slot, slot);
    atomic_store(word(ring, ring->params.sq_off.tail), tail + 1);
    uint32_t head = atomic_load(word(ring, ring->params.cq_off.head));
    unsigned submit = 1;
    while (atomic_load(word(ring, ring->params.cq_off.tail)) == head) {
        long done = syscall(SYS_io_uring_enter, ring->fd, submit, 1, IORING_ENTER_GETEVENTS, NULL, 0);
        CHECK(done >= 0 || errno == EINTR);
        submit -= done > 0 ? 1 : 0;
    }
    uint32_t mask = atomic_load(word(ring, ring->params.cq_off.ring_mask));
    struct io_uring_cqe *results = (struct io_uring_cqe *)((char *)ring->queue + ring->params.cq_off.cqes);
    int result = results[head & mask].res;
    atomic_store(word(ring, ring->params.cq_off.head), head + 1);
    return result;
}

static void check_fault(bufpool_pool *pool, uint64_t *after, const char *name, const void *address)
{
    bufpool_fault faults[4];
    CHECK_IS(new_faults(pool, after, faults, 4), ==, 1);
    CHECK_IS(faults[0].address, ==, (uintptr_t)address);
    CHECK_IS(faults[0].state, ==, BUFPOOL_STATE_FREED);
    CHECK_STRING(faults[0].in_syscall, name);
}

static void uring(bufpool_pool *pool, char *hole, uint64_t *after)
{
    struct ring ring;
    int ends[2];
    if (!ring_open(&ring)) {
        printf("io_uring is refused here (%s): not tried\n", strerror(errno));
        return;
    }
    CHECK_OK(pipe(ends));
    for (int i = 0; i < 5; i++) {
        CHECK_IS(ring_write(&ring, ends[1], hole + i, 10, 0), ==, -EFAULT);
        check_fault(pool, after, "io_uring_enter", hole + i);
        CHECK_IS(ring_write(&ring, ends[1], hole + 100 + i, 10, IOSQE_ASYNC), ==, -EFAULT);
        bufpool_fault faults[4];
        CHECK_IS(new_faults(pool, after, faults, 4), ==, 1);
        CHECK_IS(faults[0].address, ==, (uintptr_t)hole + 100 + (unsigned)i);
        CHECK_HAS(faults[0].thread_name, "iou-wrk-");
        CHECK(faults[0].in_syscall[0] != 0);
        WAIT_WATCHFUL(pool); /* the worker cannot say when it was over */
    }
    close(ends[0]);
    close(ends[1]);
    close(ring.fd);
}

static void direct(bufpool_pool *pool, char *hole, uint64_t *after)
{
    char path[] = "/var/tmp/bufpool-direct-XXXXXX";
    int plain = mkstemp(path);
    CHECK(plain >= 0);
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    unlink(path);
    close(plain);
    if (fd < 0 || ftruncate(fd, MIB) != 0) {
        printf("O_DIRECT is refused on this file system (%s): not tried\n", strerror(errno));
        return;
    }
    for (int i = 0; i < 5; i++) {
        CHECK_IS(pwrite(fd, hole, GRANULE, 0), ==, -1);
        CHECK_IS(errno, ==, EFAULT);
        check_fault(pool, after, "pwrite64", hole);
        CHECK_IS(pread(fd, hole + 512, 1024, 0), ==, -1);
        CHECK_IS(errno, ==, EFAULT);
        check_fault(pool, after, "pread64", hole + 512); /* the kernel asks for the page, the argument is exact */
    }
    close(fd);
}

int main(void)
{
    harness_begin();
    if (!can_monitor()) {
        return HARNESS_SKIP;
    }
    bufpool_pool *pool = open_monitored("anon", "resume", MIB, GRANULE);
    uint64_t page;
    uint64_t after = 0;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_free(pool, page));
    char *hole = bufpool_address(pool, page);
    uring(pool, hole, &after);
    direct(pool, hole, &after);
    CHECK_OK(bufpool_close(pool));
    return 0;
}
