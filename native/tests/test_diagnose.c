/* What an address means, decided without any signal: states, flags, and whose fault it is. */
#include "diagnose.h"
#include "harness.h"
#include "thread.h"

#include <signal.h>

static struct bp_finding look(const bufpool_pool *pool, uint64_t page, uint64_t offset, bufpool_access access,
                              int signo)
{
    struct bp_finding finding;
    uintptr_t address = (uintptr_t)bufpool_address(pool, page) + offset;
    bp_diagnose(pool, address, access, signo, signo == SIGBUS ? BUS_ADRERR : SEGV_MAPERR, &finding);
    CHECK_IS(finding.page, ==, page);
    CHECK_IS(finding.offset, ==, offset);
    return finding;
}

static void names(void)
{
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_UNALLOCATED | BP_BUSY), ==, BUFPOOL_STATE_UNALLOCATED);
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_FREED | BP_BUSY), ==, BUFPOOL_STATE_FREED);
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_EVICTED | BP_BUSY), ==, BUFPOOL_STATE_EVICTED);
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_ALLOCATED | BP_BUSY | BP_FREEING), ==, BUFPOOL_STATE_FREED);
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_EVICTED | BP_BUSY | BP_FREEING), ==, BUFPOOL_STATE_FREED);
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_ALLOCATED | BP_BUSY | BP_EVICTING), ==, BUFPOOL_STATE_EVICTED);
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_FREED | BP_SCRATCH), ==, BUFPOOL_STATE_FREED);
    CHECK_IS(bp_state_seen(BUFPOOL_STATE_UNALLOCATED | BP_SCRATCH), ==, BUFPOOL_STATE_UNALLOCATED);
}

static void cell(const char *memory, const char *trap)
{
    int signo = signal_of(trap);
    bufpool_pool *pool = open_pool(memory, trap, "abort", 6 * 12 * KIB, 12 * KIB);
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_free(pool, pages[1]));
    CHECK_OK(bufpool_evict(pool, pages[2]));
    static const bufpool_state states[] = {BUFPOOL_STATE_ALLOCATED,   BUFPOOL_STATE_FREED,
                                           BUFPOOL_STATE_EVICTED,     BUFPOOL_STATE_ALLOCATED,
                                           BUFPOOL_STATE_UNALLOCATED, BUFPOOL_STATE_UNALLOCATED};
    for (uint64_t page = 0; page < 6; page++) {
        for (int write = 0; write < 2; write++) {
            struct bp_finding finding = look(pool, page, page * 2000 + 1, write ? BUFPOOL_WRITE : BUFPOOL_READ, signo);
            CHECK_IS(finding.state, ==, states[page]);
            CHECK(finding.ours);
            CHECK_IS(finding.flags, ==, states[page] == BUFPOOL_STATE_ALLOCATED ? BUFPOOL_FAULT_RACED : 0);
        }
    }
    /* The trap's signal is the only one by which the kernel says that an allocated page has no frame. */
    if (strcmp(trap, "uffd") == 0) {
        CHECK(!look(pool, pages[0], 5, BUFPOOL_WRITE, SIGSEGV).ours); /* the host protected it */
        CHECK(look(pool, pages[1], 5, BUFPOOL_WRITE, SIGSEGV).ours);
    } else {
        CHECK(!look(pool, pages[0], 5, BUFPOOL_READ, SIGBUS).ours); /* the file could not give a frame */
    }
    struct bp_finding jump = look(pool, pages[0], 0, BUFPOOL_EXECUTE, SIGSEGV);
    CHECK(jump.ours);
    CHECK_IS(jump.flags, ==, 0);

    /* As a forked child sees it: only what is not mapped at all is ours. */
    int32_t process = pool->process;
    pool->process = process + 1;
    struct bp_finding forked = look(pool, pages[0], 9, BUFPOOL_READ, SIGSEGV);
    CHECK(forked.ours);
    CHECK_IS(forked.flags, ==, BUFPOOL_FAULT_FORKED);
    bp_diagnose(pool, (uintptr_t)bufpool_address(pool, 0), BUFPOOL_READ, SIGSEGV, SEGV_ACCERR, &forked);
    CHECK(!forked.ours);
    bp_diagnose(pool, (uintptr_t)bufpool_address(pool, 0), BUFPOOL_READ, SIGBUS, BUS_ADRERR, &forked);
    CHECK(!forked.ours);
    pool->process = process;

    CHECK_OK(bufpool_close(pool));
    for (uint64_t page = 0; page < 6; page++) {
        struct bp_finding finding = look(pool, page, 12 * KIB - 1, BUFPOOL_READ, SIGSEGV);
        CHECK_IS(finding.state, ==, BUFPOOL_STATE_CLOSED);
        CHECK(finding.ours);
        CHECK_IS(finding.flags, ==, 0);
    }
}

int main(void)
{
    harness_begin();
    names();
    return for_each_cell(cell, false);
}
