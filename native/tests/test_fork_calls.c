/* What fork handlers of the host may call between ours, before the fork and after it in the parent: to open and close
 * pools, to release one, to install the handlers, to fork. Nothing hangs, parent and child are as they should be. */
#include "harness.h"

#include <signal.h>

enum { NOTHING, OPEN, CLOSE, RELEASE, INSTALL, FORK, CALLS };
enum { BEFORE, AFTER };

static const char *memory, *trap;
static int does, when;
static bufpool_pool *pool, *other, *opened;
static uint64_t page;
static bool forked_again; /* this is the child of the fork handler */

static bool is_inherited(void)
{
    return strcmp(memory, "anon") == 0 || strcmp(trap, "uffd") == 0;
}

static bool is_clear(int signo)
{
    sigset_t mask;
    CHECK_OK(pthread_sigmask(SIG_BLOCK, NULL, &mask));
    return !sigismember(&mask, signo);
}

static void fork_again(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        CHECK(traps_at(bufpool_address(pool, 5), NULL));
        CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, is_inherited() ? 0 : BUFPOOL_EUNSUPPORTED);
        forked_again = true;
        return; /* and goes on with its parent's fork */
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK_IS(status, ==, 0);
}

static void act(int here)
{
    int call = does;
    if (when != here) {
        return;
    }
    does = NOTHING;
    switch (call) {
    case OPEN:
        opened = open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE);
        CHECK_OK(bufpool_allocate(opened, "opened", 7, &page));
        CHECK(traps_at(bufpool_address(opened, 9), NULL));
        break;
    case CLOSE:
        CHECK_OK(bufpool_close(other));
        CHECK(traps_at(bufpool_address(other, 0), NULL));
        break;
    case RELEASE:
        CHECK_OK(bufpool_release(other));
        break;
    case INSTALL:
        CHECK_OK(bufpool_install_handlers());
        break;
    case FORK:
        fork_again();
        break;
    default:
        return;
    }
    CHECK(forked_again || !is_clear(SIGUSR1)); /* as before the call */
}

static void before(void)
{
    act(BEFORE);
}

static void after(void)
{
    act(AFTER);
}

/* In the child of that fork. */
static void check_child(int call)
{
    CHECK(is_clear(SIGUSR1));
    CHECK(traps_at(bufpool_address(pool, 5), NULL));
    int code = bufpool_allocate(pool, NULL, 0, &page);
    CHECK_IS(code, ==, is_inherited() ? 0 : BUFPOOL_EUNSUPPORTED);
    code = bufpool_allocate(other, NULL, 0, &page);
    if (call == CLOSE && when == BEFORE) {
        CHECK_IS(code, ==, BUFPOOL_ECLOSED);
    } else if (call == CLOSE && code == BUFPOOL_ECLOSED) {
        CHECK_STRING(memory, "shared"); /* closed for all, sooner or later */
    } else {
        CHECK_IS(code, ==, is_inherited() ? 0 : BUFPOOL_EUNSUPPORTED);
    }
    CHECK(traps_at(bufpool_address(other, 5), NULL));
    if (call == OPEN && when == BEFORE) {
        CHECK(traps_at(bufpool_address(opened, 0), NULL));
        CHECK(traps_at(bufpool_address(opened, 9), NULL));
        CHECK_IS(bufpool_allocate(opened, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "a fork handler opened it when the fork had been prepared");
    }
    CHECK_OK(bufpool_close(open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE)));
}

static void check_parent(int call)
{
    CHECK(is_clear(SIGUSR1));
    CHECK_STRING(bufpool_address(pool, 0), "content");
    CHECK(traps_at(bufpool_address(pool, 5), NULL));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_free(pool, page));
    CHECK_IS(bufpool_allocate(other, NULL, 0, &page), ==, call == CLOSE ? BUFPOOL_ECLOSED : 0);
    CHECK_IS(bufpool_release(other), ==, call == RELEASE ? BUFPOOL_EARGUMENT : 0);
    if (call == OPEN) {
        CHECK_STRING(bufpool_address(opened, 0), "opened");
        CHECK_OK(bufpool_free(opened, 0));
        CHECK_OK(bufpool_close(opened));
    }
}

static void fork_once(void *argument)
{
    int call = *(int *)argument;
    pool = open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE);
    /* One with a thread of its own, to be waited for; but then older C libraries (before glibc 2.36) cannot fork there. */
    other = open_pool(memory, trap, call == FORK ? "raise" : "freeze", 16 * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate_at(pool, 0, "content", 8));
    CHECK_OK(bufpool_keep(other));
    does = call;
    int fds = count_fds();
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        if (!forked_again) {
            check_child(call);
        }
        _exit(0);
    }
    if (forked_again && when == AFTER) { /* that fork was its parent's */
        _exit(0);
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK_IS(status, ==, 0);
    if (forked_again) {
        _exit(0);
    }
    CHECK(call == OPEN || count_fds() <= fds);
    check_parent(call);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    for (when = BEFORE; when <= AFTER; when++) {
        for (int call = OPEN; call < CALLS; call++) {
            struct child child = run_child(fork_once, &call);
            CHECK_PASSED(child);
        }
    }
}

int main(void)
{
    harness_begin();
    CHECK_OK(pthread_atfork(before, after, NULL)); /* before the first pool: they run between ours */
    return for_each_cell(cell, false);
}
