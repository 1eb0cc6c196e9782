/* The rate limit: the first reports of one place in full, the others counted, each in a line whenever they have doubled and at
 * the end; what is kept for the program is not limited. */
#include "json.h"
#include "limit.h"

#define LIMIT 4
#define STRAYS 100

static char path[] = "/tmp/bufpool-limit-XXXXXX";
static bufpool_pool *pool;

static void open_limited(const char *on_fault, uint32_t limit, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 1024 * GRANULE;
    config.name = "loop";
    config.on_fault = on_fault;
    config.report_limit = limit;
    config.flags = flags;
    config.log = path;
    CHECK_OK(truncate(path, 0));
    CHECK_OK(bufpool_open(&config, &pool));
}

/* One place. */
static void loop(void)
{
    for (uint64_t page = 0; page < STRAYS; page++) {
        read_byte(bufpool_address(pool, page));
    }
}

static int count_in_log(const char *part)
{
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    static char line[65536];
    int count = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        line[strlen(line) - 1] = 0;
        check_json(line);
        count += strstr(line, part) != NULL;
    }
    fclose(file);
    return count;
}

static void resumed(void *argument)
{
    (void)argument;
    open_limited("resume", LIMIT, 0);
    loop();
    read_byte(bufpool_address(pool, 700)); /* the same pc, called from another place */
    CHECK_IS(stats_of(pool).faults, ==, STRAYS + 1);
    CHECK_IS(stats_of(pool).reports_limited, ==, STRAYS - LIMIT);
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
    static bufpool_fault faults[STRAYS + 1];
    size_t found;
    CHECK_OK(bufpool_faults(pool, 0, STRAYS + 1, faults, &found));
    CHECK_IS(found, ==, STRAYS + 1);
    for (size_t i = 0; i < found; i++) {
        CHECK_IS(faults[i].page, ==, i < STRAYS ? i : 700);
        CHECK_IS(faults[i].flags, ==, i < LIMIT || i == STRAYS ? 0 : BUFPOOL_FAULT_LIMITED);
    }
    CHECK_IS(bufpool_flush(pool), ==, 0);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(count_in_log("\"sequence\":"), ==, LIMIT + 1);
    CHECK_IS(count_in_log("{\"suppressed\":"), ==, 8);
    CHECK_IS(count_in_log("{\"suppressed\":1,"), ==, 1);
    CHECK_IS(count_in_log("{\"suppressed\":96,"), ==, 1);
    CHECK_IS(count_in_log("\"first_sequence\":1,\"limit\":4}"), ==, 8);
    CHECK_IS(count_in_log("test_report_limit+0x"), >=, 8);
}

static void unlimited(void *argument)
{
    (void)argument;
    open_limited("resume", UINT32_MAX, 0);
    loop();
    CHECK_IS(stats_of(pool).reports_limited, ==, 0);
}

static void by_default(void *argument)
{
    (void)argument;
    open_limited("resume", 0, 0);
    loop();
    CHECK_IS(stats_of(pool).reports_limited, ==, STRAYS - 16);
}

/* The process ends with a report in full, though its place is over the limit. */
static void aborted(void *argument)
{
    (void)argument;
    open_limited("abort", 1, 0);
    for (uint64_t page = 0; page < 8; page++) {
        CHECK(traps_at(bufpool_address(pool, page), NULL));
    }
    CHECK_IS(count_in_log("\"sequence\":"), ==, 1);
    bufpool_guarded_copy(bufpool_address(pool, 9), "x", 0, NULL);
    char byte;
    memcpy(&byte, bufpool_address(pool, 33), 1);
    _exit(byte);
}

/* Faults that are owed are owed without a limit. */
static void owed(void *argument)
{
    bool flush = argument != NULL;
    open_limited("raise", LIMIT, 0);
    loop();
    CHECK_IS(bufpool_told(NULL), ==, 0);
    if (flush) {
        CHECK_IS(bufpool_flush(NULL), ==, STRAYS);
    }
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    int handed = 0;
    while (bufpool_check(&fault) == BUFPOOL_ESTRAY) {
        CHECK_IS(fault.page, ==, handed);
        handed++;
    }
    CHECK_IS(handed, ==, flush ? 0 : STRAYS);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(count_in_log("\"sequence\":"), ==, LIMIT);
    CHECK_IS(count_in_log("{\"suppressed\":96,"), >=, 1);
}

static void *stray_once(void *argument)
{
    read_byte(bufpool_address(pool, *(uint64_t *)argument));
    return NULL;
}

/* What was answered in place is told of afterwards, to the thread or, once it has ended, to whoever asks. */
static void told(void *argument)
{
    (void)argument;
    open_limited("resume", LIMIT, BUFPOOL_TELL);
    loop();
    uint64_t page = 900;
    run_threads(1, stray_once, &page, 0);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_check(&fault));
    CHECK_OK(bufpool_check_ended(pool, &fault));
    for (uint64_t i = 0; i < STRAYS; i++) {
        CHECK_IS(bufpool_told(&fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.page, ==, i);
        CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_TOLD | (i < LIMIT ? 0 : BUFPOOL_FAULT_LIMITED));
    }
    CHECK_OK(bufpool_told(&fault));
    CHECK_IS(bufpool_told_ended(pool, &fault), ==, BUFPOOL_ESTRAY);
    CHECK_IS(fault.page, ==, 900);
    CHECK_OK(bufpool_told_ended(pool, &fault));
    loop();
    CHECK_IS(bufpool_flush(pool), ==, 0); /* written already */
}

