/*
 * workload_sqlite.c: correct work of a real engine, for what a detector costs: SQLite's queries and changes on a table that
 * its page cache holds. Prints the nanoseconds of a statement, and a sum of the answers, the same for all detectors.
 * DETECTION_OPERATIONS says how many statements.
 */
#include "engine.h"
#include "workload.h"

#include <inttypes.h>
#include <stdio.h>

#define ROWS 4000

static uint64_t run(struct sqlite3_stmt *statement, uint64_t first, uint64_t second)
{
    uint64_t sum = 0;
    MUST(engine.bind(statement, 1, (int64_t)first) == SQLITE_OK &&
         engine.bind(statement, 2, (int64_t)second) == SQLITE_OK);
    int code;
    while ((code = engine.step(statement)) == SQLITE_ROW) {
        sum = sum * 31 + (uint64_t)engine.column(statement, 0);
    }
    MUST(code == SQLITE_DONE && engine.reset(statement) == SQLITE_OK);
    return sum;
}

void workload_sqlite(void)
{
    uint64_t operations = workload_operations(4000);
    engine_load();
    struct sqlite3 *database = engine_open();
    engine_execute(database,
                   "PRAGMA cache_size = 4000; CREATE TABLE row (id INTEGER PRIMARY KEY, kind INTEGER, text TEXT);"
                   "CREATE INDEX by_kind ON row (kind);"
                   "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 4000)"
                   "INSERT INTO row SELECT i, i * 7919 % 401, hex(i) || ' of ' || hex(zeroblob(90)) FROM n");
    struct sqlite3_stmt *by_id = engine_prepare(database, "SELECT kind + length(text) FROM row WHERE id = ? + ? % 2");
    struct sqlite3_stmt *by_kind =
        engine_prepare(database, "SELECT id FROM row WHERE kind BETWEEN ? AND ? ORDER BY text");
    struct sqlite3_stmt *range = engine_prepare(
        database, "SELECT sum(length(text)), count(*) FROM row WHERE id BETWEEN ? AND ? AND text LIKE '%A%'");
    struct sqlite3_stmt *change = engine_prepare(database, "UPDATE row SET kind = ? WHERE id = ?");
    uint64_t sum = 0;
    uint64_t start = workload_now();
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t value = workload_random();
        uint64_t row = (value >> 8) % ROWS + 1;
        uint64_t kind = (value >> 32) % 401;
        switch (value & 7) {
        case 0:
            run(change, kind, row);
            break;
        case 1:
            sum = sum * 31 + run(range, row, row + 200);
            break;
        case 2:
        case 3:
            sum = sum * 31 + run(by_kind, kind, kind + 1);
            break;
        default:
            sum = sum * 31 + run(by_id, row, kind);
        }
    }
    printf("%.1f %" PRIu64 "\n", (double)(workload_now() - start) / (double)operations, sum);
    MUST(engine.finalize(by_id) == SQLITE_OK && engine.finalize(by_kind) == SQLITE_OK);
    MUST(engine.finalize(range) == SQLITE_OK && engine.finalize(change) == SQLITE_OK);
    MUST(engine.close(database) == SQLITE_OK);
}
