/*
 * Which ways a pool takes, by what the kernel allows: the statistics name them, count every granule that goes one, and
 * name and count others where a request is refused, at open or later; what the pool holds is the same in every case.
 */
#include "harness.h"
#include "refuse.h"
#include "ways.h"

#define PAGES 64
#define PAGE_SIZE (2 * (uint64_t)GRANULE)
#define MOVE_REQUEST 0xC028AA05 /* UFFDIO_MOVE */

static bool lists(const char *ways, bufpool_way way)
{
    char all[128], one[64];
    snprintf(all, sizeof all, ", %s,", ways);
    snprintf(one, sizeof one, ", %s,", bufpool_way_name(way));
    return strstr(all, one) != NULL;
}

static uint64_t sum(const bufpool_statistics *s, bufpool_way first, bufpool_way last)
{
    uint64_t all = 0;
    for (int way = (int)first; way <= (int)last; way++) {
        all += s->ways[way];
    }
    return all;
}

static char *page_of(bufpool_pool *pool, uint64_t page)
{
    return bufpool_address(pool, page);
}

static void check_hole(bufpool_pool *pool, uint64_t page)
{
    CHECK(traps_at(page_of(pool, page), NULL));
    CHECK(traps_at(page_of(pool, page) + stats_of(pool).page_size - 1, NULL));
}

/* Fills and frees one by one, in a row, and scattered; what is there, and what is not, does not depend on the way. */
static bufpool_statistics live(bufpool_pool *pool, uint64_t granules_a_page, void (*meanwhile)(void))
{
    static char data[8 * PAGE_SIZE];
    uint64_t size = granules_a_page * GRANULE;
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (char)(i % 251 + 1);
    }
    uint64_t one[8], many[8], filled = 0, zapped = 0;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 8; i++) {
            CHECK_OK(bufpool_allocate(pool, data + (size_t)i * size, size, &one[i]));
        }
        CHECK_OK(bufpool_allocate_filled(pool, 8, data, many));
        for (int i = 0; i < 8; i++) {
            CHECK(memcmp(page_of(pool, one[i]), data + (size_t)i * size, size) == 0);
            CHECK(memcmp(page_of(pool, many[i]), data + (size_t)i * size, size) == 0);
        }
        uint64_t scattered[] = {many[6], many[0], many[2], many[4]};
        CHECK_OK(bufpool_evict_many(pool, 4, scattered));
        CHECK_OK(bufpool_populate_many(pool, 4, scattered, NULL));
        for (int i = 0; i < 4; i++) {
            CHECK_IS(read_byte(page_of(pool, scattered[i]) + size - 1), ==, 0);
        }
        CHECK_OK(bufpool_free_many(pool, 4, scattered));
        for (int i = 1; i < 8; i += 2) {
            CHECK_OK(bufpool_free(pool, many[i]));
        }
        for (int i = 0; i < 8; i++) {
            CHECK_OK(bufpool_free(pool, one[i]));
        }
        for (int i = 0; i < 8; i++) {
            check_hole(pool, one[i]);
            check_hole(pool, many[i]);
        }
        filled += 20 * granules_a_page;
        zapped += 20 * granules_a_page;
        if (meanwhile != NULL && round == 0) {
            meanwhile();
        }
    }
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(sum(&s, BUFPOOL_WAY_MOVE, BUFPOOL_WAY_TOUCH), ==, filled);
    CHECK_IS(sum(&s, BUFPOOL_WAY_MOVE_OUT, BUFPOOL_WAY_PUNCH), ==, zapped);
    CHECK_IS(s.recycled, ==, s.ways[BUFPOOL_WAY_MOVE]);
    for (int way = 0; way < BUFPOOL_WAYS; way++) { /* none that it has not said */
        bool said = lists(way < (int)BUFPOOL_WAY_MOVE_OUT ? s.fill_ways : s.zap_ways, (bufpool_way)way);
        CHECK(said || s.ways[way] == 0);
        CHECK(s.ways[way] == 0 || bufpool_way_name((bufpool_way)way)[0] != 0);
    }
    return s;
}

