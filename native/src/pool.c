/* pool.c: opening, closing and finding pools. */
#include "pool.h"

#include "chain.h"
#include "config.h"
#include "diagnose.h"
#include "error.h"
#include "fork.h"
#include "frozen.h"
#include "modules.h"
#include "monitor.h"
#include "owed.h"
#include "postmortem.h"
#include "recover.h"
#include "report.h"
#include "roster.h"
#include "scratch.h"
#include "stack.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEEP_CLOSED 64
#define KEEP_CLOSED_BYTES (UINT64_C(32) << 40)

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static sigset_t mask_before; /* of who holds it */
static uint64_t closings;
static uint64_t openings;

static void block_signals(sigset_t *before)
{
    static const int of_faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof of_faults / sizeof *of_faults; i++) {
        sigdelset(&all, of_faults[i]);
    }
    pthread_sigmask(SIG_BLOCK, &all, before);
}

void bp_registry_lock(void)
{
    sigset_t before;
    if (bp_fork_holds()) {
        return;
    }
    block_signals(&before);
    if (bp_process_is_new()) { /* whoever held it is not in this process */
        pthread_mutex_init(&registry, NULL);
        bp_fork_renew();
        bp_process_prepare();
    }
    pthread_mutex_lock(&registry);
    mask_before = before;
}

void bp_registry_unlock(void)
{
    if (bp_fork_holds()) {
        return;
    }
    sigset_t before = mask_before;
    pthread_mutex_unlock(&registry);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void bp_registry_renew(void)
{
    /* The child's only thread is a copy of the one that has it; free if a fork handler of the host has made it anew. */
    (void)pthread_mutex_trylock(&registry);
    pthread_mutex_unlock(&registry);
}

bufpool_pool *bp_pool_first(void)
{
    return atomic_load_explicit(&bp_postmortem.pools, memory_order_acquire);
}

bufpool_pool *bp_pool_at(uintptr_t address)
{
    bufpool_pool *inherited = NULL;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        uintptr_t first = atomic_load(&pool->first);
        if (first != 0 && first <= address && address < atomic_load(&pool->end)) {
            if (pool->process == bp_process()) {
                return pool;
            }
            inherited = pool; /* a forked child may have a pool of its own at the same place */
        }
    }
    return inherited;
}

/* Is a fork under way in another thread? Of a closed pool nothing is copied; and who closes it in a fork handler waits for
 * its monitor. */
static bool is_shut(const bufpool_pool *pool)
{
    return bp_fork_is_near() && !atomic_load(&pool->closed);
}

bool bp_pool_visit(bufpool_pool *pool)
{
    for (;;) {
        bp_thread.inside++;
        atomic_fetch_add(&pool->users, 1);
        if (!is_shut(pool)) {
            break;
        }
        bp_pool_leave(pool);
        while (is_shut(pool)) {
            bp_kernel_sleep_ns(50000);
        }
    }
    if (atomic_load(&pool->first) == 0) {
        bp_pool_leave(pool);
        return false;
    }
    return true;
}

bool bp_pool_has_frames(const bufpool_pool *pool)
{
    return !bp_pool_is_closed(pool) && pool->process == bp_process();
}

bool bp_pool_has_page(const bufpool_pool *pool, uint64_t page)
{
    return bp_pool_has_frames(pool) && bp_state_seen(bp_pages_load(&pool->pages, page)) == BUFPOOL_STATE_ALLOCATED;
}

bufpool_pool *bp_pool_visit_at(uintptr_t address)
{
    bufpool_pool *pool = bp_pool_at(address);
    if (pool == NULL || !bp_pool_visit(pool)) {
        return NULL;
    }
    if (bp_pool_at(address) != pool) { /* given back, and its descriptor in use again */
        bp_pool_leave(pool);
        return NULL;
    }
    return pool;
}

