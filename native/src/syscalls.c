/* syscalls.c: looking at threads through /proc, see syscalls.h. */
#include "syscalls.h"

#include "kernel.h"
#include "text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Those that are handed a pointer, and some more; others are shown by their number. First what every architecture has,
 * then what only the older ones have. */
/* clang-format off */
#define COMMON \
    CALL(read) CALL(write) CALL(readv) CALL(writev) CALL(pread64) CALL(pwrite64) CALL(preadv) CALL(pwritev) \
    CALL(preadv2) CALL(pwritev2) CALL(openat) CALL(close) CALL(fstat) CALL(newfstatat) CALL(statx) CALL(statfs) \
    CALL(fstatfs) CALL(lseek) CALL(ppoll) CALL(pselect6) CALL(epoll_ctl) CALL(epoll_pwait) CALL(ioctl) CALL(fcntl) \
    CALL(faccessat) CALL(pipe2) CALL(sendfile) CALL(splice) CALL(tee) CALL(vmsplice) CALL(copy_file_range) \
    CALL(getdents64) CALL(getcwd) CALL(chdir) CALL(renameat) CALL(renameat2) CALL(mkdirat) CALL(linkat) \
    CALL(symlinkat) CALL(unlinkat) CALL(readlinkat) CALL(fchmodat) CALL(fchownat) CALL(truncate) CALL(mknodat) \
    CALL(utimensat) CALL(mount) CALL(umount2) CALL(name_to_handle_at) CALL(open_by_handle_at) CALL(setxattr) \
    CALL(lsetxattr) CALL(fsetxattr) CALL(getxattr) CALL(lgetxattr) CALL(fgetxattr) CALL(listxattr) \
    CALL(llistxattr) CALL(flistxattr) CALL(removexattr) CALL(lremovexattr) CALL(fremovexattr) CALL(socket) \
    CALL(socketpair) CALL(bind) CALL(connect) CALL(accept) CALL(accept4) CALL(listen) CALL(getsockname) \
    CALL(getpeername) CALL(setsockopt) CALL(getsockopt) CALL(sendto) CALL(recvfrom) CALL(sendmsg) CALL(recvmsg) \
    CALL(sendmmsg) CALL(recvmmsg) CALL(shutdown) CALL(io_setup) CALL(io_submit) CALL(io_getevents) \
    CALL(io_pgetevents) CALL(io_cancel) CALL(io_uring_setup) CALL(io_uring_enter) CALL(io_uring_register) \
    CALL(futex) CALL(set_robust_list) CALL(get_robust_list) CALL(rseq) CALL(nanosleep) CALL(clock_nanosleep) \
    CALL(clock_gettime) CALL(clock_settime) CALL(clock_getres) CALL(clock_adjtime) CALL(gettimeofday) \
    CALL(settimeofday) CALL(adjtimex) CALL(times) CALL(getrusage) CALL(getrlimit) CALL(setrlimit) CALL(prlimit64) \
    CALL(sysinfo) CALL(uname) CALL(getrandom) CALL(getcpu) CALL(getitimer) CALL(setitimer) CALL(timer_create) \
    CALL(timer_settime) CALL(timer_gettime) CALL(timerfd_settime) CALL(timerfd_gettime) CALL(rt_sigaction) \
    CALL(rt_sigprocmask) CALL(rt_sigpending) CALL(rt_sigtimedwait) CALL(rt_sigqueueinfo) CALL(rt_tgsigqueueinfo) \
    CALL(rt_sigsuspend) CALL(signalfd4) CALL(sigaltstack) CALL(pidfd_send_signal) CALL(wait4) CALL(waitid) \
    CALL(clone) CALL(execve) CALL(execveat) CALL(prctl) CALL(ptrace) CALL(seccomp) CALL(bpf) CALL(perf_event_open) \
    CALL(process_vm_readv) CALL(process_vm_writev) CALL(madvise) CALL(mincore) CALL(mbind) CALL(get_mempolicy) \
    CALL(set_mempolicy) CALL(move_pages) CALL(migrate_pages) CALL(mmap) CALL(munmap) CALL(mprotect) CALL(mremap) \
    CALL(msync) CALL(mlock) CALL(mlock2) CALL(shmat) CALL(shmctl) CALL(shmdt) CALL(msgsnd) CALL(msgrcv) \
    CALL(msgctl) CALL(semop) CALL(semtimedop) CALL(semctl) CALL(mq_open) CALL(mq_timedsend) CALL(mq_timedreceive) \
    CALL(mq_notify) CALL(mq_getsetattr) CALL(memfd_create) CALL(userfaultfd) CALL(add_key) CALL(request_key) \
    CALL(keyctl) CALL(capget) CALL(capset) CALL(getgroups) CALL(setgroups) CALL(getresuid) CALL(getresgid) \
    CALL(sched_setaffinity) CALL(sched_getaffinity) CALL(sched_setparam) CALL(sched_getparam) CALL(sched_setattr) \
    CALL(sched_getattr) CALL(sched_setscheduler) CALL(sched_rr_get_interval) CALL(syslog) CALL(quotactl) \
    CALL(init_module) CALL(finit_module) CALL(kexec_load) CALL(swapon) CALL(acct) CALL(sethostname) \
    CALL(setdomainname) CALL(inotify_add_watch) CALL(fanotify_mark) CALL(fallocate) CALL(fsync) CALL(fdatasync) \
    CALL(sync_file_range) CALL(readahead) CALL(fadvise64)

