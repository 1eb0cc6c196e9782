/* mounts.c: reading /proc/self/mountinfo, see mounts.h. */
#include "mounts.h"

#include "kernel.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* One line: "36 25 0:31 / /place opts ... - type source super-options". */
static bool match(char *line, const char *device, char *options, size_t size)
{
    char *at = line;
    for (int field = 0; field < 2 && at != NULL; field++) {
        at = strchr(at, ' ');
        at = at == NULL ? NULL : at + 1;
    }
    size_t length = strlen(device);
    char *rest = at == NULL || strncmp(at, device, length) != 0 || at[length] != ' ' ? NULL : strstr(at, " - ");
    for (int field = 0; field < 3 && rest != NULL; field++) {
        rest = strchr(rest + 1, ' ');
    }
    if (rest == NULL) {
        return false;
    }
    snprintf(options, size, "%s", rest + 1);
    return true;
}

int bp_mount_options(int fd, char *options, size_t size)
{
    uint64_t id[2];
    char device[32];
    char line[4096]; /* longer ones are cut, and then do not match */
    size_t used = 0;
    int code = bp_kernel_identify(fd, id);
    int file = code < 0 ? code : bp_kernel_open_read("/proc/self/mountinfo");
    if (file < 0) {
        return file;
    }
    snprintf(device, sizeof device, "%u:%u", major((dev_t)id[0]), minor((dev_t)id[0]));
    ssize_t got;
    char byte[512];
    code = -ENOENT;
    while (code == -ENOENT && (got = bp_kernel_read(file, byte, sizeof byte)) > 0) {
        for (ssize_t i = 0; i < got && code == -ENOENT; i++) {
            if (byte[i] != '\n') {
                line[used] = byte[i];
                used += used + 1 < sizeof line;
                continue;
            }
            line[used] = 0;
            used = 0;
            code = match(line, device, options, size) ? 0 : -ENOENT;
        }
    }
    bp_kernel_close(file);
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