/* ---- The table ---- */

static bool pass(struct bp_limits *limits, uint64_t pc, struct bp_more *more)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    fault.pc = pc;
    fault.pid = 1;
    fault.sequence = 1;
    return bp_limits_pass(limits, LIMIT, &fault, true, more);
}

static void table(void)
{
    static struct bp_limits limits;
    struct bp_more more;
    int passed = 0;
    for (int round = 0; round < 3 * LIMIT; round++) {
        for (uint64_t pc = 1; pc <= 100; pc++) {
            passed += pass(&limits, 0x400000 + 5 * pc, &more);
        }
    }
    CHECK_IS(passed, ==, 100 * LIMIT);
    /* More places than it has room for: those are limited together, and the memory is bounded. */
    for (uint64_t pc = 1; pc <= 100000; pc++) {
        passed += pass(&limits, 0x800000 + 3 * pc, &more);
    }
    CHECK_IS(passed, <=, 100 * LIMIT + BP_LIMIT_ENTRIES + LIMIT);
    uint64_t others = 0;
    for (size_t n = 0; bp_limits_entry(&limits, n, LIMIT, true, &more); n++) {
        others = more.pc == 0 ? more.count : others;
    }
    CHECK_IS(others, >, 99000);
    for (size_t n = 0; bp_limits_entry(&limits, n, LIMIT, false, &more); n++) {
        CHECK_IS(more.count, ==, 0);
    }
}

/* The same instruction, in what an interpreter calls two places; and a page that two have freed. */
static void places(void)
{
    static struct bp_limits limits;
    struct bp_more more;
    for (uint64_t place = 0; place < 3; place++) {
        bufpool_set_place(place);
        for (int i = 0; i < 2 * LIMIT; i++) {
            CHECK_IS(pass(&limits, 0x400000, &more), ==, i < LIMIT);
        }
    }
    bufpool_set_place(0);
    CHECK(!pass(&limits, 0x400000, &more));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    fault.pc = 0x400000;
    fault.pid = 1;
    for (int freer = 1; freer < 4; freer++) {
        fault.freed.stack_depth = 1;
        fault.freed.stack[0] = 0x500000 + (uint64_t)(freer % 2);
        snprintf(fault.freed.caller, sizeof fault.freed.caller, "engine.py:%d in f", freer / 2);
        for (int i = 0; i < 2 * LIMIT; i++) {
            fault.sequence++;
            CHECK_IS(bp_limits_pass(&limits, LIMIT, &fault, true, &more), ==, i < LIMIT);
        }
    }
}

static struct bp_limits shared;
static atomic_int passed;

static void *pass_often(void *argument)
{
    struct bp_more more;
    for (uint64_t i = 0; i < 20000; i++) {
        atomic_fetch_add(&passed, pass(&shared, 1 + i % 64, &more));
    }
    return argument;
}

static int reports_in(struct child child)
{
    return count_in(child.text, "==ERROR: bufpool: stray");
}

int main(void)
{
    harness_begin();
    int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);

    struct child child = run_child(resumed, NULL);
    CHECK_PASSED(child);
    CHECK_IS(reports_in(child), ==, LIMIT + 1);
    CHECK_IS(count_in(child.text, " more stray access"), ==, 8); /* 1, 2, 4, ... 64, and 96 at the end */
    CHECK_HAS(child.text, "== bufpool: 1 more stray access to pool \"loop\" from pc ");
    CHECK_HAS(child.text, "== bufpool: 96 more stray accesses to pool \"loop\" from pc ");
    CHECK_HAS(child.text, " (first report: 1), only counted: report_limit is 4\n");

    child = run_child(unlimited, NULL);
    CHECK_PASSED(child);
    CHECK_IS(reports_in(child), ==, STRAYS);
    child = run_child(by_default, NULL);
    CHECK_PASSED(child);
    CHECK_IS(reports_in(child), ==, 16);

    child = run_child(aborted, NULL);
    CHECK_CHILD(WIFSIGNALED(child.status), child);
    CHECK_IS(reports_in(child), ==, 1);

    child = run_child(owed, NULL);
    CHECK_PASSED(child);
    CHECK_STRING(child.text, "");
    child = run_child(owed, path);
    CHECK_PASSED(child);
    CHECK_IS(reports_in(child), ==, LIMIT);
    CHECK_IS(count_in(child.text, "96 more stray accesses"), ==, 1);

    child = run_child(told, NULL);
    CHECK_PASSED(child);

    table();
    places();
    int none[8] = {0};
    run_threads(8, pass_often, none, sizeof *none);
    CHECK_IS(atomic_load(&passed), ==, 64 * LIMIT);
    unlink(path);
    return 0;
}
