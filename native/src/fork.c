/* fork.c: the fork handlers, see fork.h. */
#include "fork.h"

#include "inherit.h"
#include "monitor.h"
#include "owed.h"
#include "registry.h"
#include "report.h"
#include "scratch.h"
#include "text.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static const struct bp_heritage none = {.step = BP_HERITAGE_NONE, .fd = -1};

#define PATIENCE_NS 1000000000 /* for the calls that are inside a pool */

_Atomic int32_t bp_fork_gate; /* bp_process() of the process that is forking, or 0 */
static _Atomic int32_t forking_thread;
static int32_t forking_process; /* bp_process() of the process that forks, and */
static int nested;              /* forks under way within it */
static sigset_t mask_before;    /* the signal mask of its thread; written while the registry is held */
static _Atomic int32_t holder;  /* the thread, from the end of prepare() to the start of in_parent() */

bool bp_fork_shuts(void)
{
    int32_t gate = atomic_load(&bp_fork_gate);
    return gate != 0 && gate == bp_process() && atomic_load(&forking_thread) != bp_thread_id();
}

bool bp_fork_holds(void)
{
    int32_t thread = atomic_load_explicit(&holder, memory_order_relaxed);
    return thread != 0 && thread == bp_thread_id() && forking_process == bp_process();
}

/* ---- In the parent ---- */

/* Open, of this process, and to be inherited. */
static bool is_heritable(const bufpool_pool *pool)
{
    return atomic_load(&pool->first) != 0 && pool->inherit && pool->process == bp_process() &&
           !atomic_load(&pool->closed);
}

/* Waits for the calls inside. false: they do not end, or one of them is this thread's own, interrupted by a signal. */
static bool is_quiet(bufpool_pool *pool, int64_t deadline)
{
    while (bp_pool_is_used(pool)) {
        if (bp_thread.inside > 0 || bp_kernel_monotonic_ns() > deadline) {
            return false;
        }
        bp_kernel_sleep_ns(20000);
    }
    return true;
}

static void prepare_pool(bufpool_pool *pool, int64_t deadline)
{
    pool->heritage.step = BP_HERITAGE_BUSY;
    if (!is_quiet(pool, deadline) || !is_heritable(pool)) { /* closed by the call that was waited for */
        return;
    }
    bp_scratch_rearm_pool(pool, true);
    if (atomic_load(&pool->scratched) > 0) {
        pool->heritage.step = BP_HERITAGE_SCRATCH;
        return;
    }
    bp_lag_settle(pool,
                  NULL); /* a frame that two processes share costs a fault to use again, and the child needs none */
    bp_inherit_prepare(pool);
}

static void prepare_all(void)
{
    bool any = false;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        any = any || is_heritable(pool);
    }
    if (!any) {
        return;
    }
    atomic_store(&forking_thread, bp_thread_id());
    atomic_store(&bp_fork_gate, bp_process());
    int64_t deadline = bp_kernel_monotonic_ns() + PATIENCE_NS;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (is_heritable(pool)) {
            prepare_pool(pool, deadline);
        }
    }
}

static void prepare(void)
{
    sigset_t mask;
    if (bp_fork_holds()) { /* a fork handler that forks */
        nested++;
        return;
    }
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    bp_registry_lock(); /* blocks signals, too */
    mask_before = mask;
    forking_process = bp_process();
    prepare_all();
    atomic_store(&holder, bp_thread_id());
}

/* Also after a fork that failed. */
static void in_parent(void)
{
    if (!bp_fork_holds()) { /* the child of a fork handler that forked, which goes on with its parent's fork */
        return;
    }
    if (nested > 0) {
        nested--;
        return;
    }
    atomic_store(&holder, 0);
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (atomic_load(&pool->first) != 0 && pool->process == bp_process() &&
            pool->heritage.step != BP_HERITAGE_NONE) {
            bp_inherit_parent(pool);
            pool->heritage = none;
        }
    }
    atomic_store(&bp_fork_gate, 0);
    bp_registry_unlock();
}

/* ---- In the child ---- */

