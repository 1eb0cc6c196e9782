/*
 * syscalls.h: what another thread is doing in the kernel, and the names of system calls.
 *
 * /proc/self/task/TID/syscall shows it of a thread that sleeps: a thread may always read that of its own process. Of
 * another process's thread it may be read by whoever may trace it.
 */
#ifndef BP_SYSCALLS_H
#define BP_SYSCALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bp_doing {
    BP_DOING_GONE,    /* no such thread, or it may not be looked at */
    BP_DOING_RUNNING, /* it does not sleep, so nothing is shown */
    BP_DOING_ACCESS,  /* it sleeps outside of system calls: an instruction of its own touched memory */
    BP_DOING_CALL     /* it sleeps in a system call */
};

struct bp_activity {
    enum bp_doing doing;
    long number; /* of the system call */
    uint64_t arguments[6];
    bool foreign; /* a thread of another process */
    uint64_t sp;
    uint64_t pc; /* the instruction that is run next; of an access, the one that made it */
};

void bp_activity_read(int32_t thread, struct bp_activity *activity);

/* Are signals of that number blocked in the thread? true also where that cannot be read. */
bool bp_thread_blocks(int32_t thread, int signo);

/* The thread's name, of whatever process; empty where it cannot be read. */
void bp_thread_name(int32_t thread, char name[16]);

/* "write", or "syscall 999". */
void bp_syscall_name(long number, char *buffer, size_t size);

#endif
