/* postmortem.c: the block that debuggers read, and the pages that go into a core dump, see postmortem.h. */
#include "postmortem.h"

#include "diagnose.h"
#include "thread.h"

#include <sys/mman.h>

#define FIELD(name, type, member) {name, offsetof(type, member), sizeof(((type *)0)->member)}
#define POOL(name, member) FIELD("pool." name, struct bufpool_pool, member)
#define FAULT(member) FIELD("fault." #member, bufpool_fault, member)
#define CONSTANT(name, value) {name, value, 0}

__attribute__((section(".bufpool"), used)) struct bp_postmortem bp_postmortem = {
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
            POOL("high_water", pages.high_water),
            POOL("evicted", evicted),
            POOL("allocations", allocations),
            POOL("frees", frees),
            POOL("faults", faults),
            POOL("ring", ring),
            FIELD("trap.name", struct bp_trap, name),

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

            CONSTANT("state.unallocated", BUFPOOL_STATE_UNALLOCATED),
            CONSTANT("state.allocated", BUFPOOL_STATE_ALLOCATED),
            CONSTANT("state.freed", BUFPOOL_STATE_FREED),
            CONSTANT("state.evicted", BUFPOOL_STATE_EVICTED),
            CONSTANT("state.closed", BUFPOOL_STATE_CLOSED),
            CONSTANT("byte.mask", BP_STATE_MASK),
            CONSTANT("byte.evicting", BP_EVICTING),
            CONSTANT("byte.freeing", BP_FREEING),
            CONSTANT("byte.scratch", BP_SCRATCH),
            CONSTANT("byte.busy", BP_BUSY),
            CONSTANT("access.read", BUFPOOL_READ),
            CONSTANT("access.write", BUFPOOL_WRITE),
            CONSTANT("access.execute", BUFPOOL_EXECUTE),
            CONSTANT("policy.abort", BP_ABORT),
            CONSTANT("policy.raise", BP_RAISE),
            CONSTANT("policy.resume", BP_RESUME),
            CONSTANT("flag.raced", BUFPOOL_FAULT_RACED),
            CONSTANT("flag.forked", BUFPOOL_FAULT_FORKED),
            CONSTANT("flag.lost", BUFPOOL_FAULT_LOST),
            CONSTANT("option.dump", BUFPOOL_DUMP),
        },
};

_Static_assert(offsetof(struct bp_postmortem, pools) == 40, "the head of the block stays where it is");
_Static_assert(sizeof(struct bp_postmortem_field) == 32, "a field's entry stays as it is");

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
