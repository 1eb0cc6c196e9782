/*
 * Makes one stray access of a kind, under a trap and a policy; tests/test_stray_table.py runs them all.
 *
 *     stray_table KIND TRAP POLICY LOG
 *
 * Before the access a line of JSON on stdout says what has to be reported; after it, "through" that the program goes on,
 * and "owed ADDRESS" what bufpool_check() handed over. Exit code 77: this cell cannot be had here, and why.
 */
#include "harness.h"

#include <bufpool/optimistic.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { DATA = 0, FREED = 2, EVICTED = 3, LAST = 8, UNALLOCATED = 9, PAGES = 16 };

static bufpool_pool *pool;
static const char *trap, *policy, *logged;

static char *page_at(uint64_t page)
{
    return bufpool_address(pool, page);
}

static void open_with(uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    config.trap = trap;
    config.on_fault = policy;
    config.log = logged;
    config.name = "table";
    config.flags = flags;
    int code = bufpool_open(&config, &pool);
    if (code == BUFPOOL_EUNSUPPORTED) {
        printf("%s\n", last_error());
        exit(HARNESS_SKIP);
    }
    CHECK_OK(code);
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_allocate_at(pool, LAST, "last", 4));
    CHECK_OK(bufpool_free(pool, FREED));
    CHECK_OK(bufpool_evict(pool, EVICTED));
}

/* What a report of the access has to say. */
static void announce_in(const char *call, const char *at, const char *state, const char *access)
{
    uint64_t offset = (uint64_t)(at - page_at(0));
    dprintf(STDOUT_FILENO,
            "{\"address\":\"0x%" PRIxPTR "\",\"page\":%" PRIu64 ",\"offset\":%" PRIu64 ",\"state\":\"%s\","
            "\"access\":\"%s\",\"pid\":%d,\"thread_id\":%d,\"in_syscall\":%s}\n",
            (uintptr_t)at, offset / GRANULE, offset % GRANULE, state, access, (int)getpid(), (int)syscall(SYS_gettid),
            call);
}

static void announce(const char *at, const char *state, const char *access)
{
    announce_in("null", at, state, access);
}

static void went_through(void)
{
    dprintf(STDOUT_FILENO, "through\n");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (bufpool_check(&fault) == BUFPOOL_ESTRAY) {
        dprintf(STDOUT_FILENO, "owed 0x%" PRIx64 "\n", fault.address);
    }
}

static void stray(char *at, const char *state, const char *access)
{
    announce(at, state, access);
    if (strcmp(access, "read") == 0) {
        read_byte(at);
    } else if (strcmp(access, "write") == 0) {
        write_byte(at, 1);
    } else {
        ((void (*)(void))(uintptr_t)at)();
    }
    went_through();
}

static void write_freed(void)
{
    stray(page_at(FREED) + 17, "freed", "write");
}

/* ---- The program itself: "STATE-ACCESS" ---- */

static bool plain(const char *kind)
{
    static const struct {
        const char *state;
        uint64_t page;
    } states[] = {
        {"unallocated", UNALLOCATED}, {"freed", FREED}, {"evicted", EVICTED}, {"closed", DATA}, {"allocated", DATA}};
    const char *dash = strchr(kind, '-');
    for (size_t i = 0; dash != NULL && i < sizeof states / sizeof *states; i++) {
        if (strncmp(kind, states[i].state, (size_t)(dash - kind)) == 0 &&
            (strcmp(dash, "-read") == 0 || strcmp(dash, "-write") == 0 || strcmp(dash, "-execute") == 0)) {
            open_with(0);
            char *at = page_at(states[i].page) + 100;
            if (strcmp(states[i].state, "closed") == 0) {
                CHECK_OK(bufpool_close(pool));
            }
            stray(at, states[i].state, dash + 1);
            return true;
        }
    }
    return false;
}

static void past_the_end(void)
{
    open_with(0);
    stray(page_at(LAST) + GRANULE, "unallocated", "read");
}

/* One load of eight bytes, the last four of which are on a page that is not there. */
__attribute__((noinline, no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined"))) static uint64_t
load(const char *at)
{
    return *(const volatile uint64_t *)(const void *)at;
}

static void across_an_edge(void)
{
    open_with(0);
    announce(page_at(LAST) + GRANULE, "unallocated", "read");
    load(page_at(LAST) + GRANULE - 4);
    went_through();
}

/* ---- Who else strays ---- */

static void *in_thread(void *argument)
{
    (void)argument;
    write_freed();
    return NULL;
}

static void thread(void)
{
    open_with(0);
    char nothing = 0;
    run_threads(1, in_thread, &nothing, 0);
}

static void in_handler(int signo)
{
    (void)signo;
    write_freed();
}

static void handler(void)
{
    open_with(0);
    struct sigaction action = {.sa_handler = in_handler};
    CHECK_OK(sigaction(SIGUSR1, &action, NULL));
    CHECK_OK(raise(SIGUSR1));
}

static void exiting(void)
{
    open_with(0);
    CHECK_OK(atexit(write_freed));
}

static void block_and_write(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    sigaddset(&set, SIGSEGV);
    CHECK_OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
    write_freed();
}

/* As its child ended, so does this process. */
static void end_as(pid_t pid)
{
    CHECK(pid > 0);
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    CHECK_IS(WEXITSTATUS(status), ==, 0);
}

static void child(void)
{
    open_with(0);
    pid_t pid = fork();
    if (pid == 0) {
        write_freed();
        _exit(0);
    }
    end_as(pid);
}

/* Made past the handlers of pthread_atfork(). */
static void bare_child(void)
{
    open_with(0);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        write_freed();
        _exit(0);
    }
    end_as(pid);
}

/* ---- Through the library ---- */

static void in_guard(void *argument)
{
    write_byte(argument, 1);
}

static void guarded(void)
{
    open_with(0);
    char *at = page_at(FREED) + 17;
    announce(at, "freed", "write");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_guarded_call(in_guard, at, &fault), ==, BUFPOOL_ESTRAY);
    dprintf(STDOUT_FILENO, "through\nowed 0x%" PRIx64 "\n", fault.address);
}

