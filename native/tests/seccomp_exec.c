/*
 * Runs a command under a filter of system calls that refuses what a container's default profile refuses:
 * userfaultfd, process_madvise, mbind and (since Docker 25) io_uring answer EPERM, and so does /dev/userfaultfd, which a
 * container has not. The command's children inherit the filter.
 *
 * Usage: seccomp_exec COMMAND [ARGUMENT...]
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "seccomp_exec knows x86-64 and arm64 only"
#endif

#ifndef SYS_process_madvise
#define SYS_process_madvise 440 /* the same number on every architecture */
#endif

#define NEW_USERFAULTFD 0xAA00 /* USERFAULTFD_IOC_NEW, the one request of /dev/userfaultfd */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(value) BPF_STMT(BPF_RET | BPF_K, (value))
#define REFUSE(number) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), ANSWER(SECCOMP_RET_ERRNO | (EPERM & SECCOMP_RET_DATA))

static int fail(const char *what)
{
    fprintf(stderr, "seccomp_exec: %s: %s\n", what, strerror(errno));
    return 125;
}

int main(int argc, char **argv)
{
    /* Numbers of another architecture mean other calls: a program of one is ended rather than let through. */
    struct sock_filter filter[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
        ANSWER(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr),
        REFUSE(SYS_userfaultfd),
        REFUSE(SYS_process_madvise),
        REFUSE(SYS_mbind),
        REFUSE(SYS_io_uring_setup),
        REFUSE(SYS_io_uring_enter),
        REFUSE(SYS_io_uring_register),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        LOAD(args[1]),
        REFUSE(NEW_USERFAULTFD),
        ANSWER(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    if (argc < 2) {
        fprintf(stderr, "usage: seccomp_exec COMMAND [ARGUMENT...]\n");
        return 125;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return fail("PR_SET_NO_NEW_PRIVS");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return fail("PR_SET_SECCOMP");
    if (syscall(SYS_userfaultfd, 0) != -1 || errno != EPERM)
        return fail("the filter does not refuse userfaultfd");
    execvp(argv[1], argv + 1);
    return fail(argv[1]);
}
