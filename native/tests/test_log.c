/* The log: one valid line of JSON a fault, mode 0600, appended to, never through a symbolic link, whole lines from
 * threads. */
#include "harness.h"
#include "json.h"

#include <sys/stat.h>

static char directory[] = "/tmp/bufpool-log-XXXXXX";
static char path[128];
static char other[128];

/* Reads the log, checks each line, returns how many; the first and the last are kept. */
static int read_log(char *first, char *last, size_t size)
{
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    char line[16384];
    int count = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        size_t length = strlen(line);
        CHECK(length > 1 && line[length - 1] == '\n');
        line[length - 1] = 0;
        check_json(line);
        snprintf(count == 0 ? first : last, size, "%s", line);
        count++;
    }
    fclose(file);
    return count;
}

static bufpool_pool *open_logged(const char *log, const char *name)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 256 * GRANULE;
    config.on_fault = "resume";
    config.log = log;
    config.report_limit = UINT32_MAX;
    config.name = name;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

#define THREADS 8
#define STRAYS 25

static bufpool_pool *pool;

static void *stray(void *argument)
{
    int self = *(int *)argument;
    for (int i = 0; i < STRAYS; i++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at((char *)bufpool_address(pool, (uint64_t)(self * STRAYS + i)) + i, &fault));
    }
    return NULL;
}

int main(void)
{
    harness_begin();
    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/log", directory);
    snprintf(other, sizeof other, "%s/link", directory);

    umask(0);
    pool = open_logged(path, "q\"uote\x01\xff");
    struct stat info;
    CHECK_OK(stat(path, &info));
    CHECK_IS(info.st_mode & 07777, ==, 0600);
    CHECK_IS(info.st_size, ==, 0);
    int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
    }
    run_threads(THREADS, stray, numbers, sizeof *numbers);
    CHECK_IS(stats_of(pool).faults, ==, THREADS * STRAYS);
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
    CHECK_OK(bufpool_close(pool));
    static char first[16384], last[16384];
    CHECK_IS(read_log(first, last, sizeof first), ==, THREADS * STRAYS);
    CHECK_HAS(first, "\"pool\":\"q\\\"uote\\u0001\\u00ff\"");
    CHECK_HAS(first, "\"access\":\"read\"");
    CHECK_HAS(first, "\"state\":\"unallocated\"");

    /* Appended to by the next pool; a closed pool still writes to its log. */
    pool = open_logged(path, "second");
    char *at = bufpool_address(pool, 1);
    CHECK_OK(bufpool_close(pool));
    CHECK(traps_at(at, NULL));
    CHECK_IS(read_log(first, last, sizeof first), ==, THREADS * STRAYS + 1);
    CHECK_HAS(last, "\"pool\":\"second\"");
    CHECK_HAS(last, "\"state\":\"closed\"");

    /* A symbolic link, a directory, a missing directory. */
    CHECK_OK(symlink(path, other));
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = MIB;
    config.log = other;
    CHECK_IS(bufpool_open(&config, &pool), ==, -ELOOP);
    CHECK_HAS(last_error(), other);
    CHECK_HAS(last_error(), "symbolic link");
    config.log = directory;
    CHECK_IS(bufpool_open(&config, &pool), ==, -EISDIR);
    CHECK_HAS(last_error(), directory);
    config.log = "/nonexistent/log";
    CHECK_IS(bufpool_open(&config, &pool), ==, -ENOENT);
    CHECK_HAS(last_error(), "/nonexistent/log");
    CHECK_IS(read_log(first, last, sizeof first), ==, THREADS * STRAYS + 1);

    /* A log that cannot be written is counted, and the answer to the fault stays the same. */
    pool = open_logged("/dev/full", "full");
    CHECK(traps_at(bufpool_address(pool, 1), NULL));
    CHECK_IS(stats_of(pool).reports_lost, ==, 1);
    CHECK_OK(bufpool_close(pool));

    unlink(other);
    unlink(path);
    rmdir(directory);
    return 0;
}
