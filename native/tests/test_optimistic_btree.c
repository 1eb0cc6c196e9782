/*
 * A B+tree with optimistic lock coupling (btree.h) whose pages are evicted under its readers and writers: no false alarm,
 * no wrong answer, and every stray access planted outside of the sections is caught.
 *
 * Each key has one writer, and a generation, which counts its changes: odd, it is there with that value; even, it is not.
 * A reader notes the last generation that was complete before and the last that was begun after, and the answer has to
 * be one of those between them.
 */
#include "btree.h"
#include "harness.h"

#define KEYS 6000
#define BLOCK 250 /* keys that one writer has in a row; of every third block none is ever deleted */
#define PAGES 2048
#define PLANTED 4 /* pages of each thread that are no tree's: one never allocated, one freed, two evicted */
#define STRAY_EVERY 100
#define EVICT_EVERY 16

enum { WRITERS = 2, READERS = 2, WORKERS = WRITERS + READERS };

static struct btree tree;
static bufpool_pool *pool;
static const char *trap;
static atomic_uint_fast64_t begun[KEYS], complete[KEYS];
static atomic_int working;
static uint64_t operations;

struct worker {
    uint64_t number; /* writers first; the evictor is the last */
    uint64_t seed;
    uint64_t planted[PLANTED];
    uint64_t strays;
    uint64_t answers;
    struct btree_user user;
};

static bool lasting(uint64_t key)
{
    return key / BLOCK % 3 == 0;
}

static void make_value(uint64_t key, uint64_t generation, uint64_t value[BTREE_VALUE])
{
    uint64_t seed = key << 32 ^ generation;
    value[0] = generation;
    for (int i = 1; i < BTREE_VALUE; i++) {
        value[i] = next_random(&seed);
    }
}

static void check_value(uint64_t key, const uint64_t value[BTREE_VALUE])
{
    uint64_t expected[BTREE_VALUE];
    make_value(key, value[0], expected);
    CHECK_IS(memcmp(value, expected, sizeof expected), ==, 0);
    CHECK_IS(value[0] % 2, ==, 1);
}

static void check_answer(struct worker *self, uint64_t key)
{
    uint64_t value[BTREE_VALUE];
    uint64_t from = atomic_load(&complete[key]);
    bool found = btree_lookup(&tree, &self->user, key, value);
    uint64_t to = atomic_load(&begun[key]);
    self->answers++;
    if (found) {
        check_value(key, value);
        CHECK_IS(value[0], >=, from);
        CHECK_IS(value[0], <=, to);
    } else {
        CHECK(!lasting(key));
        CHECK(from % 2 == 0 || to > from);
    }
}

/* The whole tree from a key on, leaf by leaf: in order, every value whole, and no lasting key is missing. */
static uint64_t check_scan(struct worker *self, uint64_t from, int leaves)
{
    struct btree_entry entries[BTREE_LEAF_ROOM];
    uint64_t expected = from;
    uint64_t total = 0;
    while (from != BTREE_LAST && leaves-- > 0) {
        uint64_t next;
        uint64_t count = btree_scan(&tree, &self->user, from, entries, &next);
        CHECK(next > from);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t key = entries[i].key;
            CHECK(key >= expected && key < KEYS && key < next);
            check_value(key, entries[i].value);
            CHECK_IS(entries[i].value[0], <=, atomic_load(&begun[key]));
            for (; expected < key; expected++) {
                CHECK(!lasting(expected));
            }
            expected = key + 1;
        }
        from = next;
        for (; expected < (next == BTREE_LAST ? KEYS : next); expected++) {
            CHECK(!lasting(expected));
        }
        total += count;
    }
    self->answers++;
    return total;
}

/* ---- Writers ---- */

static void change(struct worker *self, uint64_t key, bool delete)
{
    uint64_t generation = atomic_load(&begun[key]);
    bool there = generation % 2 == 1;
    uint64_t value[BTREE_VALUE];
    generation += there && !delete ? 2 : 1;
    if (delete && !there) {
        CHECK(!btree_delete(&tree, &self->user, key));
        return;
    }
    atomic_store(&begun[key], generation);
    if (delete) {
        CHECK(btree_delete(&tree, &self->user, key));
    } else {
        make_value(key, generation, value);
        CHECK_IS(btree_put(&tree, &self->user, key, value), ==, !there);
    }
    atomic_store(&complete[key], generation);
}

