/* Numbers of freed pages rest: first in, first out, in every cell; cut short rather than failing; with batches, numbers that
 * are asked for, strays, many threads, and several processes. */
#include "zone.h"

static bufpool_pool *open_resting(const char *memory, const char *trap, uint64_t pages, uint64_t rest)
{
    bufpool_config config = zone_config(memory, trap, pages);
    config.quarantine = rest * granule_of(memory);
    return zone_open(&config);
}

static uint64_t allocate(bufpool_pool *pool)
{
    uint64_t page = UINT64_MAX;
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    return page;
}

/* Nothing that a look at the whole pool finds wrong. */
static void check_whole(bufpool_pool *pool)
{
    bufpool_findings found = BUFPOOL_FINDINGS_INIT;
    int code = bufpool_inspect(pool, 0, &found);
    if (code == BUFPOOL_EUNSUPPORTED) {
        return;
    }
    CHECK_OK(code);
    CHECK_IS(found.index_wrong, ==, 0);
    CHECK_IS(found.counts_wrong, ==, 0);
    CHECK_IS(found.wrong_count, ==, 0);
}

/* In a full pool what is freed first comes back first, and only when as many were freed after it. */
static void in_order(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_resting(memory, trap, 8, 3);
    for (uint64_t i = 0; i < 7; i++) {
        CHECK_IS(allocate(pool), ==, i);
    }
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_OK(bufpool_free(pool, 5));
    CHECK_IS(stats_of(pool).quarantined, ==, 2);
    CHECK_IS(state_of(pool, 2), ==, BUFPOOL_STATE_FREED);
    CHECK_IS(allocate(pool), ==, 7); /* the last that never was */
    CHECK_OK(bufpool_evict(pool, 0));
    CHECK_IS(stats_of(pool).quarantined, ==, 2); /* its number is taken */
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_OK(bufpool_free(pool, 6)); /* the rest of 2 is over */
    CHECK_IS(stats_of(pool).quarantined, ==, 3);
    CHECK_IS(allocate(pool), ==, 2);
    CHECK_OK(bufpool_free(pool, 7));
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_IS(allocate(pool), ==, 5); /* of those that have rested the next number, as ever */
    CHECK_IS(allocate(pool), ==, 0);
    CHECK_IS(stats_of(pool).quarantined, ==, 3);
    check_whole(pool);
    if (strcmp(trap, "none") != 0) {
        CHECK(traps_at(bufpool_address(pool, 6), NULL));
    }
    /* Nothing else is left: the rests of 6, 7 and 1 are cut short, in this order. */
    CHECK_IS(allocate(pool), ==, 6);
    CHECK_IS(allocate(pool), ==, 7);
    CHECK_IS(stats_of(pool).quarantined, ==, 1);
    CHECK_IS(allocate(pool), ==, 1);
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(stats_of(pool).quarantined, ==, 0);
    check_whole(pool);
    /* The ring goes on where it was. */
    for (int i = 0; i < 20; i++) {
        CHECK_OK(bufpool_free(pool, (uint64_t)i * 3 % 8));
        CHECK_IS(allocate(pool), ==, i * 3 % 8);
    }
    CHECK_OK(bufpool_close(pool));
}

/* More at once than may rest, among them such as rest already; and less than a page is one page. */
static void batches(const char *memory, const char *trap)
{
    bufpool_config config = zone_config(memory, trap, 8);
    config.quarantine = 2 * granule_of(memory) - 1;
    bufpool_pool *pool = zone_open(&config);
    uint64_t pages[8];
    CHECK_OK(bufpool_allocate_many(pool, 8, pages));
    CHECK_OK(bufpool_free(pool, 7));
    static const uint64_t some[] = {5, 1, 3, 0};
    CHECK_OK(bufpool_free_many(pool, 4, some));
    CHECK_IS(stats_of(pool).quarantined, ==, 2);
    check_whole(pool);
    CHECK_OK(bufpool_allocate_many(pool, 3, pages)); /* 1, 5 and 7; 3 and 0 rest */
    for (int i = 0; i < 3; i++) {
        CHECK(pages[i] == 1 || pages[i] == 5 || pages[i] == 7);
    }
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    CHECK_IS(pages[0], ==, 3);
    CHECK_IS(pages[1], ==, 0);
    CHECK_OK(bufpool_free_many(pool, 2, pages));
    /* All or none; then those that were cut short for it are simply free. */
    CHECK_IS(bufpool_allocate_many(pool, 3, pages), ==, BUFPOOL_EEXHAUSTED);
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    check_whole(pool);
    CHECK_OK(bufpool_close(pool));
}

