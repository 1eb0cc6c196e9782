/*
 * layer_own.c: the pool of an engine that has no bufpool: mmap, a stack of free numbers.
 *
 * What is closed (free, evicted, unpinned, in the gap between two pages) is closed by HIDE:
 *
 *   HIDE_NONE      not at all; pages lie side by side, and a freed number is the next to be used
 *   HIDE_MPROTECT  mprotect()
 *   HIDE_POISON    ASAN_POISON_MEMORY_REGION
 *   HIDE_REQUESTS  Valgrind's client requests: of a memory pool for what is allocated and freed, by which Valgrind knows
 *                  who freed it, and refuses what is not allocated
 *
 * Whoever hides pages by hand, and with care, leaves gaps and lets freed numbers rest, too: then it is the detectors that
 * are compared. DETECTION_PINS=write leaves unpinned pages readable, DETECTION_PINS=off leaves them open.
 */
#include "layer_own.h"
#include "layer.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#if HIDE == HIDE_POISON
#include <sanitizer/asan_interface.h>
#elif HIDE == HIDE_REQUESTS
#include <valgrind/memcheck.h>
#endif

#define GAP (HIDE == HIDE_NONE ? 0 : PAGE)
#define RESTING (HIDE == HIDE_NONE ? 0 : 16384) /* numbers that rest at most: as many as in bufpool's test preset */

enum rights { NOTHING, READING, WRITING };

struct slot {
    bool here;  /* it has a frame */
    bool fresh; /* nobody has had it for writing yet */
    uint32_t reads;
    uint32_t writes;
};

struct layer {
    char *base;
    uint64_t pages;
    int fd; /* -1: private */
    bool attached;
    enum rights unpinned; /* what an unpinned page is open for */
    struct slot *slots;
    uint64_t *free_numbers;
    uint64_t free_count;
    uint64_t *resting; /* a ring */
    uint64_t resting_first;
    uint64_t resting_count;
    pthread_mutex_t mutex;
};

static uint64_t stride(void)
{
    return PAGE + GAP;
}

static uint64_t length(const struct layer *pool)
{
    return pool->pages * stride() + GAP;
}

char *layer_at(struct layer *pool, uint64_t page)
{
    return pool->base + GAP + page * stride();
}

static void hide(char *at, size_t size, enum rights rights, bool fresh)
{
    (void)at, (void)size, (void)rights, (void)fresh;
#if HIDE == HIDE_MPROTECT
    MUST(mprotect(at, size,
                  rights == NOTHING   ? PROT_NONE
                  : rights == READING ? PROT_READ
                                      : PROT_READ | PROT_WRITE) == 0);
#elif HIDE == HIDE_POISON
    if (rights == NOTHING) {
        ASAN_POISON_MEMORY_REGION(at, size);
    } else {
        ASAN_UNPOISON_MEMORY_REGION(at, size);
    }
#elif HIDE == HIDE_REQUESTS
    if (rights == NOTHING) {
        VALGRIND_MAKE_MEM_NOACCESS(at, size);
    } else if (fresh) {
        VALGRIND_MAKE_MEM_UNDEFINED(at, size);
    } else {
        VALGRIND_MAKE_MEM_DEFINED(at, size);
    }
#endif
}

/* What Valgrind is told besides. */
enum event { OPEN, CLOSE, ALLOCATE, FREE };

static void tell(const struct layer *pool, enum event event, char *at)
{
    (void)pool, (void)event, (void)at;
#if HIDE == HIDE_REQUESTS
    switch (event) {
    case OPEN:
        VALGRIND_CREATE_MEMPOOL(pool->base, 0, 0);
        break;
    case CLOSE:
        VALGRIND_DESTROY_MEMPOOL(pool->base);
        break;
    case ALLOCATE:
        VALGRIND_MEMPOOL_ALLOC(pool->base, at, PAGE);
        break;
    case FREE:
        if (!pool->attached) { /* the one that opened the pool allocates */
            VALGRIND_MEMPOOL_FREE(pool->base, at);
        }
        break;
    }
#endif
}

