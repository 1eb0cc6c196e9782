/* engine.c: see engine.h. */
#include "engine.h"

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

struct engine engine;

static void find(void *handle, const char *name, void *function)
{
    void *found = dlsym(handle, name);
    MUST(found != NULL);
    *(void **)function = found;
}

void engine_load(void)
{
    void *handle = dlopen("libsqlite3.so.0", RTLD_NOW | RTLD_GLOBAL);
    if (handle == NULL) {
        lacking("there is no SQLite here (Debian: libsqlite3-0): %s", dlerror());
    }
    find(handle, "sqlite3_config", &engine.config);
    find(handle, "sqlite3_open", &engine.open);
    find(handle, "sqlite3_close", &engine.close);
    find(handle, "sqlite3_exec", &engine.exec);
    find(handle, "sqlite3_prepare_v2", &engine.prepare);
    find(handle, "sqlite3_step", &engine.step);
    find(handle, "sqlite3_reset", &engine.reset);
    find(handle, "sqlite3_finalize", &engine.finalize);
    find(handle, "sqlite3_bind_int64", &engine.bind);
    find(handle, "sqlite3_column_int64", &engine.column);
    layer_sqlite_install(handle, engine.config);
}

struct sqlite3 *engine_open(void)
{
    char file[64];
    snprintf(file, sizeof file, "detection-%d.db", (int)getpid()); /* where the runner has put us */
    struct sqlite3 *database;
    MUST(engine.open(file, &database) == SQLITE_OK);
    engine_execute(database, "PRAGMA auto_vacuum = FULL; PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;"
                             "CREATE TABLE first (id INTEGER PRIMARY KEY)");
    MUST(unlink(file) == 0);
    return database;
}

void engine_execute(struct sqlite3 *database, const char *sql)
{
    MUST(engine.exec(database, sql, NULL, NULL, NULL) == SQLITE_OK);
}

struct sqlite3_stmt *engine_prepare(struct sqlite3 *database, const char *sql)
{
    struct sqlite3_stmt *statement;
    MUST(engine.prepare(database, sql, -1, &statement, NULL) == SQLITE_OK);
    return statement;
}
