/* kernel_io.c: the system calls of kernel.h that move pages between memory and files. */
#include "kernel.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* By number, since the C library's functions are cancellation points. On 64-bit systems the offset is the low word. */
_Static_assert(sizeof(long) == 8, "an offset is one argument of the system call");

static long transfer(long call, int fd, const struct iovec *parts, size_t count, uint64_t offset, long flags)
{
    long moved;
    do {
        moved = syscall(call, fd, parts, count, (long)offset, 0L, flags);
    } while (moved < 0 && errno == EINTR);
    return moved < 0 ? -errno : moved;
}

int64_t bp_kernel_preadv(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    return transfer(SYS_preadv, fd, parts, count, offset, 0);
}

int64_t bp_kernel_preadv_ahead(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    return transfer(SYS_preadv2, fd, parts, count, offset, RWF_NOWAIT);
}

int64_t bp_kernel_pwritev(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    return transfer(SYS_pwritev, fd, parts, count, offset, 0);
}

int bp_kernel_is_memory_file(int fd)
{
    struct statfs system;
    return fstatfs(fd, &system) == 0 && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
}
