/* A pool with fork "exclude" is not inherited: the child's calls are refused, its touches reported, the parent's pool
 * stays whole. */
#include "harness.h"

#include <sys/syscall.h>

static const char *memory, *trap;
static bufpool_pool *pool;
static int overlaps;

/* The thread sanitizer's runtime maps memory of its own where a child's holes are: there nothing can be touched. */
#if defined(__SANITIZE_THREAD__)
#define TOUCHES 0
#else
#define TOUCHES 1
#endif

static bufpool_pool *open_excluded(const char *on_fault, uint64_t capacity, uint64_t page_size)
{
    return open_pool_fork(memory, trap, on_fault, capacity, page_size, "exclude");
}

static void check_parent(void)
{
    CHECK_STRING((char *)bufpool_address(pool, 0), "parent");
    CHECK(traps_at(bufpool_address(pool, 3), NULL));
    CHECK_IS(state_of(pool, 0), ==, BUFPOOL_STATE_ALLOCATED);
}

static void calls(void *argument)
{
    (void)argument;
    uint64_t page = 0;
    size_t found;
    int codes[] = {bufpool_allocate(pool, NULL, 0, &page),
                   bufpool_allocate_at(pool, 4, NULL, 0),
                   bufpool_allocate_many(pool, 1, &page),
                   bufpool_free(pool, 0),
                   bufpool_free_many(pool, 1, &page),
                   bufpool_evict(pool, 0),
                   bufpool_evict_many(pool, 1, &page),
                   bufpool_populate(pool, 1, NULL, 0),
                   bufpool_populate_many(pool, 1, &page, NULL),
                   bufpool_close(pool),
                   bufpool_list(pool, BUFPOOL_STATE_FREED, 0, 0, NULL, &found),
                   bufpool_set_fault_callback(pool, NULL, NULL)};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        CHECK_IS(codes[i], ==, BUFPOOL_EUNSUPPORTED);
    }
    CHECK_HAS(last_error(), "forked child of process");
    CHECK_HAS(last_error(), "exclude");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_check(&fault));
    if (!TOUCHES) {
        return;
    }
    CHECK(traps_at((char *)bufpool_address(pool, 0) + 5, &fault)); /* allocated in the parent, not here */
    CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_FORKED);
    CHECK_IS(fault.signal, ==, SIGSEGV);
    CHECK_IS(fault.pid, ==, getpid());
    CHECK_IS(fault.thread_id, ==, syscall(SYS_gettid));
    CHECK_IS(fault.offset, ==, 5);
    CHECK(traps_at(bufpool_address(pool, 3), &fault));
}

static void touch(void *argument)
{
    read_byte((char *)bufpool_address(pool, *(uint64_t *)argument) + 21);
    fprintf(stderr, "went through\n");
}

static void touch_closed(void *argument)
{
    (void)argument;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at((char *)bufpool_address(pool, 2) + 9, &fault));
    CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_FORKED);
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
    CHECK_IS(fault.page, ==, 2);
}

/* Pools of the child's own, at addresses that the parent's pools had, and have. */
static void own_pools(void *argument)
{
    (void)argument;
    uintptr_t theirs = (uintptr_t)bufpool_address(pool, 0);
    bool met = false;
    for (int i = 0; i < 60 && !met; i++) {
        bufpool_pool *own;
        own = open_excluded("resume", 8 * GRANULE, GRANULE);
        uintptr_t base = (uintptr_t)bufpool_address(own, 0);
        met = met || (base < theirs + 8 * GRANULE && theirs < base + 8 * GRANULE);
        uint64_t page;
        CHECK_OK(bufpool_allocate(own, "child", 6, &page));
        CHECK_STRING((char *)bufpool_address(own, page), "child");
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at((char *)bufpool_address(own, 5) + 77, &fault));
        CHECK_IS(fault.flags, ==, 0);
        CHECK_IS(fault.page, ==, 5);
        CHECK_IS(fault.offset, ==, 77);
        CHECK_IS(fault.pool_address, ==, (uintptr_t)bufpool_address(own, 0));
        bufpool_location where = BUFPOOL_LOCATION_INIT;
        CHECK_OK(bufpool_locate((char *)bufpool_address(own, 5) + 77, &where));
        CHECK(where.pool == own);
        CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_EUNSUPPORTED); /* still */
        if (i % 2) {
            CHECK_OK(bufpool_close(own));
        }
    }
    fprintf(stderr, "%s\n", met ? "overlapped" : "apart");
}

