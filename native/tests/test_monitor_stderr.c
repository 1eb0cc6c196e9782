/* A stderr that nobody reads holds up nobody but its writer: the threads for which the monitor has to write the report have
 * their answers, others have theirs, a child inherits the pool, and the pool is closed. What was not written is counted. */
#include "monitor.h"

#include <signal.h>
#include <stdatomic.h>

static bufpool_pool *pool;
static int ends[2];
static atomic_int over;

/* A full pipe. */
static void fill_stderr(void)
{
    char chunk[4096];
    int unread[2];
    CHECK_OK(pipe2(unread, O_CLOEXEC));
    memset(chunk, 'x', sizeof chunk);
    CHECK_OK(fcntl(unread[1], F_SETFL, O_NONBLOCK));
    while (write(unread[1], chunk, sizeof chunk) > 0) {
    }
    CHECK_OK(fcntl(unread[1], F_SETFL, 0));
    CHECK_IS(dup2(unread[1], STDERR_FILENO), ==, STDERR_FILENO);
}

static void *stray_in_call(void *argument)
{
    CHECK_IS(write(ends[1], argument, 10), ==, -1);
    CHECK_IS(errno, ==, EFAULT);
    atomic_fetch_add(&over, 1);
    return NULL;
}

/* The monitor has to answer for it, and to write the report. */
static void *stray_blocked(void *argument)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    CHECK_OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
    return stray_in_call(argument);
}

static void wait_over(int count)
{
    WAIT_FOR(atomic_load(&over) >= count);
    CHECK_IS(atomic_load(&over), ==, count);
}

static void unread(void *argument)
{
    const int blocked = 40; /* more than the monitor keeps reports for */
    pthread_t threads[41];
    (void)argument;
    int saved = dup(STDERR_FILENO);
    pool = open_monitored("anon", "raise", 64 * GRANULE, GRANULE);
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    fill_stderr();
    for (int i = 0; i < blocked; i++) {
        CHECK_OK(pthread_create(&threads[i], NULL, stray_blocked, bufpool_address(pool, (uint64_t)i)));
    }
    wait_over(blocked);
    CHECK_OK(pthread_create(&threads[blocked], NULL, stray_in_call, bufpool_address(pool, 60)));
    wait_over(blocked + 1);
    for (int i = 0; i <= blocked; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        uint64_t page;
        _exit(bufpool_allocate(pool, NULL, 0, &page) == 0 ? 0 : 1);
    }
    int status;
    CHECK_IS(waitpid(child, &status, 0), ==, child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    WAIT_FOR(stats_of(pool).reports_lost > 0);
    CHECK_IS(stats_of(pool).faults, ==, blocked + 1);
    CHECK_OK(pthread_create(&threads[0], NULL, stray_in_call, bufpool_address(pool, 61)));
    CHECK_OK(pthread_join(threads[0], NULL)); /* what it is owed is written at the close */
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(dup2(saved, STDERR_FILENO), ==, STDERR_FILENO);
}

int main(void)
{
    harness_begin();
    if (!can_monitor()) {
        return HARNESS_SKIP;
    }
    struct child child = run_child(unread, NULL);
    CHECK_PASSED(child);
    return 0;
}
