/*
 * conformance.h: one suite for every memory x trap: content, states, traps exact to the byte, batches, exhaustion,
 * closing, statistics. What differs from cell to cell is in `cell`; sizes are given in granules.
 */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include "harness.h"

#include <sys/mman.h>

#define PAGES 24
#define COUNT(table) (sizeof(table) / sizeof *(table))

static struct {
    const char *memory, *trap;
    bool trapped; /* its holes trap */
    uint64_t granule;
    const char *backing;    /* what statistics say, */
    bool counts_fills;      /* and whether they count each granule in huge_fills or small_fills */
    unsigned char *pattern; /* of the largest page; content is taken from it at different offsets */
} cell;

static bufpool_pool *open_cell(uint64_t granules, uint64_t pages, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.report_limit = UINT32_MAX;
    config.page_size = granules * cell.granule;
    config.capacity = pages * config.page_size;
    config.memory = cell.memory;
    config.trap = cell.trap;
    config.flags = flags;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

static void check_zeros(const unsigned char *at, size_t size)
{
    CHECK(size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0));
}

static void check_content(const bufpool_pool *pool, uint64_t page, uint64_t page_size, const unsigned char *data,
                          size_t size)
{
    const unsigned char *at = bufpool_address(pool, page);
    CHECK(at != NULL);
    CHECK(size == 0 || memcmp(at, data, size) == 0);
    check_zeros(at + size, page_size - size);
}

/* One byte, read or written, at an offset of a hole. */
static void check_trap(const bufpool_pool *pool, uint64_t page, uint64_t offset, bool write, bufpool_state state)
{
    char *at = (char *)bufpool_address(pool, page) + offset;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    char byte = 7;
    CHECK_IS(write ? bufpool_guarded_copy(at, &byte, 1, &fault) : bufpool_guarded_copy(&byte, at, 1, &fault), ==,
             BUFPOOL_ESTRAY);
    CHECK_IS(fault.address, ==, (uintptr_t)at);
    CHECK_IS(fault.page, ==, page);
    CHECK_IS(fault.offset, ==, offset);
    CHECK_IS(fault.access, ==, write ? BUFPOOL_WRITE : BUFPOOL_READ);
    CHECK_IS(fault.state, ==, state);
    CHECK_IS(fault.signal, ==, signal_of(cell.trap));
    CHECK_IS(fault.thread_id, ==, gettid());
    CHECK_IS(fault.flags, ==, 0);
}

/* The first, the last and inner bytes of the page's granules trap (of a large page: of nine, spread over it). */
static void check_hole(const bufpool_pool *pool, uint64_t page, uint64_t page_size, bufpool_state state)
{
    CHECK_IS(state_of(pool, page), ==, state);
    if (!cell.trapped) {
        return;
    }
    size_t size = cell.granule;
    size_t last = page_size - size;
    size_t step = page_size > 16 * size ? last / 8 / size * size : size;
    for (size_t granule = 0; granule <= last;
         granule = granule < last && granule + step > last ? last : granule + step) {
        size_t number = granule / size;
        size_t inner[] = {0, 1 + number % 4000, size / 2 - 1, size / 2 + 4096 / 2, size - 4096, size - 1};
        for (size_t i = 0; i < COUNT(inner); i++) {
            check_trap(pool, page, granule + inner[i] % size, (number + i) % 2 == 1, state);
        }
    }
}

