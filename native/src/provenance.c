/* provenance.c: each page's last events, see provenance.h. */
#include "provenance.h"

#include "depot.h"
#include "error.h"
#include "interned.h"
#include "kernel.h"
#include "lazy.h"
#include "places.h"
#include "point.h"
#include "stack.h"
#include "thread.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OS_PAGE 4096
#define NUMBERS_SIZE (BP_INTERNED_THREADS * sizeof(uint64_t))
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
    static const char *const names[] = {"none", "allocate", "populate", "free", "evict", "close", "pin", "unpin"};
    return (unsigned)event < sizeof names / sizeof *names ? names[event] : "unknown";
}

static uint64_t tick(void)
{
    return (uint64_t)bp_kernel_monotonic_ns() >> BP_TICK_BITS;
}

struct bp_provenance_terms bp_provenance_terms(enum bp_provenance_mode mode, uint32_t depth)
{
    return (struct bp_provenance_terms){mode, mode == BP_PROVENANCE_STACKS ? depth : 0, tick()};
}

bool bp_provenance_valid(const struct bp_provenance_terms *terms)
{
    return terms->mode <= BP_PROVENANCE_STACKS && terms->depth <= BUFPOOL_ORIGIN_DEPTH &&
           (terms->depth != 0) == (terms->mode == BP_PROVENANCE_STACKS);
}

/* ---- Where it is ---- */

static uint64_t whole(uint64_t size)
{
    return (size + OS_PAGE - 1) / OS_PAGE * OS_PAGE;
}

/* Of a mapping: the records, the stacks; and what else there is of shared ones. */
static uint64_t records_size(uint64_t pages)
{
    return whole(pages * sizeof(struct bp_record));
}

static uint64_t stacks_size(enum bp_provenance_mode mode, uint64_t pages)
{
    return mode == BP_PROVENANCE_STACKS ? whole(pages * sizeof(struct bp_record_stacks)) : 0;
}

static uint64_t depot_size(enum bp_provenance_mode mode)
{
    return mode == BP_PROVENANCE_STACKS ? whole(sizeof(struct bp_depot)) : 0;
}

uint64_t bp_provenance_size(enum bp_provenance_mode mode, uint64_t pages)
{
    return mode == BP_PROVENANCE_OFF
               ? 0
               : records_size(pages) + stacks_size(mode, pages) + depot_size(mode) + whole(sizeof(struct bp_threads)) +
                     whole(sizeof(struct bp_provenance_counts));
}

static int open_own(struct bp_provenance *provenance, enum bp_provenance_mode mode)
{
    int code = mode == BP_PROVENANCE_STACKS ? bp_depot_prepare(&provenance->depot) : 0;
    if (code == 0) {
        provenance->mapped = records_size(provenance->pages) + stacks_size(mode, provenance->pages);
        code = bp_lazy_map(provenance->mapped, &provenance->place);
    }
    return code;
}

static int open_shared(struct bp_provenance *provenance, enum bp_provenance_mode mode, int fd, uint64_t offset)
{
    void *numbers;
    int code = bp_lazy_map(NUMBERS_SIZE, &numbers);
    if (code < 0) {
        return code;
    }
    provenance->mapped = bp_provenance_size(mode, provenance->pages);
    int own = bp_kernel_reopen(fd); /* a mapping keeps the description, and this one holds locks, see tables.c */
    code = own < 0 ? own : bp_lazy_map_file(own, offset, provenance->mapped, &provenance->place);
    if (own >= 0) {
        bp_kernel_close(own);
    }
    if (code < 0) {
        bp_kernel_munmap(numbers, NUMBERS_SIZE);
        return code;
    }
    provenance->numbers = numbers;
    char *at = (char *)provenance->place + records_size(provenance->pages) + stacks_size(mode, provenance->pages);
    provenance->depot = depot_size(mode) > 0 ? (struct bp_depot *)at : NULL;
    provenance->threads = (struct bp_threads *)(at + depot_size(mode));
    provenance->counts = (struct bp_provenance_counts *)(at + depot_size(mode) + whole(sizeof(struct bp_threads)));
    return 0;
}

int bp_provenance_open(struct bp_provenance *provenance, const struct bp_provenance_terms *terms, uint64_t pages,
                       int fd, uint64_t offset)
{
    *provenance = (struct bp_provenance){.pages = pages, .counts = &provenance->own};
    if (terms->mode == BP_PROVENANCE_OFF) {
        return 0;
    }
    int code = bp_interned_prepare(&provenance->threads);
    if (code == 0) {
        code = fd < 0 ? open_own(provenance, terms->mode) : open_shared(provenance, terms->mode, fd, offset);
    }
    if (code < 0) {
        return code;
    }
    provenance->records = provenance->place;
    if (terms->mode == BP_PROVENANCE_STACKS) {
        provenance->stacks = (struct bp_record_stacks *)((char *)provenance->place + records_size(pages));
    }
    provenance->depth = terms->depth;
    provenance->opened = terms->opened;
    provenance->mode = terms->mode;
    return 0;
}