/* A number that rests can be asked for; when it is freed again it rests anew, for the whole time. */
static void asked_for(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_resting(memory, trap, 6, 3);
    uint64_t pages[6];
    CHECK_OK(bufpool_allocate_many(pool, 6, pages));
    CHECK_OK(bufpool_free(pool, 4));
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_OK(bufpool_allocate_at(pool, 4, "again", 5));
    CHECK_IS(stats_of(pool).quarantined, ==, 1);
    CHECK_OK(bufpool_free(pool, 4));
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_IS(stats_of(pool).quarantined, ==, 3); /* in the place where 4 was first is 1 now */
    CHECK_IS(allocate(pool), ==, 2);
    CHECK_IS(allocate(pool), ==, 4);
    CHECK_IS(allocate(pool), ==, 1);
    check_whole(pool);
    CHECK_OK(bufpool_close(pool));
}

/* Under trap none, and huge granules, where scratch granules differ, too: a stray touch of a number that rests does not
 * bring it back. */
static void strays(const char *memory, const char *trap)
{
    if (strcmp(trap, "none") == 0) {
        return;
    }
    bufpool_pool *pool = open_resting(memory, trap, 4, 4);
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_IS((unsigned char)read_byte(bufpool_address(pool, 1)), ==, BUFPOOL_POISON);
    CHECK_OK(bufpool_check(NULL)); /* nothing is owed, and it re-arms */
    CHECK_IS(stats_of(pool).quarantined, ==, 1);
    CHECK_IS(allocate(pool), ==, 3);
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_IS(allocate(pool), ==, 1); /* cut short, as the first */
    CHECK_IS(allocate(pool), ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    in_order(memory, trap);
    batches(memory, trap);
    asked_for(memory, trap);
    strays(memory, trap);
}

/* ---- Many threads ---- */

#define PAGES 64
#define THREADS 4
#define STEPS 4000

static bufpool_pool *pool;
static _Atomic int owner[PAGES];

static void *churn(void *argument)
{
    uint64_t random = *(uint64_t *)argument;
    uint64_t mine[PAGES];
    size_t count = 0;
    for (int step = 0; step < STEPS; step++) {
        uint64_t page = next_random(&random) % PAGES;
        int code = BUFPOOL_ESTATE;
        if (next_random(&random) % 2 == 0) {
            code = next_random(&random) % 4 == 0 ? bufpool_allocate_at(pool, page, NULL, 0)
                                                 : bufpool_allocate(pool, NULL, 0, &page);
            CHECK(code == 0 || code == BUFPOOL_EEXHAUSTED || code == BUFPOOL_ESTATE);
            if (code == 0) {
                CHECK_IS(owner[page]++, ==, 0);
                mine[count++] = page;
            }
        } else if (count > 0) {
            size_t some = 1 + next_random(&random) % (count < 5 ? count : 5);
            for (size_t i = count - some; i < count; i++) {
                CHECK_IS(owner[mine[i]]--, ==, 1);
            }
            CHECK_OK(bufpool_free_many(pool, some, mine + count - some));
            count -= some;
        }
    }
    for (size_t i = 0; i < count; i++) {
        owner[mine[i]]--;
        CHECK_OK(bufpool_free(pool, mine[i]));
    }
    return NULL;
}

/* Nothing is lost, whatever the threads do: in the end every number can be had. */
static void crowd(const char *memory, uint64_t rest)
{
    bufpool_config config = zone_config(memory, "auto", PAGES);
    config.quarantine = rest * GRANULE;
    pool = zone_open(&config);
    uint64_t seeds[THREADS] = {1, 2, 3, rest};
    run_threads(THREADS, churn, seeds, sizeof *seeds);
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.allocated, ==, 0);
    CHECK_IS(s.quarantined, <=, rest);
    check_whole(pool);
    for (uint64_t i = 0; i < PAGES; i++) {
        CHECK_IS(owner[allocate(pool)]++, ==, 0);
    }
    CHECK_IS(stats_of(pool).quarantined, ==, 0);
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    for (uint64_t i = 0; i < PAGES; i++) {
        owner[i] = 0;
    }
    CHECK_OK(bufpool_close(pool));
}

