/*
 * Batches that are disturbed: by a timer's signals at 1 kHz, whose handler does not restart calls; by forks in another
 * thread; by a kernel that does half of what it was asked for, again and again, has no memory, or has lent a frame to a
 * device. What a call says it has done is done, and all of it; what it refuses has changed nothing: every page is looked at
 * after each round.
 *
 * Linked with --wrap, so that the library's calls of bp_kernel_NAME arrive at __wrap_bp_kernel_NAME here.
 */
#include "harness.h"
#include "kernel.h"
#include "ways.h"

#include <signal.h>
#include <stdatomic.h>

#define PAGES 256
#define BATCH 96
#define ROUNDS (SANITIZED ? 12 : 60)
#define SIGNALS 30 /* that have come at least, where signals come */

/* ---- The kernel, as it may be ---- */

static atomic_bool unreliable;
static uint64_t dice;

static bool one_in(unsigned count)
{
    return unreliable && next_random(&dice) % count == 0;
}

typedef int (*fill_call)(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);

/* Nothing, and why; or half of it, and EAGAIN. */
static int disturbed(fill_call real, int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    *done = 0;
    if (one_in(6)) {
        return -EAGAIN;
    }
    if (one_in(24)) {
        return -ENOMEM;
    }
    if (length > GRANULE && one_in(2)) {
        int code = real(uffd, to, from, length / 2 / GRANULE * GRANULE, done);
        return code < 0 ? code : -EAGAIN;
    }
    return real(uffd, to, from, length, done);
}

int __real_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    return disturbed(__real_bp_kernel_uffd_copy, uffd, to, from, length, done);
}

int __real_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    *done = 0;
    return one_in(3) ? -EBUSY : one_in(6) ? -EAGAIN : __real_bp_kernel_uffd_move(uffd, to, from, length, done);
}

int __real_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done);
int __wrap_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done);
int __wrap_bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done)
{
    *done = 0;
    if (ranges[0].length > 0 && one_in(3)) {
        int code = __real_bp_kernel_discard_many(ranges, count / 2, done);
        return code < 0 ? code : one_in(2) ? -EAGAIN : -ENOSYS;
    }
    return __real_bp_kernel_discard_many(ranges, count, done);
}

int __real_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset);
int __wrap_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset);
int __wrap_bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    if (size > GRANULE && one_in(12)) {
        __real_bp_kernel_pwrite(fd, data, size / 2, offset);
        return -ENOSPC;
    }
    return __real_bp_kernel_pwrite(fd, data, size, offset);
}

/* ---- What the pool should hold ---- */

struct model {
    bufpool_pool *pool;
    uint64_t tags[PAGES]; /* of an allocated page, what each of its words is, but for its index; 0: not allocated */
    bool evicted[PAGES];
    uint64_t random, next;
    uint64_t refusals;
};

static uint64_t *new_data(struct model *model, size_t count)
{
    static uint64_t data[BATCH * GRANULE / 8];
    for (size_t i = 0; i < count; i++) {
        uint64_t tag = (model->next + i) << 16;
        for (size_t word = 0; word < GRANULE / 8; word++) {
            data[i * GRANULE / 8 + word] = tag | word;
        }
    }
    return data;
}

static void note(struct model *model, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CHECK(model->tags[pages[i]] == 0); /* none is handed out twice */
        model->tags[pages[i]] = (model->next + i) << 16;
        model->evicted[pages[i]] = false;
    }
    model->next += count;
}

static void check(struct model *model)
{
    bool disturbs = unreliable;
    uint64_t allocated = 0;
    uint64_t evicted = 0;
    unreliable = false;
    for (uint64_t page = 0; page < PAGES; page++) {
        const volatile uint64_t *words = bufpool_address(model->pool, page);
        uint64_t tag = model->tags[page];
        allocated += tag != 0;
        evicted += model->evicted[page];
        if (tag == 0) {
            CHECK_IS(state_of(model->pool, page) == BUFPOOL_STATE_EVICTED, ==, model->evicted[page]);
            CHECK(traps_at((const void *)words, NULL));
            continue;
        }
        CHECK_IS(state_of(model->pool, page), ==, BUFPOOL_STATE_ALLOCATED);
        for (size_t word = 0; word < GRANULE / 8; word += 73) {
            CHECK_IS(words[word], ==, tag | word);
        }
        CHECK_IS(words[GRANULE / 8 - 1], ==, tag | (GRANULE / 8 - 1));
    }
    bufpool_statistics s = stats_of(model->pool);
    CHECK_IS(s.allocated, ==, allocated);
    CHECK_IS(s.evicted, ==, evicted);
    unreliable = disturbs;
}

