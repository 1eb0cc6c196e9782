/* space.c: reserving and arming the pages' mapping, see space.h. */
#include "space.h"

#include "error.h"
#include "fillers.h"
#include "source.h"
#include "thread.h"
#include "trap_adopted.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Large enough that a pool has few mappings, small enough that guarding one takes well below a millisecond. */
#define CHUNK ((uint64_t)64 << 20)

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

/* What every mapping of the pool's memory has. On an error *step says what was refused. Async-signal-safe. */
enum step { TO_MAP, TO_KEY, TO_KEEP_FROM_FORKS, TO_LOCK, TO_BIND };

static int dress(const struct bp_space *space, void *address, size_t length, enum step *step)
{
    if (!(space->flags & BUFPOOL_DUMP)) { /* a core dump would walk, and on a file even fill, every hole */
        bp_kernel_madvise(address, length, MADV_DONTDUMP);
    }
    bp_kernel_madvise(address, length, MADV_UNMERGEABLE);
    if (space->memory->thp) {
        bp_kernel_madvise(address, length, MADV_HUGEPAGE); /* without a trap, pages are huge by fault */
    }
    int code = 0;
    if (space->key > 0) {
        *step = TO_KEY;
        code = bp_kernel_key_protect(address, length, PROT_NONE, space->key);
    }
    if (code == 0) {
        *step = TO_KEEP_FROM_FORKS;
        code = bp_kernel_madvise(address, length, MADV_DONTFORK); /* a child's copy would not be armed */
    }
    /* Huge pages of hugetlbfs are never swapped, and mlock2 knows no ONFAULT for them: it would fill every hole. */
    if (code == 0 && space->flags & BUFPOOL_LOCK && !space->memory->hugetlb) {
        *step = TO_LOCK;
        code = bp_kernel_lock(address, length);
    }
    if (code == 0) {
        *step = TO_BIND;
        code = bp_numa_apply(&space->numa, address, length);
    }
    return code;
}

static int map(struct bp_space *space, uintptr_t address, size_t length, uintptr_t *place, enum step *step)
{
    int flags = (space->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_NORESERVE;
    uint64_t offset = address == 0 || space->fd < 0 ? 0 : address - space->base;
    void *mapped;
    *step = TO_MAP;
    if (space->fd >= 0 && !bp_kernel_is_kept(space->fd)) {
        return -EBADF;
    }
    /* Inaccessible at first: mlockall(MCL_FUTURE) would fill a writable mapping before it is armed, and
     * vm.overcommit_memory=2 would refuse it. */
    int code = bp_kernel_mmap_file((void *)address, length, PROT_NONE, flags | (address != 0 ? MAP_FIXED : 0),
                                   space->fd, offset, &mapped);
    if (code == 0) {
        *place = (uintptr_t)mapped;
        code = dress(space, mapped, length, step);
    }
    return code;
}

int bp_space_map(struct bp_space *space, uintptr_t address, size_t length, uintptr_t *place)
{
    enum step step;
    return map(space, address, length, place, &step);
}

static unsigned long long lock_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? limit.rlim_cur : 0;
}

static int map_error(const struct bp_space *space, int code, enum step step, const char *name)
{
    unsigned long long capacity = space->capacity;
    switch (step) {
    case TO_KEY:
        return bp_error(code, "cannot give pool \"%s\" its memory protection key: %s", name, strerror(-code));
    case TO_KEEP_FROM_FORKS:
        return bp_error(code, "cannot keep pool \"%s\" out of forked children: %s", name, strerror(-code));
    case TO_LOCK:
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "cannot lock %llu bytes in memory: %s; RLIMIT_MEMLOCK is %llu bytes, and a pool's whole capacity "
            "counts against it: raise it (ulimit -l), or give the process CAP_IPC_LOCK",
            capacity, strerror(-code), lock_limit());
    case TO_BIND:
        return bp_numa_error(code);
    default:
        return bp_error(code, "cannot reserve %llu bytes of addresses for pool \"%s\": %s (see %s)", capacity, name,
                        strerror(-code), code == -EAGAIN ? "RLIMIT_MEMLOCK, ulimit -l" : "RLIMIT_AS, ulimit -v");
    }
}

