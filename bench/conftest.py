"""The bench's frame: the C loops, interleaved rounds, and the table of ratios at the end.

A row is a pair: what bufpool does, and the same work on plain mmap. Both run in turn, round by round, in one
process; the figure is the ratio of the medians. pytest-benchmark times and stores bufpool's side; the plain side's
times, and the ratio, are in the row's extra_info (--benchmark-json=FILE writes them all).

Rows of hugetlbfs need huge pages: as root the bench sets them aside and puts the setting back when it ends.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cffi
import pytest

import bufpool

BENCH = Path(__file__).parent
NATIVE = BENCH.parent / "native"
COMPILE = ["cc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-fPIC", "-shared", f"-I{NATIVE}/include"]
LINK = ["-Wl,-Bsymbolic", "-Wl,--wrap=memcpy", "-lpthread", "-ldl"]  # bound as in the library, whose names are local
ROUNDS = 20
HUGE = 2 << 20
HUGE_PAGES = 600  # 1 GiB for a pool, and some beside it
NR_HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


class Loops:
    """The C loops with their buffers; built once, with a copy of the library's sources of its own."""

    def __init__(self, folder: Path) -> None:
        library = folder / "loops.so"
        sources = [str(path) for path in [*sorted((NATIVE / "src").glob("*.c")), NATIVE / "tests/btree.c"]]
        subprocess.run(
            [*COMPILE, "-o", str(library), *map(str, BENCH.glob("*.c")), *sources, *LINK],
            check=True,
            timeout=300,
        )
        self.ffi: Any = cffi.FFI()
        declarations = [
            (BENCH / name).read_text()
            for name in ("loops.h", "memories.h", "pins.h", "processes.h", "sections.h", "strays.h")
        ]
        self.ffi.cdef("typedef struct bufpool_pool bufpool_pool;" + "".join(declarations))
        self.c: Any = self.ffi.dlopen(str(library))

    def numbers(self, count: int) -> Any:
        """An array of count uint64."""
        return self.ffi.new("uint64_t[]", count)

    def data(self, pages: int) -> Any:
        """Pages of bytes that are not zeros, resident."""
        return self.ffi.new("char[]", bytes(range(1, 129)) * 32 * pages)

    def pool_on(self, memory: str, trap: str, pages: int, size: int, pins: str = "off") -> Any:
        """A pool on any memory; skips the row, with the reason, where that or the trap cannot be had."""
        pool = self.ffi.new("bufpool_pool **")
        if not self.c.pool_on(memory.encode(), trap.encode(), pins.encode(), pages, size, pool):
            text = self.ffi.new("char[1024]")
            self.c.error_text(text, 1024)
            pytest.skip(self.ffi.string(text).decode())
        return pool[0]


class Plain:
    """A plain mapping of the same memory; its frames come with the first touch."""

    def __init__(self, loops: Loops, memory: str, pages: int, size: int) -> None:
        self.c = loops.c
        self.length = pages * size
        fd = loops.ffi.new("int *")
        self.base: Any = loops.c.plain_on(memory.encode(), self.length, fd)
        self.fd: int = fd[0]

    def close(self) -> None:
        self.c.plain_off(self.base, self.length, self.fd)


@pytest.fixture(scope="session")
def plain_on() -> type[Plain]:
    """For tests, which do not import this file."""
    return Plain


@contextmanager
def _put_back(command: str) -> Iterator[None]:
    """Runs a shell command when the block ends, also if that is because this process is killed."""
    with subprocess.Popen(["sh", "-c", f"cat; {command}"], stdin=subprocess.PIPE, start_new_session=True):
        yield


def _free_huge_pages() -> int:
    return int(NR_HUGE_PAGES.with_name("free_hugepages").read_text())


@pytest.fixture(scope="session")
def _huge_pages_set_aside() -> Iterator[None]:
    if not NR_HUGE_PAGES.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before = int(NR_HUGE_PAGES.read_text())
    missing = HUGE_PAGES - _free_huge_pages()
    if missing <= 0:
        yield
        return
    with _put_back(f"echo {before} > {NR_HUGE_PAGES}"):
        try:
            NR_HUGE_PAGES.write_text(str(before + missing))
        except OSError as error:
            pytest.skip(f"{HUGE_PAGES} huge pages are not free, and setting them aside takes root: {error}")
        yield


