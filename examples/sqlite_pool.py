"""Python's own SQLite keeps its pages in a pool: the address of an evicted page traps."""

import ctypes
import sqlite3

import bufpool

bufpool.sqlite.install(capacity="256 MiB")  # before any connection is opened

database = sqlite3.connect("rows.db")
database.execute("PRAGMA cache_size = 100")  # pages: a small cache, so that it evicts
database.execute("DROP TABLE IF EXISTS row")
database.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, text TEXT)")
database.executemany("INSERT INTO row VALUES (?, ?)", ((i, f"row {i} " * 20) for i in range(10_000)))
database.commit()
print(database.execute("SELECT count(*), max(text) LIKE 'row 9999%' FROM row").fetchone())
print("pages were evicted:", bufpool.sqlite.stats().evictions > 0)

pool = bufpool.sqlite.pools()[0]
number = int(pool.pages("evicted")[0])
pointer = pool.page(number).address + 100  # as if kept by mistake
with bufpool.catch_faults() as caught:
    ctypes.string_at(pointer, 1)
(report,) = caught.reports
print("reported:", report.address == pointer, report.pool, report.state)
