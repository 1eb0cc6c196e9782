/*
 * harness.h: what the C tests share: checks, children with a time-out, and the cells memory x trap.
 *
 * One program, one behaviour. Exit code 0 passes, 77 skips with the reason printed last, all else fails. What dies,
 * dies in a child process.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <bufpool/bufpool.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HARNESS_SKIP 77
#define HARNESS_LIMIT 500 /* seconds that a program may run: only what hangs meets it, on a busy machine too */
#define CHILD_LIMIT 200   /* seconds that a child may run */
#define WAIT_LIMIT 100    /* seconds that one waits for what another thread or process is to do */
#define MAYBE_UNUSED __attribute__((unused))

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* The thread sanitizer runs handlers with every signal blocked, so that a fault inside one kills at once. */
#if defined(__SANITIZE_THREAD__)
#define NESTED_FAULTS 0
#else
#define NESTED_FAULTS 1
#endif

#define GRANULE 4096
#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)

/* ---- Checks: the first that fails ends the process ---- */

MAYBE_UNUSED static const char *last_error(void)
{
    static _Thread_local char text[1024];
    text[0] = 0;
    bufpool_last_error(text, sizeof text);
    return text;
}

__attribute__((noreturn)) MAYBE_UNUSED static void harness_fail(void)
{
    fflush(stdout);
    fflush(stderr);
    _exit(1);
}

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s is false (last error: %s)\n", __FILE__, __LINE__, #condition, last_error()); \
            harness_fail(); \
        } \
    } while (0)

/* CHECK_IS(actual, ==, expected), printed as signed and hexadecimal integers. */
#define CHECK_IS(actual, relation, expected) \
    do { \
        long long harness_a = (long long)(actual), harness_b = (long long)(expected); \
        if (!(harness_a relation harness_b)) { \
            fprintf(stderr, "%s:%d: %s %s %s is false: %lld (0x%llx) against %lld (0x%llx) (last error: %s)\n", \
                    __FILE__, __LINE__, #actual, #relation, #expected, harness_a, (unsigned long long)harness_a, \
                    harness_b, (unsigned long long)harness_b, last_error()); \
            harness_fail(); \
        } \
    } while (0)

#define CHECK_OK(call) CHECK_IS(call, ==, 0)

#define CHECK_HAS(text, part) \
    do { \
        const char *harness_text = (text), *harness_part = (part); \
        if (strstr(harness_text, harness_part) == NULL) { \
            fprintf(stderr, "%s:%d: %s lacks \"%s\": \"%s\"\n", __FILE__, __LINE__, #text, harness_part, \
                    harness_text); \
            harness_fail(); \
        } \
    } while (0)

#define CHECK_STRING(actual, expected) \
    do { \
        const char *harness_text = (actual), *harness_want = (expected); \
        if (strcmp(harness_text, harness_want) != 0) { \
            fprintf(stderr, "%s:%d: %s is \"%s\", expected \"%s\"\n", __FILE__, __LINE__, #actual, harness_text, \
                    harness_want); \
            harness_fail(); \
        } \
    } while (0)

/* ---- Small tools ---- */

