/*
 * trap_uffd.c: holes trapped by userfaultfd with UFFD_FEATURE_SIGBUS (Linux 4.14), on anonymous memory and on a memfd.
 *
 * The range is registered once, whole, for missing pages. A touch of a hole raises SIGBUS in the thread that made it;
 * no thread reads the descriptor. UFFDIO_COPY fills a granule and makes it appear in one step, and needs neither the
 * mapping to be accessible nor the page to be touched. Frames of single pages are recycled through a stash, see
 * stash.h.
 */
#include "error.h"
#include "space.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

static int arm(struct bp_space *space)
{
    int fd = bp_kernel_uffd_open();
    if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM) {
        return bp_error(fd, "cannot open a userfaultfd: %s (see RLIMIT_NOFILE, ulimit -n)", strerror(-fd));
    }
    if (fd == -EPERM) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "userfaultfd is refused (EPERM), as by a container's seccomp profile: allow "
                        "the system call, or give the container --device /dev/userfaultfd");
    }
    if (fd == -ENOSYS) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "this kernel has no userfaultfd (ENOSYS): it takes CONFIG_USERFAULTFD=y");
    }
    if (fd < 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "userfaultfd with SIGBUS is refused (%s): it takes Linux 5.11 or newer",
                        strerror(-fd));
    }
    space->uffd = fd;
    int code = bp_kernel_uffd_register(fd, space->base, space->capacity);
    if (code == -ENOMEM) {
        return bp_error(code, "cannot register %llu bytes with userfaultfd: %s", (unsigned long long)space->capacity,
                        strerror(-code));
    }
    if (code < 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "userfaultfd does not take memory \"%s\" (%s): it takes Linux 4.14 or newer",
                        space->memory->name, strerror(-code));
    }
    if (space->fd < 0) {
        bp_stash_open(&space->stash, fd);
    }
    return 0;
}

static int open_chunk(struct bp_space *space, uintptr_t address, size_t length)
{
    (void)space; /* registered already */
    return bp_kernel_mprotect((void *)address, length, PROT_READ | PROT_WRITE);
}

static int zap_one(struct bp_space *space, uintptr_t address, size_t length)
{
    if (space->fd >= 0) {
        return bp_kernel_punch(space->fd, address - space->base, length); /* unmaps it everywhere, too */
    }
    if (length == space->granule && bp_stash_put(&space->stash, space->uffd, address)) {
        return 0;
    }
    return bp_kernel_discard((void *)address, length);
}

/* One request, from the front; *filled bytes are done. */
static int fill(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *filled)
{
    if (data != NULL) {
        return bp_kernel_uffd_copy(space->uffd, address, data, length, filled);
    }
    if (space->lazy_zero) {
        return bp_kernel_uffd_zero(space->uffd, address, length, filled);
    }
    size_t step = length < BP_FILL_SIZE ? length : BP_FILL_SIZE;
    return bp_kernel_uffd_copy(space->uffd, address, bp_fill_zeros, step, filled);
}

static int populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    if (length == space->granule && (data != NULL || !space->lazy_zero)) {
        int code = bp_stash_take(&space->stash, space->uffd, address, data != NULL ? data : bp_fill_zeros);
        if (code != -ENOENT) {
            *done = code == 0 ? length : 0;
            return code;
        }
    }
    int patience = 10000; /* EAGAIN without progress lasts as long as another thread's fork or mremap */
    size_t limit = length;
    while (*done < length) {
        size_t filled = 0;
        size_t step = length - *done < limit ? length - *done : limit;
        int code = fill(space, address + *done, step, data == NULL ? NULL : (const char *)data + *done, &filled);
        *done += filled;
        if (code >= 0 || filled > 0) {
            continue; /* stopped midway: the remainder, tried again, tells the reason */
        }
        if (code == -ENOENT && limit > space->granule) {
            limit = space->granule; /* the host split the mapping (mlock, madvise) inside the range */
            continue;
        }
        if (code == -EEXIST && patience > 0) {
            /* Filled past us, through /proc/self/mem for example. What is there is nobody's: take it away. */
            patience -= 100;
            zap_one(space, address + *done, space->granule);
            limit = space->granule;
            continue;
        }
        if ((code == -EAGAIN || code == -EINTR) && patience-- > 0) {
            sched_yield();
            continue;
        }
        return code == -ENOSPC ? -ENOMEM : code;
    }
    return 0;
}

static int zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    *done = 0;
    if (count > 1 && space->fd < 0) {
        int patience = 100;
        int code;
        do {
            size_t more;
            code = bp_kernel_discard_many(ranges + *done, count - *done, &more);
            *done += more;
        } while (code == -EAGAIN && patience-- > 0);
    }
    for (; *done < count; ++*done) {
        int code = zap_one(space, ranges[*done].address, ranges[*done].length);
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

const struct bp_trap bp_trap_uffd = {
    .name = "uffd", .traps = true, .arm = arm, .open_chunk = open_chunk, .populate = populate, .zap = zap};
