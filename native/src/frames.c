/* frames.c: asking the kernel for frames, see frames.h. */
#include "frames.h"

#include "error.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static int next_data(const struct bp_space *space, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    int code = bp_kernel_next_data(space->fd, from, start, stop);
    if (code == 0 && *start >= end) {
        code = -ENXIO;
    }
    *stop = *stop > end ? end : *stop;
    return code;
}

/* Are there frames in the file that SEEK_DATA does not show? */
static bool hides_frames(const struct bp_space *space)
{
    uint64_t length;
    uint64_t before;
    uint64_t after;
    uint64_t shown = 0;
    uint64_t start;
    uint64_t stop = 0;
    if (bp_kernel_file_size(space->fd, &length, &before) < 0) {
        return false;
    }
    while (next_data(space, stop, space->capacity, &start, &stop) == 0) {
        shown += stop - start;
    }
    return bp_kernel_file_size(space->fd, &length, &after) == 0 && before > shown && after > shown;
}

/* A mapping of our own, which shows nothing, and to which the kernel is asked to add. */
static int open_alias(struct bp_frames *frames)
{
    const struct bp_space *space = frames->space;
    void *alias;
    int uffd = bp_kernel_uffd_open_minor(space->memory->hugetlb);
    if (uffd < 0) {
        return uffd;
    }
    int code = bp_kernel_mmap(NULL, space->capacity, PROT_NONE, MAP_SHARED | MAP_NORESERVE, space->fd, &alias);
    if (code == 0) {
        bp_kernel_madvise(alias, space->capacity, MADV_DONTDUMP);
        code = bp_kernel_madvise(alias, space->capacity, MADV_DONTFORK);
        code = code < 0 ? code : bp_kernel_uffd_register_minor(uffd, (uintptr_t)alias, space->capacity);
        if (code < 0) {
            bp_kernel_munmap(alias, space->capacity);
        }
    }
    if (code < 0) {
        bp_kernel_close(uffd);
        return code;
    }
    frames->fd = uffd;
    frames->alias = (uintptr_t)alias;
    frames->way = BP_BY_SHOWING;
    return 0;
}

int bp_frames_open(struct bp_frames *frames, const struct bp_space *space)
{
    *frames = (struct bp_frames){.space = space, .way = BP_BY_SEEK, .fd = -1};
    if (space->adopted && space->memory->file) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "which pages of shared memory that was adopted have frames cannot be told: "
                        "its file is the program's");
    }
    if (space->fd < 0) {
        frames->way = BP_BY_PAGEMAP;
        frames->fd = bp_kernel_open_pagemap();
        return frames->fd >= 0 ? 0
                               : bp_error(BUFPOOL_EUNSUPPORTED,
                                          "which pages of private memory have frames cannot be told: "
                                          "/proc/self/pagemap is refused (%s)",
                                          strerror(-frames->fd));
    }
    if (!space->memory->hugetlb) {
        if (hides_frames(space)) {
            open_alias(frames); /* else what SEEK_DATA says is all there is to know */
        }
        return 0;
    }
    int code = open_alias(frames);
    if (code < 0 && space->trap == &bp_trap_noautofill) {
        frames->way = BP_BY_READING; /* never fills a hole, in no mapping of this file */
        code = 0;
    }
    if (code == -ENOMEM || code == -EAGAIN || code == -EMFILE || code == -ENFILE) {
        return bp_error(code, "cannot map %llu bytes of addresses to look at what has frames: %s",
                        (unsigned long long)space->capacity, strerror(-code));
    }
    return code == 0 ? 0
                     : bp_error(BUFPOOL_EUNSUPPORTED,
                                "which huge pages have frames cannot be told: it takes a userfaultfd with "
                                "UFFDIO_CONTINUE (Linux 5.13), which is refused (%s)",
                                strerror(-code));
}

void bp_frames_close(struct bp_frames *frames)
{
    if (frames->alias != 0) {
        bp_kernel_munmap((void *)frames->alias, frames->space->capacity);
    }
    if (frames->fd >= 0) {
        bp_kernel_close(frames->fd);
    }
    frames->alias = 0;
    frames->fd = -1;
}

/* 1, 0, or -errno. */
static int has_frame(const struct bp_frames *frames, uint64_t offset)
{
    const struct bp_space *space = frames->space;
    if (frames->way == BP_BY_READING) {
        return bp_kernel_readable((const void *)(space->base + offset));
    }
    int code = bp_kernel_uffd_show(frames->fd, frames->alias + offset, space->granule);
    return code == 0 || code == -EEXIST ? 1 : code == -EFAULT ? 0 : code;
}

static int next_granule(struct bp_frames *frames, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    uint64_t granule = frames->space->granule;
    int found = 0;
    *start = from;
    while (*start < end && (found = has_frame(frames, *start)) == 0) {
        *start += granule;
    }
    *stop = *start;
    while (*stop < end && (found = has_frame(frames, *stop)) > 0) {
        *stop += granule;
    }
    if (frames->alias != 0 && *stop > *start) {
        bp_kernel_discard((void *)(frames->alias + *start), *stop - *start);
    }
    return found < 0 ? found : *stop > *start ? 0 : -ENXIO;
}

/* Of one mapping of the pool's size, in offsets. */
static int next_mapped(const struct bp_frames *frames, uintptr_t base, uint64_t from, uint64_t end, uint64_t *start,
                       uint64_t *stop)
{
    uintptr_t first;
    uintptr_t last;
    bool marked = atomic_load(&frames->space->poisoned) > 0;
    int code = bp_kernel_next_frame(frames->fd, base + from, base + end, marked, &first, &last);
    *start = code == 0 ? first - base : end;
    *stop = code == 0 ? last - base : end;
    return code;
}

/* In the pool, or in the vault. */
static int next_private(const struct bp_frames *frames, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    const struct bp_space *space = frames->space;
    uint64_t hidden;
    uint64_t hidden_stop;
    int code = next_mapped(frames, space->base, from, end, start, stop);
    if (space->vault.base == 0 || (code < 0 && code != -ENXIO)) {
        return code;
    }
    int other = next_mapped(frames, space->vault.base, from, end, &hidden, &hidden_stop);
    if (other == 0 && (code < 0 || hidden < *start)) {
        *start = hidden;
        *stop = hidden_stop;
    }
    return code == 0 ? 0 : other;
}

int bp_frames_next(struct bp_frames *frames, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    const struct bp_space *space = frames->space;
    if (from >= end) {
        return -ENXIO;
    }
    if (frames->way == BP_BY_SEEK) {
        return next_data(space, from, end, start, stop);
    }
    return frames->way == BP_BY_PAGEMAP ? next_private(frames, from, end, start, stop)
                                        : next_granule(frames, from, end, start, stop);
}

bool bp_frames_see_scratch(const struct bp_frames *frames)
{
    const struct bp_space *space = frames->space;
    bool pasted = space->granule != BP_GRANULE || space->family; /* over the file's frame */
    return !pasted || frames->way == BP_BY_PAGEMAP || frames->way == BP_BY_READING;
}
