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
    CHECK_IS(count_maps(), <=, counts[1] + 2);
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
    CHECK_IS(count_maps(), ==, maps);
    check_whole();
    CHECK_OK(bufpool_close(pool));
}

static void inherit_cell(const char *memory, const char *trap)
{
    heir.memory = memory;
    heir.trap = trap;
    bool closes = strcmp(trap, "guard") == 0 || strcmp(trap, "mprotect") == 0;
    heir.private = strcmp(memory, "anon") == 0 || strcmp(memory, "thp") == 0;
    heir.given = heir.private;
    pool = open_pool(memory, trap, "abort", 4 * MIB, 0);
    heir.granule = stats_of(pool).granule;
    CHECK_OK(bufpool_close(pool));
    no_leaks();
    open_heir("abort");
    if (!heir.given) {
        struct child child = run_child(refused, closes ? "closes pages in one process only" : "processes share");
        CHECK_PASSED(child);
        check_whole();
        CHECK_OK(bufpool_close(pool));
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
