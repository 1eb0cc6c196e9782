/* kernel_huge.c: the system calls of kernel.h about huge pages, files on hugetlbfs, locking and NUMA. */
#include "kernel.h"

#include "kernel_result.h"
#include "point.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

/* include/uapi/linux/mempolicy.h */
#define MPOL_F_ADDR 2
#define MPOL_F_MEMS_ALLOWED 4

int bp_kernel_fallocate(int fd, uint64_t offset, uint64_t length)
{
    int code;
    do {
        code = result(syscall(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, offset, length));
    } while (code == -EINTR);
    BP_STORED("frame allocated");
    return code;
}

int bp_kernel_file_size(int fd, uint64_t *length, uint64_t *frames)
{
    struct stat file;
    int code = result(fstat(fd, &file));
    if (code == 0 && !S_ISREG(file.st_mode)) {
        code = -EINVAL;
    }
    if (code == 0) {
        *length = (uint64_t)file.st_size;
        *frames = (uint64_t)file.st_blocks * 512;
    }
    return code;
}

int bp_kernel_hugetlbfs(const char *path, int fd, uint64_t *page_size)
{
    struct statfs mount;
    int code = result(path != NULL ? statfs(path, &mount) : fstatfs(fd, &mount));
    if (code == 0 && (uint32_t)mount.f_type != HUGETLBFS_MAGIC) {
        return -EXDEV;
    }
    if (code == 0) {
        *page_size = (uint64_t)mount.f_bsize;
    }
    return code;
}

int bp_kernel_mount_room(int fd, uint64_t *limit, uint64_t *left)
{
    struct statfs mount;
    int code = result(fstatfs(fd, &mount));
    if (code == 0) {
        *limit = mount.f_blocks;
        *left = mount.f_bavail;
    }
    return code;
}

#define POOL_FILE (O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)

int bp_kernel_open_existing(const char *path)
{
    return bp_kernel_keep_clear(result(open(path, POOL_FILE)));
}

int bp_kernel_open_pool_file(const char *path, int *created)
{
    *created = 0;
    int fd;
    int patience = 100; /* somebody else creates it, or removes it, between the two calls */
    do {
        fd = result(open(path, POOL_FILE));
        if (fd == -EISDIR) {
            fd = result(open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
            *created = fd >= 0;
        } else if (fd == -ENOENT) {
            fd = result(open(path, POOL_FILE | O_CREAT | O_EXCL, 0600));
            *created = fd >= 0;
        }
    } while (fd == -EEXIST && patience-- > 0);
    return bp_kernel_keep_clear(fd);
}

int bp_kernel_truncate(int fd, uint64_t length)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && length > limit.rlim_cur) {
        return -EFBIG; /* ftruncate would say so by SIGXFSZ, which ends the process */
    }
    return result(ftruncate(fd, (off_t)length));
}

int bp_kernel_is_at(const char *path, int fd)
{
    struct stat file;
    struct stat named;
    if (fstat(fd, &file) != 0 || lstat(path, &named) != 0) {
        return 0;
    }
    return S_ISDIR(named.st_mode) || (file.st_dev == named.st_dev && file.st_ino == named.st_ino);
}

int bp_kernel_unlink(const char *path)
{
    return result(unlink(path));
}

int bp_kernel_flock(int fd)
{
    return result(flock(fd, LOCK_EX | LOCK_NB));
}

int bp_kernel_flock_shared(int fd)
{
    return result(flock(fd, LOCK_SH | LOCK_NB));
}

int bp_kernel_unlock(int fd)
{
    return result(flock(fd, LOCK_UN));
}

int bp_kernel_lock(void *address, size_t length)
{
    return result(syscall(SYS_mlock2, address, length, MLOCK_ONFAULT));
}

int bp_kernel_mbind(void *address, size_t length, int mode, const uint64_t nodes[BP_NODE_WORDS])
{
    return result(syscall(SYS_mbind, address, length, mode, nodes, (unsigned long)BP_NODES + 1, 0));
}

int bp_kernel_get_mempolicy(const void *address, int *mode, uint64_t nodes[BP_NODE_WORDS])
{
    int flags = address == NULL ? MPOL_F_MEMS_ALLOWED : MPOL_F_ADDR;
    return result(
        syscall(SYS_get_mempolicy, address == NULL ? NULL : mode, nodes, (unsigned long)BP_NODES, address, flags));
}

int bp_kernel_readable(const void *address)
{
    /* The set is read first: EFAULT if it cannot be, else EINVAL for the unknown request. */
    return syscall(SYS_rt_sigprocmask, -1, address, NULL, 8) < 0 && errno != EFAULT;
}

int bp_kernel_writable(void *address)
{
    uint32_t nobody = 0;
    /* An atomic "or" of nothing: EFAULT if the word cannot be written. */
    return syscall(SYS_futex, &nobody, FUTEX_WAKE_OP_PRIVATE, 0, NULL, address,
                   FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 1)) >= 0 ||
           errno != EFAULT;
}
