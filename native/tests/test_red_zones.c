/* Red zones on every cell: an access one byte past the end of a page, or before its beginning, traps beside allocated
 * neighbours and is named; numbers, batches, evictions, capacities and checks are as ever. */
#include "zone.h"

static bufpool_pool *open_zoned(const char *memory, const char *trap, const char *on_fault)
{
    bufpool_config config = zone_config(memory, trap, 6);
    config.on_fault = on_fault;
    config.flags = BUFPOOL_RED_ZONES;
    config.provenance = "last";
    return zone_open(&config);
}

static void check_zone(bufpool_pool *pool, char *address, uint64_t page, int64_t offset)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(address, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_RED_ZONE);
    CHECK_IS(fault.page, ==, page);
    CHECK_IS(fault.offset, ==, offset);
    CHECK_IS(fault.address, ==, (uintptr_t)address);
    CHECK_IS(fault.below, ==, offset < 0 ? page - 1 : page); /* all are allocated; before page 0 there is none */
    CHECK_IS(fault.above, ==, offset < 0 ? page : page + 1 < 6 ? page + 1 : BUFPOOL_NO_PAGE);
    bufpool_location location = BUFPOOL_LOCATION_INIT;
    CHECK_OK(bufpool_locate(address, &location));
    CHECK(location.pool == pool && location.page == page && (int64_t)location.offset == offset);
    bufpool_fault same = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_explain(address, 1, &same), ==, BUFPOOL_ESTRAY);
    CHECK(same.state == BUFPOOL_STATE_RED_ZONE && same.page == page && same.offset == fault.offset);
    char text[8192];
    char line[128];
    bufpool_format_text(&fault, text, sizeof text);
    if (offset < 0) {
        snprintf(line, sizeof line, "  red zone, %lld bytes before page %llu of pool", (long long)-offset,
                 (unsigned long long)page);
    } else {
        snprintf(line, sizeof line, "  red zone, %lld bytes past the last one of page %llu of pool",
                 (long long)(offset - (int64_t)fault.page_size + 1), (unsigned long long)page);
    }
    CHECK_HAS(text, "stray read of a red zone\n");
    CHECK_HAS(text, line);
    bufpool_format_json(&fault, text, sizeof text);
    snprintf(line, sizeof line, "\"offset\":%lld,", (long long)offset);
    CHECK_HAS(text, line);
    CHECK_HAS(text, "\"state\":\"red-zone\"");
}