/* A child's child, and one made while the parent had strayed. */
static void grandchild(void *argument)
{
    pool = open_excluded("abort", 8 * GRANULE, GRANULE);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "parent", 7, &page));
    struct child child = run_child(calls, argument);
    CHECK_PASSED(child);
    check_parent();
}

static void rearmed_by_child(void *argument)
{
    (void)argument;
    CHECK_OK(bufpool_check(NULL)); /* the parent's diverted granule is not ours to arm */
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static const char *const policies[] = {"abort", "resume", "raise"};
    for (int i = 0; i < 3; i++) {
        /* A descriptor older than this one's becomes free again, so that a child's pool comes after ours in every
         * search. */
        bufpool_pool *early = open_excluded("abort", GRANULE, GRANULE);
        pool = open_excluded(policies[i], 8 * GRANULE, GRANULE);
        CHECK_OK(bufpool_close(early));
        for (int closed = 0; closed < 64; closed++) {
            CHECK_OK(bufpool_close(open_excluded("abort", GRANULE, GRANULE)));
        }
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, "parent", 7, &page));
        check_parent();
        struct child child = run_child(calls, NULL);
        CHECK_PASSED(child);
        check_parent();
        for (page = 0; TOUCHES && page < 4; page += 3) {
            child = run_child(touch, &page);
            if (i == 0) {
                CHECK_DIED(child, SIGSEGV);
            } else {
                CHECK_PASSED(child);
                CHECK_HAS(child.text, "went through");
            }
            CHECK_CHILD(count_in(child.text, "==ERROR") == (i < 2), child);
            CHECK_CHILD(i == 2 || strstr(child.text, "a page of the parent's pool") != NULL, child);
            CHECK_CHILD(i == 2 || strstr(child.text, "this is a forked child") != NULL, child);
            CHECK_CHILD(i == 2 || strstr(child.text, "offset 21 of 4096") != NULL, child);
            check_parent();
        }
        child = run_child(own_pools, NULL);
        CHECK_PASSED(child);
        overlaps += strcmp(child.text, "overlapped\n") == 0;
        child = run_child(grandchild, NULL);
        CHECK_PASSED(child);
        check_parent();
        if (i == 1) {
            fflush(stderr);
            int keep = dup(STDERR_FILENO);
            int null = open("/dev/null", O_WRONLY);
            dup2(null, STDERR_FILENO);
            write_byte(bufpool_address(pool, 3), 1);
            dup2(keep, STDERR_FILENO);
            close(keep);
            close(null);
            child = run_child(rearmed_by_child, NULL);
            CHECK_PASSED(child);
            CHECK_IS(stats_of(pool).scratched, ==, 1);
            CHECK_OK(bufpool_check(NULL));
            CHECK_IS(stats_of(pool).scratched, ==, 0);
        }
        check_parent();
        CHECK_OK(bufpool_close(pool));
        if (TOUCHES) { /* a closed pool is not inherited either */
            child = run_child(touch_closed, NULL);
            CHECK_PASSED(child);
        }
    }
}

/* A fork while other threads open, use and close pools leaves the child with a library that works. */
static void *churn(void *argument)
{
    while (!__atomic_load_n((int *)argument, __ATOMIC_ACQUIRE)) {
        bufpool_pool *one = open_pool("anon", "auto", "resume", 16 * GRANULE, GRANULE);
        uint64_t page;
        CHECK_OK(bufpool_allocate(one, NULL, 0, &page));
        CHECK_OK(bufpool_close(one));
    }
    return NULL;
}

static void forked_amid(void *argument)
{
    (void)argument;
    memory = "anon";
    trap = "auto";
    pool = NULL;
    bufpool_pool *own = open_excluded("resume", 8 * GRANULE, GRANULE);
    CHECK(traps_at(bufpool_address(own, 5), NULL));
    CHECK_OK(bufpool_close(own));
}

static void amid(void)
{
    int stop = 0;
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_create(&threads[i], NULL, churn, &stop));
    }
    for (int i = 0; i < 40; i++) {
        struct child child = run_child(forked_amid, NULL);
        CHECK_PASSED(child);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(cell, false);
    if (code == 0 && !SANITIZED) { /* their runtimes do not bear a fork amid threads */
        amid();
    }
    (void)amid;
    printf("%d children had a pool where their parent has one\n", overlaps);
    return code;
}
