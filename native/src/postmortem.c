/* postmortem.c: the block that debuggers read, and the pages that go into a core dump, see postmortem.h. */
#include "postmortem.h"

#include "diagnose.h"
#include "places.h"
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
                FIELD("counts.evicted", struct bp_counts, evicted),
                FIELD("counts.allocations", struct bp_counts, allocations),
                FIELD("counts.frees", struct bp_counts, frees),

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
                CONSTANT("option.dump", BUFPOOL_DUMP),
            },
};

_Static_assert(offsetof(struct bp_postmortem, fields) == 56, "read from core dumps: the head, then the fields");
_Static_assert(sizeof(struct bp_postmortem_field) == 32, "read from core dumps: an entry of the fields");

void bp_postmortem_note_time(void)
{
    atomic_store(&bp_postmortem.epoch_ns, bp_kernel_epoch_ns());
}

#define AROUND 4
#define MOST ((uint64_t)4 << 20) /* bytes of a page: what makes a core dump much larger is left out */

void bp_postmortem_dump(const bufpool_pool *pool, uint64_t page)
{
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
