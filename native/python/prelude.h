/*
 * What the Python face adds to bufpool.h, so that each Python call is one call of C.
 *
 * Before its work each function asks whether this thread is owed a fault (on_fault "raise"). If so it does nothing else
 * and returns BUFPOOL_PY_OWED: Python raises the fault, and no finished work is lost behind the exception. After
 * BUFPOOL_PY_OWED and BUFPOOL_ESTRAY bufpool_last_fault() has it. A fault with the flag BUFPOOL_FAULT_TOLD is only to be
 * logged: then the call is made again.
 */
#include <bufpool/bufpool.h>
#include <stdlib.h>

#include "bufpool_sqlite.h"

#define BUFPOOL_PY_OWED (-8192)

/* Other errors, such as a forked child's, are left for the call itself to meet. */
static bool py_owed(void)
{
    return bufpool_check(NULL) == BUFPOOL_ESTRAY || bufpool_told(NULL) == BUFPOOL_ESTRAY;
}

#define PY_CALL(call) (py_owed() ? BUFPOOL_PY_OWED : (call))

static int bufpool_py_check(void)
{
    return py_owed() ? BUFPOOL_PY_OWED : 0;
}

static int bufpool_py_check_ended(bufpool_pool *pool)
{
    bool owed = bufpool_check_ended(pool, NULL) == BUFPOOL_ESTRAY || bufpool_told_ended(pool, NULL) == BUFPOOL_ESTRAY;
    return owed ? BUFPOOL_PY_OWED : 0;
}

/* ---- The end of Python ------------------------------------------------------------------------------------------ */

static bool py_outlives;

static void py_install_handlers(void)
{
    py_outlives = false; /* an interpreter that is initialised again asks again */
    bufpool_install_handlers();
}

static void py_flush(void)
{
    bufpool_flush(NULL);
}

/* Called when a pool has been opened. Where faulthandler was enabled before that, the end of the interpreter puts back
 * the handlers that were there before faulthandler: after that it is our turn again. What strays then has nobody to ask
 * for it any more, and is written when the process ends. */
static void bufpool_py_outlive(void)
{
    static bool flushes;
    PyGILState_STATE state = PyGILState_Ensure();
    if (!py_outlives) {
        py_outlives = Py_AtExit(py_install_handlers) == 0;
        flushes = flushes || atexit(py_flush) == 0;
    }
    PyGILState_Release(state);
}

/* ---- Calls on a pool ------------------------------------------------------------------------------------------- */

/* The page's number, or an error. */
static int64_t bufpool_py_allocate(bufpool_pool *pool, const void *data, size_t size)
{
    uint64_t page = 0;
    int code = PY_CALL(bufpool_allocate(pool, data, size, &page));
    return code ? code : (int64_t)page;
}

/* The same, of zeros: most allocations of most programs, so it has nothing else to take. */
static int64_t bufpool_py_allocate_zeros(bufpool_pool *pool)
{
    return bufpool_py_allocate(pool, NULL, 0);
}

static int bufpool_py_allocate_at(bufpool_pool *pool, uint64_t page, const void *data, size_t size)
{
    return PY_CALL(bufpool_allocate_at(pool, page, data, size));
}

static int bufpool_py_allocate_many(bufpool_pool *pool, size_t count, uint64_t *pages)
{
    return PY_CALL(bufpool_allocate_many(pool, count, pages));
}

/* size has been compared with that of count pages; it is here as in the calls on one page. */
static int bufpool_py_allocate_filled(bufpool_pool *pool, size_t count, uint64_t *pages, const void *data, size_t size)
{
    (void)size;
    return PY_CALL(bufpool_allocate_filled(pool, count, data, pages));
}

static int bufpool_py_free(bufpool_pool *pool, uint64_t page)
{
    return PY_CALL(bufpool_free(pool, page));
}

static int bufpool_py_settle(bufpool_pool *pool)
{
    return PY_CALL(bufpool_settle(pool));
}

static int bufpool_py_free_many(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return PY_CALL(bufpool_free_many(pool, count, pages));
}

static int bufpool_py_evict(bufpool_pool *pool, uint64_t page)
{
    return PY_CALL(bufpool_evict(pool, page));
}

static int bufpool_py_evict_many(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return PY_CALL(bufpool_evict_many(pool, count, pages));
}

static int bufpool_py_populate(bufpool_pool *pool, uint64_t page, const void *data, size_t size)
{
    return PY_CALL(bufpool_populate(pool, page, data, size));
}

