/* Stray buffers of io_uring, in the call and in its workers, and of O_DIRECT: seen by a monitor, and answered with EFAULT.
 * Without liburing: one entry at a time. */
#include "monitor.h"
#include "plain_ring.h"

/* Writes from `from` and waits for the result. */
static int ring_write(struct ring *ring, int fd, const void *from, unsigned length, unsigned char flags)
{
    ring_submit(ring, (struct io_uring_sqe){
                          .opcode = IORING_OP_WRITE, .fd = fd, .addr = (uintptr_t)from, .len = length, .flags = flags});
    return ring_result(ring);
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
