/* postmortem.c: the block that debuggers read, and the pages that go into a core dump, see postmortem.h. */
#include "postmortem.h"

#include "diagnose.h"
#include "places.h"
#include "tables.h"
#include "thread.h"

#include <sys/mman.h>
#include <time.h>

#define FIELD(name, type, member) {name, offsetof(type, member), sizeof(((type *)0)->member)}
#define POOL(name, member) FIELD("pool." name, struct bufpool_pool, member)
#define FAULT(member) FIELD("fault." #member, bufpool_fault, member)
#define ORIGIN(member) FIELD("origin." #member, bufpool_origin, member)
#define CONSTANT(name, value) {name, value, 0}

__attribute__((section(".bufpool"), used)) struct bp_postmortem bp_postmortem =
    {
        .magic = BP_POSTMORTEM_MAGIC,
        .version = BP_POSTMORTEM_VERSION,
        .size = sizeof(struct bp_postmortem),
        .library = BUFPOOL_VERSION,
        .fields =
            {
                POOL("next", next),
                POOL("first", first),
                POOL("end", end),
                POOL("page_size", page_size),
                POOL("capacity", capacity),
                POOL("lead", lead),
                POOL("process", pid),
                POOL("policy", policy),
                POOL("name", name),
                POOL("memory", memory),
                POOL("granule", space.granule),
                POOL("trap", space.trap),
                POOL("flags", space.flags),
                POOL("closed", closed),
                POOL("states", pages.states),
                POOL("counts", pages.counts),
                POOL("members", pages.members),
                POOL("faults", faults),
                POOL("ring", ring),
                POOL("provenance", provenance.mode),
                POOL("opened", provenance.opened),
                POOL("records", provenance.records),
                POOL("stacks", provenance.stacks),
                POOL("threads", provenance.threads),
                POOL("depot", provenance.depot),
                POOL("shared", provenance.numbers),
                POOL("closing", provenance.closing.record),
                POOL("closing_stacks", provenance.closing.stacks),
                POOL("provenance_counts", provenance.counts),
                FIELD("closing.record", struct bp_provenance_counts, closing.record),
                FIELD("closing.stacks", struct bp_provenance_counts, closing.stacks),
                FIELD("trap.name", struct bp_trap, name),
                FIELD("counts.high_water", struct bp_counts, high_water),
                FIELD("counts.stripes", struct bp_counts, stripes),
                FIELD("stripe.evicted", struct bp_stripe, evicted),
                FIELD("stripe.allocations", struct bp_stripe, allocations),
                FIELD("stripe.frees", struct bp_stripe, frees),
                CONSTANT("stripe.bytes", sizeof(struct bp_stripe)),
                CONSTANT("stripes", BP_STRIPES),
                FIELD("counts.last_member", struct bp_counts, last_member),
                FIELD("member.present", struct bp_member, present),
                FIELD("member.pid", struct bp_member, pid),
                FIELD("member.name", struct bp_member, name),
                CONSTANT("member.bytes", sizeof(struct bp_member)),
                CONSTANT("members.most", BP_MAX_MEMBERS),

                FIELD("entry.serial", struct bp_ring_entry, serial),
                FIELD("entry.fault", struct bp_ring_entry, fault),
                CONSTANT("entry.bytes", sizeof(struct bp_ring_entry)),
                CONSTANT("ring.entries", BP_FAULT_RING),
                FAULT(sequence),
                FAULT(address),
                FAULT(page),
                FAULT(offset),
                FAULT(time_ns),
                FAULT(pid),
                FAULT(thread_id),
                FAULT(flags),
                FAULT(access),
                FAULT(state),
                FAULT(stack_depth),
                FAULT(thread_name),
                FAULT(stack),
                FAULT(below),
                FAULT(above),
                FAULT(allocated),
                FAULT(freed),
                FAULT(read_pins),
                FAULT(write_pins),
                FAULT(pinned),
                FAULT(in_syscall),
                FAULT(process_name),

                ORIGIN(sequence),
                ORIGIN(time_ns),
                ORIGIN(event),
                ORIGIN(thread_id),
                ORIGIN(pid),
                ORIGIN(stack_depth),
                ORIGIN(thread_name),
                ORIGIN(stack),
                ORIGIN(caller),
                ORIGIN(process_name),
                ORIGIN(foreign),
                FIELD("record.when", struct bp_record, when),
                FIELD("record.sequence", struct bp_record, sequence),
                CONSTANT("record.bytes", sizeof(struct bp_record)),
                FIELD("stacks.id", struct bp_record_stacks, id),
                CONSTANT("stacks.bytes", sizeof(struct bp_record_stacks)),
                FIELD("threads.entries", struct bp_threads, entries),
                FIELD("thread.serial", struct bp_interned, serial),
                CONSTANT("thread.writer", BP_INTERNED_WRITER),
                CONSTANT("thread.first", BP_INTERNED_ONE),
                FIELD("thread.id", struct bp_interned, thread),
                FIELD("thread.pid", struct bp_interned, pid),
                FIELD("thread.since", struct bp_interned, since),
                FIELD("thread.name", struct bp_interned, name),
                FIELD("thread.process_name", struct bp_interned, process_name),
                CONSTANT("thread.bytes", sizeof(struct bp_interned)),
                CONSTANT("tick.bits", BP_TICK_BITS),
                FIELD("depot.arena", struct bp_depot, arena),
                FIELD("kept.caller", struct bp_depot_entry, caller),
                FIELD("kept.frames", struct bp_depot_entry, frames),
                FIELD("kept.length", struct bp_depot_entry, length),
                CONSTANT("kept.bytes", sizeof(struct bp_depot_entry)),
                CONSTANT("place.bits", BP_PLACE_BITS),

                CONSTANT("state.unallocated", BUFPOOL_STATE_UNALLOCATED),
                CONSTANT("state.allocated", BUFPOOL_STATE_ALLOCATED),
                CONSTANT("state.freed", BUFPOOL_STATE_FREED),
                CONSTANT("state.evicted", BUFPOOL_STATE_EVICTED),
                CONSTANT("state.closed", BUFPOOL_STATE_CLOSED),
                CONSTANT("state.unpinned", BUFPOOL_STATE_UNPINNED),
                CONSTANT("state.read-only", BUFPOOL_STATE_READ_ONLY),
                CONSTANT("state.red-zone", BUFPOOL_STATE_RED_ZONE),
                CONSTANT("page.mask", BP_STATE_MASK),
                CONSTANT("page.evicting", BP_EVICTING),
                CONSTANT("page.freeing", BP_FREEING),
                CONSTANT("page.scratch", BP_SCRATCH),
                CONSTANT("page.busy", BP_BUSY),
                CONSTANT("event.allocated", BUFPOOL_EVENT_ALLOCATE),
                CONSTANT("event.populated", BUFPOOL_EVENT_POPULATE),
                CONSTANT("event.freed", BUFPOOL_EVENT_FREE),
                CONSTANT("event.evicted", BUFPOOL_EVENT_EVICT),
                CONSTANT("event.closed", BUFPOOL_EVENT_CLOSE),
                CONSTANT("event.pinned", BUFPOOL_EVENT_PIN),
                CONSTANT("event.unpinned", BUFPOOL_EVENT_UNPIN),
                CONSTANT("access.read", BUFPOOL_READ),
                CONSTANT("access.write", BUFPOOL_WRITE),
                CONSTANT("access.execute", BUFPOOL_EXECUTE),
                CONSTANT("policy.abort", BP_ABORT),
                CONSTANT("policy.raise", BP_RAISE),
                CONSTANT("policy.resume", BP_RESUME),
                CONSTANT("policy.freeze", BP_FREEZE),
                CONSTANT("flag.raced", BUFPOOL_FAULT_RACED),
                CONSTANT("flag.forked", BUFPOOL_FAULT_FORKED),
                CONSTANT("flag.lost", BUFPOOL_FAULT_LOST),
                CONSTANT("flag.inherited", BUFPOOL_FAULT_INHERITED),
                CONSTANT("flag.went_through", BUFPOOL_FAULT_WENT_THROUGH),
                CONSTANT("flag.others_pin", BUFPOOL_FAULT_OTHERS_PIN),
                CONSTANT("option.dump", BUFPOOL_DUMP),
            },
};

