/*
 * heirs.h: one suite for what a forked child inherits, run on every memory x trap: what it reads, what traps in it, what
 * it may change, and that the parent's pool stays as it was.
 */
#ifndef HEIRS_H
#define HEIRS_H

#include "harness.h"

#include <sys/mman.h>
#include <sys/syscall.h>

static struct {
    const char *memory, *trap;
    uint64_t granule;
    bool private; /* each process has pages of its own */
    bool given;   /* the child has the pool at all */
} heir;

static bufpool_pool *pool;
static pid_t parent_pid;

/* Pages 0 and 1 hold text, 2 is evicted, 3 freed, the others are unallocated. */
#define HEIR_PAGES 8

static char *at(uint64_t page)
{
    return bufpool_address(pool, page);
}

static void open_heir(const char *on_fault)
{
    parent_pid = getpid();
    pool = open_pool(heir.memory, heir.trap, on_fault, HEIR_PAGES * heir.granule, heir.granule);
    for (uint64_t page = 0; page < 4; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, "parent", 7));
    }
    strcpy(at(1) + heir.granule / 2, "middle");
    CHECK_OK(bufpool_evict(pool, 2));
    CHECK_OK(bufpool_free(pool, 3));
}

static void check_holes(uint64_t from)
{
    for (uint64_t page = from; page < HEIR_PAGES; page++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(at(page) + heir.granule / 2 + page, &fault));
        CHECK_IS(fault.page, ==, page);
        CHECK_IS(fault.offset, ==, heir.granule / 2 + page);
        CHECK_IS(fault.pid, ==, getpid());
        CHECK_IS(fault.thread_id, ==, syscall(SYS_gettid));
        CHECK_IS(fault.signal, ==, signal_of(heir.trap));
        CHECK_IS(fault.flags, ==, getpid() == parent_pid ? 0 : BUFPOOL_FAULT_INHERITED);
        CHECK_IS(fault.state, ==, state_of(pool, page));
    }
}

static void check_whole(void)
{
    CHECK_STRING(at(0), "parent");
    CHECK_STRING(at(1), "parent");
    CHECK_STRING(at(1) + heir.granule / 2, "middle");
    CHECK_IS(state_of(pool, 0), ==, BUFPOOL_STATE_ALLOCATED);
    CHECK_IS(state_of(pool, 2), ==, BUFPOOL_STATE_EVICTED);
    CHECK_IS(state_of(pool, 3), ==, BUFPOOL_STATE_FREED);
    CHECK_IS(stats_of(pool).allocated, ==, 2);
    CHECK_IS(stats_of(pool).evicted, ==, 1);
    check_holes(2);
}

/* ---- A child that has the pool ---- */

static void use_all(void *argument)
{
    (void)argument;
    check_whole();
    CHECK_IS(stats_of(pool).faults, ==, HEIR_PAGES - 2);
    strcpy(at(0), "child");
    CHECK_OK(bufpool_populate(pool, 2, "child", 6));
    CHECK_STRING(at(2), "child");
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    for (int i = 0; i < 4; i++) {
        CHECK_IS(read_byte(at(pages[i]) + heir.granule - 1), ==, 0);
        strcpy(at(pages[i]) + 9, "mine");
    }
    CHECK_OK(bufpool_free(pool, 0)); /* a frame that came from the parent, and one that did not */
    CHECK(traps_at(at(0), NULL));
    CHECK_OK(bufpool_free_many(pool, 4, pages));
    CHECK_OK(bufpool_evict(pool, 1));
    CHECK(traps_at(at(1), NULL));
    CHECK_OK(bufpool_populate(pool, 1, NULL, 0));
    CHECK_IS(read_byte(at(1)), ==, 0);
    CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_allocate_at(pool, 0, "again", 6));
    CHECK_STRING(at(0), "again");
    check_holes(3);
    CHECK_OK(bufpool_close(pool));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(at(0), &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
}

static void look_only(void *argument)
{
    (void)argument;
    check_whole();
}

static void own_child(void *argument)
{
    (void)argument;
    check_whole();
    struct child child = run_child(use_all, NULL);
    CHECK_PASSED(child);
    CHECK_IS(parent_pid, !=, getpid());
    CHECK_STRING(at(0), "parent");
    check_holes(2);
}

static void touch(void *argument)
{
    read_byte(at(*(uint64_t *)argument) + 21);
    fprintf(stderr, "went through\n");
}

