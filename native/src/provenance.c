/* provenance.c: each page's last events, see provenance.h. */
#include "provenance.h"

#include "depot.h"
#include "error.h"
#include "interned.h"
#include "kernel.h"
#include "lazy.h"
#include "stack.h"
#include "thread.h"

#include <string.h>

#define TICK_MASK ((UINT64_C(1) << 40) - 1)
#define LOW_MASK ((UINT64_C(1) << 31) - 1)

_Static_assert(BUFPOOL_ORIGIN_DEPTH == 16, "config.c allows 16");

const char *bp_provenance_name(enum bp_provenance_mode mode)
{
    static const char *const names[] = {"off", "last", "stacks"};
    return (size_t)mode < sizeof names / sizeof *names ? names[mode] : NULL;
}

const char *bufpool_event_name(bufpool_event event)
{
    static const char *const names[] = {"none", "allocate", "populate", "free", "evict", "close"};
    return (unsigned)event < sizeof names / sizeof *names ? names[event] : "unknown";
}

static uint64_t tick(void)
{
    return (uint64_t)bp_kernel_monotonic_ns() >> BP_TICK_BITS;
}

int bp_provenance_open(struct bp_provenance *provenance, enum bp_provenance_mode mode, uint32_t depth, uint64_t pages)
{
    *provenance = (struct bp_provenance){.pages = pages};
    if (mode == BP_PROVENANCE_OFF) {
        return 0;
    }
    void *place;
    int code = bp_interned_prepare();
    if (code == 0 && mode == BP_PROVENANCE_STACKS) {
        code = bp_depot_prepare();
    }
    if (code == 0) {
        code = bp_lazy_map(pages * sizeof *provenance->records, &place);
    }
    if (code < 0) {
        return code;
    }
    provenance->records = place;
    if (mode == BP_PROVENANCE_STACKS) {
        code = bp_lazy_map(pages * sizeof *provenance->stacks, &place);
        if (code < 0) {
            bp_provenance_close(provenance);
            return code;
        }
        provenance->stacks = place;
    }
    provenance->depth = depth;
    provenance->opened = tick();
    provenance->mode = mode;
    return 0;
}

void bp_provenance_close(struct bp_provenance *provenance)
{
    if (provenance->records != NULL) {
        bp_kernel_munmap(provenance->records, provenance->pages * sizeof *provenance->records);
    }
    if (provenance->stacks != NULL) {
        bp_kernel_munmap(provenance->stacks, provenance->pages * sizeof *provenance->stacks);
    }
    provenance->records = NULL;
    provenance->stacks = NULL;
    provenance->mode = BP_PROVENANCE_OFF;
}

/* ---- Writing ---- */

struct event {
    uint64_t when;
    uint32_t sequence;
    uint32_t stack;
};

static uint32_t capture(struct bp_provenance *provenance, const void *caller, bool *lost)
{
    uint64_t frames[BUFPOOL_ORIGIN_DEPTH];
    uint32_t count = bp_stack_capture(frames, provenance->depth, (uint64_t)(uintptr_t)caller);
    uint32_t text = bp_thread.caller == BP_DEPOT_LOST ? 0 : bp_thread.caller;
    uint32_t id = bp_depot_stack(frames, count, text);
    *lost = id == 0 || bp_thread.caller == BP_DEPOT_LOST;
    return id;
}

/* One call: one reading of the clock, one thread, one stack. */
static struct event describe(struct bp_provenance *provenance, bool other, const void *caller)
{
    uint64_t now = tick();
    uint16_t thread = bp_interned_self(now);
    uint64_t number = atomic_fetch_add_explicit(&provenance->sequence, 1, memory_order_relaxed) + 1;
    bool lost = false;
    struct event event = {now << 24 | (uint64_t)thread << 8 | ((number >> 31) & 0xFF),
                          (uint32_t)(number & LOW_MASK) << 1 | other, 0};
    if (provenance->mode == BP_PROVENANCE_STACKS) {
        event.stack = capture(provenance, caller, &lost);
    }
    if (lost || thread == 0) {
        atomic_fetch_add_explicit(&provenance->lost, 1, memory_order_relaxed);
    }
    return event;
}

static void write_event(struct bp_record *record, struct bp_record_stacks *stacks, int which, const struct event *event)
{
    atomic_store_explicit(&record->when[which], 0, memory_order_relaxed);
    atomic_store_explicit(&record->sequence[which], event->sequence, memory_order_release);
    if (stacks != NULL) {
        atomic_store_explicit(&stacks->id[which], event->stack, memory_order_release);
    }
    atomic_store_explicit(&record->when[which], event->when, memory_order_release);
}

void bp_provenance_write(struct bp_provenance *provenance, const uint64_t *pages, size_t count, bufpool_event event,
                         const void *caller)
{
    int which = event == BUFPOOL_EVENT_FREE || event == BUFPOOL_EVENT_EVICT ? BP_TAKEN : BP_GIVEN;
    bool other = event == BUFPOOL_EVENT_POPULATE || event == BUFPOOL_EVENT_EVICT;
    struct event described = describe(provenance, other, caller);
    for (size_t i = 0; i < count; i++) {
        struct bp_record_stacks *stacks = provenance->stacks == NULL ? NULL : &provenance->stacks[pages[i]];
        write_event(&provenance->records[pages[i]], stacks, which, &described);
    }
}

