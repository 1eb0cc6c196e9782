/* stash.c: keeping the frames of freed pages, see stash.h. */
#include "stash.h"

#include "fillers.h"
#include "probe.h"
#include "space.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <sys/mman.h>

int bp_stash_map(struct bp_space *space, size_t length, size_t alignment, void **place, size_t *mapped, uintptr_t *base)
{
    *mapped = length + (alignment > BP_GRANULE ? alignment : 0);
    int code = bp_kernel_mmap(NULL, *mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, place);
    if (code < 0) {
        return code;
    }
    *base = ((uintptr_t)*place + alignment - 1) & ~(uintptr_t)(alignment - 1);
    bp_kernel_madvise(*place, *mapped, MADV_DONTDUMP);
    bp_kernel_madvise(*place, *mapped, MADV_UNMERGEABLE);
    /* A frame that a fork has shared cannot be moved; nor one from unlocked to locked memory. */
    code = bp_kernel_madvise(*place, *mapped, MADV_DONTFORK);
    if (code == 0 && space->flags & BUFPOOL_LOCK) {
        code = bp_kernel_lock(*place, *mapped);
    }
    if (code == 0) {
        code = bp_numa_apply(&space->numa, *place, *mapped);
    }
    if (code < 0) {
        bp_kernel_munmap(*place, *mapped);
    }
    return code;
}

#define CROWD 4096 /* small moves not tried after two threads have met */

#define TRIED 8  /* slots, */
#define ROUNDS 4 /* of which the quickest counts: what interrupts one does not interrupt all */

struct costs { /* of as many granules, ns: the least of all rounds */
    int64_t copy, move, write, drop, look, drain;
};

static void lower(int64_t *least, int64_t *clock)
{
    int64_t now = bp_kernel_monotonic_ns();
    *least = now - *clock < *least ? now - *clock : *least;
    *clock = now;
}

/* Slots that are not in use yet go through what pages do: filled, moved, written to, given back. A code of the kernel. */
static int measure(const struct bp_space *space, uintptr_t base, int count, struct costs *least)
{
    uintptr_t other = base + TRIED * BP_GRANULE;
    size_t done;
    int code = 0;
    int64_t clock = bp_kernel_monotonic_ns();
    for (int i = 0; i < count && code == 0; i++) {
        code = bp_kernel_uffd_copy(space->uffd, base + (uintptr_t)i * BP_GRANULE, bp_fill_zeros, BP_GRANULE, &done);
    }
    lower(&least->copy, &clock);
    for (int i = 0; i < count && code == 0; i++) {
        uintptr_t from = base + (uintptr_t)i * BP_GRANULE;
        code = bp_kernel_uffd_move(space->uffd, other + (uintptr_t)i * BP_GRANULE, from, BP_GRANULE, &done);
    }
    lower(&least->move, &clock);
    for (int i = 0; i < count && code == 0; i++) {
        bp_probe_copy((char *)other + (size_t)i * BP_GRANULE, bp_fill_zeros, BP_GRANULE);
    }
    lower(&least->write, &clock);
    for (int i = 0; i < count && code == 0; i++) {
        code = bp_kernel_discard((char *)other + (size_t)i * BP_GRANULE, BP_GRANULE);
    }
    lower(&least->drop, &clock);
    for (int i = 0; i < count && code == 0; i++) {
        bp_kernel_is_kept(space->uffd); /* as zap() of trap_uffd.c has to after a drop, but not after a move */
    }
    lower(&least->look, &clock);
    if (code == 0) {
        code = bp_kernel_uffd_copy(space->uffd, base, bp_fill_zeros, (size_t)count * BP_GRANULE, &done);
    }
    clock = bp_kernel_monotonic_ns();
    bp_kernel_discard((void *)base, TRIED * BP_GRANULE);
    lower(&least->drain, &clock);
    bp_kernel_discard((void *)other, TRIED * BP_GRANULE);
    return code;
}

/* What the kernel refuses here it would refuse with every page. No answer, for want of memory, is no refusal. Once a space: a
 * forked child goes on as its parent. */
