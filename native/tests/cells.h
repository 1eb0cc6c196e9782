/*
 * cells.h: the cells of huge granules: thp, hugetlb, a path, each with the traps that go with it; and what they need of
 * the machine: huge pages set aside, a hugetlbfs mount. What a test changes is put back however it ends.
 */
#ifndef CELLS_H
#define CELLS_H

#include "harness.h"

#include <sched.h>
#include <sys/mount.h>

#define HUGE_PAGE (2 * MIB)
#define NR_HUGEPAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define FREE_HUGEPAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

/* A directory on hugetlbfs with pages of 2 MiB, of this test alone; "" if there is none. The tests' memory "path" is this
 * directory: an unnamed file in it. */
static char huge_directory[256];

MAYBE_UNUSED static long read_setting(const char *path)
{
    FILE *file = fopen(path, "r");
    long value = -1;
    if (file != NULL) {
        if (fscanf(file, "%ld", &value) != 1) {
            value = -1;
        }
        fclose(file);
    }
    return value;
}

MAYBE_UNUSED static bool write_setting(const char *path, long value)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        return false;
    }
    bool written = fprintf(file, "%ld", value) > 0;
    return fclose(file) == 0 && written;
}

/* Mounts hugetlbfs where only this process sees it, or takes the one that BUFPOOL_TEST_HUGETLBFS names; but first the one
 * that BUFPOOL_TEST_NOAUTOFILL names, whose kernel is there for that. */
MAYBE_UNUSED static void find_huge_directory(const char *place, const char *options)
{
    const char *given = getenv("BUFPOOL_TEST_HUGETLBFS");
    const char *noautofill = getenv("BUFPOOL_TEST_NOAUTOFILL");
    if (noautofill != NULL && access(noautofill, W_OK) == 0) {
        snprintf(huge_directory, sizeof huge_directory, "%s", noautofill);
    } else if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
               mount("none", place, "hugetlbfs", MS_NOSUID | MS_NODEV, options) == 0) {
        snprintf(huge_directory, sizeof huge_directory, "%s", place);
    } else if (given != NULL && access(given, W_OK) == 0) {
        snprintf(huge_directory, sizeof huge_directory, "%s", given);
    } else {
        printf(
            "no hugetlbfs mount to write to: this process may not mount one (%s), and BUFPOOL_TEST_HUGETLBFS is %s\n",
            strerror(errno), given == NULL ? "not set" : given);
    }
}

/* Runs body in a child, with at least `count` huge pages of 2 MiB free where this process may set them aside, and
 * huge_directory set where one can be had. Returns the body's exit code. The setting is put back when the child has
 * ended, however it did. Call first in main(), in place of harness_begin(). */
MAYBE_UNUSED static int with_huge_pages(long count, int (*body)(void))
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    char place[] = "/tmp/bufpool-huge-XXXXXX";
    CHECK(mkdtemp(place) != NULL);
    /* Only one test at a time counts the machine's huge pages. */
    queue_for_setting(open(NR_HUGEPAGES, O_RDONLY | O_CLOEXEC), LOCK_EX, 300);
    queue_for_memory();
    /* A Ctrl-C ends the child; this process lives to put the setting back. */
    sigset_t ends;
    sigset_t old;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGHUP);
    sigprocmask(SIG_BLOCK, &ends, &old);
    long before = read_setting(NR_HUGEPAGES);
    long spare = read_setting(FREE_HUGEPAGES);
    bool changed = before >= 0 && spare < count && write_setting(NR_HUGEPAGES, before + count - spare);
    if (before < 0) {
        printf("this kernel has no huge pages of 2 MiB\n");
    } else if (read_setting(FREE_HUGEPAGES) < count) {
        printf("%ld huge pages of 2 MiB are free, the test takes %ld, and they cannot be set aside here\n",
               read_setting(FREE_HUGEPAGES), count);
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &old, NULL);
        alarm(HARNESS_LIMIT);
        find_huge_directory(place, "pagesize=2M");
        exit(body());
    }
    int status = -1;
    bool ended = pid > 0 && waitpid(pid, &status, 0) == pid;
    if (changed) {
        write_setting(NR_HUGEPAGES, before);
    }
    rmdir(place);
    sigprocmask(SIG_SETMASK, &old, NULL);
    CHECK(ended);
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "the test was ended by signal %d\n", WTERMSIG(status));
        return 1;
    }
    return WEXITSTATUS(status);
}

/* Calls function for each cell of huge granules that this machine has; the memory of a path is huge_directory. Returns
 * the exit code, as for_each_cell() does. */
MAYBE_UNUSED static int for_each_huge_cell(cell_function function, bool untrapped_too)
{
    int run = 0;
    for (size_t m = 0; bufpool_memory_name(m) != NULL; m++) {
        const char *memory = bufpool_memory_name(m);
        if (!is_huge_memory(memory)) {
            continue;
        }
        if (getenv("BUFPOOL_TEST_NOAUTOFILL") != NULL && strcmp(memory, "path") != 0) {
            continue; /* an emulated machine takes its time, and the others are tested elsewhere */
        }
        if (strcmp(memory, "path") == 0) {
            if (huge_directory[0] == 0) {
                printf("skipped memory path: no hugetlbfs mount (above)\n");
                continue;
            }
            memory = huge_directory;
        }
        run += for_each_trap(memory, function, untrapped_too);
    }
    if (run == 0) {
        printf("no memory x trap cell of huge granules can be had here (reasons above)\n");
    }
    return run == 0 ? HARNESS_SKIP : 0;
}

#endif
