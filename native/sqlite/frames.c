/* frames.c: groups, frame numbers that rest after an eviction, and the limit on resident bytes. */
#include "frames.h"

#include "say.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A pool has addresses for so many times the frames that the limit allows, and some more: they rest in turn. */
#define ADDRESS_FACTOR 4
#define ADDRESS_EXTRA 1024
#define POOL_MAXIMUM (UINT64_C(16) << 40)

static struct {
    pthread_mutex_t lock; /* opening groups */
    bufpool_sqlite_config config;
    uint64_t granule; /* of the pools; 0 until the first is open */
    sq_group groups[SQ_GROUPS];
    _Atomic size_t count; /* groups[0 .. count) are open; raised after the group is complete */
    _Atomic uint64_t resident, peak;
} frames = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- Lists of numbers, under the group's lock ---- */

static const sq_list empty = {SQ_NONE, SQ_NONE, 0};

static void append(sq_group *group, sq_list *list, uint32_t frame)
{
    group->next[frame] = SQ_NONE;
    if (list->count++ == 0)
        list->first = frame;
    else
        group->next[list->last] = frame;
    list->last = frame;
}

static uint32_t take_first(sq_group *group, sq_list *list)
{
    uint32_t frame = list->first;
    list->first = group->next[frame];
    list->count--;
    return frame;
}

/* ---- Groups ---- */

