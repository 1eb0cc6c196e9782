/* A signal handler of the host that strays: wherever it has interrupted the program, inside a guarded call, on a small
 * stack, in a storm of timers. And signals that arrive while a fault is handled. */
#include "hosts.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/time.h>

static bufpool_pool *pool, *other;
static _Atomic(char *) target;
static atomic_int calls;
static sigjmp_buf back;

static void stray(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)info;
    (void)context;
    int before = errno;
    read_byte(atomic_load(&target));
    CHECK_IS(errno, ==, before);
    atomic_fetch_add(&calls, 1);
}

struct variant {
    const char *on_fault;
    bool alternate;
};

static void prepare(const struct variant *variant)
{
    if (variant->alternate) {
        use_alternate_stack(64 * KIB);
    }
    pool = open_small(variant->on_fault);
    other = open_small(variant->on_fault);
    set_handler(SIGUSR1, stray, variant->alternate ? SA_ONSTACK : 0, NULL);
}

static void in_a_handler(void *argument)
{
    prepare(argument);
    for (uint64_t i = 0; i < 8; i++) {
        atomic_store(&target, hole(i % 2 ? pool : other, i));
        errno = 40 + (int)i;
        raise(SIGUSR1);
        CHECK_IS(errno, ==, 40 + i);
        CHECK(!is_blocked(SIGUSR1));
    }
    CHECK_IS(atomic_load(&calls), ==, 8);
    CHECK_IS(stats_of(pool).faults + stats_of(other).faults, ==, 8);
}

static void interrupted(void *argument)
{
    raise(SIGUSR1);
    CHECK_IS(atomic_load(&calls), ==, 1);
    *(bool *)argument = true;
}

/* The stray access of a handler is not that of the guarded call that it has interrupted. */
static void amid_a_guarded_call(void *argument)
{
    const struct variant *variant = argument;
    prepare(variant);
    atomic_store(&target, hole(pool, 3));
    bool finished = false;
    CHECK_OK(bufpool_guarded_call(interrupted, &finished, NULL));
    CHECK(finished && !is_blocked(SIGUSR1));
    CHECK_IS(stats_of(pool).faults, ==, 1);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_check(&fault), ==, strcmp(variant->on_fault, "raise") == 0 ? BUFPOOL_ESTRAY : 0);
    CHECK(traps_at(hole(pool, 3), &fault)); /* the guarded call works as ever */
    CHECK_IS(fault.page, ==, 3);
}

static void guards_itself(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)info;
    (void)context;
    CHECK(traps_at(hole(pool, 4), NULL));
    CHECK(is_blocked(SIGUSR1)); /* still inside */
    atomic_fetch_add(&calls, 1);
}

static void guarded_in_a_handler(void *argument)
{
    prepare(argument);
    set_handler(SIGUSR1, guards_itself, 0, NULL);
    bool finished = false;
    CHECK_OK(bufpool_guarded_call(interrupted, &finished, NULL));
    CHECK(finished && !is_blocked(SIGUSR1));
    CHECK_IS(stats_of(pool).faults, ==, 1);
}

/* ---- In the host's own handler of faults ---- */

static void mend(int signo, siginfo_t *info, void *context)
{
    CHECK((char *)info->si_addr == closed_page() + 3);
    stray(signo, info, context);
    CHECK_OK(mprotect(closed_page(), GRANULE, PROT_READ));
}

struct nested {
    struct variant variant;
    int flags;
};

/* Called by us, for a fault of its own, with SIGSEGV blocked unless it asked for SA_NODEFER. */
static void in_a_fault_handler(void *argument)
{
    const struct nested *nested = argument;
    set_handler(SIGSEGV, mend, nested->flags, NULL);
    prepare(&nested->variant);
    for (uint64_t i = 0; i < 4; i++) {
        CHECK_OK(mprotect(closed_page(), GRANULE, PROT_NONE));
        atomic_store(&target, hole(i % 2 ? pool : other, i));
        CHECK_IS(read_byte(closed_page() + 3), ==, 0);
    }
    CHECK_IS(atomic_load(&calls), ==, 4);
    CHECK_IS(stats_of(pool).faults + stats_of(other).faults, ==, 4);
}

