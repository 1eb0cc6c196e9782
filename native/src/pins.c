/* pins.c: pinning and unpinning, see pins.h. */
#include "pins.h"

#include "error.h"
#include "keys.h"
#include "lazy.h"
#include "modules.h"
#include "pool.h"
#include "recover.h"
#include "scratch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATIENCE 20000 /* looks at a word that somebody is changing: two seconds */

const uint64_t bp_pins_nothing = 0;
static const uint64_t everything = UINT64_MAX;

const char *bp_pins_name(enum bp_pins_mode mode)
{
    static const char *const names[] = {"off", "count", "write", "all"};
    return (size_t)mode < sizeof names / sizeof *names ? names[mode] : NULL;
}

enum bp_open bp_pins_unpinned(enum bp_pins_mode mode)
{
    return mode == BP_PINS_ALL ? BP_OPEN_NONE : mode == BP_PINS_WRITE ? BP_OPEN_READ : BP_OPEN_WRITE;
}

/* uses: of a page that is guarded by sampling. */
static enum bp_open opened_at(const bufpool_pool *pool, uint64_t page, uint32_t word, uint32_t uses)
{
    enum bp_open unpinned = bp_pins_unpinned(pool->pins.mode);
    if (bp_sample_has(&pool->pins.sample, page)) {
        unpinned = bp_sample_is_due(uses) ? BP_OPEN_NONE : BP_OPEN_WRITE;
    }
    return bp_pins_opened(unpinned, word);
}

enum bp_open bp_pins_open_as(const bufpool_pool *pool, uint64_t page, uint32_t word)
{
    bool sampled = bp_sample_has(&pool->pins.sample, page);
    return opened_at(pool, page, word, sampled ? bp_sample_uses(&pool->pins.sample, page) : 0);
}

/* Closes or opens a page: one that is guarded by sampling lies in a space that closes none. */
int bp_pins_protect(bufpool_pool *pool, uint64_t page, enum bp_open from, enum bp_open to)
{
    uintptr_t address = bp_page_address(pool, page);
    return bp_sample_has(&pool->pins.sample, page) ? bp_sample_protect(address, pool->page_size, to)
                                                   : bp_space_protect(&pool->space, address, pool->page_size, from, to);
}

/* A page that is guarded by sampling is open from here on, as if it had never been pinned. */
static void lift(bufpool_pool *pool, uint64_t page)
{
    struct bp_sample *sample = &pool->pins.sample;
    if (bp_sample_has(sample, page) && bp_sample_uses(sample, page) > 0) {
        bp_sample_protect(bp_page_address(pool, page), pool->page_size, BP_OPEN_WRITE);
        atomic_store(&sample->uses[page], 0);
    }
}

bool bp_pins_take(bufpool_pool *pool, uint64_t page, int patience, uint32_t *word)
{
    for (; patience > 0; patience--) {
        *word = atomic_load(&pool->pins.words[page]);
        if (!(*word & BP_PIN_CHANGING)) {
            uint32_t seen = *word;
            if (atomic_compare_exchange_strong(&pool->pins.words[page], &seen, seen | BP_PIN_CHANGING)) {
                return true;
            }
            continue;
        }
        bp_kernel_sleep_ns(100000);
    }
    return false;
}

void bp_pins_put(bufpool_pool *pool, uint64_t page, uint32_t word)
{
    atomic_store(&pool->pins.words[page], word);
}

void bp_pins_choose(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    uint64_t n = BP_COUNT(pool->pages.counts, allocations) + BP_COUNT(pool->pages.counts, populates);
    for (size_t i = 0; i < count; i++) {
        /* Of who has pinned it while another process freed it; or is just looking whether it is allocated, and sees not. */
        uint32_t word = 0;
        bool taken = atomic_load(&pool->pins.words[pages[i]]) != 0 && bp_pins_take(pool, pages[i], 10000, &word);
        lift(pool, pages[i]);
        bp_sample_choose(&pool->pins.sample, pages[i], n - count + i);
        if (taken) {
            bp_pins_put(pool, pages[i], bp_pins_counted(&pool->pins) ? word : 0);
        }
    }
}

