/* A host's signal handler strays while it interrupts a fill of 2 MiB: the stray access is reported, the handler and the
 * fill come to their ends. */
#include "harness.h"

#include <sys/time.h>

static bufpool_pool *small;
static volatile sig_atomic_t begun, ended;

static void on_alarm(int signo)
{
    (void)signo;
    begun = begun + 1;
    /* Each time another page: the last one may just be re-armed by the very call that this handler has interrupted. */
    read_byte(bufpool_address(small, (uint64_t)begun % (MIB / GRANULE)));
    ended = ended + 1;
}

static void fill(void *unused)
{
    (void)unused;
    small = open_pool("anon", "uffd", "resume", MIB, GRANULE);
    bufpool_pool *pool = open_pool("thp", "uffd", "abort", 256 * MIB, 0);
    char *data = malloc(2 * MIB);
    CHECK(data != NULL);
    memset(data, 7, 2 * MIB);
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    CHECK_OK(sigaction(SIGUSR1, &action, NULL));
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK_OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
    for (int i = 0; i < 1500 || begun <= 10; i++) {
        uint64_t page;
        struct itimerspec once = {{0, 0}, {0, 1000 + i * 7919 % 200000}};
        CHECK_OK(timer_settime(timer, 0, &once, NULL));
        CHECK_OK(bufpool_allocate(pool, data, 2 * MIB, &page));
        CHECK_OK(bufpool_free(pool, page));
    }
    CHECK_OK(timer_delete(timer));
    free(data);
    CHECK_IS(ended, ==, begun);
    CHECK_IS(stats_of(small).faults + stats_of(small).repeats, >, 0);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(bufpool_close(small));
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, and this test counts on when\n");
        return HARNESS_SKIP;
    }
    if (bufpool_probe("thp", "uffd", NULL, 0) != 0) {
        printf("thp/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    struct child child = run_child(fill, NULL);
    CHECK_PASSED(child);
    return 0;
}
