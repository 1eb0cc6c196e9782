/* kernel.c: the system calls of kernel.h. */
#include "kernel.h"

#include "kernel_result.h"
#include "point.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/memfd.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

/* include/uapi/linux/pidfd.h, Linux 6.15: stands for the calling process wherever a pidfd is expected. A real pidfd
 * would go on naming the parent after a fork. */
#define BP_PIDFD_SELF_PROCESS (-10001)

/* include/uapi/linux/userfaultfd.h, Linux 6.8. */
struct move_request {
    uint64_t to;
    uint64_t from;
    uint64_t length;
    uint64_t mode;
    int64_t moved;
};
_Static_assert(sizeof(struct move_request) == 40, "the kernel's struct uffdio_move has 40 bytes");
#define BP_UFFDIO_MOVE _IOWR(0xAA, 0x05, struct move_request)

/* include/uapi/linux/userfaultfd.h, Linux 5.18 and 6.6. */
#define BP_FEATURE_EXACT_ADDRESS (UINT64_C(1) << 11)
#define BP_FEATURE_POISON (UINT64_C(1) << 14)

/* Nobody sleeps on a fault of a descriptor with the SIGBUS feature, so there is nobody to wake; and where
 * somebody does, the thread that reads the faults wakes him. The bit is the same for COPY, ZEROPAGE and MOVE. */
#define BP_DONTWAKE 1

#define BP_RWF_NOWAIT 8 /* include/uapi/linux/fs.h, Linux 4.14 */

int bp_kernel_mmap_file(void *hint, size_t length, int protection, int flags, int fd, uint64_t offset, void **address)
{
    void *place = mmap(hint, length, protection, flags, fd, (off_t)offset);
    if (place == MAP_FAILED) {
        return -errno;
    }
    *address = place;
    return 0;
}

int bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address)
{
    return bp_kernel_mmap_file(hint, length, protection, flags, fd, 0, address);
}

int bp_kernel_munmap(void *address, size_t length)
{
    return result(munmap(address, length));
}

int bp_kernel_mprotect(void *address, size_t length, int protection)
{
    return result(mprotect(address, length, protection));
}

int bp_kernel_mremap(void *from, size_t length, void *to)
{
    return mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ? -errno : 0;
}

int bp_kernel_madvise(void *address, size_t length, int advice)
{
    int code;
    do {
        code = result(madvise(address, length, advice));
    } while (code == -EINTR);
    return code;
}

int bp_kernel_discard(void *address, size_t length)
{
    int code = bp_kernel_madvise(address, length, MADV_DONTNEED);
    return code == -EINVAL ? bp_kernel_madvise(address, length, MADV_DONTNEED_LOCKED) : code;
}

int bp_kernel_discard_many(const struct bp_range *ranges, size_t count, size_t *done)
{
    static atomic_bool refused;
    struct iovec vectors[64];
    *done = 0;
    if (atomic_load_explicit(&refused, memory_order_relaxed)) {
        return -ENOSYS;
    }
    while (*done < count) {
        size_t batch = count - *done < 64 ? count - *done : 64;
        for (size_t i = 0; i < batch; i++) {
            vectors[i].iov_base = (void *)ranges[*done + i].address;
            vectors[i].iov_len = ranges[*done + i].length;
        }
        long bytes = syscall(SYS_process_madvise, BP_PIDFD_SELF_PROCESS, vectors, batch, MADV_DONTNEED, 0);
        if (bytes < 0) {
            /* Locked memory answers EINVAL too, and so does a kernel that lacks DONTNEED here: the caller goes on one
             * by one in any case, but only what will never work is remembered. */
            if (errno == EPERM || errno == ENOSYS || errno == EBADF) {
                atomic_store_explicit(&refused, true, memory_order_relaxed);
            }
            return errno == EINTR ? -EAGAIN : -ENOSYS;
        }
        size_t left = (size_t)bytes;
        size_t whole = 0;
        while (whole < batch && left >= vectors[whole].iov_len) {
            left -= vectors[whole++].iov_len;
        }
        *done += whole;
        if (whole < batch) {
            return -EAGAIN;
        }
    }
    return 0;
}

int bp_kernel_memfd(const char *name, uint64_t length, uint64_t granule)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && length > limit.rlim_cur) {
        return -EFBIG; /* ftruncate would say so by SIGXFSZ, which ends the process */
    }
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (granule > 0) {
        flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(granule) << MFD_HUGE_SHIFT;
    }
    int fd = bp_kernel_keep_clear(result(memfd_create(name, flags)));
    if (fd < 0) {
        return fd;
    }
    int code = result(fchmod(fd, 0600)); /* to open it again is for this user */
    if (code == 0) {
        code = result(ftruncate(fd, (off_t)length));
    }
    /* A peer that shrank the file would turn allocated pages into bus errors. */
    if (code == 0) {
        code = result(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
    }
    if (code < 0) {
        close(fd);
        return code;
    }
    return fd;
}

