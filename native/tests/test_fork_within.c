/* A signal comes within a call, its handler forks, and the child returns from the handler: the call goes on in both. The
 * child has not got the pool, and what it does to end the call changes nothing of the parent's. */
#include "harness.h"

#include "kernel.h"

#include <signal.h>

#define PAGES 512
#define BATCH 64

static const char *memory, *trap;
static bufpool_pool *pool;
static bool early, armed, in_child; /* early: before the kernel has done it, else after */
static int forks;

/* ---- The library's requests of the kernel arrive here ---- */

static void interrupt(bool before)
{
    if (armed && before == early) {
        armed = false;
        CHECK_OK(raise(SIGUSR1));
    }
}

static void on_signal(int signo)
{
    (void)signo;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        in_child = true;
        return;
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid); /* first the child ends the call, then we do */
    CHECK_IS(status, ==, 0);
    forks++;
}

int __real_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __real_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset);
int __wrap_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset);
int __real_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __real_bp_kernel_discard(void *address, size_t length);
int __wrap_bp_kernel_discard(void *address, size_t length);
int __real_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done);
int __wrap_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done);

int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    interrupt(true);
    int code = __real_bp_kernel_uffd_copy(uffd, to, from, length, done);
    interrupt(false);
    return code;
}

int __wrap_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    interrupt(true);
    int code = __real_bp_kernel_pwrite(fd, data, size, offset);
    interrupt(false);
    return code;
}

int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length)
{
    interrupt(true);
    int code = __real_bp_kernel_punch(fd, offset, length);
    interrupt(false);
    return code;
}

int __wrap_bp_kernel_discard(void *address, size_t length)
{
    interrupt(true);
    int code = __real_bp_kernel_discard(address, length);
    interrupt(false);
    return code;
}

int __wrap_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done)
{
    interrupt(true);
    int code = __real_bp_kernel_discard_many(ranges, count, done);
    interrupt(false);
    return code;
}

/* ---- The calls ---- */

/* After a call, with its code: a child ends here, and a parent's call went well. */
static void after(int code)
{
    if (in_child) {
        uint64_t page;
        CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "the fork interrupted one");
        CHECK(traps_at(bufpool_address(pool, 0), NULL));
        _exit(0);
    }
    CHECK_OK(code);
    CHECK(!armed);
}

/* Page states, statistics, content and traps say the same. */
static void check(uint64_t allocated, uint64_t evicted)
{
    bufpool_statistics stats = stats_of(pool);
    CHECK_IS(stats.allocated, ==, allocated);
    CHECK_IS(stats.evicted, ==, evicted);
    for (uint64_t page = 0; page < PAGES; page++) {
        bufpool_state state = state_of(pool, page);
        allocated -= state == BUFPOOL_STATE_ALLOCATED;
        evicted -= state == BUFPOOL_STATE_EVICTED;
        CHECK_IS(traps_at(bufpool_address(pool, page), NULL), ==, state != BUFPOOL_STATE_ALLOCATED);
        if (state == BUFPOOL_STATE_ALLOCATED) {
            CHECK_IS(read_byte(bufpool_address(pool, page)), ==, 7);
        }
    }
    CHECK_IS(allocated, ==, 0);
    CHECK_IS(evicted, ==, 0);
}

static void interrupt_all(void)
{
    static unsigned char data[BATCH * GRANULE];
    uint64_t pages[PAGES];
    forks = 0;
    memset(data, 7, sizeof data);
    pool = open_pool(memory, trap, "raise", PAGES * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate_filled(pool, BATCH, data, pages));
    armed = true;
    after(bufpool_allocate_filled(pool, BATCH, data, pages));
    check(2 * BATCH, 0);
    armed = true;
    after(bufpool_evict_many(pool, BATCH, pages));
    check(BATCH, BATCH);
    armed = true;
    after(bufpool_populate_many(pool, BATCH, pages, data));
    check(2 * BATCH, 0);
    armed = true;
    after(bufpool_free_many(pool, BATCH, pages));
    check(BATCH, 0);
    CHECK_IS(forks, ==, 4);
    /* The index knows exactly what is free. */
    for (int i = 1; i < PAGES / BATCH; i++) {
        CHECK_OK(bufpool_allocate_filled(pool, BATCH, data, pages));
    }
    check(PAGES, 0);
    CHECK_IS(bufpool_allocate(pool, NULL, 0, pages), ==, BUFPOOL_EEXHAUSTED);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    early = true;
    interrupt_all();
    early = false;
    interrupt_all();
}

int main(void)
{
    harness_begin();
#if defined(__SANITIZE_THREAD__)
    printf("the thread sanitizer does not bear a fork in a signal handler\n");
    return HARNESS_SKIP;
#endif
    CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
    return for_each_cell(cell, false);
}