static bool serves(struct bp_space *space, uintptr_t base)
{
    struct bp_ways *ways = &space->ways;
    struct costs least = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    uint32_t choice = atomic_load(&bp_ways_choice);
    int code = 0;
    if (ways->tried) {
        return ways->fill_kept || ways->zap_out;
    }
    for (int round = 0; round < (choice == 0 ? ROUNDS : 1) && code == 0; round++) {
        code = measure(space, base, choice == 0 ? TRIED : 1, &least);
    }
    if (choice == 0 && code == 0) {
        bool kept = least.write + least.move < least.copy;
        bool out = kept || least.move + least.drain < least.drop + least.look;
        choice = BP_CHOSEN | (kept ? BP_FILL_KEPT : 0) | (out ? BP_ZAP_OUT : 0);
        atomic_store(&bp_ways_choice, choice);
    }
    bool refused = code < 0 && code != -EAGAIN && code != -EBUSY && code != -ENOMEM;
    ways->tried = true;
    ways->fill_kept = !refused && (choice == 0 || choice & BP_FILL_KEPT);
    ways->zap_out = !refused && (choice == 0 || choice & BP_ZAP_OUT);
    return ways->fill_kept || ways->zap_out;
}

void bp_stash_open(struct bp_space *space, unsigned slots)
{
    struct bp_stash *stash = &space->stash;
    size_t length = slots * space->granule;
    uintptr_t base;
    stash->base = 0;
    stash->slot = space->granule;
    if (bp_stash_map(space, length, space->granule, &stash->place, &stash->mapped, &base) < 0) {
        return;
    }
    if (bp_kernel_uffd_register(space->uffd, base, length) < 0 ||
        bp_kernel_mprotect((void *)base, length, PROT_READ | PROT_WRITE) < 0 ||
        (space->granule == BP_GRANULE && !serves(space, base))) { /* huge frames are tried by thp.c */
        bp_kernel_munmap(stash->place, stash->mapped);
        return;
    }
    for (unsigned word = 0; word * 64 < slots; word++) {
        atomic_store(&stash->empty[word], slots - word * 64 >= 64 ? UINT64_MAX : (UINT64_C(1) << slots % 64) - 1);
    }
    stash->base = base;
}

void bp_stash_close(struct bp_stash *stash)
{
    if (stash->base != 0) {
        bp_kernel_munmap(stash->place, stash->mapped);
        stash->base = 0;
    }
}

void bp_stash_forget(struct bp_stash *stash)
{
    stash->base = 0;
    atomic_store(&stash->moving, false); /* by a thread that is not here */
    atomic_store(&stash->crowd, 0);
    for (int word = 0; word < BP_STASH_WORDS; word++) {
        atomic_store(&stash->empty[word], 0);
        atomic_store(&stash->full[word], 0);
    }
}

static uintptr_t address_of(const struct bp_stash *stash, int slot)
{
    return stash->base + (uintptr_t)slot * stash->slot;
}

int bp_slot_claim(_Atomic uint64_t *set, int words)
{
    for (int word = 0; word < words; word++) {
        uint64_t bits = atomic_load_explicit(&set[word], memory_order_relaxed);
        while (bits != 0) {
            uint64_t bit = bits & -bits;
            if (atomic_compare_exchange_weak(&set[word], &bits, bits & ~bit)) {
                return word * 64 + __builtin_ctzll(bit);
            }
        }
    }
    return -1;
}

void bp_slot_release(_Atomic uint64_t *set, int slot)
{
    atomic_fetch_or(&set[slot / 64], UINT64_C(1) << (slot % 64));
}

/* Gives the frames of one word of slots back, run by run; as a rule that is one request for all 64. */
static void drain(struct bp_stash *stash)
{
    for (int word = 0; word < BP_STASH_WORDS; word++) {
        uint64_t bits = atomic_exchange(&stash->full[word], 0);
        uint64_t left = bits;
        while (left != 0) {
            int first = __builtin_ctzll(left);
            uint64_t after = ~(left >> first);
            int count = after == 0 ? 64 - first : __builtin_ctzll(after);
            count = count > 64 - first ? 64 - first : count;
            bp_kernel_discard((void *)address_of(stash, word * 64 + first), (size_t)count * stash->slot);
            left = first + count >= 64 ? 0 : left >> (first + count) << (first + count);
        }
        if (bits != 0) {
            atomic_fetch_or(&stash->empty[word], bits);
            return;
        }
    }
}

