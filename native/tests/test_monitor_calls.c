/* Stray buffers in system calls, with a monitor: each call fails as it would without, and each is reported, once. */
#include "monitor.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define ROUNDS 20

static bufpool_pool *pool;
static uint64_t after;
static uint64_t page_size;

/* The last call strayed at address, as name says. */
static void check_fault(const char *name, const void *address, bufpool_access access, bufpool_state state)
{
    bufpool_fault faults[4];
    CHECK_IS(new_faults(pool, &after, faults, 4), ==, 1);
    const bufpool_fault *fault = &faults[0];
    CHECK_STRING(fault->in_syscall, name);
    CHECK_IS(fault->address, ==, (uintptr_t)address);
    CHECK_IS(fault->access, ==, access);
    CHECK_IS(fault->state, ==, state);
    CHECK_IS(fault->thread_id, ==, syscall(SYS_gettid));
    CHECK_IS(fault->signal, ==, SIGBUS);
    CHECK(fault->pc != 0 && fault->stack_depth > 1);
    char text[8192];
    bufpool_format_text(fault, text, sizeof text);
    char line[64];
    snprintf(line, sizeof line, " by system call %s at address ", name);
    CHECK_HAS(text, line);
}

static char *new_hole(void)
{
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_free(pool, page));
    return bufpool_address(pool, page);
}

static void calls(void)
{
    char *hole = new_hole();
    char good[64] = "good";
    int ends[2];
    CHECK_OK(pipe(ends));
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_IS(write(ends[1], hole + 100 + i, 10), ==, -1);
        CHECK_IS(errno, ==, EFAULT);
        check_fault("write", hole + 100 + i, BUFPOOL_READ, BUFPOOL_STATE_FREED);
    }
    CHECK_IS(write(ends[1], good, 8), ==, 8);
    CHECK_IS(read(ends[0], hole + 7, 8), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    check_fault("read", hole + 7, BUFPOOL_WRITE, BUFPOOL_STATE_FREED);
    CHECK_IS(syscall(SYS_futex, hole + 64, FUTEX_WAIT, 0, NULL), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    check_fault("futex", hole + 64, BUFPOOL_WRITE, BUFPOOL_STATE_FREED); /* shared futexes look for a writable page */

    int sockets[2];
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    struct iovec part = {hole + 11, 5};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    CHECK_IS(sendmsg(sockets[0], &message, 0), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    check_fault("sendmsg", hole + 11, BUFPOOL_READ, BUFPOOL_STATE_FREED);
    CHECK_IS(send(sockets[0], good, 8, 0), ==, 8);
    CHECK_IS(recv(sockets[1], hole + 12, 8, 0), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    check_fault("recvfrom", hole + 12, BUFPOOL_WRITE, BUFPOOL_STATE_FREED);
    close(sockets[0]);
    close(sockets[1]);
    close(ends[0]);
    close(ends[1]);
}

/* Where the first part of the buffer is there, the call does that part and says so. */
static void short_counts(void)
{
    char *hole = new_hole();
    char good[64] = "good";
    int fd = memfd_create("data", MFD_CLOEXEC);
    CHECK_IS(pwrite(fd, good, 64, 0), ==, 64);
    struct iovec parts[2] = {{good, 16}, {hole + 3, 16}};
    CHECK_IS(preadv(fd, parts, 2, 0), ==, 16);
    check_fault("preadv", hole + 3, BUFPOOL_WRITE, BUFPOOL_STATE_FREED);
    CHECK_IS(pwritev(fd, parts, 2, 0), ==, 16);
    check_fault("pwritev", hole + 3, BUFPOOL_READ, BUFPOOL_STATE_FREED);

    uint64_t pages[2];
    uint64_t tail = page_size - 32;
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    CHECK_IS(pages[1], ==, pages[0] + 1);
    CHECK_OK(bufpool_evict(pool, pages[1]));
    char *edge = bufpool_address(pool, pages[0]);
    CHECK_IS(pread(fd, edge + tail, 64, 0), ==, 32);
    check_fault("pread64", edge + page_size, BUFPOOL_WRITE, BUFPOOL_STATE_EVICTED);
    CHECK_OK(memcmp(edge + tail, "good", 4));
    CHECK_OK(bufpool_free_many(pool, 2, pages));
    close(fd);
}

/* What follows a call is as without it: the page can be allocated, a touch of it traps, and legal calls are silent. */
static void afterwards(void)
{
    char *hole = new_hole();
    char byte;
    int ends[2];
    CHECK_OK(pipe(ends));
    bufpool_location at = BUFPOOL_LOCATION_INIT;
    CHECK_OK(bufpool_locate(hole, &at));
    for (int i = 0; i < ROUNDS; i++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS(write(ends[1], hole, 10), ==, -1);
        check_fault("write", hole, BUFPOOL_READ, BUFPOOL_STATE_FREED);
        CHECK_IS(bufpool_guarded_copy(&byte, hole + 9, 1, &fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.address, ==, (uintptr_t)hole + 9);
        CHECK_STRING(fault.in_syscall, "");
        after = fault.sequence;
        CHECK_IS(write(ends[1], hole, 10), ==, -1);
        check_fault("write", hole, BUFPOOL_READ, BUFPOOL_STATE_FREED);
        CHECK_OK(bufpool_allocate_at(pool, at.page, i % 2 ? "whole" : NULL, i % 2 ? 6 : 0));
        CHECK_IS(write(ends[1], hole, 6), ==, 6);
        CHECK_IS(read(ends[0], hole + 10, 6), ==, 6);
        CHECK_OK(memcmp(hole + 10, i % 2 ? "whole" : "\0\0\0\0\0", 6));
        CHECK_IS(read_byte(hole + page_size - 1), ==, 0);
        CHECK_OK(bufpool_free(pool, at.page));
    }
    size_t found;
    bufpool_fault none;
    CHECK_OK(bufpool_faults(pool, after, 1, &none, &found));
    CHECK_IS(found, ==, 0);
    close(ends[0]);
    close(ends[1]);
}

static void all(const char *memory, const char *on_fault, uint64_t size)
{
    printf("memory %s, on_fault %s, pages of %llu\n", memory, on_fault, (unsigned long long)size);
    page_size = size;
    pool = open_monitored(memory, on_fault, 64 * size, size);
    CHECK_STRING(stats_of(pool).trap, "uffd");
    calls();
    short_counts();
    afterwards();
    uint64_t faults = stats_of(pool).faults;
    bufpool_fault owed = BUFPOOL_FAULT_INIT;
    uint64_t handed = 0;
    while (bufpool_check(&owed) == BUFPOOL_ESTRAY) {
        CHECK(owed.in_syscall[0] != 0);
        handed++;
    }
    CHECK_IS(handed, ==, strcmp(on_fault, "raise") == 0 ? faults - ROUNDS : 0); /* but the guarded ones */
    CHECK_IS(stats_of(pool).repeats, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (!can_monitor()) {
        return HARNESS_SKIP;
    }
    for (int i = 0; i < 2; i++) {
        const char *on_fault = i == 0 ? "resume" : "raise";
        all("anon", on_fault, GRANULE);
        all("anon", on_fault, 16 * KIB);
        all("shared", on_fault, GRANULE);
        all("shared", on_fault, 16 * KIB);
    }
    return 0;
}
