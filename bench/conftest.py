"""The bench's frame: the C loops, interleaved rounds, and the table of ratios at the end.

A row is a pair: what bufpool does, and the same work on plain mmap. Both run in turn, round by round, in one
process; the figure is the ratio of the medians. pytest-benchmark times and stores bufpool's side; the plain side's
times, and the ratio, are in the row's extra_info (--benchmark-json=FILE writes them all).
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import pytest

BENCH = Path(__file__).parent
NATIVE = BENCH.parent / "native"
COMPILE = ["cc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-fPIC", "-shared", f"-I{NATIVE}/include"]
ROUNDS = 20


class Loops:
    """The C loops with their buffers; built once, with a copy of the library's sources of its own."""

    def __init__(self, folder: Path) -> None:
        library = folder / "loops.so"
        sources = [str(path) for path in sorted((NATIVE / "src").glob("*.c"))]
        subprocess.run(
            [*COMPILE, "-o", str(library), str(BENCH / "loops.c"), *sources, "-lpthread", "-ldl"],
            check=True,
            timeout=300,
        )
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef("typedef struct bufpool_pool bufpool_pool;" + (BENCH / "loops.h").read_text())
        self.c: Any = self.ffi.dlopen(str(library))

    def numbers(self, count: int) -> Any:
        """An array of count uint64."""
        return self.ffi.new("uint64_t[]", count)

    def data(self, pages: int) -> Any:
        """Pages of bytes that are not zeros, resident."""
        return self.ffi.new("char[]", bytes(range(1, 129)) * 32 * pages)


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Loops:
    return Loops(tmp_path_factory.mktemp("loops"))


class Row:
    """Runs a pair of callables in interleaved rounds and keeps their ratio."""

    def __init__(self, benchmark: Any, rows: list[dict[str, Any]], title: str) -> None:
        self.benchmark = benchmark
        self.rows = rows
        self.title = title

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
    ) -> float:
        """Measures; before and plain_before run untimed ahead of their side. per: units of work a round (pages...)."""
        plain_ns: list[int] = []

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
        pool_ns = [seconds * 1e9 for seconds in self.benchmark.stats.stats.data]
        ratio = statistics.median(pool_ns) / statistics.median(plain_ns)
        row = {
            "title": self.title,
            "pool_ns": statistics.median(pool_ns) / per,
            "plain_ns": statistics.median(plain_ns) / per,
            "ratio": ratio,
            "rounds": rounds,
            "spread": statistics.quantiles([a / b for a, b in zip(pool_ns, plain_ns, strict=True)], n=4),
            "goal": goal,
            "against": against,
        }
        self.rows.append(row)
        self.benchmark.extra_info.update(row)
        return ratio


@pytest.fixture
def row(request: pytest.FixtureRequest, benchmark: Any) -> Row:
    """The measuring of one row, titled by the test's docstring."""
    title = (request.function.__doc__ or "").strip().rstrip(".")
    return Row(benchmark, request.config.stash.setdefault(ROWS, []), title)


ROWS = pytest.StashKey[list[dict[str, Any]]]()


def _huge_pages() -> str:
    text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    return text[text.index("[") + 1 : text.index("]")]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    write = terminalreporter.write_line
    write("")
    write(f"Linux {platform.release()}, {platform.machine()}, transparent huge pages: {_huge_pages()}; 4 KiB pages.")
    write("Medians of interleaved rounds in one run; quartiles are of the rounds' ratios.")
    write("")
    write("| work | bufpool, ns | other, ns | against | ratio | quartiles | rounds | goal | |")
    write("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, _, high = row["spread"]
        goal = "" if row["goal"] is None else f"<= {row['goal']:.2f}"
        verdict = "" if row["goal"] is None else "met" if row["ratio"] <= row["goal"] else "**missed**"
        write(
            f"| {row['title']} | {row['pool_ns']:.1f} | {row['plain_ns']:.1f} | {row['against']} "
            f"| {row['ratio']:.3f} | {low:.3f} - {high:.3f} | {row['rounds']} | {goal} | {verdict} |"
        )
