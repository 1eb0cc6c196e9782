/* open.c: opening a pool: its descriptor, tables, provenance and space, in this order; and all of it back if one fails. */
#include "chain.h"
#include "config.h"
#include "error.h"
#include "fillers.h"
#include "fork.h"
#include "frozen.h"
#include "keys.h"
#include "modules.h"
#include "monitor.h"
#include "postmortem.h"
#include "recover.h"
#include "registry.h"
#include "report.h"
#include "rest.h"
#include "roster.h"
#include "stack.h"
#include "thread.h"
#include "trap_adopted.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t openings;

static int try_trap(bufpool_pool *pool, struct bp_wish *wish, const struct bp_trap *trap, bool *final)
{
    if (wish->backing != NULL) {
        *final = false;
        return bp_space_adopt(&pool->space, wish,
                              trap == &bp_trap_uffd ? &bp_trap_adopted_uffd : &bp_trap_adopted_mprotect);
    }
    if (wish->flags & BUFPOOL_PIN_KEYS) {
        wish->key = bp_keys_take();
        if (wish->key < 0) {
            *final = true;
            return wish->key;
        }
    }
    int code = bp_space_reserve(&pool->space, wish, trap);
    *final = code < 0;
    return code < 0 ? code : bp_space_arm(&pool->space, wish);
}

static enum bp_sleep sleep_of(const struct bp_config *config)
{
    return config->flags & BUFPOOL_MONITOR ? BP_SLEEP_ALL
           : config->policy == BP_FREEZE   ? BP_SLEEP_USER
                                           : BP_SLEEP_NEVER;
}

/* Tries the mechanisms in order; only one that is not supported leads to the next, a lack of resources ends it. */
static int open_space(bufpool_pool *pool, const struct bp_config *config)
{
    struct bp_wish wish = {config->memory,
                           config->path,
                           pool->lead + config->capacity / config->page_size * (pool->lead + config->page_size),
                           config->granule,
                           config->flags,
                           config->numa,
                           config->numa_text,
                           pool->name,
                           sleep_of(config),
                           -1,
                           {0, 0},
                           0,
                           bp_pins_unpinned(config->pins),
                           config->audit == BP_AUDIT_TRACK,
                           0,
                           NULL};
    if (config->adoption != NULL) {
        wish.base = config->adoption->base;
        wish.backing = config->adoption->backing;
    }
    if (config->guest != NULL) {
        const struct bp_constants *constants = &config->guest->constants;
        wish.guest = config->guest->memory;
        memcpy(wish.id, constants->file, sizeof wish.id);
        wish.base = config->flags & BUFPOOL_FIXED_ADDRESS ? constants->base : 0;
    }
    bool final;
    if (config->trap != NULL) {
        return try_trap(pool, &wish, config->trap, &final);
    }
    size_t length = 0;
    for (size_t n = 0; bp_trap_candidate(n) != NULL; n++) {
        const struct bp_trap *trap = bp_trap_candidate(n);
        if (bp_cell(config->memory, trap, NULL) != NULL || (config->guest != NULL && trap->needs_file) ||
            (config->adoption != NULL && trap == &bp_trap_guard)) {
            continue;
        }
        int code = try_trap(pool, &wish, trap, &final);
        if (code != BUFPOOL_EUNSUPPORTED || final) {
            return code;
        }
        if (length < sizeof pool->trap_note) {
            length += (size_t)snprintf(pool->trap_note + length, sizeof pool->trap_note - length, "%s%s: %s",
                                       length > 0 ? "; " : "", trap->name, bp_error_text());
        }
    }
    return bp_error(BUFPOOL_EUNSUPPORTED, "no trap works for memory \"%s\": %s",
                    config->path != NULL ? config->path : config->memory->name, pool->trap_note);
}

/* The tables: this process's own, or for all who have the memory. */
static int open_pages(bufpool_pool *pool, const struct bp_config *config, struct bp_constants *constants)
{
    struct bp_pages *pages = &pool->pages;
    constants->provenance = bp_provenance_terms(config->provenance, config->provenance_depth);
    if (!config->memory->file) {
        return bp_pages_open(pages, config->capacity / config->page_size, config->rest);
    }
    constants->capacity = config->capacity;
    constants->page_size = config->page_size;
    constants->granule = config->granule;
    constants->rest = config->rest;
    int code = config->guest != NULL ? bp_tables_map(pages, config->guest->tables, &config->guest->constants)
                                     : bp_tables_create(pages, constants);
    if (code == 0) {
        code = bp_roster_join(pages);
        if (code < 0) {
            bp_pages_close(pages);
        }
    }
    return code;
}