/* Some of the pages that are, or are not, evicted, in no order. */
static size_t some(struct model *model, bool evicted, uint64_t *pages)
{
    size_t count = 0;
    uint64_t start = next_random(&model->random) % PAGES;
    for (uint64_t i = 0; i < PAGES && count < BATCH; i++) {
        uint64_t page = (start + i * 37) % PAGES;
        bool fits = evicted ? model->evicted[page] : model->tags[page] != 0;
        if (fits && next_random(&model->random) % 4 > 0) {
            pages[count++] = page;
        }
    }
    return count;
}

/* A fill may be refused for want of memory, if there is such a want; nothing else may be. */
static bool filled(struct model *model, int code)
{
    if (code == 0) {
        return true;
    }
    CHECK(unreliable);
    CHECK_IS(code, ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(bufpool_last_done(), ==, 0);
    CHECK_HAS(last_error(), "no memory");
    model->refusals++;
    return false;
}

static void round_of(struct model *model)
{
    uint64_t pages[BATCH];
    size_t count = 1 + next_random(&model->random) % (BATCH / 2);
    if (stats_of(model->pool).allocated + stats_of(model->pool).evicted + count <= PAGES &&
        filled(model, bufpool_allocate_filled(model->pool, count, new_data(model, count), pages))) {
        note(model, pages, count);
    }
    if (stats_of(model->pool).allocated + stats_of(model->pool).evicted < PAGES &&
        filled(model, bufpool_allocate(model->pool, new_data(model, 1), GRANULE, pages))) {
        note(model, pages, 1);
    }
    count = some(model, false, pages);
    CHECK_OK(bufpool_evict_many(model->pool, count, pages));
    for (size_t i = 0; i < count; i++) {
        model->tags[pages[i]] = 0;
        model->evicted[pages[i]] = true;
    }
    check(model);
    count = some(model, true, pages);
    if (filled(model, bufpool_populate_many(model->pool, count, pages, new_data(model, count)))) {
        note(model, pages, count);
    }
    count = some(model, next_random(&model->random) % 2 == 0, pages) / 2;
    CHECK_OK(bufpool_free_many(model->pool, count, pages));
    if (count > 0) {
        CHECK_IS(bufpool_free_many(model->pool, 1, pages), ==, BUFPOOL_ESTATE); /* gone for good */
    }
    for (size_t i = 0; i < count; i++) {
        model->tags[pages[i]] = 0;
        model->evicted[pages[i]] = false;
    }
    check(model);
}

static struct model begin(const char *memory, const char *trap)
{
    struct model model = {.pool = open_pool(memory, trap, "abort", PAGES * GRANULE, GRANULE), .random = 5, .next = 1};
    return model;
}

/* ---- Signals and forks ---- */

static atomic_int signals;
static atomic_bool stop;

static void count_signal(int signo)
{
    (void)signo;
    atomic_fetch_add(&signals, 1);
}

static void *fork_again(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop)) {
        pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {
        }
        sleep_ms(2);
    }
    return NULL;
}

static void interrupted(const char *memory, const char *trap)
{
    struct model model = begin(memory, trap);
    struct sigaction action = {.sa_handler = count_signal}; /* no SA_RESTART */
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec every_ms = {{0, 1000000}, {0, 1000000}};
    timer_t timer;
    CHECK_OK(sigaction(SIGUSR1, &action, NULL));
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    atomic_store(&signals, 0);
    atomic_store(&stop, false);
    pthread_t forker;
    CHECK_OK(pthread_create(&forker, NULL, fork_again, NULL));
    CHECK_OK(timer_settime(timer, 0, &every_ms, NULL));
    for (int i = 0; i < ROUNDS || atomic_load(&signals) < SIGNALS; i++) {
        round_of(&model);
    }
    CHECK_OK(timer_delete(timer));
    atomic_store(&stop, true);
    CHECK_OK(pthread_join(forker, NULL));
    CHECK_IS(model.refusals, ==, 0);
    CHECK_OK(bufpool_close(model.pool));
}

/* ---- Half done ---- */

static void half_done(const char *memory, const char *trap)
{
    struct model model = begin(memory, trap);
    dice = 11;
    unreliable = true;
    for (int i = 0; i < 3 * ROUNDS; i++) {
        round_of(&model);
    }
    unreliable = false;
    bufpool_statistics s = stats_of(model.pool);
    CHECK_IS(model.refusals, >, 0);
    CHECK_IS(s.ways[BUFPOOL_WAY_MOVE_OUT] > 0, <=, s.ways_busy > 0);
    round_of(&model);
    CHECK_OK(bufpool_close(model.pool));
}

static void cell(const char *memory, const char *trap)
{
    interrupted(memory, trap);
    half_done(memory, trap);
}

int main(void)
{
    harness_begin();
    bp_ways_choice = BP_CHOSEN | BP_FILL_KEPT | BP_ZAP_OUT; /* whatever is quicker on this machine */
    int code = for_each_cell(cell, false);
    if (code == 0 && bufpool_probe("anon", "uffd", NULL, 0) == 0) {
        bp_ways_choice = BP_CHOSEN;
        cell("anon", "uffd");
    }
    return code;
}