/* ---- Cancelled ---- */

static pthread_barrier_t begun;

static void *stray_until_cancelled(void *argument)
{
    pthread_barrier_wait(&begun);
    for (uint64_t i = *(uint64_t *)argument;; i++) {
        read_byte(hole(pool, i % 64));
        uint64_t page;
        if (bufpool_allocate(other, "x", 1, &page) == 0) {
            bufpool_free(other, page);
        }
        bufpool_check(NULL);
        if (i % 16 == 0) {
            pthread_testcancel();
        }
    }
    return NULL;
}

/* pthread_cancel() does not end a thread amid a report, nor amid a call that holds a page. */
static void cancelled(void *argument)
{
    prepare(argument);
    for (uint64_t i = 0; i < 40; i++) {
        pthread_t thread;
        CHECK_OK(pthread_barrier_init(&begun, NULL, 2));
        CHECK_OK(pthread_create(&thread, NULL, stray_until_cancelled, &i));
        pthread_barrier_wait(&begun);
        struct timespec moment = {0, (long)(i * 7919 % 500000)};
        nanosleep(&moment, NULL);
        CHECK_OK(pthread_cancel(thread));
        void *result;
        CHECK_OK(pthread_join(thread, &result));
        CHECK(result == PTHREAD_CANCELED);
        CHECK_OK(pthread_barrier_destroy(&begun));
    }
    bufpool_flush(NULL);
    CHECK_IS(stats_of(other).allocated, <=, 40);
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
    CHECK_OK(bufpool_close(pool)); /* nobody is left inside */
    CHECK_OK(bufpool_close(other));
}

/* ---- Storms ---- */

static void tick(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)info;
    (void)context;
    atomic_fetch_add(&calls, 1);
}

static void start_storm(long microseconds)
{
    struct itimerval often = {{0, microseconds}, {0, microseconds}};
    CHECK_OK(setitimer(ITIMER_REAL, &often, NULL));
}

/* The timer's handler interrupts the straying code, the library's calls and the system calls they make. */
static void storm(void *argument)
{
    const struct variant *variant = argument;
    bool raises = strcmp(variant->on_fault, "raise") == 0;
    prepare(variant);
    set_handler(SIGALRM, tick, variant->alternate ? SA_ONSTACK : 0, NULL); /* no SA_RESTART: EINTR everywhere */
    start_storm(150);
    uint64_t strays = 0;
    for (int round = 0; round < 20 || atomic_load(&calls) < 200; round++) {
        uint64_t pages[16];
        CHECK_OK(bufpool_allocate_many(pool, 16, pages));
        CHECK_OK(bufpool_evict_many(pool, 8, pages));
        CHECK_OK(bufpool_populate_many(pool, 8, pages, NULL));
        CHECK_OK(bufpool_free_many(pool, 16, pages));
        for (uint64_t i = 0; i < 4; i++, strays++) {
            CHECK_IS((unsigned char)read_byte(hole(pool, pages[i])), ==, BUFPOOL_POISON);
            CHECK_IS(bufpool_check(NULL), ==, raises ? BUFPOOL_ESTRAY : 0);
        }
        CHECK(traps_at(hole(pool, pages[5]), NULL));
        strays++;
    }
    start_storm(0);
    CHECK_IS(stats_of(pool).faults, ==, strays);
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
}

/* The timer's handler strays, too, on pages of its own. */
static void straying_tick(int signo, siginfo_t *info, void *context)
{
    stray(signo, info, context);
}

static void straying_storm(void *argument)
{
    const struct variant *variant = argument;
    prepare(variant);
    atomic_store(&target, hole(other, 9));
    set_handler(SIGALRM, straying_tick, variant->alternate ? SA_ONSTACK : 0, NULL);
    start_storm(2000);
    for (int round = 0; round < 20 || atomic_load(&calls) < 30; round++) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
        CHECK_OK(bufpool_free(pool, page));
        read_byte(hole(pool, page));
        while (bufpool_check(NULL) == BUFPOOL_ESTRAY) {
        }
    }
    start_storm(0);
    CHECK_IS(stats_of(other).faults, >=, 1);
    CHECK_IS(stats_of(pool).reports_lost + stats_of(other).reports_lost, ==, 0);
}

