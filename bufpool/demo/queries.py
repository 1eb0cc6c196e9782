"""The dozen queries: aggregates, joins, range scans, point lookups and full-text search over the demo's database."""

from __future__ import annotations

import hashlib
import sqlite3
import time

import attrs

from bufpool.demo.corpus import LINES_PER_FILE

_KEY = f"line.file = word.rowid / {LINES_PER_FILE} AND line.number = word.rowid % {LINES_PER_FILE}"

QUERIES: dict[str, str] = {
    "lines by package": """
        SELECT package, count(*), sum(lines), sum(bytes) FROM file
        GROUP BY package ORDER BY sum(lines) DESC, package""",
    "longest files": """
        SELECT path, lines FROM file ORDER BY lines DESC, path LIMIT 20""",
    "text in all": """
        SELECT count(*), sum(length(text)), max(length(text)) FROM line""",
    "every 16th's indent": """
        SELECT indent / 4, count(*), avg(length(text)) FROM line WHERE number % 16 = 0 GROUP BY 1 ORDER BY 1""",
    "commonest lines": """
        SELECT text, count(*) FROM line WHERE indent = 8 AND length(text) BETWEEN 12 AND 24
        GROUP BY text ORDER BY count(*) DESC, text LIMIT 20""",
    "a range of files": """
        SELECT file.path, count(*), sum(line.text LIKE '%self%') FROM file JOIN line ON line.file = file.id
        WHERE file.id BETWEEN (SELECT max(id) / 4 FROM file) AND (SELECT max(id) / 2 FROM file)
        GROUP BY file.id ORDER BY file.id""",
    "heads of files": """
        SELECT line.text, count(*) FROM file JOIN line ON line.file = file.id AND line.number BETWEEN 1 AND 40
        WHERE line.text LIKE 'import %' GROUP BY line.text ORDER BY count(*) DESC, line.text LIMIT 20""",
    "scattered lines": """
        WITH RECURSIVE pick(step, seed) AS (
            SELECT 1, 12345 UNION ALL SELECT step + 1, (seed * 1103515245 + 12345) % 2147483648 FROM pick LIMIT 20000)
        SELECT count(*), sum(length(line.text)), sum(line.number) FROM pick
        JOIN file ON file.id = pick.seed / 64 % (SELECT count(*) FROM file)
        JOIN line ON line.file = file.id AND line.number = pick.seed / 8192 % file.lines + 1""",
    "one word": """
        SELECT count(*), min(rowid), max(rowid) FROM word WHERE word MATCH 'lock'""",
    "a phrase, its lines": f"""
        SELECT file.path, line.number, line.text FROM word JOIN line ON {_KEY} JOIN file ON file.id = line.file
        WHERE word MATCH '"raise typeerror"' ORDER BY file.path, line.number""",
    "a prefix, by file": f"""
        SELECT file.path, count(*) FROM word JOIN file ON file.id = word.rowid / {LINES_PER_FILE}
        WHERE word MATCH 'async*' GROUP BY file.id ORDER BY count(*) DESC, file.path LIMIT 20""",
    "words, next lines": f"""
        SELECT file, number, text FROM line WHERE (file, number) IN (
            SELECT rowid / {LINES_PER_FILE}, rowid % {LINES_PER_FILE} + 1 FROM word WHERE word MATCH 'try OR except')
        ORDER BY file, number""",
}


@attrs.frozen
class Answer:
    """A query's result, cut down to what shows whether another one is the same."""

    rows: int
    digest: str
    seconds: float


def ask(database: sqlite3.Connection) -> dict[str, Answer]:
    """Runs every query and reads all its rows."""
    answers = {}
    for name, query in QUERIES.items():
        start = time.perf_counter()
        rows = database.execute(query).fetchall()
        seconds = time.perf_counter() - start
        answers[name] = Answer(len(rows), hashlib.sha256(repr(rows).encode()).hexdigest(), seconds)
    return answers