void bp_pool_leave(bufpool_pool *pool)
{
    atomic_fetch_sub(&pool->users, 1);
    bp_thread.inside--;
}

int bp_pool_closed_error(const bufpool_pool *pool)
{
    if (atomic_load(&pool->space.orphaned)) {
        return bp_error(
            BUFPOOL_ECLOSED,
            "pool \"%s\" is closed: the program has closed the pool's descriptors; a daemon or a child that "
            "closes what it did not open (closefrom) opens its pools after that",
            pool->name);
    }
    return bp_error(BUFPOOL_ECLOSED, "pool \"%s\" is closed%s", pool->name,
                    atomic_load(&pool->closed) ? "" : ", by the process that opened it");
}

/* gone_too: also if the process that opened it has closed it. */
static int enter(bufpool_pool *pool, bool gone_too)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass the pool that bufpool_open() gave");
    }
    bp_thread.epoch++;
    if (bp_thread.scratches > 0) {
        bp_scratch_rearm_thread();
    }
    if (!bp_pool_visit(pool)) {
        return bp_error(BUFPOOL_ECLOSED, "this pool is closed");
    }
    /* Also where the call is about to be refused: a late access to a closed pool is diverted, too. */
    if (atomic_load_explicit(&pool->scratched, memory_order_relaxed) > 0) {
        bp_scratch_rearm_pool(pool, false);
    }
    if (atomic_load(&pool->closed)) {
        bp_pool_leave(pool);
        return bp_pool_closed_error(pool);
    }
    if (pool->process != bp_process()) {
        char note[256];
        bp_fork_note(pool, note, sizeof note);
        bp_pool_leave(pool);
        return bp_error(BUFPOOL_EUNSUPPORTED, "pool \"%s\" is not process %d's: %s; open a pool here", pool->name,
                        (int)getpid(), note);
    }
    if (!gone_too && bp_pool_is_closed(pool)) {
        if (!pool->space.ours &&
            !atomic_exchange(&pool->emptied, true)) { /* who closed it may have been killed amid that */
            bp_kernel_punch(pool->space.fd, 0, pool->capacity);
        }
        bp_pool_leave(pool);
        return bp_pool_closed_error(pool);
    }
    return 0;
}

int bp_pool_enter(bufpool_pool *pool)
{
    return enter(pool, false);
}

/* ---- Closed ranges ---- */

/* Gives the range and the tables of a closed pool back; the descriptor may be used again. */
static void retire(bufpool_pool *pool)
{
    uintptr_t first = atomic_load(&pool->first);
    atomic_store(&pool->first, 0);
    while (atomic_load(&pool->users) > 0) {
        bp_kernel_sleep_ns(10000);
    }
    bp_kernel_munmap((void *)first, pool->capacity);
    bp_kernel_munmap(pool->ring, BP_FAULT_RING * sizeof *pool->ring);
    bp_provenance_close(&pool->provenance);
    if (pool->log >= 0) {
        bp_kernel_close_kept(pool->log);
    }
    pool->closed_at = 0;
}

/* Closed, by this process, kept by nobody, and not amid a fork. */
static bool may_retire(const bufpool_pool *pool)
{
    return pool->closed_at != 0 && atomic_load(&pool->kept) == 0 && pool->process == bp_process() &&
           pool->heritage.step == BP_HERITAGE_NONE;
}

/* Retires the oldest closed pool that nobody keeps; false if there is none. */
static bool retire_oldest(void)
{
    bufpool_pool *oldest = NULL;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (may_retire(pool) && (oldest == NULL || pool->closed_at < oldest->closed_at)) {
            oldest = pool;
        }
    }
    if (oldest != NULL) {
        retire(oldest);
    }
    return oldest != NULL;
}

static void limit_closed(void)
{
    for (;;) {
        uint64_t bytes = 0;
        int count = 0;
        for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
            if (may_retire(pool)) {
                bytes += pool->capacity;
                count++;
            }
        }
        if ((count <= KEEP_CLOSED && bytes <= KEEP_CLOSED_BYTES) || !retire_oldest()) {
            return;
        }
    }
}