static int bufpool_py_populate_many(bufpool_pool *pool, size_t count, const uint64_t *pages, const void *data,
                                    size_t size)
{
    (void)size;
    return PY_CALL(bufpool_populate_many(pool, count, pages, data));
}

static int bufpool_py_stage(bufpool_pool *pool, size_t count, void **frames)
{
    return PY_CALL(bufpool_stage(pool, count, frames));
}

static int bufpool_py_publish(bufpool_pool *pool, size_t count, void **frames, const uint64_t *pages)
{
    return PY_CALL(bufpool_publish(pool, count, frames, pages));
}

static int bufpool_py_withdraw(bufpool_pool *pool, size_t count, const uint64_t *pages, void **frames)
{
    return PY_CALL(bufpool_withdraw(pool, count, pages, frames));
}

static int bufpool_py_unstage(bufpool_pool *pool, size_t count, void **frames)
{
    return PY_CALL(bufpool_unstage(pool, count, frames));
}

static int bufpool_py_replace(bufpool_pool *pool, uint64_t victim, uint64_t page)
{
    return PY_CALL(bufpool_replace(pool, victim, page));
}

static int bufpool_py_read_from(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets,
                                const uint64_t *pages, int *results)
{
    return PY_CALL(bufpool_read_from(pool, fd, count, offsets, pages, results));
}

static int bufpool_py_write_to(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages,
                               int *results)
{
    return PY_CALL(bufpool_write_to(pool, fd, count, offsets, pages, results));
}

static int bufpool_py_pin(bufpool_pool *pool, uint64_t page, bool write)
{
    return PY_CALL(bufpool_pin(pool, page, write));
}

static int bufpool_py_pin_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool write)
{
    return PY_CALL(bufpool_pin_many(pool, count, pages, write));
}

static int bufpool_py_mark_clean(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return PY_CALL(bufpool_mark_clean(pool, count, pages));
}

static int bufpool_py_mark_dirty(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return PY_CALL(bufpool_mark_dirty(pool, count, pages));
}

static int bufpool_py_list(bufpool_pool *pool, bufpool_state state, uint64_t from, size_t count, uint64_t *pages,
                           size_t *found)
{
    return PY_CALL(bufpool_list(pool, state, from, count, pages, found));
}

/* The page's state, or an error. Never BUFPOOL_PY_OWED. */
static int bufpool_py_state(const bufpool_pool *pool, uint64_t page)
{
    bufpool_state state;
    int code = bufpool_page_state(pool, page, &state);
    return code ? code : (int)state;
}

static int bufpool_py_states(const bufpool_pool *pool, size_t count, const uint64_t *pages, uint8_t *states)
{
    for (size_t i = 0; i < count; i++) {
        int state = bufpool_py_state(pool, pages[i]);
        if (state < 0)
            return state;
        states[i] = (uint8_t)state;
    }
    return 0;
}

/* ---- Guarded access -------------------------------------------------------------------------------------------- */

static int bufpool_py_copy(uint64_t place, void *to, const void *from, size_t size)
{
    if (py_owed())
        return BUFPOOL_PY_OWED;
    bufpool_set_place(place);
    int code = bufpool_guarded_copy(to, from, size, NULL);
    bufpool_set_place(0);
    return code;
}

/* The byte at address, or an error. */
static int bufpool_py_get(uint64_t place, uintptr_t address)
{
    unsigned char byte = 0;
    int code = bufpool_py_copy(place, &byte, (const void *)address, 1);
    return code ? code : byte;
}

static int bufpool_py_read(uint64_t place, void *to, uintptr_t address, size_t size)
{
    return bufpool_py_copy(place, to, (const void *)address, size);
}

static int bufpool_py_write(uint64_t place, uintptr_t address, const void *from, size_t size)
{
    return bufpool_py_copy(place, (void *)address, from, size);
}

/* Copies whole pages one after the other, beginning with number *done of them; *done is then the one it ended at. */
static int bufpool_py_read_many(const bufpool_pool *pool, uint64_t place, size_t size, size_t count,
                                const uint64_t *pages, char *to, size_t *done)
{
    int code = 0;
    while (*done < count && code == 0) {
        code = bufpool_py_copy(place, to + *done * size, bufpool_address(pool, pages[*done]), size);
        *done += code == 0;
    }
    return code;
}
