/* kernel_fd.c: descriptors that are kept, see kernel.h. */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define HIGH 4096 /* a fork copies the table of descriptors up to the highest */
#define KNOWN 16384

static _Atomic uint64_t kept[KNOWN]; /* of each number: what it was open to; 0: not known */

/* Device and inode as one word. Those of a userfaultfd are its own since Linux 5.11. */
static uint64_t identity(int fd)
{
    struct stat file;
    if (fstat(fd, &file) != 0) {
        return 0;
    }
    uint64_t word = (uint64_t)file.st_dev * UINT64_C(0x9E3779B97F4A7C15) ^ file.st_ino;
    return word == 0 ? 1 : word;
}

/* The half of the numbers that a program hardly comes to. */
static int lowest(void)
{
    struct rlimit limit;
    rlim_t half = getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur / 2 : 0;
    return half > HIGH ? HIGH : half <= STDERR_FILENO ? STDERR_FILENO + 1 : (int)half;
}

int bp_kernel_keep_clear(int fd)
{
    if (fd < 0) {
        return fd;
    }
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, lowest());
    if (moved < 0 && fd <= STDERR_FILENO) { /* no message to stderr may end up in a page or in a log */
        moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        if (moved < 0) {
            int code = -errno;
            close(fd);
            return code;
        }
    }
    if (moved >= 0) {
        close(fd);
        fd = moved;
    }
    if (fd < KNOWN) {
        atomic_store(&kept[fd], identity(fd));
    }
    return fd;
}

int bp_kernel_is_kept(int fd)
{
    uint64_t now = identity(fd);
    uint64_t before = fd >= 0 && fd < KNOWN ? atomic_load(&kept[fd]) : 0;
    return now != 0 && (before == 0 || before == now);
}

int bp_kernel_is_still(int fd, const uint64_t id[2])
{
    uint64_t now[2];
    return bp_kernel_identify(fd, now) == 0 && now[0] == id[0] && now[1] == id[1];
}

void bp_kernel_close_kept(int fd)
{
    if (bp_kernel_is_kept(fd)) {
        bp_kernel_close(fd);
    }
}
