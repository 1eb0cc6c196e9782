/*
 * syscalls.h: what another thread is doing in the kernel, and the names of system calls.
 *
 * /proc/self/task/TID/syscall shows it of a thread that sleeps. A process may read that of its own threads, but for want of
 * descriptors, or when it is not dumpable (PR_SET_DUMPABLE; a change of user makes it so), which leaves the file to root.
 * Of another process's thread it may be read by whoever may trace it.
 */
#ifndef BP_SYSCALLS_H
#define BP_SYSCALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bp_doing {
    BP_DOING_GONE,    /* no such thread, or one of another process that may not be looked at */
    BP_DOING_HIDDEN,  /* a thread of this process that cannot be looked at */
    BP_DOING_RUNNING, /* it does not sleep, so nothing is shown */
    BP_DOING_ACCESS,  /* it sleeps outside of system calls: an instruction of its own touched memory */
    BP_DOING_CALL     /* it sleeps in a system call */
};

struct bp_activity {
    enum bp_doing doing;
    int code;    /* why it cannot be looked at */
    long number; /* of the system call */
    uint64_t arguments[6];
    bool foreign; /* a thread of another process */
    uint64_t sp;
    uint64_t pc; /* the instruction that is run next; of an access, the one that made it */
};

/* A descriptor that is given up when there is no other to be had, which the first look leaves here; at first .fd = -1. */
struct bp_spare {
    int fd;
    uint64_t id[2]; /* its file, see bp_kernel_identify() */
};

void bp_spare_close(struct bp_spare *spare);

void bp_activity_read(int32_t thread, struct bp_activity *activity, struct bp_spare *spare);

/* Are signals of that number blocked in the thread? false also where that cannot be read. */
bool bp_thread_blocks(int32_t thread, int signo, struct bp_spare *spare);

/* The thread's name, of whatever process; empty where it cannot be read. */
void bp_thread_name(int32_t thread, char name[16]);

/* A process's: that of its first thread; where it was run by /proc/self/exe, and so is called "exe", its file's. */
void bp_process_name(int32_t pid, char name[16]);

/* "write", or "syscall 999". */
void bp_syscall_name(long number, char *buffer, size_t size);

#endif