/* Is this the moment to move a frame? A small one if nobody else moves one, nor has met somebody who did of late. */
static bool begin_move(struct bp_stash *stash)
{
    if (stash->slot > BP_GRANULE) {
        return true; /* a huge one is worth a wait */
    }
    unsigned crowd = atomic_load_explicit(&stash->crowd, memory_order_relaxed);
    if (crowd > 0) { /* threads may count one step together: that makes it longer, no more */
        atomic_store_explicit(&stash->crowd, crowd - 1, memory_order_relaxed);
        return false;
    }
    if (atomic_exchange_explicit(&stash->moving, true, memory_order_relaxed)) {
        atomic_store_explicit(&stash->crowd, CROWD, memory_order_relaxed);
        return false;
    }
    return true;
}

static void end_move(struct bp_stash *stash)
{
    atomic_store_explicit(&stash->moving, false, memory_order_relaxed);
}

bool bp_stash_put(struct bp_space *space, uintptr_t granule)
{
    struct bp_stash *stash = &space->stash;
    if (stash->base == 0 || !begin_move(stash)) {
        return false;
    }
    int slot = bp_slot_claim(stash->empty, BP_STASH_WORDS);
    if (slot < 0) {
        drain(stash);
        slot = bp_slot_claim(stash->empty, BP_STASH_WORDS);
    }
    if (slot < 0) {
        end_move(stash);
        return false;
    }
    size_t moved;
    int code = bp_kernel_uffd_move(space->uffd, address_of(stash, slot), granule, stash->slot, &moved);
    end_move(stash);
    if (code < 0) { /* part of it may be there, whatever moved says (vault.c) */
        bp_kernel_discard((void *)address_of(stash, slot), stash->slot);
        bp_way_lost(&space->ways, code);
    } else {
        bp_way_took(&space->ways, BUFPOOL_WAY_MOVE_OUT, 1);
    }
    bp_slot_release(code == 0 ? stash->full : stash->empty, slot);
    return code == 0;
}

static int take(struct bp_space *space, uintptr_t granule, const void *data)
{
    struct bp_stash *stash = &space->stash;
    int slot = bp_slot_claim(stash->full, BP_STASH_WORDS);
    if (slot < 0) {
        return -ENOENT;
    }
    void *frame = (void *)address_of(stash, slot);
    if (!bp_probe_copy(frame, data, stash->slot)) {
        bp_slot_release(stash->full, slot);
        return -EFAULT;
    }
    size_t moved;
    int code = bp_kernel_uffd_move(space->uffd, granule, (uintptr_t)frame, stash->slot, &moved);
    if (code < 0) {
        bp_kernel_discard(frame, stash->slot);
        bp_slot_release(stash->empty, slot);
        bp_way_lost(&space->ways, code);
        return moved > 0 || (code == -EAGAIN && stash->slot > BP_GRANULE) ? -EAGAIN : -ENOENT;
    }
    bp_slot_release(stash->empty, slot);
    bp_way_took(&space->ways, BUFPOOL_WAY_MOVE, 1);
    return 0;
}

int bp_stash_take(struct bp_space *space, uintptr_t granule, const void *data, bool needed)
{
    struct bp_stash *stash = &space->stash;
    if (stash->base == 0 || (!needed && !begin_move(stash))) {
        return -ENOENT;
    }
    int code = take(space, granule, data);
    end_move(stash); /* another's, too, perhaps: it is a hint */
    return code;
}

unsigned bp_stash_count(const struct bp_stash *stash)
{
    unsigned count = 0;
    for (int word = 0; word < BP_STASH_WORDS && stash->base != 0; word++) {
        count += (unsigned)__builtin_popcountll(atomic_load(&stash->full[word]));
    }
    return count;
}
