/*
 * eviction.c: a buffer pool over a file: which page comes and which one goes. Written once; how a page gets its frame
 * and loses it is the side's (eviction_sides.c), behind a table of functions. Every side is given the same keys and,
 * with the same batch, makes the same decisions: what is resident, and which page is the next victim.
 *
 * Replacement is a clock over the slots of the pool, with a bit for each that a hit sets. When all slots are taken,
 * `batch` victims go in one step, and so many misses find an empty slot then; a side that exchanges a victim for the
 * new page does so at each miss instead. A page's first and last word are its number, checked at each access.
 */
#include "must.h"

#include "eviction.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096
#define NOWHERE UINT32_MAX
#define MOST_BATCH 512

/* ---- Keys, drawn before anything is timed ---- */

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t value = *state += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

static double next_fraction(uint64_t *state)
{
    return (double)(next_random(state) >> 11) * 0x1p-53;
}

static void *need(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL) {
        abort();
    }
    return memory;
}

void eviction_uniform(uint32_t *keys, uint64_t count, uint64_t pages, uint64_t seed)
{
    for (uint64_t i = 0; i < count; i++) {
        keys[i] = (uint32_t)(next_random(&seed) % pages);
    }
}

/* Rank r is drawn with a weight of r to the power of -theta, from the sums of the weights by bisection; which page has
 * which rank is shuffled, so that those much in use do not lie side by side. */
void eviction_zipf(uint32_t *keys, uint64_t count, uint64_t pages, double theta, uint64_t seed)
{
    double *sums = need(pages * sizeof *sums);
    uint64_t *page_of_rank = need(pages * sizeof *page_of_rank);
    double sum = 0;
    for (uint64_t rank = 0; rank < pages; rank++) {
        sums[rank] = sum += pow((double)(rank + 1), -theta);
        page_of_rank[rank] = rank;
    }
    uint64_t shuffling = 1; /* not of the seed: what is popular stays so */
    for (uint64_t i = pages - 1; i > 0; i--) {
        uint64_t other = next_random(&shuffling) % (i + 1);
        uint64_t page = page_of_rank[i];
        page_of_rank[i] = page_of_rank[other];
        page_of_rank[other] = page;
    }
    for (uint64_t i = 0; i < count; i++) {
        double wanted = next_fraction(&seed) * sum;
        uint64_t low = 0;
        uint64_t high = pages - 1;
        while (low < high) {
            uint64_t middle = (low + high) / 2;
            if (sums[middle] < wanted) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        keys[i] = (uint32_t)page_of_rank[low];
    }
    free(sums);
    free(page_of_rank);
}

/* ---- The data ---- */

void eviction_write_file(const char *path, uint64_t pages)
{
    int fd = must_call(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600), path);
    enum { CHUNK = 256 };
    uint64_t *chunk = need(CHUNK * PAGE);
    for (uint64_t page = 0; page < pages; page += CHUNK) {
        for (uint64_t i = 0; i < CHUNK * PAGE / 8; i++) {
            chunk[i] = page + i / (PAGE / 8);
        }
        size_t length = (pages - page < CHUNK ? pages - page : CHUNK) * PAGE;
        if (pwrite(fd, chunk, length, (off_t)(page * PAGE)) != (ssize_t)length) {
            perror(path);
            abort();
        }
    }
    must_call(fsync(fd), path);
    free(chunk);
    close(fd);
}

/* ---- The pool ---- */

struct eviction *eviction_open(const char *side, uint64_t pages, uint64_t frames, uint64_t batch, const char *path,
                               bool direct)
{
    struct eviction *run = need(sizeof *run);
    run->side = eviction_side_named(side);
    run->pages = pages;
    run->frames = frames;
    run->batch = batch;
    run->fd = must_call(open(path, O_RDONLY | (direct ? O_DIRECT : 0)), path);
    run->slot_of = need(pages * sizeof *run->slot_of);
    run->page_of = need(frames * sizeof *run->page_of);
    run->used = need(frames);
    run->empty = need(frames * sizeof *run->empty);
    for (uint64_t page = 0; page < pages; page++) {
        run->slot_of[page] = NOWHERE;
    }
    for (uint64_t slot = 0; slot < frames; slot++) {
        run->page_of[slot] = NOWHERE;
        run->empty[run->empty_count++] = (uint32_t)(frames - 1 - slot);
    }
    run->side->open(run);
    return run;
}

