/*
 * named.c: finding the tables of a pool by the path of its memory, see named.h.
 *
 * Every process that has such a pool holds a lock on the file (flock), and /proc/locks says whose locks there are. A lock
 * goes by the process that took it, and may have outlived it in a forked child: so if that leads nowhere, all processes
 * are looked at. Tables are believed if they name that very file and if a member of theirs lives: a handle may have kept
 * those of an earlier pool.
 */
#include "named.h"

#include "error.h"
#include "lines.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LINK "/memfd:" BP_TABLES_NAME
#define MAX_HOLDERS 64 /* one of them is enough */
#define PATIENCE 20    /* times 5 ms for a pool that is just being opened */

struct search {
    uint64_t id[2]; /* of the file */
    struct bp_guest *guest;
    int32_t holders[MAX_HOLDERS];
    int count;
    int32_t refused; /* a holder whose descriptors may not be looked at, or 0 */
    int reason;      /* why: -errno */
    int unread;      /* what bp_tables_read() said last of a holder's tables that cannot be used, or 0 */
};

/* ---- The descriptors of a process ---- */

/* Is it the tables of this pool? Then guest has them. */
static bool try_descriptor(struct search *search, const char *path)
{
    char link[sizeof LINK];
    if (readlink(path, link, sizeof link) < (ssize_t)sizeof LINK || memcmp(link, LINK, sizeof LINK - 1) != 0) {
        return false;
    }
    struct bp_constants constants;
    int fd = bp_kernel_open_read(path);
    int code = fd < 0 ? fd : bp_tables_read(fd, &constants);
    if (code == 0 && memcmp(constants.file, search->id, sizeof search->id) == 0 &&
        bp_kernel_is_locked(fd, 1, BP_MAX_MEMBERS)) {
        search->guest->constants = constants;
        search->guest->tables = fd;
        return true;
    }
    search->unread = code < 0 ? code : search->unread;
    if (fd >= 0) {
        bp_kernel_close(fd);
    }
    return false;
}

/* 1: found; 0: not there; -errno: its descriptors may not be looked at, or it is gone. */
static int try_process(struct search *search, int32_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    if (directory == NULL) {
        return -errno;
    }
    int found = 0;
    for (struct dirent *entry = readdir(directory); entry != NULL && !found; entry = readdir(directory)) {
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "/proc/%d/fd/%.16s", (int)pid, entry->d_name);
            found = try_descriptor(search, path);
        }
    }
    closedir(directory);
    return found;
}

static bool try_all(struct search *search)
{
    DIR *directory = opendir("/proc");
    bool found = false;
    for (struct dirent *entry = directory == NULL ? NULL : readdir(directory); entry != NULL && !found;
         entry = readdir(directory)) {
        int32_t pid = (int32_t)strtol(entry->d_name, NULL, 10); /* 0: not a process */
        found = pid > 0 && try_process(search, pid) > 0;
    }
    if (directory != NULL) {
        closedir(directory);
    }
    search->unread = 0; /* of anybody's */
    return found;
}

/* ---- Who has the file open ---- */

/* "3: FLOCK  ADVISORY  READ 2561 00:35:1081 0 EOF"; who only waits for a lock has "->" after the colon. */
static void note_holder(struct search *search, const char *line)
{
    int pid;
    unsigned device[2];
    unsigned long long inode;
    if (sscanf(line, "%*u: FLOCK %*s %*s %d %x:%x:%llu", &pid, &device[0], &device[1], &inode) == 4 &&
        makedev(device[0], device[1]) == search->id[0] && inode == search->id[1] && search->count < MAX_HOLDERS) {
        search->holders[search->count++] = pid;
    }
}

static int find_holders(struct search *search)
{
    struct bp_lines lines;
    char line[256]; /* longer ones are cut, and then do not match */
    search->count = 0;
    int code = bp_lines_open(&lines, "/proc/locks");
    if (code < 0) {
        return code;
    }
    while ((code = bp_lines_next(&lines, line, sizeof line)) > 0) {
        note_holder(search, line);
    }
    bp_lines_close(&lines);
    return code;
}

