/* pins_life.h: the life of pages under enforced pins in one cell, for small and for huge granules. */
#ifndef PINS_LIFE_H
#define PINS_LIFE_H

#include "pins.h"

MAYBE_UNUSED static void check_fault(bufpool_pool *pool, uint64_t page, const bufpool_fault *fault, bufpool_state state,
                                     bufpool_access access, uint64_t offset)
{
    CHECK_STRING(bufpool_state_name(fault->state), bufpool_state_name(state));
    CHECK_IS(fault->access, ==, access);
    CHECK_IS(fault->page, ==, page);
    CHECK_IS(fault->offset, ==, offset);
    CHECK_IS(fault->flags, ==, 0);
    CHECK_IS(fault->address, ==, (uintptr_t)bufpool_address(pool, page) + offset);
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_ALLOCATED);
}

/* What a page does that is filled with content, through the pins that it can have. */
MAYBE_UNUSED static void check_life(bufpool_pool *pool, uint64_t page, bool all, char content)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    char *at = bufpool_address(pool, page);
    CHECK_OPEN(pool, page, !all, false, content);
    if (all) {
        CHECK(!reads_at(at + 5, &fault));
        check_fault(pool, page, &fault, BUFPOOL_STATE_UNPINNED, BUFPOOL_READ, 5);
    }
    CHECK(!writes_at(at + 6, 1, &fault));
    check_fault(pool, page, &fault, all ? BUFPOOL_STATE_UNPINNED : BUFPOOL_STATE_READ_ONLY, BUFPOOL_WRITE, 6);
    CHECK_OK(bufpool_pin(pool, page, false));
    CHECK_OPEN(pool, page, true, false, content);
    CHECK(!writes_at(at + 7, 1, &fault));
    check_fault(pool, page, &fault, BUFPOOL_STATE_READ_ONLY, BUFPOOL_WRITE, 7);
    CHECK_OK(bufpool_pin(pool, page, true)); /* upgraded */
    CHECK_OPEN(pool, page, true, true, content);
    CHECK_OK(bufpool_unpin_for(pool, page, true));
    CHECK_OPEN(pool, page, true, false, content);
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_OPEN(pool, page, !all, false, content);
    CHECK_OK(bufpool_pin(pool, page, true));
    CHECK_OK(bufpool_pin(pool, page, true));
    write_byte(at + 1, 42);
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_OPEN(pool, page, true, true, content); /* they nest */
    CHECK_OK(bufpool_pin(pool, page, false));
    CHECK_OK(bufpool_unpin_for(pool, page, true));
    CHECK_IS(read_byte(at + 1), ==, 42);
    CHECK_OPEN(pool, page, true, false, content);
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_OPEN(pool, page, !all, false, content);
}

/* Of a write. */
MAYBE_UNUSED static void check_explained(char *at, bufpool_state state)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_explain_for(at, 1, true, &fault), ==, BUFPOOL_ESTRAY);
    CHECK_IS(fault.state, ==, state);
    CHECK_IS(fault.access, ==, BUFPOOL_WRITE);
    CHECK_IS(fault.address, ==, (uintptr_t)at);
}