/* ---- Opening ---- */

/* A descriptor that is not in use, cleared but for its place in the list. */
static int take_descriptor(bufpool_pool **taken)
{
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (atomic_load(&pool->first) == 0 && pool->closed_at == 0 && atomic_load(&pool->users) == 0) {
            memset((char *)pool + offsetof(bufpool_pool, end), 0, sizeof *pool - offsetof(bufpool_pool, end));
            *taken = pool;
            return 0;
        }
    }
    void *place;
    int code = bp_kernel_mmap(NULL, sizeof **taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, &place);
    if (code < 0) {
        return bp_error(code, "cannot map %zu bytes for a pool: %s", sizeof **taken, strerror(-code));
    }
    *taken = place;
    (*taken)->next = bp_pool_first();
    atomic_store_explicit(&bp_postmortem.pools, *taken, memory_order_release);
    return 0;
}

static int try_trap(bufpool_pool *pool, const struct bp_wish *wish, const struct bp_trap *trap, bool *final)
{
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
                           config->capacity,
                           config->granule,
                           config->flags,
                           config->numa,
                           config->numa_text,
                           pool->name,
                           sleep_of(config),
                           -1,
                           {0, 0},
                           0};
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
        if (bp_cell(config->memory, trap, NULL) != NULL || (config->guest != NULL && trap->needs_file)) {
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
        return bp_pages_open(pages, config->capacity / config->page_size);
    }
    constants->capacity = config->capacity;
    constants->page_size = config->page_size;
    constants->granule = config->granule;
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

/* The pool is there: says in its tables what others have to know. */
static int publish(bufpool_pool *pool, const struct bp_config *config, struct bp_constants *constants)
{
    if (pool->pages.header == NULL) {
        return 0;
    }
    int code = bp_kernel_identify(pool->space.fd, constants->file);
    if (code < 0) {
        return bp_error(code, "cannot look at the memory of pool \"%s\": %s", pool->name, strerror(-code));
    }
    constants->base = pool->space.base;
    constants->pid_space = bp_kernel_pid_space();
    constants->pid = pool->pid;
    constants->flags = config->flags & (BUFPOOL_LAZY_ZERO | BUFPOOL_RESERVE);
    if (pool->space.trap->needs_file || !pool->space.trap->traps) {
        constants->flags |= BP_TABLES_ALONE;
    }
    memcpy(constants->name, pool->name, sizeof constants->name);
    memcpy(constants->memory, pool->memory, sizeof constants->memory);
    bp_tables_publish(&pool->pages, constants);
    return 0;
}

static void drop_frame(bufpool_pool *pool, uint64_t page)
{
    bp_kernel_punch(pool->space.fd, page * pool->page_size, pool->page_size);
}

/* Tries the trap of a pool that others have, too, on a page that nobody has meanwhile. Of those there may be some that
 * somebody has filled past us: what traps at any of them does at all; they are left as they are, to be found. */
