/* Every kind of damage is found by its name and repaired, on every memory of small pages under every trap. */
#include "damage.h"

static void cell(const char *memory, const char *trap)
{
    damage_all(memory, trap, 2 * GRANULE);
}

/* The allocations of a pool where frames come late are no lost frames. */
static void lazy(const char *memory, const char *trap)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 16 * MIB;
    config.memory = memory;
    config.trap = trap;
    config.flags = BUFPOOL_LAZY_ZERO;
    bufpool_pool *pool = NULL;
    uint64_t pages[1000];
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_allocate_many(pool, 1000, pages));
    expect_clean(pool);
    CHECK_OK(bufpool_free_many(pool, 999, pages));
    expect_clean(pool);
    CHECK_OK(bufpool_close(pool));
}

/* Full words of the index, and pools of several sizes. */
static void sizes(const char *memory, const char *trap)
{
    static const uint64_t counts[] = {1, 63, 64, 65, 4096, 4097, 262145};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        bufpool_pool *pool = open_pool(memory, trap, "resume", counts[i] * GRANULE, GRANULE);
        size_t used = counts[i] > 4097 ? 4097 : counts[i];
        uint64_t *pages = malloc(used * sizeof *pages);
        CHECK(pages != NULL);
        expect_clean(pool);
        CHECK_OK(bufpool_allocate_many(pool, used, pages));
        if (pool->space.trap->traps) {
            expect_clean(pool);
        }
        if (used == 4097) {
            flip(pool, 1, 5); /* a full word of which nothing is said above */
            expect_repair(pool, 5 * 64, BUFPOOL_WRONG_INDEX, 1);
        }
        CHECK_OK(bufpool_free_many(pool, used, pages));
        expect_clean(pool);
        CHECK_OK(bufpool_close(pool));
        free(pages);
    }
}

/* Frames that were reserved in the file and never written: SEEK_DATA does not show them, and they do not trap. */
static void hidden_frames(void)
{
    bufpool_pool *pool = open_pool("shared", "uffd", "resume", MIB, GRANULE);
    CHECK_OK(bp_kernel_fallocate(pool->space.fd, (uint64_t)9 * GRANULE, GRANULE));
    expect_repair(pool, 9, BUFPOOL_WRONG_STRAY_FRAME, 0);
    CHECK(traps_at(bufpool_address(pool, 9), NULL));
    CHECK_OK(bufpool_close(pool));
}

static void huge_range(void)
{
    bufpool_pool *pool = open_pool("anon", "auto", "resume", UINT64_C(1) << 44, GRANULE);
    expect_clean(pool);
    CHECK_OK(bufpool_allocate_at(pool, UINT64_C(3) << 30, NULL, 0));
    CHECK_IS(look(pool, 0).allocated, ==, 1);
    expect_clean(pool);
    CHECK_OK(bufpool_close(pool));
}

static void arguments(void)
{
    bufpool_pool *pool = open_pool("anon", "auto", "resume", MIB, GRANULE);
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    CHECK_IS(bufpool_inspect(NULL, 0, &findings), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_inspect(pool, 0, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "BUFPOOL_FINDINGS_INIT");
    CHECK_IS(bufpool_inspect(pool, 2, &findings), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "BUFPOOL_REPAIR");
    findings.size = offsetof(bufpool_findings, allocated);
    findings.allocated = 77;
    CHECK_OK(bufpool_inspect(pool, 0, &findings));
    CHECK_IS(findings.allocated, ==, 77); /* of a caller that knows less of it */
    CHECK_STRING(bufpool_wrong_name((bufpool_wrong)0), "unknown");
    CHECK_STRING(bufpool_wrong_name((bufpool_wrong)7), "unknown");
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    arguments();
    int code = for_each_cell(cell, true);
    for_each_cell(lazy, true);
    for_each_cell(sizes, true);
    if (bufpool_probe("shared", "uffd", NULL, 0) == 0) {
        hidden_frames();
    }
    if (!SANITIZED) { /* the thread sanitizer leaves no room for it */
        huge_range();
    }
    return code;
}
