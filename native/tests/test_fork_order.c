/* Fork handlers of the host, before and after ours: what is armed when they run, what they may call, and what they may
 * change. The first pool puts ours in its place: later ones run, in a child, when every pool is armed. */
#include "harness.h"

#include <signal.h>

enum { NOTHING, TOUCH, CALL, OPEN, ALLOCATE };

static const char *memory, *trap;
static bufpool_pool *pool;
static int early_does, late_does, prepare_does;
static int early_traps, early_code, late_traps, late_code; /* what came of it */
static bool early_opened;
static uint64_t late_page, prepared_page;

static int try_touch(void)
{
    return traps_at((char *)bufpool_address(pool, 5) + 3, NULL);
}

static void early_in_child(void)
{
    uint64_t page;
    if (early_does == TOUCH) {
        early_traps = try_touch();
    } else if (early_does == CALL) {
        early_code = bufpool_allocate(pool, NULL, 0, &page);
    } else if (early_does == OPEN) {
        bufpool_pool *own = open_pool("anon", "auto", "raise", 4 * GRANULE, GRANULE);
        early_opened = traps_at(bufpool_address(own, 2), NULL);
    }
}

static void late_in_child(void)
{
    if (late_does == TOUCH) {
        late_traps = try_touch();
    } else if (late_does == ALLOCATE) {
        late_code = bufpool_allocate(pool, "late", 5, &late_page);
    }
}

/* Of two handlers before the fork, that which was registered first runs last: when ours have prepared the pool. */
static void last_before_fork(void)
{
    if (prepare_does == ALLOCATE) {
        CHECK_OK(bufpool_allocate(pool, "prepared", 9, &prepared_page));
    }
}

static void fork_with(void (*function)(void *))
{
    struct child child = run_child(function, NULL);
    CHECK_PASSED(child);
    early_does = late_does = prepare_does = NOTHING;
    CHECK(try_touch());
    CHECK_STRING(bufpool_address(pool, 0), "parent");
}

/* The signals are as they were before the fork. */
static void check_mask(void)
{
    sigset_t mask;
    CHECK_OK(pthread_sigmask(SIG_BLOCK, NULL, &mask));
    CHECK(!sigismember(&mask, SIGUSR1));
    CHECK(sigismember(&mask, SIGUSR2));
}

static bool with_fork(void) /* the frames come with fork, unarmed until our handler runs */
{
    return strcmp(memory, "anon") == 0 && strcmp(trap, "uffd") == 0;
}

static bool inherited(void)
{
    return strcmp(memory, "anon") == 0 || strcmp(trap, "uffd") == 0;
}

static void after_touch(void *unused)
{
    (void)unused;
    check_mask();
    CHECK_IS(early_traps, ==, !with_fork());
    CHECK_IS(late_traps, ==, 1);
    CHECK(!inherited() || state_of(pool, 5) == BUFPOOL_STATE_UNALLOCATED);
}

static void after_late_touch(void *unused)
{
    (void)unused;
    CHECK_IS(late_traps, ==, 1);
    CHECK(try_touch());
}

static void after_call(void *unused)
{
    (void)unused;
    check_mask();
    CHECK_IS(early_code, ==, BUFPOOL_EUNSUPPORTED);
    CHECK_IS(late_code, ==, inherited() ? 0 : BUFPOOL_EUNSUPPORTED);
    CHECK(!inherited() || strcmp(bufpool_address(pool, late_page), "late") == 0);
    CHECK(try_touch());
}

static void after_open(void *unused)
{
    (void)unused;
    check_mask();
    CHECK(early_opened);
    uint64_t page;
    int code = bufpool_allocate(pool, NULL, 0, &page);
    if (code == 0) {
        CHECK(try_touch());
        return;
    }
    /* What the handler mapped may lie where nothing was mapped yet. */
    CHECK_IS(code, ==, BUFPOOL_EUNSUPPORTED);
    CHECK(!with_fork());
    CHECK(!inherited() || strstr(last_error(), "could not be mapped in the child: EEXIST") != NULL);
}

static void after_prepared(void *unused)
{
    (void)unused;
    uint64_t page;
    int code = bufpool_allocate(pool, NULL, 0, &page);
    if (strcmp(memory, "anon") == 0 && !with_fork()) {
        CHECK_IS(code, ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "changed it after its pages were copied");
        CHECK(traps_at(bufpool_address(pool, prepared_page), NULL));
    } else if (inherited()) {
        CHECK_OK(code);
        CHECK_STRING(bufpool_address(pool, prepared_page), "prepared");
    }
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    pool = open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate_at(pool, 0, "parent", 7));
    early_does = late_does = TOUCH;
    if (with_fork()) {
        late_does = NOTHING; /* the early touch has filled the hole */
        late_traps = 1;
    }
    fork_with(after_touch);
    late_does = TOUCH;
    fork_with(after_late_touch);
    early_does = CALL;
    late_does = ALLOCATE;
    fork_with(after_call);
    early_does = OPEN;
    fork_with(after_open);
    prepare_does = ALLOCATE;
    fork_with(after_prepared);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    CHECK_OK(pthread_sigmask(SIG_BLOCK, &mask, NULL));
    CHECK_OK(pthread_atfork(last_before_fork, NULL, early_in_child));
    CHECK_OK(bufpool_close(open_pool("anon", "auto", "abort", GRANULE, GRANULE)));
    CHECK_OK(pthread_atfork(NULL, NULL, late_in_child));
    return for_each_cell(cell, false);
}