/* What the parent's faults and calls have left in the descriptor. */
static void renew_pool(bufpool_pool *pool)
{
    uint64_t faults = atomic_load(&pool->faults);
    for (uint64_t i = 0; i < BP_FAULT_RING && i < faults; i++) {
        atomic_store(&pool->ring[i].serial, 0); /* it is odd for ever where a thread was writing */
        atomic_store(&pool->ring[i].number, 0);
    }
    atomic_store(&pool->faults, 0);
    atomic_store(&pool->repeats, 0);
    atomic_store(&pool->scratch_maps, 0);
    atomic_store(&pool->scratch_ns, 0);
    atomic_store(&pool->reports_lost, 0);
    atomic_store(&pool->reports_limited, 0);
    for (int i = 0; i < BP_STRIPES; i++) {
        atomic_store(&pool->users[i].inside, 0); /* a thread may just have looked whether it may come in */
    }
    pool->opener = pool->pid;
    pool->guest = true;
    pool->pid = (int32_t)getpid();
    pool->process = bp_process();
}

void bp_fork_renew(void)
{
    atomic_store(&bp_fork_gate, 0);
    atomic_store(&holder, 0);
    nested = 0;
    bp_thread_renew();
    bp_report_renew();
    bp_owed_renew();
}

/* Opened in a handler that came before this one, or not there since an earlier fork? */
static bool is_settled(const bufpool_pool *pool)
{
    return atomic_load(&pool->first) == 0 || pool->process == bp_process() || pool->heritage.gone;
}

static bool is_known(const bufpool_pool *pool)
{
    return pool->process == forking_process && pool->inherit;
}

static void in_child(void)
{
    bp_fork_renew();
    bp_process_prepare(); /* has its page: no error */
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (!is_settled(pool)) {
            bp_monitor_forget(pool);
            if (is_known(pool) && pool->heritage.step == BP_HERITAGE_NONE) {
                pool->heritage.step = BP_HERITAGE_LATE;
            }
            bp_inherit_place(pool);
        }
    }
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (is_settled(pool)) {
            continue;
        }
        /* A fork handler may have closed it since. */
        bool ready = is_known(pool) && pool->heritage.step == BP_HERITAGE_READY && !atomic_load(&pool->closed);
        if (ready && bp_inherit_child(pool)) {
            pool->heritage = none;
            renew_pool(pool);
        } else {
            bp_inherit_refuse(pool);
        }
    }
    bp_registry_renew();
    pthread_sigmask(SIG_SETMASK, &mask_before, NULL);
}

static void install(void)
{
    /* Without memory for it a fork gives children that nothing is mapped in, as a clone does. */
    pthread_atfork(prepare, in_parent, in_child);
}

void bp_fork_watch(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
}

/* ---- Saying so ---- */

static void put_error(struct bp_text *text, int code)
{
    static const struct {
        int code;
        const char *name;
    } known[] = {
        {-EMFILE, "EMFILE, too many open files (RLIMIT_NOFILE, ulimit -n)"},
        {-EACCES, "EACCES, the process has changed its user since it opened the pool"},
        {-EBADF, "EBADF, the program has closed the pool's descriptor"},
        {-ENFILE, "ENFILE, too many open files in the system"},
        {-ENOMEM, "ENOMEM, no memory or addresses (RLIMIT_AS, ulimit -v)"},
        {-EPERM, "EPERM, not permitted, as by a seccomp profile"},
        {-ENOSYS, "ENOSYS, not in this kernel"},
        {-EAGAIN, "EAGAIN (RLIMIT_MEMLOCK, ulimit -l)"},
        {-EFBIG, "EFBIG (RLIMIT_FSIZE, ulimit -f)"},
        {-EEXIST, "EEXIST, a fork handler that came before has mapped something there"},
        {-EFAULT, "EFAULT, a page cannot be read"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].code == code) {
            bp_text_put(text, known[i].name);
            return;
        }
    }
    bp_text_put(text, "error ");
    bp_text_decimal(text, (uint64_t)-code);
}

void bp_fork_note(const bufpool_pool *pool, char *buffer, size_t size)
{
    struct bp_text text = {buffer, size, 0};
    bool mine = pool->process == bp_process();
    if (!mine || pool->opener != 0) {
        bp_text_put(&text, "this is a forked child of process ");
        bp_text_decimal(&text, (uint64_t)(mine ? pool->opener : pool->pid));
        bp_text_put(&text, mine ? "; the pool was inherited" : "; the pool was not inherited: ");
    }
    if (!mine) {
        bp_text_put(&text, bp_heritage_reason(pool));
        if (pool->heritage.code < 0) {
            bp_text_put(&text, ": ");
            put_error(&text, pool->heritage.code);
        }
    }
    if (mine && atomic_load(&pool->space.orphaned)) {
        bp_text_put(&text, text.length > 0 ? "; " : "");
        bp_text_put(&text, "the program has closed the pool's descriptors");
    }
    bp_text_end(&text);
}