static void edges(const char *memory, const char *trap)
{
    int64_t size = (int64_t)granule_of(memory);
    bufpool_pool *pool = open_zoned(memory, trap, "resume");
    uint64_t pages[6];
    CHECK_OK(bufpool_allocate_many(pool, 6, pages)); /* all there are */
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.pages, ==, 6);
    CHECK_IS(s.capacity, ==, 6 * size);
    CHECK_IS(s.red_zone, ==, size);
    CHECK_IS(s.address, ==, (uintptr_t)bufpool_address(pool, 0));
    for (uint64_t page = 0; page < 6; page++) {
        CHECK_IS(pages[page], ==, page);
        char *at = bufpool_address(pool, page);
        CHECK_IS(at - (char *)bufpool_address(pool, 0), ==, (int64_t)page * 2 * size);
        memset(at, 'a' + (int)page, (size_t)size);
        check_zone(pool, at + size, page, size);
        check_zone(pool, at - 1, page, -1);
        check_zone(pool, at - size / 2, page, -(size / 2));
        if (page == 5) {
            check_zone(pool, at + 2 * size - 1, page, 2 * size - 1);
        }
        bufpool_location location = BUFPOOL_LOCATION_INIT;
        CHECK_OK(bufpool_locate(at + size - 1, &location));
        CHECK(location.page == page && location.offset == (uint64_t)size - 1);
    }
    bufpool_location beyond = BUFPOOL_LOCATION_INIT; /* an earlier cell's closed pool may lie there */
    int beyond_code = bufpool_locate((char *)bufpool_address(pool, 5) + 2 * size, &beyond);
    CHECK(beyond_code == BUFPOOL_EARGUMENT || (beyond_code == 0 && beyond.pool != pool));
    CHECK_OK(bufpool_explain(bufpool_address(pool, 2), (size_t)size, NULL));
    CHECK_IS(bufpool_explain(bufpool_address(pool, 2), (size_t)size + 1, NULL), ==, BUFPOOL_ESTRAY);

    /* An overrun that is answered in place meets the pattern, harms no neighbour, and is told again later. */
    char *third = bufpool_address(pool, 3);
    uint64_t before = stats_of(pool).faults;
    CHECK_IS((unsigned char)read_byte(third + size), ==, BUFPOOL_POISON);
    write_byte(third - 1, 'x');
    CHECK_OK(bufpool_check(NULL));
    CHECK_IS(stats_of(pool).faults, ==, before + 2);
    read_byte(third + size);
    write_byte(third - 1, 'x');
    CHECK_IS(stats_of(pool).faults, ==, before + 4);
    CHECK_OK(bufpool_check(NULL));
    for (uint64_t page = 0; page < 6; page++) {
        const char *at = bufpool_address(pool, page);
        CHECK(at[0] == 'a' + (int)page && memcmp(at, at + 1, (size_t)size - 1) == 0);
    }

    /* Batches of neighbours, and back again; what is between them stays shut. */
    static const uint64_t some[] = {1, 2, 3, 5};
    CHECK_OK(bufpool_evict_many(pool, 4, some));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(third, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_EVICTED);
    CHECK(traps_at(third + size, NULL) && traps_at(third - 1, NULL));
    char *data = malloc(4 * (size_t)size);
    CHECK(data != NULL);
    memset(data, 'z', 4 * (size_t)size);
    CHECK_OK(bufpool_populate_many(pool, 4, some, data));
    free(data);
    check_zone(pool, third + size, 3, size);
    CHECK_IS(third[size - 1], ==, 'z');
    CHECK_OK(bufpool_free_many(pool, 4, some));
    CHECK(traps_at(third, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_FREED);
    CHECK(traps_at(third + size, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_RED_ZONE);
    CHECK_IS(fault.above, ==, 4);
    CHECK_IS(fault.below, ==, 0);
    bufpool_findings found = BUFPOOL_FINDINGS_INIT;
    int code = bufpool_inspect(pool, 0, &found);
    if (code != BUFPOOL_EUNSUPPORTED) {
        CHECK_OK(code);
        CHECK_IS(found.wrong_count, ==, 0);
        CHECK_IS(found.allocated, ==, 2);
        CHECK_IS(found.free, ==, 4);
    }
    CHECK_OK(bufpool_close(pool));
    CHECK(traps_at(third + size, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
}

static void overrun(void *argument)
{
    bufpool_pool *pool = argument;
    write_byte((char *)bufpool_address(pool, 1) + stats_of(pool).page_size, 1);
}

static void dies(const char *memory, const char *trap)
{
    bufpool_config config = zone_config(memory, trap, 6);
    config.on_fault = "abort";
    config.fork = "inherit";
    config.flags = BUFPOOL_RED_ZONES;
    bufpool_pool *pool = zone_open(&config);
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    *(char *)bufpool_address(pool, 1) = 'p';
    struct child child = run_child(overrun, pool);
    CHECK_CHILD(WIFSIGNALED(child.status), child);
    bool inherits = strstr(child.text, "a page of the parent's pool") == NULL;
    CHECK_CHILD(!inherits || strstr(child.text, "1 bytes past the last one of page 1") != NULL, child);
    CHECK_IS(*(char *)bufpool_address(pool, 1), ==, 'p');
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    edges(memory, trap);
    dies(memory, trap);
}

/* ---- Several processes ---- */

static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static void guest(void *argument)
{
    (void)argument;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    CHECK_IS(stats_of(pool).red_zone, ==, GRANULE);
    char *second = bufpool_address(pool, 1);
    CHECK_STRING(second, "of the parent");
    check_zone(pool, second + GRANULE, 1, GRANULE);
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_OK(bufpool_close(pool));
}

static void processes(void)
{
    if (bufpool_probe("shared", "uffd", NULL, 0) != 0) {
        printf("skipped several processes: %s\n", last_error());
        return;
    }
    bufpool_pool *pool = open_zoned("shared", "uffd", "resume");
    uint64_t pages[6];
    CHECK_OK(bufpool_allocate_many(pool, 6, pages));
    strcpy(bufpool_address(pool, 1), "of the parent");
    CHECK_OK(bufpool_share(pool, &handle));
    passes(guest, NULL);
    CHECK_IS(state_of(pool, 1), ==, BUFPOOL_STATE_FREED);
    CHECK(traps_at(bufpool_address(pool, 1), NULL));
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

static void refused(void)
{
    bufpool_config config = zone_config("hugetlb", "auto", 4);
    bufpool_pool *pool = NULL;
    config.flags = BUFPOOL_RED_ZONES | BUFPOOL_RESERVE;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "RED_ZONES");
}

static int all(void)
{
    refused();
    processes();
    return zone_all();
}

int main(void)
{
    zone_cell = cell;
    zone_untrapped = false;
    return with_huge_pages(ZONE_PAGES, all);
}
