"""The demo's real input: the source of this interpreter's standard library, in an SQLite database on disk."""

from __future__ import annotations

import os
import sqlite3
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

SCHEMA = """
CREATE TABLE file (id INTEGER PRIMARY KEY, path TEXT UNIQUE, package TEXT, bytes INTEGER, lines INTEGER);
CREATE TABLE line (file INTEGER, number INTEGER, indent INTEGER, text TEXT, PRIMARY KEY (file, number)) WITHOUT ROWID;
CREATE VIRTUAL TABLE word USING fts5 (text, content='');
"""
# A row of the full-text index is one line; its number holds both parts of the line's key.
LINES_PER_FILE = 1_000_000

_NOT_OURS = {"site-packages", "dist-packages", "__pycache__"}


@attrs.frozen
class Corpus:
    """What was loaded, and where."""

    path: str
    files: int
    lines: int
    source_bytes: int
    bytes: int  # of the database
    page_size: int  # bytes

    @property
    def pages(self) -> int:
        """The database's pages."""
        return self.bytes // self.page_size


def source_files(limit: int | None = None) -> list[Path]:
    """Every .py file of the standard library in a fixed order, without what was installed later; at most limit."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Path] = []
    for directory, below, names in os.walk(root):
        below[:] = sorted(set(below) - _NOT_OURS)
        found += [Path(directory, name) for name in sorted(names) if name.endswith(".py")]
    return found[:limit]


def load(path: Path, files: list[Path], progress: Callable[[int], object] = lambda _count: None) -> Corpus:
    """Loads files into a new database; progress receives 1 after each. Raises sqlite3.OperationalError without FTS5."""
    database = sqlite3.connect(path)
    try:
        # Written once and thrown away afterwards: no journal, no waiting for the disk.
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;")
        database.executescript(SCHEMA)
        source_bytes = sum(_load_file(database, number, file, progress) for number, file in enumerate(files))
        database.execute(f"INSERT INTO word (rowid, text) SELECT file * {LINES_PER_FILE} + number, text FROM line")
        database.execute("ANALYZE")
        database.commit()
        (lines,) = database.execute("SELECT count(*) FROM line").fetchone()
        (page_size,) = database.execute("PRAGMA page_size").fetchone()
    finally:
        database.close()
    return Corpus(str(path), len(files), lines, source_bytes, path.stat().st_size, page_size)


def _load_file(database: sqlite3.Connection, number: int, file: Path, progress: Callable[[int], object]) -> int:
    source = file.read_bytes()
    lines = source.decode("utf-8", "replace").splitlines()
    path = file.relative_to(sysconfig.get_path("stdlib"))
    row = (number, str(path), path.parts[0], len(source), len(lines))
    database.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?)", row)
    database.executemany("INSERT INTO line VALUES (?, ?, ?, ?)", _rows(number, lines))
    progress(1)
    return len(source)


def _rows(file: int, lines: list[str]) -> Iterator[tuple[int, int, int, str]]:
    for number, text in enumerate(lines, 1):
        yield file, number, len(text) - len(text.lstrip()), text
