/* test_sqlite.h: what the tests of the SQLite page cache share. */
#ifndef TEST_SQLITE_H
#define TEST_SQLITE_H

#include "bufpool_sqlite.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* For the functions of bufpool_sqlite.h. */
#define CHECK_RESULT(expected, call) \
    do { \
        int result_ = (call); \
        if (result_ != (expected)) { \
            char sentence_[1024]; \
            bufpool_sqlite_last_error(sentence_, sizeof sentence_); \
            fprintf(stderr, "%s:%d: %s is %d, not %d: %s\n", __FILE__, __LINE__, #call, result_, (expected), \
                    sentence_); \
            exit(1); \
        } \
    } while (0)

static inline void skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    exit(77);
}

/* xorshift: the same numbers in every run. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* SQLite, by dlopen(). */
typedef struct sqlite3 sqlite3;
typedef struct sqlite {
    void *handle;
    int (*open)(const char *file, sqlite3 **db);
    int (*close)(sqlite3 *db);
    int (*exec)(sqlite3 *db, const char *sql, int (*row)(void *, int, char **, char **), void *argument, char **error);
    const char *(*errmsg)(sqlite3 *db);
    int (*busy_timeout)(sqlite3 *db, int milliseconds);
    int (*initialize)(void);
    int (*shutdown)(void);
    int (*config)(int operation, ...);
} sqlite;

static inline void load(const sqlite *library, const char *name, void *to)
{
    void *symbol = dlsym(library->handle, name);
    CHECK(symbol != NULL);
    memcpy(to, &symbol, sizeof symbol);
}

static inline sqlite load_sqlite(void)
{
    sqlite library = {.handle = dlopen("libsqlite3.so.0", RTLD_NOW | RTLD_LOCAL)};
    if (library.handle == NULL)
        skip("libsqlite3.so.0 is not on this machine");
    load(&library, "sqlite3_open", &library.open);
    load(&library, "sqlite3_close", &library.close);
    load(&library, "sqlite3_exec", &library.exec);
    load(&library, "sqlite3_errmsg", &library.errmsg);
    load(&library, "sqlite3_busy_timeout", &library.busy_timeout);
    load(&library, "sqlite3_initialize", &library.initialize);
    load(&library, "sqlite3_shutdown", &library.shutdown);
    load(&library, "sqlite3_config", &library.config);
    return library;
}

/* Runs SQL that has to succeed. */
static inline void run(const sqlite *library, sqlite3 *db, const char *sql)
{
    if (library->exec(db, sql, NULL, NULL, NULL) != 0) {
        fprintf(stderr, "%s: %s\n", sql, library->errmsg(db));
        exit(1);
    }
}

static inline int keep_first(void *argument, int columns, char **values, char **names)
{
    (void)names;
    CHECK(columns == 1);
    snprintf(argument, 64, "%s", values[0] != NULL ? values[0] : "NULL");
    return 0;
}

/* Runs a query of one column that has to succeed; answer (64 bytes) receives the last row. */
static inline void ask(const sqlite *library, sqlite3 *db, const char *sql, char *answer)
{
    answer[0] = '\0';
    if (library->exec(db, sql, keep_first, answer, NULL) != 0) {
        fprintf(stderr, "%s: %s\n", sql, library->errmsg(db));
        exit(1);
    }
}

/* A directory of the test's own, removed by remove_directory(). */
static inline void make_directory(char *path)
{
    const char *parent = getenv("TMPDIR");
    snprintf(path, 256, "%s/bufpool-sqlite-XXXXXX", parent != NULL ? parent : "/tmp");
    CHECK(mkdtemp(path) != NULL);
}

static inline void remove_directory(const char *path)
{
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", path);
    CHECK(system(command) == 0);
}

#endif
