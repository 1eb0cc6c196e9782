/* cgroups.c: reading the paths and mounts of memory cgroups, see cgroups.h. */
#include "cgroups.h"

#include "lines.h"
#include "mounts.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define PATH_ROOM 4096
#define ROOT 3 /* words of a line of mountinfo, from 0: the path below which the mount shows cgroups, */
#define PLACE 4
#define OPTIONS 2 /* and behind the dash and the type */

/* A hierarchy, as it is mounted. */
struct mount {
    char root[PATH_ROOM], place[PATH_ROOM];
};

/* Copies a word, \ooo in it replaced by the byte meant; false: there is none, or it is too long to be right. */
static bool copy_word(const char *line, int index, char *text, size_t size)
{
    for (; index > 0 && line != NULL; index--) {
        line = strchr(line, ' ');
        line = line == NULL ? NULL : line + 1;
    }
    size_t used = 0;
    while (line != NULL && *line != 0 && *line != ' ' && used + 1 < size) {
        const char *digits = line + 1;
        if (*line == '\\' && strspn(digits, "01234567") >= 3) {
            text[used++] = (char)((digits[0] - '0') * 64 + (digits[1] - '0') * 8 + (digits[2] - '0'));
            line += 4;
        } else {
            text[used++] = *line++;
        }
    }
    text[used] = 0;
    return used > 0 && (*line == 0 || *line == ' ');
}

/* What follows `root` in a path that is it or below it; else NULL. "/" comes out as "". */
static const char *below(const char *path, const char *root)
{
    size_t length = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(path, root, length) != 0 || (path[length] != '/' && path[length] != 0)) {
        return NULL; /* "/ab" is not below "/a" */
    }
    const char *rest = strcmp(path + length, "/") == 0 ? "" : path + length;
    bool outside = strncmp(rest, "/..", 3) == 0 && (rest[3] == '/' || rest[3] == 0); /* of the cgroup namespace */
    return outside ? NULL : rest;
}

/* The last mount that shows the cgroup of that path; false: none does. */
static bool find_mount(const char *mountinfo, const char *path, bool v2, struct mount *mount)
{
    char line[2 * PATH_ROOM + 512]; /* longer ones are cut, and then do not match */
    char options[512];
    static const char *const types[] = {" - cgroup ", " - cgroup2 "};
    struct mount seen;
    struct bp_lines lines;
    bool found = false;
    if (bp_lines_open(&lines, mountinfo) < 0) {
        return false;
    }
    while (bp_lines_next(&lines, line, sizeof line) > 0) {
        const char *type = strstr(line, types[v2]);
        if (type != NULL && copy_word(type + 3, OPTIONS, options, sizeof options) &&
            (v2 || bp_mount_has(options, "memory")) && copy_word(line, ROOT, seen.root, sizeof seen.root) &&
            copy_word(line, PLACE, seen.place, sizeof seen.place) && below(path, seen.root) != NULL) {
            *mount = seen;
            found = true;
        }
    }
    bp_lines_close(&lines);
    return found;
}

static void each_of(const char *mountinfo, const char *path, bool v2, bp_cgroup_found *found, void *context)
{
    struct mount mount;
    char directory[2 * PATH_ROOM];
    if (!find_mount(mountinfo, path, v2, &mount)) {
        return;
    }
    size_t top = strcmp(mount.place, "/") == 0 ? 0 : strlen(mount.place);
    snprintf(directory, sizeof directory, "%.*s%s", (int)top, mount.place, below(path, mount.root));
    found(context, directory, v2);
    while (strlen(directory) > top) {
        *strrchr(directory, '/') = 0;
        found(context, directory, v2);
    }
}

int bp_cgroups_each(const char *own, const char *mountinfo, bp_cgroup_found *found, void *context)
{
    char line[PATH_ROOM + 256];
    struct bp_lines lines;
    int code = bp_lines_open(&lines, own);
    if (code < 0) {
        return code;
    }
    while (bp_lines_next(&lines, line, sizeof line) > 0) {
        char *controllers = strchr(line, ':'); /* "4:memory:/a/b", or of version 2 "0::/a/b" */
        char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (path != NULL && path[1] == '/') {
            *path++ = 0;
            bool v2 = controllers[1] == 0;
            if (v2 || bp_mount_has(controllers + 1, "memory")) {
                each_of(mountinfo, path, v2, found, context);
            }
        }
    }
    bp_lines_close(&lines);
    return 0;
}
