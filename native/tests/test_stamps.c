/* Threads that allocate, free, evict and populate at random never see another's stamp, and lose nothing. */
#include "harness.h"

#define THREADS 4
#define HELD 24
#define STEPS (SANITIZED ? 1200 : 6000)
#define PAGES (THREADS * HELD + 8)

static bufpool_pool *pool;
static uint64_t page_size;

struct stamp {
    uint64_t thread;
    uint64_t number;
    uint64_t page;
};

struct holding {
    struct stamp stamp;
    bool evicted;
};

static void write_stamp(char *data, struct stamp stamp)
{
    memset(data, (int)(stamp.number % 255 + 1), page_size);
    memcpy(data, &stamp, sizeof stamp);
    memcpy(data + page_size - sizeof stamp, &stamp, sizeof stamp);
}

static void check_stamp(const struct holding *holding, const char *data, uint64_t size)
{
    struct stamp found;
    memcpy(&found, data, sizeof found);
    CHECK_IS(found.thread, ==, holding->stamp.thread);
    CHECK_IS(found.number, ==, holding->stamp.number);
    memcpy(&found, data + size - sizeof found, sizeof found);
    CHECK_IS(found.number, ==, holding->stamp.number);
    CHECK_IS((unsigned char)data[size / 2], ==, holding->stamp.number % 255 + 1);
}

static void add(struct holding *holding, uint64_t self, uint64_t number, uint64_t page)
{
    *holding = (struct holding){{self, number, page}, false};
}

static int take(struct holding *held, int count, uint64_t self, uint64_t number, char *data, uint64_t dice)
{
    uint64_t pages[4];
    int batch = dice % 4 == 0 && count + 4 <= HELD ? 4 : 1;
    if (batch == 1) {
        write_stamp(data, (struct stamp){self, number, 0});
        CHECK_OK(bufpool_allocate(pool, data, page_size, pages));
        add(&held[count], self, number, pages[0]);
        return 1;
    }
    for (int i = 0; i < batch; i++) {
        write_stamp(data + (size_t)i * page_size, (struct stamp){self, number + (uint64_t)i, 0});
    }
    CHECK_OK(bufpool_allocate_filled(pool, (size_t)batch, data, pages));
    for (int i = 0; i < batch; i++) {
        add(&held[count + i], self, number + (uint64_t)i, pages[i]);
    }
    return batch;
}

static void *worker(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    uint64_t seed = self;
    struct holding held[HELD];
    int count = 0;
    uint64_t number = 0;
    char *data = malloc(4 * page_size);
    for (int i = 0; i < STEPS; i++) {
        uint64_t dice = next_random(&seed);
        if (count == 0 || (count < HELD && dice % 3 == 0)) {
            count += take(held, count, self, number, data, dice >> 8);
            number += 4;
            continue;
        }
        struct holding *one = &held[(dice >> 16) % (uint64_t)count];
        char *at = bufpool_address(pool, one->stamp.page);
        if (one->evicted) {
            write_stamp(data, one->stamp);
            CHECK_OK(bufpool_populate(pool, one->stamp.page, data, page_size));
            one->evicted = false;
        } else if (dice % 3 == 1) {
            check_stamp(one, at, page_size);
            one->stamp.number = number++; /* written in place */
            write_stamp(at, one->stamp);
            continue;
        } else if (dice % 7 < 2) {
            check_stamp(one, at, page_size);
            CHECK_OK(bufpool_evict(pool, one->stamp.page));
            one->evicted = true;
            continue;
        }
        check_stamp(one, at, page_size);
        if (dice % 2 == 0) {
            CHECK_OK(bufpool_free(pool, one->stamp.page));
            *one = held[--count];
        }
    }
    for (int i = 0; i < count; i++) {
        if (!held[i].evicted) {
            check_stamp(&held[i], bufpool_address(pool, held[i].stamp.page), page_size);
        }
        CHECK_OK(bufpool_free(pool, held[i].stamp.page));
    }
    free(data);
    return NULL;
}

static void cell_of(const char *memory, const char *trap, uint64_t size)
{
    page_size = size;
    pool = open_pool(memory, trap, "abort", PAGES * page_size, page_size);
    uint64_t numbers[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        numbers[i] = i;
    }
    run_threads(THREADS, worker, numbers, sizeof *numbers);
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.allocated, ==, 0);
    CHECK_IS(s.evicted, ==, 0);
    CHECK_IS(s.allocations, ==, s.frees);
    CHECK_IS(s.faults, ==, 0);
    uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages)); /* every page came back */
    CHECK_OK(bufpool_close(pool));
}

/* As many threads as pages, each holding one at most: there is always a free one, and nobody may be told otherwise. */
static void *one_each(void *argument)
{
    (void)argument;
    for (int i = 0; i < STEPS; i++) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
        CHECK_OK(bufpool_free(pool, page));
    }
    return NULL;
}

static void cell(const char *memory, const char *trap)
{
    cell_of(memory, trap, 4096);
    cell_of(memory, trap, 16 * KIB);
    pool = open_pool(memory, trap, "abort", THREADS * GRANULE, GRANULE);
    run_threads(THREADS, one_each, NULL, 0);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, true);
}
