/* A system call on a stray buffer, with a monitor, under each policy, in guarded calls and with callbacks; and threads
 * that cannot be told: they block the signal, or are another process's. */
#include "monitor.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static char *hole_of(bufpool_pool *pool, uint64_t *page)
{
    CHECK_OK(bufpool_allocate(pool, "content", 8, page));
    CHECK_OK(bufpool_evict(pool, *page));
    return bufpool_address(pool, *page);
}

static int stray_write(const char *hole)
{
    int ends[2];
    CHECK_OK(pipe(ends));
    ssize_t written = write(ends[1], hole, 10);
    int code = written < 0 ? errno : 0;
    close(ends[0]);
    close(ends[1]);
    return code;
}

/* ---- abort ---- */

static void under_abort(void *blocked)
{
    uint64_t page;
    bufpool_pool *pool = open_monitored("anon", "abort", MIB, GRANULE);
    char *hole = hole_of(pool, &page);
    if (blocked != NULL) {
        sigset_t set;
        sigfillset(&set);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    }
    stray_write(hole);
    for (;;) {
        pause(); /* where the signal is blocked, the monitor ends the process */
    }
}

static void abort_dies(void)
{
    for (int blocked = 0; blocked < 2; blocked++) {
        struct child child = run_child(under_abort, blocked ? &blocked : NULL);
        CHECK_DIED(child, SIGBUS);
        CHECK_HAS(child.text, "READ by system call write at address 0x");
        CHECK_HAS(child.text, "is evicted; offset 0");
        CHECK_IS(count_in(child.text, "==ERROR"), ==, 1);
    }
}

/* ---- resume, with the signal blocked ---- */

static void blocked(void)
{
    uint64_t page;
    uint64_t after = 0;
    bufpool_pool *pool = open_monitored("anon", "resume", MIB, GRANULE);
    char *hole = hole_of(pool, &page);
    bufpool_fault faults[4];
    sigset_t set;
    sigset_t before;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    for (int i = 0; i < 5; i++) {
        CHECK_IS(stray_write(hole + i), ==, EFAULT);
        CHECK_IS(new_faults(pool, &after, faults, 4), ==, 1);
        CHECK_STRING(faults[0].in_syscall, "write");
        CHECK_IS(faults[0].address, ==, (uintptr_t)hole + (unsigned)i);
        CHECK_IS(faults[0].thread_id, ==, syscall(SYS_gettid));
        WAIT_WATCHFUL(pool); /* this thread does not say when the call was over */
    }
    /* Without the monitor the kernel would have ended the process. */
    CHECK_IS((unsigned char)read_byte(hole + 9), ==, BUFPOOL_POISON);
    CHECK_IS(new_faults(pool, &after, faults, 4), ==, 1);
    CHECK_STRING(faults[0].in_syscall, "");
    CHECK_IS(faults[0].address, ==, (uintptr_t)hole + 9);
    sigset_t pending;
    sigpending(&pending);
    CHECK_IS(sigismember(&pending, SIGBUS), ==, 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    CHECK_OK(bufpool_populate(pool, page, "again", 6));
    CHECK_OK(memcmp(hole, "again", 6));
    CHECK_OK(bufpool_close(pool));
}

/* ---- guarded calls ---- */

struct request {
    char *hole;
    bool came_back;
};

static void guarded_write(void *argument)
{
    struct request *request = argument;
    int ends[2];
    CHECK_OK(pipe(ends));
    (void)!write(ends[1], request->hole + 3, 10);
    request->came_back = true;
}

static void guarded(void)
{
    uint64_t page;
    bufpool_pool *pool = open_monitored("anon", "abort", MIB, GRANULE);
    struct request request = {hole_of(pool, &page), false};
    for (int i = 0; i < 5; i++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS(bufpool_guarded_call(guarded_write, &request, &fault), ==, BUFPOOL_ESTRAY);
        CHECK(!request.came_back);
        CHECK_STRING(fault.in_syscall, "write");
        CHECK_IS(fault.address, ==, (uintptr_t)request.hole + 3);
    }
    CHECK_OK(bufpool_close(pool));
}

/* ---- callbacks ---- */

static bufpool_verdict verdict;
static atomic_int asked;
static char asked_about[32];
static int32_t asked_on;

static bufpool_verdict callback(const bufpool_fault *fault, void *context)
{
    (void)context;
    atomic_fetch_add(&asked, 1);
    memcpy(asked_about, fault->in_syscall, sizeof asked_about);
    asked_on = (int32_t)syscall(SYS_gettid);
    return verdict;
}

static void callbacks(void)
{
    uint64_t page;
    bufpool_pool *pool = open_monitored("anon", "resume", MIB, GRANULE);
    char *hole = hole_of(pool, &page);
    CHECK_OK(bufpool_set_fault_callback(pool, callback, NULL));
    const bufpool_verdict verdicts[] = {BUFPOOL_VERDICT_REPORT, BUFPOOL_VERDICT_RESTART, BUFPOOL_VERDICT_RESUME,
                                        BUFPOOL_VERDICT_PASS};
    for (int i = 0; i < 4; i++) {
        verdict = verdicts[i];
        CHECK_IS(stray_write(hole), ==, EFAULT);
        CHECK_IS(atomic_load(&asked), ==, i + 1);
        CHECK_STRING(asked_about, "write");
        CHECK_IS(asked_on, ==, syscall(SYS_gettid));
    }
    CHECK_IS(stats_of(pool).faults, ==, 2); /* REPORT and RESUME, as with accesses of the program's own */
    CHECK_OK(bufpool_close(pool));
}

/* ---- data for an allocation that strays itself ---- */

static void own_calls(void)
{
    uint64_t page;
    uint64_t other;
    bufpool_pool *pool = open_monitored("anon", "resume", MIB, GRANULE);
    char *hole = hole_of(pool, &page);
    for (int i = 0; i < 5; i++) {
        CHECK_IS(bufpool_allocate(pool, hole, GRANULE, &other), ==, BUFPOOL_ESTRAY);
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_OK(bufpool_last_fault(&fault));
        CHECK_STRING(fault.in_syscall, "");
        CHECK_IS(stats_of(pool).faults, ==, i + 1);
    }
    CHECK_OK(bufpool_close(pool));
}

/* ---- another process reads ---- */

static void foreign(void)
{
    uint64_t page;
    uint64_t after = 0;
    bufpool_pool *pool = open_monitored("anon", "abort", MIB, GRANULE); /* the process is not to blame: it lives on */
    char *hole = hole_of(pool, &page);
    pid_t parent = getpid();
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char buffer[16];
        struct iovec to = {buffer, 16};
        struct iovec from = {hole + 5, 16};
        ssize_t got = process_vm_readv(parent, &to, 1, &from, 1, 0);
        _exit(got < 0 ? errno : 0);
    }
    int status;
    CHECK_IS(waitpid(child, &status, 0), ==, child);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) == EPERM) {
        printf("process_vm_readv is refused here: not tried\n");
    } else {
        CHECK_IS(WEXITSTATUS(status), ==, EFAULT);
        bufpool_fault faults[4];
        CHECK_IS(new_faults(pool, &after, faults, 4), ==, 1);
        CHECK_IS(faults[0].thread_id, ==, child);
        CHECK_STRING(faults[0].in_syscall, "process_vm_readv");
        CHECK(faults[0].flags & BUFPOOL_FAULT_FOREIGN);
        CHECK_IS(faults[0].address & ~(uint64_t)(GRANULE - 1), ==, (uintptr_t)hole);
        char text[8192];
        bufpool_format_text(&faults[0], text, sizeof text);
        CHECK_HAS(text, "note: made by another process");
    }
    CHECK_OK(bufpool_close(pool));
}