static int group_open(sq_group *group, uint32_t sqlite_page)
{
    uint64_t granule = frames.granule != 0 ? frames.granule : (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t page = sqlite_page > granule ? sqlite_page : granule;
    uint64_t most = POOL_MAXIMUM / (2 * page);
    uint64_t rest = frames.config.quarantine / page + (frames.config.quarantine % page != 0);
    rest = rest < most ? rest : most;
    uint64_t limit = frames.config.capacity / page * ADDRESS_FACTOR + ADDRESS_EXTRA + rest;
    limit = limit < most ? limit : most;
    memset(group, 0, sizeof *group);
    group->sqlite_page = sqlite_page;
    group->page = (uint32_t)page;
    group->slots = (uint32_t)(page / sqlite_page);
    group->limit = (uint32_t)limit;
    group->rest = rest > SQ_QUARANTINE ? (uint32_t)rest : SQ_QUARANTINE;
    group->fresh = frames.config.fill != NULL && strcmp(frames.config.fill, "pattern") == 0;
    group->resting = group->unborn = group->stuck = empty;
    const char *pins = frames.config.pins != NULL ? frames.config.pins : "off";
    group->hidden = strcmp(pins, "all") == 0;
    group->enforced = group->hidden || strcmp(pins, "write") == 0;
    group->counted = strcmp(pins, "off") != 0 || frames.config.sample != 0;
    /* A page that is closed would have to be opened to be replaced, and scrub is for frames that go. */
    bool replaceable = group->slots == 1 && !group->counted && !frames.config.scrub;
    const char *evict = frames.config.evict != NULL ? frames.config.evict : "auto";
    bool batch = !replaceable || strcmp(evict, "batch") == 0;
    group->evict = batch ? SQ_BY_BATCH : strcmp(evict, "replace") == 0 ? SQ_BY_REPLACE : SQ_AUTO;

    char name[64];
    snprintf(name, sizeof name, "%s-%u", frames.config.name, sqlite_page);
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = limit * 2 * page;
    config.page_size = page;
    config.memory = frames.config.memory;
    config.trap = frames.config.trap;
    config.on_fault = frames.config.on_fault;
    config.log = frames.config.log;
    config.provenance = frames.config.provenance;
    config.provenance_depth = frames.config.provenance_depth;
    config.report_limit = frames.config.report_limit;
    config.pins = pins;
    config.name = name;
    config.fork = "exclude";          /* SQLite's connections may not be used in a forked child */
    config.flags = BUFPOOL_LAZY_ZERO; /* for the cushions: nobody writes to them, so they never get a frame */
    config.flags |= frames.config.monitor ? BUFPOOL_MONITOR : 0;
    config.flags |= frames.config.scrub ? BUFPOOL_SCRUB : 0;
    config.sample = frames.config.sample;
    config.seed = frames.config.seed;
    int result = bufpool_open(&config, &group->pool);
    if (result < 0)
        return sq_say_bufpool(result, "the pool for SQLite's pages of %u bytes", sqlite_page);

    group->next_bytes = limit * sizeof *group->next;
    group->next =
        mmap(NULL, group->next_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (group->next == MAP_FAILED) {
        result = sq_say(-12, "no memory for the list of %llu frame numbers", (unsigned long long)limit);
        bufpool_close(group->pool);
        return result;
    }
    group->base = bufpool_address(group->pool, 0);
    pthread_mutex_init(&group->lock, NULL);
    return 0;
}

static void group_close(sq_group *group)
{
    bufpool_close(group->pool);
    munmap(group->next, group->next_bytes);
    pthread_mutex_destroy(&group->lock);
}

sq_group *sq_group_at(size_t n)
{
    return n < atomic_load(&frames.count) ? &frames.groups[n] : NULL;
}

static sq_group *find(uint32_t sqlite_page)
{
    sq_group *group = NULL;
    for (size_t n = 0; (group = sq_group_at(n)) != NULL; n++)
        if (group->sqlite_page == sqlite_page)
            break;
    return group;
}

sq_group *sq_group_get(uint32_t sqlite_page)
{
    sq_group *group = find(sqlite_page);
    if (group != NULL)
        return group;
    pthread_mutex_lock(&frames.lock);
    group = find(sqlite_page);
    size_t count = atomic_load(&frames.count);
    if (group == NULL && count < SQ_GROUPS && group_open(&frames.groups[count], sqlite_page) == 0) {
        group = &frames.groups[count];
        atomic_store(&frames.count, count + 1);
    }
    pthread_mutex_unlock(&frames.lock);
    return group;
}

int sq_frames_open(const bufpool_sqlite_config *config)
{
    frames.config = *config;
    frames.granule = 0;
    atomic_store(&frames.resident, 0);
    atomic_store(&frames.peak, 0);
    int result = group_open(&frames.groups[0], 4096);
    if (result < 0)
        return result;
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    bufpool_stats(frames.groups[0].pool, &statistics);
    frames.granule = statistics.granule;
    atomic_store(&frames.count, 1);
    return 0;
}

void sq_frames_close(void)
{
    for (size_t n = atomic_exchange(&frames.count, 0); n > 0; n--)
        group_close(&frames.groups[n - 1]);
}

void sq_frames_forget(void)
{
    pthread_mutex_init(&frames.lock, NULL);
    atomic_store(&frames.count, 0);
    atomic_store(&frames.resident, 0);
    atomic_store(&frames.peak, 0);
}

/* ---- The limit ---- */

bool sq_reserve(uint64_t bytes)
{
    uint64_t now = atomic_fetch_add(&frames.resident, bytes) + bytes;
    if (now > frames.config.capacity) {
        sq_unreserve(bytes);
        return false;
    }
    uint64_t peak = atomic_load_explicit(&frames.peak, memory_order_relaxed);
    while (now > peak && !atomic_compare_exchange_weak(&frames.peak, &peak, now)) {
    }
    return true;
}

void sq_unreserve(uint64_t bytes)
{
    atomic_fetch_sub(&frames.resident, bytes);
}

bool sq_has_room(uint64_t bytes)
{
    return atomic_load(&frames.resident) + bytes <= frames.config.capacity;
}

uint64_t sq_resident(uint64_t *peak)
{
    *peak = atomic_load(&frames.peak);
    return atomic_load(&frames.resident);
}

uint64_t sq_capacity(void)
{
    return frames.config.capacity;
}

/* ---- Frames ---- */

/* Where the next frame comes from. */
typedef enum source { RESTING, NEW, STUCK, NOWHERE } source;

static source choose(sq_group *group, uint32_t *frame)
{
    if (group->stuck.count > 0) {
        *frame = take_first(group, &group->stuck);
        return STUCK;
    }
    uint32_t fresh = group->limit - group->used + group->unborn.count;
    uint64_t live = atomic_load_explicit(&group->resident, memory_order_relaxed);
    if (group->resting.count > 0 && (fresh == 0 || group->resting.count > (live > group->rest ? live : group->rest))) {
        *frame = take_first(group, &group->resting);
        return RESTING;
    }
    if (fresh == 0)
        return NOWHERE;
    *frame = group->unborn.count > 0 ? take_first(group, &group->unborn) : group->used++;
    return NEW;
}

/* Under the group's lock. */
static void put_back(sq_group *group, uint32_t frame, source from)
{
    append(group, from == RESTING ? &group->resting : from == NEW ? &group->unborn : &group->stuck, frame);
}

/* Data gets real frames at once, so that a lack of memory is an answer here and never a signal inside SQLite. victim: the
 * frame that is to go there, or SQ_NONE: one of zeros. */
static int fill_data(sq_group *group, uint32_t frame, source from, uint32_t victim)
{
    static const unsigned char zeros[65536];
    size_t size = group->page < sizeof zeros ? group->page : sizeof zeros;
    uint64_t data = (uint64_t)frame * 2;
    if (victim != SQ_NONE)
        return bufpool_replace(group->pool, (uint64_t)victim * 2, data);
    return from == RESTING ? bufpool_populate(group->pool, data, zeros, size)
                           : bufpool_allocate_at(group->pool, data, zeros, size);
}

/* A number that is given out for the first time gets its cushion, too. */
static int fill(sq_group *group, uint32_t frame, source from, uint32_t victim)
{
    uint64_t cushion = (uint64_t)frame * 2 + 1;
    if (from == RESTING)
        return fill_data(group, frame, from, victim);
    int result = bufpool_allocate_at(group->pool, cushion, NULL, 0);
    if (result < 0)
        return result;
    /* The cushion is open for reading for ever. */
    result = group->hidden ? bufpool_pin(group->pool, cushion, false) : 0;
    if (result == 0) {
        result = fill_data(group, frame, from, victim);
        if (result < 0 && group->hidden)
            bufpool_unpin(group->pool, cushion);
    }
    if (result < 0)
        bufpool_free(group->pool, cushion);
    return result;
}

uint32_t sq_frame_take(sq_group *group)
{
    uint32_t frame = SQ_NONE;
    pthread_mutex_lock(&group->lock);
    source from = choose(group, &frame);
    pthread_mutex_unlock(&group->lock);
    if (from == STUCK) { /* its bytes are counted still */
        sq_unreserve(group->page);
        return frame;
    }
    if (from == NOWHERE || fill(group, frame, from, SQ_NONE) < 0) {
        if (from != NOWHERE) {
            pthread_mutex_lock(&group->lock);
            put_back(group, frame, from);
            pthread_mutex_unlock(&group->lock);
        }
        sq_unreserve(group->page);
        return SQ_NONE;
    }
    atomic_fetch_add_explicit(&group->resident, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->populates, 1, memory_order_relaxed);
    return frame;
}

uint32_t sq_frame_replace(sq_group *group, uint32_t victim)
{
    uint32_t frame = SQ_NONE;
    pthread_mutex_lock(&group->lock);
    source from = choose(group, &frame);
    pthread_mutex_unlock(&group->lock);
    if (from == NOWHERE)
        return SQ_NONE;
    bool done = from != STUCK && fill(group, frame, from, victim) == 0;
    pthread_mutex_lock(&group->lock);
    if (done)
        append(group, &group->resting, victim);
    else
        put_back(group, frame, from);
    pthread_mutex_unlock(&group->lock);
    if (!done)
        return SQ_NONE;
    atomic_fetch_add_explicit(&group->evictions, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->populates, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->replaced, 1, memory_order_relaxed);
    return frame;
}

static size_t evict(sq_group *group, const uint32_t *numbers, size_t count)
{
    if (count == 1)
        return bufpool_evict(group->pool, (uint64_t)numbers[0] * 2) == 0;
    uint64_t pages[SQ_BATCH];
    for (size_t i = 0; i < count; i++)
        pages[i] = (uint64_t)numbers[i] * 2;
    return bufpool_evict_many(group->pool, count, pages) == 0 ? count : bufpool_last_done();
}

void sq_frame_drop(sq_group *group, const uint32_t *numbers, size_t count)
{
    if (count == 0)
        return;
    size_t done = evict(group, numbers, count);
    atomic_fetch_sub_explicit(&group->resident, done, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->evictions, done, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->evict_failures, count - done, memory_order_relaxed);
    pthread_mutex_lock(&group->lock);
    for (size_t i = 0; i < count; i++)
        append(group, i < done ? &group->resting : &group->stuck, numbers[i]);
    pthread_mutex_unlock(&group->lock);
    sq_unreserve(done * group->page);
}
