/*
 * trap_noautofill.c: holes of a file trapped by its hugetlbfs mount, with the option `noautofill`.
 *
 * Under that option a fault never allocates: a touch of a hole raises SIGBUS, in every process that maps the file, and
 * only fallocate gives a page. It was proposed for Linux in 2017 and not merged, so a kernel has to be built with it. A
 * huge page of zeros appears whole by fallocate alone. One with data has to be filled before anybody sees it: by
 * UFFDIO_COPY where a userfaultfd can be had, which then arms the range as well; else behind the mapping, which is
 * closed (mprotect) meanwhile. Each page that was filled so is a mapping of its own from then on (vm.max_map_count).
 *
 * Pages that pins close are closed by the userfaultfd, where it can (trap_uffd.c); else, as the last resort, by mprotect: the
 * whole mapping is as pages are that nobody has pinned, and those that are open to more are mappings of their own.
 */
#include "error.h"
#include "mounts.h"
#include "trap_file.h"
#include "trap_uffd.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Does a hole trap, with nothing armed? Free huge pages are there: bp_source_open() has tried. */
static int try_hole(struct bp_space *space)
{
    void *hole = (void *)space->base;
    int code = bp_kernel_mprotect(hole, space->granule, PROT_READ | PROT_WRITE);
    if (code < 0) {
        return bp_error(code, "cannot make a page accessible: %s", strerror(-code));
    }
    bool filled = bp_kernel_readable(hole);
    if (filled) {
        bp_kernel_punch(space->fd, 0, space->granule);
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "the mount has the option noautofill, and a hole of the file was filled by a read all the same");
    }
    return 0;
}

static int arm(struct bp_space *space)
{
    char options[256];
    int code = bp_mount_options(space->fd, options, sizeof options);
    if (code < 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "the mount's options cannot be read from /proc/self/mountinfo: %s",
                        strerror(-code));
    }
    if (!bp_mount_has(options, "noautofill")) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "the mount has not the option noautofill (it has %s), which takes a kernel built with it and bufpool "
            "mount --noautofill",
            options);
    }
    /* What is a hole of a pool that others have is not known here: see verify_guest() of open.c. */
    code = space->ours ? try_hole(space) : 0;
    if (code == 0 && bp_uffd_arm(space) < 0 && space->uffd >= 0) {
        bp_kernel_close_kept(space->uffd); /* not to be had: filled behind the mapping, then */
        space->uffd = -1;
    }
    return code;
}

/* Without a userfaultfd of its own the child traps all the same, and fills behind the mapping. */
static int inherit(struct bp_space *space)
{
    if (bp_uffd_inherit(space) < 0 && space->uffd >= 0) {
        bp_kernel_close_kept(space->uffd);
        space->uffd = -1;
    }
    return 0;
}

/* What a userfaultfd does not close, protection does. */
static enum bp_open mapped_as(const struct bp_space *space)
{
    return space->uffd >= 0 ? BP_OPEN_WRITE : space->unpinned;
}

static int open_range(struct bp_space *space, uintptr_t address, size_t length)
{
    return bp_space_mprotect(address, length, mapped_as(space));
}

static int shut_range(struct bp_space *space, uintptr_t address, size_t length)
{
    (void)space;
    return bp_space_mprotect(address, length, BP_OPEN_NONE);
}

static int protect(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to)
{
    return space->uffd >= 0 ? bp_uffd_protect(space, address, length, from, to)
                            : bp_space_mprotect(address, length, to);
}

static int populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    if (space->uffd >= 0) {
        return bp_uffd_populate(space, address, length, data, done);
    }
    int code = data == NULL ? 0 : shut_range(space, address, length);
    if (code == 0) {
        code = bp_file_write(space, address, length, data);
        *done = code == 0 ? length : 0;
    }
    if (data != NULL) {
        int opened = open_range(space, address, length);
        code = code < 0 ? code : opened;
    }
    return code;
}

/* Nothing has to be closed first: from the punch on the kernel traps. */
static int zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        int code = bp_kernel_punch(space->fd, ranges[*done].address - space->base, ranges[*done].length);
        if (code < 0) {
            return code;
        }
        bp_way_took(&space->ways, BUFPOOL_WAY_PUNCH, ranges[*done].length / space->granule);
    }
    return 0;
}

static uint32_t ways(const struct bp_space *space)
{
    return space->uffd >= 0 ? bp_uffd_ways(space) : bp_file_ways(space);
}

static int rearm(struct bp_space *space, uintptr_t address, size_t length)
{
    return space->uffd >= 0 ? bp_uffd_rearm(space, address, length) : open_range(space, address, length);
}

const struct bp_trap bp_trap_noautofill = {.name = "noautofill",
                                           .traps = true,
                                           .arm = arm,
                                           .open_chunk = open_range,
                                           .shut_range = shut_range,
                                           .open_range = open_range,
                                           .ways = ways,
                                           .populate = populate,
                                           .inherit = inherit,
                                           .rearm = rearm,
                                           .protect = protect,
                                           .zap = zap};
