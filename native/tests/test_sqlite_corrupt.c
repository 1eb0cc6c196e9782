/* test_sqlite_corrupt.c: damaged database files are read, with and without SQLite noticing, and no trap fires: SQLite's
 * known small overreads past a page end in the cushion, also where unpinned pages are closed. */
#include "cache.h"
#include "test_sqlite.h"

#include <sys/wait.h>

#define FILES 200

static sqlite library;

static size_t read_file(const char *path, unsigned char *content, size_t room)
{
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    size_t size = fread(content, 1, room, file);
    CHECK(fclose(file) == 0);
    return size;
}

static void write_file(const char *path, const unsigned char *content, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(content, 1, size, file) == size && fclose(file) == 0);
}

static void make_file(const char *path, int page_size)
{
    char sql[400];
    sqlite3 *db = NULL;
    CHECK(library.open(path, &db) == 0);
    snprintf(sql, sizeof sql,
             "pragma page_size = %d; create table t(a integer primary key, b text, c blob); create index i on t(b); "
             "with recursive n(x) as (select 1 union all select x + 1 from n where x < 600) "
             "insert into t select x, 'row ' || x, zeroblob(x %% 200) from n",
             page_size);
    run(&library, db, sql);
    CHECK(library.close(db) == 0);
}

/* Damages some bytes, mostly in the headers and cell pointers of pages, where lengths and offsets are. */
static void damage(unsigned char *content, size_t size, size_t page_size, uint64_t *random)
{
    for (unsigned i = 0; i < 20; i++) {
        size_t page = next_random(random) % (size / page_size);
        size_t at = page * page_size + next_random(random) % (i % 2 == 0 ? 40 : page_size);
        if (at >= 100) /* not the file's header, or it would not be read at all */
            content[at] = (unsigned char)next_random(random);
    }
}

/* Whatever SQLite answers is right; only signals are not. */
static void read_all(const char *path)
{
    static const char *const queries[] = {
        "select sum(length(b) + length(c)) from t",
        "select count(*) from t where b > 'row 3'",
        "pragma integrity_check(5)",
        "select hex(c) from t where a = 100",
        "delete from t where a % 3 = 0",
        "update t set b = b || 'x'",
        "insert into t select null, b, c from t limit 50",
        "vacuum",
    };
    sqlite3 *db = NULL;
    CHECK(library.open(path, &db) == 0);
    library.exec(db, "pragma cache_size = 20", NULL, NULL, NULL);
    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++)
        library.exec(db, queries[i], NULL, NULL, NULL);
    CHECK(library.close(db) == 0);
}

static void many(const char *directory, int page_size)
{
    static unsigned char good[1 << 20];
    static unsigned char bad[1 << 20];
    char path[300];
    uint64_t random = 4711;
    snprintf(path, sizeof path, "%s/%d.db", directory, page_size);
    make_file(path, page_size);
    size_t size = read_file(path, good, sizeof good);
    CHECK(size > 4 * (size_t)page_size && size < sizeof good);
    for (unsigned i = 0; i < FILES; i++) {
        memcpy(bad, good, size);
        damage(bad, size, (size_t)page_size, &random);
        write_file(path, bad, size);
        read_all(path);
    }
}

/* In a child, since a stray access would end the process. */
static void child(const char *directory, const char *pins)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(16) << 20;
    config.pins = pins;
    CHECK_RESULT(0, bufpool_sqlite_install(&config));
    for (int page_size = 512; page_size <= 8192; page_size *= 4)
        many(directory, page_size);
    bufpool_sqlite_statistics all = BUFPOOL_SQLITE_STATISTICS_INIT;
    CHECK_RESULT(0, bufpool_sqlite_stats(&all));
    CHECK(all.evictions > 0 && all.left_open == 0);
    bufpool_pool *pools[SQ_GROUPS];
    size_t count = bufpool_sqlite_pools(pools, SQ_GROUPS);
    for (size_t i = 0; i < count; i++) {
        bufpool_statistics pool = BUFPOOL_STATISTICS_INIT;
        CHECK(bufpool_stats(pools[i], &pool) == 0 && pool.faults == 0);
    }
}

static void read_damaged(const char *pins)
{
    char directory[256];
    make_directory(directory);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        child(directory, pins);
        exit(0);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    remove_directory(directory);
    if (WIFSIGNALED(status))
        fprintf(stderr, "pins %s: the reader of damaged files ended by signal %d\n", pins, WTERMSIG(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    library = load_sqlite();
    read_damaged("off");
    read_damaged("all");
    return 0;
}
