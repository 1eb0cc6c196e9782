/*
 * cgroups.h: which memory cgroups this process is in.
 *
 * /proc/PID/cgroup says their paths, as they are; /proc/PID/mountinfo says where the hierarchies are mounted, and of which
 * cgroup a mount shows what is below (a container's often not of the uppermost); there blanks and the like are written \040.
 * A hierarchy that is mounted several times is read where it was mounted last: an earlier mount may be hidden by it.
 *
 * Thread-safe; not async-signal-safe.
 */
#ifndef BP_CGROUPS_H
#define BP_CGROUPS_H

#include <stdbool.h>

/* Called with the directory of a cgroup that may have a limit of memory; v2: by the names of version 2. */
typedef void bp_cgroup_found(void *context, const char *directory, bool v2);

/* Finds the process's own cgroup, then those above it, as far as its mounts show them; in version 1, too. `own` and
 * `mountinfo` are the files to read. Errors: -errno, where `own` cannot be read. */
int bp_cgroups_each(const char *own, const char *mountinfo, bp_cgroup_found *found, void *context);

#endif