void bp_provenance_close(struct bp_provenance *provenance)
{
    if (provenance->mode == BP_PROVENANCE_OFF) {
        return;
    }
    provenance->mode = BP_PROVENANCE_OFF;
    provenance->counts = &provenance->own;
    bp_kernel_munmap(provenance->place, provenance->mapped);
    if (provenance->numbers != NULL) {
        bp_kernel_munmap(provenance->numbers, NUMBERS_SIZE);
    }
    if (provenance->pin_mapped > 0) {
        bp_kernel_munmap(provenance->pin_records, provenance->pin_mapped);
        provenance->pin_mapped = 0;
    }
}

int bp_provenance_open_pins(struct bp_provenance *provenance)
{
    if (provenance->mode == BP_PROVENANCE_OFF) {
        return 0;
    }
    void *place;
    size_t size = records_size(provenance->pages) + stacks_size(provenance->mode, provenance->pages);
    int code = bp_lazy_map(size, &place);
    if (code == 0) {
        provenance->pin_records = place;
        provenance->pin_mapped = size;
        if (provenance->mode == BP_PROVENANCE_STACKS) {
            provenance->pin_stacks = (struct bp_record_stacks *)((char *)place + records_size(provenance->pages));
        }
    }
    return code;
}

void bp_provenance_part(struct bp_provenance *provenance, int fd, uint64_t offset)
{
    void *same;
    int own = provenance->numbers == NULL ? -1 : bp_kernel_reopen(fd);
    if (provenance->numbers != NULL &&
        (own < 0 || bp_kernel_mmap_file(provenance->place, provenance->mapped, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, own, offset, &same) < 0)) {
        bp_kernel_mprotect(provenance->place, provenance->mapped, PROT_READ);
    }
    if (own >= 0) {
        bp_kernel_close(own);
    }
}

void bp_provenance_release(struct bp_provenance *provenance, uint32_t member)
{
    if (provenance->numbers != NULL) {
        bp_interned_release(provenance->threads, member);
    }
}

/* ---- Writing ---- */

struct event {
    uint64_t when;
    uint32_t sequence;
    uint32_t stack;
};

/* What bufpool_set_caller() said last, where the stack is kept: BP_DEPOT_LOST if there is no room for it. */
static uint32_t keep_caller(struct bp_provenance *provenance)
{
    uint32_t text = bp_thread.caller;
    if (text == 0 || text == BP_DEPOT_LOST || provenance->numbers == NULL) {
        return text;
    }
    struct bp_depot *own;
    char caller[sizeof((bufpool_origin *)NULL)->caller];
    size_t length = bp_depot_prepare(&own) < 0 ? 0 : bp_depot_read_text(own, text, caller, sizeof caller);
    text = length == 0 ? 0 : bp_depot_text(provenance->depot, caller, length + 1);
    return text == 0 ? BP_DEPOT_LOST : text;
}

static uint32_t capture(struct bp_provenance *provenance, const void *caller, bool *lost)
{
    uint64_t frames[BUFPOOL_ORIGIN_DEPTH];
    uint32_t count = bp_stack_capture(frames, provenance->depth, (uint64_t)(uintptr_t)caller);
    uint32_t text = keep_caller(provenance);
    uint32_t (*keep)(struct bp_depot *, const uint64_t *, uint32_t, uint32_t) =
        provenance->numbers == NULL ? bp_depot_stack : bp_places_keep;
    uint32_t id = keep(provenance->depot, frames, count, text == BP_DEPOT_LOST ? 0 : text);
    *lost = id == 0 || text == BP_DEPOT_LOST;
    return id;
}

/* The running thread's number, where the pool's records have it. */
static uint16_t thread_number(struct bp_provenance *provenance, uint64_t now)
{
    uint32_t serial;
    uint16_t own = bp_interned_self(now, &serial);
    if (own == 0 || provenance->numbers == NULL) {
        return own;
    }
    _Atomic uint64_t *noted = &provenance->numbers[own];
    uint64_t number = atomic_load_explicit(noted, memory_order_relaxed);
    if (number >> 32 != serial) {
        number = (uint64_t)serial << 32 | bp_interned_enter(provenance->threads, provenance->member, now, NULL);
        if ((uint16_t)number != 0) {
            atomic_store_explicit(noted, number, memory_order_relaxed);
        }
    }
    return (uint16_t)number;
}