static bufpool_statistics life(const char *memory, const char *trap, uint64_t granules_a_page, void (*meanwhile)(void))
{
    uint64_t size = granules_a_page * GRANULE;
    bufpool_pool *pool = open_pool(memory, trap, "abort", PAGES * size, size);
    bufpool_statistics s = live(pool, granules_a_page, meanwhile);
    CHECK_OK(bufpool_close(pool));
    CHECK_STRING(stats_of(pool).fill_ways, "");
    return s;
}

static void cell(const char *memory, const char *trap)
{
    bufpool_statistics s = life(memory, trap, 2, NULL);
    CHECK_IS(s.ways_busy + s.ways_memory + s.ways_refused, ==, 0);
    if (strcmp(trap, "uffd") != 0) {
        CHECK_STRING(s.fill_ways, "write");
        CHECK_STRING(s.zap_ways, "punch");
    } else if (strcmp(memory, "shared") == 0) {
        CHECK_STRING(s.fill_ways, "copy");
        CHECK(lists(s.zap_ways, BUFPOOL_WAY_PUNCH) && s.ways[BUFPOOL_WAY_PUNCH] > 0);
        CHECK_IS(lists(s.zap_ways, BUFPOOL_WAY_BATCH), ==, s.ways[BUFPOOL_WAY_BATCH] > 0);
    }
}

/* Pages of one granule on anonymous memory under uffd have all the ways there are; each is taken where it is listed. */
static bufpool_statistics all_ways(void (*meanwhile)(void))
{
    bufpool_statistics s = life("anon", "uffd", 1, meanwhile);
    CHECK(lists(s.fill_ways, BUFPOOL_WAY_COPY) && s.ways[BUFPOOL_WAY_COPY] > 0);
    CHECK(lists(s.zap_ways, BUFPOOL_WAY_DROP));
    CHECK_IS(lists(s.fill_ways, BUFPOOL_WAY_MOVE), ==, s.ways[BUFPOOL_WAY_MOVE] > 0);
    CHECK_IS(lists(s.zap_ways, BUFPOOL_WAY_MOVE_OUT), ==, s.ways[BUFPOOL_WAY_MOVE_OUT] > 0);
    CHECK_IS(lists(s.zap_ways, BUFPOOL_WAY_BATCH), ==, s.ways[BUFPOOL_WAY_BATCH] > 0);
    return s;
}

static bool moves_at_all;

/* Where nothing is refused: as measured, or as if measured. */
static void as_chosen(void *argument)
{
    bp_ways_choice = *(const uint32_t *)argument;
    bufpool_statistics s = all_ways(NULL);
    CHECK_IS(s.ways_busy + s.ways_memory + s.ways_refused, ==, 0);
    bool tried = bp_ways_choice != 0; /* else the kernel has no UFFDIO_MOVE */
    CHECK(!lists(s.fill_ways, BUFPOOL_WAY_MOVE) || bp_ways_choice & BP_FILL_KEPT);
    CHECK_IS(lists(s.zap_ways, BUFPOOL_WAY_MOVE_OUT), ==, tried && moves_at_all && bp_ways_choice & BP_ZAP_OUT);
}

static void without_batches(void *argument)
{
    if (argument != NULL) {
        REFUSE({SYS_process_madvise, ANY_ARGUMENT, 0, EINVAL}); /* as Linux before 6.13 */
    } else {
        REFUSE(REFUSE_PROCESS_MADVISE);
    }
    bufpool_statistics s = all_ways(NULL);
    CHECK(!lists(s.zap_ways, BUFPOOL_WAY_BATCH));
    CHECK_IS(s.ways_refused, ==, 0);
    s = life("shared", "uffd", 1, NULL);
    CHECK_STRING(s.zap_ways, "punch");
    CHECK_IS(s.ways_refused, ==, 0);
}

