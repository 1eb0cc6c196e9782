/*
 * Readers beside two threads that withdraw pages and publish them again, in frames that were other pages a moment before:
 * each byte that is read is the page's own, and not older than what was published when the read began. And what is
 * withdrawn is what was published last.
 *
 * BUFPOOL_TEST_RECYCLES: how many frames are published in each cell; 10 million is a run of some minutes.
 */
#include "harness.h"

#include <stdatomic.h>

#define WRITERS 2
#define READERS 2
#define BATCH 8
#define OWN 32 /* pages of each writer */
#define PAGES (WRITERS * OWN)
#define WORDS (GRANULE / 8)
#define GARBAGE UINT64_C(0xEEEEEEEEEEEEEEEE)

static bufpool_pool *pool;
static long recycles;
static atomic_bool over;
static atomic_uint writing;
static atomic_ulong reads;
static _Atomic uint64_t begun[PAGES];     /* the generation that is being published, */
static _Atomic uint64_t published[PAGES]; /* and that certainly has been */

static uint64_t word_of(uint64_t page, uint64_t generation)
{
    return page << 40 | generation;
}

static void fill(void *frame, uint64_t word)
{
    uint64_t *words = frame;
    for (int i = 0; i < WORDS; i++) {
        words[i] = word;
    }
}

static void *recycle(void *argument)
{
    uint64_t first = *(const uint64_t *)argument;
    uint64_t random = first + 1;
    for (long done = 0; done < recycles / WRITERS; done += BATCH) {
        uint64_t pages[BATCH];
        void *frames[BATCH];
        void *shuffled[BATCH];
        uint64_t from = next_random(&random) % OWN;
        uint64_t step = next_random(&random) % 2 == 0 ? 1 : 5; /* neighbours, or not */
        for (uint64_t i = 0; i < BATCH; i++) {
            pages[i] = first + (from + i * step) % OWN;
        }
        CHECK_OK(bufpool_withdraw(pool, BATCH, pages, frames));
        for (uint64_t i = 0; i < BATCH; i++) {
            const uint64_t *words = frames[i];
            uint64_t word = word_of(pages[i], atomic_load(&published[pages[i]]));
            CHECK_IS(words[0], ==, word);
            CHECK_IS(words[WORDS - 1], ==, word);
            shuffled[i] = frames[step == 1 ? i : BATCH - 1 - i];
            fill(frames[i], GARBAGE);
        }
        for (uint64_t i = 0; i < BATCH; i++) {
            uint64_t generation = atomic_fetch_add(&begun[pages[i]], 1) + 1;
            fill(shuffled[i], word_of(pages[i], generation));
        }
        CHECK_OK(bufpool_publish(pool, BATCH, shuffled, pages));
        for (int i = 0; i < BATCH; i++) {
            atomic_store(&published[pages[i]], atomic_load(&begun[pages[i]]));
        }
    }
    atomic_fetch_sub(&writing, 1);
    return NULL;
}

struct look {
    const _Atomic uint64_t *page;
    uint64_t words[WORDS];
};

/* Word by word: a copy that goes by bytes may have one half of a word from before the page left, and the other from after it
 * came back. */
static void read_words(void *argument)
{
    struct look *look = argument;
    for (int i = 0; i < WORDS; i++) {
        look->words[i] = atomic_load_explicit(&look->page[i], memory_order_relaxed);
    }
}

static void *look(void *argument)
{
    uint64_t random = *(const uint64_t *)argument + 1000;
    struct look look;
    while (!atomic_load(&over)) {
        uint64_t page = next_random(&random) % PAGES;
        uint64_t oldest = atomic_load(&published[page]);
        look.page = bufpool_address(pool, page);
        int code = bufpool_guarded_call(read_words, &look, NULL);
        if (code == BUFPOOL_ESTRAY) {
            continue;
        }
        CHECK_OK(code);
        uint64_t newest = atomic_load(&begun[page]);
        for (int i = 0; i < WORDS; i++) {
            CHECK_IS(look.words[i], >=, word_of(page, oldest));
            CHECK_IS(look.words[i], <=, word_of(page, newest));
        }
        atomic_fetch_add(&reads, 1);
    }
    return NULL;
}

static void cell(const char *memory, const char *trap)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    config.memory = memory;
    config.trap = trap;
    CHECK_OK(bufpool_open(&config, &pool));
    atomic_store(&over, false);
    atomic_store(&writing, WRITERS);
    atomic_store(&reads, 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        uint64_t words[WORDS];
        fill(words, word_of(page, 0));
        CHECK_OK(bufpool_allocate_at(pool, page, words, sizeof words));
        atomic_store(&begun[page], 0);
        atomic_store(&published[page], 0);
    }
    pthread_t threads[WRITERS + READERS];
    uint64_t firsts[WRITERS + READERS];
    for (uint64_t i = 0; i < WRITERS + READERS; i++) {
        firsts[i] = i * OWN;
        CHECK_OK(pthread_create(&threads[i], NULL, i < WRITERS ? recycle : look, &firsts[i]));
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    WAIT_FOR(atomic_load(&reads) > 0);
    atomic_store(&over, true);
    for (int i = WRITERS; i < WRITERS + READERS; i++) {
        pthread_join(threads[i], NULL);
    }
    bufpool_statistics s = BUFPOOL_STATISTICS_INIT;
    CHECK_OK(bufpool_stats(pool, &s));
    CHECK_IS(s.staged, ==, 0);
    CHECK_IS(s.allocated, ==, PAGES);
    printf("%llu moved, %llu copied, %lu read whole\n", (unsigned long long)s.frames_moved,
           (unsigned long long)s.frames_copied, atomic_load(&reads));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    const char *wanted = getenv("BUFPOOL_TEST_RECYCLES");
    recycles = wanted != NULL ? strtol(wanted, NULL, 10) : SANITIZED ? 2000 : 8000;
    if (wanted != NULL) {
        alarm(0); /* as long as that takes */
    }
    return for_each_cell(cell, false);
}
