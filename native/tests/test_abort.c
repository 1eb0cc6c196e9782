/* on_fault "abort": the report is on stderr, and the process dies of the trap's signal at the faulting instruction. */
#include "harness.h"

#include <inttypes.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static const char *memory, *trap;

struct deed {
    bufpool_state state;
    bool write;
    uint64_t page;
    uint64_t offset;
};

static bufpool_pool *prepare(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 8 * 8192;
    config.page_size = 8192;
    config.memory = memory;
    config.trap = trap;
    config.name = "deeds";
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_OK(bufpool_evict(pool, 2));
    return pool;
}

static void commit(void *argument)
{
    const struct deed *deed = argument;
    bufpool_pool *pool = prepare();
    char *at = (char *)bufpool_address(pool, deed->page) + deed->offset;
    if (deed->state == BUFPOOL_STATE_CLOSED) {
        CHECK_OK(bufpool_close(pool));
    }
    fprintf(stderr, "straying at 0x%" PRIxPTR "\n", (uintptr_t)at);
    if (deed->write) {
        write_byte(at, 1);
    } else {
        read_byte(at);
    }
    fprintf(stderr, "the access went through\n");
}

static void reports(void)
{
    static const struct deed deeds[] = {
        {BUFPOOL_STATE_UNALLOCATED, false, 7, 8191}, {BUFPOOL_STATE_UNALLOCATED, true, 4, 0},
        {BUFPOOL_STATE_FREED, false, 1, 4096},       {BUFPOOL_STATE_FREED, true, 1, 17},
        {BUFPOOL_STATE_EVICTED, false, 2, 4095},     {BUFPOOL_STATE_EVICTED, true, 2, 5000},
        {BUFPOOL_STATE_CLOSED, false, 0, 1},         {BUFPOOL_STATE_CLOSED, true, 3, 8191},
    };
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        struct deed deed = deeds[i];
        struct child child = run_child(commit, &deed);
        CHECK_DIED(child, deed.state == BUFPOOL_STATE_CLOSED ? SIGSEGV : signal_of(trap));
        CHECK_CHILD(strstr(child.text, "went through") == NULL, child);
        const char *straying = strstr(child.text, "straying at ");
        CHECK_CHILD(straying != NULL, child);
        char part[128];
        snprintf(part, sizeof part, "%s at address %.*s, pc 0x", deed.write ? "WRITE" : "READ",
                 (int)strcspn(straying + 12, "\n"), straying + 12);
        CHECK_HAS(child.text, part);
        snprintf(part, sizeof part, "page %" PRIu64 " of pool \"deeds\" is %s; offset %" PRIu64 " of 8192", deed.page,
                 bufpool_state_name(deed.state), deed.offset);
        CHECK_HAS(child.text, part);
        snprintf(part, sizeof part, "memory %s, trap %s", memory, trap);
        CHECK_HAS(child.text, part);
        CHECK_HAS(child.text, "test_abort+0x"); /* the stack's modules */
        CHECK_HAS(child.text, "#2 0x");
        CHECK_CHILD(count_in(child.text, "==ERROR: bufpool") == 1, child);
        CHECK_CHILD(count_in(child.text, "==END of bufpool report 1") == 1, child);
    }
}

/* ---- What a debugger or a core dump sees ---- */

struct stop {
    int signo;
    siginfo_t info;
    uintptr_t pc;
};

/* Runs function as a traced child and notes every signal that it is stopped by. Returns the signal that it died of, or
 * 0. */
static int trace(void (*function)(void *), void *argument, struct stop *stops, int room, int *count)
{
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(null >= 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
            _exit(HARNESS_SKIP);
        }
        child_body(null, function, argument);
    }
    close(null);
    *count = 0;
    int status;
    for (;;) {
        CHECK_IS(waitpid(pid, &status, 0), ==, pid);
        if (!WIFSTOPPED(status)) {
            break;
        }
        CHECK(*count < room);
        struct stop *stop = &stops[(*count)++];
        stop->signo = WSTOPSIG(status);
        CHECK_OK(ptrace(PTRACE_GETSIGINFO, pid, NULL, &stop->info));
#if defined(__x86_64__)
        struct user_regs_struct registers;
        CHECK_OK(ptrace(PTRACE_GETREGS, pid, NULL, &registers));
        stop->pc = registers.rip;
#endif
        CHECK_OK(ptrace(PTRACE_CONT, pid, NULL, (void *)(intptr_t)stop->signo));
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == HARNESS_SKIP) {
        return -1;
    }
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* The last signal before death is the first one again: same address, same code, same instruction. */
static void check_default_action(void (*function)(void *), void *argument, int signo, uintptr_t address)
{
    struct stop stops[8];
    int count;
    int died = trace(function, argument, stops, 8, &count);
    if (died == -1) {
        printf("skipped the traced child: ptrace is refused\n");
        return;
    }
    CHECK_IS(died, ==, signo);
    CHECK_IS(count, ==, 2);
    for (int i = 0; i < 2; i++) {
        CHECK_IS(stops[i].signo, ==, signo);
        CHECK_IS(stops[i].info.si_code, >, 0);
        CHECK_IS(stops[i].info.si_code, ==, stops[0].info.si_code);
        CHECK_IS((uintptr_t)stops[i].info.si_addr, ==, (uintptr_t)stops[0].info.si_addr);
        CHECK_IS(stops[i].pc, ==, stops[0].pc);
    }
    if (address != 0) {
        CHECK_IS((uintptr_t)stops[0].info.si_addr, ==, address);
    }
}

static void foreign(void *argument)
{
    prepare();
    read_byte(*(char **)argument);
}

/* A fault outside of any pool, with nobody to take it: the same death as without the library. */
static void *closed_memory;

static void frames(void)
{
    struct deed deed = {BUFPOOL_STATE_FREED, true, 1, 17};
    check_default_action(commit, &deed, signal_of(trap), 0);
    char *wild[] = {(char *)0x1238, closed_memory};
    for (int i = 0; i < 2; i++) {
        check_default_action(foreign, &wild[i], SIGSEGV, (uintptr_t)wild[i]);
    }
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    reports();
    frames();
}

int main(void)
{
    harness_begin();
    closed_memory = mmap(NULL, GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(closed_memory != MAP_FAILED);
    return for_each_cell(cell, false);
}
