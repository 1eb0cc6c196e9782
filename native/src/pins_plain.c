/*
 * pins_plain.c: the shortest way to pin and unpin, of pools whose pins are a count and the kernel's work, and no more: no
 * sampling, audit, provenance nor keys. See pins.h.
 *
 * A system call leaves the processor's caches of code and of branches cold, so that after it each function on the way
 * back costs 5 to 10 ns, as much as all that is done here. So there are two functions, with everything else inlined.
 * Whatever is not as usual they leave to pins.c, undone: misuse, too, but not what the kernel refuses.
 */
#include "fork.h"
#include "pins.h"
#include "pool.h"
#include "thread.h"

static inline void leave(bufpool_pool *pool)
{
    atomic_fetch_sub(bp_pool_users(pool), 1);
    bp_thread.inside--;
}

/* bp_pool_enter() where that has nothing to do. */
static inline bool enter(bufpool_pool *pool)
{
    if (pool == NULL || !pool->pins.plain || bp_thread.scratches > 0) {
        return false;
    }
    bp_thread.inside++;
    atomic_fetch_add(bp_pool_users(pool), 1);
    if (atomic_load(&bp_fork_gate) != 0 || atomic_load(&pool->first) == 0 || bp_pool_is_closed(pool) ||
        pool->process != bp_process() || atomic_load_explicit(&pool->scratched, memory_order_relaxed) > 0) {
        leave(pool);
        return false;
    }
    bp_thread.epoch++;
    return true;
}

/* As change() in pins.c. */
static inline int turn(bufpool_pool *pool, uint64_t page, uint32_t from, uint32_t to, bool pinning)
{
    _Atomic uint32_t *word = &pool->pins.words[page];
    enum bp_open before = bp_pins_opened(pool->space.unpinned, from);
    enum bp_open after = bp_pins_opened(pool->space.unpinned, to);
    if (before == after && BP_PINS(from) != 0) {
        return atomic_compare_exchange_strong(word, &from, to) ? 0 : BP_PIN_UNUSUAL;
    }
    uint32_t seen = from;
    if (!atomic_compare_exchange_strong(word, &seen, (pinning ? from : to) | BP_PIN_CHANGING)) {
        return BP_PIN_UNUSUAL;
    }
    int code = 0;
    if (pinning && bp_pages_load(&pool->pages, page) != BUFPOOL_STATE_ALLOCATED) {
        code = BP_PIN_UNUSUAL;
    } else if (before != after) {
        code = bp_space_protect(&pool->space, bp_page_address(pool, page), pool->page_size, before, after);
    }
    atomic_store_explicit(word, code == 0 ? to : from, memory_order_release);
    return code < 0 ? bp_pins_refused(pool, page, pinning ? BUFPOOL_EVENT_PIN : BUFPOOL_EVENT_UNPIN, code) : code;
}

static inline bool is_changing(uint32_t word)
{
    return word & (BP_PIN_CHANGING | BP_PIN_LOOSE);
}

int bp_pin_plainly(bufpool_pool *pool, uint64_t page, bool write)
{
    if (!enter(pool)) {
        return BP_PIN_UNUSUAL;
    }
    int code = BP_PIN_UNUSUAL;
    if (page < pool->pages.count && bp_pages_load(&pool->pages, page) == BUFPOOL_STATE_ALLOCATED) {
        uint32_t word = atomic_load(&pool->pins.words[page]);
        if (!is_changing(word) && (write ? BP_WRITES(word) : BP_READS(word)) < BP_MAX_PINS) {
            code = turn(pool, page, word, word + (write ? BP_PIN_WRITE : BP_PIN_READ), true);
        }
    }
    atomic_fetch_add_explicit(&pool->pins.given, code == 0, memory_order_relaxed);
    leave(pool);
    return code;
}

int bp_unpin_plainly(bufpool_pool *pool, uint64_t page, enum bp_pin_kind kind)
{
    if (!enter(pool)) {
        return BP_PIN_UNUSUAL;
    }
    int code = BP_PIN_UNUSUAL;
    if (page < pool->pages.count) {
        uint32_t word = atomic_load(&pool->pins.words[page]);
        bool write = kind == BP_PIN_OF_WRITING || (kind == BP_PIN_OF_ANY && BP_READS(word) == 0);
        if (!is_changing(word) && (write ? BP_WRITES(word) : BP_READS(word)) > 0) {
            code = turn(pool, page, word, word - (write ? BP_PIN_WRITE : BP_PIN_READ), false);
        }
    }
    atomic_fetch_add_explicit(&pool->pins.taken, code == 0, memory_order_relaxed);
    leave(pool);
    return code;
}
