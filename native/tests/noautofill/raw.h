/* raw.h: verdicts, files, mappings and accesses for raw.c. */
#ifndef RAW_H
#define RAW_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE ((size_t)2 << 20)
#define ODD 12345 /* an offset in a page that is the start of nothing */

static int failures;

/* ---- Verdicts ---- */

static void passed(const char *check)
{
    printf("check %s: passed\n", check);
}

__attribute__((format(printf, 2, 3))) static void failed(const char *check, const char *format, ...)
{
    char why[256];
    va_list values;
    va_start(values, format);
    vsnprintf(why, sizeof why, format, values);
    va_end(values);
    printf("check %s: failed: %s\n", check, why);
    failures++;
}

/* For what no check is about: without it there is nothing to check. */
static void need(bool there, const char *what)
{
    if (!there) {
        failed("preparation", "%s: %s", what, strerror(errno));
        exit(1);
    }
}

/* ---- Files and mappings ---- */

/* A file of so many holes, without a name. */
static int make_file(const char *mount_point, size_t pages)
{
    char path[64];
    snprintf(path, sizeof path, "%s/file", mount_point);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    need(fd >= 0 && unlink(path) == 0 && ftruncate(fd, (off_t)(pages * PAGE)) == 0, path);
    return fd;
}

static char *map(int fd, size_t pages, int flags)
{
    char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    need(at != MAP_FAILED, "mmap");
    return at;
}

static long pages_filled(int fd)
{
    struct stat status;
    need(fstat(fd, &status) == 0, "fstat");
    return (long)((size_t)status.st_blocks * 512 / PAGE);
}

static bool is_all(const char *at, char value)
{
    return at[0] == value && memcmp(at, at + 1, PAGE - 1) == 0;
}

/* ---- Accesses ---- */

static sigjmp_buf back;
static siginfo_t received;

static void on_sigbus(int number, siginfo_t *information, void *context)
{
    (void)number, (void)context;
    received = *information;
    siglongjmp(back, 1);
}

/* Reads or writes the byte; true: that gave SIGBUS. */
static bool touch(volatile char *at, bool write)
{
    if (sigsetjmp(back, 1) != 0) {
        return true;
    }
    if (write) {
        *at = 1;
    } else {
        (void)*at;
    }
    return false;
}

/* The access gives SIGBUS with exactly its address, and fills nothing. */
static void check_trap(const char *check, int fd, char *at, bool write)
{
    long before = pages_filled(fd);
    bool trapped = touch(at, write);
    long filled = pages_filled(fd) - before;
    if (!trapped) {
        failed(check, "no signal, and the access filled %ld page(s) of the file", filled);
    } else if (received.si_addr != at || received.si_code != BUS_ADRERR) {
        failed(check, "SIGBUS, code %d, at %p, not BUS_ADRERR at %p", received.si_code, received.si_addr, (void *)at);
    } else if (filled != 0) {
        failed(check, "SIGBUS, but the access filled %ld page(s)", filled);
    } else {
        passed(check);
    }
}

/* The system call that has met a hole gave EFAULT, and filled nothing. */
static void check_efault(const char *check, long result, int fd)
{
    int error = errno;
    if (result >= 0) {
        failed(check, "the call gave %ld, not EFAULT; %ld page(s) filled", result, pages_filled(fd));
    } else if (error != EFAULT) {
        failed(check, "the call gave \"%s\", not EFAULT; %ld page(s) filled", strerror(error), pages_filled(fd));
    } else if (pages_filled(fd) != 0) {
        failed(check, "EFAULT, but %ld page(s) filled", pages_filled(fd));
    } else {
        passed(check);
    }
}

#endif
