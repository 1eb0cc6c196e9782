/* kernel_look.c: the system calls of kernel.h about which frames are there. */
#include "kernel.h"

#include "kernel_result.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OS_PAGE 4096

/* include/uapi/linux/userfaultfd.h, Linux 5.13 and 5.14. */
struct continue_request {
    uint64_t start;
    uint64_t length;
    uint64_t mode;
    int64_t mapped;
};
_Static_assert(sizeof(struct continue_request) == 32, "the kernel's struct uffdio_continue has 32 bytes");
#define BP_UFFDIO_CONTINUE _IOWR(0xAA, 0x07, struct continue_request)
#define BP_CONTINUE_DONTWAKE 1
#define BP_FEATURE_MINOR_HUGETLBFS (UINT64_C(1) << 9)
#define BP_FEATURE_MINOR_SHMEM (UINT64_C(1) << 10)
#define BP_REGISTER_MINOR (UINT64_C(1) << 2)

/* include/uapi/linux/fs.h, Linux 6.7. */
struct pagemap_scan {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};
_Static_assert(sizeof(struct pagemap_scan) == 96, "the kernel's struct pm_scan_arg has 96 bytes");
#define BP_PAGEMAP_SCAN _IOWR('f', 16, struct pagemap_scan)
#define BP_PAGE_IS_WRITTEN 2
#define BP_PAGE_IS_PRESENT 8
#define BP_PAGE_IS_SWAPPED 16
#define BP_PAGE_IS_HUGE 64

/* An entry of /proc/PID/pagemap. */
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)

int bp_kernel_uffd_open_minor(int huge)
{
    return bp_kernel_uffd_open_with(huge ? BP_FEATURE_MINOR_HUGETLBFS : BP_FEATURE_MINOR_SHMEM);
}

int bp_kernel_uffd_register_minor(int uffd, uintptr_t address, size_t length)
{
    /* For missing pages, too: for minor faults alone, a hole would be filled. */
    struct uffdio_register range = {.range = {address, length},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | BP_REGISTER_MINOR};
    return result(ioctl(uffd, UFFDIO_REGISTER, &range));
}

int bp_kernel_uffd_show(int uffd, uintptr_t address, size_t length)
{
    struct continue_request request = {.start = address, .length = length, .mode = BP_CONTINUE_DONTWAKE};
    int code;
    do {
        code = result(ioctl(uffd, BP_UFFDIO_CONTINUE, &request));
    } while (code == -EAGAIN || code == -EINTR);
    return code;
}

/* Before Linux 6.7: entry by entry. */
static int read_entries(int pagemap, uintptr_t from, uintptr_t end, uint64_t wanted, uintptr_t *start, uintptr_t *stop)
{
    uint64_t entries[512];
    *start = end;
    for (uintptr_t at = from; at < end;) {
        size_t count = (end - at + OS_PAGE - 1) / OS_PAGE;
        count = count > 512 ? 512 : count;
        ssize_t got = syscall(SYS_pread64, pagemap, entries, count * 8, at / OS_PAGE * 8);
        if (got < 8) {
            return got < 0 ? -errno : -EIO;
        }
        for (size_t i = 0; i < (size_t)got / 8; i++, at += OS_PAGE) {
            if ((entries[i] & wanted) != 0 && *start == end) {
                *start = at;
            }
            if ((entries[i] & wanted) == 0 && *start != end) {
                *stop = at;
                return 0;
            }
        }
    }
    *stop = end;
    return *start == end ? -ENXIO : 0;
}

int bp_kernel_next_frame(int pagemap, uintptr_t from, uintptr_t end, int resident, uintptr_t *start, uintptr_t *stop)
{
    uint64_t region[3];
    uint64_t mask = BP_PAGE_IS_PRESENT | (resident ? 0 : BP_PAGE_IS_SWAPPED);
    struct pagemap_scan scan = {.size = sizeof scan,
                                .start = from,
                                .end = end,
                                .vec = (uintptr_t)region,
                                .vec_len = 1,
                                .category_anyof_mask = mask,
                                .return_mask = mask};
    int found = result(ioctl(pagemap, BP_PAGEMAP_SCAN, &scan));
    if (found < 0) {
        return read_entries(pagemap, from, end, ENTRY_PRESENT | (resident ? 0 : ENTRY_SWAPPED), start, stop);
    }
    if (found == 0) {
        return -ENXIO;
    }
    *start = region[0];
    *stop = region[1];
    return 0;
}

int bp_kernel_next_written(int pagemap, uintptr_t from, uintptr_t end, uintptr_t *written)
{
    uint64_t region[3];
    struct pagemap_scan scan = {.size = sizeof scan,
                                .start = from,
                                .end = end,
                                .vec = (uintptr_t)region,
                                .vec_len = 1,
                                .category_mask = BP_PAGE_IS_WRITTEN,
                                .return_mask = BP_PAGE_IS_WRITTEN};
    int found = pagemap < 0 ? pagemap : result(ioctl(pagemap, BP_PAGEMAP_SCAN, &scan));
    if (found > 0) {
        *written = region[0];
    }
    return found < 0 ? found : found > 0 ? 0 : -ENXIO;
}

int bp_kernel_open_pagemap(void)
{
    return bp_kernel_keep_clear(result(open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC)));
}

int bp_kernel_is_huge(int pagemap, uintptr_t address, size_t length)
{
    uint64_t region[3];
    struct pagemap_scan scan = {.size = sizeof scan,
                                .start = address,
                                .end = address + length,
                                .vec = (uintptr_t)region,
                                .vec_len = 1,
                                .category_mask = BP_PAGE_IS_HUGE,
                                .return_mask = BP_PAGE_IS_HUGE};
    int found = pagemap < 0 ? -EBADF : result(ioctl(pagemap, BP_PAGEMAP_SCAN, &scan));
    return found < 0 ? found : found > 0 && region[0] == address && region[1] == address + length;
}