static int open_provenance(bufpool_pool *pool, const struct bp_config *config, const struct bp_constants *own)
{
    const struct bp_constants *constants = config->guest != NULL ? &config->guest->constants : own;
    bool shared = pool->pages.header != NULL;
    int code = bp_provenance_open(&pool->provenance, &constants->provenance, pool->pages.count,
                                  shared ? pool->pages.fd : -1, shared ? bp_tables_provenance(constants) : 0);
    pool->provenance.member = BP_MEMBER_OF(pool->pages.busy);
    return code;
}

static int open_pins(bufpool_pool *pool, const struct bp_config *config)
{
    int code = bp_pins_open(&pool->pins, config->pins, config->sample, config->seed, pool->pages.count);
    if (code == 0 && (config->pins != BP_PINS_OFF || config->sample != 0)) {
        code = bp_provenance_open_pins(&pool->provenance);
    }
    if (code == 0 && config->flags & BUFPOOL_PIN_KEYS) {
        code = bp_keys_open(&pool->pins);
    }
    return code == 0 ? 0
                     : bp_error(code, "cannot reserve the pins of pool \"%s\" (%llu pages): %s", pool->name,
                                (unsigned long long)pool->pages.count, strerror(-code));
}

static int open_audit(bufpool_pool *pool, const struct bp_config *config)
{
    int code = bp_audit_open(&pool->audit, config->audit, pool->pages.count);
    return code == 0 ? 0
                     : bp_error(code, "cannot reserve the audit of pool \"%s\" (%llu pages): %s", pool->name,
                                (unsigned long long)pool->pages.count, strerror(-code));
}

static int open_lag(bufpool_pool *pool, const struct bp_config *config)
{
    int code = bp_lag_open(&pool->lag, config->lag);
    return code == 0 ? 0
                     : bp_error(code, "cannot reserve the ring of pool \"%s\" for free_lag (%llu pages): %s",
                                pool->name, (unsigned long long)config->lag, strerror(-code));
}

/* The pool is there: says in its tables what others have to know. */
static int publish(bufpool_pool *pool, const struct bp_config *config, struct bp_constants *constants)
{
    if (pool->pages.header == NULL) {
        return 0;
    }
    int code = pool->space.adopted ? 0 : bp_kernel_identify(pool->space.fd, constants->file);
    if (code < 0) {
        return bp_error(code, "cannot look at the memory of pool \"%s\": %s", pool->name, strerror(-code));
    }
    constants->base = pool->space.base;
    constants->pid_space = bp_kernel_pid_space();
    constants->pid = pool->pid;
    constants->flags = config->flags & (BUFPOOL_LAZY_ZERO | BUFPOOL_RESERVE | BUFPOOL_RED_ZONES | BUFPOOL_SCRUB);
    constants->flags |= config->fresh ? BP_TABLES_FRESH : 0;
    if (pool->space.trap->needs_file || !pool->space.trap->traps || pool->space.adopted) {
        constants->flags |= BP_TABLES_ALONE;
    }
    memcpy(constants->name, pool->name, sizeof constants->name);
    memcpy(constants->memory, pool->memory, sizeof constants->memory);
    bp_tables_publish(&pool->pages, constants);
    return 0;
}

static void drop_frame(bufpool_pool *pool, uint64_t page)
{
    bp_kernel_punch(pool->space.fd, bp_page_offset(pool, page), pool->page_size);
}

#define TRIES 8
#define FAR 4096 /* pages: the last ones, which allocations come to late */

/* The next page to try, searched for from *from on, and once more from the start; BP_NO_PAGE: there is none. */
static uint64_t next_to_try(bufpool_pool *pool, uint64_t *from, bool *wrapped)
{
    uint64_t page = bp_pages_find(&pool->pages, *from);
    if (page == BP_NO_PAGE && !*wrapped) {
        *wrapped = true;
        page = bp_pages_find(&pool->pages, 0);
    }
    *from = page + 1;
    return page < pool->pages.count ? page : BP_NO_PAGE;
}

/* Tries the trap of a pool that others have, too, on a page that nobody has meanwhile. Of those there may be some that
 * somebody has filled past us: what traps at any of them does at all; they are left as they are, to be found. */
