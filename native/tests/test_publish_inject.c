/*
 * The kernel fails amid publish, withdraw and replace, at each of its requests in turn; or moves more than it tells. What was
 * done is said; every page and every frame has its content; and the next try does the rest.
 */
#include "publish.h"

enum { NOTHING, MOVE, COPY, MPROTECT, PWRITE, PUNCH, DISCARD, MMAP, REQUESTS };
static int failing;
static int countdown, with;
static int fired; /* failures so far */
static bool more; /* of a move: it is done, and an error told */

static bool fails(int request)
{
    bool now = failing == request && --countdown == 0;
    fired += now;
    return now;
}

int __real_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    if (fails(MOVE)) {
        if (more) {
            size_t part = length > GRANULE ? length - GRANULE : length;
            __real_bp_kernel_uffd_move(uffd, to, from, part, done);
        }
        *done = 0;
        return with;
    }
    return __real_bp_kernel_uffd_move(uffd, to, from, length, done);
}

int __real_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    *done = 0;
    return fails(COPY) ? with : __real_bp_kernel_uffd_copy(uffd, to, from, length, done);
}

int __real_bp_kernel_mprotect(void *address, size_t length, int protection);
int __wrap_bp_kernel_mprotect(void *address, size_t length, int protection);
int __wrap_bp_kernel_mprotect(void *address, size_t length, int protection)
{
    return fails(MPROTECT) ? with : __real_bp_kernel_mprotect(address, length, protection);
}

int __real_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset);
int __wrap_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset);
int __wrap_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    return fails(PWRITE) ? with : __real_bp_kernel_pwrite(fd, data, size, offset);
}

int __real_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length);
int __wrap_bp_kernel_punch(int fd, uint64_t offset, uint64_t length)
{
    return fails(PUNCH) ? with : __real_bp_kernel_punch(fd, offset, length);
}

int __real_bp_kernel_discard(void *address, size_t length);
int __wrap_bp_kernel_discard(void *address, size_t length);
int __wrap_bp_kernel_discard(void *address, size_t length)
{
    return fails(DISCARD) ? with : __real_bp_kernel_discard(address, length);
}

int __real_bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address);
int __wrap_bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address);
int __wrap_bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address)
{
    return fails(MMAP) ? with : __real_bp_kernel_mmap(hint, length, protection, flags, fd, address);
}

#define COUNT 6
static uint64_t pages[COUNT] = {0, 1, 2, 3, 8, 10};

static bufpool_state state(bufpool_pool *pool, uint64_t page)
{
    bufpool_state found;
    CHECK_OK(bufpool_page_state(pool, page, &found));
    return found;
}

/* From a batch that may fail: those that are done are said, the next call does the others. Returns whether it failed. */
static bool publish_all(bufpool_pool *pool, void **frames)
{
    int code = bufpool_publish(pool, COUNT, frames, pages);
    failing = NOTHING;
    if (code == 0) {
        return false;
    }
    size_t done = bufpool_last_done();
    CHECK_IS(done, <, COUNT);
    CHECK_HAS(last_error(), "of 6 pages of this call are done");
    for (size_t i = 0; i < COUNT; i++) {
        CHECK_IS(state(pool, pages[i]) == BUFPOOL_STATE_ALLOCATED, ==, i < done);
        CHECK(i < done || is_stamped(frames[i], i << 20));
    }
    CHECK_OK(bufpool_publish(pool, COUNT - done, frames + done, pages + done));
    return true;
}

static bool withdraw_all(bufpool_pool *pool, void **frames)
{
    int code = bufpool_withdraw(pool, COUNT, pages, frames);
    failing = NOTHING;
    if (code == 0) {
        return false;
    }
    size_t done = bufpool_last_done();
    CHECK_IS(done, <, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        if (i < done) {
            check_gone(pool, pages[i]);
            CHECK(is_stamped(frames[i], i << 20));
        } else {
            check_page(pool, pages[i], i << 20);
        }
    }
    CHECK_OK(bufpool_withdraw(pool, COUNT - done, pages + done, frames + done));
    return true;
}

static void round_with(int request, int after, int code, bool moves_more, int step)
{
    bufpool_pool *pool = open_publishing();
    void *frames[COUNT];
    CHECK_OK(bufpool_stage(pool, COUNT, frames));
    for (size_t i = 0; i < COUNT; i++) {
        stamp(frames[i], i << 20);
    }
    with = code;
    more = moves_more;
    countdown = after;
    failing = step == 0 ? request : NOTHING;
    publish_all(pool, frames);
    for (size_t i = 0; i < COUNT; i++) {
        check_page(pool, pages[i], i << 20);
    }
    countdown = after;
    failing = step == 1 ? request : NOTHING;
    int replaced = bufpool_replace(pool, pages[4], 5);
    failing = NOTHING;
    if (replaced == 0) {
        CHECK_OK(bufpool_replace(pool, 5, pages[4]));
    } else {
        CHECK_HAS(last_error(), "both are as they were");
        CHECK_IS(state(pool, 5) == BUFPOOL_STATE_ALLOCATED, ==, false);
    }
    check_page(pool, pages[4], (uint64_t)4 << 20);
    countdown = after;
    failing = step == 2 ? request : NOTHING;
    withdraw_all(pool, frames);
    for (size_t i = 0; i < COUNT; i++) {
        check_gone(pool, pages[i]);
        CHECK(is_stamped(frames[i], i << 20));
    }
    CHECK_IS(publishing_stats(pool).staged, ==, COUNT);
    CHECK_OK(bufpool_unstage(pool, COUNT, frames));
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    static const int codes[] = {-ENOMEM, -EBUSY, -EAGAIN, -EEXIST};
    at = (struct publishing){memory, trap, NULL, 0, 12, GRANULE};
    fired = 0;
    for (int request = MOVE; request < REQUESTS; request++) {
        /* Of traps by protection an error of mprotect leaves a page open, which is then allocated (fill.c). */
        bool shut = strcmp(trap, "mprotect") == 0 && request == MPROTECT;
        for (int after = 1; after <= 3; after++) {
            for (int code = 0; code < (request == MOVE ? 4 : 1); code++) {
                for (int step = shut ? 1 : 0; step < 3; step++) {
                    round_with(request, after, codes[code], false, step);
                    if (request == MOVE && code >= 2) {
                        round_with(request, after, codes[code], true, step);
                    }
                }
            }
        }
    }
    printf("%d failures\n", fired);
    CHECK_IS(fired, >, 0);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
