/* test_pins_policies.c: what a stray access to an unpinned or read-only page comes to under each policy; its report. */
#include "pins.h"

#include <bufpool/optimistic.h>
#include <signal.h>
#include <stdatomic.h>

#define CONTENT 7

struct cell {
    const char *memory;
    const char *trap;
    const char *pins;
    const char *on_fault;
    bool writes;
};

static bufpool_pool *open_cell(const struct cell *cell, const char *provenance)
{
    bufpool_config config = pins_config(cell->memory, cell->trap, cell->pins);
    config.on_fault = cell->on_fault;
    config.provenance = provenance;
    config.name = "the-pool";
    return open_config(&config);
}

static char *fill_page(bufpool_pool *pool, uint64_t number)
{
    char data[64];
    memset(data, CONTENT, sizeof data);
    CHECK_OK(bufpool_allocate_at(pool, number, data, sizeof data));
    return bufpool_address(pool, number);
}

static void unpinned_then_touched(void *argument)
{
    struct cell *cell = argument;
    bufpool_pool *pool = open_cell(cell, "last");
    char *at = fill_page(pool, 2);
    pthread_setname_np(pthread_self(), "the-unpinner");
    CHECK_OK(bufpool_pin(pool, 2, true));
    at[3] = 4;
    CHECK_OK(bufpool_unpin(pool, 2));
    if (cell->writes) {
        write_byte(at + 9, 1);
    } else {
        read_byte(at + 9);
    }
    _exit(3);
}

static void test_abort(struct cell cell)
{
    cell.on_fault = "abort";
    struct child child = run_child(unpinned_then_touched, &cell);
    CHECK_DIED(child, signal_of(cell.trap));
    bool hidden = strcmp(cell.pins, "all") == 0;
    CHECK_CHILD(strstr(child.text, hidden ? "an unpinned page" : "a read-only page") != NULL, child);
    CHECK_CHILD(strstr(child.text, "page 2 of pool \"the-pool\" is ") != NULL, child);
    CHECK_CHILD(strstr(child.text, "  unpinned by thread ") != NULL, child);
    CHECK_CHILD(strstr(child.text, "\"the-unpinner\"") != NULL, child);
    CHECK_CHILD(strstr(child.text, "  allocated by thread ") != NULL, child);
    CHECK_CHILD(strstr(child.text, "let through") == NULL, child);
}

/* The data of an unpinned page is not touched, and not seen; it is closed again with the next call. */
static void test_answered_hidden(struct cell cell)
{
    bufpool_pool *pool = open_cell(&cell, "last");
    char *at = fill_page(pool, 1);
    bool raise = strcmp(cell.on_fault, "raise") == 0;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    for (int round = 0; round < 3; round++) {
        CHECK_IS((unsigned char)read_byte(at + 5), ==, BUFPOOL_POISON);
        write_byte(at + 5, 99); /* the same granule, not seen */
        CHECK_IS(bufpool_check(&fault), ==, raise ? BUFPOOL_ESTRAY : 0);
        CHECK_IS(stats_of(pool).faults, ==, 2 * round + 1);
        write_byte(at + 6, 98);
        CHECK_IS(bufpool_check(&fault), ==, raise ? BUFPOOL_ESTRAY : 0);
        CHECK_IS(stats_of(pool).faults, ==, 2 * round + 2);
        CHECK_IS(stats_of(pool).scratched, ==, 0);
        CHECK_OK(bufpool_pin(pool, 1, round % 2));
        CHECK_IS(read_byte(at + 5), ==, CONTENT);
        CHECK_IS(read_byte(at + 6), ==, CONTENT);
        CHECK_OK(bufpool_unpin(pool, 1));
    }
    write_byte(at + 6, 98);
    CHECK_OK(bufpool_pin(pool, 1, false)); /* while it shows the pattern */
    CHECK_IS(read_byte(at + 6), ==, CONTENT);
    CHECK_OK(bufpool_unpin(pool, 1));
    write_byte(at + 6, 98);
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_IS(state_of(pool, 1), ==, BUFPOOL_STATE_FREED);
    CHECK(!reads_at(at, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_FREED);
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_FREE);
    at = fill_page(pool, 1);
    read_byte(at);
    CHECK_OK(bufpool_close(pool));
    CHECK(!reads_at(at, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
    while (bufpool_check(&fault) == BUFPOOL_ESTRAY) {
    }
}

/* A write to a page that may be read goes through, and the report says so. */
static void test_answered_read_only(struct cell cell)
{
    bufpool_pool *pool = open_cell(&cell, "last");
    char *at = fill_page(pool, 1);
    bool raise = strcmp(cell.on_fault, "raise") == 0;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_pin(pool, 1, false));
    write_byte(at + 5, 99);
    CHECK_IS(read_byte(at + 5), ==, 99);
    CHECK_IS(read_byte(at + 4), ==, CONTENT);
    CHECK_IS(bufpool_check(&fault), ==, raise ? BUFPOOL_ESTRAY : 0);
    size_t found;
    CHECK_OK(bufpool_faults(pool, 0, 1, &fault, &found));
    CHECK_IS(found, ==, 1);
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_READ_ONLY);
    CHECK_IS(fault.flags & BUFPOOL_FAULT_WENT_THROUGH, !=, 0);
    char text[8192];
    bufpool_format_text(&fault, text, sizeof text);
    CHECK_HAS(text, "stray write of a read-only page");
    CHECK_HAS(text, "note: the write is let through");
    bufpool_format_json(&fault, text, sizeof text);
    CHECK_HAS(text, "\"state\":\"read-only\"");
    CHECK_HAS(text, "\"went_through\":true");
    CHECK_IS(stats_of(pool).scratched, ==, 0); /* closed again */
    CHECK(!writes_at(at + 5, 98, &fault));
    CHECK_IS(fault.flags & BUFPOOL_FAULT_WENT_THROUGH, ==, 0);
    CHECK_IS(read_byte(at + 5), ==, 99);
    write_byte(at + 6, 97);
    CHECK_OK(bufpool_unpin(pool, 1)); /* while it is let through */
    bool all = strcmp(cell.pins, "all") == 0;
    CHECK_OPEN(pool, 1, !all, false, CONTENT);
    while (bufpool_check(&fault) == BUFPOOL_ESTRAY) {
    }
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_OK(bufpool_close(pool));
}