/* Reserves addresses if nobody has them: -EEXIST. */
static int take_place(uintptr_t base, uint64_t capacity)
{
    void *place;
    int code = bp_kernel_mmap((void *)base, capacity, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, &place);
    if (code == 0 && (uintptr_t)place != base) { /* before Linux 4.17 the flag is not known */
        bp_kernel_munmap(place, capacity);
        code = -EEXIST;
    }
    return code;
}

/* Maps the whole space, at base unless that is 0; huge granules begin at a multiple of their size, as the kernel sees to
 * for hugetlbfs. */
static int map_all(struct bp_space *space, uintptr_t base, const char *name)
{
    size_t extra = space->memory->thp ? space->granule : 0;
    void *room = NULL;
    int code = extra == 0 ? 0
                          : bp_kernel_mmap(NULL, space->capacity + extra, PROT_NONE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &room);
    uintptr_t from = (uintptr_t)room;
    uintptr_t place = extra == 0 ? 0 : (from + extra - 1) & ~(uintptr_t)(extra - 1);
    if (code == 0 && extra > 0) {
        if (place > from) {
            bp_kernel_munmap(room, place - from);
        }
        if (from + extra > place) {
            bp_kernel_munmap((void *)(place + space->capacity), from + extra - place);
        }
        space->base = place;
    }
    enum step step = TO_MAP;
    if (base != 0) {
        code = take_place(base, space->capacity);
        place = space->base = code == 0 ? base : 0; /* else it is somebody's, and not to be unmapped */
    }
    if (code == 0) {
        code = map(space, place, space->capacity, &space->base, &step);
    }
    if (code == -EEXIST) {
        return bp_error(code, "the address %#llx of pool \"%s\" is taken in this process, at least in part",
                        (unsigned long long)base, name);
    }
    return code == 0 ? 0 : map_error(space, code, step, name);
}

static int prepare(const struct bp_wish *wish)
{
    int code = check_os_page();
    if (code == 0) {
        code = bp_fill_prepare();
    }
    if (code == 0 && wish->granule > BP_GRANULE) {
        code = bp_fill_prepare_file();
    }
    return code;
}

/* What hugetlb takes is not counted by the controller of memory. */
static void find_headroom(struct bp_space *space)
{
    if (space->flags & BUFPOOL_CHECK_HEADROOM && !space->memory->hugetlb) {
        int found = bp_headroom_open(&space->headroom);
        if (found <= 0) {
            bp_space_note(space, "check_headroom: %s",
                          found < 0 ? strerror(-found) : "no memory cgroup has a limit here");
        }
    }
}

int bp_space_reserve(struct bp_space *space, const struct bp_wish *wish, const struct bp_trap *trap)
{
    *space = (struct bp_space){.capacity = wish->capacity,
                               .granule = wish->granule,
                               /* The file has to have what is to be hidden. */
                               .flags = wish->flags & ~(wish->unpinned == BP_OPEN_NONE ? BUFPOOL_LAZY_ZERO : 0u),
                               /* Of hidden pages the descriptor would have to tell much more. */
                               .sleep = trap == &bp_trap_uffd && wish->unpinned == BP_OPEN_WRITE && !wish->tracked
                                            ? wish->sleep
                                            : BP_SLEEP_NEVER,
                               .unpinned = wish->unpinned,
                               .tracked = wish->tracked,
                               .key = wish->key,
                               .memory = bp_memory_for(wish->memory, trap, wish->unpinned == BP_OPEN_NONE),
                               .trap = trap,
                               .fd = -1,
                               .uffd = -1,
                               .gauge = -1,
                               .family = wish->memory->file && !trap->needs_file,
                               .numa = wish->numa,
                               .thp = {.pagemap = -1},
                               .chunk = wish->granule > CHUNK ? wish->granule : CHUNK};
    int code = prepare(wish);
    if (code == 0) {
        code = bp_numa_resolve(&space->numa, wish->numa_text, space->note, sizeof space->note);
    }
    if (code == 0 && space->memory->file) {
        code = bp_source_open(space, wish);
    }
    if (code == 0) {
        code = map_all(space, wish->base, wish->name);
    }
    if (code == 0 && wish->guest < 0) {
        code = bp_source_reserve(space);
    }
    if (code < 0) {
        bp_source_discard(space, wish);
        bp_space_destroy(space);
    } else {
        find_headroom(space);
    }
    return code;
}

