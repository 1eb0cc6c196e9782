/* buffers.c: see buffers.h. */
#include "buffers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#define MOST_USAGE 5

static void must(bool done, const char *what)
{
    if (!done) {
        perror(what);
        exit(1);
    }
}

/* What bufpool refuses is a mistake of this program. */
static void told(int code)
{
    char sentence[1024];
    if (code < 0) {
        bufpool_last_error(sentence, sizeof sentence);
        fprintf(stderr, "postgres_like: %s\n", sentence);
        exit(1);
    }
}

/* ---- Shared memory ---- */

/* The descriptors have the first pages. */
static size_t head(void)
{
    return (sizeof(struct pg_shared) + 4095) / 4096 * 4096;
}

static void *map(bool sysv, size_t size)
{
    if (!sysv) {
        return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    }
    int id = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    void *place = id < 0 ? MAP_FAILED : shmat(id, NULL, 0);
    if (id >= 0) {
        shmctl(id, IPC_RMID, NULL); /* goes with its last process */
    }
    return place;
}

bool pg_create(bool sysv, struct pg_backend *backend)
{
    char *place = map(sysv, head() + (size_t)PG_BUFFERS * PG_BLOCK);
    if (place == MAP_FAILED) {
        return false;
    }
    backend->shared = (struct pg_shared *)(void *)place;
    backend->blocks = place + head();
    pthread_mutexattr_t mutex;
    pthread_rwlockattr_t rwlock;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&backend->shared->mapping, &mutex);
    pthread_rwlockattr_init(&rwlock);
    pthread_rwlockattr_setpshared(&rwlock, PTHREAD_PROCESS_SHARED);
    for (uint32_t i = 0; i < PG_BUFFERS; i++) {
        backend->shared->buffers[i].block = PG_NONE;
        pthread_rwlock_init(&backend->shared->buffers[i].content, &rwlock);
    }
    FILE *table = tmpfile();
    must(table != NULL && ftruncate(fileno(table), (off_t)PG_BLOCKS * PG_BLOCK) == 0, "the table");
    backend->file = fileno(table); /* to the end */
    return true;
}

/* In the signal handler: what it was, for who started the backends. */
static bufpool_verdict note_stray(const bufpool_fault *fault, void *context)
{
    struct pg_shared *shared = context;
    shared->stray_buffer = fault->page;
    shared->stray = fault->state;
    return BUFPOOL_VERDICT_REPORT;
}

int pg_start(struct pg_backend *backend)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.name = "buffers";
    config.page_size = PG_BLOCK;
    config.pins = "all";
    config.provenance = "last";
    int code = bufpool_config_from_environment(&config); /* BUFPOOL_OPTIONS=pins=off, or provenance=stacks */
    /* What presets ask for, and memory that is carved up already cannot have. */
    config.flags &= ~(uint32_t)BUFPOOL_RED_ZONES;
    config.sample = 0;
    config.seed = 0;
    if (code == 0) {
        code = bufpool_adopt(backend->blocks, (uint64_t)PG_BUFFERS * PG_BLOCK, -1, &config, &backend->pool);
    }
    return code < 0 ? code : bufpool_set_fault_callback(backend->pool, note_stray, backend->shared);
}

void pg_end(struct pg_backend *backend)
{
    told(bufpool_close(backend->pool));
    backend->pool = NULL;
}

uint64_t *pg_page(const struct pg_backend *backend, uint32_t buffer)
{
    return (uint64_t *)(void *)(backend->blocks + (size_t)buffer * PG_BLOCK);
}

/* ---- Pins ---- */

/* With the mapping lock. [PinBuffer] */
static void pin(struct pg_backend *backend, uint32_t buffer)
{
    struct pg_descriptor *descriptor = &backend->shared->buffers[buffer];
    if (backend->pinned[buffer]++ == 0) {
        descriptor->pins++;
        descriptor->usage += descriptor->usage < MOST_USAGE;
        told(bufpool_pin(backend->pool, buffer, false)); /* open here: other backends have pins of their own */
    }
}