void eviction_close(struct eviction *run)
{
    run->side->close(run);
    close(run->fd);
    free(run->slot_of);
    free(run->page_of);
    free(run->used);
    free(run->empty);
    free(run);
}

static uint32_t next_victim(struct eviction *run)
{
    for (;;) {
        uint64_t slot = run->hand;
        run->hand = run->hand + 1 == run->frames ? 0 : run->hand + 1;
        if (run->page_of[slot] != NOWHERE && run->used[slot]-- == 0) {
            run->used[slot] = 0;
            return (uint32_t)slot;
        }
        if (run->page_of[slot] == NOWHERE) {
            run->used[slot] = 0;
        }
    }
}

static void make_room(struct eviction *run)
{
    uint64_t victims[MOST_BATCH];
    uint64_t count = run->batch < run->frames ? run->batch : run->frames;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t slot = next_victim(run);
        victims[i] = run->page_of[slot];
        run->slot_of[victims[i]] = NOWHERE;
        run->page_of[slot] = NOWHERE;
        run->empty[run->empty_count++] = slot;
    }
    run->side->evict(run, victims, count);
}

static uint32_t miss(struct eviction *run, uint64_t page)
{
    uint32_t slot;
    run->misses++;
    if (run->empty_count == 0 && run->side->exchange != NULL) {
        slot = next_victim(run);
        uint64_t victim = run->page_of[slot];
        run->slot_of[victim] = NOWHERE;
        run->side->exchange(run, victim, page);
    } else {
        if (run->empty_count == 0) {
            make_room(run);
        }
        slot = run->empty[--run->empty_count];
        run->side->load(run, page, slot);
    }
    run->slot_of[page] = slot;
    run->page_of[slot] = (uint32_t)page;
    run->used[slot] = 0;
    return slot;
}

static void check(struct eviction *run, uint64_t page, const volatile uint64_t *content)
{
    if (content[0] != page || content[PAGE / 8 - 1] != page) {
        fprintf(stderr, "bench: side \"%s\" shows %llu at page %llu\n", run->side->name, (unsigned long long)content[0],
                (unsigned long long)page);
        abort();
    }
    run->sum += content[page % (PAGE / 8)];
}

void eviction_accesses(struct eviction *run, const uint32_t *keys, uint64_t count)
{
    const char *base = run->base;
    if (run->side->load == NULL) { /* the kernel decides what is resident */
        for (uint64_t i = 0; i < count; i++) {
            check(run, keys[i], (const volatile uint64_t *)(base + (uint64_t)keys[i] * PAGE));
        }
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = keys[i];
        uint32_t slot = run->slot_of[page];
        if (slot == NOWHERE) {
            slot = miss(run, page);
        } else {
            run->used[slot] = 1;
            run->hits++;
        }
        check(run, page, (const volatile uint64_t *)(base + (run->side->by_slot ? slot : page) * PAGE));
    }
}

/* All the pages in order, `batch` at a time: those that were read as many steps before as the pool has frames go, and the
 * next come by one read. Begins and ends with the last `frames` pages resident. */
void eviction_scan(struct eviction *run, uint64_t batch)
{
    const char *base = run->base;
    for (uint64_t first = 0; first < run->pages; first += batch) {
        uint64_t before = (first + run->pages - run->frames) % run->pages;
        if (run->side->scan != NULL) {
            run->side->scan(run, first, before, batch);
        }
        for (uint64_t page = first; page < first + batch; page++) {
            uint64_t at = run->side->by_slot ? page % run->frames : page;
            check(run, page, (const volatile uint64_t *)(base + at * PAGE));
        }
    }
}

uint64_t eviction_misses(const struct eviction *run)
{
    return run->misses;
}
