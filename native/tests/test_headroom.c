/*
 * What is left of a memory cgroup's limit: reading the files of both versions, what counts as room, how rarely they are
 * read, and that nothing is promised twice; here by directories that look like cgroups. See test_headroom_limit.c for real ones.
 */
#include "harness.h"
#include "headroom.h"

#include <sys/stat.h>

static char directory[] = "/tmp/bufpool-headroom-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w"); /* the same inode, as an open descriptor has it */
    CHECK(file != NULL && fputs(text, file) >= 0);
    CHECK_OK(fclose(file));
}

static void put_mib(const char *name, uint64_t mib)
{
    char text[32];
    snprintf(text, sizeof text, "%llu\n", (unsigned long long)(mib * MIB));
    put(name, text);
}

static void gone(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    unlink(path);
}

/* A fill that is over at once. */
static int taken(struct bp_headroom *headroom, uint64_t length)
{
    int code = bp_headroom_take(headroom, length);
    if (code == 0) {
        bp_headroom_settle(headroom, length);
    }
    return code;
}

static void version_2(void)
{
    int fds = count_fds();
    struct bp_headroom headroom = {0};
    put("memory.max", "max\n");
    put("memory.high", "max\n");
    put_mib("memory.current", 100);
    put("memory.stat", "anon 4096\ninactive_file 0\nactive_file 0\n");
    bp_headroom_watch(&headroom, directory, true);
    CHECK_IS(headroom.count, ==, 0); /* no limit, nothing kept */
    CHECK_IS(count_fds(), ==, fds);
    CHECK_OK(taken(&headroom, UINT64_MAX));

    put_mib("memory.max", 128);
    bp_headroom_watch(&headroom, directory, true);
    CHECK_IS(headroom.count, ==, 1);
    CHECK_OK(taken(&headroom, 4 * KIB));
    CHECK_IS(taken(&headroom, 25 * MIB), ==, -EDQUOT); /* all but the margin can be had */
    CHECK_OK(taken(&headroom, 23 * MIB));
    char text[400];
    bp_headroom_explain(&headroom, text, sizeof text);
    CHECK_HAS(text, directory);
    CHECK_HAS(text, "102400 KiB of its memory.max of 131072 KiB");

    put("memory.stat", "inactive_file 10485760\nactive_file 10485760\nfile_dirty 1048576\nfile_writeback 0\n");
    CHECK_OK(taken(&headroom, 42 * MIB)); /* 19 MiB of page cache can go */
    CHECK_IS(taken(&headroom, 44 * MIB), ==, -EDQUOT);
    put_mib("memory.high", 104);
    CHECK_IS(taken(&headroom, 26 * MIB), ==, -EDQUOT);
    bp_headroom_explain(&headroom, text, sizeof text);
    CHECK_HAS(text, "memory.high of 106496 KiB, 19456 KiB of that page cache");
    bp_headroom_close(&headroom);
    CHECK_IS(count_fds(), ==, fds);
}

static void version_1(void)
{
    struct bp_headroom headroom = {0};
    put("memory.limit_in_bytes", "9223372036854771712\n");
    put_mib("memory.usage_in_bytes", 100);
    put("memory.stat", "inactive_file 99999999\ntotal_inactive_file 1048576\ntotal_active_file 0\ntotal_dirty 0\n");
    bp_headroom_watch(&headroom, directory, false);
    CHECK_IS(headroom.count, ==, 0);
    put_mib("memory.limit_in_bytes", 110);
    bp_headroom_watch(&headroom, directory, false);
    CHECK_IS(headroom.count, ==, 1);
    CHECK_OK(taken(&headroom, 7 * MIB - 4 * KIB));
    CHECK_IS(taken(&headroom, 8 * MIB), ==, -EDQUOT);
    char text[400];
    bp_headroom_explain(&headroom, text, sizeof text);
    CHECK_HAS(text, "memory.limit_in_bytes of 112640 KiB");
    bp_headroom_close(&headroom);
}

