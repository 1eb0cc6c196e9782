/* The host's fault callback: each verdict, its limits, and what it may do while it runs. */
#include "harness.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <sys/mman.h>

static const char *memory, *trap;

struct plan {
    const char *on_fault;
    bufpool_verdict verdict;
    bool stray;   /* the callback itself strays, on page 5 */
    bool guarded; /* ... in a guarded call */
    bool open;    /* the callback makes the page accessible, at the third call */
};

static bufpool_pool *pool;
static atomic_int calls;
static volatile bufpool_fault given;

static bufpool_verdict callback(const bufpool_fault *fault, void *context)
{
    const struct plan *plan = context;
    int call = atomic_fetch_add(&calls, 1) + 1;
    given = *fault;
    char *other = (char *)bufpool_address(pool, 5) + 55;
    if (plan->stray) {
        read_byte(other);
    }
    if (plan->guarded) {
        CHECK(traps_at(other, NULL));
    }
    if (plan->open && call == 3) {
        void *at = bufpool_address(pool, fault->page);
        CHECK(mmap(at, GRANULE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
    }
    return plan->verdict;
}

static void commit(void *argument)
{
    const struct plan *plan = argument;
    pool = open_pool(memory, trap, plan->on_fault, 8 * GRANULE, GRANULE);
    CHECK_OK(bufpool_set_fault_callback(pool, callback, argument));
    char *at = (char *)bufpool_address(pool, 3) + 33;
    errno = 1234;
    int byte = (unsigned char)read_byte(at);
    int kept = errno;
    fprintf(stderr, "read %d, calls %d, address %s, owed %d, errno %d, faults %d\n", byte, atomic_load(&calls),
            given.address == (uintptr_t)at && given.page == 3 && given.offset == 33 && given.size == sizeof given &&
                    given.stack_depth > 1 && given.pc != 0
                ? "right"
                : "wrong",
            bufpool_check(NULL), kept, (int)stats_of(pool).faults);
}

static struct child run(struct plan plan)
{
    return run_child(commit, &plan);
}

#define POISONED "read 219, calls 1, address right, owed 0, errno 1234, faults 1\n"

static void verdicts(void)
{
    struct child child = run((struct plan){"resume", BUFPOOL_VERDICT_REPORT, 0, 0, 0});
    CHECK_PASSED(child);
    CHECK_HAS(child.text, POISONED);
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
    child = run((struct plan){"raise", BUFPOOL_VERDICT_REPORT, 0, 0, 0});
    CHECK_PASSED(child);
    CHECK_HAS(child.text, "read 219, calls 1, address right, owed -4102, errno 1234, faults 1\n");
    child = run((struct plan){"abort", BUFPOOL_VERDICT_REPORT, 0, 0, 0});
    CHECK_DIED(child, signal_of(trap));
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);

    static const char *const policies[] = {"abort", "raise", "resume"};
    for (int i = 0; i < 3; i++) {
        child = run((struct plan){policies[i], BUFPOOL_VERDICT_RESUME, 0, 0, 0});
        CHECK_PASSED(child);
        CHECK_STRING(child.text, POISONED);
        child = run((struct plan){policies[i], BUFPOOL_VERDICT_PASS, 0, 0, 0});
        CHECK_DIED(child, signal_of(trap));
        CHECK_STRING(child.text, "");
        child = run((struct plan){policies[i], BUFPOOL_VERDICT_RESTART, 0, 0, true});
        CHECK_PASSED(child);
        CHECK_STRING(child.text, "read 0, calls 3, address right, owed 0, errno 1234, faults 0\n");
    }
}

/* RESTART without making the page accessible does not hang: after a thousand restarts the policy has its way. */
static void bounded(void)
{
    struct child child = run((struct plan){"resume", BUFPOOL_VERDICT_RESTART, 0, 0, 0});
    CHECK_PASSED(child);
    CHECK_HAS(child.text, "read 219, calls 1001, address right");
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
    child = run((struct plan){"abort", BUFPOOL_VERDICT_RESTART, 0, 0, 0});
    CHECK_DIED(child, signal_of(trap));
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
}

/* A stray access of the callback's own is reported, without another callback. */
static void inside(void)
{
    struct child child = run((struct plan){"resume", BUFPOOL_VERDICT_REPORT, true, 0, 0});
    CHECK_PASSED(child);
    CHECK_HAS(child.text, "read 219, calls 1, address right, owed 0, errno 1234, faults 2\n");
    CHECK_CHILD(count_in(child.text, "==END of bufpool report") == 2, child);
    const char *inner = strstr(child.text, "page 5 of pool");
    const char *outer = strstr(child.text, "page 3 of pool");
    CHECK_CHILD(inner != NULL && outer != NULL && inner < outer, child);
    child = run((struct plan){"abort", BUFPOOL_VERDICT_RESUME, true, 0, 0});
    CHECK_DIED(child, signal_of(trap));
    CHECK_HAS(child.text, "page 5 of pool");
    CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
    child = run((struct plan){"raise", BUFPOOL_VERDICT_RESUME, true, 0, 0});
    CHECK_PASSED(child);
    CHECK_STRING(child.text, "read 219, calls 1, address right, owed -4102, errno 1234, faults 2\n");
    child = run((struct plan){"abort", BUFPOOL_VERDICT_RESUME, 0, true, 0});
    CHECK_PASSED(child);
    CHECK_STRING(child.text, "read 219, calls 1, address right, owed 0, errno 1234, faults 2\n");
}

/* ---- A callback that leaves by longjmp, again and again, each time from a deeper place ---- */

static sigjmp_buf back;

static bufpool_verdict leave(const bufpool_fault *fault, void *context)
{
    (void)fault;
    (void)context;
    atomic_fetch_add(&calls, 1);
    siglongjmp(back, 1);
}

static __attribute__((noinline)) int deep(int levels, const char *at)
{
    volatile char room[512];
    room[0] = (char)levels;
    return levels == 0 ? read_byte(at) : deep(levels - 1, at) + room[0];
}

static void leaver(void *argument)
{
    (void)argument;
    pool = open_pool(memory, trap, "abort", 8 * GRANULE, GRANULE);
    CHECK_OK(bufpool_set_fault_callback(pool, leave, NULL));
    for (volatile int i = 0; i < 20; i++) {
        if (sigsetjmp(back, 1) == 0) {
            deep(i < 10 ? i * 3 : 60 - i * 3, bufpool_address(pool, 3));
            CHECK(false);
        }
    }
    CHECK_IS(atomic_load(&calls), ==, 20);
    CHECK_OK(bufpool_set_fault_callback(pool, NULL, NULL));
    CHECK(traps_at(bufpool_address(pool, 3), NULL));
    CHECK_OK(bufpool_close(pool)); /* the handler was left, the pool was not */
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    verdicts();
    bounded();
    if (NESTED_FAULTS) {
        inside();
    }
    struct child child = run_child(leaver, NULL);
    CHECK_PASSED(child);
    CHECK_STRING(child.text, "");
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