void bp_provenance_erase(struct bp_provenance *provenance, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        atomic_store_explicit(&provenance->records[pages[i]].when[BP_TAKEN], 0, memory_order_release);
    }
}

void bp_record_close(struct bp_provenance *provenance, const void *caller)
{
    if (provenance->mode != BP_PROVENANCE_OFF) {
        struct event event = describe(provenance, false, caller);
        write_event(&provenance->closed, &provenance->closed_stacks, BP_TAKEN, &event);
    }
}

/* ---- Reading ---- */

static void read_stack(uint32_t id, bufpool_origin *origin)
{
    const struct bp_depot_entry *stack = bp_depot_find(id);
    if (stack == NULL) {
        return;
    }
    origin->stack_depth = stack->frames < BUFPOOL_ORIGIN_DEPTH ? stack->frames : BUFPOOL_ORIGIN_DEPTH;
    memcpy(origin->stack, stack->data, origin->stack_depth * sizeof *origin->stack);
    const struct bp_depot_entry *text = bp_depot_find(stack->caller);
    if (text != NULL) {
        memcpy(origin->caller, text->data, text->length <= sizeof origin->caller ? text->length : 0);
    }
}

static int64_t realtime_of(uint64_t at)
{
    int64_t ago = bp_kernel_monotonic_ns() - (int64_t)(at << BP_TICK_BITS);
    return bp_kernel_realtime_ns() - ago;
}

static void read_event(const struct bp_provenance *provenance, const struct bp_record *record,
                       const struct bp_record_stacks *stacks, int which, bufpool_origin *origin)
{
    static const uint32_t events[2][2] = {{BUFPOOL_EVENT_ALLOCATE, BUFPOOL_EVENT_POPULATE},
                                          {BUFPOOL_EVENT_FREE, BUFPOOL_EVENT_EVICT}};
    memset(origin, 0, sizeof *origin);
    uint32_t sequence = atomic_load_explicit(&record->sequence[which], memory_order_acquire);
    uint64_t when = atomic_load_explicit(&record->when[which], memory_order_acquire);
    uint32_t stack = stacks == NULL ? 0 : atomic_load_explicit(&stacks->id[which], memory_order_acquire);
    if (when == 0 || atomic_load_explicit(&record->sequence[which], memory_order_acquire) != sequence) {
        return;
    }
    origin->sequence = (when & 0xFF) << 31 | sequence >> 1;
    origin->event = record == &provenance->closed ? BUFPOOL_EVENT_CLOSE : events[which][sequence & 1];
    uint64_t at = provenance->opened + (((when >> 24) - provenance->opened) & TICK_MASK);
    origin->time_ns = realtime_of(at);
    if (!bp_interned_find((uint16_t)(when >> 8), at, &origin->thread_id, &origin->pid, origin->thread_name)) {
        origin->thread_id = origin->pid = 0;
        memset(origin->thread_name, 0, sizeof origin->thread_name);
    }
    read_stack(stack, origin);
}

int bufpool_set_caller(const char *text)
{
    if (text == NULL || text[0] == 0) {
        bp_thread.caller = 0;
        return 0;
    }
    size_t length = strlen(text);
    size_t room = sizeof((bufpool_origin *)NULL)->caller - 1;
    if (length > room) { /* the end says most: from a line's beginning on, if there is one */
        text += length - room;
        const char *line = strchr(text, '\n');
        text = line != NULL && line[1] != 0 ? line + 1 : text;
        length = strlen(text);
    }
    int code = bp_depot_prepare();
    if (code < 0) {
        return bp_error(code, "cannot map %llu bytes for stacks: %s", (unsigned long long)BP_DEPOT_BYTES,
                        strerror(-code));
    }
    uint32_t id = bp_depot_text(text, length + 1);
    bp_thread.caller = id == 0 ? BP_DEPOT_LOST : id;
    return id != 0
               ? 0
               : bp_error(BUFPOOL_EEXHAUSTED, "the %llu MiB for stacks and callers are full: this caller is not kept",
                          (unsigned long long)(BP_DEPOT_BYTES >> 20));
}

void bp_provenance_read(const struct bp_provenance *provenance, uint64_t page, bufpool_origin *allocated,
                        bufpool_origin *freed)
{
    memset(allocated, 0, sizeof *allocated);
    memset(freed, 0, sizeof *freed);
    if (provenance->mode == BP_PROVENANCE_OFF) {
        return;
    }
    const struct bp_record *record = &provenance->records[page];
    const struct bp_record_stacks *stacks = provenance->stacks == NULL ? NULL : &provenance->stacks[page];
    read_event(provenance, record, stacks, BP_GIVEN, allocated);
    read_event(provenance, record, stacks, BP_TAKEN, freed);
    if (!bp_provenance_is_later(freed->sequence, allocated->sequence) &&
        atomic_load(&provenance->closed.when[BP_TAKEN]) != 0) {
        read_event(provenance, &provenance->closed, &provenance->closed_stacks, BP_TAKEN, freed);
    }
}
