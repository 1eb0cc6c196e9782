/*
 * Threads publish, withdraw and replace, and try to do so with each other's pages and frames, while a signal arrives every
 * millisecond, the process forks, and at last closes the pool: each page and each frame is one owner's at a time, whole, and
 * whoever is refused is told so.
 */
#include "harness.h"

#include <signal.h>
#include <stdatomic.h>

#define THREADS 3
#define BATCH 6
#define PAGES 24
#define ROUNDS (SANITIZED ? 150 : 600) /* of each thread */
#define FORKS 8

static bufpool_pool *pool;
static atomic_bool over, closing; /* frames are not touched any more */
static atomic_uint rounds[THREADS];
static atomic_uint signals, refused;

static void count_signal(int signo)
{
    (void)signo;
    atomic_fetch_add(&signals, 1);
}

/* A page says of itself whose it is, in every word. */
static void stamp(void *frame, uint64_t value)
{
    for (size_t i = 0; i < GRANULE / 8; i++) {
        ((uint64_t *)frame)[i] = value;
    }
}

static bool is_stamped(const void *frame, uint64_t value)
{
    for (size_t i = 0; i < GRANULE / 8; i++) {
        if (((const uint64_t *)frame)[i] != value) {
            return false;
        }
    }
    return true;
}

/* Refused, or done: what is done is nobody else's. */
static bool is_done(int code)
{
    CHECK(code == 0 || code == BUFPOOL_ESTATE || code == BUFPOOL_EARGUMENT || code == BUFPOOL_ECLOSED);
    atomic_fetch_add(&refused, code != 0);
    return code == 0;
}

static void one_round(uint64_t self, uint64_t *random, uint64_t value, bool touches)
{
    void *frames[BATCH];
    uint64_t pages[BATCH];
    uint64_t count = 1 + next_random(random) % BATCH;
    uint64_t first = next_random(random) % PAGES;
    for (uint64_t i = 0; i < count; i++) {
        pages[i] = (first + i) % PAGES;
    }
    if (!is_done(bufpool_stage(pool, count, frames))) {
        return;
    }
    for (uint64_t i = 0; i < count && touches; i++) {
        stamp(frames[i], value + i);
    }
    if (!is_done(bufpool_publish(pool, count, frames, pages))) {
        int code = bufpool_unstage(pool, count, frames);
        CHECK(code == 0 || code == BUFPOOL_ECLOSED);
        return;
    }
    /* Published: others may free or take it any time, or replace it. */
    if (next_random(random) % 4 == 0) {
        is_done(bufpool_replace(pool, pages[0], next_random(random) % PAGES));
    }
    if (next_random(random) % 4 == 0) {
        is_done(bufpool_free(pool, next_random(random) % PAGES));
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = (pages[i] + self) % PAGES;
        if (is_done(bufpool_withdraw(pool, 1, &page, frames))) {
            uint64_t word = touches ? *(const uint64_t *)frames[0] : 0;
            CHECK(!touches || atomic_load(&closing) || (word != 0 && is_stamped(frames[0], word)));
            int code = bufpool_unstage(pool, 1, frames);
            CHECK(code == 0 || code == BUFPOOL_ECLOSED);
            is_done(bufpool_free(pool, page)); /* somebody may have published it again */
        }
    }
}

static void *live(void *argument)
{
    uint64_t self = *(const uint64_t *)argument;
    uint64_t random = self;
    for (uint64_t i = 0; !atomic_load(&over); i++) {
        one_round(self, &random, (self + 1) << 56 | (i + 1) << 16, !atomic_load(&closing));
        atomic_fetch_add(&rounds[self], 1);
    }
    return NULL;
}

/* In a child: what a page shows is whole, and it has frames of its own if it has the pool. */
static void look(void)
{
    void *frame;
    int code = bufpool_stage(pool, 1, &frame);
    CHECK(code == 0 || code == BUFPOOL_EUNSUPPORTED);
    for (uint64_t page = 0; code == 0 && page < PAGES; page++) {
        uint64_t words[GRANULE / 8];
        int got = bufpool_guarded_copy(words, bufpool_address(pool, page), sizeof words, NULL);
        CHECK(got == BUFPOOL_ESTRAY || got == 0);
    }
    CHECK(code < 0 || bufpool_unstage(pool, 1, &frame) == 0);
}

static void fork_once(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        look();
        _exit(0);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        CHECK_IS(errno, ==, EINTR);
    }
    CHECK_IS(status, ==, 0);
}

