/* test_pins_keys.c: with BUFPOOL_PIN_KEYS only threads with a write pin can write; whose rights the kernel changes (handlers,
 * threads that are older than the pool, jumps out of handlers) has them all the same; and what the header says is not
 * caught is not. */
#include "pins.h"

#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define CONTENT 7
#define MOST_KEYS 15

struct cell {
    const char *memory;
    const char *trap;
    const char *pins;
};

static bufpool_pool *open_keyed(const struct cell *cell, const char *on_fault)
{
    bufpool_config config = pins_config(cell->memory, cell->trap, cell->pins);
    config.flags = BUFPOOL_PIN_KEYS | BUFPOOL_SCRUB;
    config.on_fault = on_fault;
    config.provenance = "last";
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

/* The kernel has given out the id of a thread that has ended once more; linked with --wrap. */
static _Atomic int32_t same_id; /* 0: it does not */

int32_t __real_bp_kernel_thread(void);
int32_t __wrap_bp_kernel_thread(void);
int32_t __wrap_bp_kernel_thread(void)
{
    int32_t id = atomic_load(&same_id);
    return id != 0 ? id : __real_bp_kernel_thread();
}

/* ---- A thread that does what it is told ---- */

struct helper {
    pthread_t thread;
    void (*_Atomic task)(void *);
    void *argument;
};

static void leave(void *argument)
{
    (void)argument;
}

static void *obey(void *argument)
{
    struct helper *self = argument;
    for (;;) {
        void (*task)(void *) = atomic_load(&self->task);
        if (task == NULL) {
            sleep_ms(1);
            continue;
        }
        task(self->argument);
        atomic_store(&self->task, NULL);
        if (task == leave) {
            return NULL;
        }
    }
}

static void start(struct helper *helper)
{
    atomic_store(&helper->task, NULL);
    CHECK_OK(pthread_create(&helper->thread, NULL, obey, helper));
}

static void let(struct helper *helper, void (*task)(void *), void *argument)
{
    helper->argument = argument;
    atomic_store(&helper->task, task);
    WAIT_FOR(atomic_load(&helper->task) == NULL);
}

static void stop(struct helper *helper)
{
    let(helper, leave, NULL);
    CHECK_OK(pthread_join(helper->thread, NULL));
}

struct attempt {
    bufpool_pool *pool;
    char *at;
    bufpool_fault fault;
    bool done;
    int code;
    int explained;
};

/* As the kernel has a thread begin whose creators knew no key. */
static void forget_keys(void *argument)
{
    (void)argument;
    for (int key = 1; key <= MOST_KEYS; key++) {
        CHECK_OK(pkey_set(key, PKEY_DISABLE_ACCESS));
    }
}

static void look_there(void *argument)
{
    struct attempt *attempt = argument;
    CHECK_STRING(bufpool_pattern(attempt->at, 1), "poison"); /* by a read that may fail */
    forget_keys(NULL);
    attempt->done = reads_at(attempt->at, NULL);
}

static void write_there(void *argument)
{
    struct attempt *attempt = argument;
    attempt->fault = (bufpool_fault)BUFPOOL_FAULT_INIT;
    attempt->done = writes_at(attempt->at, 55, &attempt->fault);
}

static void read_there(void *argument)
{
    struct attempt *attempt = argument;
    attempt->done = read_byte(attempt->at) == CONTENT;
}

static void send_there(void *argument)
{
    struct attempt *attempt = argument;
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    attempt->done = write(ends[1], attempt->at, 1) == 1;
    attempt->code = errno;
    close(ends[0]);
    close(ends[1]);
}

static void receive_there(void *argument)
{
    struct attempt *attempt = argument;
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    CHECK_IS(write(ends[1], "x", 1), ==, 1);
    attempt->done = read(ends[0], attempt->at, 1) == 1;
    attempt->code = errno;
    attempt->fault = (bufpool_fault)BUFPOOL_FAULT_INIT;
    attempt->explained = bufpool_explain_for(attempt->at, 1, true, &attempt->fault);
    close(ends[0]);
    close(ends[1]);
}

static void unpin_there(void *argument)
{
    struct attempt *attempt = argument;
    attempt->code = bufpool_unpin_for(attempt->pool, 0, true);
    attempt->done = strstr(last_error(), "is another thread's") != NULL;
}

static void pin_other_there(void *argument)
{
    struct attempt *attempt = argument;
    CHECK_OK(bufpool_pin(attempt->pool, 1, true));
}

static void unpin_other_there(void *argument)
{
    struct attempt *attempt = argument;
    CHECK_OK(bufpool_unpin_for(attempt->pool, 1, true));
}

static void unpin_other_there_in_vain(void *argument)
{
    struct attempt *attempt = argument;
    attempt->code = bufpool_unpin_for(attempt->pool, 1, true);
    attempt->done = strstr(last_error(), "is another thread's") != NULL;
}

static void check_refused(struct attempt *attempt, bool others)
{
    CHECK(!attempt->done);
    CHECK_IS(attempt->fault.state, ==, BUFPOOL_STATE_READ_ONLY);
    CHECK_IS(attempt->fault.access, ==, BUFPOOL_WRITE);
    CHECK_IS(attempt->fault.page, ==, 0);
    CHECK_IS((attempt->fault.flags & BUFPOOL_FAULT_OTHERS_PIN) != 0, ==, others);
}

/* ---- The checks ---- */

static void test_two_threads(void *argument)
{
    const struct cell *cell = argument;
    bool all = strcmp(cell->pins, "all") == 0;
    struct helper older;
    struct helper younger;
    start(&older);
    let(&older, forget_keys, NULL);
    bufpool_pool *pool = open_keyed(cell, "abort");
    char *at = fill_page(pool, 0);
    char *other = fill_page(pool, 1);
    struct attempt attempt = {.pool = pool, .at = at + 5};
    start(&younger);
    CHECK_IS(writes_at(at + 5, 1, &attempt.fault), ==, false);
    CHECK_IS(attempt.fault.state, ==, all ? BUFPOOL_STATE_UNPINNED : BUFPOOL_STATE_READ_ONLY);
    CHECK_IS(attempt.fault.flags & BUFPOOL_FAULT_OTHERS_PIN, ==, 0);
    CHECK_IS(reads_at(at, NULL), ==, !all);
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_IS(writes_at(at + 5, CONTENT, NULL), ==, true);
    CHECK_IS(read_byte(at + 5), ==, CONTENT);
    CHECK_IS(writes_at(other, 1, NULL), ==, strcmp(cell->pins, "count") == 0);

    let(&older, send_there, &attempt); /* before any touch: the one thing that the header excepts */
    CHECK(!attempt.done);
    CHECK_IS(attempt.code, ==, EFAULT);
    uint64_t faults = stats_of(pool).faults;
    struct helper *helpers[] = {&older, &younger};
    for (int i = 0; i < 2; i++) {
        let(helpers[i], read_there, &attempt);
        CHECK(attempt.done);
        let(helpers[i], send_there, &attempt);
        CHECK(attempt.done);
        CHECK_IS(stats_of(pool).faults, ==, faults);
        let(helpers[i], write_there, &attempt);
        CHECK_IS(stats_of(pool).faults, ==, ++faults);
        check_refused(&attempt, true);
        CHECK_IS(attempt.fault.pinned.event, ==, BUFPOOL_EVENT_PIN);
        CHECK_IS(attempt.fault.pinned.thread_id, ==, gettid());
        CHECK_IS(attempt.fault.thread_id, !=, gettid());
        let(helpers[i], send_there, &attempt); /* with its rights, after the jump out of our handler */
        CHECK(attempt.done);
        let(helpers[i], receive_there, &attempt);
        CHECK(!attempt.done);
        CHECK_IS(attempt.code, ==, EFAULT);
        CHECK_IS(attempt.explained, ==, BUFPOOL_ESTRAY);
        check_refused(&attempt, true);
        let(helpers[i], unpin_there, &attempt);
        CHECK_IS(attempt.code, ==, BUFPOOL_ESTATE);
        CHECK(attempt.done);
        CHECK_IS(read_byte(at + 5), ==, CONTENT);

        /* What is not caught: the right is to the pool. */
        let(helpers[i], pin_other_there, &attempt);
        let(helpers[i], write_there, &attempt);
        CHECK(attempt.done);
        CHECK_IS(read_byte(at + 5), ==, 55);
        let(helpers[i], unpin_other_there, &attempt);
        let(helpers[i], write_there, &attempt);
        check_refused(&attempt, true);
        CHECK_IS(stats_of(pool).faults, ==, ++faults);
        at[5] = CONTENT;
    }
    receive_there(&attempt);
    CHECK(attempt.done);
    CHECK_OK(attempt.explained);
    at[5] = CONTENT;

    /* Nor what a thread does that was made amid a pin, until its first call. */
    struct helper amid;
    start(&amid);
    let(&amid, write_there, &attempt);
    CHECK(attempt.done);
    let(&amid, pin_other_there, &attempt);
    let(&amid, unpin_other_there, &attempt);
    let(&amid, write_there, &attempt);
    check_refused(&attempt, true);
    stop(&amid);

    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(writes_at(at + 5, CONTENT, NULL), ==, true);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(writes_at(at + 5, 1, NULL), ==, false);
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_IS(writes_at(at, 1, &attempt.fault), ==, false);
    CHECK_IS(attempt.fault.state, ==, BUFPOOL_STATE_FREED);
    attempt.at = at;
    let(&older, write_there, &attempt);
    CHECK_IS(attempt.fault.state, ==, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(reads_at(at, &attempt.fault), ==, false);
    CHECK_IS(attempt.fault.state, ==, BUFPOOL_STATE_CLOSED);
    stop(&older);
    stop(&younger);
}

static char *touched;
static bool may_write;
static sigjmp_buf out;

static void touch(int signo)
{
    (void)signo;
    CHECK_IS(read_byte(touched), ==, CONTENT);
    CHECK_IS(writes_at(touched + 5, CONTENT, NULL), ==, may_write);
}

static void jump_out(int signo)
{
    touch(signo);
    siglongjmp(out, 1);
}

static void raise_in(void *argument)
{
    int signo = *(int *)argument;
    if (sigsetjmp(out, 1) == 0) {
        raise(signo);
    }
    CHECK_IS(read_byte(touched), ==, CONTENT);
    CHECK_IS(writes_at(touched + 5, CONTENT, NULL), ==, may_write);
}

/* The kernel gives handlers no right to the key, and a jump out of one leaves it so. */
static void test_handlers(void *argument)
{
    bufpool_pool *pool = open_keyed(argument, "abort");
    struct helper helper;
    int signals[] = {SIGUSR1, SIGUSR2};
    signal(SIGUSR1, touch);
    signal(SIGUSR2, jump_out);
    touched = fill_page(pool, 0);
    start(&helper);
    CHECK_OK(bufpool_pin(pool, 0, true));
    for (int i = 0; i < 2; i++) {
        may_write = true;
        raise_in(&signals[i]);
        CHECK_IS(stats_of(pool).faults, ==, 2 * i);
        may_write = false;
        let(&helper, raise_in, &signals[i]);
        CHECK_IS(stats_of(pool).faults, ==, 2 * i + 2);
    }
    stop(&helper);
    CHECK_OK(bufpool_close(pool));
}

static void stray_write(void *argument)
{
    write_byte(argument, 1);
}

static void stray_and_die(void *argument)
{
    bufpool_pool *pool = open_keyed(argument, "abort");
    struct helper helper;
    char *at = fill_page(pool, 0);
    start(&helper);
    pthread_setname_np(pthread_self(), "the-pinner");
    CHECK_OK(bufpool_pin(pool, 0, true));
    helper.argument = at;
    atomic_store(&helper.task, stray_write);
    sleep_ms(1000L * WAIT_LIMIT);
}

static void test_abort(void *argument)
{
    struct child child = run_child(stray_and_die, argument);
    CHECK_DIED(child, SIGSEGV);
    CHECK_CHILD(strstr(child.text, "stray write of a read-only page") != NULL, child);
    CHECK_CHILD(strstr(child.text, "  pinned by thread ") != NULL, child);
    CHECK_CHILD(strstr(child.text, "\"the-pinner\"") != NULL, child);
    CHECK_CHILD(strstr(child.text, "note: the page is pinned for writing, by another thread") != NULL, child);
    CHECK_CHILD(strstr(child.text, "let through") == NULL, child);
}

static void stray_and_check(void *argument)
{
    struct attempt *attempt = argument;
    for (int round = 0; round < 3; round++) {
        write_byte(attempt->at, (char)round);
        CHECK_IS(read_byte(attempt->at), ==, round);
        write_byte(attempt->at + 1, (char)round); /* open to this thread, until the next call on the pool */
        bufpool_pin(attempt->pool, 1, false);
        bufpool_unpin(attempt->pool, 1);
        CHECK_IS(bufpool_check(&attempt->fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(attempt->fault.flags & BUFPOOL_FAULT_WENT_THROUGH, !=, 0);
        CHECK_IS(attempt->fault.flags & BUFPOOL_FAULT_OTHERS_PIN, !=, 0);
        CHECK_IS(bufpool_check(&attempt->fault), ==, 0);
        char text[8192];
        bufpool_format_json(&attempt->fault, text, sizeof text);
        CHECK_HAS(text, "\"others_pin\":true");
    }
}

/* Answered in place: the write goes through, each time with a report of its own; those of holes do not. */
static void test_raise(void *argument)
{
    bufpool_pool *pool = open_keyed(argument, "raise");
    struct helper helper;
    char *at = fill_page(pool, 0);
    fill_page(pool, 1);
    start(&helper);
    CHECK_OK(bufpool_pin(pool, 0, true));
    struct attempt attempt = {.pool = pool, .at = at, .fault = BUFPOOL_FAULT_INIT};
    let(&helper, stray_and_check, &attempt);
    CHECK_IS(stats_of(pool).faults, ==, 3);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_OK(bufpool_free(pool, 0));
    for (int round = 0; round < 2; round++) {
        write_byte(at + 3, 1);
        CHECK_IS(bufpool_check(&attempt.fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(attempt.fault.state, ==, BUFPOOL_STATE_FREED);
        CHECK_OK(bufpool_pin(pool, 1, false));
        CHECK_OK(bufpool_unpin(pool, 1));
    }
    CHECK_IS(stats_of(pool).faults, ==, 5);
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    at = fill_page(pool, 0);
    CHECK_IS(writes_at(at, 1, NULL), ==, false);
    CHECK_OK(bufpool_close(pool));
    stop(&helper);
}

static void fork_and_read(void *argument)
{
    struct attempt *attempt = argument;
    pid_t pid = fork();
    if (pid == 0) {
        int code = bufpool_pin(attempt->pool, 0, false);
        _exit(code == BUFPOOL_EUNSUPPORTED || (code == 0 && read_byte(attempt->at) == CONTENT) ? 0 : 1);
    }
    CHECK_IS(waitpid(pid, &attempt->code, 0), ==, pid);
}

/* The child has the pins of the thread that forked; those of others it may give back. */
static void test_fork(void *argument)
{
    bufpool_pool *pool = open_keyed(argument, "abort");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    struct helper helper;
    char *at = fill_page(pool, 0);
    fill_page(pool, 1);
    start(&helper);
    CHECK_OK(bufpool_pin(pool, 0, true));
    struct attempt attempt = {.pool = pool};
    let(&helper, pin_other_there, &attempt);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int code = bufpool_pin(pool, 0, false);
        if (code == BUFPOOL_EUNSUPPORTED) { /* shared memory under mprotect and guard: the parent's only */
            _exit(0);
        }
        CHECK_OK(code);
        CHECK_IS(writes_at(at, 1, NULL), ==, true);
        CHECK_OK(bufpool_unpin(pool, 0));
        CHECK_IS(writes_at(at, CONTENT, NULL), ==, true);
        CHECK_OK(bufpool_unpin(pool, 0));
        CHECK_IS(writes_at(at, 1, &fault), ==, false);
        CHECK_OK(bufpool_unpin_for(pool, 1, true));
        CHECK_OK(bufpool_free(pool, 1));
        CHECK_OK(bufpool_close(pool));
        _exit(0);
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK_IS(status, ==, 0);
    CHECK_IS(writes_at(at, 1, NULL), ==, true);
    let(&helper, unpin_other_there, &attempt);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(writes_at(at, 1, NULL), ==, false);
    attempt.at = at + 1;
    let(&helper, forget_keys, NULL);
    let(&helper, fork_and_read, &attempt); /* a thread that has made no call, and has to copy the pages */
    CHECK_IS(attempt.code, ==, 0);
    CHECK_OK(bufpool_pin(pool, 0, true));
    at[2] = (char)BUFPOOL_POISON;
    attempt.at = at + 2;
    let(&helper, forget_keys, NULL);
    let(&helper, look_there, &attempt);
    CHECK(attempt.done);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_OK(bufpool_close(pool));
    stop(&helper);
}

/* Who ends with a pin takes its right to write along, even where a later thread gets its id; a third one does as ever. */
static void test_ended(void *argument)
{
    bufpool_pool *pool = open_keyed(argument, "abort");
    struct attempt attempt = {.pool = pool, .at = fill_page(pool, 0) + 5};
    fill_page(pool, 1);
    struct helper helpers[2];
    atomic_store(&same_id, 12345);
    for (int i = 0; i < 2; i++) {
        start(&helpers[i]);
        if (i == 0) {
            let(&helpers[i], pin_other_there, &attempt);
        } else {
            let(&helpers[i], write_there, &attempt);
            CHECK(!attempt.done);
            let(&helpers[i], unpin_other_there_in_vain, &attempt);
            CHECK_IS(attempt.code, ==, BUFPOOL_ESTATE);
            CHECK(attempt.done);
        }
        stop(&helpers[i]);
    }
    atomic_store(&same_id, 0);
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_IS(writes_at(attempt.at, CONTENT, NULL), ==, true);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(writes_at(attempt.at, CONTENT, NULL), ==, false);
    CHECK_OK(bufpool_close(pool));
}

/* Each pool has a key of its own, and gives it back. */
static void test_many_pools(void *argument)
{
    (void)argument;
    bufpool_pool *pools[MOST_KEYS];
    for (int round = 0; round < 3; round++) {
        int count = 0;
        bufpool_config config = pins_config("anon", "auto", "count");
        config.flags = BUFPOOL_PIN_KEYS;
        while (count < MOST_KEYS && bufpool_open(&config, &pools[count]) == 0) {
            count++;
        }
        CHECK_IS(count, >, 1); /* the program may have keys of its own */
        bufpool_pool *more = NULL;
        CHECK_IS(bufpool_open(&config, &more), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "no key left");
        CHECK_IS(bufpool_probe_keys(), ==, BUFPOOL_EUNSUPPORTED);
        char *first = fill_page(pools[0], 0);
        char *second = fill_page(pools[1], 0);
        CHECK_OK(bufpool_pin(pools[0], 0, true));
        CHECK_IS(writes_at(first, 1, NULL), ==, true);
        CHECK_IS(writes_at(second, 1, NULL), ==, false);
        while (count > 0) {
            CHECK_OK(bufpool_close(pools[--count])); /* the first one with a pin, of which nothing is left */
        }
    }
}

/* ---- On any machine ---- */

static void check_open_refused(bufpool_config config, int code, const char *sentence)
{
    bufpool_pool *pool = NULL;
    config.flags |= BUFPOOL_PIN_KEYS;
    CHECK_IS(bufpool_open(&config, &pool), ==, code);
    CHECK_HAS(last_error(), "pin_keys");
    CHECK_HAS(last_error(), sentence);
    CHECK(pool == NULL);
}

static void test_refused(void)
{
    bufpool_config config = pins_config("anon", "auto", "off");
    check_open_refused(config, BUFPOOL_EARGUMENT, "pins is \"off\"");
    config = pins_config("anon", "none", "count");
    check_open_refused(config, BUFPOOL_EUNSUPPORTED, "traps nothing");
    config = pins_config("thp", "uffd", "count");
    check_open_refused(config, BUFPOOL_EUNSUPPORTED, "transparent huge pages");
    config = pins_config("anon", "uffd", "count");
    config.flags = BUFPOOL_MONITOR;
    check_open_refused(config, BUFPOOL_EUNSUPPORTED, "BUFPOOL_MONITOR");
    config = pins_config("anon", "auto", "count");
    config.audit = "checksum";
    check_open_refused(config, BUFPOOL_EUNSUPPORTED, "audit");
    config.audit = NULL;
    config.sample = 2;
    check_open_refused(config, BUFPOOL_EUNSUPPORTED, "sample");
}

static void check(const char *what, void (*function)(void *), const struct cell *cell)
{
    struct cell copy = *cell;
    struct child child = run_child(function, &copy);
    CHECK_PASSED(child);
    /* noautofill is not on both of the kernels that are compared. */
    printf("%s %s, %s/%s, pins %s: passed\n", strcmp(cell->trap, "noautofill") == 0 ? "also" : "check", what,
           cell->memory, cell->trap, cell->pins);
}

static void test_cell(const char *memory, const char *trap)
{
    static const char *const pins[] = {"count", "write", "all"};
    for (size_t i = 0; i < sizeof pins / sizeof *pins; i++) {
        struct cell cell = {memory, trap, pins[i]};
        bufpool_config config = pins_config(memory, trap, pins[i]);
        bufpool_pool *pool;
        if (strcmp(memory, "thp") == 0 || strcmp(trap, "none") == 0 || (!can_close(memory, trap) && i > 0)) {
            continue;
        }
        config.flags = BUFPOOL_PIN_KEYS;
        if (bufpool_open(&config, &pool) < 0) { /* older kernels close fewer */
            printf("%s/%s, pins %s: not here: %s\n", memory, trap, pins[i], last_error());
            continue;
        }
        CHECK_OK(bufpool_close(pool));
        check("two threads", test_two_threads, &cell);
        check("handlers", test_handlers, &cell);
        check("abort", test_abort, &cell);
        check("raise", test_raise, &cell);
        check("fork", test_fork, &cell);
        check("ended", test_ended, &cell);
    }
}

static int test_keys(void)
{
    struct cell any = {"anon", "auto", "count"};
    check("many pools", test_many_pools, &any);
    int code = for_each_cell(test_cell, false);
    return for_each_huge_cell(test_cell, false) == 0 ? 0 : code;
}

int main(void)
{
    test_refused();
    if (bufpool_probe_keys() < 0) {
        char reason[1024];
        snprintf(reason, sizeof reason, "%s", last_error());
        check_open_refused(pins_config("anon", "auto", "write"), BUFPOOL_EUNSUPPORTED, reason);
        printf("no protection keys here: %s\n", reason);
        return HARNESS_SKIP;
    }
    return with_huge_pages(8, test_keys);
}
