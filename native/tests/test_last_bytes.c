/* A stray access to the last bytes of a page, beside a hole, while the page is allocated and freed: a race like any
 * other, never a lost frame, and "resume" goes on. */
#include "harness.h"

#include <stdatomic.h>

static bufpool_pool *pool;
static atomic_bool stop;

static void *churn(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop)) {
        if (bufpool_allocate_at(pool, 1, "x", 1) == 0) {
            for (volatile unsigned i = 0; i < 20000; i++) {
            }
            bufpool_free(pool, 1);
        }
    }
    return NULL;
}

static void stray(void *unused)
{
    (void)unused;
    pool = open_pool("anon", "uffd", "resume", MIB, GRANULE);
    const char *end = (const char *)bufpool_address(pool, 1) + GRANULE;
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, churn, NULL));
    time_t deadline = time(NULL) + 3;
    for (unsigned n = 0; time(NULL) < deadline; n++) {
        for (volatile unsigned i = 0; i < n * 37 % 4000; i++) {
        }
        read_byte(end - 1 - n % 7);
        size_t found;
        CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_EVICTED, 0, 0, NULL, &found)); /* any call re-arms */
    }
    atomic_store(&stop, true);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS(stats_of(pool).faults, >, 100);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("anon", "uffd", NULL, 0) != 0) {
        printf("anon/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    struct child child = run_child(stray, NULL);
    CHECK_CHILD(strstr(child.text, "frame is gone") == NULL, child);
    CHECK_PASSED(child);
    return 0;
}
