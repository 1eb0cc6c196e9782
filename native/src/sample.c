/* sample.c: choosing the pages that are guarded, see sample.h. */
#include "sample.h"

#include "kernel.h"
#include "lazy.h"

#include <sys/mman.h>

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

int bp_sample_open(struct bp_sample *sample, uint32_t one_in, uint64_t seed, uint64_t pages)
{
    if (one_in == 0) {
        return 0;
    }
    uint64_t words = (pages + 63) / 64;
    uint64_t groups = 1;
    while (groups * 64 * BP_SAMPLE_GROUP < pages) {
        groups *= 2;
    }
    size_t size = (groups + words) * 8 + pages * 4;
    void *place;
    int code = bp_lazy_map(size, &place);
    if (code < 0) {
        return code;
    }
    uint64_t own = mix((uint64_t)bp_kernel_realtime_ns() ^ (uintptr_t)place) >> 16; /* short enough to be typed */
    sample->seed = seed != 0 ? seed : own + (own == 0);
    sample->pages = pages;
    sample->group_mask = groups - 1;
    sample->groups = place;
    sample->bits = sample->groups + groups;
    sample->uses = (_Atomic uint32_t *)(sample->bits + words);
    sample->mapped = size;
    sample->one_in = one_in;
    return 0;
}

void bp_sample_close(struct bp_sample *sample)
{
    if (sample->mapped > 0) {
        sample->one_in = 0;
        bp_kernel_munmap((void *)sample->groups, sample->mapped);
        sample->mapped = 0;
    }
}

void bp_sample_drop(struct bp_sample *sample, uint64_t page)
{
    uint64_t group = page / BP_SAMPLE_GROUP;
    uint64_t mask = ((UINT64_C(1) << BP_SAMPLE_GROUP) - 1) << (group * BP_SAMPLE_GROUP % 64);
    uint64_t bit = UINT64_C(1) << (group % 64);
    atomic_fetch_and(&sample->bits[page / 64], ~(UINT64_C(1) << (page % 64)));
    if ((atomic_load(&sample->bits[page / 64]) & mask) == 0) {
        atomic_fetch_and(&sample->groups[group / 64], ~bit);
        if ((atomic_load(&sample->bits[page / 64]) & mask) != 0) { /* another thread has chosen a neighbour meanwhile */
            atomic_fetch_or(&sample->groups[group / 64], bit);
        }
    }
}

void bp_sample_choose(struct bp_sample *sample, uint64_t page, uint64_t n)
{
    uint64_t hash = mix(mix(sample->seed + page * UINT64_C(0x9E3779B97F4A7C15)) + n * UINT64_C(0xD6E8FEB86659FD93));
    if (hash % sample->one_in != 0) {
        if (bp_sample_has(sample, page)) {
            bp_sample_drop(sample, page);
        }
        return;
    }
    atomic_store(&sample->uses[page], 0);
    atomic_fetch_or(&sample->bits[page / 64], UINT64_C(1) << (page % 64));
    uint64_t group = page / BP_SAMPLE_GROUP;
    atomic_fetch_or(&sample->groups[group / 64], UINT64_C(1) << (group % 64));
    atomic_fetch_add_explicit(&sample->chosen, 1, memory_order_relaxed);
}

int bp_sample_protect(uintptr_t address, size_t length, enum bp_open to)
{
    return bp_space_mprotect(address, length, to);
}