static void report_in_child(const char *on_fault)
{
    open_heir(on_fault);
    for (uint64_t page = 2; page < 5; page++) {
        struct child child = run_child(touch, &page);
        char note[80];
        snprintf(note, sizeof note, "note: this is a forked child of process %d; the pool was inherited",
                 (int)getpid());
        CHECK_CHILD(strstr(child.text, note) != NULL, child);
        CHECK_CHILD(count_in(child.text, "==ERROR") == 1, child);
        if (strcmp(on_fault, "abort") == 0) {
            CHECK_DIED(child, signal_of(heir.trap));
        } else {
            CHECK_PASSED(child);
            CHECK_HAS(child.text, "went through");
        }
    }
    CHECK_IS(stats_of(pool).faults, ==, 0);
    check_whole();
    CHECK_OK(bufpool_close(pool));
}

/* A granule that shows the pattern in the parent is a hole in the child. */
static void rearmed(void *argument)
{
    (void)argument;
    CHECK_IS(bufpool_check(NULL), ==, 0); /* what the parent is owed is not the child's */
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    check_whole();
}

static void diverted(void)
{
    open_heir("raise");
    write_byte(at(5) + 1, 1);
    write_byte(at(2) + 1, 1);
    CHECK_IS(stats_of(pool).scratched, ==, 2);
    struct child child = run_child(rearmed, NULL);
    CHECK_PASSED(child);
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    check_whole();
    CHECK_OK(bufpool_close(pool));
}

/* ---- A child that shares the frames ---- */

