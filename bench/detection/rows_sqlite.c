/*
 * rows_sqlite.c: a bug around SQLite itself, the one that this system has.
 *
 * A host watches SQLite's page cache, and so knows where each database page lies. An auto-vacuum gives a page another
 * number (xRekey). The bug: the address that was known by the old number is used on, while SQLite has the page pinned
 * under its new one.
 */
#include "engine.h"
#include "rows.h"

#define MOST_KEYS 256
#define FILL(table) /* a row takes a page */ \
    "CREATE TABLE " table " (id INTEGER PRIMARY KEY, text BLOB);" \
    "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 24)" \
    "INSERT INTO " table " SELECT i, zeroblob(3000) FROM n;"

/* ---- The watch ---- */

static sqlite3_pcache_methods2 below; /* the page cache that is watched */
static sqlite3_pcache *watched;       /* of the database file */
static char *place[MOST_KEYS];        /* where the page of that number was last */
static unsigned moved_to[MOST_KEYS];
static unsigned highest;

static sqlite3_pcache *watch_create(int page_size, int extra, int purgeable)
{
    sqlite3_pcache *cache = below.xCreate(page_size, extra, purgeable);
    watched = watched == NULL && page_size == PAGE ? cache : watched;
    return cache;
}

static sqlite3_pcache_page *watch_fetch(sqlite3_pcache *cache, unsigned key, int flag)
{
    sqlite3_pcache_page *page = below.xFetch(cache, key, flag);
    if (page != NULL && cache == watched) {
        MUST(key < MOST_KEYS);
        place[key] = page->pBuf;
        highest = key > highest ? key : highest;
    }
    return page;
}

static void watch_rekey(sqlite3_pcache *cache, sqlite3_pcache_page *page, unsigned old_key, unsigned new_key)
{
    below.xRekey(cache, page, old_key, new_key);
    if (cache == watched) {
        MUST(old_key < MOST_KEYS && new_key < MOST_KEYS);
        moved_to[old_key] = new_key;
    }
}

static void watch(void)
{
    MUST(engine.config(SQLITE_CONFIG_GETPCACHE2, &below) == SQLITE_OK);
    sqlite3_pcache_methods2 methods = below;
    methods.xCreate = watch_create;
    methods.xFetch = watch_fetch;
    methods.xRekey = watch_rekey;
    MUST(engine.config(SQLITE_CONFIG_PCACHE2, &methods) == SQLITE_OK);
}

/* ---- The row ---- */

/* Onto the last page of the table, which SQLite has pinned until the statement is finalised. */
static struct sqlite3_stmt *to_the_last_page(struct sqlite3 *database)
{
    struct sqlite3_stmt *statement = engine_prepare(database, "SELECT id, text FROM kept ORDER BY id DESC");
    MUST(engine.step(statement) == SQLITE_ROW);
    return statement;
}

static void kept_across_a_rekey(bool bug)
{
    engine_load();
    watch();
    struct sqlite3 *database = engine_open();
    engine_execute(database, FILL("gone") FILL("kept"));
    struct sqlite3_stmt *statement = to_the_last_page(database);
    unsigned old = highest;
    char *at = place[old];
    MUST(engine.finalize(statement) == SQLITE_OK);

    engine_execute(database,
                   "DELETE FROM gone"); /* the vacuum moves pages of the other table to where there is room now */
    MUST(moved_to[old] != 0);
    statement = to_the_last_page(database);
    if (!bug) {
        at = place[moved_to[old]];
    }
    bug_here(layer_sqlite_page(at, old), at + 5);
    look(at + 5);
    bug_over();
    MUST(engine.finalize(statement) == SQLITE_OK && engine.close(database) == SQLITE_OK);
}

const struct row sqlite_rows[] = {
    {31, kept_across_a_rekey},
    ROWS_END,
};
