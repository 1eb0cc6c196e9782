/* The directories of a process's memory cgroups, out of /proc/PID/cgroup and mountinfo, as kernels and containers write them. */
#include "cgroups.h"
#include "harness.h"

static char own[] = "/tmp/bufpool-own-XXXXXX";
static char mounts[] = "/tmp/bufpool-mounts-XXXXXX";
static char found[4096]; /* directories, each with its version */

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    CHECK(file != NULL && fputs(text, file) >= 0);
    CHECK_OK(fclose(file));
}

static void note(void *context, const char *directory, bool v2)
{
    size_t used = strlen(context);
    snprintf((char *)context + used, sizeof found - used, "%s%s|", v2 ? "2:" : "1:", directory);
}

static const char *all(const char *cgroup, const char *mountinfo)
{
    put(own, cgroup);
    put(mounts, mountinfo);
    found[0] = 0;
    CHECK_OK(bp_cgroups_each(own, mounts, note, found));
    return found;
}

#define IS(cgroup, mountinfo, expected) CHECK_STRING(all(cgroup, mountinfo), expected)

#define V2 "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
#define HYBRID \
    "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n" \
    "31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n" \
    "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct\n" \
    "34 30 0:30 / /sys/fs/cgroup/memory rw shared:16 - cgroup cgroup rw,memory\n"

static void versions(void)
{
    IS("0::/a/b c\n", V2, "2:/sys/fs/cgroup/a/b c|2:/sys/fs/cgroup/a|2:/sys/fs/cgroup|");
    IS("0::/\n", V2, "2:/sys/fs/cgroup|");
    IS("5:cpu,cpuacct:/x\n4:memory:/a/b\n1:name=systemd:/memory\n0::/u\n", HYBRID,
       "1:/sys/fs/cgroup/memory/a/b|1:/sys/fs/cgroup/memory/a|1:/sys/fs/cgroup/memory|"
       "2:/sys/fs/cgroup/unified/u|2:/sys/fs/cgroup/unified|");
    IS("4:hugetlb,memory:/\n", "34 30 0:30 / /m rw - cgroup cgroup rw,hugetlb,memory\n", "1:/m|");
    IS("0::/a\n", "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n", ""); /* mounted nowhere */
    IS("0::/a\n", "", "");
    IS("", V2, "");
    IS("garbage\n:\n0:\n0::\n0::a\n", V2, "");
}

/* A mount that shows a part of the hierarchy only: whose name begins like it is not below it. */
static void parts(void)
{
#define PART "30 24 0:26 /a/b /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    IS("0::/a/b/c\n", PART, "2:/sys/fs/cgroup/c|2:/sys/fs/cgroup|");
    IS("0::/a/b\n", PART, "2:/sys/fs/cgroup|");
    IS("0::/a/bc\n", PART, "");
    IS("0::/a\n", PART, "");
    IS("0::/\n", PART, "");
    /* Outside of the cgroup namespace, as seen from there. */
    IS("0::/../x\n", V2, "");
    IS("0::/..\n", V2, "");
    IS("0::/..x\n", V2, "2:/sys/fs/cgroup/..x|2:/sys/fs/cgroup|");
    IS("0::/../x/y\n", "30 24 0:26 /../x /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
       "2:/sys/fs/cgroup/y|2:/sys/fs/cgroup|");
    /* Of several mounts the last that shows it. */
    IS("0::/a/b\n", V2 PART, "2:/sys/fs/cgroup|");
    IS("0::/d\n", V2 PART, "2:/sys/fs/cgroup/d|2:/sys/fs/cgroup|");
    IS("0::/d\n", "30 1 0:26 / / rw - cgroup2 cgroup rw\n", "2:/d|2:|");
}

static void escapes(void)
{
    IS("0::/with blank/x\\y\n", "30 24 0:26 /with\\040blank /the\\040place\\134 rw - cgroup2 cgroup rw\n",
       "2:/the place\\/x\\y|2:/the place\\|");
    IS("0::/a\n", "30 24 0:26 / /p\\04 rw - cgroup2 cgroup rw\n", "2:/p\\04/a|2:/p\\04|"); /* none */
    /* A place that looks like the dash and type does not pass for them. */
    IS("0::/a\n", "29 24 8:1 / /x\\040-\\040cgroup2\\040y rw - ext4 /dev/sda1 rw\n", "");
}

static void long_ones(void)
{
    static char path[3000], line[2 * sizeof path], expected[sizeof path], mount[sizeof path + 100];
    memset(path, 'd', sizeof path - 1);
    path[0] = path[1500] = '/';
    snprintf(line, sizeof line, "0::%s\n", path);
    snprintf(expected, sizeof expected, "2:/sys/fs/cgroup%s|", path);
    CHECK(strncmp(all(line, V2), expected, strlen(expected)) == 0);
    snprintf(mount, sizeof mount, "30 24 0:26 %s /m rw - cgroup2 cgroup rw\n", path);
    IS(line, mount, "2:/m|");
    static char endless[20000]; /* cut, it does not match */
    memset(endless, 'e', sizeof endless - 1);
    memcpy(endless, "30 24 0:26 /", 12);
    IS("0::/a\n", endless, "");
}

int main(void)
{
    harness_begin();
    int first = mkstemp(own);
    int second = mkstemp(mounts);
    CHECK(first >= 0 && second >= 0);
    close(first);
    close(second);
    versions();
    parts();
    escapes();
    long_ones();
    CHECK_OK(unlink(own));
    CHECK_IS(bp_cgroups_each(own, mounts, note, found), ==, -ENOENT);
    CHECK_OK(unlink(mounts));
    return 0;
}