int bp_pins_open(struct bp_pins *pins, enum bp_pins_mode mode, uint32_t one_in, uint64_t seed, uint64_t pages)
{
    void *place = NULL;
    size_t size = mode == BP_PINS_OFF && one_in == 0 ? 0 : pages * sizeof *pins->words;
    int code = size == 0 ? 0 : bp_lazy_map(size, &place);
    if (code == 0) {
        pins->words = place;
        pins->mapped = size;
        pins->mode = mode;
        code = bp_sample_open(&pins->sample, one_in, seed, pages);
    }
    if (code == 0 && size > 0) {
        const void *table = mode != BP_PINS_OFF ? (const void *)&everything : (const void *)pins->sample.groups;
        pins->gate = (uintptr_t)table - (uintptr_t)&bp_pins_nothing;
        pins->gate_mask = mode != BP_PINS_OFF ? 0 : pins->sample.group_mask;
    }
    return code;
}

void bp_pins_close(struct bp_pins *pins)
{
    if (pins->mapped > 0) {
        bp_kernel_munmap((void *)pins->words, pins->mapped);
        pins->mapped = 0;
    }
    bp_keys_close(pins);
}

void bp_pins_forget(struct bp_pins *pins)
{
    pins->gate_mask = 0;
    pins->gate = 0;
    bp_sample_close(&pins->sample);
}

#define NAMED_FRAMES 3

/* The innermost frames of a native stack, ": engine+0x123, engine+0x456"; "" where there is none. */
static void put_stack(const bufpool_origin *origin, char *text, size_t size)
{
    struct bp_module modules[NAMED_FRAMES];
    struct bp_modules_room room;
    char names[1024];
    size_t used = 0;
    size_t depth = origin->stack_depth < NAMED_FRAMES ? origin->stack_depth : NAMED_FRAMES;
    bp_modules_find(origin->stack, depth, modules, names, sizeof names, &room);
    text[0] = 0;
    for (size_t i = 0; i < depth && used < size; i++) {
        const char *path = modules[i].path == NULL ? "" : modules[i].path;
        const char *slash = strrchr(path, '/');
        used += (size_t)snprintf(text + used, size - used, "%s%s+0x%llx", i == 0 ? ": " : ", ",
                                 slash == NULL ? path : slash + 1,
                                 (unsigned long long)(path[0] == 0 ? origin->stack[i] : modules[i].offset));
    }
}

/* ", last pinned by thread 17 "worker"", and from where, as far as that is recorded; else "". */
static const char *by_whom(const bufpool_pool *pool, uint64_t page, bool pinned, char *text, size_t size)
{
    bufpool_origin pin;
    bufpool_origin unpin;
    bp_provenance_read_pins(&pool->provenance, page, &pin, &unpin);
    const bufpool_origin *origin = pinned ? &pin : &unpin;
    text[0] = 0;
    if (origin->sequence != 0) {
        char stack[300];
        put_stack(origin, stack, sizeof stack);
        bool said = origin->caller[0] != 0;
        snprintf(text, size, ", last %s by thread %d \"%s\"%s%s", pinned ? "pinned" : "unpinned",
                 (int)origin->thread_id, origin->thread_name, said ? ": " : "", said ? origin->caller : stack);
    }
    return text;
}

/* Waits while somebody changes the word; false: for too long. */
static bool await(bufpool_pool *pool, uint64_t page, uint32_t *word)
{
    for (int patience = 0; patience < PATIENCE; patience++) {
        *word = atomic_load(&pool->pins.words[page]);
        if (*word & BP_PIN_LOOSE && !(*word & BP_PIN_CHANGING)) {
            bp_scratch_await_pin(pool, page);
            continue;
        }
        if (!(*word & BP_PIN_CHANGING)) {
            return true;
        }
        bp_kernel_sleep_ns(patience < 10 ? 1000 : 100000);
    }
    return false;
}

int bp_pins_late(const bufpool_pool *pool, uint64_t page, const char *what)
{
    return bp_error(BUFPOOL_ESTATE,
                    "cannot %s page %llu of pool \"%s\": another thread, or the call that this one interrupts, is "
                    "pinning, unpinning, freeing or evicting it",
                    what, (unsigned long long)page, pool->name);
}

int bp_pins_claim(bufpool_pool *pool, uint64_t page, const char *what)
{
    for (int patience = 0; patience < PATIENCE; patience++) {
        uint32_t word = atomic_load(&pool->pins.words[page]);
        if (word & BP_PIN_CHANGING) {
            if (bp_pages_load(&pool->pages, page) & BP_BUSY) {
                return -EBUSY;
            }
            bp_kernel_sleep_ns(patience < 10 ? 1000 : 100000);
            continue;
        }
        if (word & BP_PIN_LOOSE) {
            bp_scratch_await_pin(pool, page);
            continue;
        }
        if (BP_PINS(word) != 0) {
            char who[700];
            return bp_error(BUFPOOL_ESTATE, "cannot %s page %llu of pool \"%s\": it is pinned (%u read, %u write)%s",
                            what, (unsigned long long)page, pool->name, BP_READS(word), BP_WRITES(word),
                            by_whom(pool, page, true, who, sizeof who));
        }
        if (atomic_compare_exchange_strong(&pool->pins.words[page], &word, word | BP_PIN_CHANGING)) {
            lift(pool, page); /* before the frame goes: a trap that works by protection closes the page then */
            return 0;
        }
    }
    return bp_pins_late(pool, page, what);
}

