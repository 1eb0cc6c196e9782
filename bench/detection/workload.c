/*
 * workload.c: correct work of a small engine, for what a detector costs: it scans pages, changes rows, evicts and populates,
 * allocates and frees, each page pinned while it is used. Prints the nanoseconds of an operation, and a sum of what it has
 * read, which is the same for all detectors. DETECTION_OPERATIONS says how much work.
 */
#include "workload.h"
#include "rows.h"

#include <inttypes.h>
#include <time.h>

#define HELD 256
#define ROW 64

static uint64_t random_state;

uint64_t workload_random(void)
{
    random_state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint64_t workload_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time); /* other work on the machine counts little in it */
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t workload_operations(uint64_t otherwise)
{
    const char *wanted = getenv("DETECTION_OPERATIONS");
    return wanted != NULL ? strtoull(wanted, NULL, 10) : otherwise;
}

static uint64_t scan(struct layer *pool, uint64_t page)
{
    pin(pool, page, false);
    const uint64_t *words = (const uint64_t *)(void *)layer_at(pool, page);
    uint64_t sum = 0;
    for (size_t i = 0; i < PAGE / sizeof *words; i++) {
        sum += words[i] * 31 + (words[i] >> 7);
    }
    unpin(pool, page);
    return sum;
}

static void change(struct layer *pool, uint64_t page, uint64_t value)
{
    pin(pool, page, true);
    memset(layer_at(pool, page) + value % (PAGE / ROW) * ROW, (int)(value >> 32 & 0xff), ROW);
    unpin(pool, page);
}

static uint64_t add_whole(struct layer *pool, int value)
{
    uint64_t page = layer_allocate(pool);
    pin(pool, page, true);
    memset(layer_at(pool, page), value, PAGE);
    unpin(pool, page);
    return page;
}

void workload(void)
{
    uint64_t operations = workload_operations(20000);
    struct layer *pool = layer_open("buffers", 4096, false);
    static uint64_t pages[HELD];
    static char content[PAGE];
    for (size_t i = 0; i < HELD; i++) {
        pages[i] = add_whole(pool, (int)i);
    }
    uint64_t sum = 0;
    uint64_t start = workload_now();
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t value = workload_random();
        size_t which = value >> 8 & (HELD - 1);
        uint64_t page = pages[which];
        switch (value & 15) {
        case 0: /* another page's turn: out, and in from the file */
            memset(content, (int)(value >> 16 & 0xff), sizeof content);
            MUST(layer_evict(pool, page) == 0);
            MUST(layer_populate(pool, page, content, sizeof content) == 0);
            break;
        case 1:
            MUST(layer_free(pool, page) == 0);
            pages[which] = add_whole(pool, (int)(value >> 24 & 0xff));
            break;
        case 2:
        case 3:
        case 4:
        case 5:
            change(pool, page, value >> 16);
            break;
        default:
            sum = sum * 31 + scan(pool, page);
        }
    }
    uint64_t took = workload_now() - start;
    layer_close(pool);
    printf("%.1f %" PRIu64 "\n", (double)took / (double)operations, sum);
}
