/* mounts.c: reading /proc/self/mountinfo, see mounts.h. */
#include "mounts.h"

#include "kernel.h"
#include "lines.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* One line: "36 25 0:31 / /place opts ... - type source super-options". Copies from so many words behind the dash on. */
static bool match(char *line, const char *device, int words, char *text, size_t size)
{
    char *at = line;
    for (int field = 0; field < 2 && at != NULL; field++) {
        at = strchr(at, ' ');
        at = at == NULL ? NULL : at + 1;
    }
    size_t length = strlen(device);
    char *rest = at == NULL || strncmp(at, device, length) != 0 || at[length] != ' ' ? NULL : strstr(at, " - ");
    for (int field = 0; field <= words && rest != NULL; field++) {
        rest = strchr(rest + 1, ' ');
    }
    if (rest == NULL) {
        return false;
    }
    snprintf(text, size, "%s", rest + 1);
    return true;
}

static int find(uint64_t id, int words, char *text, size_t size)
{
    char device[32];
    char line[4096]; /* longer ones are cut, and then do not match */
    struct bp_lines lines;
    int code = bp_lines_open(&lines, "/proc/thread-self/mountinfo");
    if (code < 0) {
        return code;
    }
    snprintf(device, sizeof device, "%u:%u", major((dev_t)id), minor((dev_t)id));
    bool found = false;
    while (!found && bp_lines_next(&lines, line, sizeof line) > 0) {
        found = match(line, device, words, text, size);
    }
    bp_lines_close(&lines);
    return found ? 0 : -ENOENT;
}

int bp_mount_options(int fd, char *options, size_t size)
{
    uint64_t id[2];
    int code = bp_kernel_identify(fd, id);
    return code < 0 ? code : find(id[0], 2, options, size);
}

int bp_mount_type(uint64_t device, char *type, size_t size)
{
    int code = find(device, 0, type, size);
    if (code == 0) {
        type[strcspn(type, " ")] = 0;
    }
    return code;
}

bool bp_mount_has(const char *options, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = options; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == 0 || at[length] == ',')) {
            return true;
        }
    }
    return false;
}
