/* One suite for every memory x trap: content, states, traps exact to the byte, batches, exhaustion, closing,
 * statistics. */
#include "harness.h"

#define PAGES 24

static bool trapped; /* this cell's holes trap */

static unsigned char pattern_at(uint64_t seed, size_t i)
{
    return (unsigned char)(1 + (seed * 31 + i * 7 + i / 4096) % 251);
}

static void make_pattern(unsigned char *to, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i++) {
        to[i] = pattern_at(seed, i);
    }
}

static void check_content(const bufpool_pool *pool, uint64_t page, uint64_t page_size, const unsigned char *data,
                          size_t size)
{
    const unsigned char *at = bufpool_address(pool, page);
    CHECK(at != NULL);
    CHECK(size == 0 || memcmp(at, data, size) == 0);
    for (size_t i = size; i < page_size; i++) {
        if (at[i] != 0) {
            CHECK_IS(at[i], ==, 0);
        }
    }
}

/* The first, the last and an inner byte of the page's granules trap (of a large page: of nine granules spread over it).
 */
static void check_hole(const bufpool_pool *pool, uint64_t page, uint64_t page_size, bufpool_state state)
{
    CHECK_IS(state_of(pool, page), ==, state);
    if (!trapped) {
        return;
    }
    char *at = bufpool_address(pool, page);
    size_t last = page_size - GRANULE;
    size_t step = page_size > 16 * GRANULE ? last / 8 / GRANULE * GRANULE : GRANULE;
    for (size_t granule = 0; granule <= last;
         granule = granule < last && granule + step > last ? last : granule + step) {
        size_t offsets[] = {granule, granule + 1 + granule / GRANULE % 4000, granule + GRANULE - 1};
        for (int i = 0; i < 3; i++) {
            bufpool_fault fault = BUFPOOL_FAULT_INIT;
            char byte = 7;
            bool write = (granule / GRANULE + (size_t)i) % 2 == 1;
            int code = write ? bufpool_guarded_copy(at + offsets[i], &byte, 1, &fault)
                             : bufpool_guarded_copy(&byte, at + offsets[i], 1, &fault);
            CHECK_IS(code, ==, BUFPOOL_ESTRAY);
            CHECK_IS(fault.address, ==, (uintptr_t)at + offsets[i]);
            CHECK_IS(fault.page, ==, page);
            CHECK_IS(fault.offset, ==, offsets[i]);
            CHECK_IS(fault.access, ==, write ? BUFPOOL_WRITE : BUFPOOL_READ);
            CHECK_IS(fault.state, ==, state);
            CHECK_IS(fault.thread_id, ==, gettid());
            CHECK_IS(fault.flags, ==, 0);
        }
    }
}

/* Allocations of every length, in pages of one size. */
static void fill_lengths(const char *memory, const char *trap, uint64_t page_size, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * page_size;
    config.page_size = page_size;
    config.memory = memory;
    config.trap = trap;
    config.flags = flags;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    size_t lengths[] = {0, 1, 7, 4095, 4096, 4097, 8192, 8193, page_size / 2, page_size - 1, page_size};
    unsigned char *data = malloc(page_size);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        if (lengths[i] > page_size) {
            continue;
        }
        make_pattern(data, lengths[i], i);
        uint64_t page = 12345;
        CHECK_OK(bufpool_allocate(pool, lengths[i] == 0 ? NULL : data, lengths[i], &page));
        CHECK_IS(page, <, PAGES);
        CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_ALLOCATED);
        check_content(pool, page, page_size, data, lengths[i]);
        memset(bufpool_address(pool, page), 0xEE, page_size); /* all of it can be written */
        CHECK_OK(bufpool_evict(pool, page));
        check_hole(pool, page, page_size, BUFPOOL_STATE_EVICTED);
        CHECK_OK(bufpool_populate(pool, page, lengths[i] == 0 ? NULL : data, lengths[i]));
        check_content(pool, page, page_size, data, lengths[i]);
        CHECK_OK(bufpool_free(pool, page));
        check_hole(pool, page, page_size, BUFPOOL_STATE_FREED);
        CHECK_OK(bufpool_allocate_at(pool, page, lengths[i] == 0 ? NULL : data, lengths[i]));
        check_content(pool, page, page_size, data, lengths[i]);
        CHECK_OK(bufpool_evict(pool, page));
        CHECK_OK(bufpool_free(pool, page)); /* an evicted page can be freed */
        check_hole(pool, page, page_size, BUFPOOL_STATE_FREED);
    }
    free(data);
    CHECK_OK(bufpool_close(pool));
}

/* A page of 1 GiB, of which a little is written: what is not written costs nothing only with BUFPOOL_LAZY_ZERO, so this
 * one is lazy. */
