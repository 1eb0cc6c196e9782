/* test_pins_reports.c: the report of a stray write to a page that is pinned for reading says how often, and who pinned it. */
#include "pins.h"

#include <sys/auxv.h>
#include <sys/mman.h>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

#define ALT_SIZE 8192 /* what SIGSTKSZ was for decades */

struct cell {
    const char *memory;
    const char *trap;
    const char *pins;
};

static bufpool_pool *open_cell(const struct cell *cell, const char *on_fault)
{
    bufpool_config config = pins_config(cell->memory, cell->trap, cell->pins);
    config.on_fault = on_fault;
    config.provenance = "stacks";
    return open_config(&config);
}

static void *pin_twice(void *pool)
{
    pthread_setname_np(pthread_self(), "the-reader");
    CHECK_OK(bufpool_set_caller("engine.py:7 in scan"));
    CHECK_OK(bufpool_pin(pool, 2, false));
    CHECK_OK(bufpool_pin(pool, 2, false));
    return NULL;
}

static void test_fields(const struct cell *cell)
{
    bufpool_pool *pool = open_cell(cell, "abort");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_allocate_at(pool, 2, "data", 4));
    char *at = bufpool_address(pool, 2);
    CHECK(!writes_at(at, 1, &fault));
    CHECK_IS(fault.read_pins + fault.write_pins, ==, 0);
    CHECK_IS(fault.pinned.sequence, ==, 0);
    CHECK_OK(bufpool_pin(pool, 2, true));
    CHECK_OK(bufpool_unpin(pool, 2));
    CHECK(!writes_at(at, 1, &fault));
    CHECK_IS(fault.pinned.sequence, ==, 0); /* nobody has it pinned any more */
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_UNPIN);
    run_threads(1, pin_twice, pool, 0);
    CHECK(!writes_at(at, 1, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_READ_ONLY);
    CHECK_IS(fault.read_pins, ==, 2);
    CHECK_IS(fault.write_pins, ==, 0);
    CHECK_IS(fault.pinned.event, ==, BUFPOOL_EVENT_PIN);
    CHECK_IS(fault.pinned.thread_id, !=, gettid());
    CHECK_STRING(fault.pinned.thread_name, "the-reader");
    CHECK_STRING(fault.pinned.caller, "engine.py:7 in scan");
    CHECK_IS(fault.pinned.stack_depth, >, 0);
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_UNPIN);

    char text[16384];
    char line[200];
    bufpool_format_text(&fault, text, sizeof text);
    snprintf(line, sizeof line, "\n  pins: 2 for reading\n  pinned by thread %d \"the-reader\", ",
             fault.pinned.thread_id);
    CHECK_HAS(text, line);
    CHECK_HAS(text, "      engine.py:7 in scan\n  unpinned by thread ");
    bufpool_format_json(&fault, text, sizeof text);
    CHECK_HAS(text, "\"read_pins\":2,\"write_pins\":0,");
    CHECK_HAS(text, "\"pinned\":{\"event\":\"pin\",");
    CHECK_HAS(text, "\"caller\":[\"engine.py:7 in scan\"]},\"native_stack\":");
    fault.write_pins = 1;
    bufpool_format_text(&fault, text, sizeof text);
    CHECK_HAS(text, "\n  pins: 2 for reading, 1 for writing\n");

    CHECK_OK(bufpool_unpin(pool, 2));
    CHECK_OK(bufpool_unpin(pool, 2));
    CHECK_OK(bufpool_free(pool, 2));
    CHECK(!writes_at(at, 1, &fault));
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_FREE);
    CHECK_IS(fault.pinned.sequence, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* All of it takes more room than other reports. */
static void on_a_small_stack(void *argument)
{
    bufpool_pool *pool = open_cell(argument, "resume");
    CHECK_OK(bufpool_allocate_at(pool, 2, "data", 4));
    pin_twice(pool);
    char *place = mmap(NULL, ALT_SIZE + 2 * GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    CHECK_OK(mprotect(place + GRANULE, ALT_SIZE, PROT_READ | PROT_WRITE)); /* a fault on either side would kill */
    stack_t stack = {.ss_sp = place + GRANULE, .ss_size = ALT_SIZE};
    if (SANITIZED || ALT_SIZE < getauxval(AT_MINSIGSTKSZ) + 4700 || sigaltstack(&stack, NULL) != 0) {
        fprintf(stderr, "this machine's signal frames alone need more\n");
        return;
    }
    write_byte((char *)bufpool_address(pool, 2) + 1, 'A');
    CHECK_IS(stats_of(pool).faults, ==, 1);
}

static void test_small_stack(struct cell *cell)
{
    struct child child = run_child(on_a_small_stack, cell);
    CHECK_PASSED(child);
    if (strstr(child.text, "need more") == NULL) {
        CHECK_HAS(child.text, "  pins: 2 for reading\n  pinned by thread ");
        CHECK_HAS(child.text, "      engine.py:7 in scan\n");
    }
}

static void cell(const char *memory, const char *trap)
{
    if (!can_close(memory, trap)) {
        return;
    }
    struct cell all = {memory, trap, "all"};
    struct cell write = {memory, trap, "write"};
    test_fields(&all);
    test_fields(&write);
    test_small_stack(&all);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
