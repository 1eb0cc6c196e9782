/* Others may be stopped amid a call, or may just look at a page: calls wait for them a moment, and find what there is without
 * them. Whoever repairs cannot be misled by a file that it cannot look at. */
#include "clean.h"

#define PAGES 4096 /* two levels of index are full */

static bufpool_pool *pool;
static uint64_t looked_at = BP_NO_PAGE; /* a page that is BUSY with somebody until a call waits for it */
static int refusals;                    /* of bp_kernel_next_data() */

void __real_bp_kernel_sleep_ns(int64_t ns);
void __wrap_bp_kernel_sleep_ns(int64_t ns);
int __real_bp_kernel_next_data(int fd, uint64_t from, uint64_t *start, uint64_t *end);
int __wrap_bp_kernel_next_data(int fd, uint64_t from, uint64_t *start, uint64_t *end);

void __wrap_bp_kernel_sleep_ns(int64_t ns)
{
    if (looked_at != BP_NO_PAGE) {
        bp_pages_settle(&pool->pages, looked_at, BUFPOOL_STATE_UNALLOCATED);
        looked_at = BP_NO_PAGE;
    }
    __real_bp_kernel_sleep_ns(ns);
}

int __wrap_bp_kernel_next_data(int fd, uint64_t from, uint64_t *start, uint64_t *end)
{
    return refusals > 0 && refusals-- > 0 ? -EIO : __real_bp_kernel_next_data(fd, from, start, end);
}

static void look_at(uint64_t page)
{
    CHECK(bp_pages_claim(&pool->pages, page, BUFPOOL_STATE_UNALLOCATED, 0));
    looked_at = page;
}

/* All but the last page are taken, and somebody looks at that. */
static void last_page(void)
{
    uint64_t pages[PAGES];
    uint64_t page;
    CHECK_OK(bufpool_allocate_many(pool, PAGES - 1, pages));
    look_at(PAGES - 1);
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(page, ==, PAGES - 1);
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    CHECK_OK(bufpool_free_many(pool, PAGES - 1, pages));
    CHECK_OK(bufpool_free(pool, PAGES - 1));
}

static void given_page(void)
{
    look_at(7);
    CHECK_OK(bufpool_allocate_at(pool, 7, NULL, 0));
    CHECK_OK(bufpool_free(pool, 7));
}

/* Somebody has given a page of a full pool back, and was stopped before the levels above know of it. Others that lie near it
 * are to be had. */
static void stopped_amid_a_free(void)
{
    uint64_t pages[PAGES];
    uint64_t page;
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
    CHECK(bp_pages_claim(&pool->pages, 130, BUFPOOL_STATE_ALLOCATED, BP_FREEING));
    atomic_fetch_and(&pool->pages.levels[0][2], ~(UINT64_C(1) << 2));
    atomic_fetch_add(&pool->pages.counts->stripes[1].cleared, 1);
    CHECK_OK(bufpool_free(pool, 133));
    CHECK_OK(bufpool_free(pool, 140));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK(page == 133 || page == 140);
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK(page == 133 || page == 140);
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    atomic_fetch_or(&pool->pages.levels[0][2], UINT64_C(1) << 2); /* as it was */
    atomic_fetch_add(&pool->pages.counts->stripes[1].set, 1);
    bp_pages_settle(&pool->pages, 130, BUFPOOL_STATE_ALLOCATED);
    bp_pages_claim(&pool->pages, 130, BUFPOOL_STATE_ALLOCATED, 0);
    bp_pages_mend(&pool->pages, 130, true);
    bp_pages_settle(&pool->pages, 130, BUFPOOL_STATE_ALLOCATED);
    CHECK_OK(bufpool_free_many(pool, PAGES, pages));
}

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static void die_amid_a_free(void *argument)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    (void)argument;
    config.on_fault = "resume";
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    CHECK_OK(bufpool_allocate_at(pool, 99, NULL, 0));
    CHECK(bp_pages_claim(&pool->pages, 99, BUFPOOL_STATE_ALLOCATED, BP_FREEING));
}

/* A dead process is not forgotten by somebody who cannot see what it has left. */
static void blind_repair(void)
{
    CHECK_OK(bufpool_share(pool, &handle));
    struct child child = run_child(die_amid_a_free, NULL);
    CHECK_PASSED(child);
    refusals = 4; /* as often as a call tries */
    CHECK_IS(stats_of(pool).members, ==, 2);
    refusals = 0;
    CHECK_IS(stats_of(pool).members, ==, 1);
    CHECK_IS(state_of(pool, 99), ==, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_handle_close(&handle));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    void (*const cases[])(void) = {last_page, given_page, stopped_amid_a_free, blind_repair};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pool = open_pool_fork("shared", "uffd", "resume", PAGES * (uint64_t)GRANULE, GRANULE, "exclude");
        cases[i]();
        stats_of(pool);
        check_clean(pool, 1);
        check_all_to_be_had(pool);
        CHECK_OK(bufpool_close(pool));
    }
    return 0;
}
