/*
 * frame_costs.c: how a page leaves the pool and comes back, each step timed for itself, on pages that are all resident
 * when a round begins and when it ends. The plain side gives the same pages back by MADV_DONTNEED and touches them first.
 * What is taken: ns a page, the way out and the way in.
 */
#include "must.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE ((size_t)4096)
#define MOST 512

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* The first half allocated, the second evicted. */
bufpool_pool *frames_open(uint64_t pages)
{
    static char data[PAGE] = {1};
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * PAGE;
    bufpool_pool *pool;
    must(bufpool_open(&config, &pool));
    for (uint64_t i = 0; i < pages; i++) {
        must(bufpool_allocate_at(pool, i, data, PAGE));
    }
    for (uint64_t i = pages / 2; i < pages; i++) {
        must(bufpool_evict(pool, i));
    }
    return pool;
}

/* Withdrawn with their content, then filled anew by their owner, which is not timed, and published. */
void frames_withdraw_publish(bufpool_pool *pool, uint64_t count, const uint64_t *order, uint64_t batch,
                             const void *source, double *taken)
{
    void *frames[MOST];
    double start = now();
    for (uint64_t i = 0; i < count; i += batch) {
        must(bufpool_withdraw(pool, batch, order + i, frames + i));
    }
    taken[0] = (now() - start) / (double)count;
    for (uint64_t i = 0; i < count; i++) {
        memcpy(frames[i], (const char *)source + i * PAGE, PAGE);
    }
    start = now();
    for (uint64_t i = 0; i < count; i += batch) {
        must(bufpool_publish(pool, batch, frames + i, order + i));
    }
    taken[1] = (now() - start) / (double)count;
}

/* Evicted without their content, and populated with it. */
void frames_evict(bufpool_pool *pool, uint64_t count, const uint64_t *order, uint64_t batch, const void *source,
                  double *taken)
{
    double start = now();
    for (uint64_t i = 0; i < count; i += batch) {
        must(bufpool_evict_many(pool, batch, order + i));
    }
    taken[0] = (now() - start) / (double)count;
    start = now();
    for (uint64_t i = 0; i < count; i += batch) {
        must(bufpool_populate_many(pool, batch, order + i, (const char *)source + i * PAGE));
    }
    taken[1] = (now() - start) / (double)count;
}

/* Pages first .. first + count - 1, which are allocated, by those count pages further, or back by those count before. */
void frames_replace(bufpool_pool *pool, uint64_t count, uint64_t first, double *taken)
{
    uint64_t there = first == 0 ? count : 0;
    double start = now();
    for (uint64_t i = 0; i < count; i++) {
        must(bufpool_replace(pool, first + i * 37 % count, there + i * 37 % count));
    }
    taken[0] = (now() - start) / (double)count;
}

/* whole: content is copied to the pages; else a word of each is written, so that their owner can fill them in place. */
void frames_plain(void *base, uint64_t count, const uint64_t *order, uint64_t batch, const void *source, bool whole,
                  double *taken)
{
    double start = now();
    for (uint64_t i = 0; i < count; i += batch) {
        must_call(madvise((char *)base + order[i] * PAGE, batch * PAGE, MADV_DONTNEED), "madvise");
    }
    taken[0] = (now() - start) / (double)count;
    start = now();
    for (uint64_t i = 0; i < count; i++) {
        char *page = (char *)base + order[i] * PAGE;
        if (whole) {
            memcpy(page, (const char *)source + i * PAGE, PAGE);
        } else {
            *(volatile char *)page = 1;
        }
    }
    taken[1] = (now() - start) / (double)count;
}
