/* engine.h: the SQLite of this system, by dlopen(): those of its functions that are used here. */
#ifndef DETECTION_ENGINE_H
#define DETECTION_ENGINE_H

#include "layer_sqlite.h"

#define SQLITE_ROW 100
#define SQLITE_DONE 101

struct sqlite3;
struct sqlite3_stmt;

struct engine {
    int (*config)(int operation, ...);
    int (*open)(const char *file, struct sqlite3 **database);
    int (*close)(struct sqlite3 *database);
    int (*exec)(struct sqlite3 *database, const char *sql, int (*each)(void *, int, char **, char **), void *argument,
                char **error);
    int (*prepare)(struct sqlite3 *database, const char *sql, int length, struct sqlite3_stmt **statement,
                   const char **tail);
    int (*step)(struct sqlite3_stmt *statement);
    int (*reset)(struct sqlite3_stmt *statement);
    int (*finalize)(struct sqlite3_stmt *statement);
    int (*bind)(struct sqlite3_stmt *statement, int index, int64_t value);
    int64_t (*column)(struct sqlite3_stmt *statement, int index);
};

extern struct engine engine;

/* Loads it, not initialised yet, with the page cache of the layer. Once. */
void engine_load(void);

/* A new database, in a file that is gone with the program. */
struct sqlite3 *engine_open(void);

/* Each has to succeed. */
void engine_execute(struct sqlite3 *database, const char *sql);
struct sqlite3_stmt *engine_prepare(struct sqlite3 *database, const char *sql);

#endif