void bp_pins_settle(bufpool_pool *pool, uint64_t page)
{
    atomic_store(&pool->pins.words[page], 0);
}

static int check_allocated(const bufpool_pool *pool, uint64_t page, uint16_t state)
{
    if (state != BUFPOOL_STATE_ALLOCATED) {
        return bp_error(
            BUFPOOL_ESTATE, "cannot pin page %llu of pool \"%s\": it is %s%s, and only allocated pages can be",
            (unsigned long long)page, pool->name, bufpool_state_name((bufpool_state)(state & BP_STATE_MASK)),
            state & BP_BUSY ? ", and another thread is changing it" : "");
    }
    return 0;
}

static bool is_recorded(const bufpool_pool *pool)
{
    return pool->provenance.mode != BP_PROVENANCE_OFF;
}

int bp_pins_refused(const bufpool_pool *pool, uint64_t page, bufpool_event event, int code)
{
    if (bp_pool_is_closed(pool)) { /* meanwhile */
        return bp_pool_closed_error(pool);
    }
    bool sampled = bp_sample_has(&pool->pins.sample, page); /* of whatever trap: by mprotect */
    return bp_error(code, "cannot %s page %llu of pool \"%s\" by %s%s: %s%s%s", bufpool_event_name(event),
                    (unsigned long long)page, pool->name, sampled ? "" : "trap ",
                    sampled ? bp_trap_mprotect.name : pool->space.trap->name, strerror(-code),
                    code == -EFAULT ? ", it has no frame any more" : "",
                    sampled && code == -ENOMEM ? BP_NO_MAPPING_LEFT : bp_space_hint(&pool->space, code));
}

/* No mapping is left to close a page that is guarded by sampling: then it is guarded no more, and its pins count no more.
 * false: nor is one left to open it. */
static bool let_go(bufpool_pool *pool, uint64_t page, enum bp_open open)
{
    if (open != BP_OPEN_WRITE && bp_pins_protect(pool, page, open, BP_OPEN_WRITE) < 0) {
        return false;
    }
    bp_sample_drop(&pool->pins.sample, page);
    return true;
}

/* From a word that is not CHANGING to another one, with what that takes. `over`: the word until it is done. */
static bool change(bufpool_pool *pool, uint64_t page, uint32_t from, uint32_t over, uint32_t to, bufpool_event event,
                   const void *caller, int *code)
{
    _Atomic uint32_t *word = &pool->pins.words[page];
    *code = 0;
    bool pinning = event == BUFPOOL_EVENT_PIN;
    bool first = BP_PINS(from) == 0;
    bool sampling = pool->pins.sample.one_in != 0;
    bool audited = bp_audit_is_on(&pool->audit) && (BP_WRITES(from) == 0) != (BP_WRITES(to) == 0);
    if (!first && !sampling && !audited && !is_recorded(pool) &&
        bp_pins_open_as(pool, page, from) == bp_pins_open_as(pool, page, to)) {
        return atomic_compare_exchange_strong(word, &from, to);
    }
    if (!atomic_compare_exchange_strong(word, &from, over | BP_PIN_CHANGING)) {
        return false;
    }
    if (pinning) {
        *code = check_allocated(pool, page, bp_pages_load(&pool->pages, page));
    }
    /* Not before: others may have pinned and unpinned it since `from` was read. */
    bool sampled = sampling && bp_sample_has(&pool->pins.sample, page);
    uint32_t uses = sampled ? bp_sample_uses(&pool->pins.sample, page) : 0;
    uint32_t next_uses = uses + (sampled && first && uses < UINT32_MAX);
    enum bp_open before = opened_at(pool, page, from, uses);
    enum bp_open after = opened_at(pool, page, to, next_uses);
    /* What is taken away is recorded before, so that an access that strays meanwhile finds it; a pin when it is there. */
    if (!pinning) {
        bp_record(&pool->provenance, &page, 1, event, caller);
    }
    if (*code == 0 && before != after) {
        *code = bp_pins_protect(pool, page, before, after);
        if (*code < 0 && sampled && after > before && let_go(pool, page, before)) {
            atomic_fetch_add_explicit(&pool->pins.taken, BP_READS(to) + BP_WRITES(to), memory_order_relaxed);
            to = 0;
            *code = 0;
        } else if (*code < 0) {
            *code = bp_pins_refused(pool, page, event, *code);
        }
    }
    if (*code == 0 && pinning) {
        bp_record(&pool->provenance, &page, 1, event, caller);
    }
    if (*code == 0 && audited && BP_WRITES(to) > 0) {
        bp_audit_set_dirty(pool, page);
    } else if (*code == 0 && audited) {
        bp_audit_set_clean(pool, page); /* where that fails it is not watched, and not counted as clean */
    }
    if (*code == 0 && next_uses != uses) {
        atomic_store(&pool->pins.sample.uses[page], next_uses);
    }
    atomic_store(word, *code == 0 ? to : from);
    return true;
}