/* A handler that leaves by siglongjmp, as a watchdog does that gives up on a piece of work. It cannot leave ours, with
 * a report half written: whatever it interrupts, everything works afterwards. */
static void give_up(int signo, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    siglongjmp(back, signo);
}

static void left_by_longjmp(void *argument)
{
    const struct variant *variant = argument;
    prepare(variant);
    set_handler(SIGALRM, give_up, variant->alternate ? SA_ONSTACK : 0, NULL);
    for (volatile int round = 0; round < 150; round++) {
        if (sigsetjmp(back, 1) == 0) {
            struct itimerval once = {{0, 0}, {0, 1 + round * 13 % 300}};
            CHECK_OK(setitimer(ITIMER_REAL, &once, NULL));
            for (uint64_t i = 0;; i++) {
                read_byte(hole(pool, i % 64)); /* most of the time goes into reports, and no call holds anything */
            }
        }
    }
    while (bufpool_check(NULL) == BUFPOOL_ESTRAY) {
    }
    struct rusage from, to;
    CHECK_OK(getrusage(RUSAGE_THREAD, &from));
    for (uint64_t i = 0; i < 20; i++) {
        read_byte(hole(other, i));
    }
    CHECK_OK(getrusage(RUSAGE_THREAD, &to));
    CHECK_IS(to.ru_nvcsw - from.ru_nvcsw, <,
             5000); /* nobody sleeps, by short naps, for a buffer that was left behind */
    CHECK_IS(stats_of(pool).reports_lost + stats_of(other).reports_lost, ==, 0);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(bufpool_close(other));
}

/* ---- Blocked ---- */

/* As documented: the kernel ends a process whose thread blocks the signal of its own fault. There is no report. */
static void blocked(void *argument)
{
    prepare(argument);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    sigaddset(&set, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    read_byte(hole(pool, 3));
    fprintf(stderr, "went through\n");
}

static void unblocked_in_time(void *argument)
{
    prepare(argument);
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* all others blocked: nothing changes */
    read_byte(hole(pool, 3));
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK(is_blocked(SIGUSR1) && is_blocked(SIGALRM) && !is_blocked(SIGBUS));
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const char *const policies[] = {"resume", "raise", "abort"};
    for (int i = 0; i < 6; i++) {
        struct variant variant = {policies[i % 3], i >= 3};
        struct child child = run_child(in_a_handler, &variant);
        if (i % 3 == 2) {
            CHECK_DIED(child, signal_of(trap));
            CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 1, child);
            child = run_child(amid_a_guarded_call, &variant);
            CHECK_DIED(child, signal_of(trap));
            CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 1, child);
            child = run_child(blocked, &variant);
            CHECK_DIED(child, signal_of(trap));
            CHECK_STRING(child.text, "");
        } else {
            CHECK_PASSED(child);
            CHECK_CHILD(count_in(child.text, "==END of bufpool report") == (i % 3 == 0 ? 8 : 0), child);
            passes(amid_a_guarded_call, &variant);
            passes(storm, &variant);
            passes(straying_storm, &variant);
            passes(left_by_longjmp, &variant);
            passes(unblocked_in_time, &variant);
            passes(cancelled, &variant);
            for (int defer = 0; defer < 2; defer++) {
                struct nested nested = {variant, defer ? 0 : SA_NODEFER};
                child = run_child(in_a_fault_handler, &nested);
                if (defer && signal_of(trap) == SIGSEGV) { /* as without us: a blocked fault is the kernel's */
                    CHECK_DIED(child, SIGSEGV);
                } else {
                    CHECK_PASSED(child);
                }
            }
        }
        passes(guarded_in_a_handler, &variant);
    }
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, with every signal blocked and on its own stacks\n");
        return HARNESS_SKIP;
    }
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
