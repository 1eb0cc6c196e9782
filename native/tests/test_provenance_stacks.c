/* Provenance "stacks": where a page was freed and allocated, on whose behalf; a full depot; small alternate stacks. */
#include "harness.h"

#include <sys/mman.h>

static bufpool_pool *open_stacks(const char *on_fault, const char *log, uint32_t depth)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 1024 * GRANULE;
    config.on_fault = on_fault;
    config.log = log;
    config.provenance = "stacks";
    config.provenance_depth = depth;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

/* ---- Frames ---- */

/* Where the calls of these functions return to is not known beforehand; in which function, it is. */
#define APART __attribute__((noinline, noipa))
#if defined(__clang__)
#undef APART
#define APART __attribute__((noinline))
#endif

static volatile int after; /* no call below is a tail call */

APART static void allocate_here(bufpool_pool *pool, uint64_t page)
{
    CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    after++;
}

APART static void free_there(bufpool_pool *pool, uint64_t page)
{
    CHECK_OK(bufpool_free(pool, page));
    after++;
}

APART static void free_deep(bufpool_pool *pool, uint64_t page, int depth)
{
    if (depth > 0) {
        free_deep(pool, page, depth - 1);
    } else {
        free_there(pool, page);
    }
    after++;
}

/* Does an address lie in a function? Of functions of this size, within its first bytes. */
static bool is_in(uint64_t address, const void *function)
{
    return address - (uint64_t)(uintptr_t)function < (SANITIZED ? 4096 : 1024);
}

static void frames(void)
{
    bufpool_pool *pool = open_stacks("resume", NULL, 0);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    allocate_here(pool, 5);
    free_deep(pool, 5, 20);
    CHECK(traps_at(bufpool_address(pool, 5), &fault));
    CHECK_IS(fault.allocated.stack_depth, >=, 2);
    CHECK(is_in(fault.allocated.stack[0], (const void *)allocate_here)); /* not one of the library's own */
    CHECK(is_in(fault.allocated.stack[1], (const void *)frames));
    CHECK_IS(fault.freed.stack_depth, ==, 8); /* the default */
    CHECK(is_in(fault.freed.stack[0], (const void *)free_there));
    for (int i = 1; i < 8; i++) {
        CHECK(is_in(fault.freed.stack[i], (const void *)free_deep));
    }
    char text[16384];
    bufpool_format_text(&fault, text, sizeof text);
    const char *freed = strstr(text, "  freed by thread");
    CHECK(freed != NULL);
    CHECK_HAS(freed, "    #7 0x");
    CHECK_HAS(freed, "test_provenance_stacks+0x");
    CHECK_HAS(freed, "  allocated by thread");
    bufpool_format_json(&fault, text, sizeof text);
    CHECK_IS(count_in(text, "\"native_stack\":["), ==, 3);
    CHECK_OK(bufpool_close(pool));

    for (uint32_t depth = 1; depth <= 16; depth += 5) {
        pool = open_stacks("resume", NULL, depth);
        allocate_here(pool, 5);
        free_deep(pool, 5, 20);
        bufpool_origin origin;
        CHECK_OK(bufpool_page_history(pool, 5, NULL, &origin));
        CHECK_IS(origin.stack_depth, ==, depth);
        CHECK(is_in(origin.stack[0], (const void *)free_there));
        CHECK_OK(bufpool_close(pool));
    }
}

/* Each function of the library is called here; the caller is always this one. */
APART static void call_everything(bufpool_pool *pool)
{
    bufpool_origin given, taken;
    uint64_t page, pages[2] = {40, 41};
    char data[2 * GRANULE] = "x";
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
#define CALLED_HERE(call, number, origin) \
    do { \
        CHECK_OK(call); \
        CHECK_OK(bufpool_page_history(pool, number, &given, &taken)); \
        CHECK_IS((origin).stack_depth, >=, 1); \
        CHECK_IS((origin).stack[0] - (uint64_t)(uintptr_t)call_everything, <, SANITIZED ? 65536 : 8192); \
    } while (0)
    CALLED_HERE(0, page, given);
    CALLED_HERE(bufpool_evict(pool, page), page, taken);
    CALLED_HERE(bufpool_populate(pool, page, "x", 1), page, given);
    CALLED_HERE(bufpool_free(pool, page), page, taken);
    CALLED_HERE(bufpool_allocate_at(pool, 40, NULL, 0), 40, given);
    CALLED_HERE(bufpool_allocate_at(pool, 41, NULL, 0), 41, given);
    CALLED_HERE(bufpool_evict_many(pool, 2, pages), 41, taken);
    CALLED_HERE(bufpool_populate_many(pool, 2, pages, data), 41, given);
    CALLED_HERE(bufpool_free_many(pool, 2, pages), 41, taken);
    CALLED_HERE(bufpool_allocate_many(pool, 2, pages), pages[1], given);
    CALLED_HERE(bufpool_allocate_filled(pool, 2, data, pages), pages[1], given);
    CALLED_HERE(bufpool_close(pool), pages[1], taken);
}

/* ---- Callers ---- */