#define OLDER \
    CALL(open) CALL(creat) CALL(stat) CALL(lstat) CALL(poll) CALL(select) CALL(epoll_wait) CALL(access) CALL(pipe) \
    CALL(getdents) CALL(rename) CALL(mkdir) CALL(rmdir) CALL(link) CALL(symlink) CALL(unlink) CALL(readlink) \
    CALL(chmod) CALL(chown) CALL(lchown) CALL(mknod) CALL(utime) CALL(utimes) CALL(futimesat) CALL(time) \
    CALL(arch_prctl)

struct name {
    long number;
    const char *name;
};

#define CALL(name) {SYS_##name, #name},
static const struct name names[] = {
    COMMON
#ifdef SYS_open
    OLDER
#endif
#ifdef SYS_epoll_pwait2 /* Linux 5.11, and what came shortly before it */
    CALL(epoll_pwait2) CALL(process_madvise) CALL(faccessat2) CALL(openat2) CALL(clone3)
#endif
#ifdef SYS_futex_waitv /* Linux 5.16 */
    CALL(futex_waitv)
#endif
};
/* clang-format on */

void bp_syscall_name(long number, char *buffer, size_t size)
{
    struct bp_text text = {buffer, size, 0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].number == number) {
            bp_text_put(&text, names[i].name);
            bp_text_end(&text);
            return;
        }
    }
    bp_text_put(&text, "syscall ");
    bp_text_decimal(&text, (uint64_t)number);
    bp_text_end(&text);
}

void bp_spare_close(struct bp_spare *spare)
{
    int fd = spare->fd;
    spare->fd = -1; /* first: a child that is forked meanwhile does not close what has its number */
    if (fd >= 0 && bp_kernel_is_still(fd, spare->id)) {
        bp_kernel_close(fd);
    }
}

/* The process may have as many descriptors as it is allowed: then the spare one makes room. What is opened instead of it
 * stays as the next. */
static int open_spare(const char *path, struct bp_spare *spare)
{
    int fd = bp_kernel_open_read(path);
    if ((fd == -EMFILE || fd == -ENFILE) && spare->fd >= 0) {
        bp_spare_close(spare);
        fd = bp_kernel_open_read(path);
    }
    return fd;
}

static void close_or_spare(int fd, struct bp_spare *spare)
{
    if (spare->fd < 0 && fd > STDERR_FILENO && bp_kernel_identify(fd, spare->id) == 0) {
        spare->fd = fd;
    } else {
        bp_kernel_close(fd);
    }
}

/* Reads /proc/self/task/THREAD/FILE, or /proc/THREAD/FILE. Returns bytes, or -errno. */
static ssize_t read_file(bool own, int32_t thread, const char *file, char *buffer, size_t size, struct bp_spare *spare)
{
    char path[64];
    bp_text_path(path, sizeof path, own ? "/proc/self/task/" : "/proc/", (uint64_t)thread, file);
    int fd = open_spare(path, spare);
    if (fd < 0) {
        return fd;
    }
    ssize_t got = bp_kernel_read(fd, buffer, size - 1);
    close_or_spare(fd, spare);
    buffer[got > 0 ? got : 0] = 0;
    return got;
}

void bp_activity_read(int32_t thread, struct bp_activity *activity, struct bp_spare *spare)
{
    char line[256];
    bool own = bp_kernel_thread_alive(thread);
    *activity = (struct bp_activity){.doing = own ? BP_DOING_HIDDEN : BP_DOING_GONE, .foreign = !own};
    ssize_t got = read_file(own, thread, "/syscall", line, sizeof line, spare);
    if (got <= 0) {
        activity->code = (int)got;
        return;
    }
    char *at = line;
    char *end;
    activity->doing = BP_DOING_RUNNING;
    activity->number = strtol(at, &end, 10);
    if (end == at) {
        return; /* "running" */
    }
    /* "-1 SP PC", or "NUMBER ARGUMENT... SP PC". */
    activity->doing = activity->number < 0 ? BP_DOING_ACCESS : BP_DOING_CALL;
    for (int i = 0; i < 6 && activity->doing == BP_DOING_CALL; i++) {
        activity->arguments[i] = strtoull(end, &end, 16);
    }
    activity->sp = strtoull(end, &end, 16);
    activity->pc = strtoull(end, &end, 16);
}

bool bp_thread_blocks(int32_t thread, int signo, struct bp_spare *spare)
{
    char status[4096];
    if (read_file(true, thread, "/status", status, sizeof status, spare) <= 0) {
        return false;
    }
    const char *line = strstr(status, "\nSigBlk:");
    return line != NULL && strtoull(line + 8, NULL, 16) >> (signo - 1) & 1;
}

void bp_thread_name(int32_t thread, char name[16])
{
    struct bp_spare spare = {.fd = -1};
    memset(name, 0, 16);
    if (read_file(false, thread, "/comm", name, 16, &spare) > 0) {
        name[strcspn(name, "\n")] = 0;
    }
    bp_spare_close(&spare);
}

/* "exe" is what a program is called that was run as /proc/self/exe: it has its file's name. That of a path of more than 300
 * bytes is not looked at: a handler's stack is small. */
__attribute__((noinline)) static void name_of_file(int32_t pid, char name[16])
{
    char path[40];
    char file[300];
    bp_text_path(path, sizeof path, "/proc/", (uint64_t)pid, "/exe");
    ssize_t length = readlink(path, file, sizeof file);
    file[length < 0 || (size_t)length == sizeof file ? 0 : length] = 0;
    const char *base = strrchr(file, '/');
    if (base != NULL && base[1] != 0) {
        memset(name, 0, 16);
        memcpy(name, base + 1, strnlen(base + 1, 15));
    }
}

void bp_process_name(int32_t pid, char name[16])
{
    bp_thread_name(pid, name);
    if (strcmp(name, "exe") == 0) {
        name_of_file(pid, name);
    }
}