/* A generator of its own for each user: the same numbers in every run. */
MAYBE_UNUSED static uint64_t next_random(uint64_t *state)
{
    *state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

MAYBE_UNUSED static void sleep_ms(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Waits for the condition, however long a busy machine takes to make it true. */
#define WAIT_FOR(condition) \
    do { \
        time_t harness_late = time(NULL) + WAIT_LIMIT; \
        while (!(condition)) { \
            if (time(NULL) > harness_late) { \
                fprintf(stderr, "%s:%d: waited %d s in vain for %s\n", __FILE__, __LINE__, WAIT_LIMIT, #condition); \
                harness_fail(); \
            } \
            sleep_ms(1); \
        } \
    } while (0)

/* Holds a lock on a setting of the whole system, as long as this process and its children live; but what hangs somewhere
 * holds up nobody for ever. */
MAYBE_UNUSED static void queue_for_setting(int fd, int how, int seconds)
{
    for (int patience = 0; fd >= 0 && flock(fd, how | LOCK_NB) < 0 && errno == EWOULDBLOCK && patience < 10 * seconds;
         patience++) {
        sleep_ms(100);
    }
}

#define OVERCOMMIT "/proc/sys/vm/overcommit_memory"
static int overcommit_lock = -1;

/* Not while a test makes the whole system strict about memory (test_overcommit.c). */
MAYBE_UNUSED static void queue_for_memory(void)
{
    overcommit_lock = open(OVERCOMMIT, O_RDONLY | O_CLOEXEC);
    queue_for_setting(overcommit_lock, LOCK_SH, 60);
}

MAYBE_UNUSED static int count_in(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = strstr(text, part); at != NULL; at = strstr(at + 1, part)) {
        count++;
    }
    return count;
}

/* One byte read or written as the compiler may not remove it, nor the sanitizers look at it. */
__attribute__((noinline, no_sanitize("address"), no_sanitize("thread"),
               no_sanitize("undefined"))) MAYBE_UNUSED static char
read_byte(const void *address)
{
    return *(const volatile char *)address;
}

__attribute__((noinline, no_sanitize("address"), no_sanitize("thread"),
               no_sanitize("undefined"))) MAYBE_UNUSED static void
write_byte(void *address, char value)
{
    *(volatile char *)address = value;
}

struct harness_thread {
    void *(*function)(void *);
    void *argument;
    pthread_t thread;
    pid_t id;
};

MAYBE_UNUSED static void *harness_run_thread(void *argument)
{
    struct harness_thread *self = argument;
    self->id = gettid();
    return self->function(self->argument);
}

/* They have ended when it returns, for the kernel, too: one that is only joined lives there for a moment. */
MAYBE_UNUSED static int run_threads(int count, void *(*function)(void *), void *arguments, size_t stride)
{
    struct harness_thread threads[128];
    CHECK(count <= 128);
    for (int i = 0; i < count; i++) {
        threads[i] = (struct harness_thread){function, (char *)arguments + (size_t)i * stride, 0, 0};
        CHECK_OK(pthread_create(&threads[i].thread, NULL, harness_run_thread, &threads[i]));
    }
    for (int i = 0; i < count; i++) {
        CHECK_OK(pthread_join(threads[i].thread, NULL));
        WAIT_FOR(syscall(SYS_tgkill, getpid(), threads[i].id, 0) != 0);
    }
    return count;
}

MAYBE_UNUSED static int count_entries(const char *path)
{
    DIR *directory = opendir(path);
    CHECK(directory != NULL);
    int count = 0;
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count;
}

/* One more than another call of it says is one descriptor more. */
MAYBE_UNUSED static int count_fds(void)
{
    return count_entries("/proc/self/fd");
}

/* ---- Pools ---- */

MAYBE_UNUSED static bufpool_pool *open_pool_fork(const char *memory, const char *trap, const char *on_fault,
                                                 uint64_t capacity, uint64_t page_size, const char *fork)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = capacity;
    config.page_size = page_size;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = on_fault;
    config.fork = fork;
    config.report_limit = UINT32_MAX;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK(pool != NULL);
    return pool;
}

MAYBE_UNUSED static bufpool_pool *open_pool(const char *memory, const char *trap, const char *on_fault,
                                            uint64_t capacity, uint64_t page_size)
{
    return open_pool_fork(memory, trap, on_fault, capacity, page_size, "inherit");
}

MAYBE_UNUSED static bufpool_statistics stats_of(const bufpool_pool *pool)
{
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    CHECK_OK(bufpool_stats(pool, &statistics));
    return statistics;
}

MAYBE_UNUSED static bufpool_state state_of(const bufpool_pool *pool, uint64_t page)
{
    bufpool_state state = (bufpool_state)-1;
    CHECK_OK(bufpool_page_state(pool, page, &state));
    return state;
}

/* Does a touch of the address trap? fault may be NULL. */
MAYBE_UNUSED static bool traps_at(const void *address, bufpool_fault *fault)
{
    char byte;
    int code = bufpool_guarded_copy(&byte, address, 1, fault);
    CHECK(code == 0 || code == BUFPOOL_ESTRAY);
    return code == BUFPOOL_ESTRAY;
}

/* ---- Cells ---- */

typedef void (*cell_function)(const char *memory, const char *trap);

/* Is the memory one of huge granules? Those take tests, and machines, of their own: see cells.h. */
MAYBE_UNUSED static bool is_huge_memory(const char *memory)
{
    return strcmp(memory, "anon") != 0 && strcmp(memory, "shared") != 0;
}

/* What "auto" has to come out as on this memory; NULL: the run does not say. BUFPOOL_EXPECT_AUTO is for small pages. */
MAYBE_UNUSED static const char *expected_auto(void)
{
    const char *expected = getenv("BUFPOOL_EXPECT_AUTO");
    return expected == NULL || expected[0] == 0 ? NULL : expected;
}

/* Calls function for each trap that goes with the memory and that this machine has. Those it has not are printed with the
 * reason. Returns how many were called. */
MAYBE_UNUSED static int for_each_trap(const char *memory, cell_function function, bool untrapped_too)
{
    int run = 0;
    for (size_t t = 0; bufpool_trap_name(t) != NULL; t++) {
        const char *trap = bufpool_trap_name(t);
        if (bufpool_cell(memory, trap, NULL) != 0 || (strcmp(trap, "none") == 0 && !untrapped_too)) {
            continue;
        }
        int code = bufpool_probe(memory, trap, NULL, 0);
        if (code == BUFPOOL_EUNSUPPORTED) {
            printf("skipped cell %s/%s: %s\n", memory, trap, last_error());
            continue;
        }
        CHECK_OK(code);
        printf("cell %s/%s\n", memory, trap);
        fflush(stdout);
        function(memory, trap);
        run++;
    }
    return run;
}

/* The same for each memory of small pages. Returns the program's exit code: 77 if there was none at all. Checks
 * BUFPOOL_EXPECT_AUTO (what "auto" has to come out as). */
MAYBE_UNUSED static int for_each_cell(cell_function function, bool untrapped_too)
{
    int run = 0;
    for (size_t m = 0; bufpool_memory_name(m) != NULL; m++) {
        const char *memory = bufpool_memory_name(m);
        if (is_huge_memory(memory)) {
            continue;
        }
        if (expected_auto() != NULL) {
            char found[16] = "";
            CHECK_OK(bufpool_probe(memory, "auto", found, sizeof found));
            CHECK_STRING(found, expected_auto());
        }
        run += for_each_trap(memory, function, untrapped_too);
    }
    if (run == 0) {
        printf("no memory x trap cell can be had here (reasons above)\n");
    }
    return run == 0 ? HARNESS_SKIP : 0;
}

/* ---- Children ---- */

struct child {
    int status; /* as waitpid() gives it */
    char *text; /* what it wrote to stderr, terminated; until the next child */
    size_t length;
};

/* A child made past the handlers of pthread_atfork(). */
MAYBE_UNUSED static pid_t bare_fork(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

/* The child's side: stderr goes to the pipe, an alarm bounds it, no core file is left behind. */
__attribute__((noreturn)) MAYBE_UNUSED static void child_body(int output, void (*function)(void *), void *argument)
{
    dup2(output, STDERR_FILENO);
    close(output);
    alarm(CHILD_LIMIT);
    function(argument);
    fflush(stderr);
    _exit(0);
}

/* Runs function in a child that make() forks; every byte of its stderr is kept. A child that does not end in time is
 * killed, and that fails the test. Call with no other thread running. */
MAYBE_UNUSED static struct child run_child_of(pid_t (*make)(void), void (*function)(void *), void *argument)
{
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    fflush(stdout);
    fflush(stderr);
    pid_t pid = make();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        child_body(ends[1], function, argument);
    }
    close(ends[1]);
    static char *text;
    static size_t room;
    struct child child = {0, text, 0};
    time_t deadline = time(NULL) + CHILD_LIMIT + 5;
    for (;;) {
        struct pollfd ready = {ends[0], POLLIN, 0};
        if (poll(&ready, 1, 1000) == 0 && time(NULL) > deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, &child.status, 0);
            fprintf(stderr, "a child did not end in %d s; its stderr so far:\n%.*s\n", CHILD_LIMIT, (int)child.length,
                    child.text);
            harness_fail();
        }
        if (child.length + 65536 > room) {
            room = 2 * (child.length + 65536);
            child.text = text = realloc(text, room);
            CHECK(text != NULL);
        }
        ssize_t got = ready.revents == 0 ? -1 : read(ends[0], child.text + child.length, 65535);
        if (got == 0) {
            break;
        }
        child.length += got > 0 ? (size_t)got : 0;
    }
    child.text[child.length] = 0;
    close(ends[0]);
    CHECK_IS(waitpid(pid, &child.status, 0), ==, pid);
    return child;
}