int bp_space_adopt(struct bp_space *space, const struct bp_wish *wish, const struct bp_trap *trap)
{
    *space = (struct bp_space){.base = wish->base,
                               .capacity = wish->capacity,
                               .granule = wish->granule,
                               .flags = wish->flags,
                               .unpinned = wish->unpinned,
                               .memory = wish->memory,
                               .trap = trap,
                               .fd = -1,
                               .uffd = -1,
                               .gauge = -1,
                               .adopted = true,
                               .backing = wish->backing,
                               .thp = {.pagemap = -1}};
    int code = prepare(wish);
    if (code == 0) {
        code = trap->arm(space);
    }
    if (code < 0) {
        bp_space_close(space);
    } else {
        find_headroom(space);
    }
    return code;
}

/* Opens the whole mapping, or prepares to open it chunk by chunk: because the mechanism works that way, or because the
 * system does not allow so much writable memory at once (vm.overcommit_memory=2). */
static int unlock(struct bp_space *space, const char *name)
{
    if (!space->stepwise) {
        int code = space->trap->open_chunk(space, space->base, space->capacity);
        if (code == 0) {
            return 0;
        }
        if (code != -ENOMEM) {
            return bp_error(code, "cannot make pool \"%s\" accessible: %s", name, strerror(-code));
        }
        space->stepwise = true;
    }
    space->chunk_count = (space->capacity + space->chunk - 1) / space->chunk;
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

/* The kernel itself tries to read a hole. */
static bool traps_at(const struct bp_space *space, uintptr_t address)
{
    if (space->sleep != BP_SLEEP_ALL) {
        return !bp_kernel_readable((const void *)address);
    }
    /* The kernel would sleep, too. What can be poisoned is registered, and a hole. */
    size_t size = space->memory->hugetlb ? space->granule : BP_GRANULE;
    return bp_kernel_uffd_poison(space->uffd, address, size) == 0 && bp_kernel_discard((void *)address, size) == 0;
}

int bp_space_verify(const struct bp_space *space, uintptr_t address)
{
    if (space->trap->traps && !traps_at(space, address)) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "trap %s was armed on memory \"%s\", and a hole can be read all the same",
                        space->trap->name, space->memory->name);
    }
    return 0;
}

enum { CLOSED, OPENING, OPEN }; /* a chunk */

static uint64_t chunk_length(const struct bp_space *space, uint64_t start)
{
    return space->capacity - start < space->chunk ? space->capacity - start : space->chunk;
}

