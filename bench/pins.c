/*
 * pins.c: pinning, beside mprotect of a plain mapping of the same memory. Each cycle opens a page, touches it and closes
 * it: the touch is a write where the page was opened for writing, else a read. Before and after a cycle every page is
 * closed (read-only in the rows of writing), on both sides, and the pages take their turns.
 */
#include "must.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

static void touch(volatile char *page, int write)
{
    if (write) {
        page[0] = 1;
    } else {
        (void)page[0];
    }
}

void pin_cycles(bufpool_pool *pool, uint64_t pages, uint64_t size, uint64_t count, int write)
{
    char *base = bufpool_address(pool, 0);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = i * 17 % pages;
        must(bufpool_pin(pool, page, write));
        touch(base + page * size, write);
        must(bufpool_unpin(pool, page));
    }
}

void mprotect_cycles(void *base, uint64_t pages, uint64_t size, uint64_t count, int write)
{
    int closed = write ? PROT_READ : PROT_NONE;
    int opened = write ? PROT_READ | PROT_WRITE : PROT_READ;
    must_call(mprotect(base, pages * size, closed), "mprotect"); /* one mapping, after the first round */
    for (uint64_t i = 0; i < count; i++) {
        char *page = (char *)base + i * 17 % pages * size;
        must_call(mprotect(page, size, opened), "mprotect");
        touch(page, write);
        must_call(mprotect(page, size, closed), "mprotect");
    }
}

/* ---- A thread on another core that reads memory of its own, so that each closing has to reach that core ---- */

struct reader {
    pthread_t thread;
    cpu_set_t before; /* where the caller may run */
    atomic_bool over;
};

static void *read_on(void *argument)
{
    static volatile char words[64 * 4096];
    struct reader *self = argument;
    while (!atomic_load_explicit(&self->over, memory_order_relaxed)) {
        for (size_t at = 0; at < sizeof words; at += 4096) {
            (void)words[at];
        }
    }
    return NULL;
}

/* The caller stays on its core until reader_stop(). NULL: there is no other core. */
void *reader_start(void)
{
    struct reader *reader = calloc(1, sizeof *reader);
    int here = must_call(sched_getcpu(), "sched_getcpu");
    if (reader == NULL || sched_getaffinity(0, sizeof reader->before, &reader->before) != 0) {
        abort();
    }
    cpu_set_t there = reader->before;
    CPU_CLR(here, &there);
    if (CPU_COUNT(&there) == 0) {
        free(reader);
        return NULL;
    }
    cpu_set_t mine;
    CPU_ZERO(&mine);
    CPU_SET(here, &mine);
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0 || pthread_attr_setaffinity_np(&attributes, sizeof there, &there) != 0 ||
        pthread_create(&reader->thread, &attributes, read_on, reader) != 0) {
        abort();
    }
    pthread_attr_destroy(&attributes);
    must_call(sched_setaffinity(0, sizeof mine, &mine), "sched_setaffinity");
    return reader;
}

void reader_stop(void *argument)
{
    struct reader *reader = argument;
    atomic_store(&reader->over, true);
    pthread_join(reader->thread, NULL);
    must_call(sched_setaffinity(0, sizeof reader->before, &reader->before), "sched_setaffinity");
    free(reader);
}

/* ---- What the calls cost that do nothing: the pool's pins are off ---- */

/* One loop for both sides: two copies of it, differently aligned, differ by more than the calls take. */
static __attribute__((noinline)) uint64_t sum(const volatile uint64_t *word, uint64_t words)
{
    uint64_t total = 0;
    for (uint64_t i = 0; i < words; i++) {
        total += word[i];
    }
    return total;
}

uint64_t sum_pinned(bufpool_pool *pool, uint64_t words, uint64_t count)
{
    const uint64_t *word = bufpool_address(pool, 0);
    uint64_t total = 0;
    for (uint64_t i = 0; i < count; i++) {
        bufpool_pin(pool, 0, false);
        total += sum(word, words);
        bufpool_unpin(pool, 0);
    }
    return total;
}

/* One allocation in one_in is guarded; 0: none. */
bufpool_pool *pool_sampled(uint32_t one_in, uint64_t pages)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * 4096;
    config.sample = one_in;
    config.seed = one_in;
    bufpool_pool *pool;
    must(bufpool_open(&config, &pool));
    return pool;
}

static __attribute__((noinline)) unsigned search(const uint64_t *keys, uint64_t key)
{
    unsigned low = 0;
    for (unsigned high = 512; high - low > 1;) {
        unsigned middle = (low + high) / 2;
        *(keys[middle] <= key ? &low : &high) = middle;
    }
    return low;
}

/* Look-ups in pages of 512 sorted keys, 0 to 511, at random, each page pinned for it. */
uint64_t search_pinned(bufpool_pool *pool, uint64_t pages, uint64_t count)
{
    const uint64_t *keys = bufpool_address(pool, 0);
    uint64_t total = 0;
    uint64_t random = 1;
    for (uint64_t i = 0; i < count; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint64_t page = (random >> 33) % pages;
        bufpool_pin(pool, page, false);
        total += search(keys + page * 512, (random >> 20) % 512);
        bufpool_unpin(pool, page);
    }
    return total;
}

uint64_t sum_plainly(bufpool_pool *pool, uint64_t words, uint64_t count)
{
    const uint64_t *word = bufpool_address(pool, 0);
    uint64_t total = 0;
    for (uint64_t i = 0; i < count; i++) {
        total += sum(word, words);
    }
    return total;
}
