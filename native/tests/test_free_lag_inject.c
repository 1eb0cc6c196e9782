/* The kernel refuses to take the frames of pages that have lagged: no free fails for it, nothing is lost, and what lags is
 * counted, and tried again. */
#include "lag.h"

struct bp_space;
struct bp_range;
int __real_bp_space_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done);
int __wrap_bp_space_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done);

static bool failing;
static size_t but_for; /* ranges of a request that are done before it fails */

int __wrap_bp_space_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    if (!failing) {
        return __real_bp_space_zap(space, ranges, count, done);
    }
    *done = 0;
    if (but_for > 0) {
        CHECK_OK(__real_bp_space_zap(space, ranges, but_for < count ? but_for : count, done));
    }
    return *done == count ? 0 : -ENOMEM;
}

#define PAGES 16

static bufpool_pool *full(const char *memory, const char *trap, uint64_t lag)
{
    bufpool_pool *pool = open_lagging(memory, trap, PAGES, lag);
    for (uint64_t i = 0; i < PAGES; i++) {
        CHECK_IS(allocate(pool, "x"), ==, i);
    }
    return pool;
}

/* More lag than may; the next zap that succeeds takes them all. */
static void refused_frees(const char *memory, const char *trap)
{
    for (but_for = 0; but_for < 3; but_for++) {
        bufpool_pool *pool = full(memory, trap, 8);
        failing = true;
        for (uint64_t i = 0; i < 10; i++) {
            CHECK_OK(bufpool_free(pool, i / 5 + i % 5 * 2)); /* no two neighbours: each page is a range */
        }
        uint64_t lagging = stats_of(pool).lagging;
        CHECK_IS(lagging, <=, 10);
        CHECK_IS(lagging, >=, but_for == 0 ? 10 : 5);
        check_clean(pool, lagging);
        if (but_for == 0) {
            CHECK_IS(bufpool_settle(pool), ==, -ENOMEM);
            CHECK_HAS(last_error(), "lag on");
            check_clean(pool, 10);
        }
        failing = false;
        for (uint64_t i = 10; i < PAGES; i++) { /* one of these finds a slot in use */
            CHECK_OK(bufpool_free(pool, i));
        }
        CHECK_IS(stats_of(pool).lagging, <=, but_for == 0 ? PAGES : 8); /* that settle has emptied the ring */
        CHECK_OK(bufpool_settle(pool));
        check_clean(pool, 0);
        for (uint64_t i = 0; i < PAGES; i++) {
            CHECK(traps_at(bufpool_address(pool, i), NULL));
        }
        for (uint64_t i = 0; i < PAGES; i++) {
            allocate(pool, NULL);
        }
        CHECK_OK(bufpool_close(pool));
    }
    but_for = 0;
}

/* What the ring has lost is found when no other number is free. */
static void found_again(const char *memory, const char *trap)
{
    bufpool_pool *pool = full(memory, trap, 4);
    failing = true;
    for (uint64_t i = 0; i < 12; i++) {
        CHECK_OK(bufpool_free(pool, i));
    }
    CHECK_IS(stats_of(pool).lagging, ==, 12);
    bool seen[PAGES] = {false};
    for (int i = 0; i < 12; i++) {
        uint64_t page = allocate(pool, "again");
        CHECK(page < 12 && !seen[page]);
        seen[page] = true;
        check_page(pool, page, "again", 0);
    }
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    failing = false;
    check_clean(pool, 0);
    CHECK_OK(bufpool_close(pool));
}

/* Who asks for its number is told, and it lags on. */
static void asked_for(const char *memory, const char *trap)
{
    bufpool_pool *pool = full(memory, trap, 4);
    void *frame;
    CHECK_OK(bufpool_stage(pool, 1, &frame));
    memset(frame, 'f', granule_of(memory));
    CHECK_OK(bufpool_free(pool, 5));
    failing = true;
    CHECK_IS(bufpool_publish(pool, 1, &frame, (uint64_t[]){5}), ==, -ENOMEM);
    CHECK_HAS(last_error(), "page 5");
    CHECK_IS(bufpool_replace(pool, 0, 5), ==, -ENOMEM);
    CHECK_IS(state_of(pool, 0), ==, BUFPOOL_STATE_ALLOCATED);
    check_clean(pool, 1);
    CHECK_OK(bufpool_allocate_at(pool, 5, "there", 5)); /* in the frame that it has */
    CHECK_OK(bufpool_free(pool, 5));
    failing = false;
    CHECK_OK(bufpool_publish(pool, 1, &frame, (uint64_t[]){5}));
    check_page(pool, 5, "", 'f');
    check_clean(pool, 0);
    CHECK_OK(bufpool_close(pool));
}

/* Of a batch that is undone because its last page cannot be filled: what had lagged is free, or lags. */
static void undone(const char *memory, const char *trap)
{
    bufpool_pool *pool = full(memory, trap, 4);
    size_t size = granule_of(memory);
    uint64_t pages[3];
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_OK(bufpool_free(pool, 7));
    char *data = mmap(NULL, 3 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK((void *)data != MAP_FAILED);
    CHECK_OK(munmap(data + size, size));
    if (NESTED_FAULTS) {
        CHECK_IS(bufpool_allocate_filled(pool, 2, data, pages), ==, -EFAULT);
        check_clean(pool, 0);
        CHECK_IS(stats_of(pool).allocated, ==, PAGES - 2);
        CHECK(traps_at(bufpool_address(pool, 2), NULL) && traps_at(bufpool_address(pool, 7), NULL));
    }
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    refused_frees(memory, trap);
    found_again(memory, trap);
    asked_for(memory, trap);
    undone(memory, trap);
}

int main(void)
{
    setbuf(stdout, NULL);
    return for_lagging_cells(cell, false);
}