#define TRIES 8

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
    for (uint64_t page = pages->count; page-- > 0 && count < TRIES;) {
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
    code = open_space(pool, config);
    if (code < 0) {
        goto no_space;
    }
    if (pool->space.trap->traps && !(config->flags & BUFPOOL_HOST_HANDLER)) {
        code = bp_signal_install();
    }
    if (code == 0) {
        code = pool->guest ? verify_guest(pool) : publish(pool, config, &constants);
    }
    if (code == 0) {
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
    code = take_descriptor(&pool);
    if (code < 0) {
        return code;
    }
    pool->page_size = config->page_size;
    pool->capacity = config->capacity;
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
    } while (code == -ENOMEM && retire_oldest());
    if (code < 0) {
        return code;
    }
    atomic_store(&pool->end, pool->space.base + pool->capacity);
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

/* ---- Closing ---- */

int bufpool_close(bufpool_pool *pool)
{
    int code = enter(pool, true);
    if (code < 0) {
        return code;
    }
    bool open = false;
    bool first = atomic_compare_exchange_strong(&pool->closed, &open, true);
    if (first && !pool->guest) {
        atomic_store(&pool->pages.counts->gone, true);
        BP_STORED("closed for all");
    }
    if (first) {
        bp_record_close(&pool->provenance, !pool->guest, BP_CALLER());
    }
    bp_pool_leave(pool);
    if (!first) {
        return bp_error(BUFPOOL_ECLOSED, "pool \"%s\" is closed", pool->name);
    }
    int cancelling;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelling); /* nobody else would close the rest */
    /* A call never waits for another one, so this ends. */
    while (atomic_load(&pool->users) > 0) {
        bp_kernel_sleep_ns(10000);
    }
    bp_monitor_stop(pool);
    bp_owed_flush_ended(pool);
    bp_roster_leave(&pool->pages);
    if (pool->guest && pool->space.memory->path && bp_roster_count(&pool->pages) == 0) {
        pool->space.ours = true; /* who opened it was killed: the last one leaves no frames */
    }
    bp_space_close(&pool->space);
    bp_scratch_forget(pool);
    bp_pages_close(&pool->pages);
    bp_registry_lock();
    pool->closed_at = ++closings;
    limit_closed();
    bp_registry_unlock();
    pthread_setcancelstate(cancelling, NULL);
    return 0;
}

int bufpool_keep(bufpool_pool *pool)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass the pool that bufpool_open() gave");
    }
    atomic_fetch_add(&pool->kept, 1);
    return 0;
}

int bufpool_release(bufpool_pool *pool)
{
    bp_registry_lock();
    bool kept = pool != NULL && atomic_load(&pool->kept) > 0;
    if (kept) {
        atomic_fetch_sub(&pool->kept, 1);
        limit_closed();
    }
    bp_registry_unlock();
    return kept ? 0 : bp_error(BUFPOOL_EARGUMENT, "nobody keeps this pool: a release has to follow a keep");
}

/* A small pool: two granules, so that a range of them is tried too; of huge pages one, which may be all there is. */
static int open_probe(const char *memory, const char *trap, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    const struct bp_memory *found = memory == NULL ? NULL : bp_memory_find(memory);
    config.capacity = 2 * BP_GRANULE;
    config.page_size = 0;
    config.memory = memory;
    config.trap = trap;
    config.name = "probe";
    config.flags = BUFPOOL_HOST_HANDLER; /* nothing strays here, so leave the host's signals alone */
    if (found != NULL && (found->hugetlb || found->thp) && (!found->path || strchr(memory, '/') != NULL)) {
        int code = bp_memory_granule(found, memory, 0, &config.capacity);
        if (code < 0) {
            return code;
        }
    }
    return bufpool_open(&config, pool);
}

int bufpool_probe(const char *memory, const char *trap, char *trap_found, size_t size)
{
    bufpool_pool *pool;
    int code = open_probe(memory, trap, &pool);
    if (code < 0) {
        return code;
    }
    uint64_t page;
    code = bufpool_allocate(pool, "x", 1, &page);
    if (code == 0) {
        code = bufpool_free(pool, page);
    }
    const char *found = pool->space.trap->name;
    if (pool->space.created) {
        bp_kernel_unlink(memory); /* a directory stays; while the file is locked, so that it is nobody else's */
    }
    if (bufpool_close(pool) == 0) {
        bp_registry_lock();
        if (pool->closed_at != 0) { /* not retired already: nobody else had its address, so it need not rest */
            retire(pool);
        }
        bp_registry_unlock();
    }
    if (trap_found != NULL && size > 0) {
        snprintf(trap_found, size, "%s", found);
    }
    return code;
}
