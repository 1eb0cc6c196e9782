/* mounts.h: with which options the file system of a file is mounted. Not async-signal-safe. */
#ifndef BP_MOUNTS_H
#define BP_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The file system's own options, as "rw,size=64M", from /proc/self/mountinfo; cut to size. Errors: -errno; -ENOENT: it is
 * not mounted where this process sees it. */
int bp_mount_options(int fd, char *options, size_t size);

/* The type of the file system on a device, as "tmpfs"; cut to size. Errors: as above. */
int bp_mount_type(uint64_t device, char *type, size_t size);

/* Is a word among the options? */
bool bp_mount_has(const char *options, const char *word);

#endif