_Static_assert(offsetof(struct bp_postmortem, fields) == 56, "read from core dumps: the head, then the fields");
_Static_assert(sizeof(struct bp_postmortem_field) == 32, "read from core dumps: an entry of the fields");

void bp_postmortem_note_time(void)
{
    atomic_store(&bp_postmortem.epoch_ns, bp_kernel_epoch_ns());
}

/* ---- Shared tables ---- */

#define OS_PAGE 4096
#define MOST_TOUCHED ((uint64_t)128 << 20) /* bytes of a table, half of them before the page that it is about */
#define RUNS 256                           /* each may split a mapping */
#define GAP ((uint64_t)64 << 10)           /* a hole of less is not worth a split */
#define PARTS 8

struct part {
    const void *place;
    uint64_t size;
    uint64_t item;  /* bytes for each page; 0: it does not go by pages */
    uint64_t early; /* bytes that are in every dump */
};

/* What a debugger reads of the shared tables of a pool that is open. */
static int parts_of(const bufpool_pool *pool, struct part parts[PARTS])
{
    const struct bp_pages *pages = &pool->pages;
    const struct bp_provenance *provenance = &pool->provenance;
    const struct bp_depot *depot = provenance->depot;
    const size_t state = sizeof *pages->states;
    const size_t record = sizeof *provenance->records;
    const size_t stacks = sizeof *provenance->stacks;
    int count = 0;
    if (pages->header == NULL || pages->mapped == 0) {
        return 0;
    }
    parts[count++] = (struct part){pages->header, sizeof *pages->header, 0, OS_PAGE};
    parts[count++] = (struct part){pages->members, (BP_MAX_MEMBERS + 1) * sizeof *pages->members, 0, 16 * OS_PAGE};
    parts[count++] = (struct part){(const void *)pages->states, pages->count * state, state, 16 << 20};
    if (provenance->mode != BP_PROVENANCE_OFF) {
        parts[count++] = (struct part){provenance->records, pages->count * record, record, 8 << 20};
        parts[count++] = (struct part){provenance->threads, sizeof *provenance->threads, 0, 64 * OS_PAGE};
        parts[count++] = (struct part){provenance->counts, sizeof *provenance->counts, 0, OS_PAGE};
    }
    if (provenance->mode == BP_PROVENANCE_STACKS) {
        parts[count++] = (struct part){provenance->stacks, pages->count * stacks, stacks, 4 << 20};
        parts[count++] = (struct part){depot->arena, sizeof depot->arena, 0, 1 << 20};
    }
    return count;
}