static enum rights rights_of(const struct layer *pool, const struct slot *slot)
{
    if (slot->writes > 0) {
        return WRITING;
    }
    enum rights rights = slot->here ? pool->unpinned : NOTHING;
    return rights < READING && slot->reads > 0 ? READING : rights;
}

static void apply(struct layer *pool, uint64_t page)
{
    hide(layer_at(pool, page), PAGE, rights_of(pool, &pool->slots[page]), pool->slots[page].fresh);
}

static struct layer *make(uint64_t pages, int fd, bool attached)
{
    struct layer *pool = calloc(1, sizeof *pool);
    MUST(pool != NULL);
    const char *pins = getenv("DETECTION_PINS");
    *pool = (struct layer){.pages = pages,
                           .fd = fd,
                           .attached = attached,
                           .unpinned = pins == NULL || strcmp(pins, "all") == 0 ? NOTHING
                                       : strcmp(pins, "write") == 0             ? READING
                                                                                : WRITING,
                           .mutex = PTHREAD_MUTEX_INITIALIZER};
    pool->base =
        mmap(NULL, length(pool), PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    pool->slots = calloc(pages, sizeof *pool->slots);
    pool->free_numbers = calloc(pages, sizeof *pool->free_numbers);
    pool->resting = calloc(pages, sizeof *pool->resting);
    MUST(pool->base != MAP_FAILED && pool->slots != NULL && pool->free_numbers != NULL && pool->resting != NULL);
    hide(pool->base, length(pool), NOTHING, false);
    tell(pool, OPEN, NULL);
    while (pool->free_count < pages) {
        pool->free_numbers[pool->free_count] = pages - 1 - pool->free_count;
        pool->free_count++;
    }
    return pool;
}

struct layer *layer_open(const char *name, uint64_t pages, bool shared)
{
    int fd = shared ? memfd_create(name, MFD_CLOEXEC) : -1;
    MUST(!shared || (fd >= 0 && ftruncate(fd, (off_t)(pages * stride() + GAP)) == 0));
    return make(pages, fd, false);
}

/* As munmap() leaves it; the detectors know of that themselves. */
void layer_close(struct layer *pool)
{
    tell(pool, CLOSE, NULL);
    hide(pool->base, length(pool), WRITING, true); /* what is mapped there next is nobody's of ours */
    MUST(munmap(pool->base, length(pool)) == 0);
    if (pool->fd >= 0) {
        close(pool->fd);
    }
    free(pool->slots);
    free(pool->free_numbers);
    free(pool->resting);
    free(pool);
}

void layer_send(struct layer *pool, int socket)
{
    struct iovec part = {&pool->pages, sizeof pool->pages};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(header), &pool->fd, sizeof(int));
    MUST(sendmsg(socket, &message, 0) == sizeof pool->pages);
}

struct layer *layer_receive(int socket)
{
    uint64_t pages = 0;
    struct iovec part = {&pages, sizeof pages};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    MUST(recvmsg(socket, &message, 0) == sizeof pages);
    int fd;
    MUST(CMSG_FIRSTHDR(&message) != NULL);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return make(pages, fd, true);
}

/* Its numbers are those of the process that opened the pool: here they come and go without notice. */
static struct slot *slot_of(struct layer *pool, uint64_t page)
{
    MUST(page < pool->pages);
    struct slot *slot = &pool->slots[page];
    slot->here = slot->here || pool->attached;
    return slot;
}

uint64_t layer_allocate(struct layer *pool)
{
    pthread_mutex_lock(&pool->mutex);
    if (pool->free_count == 0) {
        MUST(pool->resting_count > 0);
        pool->free_numbers[pool->free_count++] = pool->resting[pool->resting_first];
        pool->resting_first = (pool->resting_first + 1) % pool->pages;
        pool->resting_count--;
    }
    uint64_t page = pool->free_numbers[--pool->free_count];
    pool->slots[page] = (struct slot){.here = true, .fresh = true};
    tell(pool, ALLOCATE, layer_at(pool, page));
    apply(pool, page);
    pthread_mutex_unlock(&pool->mutex);
    return page;
}