/* [UnpinBuffer] */
static void unpin(struct pg_backend *backend, uint32_t buffer)
{
    if (--backend->pinned[buffer] == 0) {
        told(bufpool_unpin_for(backend->pool, buffer, false)); /* closed here, before others may take it */
        backend->shared->buffers[buffer].pins--;
    }
}

/* ---- Reading blocks ---- */

static void write_back(struct pg_backend *backend, uint32_t buffer)
{
    struct pg_descriptor *descriptor = &backend->shared->buffers[buffer];
    off_t at = (off_t)descriptor->block * PG_BLOCK;
    must(pwrite(backend->file, pg_page(backend, buffer), PG_BLOCK, at) == PG_BLOCK, "pwrite");
    descriptor->dirty = false;
}

/* [StrategyGetBuffer] */
static uint32_t sweep(struct pg_shared *shared)
{
    for (uint32_t turn = 0; turn < (MOST_USAGE + 1) * PG_BUFFERS; turn++) {
        uint32_t buffer = shared->hand;
        struct pg_descriptor *descriptor = &shared->buffers[buffer];
        shared->hand = (shared->hand + 1) % PG_BUFFERS;
        if (descriptor->pins == 0 && descriptor->usage == 0) {
            return buffer;
        }
        descriptor->usage -= descriptor->pins == 0;
    }
    fprintf(stderr, "postgres_like: no unpinned buffers available\n");
    exit(1);
}

/* The victim's block goes, and another comes. The kernel, too, reads and writes only what is open. */
static uint32_t replace(struct pg_backend *backend, uint32_t block)
{
    uint32_t buffer = sweep(backend->shared);
    struct pg_descriptor *descriptor = &backend->shared->buffers[buffer];
    backend->shared->evictions += descriptor->block != PG_NONE;
    backend->shared->reads++;
    pin(backend, buffer);
    if (descriptor->dirty) {
        write_back(backend, buffer);
    }
    told(bufpool_pin(backend->pool, buffer, true));
    must(pread(backend->file, pg_page(backend, buffer), PG_BLOCK, (off_t)block * PG_BLOCK) == PG_BLOCK, "pread");
    told(bufpool_unpin_for(backend->pool, buffer, true));
    descriptor->block = block;
    return buffer;
}

uint32_t pg_read(struct pg_backend *backend, uint32_t block)
{
    struct pg_shared *shared = backend->shared;
    uint32_t buffer = 0;
    pthread_mutex_lock(&shared->mapping);
    while (buffer < PG_BUFFERS && shared->buffers[buffer].block != block) {
        buffer++;
    }
    if (buffer < PG_BUFFERS) {
        pin(backend, buffer);
    } else {
        buffer = replace(backend, block); /* PostgreSQL reads without that lock */
    }
    pthread_mutex_unlock(&shared->mapping);
    return buffer;
}

void pg_release(struct pg_backend *backend, uint32_t buffer)
{
    pthread_mutex_lock(&backend->shared->mapping);
    unpin(backend, buffer);
    pthread_mutex_unlock(&backend->shared->mapping);
}

void pg_lock(struct pg_backend *backend, uint32_t buffer, bool write)
{
    struct pg_descriptor *descriptor = &backend->shared->buffers[buffer];
    if (!write) {
        pthread_rwlock_rdlock(&descriptor->content);
        return;
    }
    pthread_rwlock_wrlock(&descriptor->content);
    told(bufpool_pin(backend->pool, buffer, true)); /* until then it was read-only */
    descriptor->dirty = true;
}

void pg_unlock(struct pg_backend *backend, uint32_t buffer, bool write)
{
    if (write) {
        told(bufpool_unpin_for(backend->pool, buffer, true));
    }
    pthread_rwlock_unlock(&backend->shared->buffers[buffer].content);
}

void pg_checkpoint(struct pg_backend *backend)
{
    for (uint32_t buffer = 0; buffer < PG_BUFFERS; buffer++) {
        if (backend->shared->buffers[buffer].dirty) {
            write_back(backend, buffer);
        }
    }
}
