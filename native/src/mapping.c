/* mapping.c: reading /proc/thread-self/smaps, see mapping.h. */
#include "mapping.h"

#include "error.h"
#include "lines.h"
#include "mounts.h"
#include "trap_adopted.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* One entry: what the kernel has as one area. */
struct area {
    uint64_t start, end, offset, inode, page_size;
    unsigned major, minor;
    char rights[5];
    char path[256]; /* longer ones are cut */
    char flags[256];
};

static bool read_head(const char *line, struct area *area)
{
    unsigned long long start, end, offset, inode;
    int path = 0;
    struct area found = {.page_size = 0};
    if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &start, &end, found.rights, &offset, &found.major,
               &found.minor, &inode, &path) < 7) {
        return false;
    }
    found.start = start;
    found.end = end;
    found.offset = offset;
    found.inode = inode;
    snprintf(found.path, sizeof found.path, "%.255s", path > 0 ? line + path : "");
    *area = found;
    return true;
}

/* The next whole entry: 1; 0: there is no more; -errno. */
static int next_area(struct bp_lines *lines, struct area *area)
{
    char line[1024];
    unsigned long long kib;
    bool begun = false;
    int code;
    while ((code = bp_lines_next(lines, line, sizeof line)) > 0) {
        if (read_head(line, area)) {
            begun = true;
        } else if (begun && sscanf(line, "KernelPageSize: %llu kB", &kib) == 1) {
            area->page_size = kib * 1024;
        } else if (begun && strncmp(line, "VmFlags:", 8) == 0) { /* the last line of an entry */
            snprintf(area->flags, sizeof area->flags, "%.254s ", line + 8);
            return 1;
        }
    }
    return code;
}

static bool has_flag(const struct area *area, const char *flag)
{
    char word[8];
    snprintf(word, sizeof word, " %s ", flag);
    return strstr(area->flags, word) != NULL;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static int refuse(int code, uint64_t address, const struct area *area, const char *reason)
{
    return bp_error(code, "the mapping at %#llx (%s%s) cannot be adopted: %s", (unsigned long long)address,
                    area->rights,
                    area->path[0] == 0     ? ", anonymous"
                    : area->path[0] == '[' ? ", of the kernel's naming"
                                           : area->path,
                    reason);
}

/* What a shared mapping is of. The kernel's own mounts, of memfd, System V and the like, are none that a program sees. */
static const char *find_backing(const struct area *area, char *type, size_t size)
{
    static const struct {
        const char *path;
        const char *backing;
    } internal[] = {
        {"/memfd:", "memfd"},
        {"/dev/zero (deleted)", "shared anonymous"},
        {"/SYSV", BP_BACKING_SYSV},
        {"/anon_hugepage (deleted)", "shared anonymous"},
    };
    if (bp_mount_type(makedev(area->major, area->minor), type, size) == 0) {
        return strcmp(type, "tmpfs") == 0       ? "file on tmpfs"
               : strcmp(type, "hugetlbfs") == 0 ? "file of huge pages"
                                                : NULL;
    }
    snprintf(type, size, "a file system that is not mounted here");
    for (size_t i = 0; i < sizeof internal / sizeof *internal; i++) {
        if (begins(area->path, internal[i].path)) {
            return internal[i].backing;
        }
    }
    return NULL;
}

static int look_at(const struct area *area, uint64_t address, struct bp_mapping *mapping)
{
    *mapping = (struct bp_mapping){.granule = area->page_size,
                                   .shared = area->rights[3] == 's',
                                   .hugetlb = has_flag(area, "ht"),
                                   .id = {area->inode == 0 ? 0 : makedev(area->major, area->minor), area->inode},
                                   .backing = "private anonymous"};
    if (strncmp(area->rights, "rw-", 3) != 0) {
        return refuse(BUFPOOL_EARGUMENT, address, area, "it has to be readable and writable, and not executable");
    }
    if (has_flag(area, "io") || has_flag(area, "pf") || has_flag(area, "gd") || begins(area->path, "[stack") ||
        begins(area->path, "[v")) {
        return refuse(BUFPOOL_EUNSUPPORTED, address, area,
                      "it is a stack, or of a device or the kernel, whose pages cannot be closed");
    }
    if (has_flag(area, "um") || has_flag(area, "uw") || has_flag(area, "ui")) {
        return refuse(BUFPOOL_EARGUMENT, address, area, "it is registered with a userfaultfd of somebody else");
    }
    if (has_flag(area, "lo")) {
        return refuse(
            BUFPOOL_EUNSUPPORTED, address, area,
            "it is locked in memory, where the kernel takes no frame away: munlock() it (or leave mlockall())");
    }
    if (has_flag(area, "mg")) {
        return refuse(BUFPOOL_EUNSUPPORTED, address, area,
                      "the kernel may merge its pages with others (KSM), which opens what is closed: "
                      "madvise(MADV_UNMERGEABLE) it");
    }
    if (mapping->shared) {
        char type[64];
        char reason[256];
        mapping->backing = find_backing(area, type, sizeof type);
        if (mapping->backing == NULL) {
            snprintf(reason, sizeof reason,
                     "it is of a file on %s, and pages of memory alone can be closed: anonymous memory, memfd, tmpfs "
                     "(/dev/shm), System V, hugetlbfs",
                     type);
            return refuse(BUFPOOL_EUNSUPPORTED, address, area, reason);
        }
    } else if (area->inode != 0 && !(mapping->hugetlb && begins(area->path, "/anon_hugepage"))) {
        return refuse(BUFPOOL_EUNSUPPORTED, address, area,
                      "it is a private mapping of a file, where a page that is freed would be the file's again: map it "
                      "MAP_SHARED, or use anonymous memory");
    }
    if (!mapping->shared) {
        mapping->id[0] = mapping->id[1] = 0;
    }
    return 0;
}

static bool is_same(const struct bp_mapping *one, const struct bp_mapping *other)
{
    return one->granule == other->granule && one->shared == other->shared && one->hugetlb == other->hugetlb &&
           one->id[0] == other->id[0] && one->id[1] == other->id[1];
}

int bp_mapping_look(uintptr_t base, uint64_t length, struct bp_mapping *mapping)
{
    struct bp_lines lines;
    struct area area;
    struct bp_mapping found;
    uint64_t at = base;
    int code = bp_lines_open(&lines, "/proc/thread-self/smaps");
    if (code < 0) {
        return bp_error(code, "what is mapped cannot be told: /proc/thread-self/smaps cannot be opened: %s",
                        strerror(-code));
    }
    while (at < base + length && (code = next_area(&lines, &area)) > 0) {
        if (area.end <= at) {
            continue;
        }
        if (area.start > at) {
            break;
        }
        code = look_at(&area, at, &found);
        if (code == 0 && at != base && !is_same(&found, mapping)) {
            code = refuse(BUFPOOL_EARGUMENT, at, &area, "the range begins with memory of another kind");
        }
        if (code < 0) {
            break;
        }
        *mapping = found;
        at = area.end;
    }
    bp_lines_close(&lines);
    if (code >= 0 && at < base + length) {
        code = bp_error(BUFPOOL_EARGUMENT, "nothing is mapped at %#llx, within the %llu bytes at %#llx",
                        (unsigned long long)at, (unsigned long long)length, (unsigned long long)base);
    }
    return code < 0 ? code : 0;
}