static void use_shared(void *argument)
{
    (void)argument;
    check_whole();
    strcpy(at(1) + heir.granule / 2, "shared");
    CHECK_OK(bufpool_populate(pool, 2, "child", 6));
    CHECK_OK(bufpool_allocate_at(pool, 5, "child", 6));
    CHECK_OK(bufpool_free(pool, 0));
    CHECK(traps_at(at(0), NULL));
    CHECK_OK(bufpool_close(pool)); /* its own mapping only */
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(at(1), &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
}

static void check_shared(void)
{
    static const bufpool_state states[] = {
        BUFPOOL_STATE_FREED,       BUFPOOL_STATE_ALLOCATED, BUFPOOL_STATE_ALLOCATED,   BUFPOOL_STATE_FREED,
        BUFPOOL_STATE_UNALLOCATED, BUFPOOL_STATE_ALLOCATED, BUFPOOL_STATE_UNALLOCATED, BUFPOOL_STATE_UNALLOCATED};
    for (uint64_t page = 0; page < HEIR_PAGES; page++) {
        CHECK_IS(state_of(pool, page), ==, states[page]);
        CHECK_IS(traps_at(at(page), NULL), ==, states[page] != BUFPOOL_STATE_ALLOCATED);
    }
    CHECK_STRING(at(1) + heir.granule / 2, "shared");
    CHECK_STRING(at(2), "child");
    CHECK_STRING(at(5), "child");
    CHECK_IS(stats_of(pool).allocated, ==, 3);
    CHECK_IS(stats_of(pool).evicted, ==, 0);
    CHECK_IS(stats_of(pool).frees, ==, 2);
}

/* Two processes in turn: each says where it is, and waits for the other. */
static int turns[2][2];

static void pass_turn(int side)
{
    CHECK_IS(write(turns[1 - side][1], "x", 1), ==, 1);
}

/* false: the other one has ended. */
static bool await_turn(int side)
{
    char byte;
    return read(turns[side][0], &byte, 1) == 1;
}

#define STEP(side) (pass_turn(side), await_turn(side))

static void sibling(void)
{
    CHECK(await_turn(1));
    CHECK_STRING(at(4), "after the fork"); /* the parent's, allocated since */
    CHECK(traps_at(at(1), NULL));          /* freed since */
    CHECK_IS(state_of(pool, 1), ==, BUFPOOL_STATE_FREED);
    write_byte(at(6) + 1, 1); /* a stray write that is diverted here, and only here */
    CHECK_IS((unsigned char)read_byte(at(6)), ==, BUFPOOL_POISON);
    CHECK_IS(stats_of(pool).scratched, ==, 1);
    CHECK(STEP(1));
    CHECK_IS(read_byte(at(6) + 1), ==, 1); /* the parent has strayed there, too, and has armed it again */
    CHECK(STEP(1));
    CHECK_OK(bufpool_check(NULL)); /* armed again here */
    CHECK(traps_at(at(6), NULL));
    CHECK(STEP(1));
    CHECK_STRING(at(6), "given");
    CHECK(STEP(1)); /* the parent closes the pool */
    CHECK_IS(bufpool_free(pool, 6), ==, BUFPOOL_ECLOSED);
    CHECK_HAS(last_error(), "by the process that opened it");
    CHECK_IS(state_of(pool, 6), ==, BUFPOOL_STATE_CLOSED);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(at(6) + 3, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
    CHECK_IS((unsigned char)read_byte(at(6)), ==, BUFPOOL_POISON);
    CHECK_OK(bufpool_check(NULL));
    CHECK(traps_at(at(6) + 3, &fault));
    CHECK_OK(bufpool_close(pool));
    CHECK(traps_at(at(6) + 3, &fault));
    pass_turn(1);
}

static void interplay(void)
{
    open_heir("resume");
    int keep = dup(STDERR_FILENO);
    int reports = memfd_create("reports", MFD_CLOEXEC); /* of both, and what the child has to say */
    CHECK(keep >= 0 && reports >= 0);
    CHECK_OK(pipe2(turns[0], O_CLOEXEC));
    CHECK_OK(pipe2(turns[1], O_CLOEXEC));
    fflush(NULL);
    dup2(reports, STDERR_FILENO);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        close(turns[0][0]);
        close(turns[1][1]);
        sibling();
        _exit(0);
    }
    close(turns[1][0]);
    close(turns[0][1]);
    CHECK_OK(bufpool_allocate_at(pool, 4, "after the fork", 15));
    CHECK_OK(bufpool_free(pool, 1));
    bool alive = STEP(0);
    if (alive) { /* the child shows the pattern at page 6 */
        CHECK(traps_at(at(6), NULL));
        CHECK_IS((unsigned char)read_byte(at(6)), ==, BUFPOOL_POISON);
        CHECK_IS(bufpool_allocate_at(pool, 6, NULL, 0), ==, BUFPOOL_ESTATE); /* while it does */
        CHECK(traps_at(at(6), NULL));
        alive = STEP(0);
    }
    if (alive) {
        CHECK(traps_at(at(6), NULL));
        alive = STEP(0);
    }
    if (alive) {
        CHECK_OK(bufpool_allocate_at(pool, 6, "given", 6));
        alive = STEP(0);
    }
    if (alive) {
        CHECK_IS(stats_of(pool).allocated, ==, 3);
        CHECK_OK(bufpool_close(pool));
        alive = STEP(0);
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    dup2(keep, STDERR_FILENO);
    static char text[65536];
    ssize_t length = pread(reports, text, sizeof text - 1, 0);
    struct child child = {status, text, (size_t)length};
    CHECK_PASSED(child);
    CHECK_CHILD(alive && count_in(text, "==ERROR") == 3, child); /* one of them the parent's */
    close(keep);
    close(reports);
    close(turns[0][0]);
    close(turns[1][1]);
}

/* Processes that allocate and free at once: no page is given out twice, and the counts come out. */
static void allocator(uint64_t seed)
{
    uint64_t pages[8];
    for (int round = 0; round < (SANITIZED ? 50 : 400); round++) {
        size_t count = 1 + next_random(&seed) % 8;
        int code = bufpool_allocate_many(pool, count, pages);
        CHECK(code == 0 || code == BUFPOOL_EEXHAUSTED);
        for (size_t i = 0; i < count && code == 0; i++) {
            CHECK_IS(*(volatile uint64_t *)at(pages[i]), ==, 0);
            *(volatile uint64_t *)at(pages[i]) = seed;
        }
        for (size_t i = 0; i < count && code == 0; i++) {
            CHECK_IS(*(volatile uint64_t *)at(pages[i]), ==, seed);
        }
        CHECK_OK(code == 0 ? bufpool_free_many(pool, count, pages) : 0);
    }
}

static void together(void)
{
    pool = open_pool(heir.memory, heir.trap, "abort", 20 * heir.granule, heir.granule);
    pid_t pids[3];
    for (uint64_t i = 0; i < 3; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] == 0) {
            alarm(CHILD_LIMIT);
            allocator(i + 1);
            _exit(0);
        }
    }
    allocator(9);
    for (int i = 0; i < 3; i++) {
        int status;
        CHECK_IS(waitpid(pids[i], &status, 0), ==, pids[i]);
        CHECK_IS(status, ==, 0);
    }
    CHECK_IS(stats_of(pool).allocated, ==, 0);
    CHECK_IS(stats_of(pool).allocations, ==, stats_of(pool).frees);
    for (uint64_t page = 0; page < 20; page++) {
        CHECK(traps_at(at(page), NULL));
    }
    uint64_t pages[20];
    CHECK_OK(bufpool_allocate_many(pool, 20, pages));
    CHECK_OK(bufpool_close(pool));
}