static int verify_guest(bufpool_pool *pool)
{
    struct bp_pages *pages = &pool->pages;
    uint64_t tried[TRIES];
    uint16_t states[TRIES];
    size_t count = 0;
    int code = 0;
    if (atomic_load(&pages->counts->gone)) {
        return bp_error(BUFPOOL_ECLOSED, "pool \"%s\" is closed, by the process that opened it", pool->name);
    }
    uint64_t from = pages->count > FAR ? pages->count - FAR : 0;
    bool wrapped = from == 0;
    for (int looks = 0; count < TRIES && looks < FAR; looks++) { /* not for ever, as a peer may be mad */
        uint64_t page = next_to_try(pool, &from, &wrapped);
        if (page == BP_NO_PAGE) {
            break;
        }
        uint16_t state = bp_pages_load(pages, page);
        if (bp_state_is_free(state) && bp_pages_claim(pages, page, state, 0)) {
            tried[count] = page;
            states[count++] = state;
            code = bp_space_verify(&pool->space, bp_page_address(pool, page));
            if (code == 0) {
                break;
            }
        }
    }
    if (code < 0) {
        drop_frame(pool, tried[count - 1]);
        code = bp_space_verify(&pool->space, bp_page_address(pool, tried[count - 1]));
    }
    for (size_t i = 0; i < count; i++) {
        if (code < 0) { /* filled by that, for all */
            drop_frame(pool, tried[i]);
        }
        bp_pages_settle(pages, tried[i], states[i]);
        bp_rest_end(pages, tried[i]);
    }
    return code;
}

static const char *hint(int code)
{
    return code == -EFBIG    ? " (see RLIMIT_FSIZE, ulimit -f)"
           : code == -EMFILE ? " (see RLIMIT_NOFILE, ulimit -n)"
           : code == -EPERM  ? " (a container's seccomp profile has to allow it)"
           : code == -EACCES ? " (only the user who opened the pool, and root, may attach)"
           : code == -EUSERS ? " (1023 processes have the pool)"
                             : "";
}

/* Fills a cleared descriptor; on an error nothing is left open. */
static int build(bufpool_pool *pool, const struct bp_config *config)
{
    void *ring;
    int code = bp_kernel_mmap(NULL, BP_FAULT_RING * sizeof *pool->ring, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &ring);
    if (code < 0) {
        return bp_error(code, "cannot map %zu bytes for the faults of pool \"%s\": %s",
                        BP_FAULT_RING * sizeof *pool->ring, pool->name, strerror(-code));
    }
    pool->ring = ring;
    code = bp_report_open(pool, config->log);
    if (code < 0) {
        goto no_pages;
    }
    struct bp_constants constants = {0};
    code = open_pages(pool, config, &constants);
    if (code < 0) {
        code = bp_error(code, "cannot reserve the page states of pool \"%s\" (%llu pages%s): %s%s", pool->name,
                        (unsigned long long)(config->capacity / config->page_size),
                        config->memory->file ? ", in a memfd, by memfd_create" : "", strerror(-code), hint(code));
        goto no_pages;
    }
    code = open_provenance(pool, config, &constants);
    if (code < 0) {
        code = bp_error(code, "cannot reserve the provenance of pool \"%s\" (%llu pages): %s", pool->name,
                        (unsigned long long)pool->pages.count, strerror(-code));
        goto no_provenance;
    }
    code = open_pins(pool, config);
    if (code == 0) {
        code = open_audit(pool, config);
    }
    if (code == 0) {
        code = open_lag(pool, config);
    }
    if (code == 0) {
        code = open_space(pool, config);
    }
    if (code < 0) {
        goto no_space;
    }
    pool->pins.plain = config->pins != BP_PINS_OFF && config->sample == 0 && !bp_audit_is_on(&pool->audit) &&
                       pool->provenance.mode == BP_PROVENANCE_OFF && pool->space.key == 0;
    if (config->fresh) {
        pool->fresh_size = config->granule < BP_FILL_SIZE ? BP_FILL_SIZE : config->granule;
        code = bp_fill_prepare_bytes(BUFPOOL_FRESH, pool->fresh_size, &pool->fresh);
    }
    if (code == 0 && config->flags & BUFPOOL_SCRUB) {
        code = bp_fill_prepare_bytes(BUFPOOL_SCRUBBED, BP_FILL_SIZE, &pool->scrubbed);
    }
    if (code == 0 && config->audit == BP_AUDIT_TRACK) {
        code = bp_audit_probe(pool);
    }
    if (code == 0 && pool->space.trap->traps && !(config->flags & BUFPOOL_HOST_HANDLER)) {
        code = bp_signal_install();
    }
    if (code == 0 && pool->space.adopted) {
        bp_pages_take_all(&pool->pages);
    }
    if (code == 0) {
        code = pool->guest ? verify_guest(pool) : publish(pool, config, &constants);
    }
    if (code == 0) {
        bp_postmortem_open(pool);
        code = bp_monitor_start(pool);
    }
    if (code < 0) {
        if (pool->space.created) {
            bp_kernel_unlink(config->path);
        }
        bp_space_destroy(&pool->space);
        goto no_space;
    }
    return 0;
no_space:
    bp_lag_close(&pool->lag);
    bp_audit_close(&pool->audit);
    bp_pins_close(&pool->pins);
    bp_pins_forget(&pool->pins);
    bp_provenance_close(&pool->provenance);
no_provenance:
    bp_roster_leave(&pool->pages);
    bp_pages_close(&pool->pages);
no_pages:
    if (pool->log >= 0) {
        bp_kernel_close_kept(pool->log);
    }
    bp_kernel_munmap(ring, BP_FAULT_RING * sizeof *pool->ring);
    return code;
}

