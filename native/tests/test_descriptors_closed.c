/* A program that closes descriptors that it did not open, as a daemon does (closefrom): what takes their numbers is the
 * program's, and stays open. */
#include "harness.h"

#include <sys/stat.h>

#define FILES 24

static void close_from(int first)
{
    for (int fd = first; fd < 1024; fd++) {
        close(fd);
    }
}

/* Files of the program, at whatever numbers are free; the lowest are. */
static void open_files(int files[FILES])
{
    for (int i = 0; i < FILES; i++) {
        files[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
        CHECK(files[i] >= 0);
    }
}

static void check_files(const int files[FILES])
{
    struct stat null, file;
    CHECK_OK(stat("/dev/null", &null));
    for (int i = 0; i < FILES; i++) {
        CHECK_OK(fstat(files[i], &file));
        CHECK_IS(file.st_rdev, ==, null.st_rdev);
        CHECK_OK(close(files[i]));
    }
}

/* The record of frozen threads, which the child makes anew. */
static void frozen_in_child(void *unused)
{
    (void)unused;
    int files[FILES];
    close_from(3);
    open_files(files);
    CHECK_OK(bufpool_close(open_pool("anon", "auto", "freeze", 16 * GRANULE, GRANULE)));
    check_files(files);
}

static void frozen(void)
{
    bufpool_pool *pool = open_pool_fork("anon", "auto", "freeze", 16 * GRANULE, GRANULE, "exclude");
    struct child child = run_child(frozen_in_child, NULL);
    CHECK_PASSED(child);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    frozen();
    return 0;
}
