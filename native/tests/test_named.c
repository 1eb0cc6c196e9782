/* Attaching to a pool by the path of its memory: who is found, who is not, and why. */
#include "paths.h"

#include <signal.h>
#include <sys/prctl.h>

static char path[400];
static int fds; /* that were open before a call */

static int try_attach(const char *memory, const char *trap, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "resume";
    fds = count_fds();
    return bufpool_attach(&config, NULL, pool);
}

static void refused(const char *memory, int code, const char *words)
{
    bufpool_pool *pool = NULL;
    CHECK_IS(try_attach(memory, "auto", &pool), ==, code);
    CHECK_HAS(last_error(), words);
    CHECK(pool == NULL);
    CHECK_IS(count_fds(), ==, fds);
}

static bufpool_pool *attach(void)
{
    bufpool_pool *pool = NULL;
    CHECK_OK(try_attach(path, "auto", &pool));
    return pool;
}

static bufpool_pool *open_trapped(const char *trap, const char *fork_option)
{
    bufpool_config config = path_config(path, 4, BUFPOOL_DISCARD);
    bufpool_pool *pool = NULL;
    config.trap = trap;
    config.fork = fork_option;
    config.on_fault = "resume";
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

/* ---- Found ---- */

static uint64_t page;

static void guest(void *argument)
{
    (void)argument;
    bufpool_pool *pool = attach();
    CHECK_STRING((char *)bufpool_address(pool, page), "a row");
    CHECK(traps_at(bufpool_address(pool, 3), NULL));
    CHECK_IS(stats_of(pool).members, ==, 2);
    CHECK_OK(bufpool_free(pool, page));
    CHECK_OK(bufpool_close(pool));
}

static void one_pool(const char *memory, const char *trap)
{
    (void)memory;
    if (strcmp(trap, "uffd") != 0 && strcmp(trap, "noautofill") != 0) {
        bufpool_pool *pool = open_trapped(trap, "exclude");
        refused(path, BUFPOOL_EUNSUPPORTED, "has a trap that works in the process that opened it only");
        CHECK_OK(bufpool_close(pool));
        return;
    }
    bufpool_pool *pool = open_trapped(trap, "exclude");
    CHECK_OK(bufpool_allocate(pool, "a row", 6, &page));
    struct child child = run_child(guest, NULL);
    CHECK_PASSED(child);
    CHECK(traps_at(bufpool_address(pool, page), NULL));
    bufpool_pool *same = attach(); /* in the process that has opened it, too */
    CHECK(bufpool_address(same, 0) != bufpool_address(pool, 0));
    CHECK_OK(bufpool_allocate(pool, "both", 5, &page));
    CHECK_STRING((char *)bufpool_address(same, page), "both");
    CHECK_IS(stats_of(pool).members, ==, 2);
    CHECK_OK(bufpool_close(same));
    CHECK_IS(stats_of(pool).members, ==, 1);
    bufpool_pool *none = NULL;
    CHECK_IS(try_attach(path, "mprotect", &none), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_OK(bufpool_close(pool));
    refused(path, -ESRCH, "no process that this one can see");
}

/* Only a forked child of the process that took the lock is left, and it has a pool that was closed before. */
static void killed_opener(void)
{
    int ready[2];
    int done[2];
    CHECK_OK(pipe2(ready, O_CLOEXEC));
    CHECK_OK(pipe2(done, O_CLOEXEC));
    CHECK_OK(prctl(PR_SET_CHILD_SUBREAPER, 1)); /* to wait for the opener's child */
    pid_t opener = fork();
    CHECK(opener >= 0);
    if (opener == 0) {
        alarm(CHILD_LIMIT);
        bufpool_handle old = BUFPOOL_HANDLE_INIT;
        bufpool_pool *pool = open_trapped("uffd", "inherit");
        CHECK_OK(bufpool_share(pool, &old)); /* tables of the same file */
        CHECK_OK(bufpool_close(pool));
        pool = open_trapped("uffd", "inherit");
        CHECK_OK(bufpool_allocate(pool, "kept", 5, &page));
        CHECK_IS(page, ==, 0);
        pid_t pid = fork();
        char byte = 0;
        if (pid == 0) {
            alarm(CHILD_LIMIT);
            CHECK_IS(write(ready[1], &byte, 1), ==, 1);
            _exit(read(done[0], &byte, 1) != 1);
        }
        CHECK_IS(write(ready[1], &byte, 1), ==, 1);
        for (;;) {
            pause();
        }
    }
    char bytes[2];
    CHECK_IS(read(ready[0], bytes, 1), ==, 1);
    CHECK_IS(read(ready[0], bytes, 1), ==, 1);
    CHECK_OK(kill(opener, SIGKILL));
    CHECK_IS(waitpid(opener, NULL, 0), ==, opener);
    bufpool_pool *pool = attach();
    CHECK_STRING((char *)bufpool_address(pool, 0), "kept");
    CHECK_IS(stats_of(pool).members, ==, 2);
    CHECK_IS(write(done[1], bytes, 1), ==, 1);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(waitpid(-1, NULL, 0), >, 0); /* until it has ended it has the pool */
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(done[i]);
    }
}

/* ---- The last one leaves nothing ---- */

static int steps[2]; /* a turn of the other one */
static int turns[2];
static bufpool_handle kept = BUFPOOL_HANDLE_INIT;
static bool attaches_late;

int __real_bp_kernel_truncate(int fd, uint64_t length);
int __wrap_bp_kernel_truncate(int fd, uint64_t length);

int __wrap_bp_kernel_truncate(int fd, uint64_t length)
{
    char byte = 0;
    if (attaches_late) { /* just when the frames go */
        attaches_late = false;
        CHECK_IS(write(turns[1], &byte, 1), ==, 1);
        CHECK_IS(read(steps[0], &byte, 1), ==, 1);
    }
    return __real_bp_kernel_truncate(fd, length);
}

/* It may not be had any more; or it is, and then its pages are there. */
static void attach_late(void *argument)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *late = NULL;
    char byte;
    (void)argument;
    CHECK_IS(read(turns[0], &byte, 1), ==, 1);
    config.on_fault = "resume";
    int code = bufpool_attach(&config, &kept, &late);
    CHECK_IS(write(steps[1], &byte, 1), ==, 1);
    if (code == 0) {
        CHECK_STRING((char *)bufpool_address(late, 0), "kept");
        CHECK_OK(bufpool_close(late));
    }
    CHECK(code == 0 || code == BUFPOOL_ECLOSED || code == -EWOULDBLOCK);
}

