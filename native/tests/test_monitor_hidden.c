/* A thread that strays where /proc cannot show what it does, for want of descriptors or because the process has become
 * undumpable by changing its user: it is still this process's own, so the policy is applied, and there is one report. */
#include "monitor.h"
#include "stopped.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>

struct hiding {
    const char *on_fault;
    bool exhausted; /* no descriptor is left; else undumpable */
    bool monitored;
    bool in_call;
};

static char *hole;
static int ends[2];
static atomic_bool went_on;

int __real_bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length);
int __wrap_bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length);

/* The call ends long before the monitor goes on. */
int __wrap_bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length)
{
    int code = __real_bp_kernel_uffd_poison(uffd, address, length);
    sleep_ms(30);
    return code;
}

static void *stray(void *argument)
{
    const struct hiding *hiding = argument;
    if (hiding->in_call) {
        CHECK_IS(write(ends[1], hole + 17, 100), ==, -1);
        CHECK_IS(errno, ==, EFAULT);
    } else {
        CHECK_IS((unsigned char)read_byte(hole + 17), ==, BUFPOOL_POISON);
    }
    atomic_store(&went_on, true);
    return NULL;
}

static void hide(bool exhausted)
{
    if (exhausted) {
        while (dup(STDERR_FILENO) >= 0) {
        }
        CHECK_IS(errno, ==, EMFILE);
    } else if (geteuid() == 0) {
        CHECK_OK(setresuid(65534, 65534, 65534));
        CHECK_OK(prctl(PR_SET_DUMPABLE, 0)); /* it is so by default, but for settings of the system */
    } else {
        CHECK_OK(prctl(PR_SET_DUMPABLE, 0));
    }
}

static bufpool_pool *open_for(const struct hiding *hiding)
{
    return hiding->monitored ? open_monitored("anon", hiding->on_fault, MIB, GRANULE)
                             : open_pool("anon", "auto", hiding->on_fault, MIB, GRANULE);
}

static void hidden(void *argument)
{
    const struct hiding *hiding = argument;
    pthread_t thread;
    bufpool_pool *pool = open_for(hiding);
    hole = bufpool_address(pool, 3);
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    hide(hiding->exhausted);
    CHECK_OK(pthread_create(&thread, NULL, stray, argument));
    WAIT_FOR(stats_of(pool).faults > 0);
    bool freezes = strcmp(hiding->on_fault, "freeze") == 0;
    if (freezes) {
        WAIT_FOR(count_stopped() > 0);
        sleep_ms(100);
        CHECK(!atomic_load(&went_on));
        CHECK_IS(bufpool_thaw(pool, NULL), ==, 1);
    }
    CHECK_OK(pthread_join(thread, NULL));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    size_t found;
    CHECK_OK(bufpool_faults(pool, 0, 1, &fault, &found));
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_IS(fault.flags & BUFPOOL_FAULT_FOREIGN, ==, 0);
    CHECK_IS(fault.access, ==, BUFPOOL_READ);
    CHECK_IS(fault.address, ==, (uintptr_t)hole + 17);
    CHECK(fault.stack_depth > 1);
    if (!hiding->in_call) {
        CHECK_STRING(fault.in_syscall, "");
    } else if (hiding->exhausted) {
        CHECK_STRING(fault.in_syscall, "write"); /* the monitor has a descriptor in reserve */
    } else {
        CHECK_STRING(fault.in_syscall, "unknown");
    }
    CHECK_OK(bufpool_close(pool));
}

static void run(struct hiding *hiding)
{
    printf("%s, %s, %s, by %s\n", hiding->on_fault, hiding->exhausted ? "no descriptors" : "undumpable",
           hiding->monitored ? "monitored" : "not monitored", hiding->in_call ? "a call" : "an access");
    fflush(stdout);
    struct child child = run_child(hidden, hiding);
    if (strcmp(hiding->on_fault, "abort") == 0) {
        CHECK_DIED(child, SIGBUS);
    } else {
        CHECK_PASSED(child);
    }
    CHECK_CHILD(count_in(child.text, "==ERROR: bufpool: stray read of an unallocated page") == 1, child);
}

/* A pool that is opened when it is so already. */
static void opened_after(void *argument)
{
    hide(false);
    CHECK_OK(bufpool_close(open_for(argument)));
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer runs handlers when it likes, not while a thread is stopped\n");
        return HARNESS_SKIP;
    }
    static const char *const policies[] = {"freeze", "resume", "abort"};
    bool monitors = can_monitor();
    for (int bits = 0; bits < 4; bits++) {
        for (int p = 0; monitors && p < 3; p++) {
            run(&(struct hiding){policies[p], bits & 1, true, bits & 2});
        }
    }
    run(&(struct hiding){"freeze", true, false, false});
    run(&(struct hiding){"freeze", false, false, false});
    struct child child = run_child(opened_after, &(struct hiding){.on_fault = "freeze"});
    CHECK_PASSED(child);
    return 0;
}