static int open_chunk(struct bp_space *space, uint64_t chunk)
{
    uint64_t start = chunk * space->chunk;
    uint64_t length = chunk_length(space, start);
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

static int open_chunks(struct bp_space *space, uintptr_t address, size_t length)
{
    int code = 0;
    for (uint64_t chunk = (address - space->base) / space->chunk;
         code == 0 && chunk * space->chunk < address + length - space->base; chunk++) {
        code = atomic_load_explicit(&space->chunks[chunk], memory_order_acquire) == OPEN ? 0 : open_chunk(space, chunk);
    }
    return code;
}

static int try_vault(struct bp_space *space)
{
    int code = bp_vault_try(space);
    return code == 0 ? 0
                     : bp_error(BUFPOOL_EUNSUPPORTED,
                                "pins \"all\" closes pages of memory \"%s\" by moving their frames (UFFDIO_MOVE), "
                                "which is refused (%s): it takes Linux 6.8 or newer, or pins \"write\" or \"count\"",
                                space->memory->name, strerror(-code));
}

int bp_space_arm(struct bp_space *space, const struct bp_wish *wish)
{
    int code = space->trap->arm(space);
    if (code == 0) {
        code = unlock(space, wish->name);
    }
    if (code == 0 && !space->stepwise && wish->guest < 0) { /* of a guest's it is not known which are holes */
        code = bp_space_verify(space, space->base);
    }
    if (code == 0 && space->memory->thp && space->uffd >= 0) {
        code = space->stepwise ? open_chunks(space, space->base, space->granule) : 0; /* where it is tried out */
        if (code == 0) {
            code = space->vault.base == 0 ? 0 : try_vault(space);
        } else {
            bp_error(code, "cannot make the first page of pool \"%s\" accessible: %s", wish->name, strerror(-code));
        }
        if (code == 0) {
            bp_thp_open(space);
        }
    }
    if (code < 0) {
        bp_source_discard(space, wish);
        bp_space_destroy(space);
    }
    return code;
}

void bp_space_seal(struct bp_space *space)
{
    void *base = (void *)space->base;
    void *same;
    /* One step from armed to inaccessible: no moment at which a stray access finds zeros. */
    int code = bp_kernel_mmap(base, space->capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                              -1, &same);
    if (code == 0) {
        bp_kernel_madvise(base, space->capacity, MADV_DONTDUMP);
        bp_kernel_madvise(base, space->capacity, MADV_DONTFORK);
    } else { /* RLIMIT_AS refuses even this mapping: close and empty the one that is there */
        bp_kernel_mprotect(base, space->capacity, PROT_NONE);
        bp_kernel_discard(base, space->capacity);
    }
}

bool bp_space_check(struct bp_space *space)
{
    bool whole = (space->uffd < 0 || bp_kernel_is_kept(space->uffd)) && (space->fd < 0 || bp_kernel_is_kept(space->fd));
    if (!whole && !atomic_exchange(&space->orphaned, true)) {
        if (space->adopted) {
            bp_adopted_give_back(space); /* the program needs it; and the calls say that it is trapped no more */
        } else {
            bp_space_seal(space);
        }
    }
    return whole;
}

void bp_space_close(struct bp_space *space)
{
    if (space->adopted) {
        bp_adopted_give_back(space);
    } else if (space->base != 0) {
        bp_space_seal(space);
    }
    bp_staging_seal(&space->staging);
    bp_stash_close(&space->stash);
    bp_thp_close(space);
    bp_vault_close(&space->vault);
    if (space->uffd >= 0) {
        bp_kernel_close_kept(space->uffd);
        space->uffd = -1;
    }
    if (space->fd >= 0) {
        if (bp_kernel_is_kept(space->fd)) {
            bp_source_empty(space);
        }
        bp_kernel_close_kept(space->fd);
        space->fd = -1;
    }
    if (space->gauge >= 0) {
        bp_kernel_close_kept(space->gauge);
        space->gauge = -1;
    }
    bp_headroom_close(&space->headroom);
    if (space->chunks != NULL) {
        bp_kernel_munmap((void *)space->chunks, space->chunk_count);
        space->chunks = NULL;
    }
    if (space->key > 0) { /* last: no mapping has it any more */
        bp_kernel_key_free(space->key);
        space->key = 0;
    }
}

void bp_space_destroy(struct bp_space *space)
{
    void *base = space->adopted ? NULL : (void *)space->base;
    space->base = space->adopted ? space->base : 0;
    if (base != NULL) {
        bp_kernel_munmap(base, space->capacity);
    }
    bp_space_close(space);
}

/* Is the file shorter than the pool? */
static bool is_truncated(const struct bp_space *space)
{
    uint64_t length;
    uint64_t frames;
    return space->memory->path && bp_kernel_file_size(space->fd, &length, &frames) == 0 && length < space->capacity;
}

/* A frame that is taken away takes its reservation with it. */
static void reserve_again(struct bp_space *space, uintptr_t address, size_t length)
{
    if (space->flags & BUFPOOL_RESERVE && length > 0 &&
        bp_source_reserve_range(space, address - space->base, length) < 0) {
        atomic_fetch_add(&space->reserve_lost, length / space->granule);
    }
}

/* Does populating write to the file by its number, which had better not be the host's by now? */
static bool changes_file(const struct bp_space *space)
{
    return space->fd >= 0 && (space->uffd < 0 || space->memory->hugetlb || space->unpinned == BP_OPEN_NONE);
}

static int populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    if (changes_file(space) && !bp_space_check(space)) {
        return -EBADF;
    }
    int code = space->stepwise ? open_chunks(space, address, length) : 0;
    if (code == 0 && (atomic_load_explicit(&space->torn, memory_order_relaxed) ||
                      atomic_load_explicit(&space->poisoned, memory_order_relaxed) > 0)) {
        code = bp_space_restore(space, address, length);
        if (code == 0 && space->vault.base != 0) {
            code = bp_space_restore(space, bp_vault_home(space, address), length);
        }
    }
    if (code == 0) {
        bp_thread.fills++;
        code = space->trap->populate(space, address, length, data, done);
        bp_thread.fills--;
    }
    if (code < 0) { /* what was filled and taken back again; *done is zapped by the caller */
        reserve_again(space, address + *done, length - *done);
        bp_space_check(space);
    }
    return code;
}

