/* space.c: reserving and arming the pages' mapping, see space.h. */
#include "space.h"

#include "error.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Large enough that a pool has few mappings, small enough that guarding one takes well below a millisecond. */
#define CHUNK ((uint64_t)64 << 20)

static const struct bp_memory memories[] = {
    {"anon", false, false},
    {"shared", true, true},
};

/* "anon" over a mechanism that fills behind a closed mapping. */
static const struct bp_memory anon_from_file = {"anon", true, false};

static const struct bp_trap *const traps[] = {&bp_trap_uffd, &bp_trap_guard, &bp_trap_mprotect, &bp_trap_none};

const struct bp_memory *bp_memory_find(const char *name)
{
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++) {
        if (strcmp(memories[i].name, name) == 0) {
            return &memories[i];
        }
    }
    return NULL;
}

const struct bp_trap *bp_trap_find(const char *name)
{
    for (size_t i = 0; i < sizeof traps / sizeof *traps; i++) {
        if (strcmp(traps[i]->name, name) == 0) {
            return traps[i];
        }
    }
    return NULL;
}

const struct bp_trap *bp_trap_candidate(size_t n)
{
    return n < sizeof traps / sizeof *traps && traps[n]->traps ? traps[n] : NULL;
}

const char *bufpool_memory_name(size_t n)
{
    return n < sizeof memories / sizeof *memories ? memories[n].name : NULL;
}

const char *bufpool_trap_name(size_t n)
{
    return n < sizeof traps / sizeof *traps ? traps[n]->name : NULL;
}

const void *bp_fill_zeros;
const void *bp_fill_poison;

int bp_fill_prepare(void)
{
    static char poison[BP_GRANULE] __attribute__((aligned(BP_GRANULE)));
    if (bp_fill_zeros == NULL) {
        /* Never written, so all of it is the kernel's one page of zeros. */
        void *zeros;
        int code =
            bp_kernel_mmap(NULL, BP_FILL_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &zeros);
        if (code < 0) {
            return bp_error(code, "cannot map %zu bytes for a source of zeros: %s", BP_FILL_SIZE, strerror(-code));
        }
        memset(poison, BUFPOOL_POISON, sizeof poison);
        bp_fill_poison = poison;
        bp_fill_zeros = zeros;
    }
    return 0;
}

/* arm64 kernels may be built for pages of 16 or 64 KiB. */
static int check_os_page(void)
{
    long size = sysconf(_SC_PAGESIZE);
    if (size != BP_GRANULE) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "this kernel's pages have %ld bytes: bufpool takes kernels with pages of %d", size, BP_GRANULE);
    }
    return 0;
}

static int reserve(struct bp_space *space, const char *name)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (space->memory->file) {
        space->fd = bp_kernel_memfd(name, space->capacity);
        if (space->fd < 0) {
            return bp_error(space->fd, "cannot create a memfd of %llu bytes for pool \"%s\": %s%s",
                            (unsigned long long)space->capacity, name, strerror(-space->fd),
                            space->fd == -EFBIG ? " (see RLIMIT_FSIZE, ulimit -f)" : "");
        }
        flags = MAP_SHARED | MAP_NORESERVE;
    }
    void *base;
    /* Inaccessible at first: mlockall(MCL_FUTURE) would fill a writable mapping before it is armed, and
     * vm.overcommit_memory=2 would refuse it. */
    int code = bp_kernel_mmap(NULL, space->capacity, PROT_NONE, flags, space->fd, &base);
    if (code < 0) {
        return bp_error(code, "cannot reserve %llu bytes of addresses for pool \"%s\": %s (see RLIMIT_AS, ulimit -v)",
                        (unsigned long long)space->capacity, name, strerror(-code));
    }
    space->base = (uintptr_t)base;
    /* A core dump would walk, and on a file even fill, every hole. A forked child's copy would not be armed. */
    bp_kernel_madvise(base, space->capacity, MADV_DONTDUMP);
    bp_kernel_madvise(base, space->capacity, MADV_UNMERGEABLE);
    code = bp_kernel_madvise(base, space->capacity, MADV_DONTFORK);
    if (code < 0) {
        return bp_error(code, "cannot keep pool \"%s\" out of forked children: %s", name, strerror(-code));
    }
    return 0;
}

/* Opens the whole mapping, or prepares to open it chunk by chunk: because the mechanism works that way, or because the
 * system does not allow so much writable memory at once (vm.overcommit_memory=2). */
