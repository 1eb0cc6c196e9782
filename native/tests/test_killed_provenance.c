/* What a process was freeing or evicting when it was killed, before it had recorded that, is recorded as done by it. */
#include "clean.h"

static bufpool_pool *pool;
static bufpool_handle handle = BUFPOOL_HANDLE_INIT;

static void die(void *argument)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    (void)argument;
    config.on_fault = "resume";
    CHECK_OK(bufpool_attach(&config, &handle, &pool));
    uint64_t evicted = 3;
    CHECK_OK(bufpool_evict(pool, evicted));
    CHECK(bp_pages_claim(&pool->pages, 1, BUFPOOL_STATE_ALLOCATED, BP_FREEING));
    CHECK(bp_pages_claim(&pool->pages, 2, BUFPOOL_STATE_ALLOCATED, BP_EVICTING));
    CHECK(bp_pages_claim(&pool->pages, 3, BUFPOOL_STATE_EVICTED, BP_FREEING));
    CHECK(bp_pages_claim(&pool->pages, 4, BUFPOOL_STATE_ALLOCATED, BP_FREEING));
    uint64_t page = 4;
    bp_record(&pool->provenance, &page, 1, BUFPOOL_EVENT_FREE, BP_CALLER()); /* this one has got further */
}

static void with(const char *provenance)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    config.memory = "shared";
    config.trap = "uffd";
    config.on_fault = "resume";
    config.fork = "exclude";
    config.provenance = provenance;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_share(pool, &handle));
    uint64_t pages[5];
    bufpool_origin allocated;
    bufpool_origin freed;
    CHECK_OK(bufpool_allocate_many(pool, 5, pages));
    struct child child = run_child(die, NULL);
    CHECK_PASSED(child);
    CHECK_OK(bufpool_page_history(pool, 4, &allocated, &freed));
    uint64_t recorded = freed.sequence;
    stats_of(pool);
    static const bufpool_event events[] = {0, BUFPOOL_EVENT_FREE, BUFPOOL_EVENT_EVICT, BUFPOOL_EVENT_FREE,
                                           BUFPOOL_EVENT_FREE};
    for (uint64_t page = 1; page <= 4; page++) {
        CHECK_OK(bufpool_page_history(pool, page, &allocated, &freed));
        CHECK_IS(allocated.pid, ==, getpid());
        CHECK_IS(freed.event, ==, events[page]);
        CHECK_IS(freed.sequence, >, allocated.sequence);
        CHECK_IS(freed.pid, >, 0);
        CHECK_IS(freed.pid, !=, getpid());
        CHECK_IS(freed.thread_id, ==, freed.pid);
        CHECK(freed.process_name[0] != 0);
        CHECK(freed.thread_name[0] != 0);
    }
    CHECK_IS(freed.sequence, ==, recorded);
    CHECK_OK(bufpool_page_history(pool, 0, &allocated, &freed));
    CHECK_IS(freed.sequence, ==, 0);
    check_clean(pool, 1);
    check_all_to_be_had(pool);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) == BUFPOOL_EUNSUPPORTED) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    with("last");
    with("stacks");
    return 0;
}