static void share(void)
{
    struct child child = run_child(look_only, NULL);
    CHECK_PASSED(child);
    child = run_child(use_shared, NULL);
    CHECK_PASSED(child);
    check_shared();
    CHECK_OK(bufpool_close(pool));
    interplay();
    together();
}

/* ---- One that has not ---- */

static void refused(void *argument)
{
    const char *reason = argument;
    uint64_t page = 0;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), reason);
    CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_IS(bufpool_close(pool), ==, BUFPOOL_EUNSUPPORTED);
#if !defined(__SANITIZE_THREAD__) /* its runtime maps memory of its own where a child's holes are */
    for (page = 0; page < HEIR_PAGES; page++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(at(page) + page, &fault));
        CHECK_IS(fault.signal, ==, SIGSEGV);
        CHECK_IS(fault.page, ==, page);
        CHECK_IS(fault.offset, ==, page);
        CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_FORKED);
        CHECK_HAS(fault.fork_note, reason);
    }
#endif
}

/* ---- All of it ---- */

static int count_maps(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    int lines = 0;
    for (int c = fgetc(maps); c != EOF; c = fgetc(maps)) {
        lines += c == '\n';
    }
    fclose(maps);
    return lines;
}

/* Forks leave nothing behind, neither in the parent nor, with each generation, in the child. */
static void generations(void *argument)
{
    int *counts = argument;
    CHECK_IS(count_fds(), <=, counts[0] + 1); /* the pipe to the parent */
    CHECK(SANITIZED || count_maps() <= counts[1] + 2);
    if (heir.given) {
        check_whole();
    }
    if (--counts[2] > 0) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            generations(argument);
            _exit(0);
        }
        int status;
        CHECK_IS(waitpid(pid, &status, 0), ==, pid);
        CHECK_IS(status, ==, 0);
    }
}

static void no_leaks(void)
{
    open_heir("abort");
    int counts[3] = {count_fds(), count_maps(), 10};
    struct child child = run_child(generations, counts);
    CHECK_PASSED(child);
    int fds = count_fds();
    int maps = count_maps();
    for (int i = 0; i < (SANITIZED ? 20 : 200); i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            _exit(heir.given && strcmp(at(0), "parent") != 0);
        }
        int status;
        CHECK_IS(waitpid(pid, &status, 0), ==, pid);
        CHECK_IS(status, ==, 0);
    }
    CHECK_IS(count_fds(), ==, fds);
    CHECK(SANITIZED || count_maps() == maps);
    check_whole();
    CHECK_OK(bufpool_close(pool));
}

static void inherit_cell(const char *memory, const char *trap)
{
    heir.memory = memory;
    heir.trap = trap;
    bool closes = strcmp(trap, "guard") == 0 || strcmp(trap, "mprotect") == 0;
    heir.private = strcmp(memory, "anon") == 0 || strcmp(memory, "thp") == 0;
    heir.given = heir.private || !closes;
    pool = open_pool(memory, trap, "abort", 4 * MIB, 0);
    heir.granule = stats_of(pool).granule;
    CHECK_OK(bufpool_close(pool));
    no_leaks();
    open_heir("abort");
    if (!heir.given) {
        struct child child = run_child(refused, "closes pages in one process only");
        CHECK_PASSED(child);
        check_whole();
        CHECK_OK(bufpool_close(pool));
        return;
    }
    if (!heir.private) {
        share();
        report_in_child("abort");
        report_in_child("resume");
        diverted();
        return;
    }
    struct child child = run_child(use_all, NULL);
    CHECK_PASSED(child);
    check_whole();
    child = run_child(own_child, NULL);
    CHECK_PASSED(child);
    strcpy(at(0), "parent");
    CHECK_OK(bufpool_free(pool, 1)); /* after a fork a frame may be the child's, too */
    CHECK_OK(bufpool_allocate_at(pool, 1, "parent", 7));
    strcpy(at(1) + heir.granule / 2, "middle");
    child = run_child(look_only, NULL);
    CHECK_PASSED(child);
    check_whole();
    CHECK_OK(bufpool_close(pool));
    report_in_child("abort");
    report_in_child("resume");
    diverted();
}

#endif