static int open_locked(const struct bp_config *config, bufpool_pool **opened)
{
    int code = bp_process_prepare();
    if (code < 0) {
        return code;
    }
    bp_postmortem_note_time();
    bufpool_pool *pool = NULL;
    code = bp_registry_take(&pool);
    if (code < 0) {
        return code;
    }
    if (config->adoption != NULL) {
        code = bp_registry_check_vacant(config->adoption->base, config->adoption->length);
        if (code < 0) {
            return code;
        }
    }
    pool->page_size = config->page_size;
    pool->capacity = config->capacity;
    pool->lead = config->flags & BUFPOOL_RED_ZONES ? config->granule : 0;
    pool->policy = config->policy;
    pool->tell = config->flags & BUFPOOL_TELL;
    pool->report_limit = config->report_limit;
    snprintf(pool->memory, sizeof pool->memory, "%s", config->path != NULL ? config->path : config->memory->name);
    pool->process = bp_process();
    pool->pid = (int32_t)getpid();
    pool->inherit = config->inherit;
    pool->guest = config->guest != NULL;
    pool->heritage.fd = -1;
    if (config->name != NULL) {
        snprintf(pool->name, sizeof pool->name, "%s", config->name);
    } else {
        snprintf(pool->name, sizeof pool->name, "pool-%llu", (unsigned long long)++openings);
    }
    code = config->policy == BP_FREEZE ? bp_frozen_prepare() : 0;
    if (code < 0) {
        return bp_error(code, "cannot make the record of frozen threads: %s", strerror(-code));
    }
    do {
        code = build(pool, config);
    } while (code == -ENOMEM && bp_registry_retire_oldest());
    if (code < 0) {
        return code;
    }
    atomic_store(&pool->end, pool->space.base + pool->space.capacity);
    atomic_store(&pool->first, pool->space.base);
    *opened = pool;
    return 0;
}

/* What takes the loader's lock comes before ours: a pool may be opened by a constructor, under the loader's lock. */
static void prepare_code(void)
{
    bp_signal_stay();
    bp_stack_prepare();
    bp_modules_prepare();
}

int bp_pool_open(const struct bp_config *config, bufpool_pool **pool)
{
    bp_fork_watch();
    prepare_code();
    int cancelling;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelling); /* files are read below, under the lock */
    bufpool_pool *opened = NULL;
    bp_registry_lock();
    int code = open_locked(config, &opened);
    bp_registry_unlock();
    pthread_setcancelstate(cancelling, NULL);
    if (code == 0) {
        bp_recover(opened); /* of a pool that another process has opened */
        *pool = opened;     /* not under the lock: a stray access to the caller's memory may leave by longjmp */
    }
    return code;
}

int bufpool_open(const bufpool_config *given, bufpool_pool **pool)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass where the pool is to be stored");
    }
    struct bp_config config;
    int code = bp_config_check(given, &config);
    return code < 0 ? code : bp_pool_open(&config, pool);
}

int bufpool_install_handlers(void)
{
    prepare_code();
    bp_registry_lock();
    int code = bp_process_prepare();
    code = code < 0 ? code : bp_signal_install();
    bp_registry_unlock();
    return code;
}
