/* on_fault "freeze" with more threads than one expects: all of them are written down, and one bufpool_thaw() lets all of
 * them go on, also those for which a limit on file sizes has left the record no room. */
#include "stopped.h"

#include <stdatomic.h>
#include <sys/resource.h>

#define CROWD 100

static char *base;
static atomic_int went_on;

static void *stray(void *argument)
{
    size_t n = *(const size_t *)argument;
    CHECK_IS((unsigned char)read_byte(base + n * GRANULE), ==, BUFPOOL_POISON);
    atomic_fetch_add(&went_on, 1);
    return NULL;
}

static void crowd(void *argument)
{
    pthread_t threads[CROWD];
    size_t numbers[CROWD];
    bufpool_pool *pool = open_pool("anon", argument, "freeze", 2 * CROWD * GRANULE, GRANULE);
    base = bufpool_address(pool, 0);
    for (size_t i = 0; i < CROWD; i++) {
        numbers[i] = i;
        CHECK_OK(pthread_create(&threads[i], NULL, stray, &numbers[i]));
    }
    WAIT_FOR(count_stopped() >= CROWD);
    sleep_ms(100);
    CHECK_IS(atomic_load(&went_on), ==, 0);
    CHECK_IS(bufpool_thaw(pool, NULL), ==, CROWD);
    for (int i = 0; i < CROWD; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    CHECK_IS(stats_of(pool).faults, ==, CROWD);
    CHECK_IS(bufpool_thaw(NULL, NULL), ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* The record has room for some sixty then. */
static void limited_crowd(void *argument)
{
    struct rlimit limit = {8 * MIB, 8 * MIB};
    CHECK_OK(setrlimit(RLIMIT_FSIZE, &limit));
    crowd(argument);
}

static void cell(const char *memory, const char *trap)
{
    (void)memory;
    char name[16];
    snprintf(name, sizeof name, "%s", trap);
    struct child child = run_child(crowd, name);
    CHECK_PASSED(child);
    child = run_child(limited_crowd, name);
    CHECK_PASSED(child);
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, not while a thread is stopped\n");
        return HARNESS_SKIP;
    }
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
