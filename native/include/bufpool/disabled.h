/*
 * bufpool, switched off: what bufpool.h and optimistic.h declare, without the library, when BUFPOOL_DISABLED is defined. For
 * builds of an engine on systems that bufpool is not for, or without it: C99, C11, C++11, any operating system.
 *
 * Everything is static inline, so that the calls compile away. Types, constants, signatures and ..._INIT are as ever.
 *
 *   Watching     Calls that check, name or report return 0 and do nothing, with whatever pool they are given: there is
 *                nothing to tell. Guarded calls call, guarded copies copy, optimistic sections are entered and never
 *                restarted, bufpool_handle_signal() says that the signal is the host's. Configs are not read from outside.
 *   Pools        There are none: bufpool_open(), bufpool_attach(), bufpool_adopt() and what works on pages return
 *                BUFPOOL_EUNSUPPORTED, as they would on a system that cannot trap, and give NULL for a pool. An engine that
 *                takes its memory from a pool falls back to its own there. Closing, keeping and releasing nothing is no
 *                error.
 *   Text         bufpool_strerror() and bufpool_last_error() say that this is so; names are empty.
 *
 * bufpool.h includes this file; nobody else does.
 */
#ifndef BUFPOOL_DISABLED_H
#define BUFPOOL_DISABLED_H

#include <string.h>

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#elif defined(_MSC_VER)
#pragma warning(push)
#pragma warning(disable : 4100)
#endif

/* A function that returns a value and does nothing. */
#define BUFPOOL_OFF(type, name, parameters, value) \
    BUFPOOL_API type name parameters \
    { \
        return value; \
    }

/* ---- Text ---- */

#define BUFPOOL_OFF_SENTENCE "bufpool is switched off in this build (BUFPOOL_DISABLED): build without that, on Linux"

BUFPOOL_OFF(const char *, bufpool_strerror, (int code), code == 0 ? "success" : BUFPOOL_OFF_SENTENCE)
BUFPOOL_OFF(const char *, bufpool_version, (void), BUFPOOL_VERSION)
BUFPOOL_OFF(const char *, bufpool_memory_name, (size_t n), NULL)
BUFPOOL_OFF(const char *, bufpool_trap_name, (size_t n), NULL)
BUFPOOL_OFF(const char *, bufpool_state_name, (bufpool_state state), "")
BUFPOOL_OFF(const char *, bufpool_way_name, (bufpool_way way), "")
BUFPOOL_OFF(const char *, bufpool_wrong_name, (bufpool_wrong wrong), "")
BUFPOOL_OFF(const char *, bufpool_event_name, (bufpool_event event), "")
BUFPOOL_OFF(const char *, bufpool_access_name, (bufpool_access access), "")

static inline size_t bufpool_off_text(const char *text, char *buffer, size_t size)
{
    size_t length = strlen(text);
    if (buffer != NULL && size > 0) {
        size_t fits = length < size ? length : size - 1;
        memcpy(buffer, text, fits);
        buffer[fits] = '\0';
    }
    return length;
}

BUFPOOL_OFF(int, bufpool_last_error, (char *buffer, size_t size),
            (int)bufpool_off_text(BUFPOOL_OFF_SENTENCE, buffer, size))
BUFPOOL_OFF(size_t, bufpool_symbol, (uint64_t address, char *buffer, size_t size), bufpool_off_text("", buffer, size))
BUFPOOL_OFF(size_t, bufpool_format_text, (const bufpool_fault *fault, char *buffer, size_t size),
            bufpool_off_text("", buffer, size))
BUFPOOL_OFF(size_t, bufpool_format_json, (const bufpool_fault *fault, char *buffer, size_t size),
            bufpool_off_text("", buffer, size))

/* ---- Watching ---- */

