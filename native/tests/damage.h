/* damage.h: planting damage in a pool, and what bufpool_inspect() has to say of it. */
#ifndef DAMAGE_H
#define DAMAGE_H

#include "harness.h"
#include "kernel.h"
#include "pool.h"

#include <fcntl.h>
#include <sys/mman.h>

#define DAMAGE_PAGES 5000 /* three levels of index, and a last word that is not whole */

MAYBE_UNUSED static bufpool_findings look(bufpool_pool *pool, uint32_t flags)
{
    bufpool_findings findings = BUFPOOL_FINDINGS_INIT;
    CHECK_OK(bufpool_inspect(pool, flags, &findings));
    CHECK_IS(findings.pages, ==,
             findings.allocated + findings.evicted + findings.free + findings.busy + findings.abandoned);
    return findings;
}

MAYBE_UNUSED static uint64_t sum_of_wrong(const bufpool_findings *findings)
{
    return findings->abandoned + findings->lost_frames + findings->stray_frames + findings->index_wrong +
           findings->counts_wrong + findings->scratch_wrong + findings->states_wrong;
}

MAYBE_UNUSED static void print_findings(const bufpool_findings *findings)
{
    fprintf(stderr,
            "allocated %llu evicted %llu free %llu busy %llu abandoned %llu lost %llu stray %llu index %llu counts "
            "%llu scratched %llu scratch %llu states %llu repaired %llu exact %u\n",
            (unsigned long long)findings->allocated, (unsigned long long)findings->evicted,
            (unsigned long long)findings->free, (unsigned long long)findings->busy,
            (unsigned long long)findings->abandoned, (unsigned long long)findings->lost_frames,
            (unsigned long long)findings->stray_frames, (unsigned long long)findings->index_wrong,
            (unsigned long long)findings->counts_wrong, (unsigned long long)findings->scratched,
            (unsigned long long)findings->scratch_wrong, (unsigned long long)findings->states_wrong,
            (unsigned long long)findings->repaired, findings->exact);
    for (uint32_t i = 0; i < findings->wrong_count; i++) {
        fprintf(stderr, "  page %llu: %s (%s)\n", (unsigned long long)findings->wrong[i].page,
                bufpool_wrong_name(findings->wrong[i].what), bufpool_state_name(findings->wrong[i].state));
    }
}

/* A quiet pool without damage. */
MAYBE_UNUSED static void expect_clean(bufpool_pool *pool)
{
    bufpool_findings findings = look(pool, 0);
    if (sum_of_wrong(&findings) != 0 || !findings.exact) {
        print_findings(&findings);
        CHECK_IS(sum_of_wrong(&findings), ==, 0);
        CHECK(findings.exact);
    }
    CHECK_IS(findings.wrong_count, ==, 0);
    CHECK_IS(findings.repaired, ==, 0);
    CHECK_IS(findings.busy, ==, 0);
    CHECK_IS(findings.allocated, ==, stats_of(pool).allocated);
    CHECK_IS(findings.evicted, ==, stats_of(pool).evicted);
}

/* A page is found to be wrong in this way; then it is repaired, with `others` more, and the pool is clean. */
MAYBE_UNUSED static void expect_repair(bufpool_pool *pool, uint64_t page, bufpool_wrong what, uint64_t others)
{
    for (int repair = 0; repair <= 1; repair++) {
        bufpool_findings findings = look(pool, repair ? BUFPOOL_REPAIR : 0);
        bool named = false;
        for (uint32_t i = 0; i < findings.wrong_count; i++) {
            named = named || (findings.wrong[i].page == page && findings.wrong[i].what == what);
        }
        if (!named || sum_of_wrong(&findings) != 1 + others || !findings.exact ||
            findings.repaired != (repair ? 1 + others : 0)) {
            print_findings(&findings);
            CHECK(named);
            CHECK_IS(sum_of_wrong(&findings), ==, 1 + others);
            CHECK(findings.exact);
            CHECK_IS(findings.repaired, ==, repair ? 1 + others : 0);
        }
    }
    expect_clean(pool);
}

MAYBE_UNUSED static void flip(bufpool_pool *pool, int level, uint64_t bit)
{
    atomic_fetch_xor(&pool->pages.levels[level][bit / 64], UINT64_C(1) << (bit % 64));
}

