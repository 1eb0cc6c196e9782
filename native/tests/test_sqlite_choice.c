/* test_sqlite_choice.c: the cheaper way to evict is found, where one is cheaper; time that another thread took is not
 * compared; and caches opened later know. The clock is the test's. */
#include "test_sqlite.h"

#include <pthread.h>
#include <time.h>

static uint64_t thread_time = 1;

static int test_clock(clockid_t clock, struct timespec *time)
{
    CHECK(clock == CLOCK_THREAD_CPUTIME_ID);
    *time =
        (struct timespec){.tv_sec = (time_t)(thread_time / 1000000000), .tv_nsec = (long)(thread_time % 1000000000)};
    return 0;
}

#define clock_gettime test_clock
#define sq_choice_replaces tested_replaces
#include "choice.c" // NOLINT(bugprone-suspicious-include)

/* New pages, of which each takes so long. Returns how many were replaced. */
static unsigned pages(sq_choice *choice, _Atomic sq_evict *way, unsigned count, unsigned batch_ns, unsigned replace_ns)
{
    unsigned replaced = 0;
    for (unsigned i = 0; i < count; i++) {
        bool replaces = tested_replaces(choice, way);
        thread_time += replaces ? replace_ns : batch_ns;
        replaced += replaces;
    }
    return replaced;
}

static void cheaper_is_found(void)
{
    sq_choice choice = {0};
    _Atomic sq_evict way = SQ_AUTO;
    unsigned warm = pages(&choice, &way, SQ_TURN, 1000, 900);
    CHECK(warm == 0 && way == SQ_AUTO);
    CHECK(pages(&choice, &way, 2 * SQ_TURN * SQ_TURNS_WON, 1000, 900) == SQ_TURN * SQ_TURNS_WON);
    CHECK(pages(&choice, &way, SQ_CHOICE_LASTS, 1000, 900) == SQ_CHOICE_LASTS && way == SQ_BY_REPLACE);
    /* It is not any more, which is noticed. */
    pages(&choice, &way, 2 * SQ_TURN * SQ_TURNS_LOST, 1000, 1100);
    CHECK(pages(&choice, &way, SQ_CHOICE_LASTS, 1000, 1100) == 0 && way == SQ_BY_BATCH);

    sq_choice later = {0};
    CHECK(pages(&later, &way, SQ_TURN, 1000, 900) == 0 && later.phase == SQ_SETTLED);
    way = SQ_BY_REPLACE;
    later = (sq_choice){0};
    CHECK(pages(&later, &way, SQ_TURN, 1000, 900) == SQ_TURN);
}

static void *other_thread(void *choice)
{
    _Atomic sq_evict way = SQ_AUTO;
    pages(choice, &way, 1, 0, 0);
    return NULL;
}

static void other_threads_do_not_count(void)
{
    sq_choice choice = {0};
    _Atomic sq_evict way = SQ_AUTO;
    pages(&choice, &way, 2 * SQ_TURN, 1000, 2000);
    CHECK(choice.phase == SQ_MEASURING && !choice.replaces && choice.left == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, other_thread, &choice) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(choice.replaces && choice.batch_took == 0);
    pages(&choice, &way, SQ_TURN, 1000, 2000);
    CHECK(choice.won == 0 && choice.lost == 0);
    CHECK(pages(&choice, &way, 2 * SQ_TURN * (SQ_TURNS_LOST + 1), 1000, 2000) > 0 && way == SQ_BY_BATCH);
}

int main(void)
{
    cheaper_is_found();
    other_threads_do_not_count();
    return 0;
}