/* Allocations of every length, in pages of one size. */
static void fill_lengths(uint64_t granules, uint32_t flags)
{
    bufpool_pool *pool = open_cell(granules, PAGES, flags);
    size_t granule = cell.granule;
    size_t page_size = granules * granule;
    size_t lengths[] = {0,
                        1,
                        7,
                        4095,
                        4096,
                        4097,
                        8192,
                        8193,
                        granule - 1,
                        granule,
                        granule + 1,
                        2 * granule,
                        2 * granule + 1,
                        page_size / 2,
                        page_size - 1,
                        page_size};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        size_t length = lengths[i];
        if (length > page_size) {
            continue;
        }
        const unsigned char *data = length == 0 ? NULL : cell.pattern + i;
        uint64_t page = 12345;
        CHECK_OK(bufpool_allocate(pool, data, length, &page));
        CHECK_IS(page, <, PAGES);
        CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_ALLOCATED);
        check_content(pool, page, page_size, data, length);
        memset(bufpool_address(pool, page), 0xEE, page_size); /* all of it can be written */
        CHECK_OK(bufpool_evict(pool, page));
        check_hole(pool, page, page_size, BUFPOOL_STATE_EVICTED);
        CHECK_OK(bufpool_populate(pool, page, data, length));
        check_content(pool, page, page_size, data, length);
        CHECK_OK(bufpool_free(pool, page));
        check_hole(pool, page, page_size, BUFPOOL_STATE_FREED);
        CHECK_OK(bufpool_allocate_at(pool, page, data, length));
        check_content(pool, page, page_size, data, length);
        CHECK_OK(bufpool_evict(pool, page));
        CHECK_OK(bufpool_free(pool, page)); /* an evicted page can be freed */
        check_hole(pool, page, page_size, BUFPOOL_STATE_FREED);
    }
    CHECK_OK(bufpool_close(pool));
}

/* A copy that runs off an allocated page names the first byte of the hole behind it. */
static void edges(void)
{
    size_t granule = cell.granule;
    bufpool_pool *pool = open_cell(1, 4, 0);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    CHECK_IS(page, ==, 0);
    char *at = bufpool_address(pool, 0);
    char buffer[64];
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (cell.trapped) {
        CHECK_IS(bufpool_guarded_copy(buffer, at + granule - 32, 64, &fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.page, ==, 1);
        CHECK_IS(fault.access, ==, BUFPOOL_READ);
        CHECK_IS(fault.address, >=, (uintptr_t)at + granule);
        CHECK_IS(fault.address, <, (uintptr_t)at + granule + 32);
    }
    CHECK_OK(bufpool_guarded_copy(buffer, at + granule - 64, 64, &fault));
    CHECK_OK(bufpool_close(pool));
}

/* A batch whose numbers do not fit is refused whole, and nothing has changed. */
static void refused_batches(bufpool_pool *pool, const uint64_t *pages, const unsigned char *data)
{
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
    check_content(pool, pages[0], cell.granule, data, cell.granule);
}

static void batches(void)
{
    size_t granule = cell.granule;
    bufpool_pool *pool = open_cell(1, PAGES, 0);
    uint64_t pages[PAGES + 1];
    unsigned char *data = malloc(PAGES * granule);
    for (size_t i = 0; i < PAGES; i++) {
        memcpy(data + i * granule, cell.pattern + 13 * i, granule);
    }
    CHECK_OK(bufpool_allocate_many(pool, 0, NULL));
    CHECK_OK(bufpool_free_many(pool, 0, NULL));
    CHECK_OK(bufpool_evict_many(pool, 0, NULL));
    CHECK_OK(bufpool_populate_many(pool, 0, NULL, NULL));

    CHECK_IS(bufpool_allocate_many(pool, PAGES + 1, pages), ==, BUFPOOL_EEXHAUSTED); /* all or none */
    CHECK_IS(stats_of(pool).allocated, ==, 0);
    CHECK_OK(bufpool_allocate_filled(pool, PAGES, data, pages));
    for (size_t i = 0; i < PAGES; i++) {
        check_content(pool, pages[i], granule, data + i * granule, granule);
    }
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &pages[PAGES]), ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), "24 of 24");
    refused_batches(pool, pages, data);

    /* Scattered and neighbouring pages in one call. */
    uint64_t some[] = {pages[9], pages[2], pages[3], pages[4], pages[20], pages[7]};
    CHECK_OK(bufpool_evict_many(pool, 6, some));
    for (int i = 0; i < 6; i++) {
        check_hole(pool, some[i], granule, BUFPOOL_STATE_EVICTED);
    }
    check_content(pool, pages[8], granule, data + 8 * granule, granule);
    uint64_t mixed[] = {some[0], pages[0]};
    CHECK_IS(bufpool_populate_many(pool, 2, mixed, NULL), ==, BUFPOOL_ESTATE);
    CHECK_IS(state_of(pool, some[0]), ==, BUFPOOL_STATE_EVICTED);
    CHECK_IS(bufpool_populate_many(pool, 2, (uint64_t[]){some[0], some[0]}, NULL), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_populate_many(pool, 6, some, data));
    for (size_t i = 0; i < 6; i++) {
        check_content(pool, some[i], granule, data + i * granule, granule);
    }
    CHECK_OK(bufpool_evict_many(pool, 3, some));
    CHECK_OK(bufpool_populate_many(pool, 3, some, NULL));
    check_content(pool, some[1], granule, NULL, 0);

    /* Recovery after exhaustion, in a batch of allocated and evicted pages. */
    CHECK_OK(bufpool_evict_many(pool, 3, some));
    CHECK_OK(bufpool_free_many(pool, PAGES, pages));
    for (int i = 0; i < PAGES; i++) {
        check_hole(pool, pages[i], granule, BUFPOOL_STATE_FREED);
    }
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
    for (int i = 0; i < PAGES; i++) {
        check_content(pool, pages[i], granule, NULL, 0);
    }
    CHECK_OK(bufpool_close(pool));
    free(data);
}

