/* Forks amid everything: while other threads allocate, free, stray, write reports, open and close; in a signal handler;
 * from several threads. A child's copy is whole, what is a hole traps, and nothing hangs. */
#include "harness.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define PAGES 512
#define THREADS 3
#define CHILDREN (SANITIZED ? 10 : 60)

static const char *memory, *trap;
static bufpool_pool *pool;
static atomic_bool stop;

/* ---- What a child finds ---- */

/* Every page that is allocated has its content, or is being given it by who had just allocated it; all others trap. */
static void check_all(uint64_t step)
{
    uint64_t allocated = 0;
    for (uint64_t page = 0; page < PAGES; page++) {
        bufpool_state state = state_of(pool, page);
        allocated += state == BUFPOOL_STATE_ALLOCATED;
        if (page % step != 0) {
            continue;
        }
        volatile uint64_t *at = bufpool_address(pool, page);
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        bool traps = traps_at((void *)at, &fault);
        CHECK_IS(traps, ==, state != BUFPOOL_STATE_ALLOCATED);
        CHECK(!traps || fault.flags == BUFPOOL_FAULT_INHERITED);
        if (!traps) {
            CHECK_IS(at[0], ==, page);
            CHECK_IS(at[GRANULE / 8 - 1], ==, ~page);
        }
    }
    CHECK_IS(stats_of(pool).allocated, ==, allocated);
    CHECK_IS(stats_of(pool).scratched, ==, 0);
}

static void use(void)
{
    uint64_t pages[16];
    size_t found;
    CHECK_OK(bufpool_allocate_many(pool, 16, pages));
    CHECK_OK(bufpool_free_many(pool, 16, pages));
    for (int i = 0; i < 16; i++) {
        CHECK(traps_at(bufpool_address(pool, pages[i]), NULL));
    }
    CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_EVICTED, 0, 16, pages, &found));
    CHECK_OK(bufpool_populate_many(pool, found, pages, NULL));
    CHECK_OK(bufpool_close(pool));
    bufpool_pool *own = open_pool(memory, trap, "raise", 8 * GRANULE, GRANULE);
    CHECK(traps_at(bufpool_address(own, 3), NULL));
    CHECK_OK(bufpool_close(own));
}

static void heir(void *unused)
{
    (void)unused;
    check_all(1);
    use();
}

/* ---- What goes on meanwhile ---- */

static void fill(uint64_t page, unsigned char *data)
{
    uint64_t last = ~page;
    memset(data, (int)page, GRANULE);
    memcpy(data, &page, 8);
    memcpy(data + GRANULE - 8, &last, 8);
}

/* Each thread has pages of its own. */
static void *churn(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    uint64_t seed = self;
    unsigned char data[GRANULE];
    while (!atomic_load(&stop)) {
        uint64_t page = next_random(&seed) % (PAGES / THREADS) * THREADS + self;
        switch (state_of(pool, page)) {
        case BUFPOOL_STATE_ALLOCATED:
            CHECK_OK(next_random(&seed) % 2 == 0 ? bufpool_free(pool, page) : bufpool_evict(pool, page));
            break;
        case BUFPOOL_STATE_EVICTED:
            fill(page, data);
            CHECK_OK(bufpool_populate(pool, page, data, sizeof data));
            break;
        default:
            if (next_random(&seed) % 4 == 0) {
                read_byte(bufpool_address(pool, page)); /* diverted; the next call arms it */
            }
            fill(page, data);
            CHECK_OK(bufpool_allocate_at(pool, page, data, sizeof data));
            break;
        }
        bufpool_check(NULL);
    }
    return NULL;
}

static void *reopen(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop)) {
        bufpool_pool *one = open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE);
        uint64_t page;
        CHECK_OK(bufpool_allocate(one, NULL, 0, &page));
        CHECK_OK(bufpool_close(one));
    }
    return NULL;
}

struct crowd {
    pthread_t threads[THREADS + 1];
    uint64_t numbers[THREADS];
};

static void begin(struct crowd *crowd)
{
    pool = open_pool(memory, trap, "raise", PAGES * GRANULE, GRANULE);
    atomic_store(&stop, false);
    for (uint64_t i = 0; i < THREADS; i++) {
        crowd->numbers[i] = i;
        CHECK_OK(pthread_create(&crowd->threads[i], NULL, churn, &crowd->numbers[i]));
    }
    CHECK_OK(pthread_create(&crowd->threads[THREADS], NULL, reopen, NULL));
}

static void end(struct crowd *crowd)
{
    atomic_store(&stop, true);
    for (int i = 0; i <= THREADS; i++) {
        CHECK_OK(pthread_join(crowd->threads[i], NULL));
    }
    CHECK_OK(bufpool_close(pool));
}

