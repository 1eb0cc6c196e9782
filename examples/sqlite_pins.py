"""A million pin cycles of SQLite with every unpinned page closed; the answers are those of its own page cache."""

import hashlib
import sqlite3
import sys
from contextlib import closing
from itertools import count, islice

import bufpool

ENOUGH = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000  # pin cycles


def work(file):
    """Changes and queries without end; yields a digest of all answers so far."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size = 20")  # pages, of some hundred
        database.execute("PRAGMA synchronous = OFF")  # no waiting for the disk
        database.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, name TEXT, size INTEGER, text TEXT)")
        database.execute("CREATE INDEX by_name ON row (name)")
        answers = hashlib.sha256()
        for turn in count():
            keys = [(turn * 7919 + n * 104_729) % 10_007 for n in range(200)]
            rows = [(key, f"name {key * 31 % 10_007}", key % 97, f"{turn} " * (key % 120)) for key in keys]
            database.execute("BEGIN")
            database.executemany("INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?)", rows)
            database.executemany("DELETE FROM row WHERE id = ?", [(key,) for key in keys[::9]])
            database.execute("ROLLBACK" if turn % 5 == 4 else "COMMIT")
            for key in keys:
                query = "SELECT * FROM row WHERE id BETWEEN ? AND ? + 20 OR name = 'name ' || ?"
                answers.update(repr(database.execute(query, (key, key, key)).fetchall()).encode())
            if turn % 10 == 0:
                query = "SELECT size, count(*), sum(length(text)), max(name) FROM row GROUP BY size"
                answers.update(repr(database.execute(query).fetchall()).encode())
                answers.update(repr(database.execute("PRAGMA integrity_check").fetchall()).encode())
            yield answers.hexdigest()


bufpool.sqlite.install(capacity="64 MiB", pins="all")
with closing(work("pinned.db")) as answers:
    turns, pinned = next(pair for pair in enumerate(answers) if bufpool.sqlite.stats().pins >= ENOUGH)
stats = bufpool.sqlite.stats()
print(f"{stats.pins} pin cycles, {stats.evictions} evictions, {stats.left_open} pages left open")
print("stray accesses:", sum(pool.stats().faults for pool in bufpool.sqlite.pools()))

bufpool.sqlite.uninstall()
with closing(work("stock.db")) as answers:
    stock = next(islice(answers, turns, None))
print("the answers are the same:", pinned == stock)
