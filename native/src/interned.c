/* interned.c: threads by a number of 16 bits, see interned.h. */
#include "interned.h"

#include "kernel.h"
#include "lazy.h"
#include "thread.h"

#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PROBES 64 /* entries looked at for an ended thread, each by a system call */

_Atomic(struct bp_interned *) bp_interned;
static _Atomic uint32_t used = 1;
static _Atomic uint32_t cursor;

int bp_interned_prepare(void)
{
    if (atomic_load(&bp_interned) != NULL) {
        return 0;
    }
    void *place;
    int code = bp_lazy_map(BP_INTERNED_THREADS * sizeof(struct bp_interned), &place);
    struct bp_interned *none = NULL;
    if (code == 0 && !atomic_compare_exchange_strong(&bp_interned, &none, place)) {
        bp_kernel_munmap(place, BP_INTERNED_THREADS * sizeof(struct bp_interned)); /* another thread was first */
    }
    return code;
}

static struct bp_interned *entry_of(uint32_t number)
{
    return &atomic_load_explicit(&bp_interned, memory_order_acquire)[number];
}

/* The entry is ours: its serial is 0, or odd. */
static void write_entry(struct bp_interned *entry, uint32_t serial, uint64_t now)
{
    uint64_t name[2] = {0, 0};
    prctl(PR_GET_NAME, name);
    atomic_store_explicit(&entry->thread, bp_thread_id(), memory_order_release);
    atomic_store_explicit(&entry->pid, (int32_t)getpid(), memory_order_release);
    atomic_store_explicit(&entry->since, now, memory_order_release);
    atomic_store_explicit(&entry->name[0], name[0], memory_order_release);
    atomic_store_explicit(&entry->name[1], name[1], memory_order_release);
    atomic_store_explicit(&entry->serial, serial, memory_order_release);
}

/* A thread of this process that lives; another process's threads are not looked for. */
static bool is_alive(const struct bp_interned *entry)
{
    return atomic_load(&entry->pid) == (int32_t)getpid() && bp_kernel_thread_alive(atomic_load(&entry->thread));
}

static uint32_t take_over(uint64_t now)
{
    for (int i = 0; i < PROBES; i++) {
        uint32_t number = 1 + atomic_fetch_add(&cursor, 1) % (BP_INTERNED_THREADS - 1);
        struct bp_interned *entry = entry_of(number);
        uint32_t serial = atomic_load(&entry->serial);
        if (serial % 2 == 0 && !is_alive(entry) &&
            atomic_compare_exchange_strong(&entry->serial, &serial, serial + 1)) {
            write_entry(entry, serial + 2, now);
            return number;
        }
    }
    return 0;
}

static uint32_t enter(uint64_t now)
{
    uint32_t number = atomic_load(&used);
    while (number < BP_INTERNED_THREADS) {
        if (atomic_compare_exchange_weak(&used, &number, number + 1)) {
            write_entry(entry_of(number), 2, now);
            return number;
        }
    }
    return take_over(now);
}

uint16_t bp_interned_self(uint64_t now)
{
    bp_thread_id(); /* forgets what was a parent's */
    if (bp_thread.interned == 0) {
        bp_thread.interned = (uint16_t)enter(now);
    }
    return bp_thread.interned;
}

bool bp_interned_find(uint16_t number, uint64_t tick, int32_t *thread, int32_t *pid, char *name)
{
    if (number == 0 || atomic_load(&bp_interned) == NULL) {
        return false;
    }
    struct bp_interned *entry = entry_of(number);
    uint32_t serial = atomic_load_explicit(&entry->serial, memory_order_acquire);
    uint64_t words[2] = {atomic_load_explicit(&entry->name[0], memory_order_acquire),
                         atomic_load_explicit(&entry->name[1], memory_order_acquire)};
    uint64_t since = atomic_load_explicit(&entry->since, memory_order_acquire);
    *thread = atomic_load_explicit(&entry->thread, memory_order_acquire);
    *pid = atomic_load_explicit(&entry->pid, memory_order_acquire);
    memcpy(name, words, sizeof words);
    name[sizeof words - 1] = 0;
    if (serial == 0 || serial % 2 != 0 || atomic_load(&entry->serial) != serial) {
        return false;
    }
    /* In the tick in which the entry changed hands it may have been either's. */
    return serial == 2 || tick > since;
}
