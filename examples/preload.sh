# Any program with a dynamic SQLite, without a change to it: here SQLite's own shell.
library=$(python3 -c 'import bufpool; print(bufpool.__path__[0])')/libbufpool_sqlite3.so

rm -f shell.db
BUFPOOL_OPTIONS='capacity=256 MiB:on_fault=abort:stats=1' LD_PRELOAD=$library sqlite3 shell.db '
    CREATE TABLE row (id INTEGER PRIMARY KEY, text TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000)
        INSERT INTO row SELECT i, hex(i) FROM n;
    SELECT count(*) FROM row;
    PRAGMA integrity_check;'
