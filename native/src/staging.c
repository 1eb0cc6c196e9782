/* staging.c: the slots of the staging area, see staging.h. */
#include "staging.h"

#include "fillers.h"
#include "space.h"
#include "trap_uffd.h"

#include <errno.h>
#include <sys/mman.h>

enum { VACANT, IDLE /* the same, with memory */, STAGED, CLAIMED };

#define FIRST_CHUNK ((uint64_t)64 << 20) /* bytes, of 4 to 1024 slots */
#define KEPT ((uint64_t)1 << 20)         /* bytes of idle frames, and one frame in any case */
#define PATIENCE 10000                   /* looks, of 100 us each, at another thread that grows the area */

/* A moved frame is neither protected nor tracked, nor moved between mappings of which one has a key; and where a touch of a
 * hole puts a thread to sleep, nobody would wake it here. */
bool bp_staging_can_move(const struct bp_space *space)
{
    return space->uffd >= 0 && space->fd < 0 && !space->memory->file && !space->memory->hugetlb && !space->adopted &&
           space->key == 0 && space->sleep == BP_SLEEP_NEVER &&
           (space->unpinned == BP_OPEN_WRITE || space->vault.base != 0);
}

static uintptr_t address_of(const struct bp_staging *staging, const struct bp_staging_chunk *chunk, uint64_t slot)
{
    return chunk->base + slot * staging->slot;
}

static struct bp_staging_chunk *find(struct bp_staging *staging, uint64_t frame, uint64_t *slot)
{
    uint32_t count = atomic_load_explicit(&staging->count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        struct bp_staging_chunk *chunk = &staging->chunks[i];
        uint64_t offset = frame - chunk->base;
        if (frame >= chunk->base && offset < chunk->slots * staging->slot) {
            *slot = offset / staging->slot;
            return offset % staging->slot == 0 ? chunk : NULL;
        }
    }
    return NULL;
}

/* ---- Growing ---- */

static int map_chunk(struct bp_space *space, struct bp_staging_chunk *chunk, uint64_t slots)
{
    struct bp_staging *staging = &space->staging;
    size_t words = (slots + 63) / 64;
    void *tables;
    chunk->tables = words * sizeof(uint64_t) + slots;
    int code = bp_kernel_mmap(NULL, chunk->tables, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                              -1, &tables);
    if (code < 0) {
        return code;
    }
    size_t length = slots * staging->slot;
    code = bp_stash_map(space, length, space->granule, &chunk->place, &chunk->mapped, &chunk->base);
    if (code < 0) {
        bp_kernel_munmap(tables, chunk->tables);
        return code;
    }
    if (space->granule > BP_GRANULE) {
        bp_kernel_madvise((void *)chunk->base, length, MADV_HUGEPAGE);
    }
    if (staging->moves) {
        code = bp_kernel_uffd_register(space->uffd, chunk->base, length);
    }
    if (code == 0) {
        code = bp_kernel_mprotect((void *)chunk->base, length, PROT_READ | PROT_WRITE);
    }
    if (code < 0) {
        bp_kernel_munmap(chunk->place, chunk->mapped);
        bp_kernel_munmap(tables, chunk->tables);
        return code;
    }
    chunk->vacant = tables;
    chunk->states = (_Atomic uint8_t *)((uint64_t *)tables + words);
    chunk->slots = slots;
    for (uint64_t slot = 0; slot < slots; slot += 64) {
        uint64_t left = slots - slot;
        atomic_store(&chunk->vacant[slot / 64], left >= 64 ? UINT64_MAX : (UINT64_C(1) << left) - 1);
    }
    return 0;
}