BUFPOOL_OFF(size_t, bufpool_last_done, (void), 0)
BUFPOOL_OFF(int, bufpool_config_from_environment, (bufpool_config * config), 0)
BUFPOOL_OFF(int, bufpool_config_from_options, (bufpool_config * config, const char *options), 0)
BUFPOOL_OFF(int, bufpool_set_fault_callback, (bufpool_pool * pool, bufpool_fault_callback callback, void *context), 0)
BUFPOOL_OFF(int, bufpool_install_handlers, (void), 0)
BUFPOOL_OFF(int, bufpool_thaw, (bufpool_pool * pool, const char *policy), 0)
BUFPOOL_OFF(const char *, bufpool_pattern, (const void *address, size_t length), "")
BUFPOOL_OFF(int, bufpool_explain, (const void *address, size_t length, bufpool_fault *fault), 0)
BUFPOOL_OFF(int, bufpool_explain_for, (const void *address, size_t length, bool write, bufpool_fault *fault), 0)
BUFPOOL_OFF(int, bufpool_check, (bufpool_fault * fault), 0)
BUFPOOL_OFF(int, bufpool_check_ended, (bufpool_pool * pool, bufpool_fault *fault), 0)
BUFPOOL_OFF(int, bufpool_told, (bufpool_fault * fault), 0)
BUFPOOL_OFF(int, bufpool_told_ended, (bufpool_pool * pool, bufpool_fault *fault), 0)
BUFPOOL_OFF(int, bufpool_flush, (bufpool_pool * pool), 0)
BUFPOOL_OFF(int, bufpool_set_caller, (const char *text), 0)
BUFPOOL_OFF(int, bufpool_last_fault, (bufpool_fault * fault), BUFPOOL_EARGUMENT)
BUFPOOL_OFF(int, bufpool_locate, (const void *address, bufpool_location *location), BUFPOOL_EARGUMENT)

#ifdef SA_ONSTACK
BUFPOOL_OFF(bool, bufpool_handle_signal, (int signo, siginfo_t *info, void *ucontext), false)
#endif

BUFPOOL_API void bufpool_set_place(uint64_t place)
{
}

BUFPOOL_API int bufpool_faults(const bufpool_pool *pool, uint64_t after, size_t count, bufpool_fault *faults,
                               size_t *found)
{
    *found = 0;
    return 0;
}

BUFPOOL_API int bufpool_guarded_call(void (*function)(void *), void *argument, bufpool_fault *fault)
{
    function(argument);
    return 0;
}

BUFPOOL_API int bufpool_guarded_copy(void *to, const void *from, size_t size, bufpool_fault *fault)
{
    memcpy(to, from, size);
    return 0;
}

/* ---- Pools ---- */

BUFPOOL_OFF(int, bufpool_close, (bufpool_pool * pool), 0)
BUFPOOL_OFF(int, bufpool_keep, (bufpool_pool * pool), 0)
BUFPOOL_OFF(int, bufpool_release, (bufpool_pool * pool), 0)
BUFPOOL_OFF(int, bufpool_handle_close, (bufpool_handle * handle), 0)
BUFPOOL_OFF(void *, bufpool_address, (const bufpool_pool *pool, uint64_t page), NULL)

#define BUFPOOL_NONE(name, parameters) BUFPOOL_OFF(int, name, parameters, BUFPOOL_EUNSUPPORTED)

BUFPOOL_API int bufpool_open(const bufpool_config *config, bufpool_pool **pool)
{
    *pool = NULL;
    return BUFPOOL_EUNSUPPORTED;
}

BUFPOOL_API int bufpool_attach(const bufpool_config *config, const bufpool_handle *handle, bufpool_pool **pool)
{
    *pool = NULL;
    return BUFPOOL_EUNSUPPORTED;
}

BUFPOOL_API int bufpool_adopt(void *base, uint64_t length, int fd, const bufpool_config *config, bufpool_pool **pool)
{
    *pool = NULL;
    return BUFPOOL_EUNSUPPORTED;
}