/* Data that stops being readable midway: the batch is undone whole. (Trap "none" is a plain memcpy.) */
static void batch_failure(void)
{
    if (!cell.trapped) {
        return;
    }
    size_t granule = cell.granule;
    bufpool_pool *pool = open_cell(1, PAGES, 0);
    char *data = mmap(NULL, 4 * granule, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(data != MAP_FAILED);
    memset(data, 0x55, 4 * granule);
    uint64_t kept;
    CHECK_OK(bufpool_allocate(pool, data, granule, &kept));
    uint64_t evicted[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, evicted));
    CHECK_OK(bufpool_evict_many(pool, 4, evicted));
    size_t readable = granule == GRANULE ? 3 * granule : 2 * granule + granule / 2;
    CHECK_OK(mprotect(data + readable, 4 * granule - readable, PROT_NONE));
    uint64_t pages[4];
    CHECK_IS(bufpool_allocate_filled(pool, 4, data, pages), ==, -EFAULT);
    CHECK_IS(bufpool_populate_many(pool, 4, evicted, data), ==, -EFAULT);
    CHECK_HAS(last_error(), "not readable");
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, data + 3 * granule, granule, &page), ==, -EFAULT);
    CHECK_IS(bufpool_allocate(pool, data + 3 * granule, 100, &page), ==, -EFAULT);
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.allocated, ==, 1);
    CHECK_IS(s.evicted, ==, 4);
    CHECK_IS(s.faults, ==, 0);
    CHECK(memcmp(bufpool_address(pool, kept), data, granule) == 0);
    for (uint64_t i = 0; i < PAGES; i++) {
        if (i != kept) {
            bool was_evicted = i >= evicted[0] && i <= evicted[3];
            bufpool_state state = state_of(pool, i);
            CHECK_IS(state, ==, was_evicted ? BUFPOOL_STATE_EVICTED : BUFPOOL_STATE_UNALLOCATED);
            check_hole(pool, i, granule, state);
        }
    }
    CHECK_OK(bufpool_populate_many(pool, 4, evicted, NULL));
    check_content(pool, evicted[2], granule, NULL, 0);
    CHECK_OK(bufpool_close(pool));
    munmap(data, 4 * granule);
}