int bp_space_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    *done = 0;
    if (is_truncated(space)) {
        return -ESTALE;
    }
    if (bp_source_lacks(space, length)) {
        return -ENOMEM;
    }
    int code = bp_headroom_take(&space->headroom, length);
    if (code == 0) {
        code = populate(space, address, length, data, done);
        bp_headroom_settle(&space->headroom, length);
    }
    return code;
}

int bp_space_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    *done = 0;
    if (space->fd >= 0 && !bp_space_check(space)) { /* it is punched by its number */
        return -EBADF;
    }
    int code = space->trap->zap(space, ranges, count, done);
    for (size_t i = 0; i < *done; i++) {
        reserve_again(space, ranges[i].address, ranges[i].length);
    }
    if (code < 0) {
        bp_space_check(space);
    }
    return code;
}

int bp_space_protect(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to)
{
    bool whole = space->vault.base != 0 && (from == BP_OPEN_NONE || to == BP_OPEN_NONE); /* all or none, by itself */
    int code = space->trap->protect(space, address, length, from, to);
    if (code < 0 && !whole && bp_space_check(space)) { /* a part of it may be done: as it was */
        space->trap->protect(space, address, length, to, from);
    }
    return code;
}

/* ---- In a forked child ---- */

int bp_space_map_again(struct bp_space *space)
{
    enum step step;
    bp_headroom_inherit(&space->headroom);
    if (space->adopted) { /* it is there */
        return space->trap->inherit == NULL ? 0 : space->trap->inherit(space);
    }
    int code = map(space, space->base, space->capacity, &space->base, &step);
    if (code < 0 && step == TO_LOCK) {
        bp_space_note(space, "not locked in memory in this forked child");
        code = bp_numa_apply(&space->numa, (void *)space->base, space->capacity);
    }
    if (code == 0 && space->trap->inherit != NULL) {
        code = space->trap->inherit(space);
    }
    if (code == 0 && !space->stepwise) {
        code = space->trap->open_chunk(space, space->base, space->capacity);
    }
    for (uint64_t chunk = 0; code == 0 && space->stepwise && chunk < space->chunk_count; chunk++) {
        if (atomic_load(&space->chunks[chunk]) == OPEN) {
            uint64_t start = chunk * space->chunk;
            code = space->trap->open_chunk(space, space->base + start, chunk_length(space, start));
        }
    }
    return code;
}

void bp_space_unstage(struct bp_space *space)
{
    bp_stash_forget(&space->stash);
    bp_staging_forget(&space->staging);
    bp_thp_forget(&space->thp);
    space->vault.base = 0; /* as the others, not mapped here */
}

void bp_space_stage_again(struct bp_space *space)
{
    bp_space_unstage(space);
    if (space->uffd >= 0 && space->memory->thp) {
        bp_thp_open_again(space);
    } else if (bp_space_stashes(space)) {
        bp_stash_open(space, BP_STASH_SMALL);
    }
}