static void mark(const struct part *part, uint64_t from, uint64_t to)
{
    uintptr_t begin = ((uintptr_t)part->place + from) / OS_PAGE * OS_PAGE;
    uintptr_t end = (uintptr_t)part->place + (to < part->size ? to : part->size);
    if (begin < end) {
        bp_kernel_madvise((void *)begin, (end - begin + OS_PAGE - 1) / OS_PAGE * OS_PAGE, MADV_DODUMP);
    }
}

/* What is a hole of the file stays out, as far as that can be had. */
static void mark_touched(const bufpool_pool *pool, const struct part *part, uint64_t from, uint64_t to, uint64_t *left)
{
    const struct bp_pages *pages = &pool->pages;
    uint64_t into = (uint64_t)((const char *)part->place - (const char *)pages->place);
    uint64_t offset =
        into < pages->mapped
            ? into
            : pages->mapped + (uint64_t)((const char *)part->place - (const char *)pool->provenance.place);
    to = to < part->size ? to : part->size;
    for (int runs = 0; from < to && *left > 0 && runs < RUNS; runs++) {
        uint64_t start;
        uint64_t end;
        if (bp_kernel_next_data(pages->fd, offset + from, &start, &end) < 0 || start >= offset + to) {
            return;
        }
        from = start - offset;
        end = end - offset + GAP < to ? end - offset + GAP : to;
        end = end - from < *left ? end : from + *left;
        mark(part, from, end);
        *left -= end - from;
        from = end;
    }
}

void bp_postmortem_open(const bufpool_pool *pool)
{
    struct part parts[PARTS];
    int count = parts_of(pool, parts);
    for (int i = 0; i < count; i++) {
        mark(&parts[i], 0, parts[i].early);
    }
}

static void dump_tables(const bufpool_pool *pool, uint64_t page)
{
    struct part parts[PARTS];
    if (pool->process != bp_process() || atomic_load(&pool->closed) || !bp_kernel_is_kept(pool->pages.fd)) {
        return;
    }
    int count = parts_of(pool, parts);
    for (int i = 0; i < count; i++) {
        uint64_t left = MOST_TOUCHED;
        uint64_t at = page * parts[i].item;
        uint64_t from = at < left / 2 ? 0 : at - left / 2;
        mark(&parts[i], at, at + parts[i].item);
        mark_touched(pool, &parts[i], from, parts[i].size, &left);
        mark_touched(pool, &parts[i], 0, from, &left);
    }
}

void bp_postmortem_dump_tables(void)
{
    /* Not entered, as that may wait: of a pool that is just being closed no memory is read here. */
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (atomic_load(&pool->first) != 0) {
            dump_tables(pool, 0);
        }
    }
}

/* ---- Pages ---- */

#define AROUND 4
#define MOST ((uint64_t)4 << 20) /* bytes of a page: what makes a core dump much larger is left out */

void bp_postmortem_dump(const bufpool_pool *pool, uint64_t page)
{
    dump_tables(pool, page);
    if (pool->page_size > MOST || pool->process != bp_process() || atomic_load(&pool->closed)) {
        return;
    }
    uint64_t from = page > AROUND ? page - AROUND : 0;
    for (uint64_t near = from; near <= page + AROUND && near < pool->capacity / pool->page_size; near++) {
        /* Never a hole: what is not armed is filled by the dump. */
        if (bp_state_seen(bp_pages_load(&pool->pages, near)) == BUFPOOL_STATE_ALLOCATED) {
            bp_kernel_madvise((void *)bp_page_address(pool, near), pool->page_size, MADV_DODUMP);
        }
    }
}
