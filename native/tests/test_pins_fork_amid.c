/*
 * test_pins_fork_amid.c: a fork while a stray access to a closed page is being answered: the page is open for it, and the
 * slot that stands for that is not filled yet. A fork of another thread waits; of a fork by this thread, as from a signal
 * handler, the child has not got the pool. So no child has a page that is open for good, and that it cannot pin.
 *
 * Linked with --wrap: the clock is read between the two.
 */
#include "fork.h"
#include "pins.h"

#include <stdatomic.h>

static bufpool_pool *pool;
static _Thread_local bool strays; /* this thread, amid its answer next */
static void (*amid)(void);        /* then */
static atomic_bool is_amid;

int64_t __real_bp_kernel_monotonic_ns(void);
int64_t __wrap_bp_kernel_monotonic_ns(void);
int64_t __wrap_bp_kernel_monotonic_ns(void)
{
    if (strays && atomic_load(&pool->pins.words[0]) & BP_PIN_LOOSE) {
        strays = false;
        amid();
    }
    return __real_bp_kernel_monotonic_ns();
}

/* The other thread has begun to fork, and has had some time to. */
static void wait_for_fork(void)
{
    atomic_store(&is_amid, true);
    WAIT_FOR(atomic_load(&bp_fork_gate) != 0);
    sleep_ms(50);
}

static void check_refused(void *unused)
{
    (void)unused;
    CHECK_IS(bufpool_pin(pool, 0, true), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "the fork interrupted one");
}

static void fork_here(void)
{
    passes(check_refused, NULL);
}

static void *stray(void *unused)
{
    (void)unused;
    strays = true;
    write_byte((char *)bufpool_address(pool, 0) + 5, 1);
    CHECK(!strays);
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    return NULL;
}

static void check_pins(void *argument)
{
    const bool *all = argument;
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OPEN(pool, 0, true, true, 'a');
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_OPEN(pool, 0, !*all, false, 'a');
}

static void check_mode(const char *memory, const char *trap, const char *pins)
{
    bool shared = strcmp(memory, "anon") != 0;
    if (!can_close(memory, trap) || (shared && strcmp(trap, "uffd") != 0)) {
        return; /* a child has not got the pool */
    }
    bufpool_config config = pins_config(memory, trap, pins);
    config.on_fault = "raise";
    pool = open_config(&config);
    bool all = strcmp(pins, "all") == 0;
    CHECK_OK(bufpool_allocate_at(pool, 0, "a", 1));
    pthread_t thread;
    amid = wait_for_fork;
    atomic_store(&is_amid, false);
    CHECK_OK(pthread_create(&thread, NULL, stray, NULL));
    WAIT_FOR(atomic_load(&is_amid));
    passes(check_pins, &all);
    CHECK_OK(pthread_join(thread, NULL));
    check_pins(&all);
    amid = fork_here;
    stray(NULL);
    check_pins(&all);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    check_mode(memory, trap, "write");
    check_mode(memory, trap, "all");
}

int main(void)
{
    harness_begin();
#if defined(__SANITIZE_THREAD__)
    printf("the thread sanitizer does not bear a fork amid threads\n");
    return HARNESS_SKIP;
#endif
    return for_each_cell(test_cell, false);
}