/* ---- Several processes ---- */

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

/* What one frees rests for all, whatever the guest asked for. */
static void guest(void *argument)
{
    (void)argument;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.quarantine = 1;
    bufpool_pool *own = NULL;
    CHECK_OK(bufpool_attach(&config, &handle, &own));
    CHECK_IS(stats_of(own).quarantined, ==, 1);
    CHECK_OK(bufpool_free(own, 3));
    CHECK_IS(allocate(own), ==, 4);
    CHECK_IS(stats_of(own).quarantined, ==, 2);
    check_whole(own);
    CHECK_OK(bufpool_close(own));
}

/* Frees and allocates until it is killed. */
static void victim(void *argument)
{
    (void)argument;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *own = NULL;
    CHECK_OK(bufpool_attach(&config, &handle, &own));
    for (;;) {
        uint64_t pages[2];
        if (bufpool_allocate_many(own, 2, pages) == 0) {
            bufpool_free_many(own, 2, pages);
        }
    }
}

static void processes(void)
{
    if (bufpool_probe("shared", "uffd", NULL, 0) != 0) {
        printf("skipped several processes: %s\n", last_error());
        return;
    }
    pool = open_resting("shared", "uffd", 6, 2);
    CHECK_OK(bufpool_share(pool, &handle));
    for (uint64_t i = 0; i < 4; i++) {
        CHECK_IS(allocate(pool), ==, i);
    }
    CHECK_OK(bufpool_free(pool, 1));
    passes(guest, NULL);
    CHECK_IS(stats_of(pool).quarantined, ==, 2);
    CHECK_OK(bufpool_free(pool, 0)); /* the rest of 1 is over, which began here; that of 3, of the guest, goes on */
    CHECK_IS(allocate(pool), ==, 5);
    CHECK_IS(allocate(pool), ==, 1);
    CHECK_IS(allocate(pool), ==, 3);
    CHECK_IS(allocate(pool), ==, 0);
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_OK(bufpool_free(pool, 5));
    /* Of processes that are killed, at whatever instruction, no number stays behind. */
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(CHILD_LIMIT);
            victim(NULL);
        }
        uint64_t before = stats_of(pool).allocations;
        WAIT_FOR(stats_of(pool).allocations > before + 50);
        kill(pid, SIGKILL);
        CHECK_IS(waitpid(pid, NULL, 0), ==, pid);
        WAIT_FOR(stats_of(pool).members == 1);
        uint64_t pages[6];
        bufpool_statistics s = stats_of(pool);
        CHECK_IS(s.quarantined, <=, 2);
        uint64_t left = 6 - s.allocated;
        CHECK_OK(bufpool_allocate_many(pool, left, pages));
        CHECK_IS(stats_of(pool).quarantined, ==, 0);
        /* What the victim had allocated stays so, and is ours to free. */
        for (uint64_t page = 0; page < 6; page++) {
            if (state_of(pool, page) == BUFPOOL_STATE_ALLOCATED) {
                CHECK_OK(bufpool_free(pool, page));
            }
        }
        check_whole(pool);
    }
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

/* A quarantine without end, of a huge pool, costs nothing until it is used. */
static void endless(void)
{
    /* The runtimes of the sanitizers leave no room for the largest. */
    bufpool_config config = zone_config("anon", "auto", (SANITIZED ? TIB : 16 * TIB) / GRANULE);
    config.quarantine = UINT64_MAX;
    pool = zone_open(&config);
    for (uint64_t i = 0; i < 5000; i++) {
        CHECK_IS(allocate(pool), ==, i); /* without it the first comes back when 1024 are free */
        CHECK_OK(bufpool_free(pool, i));
    }
    CHECK_IS(stats_of(pool).quarantined, ==, 5000);
    CHECK_OK(bufpool_close(pool));
}

static int all(void)
{
    int code = zone_all();
    crowd("anon", 1);
    crowd("anon", 7);
    crowd("shared", PAGES);
    processes();
    endless();
    return code == HARNESS_SKIP ? 0 : code;
}

int main(void)
{
    zone_cell = cell;
    zone_untrapped = true;
    return with_huge_pages(ZONE_PAGES, all);
}