/* 1: found; 0: not; -errno of /proc/locks. */
static int look(struct search *search)
{
    int code = find_holders(search);
    search->refused = 0;
    search->unread = 0;
    for (int i = 0; i < search->count && code == 0; i++) {
        code = try_process(search, search->holders[i]);
        if (code == -EACCES || code == -EPERM) {
            search->refused = search->holders[i];
            search->reason = code;
        }
        code = code > 0 ? 1 : 0;
    }
    return code == 0 && search->count > 0 && search->refused == 0 ? try_all(search) : code;
}

/* ---- The path ---- */

static int open_memory(const char *path, struct search *search)
{
    uint64_t length;
    uint64_t frames;
    int fd = bp_kernel_open_existing(path);
    if (fd == -EISDIR) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "memory \"%s\" is a directory: a pool there has a file without a name, which nobody else can "
                        "open; pass on a handle (bufpool_share())",
                        path);
    }
    if (fd < 0) {
        return bp_error(fd, "memory \"%s\" cannot be opened: %s%s", path, strerror(-fd),
                        fd == -ENOENT   ? " (no pool has been opened there)"
                        : fd == -EACCES ? " (only the user who opened the pool, and root, may attach)"
                        : fd == -ELOOP  ? " (a symbolic link is not followed)"
                                        : "");
    }
    int code = bp_kernel_file_size(fd, &length, &frames);
    code = code < 0 ? code : bp_kernel_hugetlbfs(NULL, fd, &length);
    if (code == 0) {
        code = bp_kernel_identify(fd, search->id);
    }
    if (code < 0) {
        bp_kernel_close(fd);
        return code == -EINVAL || code == -EXDEV
                   ? bp_error(BUFPOOL_EARGUMENT,
                              "memory \"%s\" is not a file on a hugetlbfs mount, and only those give a "
                              "pool a name",
                              path)
                   : bp_error(code, "memory \"%s\" cannot be looked at: %s", path, strerror(-code));
    }
    return fd;
}

static int not_found(const struct search *search, const char *path, int code)
{
    if (code < 0) {
        return bp_error(code, "cannot find out who has memory \"%s\" open (/proc/locks): %s%s", path, strerror(-code),
                        code == -ENOENT ? "; is /proc mounted?" : "");
    }
    if (search->count == 0) {
        return bp_error(
            -ESRCH, "memory \"%s\" is there, and no process that this one can see (/proc/locks) has a pool open on it",
            path);
    }
    if (search->refused > 0) {
        return bp_error(
            search->reason,
            "process %d has memory \"%s\" open, and this one may not look at its descriptors (/proc/%d/fd): "
            "%s. Attach as the same user, or by a handle (bufpool_share())",
            (int)search->refused, path, (int)search->refused, strerror(-search->reason));
    }
    if (search->unread < 0) {
        return search->unread; /* with the sentence of bp_tables_read() */
    }
    return bp_error(-ESRCH,
                    "process %d has memory \"%s\" locked, and no process that this one can see has a pool on it",
                    (int)search->holders[0], path);
}

int bp_named_open(const char *path, struct bp_guest *guest)
{
    struct search search = {.guest = guest};
    int cancelling;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelling);
    int memory = open_memory(path, &search);
    int code = memory;
    if (memory >= 0) {
        code = look(&search);
        for (int patience = PATIENCE; code == 0 && search.count > 0 && search.refused == 0 && patience > 0;
             patience--) {
            bp_kernel_sleep_ns(5000000);
            code = look(&search);
        }
        guest->memory = memory;
        if (code <= 0) {
            code = not_found(&search, path, code);
            bp_kernel_close(memory);
        }
    }
    pthread_setcancelstate(cancelling, NULL);
    return code < 0 ? code : 0;
}