static void callers(void)
{
    bufpool_pool *pool = open_stacks("resume", NULL, 0);
    bufpool_origin origin;
    CHECK_OK(bufpool_set_caller("outer.sql:1 in main\ninner.sql:7 in \"f\\\x1b\""));
    CHECK_OK(bufpool_allocate_at(pool, 1, NULL, 0));
    CHECK_OK(bufpool_set_caller(NULL));
    CHECK_OK(bufpool_allocate_at(pool, 2, NULL, 0));
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_OK(bufpool_page_history(pool, 2, &origin, NULL));
    CHECK_STRING(origin.caller, "");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(pool, 1), &fault));
    CHECK_STRING(fault.allocated.caller, "outer.sql:1 in main\ninner.sql:7 in \"f\\\x1b\"");
    CHECK_STRING(fault.freed.caller, "");
    char text[16384];
    bufpool_format_text(&fault, text, sizeof text);
    CHECK_HAS(text,
              "    on behalf of, innermost last:\n      outer.sql:1 in main\n      inner.sql:7 in \"f\\\\u001b\"\n");
    bufpool_format_json(&fault, text, sizeof text);
    CHECK_HAS(text, "\"caller\":[\"outer.sql:1 in main\",\"inner.sql:7 in \\\"f\\\\\\u001b\\\"\"]}");

    /* What is too long loses its first lines; a single line its beginning. */
    char longer[2000] = "";
    for (int i = 0; i < 100; i++) {
        sprintf(longer + strlen(longer), "line %d\n", i);
    }
    longer[strlen(longer) - 1] = 0;
    CHECK_OK(bufpool_set_caller(longer));
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_OK(bufpool_page_history(pool, 2, NULL, &origin));
    CHECK_IS(strlen(origin.caller), >, 500);
    CHECK_IS(strlen(origin.caller), <, 512);
    CHECK(strncmp(origin.caller, "line ", 5) == 0);
    CHECK_STRING(origin.caller, longer + strlen(longer) - strlen(origin.caller));
    memset(longer, 'x', 600);
    strcpy(longer + 600, "end");
    CHECK_OK(bufpool_set_caller(longer));
    CHECK_OK(bufpool_allocate_at(pool, 3, NULL, 0));
    CHECK_OK(bufpool_page_history(pool, 3, &origin, NULL));
    CHECK_IS(strlen(origin.caller), ==, 511);
    CHECK_STRING(origin.caller + 508, "end");
    CHECK_OK(bufpool_set_caller(""));
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_OK(bufpool_page_history(pool, 3, NULL, &origin));
    CHECK_STRING(origin.caller, "");
    CHECK_IS(stats_of(pool).provenance_lost, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* ---- The depot is full: everything goes on, without stacks, and that is counted ---- */

static void fill_the_depot(void *unused)
{
    (void)unused;
    bufpool_pool *pool = open_stacks("resume", NULL, 0);
    allocate_here(pool, 1);
    char text[600];
    int kept = 0;
    int code = 0;
    for (; kept < 1000000; kept++) {
        memset(text, 'x', 500);
        sprintf(text + 490, "%d", kept);
        code = bufpool_set_caller(text);
        if (code != 0) {
            break;
        }
    }
    CHECK_IS(code, ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), "the 32 MiB for stacks and callers are full");
    CHECK_IS(kept, >, 50000);
    CHECK_IS(stats_of(pool).provenance_lost, ==, 0);
    free_there(pool, 1); /* its caller has no room */
    CHECK_IS(stats_of(pool).provenance_lost, ==, 1);
    CHECK_OK(bufpool_set_caller(NULL));
    for (uint64_t page = 2; page < 100; page++) { /* nor have new stacks, in the end */
        allocate_here(pool, page);
        free_deep(pool, page, (int)page % 10);
    }
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(bufpool_address(pool, 1), &fault));
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_FREE);
    CHECK_IS(fault.freed.thread_id, ==, fault.thread_id);
    CHECK(is_in(fault.allocated.stack[0], (const void *)allocate_here)); /* what was kept before is there */
    memset(text, 'x', 500);
    sprintf(text + 490, "%d", kept / 2);
    CHECK_OK(bufpool_set_caller(text)); /* and is found again */
    CHECK_OK(bufpool_close(pool));
}

/* ---- A small alternate stack ---- */

#define ALT_SIZE 8192 /* what SIGSTKSZ was for decades */

static void stray_on_a_small_stack(void *log)
{
    bufpool_pool *pool = open_stacks("resume", log, 16);
    CHECK_OK(bufpool_set_caller("one line"));
    allocate_here(pool, 5);
    free_deep(pool, 5, 20);
    char *place = mmap(NULL, ALT_SIZE + 2 * GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    CHECK_OK(mprotect(place + GRANULE, ALT_SIZE, PROT_READ | PROT_WRITE)); /* a fault on either side would kill */
    stack_t stack = {.ss_sp = place + GRANULE, .ss_size = ALT_SIZE};
    if (sigaltstack(&stack, NULL) != 0) {
        fprintf(stderr, "this machine's signal frames alone need more\n");
        return;
    }
    char *address = bufpool_address(pool, 5);
    CHECK_IS((unsigned char)read_byte(address), ==, BUFPOOL_POISON);
    bufpool_check(NULL);
    CHECK(traps_at(address, NULL));
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
}

static void small_stack(void)
{
    struct child child = run_child(stray_on_a_small_stack, "/dev/null");
    CHECK_PASSED(child);
    if (strstr(child.text, "need more") == NULL) {
        CHECK_HAS(child.text, "  freed by thread");
        CHECK_HAS(child.text, "      one line\n");
    }
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("anon", "auto", NULL, 0) != 0) {
        printf("no trap for anon can be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    frames();
    call_everything(open_stacks("resume", NULL, 0));
    callers();
    struct child child = run_child(fill_the_depot, NULL);
    CHECK_PASSED(child);
#if !SANITIZED /* their frames are many times larger */
    small_stack();
#else
    (void)small_stack;
#endif
    return 0;
}
