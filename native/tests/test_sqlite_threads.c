/* test_sqlite_threads.c: many connections in many threads on one small capacity, then integrity checks: nothing is
 * lost. */
#include "cache.h"
#include "test_sqlite.h"

#define THREADS 8
#define ROUNDS 8
#define ROWS 150
#define READERS 4
#define READ_ROWS 9000 /* of 1000 bytes: the readers together have more pages than the capacity */

static sqlite library;
static char directory[256];

static void open_file(const char *name, sqlite3 **db)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    CHECK(library.open(path, db) == 0);
    library.busy_timeout(*db, 300000);
    run(&library, *db, "pragma synchronous = off; pragma cache_size = 60");
}

static void expect(sqlite3 *db, const char *sql, long expected)
{
    char answer[64];
    ask(&library, db, sql, answer);
    if (atol(answer) != expected) {
        fprintf(stderr, "%s: %s, not %ld\n", sql, answer, expected);
        exit(1);
    }
}

/* Each round is a connection of its own: to a file of this thread's, to one that all share, and to memory. */
static void *work(void *argument)
{
    unsigned me = (unsigned)(uintptr_t)argument;
    char name[32];
    char sql[300];
    snprintf(name, sizeof name, "own%u.db", me);
    for (unsigned round = 0; round < ROUNDS; round++) {
        sqlite3 *own = NULL;
        sqlite3 *shared = NULL;
        sqlite3 *memory = NULL;
        open_file(name, &own);
        open_file("shared.db", &shared);
        CHECK(library.open(":memory:", &memory) == 0);
        if (round == 0) {
            snprintf(sql, sizeof sql, "pragma page_size = %u; create table t(a integer primary key, b blob)",
                     512u << me % 8);
            run(&library, own, sql);
        }
        snprintf(sql, sizeof sql,
                 "with recursive c(x) as (select 1 union all select x + 1 from c where x < %d) "
                 "insert into t select null, cast(x as text) || hex(zeroblob(300)) from c",
                 ROWS);
        run(&library, own, sql);
        run(&library, memory, "create table t(a integer primary key, b blob)");
        run(&library, memory, sql);
        snprintf(sql, sizeof sql, "insert into t values (null, %u, %u, hex(zeroblob(1000)))", me, round);
        run(&library, shared, sql);
        expect(own, "select count(*) from t where length(b) > 600", (long)ROWS * (round + 1));
        expect(memory, "select sum(cast(substr(b, 1, 3) as integer) > 0) from t", ROWS);
        if (round % 4 == 3)
            run(&library, own, "vacuum");
        run(&library, own, "pragma shrink_memory");
        CHECK(library.close(own) == 0 && library.close(shared) == 0 && library.close(memory) == 0);
    }
    return NULL;
}

/* Connections that have read much and keep it, unpinned: from them the workers have to steal. */
static void read_much(sqlite3 **readers)
{
    char sql[200];
    snprintf(sql, sizeof sql,
             "create table r(b); with recursive c(x) as (select 1 union all select x + 1 from c where x < %d) "
             "insert into r select hex(zeroblob(500)) from c",
             READ_ROWS);
    for (unsigned i = 0; i < READERS; i++) {
        open_file("read.db", &readers[i]);
        run(&library, readers[i], "pragma cache_size = 10000");
        if (i == 0)
            run(&library, readers[i], sql);
        expect(readers[i], "select sum(length(b)) from r", READ_ROWS * 1000);
    }
}

static void check_file(const char *name, const char *sum, long expected)
{
    char answer[64];
    sqlite3 *db = NULL;
    open_file(name, &db);
    ask(&library, db, "pragma integrity_check", answer);
    if (strcmp(answer, "ok") != 0) {
        fprintf(stderr, "%s: %s\n", name, answer);
        exit(1);
    }
    expect(db, sum, expected);
    CHECK(library.close(db) == 0);
}

static void together(const char *pins)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(32) << 20;
    config.pins = pins;
    CHECK_RESULT(0, bufpool_sqlite_install(&config));
    make_directory(directory);
    sqlite3 *db = NULL;
    open_file("shared.db", &db);
    run(&library, db, "create table t(a integer primary key, thread, round, b)");
    CHECK(library.close(db) == 0);

    sqlite3 *readers[READERS];
    read_much(readers);

    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);

    for (unsigned i = 0; i < READERS; i++) {
        expect(readers[i], "select sum(length(b)) from r", READ_ROWS * 1000);
        CHECK(library.close(readers[i]) == 0);
    }

    bufpool_sqlite_statistics all = BUFPOOL_SQLITE_STATISTICS_INIT;
    CHECK_RESULT(0, bufpool_sqlite_stats(&all));
    CHECK(all.resident == 0 && all.caches == 0 && all.pages == 0 && all.exhausted == 0 && all.evict_failures == 0);
    CHECK(all.left_open == 0 && (all.pins > 0) == (strcmp(pins, "off") != 0));
    CHECK(all.groups == 8 && all.steals > 0 && all.recycles > 0 && all.resident_peak <= config.capacity);

    for (unsigned i = 0; i < THREADS; i++) {
        char name[32];
        snprintf(name, sizeof name, "own%u.db", i);
        check_file(name, "select count(*) from t", (long)ROWS * ROUNDS);
    }
    check_file("shared.db", "select count(distinct thread * 1000 + round) from t", (long)THREADS * ROUNDS);
    CHECK_RESULT(0, bufpool_sqlite_uninstall());
    remove_directory(directory);
}

int main(void)
{
    library = load_sqlite();
    together("off");
    together("all");
    return 0;
}
