/* kernel_io.c: the system calls of kernel.h that move pages between memory and files. */
#include "kernel.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By number, since the C library's functions are cancellation points. On 64-bit systems the offset is the low word. */
_Static_assert(sizeof(long) == 8, "an offset is one argument of the system call");

static long transfer(long call, int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    long moved;
    do {
        moved = syscall(call, fd, parts, count, (long)offset, 0L);
    } while (moved < 0 && errno == EINTR);
    return moved < 0 ? -errno : moved;
}

int64_t bp_kernel_preadv(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    return transfer(SYS_preadv, fd, parts, count, offset);
}

int64_t bp_kernel_pwritev(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    return transfer(SYS_pwritev, fd, parts, count, offset);
}
