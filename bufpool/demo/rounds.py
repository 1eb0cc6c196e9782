"""The comparison: rounds of the queries with SQLite's own page cache and with the trapped pool, taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import attrs

from bufpool import _child
from bufpool.demo.corpus import Corpus
from bufpool.demo.queries import QUERIES, Answer

_TIMEOUT = 120.0  # seconds for one run, which takes about one


@attrs.frozen
class Configuration:
    """A size of the cache, and how much longer than with SQLite's own cache the queries may take."""

    name: str
    meaning: str
    cache_pages: int | None  # None: SQLite's default
    goal: float


@attrs.frozen
class Run:
    """What one process did; of the pool, trap is the one in use. None: not to be had."""

    seconds: float
    answers: dict[str, Answer]
    pages: int | None  # in the cache, at most
    evictions: int | None
    trap: str | None


@attrs.frozen
class Comparison:
    """All runs of one configuration; pool is empty when this Python's SQLite takes no page cache."""

    configuration: Configuration
    stock: list[Run]
    pool: list[Run]

    def ratio(self) -> float | None:
        """The pool's time to that of SQLite's own cache: the median of the rounds' ratios, None without a pool.

        Each round is a ratio of its own, since the machine may be busier in one round than in another.
        """
        ratios = [pool.seconds / stock.seconds for stock, pool in zip(self.stock, self.pool, strict=False)]
        return statistics.median(ratios) if ratios else None


def configurations(corpus: Corpus) -> list[Configuration]:
    """A cache larger than the database, and SQLite's default."""
    return [
        Configuration("large cache", "larger than the database", 2 * corpus.pages, 1.10),
        Configuration("small cache", "SQLite's default size", None, 1.70),
    ]


def compare(
    corpus: Corpus,
    configuration: Configuration,
    rounds: int,
    trapped: bool,
    progress: Callable[[], object] = lambda: None,
) -> Comparison:
    """Runs the rounds; progress is called after each run. Raises ChildError."""
    comparison = Comparison(configuration, [], [])
    for number in range(rounds):
        kinds = [(comparison.stock, False), (comparison.pool, True)] if trapped else [(comparison.stock, False)]
        # Whoever goes second finds the machine as the first has left it, so that they change places.
        for runs, pool in kinds if number % 2 == 0 else reversed(kinds):
            runs.append(_run(corpus.path, pool, configuration.cache_pages))
            progress()
    return comparison


def _run(path: str, trapped: bool, cache_pages: int | None) -> Run:
    request = {"path": path, "trapped": trapped, "cache_pages": cache_pages}
    result: dict[str, Any] = _child.run("bufpool.demo.worker", request, _TIMEOUT)
    answers = {name: Answer(**value) for name, value in result.pop("answers").items()}
    return Run(answers=answers, **result)


def disagreements(comparisons: list[Comparison]) -> list[str]:
    """Every query that did not have the same answer in all runs of all configurations, as a sentence."""
    runs = [run for comparison in comparisons for run in comparison.stock + comparison.pool]
    sentences = []
    for name in QUERIES:
        found = sorted({(run.answers[name].rows, run.answers[name].digest) for run in runs})
        if len(found) > 1:
            texts = " and ".join(f"{rows} rows ({digest[:12]})" for rows, digest in found)
            sentences.append(f"query {name!r} had different answers: {texts}")
    return sentences


def seconds(runs: list[Run], query: str | None = None) -> float | None:
    """The median time of all queries or of one; None without runs."""
    times = [run.seconds if query is None else run.answers[query].seconds for run in runs]
    return statistics.median(times) if times else None
