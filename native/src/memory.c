/* memory.c: the tables of memories and traps, see memory.h. */
#include "memory.h"

#include "error.h"
#include "reserve.h"
#include "space.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const struct bp_memory memories[] = {
    {.name = "anon"},
    {.name = "thp", .thp = true},
    {.name = "shared", .file = true},
    {.name = "hugetlb", .file = true, .hugetlb = true},
    {.name = "path", .file = true, .hugetlb = true, .path = true},
};

static const struct bp_memory anon_from_file = {.name = "anon", .file = true, .hidden_file = true};

/* Mappings of the program's own. */
static const struct bp_memory adopted[] = {
    {.name = "adopted anon"},
    {.name = "adopted shared", .file = true},
    {.name = "adopted hugetlb", .hugetlb = true},
    {.name = "adopted hugetlb", .file = true, .hugetlb = true},
};

const struct bp_memory *bp_memory_adopted(bool hugetlb, bool shared)
{
    return &adopted[2 * hugetlb + shared];
}

/* In the order in which "auto" tries them. */
static const struct bp_trap *const traps[] = {&bp_trap_noautofill, &bp_trap_uffd, &bp_trap_guard, &bp_trap_mprotect,
                                              &bp_trap_none};

const struct bp_memory *bp_memory_find(const char *name)
{
    for (size_t i = 0; i < COUNT(memories); i++) {
        if (strcmp(memories[i].name, strchr(name, '/') != NULL ? "path" : name) == 0) {
            return &memories[i];
        }
    }
    return NULL;
}

const struct bp_trap *bp_trap_find(const char *name)
{
    for (size_t i = 0; i < COUNT(traps); i++) {
        if (strcmp(traps[i]->name, name) == 0) {
            return traps[i];
        }
    }
    return NULL;
}

const struct bp_memory *bp_memory_for(const struct bp_memory *memory, const struct bp_trap *trap, bool hides)
{
    return (trap->needs_file || (hides && !memory->thp)) && !memory->file ? &anon_from_file : memory;
}

const struct bp_trap *bp_trap_candidate(size_t n)
{
    return n < COUNT(traps) && traps[n]->traps ? traps[n] : NULL;
}

const char *bufpool_memory_name(size_t n)
{
    return n < COUNT(memories) ? memories[n].name : NULL;
}

const char *bufpool_trap_name(size_t n)
{
    return n < COUNT(traps) ? traps[n]->name : NULL;
}

const char *bp_cell(const struct bp_memory *memory, const struct bp_trap *trap, uint32_t *users)
{
    bool uffd = trap == &bp_trap_uffd;
    bool noautofill = trap == &bp_trap_noautofill;
    if (users != NULL) {
        *users = !trap->traps ? 0 : BUFPOOL_USERS_ONE;
        *users |= (uffd || noautofill) && memory->file ? BUFPOOL_USERS_ATTACHED : 0;
        *users |= noautofill ? BUFPOOL_USERS_ANYONE : 0;
    }
    if (noautofill && !memory->path) {
        return "noautofill is an option of a hugetlbfs mount: it goes with a path on one";
    }
    if (trap == &bp_trap_guard && memory->hugetlb) {
        return "guard regions mark small pages, and hugetlbfs has none";
    }
    if (trap->needs_file && memory->thp) {
        return "huge frames are moved into the pool by userfaultfd: thp goes with uffd";
    }
    return NULL;
}

int bufpool_cell(const char *memory_name, const char *trap_name, uint32_t *users)
{
    const struct bp_memory *memory = memory_name == NULL ? NULL : bp_memory_find(memory_name);
    const struct bp_trap *trap = trap_name == NULL ? NULL : bp_trap_find(trap_name);
    if (memory == NULL || trap == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "unknown %s \"%s\": bufpool_memory_name() and bufpool_trap_name() list them",
                        memory == NULL ? "memory" : "trap",
                        memory == NULL ? (memory_name == NULL ? "NULL" : memory_name)
                                       : (trap_name == NULL ? "NULL" : trap_name));
    }
    const char *reason = bp_cell(memory, trap, users);
    return reason == NULL ? 0
                          : bp_error(BUFPOOL_EUNSUPPORTED, "memory %s does not go with trap %s: %s", memory->name,
                                     trap->name, reason);
}

/* The size of the huge pages that a memfd has: the system's default, or the asked-for. */
static int hugetlb_granule(uint64_t asked, uint64_t *granule)
{
    char sizes[128];
    bp_reserve_sizes(sizes, sizeof sizes);
    if (asked == 0 && bp_reserve_default(granule) < 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "this kernel has no huge pages of hugetlbfs (/proc/meminfo shows no Hugepagesize): they take "
                        "CONFIG_HUGETLBFS=y");
    }
    if (asked != 0) {
        struct bp_reserve reserve;
        if (bp_reserve_read(asked, &reserve) < 0) {
            return bp_error(BUFPOOL_EUNSUPPORTED, "granule is %llu bytes: this machine has huge pages of %s",
                            (unsigned long long)asked, sizes);
        }
        *granule = asked;
    }
    return 0;
}

static int path_granule(const char *path, uint64_t *granule)
{
    int code = bp_kernel_hugetlbfs(path, -1, granule);
    if (code == -ENOENT) { /* to be created: its directory tells */
        char directory[4096];
        const char *slash = strrchr(path, '/');
        size_t length = slash == NULL ? 0 : (size_t)(slash - path);
        if (length + 1 < sizeof directory) {
            snprintf(directory, sizeof directory, "%.*s", length == 0 ? 1 : (int)length, path);
            code = bp_kernel_hugetlbfs(directory, -1, granule);
        }
    }
    if (code == -EXDEV) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "memory \"%s\" is not on a hugetlbfs mount: mount one (bufpool mount), or use memory \"shared\"", path);
    }
    return code < 0 ? bp_error(code, "memory \"%s\" cannot be opened: %s", path, strerror(-code)) : 0;
}

int bp_memory_granule(const struct bp_memory *memory, const char *path, uint64_t asked, uint64_t *granule)
{
    *granule = memory->thp ? BP_HUGE : BP_GRANULE;
    int code = 0;
    if (memory->path) {
        code = path_granule(path, granule);
    } else if (memory->hugetlb) {
        code = hugetlb_granule(asked, granule);
    }
    if (code == 0 && asked != 0 && asked != *granule) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "granule is %llu bytes: memory \"%s\" has granules of %llu bytes, so leave granule out",
                        (unsigned long long)asked, memory->path ? path : memory->name, (unsigned long long)*granule);
    }
    return code;
}