static void closing(void)
{
    bufpool_pool *pool = open_cell(1, 4, 0);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    char *at = bufpool_address(pool, page);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_CLOSED);
    CHECK(bufpool_address(pool, page) == at);
    if (cell.trapped) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(at + 5, &fault));
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
        CHECK_IS(fault.page, ==, page);
        CHECK_IS(fault.offset, ==, 5);
        CHECK(traps_at(at + 4 * cell.granule - 1, NULL)); /* never allocated */
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
    CHECK(where.pool == pool && where.page == 0 && where.offset == 5);
    CHECK_IS(stats_of(pool).allocated, ==, 0);
    CHECK_IS(stats_of(pool).allocations, ==, 1);
}

static void check_texts(const bufpool_statistics *s)
{
    char shown[sizeof s->memory];
    snprintf(shown, sizeof shown, "%s", cell.memory); /* a long path is cut */
    CHECK_STRING(s->memory, shown);
    CHECK_STRING(s->trap, cell.trap);
    CHECK_STRING(s->on_fault, "resume");
    CHECK_HAS(s->name, "pool-");
    CHECK_HAS(cell.backing, s->backing);
    CHECK_STRING(s->trap_note, "");
}

static void statistics(void)
{
    uint64_t page_size = 2 * cell.granule;
    bufpool_pool *pool = open_pool(cell.memory, cell.trap, "resume", 10 * page_size, page_size);
    uint64_t pages[6];
    CHECK_OK(bufpool_allocate_many(pool, 6, pages));
    CHECK_OK(bufpool_evict_many(pool, 3, pages));
    CHECK_OK(bufpool_populate(pool, pages[0], cell.pattern, cell.granule + 1));
    CHECK_OK(bufpool_free(pool, pages[1])); /* evicted */
    CHECK_OK(bufpool_free(pool, pages[5]));
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.size, ==, sizeof s);
    CHECK_IS(s.capacity, ==, 10 * page_size);
    CHECK_IS(s.page_size, ==, page_size);
    CHECK_IS(s.granule, ==, cell.granule);
    CHECK_IS(s.pages, ==, 10);
    CHECK_IS(s.address, ==, (uintptr_t)bufpool_address(pool, 0));
    CHECK_IS(s.address % cell.granule, ==, 0);
    CHECK_IS(s.allocations, ==, 6);
    CHECK_IS(s.evictions, ==, 3);
    CHECK_IS(s.populates, ==, 1);
    CHECK_IS(s.frees, ==, 2);
    CHECK_IS(s.evicted, ==, 1);
    CHECK_IS(s.allocated, ==, 3);
    CHECK_IS(s.high_water, ==, 6);
    CHECK_IS(s.faults, ==, 0);
    CHECK_IS(s.reserve_lost, ==, 0);
    CHECK_IS(s.huge_fills + s.small_fills, ==, cell.counts_fills ? 2 * (6 + 1) : 0);
    CHECK(s.small_fills == 0 || strcmp(cell.memory, "thp") == 0);
    check_texts(&s);
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

/* The whole suite but for pages of many granules, which are the caller's. */
static void conformance(const char *memory, const char *trap, const char *backing, bool counts_fills)
{
    cell.memory = memory;
    cell.trap = trap;
    cell.trapped = strcmp(trap, "none") != 0;
    cell.backing = backing;
    cell.counts_fills = counts_fills;
    bufpool_pool *pool = open_pool(memory, trap, "abort", GIB, 0); /* page_size 0 */
    cell.granule = stats_of(pool).granule;
    CHECK_IS(stats_of(pool).page_size, ==, cell.granule);
    CHECK_OK(bufpool_close(pool));
    size_t size = (cell.granule > GRANULE ? 3 * cell.granule : 2 * MIB) + 4096; /* the largest page, at any offset */
    cell.pattern = malloc(size);
    for (size_t i = 0; i < size; i++) {
        cell.pattern[i] = (unsigned char)(1 + (i * 7 + i / 4096) % 251);
    }
    fill_lengths(1, 0);
    fill_lengths(3, 0);
    fill_lengths(1, BUFPOOL_LAZY_ZERO);
    edges();
    batches();
    batch_failure();
    closing();
    statistics();
}

static void conformance_end(void)
{
    free(cell.pattern);
    cell.pattern = NULL;
}

#endif
