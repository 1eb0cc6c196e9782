/* stash.c: keeping the frames of freed pages, see stash.h. */
#include "stash.h"

#include "kernel.h"
#include "probe.h"
#include "space.h"

#include <errno.h>
#include <sys/mman.h>

#define LENGTH ((size_t)BP_STASH_SLOTS * BP_GRANULE)

void bp_stash_open(struct bp_stash *stash, int uffd)
{
    void *place;
    stash->base = 0;
    if (bp_kernel_mmap(NULL, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &place) < 0) {
        return;
    }
    bp_kernel_madvise(place, LENGTH, MADV_DONTDUMP);
    bp_kernel_madvise(place, LENGTH, MADV_UNMERGEABLE);
    /* A frame that a fork has shared cannot be moved. */
    if (bp_kernel_madvise(place, LENGTH, MADV_DONTFORK) < 0 ||
        bp_kernel_uffd_register(uffd, (uintptr_t)place, LENGTH) < 0 ||
        bp_kernel_mprotect(place, LENGTH, PROT_READ | PROT_WRITE) < 0) {
        bp_kernel_munmap(place, LENGTH);
        return;
    }
    for (int word = 0; word < BP_STASH_WORDS; word++) {
        atomic_store(&stash->empty[word], UINT64_MAX);
        atomic_store(&stash->full[word], 0);
    }
    stash->base = (uintptr_t)place;
}

void bp_stash_close(struct bp_stash *stash)
{
    if (stash->base != 0) {
        bp_kernel_munmap((void *)stash->base, LENGTH);
        stash->base = 0;
    }
}

static uintptr_t address_of(const struct bp_stash *stash, int slot)
{
    return stash->base + (uintptr_t)slot * BP_GRANULE;
}

/* Claims any slot of a set; -1 if the set is empty. */
static int claim(_Atomic uint64_t *set)
{
    for (int word = 0; word < BP_STASH_WORDS; word++) {
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

static void release(_Atomic uint64_t *set, int slot)
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
            bp_kernel_discard((void *)address_of(stash, word * 64 + first), (size_t)count * BP_GRANULE);
            left = first + count >= 64 ? 0 : left >> (first + count) << (first + count);
        }
        if (bits != 0) {
            atomic_fetch_or(&stash->empty[word], bits);
            return;
        }
    }
}

bool bp_stash_put(struct bp_stash *stash, int uffd, uintptr_t granule)
{
    if (stash->base == 0) {
        return false;
    }
    int slot = claim(stash->empty);
    if (slot < 0) {
        drain(stash);
        slot = claim(stash->empty);
    }
    if (slot < 0) {
        return false;
    }
    int code = bp_kernel_uffd_move(uffd, address_of(stash, slot), granule, BP_GRANULE);
    release(code == 0 ? stash->full : stash->empty, slot);
    return code == 0;
}

int bp_stash_take(struct bp_stash *stash, int uffd, uintptr_t granule, const void *data)
{
    int slot = stash->base == 0 ? -1 : claim(stash->full);
    if (slot < 0) {
        return -ENOENT;
    }
    void *frame = (void *)address_of(stash, slot);
    if (!bp_probe_copy(frame, data, BP_GRANULE)) {
        release(stash->full, slot);
        return -EFAULT;
    }
    if (bp_kernel_uffd_move(uffd, granule, (uintptr_t)frame, BP_GRANULE) < 0) {
        bp_kernel_discard(frame, BP_GRANULE);
        release(stash->empty, slot);
        return -ENOENT;
    }
    release(stash->empty, slot);
    atomic_fetch_add_explicit(&stash->recycled, 1, memory_order_relaxed);
    return 0;
}

unsigned bp_stash_count(const struct bp_stash *stash)
{
    unsigned count = 0;
    for (int word = 0; word < BP_STASH_WORDS && stash->base != 0; word++) {
        count += (unsigned)__builtin_popcountll(atomic_load(&stash->full[word]));
    }
    return count;
}
