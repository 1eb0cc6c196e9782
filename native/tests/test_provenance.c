/* Provenance: each page's last allocate and free, in reports and by bufpool_page_history(), on each memory and trap. */
#include "harness.h"

#include <sys/syscall.h>

static int32_t self(void)
{
    return (int32_t)syscall(SYS_gettid);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bufpool_pool *open_with(const char *memory, const char *trap, const char *provenance)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 16384 * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "resume";
    config.provenance = provenance;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

struct history {
    bufpool_origin allocated, freed;
};

static struct history history_of(const bufpool_pool *pool, uint64_t page)
{
    struct history history;
    CHECK_OK(bufpool_page_history(pool, page, &history.allocated, &history.freed));
    return history;
}

#define CHECK_EVENT(origin, of_event, of_sequence) \
    do { \
        CHECK_IS((origin).event, ==, of_event); \
        CHECK_IS((origin).sequence, ==, of_sequence); \
        CHECK_IS((origin).thread_id, ==, self()); \
        CHECK_IS((origin).pid, ==, getpid()); \
        CHECK_STRING((origin).thread_name, "test_provenance"); \
        CHECK_IS((origin).stack_depth, ==, 0); \
    } while (0)

/* The events of single calls and of batches, in the order in which they were made. */
static void events(bufpool_pool *pool)
{
    int64_t before = now_ns();
    CHECK_STRING(stats_of(pool).provenance, "last");
    struct history history = history_of(pool, 7);
    CHECK_IS(history.allocated.sequence, ==, 0);
    CHECK_IS(history.freed.sequence, ==, 0);
    CHECK_OK(bufpool_allocate_at(pool, 7, "x", 1)); /* 1 */
    history = history_of(pool, 7);
    CHECK_EVENT(history.allocated, BUFPOOL_EVENT_ALLOCATE, 1);
    CHECK_IS(history.freed.sequence, ==, 0);
    CHECK_IS(history.allocated.time_ns, >=, before - 1000000); /* to a tick, and between two clocks */
    CHECK_IS(history.allocated.time_ns, <=, now_ns() + 1000000);
    CHECK_OK(bufpool_evict(pool, 7)); /* 2 */
    CHECK_EVENT(history_of(pool, 7).freed, BUFPOOL_EVENT_EVICT, 2);
    CHECK_OK(bufpool_populate(pool, 7, NULL, 0)); /* 3 */
    CHECK_EVENT(history_of(pool, 7).allocated, BUFPOOL_EVENT_POPULATE, 3);
    CHECK_EVENT(history_of(pool, 7).freed, BUFPOOL_EVENT_EVICT, 2);
    CHECK_OK(bufpool_free(pool, 7)); /* 4 */
    CHECK_EVENT(history_of(pool, 7).freed, BUFPOOL_EVENT_FREE, 4);
    CHECK_EVENT(history_of(pool, 7).allocated, BUFPOOL_EVENT_POPULATE, 3);

    uint64_t pages[200];
    CHECK_OK(bufpool_allocate_many(pool, 200, pages)); /* 5: one for the batch */
    CHECK_OK(bufpool_evict_many(pool, 100, pages));    /* 6 */
    CHECK_OK(bufpool_populate_many(pool, 50, pages, NULL));
    CHECK_OK(bufpool_free_many(pool, 200, pages)); /* 8 */
    for (int i = 0; i < 200; i++) {
        CHECK_EVENT(history_of(pool, pages[i]).allocated, i < 50 ? BUFPOOL_EVENT_POPULATE : BUFPOOL_EVENT_ALLOCATE,
                    i < 50 ? 7 : 5);
        CHECK_EVENT(history_of(pool, pages[i]).freed, BUFPOOL_EVENT_FREE, 8);
    }
    /* What is refused leaves no trace. */
    CHECK_IS(bufpool_free(pool, 7), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_populate(pool, 7, NULL, 0), ==, BUFPOOL_ESTATE);
    uint64_t twice[] = {20, 20};
    CHECK_OK(bufpool_allocate_at(pool, 20, NULL, 0)); /* 9 */
    CHECK_IS(bufpool_free_many(pool, 2, twice), ==, BUFPOOL_ESTATE);
    CHECK_EVENT(history_of(pool, 20).freed, BUFPOOL_EVENT_FREE, 8);
    CHECK_EVENT(history_of(pool, 20).allocated, BUFPOOL_EVENT_ALLOCATE, 9);
    CHECK_OK(bufpool_free(pool, 20)); /* 10 */
    CHECK_EVENT(history_of(pool, 20).freed, BUFPOOL_EVENT_FREE, 10);
    CHECK_IS(stats_of(pool).provenance_lost, ==, 0);
}

/* A report says who freed and who allocated the page, and what lies beside it. */
static void reports(bufpool_pool *pool)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    uint64_t pages[] = {100, 101, 102, 103, 104};
    for (int i = 0; i < 5; i++) {
        CHECK_OK(bufpool_allocate_at(pool, pages[i], NULL, 0));
    }
    struct history before = history_of(pool, 102);
    CHECK_OK(bufpool_free_many(pool, 3, pages + 1));
    char *address = bufpool_address(pool, 102);
    CHECK(traps_at(address + 16, &fault));
    CHECK_EVENT(fault.allocated, BUFPOOL_EVENT_ALLOCATE, before.allocated.sequence);
    CHECK_EVENT(fault.freed, BUFPOOL_EVENT_FREE, history_of(pool, 101).freed.sequence);
    CHECK_IS(fault.below, ==, 100);
    CHECK_IS(fault.above, ==, 104);
    char text[16384];
    bufpool_format_text(&fault, text, sizeof text);
    CHECK_HAS(text,
              "  neighbours: 4112 bytes past the end of page 100; 8176 bytes before page 104, which are allocated\n");
    char line[256];
    snprintf(line, sizeof line, "  freed by thread %d \"test_provenance\", 2", self());
    CHECK_HAS(text, line);
    snprintf(line, sizeof line, "  allocated by thread %d \"test_provenance\", 2", self());
    CHECK_HAS(text, line);
    CHECK(strstr(text, "  freed by") < strstr(text, "  allocated by"));
    bufpool_format_json(&fault, text, sizeof text);
    snprintf(line, sizeof line, "\"freed\":{\"event\":\"free\",\"sequence\":%d,\"time\":\"2",
             (int)fault.freed.sequence);
    CHECK_HAS(text, line);
    CHECK_HAS(text, "\"below\":100,\"above\":104,\"allocated\":{\"event\":\"allocate\",");
    snprintf(line, sizeof line,
             "\"thread_id\":%d,\"thread_name\":\"test_provenance\",\"pid\":%d,"
             "\"process_name\":\"test_provenance\",\"native_stack\":[],\"caller\":[]}",
             self(), (int)getpid());
    CHECK_HAS(text, line);

    /* The edges of what is looked at: 4096 pages on either side. */
    uint64_t far[] = {8000, 8000 + 4096, 8000 + 8193};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(bufpool_allocate_at(pool, far[i], NULL, 0));
    }
    CHECK_OK(bufpool_free(pool, far[1]));
    CHECK(traps_at(bufpool_address(pool, far[1]), &fault));
    CHECK_IS(fault.below, ==, 8000);
    CHECK_IS(fault.above, ==, BUFPOOL_NO_PAGE);
    CHECK(traps_at(bufpool_address(pool, 0), &fault));
    CHECK_IS(fault.below, ==, BUFPOOL_NO_PAGE);
    CHECK_IS(fault.above, ==, 100);
    CHECK(traps_at(bufpool_address(pool, 300), &fault)); /* never used */
    CHECK_IS(fault.below, ==, 104);
    CHECK_IS(fault.above, ==, BUFPOOL_NO_PAGE);
    CHECK_IS(fault.allocated.sequence, ==, 0);
    CHECK_IS(fault.freed.sequence, ==, 0);
    CHECK(traps_at(bufpool_address(pool, 16383), &fault));
    CHECK_IS(fault.above, ==, BUFPOOL_NO_PAGE);
    for (int i = 0; i < 3; i += 2) {
        CHECK_OK(bufpool_free(pool, far[i]));
    }
}

