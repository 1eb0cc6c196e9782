/*
 * loops.c: the measured loops, bufpool beside plain mmap. Every pair of loops touches the same pages in the same order
 * with the same data, and does nothing else between the touches; preparing and cleaning up are functions of their own,
 * which the caller does not time. Page size 4 KiB throughout.
 */
#include "must.h"

#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

/* ---- Set-up ---- */

/* A plain anonymous mapping, as an engine without bufpool has it. huge: 0 as it comes, 1 MADV_NOHUGEPAGE. */
void *plain_open(uint64_t pages, int nohuge)
{
    void *base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        abort();
    }
    if (nohuge) {
        madvise(base, pages * PAGE, MADV_NOHUGEPAGE);
    }
    return base;
}

void plain_close(void *base, uint64_t pages)
{
    munmap(base, pages * PAGE);
}

bufpool_pool *pool_open(uint64_t pages, const char *trap, unsigned flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * PAGE;
    config.trap = trap;
    config.flags = flags;
    bufpool_pool *pool;
    must(bufpool_open(&config, &pool));
    return pool;
}

void pool_close(bufpool_pool *pool)
{
    must(bufpool_close(pool));
}

void *pool_base(bufpool_pool *pool)
{
    return bufpool_address(pool, 0);
}

/* ---- Access to resident pages: the same function for both, given the address ---- */

uint64_t read_all(const void *base, uint64_t pages)
{
    const uint64_t *word = base;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < pages * PAGE / 8; i++) {
        sum += word[i];
    }
    return sum;
}

void write_all(void *base, uint64_t pages, uint64_t value)
{
    volatile uint64_t *word = base;
    for (uint64_t i = 0; i < pages * PAGE / 8; i += 8) { /* a word in each cache line */
        word[i] = value;
    }
}

/* One word at a random place, the next place depending on a generator only, not on what was read. */
uint64_t read_random(const void *base, uint64_t pages, uint64_t count, uint64_t seed)
{
    const uint64_t *word = base;
    uint64_t words = pages * PAGE / 8;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        sum += word[(seed >> 20) % words];
    }
    return sum;
}

void write_random(void *base, uint64_t pages, uint64_t count, uint64_t seed)
{
    volatile uint64_t *word = base;
    uint64_t words = pages * PAGE / 8;
    for (uint64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        word[(seed >> 20) % words] = seed;
    }
}

/* ---- Fill: source is `batch` pages of data, used again for each batch ---- */

/* First touch and memcpy, page by page. */
void plain_fill(void *base, uint64_t pages, const void *source, uint64_t batch)
{
    for (uint64_t i = 0; i < pages; i++) {
        memcpy((char *)base + i * PAGE, (const char *)source + i % batch * PAGE, PAGE);
    }
}

void pool_fill_single(bufpool_pool *pool, uint64_t pages, const void *source, uint64_t batch, uint64_t *numbers)
{
    for (uint64_t i = 0; i < pages; i++) {
        must(bufpool_allocate(pool, (const char *)source + i % batch * PAGE, PAGE, &numbers[i]));
    }
}

void pool_fill_batch(bufpool_pool *pool, uint64_t pages, const void *source, uint64_t batch, uint64_t *numbers)
{
    for (uint64_t i = 0; i < pages; i += batch) {
        must(bufpool_allocate_filled(pool, batch, source, numbers + i));
    }
}

/* Pages of zeros first, then filled by the owner. */
void pool_fill_in_place(bufpool_pool *pool, uint64_t pages, const void *source, uint64_t batch, uint64_t *numbers)
{
    for (uint64_t i = 0; i < pages; i += batch) {
        must(bufpool_allocate_many(pool, batch, numbers + i));
        for (uint64_t j = 0; j < batch; j++) {
            memcpy(bufpool_address(pool, numbers[i + j]), (const char *)source + j * PAGE, PAGE);
        }
    }
}

/* Zeros only. */
void pool_allocate_many(bufpool_pool *pool, uint64_t pages, uint64_t *numbers)
{
    must(bufpool_allocate_many(pool, pages, numbers));
}

/* ---- Free; order: page indices, in which the pages go ---- */

void plain_free_single(void *base, uint64_t count, const uint64_t *order)
{
    for (uint64_t i = 0; i < count; i++) {
        if (madvise((char *)base + order[i] * PAGE, PAGE, MADV_DONTNEED) != 0) {
            abort();
        }
    }
}

void plain_free_all(void *base, uint64_t pages)
{
    if (madvise(base, pages * PAGE, MADV_DONTNEED) != 0) {
        abort();
    }
}

void pool_free_single(bufpool_pool *pool, uint64_t count, const uint64_t *numbers)
{
    for (uint64_t i = 0; i < count; i++) {
        must(bufpool_free(pool, numbers[i]));
    }
}

void pool_free_batch(bufpool_pool *pool, uint64_t count, const uint64_t *numbers, uint64_t batch)
{
    for (uint64_t i = 0; i < count; i += batch) {
        must(bufpool_free_many(pool, batch, numbers + i));
    }
}

/* Pages chosen out of order, so that no two of a batch are neighbours as a rule: a seeded shuffle of 0 .. count - 1. */
void shuffle(uint64_t *order, uint64_t count, uint64_t seed)
{
    for (uint64_t i = count; i > 1; i--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t j = (seed >> 20) % i;
        uint64_t swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
}

/* ---- The same calls that the Python rows make, in C ---- */

void pool_allocate_free(bufpool_pool *pool, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page;
        must(bufpool_allocate(pool, NULL, 0, &page));
        must(bufpool_free(pool, page));
    }
}
