/* kernel_pins.c: the system calls of kernel.h that close a page whose frame stays, and open it again. */
#include "kernel.h"

#include "kernel_result.h"
#include "point.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* include/uapi/linux/userfaultfd.h: Linux 5.13, 5.14, 5.19, and 6.4 for the mode of CONTINUE. */
#define FEATURE_MINOR_HUGETLBFS (UINT64_C(1) << 9)
#define FEATURE_MINOR_SHMEM (UINT64_C(1) << 10)
#define FEATURE_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12)
#define FEATURE_WP_UNPOPULATED (UINT64_C(1) << 13) /* 6.4 */
#define FEATURE_WP_ASYNC (UINT64_C(1) << 15)       /* 6.7 */
#define REGISTER_MINOR (UINT64_C(1) << 2)
#define DONTWAKE 1
#define CONTINUE_WP 2
#define COPY_WP 2
#define PROTECT_ON 1
#define PROTECT_DONTWAKE 2

struct continue_request {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
    int64_t mapped;
};
_Static_assert(sizeof(struct continue_request) == 32, "the kernel's struct uffdio_continue has 32 bytes");
#define UFFDIO_CONTINUE_ _IOWR(0xAA, 0x07, struct continue_request)

struct protect_request {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
};
_Static_assert(sizeof(struct protect_request) == 24, "the kernel's struct uffdio_writeprotect has 24 bytes");
#define UFFDIO_WRITEPROTECT_ _IOWR(0xAA, 0x06, struct protect_request)

int bp_kernel_uffd_open_closing(int file, int huge)
{
    uint64_t features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    features |= !file ? 0 : FEATURE_WP_HUGETLBFS_SHMEM | (huge ? FEATURE_MINOR_HUGETLBFS : FEATURE_MINOR_SHMEM);
    return bp_kernel_uffd_open_with(features);
}

int bp_kernel_uffd_open_tracking(int file)
{
    return bp_kernel_uffd_open_with(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_UNPOPULATED |
                                    FEATURE_WP_ASYNC | (file ? FEATURE_WP_HUGETLBFS_SHMEM : 0));
}

int bp_kernel_uffd_register_closing(int uffd, uintptr_t address, size_t length, int file)
{
    struct uffdio_register range = {.range = {address, length},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP |
                                            (file ? REGISTER_MINOR : 0)};
    return result(ioctl(uffd, UFFDIO_REGISTER, &range));
}

int bp_kernel_uffd_copy_protected(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    struct uffdio_copy copy = {.dst = to, .src = (uintptr_t)from, .len = length, .mode = DONTWAKE | COPY_WP};
    int code = result(ioctl(uffd, UFFDIO_COPY, &copy));
    *done = copy.copy > 0 ? (size_t)copy.copy : 0;
    BP_STORED("frame copied");
    return code;
}

int bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on)
{
    /* To take the mark away wakes nobody: the kernel refuses both flags together. */
    struct protect_request request = {address, length, on ? PROTECT_ON : PROTECT_DONTWAKE};
    int code;
    do {
        code = result(ioctl(uffd, UFFDIO_WRITEPROTECT_, &request));
    } while (code == -EAGAIN || code == -EINTR);
    return code;
}

int bp_kernel_uffd_continue(int uffd, uintptr_t address, size_t length, int protect)
{
    struct continue_request request = {
        .start = address, .length = length, .mode = DONTWAKE | (protect ? CONTINUE_WP : 0)};
    int patience = 10000; /* EAGAIN without progress lasts as long as another thread's fork or mremap */
    for (;;) {
        int code = result(ioctl(uffd, UFFDIO_CONTINUE_, &request));
        if (code == 0 || (code != -EAGAIN && code != -EINTR)) {
            return code;
        }
        if (request.mapped > 0) {
            request.start += (uint64_t)request.mapped;
            request.length -= (uint64_t)request.mapped;
        } else if (patience-- == 0) {
            return code;
        }
        request.mapped = 0;
    }
}

/* SYS_pkey_...: Linux 4.9. */
#define KEY_DISABLE_WRITE 2

int bp_kernel_key_alloc(void)
{
    return result(syscall(SYS_pkey_alloc, 0, KEY_DISABLE_WRITE));
}

int bp_kernel_key_free(int key)
{
    return result(syscall(SYS_pkey_free, key));
}

int bp_kernel_key_protect(void *address, size_t length, int protection, int key)
{
    return result(syscall(SYS_pkey_mprotect, address, length, protection, key));
}