/* A late access to a closed pool still says who freed the page, or else who closed the pool. */
static void closed(bufpool_pool *pool)
{
    CHECK_OK(bufpool_allocate_at(pool, 5000, NULL, 0));
    CHECK_OK(bufpool_allocate_at(pool, 5001, NULL, 0));
    CHECK_OK(bufpool_evict(pool, 5001));
    struct history open = history_of(pool, 5001);
    CHECK_OK(bufpool_close(pool));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at((char *)bufpool_address(pool, 5000) + 1, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
    CHECK_EVENT(fault.freed, BUFPOOL_EVENT_CLOSE, open.freed.sequence + 1);
    CHECK_EVENT(fault.allocated, BUFPOOL_EVENT_ALLOCATE, open.freed.sequence - 2);
    CHECK_IS(fault.below, ==, BUFPOOL_NO_PAGE);
    char text[16384];
    bufpool_format_text(&fault, text, sizeof text);
    CHECK_HAS(text, "  closed by thread ");
    CHECK(traps_at((char *)bufpool_address(pool, 5001) + 1, &fault));
    CHECK_EVENT(fault.freed, BUFPOOL_EVENT_EVICT, open.freed.sequence);
    CHECK_EVENT(history_of(pool, 5001).allocated, BUFPOOL_EVENT_ALLOCATE, open.allocated.sequence);
}

static void cell(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_with(memory, trap, "last");
    events(pool);
    reports(pool);
    closed(pool);

    pool = open_with(memory, trap, NULL); /* off */
    CHECK_STRING(stats_of(pool).provenance, "off");
    CHECK_OK(bufpool_allocate_at(pool, 3, NULL, 0));
    CHECK_OK(bufpool_free(pool, 3));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(pool, 3), &fault));
    CHECK_IS(fault.allocated.sequence, ==, 0);
    CHECK_IS(fault.freed.sequence, ==, 0);
    CHECK_IS(history_of(pool, 3).allocated.sequence, ==, 0);
    char text[16384];
    bufpool_format_text(&fault, text, sizeof text);
    CHECK_IS(count_in(text, "by thread"), ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void refused(const char *provenance, uint32_t depth, const char *part)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    config.provenance = provenance;
    config.provenance_depth = depth;
    bufpool_pool *pool = NULL;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), part);
    CHECK(pool == NULL);
}

