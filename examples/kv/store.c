/* store.c: see store.h. */
#include "store.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

static void use(struct kv_store *store)
{
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    bufpool_stats(store->pool, &statistics);
    store->meta = bufpool_address(store->pool, 0);
    store->pages = statistics.pages;
    store->restarts = 0;
}

int kv_create(struct kv_store *store, uint64_t capacity)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = capacity;
    config.page_size = KV_PAGE_SIZE;
    config.memory = "shared";
    config.trap = "uffd";
    config.name = "kv";
    config.fork = "exclude";
    int code = bufpool_open(&config, &store->pool);
    if (code < 0) {
        return code;
    }
    code = bufpool_allocate_at(store->pool, 0, NULL, 0);
    if (code < 0) {
        bufpool_close(store->pool);
        return code;
    }
    use(store);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&store->meta->latch, &attributes);
    pthread_mutexattr_destroy(&attributes);
    store->meta->next = 1;
    return 0;
}

int kv_attach(struct kv_store *store, const bufpool_handle *handle)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.fork = "exclude";
    int code = bufpool_attach(&config, handle, &store->pool);
    if (code == 0) {
        use(store);
    }
    return code;
}

/* ---- Changes ---- */

static bool is_allocated(const struct kv_store *store, uint64_t page)
{
    bufpool_state state;
    return bufpool_page_state(store->pool, page, &state) == 0 && state == BUFPOOL_STATE_ALLOCATED;
}

/* Frees what is not freed yet. A process that was killed amid that very free may be on its way out still: then the page
 * is refused until it is gone. */
static int free_if_allocated(struct kv_store *store, uint64_t page)
{
    int code = 0;
    for (int patience = 0; patience < 5000 && is_allocated(store, page); patience++) {
        code = bufpool_free(store->pool, page);
        if (code != BUFPOOL_ESTATE) {
            return code;
        }
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return is_allocated(store, page) ? code : 0;
}

/* Frees what the change has replaced, if it was published, else what it has allocated. May be repeated: nothing is
 * allocated before it is through. */
static int settle(struct kv_store *store)
{
    struct kv_meta *meta = store->meta;
    bool published = KV_VERSION_OF(atomic_load(&meta->root)) == atomic_load(&meta->version);
    const uint64_t *pages = published ? meta->old : meta->fresh;
    uint32_t count = atomic_load(published ? &meta->old_count : &meta->fresh_count);
    int code = 0;
    for (uint32_t i = 0; i < count && code == 0; i++) {
        code = free_if_allocated(store, pages[i]);
    }
    if (code == 0) {
        atomic_store(&meta->fresh_count, 0);
        atomic_store(&meta->old_count, 0);
    }
    return code;
}

/* The latch's last owner was killed. */
static int recover(struct kv_store *store)
{
    struct kv_meta *meta = store->meta;
    bool amid = atomic_load(&meta->fresh_count) + atomic_load(&meta->old_count) > 0;
    bool published = KV_VERSION_OF(atomic_load(&meta->root)) == atomic_load(&meta->version);
    int code = settle(store);
    if (code == 0) {
        atomic_fetch_add(!amid ? &meta->idle : published ? &meta->finished : &meta->undone, 1);
        pthread_mutex_consistent(&meta->latch);
    }
    return code;
}

/* A waiter that is killed when it has just been woken takes the wake with it, and with glibc's robust mutexes nobody is
 * told: so the others look again from time to time. */
static int take_latch(pthread_mutex_t *latch)
{
    int error;
    do {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        error = pthread_mutex_timedlock(latch, &until);
    } while (error == ETIMEDOUT);
    return error;
}

int kv_begin(struct kv_store *store)
{
    struct kv_meta *meta = store->meta;
    int error = take_latch(&meta->latch);
    if (error != 0 && error != EOWNERDEAD) {
        return -error;
    }
    int code = error == EOWNERDEAD ? recover(store) : 0;
    if (code < 0) {
        pthread_mutex_unlock(&meta->latch); /* and ENOTRECOVERABLE to whoever comes */
        return code;
    }
    atomic_store(&meta->version, KV_VERSION_OF(atomic_load(&meta->root)) + 1);
    return 0;
}

int kv_page_new(struct kv_store *store, const void *content, uint64_t *page)
{
    struct kv_meta *meta = store->meta;
    uint32_t count = atomic_load(&meta->fresh_count);
    int code = BUFPOOL_EEXHAUSTED;
    for (uint64_t tried = 1; tried < store->pages; tried++) {
        uint64_t number = meta->next;
        meta->next = number + 1 < store->pages ? number + 1 : 1;
        if (is_allocated(store, number)) {
            continue;
        }
        /* Noted before it is allocated: so the number is ours to choose. */
        meta->fresh[count] = number;
        atomic_store(&meta->fresh_count, count + 1);
        code = bufpool_allocate_at(store->pool, number, content, KV_PAGE_SIZE);
        if (code != BUFPOOL_ESTATE) { /* as when a process that was killed amid a call on it is not yet gone */
            *page = number;
            return code;
        }
        atomic_store(&meta->fresh_count, count);
    }
    return code;
}

void kv_page_old(struct kv_store *store, uint64_t page)
{
    struct kv_meta *meta = store->meta;
    uint32_t count = atomic_load(&meta->old_count);
    meta->old[count] = page;
    atomic_store(&meta->old_count, count + 1);
}

static int end(struct kv_store *store)
{
    int code = settle(store);
    pthread_mutex_unlock(&store->meta->latch);
    return code;
}

int kv_commit(struct kv_store *store, uint64_t root_page)
{
    atomic_store(&store->meta->root, KV_ROOT(atomic_load(&store->meta->version), root_page));
    return end(store);
}

int kv_undo(struct kv_store *store)
{
    return end(store);
}