/* ---- Diverting ---- */

int bp_space_paste(uintptr_t granule)
{
    void *fresh;
    int code = bp_kernel_mmap(NULL, BP_GRANULE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, &fresh);
    if (code == 0) {
        memcpy(fresh, bp_fill_poison, BP_GRANULE);
        code = bp_kernel_mremap(fresh, BP_GRANULE, (void *)granule);
        if (code < 0) {
            bp_kernel_munmap(fresh, BP_GRANULE);
        }
    }
    return code;
}

int bp_space_divert(struct bp_space *space, uintptr_t granule)
{
    if (space->adopted) {
        return bp_adopted_divert(space, granule);
    }
    if (space->granule == BP_GRANULE) {
        size_t done;
        return space->family || space->unpinned != BP_OPEN_WRITE
                   ? bp_space_paste(granule)
                   : bp_space_populate(space, granule, BP_GRANULE, bp_fill_poison, &done);
    }
    void *same;
    if (!bp_kernel_is_kept(bp_fill_file)) {
        return -EBADF;
    }
    /* First as a whole: a mapping of hugetlbfs cannot be cut within a huge page. */
    int code = bp_kernel_mmap((void *)granule, space->granule, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, &same);
    for (size_t at = 0; at < space->granule && code == 0; at += BP_FILL_SIZE) {
        code = bp_kernel_mmap((void *)(granule + at), BP_FILL_SIZE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, bp_fill_file, &same);
    }
    if (code == 0) {
        bp_kernel_madvise((void *)granule, space->granule, MADV_DONTFORK);
    }
    if (code < 0) {
        bp_space_restore(space, granule, space->granule);
    }
    return code;
}

int bp_space_restore(struct bp_space *space, uintptr_t address, size_t length)
{
    if (space->adopted) {
        return bp_adopted_restore(space, address, length);
    }
    if (space->granule == BP_GRANULE && !space->family && space->unpinned == BP_OPEN_WRITE) {
        struct bp_range range = {address, length};
        size_t zapped;
        return bp_space_zap(space, &range, 1, &zapped);
    }
    uintptr_t same;
    int code = bp_space_map(space, address, length, &same);
    if (code == 0 && space->trap->rearm != NULL) {
        code = space->trap->rearm(space, address, length);
    }
    if (code < 0) {
        atomic_store(&space->torn, true);
    }
    return code;
}

/* ---- Looking ---- */

void bp_space_note(struct bp_space *space, const char *format, ...)
{
    size_t used = strlen(space->note);
    if (used > 0 && used + 2 < sizeof space->note) {
        used += (size_t)snprintf(space->note + used, sizeof space->note - used, "; ");
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(space->note + used, sizeof space->note - used, format, arguments);
    va_end(arguments);
}

const char *bp_space_backing(const struct bp_space *space)
{
    return space->adopted            ? space->backing
           : space->memory->path     ? "file of huge pages"
           : space->memory->hugetlb  ? "memfd of huge pages"
           : space->memory->file     ? "memfd"
           : space->thp.nursery != 0 ? "transparent huge pages"
                                     : "private anonymous";
}

const char *bp_space_hint(const struct bp_space *space, int code)
{
    if (code == -ENOMEM && space->memory->hugetlb) {
        bool splits = space->uffd < 0 && space->trap->traps;
        return !splits               ? ": no huge page is free for it, in the system or within the mount's limit"
               : space->memory->path ? ": no huge page is free for it, or no mapping is left (vm.max_map_count)"
                                     : ": no huge page is free, or no mapping is left (vm.max_map_count)";
    }
    if (code == -EBUSY && space->vault.base != 0) {
        return ": a device has a frame of it, or io_uring as a fixed buffer";
    }
    bool splits =
        space->trap == &bp_trap_mprotect || (space->trap == &bp_trap_guard && space->unpinned != BP_OPEN_WRITE);
    return splits && code == -ENOMEM ? BP_NO_MAPPING_LEFT : "";
}