static int unlock(struct bp_space *space, const char *name)
{
    if (!space->stepwise) {
        int code = bp_kernel_mprotect((void *)space->base, space->capacity, PROT_READ | PROT_WRITE);
        if (code == 0) {
            return 0;
        }
        if (code != -ENOMEM) {
            return bp_error(code, "cannot make pool \"%s\" accessible: %s", name, strerror(-code));
        }
        space->stepwise = true;
    }
    space->chunk_count = (space->capacity + CHUNK - 1) / CHUNK;
    void *chunks;
    int code = bp_kernel_mmap(NULL, space->chunk_count, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &chunks);
    if (code < 0) {
        return bp_error(code, "cannot map %llu bytes of bookkeeping for pool \"%s\": %s",
                        (unsigned long long)space->chunk_count, name, strerror(-code));
    }
    space->chunks = chunks;
    return 0;
}

int bp_space_open(struct bp_space *space, const struct bp_memory *memory, const struct bp_trap *trap, uint64_t capacity,
                  bool lazy_zero, const char *name)
{
    *space = (struct bp_space){.capacity = capacity,
                               .granule = BP_GRANULE,
                               .memory = trap->needs_file && !memory->file ? &anon_from_file : memory,
                               .trap = trap,
                               .fd = -1,
                               .uffd = -1,
                               .lazy_zero = lazy_zero};
    int code = check_os_page();
    if (code == 0) {
        code = bp_fill_prepare();
    }
    if (code == 0) {
        code = reserve(space, name);
    }
    if (code == 0) {
        code = trap->arm(space);
    }
    if (code == 0) {
        code = unlock(space, name);
    }
    if (code < 0) {
        bp_space_destroy(space);
    }
    return code;
}

void bp_space_close(struct bp_space *space)
{
    if (space->base != 0) {
        void *base = (void *)space->base;
        void *same;
        /* One step from armed to inaccessible: no moment at which a stray access finds zeros. */
        int code = bp_kernel_mmap(base, space->capacity, PROT_NONE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, &same);
        if (code == 0) {
            bp_kernel_madvise(base, space->capacity, MADV_DONTDUMP);
            bp_kernel_madvise(base, space->capacity, MADV_DONTFORK);
        } else { /* RLIMIT_AS refuses even this mapping: close and empty the one that is there */
            bp_kernel_mprotect(base, space->capacity, PROT_NONE);
            bp_kernel_discard(base, space->capacity);
        }
    }
    bp_stash_close(&space->stash);
    if (space->uffd >= 0) {
        bp_kernel_close(space->uffd);
        space->uffd = -1;
    }
    if (space->fd >= 0) {
        bp_kernel_punch(space->fd, 0, space->capacity); /* a forked child may hold the file open */
        bp_kernel_close(space->fd);
        space->fd = -1;
    }
    if (space->chunks != NULL) {
        bp_kernel_munmap((void *)space->chunks, space->chunk_count);
        space->chunks = NULL;
    }
}

void bp_space_destroy(struct bp_space *space)
{
    void *base = (void *)space->base;
    space->base = 0;
    if (base != NULL) {
        bp_kernel_munmap(base, space->capacity);
    }
    bp_space_close(space);
}

static int open_chunk(struct bp_space *space, uint64_t chunk)
{
    enum { CLOSED, OPENING, OPEN };
    uint64_t start = chunk * CHUNK;
    uint64_t length = space->capacity - start < CHUNK ? space->capacity - start : CHUNK;
    /* Bounded, because a signal handler may have interrupted the very thread that opens the chunk. */
    for (int patience = 0; patience < 10000; patience++) {
        uint8_t seen = CLOSED;
        if (atomic_compare_exchange_strong(&space->chunks[chunk], &seen, OPENING)) {
            int code = space->trap->open_chunk(space, space->base + start, length);
            atomic_store(&space->chunks[chunk], code == 0 ? OPEN : CLOSED);
            return code;
        }
        if (seen == OPEN) {
            return 0;
        }
        bp_kernel_sleep_ns(100000);
    }
    return -EAGAIN;
}

int bp_space_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    *done = 0;
    if (space->stepwise) {
        for (uint64_t chunk = (address - space->base) / CHUNK; chunk * CHUNK < address + length - space->base;
             chunk++) {
            int code =
                atomic_load_explicit(&space->chunks[chunk], memory_order_acquire) == 2 ? 0 : open_chunk(space, chunk);
            if (code < 0) {
                return code;
            }
        }
    }
    return space->trap->populate(space, address, length, data, done);
}

int bp_space_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    return space->trap->zap(space, ranges, count, done);
}

const char *bp_space_backing(const struct bp_space *space)
{
    return space->memory->file ? "memfd" : "private anonymous";
}

const char *bp_space_hint(const struct bp_space *space, int code)
{
    return space->trap == &bp_trap_mprotect && code == -ENOMEM ? ", or no mapping left (vm.max_map_count)" : "";
}
