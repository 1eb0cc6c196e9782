/* In a small pool a freed number is the last to come back, whichever thread or process asks: a stray access to it goes on
 * trapping meanwhile. */
#include "harness.h"

#define PAGES 64

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;
static uint64_t last; /* number that a thread or process was given */

static void *use_one(void *argument)
{
    (void)argument;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &last));
    CHECK_OK(bufpool_free(pool, last));
    return NULL;
}

/* Each thread is new: it has no block of numbers yet. */
static void threads(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    CHECK_OK(bufpool_open(&config, &pool));
    for (uint64_t i = 0; i < 3 * PAGES; i++) {
        pthread_t thread;
        CHECK_OK(pthread_create(&thread, NULL, use_one, NULL));
        CHECK_OK(pthread_join(thread, NULL));
        CHECK_IS(last, ==, i % PAGES);
    }
    /* With some of them taken, by this thread and others in turn. */
    uint64_t pages[PAGES / 2];
    CHECK_OK(bufpool_allocate_many(pool, PAGES / 2, pages));
    CHECK_OK(bufpool_free(pool, pages[3]));
    pthread_t thread;
    for (int i = 0; i < PAGES / 2; i++) {
        CHECK_OK(pthread_create(&thread, NULL, use_one, NULL));
        CHECK_OK(pthread_join(thread, NULL));
        CHECK_IS(last, !=, pages[3]);
    }
    use_one(NULL);
    CHECK_IS(last, ==, pages[3]);
    CHECK_OK(bufpool_close(pool));
}

static void guest(void *argument)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    uint64_t *page = argument;
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, page));
    CHECK_OK(bufpool_free(pool, *page));
    CHECK_OK(bufpool_close(pool));
}

static void processes(void)
{
    if (bufpool_probe("shared", "uffd", NULL, 0) != 0) {
        return; /* there are no pools that several processes have */
    }
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    config.memory = "shared";
    config.trap = "uffd";
    bufpool_pool *own;
    CHECK_OK(bufpool_open(&config, &own));
    CHECK_OK(bufpool_share(own, &handle));
    uint64_t *page = mmap(NULL, GRANULE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    for (uint64_t i = 0; i < 8; i++) {
        struct child child = run_child(guest, page);
        CHECK_PASSED(child);
        CHECK_IS(*page, ==, 2 * i);
        CHECK_OK(bufpool_allocate(own, NULL, 0, page));
        CHECK_IS(*page, ==, 2 * i + 1);
        CHECK_OK(bufpool_free(own, *page));
    }
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(own));
}

int main(void)
{
    harness_begin();
    threads();
    processes();
    return 0;
}