/* A pool with pages in each state: 0 allocated, 1 evicted, 2 freed, 3 allocated. */
MAYBE_UNUSED static bufpool_pool *open_for_damage(const char *memory, const char *trap, uint64_t page_size)
{
    bufpool_pool *pool = open_pool(memory, trap, "resume", DAMAGE_PAGES * page_size, page_size);
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_IS(pages[3], ==, 3);
    for (int page = 0; page < 4; page++) {
        for (uint64_t at = 0; at < page_size; at += GRANULE) {
            write_byte((char *)bufpool_address(pool, pages[page]) + at, 'a');
        }
    }
    CHECK_OK(bufpool_evict(pool, 1));
    CHECK_OK(bufpool_free(pool, 2));
    return pool;
}

/* ---- Each kind ---- */

MAYBE_UNUSED static void damage_index(bufpool_pool *pool)
{
    flip(pool, 0, 77); /* a free number is never given out */
    expect_repair(pool, 77, BUFPOOL_WRONG_INDEX, 1);
    flip(pool, 0, 0); /* an allocated one is tried again and again */
    expect_repair(pool, 0, BUFPOOL_WRONG_INDEX, 1);
    flip(pool, 1, 3); /* 64 numbers are lost */
    expect_repair(pool, 3 * 64, BUFPOOL_WRONG_INDEX, 0);
    flip(pool, 2, 1); /* those from 4096 on */
    expect_repair(pool, 4096, BUFPOOL_WRONG_INDEX, 0);
    flip(pool, 0, DAMAGE_PAGES + 1); /* there is no such page */
    expect_repair(pool, DAMAGE_PAGES - 1, BUFPOOL_WRONG_INDEX, 0);
    for (uint64_t page = 64; page < 128; page++) {
        flip(pool, 0, page); /* a word that is full, and nobody has said so above */
    }
    bufpool_findings findings = look(pool, 0);
    CHECK_IS(findings.index_wrong, ==, 65);
    CHECK_IS(findings.wrong_count, ==, BUFPOOL_WRONG_PAGES);
    CHECK_IS(findings.wrong[15].page, ==, 79);
    CHECK_IS(look(pool, BUFPOOL_REPAIR).repaired, ==, 66); /* and the count of taken numbers */
    expect_clean(pool);
}

MAYBE_UNUSED static void damage_counts(bufpool_pool *pool)
{
    struct bp_counts *counts = pool->pages.counts;
    atomic_fetch_add(&counts->stripes[1].allocations, 3);
    atomic_fetch_add(&counts->stripes[2].evicted, 5);
    atomic_fetch_add(&counts->stripes[3].cleared, 2);
    atomic_store(&counts->high_water, 1);
    bufpool_findings findings = look(pool, 0);
    CHECK_IS(findings.counts_wrong, ==, 4);
    CHECK_IS(sum_of_wrong(&findings), ==, 4);
    CHECK_IS(look(pool, BUFPOOL_REPAIR).repaired, ==, 4);
    expect_clean(pool);
    CHECK_IS(stats_of(pool).allocated, ==, 2);
    CHECK_IS(stats_of(pool).high_water, ==, 4);
    atomic_store(&counts->high_water, DAMAGE_PAGES + 1);
    CHECK_IS(look(pool, BUFPOOL_REPAIR).repaired, ==, 1);
    CHECK_IS(stats_of(pool).high_water, ==, 4);
}

/* The frame of one granule goes, as by somebody who punches the file. */
MAYBE_UNUSED static void take_frame(bufpool_pool *pool, uint64_t page)
{
    uint64_t granule = pool->space.granule;
    uint64_t at = (page + 1) * pool->page_size - granule;
    CHECK_OK(pool->space.fd >= 0 ? bp_kernel_punch(pool->space.fd, at, granule)
                                 : bp_kernel_discard((void *)(pool->space.base + at), granule));
}