int bp_kernel_punch(int fd, uint64_t offset, uint64_t length)
{
    int code;
    do {
        code = result(syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length));
    } while (code == -EINTR);
    BP_STORED("frame punched");
    return code;
}

int bp_kernel_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    const char *from = data;
    while (size > 0) {
        ssize_t written = syscall(SYS_pwrite64, fd, from, size, offset);
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        from += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    return 0;
}

int bp_kernel_close(int fd)
{
    return result(syscall(SYS_close, fd));
}

static int uffd_open(int flags, uint64_t features)
{
    int fd = result(syscall(SYS_userfaultfd, flags));
    if (fd == -EPERM || fd == -ENOSYS) {
        /* A container may be given the device in place of the system call. */
        int refused = fd;
        int device = result(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
        if (device < 0) {
            return refused;
        }
        fd = result(ioctl(device, USERFAULTFD_IOC_NEW, flags));
        close(device);
        if (fd == -ENOTTY) {
            fd = refused; /* not the device, whatever its name */
        }
    }
    fd = bp_kernel_keep_clear(fd);
    if (fd < 0) {
        return fd;
    }
    struct uffdio_api api = {.api = UFFD_API, .features = features | UFFD_FEATURE_MISSING_SHMEM};
    if (ioctl(fd, UFFDIO_API, &api) != 0) {
        int code = -errno;
        close(fd);
        return code;
    }
    return fd;
}

int bp_kernel_uffd_open(void)
{
    return bp_kernel_uffd_open_with(UFFD_FEATURE_SIGBUS);
}

int bp_kernel_uffd_open_with(uint64_t features)
{
    return uffd_open(UFFD_USER_MODE_ONLY | O_CLOEXEC | O_NONBLOCK, features);
}

int bp_kernel_uffd_open_sleeping(int full)
{
    uint64_t features = UFFD_FEATURE_THREAD_ID | BP_FEATURE_EXACT_ADDRESS | (full ? BP_FEATURE_POISON : 0);
    return uffd_open((full ? 0 : UFFD_USER_MODE_ONLY) | O_CLOEXEC | O_NONBLOCK, features);
}

int bp_kernel_uffd_register(int uffd, uintptr_t address, size_t length)
{
    struct uffdio_register range = {.range = {address, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    return result(ioctl(uffd, UFFDIO_REGISTER, &range));
}

int bp_kernel_uffd_unregister(int uffd, uintptr_t address, size_t length)
{
    struct uffdio_range range = {address, length};
    return result(ioctl(uffd, UFFDIO_UNREGISTER, &range));
}

int bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    struct uffdio_copy copy = {.dst = to, .src = (uintptr_t)from, .len = length, .mode = BP_DONTWAKE};
    int code = result(ioctl(uffd, UFFDIO_COPY, &copy));
    *done = copy.copy > 0 ? (size_t)copy.copy : 0;
    BP_STORED("frame copied");
    return code;
}

int bp_kernel_uffd_zero(int uffd, uintptr_t to, size_t length, size_t *done)
{
    struct uffdio_zeropage zero = {.range = {to, length}, .mode = BP_DONTWAKE};
    int code = result(ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
    *done = zero.zeropage > 0 ? (size_t)zero.zeropage : 0;
    BP_STORED("frame of zeros");
    return code;
}

int bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    struct move_request move = {.to = to, .from = from, .length = length, .mode = BP_DONTWAKE};
    int code = result(ioctl(uffd, BP_UFFDIO_MOVE, &move));
    *done = move.moved > 0 ? (size_t)move.moved : 0;
    return code;
}

int bp_kernel_open_log(const char *path)
{
    const int flags = O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = bp_kernel_keep_clear(result(open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | flags, 0600)));
    struct stat file;
    if (fd >= 0 && fstat(fd, &file) == 0 && S_ISREG(file.st_mode)) {
        /* The very same file again, not what its name may stand for by now. */
        char self[48];
        snprintf(self, sizeof self, "/proc/thread-self/fd/%d", fd);
        int readable = bp_kernel_keep_clear(result(open(self, O_RDWR | flags)));
        if (readable >= 0) {
            close(fd);
            fd = readable;
        }
    }
    return fd;
}

int bp_kernel_last_byte(int fd)
{
    struct stat file;
    unsigned char byte;
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) {
        return -ENODATA;
    }
    if (file.st_size == 0) {
        return '\n';
    }
    return syscall(SYS_pread64, fd, &byte, 1, file.st_size - 1) == 1 ? byte : -ENODATA;
}

int bp_kernel_is_pipe(int fd)
{
    struct stat file;
    return fstat(fd, &file) == 0 && S_ISFIFO(file.st_mode);
}

int bp_kernel_identify(int fd, uint64_t id[2])
{
    struct stat file;
    int code = result(fstat(fd, &file));
    if (code == 0) {
        id[0] = file.st_dev;
        id[1] = file.st_ino;
    }
    return code;
}