/* ---- a forked child ---- */

/* It has no monitor, and says so; everything else traps. */
static void in_child(void *argument)
{
    bufpool_pool *pool = argument;
    char *hole = bufpool_address(pool, 0);
    CHECK_HAS(stats_of(pool).memory_note, "system calls are not monitored in this forked child");
    CHECK_IS(stray_write(hole), ==, EFAULT);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK(traps_at(hole, NULL));
    CHECK_OK(bufpool_populate(pool, 0, "child", 6));
    CHECK_OK(stray_write(hole));
    CHECK_OK(bufpool_close(pool));
    if (!SANITIZED) { /* their runtimes do not bear a thread's start in a forked child */
        bufpool_pool *own = open_monitored("anon", "resume", MIB, GRANULE);
        CHECK_IS(stray_write(bufpool_address(own, 3)), ==, EFAULT);
        CHECK_IS(stats_of(own).faults, ==, 1);
        CHECK_OK(bufpool_close(own));
    }
}

static void forked(void)
{
    uint64_t page;
    bufpool_pool *pool = open_monitored("anon", "resume", MIB, GRANULE);
    char *hole = hole_of(pool, &page);
    CHECK_IS(page, ==, 0);
    CHECK_IS(stray_write(hole), ==, EFAULT);
    CHECK_PASSED(run_child(in_child, pool));
    CHECK_IS(stray_write(hole), ==, EFAULT);
    CHECK_IS(stats_of(pool).faults, ==, 2);
    CHECK_STRING(stats_of(pool).memory_note, "");
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (!can_monitor()) {
        return HARNESS_SKIP;
    }
    abort_dies();
    blocked();
    guarded();
    callbacks();
    own_calls();
    foreign();
    forked();
    return 0;
}