static struct event number_event(struct bp_provenance *provenance, uint64_t now, uint16_t thread, bool other)
{
    uint64_t number = atomic_fetch_add_explicit(&provenance->counts->sequence, 1, memory_order_relaxed) + 1;
    BP_STORED("event numbered");
    return (struct event){now << 24 | (uint64_t)thread << 8 | ((number >> 31) & 0xFF),
                          (uint32_t)(number & LOW_MASK) << 1 | other, 0};
}

/* One call: one reading of the clock, one thread, one stack. */
static struct event describe(struct bp_provenance *provenance, bool other, const void *caller)
{
    uint64_t now = tick();
    uint16_t thread = thread_number(provenance, now);
    struct event event = number_event(provenance, now, thread, other);
    bool lost = false;
    if (provenance->mode == BP_PROVENANCE_STACKS) {
        event.stack = capture(provenance, caller, &lost);
    }
    if (lost || thread == 0) {
        atomic_fetch_add_explicit(&provenance->counts->lost, 1, memory_order_relaxed);
        BP_STORED("event lost");
    }
    return event;
}

static void write_event(struct bp_record *record, struct bp_record_stacks *stacks, int which, const struct event *event)
{
    atomic_store_explicit(&record->when[which], 0, memory_order_relaxed);
    BP_STORED("record: emptied");
    atomic_store_explicit(&record->sequence[which], event->sequence, memory_order_release);
    BP_STORED("record: number");
    if (stacks != NULL) {
        atomic_store_explicit(&stacks->id[which], event->stack, memory_order_release);
        BP_STORED("record: stack");
    }
    atomic_store_explicit(&record->when[which], event->when, memory_order_release);
    BP_STORED("record: written");
}

void bp_provenance_write(struct bp_provenance *provenance, const uint64_t *pages, size_t count, bufpool_event event,
                         const void *caller)
{
    bool pins = event == BUFPOOL_EVENT_PIN || event == BUFPOOL_EVENT_UNPIN;
    bool takes = event == BUFPOOL_EVENT_FREE || event == BUFPOOL_EVENT_EVICT || event == BUFPOOL_EVENT_UNPIN;
    int which = takes ? BP_TAKEN : BP_GIVEN;
    struct bp_record *records = pins ? provenance->pin_records : provenance->records;
    struct bp_record_stacks *kept = pins ? provenance->pin_stacks : provenance->stacks;
    bool other = event == BUFPOOL_EVENT_POPULATE || event == BUFPOOL_EVENT_EVICT;
    struct event described = describe(provenance, other, caller);
    for (size_t i = 0; i < count; i++) {
        write_event(&records[pages[i]], kept == NULL ? NULL : &kept[pages[i]], which, &described);
    }
}

void bp_provenance_erase(struct bp_provenance *provenance, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        atomic_store_explicit(&provenance->records[pages[i]].when[BP_TAKEN], 0, memory_order_release);
        BP_STORED("record: erased");
    }
}

/* Is the page's last event a taking of this kind? */
static bool is_taken_so(const struct bp_record *record, uint32_t other)
{
    uint64_t number[2];
    for (int which = BP_GIVEN; which <= BP_TAKEN; which++) {
        uint64_t when = atomic_load(&record->when[which]);
        number[which] = when == 0 ? 0 : (when & 0xFF) << 31 | atomic_load(&record->sequence[which]) >> 1;
    }
    return number[BP_TAKEN] != 0 && bp_provenance_is_later(number[BP_TAKEN], number[BP_GIVEN]) &&
           (atomic_load(&record->sequence[BP_TAKEN]) & 1) == other;
}

void bp_provenance_complete(struct bp_provenance *provenance, uint64_t page, bool evict,
                            const struct bp_interned_who *who, uint16_t *thread)
{
    if (provenance->mode == BP_PROVENANCE_OFF || is_taken_so(&provenance->records[page], evict)) {
        return;
    }
    uint64_t now = tick();
    if (*thread == 0) {
        *thread = bp_interned_enter(provenance->threads, provenance->member, now, who);
    }
    struct event event = number_event(provenance, now, *thread, evict);
    write_event(&provenance->records[page], provenance->stacks == NULL ? NULL : &provenance->stacks[page], BP_TAKEN,
                &event);
}

void bp_record_close(struct bp_provenance *provenance, bool for_all, const void *caller)
{
    if (provenance->mode == BP_PROVENANCE_OFF) {
        return;
    }
    struct event event = describe(provenance, false, caller);
    write_event(&provenance->closing.record, &provenance->closing.stacks, BP_TAKEN, &event);
    if (for_all) {
        struct bp_closing *closing = &provenance->counts->closing;
        write_event(&closing->record, &closing->stacks, BP_TAKEN, &event);
    }
}

/* ---- Reading ---- */

