"""SQLite on trapped pages, and with enforced pins: the demo's queries, beside SQLite with its own page cache."""

from __future__ import annotations

from typing import Any

import pytest

from bufpool import _child, doctor
from bufpool.demo import corpus
from bufpool.demo.queries import QUERIES

ROUNDS = {"off": 5, "write": 3, "all": 3}  # with closed pages a run takes long, and the differences are large


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    """The standard library's source, as in the demo."""
    engine = doctor.sqlite_library()
    if not engine.usable:
        pytest.skip(f"SQLite takes no page cache: {engine.reason}")
    return corpus.load(tmp_path_factory.mktemp("sqlite") / "source.db", corpus.source_files())


LARGE, DEFAULT = "a cache larger than the database", "SQLite's default cache"
GOALS = {
    ("off", LARGE): 1.05,
    ("off", DEFAULT): 1.4,
    ("write", LARGE): 2.0,
    ("write", DEFAULT): 2.0,
    ("all", LARGE): 5.0,
    ("all", DEFAULT): 5.0,
}


CASES = [(cache, pins, "auto") for cache in (LARGE, DEFAULT) for pins in ("off", "write", "all")]


# A cache that is never full evicts nothing, and pages that are closed leave in batches.
@pytest.mark.parametrize(("cache", "pins", "evict"), [*CASES, (DEFAULT, "off", "batch"), (DEFAULT, "off", "replace")])
def test_queries(row: Any, database: corpus.Corpus, cache: str, pins: str, evict: str) -> None:
    """The demo's queries in SQLite."""
    row.title += f', pins="{pins}", {cache}' + ("" if evict == "auto" else f', evict="{evict}"')
    cache_pages = None if cache == DEFAULT else 2 * database.pages

    def run(trapped: bool) -> tuple[float, dict[str, str]]:
        request = {"path": database.path, "trapped": trapped, "cache_pages": cache_pages, "pins": pins, "evict": evict}
        done = _child.run("bufpool.demo.worker", request, 300)
        digests = {name: answer["digest"] for name, answer in done["answers"].items()}
        return done["seconds"] * 1e9 / len(QUERIES), digests

    def pairs() -> tuple[float, float]:
        (stock_ns, expected), (pool_ns, answers) = run(False), run(True)
        assert answers == expected
        return pool_ns, stock_ns

    row.ratios(pairs, goal=GOALS[pins, cache], rounds=ROUNDS[pins], against="SQLite's own page cache")