@pytest.fixture
def huge_pages(_huge_pages_set_aside: None) -> int:
    """So many huge pages of 2 MiB are free in hugetlbfs; as root the bench sets them aside, and puts that back."""
    free = _free_huge_pages()
    if free < HUGE_PAGES:  # memory in pieces, or another process changes the setting at the same time
        pytest.skip(f"{free} huge pages of 2 MiB are free, this row takes {HUGE_PAGES}")
    return free


@pytest.fixture
def huge_directory(huge_pages: int, tmp_path: Path) -> Iterator[str]:
    """A hugetlbfs mount of the row's own."""
    try:
        bufpool.mount(tmp_path, size=huge_pages * HUGE, page_size=HUGE)
    except bufpool.UnsupportedError as error:
        pytest.skip(str(error))
    with _put_back(f"umount '{tmp_path}'"):
        yield str(tmp_path)


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
        cell: tuple[str, str, str] | None = None,
        absolute: bool = False,
    ) -> float:
        """Measures; before and plain_before run untimed ahead of their side. per: units of work a round (pages...).

        cell: memory, trap and work of a row that belongs to a table of memories and traps. absolute: the row is about
        bufpool's own nanoseconds, and so is its goal.
        """
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
        ratio = float(statistics.median(pool_ns) / statistics.median(plain_ns))
        figures = [a / per for a in pool_ns] if absolute else [a / b for a, b in zip(pool_ns, plain_ns, strict=True)]
        self._keep(
            pool_ns=statistics.median(pool_ns) / per,
            plain_ns=statistics.median(plain_ns) / per,
            **{"time": statistics.median(figures)} if absolute else {"ratio": ratio},
            rounds=rounds,
            spread=statistics.quantiles(figures, n=4),
            goal=goal,
            against=against,
            cell=cell,
        )
        return ratio

    def difference(
        self,
        pairs: Callable[[], Sequence[tuple[float, float]]],
        *,
        before: Callable[[], object],
        goal: float,
        rounds: int,
        against: str,
    ) -> None:
        """By how many ns bufpool takes longer. pairs: measures a round and returns bufpool's ns and the other's, for
        each page or for the average of many."""
        found: list[tuple[float, float]] = []
        self.benchmark.pedantic(lambda: found.extend(pairs()), setup=before, rounds=rounds, iterations=1)
        self._keep(
            pool_ns=statistics.median(pool for pool, _ in found),
            plain_ns=statistics.median(plain for _, plain in found),
            difference=statistics.median(pool - plain for pool, plain in found),
            rounds=rounds,
            spread=statistics.quantiles([pool - plain for pool, plain in found], n=4),
            goal=goal,
            against=against,
            cell=None,
        )

    def ratios(self, pairs: Callable[[], tuple[float, float]], *, goal: float, rounds: int, against: str) -> None:
        """What times itself. pairs: measures a round and returns bufpool's ns and the other's for a unit of work."""
        found: list[tuple[float, float]] = []
        self.benchmark.pedantic(lambda: found.append(pairs()), rounds=rounds, iterations=1)
        pool_ns, other_ns = (statistics.median(side) for side in zip(*found, strict=True))
        self._keep(
            pool_ns=pool_ns,
            plain_ns=other_ns,
            ratio=pool_ns / other_ns,
            rounds=rounds,
            spread=statistics.quantiles([pool / other for pool, other in found], n=4),
            goal=goal,
            against=against,
            cell=None,
        )

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
                title=f"{self.title}; {name}",
                pool_ns=statistics.median(twos),
                plain_ns=statistics.median(ones),
                gain=statistics.median(ones) / statistics.median(twos),
                rounds=rounds,
                spread=statistics.quantiles([one / two for two, one in zip(twos, ones, strict=True)], n=4),
                goal=goal,
                against="one process",
                cell=None,
            )

    def _keep(self, **row: Any) -> None:
        row = {"title": self.title, **row}
        self.rows.append(row)
        self.benchmark.extra_info.update(row)


