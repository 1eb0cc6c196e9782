/* One of several handlers: whoever had SIGBUS and SIGSEGV before us, or takes them after us, gets what is not ours. */
#include "harness.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <sys/mman.h>

static const char *memory, *trap;
static char *closed_page;  /* PROT_NONE: SIGSEGV */
static char *missing_page; /* behind the end of its file: SIGBUS */

static bufpool_pool *open_for(const char *on_fault, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 8 * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = on_fault;
    config.flags = flags;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

static void handle(int signo, void (*handler)(int, siginfo_t *, void *), int flags, struct sigaction *old)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR1);
    CHECK_OK(sigaction(signo, &action, old));
}

static void handle_plainly(int signo, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigemptyset(&action.sa_mask);
    CHECK_OK(sigaction(signo, &action, NULL));
}

static bool is_blocked(int signo)
{
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    return sigismember(&set, signo);
}

/* ---- Handlers that were there before ---- */

static atomic_int calls;
static volatile siginfo_t seen;
static sigjmp_buf back;

/* Makes the page accessible and goes on, as a garbage collector does. */
static void mend(int signo, siginfo_t *info, void *context)
{
    atomic_fetch_add(&calls, 1);
    seen = *info;
    CHECK(context != NULL);
    CHECK_IS(info->si_signo, ==, signo);
    CHECK(is_blocked(SIGUSR1) && is_blocked(signo));
    errno = 99;
    void *page = (void *)((uintptr_t)info->si_addr & ~(uintptr_t)(GRANULE - 1));
    CHECK(mmap(page, GRANULE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
}

static void foreign_faults_are_mended(void *argument)
{
    (void)argument;
    handle(SIGSEGV, mend, 0, NULL);
    handle(SIGBUS, mend, 0, NULL);
    bufpool_pool *pool = open_for("resume", 0);
    errno = 7;
    write_byte(closed_page + 40, 5);
    CHECK_IS(errno, ==, 7);
    CHECK_IS(atomic_load(&calls), ==, 1);
    CHECK_IS(seen.si_signo, ==, SIGSEGV);
    CHECK_IS(seen.si_code, ==, SEGV_ACCERR);
    CHECK((char *)seen.si_addr == closed_page + 40);
    CHECK_IS(closed_page[40], ==, 5);
    CHECK_IS(read_byte(missing_page + 41), ==, 0);
    CHECK_IS(atomic_load(&calls), ==, 2);
    CHECK_IS(seen.si_signo, ==, SIGBUS);
    CHECK_IS(seen.si_code, ==, BUS_ADRERR);
    CHECK((char *)seen.si_addr == missing_page + 41);
    CHECK(!is_blocked(SIGUSR1) && !is_blocked(SIGSEGV) && !is_blocked(SIGBUS));
    CHECK_IS((unsigned char)read_byte(bufpool_address(pool, 1)), ==, BUFPOOL_POISON); /* ours, not theirs */
    CHECK_IS(atomic_load(&calls), ==, 2);
}

static void jump(int signo)
{
    atomic_fetch_add(&calls, 1);
    siglongjmp(back, signo);
}

static __attribute__((noinline)) int deep(int levels, const char *at)
{
    volatile char room[700];
    room[0] = (char)levels;
    return levels == 0 ? read_byte(at) : deep(levels - 1, at) + room[0];
}

/* Never returns to us, from ever other depths of the stack. */
static void left_by_longjmp(void *argument)
{
    (void)argument;
    handle_plainly(SIGSEGV, jump, 0);
    handle_plainly(SIGBUS, jump, 0);
    bufpool_pool *pool = open_for("abort", 0);
    for (volatile int i = 0; i < 300; i++) {
        int signo = sigsetjmp(back, 1);
        if (signo == 0) {
            deep(i < 20 ? i * 2 : i % 17, i % 3 == 0 ? missing_page : closed_page);
            CHECK(false);
        }
        CHECK_IS(signo, ==, i % 3 == 0 ? SIGBUS : SIGSEGV);
    }
    CHECK_IS(atomic_load(&calls), ==, 300);
    CHECK(traps_at(bufpool_address(pool, 1), NULL));
    CHECK_OK(bufpool_close(pool));
}

static void once_only(void *argument)
{
    (void)argument;
    handle_plainly(SIGSEGV, jump, (int)SA_RESETHAND);
    open_for("abort", 0);
    if (sigsetjmp(back, 1) == 0) {
        read_byte(closed_page);
    }
    fprintf(stderr, "calls %d\n", atomic_load(&calls));
    read_byte(closed_page);
    fprintf(stderr, "went through\n");
}

static void ignored(void *argument)
{
    handle_plainly(SIGSEGV, SIG_IGN, 0);
    open_for("abort", 0);
    raise(SIGSEGV);
    kill(getpid(), SIGSEGV);
    fprintf(stderr, "ignored\n");
    if (argument != NULL) {
        read_byte(closed_page);
        fprintf(stderr, "went through\n");
    }
}

static void wrong(int signo)
{
    fprintf(stderr, "called for %d\n", signo);
    _exit(3);
}

/* The host returned to the default before its next pool: what it had in between is history. */
static void back_to_default(void *argument)
{
    (void)argument;
    open_for("abort", 0);
    handle_plainly(SIGSEGV, wrong, 0);
    open_for("abort", 0);
    handle_plainly(SIGSEGV, SIG_DFL, 0);
    open_for("abort", 0);
    read_byte(closed_page);
    fprintf(stderr, "went through\n");
}

/* ---- Handlers that came later ---- */

static struct sigaction ours[65];

/* Does its own part, then calls whom it displaced. */
static void chaining(int signo, siginfo_t *info, void *context)
{
    atomic_fetch_add(&calls, 1);
    ours[signo].sa_sigaction(signo, info, context);
}

static void later_chains(void *argument)
{
    handle(SIGSEGV, mend, 0, NULL);
    bufpool_pool *pool = open_for("resume", 0);
    handle(SIGSEGV, chaining, SA_NODEFER, &ours[SIGSEGV]);
    handle(SIGBUS, chaining, SA_NODEFER, &ours[SIGBUS]);
    if (argument != NULL) {
        open_for("resume", 0); /* we are in front again, the chain behind us leads back to us */
    }
    for (int i = 1; i <= 3; i++) {
        CHECK_IS((unsigned char)read_byte(bufpool_address(pool, (uint64_t)i)), ==, BUFPOOL_POISON);
        CHECK_IS(atomic_load(&calls), ==, argument == NULL ? i : 0);
    }
    CHECK_OK(bufpool_check(NULL));
    atomic_store(&calls, 0);
    CHECK_IS(read_byte(closed_page + 9), ==, 0);
    CHECK_IS(atomic_load(&calls), ==, 2); /* the later one, then the one before us */
    CHECK((char *)seen.si_addr == closed_page + 9);
    CHECK_IS(stats_of(pool).faults, ==, 3);
}

/* Swallows everything: that is its right, until we are put in front again. */
static void swallowing(int signo, siginfo_t *info, void *context)
{
    (void)context;
    seen = *info;
    siglongjmp(back, signo);
}

static void later_swallows(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_for("resume", 0);
    handle(SIGSEGV, swallowing, 0, NULL);
    handle(SIGBUS, swallowing, 0, NULL);
    char *at = (char *)bufpool_address(pool, 2) + 3;
    if (sigsetjmp(back, 1) == 0) {
        read_byte(at);
        CHECK(false);
    }
    CHECK((char *)seen.si_addr == at);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    open_for("resume", 0);
    CHECK_IS((unsigned char)read_byte(at), ==, BUFPOOL_POISON);
    CHECK_IS(stats_of(pool).faults, ==, 1);
    if (sigsetjmp(back, 1) == 0) {
        read_byte(closed_page);
        CHECK(false);
    }
    CHECK((char *)seen.si_addr == closed_page);
}

/* As Python's faulthandler: says its piece, puts back whom it displaced, and raises the signal again. */
static void restoring(int signo)
{
    fprintf(stderr, "restoring\n");
    sigaction(signo, &ours[signo], NULL);
    raise(signo);
}

static void install_restoring(void)
{
    struct sigaction action = {.sa_handler = restoring, .sa_flags = SA_NODEFER | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    CHECK_OK(sigaction(SIGSEGV, &action, &ours[SIGSEGV]));
    CHECK_OK(sigaction(SIGBUS, &action, &ours[SIGBUS]));
}

struct order {
    const char *on_fault;
    bool before;  /* the restoring handler was there before us */
    bool again;   /* another pool is opened at last */
    bool foreign; /* the fault is none of ours */
};

static void restored(void *argument)
{
    const struct order *order = argument;
    if (order->before) {
        install_restoring();
    }
    bufpool_pool *pool = open_for(order->on_fault, 0);
    if (!order->before) {
        install_restoring();
    }
    if (order->again) {
        open_for(order->on_fault, 0);
    }
    char *at = order->foreign ? closed_page : bufpool_address(pool, 3);
    fprintf(stderr, "read %d\n", (unsigned char)read_byte(at));
    fprintf(stderr, "faults %d\n", (int)stats_of(pool).faults);
}

static void faulthandler(void)
{
    for (int i = 0; i < 16; i++) {
        struct order order = {i & 1 ? "abort" : "resume", i & 2, i & 4, i & 8};
        bool in_front = order.before || order.again; /* we are, when the fault comes */
        struct child child = run_child(restored, &order);
        bool dies = order.foreign || strcmp(order.on_fault, "abort") == 0;
        if (dies) {
            CHECK_DIED(child, order.foreign ? SIGSEGV : signal_of(trap));
        } else {
            CHECK_PASSED(child);
            CHECK_HAS(child.text, "read 219\nfaults 1\n");
        }
        CHECK_CHILD(count_in(child.text, "restoring\n") == (order.foreign || !in_front), child);
        CHECK_CHILD(count_in(child.text, "==ERROR") == !order.foreign, child);
        CHECK_CHILD(count_in(child.text, "==END of bufpool") == !order.foreign, child);
    }
}

/* ---- Signals that are no fault at all ---- */

static void count(int signo)
{
    (void)signo;
    atomic_fetch_add(&calls, 1);
}

static void host_raises(void *argument)
{
    int signo = *(int *)argument;
    handle_plainly(SIGBUS, count, 0);
    handle_plainly(SIGSEGV, count, 0);
    bufpool_pool *pool = open_for("resume", 0);
    int expected = 0;
    for (int i = 0; i < 3; i++) {
        raise(signo);
        CHECK_IS(atomic_load(&calls), ==, ++expected);
        kill(getpid(), signo);
        CHECK_IS(atomic_load(&calls), ==, ++expected);
        /* Also when the last fault of this thread was a stray access, long dealt with. */
        read_byte(bufpool_address(pool, 3));
        CHECK_OK(bufpool_check(NULL));
    }
    CHECK_IS(stats_of(pool).faults, ==, 3);
}

static void host_dies_by_raise(void *argument)
{
    bufpool_pool *pool = open_for("resume", 0);
    read_byte(bufpool_address(pool, 3));
    CHECK_OK(bufpool_check(NULL));
    raise(*(int *)argument);
    fprintf(stderr, "survived\n");
}

/* The host protects an allocated page for purposes of its own: it gets its signal, and nothing is reported. */
static void host_protects(void *argument)
{
    (void)argument;
    handle(SIGSEGV, mend, 0, NULL);
    bufpool_pool *pool = open_for("resume", 0);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    char *at = bufpool_address(pool, page);
    CHECK_OK(mprotect(at, GRANULE, PROT_READ));
    write_byte(at, 'y');
    CHECK_IS(*at, ==, 'y');
    CHECK_IS(atomic_load(&calls), ==, 1);
    CHECK_OK(mprotect(at, GRANULE, PROT_NONE));
    CHECK_IS(read_byte(at), ==, 0); /* what mend() has put there */
    CHECK_IS(atomic_load(&calls), ==, 2);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_ALLOCATED);
}

/* ---- A host that keeps the signals for itself ---- */

static void host_handler(int signo, siginfo_t *info, void *context)
{
    if (bufpool_handle_signal(signo, info, context)) {
        atomic_fetch_add(&calls, 1);
        return;
    }
    seen = *info;
    siglongjmp(back, signo);
}

static void host_keeps_handlers(void *argument)
{
    (void)argument;
    handle(SIGSEGV, host_handler, SA_NODEFER, NULL);
    handle(SIGBUS, host_handler, SA_NODEFER, NULL);
    bufpool_pool *pool = open_for("raise", BUFPOOL_HOST_HANDLER);
    struct sigaction now;
    CHECK_OK(sigaction(SIGBUS, NULL, &now));
    CHECK(now.sa_sigaction == host_handler);
    CHECK_IS((unsigned char)read_byte(bufpool_address(pool, 3)), ==, BUFPOOL_POISON);
    CHECK_IS(atomic_load(&calls), ==, 1);
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    CHECK(traps_at(bufpool_address(pool, 3), NULL));
    CHECK(!is_blocked(SIGUSR1)); /* which the host's handler blocks */
    if (sigsetjmp(back, 1) == 0) {
        read_byte(closed_page + 1);
        CHECK(false);
    }
    CHECK((char *)seen.si_addr == closed_page + 1);
}

static void host_aborts(void *argument)
{
    (void)argument;
    handle(SIGSEGV, host_handler, SA_NODEFER, NULL);
    handle(SIGBUS, host_handler, SA_NODEFER, NULL);
    bufpool_pool *pool = open_for("abort", BUFPOOL_HOST_HANDLER);
    read_byte(bufpool_address(pool, 3));
    fprintf(stderr, "went through\n");
}

static void dies(void (*function)(void *), void *argument, int signo, const char *text)
{
    struct child child = run_child(function, argument);
    CHECK_DIED(child, signo);
    CHECK_STRING(child.text, text);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static int signals[] = {SIGBUS, SIGSEGV};
    passes(foreign_faults_are_mended, NULL);
    passes(left_by_longjmp, NULL);
    dies(once_only, NULL, SIGSEGV, "calls 1\n");
    passes(ignored, NULL);
    dies(ignored, "fault", SIGSEGV, "ignored\n");
    dies(back_to_default, NULL, SIGSEGV, "");
    passes(later_chains, NULL);
    passes(later_chains, "again");
    passes(later_swallows, NULL);
    if (NESTED_FAULTS) { /* raised inside a handler */
        faulthandler();
    }
    for (int i = 0; i < 2; i++) {
        passes(host_raises, &signals[i]);
        struct child child = run_child(host_dies_by_raise, &signals[i]);
        CHECK_DIED(child, signals[i]);
        CHECK_CHILD(strstr(child.text, "survived") == NULL, child);
    }
    passes(host_protects, NULL);
    passes(host_keeps_handlers, NULL);
    struct child child = run_child(host_aborts, NULL);
    CHECK_DIED(child, signal_of(trap));
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
    CHECK_CHILD(strstr(child.text, "went through") == NULL, child);
}

int main(void)
{
    harness_begin();
    closed_page = mmap(NULL, GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int file = memfd_create("empty", MFD_CLOEXEC);
    missing_page = mmap(NULL, GRANULE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(closed_page != MAP_FAILED && missing_page != MAP_FAILED);
    return for_each_cell(cell, false);
}