MAYBE_UNUSED static void damage_frames(bufpool_pool *pool)
{
    size_t done;
    uint64_t size = pool->page_size;
    bool traps = pool->space.trap->traps;
    if (traps || pool->space.memory->hugetlb) {
        take_frame(pool, 0);
        bufpool_findings findings = look(pool, BUFPOOL_REPAIR);
        CHECK_IS(findings.lost_frames, ==, 1);
        CHECK_IS(findings.wrong[0].page, ==, 0);
        CHECK_IS(findings.wrong[0].what, ==, BUFPOOL_WRONG_LOST_FRAME);
        CHECK_IS(findings.wrong[0].state, ==, BUFPOOL_STATE_ALLOCATED);
        CHECK_IS(findings.repaired, ==, 0);
        CHECK_IS(look(pool, 0).lost_frames, ==, 1); /* it takes somebody who knows what was there */
        CHECK_OK(bufpool_free(pool, 0));
        expect_clean(pool);
        CHECK_OK(bufpool_allocate_at(pool, 0, NULL, 0));
        expect_clean(pool);
    }
    uint64_t strays[] = {1, 2, 1000}; /* evicted, freed, never allocated */
    for (int i = 0; i < 3; i++) {
        uintptr_t last = bp_page_address(pool, strays[i]) + size - pool->space.granule;
        CHECK_OK(bp_space_populate(&pool->space, last, pool->space.granule, NULL, &done));
        write_byte((char *)last, 'x'); /* with trap none this is what fills it */
        expect_repair(pool, strays[i], BUFPOOL_WRONG_STRAY_FRAME, 0);
        if (traps) {
            CHECK(traps_at((void *)last, NULL));
            bufpool_check(NULL);
        }
    }
}

/* What stands in a state word that no call has left there. */
MAYBE_UNUSED static void damage_states(bufpool_pool *pool)
{
    bp_pages_settle(&pool->pages, 3, BUFPOOL_STATE_ALLOCATED | BP_FREEING);
    expect_repair(pool, 3, BUFPOOL_WRONG_STATE, 0);
    CHECK_IS(state_of(pool, 3), ==, BUFPOOL_STATE_ALLOCATED);
    CHECK_IS(*(char *)bufpool_address(pool, 3), ==, 'a');
    bp_pages_settle(&pool->pages, 2, 6);
    expect_repair(pool, 2, BUFPOOL_WRONG_STATE, 1); /* as one that is taken it ought to be in the index */
    CHECK_OK(bufpool_allocate_at(pool, 2, NULL, 0));
    CHECK_OK(bufpool_free(pool, 2));
    bp_pages_settle(&pool->pages, 50, BP_SCRATCH);
    bp_pages_mark_withheld(&pool->pages, 50);
    CHECK_IS(look(pool, 0).scratched, ==, 1);
    expect_repair(pool, 50, BUFPOOL_WRONG_SCRATCH, 0);
    if (pool->pages.members != NULL) {
        bp_pages_settle(&pool->pages, 60, BP_BUSY_OF(900));
        expect_repair(pool, 60, BUFPOOL_WRONG_ABANDONED, 0);
    }
}

MAYBE_UNUSED static void *stray(void *pool)
{
    read_byte(bufpool_address(pool, 70));
    return NULL;
}

/* No damage: a page that shows the scratch pattern, as long as it does. */
MAYBE_UNUSED static void no_damage(bufpool_pool *pool)
{
    if (pool->space.trap->traps) {
        run_threads(1, stray, pool, 0);
        bufpool_findings findings = look(pool, 0);
        CHECK_IS(sum_of_wrong(&findings), ==, 0);
        CHECK_IS(look(pool, BUFPOOL_REPAIR).repaired, ==, 0);
        sleep_ms(20);
        CHECK_IS(look(pool, 0).scratched, ==, 0);
        CHECK(traps_at(bufpool_address(pool, 70), NULL));
    }
}

MAYBE_UNUSED static void damage_all(const char *memory, const char *trap, uint64_t page_size)
{
    bufpool_pool *pool = open_for_damage(memory, trap, page_size);
    bufpool_findings empty = BUFPOOL_FINDINGS_INIT;
    int code = bufpool_inspect(pool, 0, &empty);
    if (code == BUFPOOL_EUNSUPPORTED) { /* huge pages without userfaultfd; or no /proc */
        printf("cannot be told on %s/%s: %s\n", memory, trap, last_error());
        CHECK(pool->space.memory->hugetlb && pool->space.uffd < 0);
        CHECK_OK(bufpool_close(pool));
        return;
    }
    CHECK_OK(code);
    expect_clean(pool);
    no_damage(pool);
    damage_index(pool);
    damage_counts(pool);
    damage_frames(pool);
    damage_states(pool);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_inspect(pool, 0, &empty), ==, BUFPOOL_ECLOSED);
}

#endif
