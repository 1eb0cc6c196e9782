/* Four threads, and two processes beside them, allocate, free, evict and populate in pools smaller and larger than what they
 * hold: nobody gets another's page, contents stay, and a look at the whole pool finds nothing wrong in the end. */
#include "harness.h"

#define THREADS 4
#define HELD 48
#define STEPS (SANITIZED ? 1500 : 6000)

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

/* What a thread writes to its page: whose it is, in the first and the last word. */
static void sign(uint64_t *page, uint64_t name)
{
    page[0] = page[GRANULE / 8 - 1] = name;
}

static void check_signed(uint64_t page, uint64_t name)
{
    const uint64_t *words = bufpool_address(pool, page);
    CHECK_IS(words[0], ==, name);
    CHECK_IS(words[GRANULE / 8 - 1], ==, name);
}

static size_t fetch(uint64_t *random, uint64_t name, uint64_t *mine, size_t count, const uint64_t *data)
{
    uint64_t got[8];
    size_t some = 1 + next_random(random) % 8;
    some = some < HELD - count ? some : HELD - count;
    bool one = next_random(random) % 2 == 0;
    some = one && some > 0 ? 1 : some;
    int code = one ? bufpool_allocate(pool, data, GRANULE, got) : bufpool_allocate_many(pool, some, got);
    CHECK(code == 0 || code == BUFPOOL_EEXHAUSTED);
    for (size_t i = 0; code == 0 && i < some; i++) {
        if (!one) {
            CHECK_IS(*(uint64_t *)bufpool_address(pool, got[i]), ==, 0);
            sign(bufpool_address(pool, got[i]), name);
        }
        mine[count++] = got[i];
    }
    return count;
}

static void *churn(void *argument)
{
    uint64_t name = *(uint64_t *)argument, random = name;
    uint64_t mine[HELD];
    uint64_t data[GRANULE / 8] = {0};
    size_t count = 0;
    sign(data, name);
    for (int step = 0; step < STEPS; step++) {
        uint64_t what = next_random(&random) % 8;
        size_t at = count == 0 ? 0 : next_random(&random) % count;
        if (what < 3 && count < HELD) {
            count = fetch(&random, name, mine, count, data);
        } else if (what < 5 && count > 0) {
            check_signed(mine[at], name);
            CHECK_OK(bufpool_free(pool, mine[at]));
            mine[at] = mine[--count];
        } else if (what == 5 && count > 0) {
            CHECK_OK(bufpool_free_many(pool, count - at, mine + at));
            count = at;
        } else if (count > 0) {
            check_signed(mine[at], name);
            CHECK_OK(bufpool_evict(pool, mine[at]));
            CHECK_OK(bufpool_populate(pool, mine[at], data, sizeof data));
        }
    }
    CHECK_OK(bufpool_free_many(pool, count, mine));
    return NULL;
}

static void crowd(uint64_t first)
{
    uint64_t names[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        names[i] = first + i;
    }
    run_threads(THREADS, churn, names, sizeof *names);
}

static void guest(void *argument)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    crowd(*(uint64_t *)argument);
    CHECK_OK(bufpool_close(pool));
}

/* Every number can be had, once, and nothing looks wrong. */
static void check_whole(uint64_t pages)
{
    bufpool_findings found = BUFPOOL_FINDINGS_INIT;
    CHECK_IS(stats_of(pool).allocated, ==, 0);
    int code = bufpool_inspect(pool, 0, &found);
    if (code != BUFPOOL_EUNSUPPORTED) {
        CHECK_OK(code);
        CHECK_IS(found.index_wrong, ==, 0);
        CHECK_IS(found.counts_wrong, ==, 0);
        CHECK_IS(found.wrong_count, ==, 0);
    }
    uint64_t *all = malloc(pages * sizeof *all);
    CHECK_OK(bufpool_allocate_many(pool, pages, all));
    uint64_t sum = 0;
    for (uint64_t i = 0; i < pages; i++) {
        sum += all[i];
    }
    CHECK_IS(sum, ==, pages * (pages - 1) / 2);
    CHECK_OK(bufpool_free_many(pool, pages, all));
    free(all);
}

static void stress(const char *memory, uint64_t pages)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * GRANULE;
    config.memory = memory;
    CHECK_OK(bufpool_open(&config, &pool));
    bool shared = strcmp(memory, "shared") == 0 && bufpool_share(pool, &handle) == 0;
    pid_t guests[2];
    for (int i = 0; shared && i < 2; i++) {
        guests[i] = fork();
        CHECK(guests[i] >= 0);
        if (guests[i] == 0) {
            uint64_t first = (uint64_t)(i + 1) * 100;
            alarm(CHILD_LIMIT);
            guest(&first);
            _exit(0);
        }
    }
    crowd(1);
    for (int i = 0; shared && i < 2; i++) {
        int status;
        CHECK_IS(waitpid(guests[i], &status, 0), ==, guests[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    check_whole(pages);
    if (shared) {
        CHECK_OK(bufpool_handle_close(&handle));
    }
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    static const uint64_t sizes[] = {40, 100, 2000, 40000};
    for (int i = 0; i < 4; i++) {
        stress("anon", sizes[i]);
        stress("shared", sizes[i]);
    }
    return 0;
}