static void argument(void)
{
    open_with(0);
    char *at = page_at(FREED) + 17;
    announce(at, "freed", "read");
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, at, 100, &page), ==, BUFPOOL_ESTRAY);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_last_fault(&fault));
    dprintf(STDOUT_FILENO, "through\nowed 0x%" PRIx64 "\n", fault.address);
}

static void in_section(const char *access)
{
    open_with(0);
    char *at = page_at(FREED) + 17;
    announce(at, "freed", access);
    bufpool_section section;
    if (bufpool_optimistic_enter(&section)) {
        if (strcmp(access, "read") == 0) {
            read_byte(at);
        } else {
            write_byte(at, 1);
        }
        bufpool_optimistic_leave(&section);
        went_through();
    } else {
        CHECK(section.address == at);
        dprintf(STDOUT_FILENO, "restarted\n");
    }
}

static void section_read(void)
{
    in_section("read");
}

static void section_write(void)
{
    in_section("write");
}

/* ---- System calls ---- */

static bool monitored;

/* Without a monitor nobody is told; afterwards the program can ask. */
static void call_is_over(const char *at, size_t size)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (!monitored && bufpool_explain(at, size, &fault) == BUFPOOL_ESTRAY) {
        dprintf(STDOUT_FILENO, "explained 0x%" PRIx64 " %s\n", fault.address, bufpool_state_name(fault.state));
    }
    went_through();
}

static int file_of(const char *text)
{
    int fd = memfd_create("stray_table", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_IS(pwrite(fd, text, strlen(text), 0), ==, strlen(text));
    return fd;
}

static void write_call(void)
{
    int fd = file_of("");
    char *at = page_at(FREED) + 17;
    announce_in("\"write\"", at, "freed", "read");
    ssize_t done = write(fd, at, 100);
    CHECK(done == -1 && errno == EFAULT);
    call_is_over(at, 100);
}

static void read_call(void)
{
    int fd = file_of("some text");
    char *at = page_at(EVICTED) + 17;
    announce_in("\"read\"", at, "evicted", "write");
    ssize_t done = read(fd, at, 5);
    CHECK(done == -1 && errno == EFAULT);
    call_is_over(at, 5);
}

static void readv_call(void)
{
    int fd = file_of("some text");
    char first[5];
    char *at = page_at(UNALLOCATED) + 17;
    struct iovec parts[] = {{first, sizeof first}, {at, 4}};
    announce_in("\"readv\"", at, "unallocated", "write");
    ssize_t done = readv(fd, parts, 2);
    CHECK_IS(done, ==, sizeof first); /* no error: a short count */
    call_is_over(at, 4);
}

static const struct {
    const char *name;
    void (*call)(void);
} kinds[] = {
    {"past-the-end", past_the_end},
    {"across-an-edge", across_an_edge},
    {"thread", thread},
    {"handler", handler},
    {"atexit", exiting},
    {"child", child},
    {"bare-child", bare_child},
    {"guarded", guarded},
    {"argument", argument},
    {"section-read", section_read},
    {"section-write", section_write},
};

/* Also with a monitor: "monitored-write". */
static const struct {
    const char *name;
    void (*call)(void);
} calls[] = {{"write", write_call}, {"read", read_call}, {"readv", readv_call}, {"blocked", block_and_write}};

int main(int argc, char **argv)
{
    harness_begin();
    CHECK_IS(argc, ==, 5);
    CHECK_OK(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}));
    trap = argv[2];
    policy = argv[3];
    logged = argv[4];
    if (plain(argv[1])) {
        return 0;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(argv[1], kinds[i].name) == 0) {
            kinds[i].call();
            return 0;
        }
    }
    monitored = strncmp(argv[1], "monitored-", 10) == 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (strcmp(argv[1] + (monitored ? 10 : 0), calls[i].name) == 0) {
            open_with(monitored ? BUFPOOL_MONITOR : 0);
            calls[i].call();
            return 0;
        }
    }
    fprintf(stderr, "there is no kind %s\n", argv[1]);
    return 1;
}
