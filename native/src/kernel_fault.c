/* kernel_fault.c: the system calls of kernel.h about threads that sleep on a fault. */
#include "kernel.h"

#include "kernel_result.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* include/uapi/linux/userfaultfd.h, Linux 6.6. */
struct poison_request {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
    int64_t updated;
};
_Static_assert(sizeof(struct poison_request) == 32, "the kernel's struct uffdio_poison has 32 bytes");
#define BP_UFFDIO_POISON _IOWR(0xAA, 0x08, struct poison_request)
#define BP_POISON_DONTWAKE 1

int bp_kernel_uffd_read(int uffd, struct bp_sleeper *sleeper)
{
    struct uffd_msg message;
    ssize_t got;
    do {
        got = read(uffd, &message, sizeof message);
    } while ((got < 0 && errno == EINTR) || (got == (ssize_t)sizeof message && message.event != UFFD_EVENT_PAGEFAULT));
    if (got != (ssize_t)sizeof message) {
        return 0;
    }
    sleeper->address = message.arg.pagefault.address;
    sleeper->thread = (int32_t)message.arg.pagefault.feat.ptid;
    sleeper->write = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
    return 1;
}

int bp_kernel_uffd_poison(int uffd, uintptr_t address, size_t length)
{
    struct poison_request request = {.start = address, .length = length, .mode = BP_POISON_DONTWAKE};
    return result(ioctl(uffd, BP_UFFDIO_POISON, &request));
}

int bp_kernel_uffd_wake(int uffd, uintptr_t address, size_t length)
{
    struct uffdio_range range = {address, length};
    return result(ioctl(uffd, UFFDIO_WAKE, &range));
}

int bp_kernel_event(void)
{
    return bp_kernel_keep_clear(result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
}

int bp_kernel_wait(int first, int second, int64_t ns)
{
    struct pollfd ready[] = {{first, POLLIN, 0}, {second, POLLIN, 0}};
    struct timespec limit = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    int count = ppoll(ready, 2, ns < 0 ? NULL : &limit, NULL);
    return count <= 0 ? 0 : (ready[0].revents != 0 ? 1 : 0) + (ready[1].revents != 0 ? 2 : 0);
}

int bp_kernel_queue_sigbus(int32_t thread, void *marker)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = SIGBUS;
    info.si_code = SI_QUEUE; /* one of the kernel's own codes may be queued to oneself only */
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = marker;
    return result(syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, SIGBUS, &info));
}

int64_t bp_kernel_thread_cpu_ns(int32_t thread)
{
    /* include/linux/posix-timers_types.h: the clock of a thread is ~id << 3, and 6 for the scheduler's. */
    struct timespec used;
    clockid_t id = (clockid_t)((~(unsigned)thread << 3) | 6u);
    return clock_gettime(id, &used) == 0 ? (int64_t)used.tv_sec * 1000000000 + used.tv_nsec : -1;
}
