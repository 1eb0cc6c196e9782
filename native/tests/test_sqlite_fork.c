/* test_sqlite_fork.c: a forked child opens connections of its own, in pools of its own, and its parent's go on
 * undisturbed. */
#include "cache.h"
#include "test_sqlite.h"

#include <sys/wait.h>

static sqlite library;

static void count_up(sqlite3 *db, const char *expected)
{
    char answer[64];
    run(&library, db, "insert into t select zeroblob(3000) from t");
    ask(&library, db, "select count(*) from t", answer);
    CHECK(strcmp(answer, expected) == 0);
}

static void child(sqlite3 *parents)
{
    bufpool_sqlite_statistics all = BUFPOOL_SQLITE_STATISTICS_INIT;
    sqlite3 *db = NULL;
    CHECK_RESULT(0, bufpool_sqlite_stats(&all));
    CHECK(all.caches == 0 && all.resident == 0);
    CHECK(library.open(":memory:", &db) == 0);
    run(&library, db, "create table t(a); insert into t values (1)");
    count_up(db, "2");
    CHECK_RESULT(0, bufpool_sqlite_stats(&all));
    CHECK(all.caches > 0 && all.resident > 0);
    CHECK(library.close(db) == 0);
    CHECK(library.close(parents) == 0); /* frees its memory; the pages are the parent's */
    exit(0);
}

static void fork_amid(const char *pins)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(16) << 20;
    config.pins = pins;
    CHECK_RESULT(0, bufpool_sqlite_install(&config));
    sqlite3 *db = NULL;
    CHECK(library.open(":memory:", &db) == 0);
    run(&library, db,
        "pragma page_size = 1024; create table t(a); insert into t values (1)"); /* several to a granule */
    count_up(db, "2");
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        child(db);
    count_up(db, "4");
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    count_up(db, "8");
    CHECK(library.close(db) == 0);
    CHECK_RESULT(0, bufpool_sqlite_uninstall());
}

int main(void)
{
    library = load_sqlite();
    fork_amid("off");
    fork_amid("all");
    return 0;
}