static void amid_calls(void)
{
    struct crowd crowd;
    begin(&crowd);
    for (int i = 0; i < CHILDREN; i++) {
        struct child child = run_child(heir, NULL);
        CHECK_PASSED(child);
    }
    end(&crowd);
}

/* ---- In a signal handler ---- */

static atomic_int handled, given, busy, other;

static void on_signal(int signo)
{
    (void)signo;
    int keep = errno;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        uint64_t page;
        if (bufpool_allocate(pool, NULL, 0, &page) == 0) {
            CHECK_OK(bufpool_free(pool, page));
            check_all(37);
            _exit(10);
        }
        /* A call was interrupted: its pool stays behind. */
        bool told = traps_at(bufpool_address(pool, 0), &fault) && strstr(fault.fork_note, "interrupted") != NULL;
        _exit(told ? 11 : 2);
    }
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    atomic_fetch_add(code == 10 ? &given : code == 11 ? &busy : &other, 1);
    atomic_fetch_add(&handled, 1);
    errno = keep;
}

static atomic_bool ready;

/* The library asks malloc() for a thread's notes once, when there is something to say: who forks in a handler that has
 * interrupted malloc() hangs in the C library. */
static void *churn_noted(void *argument)
{
    read_byte(bufpool_address(pool, PAGES - 1));
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    atomic_store(&ready, true);
    return churn(argument);
}

static void in_handler(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    CHECK_OK(sigaction(SIGUSR1, &action, &before));
    pool = open_pool(memory, trap, "raise", PAGES * GRANULE, GRANULE);
    atomic_store(&stop, false);
    atomic_store(&handled, 0);
    pthread_t thread;
    uint64_t number = 0;
    atomic_store(&ready, false);
    CHECK_OK(pthread_create(&thread, NULL, churn_noted, &number));
    WAIT_FOR(atomic_load(&ready));
    for (int i = 0; i < CHILDREN / 2; i++) {
        CHECK_OK(pthread_kill(thread, SIGUSR1));
        while (atomic_load(&handled) <= i) {
            sleep_ms(1);
        }
    }
    atomic_store(&stop, true);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS(atomic_load(&other), ==, 0);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(sigaction(SIGUSR1, &before, NULL));
}

/* ---- From several threads ---- */

static void *fork_often(void *failed)
{
    for (int i = 0; i < CHILDREN / 4; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(CHILD_LIMIT);
            check_all(61);
            use();
            _exit(0);
        }
        int status = -1;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            atomic_store((atomic_bool *)failed, true);
        }
    }
    return NULL;
}

static void from_threads(void)
{
    struct crowd crowd;
    pthread_t forkers[2];
    atomic_bool failed = false;
    begin(&crowd);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_create(&forkers[i], NULL, fork_often, &failed));
    }
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_join(forkers[i], NULL));
    }
    CHECK(!atomic_load(&failed));
    end(&crowd);
}

/* ---- While a report is being written ---- */

static void *stray(void *unused)
{
    (void)unused;
    read_byte(bufpool_address(pool, 5));
    return NULL;
}

static void report_in_child(void *unused)
{
    (void)unused;
    read_byte(bufpool_address(pool, 6));
}

/* The parent's report waits for the reader of its stderr; the child's goes to another one, and comes at once. */
static void amid_report(void)
{
    pool = open_pool(memory, trap, "resume", PAGES * GRANULE, GRANULE);
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    CHECK_IS(fcntl(ends[1], F_SETPIPE_SZ, 4096), >, 0);
    char page[4096] = "";
    CHECK_IS(write(ends[1], page, sizeof page), ==, sizeof page); /* it is full */
    int keep = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, stray, NULL));
    while (stats_of(pool).faults == 0) {
        sleep_ms(1);
    }
    sleep_ms(20);
    struct child child = run_child(report_in_child, NULL);
    dup2(keep, STDERR_FILENO);
    close(keep);
    close(ends[1]);
    char text[4096];
    while (read(ends[0], text, sizeof text) > 0) {
    }
    close(ends[0]);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_PASSED(child);
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1 && count_in(child.text, "==END") == 1, child);
    CHECK_OK(bufpool_close(pool));
}

/* ---- All of it ---- */

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    if (strcmp(memory, "anon") != 0) {
        return; /* pages that parent and child share change under the child's eyes; see heirs.h */
    }
    amid_calls();
    in_handler();
    from_threads();
    amid_report();
}

int main(void)
{
    harness_begin();
#if defined(__SANITIZE_THREAD__)
    printf("the thread sanitizer does not bear a fork amid threads\n");
    return HARNESS_SKIP;
#endif
    int code = for_each_cell(cell, false);
    printf("forks in a signal handler: %d children had the pool, %d not, since a call was interrupted\n",
           atomic_load(&given), atomic_load(&busy));
    return code;
}
