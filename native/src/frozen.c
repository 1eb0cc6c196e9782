/* frozen.c: the record of stopped threads, see frozen.h. */
#include "frozen.h"

#include "thread.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FACTS_SIZE 4096

_Static_assert(offsetof(struct bp_frozen_slot, text) == 64, "bufpool/frozen.py reads this layout");

static _Atomic(struct bp_frozen_facts *) record;
static _Atomic int32_t record_process;
static _Atomic int record_fd = -1;
static _Atomic int used; /* slots that have ever been taken: of the others there is no memory yet */
static atomic_flag making;

static struct bp_frozen_facts *current(void)
{
    return atomic_load(&record_process) == bp_process() ? atomic_load(&record) : NULL;
}

static int map(uint32_t slots, int *fd, void **place)
{
    size_t size = FACTS_SIZE + slots * sizeof(struct bp_frozen_slot);
    *fd = bp_kernel_memfd("bufpool-frozen", size, 0);
    if (*fd < 0) {
        return *fd;
    }
    int code = bp_kernel_mmap_file(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0, place);
    if (code < 0) {
        bp_kernel_close(*fd);
        return code;
    }
    bp_kernel_madvise(*place, size, MADV_DONTFORK);
    return 0;
}

static int make(void)
{
    int inherited = atomic_exchange(&record_fd, -1); /* the parent's, whose mapping is not here */
    bp_kernel_close_kept(inherited);
    void *place;
    int fd = -1;
    uint32_t slots = BP_FROZEN_SLOTS;
    int code;
    while ((code = map(slots, &fd, &place)) < 0 && slots > BP_FROZEN_FEWEST) {
        slots /= 2;
    }
    if (code < 0) {
        return code;
    }
    struct bp_frozen_facts *facts = place;
    facts->version = 1;
    facts->pid = (int32_t)getpid();
    facts->slots = slots;
    facts->slot_offset = FACTS_SIZE;
    facts->slot_size = sizeof(struct bp_frozen_slot);
    facts->text_offset = offsetof(struct bp_frozen_slot, text);
    facts->json_offset = offsetof(struct bp_frozen_slot, json);
    facts->text_size = BP_FROZEN_TEXT;
    memcpy(facts->magic, "BPFROZEN", sizeof facts->magic); /* last: who finds it finds the rest */
    atomic_store(&used, 0);
    atomic_store(&record_fd, fd);
    atomic_store(&record, facts);
    atomic_store(&record_process, bp_process());
    return 0;
}

int bp_frozen_prepare(void)
{
    for (int patience = 0; current() == NULL && patience < 10000; patience++) {
        if (!atomic_flag_test_and_set(&making)) {
            int code = current() == NULL ? make() : 0;
            atomic_flag_clear(&making);
            return code;
        }
        bp_kernel_sleep_ns(100000);
    }
    return current() == NULL ? -EAGAIN : 0;
}

static struct bp_frozen_slot *slot_of(struct bp_frozen_facts *facts, int n)
{
    return (struct bp_frozen_slot *)((char *)facts + FACTS_SIZE) + n;
}

struct bp_frozen_slot *bp_frozen_at(int n)
{
    struct bp_frozen_facts *facts = current();
    return facts == NULL || n >= atomic_load(&used) ? NULL : slot_of(facts, n);
}

static bool claim(struct bp_frozen_slot *slot, uint32_t from)
{
    return atomic_compare_exchange_strong(&slot->state, &from, BP_FROZEN_WRITING);
}

/* The thread's own slot first: whatever stopped it before, it is here now. */
static struct bp_frozen_slot *claim_for(int32_t thread)
{
    struct bp_frozen_slot *slot;
    for (int n = 0; (slot = bp_frozen_at(n)) != NULL; n++) {
        if (atomic_load(&slot->thread) == thread && claim(slot, BP_FROZEN_STOPPED)) {
            return slot;
        }
    }
    struct bp_frozen_facts *facts = current();
    for (int n = 0; n < (int)facts->slots; n++) {
        slot = slot_of(facts, n);
        if (claim(slot, BP_FROZEN_EMPTY)) {
            int before = atomic_load(&used);
            while (before <= n && !atomic_compare_exchange_weak(&used, &before, n + 1)) {
            }
            return slot;
        }
    }
    return NULL;
}

static uint32_t length_of(size_t whole)
{
    return whole < BP_FROZEN_TEXT ? (uint32_t)whole : BP_FROZEN_TEXT - 1;
}

struct bp_frozen_slot *bp_frozen_add(const bufpool_fault *fault, uint64_t sp, enum bp_frozen_where where)
{
    struct bp_frozen_slot *slot = bp_frozen_prepare() < 0 ? NULL : claim_for(fault->thread_id);
    if (slot == NULL) {
        return NULL;
    }
    slot->where = where;
    slot->since_ns = fault->time_ns;
    slot->pool_address = fault->pool_address;
    slot->address = fault->address;
    slot->pc = fault->pc;
    slot->sp = sp;
    slot->text_length = length_of(bp_format_text(fault, &slot->frames, slot->text, BP_FROZEN_TEXT));
    slot->json_length = length_of(bp_format_json(fault, &slot->frames, slot->json, BP_FROZEN_TEXT));
    atomic_store(&slot->thread, fault->thread_id);
    atomic_store(&slot->wish, BP_WISH_NONE);
    atomic_store(&slot->state, BP_FROZEN_STOPPED);
    return slot;
}

struct bp_frozen_slot *bp_frozen_asleep(int32_t thread)
{
    struct bp_frozen_slot *slot;
    for (int n = 0; (slot = bp_frozen_at(n)) != NULL; n++) {
        if (atomic_load(&slot->state) == BP_FROZEN_STOPPED && atomic_load(&slot->thread) == thread &&
            slot->where == BP_FROZEN_IN_KERNEL) {
            return slot;
        }
    }
    return NULL;
}

void bp_frozen_remove(struct bp_frozen_slot *slot)
{
    atomic_store(&slot->thread, 0);
    atomic_store(&slot->state, BP_FROZEN_EMPTY);
}
