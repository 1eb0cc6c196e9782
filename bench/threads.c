/*
 * threads.c: threads that free and allocate at the same time, in one pool, and in one plain mapping.
 *
 * On both sides each thread frees the oldest of the pages that it has, one by one, and gives another one a frame and 4 KiB of
 * content. On the plain side each thread has a part of the mapping for itself and nobody has to find a free page: an engine
 * without bufpool has an allocator, too, so that this is the least it could cost.
 */
#include "must.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096
#define LIVE 64 /* pages that a thread has at a time */
#define MOST 16 /* threads */

struct work {
    bufpool_pool *pool; /* or: */
    char *part;         /* of the plain mapping */
    uint64_t pages;     /* of it */
    uint64_t count;
};

static void *pool_work(void *argument)
{
    const struct work *work = argument;
    uint64_t numbers[LIVE];
    char data[PAGE];
    memset(data, 'x', PAGE);
    must(bufpool_allocate_many(work->pool, LIVE, numbers));
    for (uint64_t i = 0; i < work->count; i++) {
        must(bufpool_free(work->pool, numbers[i % LIVE]));
        must(bufpool_allocate(work->pool, data, PAGE, &numbers[i % LIVE]));
    }
    must(bufpool_free_many(work->pool, LIVE, numbers));
    return NULL;
}

/* Numbers rise and wrap as a pool's do. */
static void *plain_work(void *argument)
{
    const struct work *work = argument;
    char data[PAGE];
    memset(data, 'x', PAGE);
    memset(work->part, 0, (size_t)LIVE * PAGE);
    for (uint64_t i = 0; i < work->count; i++) {
        must_call(madvise(work->part + i % work->pages * PAGE, PAGE, MADV_DONTNEED), "madvise");
        memcpy(work->part + (i + LIVE) % work->pages * PAGE, data, PAGE);
    }
    must_call(madvise(work->part, work->pages * PAGE, MADV_DONTNEED), "madvise");
    return NULL;
}

static void run(void *(*function)(void *), struct work *works, unsigned threads)
{
    pthread_t running[MOST];
    for (unsigned i = 0; i < threads; i++) {
        must_call(-pthread_create(&running[i], NULL, function, &works[i]), "pthread_create");
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(running[i], NULL);
    }
}

/* Each of the threads frees and allocates count pages, with content. */
void pool_by_threads(bufpool_pool *pool, unsigned threads, uint64_t count)
{
    struct work works[MOST];
    for (unsigned i = 0; i < threads; i++) {
        works[i] = (struct work){.pool = pool, .count = count};
    }
    run(pool_work, works, threads);
}

/* The same with plain memory, of which each thread has a part of so many pages. */
void plain_by_threads(void *base, uint64_t part, unsigned threads, uint64_t count)
{
    struct work works[MOST];
    for (unsigned i = 0; i < threads; i++) {
        works[i] = (struct work){.part = (char *)base + i * part * PAGE, .pages = part, .count = count};
    }
    run(plain_work, works, threads);
}