/* An exact answer is due, since nobody else changes the key. */
static void check_own(struct worker *self, uint64_t key)
{
    uint64_t value[BTREE_VALUE];
    uint64_t generation = atomic_load(&begun[key]);
    bool found = btree_lookup(&tree, &self->user, key, value);
    CHECK_IS(found, ==, generation % 2);
    CHECK(!found || value[0] == generation);
    self->answers++;
}

static void write_some(struct worker *self)
{
    uint64_t random = next_random(&self->seed);
    uint64_t block = random % (KEYS / BLOCK / WRITERS) * WRITERS + self->number;
    uint64_t key = block * BLOCK + (random >> 20) % BLOCK;
    switch ((random >> 40) % 16) {
    case 0: /* all keys of a block, so that leaves become empty */
        for (uint64_t i = 0; i < BLOCK && !lasting(key); i++) {
            change(self, block * BLOCK + i, true);
        }
        break;
    case 1:
    case 2:
    case 3:
        change(self, key, !lasting(key));
        break;
    case 4:
    case 5:
    case 6:
        check_own(self, key);
        break;
    default:
        for (uint64_t i = 0; i < 8; i++) {
            change(self, block * BLOCK + (key + i) % BLOCK, false);
        }
    }
}

/* ---- Planted strays: outside of the sections, amid all this ---- */

static void stray(struct worker *self)
{
    uint64_t random = next_random(&self->seed);
    uint64_t page = self->planted[random % PLANTED];
    static const bufpool_state states[] = {BUFPOOL_STATE_UNALLOCATED, BUFPOOL_STATE_FREED, BUFPOOL_STATE_EVICTED,
                                           BUFPOOL_STATE_EVICTED};
    uint64_t offset = (random >> 8) % tree.page_size;
    char *byte = (char *)bufpool_address(pool, page) + offset;
    bool write = (random >> 40) % 2;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if ((random >> 41) % 2) {
        char copy = 1;
        CHECK_IS(write ? bufpool_guarded_copy(byte, &copy, 1, &fault) : bufpool_guarded_copy(&copy, byte, 1, &fault),
                 ==, BUFPOOL_ESTRAY);
    } else {
        write ? write_byte(byte, 1) : (void)read_byte(byte);
        CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
    }
    CHECK_IS(fault.address, ==, (uintptr_t)byte);
    CHECK_IS(fault.page, ==, page);
    CHECK_IS(fault.access, ==, write ? BUFPOOL_WRITE : BUFPOOL_READ);
    CHECK_IS(fault.state, ==, states[random % PLANTED]);
    CHECK_IS(fault.thread_id, ==, gettid());
    CHECK_OK(bufpool_check(&fault));
    self->strays++;
}

/* ---- Threads ---- */

/* Have the pages come and gone often enough, under those who use them? */
static bool has_been_hard(void)
{
    bufpool_statistics s = stats_of(pool);
    return s.evictions > 2000 && s.populates > 2000 && (tree.look || s.restarts > 1000);
}

static void *work(void *argument)
{
    struct worker *self = argument;
    uint64_t hand = next_random(&self->seed);
    for (uint64_t i = 0; i < operations || (self->number >= WRITERS && !has_been_hard()); i++) {
        if (self->number < WRITERS) {
            write_some(self);
        } else if (i % 50 == 0) {
            check_scan(self, next_random(&self->seed) % KEYS, 5);
        } else {
            check_answer(self, next_random(&self->seed) % KEYS);
        }
        if (i % STRAY_EVERY == 0) {
            stray(self);
        }
        if (i % EVICT_EVERY == 0) { /* beside the evictor, which has to wait for a processor */
            btree_evict(&tree, &self->user, &hand);
        }
    }
    atomic_fetch_sub(&working, 1);
    return NULL;
}

static void *evict(void *argument)
{
    struct worker *self = argument;
    uint64_t hand = 0;
    while (atomic_load(&working) > 0) {
        btree_evict(&tree, &self->user, &hand);
        sched_yield();
        if (atomic_load(&tree.resident) < 20) { /* else the others do nothing but bring pages back */
            sleep_ms(1);
        }
    }
    return NULL;
}

