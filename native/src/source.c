/* source.c: opening the file behind a space, see source.h. */
#include "source.h"

#include "error.h"
#include "reserve.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

bool bp_source_lacks(const struct bp_space *space, uint64_t length)
{
    return space->gauge >= 0 && bp_reserve_free(space->gauge) < length / space->granule;
}

/* One huge page there and away again: it says what neither counters nor limits of a mount or cgroup do. */
static int try_one(struct bp_space *space, const struct bp_wish *wish)
{
    int code = bp_source_lacks(space, space->granule) ? -ENOSPC : bp_kernel_fallocate(space->fd, 0, space->granule);
    if (code < 0) {
        char text[400];
        bp_reserve_explain(space->granule, space->capacity / space->granule, space->fd, text, sizeof text);
        return bp_error(space->flags & BUFPOOL_RESERVE ? BUFPOOL_EEXHAUSTED : BUFPOOL_EUNSUPPORTED,
                        "pool \"%s\" finds no huge page (%s); %s", wish->name, strerror(-code), text);
    }
    return bp_kernel_punch(space->fd, 0, space->granule);
}

static int open_memfd(struct bp_space *space, const struct bp_wish *wish)
{
    bool huge = space->memory->hugetlb;
    space->fd = bp_kernel_memfd(wish->name, space->capacity, huge ? space->granule : 0);
    if (space->fd < 0 && huge && space->fd != -EFBIG && space->fd != -EMFILE && space->fd != -ENFILE) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "a memfd (memfd_create) of huge pages of %llu bytes is refused (%s): it takes Linux 4.14, "
                        "CONFIG_HUGETLBFS=y, huge pages of that size, and a seccomp profile that allows it",
                        (unsigned long long)space->granule, strerror(-space->fd));
    }
    if (space->fd < 0) {
        const char *advice = space->fd == -EFBIG   ? " (see RLIMIT_FSIZE, ulimit -f)"
                             : space->fd == -EPERM ? " (a container's seccomp profile has to allow it)"
                                                   : "";
        return bp_error(space->fd, "cannot create a memfd (memfd_create) of %llu bytes for pool \"%s\": %s%s",
                        (unsigned long long)space->capacity, wish->name, strerror(-space->fd), advice);
    }
    space->ours = true;
    return huge ? try_one(space, wish) : 0;
}

static const char *hint(int code)
{
    switch (code) {
    case -EACCES:
        return " (it takes the right to write there: see the mount's uid= and mode=)";
    case -EROFS:
        return " (the mount is read-only)";
    case -ELOOP:
        return " (a symbolic link is not followed)";
    case -ENOENT:
        return " (its directory is not there)";
    case -EFBIG:
        return " (see RLIMIT_FSIZE, ulimit -f)";
    default:
        return "";
    }
}

static int path_error(int code, const char *path)
{
    return bp_error(code, "memory \"%s\" cannot be opened: %s%s", path, strerror(-code), hint(code));
}

/* An existing file has to be what an earlier pool of the same capacity left. */
static int check_existing(struct bp_space *space, const struct bp_wish *wish)
{
    uint64_t length;
    uint64_t frames;
    int code = bp_kernel_file_size(space->fd, &length, &frames);
    if (code == -EINVAL) {
        return bp_error(BUFPOOL_EARGUMENT, "memory \"%s\" is not a regular file: take another path", wish->path);
    }
    if (code < 0) {
        return path_error(code, wish->path);
    }
    if (length == 0 && frames == 0) {
        return 0; /* made and left by a process that got no further */
    }
    if (length != space->capacity) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "memory \"%s\" is a file of %llu bytes, and the pool has a capacity of %llu: they have to be equal. "
            "Remove the file, or take another path",
            wish->path, (unsigned long long)length, (unsigned long long)space->capacity);
    }
    if (frames > 0 && !(space->flags & BUFPOOL_DISCARD)) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "memory \"%s\" holds %llu bytes of data, of a process that ended without closing its pool, or of "
            "something else: remove the file, or open it with BUFPOOL_DISCARD (Python: discard=True), which "
            "drops it",
            wish->path, (unsigned long long)frames);
    }
    return 0;
}

/* Truncates the file and makes it long again: to punch it would leave what a dead process had reserved of its holes. */
static int renew(struct bp_space *space)
{
    int code = bp_kernel_truncate(space->fd, space->capacity); /* may it have that length (RLIMIT_FSIZE)? */
    if (code == 0) {
        code = bp_kernel_truncate(space->fd, 0);
    }
    return code < 0 ? code : bp_kernel_truncate(space->fd, space->capacity);
}

