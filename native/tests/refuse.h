/*
 * refuse.h: system calls that this process, from here on, is refused, as by a container's profile. For children only:
 * a filter cannot be taken off again.
 */
#ifndef REFUSE_H
#define REFUSE_H

#include "harness.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SYS_process_madvise
#define SYS_process_madvise 440 /* the same number on every architecture */
#endif

#define ANY_ARGUMENT (-1)
#define NEW_USERFAULTFD 0xAA00 /* the request of /dev/userfaultfd that takes the system call's place */
#define GUARD_INSTALL 102      /* MADV_GUARD_INSTALL */

struct refusal {
    int call;
    int argument; /* which of the call's arguments has to have the value, or ANY_ARGUMENT */
    unsigned value;
    int error;
};

#define REFUSE_USERFAULTFD \
    {SYS_userfaultfd, ANY_ARGUMENT, 0, EPERM}, \
    { \
        SYS_ioctl, 1, NEW_USERFAULTFD, EPERM \
    }
#define REFUSE_MEMFD {SYS_memfd_create, ANY_ARGUMENT, 0, EPERM}
#define REFUSE_PROCESS_MADVISE {SYS_process_madvise, ANY_ARGUMENT, 0, EPERM}
#define REFUSE_GUARD {SYS_madvise, 2, GUARD_INSTALL, EINVAL}
#define REFUSE_MBIND {SYS_mbind, ANY_ARGUMENT, 0, EPERM}
#define REFUSE_MEMPOLICY {SYS_get_mempolicy, ANY_ARGUMENT, 0, EPERM}

MAYBE_UNUSED static void refuse(const struct refusal *refusals, size_t count)
{
    struct sock_filter filter[64];
    unsigned short length = 0;
    for (size_t i = 0; i < count; i++) {
        const struct refusal *refusal = &refusals[i];
        CHECK(length + 6 < 64);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        unsigned char skip = refusal->argument == ANY_ARGUMENT ? 1 : 3;
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)refusal->call, 0, skip);
        if (refusal->argument != ANY_ARGUMENT) {
            unsigned at = (unsigned)(offsetof(struct seccomp_data, args) + 8 * (size_t)refusal->argument);
            filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at); /* its low half */
            filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refusal->value, 0, 1);
        }
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)refusal->error);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {length, filter};
    CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

#define REFUSE(...) \
    do { \
        static const struct refusal refuse_these[] = {__VA_ARGS__}; \
        refuse(refuse_these, sizeof refuse_these / sizeof *refuse_these); \
    } while (0)

#endif
