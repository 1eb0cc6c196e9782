/*
 * trap_uffd.c: holes trapped by userfaultfd with UFFD_FEATURE_SIGBUS (Linux 4.14), on every memory.
 *
 * The range is registered once, whole, for missing pages. A touch of a hole raises SIGBUS in the thread that made it;
 * no thread reads the descriptor. UFFDIO_COPY fills a granule and makes it appear in one step, and needs neither the
 * mapping to be accessible nor the page to be touched. Frames of single pages are recycled through a stash, see
 * stash.h; transparent huge pages come from thp.h. A huge page of hugetlbfs is filled by UFFDIO_COPY, which clears
 * nothing first; one of 1 GiB that is to hold zeros, by fallocate.
 */
#include "trap_uffd.h"
#include "error.h"
#include "fillers.h"
#include "trap_adopted.h"
#include "trap_file.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

/* What cannot sleep in the kernel (before Linux 5.18) can be stopped in the handler, too. */
static int open_sleeping(struct bp_space *space)
{
    int fd = bp_kernel_uffd_open_sleeping(space->sleep == BP_SLEEP_ALL);
    if (fd == -EINVAL && space->sleep == BP_SLEEP_USER) {
        space->sleep = BP_SLEEP_NEVER;
        fd = bp_kernel_uffd_open();
    }
    return fd;
}

static int monitor_refused(int code)
{
    if (code == -EPERM || code == -EACCES) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "to monitor system calls takes a userfaultfd that sees them, which is refused (%s): run as root "
            "or with CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd to 1, or give the user read access "
            "to /dev/userfaultfd (a container: --device /dev/userfaultfd). bufpool_explain() needs none of "
            "that",
            strerror(-code));
    }
    return bp_error(BUFPOOL_EUNSUPPORTED,
                    "to monitor system calls takes a userfaultfd with UFFDIO_POISON, which is refused (%s): it takes "
                    "Linux 6.6 or newer, with CONFIG_USERFAULTFD=y",
                    strerror(-code));
}

/* Are closed pages closed by way of the descriptor? */
static bool closes(const struct bp_space *space)
{
    return space->unpinned != BP_OPEN_WRITE && !bp_adopted_protects(space);
}

static int open_descriptor(struct bp_space *space)
{
    return closes(space)                    ? bp_kernel_uffd_open_closing(space->memory->file, space->memory->hugetlb)
           : space->tracked                 ? bp_kernel_uffd_open_tracking(space->fd >= 0)
           : space->sleep == BP_SLEEP_NEVER ? bp_kernel_uffd_open()
                                            : open_sleeping(space);
}

static int do_register(struct bp_space *space, uintptr_t address, size_t length)
{
    return closes(space) || space->tracked
               ? bp_kernel_uffd_register_closing(space->uffd, address, length, space->memory->file && !space->tracked)
               : bp_kernel_uffd_register(space->uffd, address, length);
}