static int open_path(struct bp_space *space, const struct bp_wish *wish)
{
    int created;
    uint64_t page_size;
    space->fd = bp_kernel_open_pool_file(wish->path, &created);
    if (space->fd < 0) {
        return path_error(space->fd, wish->path);
    }
    space->created = created;
    int code = bp_kernel_hugetlbfs(NULL, space->fd, &page_size);
    if (code < 0 || page_size != space->granule) { /* it changed between the look at it and the open */
        return path_error(code < 0 ? code : -ESTALE, wish->path);
    }
    uint64_t limit = 0;
    uint64_t left;
    if (bp_kernel_mount_room(space->fd, &limit, &left) == 0 && limit > 0) {
        space->gauge = bp_reserve_gauge(space->granule);
    }
    code = bp_kernel_flock(space->fd);
    if (code == 0 && !bp_kernel_is_at(wish->path, space->fd)) { /* removed between the open and the lock */
        space->created = false;
        return bp_error(-EWOULDBLOCK, "memory \"%s\" is in use: another pool is just opening or closing it",
                        wish->path);
    }
    if (code == -EWOULDBLOCK) {
        space->created = false; /* whoever has the lock has taken it over */
        return bp_error(code, "memory \"%s\" is in use: another pool has it open", wish->path);
    }
    if (code == 0) {
        code = created ? bp_kernel_truncate(space->fd, space->capacity) : check_existing(space, wish);
        if (code == BUFPOOL_EARGUMENT) {
            return code;
        }
    }
    if (code == 0 && !created) {
        code = renew(space);
    }
    if (code == 0) {
        code = bp_kernel_flock_shared(space->fd); /* with those who attach */
    }
    space->ours = code == 0;
    return code < 0 ? path_error(code, wish->path) : try_one(space, wish);
}

static int unfit(const struct bp_wish *wish, const char *why)
{
    return bp_error(BUFPOOL_EARGUMENT, "the handle's memory is not that of pool \"%s\": %s", wish->name, why);
}

/* The file of a pool that another process has opened: what its tables say, or it is refused. */
static int open_guest(struct bp_space *space, const struct bp_wish *wish)
{
    uint64_t id[2];
    uint64_t length;
    uint64_t frames;
    uint64_t page_size = BP_GRANULE;
    space->fd = bp_kernel_reopen(wish->guest);
    if (space->fd < 0) {
        return bp_error(space->fd, "the memory of pool \"%s\" cannot be opened: %s%s", wish->name, strerror(-space->fd),
                        space->fd == -EACCES ? " (only the user who opened the pool, and root, may attach)" : "");
    }
    bool sealed = bp_kernel_is_sealed(space->fd); /* first: from then on the length is what it is */
    int code = bp_kernel_identify(space->fd, id);
    code = code < 0 ? code : bp_kernel_file_size(space->fd, &length, &frames);
    if (code < 0) {
        return bp_error(code, "the memory of pool \"%s\" cannot be looked at: %s", wish->name, strerror(-code));
    }
    if (id[0] != wish->id[0] || id[1] != wish->id[1]) {
        return unfit(wish, "it is another file");
    }
    if (length != space->capacity) {
        return unfit(wish, "its length is not the pool's capacity");
    }
    code = bp_kernel_hugetlbfs(NULL, space->fd, &page_size);
    if (space->memory->hugetlb ? code < 0 || page_size != space->granule
                               : code != -EXDEV || space->granule != BP_GRANULE) {
        return unfit(wish, "its pages have another size");
    }
    if (!space->memory->path && !sealed) {
        return unfit(wish, "it is not sealed against changes of its size");
    }
    /* Held as long as anybody has the pool: who opens the path anew is refused. */
    code = space->memory->path ? bp_kernel_flock_shared(space->fd) : 0;
    return code < 0 ? bp_error(code, "the memory of pool \"%s\" cannot be locked: %s", wish->name, strerror(-code)) : 0;
}

int bp_source_open(struct bp_space *space, const struct bp_wish *wish)
{
    if (wish->guest >= 0) {
        return open_guest(space, wish);
    }
    return space->memory->path ? open_path(space, wish) : open_memfd(space, wish);
}

int bp_source_reserve_range(struct bp_space *space, uint64_t offset, uint64_t length)
{
    /* A shared mapping without MAP_NORESERVE makes a reservation for each hole of its range, which stays with the file
     * when the mapping goes (fs/hugetlbfs/inode.c, hugetlb_reserve_pages). */
    void *place;
    int code = bp_kernel_mmap_file(NULL, length, PROT_NONE, MAP_SHARED, space->fd, offset, &place);
    if (code == 0) {
        bp_kernel_munmap(place, length);
    }
    return code;
}

int bp_source_reserve(struct bp_space *space)
{
    if (!(space->flags & BUFPOOL_RESERVE)) {
        return 0;
    }
    int code = bp_source_reserve_range(space, 0, space->capacity);
    if (code < 0) {
        char text[400];
        bp_reserve_explain(space->granule, space->capacity / space->granule, space->fd, text, sizeof text);
        return bp_error(code == -ENOMEM ? BUFPOOL_EEXHAUSTED : code, "the whole pool cannot be reserved (%s); %s",
                        strerror(-code), text);
    }
    return 0;
}

void bp_source_empty(struct bp_space *space)
{
    if (!space->ours) {
        return;
    }
    if (!space->memory->path || renew(space) < 0) {
        bp_kernel_punch(space->fd, 0, space->capacity);
    }
    if (space->memory->path && !space->forked) { /* a child's mapping would show another pool's pages */
        bp_kernel_unlock(space->fd);
    }
}

void bp_source_discard(struct bp_space *space, const struct bp_wish *wish)
{
    if (space->created && space->fd >= 0 && bp_kernel_is_at(wish->path, space->fd)) {
        bp_kernel_unlink(wish->path); /* of an unnamed file the path is a directory, and this does nothing */
    }
}
