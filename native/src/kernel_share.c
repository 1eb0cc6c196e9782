/* kernel_share.c: requests about files that several processes have, and about those processes, see kernel.h. */
#include "kernel.h"

#include "kernel_result.h"
#include "point.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Never waits: a peer may have a lease on the file, and would be given time to end it. */
int bp_kernel_reopen(int fd)
{
    char path[48];
    bp_text_path(path, sizeof path, "/proc/thread-self/fd/", (uint64_t)fd, "");
    return bp_kernel_keep_clear(result(syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC | O_NONBLOCK)));
}

int bp_kernel_is_sealed(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) == (F_SEAL_SHRINK | F_SEAL_GROW);
}

static int set_lock(int fd, uint64_t byte, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    int code = result(syscall(SYS_fcntl, fd, F_OFD_SETLK, &lock));
    if (code == 0) {
        BP_STORED("lock changed");
    }
    return code == -EACCES ? -EAGAIN : code;
}

int bp_kernel_lock_byte(int fd, uint64_t byte)
{
    return set_lock(fd, byte, F_WRLCK);
}

int bp_kernel_unlock_byte(int fd, uint64_t byte)
{
    return set_lock(fd, byte, F_UNLCK);
}

int bp_kernel_is_locked(int fd, uint64_t from, uint64_t count)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)from, .l_len = (off_t)count};
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

int bp_kernel_next_data(int fd, uint64_t from, uint64_t *start, uint64_t *end)
{
    off_t data = lseek(fd, (off_t)from, SEEK_DATA);
    if (data < 0) {
        return -errno;
    }
    off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0) {
        return -errno;
    }
    *start = (uint64_t)data;
    *end = (uint64_t)hole;
    return 0;
}

int bp_kernel_started(int32_t pid, uint64_t *ticks)
{
    char buffer[1024];
    bp_text_path(buffer, sizeof buffer, "/proc/", (uint64_t)pid, "/stat");
    int fd = bp_kernel_open_read(buffer);
    if (fd < 0) {
        return fd == -ENOENT ? -ESRCH : fd;
    }
    ssize_t got = bp_kernel_read(fd, buffer, sizeof buffer - 1);
    bp_kernel_close(fd);
    if (got <= 0) {
        return got == -ESRCH ? -ESRCH : -EIO;
    }
    buffer[got] = 0;
    const char *at = strrchr(buffer, ')'); /* the name may hold anything */
    if (at == NULL || at[1] != ' ') {
        return -EIO;
    }
    at += 2;
    bool ended = *at == 'Z' || *at == 'X';     /* the first thread */
    for (int field = 3; field < 22; field++) { /* proc(5): num_threads is the 20th, starttime the 22nd */
        if (field == 20 && ended && at[0] <= '1' && at[1] == ' ') {
            return -ESRCH;
        }
        at = strchr(at, ' ');
        if (at == NULL) {
            return -EIO;
        }
        at++;
    }
    *ticks = 0;
    while (*at >= '0' && *at <= '9') {
        *ticks = *ticks * 10 + (uint64_t)(*at++ - '0');
    }
    return 0;
}

uint64_t bp_kernel_pid_space(void)
{
    struct stat file;
    return stat("/proc/thread-self/ns/pid", &file) == 0 ? file.st_ino : 0;
}
