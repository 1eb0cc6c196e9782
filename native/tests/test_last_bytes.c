/* A stray access to the last bytes of a page, beside a hole, while the page is allocated and freed: a race like any
 * other, never a lost frame, and "resume" goes on. */
#include "harness.h"

#include <stdatomic.h>

#define FAULTS 1000 /* that are waited for, however long it takes: the child's alarm bounds it */

static bufpool_pool *pool;
static atomic_bool stop;

static void spin(unsigned count)
{
    for (volatile unsigned i = 0; i < count; i++) {
    }
}

static void *churn(void *unused)
{
    (void)unused;
    for (unsigned n = 0; !atomic_load(&stop); n++) {
        if (bufpool_allocate_at(pool, 1, "x", 1) == 0) {
            spin(20000);
            bufpool_free(pool, 1);
            spin(n % 8 == 0 ? 100000 : 0); /* a hole that lasts, where one processor has both threads */
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
    for (unsigned n = 0; stats_of(pool).faults < FAULTS; n++) {
        spin(n * 37 % 4000);
        read_byte(end - 1 - n % 7);
        size_t found;
        CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_EVICTED, 0, 0, NULL, &found)); /* any call re-arms */
    }
    atomic_store(&stop, true);
    CHECK_OK(pthread_join(thread, NULL));
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
