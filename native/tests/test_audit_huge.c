/* test_audit_huge.c: an audit of huge pages: "checksum" on every memory, "track" on all but thp. */
#include "cells.h"

static const char *mode;

static void test_cell(const char *memory, const char *trap)
{
    if (strcmp(mode, "track") == 0 && (strcmp(trap, "uffd") != 0 || strcmp(memory, "thp") == 0)) {
        return;
    }
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.page_size = HUGE_PAGE;
    config.capacity = 4 * HUGE_PAGE;
    config.memory = memory;
    config.trap = trap;
    config.pins = "count";
    config.audit = mode;
    bufpool_pool *pool = NULL;
    int code = bufpool_open(&config, &pool);
    if (code == BUFPOOL_EUNSUPPORTED) {
        printf("skipped audit %s on %s/%s: %s\n", mode, memory, trap, last_error());
        return;
    }
    CHECK_OK(code);
    uint64_t pages[4];
    bufpool_changed changed[4];
    size_t found;
    memset(changed, 0, sizeof changed);
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_mark_clean(pool, 4, pages));
    CHECK_IS(read_byte((char *)bufpool_address(pool, 2) + 5), ==, 0);
    CHECK_OK(bufpool_pin(pool, 1, true));
    write_byte((char *)bufpool_address(pool, 1) + HUGE_PAGE - 1, 1);
    CHECK_OK(bufpool_unpin(pool, 1));
    CHECK_OK(bufpool_audit(pool, 0, 4, changed, &found));
    CHECK_IS(found, ==, 0);
    write_byte((char *)bufpool_address(pool, 1) + 7, 1);
    write_byte((char *)bufpool_address(pool, 3) + HUGE_PAGE - 1, 1);
    CHECK_OK(bufpool_audit(pool, 0, 4, changed, &found));
    CHECK_IS(found, ==, 2);
    CHECK_IS(changed[0].page, ==, 1);
    CHECK_IS(changed[1].page, ==, 3);
    CHECK_OK(bufpool_evict(pool, 1));
    CHECK_OK(bufpool_populate(pool, 1, "x", 1));
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_OK(bufpool_audit(pool, 0, 4, changed, &found));
    CHECK_IS(found, ==, 0);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static int run(void)
{
    mode = "track";
    int code = for_each_huge_cell(test_cell, true);
    mode = "checksum";
    return code == 0 ? for_each_huge_cell(test_cell, true) : code;
}

int main(void)
{
    return with_huge_pages(8, run);
}