static pthread_barrier_t start;

static void *run(void *argument)
{
    pthread_barrier_wait(&start);
    return ((struct worker *)argument)->number < WORKERS ? work(argument) : evict(argument);
}

static void plant(struct worker *worker)
{
    CHECK_OK(bufpool_allocate_many(pool, PLANTED, worker->planted));
    CHECK_OK(bufpool_free_many(pool, 2, worker->planted));
    CHECK_OK(bufpool_evict_many(pool, PLANTED - 2, worker->planted + 2));
    worker->planted[0] = PAGES - 1 - worker->number;
}

static void load(struct worker *worker)
{
    for (uint64_t key = 0; key < KEYS; key++) {
        atomic_store(&begun[key], 0);
        atomic_store(&complete[key], 0);
        change(worker, key, false);
    }
    CHECK_IS(check_scan(worker, 0, KEYS), ==, KEYS);
}

/* At the end: exactly the keys that the writers have left. */
static void check_whole(struct worker *worker)
{
    uint64_t expected = 0;
    for (uint64_t key = 0; key < KEYS; key++) {
        expected += atomic_load(&begun[key]) % 2;
        check_own(worker, key);
    }
    CHECK_IS(check_scan(worker, 0, KEYS), ==, expected);
}

static void campaign(const char *memory, uint64_t page_size, bool look)
{
    pool = open_pool(memory, trap, "raise", PAGES * page_size, page_size);
    btree_open(&tree, pool, 8, look);
    tree.pause = 16;
    struct worker workers[WORKERS + 1];
    memset(workers, 0, sizeof workers);
    for (uint64_t i = 0; i <= WORKERS; i++) {
        workers[i].number = i;
        workers[i].seed = i + page_size;
        plant(&workers[i]);
    }
    load(&workers[0]);
    atomic_store(&working, WORKERS);
    CHECK_OK(pthread_barrier_init(&start, NULL, WORKERS + 1));
    run_threads(WORKERS + 1, run, workers, sizeof *workers);
    CHECK_OK(pthread_barrier_destroy(&start));
    check_whole(&workers[0]);

    struct worker all = {0};
    for (int i = 0; i <= WORKERS; i++) {
        const uint64_t *from = (const uint64_t *)&workers[i].user;
        uint64_t *to = (uint64_t *)&all.user;
        for (size_t j = 0; j < sizeof all.user / 8; j++) {
            to[j] += from[j];
        }
        all.strays += workers[i].strays;
        all.answers += workers[i].answers;
    }
    bufpool_statistics s = stats_of(pool);
    printf(
        "  %llu bytes a page, %s: %llu reads, %llu restarts by a hole, %llu by a version, %llu evictions, %llu pages "
        "brought back, %llu splits, %llu pages freed; %llu answers right; false alarms: %llu; planted strays: %llu, "
        "caught: %llu\n",
        (unsigned long long)page_size, look ? "readers look first" : "readers run into holes",
        (unsigned long long)all.user.reads, (unsigned long long)all.user.restarts,
        (unsigned long long)all.user.invalidated, (unsigned long long)all.user.evicted,
        (unsigned long long)all.user.fixed, (unsigned long long)all.user.splits, (unsigned long long)all.user.freed,
        (unsigned long long)all.answers, (unsigned long long)(s.faults - all.strays), (unsigned long long)all.strays,
        (unsigned long long)s.faults);
    CHECK_IS(s.faults, ==, all.strays);
    CHECK_IS(s.restarts, ==, all.user.restarts);
    CHECK_IS(s.reports_lost, ==, 0);
    CHECK_IS(s.high_water, <, 1024); /* no freed number was given out again, so that the planted ones stayed holes */
    CHECK_OK(bufpool_check_ended(pool, NULL));
    CHECK(all.user.splits > 10 && all.user.freed > 0 && all.user.evicted > 1000 && all.user.fixed > 1000);
    CHECK(look || all.user.restarts > 1000);
    btree_close(&tree);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *by_trap)
{
    trap = by_trap;
    operations = SANITIZED ? 500 : 2500;
    campaign(memory, GRANULE, false);
    campaign(memory, 2 * GRANULE, false);
    campaign(memory, GRANULE, true);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