/* Adds a chunk with room for count slots at least, unless another thread has added one meanwhile. */
static int grow(struct bp_space *space, size_t page_size, uint64_t count, uint32_t chunks)
{
    struct bp_staging *staging = &space->staging;
    for (int patience = 0; atomic_exchange(&staging->growing, true); patience++) {
        if (patience >= PATIENCE) { /* its thread may be stopped */
            return -EAGAIN;
        }
        bp_kernel_sleep_ns(100000);
    }
    uint32_t now = atomic_load(&staging->count);
    int code = 0;
    if (now == chunks) {
        uint64_t slots = FIRST_CHUNK / page_size;
        slots = slots < 4 ? 4 : slots > 1024 ? 1024 : slots;
        slots <<= now < 16 ? now : 16;
        slots = slots < count ? count : slots;
        if (now == 0) {
            staging->slot = page_size;
            staging->moves = bp_staging_can_move(space);
        }
        code = now == BP_STAGING_CHUNKS ? -ENOMEM : map_chunk(space, &staging->chunks[now], slots);
        if (code == -ENOMEM && slots > count && now < BP_STAGING_CHUNKS) { /* RLIMIT_AS, or overcommit */
            code = map_chunk(space, &staging->chunks[now], count);
        }
        if (code == 0) {
            atomic_store_explicit(&staging->count, now + 1, memory_order_release);
        }
    }
    atomic_store(&staging->growing, false);
    return code;
}

/* ---- Slots ---- */

static size_t take_from(const struct bp_staging *staging, struct bp_staging_chunk *chunk, size_t count,
                        uint64_t *frames)
{
    size_t taken = 0;
    for (uint64_t word = 0; taken < count && word * 64 < chunk->slots; word++) {
        uint64_t bits = atomic_load_explicit(&chunk->vacant[word], memory_order_relaxed);
        while (bits != 0 && taken < count) {
            uint64_t bit = bits & -bits;
            if (atomic_fetch_and(&chunk->vacant[word], ~bit) & bit) {
                frames[taken++] = address_of(staging, chunk, word * 64 + (uint64_t)__builtin_ctzll(bit));
            }
            bits &= ~bit;
        }
    }
    return taken;
}

/* The slot is this call's: whether it has memory is known from here on by *idle. */
static void begin(struct bp_staging *staging, uint64_t frame)
{
    uint64_t slot;
    struct bp_staging_chunk *chunk = find(staging, frame, &slot);
    if (chunk != NULL && atomic_exchange(&chunk->states[slot], CLAIMED) == IDLE) {
        atomic_fetch_sub(&staging->idle, 1);
    }
}

int bp_staging_take(struct bp_space *space, size_t page_size, size_t count, uint64_t *frames)
{
    struct bp_staging *staging = &space->staging;
    size_t taken = 0;
    while (taken < count) {
        uint32_t chunks = atomic_load_explicit(&staging->count, memory_order_acquire);
        size_t before = taken;
        for (uint32_t i = 0; i < chunks && taken < count; i++) {
            taken += take_from(staging, &staging->chunks[i], count - taken, frames + taken);
        }
        for (size_t i = before; i < taken; i++) {
            begin(staging, frames[i]);
        }
        int code = taken < count ? grow(space, page_size, count - taken, chunks) : 0;
        if (code < 0) {
            bp_staging_drop(space, frames, taken, false, staging->moves); /* idle ones have memory */
            return code;
        }
    }
    return 0;
}

static int fill_run(struct bp_space *space, uintptr_t frame, size_t length)
{
    int code = 0;
    for (size_t at = 0; at < length && code == 0;) {
        size_t filled = 0;
        if (space->memory->thp) {
            code = bp_thp_populate(space, frame + at, NULL);
            filled = code == 0 ? space->granule : 0;
        }
        if (!space->memory->thp || code == -ENOENT) {
            size_t step = space->memory->thp ? space->granule : length;
            code = bp_uffd_copy_in(space, frame + at, step, NULL, &filled);
        }
        at += filled;
    }
    return code;
}

int bp_staging_fill(struct bp_space *space, const uint64_t *frames, size_t count)
{
    struct bp_staging *staging = &space->staging;
    int code = 0;
    for (size_t i = 0; staging->moves && i < count && code == 0;) {
        size_t end = i + 1;
        while (end < count && frames[end] == frames[end - 1] + staging->slot) {
            end++;
        }
        code = fill_run(space, frames[i], (end - i) * staging->slot);
        i = end;
    }
    return code;
}

