"""The demo on a part of its input: corpus, queries, comparison, planted bug, and the whole of it."""

from __future__ import annotations

import io
import re
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from rich.console import Console

import bufpool
from bufpool import _child, cli, doctor
from bufpool.demo import corpus, planted, queries, rounds, show, tour
from bufpool.errors import BufpoolError

FILES = 300  # enough that the database is larger than SQLite's default cache
ENGINE = doctor.sqlite_library()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    path = tmp_path_factory.mktemp("demo") / "source.db"
    return corpus.load(path, corpus.source_files(FILES))


@pytest.fixture(scope="module")
def comparisons(loaded: corpus.Corpus) -> list[rounds.Comparison]:
    return [rounds.compare(loaded, kind, 1, ENGINE.usable) for kind in rounds.configurations(loaded)]


@pytest.fixture
def usable_sqlite() -> None:
    if not ENGINE.usable:
        pytest.skip(f"SQLite takes no page cache: {ENGINE.reason}")


# ---- Corpus and queries ----------------------------------------------------------------------------------------------


def test_corpus_holds_every_line_of_every_file(loaded: corpus.Corpus) -> None:
    files = corpus.source_files(FILES)
    counts = [len(file.read_bytes().decode("utf-8", "replace").splitlines()) for file in files]
    assert (loaded.files, loaded.lines) == (len(files), sum(counts))
    assert loaded.source_bytes == sum(file.stat().st_size for file in files)
    assert loaded.pages * loaded.page_size == Path(loaded.path).stat().st_size
    database = sqlite3.connect(loaded.path)
    assert [count for (count,) in database.execute("SELECT lines FROM file ORDER BY id")] == counts
    database.close()


def test_the_fewest_files_are_more_than_sqlite_s_default_cache_holds(tmp_path: Path) -> None:
    loaded = corpus.load(tmp_path / "fewest.db", corpus.source_files(cli._FEWEST_FILES))
    assert loaded.bytes > 2000 * 1024


def test_source_files_are_the_standard_library_s_alone() -> None:
    files = corpus.source_files()
    names = {file.name for file in files}
    assert {"argparse.py", "dbapi2.py"} <= names
    assert not [file for file in files if "site-packages" in file.parts or file.suffix != ".py"]
    assert len(set(files)) == len(files)
    assert corpus.source_files(3) == files[:3]


def test_load_reports_its_progress(tmp_path: Path) -> None:
    steps: list[int] = []
    corpus.load(tmp_path / "few.db", corpus.source_files(3), steps.append)
    assert steps == [1, 1, 1]


def test_the_dozen_queries_find_rows_and_agree_with_themselves(loaded: corpus.Corpus) -> None:
    database = sqlite3.connect(loaded.path)
    first, second = queries.ask(database), queries.ask(database)
    database.close()
    assert len(first) == 12
    assert all(answer.rows > 0 for answer in first.values())
    assert {n: (a.rows, a.digest) for n, a in first.items()} == {n: (a.rows, a.digest) for n, a in second.items()}


def test_a_changed_line_changes_answers(loaded: corpus.Corpus) -> None:
    database = sqlite3.connect(loaded.path)
    before = queries.ask(database)
    database.execute("UPDATE line SET text = text || '!' WHERE file = 1 AND number = 1")
    after = queries.ask(database)
    database.rollback()
    database.close()
    assert before["text in all"].digest != after["text in all"].digest


# ---- Comparison ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("usable_sqlite")
def test_pool_and_stock_answer_alike_and_the_small_cache_evicts(comparisons: list[rounds.Comparison]) -> None:
    large, small = comparisons
    assert rounds.disagreements(comparisons) == []
    for comparison in comparisons:
        assert [len(comparison.stock), len(comparison.pool)] == [1, 1]
        assert comparison.pool[0].trap == bufpool.capabilities().auto["anon"]
        assert comparison.ratio() is not None
    assert small.pool[0].evictions > large.pool[0].evictions  # type: ignore[operator]
    assert small.pool[0].pages < large.pool[0].pages  # type: ignore[operator]


def test_stock_counters_tell_the_caches_apart(comparisons: list[rounds.Comparison]) -> None:
    large, small = (comparison.stock[0] for comparison in comparisons)
    if large.pages is None or small.evictions is None:
        pytest.skip("SQLite's C functions cannot be reached")
    assert large.evictions == 0
    assert small.evictions > 0


def test_a_different_answer_is_a_disagreement(comparisons: list[rounds.Comparison]) -> None:
    run = comparisons[0].stock[0]
    wrong = {**run.answers, "one word": attrs.evolve(run.answers["one word"], digest="0" * 64)}
    changed = attrs.evolve(comparisons[1], stock=[attrs.evolve(run, answers=wrong)])
    (sentence,) = rounds.disagreements([comparisons[0], changed])
    assert "'one word'" in sentence
    assert "000000000000" in sentence


