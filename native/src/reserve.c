/* reserve.c: reading the system's huge pages, see reserve.h. */
#include "reserve.h"

#include "kernel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER "/sys/kernel/mm/hugepages/hugepages-%llukB/"

static int read_text(const char *path, char *buffer, size_t size)
{
    int fd = bp_kernel_open_read(path);
    if (fd < 0) {
        return fd;
    }
    ssize_t got = bp_kernel_read(fd, buffer, size - 1);
    bp_kernel_close(fd);
    buffer[got > 0 ? got : 0] = 0;
    return got < 0 ? (int)got : 0;
}

static int read_count(uint64_t page_size, const char *file, uint64_t *count)
{
    char path[128];
    char text[32];
    snprintf(path, sizeof path, FOLDER "%s", (unsigned long long)(page_size / 1024), file);
    int code = read_text(path, text, sizeof text);
    if (code == 0) {
        *count = strtoull(text, NULL, 10);
    }
    return code;
}

int bp_reserve_read(uint64_t page_size, struct bp_reserve *reserve)
{
    uint64_t surplus = 0;
    uint64_t overcommit = 0;
    int code = read_count(page_size, "nr_hugepages", &reserve->total);
    if (code == 0) {
        code = read_count(page_size, "free_hugepages", &reserve->free);
    }
    if (code == 0) {
        code = read_count(page_size, "resv_hugepages", &reserve->reserved);
    }
    if (code == 0 && read_count(page_size, "nr_overcommit_hugepages", &overcommit) == 0) {
        read_count(page_size, "surplus_hugepages", &surplus);
    }
    reserve->more = overcommit > surplus ? overcommit - surplus : 0;
    return code;
}

int bp_reserve_default(uint64_t *page_size)
{
    char text[8192];
    int code = read_text("/proc/meminfo", text, sizeof text);
    const char *line = code < 0 ? NULL : strstr(text, "Hugepagesize:");
    *page_size = line == NULL ? 0 : strtoull(line + strlen("Hugepagesize:"), NULL, 10) * 1024;
    return code < 0 ? code : *page_size == 0 ? -ENOENT : 0;
}

void bp_reserve_unit(uint64_t bytes, char *buffer, size_t size)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (unit < 4 && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    snprintf(buffer, size, "%llu %s", (unsigned long long)bytes, units[unit]);
}

void bp_reserve_sizes(char *buffer, size_t size)
{
    size_t length = 0;
    buffer[0] = 0;
    for (uint64_t page_size = 16 << 10; page_size <= (uint64_t)16 << 30; page_size *= 2) {
        struct bp_reserve reserve;
        char name[32];
        if (bp_reserve_read(page_size, &reserve) == 0 && length < size) {
            bp_reserve_unit(page_size, name, sizeof name);
            length += (size_t)snprintf(buffer + length, size - length, "%s%s", length > 0 ? ", " : "", name);
        }
    }
    if (length == 0) {
        snprintf(buffer, size, "no size");
    }
}

int bp_reserve_gauge(uint64_t page_size)
{
    struct bp_reserve reserve;
    char path[128];
    if (bp_reserve_read(page_size, &reserve) < 0 || reserve.more > 0) {
        return -1;
    }
    snprintf(path, sizeof path, FOLDER "free_hugepages", (unsigned long long)(page_size / 1024));
    int fd = bp_kernel_keep_clear(bp_kernel_open_read(path));
    return fd < 0 ? -1 : fd;
}

uint64_t bp_reserve_free(int gauge)
{
    char text[32];
    ssize_t got = bp_kernel_read_again(gauge, text, sizeof text);
    uint64_t count = 0;
    for (ssize_t i = 0; i < got && text[i] >= '0' && text[i] <= '9'; i++) {
        count = count * 10 + (uint64_t)(text[i] - '0');
    }
    return got > 0 ? count : UINT64_MAX;
}

void bp_reserve_explain(uint64_t page_size, uint64_t needed, int fd, char *buffer, size_t size)
{
    struct bp_reserve reserve;
    uint64_t limit = 0;
    uint64_t left = 0;
    char name[32];
    unsigned long long need = needed;
    bp_reserve_unit(page_size, name, sizeof name);
    if (bp_reserve_read(page_size, &reserve) < 0) {
        snprintf(buffer, size, "%llu huge pages of %s are needed for the whole pool", need, name);
        return;
    }
    if (fd >= 0 && bp_kernel_mount_room(fd, &limit, &left) == 0 && limit > 0 && left < needed &&
        (left == 0 || reserve.free > 0)) {
        snprintf(buffer, size,
                 "the mount has %llu of its %llu huge pages of %s left, and the whole pool needs %llu: free "
                 "some, or mount it with a larger size (bufpool mount)",
                 (unsigned long long)left, (unsigned long long)limit, name, need);
        return;
    }
    uint64_t at_hand = reserve.free - (reserve.reserved < reserve.free ? reserve.reserved : reserve.free);
    int length = snprintf(
        buffer, size, "huge pages of %s: %llu there, %llu free, %llu of those reserved, %llu needed for the whole pool",
        name, (unsigned long long)reserve.total, (unsigned long long)reserve.free, (unsigned long long)reserve.reserved,
        need);
    if (needed > at_hand && length >= 0 && (size_t)length < size) {
        snprintf(buffer + length, size - (size_t)length,
                 "; to get them, as root: echo %llu > " FOLDER "nr_hugepages, or see bufpool mount",
                 (unsigned long long)(reserve.total + needed - at_hand), (unsigned long long)(page_size / 1024));
    }
}
