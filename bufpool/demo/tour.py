"""The demo from its beginning to its end: load, compare, plant."""

from __future__ import annotations

import sqlite3
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import bufpool
from bufpool import _child, doctor
from bufpool.demo import corpus, rounds, show
from bufpool.errors import BufpoolError, UnsupportedError

_TIMEOUT = 60.0  # seconds for the planted bug, which takes about one


def run(console: Console, *, turns: int = 7, files: int | None = None) -> list[str]:
    """Shows the demo; files limits how many are loaded. Returns what went wrong, as sentences: nothing, if all is well.

    Raises BufpoolError when nothing can be shown.
    """
    trap = bufpool.capabilities().auto["anon"]
    if trap is None:
        raise BufpoolError(
            "no trap works here, so that there is nothing to show: `bufpool doctor` says what would help"
        )
    engine = doctor.sqlite_library()
    if not engine.usable:
        console.print(f"[yellow]SQLite cannot be given a page cache here:[/] {engine.reason}")
        console.print("The queries run with SQLite's own cache alone, and the bug is planted in a pool filled by hand.")
    with tempfile.TemporaryDirectory(prefix="bufpool-demo-") as directory:
        path = Path(directory, "source.db")
        with _progress(console) as progress:
            loaded = _load(path, files, progress)
            console.print(show.corpus_text(loaded))
            comparisons = _compare(loaded, turns, engine.usable, progress)
            plain, trapped = _plant(loaded, engine.usable, progress)
    wrong = rounds.disagreements(comparisons)
    console.print(show.comparison_table(comparisons, turns))
    for line in (*show.ratio_lines(comparisons), *([] if wrong else [show.answers_line(comparisons)])):
        console.print(line, soft_wrap=True)
    for title, lines in (show.planted_plain(plain), show.planted_pool(trapped)):
        console.print()
        console.rule(title, align="left")
        for text in lines:
            console.print(text, soft_wrap=True)  # so that a report can be copied
    return wrong + missing(trapped)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=not console.is_terminal)


def _load(path: Path, files: int | None, progress: Progress) -> corpus.Corpus:
    found = corpus.source_files(files)
    if not found:
        raise BufpoolError("this interpreter's standard library has no .py files, which are the demo's input")
    task = progress.add_task("loading the standard library's source", total=len(found))
    try:
        return corpus.load(path, found, partial(progress.advance, task))
    except sqlite3.OperationalError as error:
        if "fts5" not in str(error):
            raise
        raise UnsupportedError(
            95, "this Python's SQLite was built without full-text search (FTS5), which the demo's queries need"
        ) from None


def _compare(loaded: corpus.Corpus, turns: int, trapped: bool, progress: Progress) -> list[rounds.Comparison]:
    comparisons = []
    for configuration in rounds.configurations(loaded):
        task = progress.add_task(f"queries, {configuration.name}", total=turns * (2 if trapped else 1))
        comparisons.append(rounds.compare(loaded, configuration, turns, trapped, partial(progress.advance, task)))
    return comparisons


def _plant(loaded: corpus.Corpus, in_sqlite: bool, progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    task = progress.add_task("planting the bug", total=2)
    results = []
    for trap in ("none", "auto"):
        request = {"path": loaded.path, "trap": trap, "sqlite": in_sqlite}
        results.append(_child.run("bufpool.demo.planted", request, _TIMEOUT))
        progress.advance(task)
    return results[0], results[1]


def missing(trapped: dict[str, Any]) -> list[str]:
    """What the pool should have reported and did not, as sentences."""
    sentences = []
    found = [(report["access"], report["address"]) for report in trapped["reports"]]
    expected = [("read", trapped["address"]), ("write", trapped["address"])]
    if found != expected:
        sentences.append(f"the planted read and write should have been reported as {expected}, and were as {found}")
    if not trapped["touched"]:
        sentences.append("no page was evicted, so that none could be touched")
    sentences += [f"a stray access was missed: {miss['access']} at {miss['address']:#x}" for miss in trapped["missed"]]
    return sentences
