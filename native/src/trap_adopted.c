/* trap_adopted.c: traps on a mapping of the program's own, see trap_adopted.h. */
#include "trap_adopted.h"

#include "error.h"
#include "fillers.h"
#include "guard.h"
#include "trap_uffd.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define STEP ((uint64_t)256 << 20) /* bytes that are given frames with one request */

static int protect_mapping(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to)
{
    (void)space;
    (void)from;
    return bp_space_mprotect(address, length, to);
}

/* Every page is allocated from here on, so it has a frame. */
static int fill_all(struct bp_space *space)
{
    int code = 0;
    for (uint64_t at = 0; at < space->capacity && code == 0; at += STEP) {
        uint64_t length = space->capacity - at < STEP ? space->capacity - at : STEP;
        code = bp_kernel_madvise((void *)(space->base + at), length, MADV_POPULATE_WRITE);
    }
    if (code == -EINVAL) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "MADV_POPULATE_WRITE is refused (EINVAL): adoption takes Linux 5.14");
    }
    if (code == -ENOMEM || code == -EFAULT || code == -ENOSPC) { /* of huge pages a missing one would be a bus error */
        return bp_error(BUFPOOL_EEXHAUSTED,
                        "the system has no frames for all %llu bytes at %#llx, or their file is shorter (%s)",
                        (unsigned long long)space->capacity, (unsigned long long)space->base, strerror(-code));
    }
    return code < 0 ? bp_error(code, "the memory at %#llx cannot be given frames: %s", (unsigned long long)space->base,
                               strerror(-code))
                    : 0;
}

static int close_all(struct bp_space *space)
{
    void *base = (void *)space->base;
    if (space->unpinned == BP_OPEN_WRITE) {
        return 0;
    }
    if (bp_adopted_protects(space)) {
        return protect_mapping(space, space->base, space->capacity, BP_OPEN_WRITE, space->unpinned);
    }
    return space->unpinned == BP_OPEN_NONE ? bp_kernel_discard(base, space->capacity)
                                           : bp_kernel_uffd_protect(space->uffd, space->base, space->capacity, 1);
}

/* The kernel itself tries. */
static bool is_closed(const struct bp_space *space)
{
    void *base = (void *)space->base;
    return space->unpinned == BP_OPEN_WRITE || (space->unpinned == BP_OPEN_READ && !bp_kernel_writable(base)) ||
           (space->unpinned == BP_OPEN_NONE && !bp_kernel_readable(base));
}

static int arm_with(struct bp_space *space, int (*arm)(struct bp_space *))
{
    int code = fill_all(space);
    code = code == 0 ? arm(space) : code;
    if (code < 0) {
        return code;
    }
    code = close_all(space);
    if (code < 0) {
        return bp_error(code == -EINVAL ? BUFPOOL_EUNSUPPORTED : code, "the pages at %#llx cannot be closed: %s",
                        (unsigned long long)space->base, strerror(-code));
    }
    return is_closed(space) ? 0
                            : bp_error(BUFPOOL_EUNSUPPORTED,
                                       "trap %s has closed the pages at %#llx, and they can be used all the same",
                                       space->trap->name, (unsigned long long)space->base);
}

/* From the program's mapping, at any page; so it needs no descriptor of the file. */
int bp_adopted_drop(struct bp_space *space, uintptr_t address, size_t length)
{
    bp_way_took(&space->ways, space->memory->file ? BUFPOOL_WAY_PUNCH : BUFPOOL_WAY_DROP, length / space->granule);
    return space->memory->file ? bp_kernel_madvise((void *)address, length, MADV_REMOVE)
                               : bp_kernel_discard((void *)address, length);
}

static uint32_t ways_of_drop(const struct bp_space *space)
{
    return BP_WAY(space->memory->file ? BUFPOOL_WAY_PUNCH : BUFPOOL_WAY_DROP);
}

/* ---- uffd ---- */

static uint32_t ways_uffd(const struct bp_space *space)
{
    bool lazy = space->flags & BUFPOOL_LAZY_ZERO && space->granule == BP_GRANULE && space->unpinned == BP_OPEN_WRITE;
    return BP_WAY(BUFPOOL_WAY_COPY) | (lazy ? BP_WAY(BUFPOOL_WAY_ZEROPAGE) : 0) | ways_of_drop(space);
}

static int arm_uffd(struct bp_space *space)
{
    return arm_with(space, bp_uffd_arm);
}

static int protect_uffd(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to)
{
    return bp_adopted_protects(space) ? protect_mapping(space, address, length, from, to)
                                      : bp_uffd_protect(space, address, length, from, to);
}

static int populate_uffd(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    void *zeros = NULL;
    size_t size = space->granule > BP_FILL_SIZE ? space->granule : 0;
    int code = 0;
    if (data == NULL && size > 0) { /* a source of so many zeros: the kernel has one frame for all of it */
        code = bp_kernel_mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, &zeros);
    }
    for (size_t at = 0; code == 0 && zeros != NULL && at < length; at += size) {
        code = bp_uffd_copy_in(space, address + at, size, zeros, done);
    }
    if (code == 0 && zeros == NULL) {
        code = bp_uffd_copy_in(space, address, length, data, done);
    }
    if (zeros != NULL) {
        bp_kernel_munmap(zeros, size);
    }
    if (code == 0 && space->unpinned == BP_OPEN_NONE && !bp_adopted_protects(space)) {
        code = bp_kernel_discard((void *)address, length); /* of the mapping: it was whole when it could be seen */
    }
    return code;
}

