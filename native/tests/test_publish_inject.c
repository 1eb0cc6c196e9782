/*
 * The kernel fails amid publish, withdraw and replace, at each of its requests in turn; or does more than it tells; or goes on
 * refusing, so that what it has begun can neither be finished nor undone as it was begun. What was done is said; every page
 * and every frame has its content; what is no page traps; and the next try does the rest.
 */
#include "publish.h"

enum { NOTHING, MOVE, COPY, MPROTECT, PWRITE, PUNCH, DISCARD, MMAP, REQUESTS };
enum manner {
    ONCE,
    MORE, /* it is done, or as good as, and an error told */
    PART, /* the first granule is done and told, and from then on there are errors only */
};
static int failing;
static int countdown, with;
static enum manner manner;
static int fired;       /* failures so far */
static bool none_moves; /* beside it: every move is refused */

static bool fails(int request)
{
    bool now = failing == request && (manner == PART ? countdown <= 1 : countdown == 1);
    countdown -= failing == request;
    fired += now;
    return now;
}

int __real_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    *done = 0;
    if (none_moves) {
        return -EBUSY;
    }
    if (!fails(MOVE)) {
        return __real_bp_kernel_uffd_move(uffd, to, from, length, done);
    }
    if (manner == MORE) {
        size_t part = length > GRANULE ? length - GRANULE : length;
        __real_bp_kernel_uffd_move(uffd, to, from, part, done);
        *done = 0;
    } else if (manner == PART && countdown == 0) {
        __real_bp_kernel_uffd_move(uffd, to, from, GRANULE, done);
        return -EAGAIN;
    }
    return with;
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
    if (fails(PUNCH)) {
        return with;
    }
    return __real_bp_kernel_punch(fd, offset, length);
}

int __real_bp_kernel_discard(void *address, size_t length);
int __wrap_bp_kernel_discard(void *address, size_t length);
int __wrap_bp_kernel_discard(void *address, size_t length)
{
    if (fails(DISCARD)) {
        if (manner == MORE) { /* as of a mapping that the program has split */
            __real_bp_kernel_discard(address, GRANULE);
        }
        return with;
    }
    return __real_bp_kernel_discard(address, length);
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

static void check_holes(bufpool_pool *pool)
{
    for (uint64_t page = 0; page < at.pages; page++) {
        for (uint64_t offset = 0; state(pool, page) != BUFPOOL_STATE_ALLOCATED && offset < at.page_size;
             offset += GRANULE) {
            CHECK(traps_at((char *)bufpool_address(pool, page) + offset, NULL));
        }
    }
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
    check_holes(pool);
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

struct plan {
    int request;
    enum manner manner;
    int after, code;
    bool none_moves;
};

static void begin(const struct plan *plan, bool now)
{
    with = plan->code;
    manner = plan->manner;
    countdown = plan->after;
    none_moves = plan->none_moves;
    failing = now ? plan->request : NOTHING;
}

static void round_with(const struct plan *plan, int step)
{
    bufpool_pool *pool = open_publishing();
    void *frames[COUNT];
    CHECK_OK(bufpool_stage(pool, COUNT, frames));
    for (size_t i = 0; i < COUNT; i++) {
        stamp(frames[i], i << 20);
    }
    begin(plan, step == 0);
    publish_all(pool, frames);
    for (size_t i = 0; i < COUNT; i++) {
        check_page(pool, pages[i], i << 20);
    }
    begin(plan, step == 1);
    int replaced = bufpool_replace(pool, pages[4], 5);
    failing = NOTHING;
    if (replaced == 0) {
        CHECK_OK(bufpool_replace(pool, 5, pages[4]));
    } else {
        CHECK_HAS(last_error(), "both are as they were");
        CHECK_IS(state(pool, 5) == BUFPOOL_STATE_ALLOCATED, ==, false);
    }
    check_page(pool, pages[4], (uint64_t)4 << 20);
    check_holes(pool);
    begin(plan, step == 2);
    withdraw_all(pool, frames);
    for (size_t i = 0; i < COUNT; i++) {
        check_gone(pool, pages[i]);
        CHECK(is_stamped(frames[i], i << 20));
    }
    check_holes(pool);
    CHECK_IS(publishing_stats(pool).staged, ==, COUNT);
    CHECK_OK(bufpool_unstage(pool, COUNT, frames));
    CHECK_OK(bufpool_close(pool));
}

static void rounds(struct plan plan)
{
    /* Of traps by protection an error of mprotect leaves a page open, which is then allocated (fill.c). */
    bool shut = strcmp(at.trap, "mprotect") == 0 && plan.request == MPROTECT;
    for (plan.after = SANITIZED ? 2 : 1; plan.after <= (SANITIZED ? 2 : 3); plan.after++) {
        for (int step = shut ? 1 : 0; step < 3; step++) {
            round_with(&plan, step);
        }
    }
}

static void cell(const char *memory, const char *trap)
{
    static const int codes[] = {-ENOMEM, -EBUSY, -EAGAIN, -EEXIST};
    fired = 0;
    for (uint64_t granules = SANITIZED ? 3 : 1; granules <= 3; granules += 2) {
        at = (struct publishing){.memory = memory, .trap = trap, .pages = 12, .page_size = granules * GRANULE};
        for (int request = COPY; request < REQUESTS; request++) {
            rounds((struct plan){.request = request, .code = -ENOMEM});
            rounds((struct plan){.request = request, .code = -ENOMEM, .none_moves = true});
        }
        for (int i = 0; i < 4; i++) {
            rounds((struct plan){.request = MOVE, .code = codes[i]});
            rounds((struct plan){.request = MOVE, .manner = PART, .code = codes[i]});
            if (i >= 2) {
                rounds((struct plan){.request = MOVE, .manner = MORE, .code = codes[i]});
            }
        }
        rounds((struct plan){.request = DISCARD, .manner = MORE, .code = -EINVAL, .none_moves = true});
    }
    printf("%d failures\n", fired);
    CHECK_IS(fired, >, 0);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