BUFPOOL_NONE(bufpool_share, (bufpool_pool * pool, bufpool_handle *handle))
BUFPOOL_NONE(bufpool_probe, (const char *memory, const char *trap, char *trap_found, size_t size))
BUFPOOL_NONE(bufpool_probe_keys, (void))
BUFPOOL_NONE(bufpool_probe_uring, (void))
BUFPOOL_NONE(bufpool_cell, (const char *memory, const char *trap, uint32_t *users))
BUFPOOL_NONE(bufpool_allocate, (bufpool_pool * pool, const void *data, size_t size, uint64_t *page))
BUFPOOL_NONE(bufpool_allocate_at, (bufpool_pool * pool, uint64_t page, const void *data, size_t size))
BUFPOOL_NONE(bufpool_allocate_many, (bufpool_pool * pool, size_t count, uint64_t *pages))
BUFPOOL_NONE(bufpool_allocate_filled, (bufpool_pool * pool, size_t count, const void *data, uint64_t *pages))
BUFPOOL_NONE(bufpool_free, (bufpool_pool * pool, uint64_t page))
BUFPOOL_NONE(bufpool_free_many, (bufpool_pool * pool, size_t count, const uint64_t *pages))
BUFPOOL_NONE(bufpool_evict, (bufpool_pool * pool, uint64_t page))
BUFPOOL_NONE(bufpool_evict_many, (bufpool_pool * pool, size_t count, const uint64_t *pages))
BUFPOOL_NONE(bufpool_populate, (bufpool_pool * pool, uint64_t page, const void *data, size_t size))
BUFPOOL_NONE(bufpool_populate_many, (bufpool_pool * pool, size_t count, const uint64_t *pages, const void *data))
BUFPOOL_NONE(bufpool_stage, (bufpool_pool * pool, size_t count, void **frames))
BUFPOOL_NONE(bufpool_publish, (bufpool_pool * pool, size_t count, void **frames, const uint64_t *pages))
BUFPOOL_NONE(bufpool_withdraw, (bufpool_pool * pool, size_t count, const uint64_t *pages, void **frames))
BUFPOOL_NONE(bufpool_settle, (bufpool_pool * pool))
BUFPOOL_NONE(bufpool_unstage, (bufpool_pool * pool, size_t count, void **frames))
BUFPOOL_NONE(bufpool_replace, (bufpool_pool * pool, uint64_t victim, uint64_t page))
BUFPOOL_NONE(bufpool_read_from,
             (bufpool_pool * pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages, int *results))
BUFPOOL_NONE(bufpool_write_to,
             (bufpool_pool * pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages, int *results))
BUFPOOL_NONE(bufpool_page_state, (const bufpool_pool *pool, uint64_t page, bufpool_state *state))
BUFPOOL_NONE(bufpool_list,
             (bufpool_pool * pool, bufpool_state state, uint64_t from, size_t count, uint64_t *pages, size_t *found))
BUFPOOL_NONE(bufpool_stats, (const bufpool_pool *pool, bufpool_statistics *statistics))
BUFPOOL_NONE(bufpool_inspect, (bufpool_pool * pool, uint32_t flags, bufpool_findings *findings))
BUFPOOL_NONE(bufpool_pin_history,
             (const bufpool_pool *pool, uint64_t page, bufpool_origin *pinned, bufpool_origin *unpinned))
BUFPOOL_OFF(int, bufpool_pin, (bufpool_pool * pool, uint64_t page, bool write), 0)
BUFPOOL_OFF(int, bufpool_unpin, (bufpool_pool * pool, uint64_t page), 0)
BUFPOOL_OFF(int, bufpool_unpin_for, (bufpool_pool * pool, uint64_t page, bool write), 0)
BUFPOOL_OFF(int, bufpool_pin_many, (bufpool_pool * pool, size_t count, const uint64_t *pages, bool write), 0)
BUFPOOL_OFF(int, bufpool_unpin_many, (bufpool_pool * pool, size_t count, const uint64_t *pages, bool write), 0)
BUFPOOL_OFF(int, bufpool_mark_clean, (bufpool_pool * pool, size_t count, const uint64_t *pages), 0)
BUFPOOL_OFF(int, bufpool_mark_dirty, (bufpool_pool * pool, size_t count, const uint64_t *pages), 0)
BUFPOOL_NONE(bufpool_audit, (bufpool_pool * pool, uint64_t from, size_t count, bufpool_changed *changed, size_t *found))
BUFPOOL_NONE(bufpool_page_history,
             (const bufpool_pool *pool, uint64_t page, bufpool_origin *allocated, bufpool_origin *freed))

#undef BUFPOOL_NONE
#undef BUFPOOL_OFF

#if defined(__GNUC__)
#pragma GCC diagnostic pop
#elif defined(_MSC_VER)
#pragma warning(pop)
#endif

#endif