MAYBE_UNUSED static struct child run_child(void (*function)(void *), void *argument)
{
    return run_child_of(fork, function, argument);
}

/* What a child wrote belongs to every failure about it. */
#define CHECK_CHILD(condition, child) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s is false; the child ended with status 0x%x and wrote:\n%s\n", __FILE__, \
                    __LINE__, #condition, (child).status, (child).text); \
            harness_fail(); \
        } \
    } while (0)

#define CHECK_PASSED(child) CHECK_CHILD(WIFEXITED((child).status) && WEXITSTATUS((child).status) == 0, child)
#define CHECK_DIED(child, signo) CHECK_CHILD(WIFSIGNALED((child).status) && WTERMSIG((child).status) == (signo), child)

MAYBE_UNUSED static void passes(void (*function)(void *), void *argument)
{
    struct child child = run_child(function, argument);
    CHECK_PASSED(child);
}

/* Which signal a hole of this trap raises. */
MAYBE_UNUSED static int signal_of(const char *trap)
{
    return strcmp(trap, "uffd") == 0 || strcmp(trap, "noautofill") == 0 ? SIGBUS : SIGSEGV;
}

/* First line of every main(). */
/* In a forked child the thread sanitizer's runtime, whose fork handlers come first, maps a stack of 8 MiB for its own
 * thread: in the highest gap, which is this one, and not where a pool was. */
static void leave_gap(void)
{
#if defined(__SANITIZE_THREAD__)
    size_t length = 32 << 20;
    void *gap = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(gap != MAP_FAILED);
    CHECK_OK(madvise(gap, length, MADV_DONTFORK));
#endif
}

MAYBE_UNUSED static void harness_begin(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    leave_gap();
    queue_for_memory();
    alarm(HARNESS_LIMIT);
}

#endif