static bufpool_verdict pin_it(const bufpool_fault *fault, void *context)
{
    atomic_int *asked = context;
    (void)fault;
    atomic_fetch_add(asked, 1);
    return BUFPOOL_VERDICT_RESUME;
}

static void test_callback(struct cell cell)
{
    bufpool_pool *pool = open_cell(&cell, "off");
    char *at = fill_page(pool, 0);
    atomic_int asked = 0;
    CHECK_OK(bufpool_set_fault_callback(pool, pin_it, &asked));
    CHECK_IS((unsigned char)read_byte(at), ==, strcmp(cell.pins, "all") == 0 ? BUFPOOL_POISON : CONTENT);
    CHECK_IS(atomic_load(&asked), ==, strcmp(cell.pins, "all") == 0);
    write_byte(at, 1);
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_IS(read_byte(at), ==, strcmp(cell.pins, "all") == 0 ? CONTENT : 1);
    CHECK_OK(bufpool_close(pool));
}

/* To start again would find it closed again, for ever. */
static void test_optimistic(struct cell cell)
{
    bufpool_pool *pool = open_cell(&cell, "off");
    char *at = fill_page(pool, 0);
    bufpool_section section;
    CHECK(bufpool_optimistic_enter(&section));
    CHECK_IS((unsigned char)read_byte(at), ==, BUFPOOL_POISON);
    bufpool_optimistic_leave(&section);
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_IS(stats_of(pool).restarts, ==, 0);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    while (bufpool_check(&fault) == BUFPOOL_ESTRAY) {
    }
    CHECK_OK(bufpool_close(pool));
}

static void *read_there(void *at)
{
    read_byte(at);
    return NULL;
}

static void freeze_there(void *argument)
{
    bufpool_pool *pool = open_cell(argument, "off");
    char *at = fill_page(pool, 0);
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, read_there, at));
    WAIT_FOR(bufpool_thaw(pool, "resume") == 1);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(bufpool_pin(pool, 0, false));
    CHECK_IS(read_byte(at), ==, CONTENT);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    if (!can_close(memory, trap)) {
        return;
    }
    struct cell cell = {memory, trap, "all", "abort", false};
    test_abort(cell);
    cell.writes = true;
    test_abort(cell);
    cell.pins = "write";
    test_abort(cell);
    static const char *const policies[] = {"resume", "raise"};
    for (int i = 0; i < 2; i++) {
        cell.on_fault = policies[i];
        cell.pins = "all";
        test_answered_hidden(cell);
        test_answered_read_only(cell);
        cell.pins = "write";
        test_answered_read_only(cell);
        test_callback(cell);
        cell.pins = "all";
        test_callback(cell);
        test_optimistic(cell);
    }
    cell.on_fault = "freeze";
    struct child child = run_child(freeze_there, &cell);
    CHECK_PASSED(child);
    CHECK_CHILD(strstr(child.text, "an unpinned page") != NULL, child);
}

int main(void)
{
    harness_begin();
    for_each_trap("thp", test_cell, false);
    return for_each_cell(test_cell, false);
}