static void zap(struct layer *pool, uint64_t page)
{
    struct slot *slot = slot_of(pool, page);
    *slot = (struct slot){0};
    if (pool->fd < 0) {
        MUST(madvise(layer_at(pool, page), PAGE, MADV_DONTNEED) == 0);
    } else {
        MUST(fallocate(pool->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, layer_at(pool, page) - pool->base, PAGE) ==
             0);
    }
    apply(pool, page);
}

/* As in many an engine, nothing is checked: the caller knows what is free. */
int layer_free(struct layer *pool, uint64_t page)
{
    pthread_mutex_lock(&pool->mutex);
    tell(pool, FREE, layer_at(pool, page));
    zap(pool, page);
    uint64_t most = RESTING < pool->pages ? RESTING : pool->pages;
    if (pool->resting_count + pool->free_count >= pool->pages) { /* freed twice: no room for it */
        pthread_mutex_unlock(&pool->mutex);
        return 0;
    }
    if (most == 0) {
        pool->free_numbers[pool->free_count++] = page;
    } else {
        if (pool->resting_count == most) {
            pool->free_numbers[pool->free_count++] = pool->resting[pool->resting_first];
            pool->resting_first = (pool->resting_first + 1) % pool->pages;
            pool->resting_count--;
        }
        pool->resting[(pool->resting_first + pool->resting_count++) % pool->pages] = page;
    }
    pthread_mutex_unlock(&pool->mutex);
    return 0;
}

int layer_evict(struct layer *pool, uint64_t page)
{
    pthread_mutex_lock(&pool->mutex);
    zap(pool, page);
    pthread_mutex_unlock(&pool->mutex);
    return 0;
}

int layer_populate(struct layer *pool, uint64_t page, const void *data, size_t size)
{
    pthread_mutex_lock(&pool->mutex);
    hide(layer_at(pool, page), PAGE, WRITING, false);
    memcpy(layer_at(pool, page), data, size);
    pool->slots[page] = (struct slot){.here = true};
    apply(pool, page);
    pthread_mutex_unlock(&pool->mutex);
    return 0;
}

int layer_pin(struct layer *pool, uint64_t page, bool write)
{
    pthread_mutex_lock(&pool->mutex);
    struct slot *slot = slot_of(pool, page);
    enum rights before = rights_of(pool, slot);
    slot->reads += !write;
    slot->writes += write;
    if (rights_of(pool, slot) != before) {
        apply(pool, page);
    }
    slot->fresh = slot->fresh && !write;
    pthread_mutex_unlock(&pool->mutex);
    return 0;
}

/* A count of 0 stays: engines assert that, or do not. */
int layer_unpin(struct layer *pool, uint64_t page)
{
    pthread_mutex_lock(&pool->mutex);
    struct slot *slot = slot_of(pool, page);
    enum rights before = rights_of(pool, slot);
    if (slot->reads > 0) {
        slot->reads--;
    } else if (slot->writes > 0) {
        slot->writes--;
    }
    if (rights_of(pool, slot) != before) {
        apply(pool, page);
    }
    pthread_mutex_unlock(&pool->mutex);
    return 0;
}

int layer_file(struct layer *pool, uint64_t page, off_t *offset)
{
    *offset = layer_at(pool, page) - pool->base;
    return pool->fd;
}

bool layer_explain(const void *at, size_t size)
{
    (void)at, (void)size;
    return false;
}

void layer_pattern(const void *at, size_t size)
{
    (void)at, (void)size;
}

void layer_mark(struct layer *pool, uint64_t page, bool clean)
{
    (void)pool, (void)page, (void)clean;
}

void layer_audit(struct layer *pool)
{
    (void)pool;
}