int bp_uffd_arm(struct bp_space *space)
{
    int fd = open_descriptor(space);
    if (fd < 0 && space->sleep == BP_SLEEP_ALL && fd != -EMFILE && fd != -ENFILE && fd != -ENOMEM) {
        return monitor_refused(fd);
    }
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
    if (fd < 0 && closes(space)) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "userfaultfd cannot close the pages of memory \"%s\" for pins \"write\" and \"all\" (%s): it takes "
            "Linux 6.4 or newer",
            space->memory->name, strerror(-fd));
    }
    if (fd < 0 && space->tracked) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "userfaultfd cannot track writes for audit \"track\" (%s): it takes Linux 6.7 or newer, or audit "
            "\"checksum\"",
            strerror(-fd));
    }
    if (fd < 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "userfaultfd with SIGBUS is refused (%s): it takes Linux 5.11 or newer",
                        strerror(-fd));
    }
    space->uffd = fd;
    int code = do_register(space, space->base, space->capacity);
    if (code == -ENOMEM) {
        return bp_error(code, "cannot register %llu bytes with userfaultfd: %s", (unsigned long long)space->capacity,
                        strerror(-code));
    }
    if (code < 0 && space->adopted && !space->memory->hugetlb && strcmp(space->backing, BP_BACKING_SYSV) == 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "userfaultfd does not take System V shared memory (%s) but of huge pages (SHM_HUGETLB)",
                        strerror(-code));
    }
    if (code < 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "userfaultfd does not take memory \"%s\" (%s): it takes Linux 4.14 or newer",
                        space->memory->name, strerror(-code));
    }
    if (space->memory->thp && space->unpinned == BP_OPEN_NONE) {
        code = bp_vault_open(space);
        if (code < 0) {
            return bp_error(code, "cannot map another %llu bytes, where closed pages of memory \"thp\" lie: %s",
                            (unsigned long long)space->capacity, strerror(-code));
        }
    }
    if (bp_space_stashes(space)) {
        bp_stash_open(space, BP_STASH_SMALL);
    }
    /* A range of no length: whether the kernel takes the request at all. It takes none on locked memory. Closed pages of a
     * file are not mapped, so there is nothing to unmap together; and of huge pages it takes longer to look twice. */
    struct bp_range nothing = {space->base, 0};
    size_t done;
    bool helps = space->fd < 0 || (space->unpinned == BP_OPEN_WRITE && space->granule == BP_GRANULE);
    space->ways.batches = helps && !space->adopted && !space->memory->thp && !(space->flags & BUFPOOL_LOCK) &&
                          bp_kernel_discard_many(&nothing, 1, &done) == 0;
    return 0;
}

uint32_t bp_uffd_ways(const struct bp_space *space)
{
    bool stash = space->stash.base != 0;
    bool lazy = space->flags & BUFPOOL_LAZY_ZERO && !closes(space) && space->granule == BP_GRANULE;
    uint32_t fills = BP_WAY(BUFPOOL_WAY_COPY) | (lazy ? BP_WAY(BUFPOOL_WAY_ZEROPAGE) : 0) |
                     (space->thp.nursery != 0 ? BP_WAY(BUFPOOL_WAY_HUGE_MOVE) : 0);
    if (space->unpinned == BP_OPEN_NONE && space->fd >= 0) {
        fills = BP_WAY(BUFPOOL_WAY_WRITE) | BP_WAY(BUFPOOL_WAY_CONTINUE);
    } else if (space->memory->hugetlb && space->granule > BP_FILL_SIZE && !space->adopted) {
        fills |= BP_WAY(BUFPOOL_WAY_WRITE);
    }
    bool huge = space->memory->thp;
    return fills | (stash && (huge || space->ways.fill_kept) ? BP_WAY(BUFPOOL_WAY_MOVE) : 0) |
           (stash && (huge || space->ways.zap_out) ? BP_WAY(BUFPOOL_WAY_MOVE_OUT) : 0) |
           (space->ways.batches ? BP_WAY(BUFPOOL_WAY_BATCH) : 0) |
           BP_WAY(space->memory->file || space->fd >= 0 ? BUFPOOL_WAY_PUNCH : BUFPOOL_WAY_DROP);
}

int bp_uffd_inherit(struct bp_space *space)
{
    /* First: it is the parent's, and acts on the parent; and the limit may be reached. */
    bp_kernel_close_kept(space->uffd);
    if (space->sleep != BP_SLEEP_NEVER) { /* a thread that has to answer cannot be started in a fork handler */
        space->sleep = BP_SLEEP_NEVER;
        if (space->flags & BUFPOOL_MONITOR) {
            bp_space_note(space, "system calls are not monitored in this forked child");
        }
    }
    space->uffd = open_descriptor(space);
    if (space->uffd < 0) {
        int code = space->uffd;
        space->uffd = -1;
        return code;
    }
    return do_register(space, space->base, space->capacity);
}

