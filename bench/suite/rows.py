"""The measuring of rows: both sides in turn, round by round, and the figures that are kept of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ROUNDS = 20


class Cell(NamedTuple):
    """The place of a row that belongs to a table of memories and traps."""

    memory: str
    trap: str
    work: str


class Point(NamedTuple):
    """The place of a row on a curve of cost against size."""

    curve: str
    series: str
    x: float


def spread(values: Sequence[float]) -> list[float]:
    """Quartiles: low, median, high."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3


class Row:
    """Measures one row, or a few of the same title; each is kept as a dictionary, which bench.json has as it is."""

    def __init__(
        self,
        benchmark: Any,
        rows: list[dict[str, Any]],
        about: dict[str, str],
        not_run: list[dict[str, str]] | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.rows = rows
        self.about = about  # title, key and group
        self.not_run = [] if not_run is None else not_run

    @property
    def title(self) -> str:
        return self.about["title"]

    @title.setter
    def title(self, title: str) -> None:
        self.about["title"] = title

    def __call__(
        self,
        pool: Callable[[], object],
        plain: Callable[[], object],
        *,
        per: int,
        goal: float | None,
        before: Callable[[], object] = lambda: None,
        plain_before: Callable[[], object] = lambda: None,
        rounds: int = ROUNDS,
        against: str = "plain mmap",
        cell: tuple[str, str, str] | None = None,
        absolute: bool = False,
        note: str = "",
    ) -> float:
        """Measures; before and plain_before run untimed ahead of their side. per: units of work a round (pages...).

        cell: memory, trap and work of a row that belongs to a table of memories and traps. absolute: the row is about
        bufpool's own nanoseconds, and so is its goal. note: what has to be known to judge the row, as "cold start".
        """
        plain_ns: list[float] = []

        def set_up() -> None:
            plain_before()
            start = time.perf_counter_ns()
            plain()
            plain_ns.append(time.perf_counter_ns() - start)
            before()

        set_up()  # a first round of both, not counted: page tables and caches are warm afterwards
        pool()
        plain_ns.clear()
        self.benchmark.pedantic(pool, setup=set_up, rounds=rounds, iterations=1)
        pool_ns = [seconds * 1e9 / per for seconds in self.benchmark.stats.stats.data]
        plain_ns = [each / per for each in plain_ns]
        more = {"goal": goal, "against": against, "cell": cell and Cell(*cell)._asdict(), "note": note}
        if absolute:
            self._keep("time", statistics.median(pool_ns), pool_ns, pool_ns, plain_ns, **more)
        else:
            self._ratio(pool_ns, plain_ns, **more)
        return statistics.median(pool_ns) / statistics.median(plain_ns)

    def difference(
        self,
        pairs: Callable[[], Sequence[tuple[float, float]]],
        *,
        before: Callable[[], object],
        goal: float | None,
        rounds: int,
        against: str,
    ) -> None:
        """By how many ns bufpool takes longer. pairs: measures a round and returns bufpool's ns and the other's, for
        each page or for the average of many."""
        found: list[tuple[float, float]] = []
        self.benchmark.pedantic(lambda: found.extend(pairs()), setup=before, rounds=rounds, iterations=1)
        ours, others = [pool for pool, _ in found], [plain for _, plain in found]
        figures = [pool - plain for pool, plain in found]
        self._keep(
            "difference", statistics.median(figures), figures, ours, others, goal=goal, against=against, rounds=rounds
        )

    def ratios(
        self, pairs: Callable[[], tuple[float, float]], *, goal: float | None, rounds: int, against: str, note: str = ""
    ) -> None:
        """What times itself. pairs: measures a round and returns bufpool's ns and the other's for a unit of work."""
        found: list[tuple[float, float]] = []
        self.benchmark.pedantic(lambda: found.append(pairs()), rounds=rounds, iterations=1)
        ours, others = zip(*found, strict=True)
        self._ratio(ours, others, goal=goal, against=against, note=note)

    def beside(
        self,
        pool: Callable[[], float],
        others: Mapping[str, tuple[Callable[[], float], float | None]],
        *,
        rounds: int,
        note: str = "",
    ) -> None:
        """A row for each of several other sides. Each side measures a round of its own and returns the ns a unit of
        work takes; others: by name, with the goal. All take their turns in each round."""
        found: list[list[float]] = []
        sides = [pool, *(measure for measure, _ in others.values())]
        self.benchmark.pedantic(lambda: found.append([side() for side in sides]), rounds=rounds, iterations=1)
        ours, *theirs = zip(*found, strict=True)
        for (name, (_, goal)), other in zip(others.items(), theirs, strict=True):
            self._ratio(ours, other, title=f"{self.title} : {name}", goal=goal, against=name, note=note)

    def gains(self, sides: Mapping[str, tuple[Callable[[int], float], float | None]], *, rounds: int) -> None:
        """How many times the work of one process two do in the same time, in a row for each side. sides: by name, a
        function of the number of processes that returns the ns a page takes all of them, and the goal."""
        found: list[dict[str, tuple[float, float]]] = []

        def measure() -> None:
            found.append({name: (together(2), together(1)) for name, (together, _) in sides.items()})

        self.benchmark.pedantic(measure, rounds=rounds, iterations=1)
        for name, (_, goal) in sides.items():
            twos, ones = zip(*(each[name] for each in found), strict=True)
            self._keep(
                "gain",
                statistics.median(ones) / statistics.median(twos),
                [one / two for two, one in zip(twos, ones, strict=True)],
                twos,
                ones,
                title=f"{self.title}; {name}",
                goal=goal,
                against="one process",
            )

    def point(self, curve: str, series: str, x: float, values: Sequence[float], unit: str = "ns") -> None:
        """A point of a curve of cost against size, which was measured already: values are its rounds'."""
        place = Point(curve, series, x)
        self._keep(
            "cost", statistics.median(values), values, values, None, title=f"{series}, {x:g}",
            unit=unit, point=place._asdict(),
        )  # fmt: skip

    def memory(
        self, ours: Sequence[float], others: Sequence[float], *, goal: float, against: str, note: str = ""
    ) -> None:
        """Bytes that bufpool takes, measured already; the goal is about them, the other side stands beside them."""
        more = {"goal": goal, "against": against, "note": note}
        self._keep("memory", statistics.median(ours), ours, ours, others, unit="bytes", **more)

    def refused(self, title: str, why: str) -> None:
        """A part of this row that could not be measured here."""
        self.not_run.append({**self.about, "title": title, "why": why})

    def _ratio(self, ours: Sequence[float], others: Sequence[float], **more: Any) -> None:
        figures = [pool / other for pool, other in zip(ours, others, strict=True)]
        self._keep("ratio", statistics.median(ours) / statistics.median(others), figures, ours, others, **more)

    def _keep(
        self,
        kind: str,
        value: float,
        figures: Sequence[float],
        ours: Sequence[float],
        others: Sequence[float] | None,
        **more: Any,
    ) -> None:
        more = {"goal": None, "against": None, "unit": "ns", "rounds": len(figures), "cell": None, "note": ""} | more
        reached = more["goal"] is not None and (value >= more["goal"] if kind == "gain" else value <= more["goal"])
        row = {
            **self.about,
            "kind": kind,
            "value": value,
            "spread": spread(figures),
            "ours": spread(ours),
            "others": None if others is None else spread(others),
            "met": None if more["goal"] is None else reached,
            **more,
        }
        self.rows.append(row)
        self.benchmark.extra_info.setdefault("rows", []).append(row)