static void last_one(bool late)
{
    CHECK_OK(pipe2(steps, O_CLOEXEC));
    CHECK_OK(pipe2(turns, O_CLOEXEC));
    pid_t opener = fork();
    CHECK(opener >= 0);
    if (opener == 0) {
        alarm(CHILD_LIMIT);
        bufpool_pool *opened = open_trapped("uffd", "exclude");
        CHECK_OK(bufpool_allocate(opened, "kept", 5, &page));
        CHECK_IS(write(turns[1], "", 1), ==, 1);
        for (;;) {
            pause();
        }
    }
    char byte;
    CHECK_IS(read(turns[0], &byte, 1), ==, 1);
    bufpool_pool *guests = attach();
    CHECK_OK(bufpool_share(guests, &kept));
    CHECK_OK(kill(opener, SIGKILL));
    CHECK_IS(waitpid(opener, NULL, 0), ==, opener);
    pid_t other = late ? fork() : 0;
    CHECK(other >= 0);
    if (late && other == 0) {
        alarm(CHILD_LIMIT);
        attach_late(NULL);
        _exit(0);
    }
    attaches_late = late;
    CHECK_OK(bufpool_close(guests)); /* its first call since the opener was killed */
    CHECK_IS(look_at(path).st_blocks, ==, 0);
    int status = 0;
    CHECK(!late || waitpid(other, &status, 0) == other);
    CHECK_IS(status, ==, 0);
    CHECK_OK(bufpool_handle_close(&kept));
    for (int i = 0; i < 2; i++) {
        close(steps[i]);
        close(turns[i]);
    }
}

/* ---- Refused ---- */

static void names(void)
{
    char file[] = "/tmp/bufpool-named-XXXXXX";
    int fd = mkstemp(file);
    CHECK_IS(fd, >=, 0);
    refused(file, BUFPOOL_EARGUMENT, "is not a file on a hugetlbfs mount");
    CHECK_OK(unlink(file));
    CHECK_OK(close(fd));
    refused(file, -ENOENT, "no pool has been opened there");
    refused("/tmp", BUFPOOL_EARGUMENT, "bufpool_share()");
    refused("shared", BUFPOOL_EARGUMENT, "is no path");
    bufpool_pool *unnamed = open_path(huge_directory, 1, 0);
    refused(huge_directory, BUFPOOL_EARGUMENT, "a file without a name");
    CHECK_OK(bufpool_close(unnamed));
    refused(path, -ESRCH, "no process that this one can see");
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_OK(flock(fd, LOCK_SH));
    refused(path, -ESRCH, "has memory \"");
    CHECK_OK(close(fd));
}

static void as_another(void *argument)
{
    (void)argument;
    CHECK_OK(setgid(65534));
    CHECK_OK(setuid(65534));
    refused(path, -EACCES, "only the user who opened the pool");
}

static void with_the_file(void *argument)
{
    (void)argument;
    CHECK_OK(setgid(65534));
    CHECK_OK(setuid(65534));
    refused(path, -EACCES, "may not look at its descriptors");
}

static void other_users(void)
{
    if (geteuid() != 0) {
        return;
    }
    bufpool_pool *pool = open_path(path, 4, BUFPOOL_DISCARD);
    struct child child = run_child(as_another, NULL);
    CHECK_PASSED(child);
    CHECK_OK(chmod(path, 0666));
    child = run_child(with_the_file, NULL);
    CHECK_PASSED(child);
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(chmod(path, 0600));
}

static int body(void)
{
    if (no_huge_directory()) {
        return HARNESS_SKIP;
    }
    snprintf(path, sizeof path, "%s", path_of("named"));
    CHECK_IS(for_each_trap(huge_directory, one_pool, false), >, 0);
    if (bufpool_probe(huge_directory, "uffd", NULL, 0) == 0) {
        killed_opener();
        last_one(false);
        last_one(true);
    }
    names();
    other_users();
    CHECK_OK(unlink(path));
    return 0;
}

int main(void)
{
    return with_huge_pages(8, body);
}