int bp_uffd_rearm(struct bp_space *space, uintptr_t address, size_t length)
{
    int code = do_register(space, address, length);
    return code < 0 ? code : bp_kernel_mprotect((void *)address, length, PROT_READ | PROT_WRITE);
}

static int open_chunk(struct bp_space *space, uintptr_t address, size_t length) /* registered already */
{
    uintptr_t home = bp_vault_home(space, address);
    int code = home == address ? 0 : bp_kernel_mprotect((void *)home, length, PROT_READ | PROT_WRITE);
    return code < 0 ? code : bp_kernel_mprotect((void *)address, length, PROT_READ | PROT_WRITE);
}

static int punch(struct bp_space *space, uintptr_t address, size_t length)
{
    int code = bp_kernel_punch(space->fd, address - space->base, length); /* unmaps it everywhere, too */
    if (space->sleep == BP_SLEEP_ALL && code == 0) {
        code = bp_kernel_discard((void *)address, length); /* and what was poisoned, which is in no file */
    }
    return code;
}

/* 1: by way of the descriptor, which therefore is there. */
static int zap_one(struct bp_space *space, uintptr_t address, size_t length)
{
    uint64_t granules = length / space->granule;
    if (space->adopted) {
        return bp_adopted_drop(space, address, length);
    }
    if (space->fd >= 0) {
        bp_way_took(&space->ways, BUFPOOL_WAY_PUNCH, granules);
        return punch(space, address, length);
    }
    if (space->memory->thp) {
        int code = 0;
        for (size_t at = 0; at < length && code == 0; at += space->granule) {
            code = bp_thp_zap(space, bp_vault_home(space, address + at));
        }
        return code;
    }
    if (length == space->granule && space->ways.zap_out && bp_stash_put(space, address)) {
        return 1;
    }
    bp_way_took(&space->ways, BUFPOOL_WAY_DROP, granules);
    return bp_kernel_discard((void *)address, length);
}

/* One request, from the front; *filled bytes are done. */
static int fill(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *filled)
{
    bool closed = closes(space);
    int (*copy)(int, uintptr_t, const void *, size_t, size_t *) =
        closed ? bp_kernel_uffd_copy_protected : bp_kernel_uffd_copy;
    bool lazy = data == NULL && space->flags & BUFPOOL_LAZY_ZERO && !closed && space->granule == BP_GRANULE;
    size_t step = data != NULL || length < BP_FILL_SIZE ? length : BP_FILL_SIZE;
    int code = lazy ? bp_kernel_uffd_zero(space->uffd, address, length, filled)
                    : copy(space->uffd, address, data != NULL ? data : bp_fill_zeros, step, filled);
    bp_way_took(&space->ways, lazy ? BUFPOOL_WAY_ZEROPAGE : BUFPOOL_WAY_COPY, *filled / space->granule);
    return code;
}

/* Where data has no frames of its own, the kernel takes a second huge page to copy by way of: the last one could not be
 * used. Gives it frames (MADV_POPULATE_READ, Linux 5.14), without a touch that could trap. */
static bool make_resident(const void *data, size_t length)
{
    uintptr_t from = (uintptr_t)data & ~(uintptr_t)(BP_GRANULE - 1);
    size_t whole = ((uintptr_t)data + length - from + BP_GRANULE - 1) & ~(size_t)(BP_GRANULE - 1);
    return bp_kernel_madvise((void *)from, whole, MADV_POPULATE_READ) == 0;
}