/* System calls obey, too. */
MAYBE_UNUSED static void check_calls(bufpool_pool *pool, uint64_t page, bool all)
{
    char *at = bufpool_address(pool, page);
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int ends[2];
    CHECK(zero >= 0);
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    CHECK_IS(read(zero, at + 100, 1), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    CHECK_IS(write(ends[1], at, 1), ==, all ? -1 : 1);
    CHECK_IS(bufpool_explain(at, 1, NULL), ==, all ? BUFPOOL_ESTRAY : 0);
    check_explained(at, all ? BUFPOOL_STATE_UNPINNED : BUFPOOL_STATE_READ_ONLY);
    CHECK_OK(bufpool_pin(pool, page, false));
    CHECK_IS(write(ends[1], at, 1), ==, 1);
    CHECK_IS(read(zero, at + 100, 1), ==, -1);
    CHECK_OK(bufpool_explain(at, 1, NULL));
    check_explained(at, BUFPOOL_STATE_READ_ONLY);
    CHECK_OK(bufpool_pin(pool, page, true));
    CHECK_IS(read(zero, at + 100, 1), ==, 1);
    CHECK_OK(bufpool_explain_for(at, 1, true, NULL));
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_OK(bufpool_unpin(pool, page));
    close(zero);
    close(ends[0]);
    close(ends[1]);
}

MAYBE_UNUSED static void check_mode(const char *memory, const char *trap, const char *pins, uint32_t flags,
                                    uint64_t pages_of)
{
    bool all = strcmp(pins, "all") == 0;
    bufpool_config config = pins_config(memory, trap, pins);
    config.flags = flags;
    config.page_size *= pages_of;
    config.capacity = 16 * config.page_size;
    int before = count_fds();
    bufpool_pool *pool = open_config(&config);
    CHECK_STRING(stats_of(pool).trap, trap);
    CHECK_STRING(stats_of(pool).pins_mode, pins);
    uint64_t page;
    char *data = malloc(config.page_size);
    CHECK(data != NULL);
    memset(data, 7, config.page_size);
    CHECK_OK(bufpool_allocate(pool, data, config.page_size, &page)); /* copied all the same */
    check_life(pool, page, all, 7);
    check_calls(pool, page, all);
    CHECK_OK(bufpool_evict(pool, page));
    CHECK(!reads_at(bufpool_address(pool, page), NULL));
    CHECK_OK(bufpool_populate(pool, page, "q", 1)); /* a part */
    check_life(pool, page, all, 'q');
    CHECK_OK(bufpool_free(pool, page));
    CHECK(!reads_at(bufpool_address(pool, page), NULL));
    CHECK(!writes_at(bufpool_address(pool, page), 1, NULL));
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    check_life(pool, page, all, 0);
    uint64_t many[5];
    CHECK_OK(bufpool_allocate_many(pool, 5, many));
    CHECK_OK(bufpool_pin_many(pool, 5, many, true));
    for (int i = 0; i < 5; i++) {
        CHECK_OPEN(pool, many[i], true, true, 0);
    }
    CHECK_OK(bufpool_unpin_many(pool, 5, many, true));
    for (int i = 0; i < 5; i++) {
        check_life(pool, many[i], all, 0);
    }
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    int looked = bufpool_inspect(pool, 0, &findings);
    CHECK(looked == 0 || (looked == BUFPOOL_EUNSUPPORTED && is_huge_memory(memory))); /* it may take a userfaultfd */
    CHECK_IS(findings.wrong_count, ==, 0);
    CHECK_IS(findings.allocated, ==, looked == 0 ? 6 : 0);
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
    CHECK_IS(stats_of(pool).pins, ==, 0);
    CHECK_OK(bufpool_free_many(pool, 5, many));
    for (int i = 0; i < 5; i++) {
        CHECK(!reads_at(bufpool_address(pool, many[i]), NULL));
    }
    CHECK_OK(bufpool_pin(pool, page, true)); /* closed with a pin */
    CHECK_OK(bufpool_close(pool));
    CHECK(!reads_at(bufpool_address(pool, page), NULL));
    CHECK_IS(count_fds(), ==, before);
    free(data);
}

MAYBE_UNUSED static void check_pins_cell(const char *memory, const char *trap)
{
    if (!can_close(memory, trap)) {
        bufpool_config config = pins_config(memory, trap, "all");
        bufpool_pool *pool;
        CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "pins");
        CHECK_HAS(last_error(), "\"count\""); /* what is possible */
        return;
    }
    check_mode(memory, trap, "write", 0, 1);
    check_mode(memory, trap, "all", BUFPOOL_SCRUB, 1);
    if (!is_huge_memory(memory)) {
        check_mode(memory, trap, "write", BUFPOOL_LAZY_ZERO, 4);
        check_mode(memory, trap, "all", BUFPOOL_LAZY_ZERO, 4);
    }
}

#endif