static void refuse_moves(void)
{
    REFUSE({SYS_ioctl, 1, MOVE_REQUEST, EINVAL}); /* as Linux before 6.8 */
}

static void without_moves(void *argument)
{
    refuse_moves();
    if (argument != NULL) {
        REFUSE(REFUSE_PROCESS_MADVISE);
    }
    bufpool_statistics s = all_ways(NULL);
    CHECK_STRING(s.fill_ways, "copy");
    CHECK(!lists(s.zap_ways, BUFPOOL_WAY_MOVE_OUT));
    CHECK_STRING(s.zap_ways, argument != NULL ? "madvise" : s.zap_ways);
    CHECK_IS(s.ways_refused, ==, 0);
    CHECK_IS(s.frames_kept, ==, 0);
}

static void refuse_later(void)
{
    refuse_moves();
    REFUSE(REFUSE_PROCESS_MADVISE);
}

/* What was allowed at open is refused from some moment on: another way is found each time, and that is counted. */
static void refused_later(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_pool("anon", "uffd", "abort", PAGES * GRANULE, GRANULE);
    bool had = strcmp(stats_of(pool).fill_ways, "copy") != 0;
    bufpool_statistics s = live(pool, 1, refuse_later);
    CHECK_IS(s.ways_refused > 0, ==, had);
}

static void refuse_batches(void)
{
    REFUSE(REFUSE_PROCESS_MADVISE);
}

/* Pages of a file that cannot be unmapped together any more are punched all the same. */
static void batches_refused_later(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_pool("shared", "uffd", "abort", PAGES * GRANULE, GRANULE);
    bool had = lists(stats_of(pool).zap_ways, BUFPOOL_WAY_BATCH);
    bufpool_statistics s = live(pool, 1, refuse_batches);
    CHECK_IS(s.ways_refused > 0, ==, had);
}

/* A frame that a fork has shared cannot be moved, even when the child is gone: it is given back another way. */
static void shared_by_a_fork(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_pool("anon", "uffd", "abort", PAGES * GRANULE, GRANULE);
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    CHECK_IS(waitpid(child, NULL, 0), ==, child);
    for (int i = 0; i < 4; i++) {
        CHECK_OK(bufpool_free(pool, pages[i]));
        check_hole(pool, pages[i]);
    }
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.ways_busy, ==, moves_at_all ? 4 : 0);
    CHECK_IS(s.ways[BUFPOOL_WAY_DROP], ==, 4);
    CHECK_IS(s.ways[BUFPOOL_WAY_MOVE_OUT] + s.frames_kept, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    CHECK_STRING(bufpool_way_name(BUFPOOL_WAY_BATCH), "process_madvise");
    CHECK_STRING(bufpool_way_name((bufpool_way)(BUFPOOL_WAYS + 5)), "");
    int code = for_each_cell(cell, false);
    if (code == 0 && bufpool_probe("anon", "uffd", NULL, 0) == 0) {
        static uint32_t choices[] = {BP_CHOSEN | BP_FILL_KEPT | BP_ZAP_OUT, BP_CHOSEN | BP_ZAP_OUT, BP_CHOSEN, 0};
        bp_ways_choice = choices[0];
        bufpool_pool *pool = open_pool("anon", "uffd", "abort", PAGES * GRANULE, GRANULE);
        moves_at_all = lists(stats_of(pool).fill_ways, BUFPOOL_WAY_MOVE);
        CHECK_OK(bufpool_close(pool));
        for (int i = 0; i < 4; i++) {
            passes(as_chosen, &choices[i]);
        }
        passes(without_batches, NULL);
        passes(without_batches, "EINVAL");
        passes(without_moves, NULL);
        passes(without_moves, "batches neither");
        passes(refused_later, NULL);
        passes(batches_refused_later, NULL);
        passes(shared_by_a_fork, NULL);
    }
    return code;
}
