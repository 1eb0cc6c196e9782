/* share.c: handing a pool on to other processes, and attaching to one. */
#include "config.h"
#include "error.h"
#include "named.h"

#include <errno.h>
#include <string.h>

#define NO_HANDLE "handle is NULL or its size is not sizeof(bufpool_handle): set it to BUFPOOL_HANDLE_INIT"

static bool is_handle(const bufpool_handle *handle)
{
    return handle != NULL && handle->size == sizeof *handle;
}

/* Why a pool cannot be handed on; NULL: it can. */
static const char *private_reason(const bufpool_pool *pool)
{
    const struct bp_space *space = &pool->space;
    if (space->adopted) {
        return "its memory is the program's: let each process map that and adopt it";
    }
    if (space->trap->needs_file) {
        return "guard and mprotect close pages in the page tables of one process: open it with trap uffd or noautofill";
    }
    if (!space->trap->traps) {
        return "its holes do not trap in any process: open it with trap uffd or noautofill";
    }
    if (pool->pages.header == NULL) {
        return "it is private to this process: open it with memory \"shared\", \"hugetlb\" or a path";
    }
    return NULL;
}

static int share(const bufpool_pool *pool, bufpool_handle *handle)
{
    const char *reason = private_reason(pool);
    if (reason != NULL) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "pool \"%s\" (memory \"%s\", trap %s) cannot be shared: %s", pool->name,
                        pool->memory, pool->space.trap->name, reason);
    }
    /* Not by the descriptions by which this process locks: whoever has those could unlock, and would keep what is locked. */
    int memory = bp_kernel_reopen(pool->space.fd);
    int tables = memory < 0 ? memory : bp_kernel_reopen(pool->pages.fd);
    if (tables < 0) {
        if (memory >= 0) {
            bp_kernel_close(memory);
        }
        return bp_error(tables, "cannot open the files of pool \"%s\" anew (/proc/self/fd): %s", pool->name,
                        strerror(-tables));
    }
    handle->memory = memory;
    handle->tables = tables;
    return 0;
}

int bufpool_share(bufpool_pool *pool, bufpool_handle *handle)
{
    if (!is_handle(handle)) {
        return bp_error(BUFPOOL_EARGUMENT, NO_HANDLE);
    }
    bufpool_handle made = BUFPOOL_HANDLE_INIT;
    int code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    code = share(pool, &made);
    bp_pool_leave(pool);
    if (code == 0) {
        *handle = made; /* not inside the pool: a stray access to the caller's memory may leave by longjmp */
    }
    return code;
}

int bufpool_handle_close(bufpool_handle *handle)
{
    if (!is_handle(handle)) {
        return bp_error(BUFPOOL_EARGUMENT, NO_HANDLE);
    }
    bufpool_handle closing = *handle;
    *handle = (bufpool_handle)BUFPOOL_HANDLE_INIT;
    if (closing.memory >= 0) {
        bp_kernel_close(closing.memory);
    }
    if (closing.tables >= 0) {
        bp_kernel_close(closing.tables);
    }
    return 0;
}

/* What config says of memory, if it is a path; else NULL. */
static const char *path_in(const bufpool_config *given)
{
    bool has = given != NULL && given->size >= offsetof(bufpool_config, memory) + sizeof given->memory;
    return has && given->memory != NULL && strchr(given->memory, '/') != NULL ? given->memory : NULL;
}

static int attach(const bufpool_config *given, const struct bp_guest *guest, bufpool_pool **pool)
{
    if (guest->constants.flags & BP_TABLES_ALONE) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "pool \"%s\" has a trap that works in the process that opened it only: that has to open it with "
            "uffd or noautofill",
            guest->constants.name);
    }
    struct bp_config config;
    int code = bp_config_check_guest(given, guest, &config);
    if (code == 0 && config.trap != NULL && (config.trap->needs_file || !config.trap->traps)) {
        code = bp_error(
            BUFPOOL_EUNSUPPORTED,
            "trap is \"%s\", which does not trap in more than one process: attach with uffd, noautofill or auto",
            config.trap->name);
    }
    return code < 0 ? code : bp_pool_open(&config, pool);
}

static int attach_by_name(const bufpool_config *given, const char *path, bufpool_pool **pool)
{
    struct bp_guest guest;
    int code = bp_named_open(path, &guest);
    if (code < 0) {
        return code;
    }
    code = attach(given, &guest, pool);
    bp_kernel_close(guest.memory);
    bp_kernel_close(guest.tables);
    return code;
}

int bufpool_attach(const bufpool_config *given, const bufpool_handle *handle, bufpool_pool **pool)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass where the pool is to be stored");
    }
    if (handle == NULL && path_in(given) != NULL) {
        return attach_by_name(given, path_in(given), pool);
    }
    if (handle == NULL) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "handle is NULL, and config.memory is no path: pass what bufpool_share() gave, "
                        "or the path of a pool's memory");
    }
    if (!is_handle(handle)) {
        return bp_error(BUFPOOL_EARGUMENT, NO_HANDLE);
    }
    struct bp_guest guest = {.memory = handle->memory, .tables = handle->tables};
    if (guest.memory < 0 || guest.tables < 0) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "handle has no descriptors (memory %d, tables %d): pass what bufpool_share() gave",
                        guest.memory, guest.tables);
    }
    int code = bp_tables_read(guest.tables, &guest.constants);
    return code < 0 ? code : attach(given, &guest, pool);
}