static void read_stack(const struct bp_provenance *provenance, uint32_t id, bufpool_origin *origin)
{
    uint32_t caller;
    struct bp_depot *depot = provenance->depot;
    if (provenance->numbers == NULL) { /* also a parent's are where they were */
        origin->stack_depth = bp_depot_read_stack(depot, id, origin->stack, BUFPOOL_ORIGIN_DEPTH, &caller);
    } else {
        bool own = origin->pid == (int32_t)getpid();
        origin->stack_depth = bp_places_read(depot, id, own, origin->stack, &caller, &origin->foreign);
    }
    if (bp_depot_read_text(depot, caller, origin->caller, sizeof origin->caller) == 0) {
        memset(origin->caller, 0, sizeof origin->caller);
    }
}

static int64_t realtime_of(uint64_t at)
{
    return bp_kernel_epoch_ns() + (int64_t)(at << BP_TICK_BITS);
}

/* events: what it is, by the lowest bit of the record's sequence. */
static void read_event(const struct bp_provenance *provenance, const struct bp_record *record,
                       const struct bp_record_stacks *stacks, int which, const uint32_t *events, bufpool_origin *origin)
{
    memset(origin, 0, sizeof *origin);
    uint32_t sequence = atomic_load_explicit(&record->sequence[which], memory_order_acquire);
    uint64_t when = atomic_load_explicit(&record->when[which], memory_order_acquire);
    uint32_t stack = stacks == NULL ? 0 : atomic_load_explicit(&stacks->id[which], memory_order_acquire);
    if (when == 0 || atomic_load_explicit(&record->sequence[which], memory_order_acquire) != sequence) {
        return;
    }
    origin->sequence = (when & 0xFF) << 31 | sequence >> 1;
    origin->event = events[sequence & 1];
    uint64_t at = provenance->opened + (((when >> 24) - provenance->opened) & TICK_MASK);
    origin->time_ns = realtime_of(at);
    struct bp_interned_who who;
    if (bp_interned_find(provenance->threads, (uint16_t)(when >> 8), at, &who)) {
        origin->thread_id = who.thread;
        origin->pid = who.pid;
        memcpy(origin->thread_name, who.name, sizeof origin->thread_name);
        memcpy(origin->process_name, who.process_name, sizeof origin->process_name);
    }
    read_stack(provenance, stack, origin);
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
    struct bp_depot *depot;
    int code = bp_depot_prepare(&depot);
    if (code < 0) {
        return bp_error(code, "cannot map %llu bytes for stacks: %s", (unsigned long long)BP_DEPOT_BYTES,
                        strerror(-code));
    }
    uint32_t id = bp_depot_text(depot, text, length + 1);
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
    static const uint32_t given[] = {BUFPOOL_EVENT_ALLOCATE, BUFPOOL_EVENT_POPULATE};
    static const uint32_t taken[] = {BUFPOOL_EVENT_FREE, BUFPOOL_EVENT_EVICT};
    static const uint32_t closed[] = {BUFPOOL_EVENT_CLOSE, BUFPOOL_EVENT_CLOSE};
    const struct bp_record *record = &provenance->records[page];
    const struct bp_record_stacks *stacks = provenance->stacks == NULL ? NULL : &provenance->stacks[page];
    read_event(provenance, record, stacks, BP_GIVEN, given, allocated);
    read_event(provenance, record, stacks, BP_TAKEN, taken, freed);
    if (bp_provenance_is_later(freed->sequence, allocated->sequence)) {
        return;
    }
    const struct bp_closing *closing = &provenance->closing;
    if (atomic_load(&closing->record.when[BP_TAKEN]) == 0) {
        closing = &provenance->counts->closing;
    }
    if (atomic_load(&closing->record.when[BP_TAKEN]) != 0) {
        read_event(provenance, &closing->record, &closing->stacks, BP_TAKEN, closed, freed);
    }
}

void bp_provenance_read_pins(const struct bp_provenance *provenance, uint64_t page, bufpool_origin *pinned,
                             bufpool_origin *unpinned)
{
    static const uint32_t events[2][2] = {[BP_GIVEN] = {BUFPOOL_EVENT_PIN, BUFPOOL_EVENT_PIN},
                                          [BP_TAKEN] = {BUFPOOL_EVENT_UNPIN, BUFPOOL_EVENT_UNPIN}};
    bufpool_origin *const origins[] = {[BP_GIVEN] = pinned, [BP_TAKEN] = unpinned};
    bool recorded = provenance->mode != BP_PROVENANCE_OFF && provenance->pin_records != NULL;
    const struct bp_record_stacks *stacks = provenance->pin_stacks == NULL ? NULL : &provenance->pin_stacks[page];
    for (int which = BP_GIVEN; which <= BP_TAKEN; which++) {
        if (origins[which] != NULL && recorded) {
            read_event(provenance, &provenance->pin_records[page], stacks, which, events[which], origins[which]);
        } else if (origins[which] != NULL) {
            memset(origins[which], 0, sizeof *origins[which]);
        }
    }
}