/* Fills holes by copying, as far as it goes. */
int bp_uffd_copy_in(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    bool hugetlb = space->memory->hugetlb;
    int patience = hugetlb ? 200 : 10000; /* EAGAIN without progress lasts as long as another thread's fork or mremap */
    size_t limit = length;
    bool exists = false;
    bool resident = false; /* the data of the next granule, by our doing */
    while (*done < length) {
        size_t filled = 0;
        size_t step = length - *done < limit ? length - *done : limit;
        int code = fill(space, address + *done, step, data == NULL ? NULL : (const char *)data + *done, &filled);
        *done += filled;
        if (code >= 0 || filled > 0) {
            resident = false;
            continue; /* stopped midway: the remainder, tried again, tells the reason */
        }
        if (code == -ENOENT && limit > space->granule) {
            limit = space->granule; /* the host split the mapping (mlock, madvise) inside the range */
            continue;
        }
        if (hugetlb && !resident && (code == -EEXIST || code == -ENOMEM)) {
            resident = true;
            limit = space->granule;
            if (make_resident(data == NULL ? bp_fill_zeros : (const char *)data + *done, space->granule)) {
                continue;
            }
        }
        if (code == -EEXIST && patience > 0) {
            /* Filled past us, through /proc/self/mem for example. What is there is nobody's: take it away. */
            patience -= 100;
            if (space->memory
                    ->thp) { /* of small frames, then: anew from the granule's beginning; address is a home, or a slot */
                *done -= (address + *done) % space->granule;
                bp_thp_zap(space, address + *done);
            } else {
                zap_one(space, address + *done, space->granule);
            }
            limit = space->granule;
            exists = true;
            continue;
        }
        if ((code == -EAGAIN || code == -EINTR) && patience-- > 0) {
            sched_yield();
            continue;
        }
        /* From hugetlbfs EEXIST is also the word for: no huge page is free. */
        return code == -ENOSPC || (hugetlb && code == -EEXIST && exists) ? -ENOMEM : code;
    }
    return 0;
}