static int pin_for_all(bufpool_pool *pool, uint64_t page, bool write, const void *caller)
{
    uint32_t word;
    int code = bp_pool_check_page(pool, page);
    while (code == 0 && await(pool, page, &word)) {
        uint16_t state = bp_pages_load(&pool->pages, page);
        if (state & BP_BUSY && bp_recover_page(pool, page)) {
            continue;
        }
        /* By now somebody may try to take it away, and be refused: change() looks when he is done. */
        bool tried = state & BP_BUSY && BP_PINS(word) == 0;
        code = tried ? 0 : check_allocated(pool, page, state);
        if (code < 0) {
            break;
        }
        if ((write ? BP_WRITES(word) : BP_READS(word)) == BP_MAX_PINS) {
            return bp_error(BUFPOOL_ESTATE, "page %llu of pool \"%s\" has %u %s pins, the most that are counted",
                            (unsigned long long)page, pool->name, BP_MAX_PINS, write ? "write" : "read");
        }
        uint32_t next = word + (write ? BP_PIN_WRITE : BP_PIN_READ);
        if (change(pool, page, word, word, next, BUFPOOL_EVENT_PIN, caller, &code)) {
            atomic_fetch_add_explicit(&pool->pins.given, code == 0, memory_order_relaxed);
            return code;
        }
    }
    return code < 0 ? code : bp_pins_late(pool, page, "pin");
}

int bp_pins_add(bufpool_pool *pool, uint64_t page, bool write, const void *caller)
{
    bool keyed = write && pool->space.key > 0;
    int code = keyed ? bp_keys_add(pool) : 0;
    if (code == 0) {
        code = pin_for_all(pool, page, write, caller);
        if (code < 0 && keyed) {
            bp_keys_remove(pool);
        }
    }
    return code;
}

int bp_pins_remove(bufpool_pool *pool, uint64_t page, enum bp_pin_kind kind, const void *caller)
{
    uint32_t word;
    int code = bp_pool_check_page(pool, page);
    while (code == 0 && await(pool, page, &word)) {
        bool write = kind == BP_PIN_OF_WRITING || (kind == BP_PIN_OF_ANY && BP_READS(word) == 0);
        if ((write ? BP_WRITES(word) : BP_READS(word)) == 0) {
            char who[700];
            return bp_error(BUFPOOL_ESTATE,
                            "cannot unpin page %llu of pool \"%s\": it has no %spin (%u read, %u write)%s",
                            (unsigned long long)page, pool->name,
                            kind == BP_PIN_OF_ANY ? ""
                            : write               ? "write "
                                                  : "read ",
                            BP_READS(word), BP_WRITES(word), by_whom(pool, page, false, who, sizeof who));
        }
        bool keyed = write && pool->space.key > 0;
        if (keyed && pool->opener == 0 && !bp_keys_may_write(pool)) {
            return bp_error(
                BUFPOOL_ESTATE,
                "cannot unpin page %llu of pool \"%s\": its write pin is another thread's, and with pin_keys "
                "a write pin is given back by the thread that has it",
                (unsigned long long)page, pool->name);
        }
        uint32_t next = word - (write ? BP_PIN_WRITE : BP_PIN_READ);
        if (change(pool, page, word, next, next, BUFPOOL_EVENT_UNPIN, caller, &code)) {
            atomic_fetch_add_explicit(&pool->pins.taken, code == 0, memory_order_relaxed);
            if (code == 0 && keyed) {
                bp_keys_remove(pool);
            }
            return code;
        }
    }
    return code < 0 ? code : bp_pins_late(pool, page, "unpin");
}