@pytest.fixture
def row(request: pytest.FixtureRequest, benchmark: Any) -> Row:
    """The measuring of one row, titled by the test's docstring."""
    title = (request.function.__doc__ or "").strip().rstrip(".")
    return Row(benchmark, request.config.stash.setdefault(ROWS, []), title)


ROWS = pytest.StashKey[list[dict[str, Any]]]()


def _huge_pages() -> str:
    text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    return text[text.index("[") + 1 : text.index("]")]


# What a row is about: how its figure is written, and how its goal is; a gain's is a least, the others' are a most.
_KINDS = {
    "ratio": ("{:.3f}", "<= {:.2f}"),
    "time": ("{:.0f} ns", "<= {:.0f} ns"),
    "difference": ("{:+.0f} ns", "<= {:+.0f} ns"),
    "gain": ("{:.3f}", ">= {:.2f}"),
}


def _line(row: dict[str, Any]) -> str:
    kind = next(kind for kind in _KINDS if kind in row)
    pattern, least_or_most = _KINDS[kind]
    low, _, high = (pattern.format(value) for value in row["spread"])
    goal = verdict = ""
    if row["goal"] is not None:
        goal = least_or_most.format(row["goal"])
        reached = row[kind] >= row["goal"] if kind == "gain" else row[kind] <= row["goal"]
        verdict = "met" if reached else "**missed**"
    return (
        f"| {row['title']} | {row['pool_ns']:.1f} | {row['plain_ns']:.1f} | {row['against']} "
        f"| {pattern.format(row[kind])} | {low} to {high} | {row['rounds']} | {goal} | {verdict} |"
    )


# The tables of memories and traps: what each is about, and its works with the words that head their columns.
_TABLES = (
    (
        "Traps, one page, steady state; plain mmap of the same memory: first touch + memcpy, and giving it back.",
        {"fill": ("allocate + fill", "plain"), "free": ("free", "plain")},
    ),
    (
        'Pins, one page: pin + unpin, for reading ("all") and for writing ("write"), beside mprotect on + off\n'
        "of plain mmap of the same memory; alone, and with a reader on the other core.",
        {work + where: (f'"{work}"{where}', "mprotect") for work in ("all", "write") for where in ("", ", reader")},
    ),
)


def _cell_lines(rows: list[dict[str, Any]], works: Mapping[str, tuple[str, str]]) -> list[str]:
    """A table with a line for each memory and trap; none if no row is about these works."""
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        memory, trap, work = row["cell"]
        if work in works:
            cells.setdefault((memory, trap), {})[work] = row
    if not cells:
        return []
    heads = "".join(f" {ours}, ns | {other}, ns | ratio |" for ours, other in works.values())
    lines = [f"| memory | trap |{heads}", "|---|---|" + "---|---|---|" * len(works)]
    for (memory, trap), found in cells.items():
        line = f"| {memory} | {trap} |"
        for work in works:
            row = found.get(work)
            line += " | | |" if row is None else f" {row['pool_ns']:.0f} | {row['plain_ns']:.0f} | {row['ratio']:.2f} |"
        lines.append(line)
    return lines


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    write = terminalreporter.write_line
    write("")
    write(f"Linux {platform.release()}, {platform.machine()}, transparent huge pages: {_huge_pages()}; 4 KiB pages,")
    write("but 2 MiB where the row says so. Medians of interleaved rounds in one run, and the quartiles of the rounds.")
    write("")
    write("| work | bufpool, ns | other, ns | against | ratio | quartiles | rounds | goal | |")
    write("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if row["cell"] is None:
            write(_line(row))
    for about, works in _TABLES:
        lines = _cell_lines([row for row in rows if row["cell"] is not None], works)
        if lines:
            for line in ("", *about.split("\n"), "", *lines):
                write(line)