static void huge_page(const char *memory, const char *trap)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 2 * GIB;
    config.page_size = GIB;
    config.memory = memory;
    config.trap = trap;
    config.flags = BUFPOOL_LAZY_ZERO;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "a page of one GiB", 17, &page));
    char *at = bufpool_address(pool, page);
    CHECK(memcmp(at, "a page of one GiB", 18) == 0);
    CHECK_IS(at[GIB - 1], ==, 0);
    at[GIB / 2] = 5;
    CHECK_IS(at[GIB / 2], ==, 5);
    if (trapped) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at((char *)bufpool_address(pool, 1 - page) + GIB - 3, &fault));
        CHECK_IS(fault.offset, ==, GIB - 3);
    }
    CHECK_OK(bufpool_free(pool, page));
    if (trapped) {
        CHECK(traps_at(at + GIB / 2, NULL));
        CHECK(traps_at(at + GIB - 1, NULL));
    }
    CHECK_OK(bufpool_close(pool));
}

/* A copy that runs off an allocated page names the first byte of the hole behind it. */
static void edges(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "abort", 4 * GRANULE, GRANULE);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    CHECK_IS(page, ==, 0);
    char *at = bufpool_address(pool, 0);
    char buffer[64];
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (trapped) {
        CHECK_IS(bufpool_guarded_copy(buffer, at + GRANULE - 32, 64, &fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.page, ==, 1);
        CHECK_IS(fault.access, ==, BUFPOOL_READ);
        CHECK_IS(fault.address, >=, (uintptr_t)at + GRANULE);
        CHECK_IS(fault.address, <, (uintptr_t)at + GRANULE + 32);
    }
    CHECK_OK(bufpool_guarded_copy(buffer, at + GRANULE - 64, 64, &fault));
    CHECK_OK(bufpool_close(pool));
}

static void batches(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "abort", PAGES * GRANULE, GRANULE);
    uint64_t pages[PAGES + 1];
    unsigned char *data = malloc(PAGES * GRANULE);
    make_pattern(data, PAGES * GRANULE, 3);
    CHECK_OK(bufpool_allocate_many(pool, 0, NULL));
    CHECK_OK(bufpool_free_many(pool, 0, NULL));
    CHECK_OK(bufpool_evict_many(pool, 0, NULL));
    CHECK_OK(bufpool_populate_many(pool, 0, NULL, NULL));

    CHECK_IS(bufpool_allocate_many(pool, PAGES + 1, pages), ==, BUFPOOL_EEXHAUSTED); /* all or none */
    CHECK_IS(stats_of(pool).allocated, ==, 0);
    CHECK_OK(bufpool_allocate_filled(pool, PAGES, data, pages));
    for (int i = 0; i < PAGES; i++) {
        check_content(pool, pages[i], GRANULE, data + i * GRANULE, GRANULE);
    }
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &pages[PAGES]), ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), "24 of 24");

    /* Refused whole: twice the same, out of range. Nothing changed. */
    uint64_t twice[] = {pages[0], pages[1], pages[0]};
    CHECK_IS(bufpool_free_many(pool, 3, twice), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "it is being freed already (twice in this batch");
    CHECK_IS(bufpool_evict_many(pool, 3, twice), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "it is being evicted already (twice in this batch");
    uint64_t beyond[] = {pages[0], PAGES};
    CHECK_IS(bufpool_free_many(pool, 2, beyond), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_evict_many(pool, 2, beyond), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_last_done(), ==, 0);
    CHECK_IS(stats_of(pool).allocated, ==, PAGES);
    check_content(pool, pages[0], GRANULE, data, GRANULE);

    /* Scattered and neighbouring pages in one call. */
    uint64_t some[] = {pages[9], pages[2], pages[3], pages[4], pages[20], pages[7]};
    CHECK_OK(bufpool_evict_many(pool, 6, some));
    for (int i = 0; i < 6; i++) {
        check_hole(pool, some[i], GRANULE, BUFPOOL_STATE_EVICTED);
    }
    check_content(pool, pages[8], GRANULE, data + 8 * GRANULE, GRANULE);
    uint64_t mixed[] = {some[0], pages[0]};
    CHECK_IS(bufpool_populate_many(pool, 2, mixed, NULL), ==, BUFPOOL_ESTATE);
    CHECK_IS(state_of(pool, some[0]), ==, BUFPOOL_STATE_EVICTED);
    CHECK_IS(bufpool_populate_many(pool, 2, (uint64_t[]){some[0], some[0]}, NULL), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_populate_many(pool, 6, some, data));
    for (int i = 0; i < 6; i++) {
        check_content(pool, some[i], GRANULE, data + i * GRANULE, GRANULE);
    }
    CHECK_OK(bufpool_evict_many(pool, 3, some));
    CHECK_OK(bufpool_populate_many(pool, 3, some, NULL));
    check_content(pool, some[1], GRANULE, NULL, 0);

    /* Recovery after exhaustion, in a batch of allocated and evicted pages. */
    CHECK_OK(bufpool_evict_many(pool, 3, some));
    CHECK_OK(bufpool_free_many(pool, PAGES, pages));
    for (int i = 0; i < PAGES; i++) {
        check_hole(pool, pages[i], GRANULE, BUFPOOL_STATE_FREED);
    }
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
    for (int i = 0; i < PAGES; i++) {
        check_content(pool, pages[i], GRANULE, NULL, 0);
    }
    CHECK_OK(bufpool_close(pool));
    free(data);
}