int bp_staging_claim(struct bp_space *space, uint64_t frame)
{
    uint64_t slot;
    struct bp_staging_chunk *chunk = find(&space->staging, frame, &slot);
    uint8_t state = STAGED;
    if (chunk == NULL || (!atomic_compare_exchange_strong(&chunk->states[slot], &state, CLAIMED) && state != CLAIMED)) {
        return -ENOENT;
    }
    return state == STAGED ? 0 : -EBUSY;
}

void bp_staging_hand_out(struct bp_space *space, const uint64_t *frames, size_t count, bool again)
{
    struct bp_staging *staging = &space->staging;
    if (!again) {
        atomic_fetch_add(&staging->staged, count);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t slot;
        struct bp_staging_chunk *chunk = find(staging, frames[i], &slot);
        if (chunk != NULL) { /* else the call was interrupted by a fork, in whose child it goes on */
            atomic_store(&chunk->states[slot], STAGED);
        }
    }
}

static void empty_run(struct bp_space *space, uintptr_t frame, size_t length)
{
    if (space->memory->thp && space->staging.moves) { /* and its page table, which would keep it small */
        for (size_t at = 0; at < length; at += space->granule) {
            bp_thp_zap(space, frame + at);
        }
    } else {
        bp_kernel_discard((void *)frame, length);
    }
}

/* May one more vacant slot keep its memory? */
static bool keep(struct bp_staging *staging)
{
    uint64_t most = KEPT / staging->slot + 1;
    if (!staging->moves && atomic_fetch_add(&staging->idle, 1) < most) {
        return true;
    }
    if (!staging->moves) {
        atomic_fetch_sub(&staging->idle, 1);
    }
    return false;
}

void bp_staging_drop(struct bp_space *space, const uint64_t *frames, size_t count, bool staged, bool emptied)
{
    struct bp_staging *staging = &space->staging;
    if (staged) {
        atomic_fetch_sub(&staging->staged, count);
    }
    for (size_t i = 0; i < count;) {
        size_t end = i + 1;
        while (end < count && frames[end] == frames[end - 1] + staging->slot) {
            end++;
        }
        uint8_t state = VACANT;
        if (!emptied && end - i == 1 && keep(staging)) {
            state = IDLE;
        } else if (!emptied) {
            size_t kept = 0;
            while (kept < end - i && keep(staging)) {
                kept++;
            }
            if (kept > 0) {
                end = i + kept;
                state = IDLE;
            } else {
                empty_run(space, frames[i], (end - i) * staging->slot);
            }
        }
        for (; i < end; i++) {
            uint64_t slot;
            struct bp_staging_chunk *chunk = find(staging, frames[i], &slot);
            if (chunk != NULL) {
                atomic_store(&chunk->states[slot], state);
                atomic_fetch_or(&chunk->vacant[slot / 64], UINT64_C(1) << (slot % 64));
            }
        }
    }
}

/* ---- The end ---- */

void bp_staging_seal(struct bp_staging *staging)
{
    for (uint32_t i = 0; i < atomic_load(&staging->count); i++) {
        struct bp_staging_chunk *chunk = &staging->chunks[i];
        void *same;
        if (bp_kernel_mmap(chunk->place, chunk->mapped, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, &same) < 0) {
            bp_kernel_mprotect(chunk->place, chunk->mapped, PROT_NONE);
            bp_kernel_discard(chunk->place, chunk->mapped);
        }
        bp_kernel_madvise(chunk->place, chunk->mapped, MADV_DONTDUMP);
        bp_kernel_madvise(chunk->place, chunk->mapped, MADV_DOFORK); /* a child, too, gives it back in the end */
    }
}

void bp_staging_close(struct bp_staging *staging)
{
    for (uint32_t i = 0; i < atomic_load(&staging->count); i++) {
        bp_kernel_munmap(staging->chunks[i].place, staging->chunks[i].mapped);
        bp_kernel_munmap((void *)staging->chunks[i].vacant, staging->chunks[i].tables);
    }
    atomic_store(&staging->count, 0);
}

/* The tables stay: the fork may have interrupted a call that uses them. */
void bp_staging_forget(struct bp_staging *staging)
{
    atomic_store(&staging->count, 0);
    atomic_store(&staging->staged, 0);
    atomic_store(&staging->idle, 0);
    atomic_store(&staging->growing, false);
}
