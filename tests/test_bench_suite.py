"""What the bench makes of a run: figures in words, tables, and the blocks of the READMEs. No time is asserted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

MISSING = "the bench is not in this copy of the sources"
BENCH = Path(__file__).parents[1] / "bench"
blocks = pytest.importorskip("suite.blocks", reason=MISSING)
groups = pytest.importorskip("suite.groups", reason=MISSING)
tables = pytest.importorskip("suite.tables", reason=MISSING)
store = pytest.importorskip("suite.store", reason=MISSING)
words = pytest.importorskip("suite.words", reason=MISSING)
Row = pytest.importorskip("suite.rows", reason=MISSING).Row


class Stopwatch:
    """Stands for the benchmark fixture, with times made up."""

    extra_info: dict[str, Any]

    def __init__(self) -> None:
        self.extra_info = {}

    def pedantic(self, function: Any, rounds: int, iterations: int) -> None:
        for _ in range(rounds * iterations):
            function()


def measured(goal: float | None, ours: float, other: float) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    row = Row(Stopwatch(), rows, {"title": "Fill", "key": "test_fill_free::test_fill", "group": "Fill and free"})
    row.ratios(lambda: (ours, other), goal=goal, rounds=3, against="plain mmap")
    return rows[0]


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {
        "cpu": "a processor", "virtual": True, "cores": 2, "memory_gib": 24.0, "architecture": "x86_64",
        "kernel": "6.18", "transparent_huge_pages": "madvise", "root": True, "compiler": "cc", "python": "3.11",
        "commit": "0123456789ab", "date": "2026-11-24 09:45 UTC", "load": [1.0, 1.0, 1.0],
    }  # fmt: skip
    group = {"name": "Fill and free", "seconds": 9.0, "budget": 40}
    not_run = [{"title": "Whole huge pages", "key": "x", "group": "Fill and free", "why": "no huge pages are free"}]
    return {
        "machine": machine, "load": [1.0, 2.0], "seconds": 9.0, "budget": 600, "groups": [group], "rows": list(rows),
        "not_run": not_run,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("goal", "ours", "verdict"),
    [(0.9, 80.0, "met"), (0.9, 95.0, "**missed**"), (None, 110.0, "slower"), (None, 90.0, "")],
)
def test_a_losing_row_is_shown_as_such(goal: float | None, ours: float, verdict: str) -> None:
    row = measured(goal, ours, 100.0)
    assert words.verdict(row) == verdict
    line = next(line for line in tables.markdown(results(row)).splitlines() if line.startswith("| Fill |"))
    assert ("| **" in line) == words.loses(row)


def test_what_did_not_run_says_why() -> None:
    for text in (tables.markdown(results(measured(None, 1.0, 1.0))), tables.readme(results(measured(None, 1.0, 1.0)))):
        assert "Whole huge pages (Fill and free): no huge pages are free" in text


def test_several_other_sides_are_a_row_each() -> None:
    rows: list[dict[str, Any]] = []
    row = Row(Stopwatch(), rows, {"title": "Evict", "key": "test_eviction::test_evict", "group": "Eviction and scan"})
    row.beside(lambda: 50.0, {"mmap of the file": (lambda: 100.0, 0.6), "pread": (lambda: 40.0, None)}, rounds=3)
    assert [(row["title"], row["value"], row["met"]) for row in rows] == [
        ("Evict : mmap of the file", 0.5, True),
        ("Evict : pread", 1.25, None),
    ]


def test_blocks_are_filled() -> None:
    text = "before\n<!-- bench: times -->\nold\n<!-- end of bench -->\nafter\n"
    filled = blocks.filled(text, results())
    assert filled.startswith("before\n<!-- bench: times -->\n| group | seconds | budget |")
    assert filled.endswith("| all | 9 | 600 |\n<!-- end of bench -->\nafter\n")
    assert blocks.filled(filled, results()) == filled


def test_every_file_of_rows_has_a_group() -> None:
    files = {path.stem for path in BENCH.glob("test_*.py")}
    assert not {file for file in files if groups.of(file) is groups.OTHERS}
    assert sum(group.budget for group in groups.GROUPS) <= groups.BUDGET


def test_the_readmes_show_the_newest_run() -> None:
    newest = store.read()
    for path in blocks.FILES:
        text = path.read_text(encoding="utf-8")
        assert blocks.filled(text, newest) == text, f"{path.name} shows another run: make bench-readme"
    assert (store.FOLDER / "bench.md").read_text(encoding="utf-8") == tables.markdown(newest)


def test_readme_has_the_rows_and_the_pictures() -> None:
    text = blocks.FILES[0].read_text(encoding="utf-8")
    for block in ("rows", "traps"):
        assert f"<!-- bench: {block} -->" in text
    pictures = set(re.findall(r"\(bench/results/(bench-\w+\.png)\)", text))
    assert len(pictures) == 3
    assert all((store.FOLDER / picture).exists() for picture in pictures)


def test_the_newest_run_says_where_it_was_made() -> None:
    machine = store.read()["machine"]
    assert all(machine[word] for word in ("cpu", "kernel", "transparent_huge_pages", "date"))
    assert machine["commit"] != "unknown"