static void closing(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "abort", 4 * GRANULE, GRANULE);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    char *at = bufpool_address(pool, page);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_CLOSED);
    CHECK(bufpool_address(pool, page) == at);
    if (trapped) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(at + 5, &fault));
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
        CHECK_IS(fault.page, ==, page);
        CHECK_IS(fault.offset, ==, 5);
        CHECK(traps_at(at + 3 * GRANULE, NULL)); /* never allocated */
    }
    CHECK_IS(bufpool_close(pool), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_evict(pool, 0), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_populate(pool, 0, NULL, 0), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_allocate_many(pool, 1, &page), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_free_many(pool, 1, &page), ==, BUFPOOL_ECLOSED);
    size_t found;
    CHECK_IS(bufpool_list(pool, BUFPOOL_STATE_ALLOCATED, 0, 1, &page, &found), ==, BUFPOOL_ECLOSED);
    bufpool_location where = BUFPOOL_LOCATION_INIT;
    CHECK_OK(bufpool_locate(at + 5, &where));
    CHECK(where.pool == pool && where.page == page && where.offset == 5);
    CHECK_IS(stats_of(pool).allocated, ==, 0);
    CHECK_IS(stats_of(pool).allocations, ==, 1);
}

static void statistics(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "resume", 10 * 8192, 8192);
    uint64_t pages[6];
    CHECK_OK(bufpool_allocate_many(pool, 6, pages));
    CHECK_OK(bufpool_evict_many(pool, 3, pages));
    CHECK_OK(bufpool_populate(pool, pages[0], NULL, 0));
    CHECK_OK(bufpool_free(pool, pages[1])); /* evicted */
    CHECK_OK(bufpool_free(pool, pages[5]));
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.size, ==, sizeof s);
    CHECK_IS(s.capacity, ==, 10 * 8192);
    CHECK_IS(s.page_size, ==, 8192);
    CHECK_IS(s.granule, ==, GRANULE);
    CHECK_IS(s.pages, ==, 10);
    CHECK_IS(s.address, ==, (uintptr_t)bufpool_address(pool, 0));
    CHECK_IS(s.allocations, ==, 6);
    CHECK_IS(s.evictions, ==, 3);
    CHECK_IS(s.populates, ==, 1);
    CHECK_IS(s.frees, ==, 2);
    CHECK_IS(s.evicted, ==, 1);
    CHECK_IS(s.allocated, ==, 3);
    CHECK_IS(s.high_water, ==, 6);
    CHECK_IS(s.faults, ==, 0);
    CHECK_STRING(s.memory, memory);
    CHECK_STRING(s.trap, trap);
    CHECK_STRING(s.on_fault, "resume");
    CHECK_HAS(s.name, "pool-");
    CHECK_HAS("private anonymous memfd", s.backing);
    CHECK_STRING(s.trap_note, "");
    uint64_t list[10];
    size_t found;
    CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_ALLOCATED, 0, 10, list, &found));
    CHECK_IS(found, ==, 3);
    CHECK(list[0] == pages[0] && list[1] == pages[3] && list[2] == pages[4]);
    CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_FREED, 2, 10, list, &found));
    CHECK(found == 1 && list[0] == pages[5]);
    CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_EVICTED, 0, 0, NULL, &found));
    CHECK_IS(found, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    trapped = strcmp(trap, "none") != 0;
    static const uint64_t sizes[] = {4096, 12 * KIB, 16 * KIB, 256 * KIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fill_lengths(memory, trap, sizes[i], 0);
        fill_lengths(memory, trap, sizes[i], BUFPOOL_LAZY_ZERO);
    }
    fill_lengths(memory, trap, 2 * MIB, BUFPOOL_LAZY_ZERO);
    huge_page(memory, trap);
    edges(memory, trap);
    batches(memory, trap);
    closing(memory, trap);
    statistics(memory, trap);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, true);
}