static int zap_uffd(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        int code = bp_adopted_drop(space, ranges[*done].address, ranges[*done].length);
        if (code < 0) {
            return code;
        }
    }
    return bp_kernel_is_kept(space->uffd) ? 0 : -EBADF;
}

static int inherit_uffd(struct bp_space *space)
{
    int code = bp_uffd_inherit(space);
    bool hides = space->memory->file && space->unpinned != BP_OPEN_WRITE;
    return code == 0 && hides ? bp_kernel_discard((void *)space->base, space->capacity) : code;
}

const struct bp_trap bp_trap_adopted_uffd = {.name = "uffd",
                                             .traps = true,
                                             .arm = arm_uffd,
                                             .ways = ways_uffd,
                                             .populate = populate_uffd,
                                             .inherit = inherit_uffd,
                                             .protect = protect_uffd,
                                             .zap = zap_uffd};

/* ---- mprotect ---- */

static uint32_t ways_mprotect(const struct bp_space *space)
{
    return BP_WAY(BUFPOOL_WAY_TOUCH) | ways_of_drop(space);
}

static int arm_nothing(struct bp_space *space)
{
    (void)space;
    return 0;
}

static int arm_mprotect(struct bp_space *space)
{
    return arm_with(space, arm_nothing);
}

static int populate_mprotect(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    void *place = (void *)address;
    int code = protect_mapping(space, address, length, BP_OPEN_NONE, BP_OPEN_WRITE);
    *done = length; /* whatever becomes of it: then all of it has to be closed again */
    if (code == 0) {
        code = bp_kernel_madvise(place, length, MADV_POPULATE_WRITE); /* an error, where a touch would be a signal */
        code = code == -EFAULT ? -ENOMEM : code;
    }
    if (code == 0 && data == NULL) {
        memset(place, 0, length); /* others who have the memory may have filled the hole */
    } else if (code == 0 && bp_guarded_copy(place, data, length, NULL) < 0) {
        code = -EFAULT;
    }
    bp_way_took(&space->ways, BUFPOOL_WAY_TOUCH, code == 0 ? length / space->granule : 0);
    return code < 0 ? code : protect_mapping(space, address, length, BP_OPEN_WRITE, space->unpinned);
}

static int zap_mprotect(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        uintptr_t address = ranges[*done].address;
        size_t length = ranges[*done].length;
        int code = protect_mapping(space, address, length, space->unpinned, BP_OPEN_NONE);
        if (code == 0) {
            code = bp_adopted_drop(space, address, length);
        }
        if (code < 0) {
            protect_mapping(space, address, length, BP_OPEN_NONE, space->unpinned);
            return code;
        }
    }
    return 0;
}

const struct bp_trap bp_trap_adopted_mprotect = {.name = "mprotect",
                                                 .needs_file = true, /* that is: it works in one process only */
                                                 .traps = true,
                                                 .arm = arm_mprotect,
                                                 .ways = ways_mprotect,
                                                 .populate = populate_mprotect,
                                                 .protect = protect_mapping,
                                                 .zap = zap_mprotect};

/* ---- The scratch pattern ---- */

/* As many bytes of the pattern as a huge granule has. */
static int map_pattern(size_t size, void **pattern)
{
    int code = bp_kernel_is_kept(bp_fill_file) ? 0 : -EBADF;
    code = code < 0 ? code
                    : bp_kernel_mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, pattern);
    for (size_t at = 0; code == 0 && at < size; at += BP_FILL_SIZE) {
        void *same;
        code = bp_kernel_mmap((char *)*pattern + at, BP_FILL_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                              bp_fill_file, &same);
        if (code < 0) {
            bp_kernel_munmap(*pattern, size);
        }
    }
    return code;
}

int bp_adopted_divert(struct bp_space *space, uintptr_t granule)
{
    size_t done;
    bool huge = space->granule > BP_GRANULE;
    void *pattern = (void *)bp_fill_poison;
    int code = huge ? map_pattern(space->granule, &pattern) : 0;
    if (code < 0) {
        return code;
    }
    code = bp_space_populate(space, granule, space->granule, pattern, &done);
    if (code == 0 && space->unpinned != BP_OPEN_WRITE) {
        code = bp_space_protect(space, granule, space->granule, space->unpinned, BP_OPEN_WRITE);
    }
    if (code < 0) {
        bp_adopted_restore(space, granule, space->granule);
    }
    if (huge) {
        bp_kernel_munmap(pattern, space->granule);
    }
    return code;
}

int bp_adopted_restore(struct bp_space *space, uintptr_t address, size_t length)
{
    struct bp_range range = {address, length};
    size_t zapped;
    int code = bp_adopted_protects(space) && space->uffd >= 0
                   ? protect_mapping(space, address, length, BP_OPEN_WRITE, space->unpinned)
                   : 0;
    return code < 0 ? code : bp_space_zap(space, &range, 1, &zapped);
}

/* ---- The end ---- */

void bp_adopted_give_back(struct bp_space *space)
{
    if (space->uffd >= 0 && bp_kernel_is_kept(space->uffd)) {
        bp_kernel_uffd_unregister(space->uffd, space->base, space->capacity); /* clears its marks, too */
    }
    if (bp_adopted_protects(space)) {
        bp_kernel_mprotect((void *)space->base, space->capacity, PROT_READ | PROT_WRITE);
    }
}

void bp_adopted_refuse(struct bp_space *space, bool wanted)
{
    if (wanted || bp_adopted_protects(space)) {
        bp_kernel_mprotect((void *)space->base, space->capacity, wanted ? PROT_NONE : PROT_READ | PROT_WRITE);
    }
}
