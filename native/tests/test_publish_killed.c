/*
 * A process that has a shared pool, too, is killed at any moment amid publish, withdraw and replace: what it was changing is a
 * whole page or traps, the next call on it repairs it, and nobody else's page or frame is touched.
 */
#include "harness.h"
#include "recover.h"

#include <stdatomic.h>

#define PAGES 64
#define OWN 16 /* of the parent, from 0 on */
#define BATCH 5
#define ROUNDS (SANITIZED ? 12 : 60)

static bufpool_pool *pool;
static atomic_uint *turns; /* of the child */

static void stamp(void *frame, uint64_t value)
{
    for (size_t i = 0; i < GRANULE / 8; i++) {
        ((uint64_t *)frame)[i] = value;
    }
}

static bool is_whole(const void *frame)
{
    const uint64_t *words = frame;
    for (size_t i = 1; i < GRANULE / 8; i++) {
        if (words[i] != words[0]) {
            return false;
        }
    }
    return words[0] != 0;
}

__attribute__((noreturn)) static void recycle(uint64_t seed)
{
    alarm(CHILD_LIMIT);
    for (;;) {
        void *frames[BATCH];
        uint64_t pages[BATCH];
        uint64_t first = next_random(&seed) % (PAGES - OWN);
        for (uint64_t i = 0; i < BATCH; i++) {
            pages[i] = OWN + (first + i) % (PAGES - OWN);
        }
        CHECK_OK(bufpool_stage(pool, BATCH, frames));
        for (uint64_t i = 0; i < BATCH; i++) {
            stamp(frames[i], seed + i + 1);
        }
        CHECK_OK(bufpool_publish(pool, BATCH, frames, pages));
        CHECK_OK(bufpool_withdraw(pool, BATCH - 1, pages, frames));
        CHECK_OK(bufpool_replace(pool, pages[BATCH - 1], pages[0]));
        CHECK_OK(bufpool_unstage(pool, BATCH - 1, frames));
        CHECK_OK(bufpool_free_many(pool, BATCH, pages));
        atomic_fetch_add(turns, 1);
    }
}

/* Each page is as it says, and can be used. */
static void check_pages(void)
{
    for (uint64_t page = 0; page < PAGES; page++) {
        uint64_t words[GRANULE / 8];
        bufpool_state state = state_of(pool, page);
        int code = bufpool_guarded_copy(words, bufpool_address(pool, page), sizeof words, NULL);
        CHECK_IS(code, ==, state == BUFPOOL_STATE_ALLOCATED ? 0 : BUFPOOL_ESTRAY);
        CHECK(code < 0 || is_whole(words));
        CHECK(page >= OWN || (code == 0 && words[0] == page + 1));
    }
}

static void use_pages(void)
{
    for (uint64_t page = OWN; page < PAGES; page++) {
        void *frame;
        if (state_of(pool, page) == BUFPOOL_STATE_ALLOCATED) {
            CHECK_OK(bufpool_withdraw(pool, 1, &page, &frame));
            CHECK(is_whole(frame));
        } else {
            CHECK_OK(bufpool_stage(pool, 1, &frame));
        }
        stamp(frame, page + 1);
        CHECK_OK(bufpool_publish(pool, 1, &frame, &page));
        CHECK(is_whole(bufpool_address(pool, page)));
    }
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.allocated, ==, PAGES);
    CHECK_IS(s.evicted, ==, 0);
    CHECK_IS(s.staged, ==, 1);
    for (uint64_t page = OWN; page < PAGES; page++) {
        CHECK_OK(bufpool_free(pool, page));
        CHECK(traps_at(bufpool_address(pool, page), NULL));
    }
}

static void kill_one(uint64_t round)
{
    unsigned before = atomic_load(turns);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        recycle(round);
    }
    WAIT_FOR(atomic_load(turns) - before > round % 3);
    struct timespec moment = {0, (long)(round * 7919 % 400) * 1000};
    nanosleep(&moment, NULL);
    CHECK_OK(kill(pid, SIGKILL));
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) != 0) {
        printf("shared/uffd is not to be had: %s\n", last_error());
        return HARNESS_SKIP;
    }
    turns = mmap(NULL, GRANULE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK((void *)turns != MAP_FAILED);
    pool = open_pool("shared", "uffd", "raise", PAGES * GRANULE, GRANULE);
    for (uint64_t page = 0; page < OWN; page++) {
        char content[GRANULE];
        stamp(content, page + 1);
        CHECK_OK(bufpool_allocate_at(pool, page, content, sizeof content));
    }
    void *mine;
    CHECK_OK(bufpool_stage(pool, 1, &mine));
    stamp(mine, 99);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        kill_one(round);
        CHECK(bp_recover(pool) >= 0); /* as the next call does that meets such a page */
        check_pages();
        if (round % 2 == 0) {
            use_pages();
        }
        for (uint64_t page = OWN; page < PAGES; page++) { /* the next one finds them free */
            bufpool_state state = state_of(pool, page);
            if (state == BUFPOOL_STATE_ALLOCATED || state == BUFPOOL_STATE_EVICTED) {
                CHECK_OK(bufpool_free(pool, page));
            }
        }
        CHECK(is_whole(mine));
    }
    CHECK_OK(bufpool_unstage(pool, 1, &mine));
    CHECK_OK(bufpool_close(pool));
    return 0;
}
