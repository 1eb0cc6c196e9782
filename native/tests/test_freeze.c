/* on_fault "freeze": the thread stops at its access with the report out and nothing of the pool changed; it stays there
 * while signals come and the page is allocated or the pool closed; it goes on as bufpool_thaw() says; and the process can
 * be killed. With every memory and trap, in the kernel and in the handler. */
#include "stopped.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static char *hole;
static atomic_int tid;
static atomic_bool went_on;
static atomic_int handled;
static char seen;

static void *stray(void *argument)
{
    (void)argument;
    atomic_store(&tid, (int)syscall(SYS_gettid));
    seen = read_byte(hole + 40);
    atomic_store(&went_on, true);
    return NULL;
}

static void on_user_signal(int signo)
{
    (void)signo;
    atomic_fetch_add(&handled, 1);
}

/* Waited for: the pool has had so many faults, and so many threads are stopped. */
static void wait_stopped(const bufpool_pool *pool, uint64_t faults, int threads)
{
    WAIT_FOR(stats_of(pool).faults >= faults && count_stopped() == threads);
    CHECK_IS(stats_of(pool).faults, ==, faults);
}

static pthread_t start(bufpool_pool *pool, uint64_t faults)
{
    pthread_t thread;
    atomic_store(&went_on, false);
    CHECK_OK(pthread_create(&thread, NULL, stray, NULL));
    wait_stopped(pool, faults, 1);
    sleep_ms(20);
    CHECK(!atomic_load(&went_on));
    return thread;
}

static void cell(const char *memory, const char *trap)
{
    uint64_t page;
    bufpool_pool *pool = open_pool(memory, trap, "freeze", 16 * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate(pool, "content", 8, &page));
    hole = bufpool_address(pool, page);
    CHECK_OK(bufpool_evict(pool, page));
    CHECK_IS(bufpool_thaw(pool, NULL), ==, 0);
    CHECK_IS(bufpool_thaw(pool, "raise"), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "\"resume\", \"abort\"");

    pthread_t thread = start(pool, 1);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    size_t found;
    CHECK_OK(bufpool_faults(pool, 0, 1, &fault, &found));
    CHECK_IS(fault.address, ==, (uintptr_t)hole + 40);
    CHECK_IS(fault.thread_id, ==, atomic_load(&tid));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_EVICTED);
    CHECK(fault.stack_depth > 1);

    /* Signals are handled, and it stays where it is. */
    for (int i = 1; i <= 5; i++) {
        CHECK_OK(pthread_kill(thread, SIGURG));
        WAIT_FOR(strcmp(trap, "uffd") != 0 || atomic_load(&handled) >= i);
    }
    sleep_ms(20);
    CHECK(!atomic_load(&went_on));
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_EVICTED);
    CHECK_IS(bufpool_thaw(pool, "resume"), ==, 1);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS((unsigned char)seen, ==, BUFPOOL_POISON);
    CHECK_IS(bufpool_thaw(NULL, NULL), ==, 0);

    sleep_ms(20);
    CHECK_OK(bufpool_set_fault_callback(pool, NULL, NULL)); /* any call re-arms by now what was resumed */

    /* The page comes back while it is stopped: it finds the content. */
    thread = start(pool, 2);
    CHECK_OK(bufpool_populate(pool, page, "content", 8));
    sleep_ms(20);
    CHECK(!atomic_load(&went_on));
    write_byte(hole + 40, 'x');
    CHECK_IS(bufpool_thaw(NULL, NULL), ==, 1);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS(seen, ==, 'x');
    CHECK_OK(bufpool_free(pool, page));

    /* The pool is closed while it is stopped. */
    thread = start(pool, 3);
    CHECK_OK(bufpool_close(pool));
    sleep_ms(100);
    CHECK(!atomic_load(&went_on));
    CHECK_IS(bufpool_thaw(pool, "resume"), ==, 1);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS((unsigned char)seen, ==, BUFPOOL_POISON);
    atomic_store(&handled, 0);
}

/* Several threads on one page, and one after the other let go. */
static void many(const char *memory, const char *trap)
{
    pthread_t threads[8];
    bufpool_pool *pool = open_pool(memory, trap, "freeze", 16 * GRANULE, GRANULE);
    hole = bufpool_address(pool, 5);
    atomic_store(&went_on, false);
    for (int i = 0; i < 8; i++) {
        CHECK_OK(pthread_create(&threads[i], NULL, stray, NULL));
    }
    wait_stopped(pool, 8, 8);
    sleep_ms(50);
    CHECK(!atomic_load(&went_on));
    CHECK_IS(bufpool_thaw(pool, NULL), ==, 8);
    for (int i = 0; i < 8; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    CHECK_IS(stats_of(pool).faults, ==, 8);
    CHECK_OK(bufpool_close(pool));
}

/* ---- What ends the process ---- */

struct ending {
    const char *memory;
    const char *trap;
    int how; /* a signal, or 0: thaw with "abort" */
};

static void *frozen_main(void *argument)
{
    return stray(argument);
}

static void end_process(void *argument)
{
    const struct ending *ending = argument;
    pthread_t thread;
    bufpool_pool *pool = open_pool(ending->memory, ending->trap, "freeze", 16 * GRANULE, GRANULE);
    hole = bufpool_address(pool, 2);
    CHECK_OK(pthread_create(&thread, NULL, frozen_main, NULL));
    wait_stopped(pool, 1, 1);
    sleep_ms(20);
    if (ending->how == 0) {
        CHECK_IS(bufpool_thaw(pool, "abort"), ==, 1);
    } else {
        kill(getpid(), ending->how);
    }
    for (;;) {
        pause(); /* the child's alarm is another signal */
    }
}

static void endings(const char *memory, const char *trap)
{
    const int hows[] = {SIGKILL, SIGTERM, 0};
    for (int i = 0; i < 3; i++) {
        struct ending ending = {memory, trap, hows[i]};
        struct child child = run_child(end_process, &ending);
        CHECK_DIED(child, hows[i] == 0 ? signal_of(trap) : hows[i]);
        CHECK_IS(count_in(child.text, "==ERROR: bufpool: stray read of an unallocated page"), ==, 1);
    }
}

static void all(const char *memory, const char *trap)
{
    cell(memory, trap);
    many(memory, trap);
    endings(memory, trap);
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, not while a thread is stopped\n");
        return HARNESS_SKIP;
    }
    struct sigaction action = {.sa_handler = on_user_signal};
    sigemptyset(&action.sa_mask);
    CHECK_OK(sigaction(SIGURG, &action, NULL));
    return for_each_cell(all, false);
}