int bp_kernel_open_read(const char *path)
{
    return result(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
}

ssize_t bp_kernel_read(int fd, void *buffer, size_t size)
{
    ssize_t got;
    do {
        got = syscall(SYS_read, fd, buffer, size);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

ssize_t bp_kernel_read_again(int fd, void *buffer, size_t size)
{
    ssize_t got = syscall(SYS_pread64, fd, buffer, size, 0);
    return got < 0 ? -errno : got;
}

/* The signals that a write can raise, blocked; those of them that wait already are left to the host. */
struct quiet {
    sigset_t raised;
    sigset_t before;
};

static void be_quiet(struct quiet *quiet)
{
    sigset_t pending;
    sigemptyset(&quiet->raised);
    sigemptyset(&pending);
    sigpending(&pending);
    const int signals[] = {SIGPIPE, SIGXFSZ};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        if (!sigismember(&pending, signals[i])) {
            sigaddset(&quiet->raised, signals[i]);
        }
    }
    pthread_sigmask(SIG_BLOCK, &quiet->raised, &quiet->before);
}

static void end_quiet(const struct quiet *quiet)
{
    const struct timespec at_once = {0, 0};
    long taken;
    do { /* the kernel's set of signals is shorter than the C library's */
        taken = syscall(SYS_rt_sigtimedwait, &quiet->raised, NULL, &at_once, 8);
    } while (taken > 0 || (taken < 0 && errno == EINTR));
    pthread_sigmask(SIG_SETMASK, &quiet->before, NULL);
}

static int write_all(int fd, const void *data, size_t size, int once)
{
    const char *from = data;
    int patience = 1000; /* a full pipe without a reader must not hold a crashing process for ever: one second */
    while (size > 0) {
        ssize_t written = syscall(SYS_write, fd, from, size);
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN && patience-- > 0) {
                bp_kernel_sleep_ns(1000000);
                continue;
            }
            return -errno;
        }
        if (once && (size_t)written < size) {
            return -ENOSPC;
        }
        from += written;
        size -= (size_t)written;
    }
    return 0;
}

int bp_kernel_write(int fd, const void *data, size_t size, int once)
{
    struct quiet quiet;
    be_quiet(&quiet);
    int code = write_all(fd, data, size, once);
    end_quiet(&quiet);
    return code;
}

/* One write that does not wait. A pipe that is ready takes PIPE_BUF bytes, unless somebody else fills it first: where the
 * kernel can be told not to wait for room then (Linux 6.4), it is. */
static int write_some(int fd, const void *data, size_t size, int64_t ns)
{
    struct pollfd ready = {fd, POLLOUT, 0};
    struct timespec limit = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    if (result(ppoll(&ready, 1, &limit, NULL)) <= 0) {
        return -EAGAIN;
    }
    struct iovec part = {(void *)(uintptr_t)data, size < PIPE_BUF ? size : PIPE_BUF};
    int written = -EOPNOTSUPP;
    if (bp_kernel_is_pipe(fd)) {
        written = result(syscall(SYS_pwritev2, fd, &part, 1, (long)-1, (long)-1, BP_RWF_NOWAIT));
    }
    return written == -EOPNOTSUPP || written == -ENOSYS || written == -EINVAL
               ? result(syscall(SYS_write, fd, part.iov_base, part.iov_len))
               : written;
}

int bp_kernel_write_soon(int fd, const void *data, size_t size, int64_t ns)
{
    const char *from = data;
    int64_t deadline = bp_kernel_monotonic_ns() + ns;
    struct quiet quiet;
    be_quiet(&quiet);
    int code = 0;
    while (size > 0 && code >= 0) {
        int64_t left = deadline - bp_kernel_monotonic_ns();
        code = write_some(fd, from, size, left > 0 ? left : 0);
        if (code > 0) {
            from += code;
            size -= (size_t)code;
        } else if (code == -EINTR || (code == -EAGAIN && left > 0)) {
            code = 0;
            bp_kernel_sleep_ns(1000000); /* somebody else has filled it */
        }
    }
    end_quiet(&quiet);
    return code < 0 ? code : 0;
}

int32_t bp_kernel_thread(void)
{
    return (int32_t)syscall(SYS_gettid);
}

int bp_kernel_thread_alive(int32_t thread)
{
    return syscall(SYS_tgkill, getpid(), thread, 0) == 0;
}

int bp_kernel_thread_of(int32_t pid, int32_t thread)
{
    return syscall(SYS_tgkill, pid, thread, 0) == 0 || errno != ESRCH;
}

int64_t bp_kernel_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t bp_kernel_realtime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The best of a few looks: between two clocks the thread may lose the processor. */
int64_t bp_kernel_epoch_ns(void)
{
    int64_t shortest = INT64_MAX;
    int64_t epoch = 0;
    for (int i = 0; i < 5 && shortest > 10000; i++) {
        int64_t before = bp_kernel_monotonic_ns();
        int64_t now = bp_kernel_realtime_ns();
        int64_t took = bp_kernel_monotonic_ns() - before;
        if (took < shortest) {
            shortest = took;
            epoch = now - before;
        }
    }
    return epoch;
}

void bp_kernel_sleep_ns(int64_t ns)
{
    struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    syscall(SYS_nanosleep, &time, NULL);
}
