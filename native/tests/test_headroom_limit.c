/*
 * A memory cgroup's limit: with CHECK_HEADROOM a pool that wants more than is left says so and goes on; without, the kernel
 * kills. In a cgroup of its own for each child, which takes root.
 */
#include "harness.h"

#include <sys/stat.h>

#define LIMIT (64 * MIB)
#define CAPACITY (256 * MIB)

static char cgroup[400]; /* of this test; "" if there can be none */
static const char *limit_name;

static bool put(const char *name, uint64_t value)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", cgroup, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC); /* never made: the directory may be another file system's */
    if (fd < 0) {
        return false;
    }
    char text[32];
    int length = snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    bool written = write(fd, text, (size_t)length) == length;
    close(fd);
    return written;
}

static bool make_in(const char *parent, const char *limit)
{
    limit_name = limit;
    snprintf(cgroup, sizeof cgroup, "%s/bufpool-test-%d", parent, (int)getpid());
    if (mkdir(cgroup, 0700) == 0) {
        if (put(limit, LIMIT)) {
            put("memory.swap.max", 0);
            return true;
        }
        rmdir(cgroup);
    }
    cgroup[0] = 0;
    return false;
}

/* Where the hierarchy of memory is mounted as a rule. */
static bool make_cgroup(void)
{
    return make_in("/sys/fs/cgroup", "memory.max") || make_in("/sys/fs/cgroup/memory", "memory.limit_in_bytes");
}

static void leave_cgroup(void)
{
    for (int patience = 0; rmdir(cgroup) < 0 && errno == EBUSY && patience < 1000; patience++) {
        sleep_ms(10);
    }
}

static bufpool_pool *open_inside(const char *memory, uint32_t flags)
{
    CHECK(put("cgroup.procs", (uint64_t)getpid()));
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = CAPACITY;
    config.memory = memory;
    config.flags = flags;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

static void check_refusal(bufpool_pool *pool, int code)
{
    CHECK_IS(code, ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), cgroup);
    CHECK_HAS(last_error(), limit_name);
    CHECK_HAS(last_error(), "65536 KiB");
    CHECK_IS(stats_of(pool).faults, ==, 0);
}

/* Until it is refused, nearly at the limit; then it lives, gives back, and can have that again. */
static void with_check(void *argument)
{
    static char data[GRANULE];
    memset(data, 7, sizeof data);
    bufpool_pool *pool = open_inside(argument, BUFPOOL_CHECK_HEADROOM);
    uint64_t page;
    uint64_t pages = 0;
    int code;
    while ((code = bufpool_allocate(pool, data, sizeof data, &page)) == 0) {
        CHECK_IS(read_byte(bufpool_address(pool, page)), ==, 7);
        pages++;
        CHECK_IS(pages, <, CAPACITY / GRANULE);
    }
    check_refusal(pool, code);
    CHECK_IS(pages * GRANULE, >, LIMIT / 2);
    CHECK_IS(stats_of(pool).allocated, ==, pages);
    static uint64_t many[8192]; /* 32 MiB */
    check_refusal(pool, bufpool_allocate_many(pool, 8192, many));
    CHECK_IS(stats_of(pool).allocated, ==, pages);
    static void *frames[8192];
    check_refusal(pool, bufpool_stage(pool, 8192, frames));
    CHECK_IS(stats_of(pool).staged, ==, 0);
    for (uint64_t i = 0; i < 1024; i++) {
        CHECK_OK(bufpool_free(pool, i));
        CHECK(traps_at(bufpool_address(pool, i), NULL));
    }
    CHECK_OK(bufpool_allocate_many(pool, 256, many));
    CHECK_OK(bufpool_close(pool));
}

static void without_check(void *argument)
{
    bufpool_pool *pool = open_inside(argument, 0);
    uint64_t page;
    while (bufpool_allocate(pool, NULL, 0, &page) == 0) {
    }
    fprintf(stderr, "lived");
}

/* In a cgroup that is new, and gone before the child is judged. */
static struct child run_inside(void (*function)(void *), char *memory)
{
    CHECK(make_cgroup());
    struct child child = run_child(function, memory);
    leave_cgroup();
    return child;
}

int main(void)
{
    harness_begin();
    if (SANITIZED) {
        printf("sanitizers take memory beside the pool's, up to the limit and past it\n");
        return HARNESS_SKIP;
    }
    if (bufpool_probe("anon", "auto", NULL, 0) < 0 || !make_cgroup()) {
        printf("no memory cgroup can be made here: that takes root, and a hierarchy that has memory\n");
        return HARNESS_SKIP;
    }
    leave_cgroup();
    struct child child = run_inside(with_check, "anon");
    CHECK_PASSED(child);
    child = run_inside(with_check, "shared");
    CHECK_PASSED(child);
    child = run_inside(without_check, "anon");
    CHECK_DIED(child, SIGKILL);
    return 0;
}