/* A look grants some of the room: within that nobody looks, and near the limit all do. */
static void granted(void)
{
    struct bp_headroom headroom = {0};
    put_mib("memory.max", 64);
    put("memory.high", "max\n");
    put_mib("memory.current", 0);
    put("memory.stat", "");
    bp_headroom_watch(&headroom, directory, true);
    CHECK_OK(taken(&headroom, 4 * KIB));
    put_mib("memory.current", 64); /* others were quick */
    int more = 0;
    while (taken(&headroom, 4 * KIB) == 0) {
        more++;
        CHECK_IS(more, <, 16 * 1024);
    }
    CHECK_IS(more, >, 1000); /* an eighth of 60 MiB */
    CHECK_IS(taken(&headroom, 4 * KIB), ==, -EDQUOT);
    put_mib("memory.current", 32);
    CHECK_OK(taken(&headroom, 4 * KIB));
    put("memory.max", "garbage"); /* what cannot be read does not count */
    CHECK_OK(taken(&headroom, GIB));
    bp_headroom_close(&headroom);
}

/* What was promised to fills that are not over is no room for others, whoever looks. */
static void promised(void)
{
    struct bp_headroom headroom = {0};
    put_mib("memory.max", 64);
    put_mib("memory.current", 0);
    put("memory.stat", "");
    bp_headroom_watch(&headroom, directory, true);
    CHECK_OK(bp_headroom_take(&headroom, 40 * MIB));
    CHECK_IS(bp_headroom_take(&headroom, 40 * MIB), ==, -EDQUOT);
    CHECK_OK(bp_headroom_take(&headroom, 19 * MIB));
    CHECK_IS(bp_headroom_take(&headroom, 2 * MIB), ==, -EDQUOT);
    CHECK_IS(bp_headroom_take(&headroom, UINT64_MAX), ==, -EDQUOT);
    put_mib("memory.current", 40); /* the first is over */
    bp_headroom_settle(&headroom, 40 * MIB);
    CHECK_IS(bp_headroom_take(&headroom, 2 * MIB), ==, -EDQUOT);
    bp_headroom_settle(&headroom, 19 * MIB); /* taken back */
    CHECK_OK(bp_headroom_take(&headroom, 19 * MIB));
    bp_headroom_inherit(&headroom);          /* another process: nothing is under way there, */
    bp_headroom_settle(&headroom, 19 * MIB); /* but perhaps this one */
    CHECK_OK(bp_headroom_take(&headroom, 19 * MIB));
    bp_headroom_close(&headroom);
}

static struct bp_headroom shared;
static atomic_ullong filled; /* bytes that threads have been promised, and never gave back */

static void *fill_all(void *step)
{
    while (bp_headroom_take(&shared, (uintptr_t)step) == 0) {
        atomic_fetch_add(&filled, (uintptr_t)step);
    }
    return NULL;
}

/* Threads that look at the same time are not promised the same room, nor what one of them is granted. */
static void threads(void)
{
    put_mib("memory.max", 64);
    put_mib("memory.current", 0);
    put("memory.stat", "");
    for (int round = 0; round < 20; round++) {
        pthread_t others[4];
        shared = (struct bp_headroom){0};
        bp_headroom_watch(&shared, directory, true);
        atomic_store(&filled, 0);
        for (uintptr_t i = 0; i < 4; i++) {
            static const size_t steps[] = {4 * KIB, 64 * KIB, MIB, 8 * MIB};
            CHECK_OK(pthread_create(&others[i], NULL, fill_all, (void *)steps[i]));
        }
        for (int i = 0; i < 4; i++) {
            CHECK_OK(pthread_join(others[i], NULL));
        }
        CHECK_IS(atomic_load(&filled), <=, 60 * MIB);
        CHECK_IS(atomic_load(&filled), >, 50 * MIB);
        bp_headroom_close(&shared);
    }
}

int main(void)
{
    harness_begin();
    CHECK(mkdtemp(directory) != NULL);
    version_2();
    version_1();
    granted();
    promised();
    threads();
    static const char *const names[] = {"memory.max",  "memory.high",           "memory.current",
                                        "memory.stat", "memory.limit_in_bytes", "memory.usage_in_bytes"};
    for (int i = 0; i < 6; i++) {
        gone(names[i]);
    }
    CHECK_OK(rmdir(directory));
    return 0;
}
