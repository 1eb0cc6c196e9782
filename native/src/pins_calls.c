/* pins_calls.c: the public calls that pin and unpin: the short way first, then that of pins.c. */
#include "error.h"
#include "numbers.h"
#include "pins.h"
#include "pool.h"

#include <stdio.h>

/* Nothing to do, in a release build's pool? */
static bool is_off(const bufpool_pool *pool, uint64_t page)
{
    return pool != NULL && !bp_pins_counts(&pool->pins, page);
}

static bool is_off_for_all(const bufpool_pool *pool)
{
    return pool != NULL && !bp_pins_counted(&pool->pins) && pool->pins.sample.one_in == 0;
}

int bufpool_pin(bufpool_pool *pool, uint64_t page, bool write)
{
    if (is_off(pool, page)) {
        return 0;
    }
    int code = bp_pin_plainly(pool, page, write);
    if (code == BP_PIN_UNUSUAL) {
        code = bp_pool_enter(pool);
        if (code == 0) {
            code = bp_pins_add(pool, page, write, BP_CALLER());
            bp_pool_leave(pool);
        }
    }
    return code;
}

static inline int unpin_one(bufpool_pool *pool, uint64_t page, enum bp_pin_kind kind, const void *caller)
{
    int code = bp_unpin_plainly(pool, page, kind);
    if (code == BP_PIN_UNUSUAL) {
        code = bp_pool_enter(pool);
        if (code == 0) {
            code = bp_pins_remove(pool, page, kind, caller);
            bp_pool_leave(pool);
        }
    }
    return code;
}

int bufpool_unpin(bufpool_pool *pool, uint64_t page)
{
    return is_off(pool, page) ? 0 : unpin_one(pool, page, BP_PIN_OF_ANY, BP_CALLER());
}

int bufpool_unpin_for(bufpool_pool *pool, uint64_t page, bool write)
{
    return is_off(pool, page) ? 0 : unpin_one(pool, page, write ? BP_PIN_OF_WRITING : BP_PIN_OF_READING, BP_CALLER());
}

static int many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write, bool pinning, const void *caller)
{
    struct bp_numbers numbers;
    int code = bp_pool_enter_batch(pool, &numbers, count, pages);
    if (code < 0) {
        return code;
    }
    enum bp_pin_kind kind = write ? BP_PIN_OF_WRITING : BP_PIN_OF_READING;
    size_t done = 0;
    while (done < count && code == 0) {
        uint64_t page = numbers.at[done];
        code = is_off(pool, page) ? 0
               : pinning          ? bp_pins_add(pool, page, write, caller)
                                  : bp_pins_remove(pool, page, kind, caller);
        done += code == 0;
    }
    if (code < 0 && pinning) { /* all or none */
        char sentence[1024];
        snprintf(sentence, sizeof sentence, "%s", bp_error_text());
        while (done > 0) {
            done--;
            if (!is_off(pool, numbers.at[done])) {
                bp_pins_remove(pool, numbers.at[done], kind, caller);
            }
        }
        bp_error(code, "%s", sentence);
    }
    if (code < 0) {
        bp_error_set_done(done);
    }
    bp_pool_leave_batch(pool, &numbers);
    return code;
}

int bufpool_pin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write)
{
    return is_off_for_all(pool) ? 0 : many(pool, count, pages, write, true, BP_CALLER());
}

int bufpool_unpin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write)
{
    return is_off_for_all(pool) ? 0 : many(pool, count, pages, write, false, BP_CALLER());
}