/* Each thread has begun and ended another so many rounds. */
static void await_rounds(unsigned count)
{
    for (int i = 0; i < THREADS; i++) {
        unsigned from = atomic_load(&rounds[i]);
        WAIT_FOR(atomic_load(&rounds[i]) - from >= count);
    }
}

static void cell(const char *memory, const char *trap)
{
    pool = open_pool(memory, trap, "raise", PAGES * GRANULE, GRANULE);
    atomic_store(&over, false);
    atomic_store(&closing, false);
    atomic_store(&signals, 0);
    atomic_store(&refused, 0);
    struct sigaction action = {.sa_handler = count_signal}; /* no SA_RESTART */
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec every_ms = {{0, 1000000}, {0, 1000000}};
    timer_t timer;
    CHECK_OK(sigaction(SIGUSR1, &action, NULL));
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    pthread_t threads[THREADS];
    uint64_t selves[THREADS];
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    for (uint64_t i = 0; i < THREADS; i++) {
        selves[i] = i;
        CHECK_OK(pthread_create(&threads[i], NULL, live, &selves[i]));
    }
    CHECK_OK(pthread_sigmask(SIG_BLOCK, &usr1, NULL)); /* they are for the others */
    CHECK_OK(timer_settime(timer, 0, &every_ms, NULL));
    for (unsigned i = 0; i < FORKS; i++) {
        await_rounds(ROUNDS / FORKS);
        WAIT_FOR(atomic_load(&signals) > 2 * i);
        fork_once();
    }
    void *left[BATCH];
    CHECK_OK(bufpool_stage(pool, BATCH, left));
    atomic_store(&closing, true);
    await_rounds(2);               /* those that have not seen it are over */
    CHECK_OK(bufpool_close(pool)); /* with frames staged, and calls under way */
    atomic_store(&over, true);
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    CHECK_OK(timer_delete(timer));
    CHECK_OK(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL));
    printf("%u rounds of the first, %u signals, %u refused\n", atomic_load(&rounds[0]), atomic_load(&signals),
           atomic_load(&refused));
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK(traps_at(bufpool_address(pool, page), NULL));
    }
}

/* ---- One frame, or one page, for two ---- */

static void *wanted_frame;
static uint64_t wanted_page;
static pthread_barrier_t start;
static int codes[2];

static void *compete(void *argument)
{
    uint64_t self = *(const uint64_t *)argument;
    pthread_barrier_wait(&start);
    void *frame = wanted_frame;
    if (wanted_page == PAGES) { /* the same frame to two pages */
        codes[self] = bufpool_publish(pool, 1, &frame, &self);
    } else { /* the same page in two frames */
        codes[self] = bufpool_withdraw(pool, 1, &wanted_page, &frame);
        CHECK(codes[self] < 0 || bufpool_unstage(pool, 1, &frame) == 0);
    }
    return NULL;
}

static void pair(void)
{
    uint64_t selves[] = {0, 1};
    CHECK_OK(pthread_barrier_init(&start, NULL, 2));
    run_threads(2, compete, selves, sizeof *selves);
    pthread_barrier_destroy(&start);
    CHECK_IS((codes[0] == 0) + (codes[1] == 0), ==, 1);
}

static void compete_in(const char *memory, const char *trap)
{
    pool = open_pool(memory, trap, "raise", PAGES * GRANULE, GRANULE);
    for (int round = 0; round < (SANITIZED ? 10 : 100); round++) {
        CHECK_OK(bufpool_stage(pool, 1, &wanted_frame));
        stamp(wanted_frame, 1);
        wanted_page = PAGES;
        pair();
        wanted_page = codes[0] == 0 ? 0 : 1;
        CHECK_IS(codes[1 - wanted_page], ==, BUFPOOL_EARGUMENT);
        CHECK(is_stamped(bufpool_address(pool, wanted_page), 1));
        CHECK(traps_at(bufpool_address(pool, 1 - wanted_page), NULL));
        pair();
        CHECK_OK(bufpool_free(pool, wanted_page));
        CHECK_IS(stats_of(pool).staged, ==, 0);
        CHECK_IS(stats_of(pool).allocated, ==, 0);
    }
    CHECK_OK(bufpool_close(pool));
}

static void both(const char *memory, const char *trap)
{
    cell(memory, trap);
    compete_in(memory, trap);
}

int main(void)
{
    harness_begin();
    return for_each_cell(both, false);
}