static void bad_input(void)
{
    refused("Last", 0, "unknown provenance \"Last\": valid are \"off\", \"last\", \"stacks\"");
    refused("", 0, "unknown provenance \"\"");
    refused("stacks", 17, "provenance_depth is 17: it has to be from 1 to 16, or 0 for 8");
    refused("last", 4, "provenance_depth is 4, which goes with provenance \"stacks\", and provenance is \"last\"");
    refused(NULL, 1, "provenance is \"off\"");
    bufpool_pool *pool = open_with("anon", "auto", "last");
    bufpool_origin origin;
    CHECK_IS(bufpool_page_history(NULL, 0, &origin, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_page_history(pool, 16384, &origin, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_OK(bufpool_page_history(pool, 16383, NULL, NULL));
    char first[128];
    snprintf(first, sizeof first, "double free of page 3 of pool \"%s\": it was freed by thread %d \"",
             stats_of(pool).name, (int)gettid());
    CHECK_OK(bufpool_allocate_at(pool, 3, NULL, 0));
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_IS(bufpool_free(pool, 3), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), first);
    CHECK_OK(bufpool_close(pool));
    CHECK_STRING(bufpool_event_name(BUFPOOL_EVENT_POPULATE), "populate");
    CHECK_STRING(bufpool_event_name((bufpool_event)8), "unknown");
}

int main(void)
{
    harness_begin();
    bad_input();
    return for_each_cell(cell, false);
}