static int populate_thp(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    while (*done < length) {
        const void *from = data == NULL ? NULL : (const char *)data + *done;
        uintptr_t granule = bp_vault_home(space, address + *done);
        int code = bp_thp_populate(space, granule, from);
        size_t filled = code == 0 ? space->granule : 0;
        if (code == -ENOENT) {
            code = bp_uffd_copy_in(space, granule, space->granule, from, &filled);
            if (code == 0) {
                bp_thp_count_small(space);
            }
        } else if (code == 0 && space->unpinned == BP_OPEN_READ) {
            /* No frame is protected while it is moved: until here it could be written to, as by who fills it. */
            code = bp_kernel_uffd_protect(space->uffd, granule, space->granule, 1);
        }
        *done += filled;
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

/* Shows what the file has, open as asked for; also where the kernel has it mapped by now, or the host has split the mapping
 * within the range (ENOENT). */
static int show(struct bp_space *space, uintptr_t address, size_t length, enum bp_open to)
{
    int code = bp_kernel_uffd_continue(space->uffd, address, length, to == BP_OPEN_READ);
    if (code != -EEXIST && code != -ENOENT) {
        return code;
    }
    for (size_t at = 0; at < length; at += space->granule) {
        code = bp_kernel_uffd_continue(space->uffd, address + at, space->granule, to == BP_OPEN_READ);
        if (code == -EEXIST) {
            code = bp_kernel_uffd_protect(space->uffd, address + at, space->granule, to == BP_OPEN_READ);
        }
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

/* Private memory without a vault is closed for writing only. */
int bp_uffd_protect(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to)
{
    if (to == BP_OPEN_NONE && space->vault.base != 0) {
        return bp_vault_hide(space, address, length, from == BP_OPEN_WRITE);
    }
    if (to == BP_OPEN_NONE) {
        /* Of the mapping: the file keeps it. That the descriptor is there still, each pin proves: to look here, too, would
         * make a pair of them longer by a seventh. */
        return bp_kernel_discard((void *)address, length);
    }
    if (from == BP_OPEN_NONE && space->vault.base != 0) {
        return bp_vault_show(space, address, length, to == BP_OPEN_WRITE);
    }
    if (from == BP_OPEN_NONE) {
        return show(space, address, length, to);
    }
    return bp_kernel_uffd_protect(space->uffd, address, length, to == BP_OPEN_READ);
}

static int take(struct bp_space *space, uintptr_t granule, const void *data, bool needed, size_t *done)
{
    int code = bp_stash_take(space, granule, data != NULL ? data : bp_fill_zeros, needed);
    *done = code == 0 ? space->granule : 0;
    return code;
}

int bp_uffd_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    if (space->memory->thp) {
        return populate_thp(space, address, length, data, done);
    }
    if (space->unpinned == BP_OPEN_NONE) { /* into the file, behind the mapping, which shows nothing of it */
        int code = bp_file_write(space, address, length, data);
        *done = code == 0 ? length : 0;
        return code;
    }
    if (space->memory->hugetlb) {
        if (data == NULL && space->granule > BP_FILL_SIZE) { /* no source of so many zeros; it appears whole */
            int code = bp_file_write(space, address, length, NULL);
            *done = code == 0 ? length : 0;
            return code == 0 && space->unpinned == BP_OPEN_READ ? show(space, address, length, BP_OPEN_READ) : code;
        }
        int code = bp_uffd_copy_in(space, address, length, data, done);
        atomic_fetch_add_explicit(&space->huge_fills, *done / space->granule, memory_order_relaxed);
        return code;
    }
    bool by_stash = length == space->granule && (data != NULL || !(space->flags & BUFPOOL_LAZY_ZERO));
    int code = by_stash && space->ways.fill_kept ? take(space, address, data, false, done) : -ENOENT;
    if (code == -ENOENT) {
        code = bp_uffd_copy_in(space, address, length, data, done);
    }
    if (code == -ENOMEM && by_stash) { /* what waits to be given back is better than nothing */
        code = take(space, address, data, true, done);
        code = code == -ENOENT ? -ENOMEM : code;
    }
    return code;
}

/* Of private memory the frames are gone then. *done: ranges, from the front. */
static void unmap_batch(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    int patience = 100;
    int code;
    do {
        size_t more;
        code = bp_kernel_discard_many(ranges + *done, count - *done, &more);
        *done += more;
    } while (code == -EAGAIN && patience-- > 0);
    if (code < 0) {
        bp_way_lost(&space->ways, code);
    }
}

/* Scattered pages. Of a file their frames are still to be punched, which finds nothing to unmap then: that takes four fifths
 * of the time. Until then this process, like any other, may show a page again by a touch; the punch takes it away. */
static int zap_batch(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    size_t unmapped = 0;
    size_t length = 0;
    int code = 0;
    unmap_batch(space, ranges, count, &unmapped);
    for (; *done < unmapped && code == 0; *done += code == 0) {
        code = space->fd < 0 ? 0 : punch(space, ranges[*done].address, ranges[*done].length);
        length += code == 0 ? ranges[*done].length : 0;
    }
    bp_way_took(&space->ways, BUFPOOL_WAY_BATCH, length / space->granule);
    return code;
}

static int zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    bool proven = space->fd >= 0; /* by bp_space_zap() */
    *done = 0;
    int code = count > 1 && space->ways.batches ? zap_batch(space, ranges, count, done) : 0;
    if (code < 0) {
        return code;
    }
    for (; *done < count; ++*done) {
        code = zap_one(space, ranges[*done].address, ranges[*done].length);
        if (code < 0) {
            return code;
        }
        proven = proven || code > 0;
    }
    /* Without it the frames are gone, and nothing traps. */
    return proven || bp_kernel_is_kept(space->uffd) ? 0 : -EBADF;
}

const struct bp_trap bp_trap_uffd = {.name = "uffd",
                                     .traps = true,
                                     .arm = bp_uffd_arm,
                                     .open_chunk = open_chunk,
                                     .ways = bp_uffd_ways,
                                     .populate = bp_uffd_populate,
                                     .inherit = bp_uffd_inherit,
                                     .rearm = bp_uffd_rearm,
                                     .protect = bp_uffd_protect,
                                     .zap = zap};