def test_without_a_pool_there_is_no_ratio(comparisons: list[rounds.Comparison]) -> None:
    alone = attrs.evolve(comparisons[0], pool=[])
    assert alone.ratio() is None
    assert list(show.ratio_lines([alone])) == []
    assert rounds.seconds(alone.pool) is None


def test_rounds_take_turns(loaded: corpus.Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def run(_module: str, request: dict[str, Any], _timeout: float) -> dict[str, Any]:
        order.append(request["trapped"])
        return {"seconds": 1.0 + request["trapped"], "answers": {}, "pages": 1, "evictions": 0, "trap": None}

    monkeypatch.setattr(_child, "run", run)
    done = rounds.compare(loaded, rounds.configurations(loaded)[0], 2, trapped=True)
    assert order == [False, True, True, False]
    assert done.ratio() == 2.0


# ---- The planted bug -------------------------------------------------------------------------------------------------


def plant(loaded: corpus.Corpus, trap: str, in_sqlite: bool) -> dict[str, Any]:
    return _child.run("bufpool.demo.planted", {"path": loaded.path, "trap": trap, "sqlite": in_sqlite}, 100)


@pytest.fixture(params=[True, False], ids=["SQLite", "filled by hand"])
def in_sqlite(request: pytest.FixtureRequest) -> bool:
    if request.param:
        request.getfixturevalue("usable_sqlite")
    return bool(request.param)


def test_plain_mmap_swallows_the_planted_bug(loaded: corpus.Corpus, in_sqlite: bool) -> None:
    result = plant(loaded, "none", in_sqlite)
    assert result["trap"] == "none"
    assert result["before"].strip("\0")
    assert result["seen"] == "\0" * len(result["before"])
    assert result["reports"] == []
    assert (result["seems"], result["kept"]) == (True, False)
    assert result["touched"] == len(result["missed"]) == 100


def test_the_pool_reports_the_planted_bug(loaded: corpus.Corpus, in_sqlite: bool) -> None:
    result = plant(loaded, "auto", in_sqlite)
    assert tour.missing(result) == []
    assert [report["access"] for report in result["reports"]] == ["read", "write"]
    assert f"{result['address']:#x}" in result["text"]
    assert result["seen"] == chr(bufpool.POISON) * len(result["before"])
    assert (result["touched"], result["missed"]) == (100, [])


def test_missing_names_what_was_not_reported() -> None:
    read = {"address": 4096, "access": "read", "page": 0, "state": "evicted"}
    good = {"address": 4096, "reports": [read, {**read, "access": "write"}], "touched": 100, "missed": []}
    assert tour.missing(good) == []
    assert "write" in tour.missing({**good, "reports": [read]})[0]
    assert "no page was evicted" in tour.missing({**good, "touched": 0})[0]
    assert "read at 0x1000" in tour.missing({**good, "missed": [read]})[0]


def test_a_page_that_stays_is_an_error_and_no_endless_wait() -> None:
    class Idle:
        def __init__(self, pool: bufpool.Pool) -> None:
            self.pool = pool

        def planted(self) -> int:
            return 0

        def work(self) -> None:
            pass

    with bufpool.Pool("64 KiB") as pool:
        pool.allocate()
        with pytest.raises(BufpoolError, match="page 0 is allocated, not evicted"):
            planted._until(Idle(pool), 0, "evicted")


# ---- All of it -------------------------------------------------------------------------------------------------------


def shown(**options: Any) -> tuple[list[str], str]:
    out = io.StringIO()
    wrong = tour.run(Console(file=out, width=200), turns=1, files=FILES, **options)
    return wrong, out.getvalue()


def test_the_whole_demo() -> None:
    wrong, text = shown()
    assert wrong == []
    assert "identical answers" in text
    for name in queries.QUERIES:
        assert name in text
    (address,) = re.findall(r"reported: read at (0x[0-9a-f]+)", text)
    assert f"READ at address {address}" in text
    assert "100 trapped" in text
    assert "the write is lost" in text


def test_the_demo_with_a_static_sqlite_says_so_and_shows_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    static = doctor.SQLiteLibrary("3.40.1", None, False, "it is linked in statically")
    monkeypatch.setattr(doctor, "sqlite_library", lambda: static)
    wrong, text = shown()
    assert wrong == []
    assert "it is linked in statically" in text
    assert 'pool "demo"' in text
    assert "100 trapped" in text


def test_the_demo_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shown()
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_without_sources_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "source_files", lambda _limit: [])
    with pytest.raises(BufpoolError, match="standard library"):
        shown()


def test_an_sqlite_without_full_text_search_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_arguments: object) -> None:
        raise sqlite3.OperationalError("no such module: fts5")

    monkeypatch.setattr(corpus, "load", load)
    with pytest.raises(bufpool.UnsupportedError, match="FTS5"):
        shown()
