/*
 * test_pins_noautofill.c: enforced pins under trap noautofill where a userfaultfd arms the range, too, and closes pages.
 * test_noautofill.c tests them on a kernel that has the option; this one on any, which is told that the mount has it. The
 * userfaultfd traps the holes then.
 *
 * Linked with --wrap, so that the library can be told so.
 */
#include "kernel.h"
#include "mounts.h"
#include "pins_life.h"

#define HUGE_PAGES 12

static bool pretended; /* since the last pool was opened */

int __wrap_bp_mount_options(int fd, char *options, size_t size);
int __wrap_bp_mount_options(int fd, char *options, size_t size)
{
    (void)fd;
    snprintf(options, size, "rw,noautofill");
    pretended = true;
    return 0;
}

/* The first hole that is tried does not fill. */
int __real_bp_kernel_readable(const void *address);
int __wrap_bp_kernel_readable(const void *address);
int __wrap_bp_kernel_readable(const void *address)
{
    bool pretend = pretended;
    pretended = false;
    return pretend ? 0 : __real_bp_kernel_readable(address);
}

static int run(void)
{
    if (huge_directory[0] == 0) {
        printf("no hugetlbfs mount to open a pool on (reason above)\n");
        return HARNESS_SKIP;
    }
    if (read_setting(FREE_HUGEPAGES) < HUGE_PAGES) {
        printf("%d huge pages of 2 MiB are needed, and setting them aside takes root\n", HUGE_PAGES);
        return HARNESS_SKIP;
    }
    bufpool_config config = pins_config(huge_directory, "uffd", "all");
    bufpool_pool *pool = NULL;
    if (bufpool_open(&config, &pool) < 0) {
        printf("path/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    CHECK_OK(bufpool_close(pool));
    check_mode(huge_directory, "noautofill", "write", 0, 1);
    check_mode(huge_directory, "noautofill", "all", BUFPOOL_SCRUB, 1);
    check_mode(huge_directory, "noautofill", "all", BUFPOOL_RED_ZONES, 2);
    return 0;
}

int main(void)
{
    return with_huge_pages(HUGE_PAGES, run);
}
