"""The bench's frame: the C loops, the fixtures that rows are made with, and the tables at the end.

A row is a pair: what bufpool does, and the same work on plain mmap. Both run in turn, round by round, in one
process; the figure is the ratio of the medians (suite/rows.py). The rows belong to groups (suite/groups.py), and what
could not run says why. --results writes all of it to bench/results/bench.json, from which report.py makes the rest.

Rows of hugetlbfs need huge pages: as root the bench sets them aside and puts the setting back when it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cffi
import pytest

import bufpool
from suite import groups, machine, store, tables
from suite.rows import Row
from suite.undo import put_back

BENCH = Path(__file__).parent
NATIVE = BENCH.parent / "native"
COMPILE = ["cc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-fPIC", "-shared", f"-I{NATIVE}/include"]
# Bound as in the library, whose names are local.
LINK = ["-Wl,-Bsymbolic", "-Wl,--wrap=memcpy", "-lpthread", "-ldl", "-lm"]
HUGE = 2 << 20
HUGE_PAGES = 600  # 1 GiB for a pool, and some beside it
NR_HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


def _uring() -> list[str]:
    """What the compiler is told where liburing is installed, as the library's own build does."""
    asked = (
        subprocess.run(["pkg-config", "--exists", "liburing >= 2.2"], check=False)
        if shutil.which("pkg-config")
        else None
    )
    return ["-DBP_HAVE_URING", "-luring"] if asked is not None and asked.returncode == 0 else []


class Loops:
    """The C loops with their buffers; built once, with a copy of the library's sources of its own."""

    def __init__(self, folder: Path) -> None:
        library = folder / "loops.so"
        sources = [str(path) for path in [*sorted((NATIVE / "src").glob("*.c")), NATIVE / "tests/btree.c"]]
        subprocess.run(
            [*COMPILE, "-o", str(library), *map(str, BENCH.glob("*.c")), *sources, *LINK, *_uring()],
            check=True,
            timeout=300,
        )
        self.ffi: Any = cffi.FFI()
        # Headers here are what cffi reads, one for each file of loops; must.h is for the loops themselves.
        declarations = [path.read_text() for path in sorted(BENCH.glob("*.h")) if path.name != "must.h"]
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
    with put_back(f"echo {before} > {NR_HUGE_PAGES}"):
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
    with put_back(f"umount '{tmp_path}'"):
        yield str(tmp_path)


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Loops:
    return Loops(tmp_path_factory.mktemp("loops"))


class Run:
    """What a run has found so far."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.not_run: list[dict[str, str]] = []
        self.seconds: dict[str, float] = {}  # by the group's name
        self.load: list[float] = []  # the average of a minute, after each test

    def results(self) -> dict[str, Any]:
        """What bench.json has."""
        return {
            "machine": machine.describe(),
            "load": [round(min(self.load), 2), round(max(self.load), 2)] if self.load else [0.0, 0.0],
            "seconds": time.monotonic() - self.started,
            "budget": groups.BUDGET,
            "groups": [
                {"name": group.name, "seconds": self.seconds.get(group.name, 0.0), "budget": group.budget}
                for group in (*groups.GROUPS, groups.OTHERS)
                if group.name in self.seconds
            ],
            "rows": self.rows,
            "not_run": self.not_run,
        }


RUN = pytest.StashKey[Run]()


def _about(item: pytest.Item) -> dict[str, str]:
    """A row is titled by its test's docstring."""
    title = (getattr(item, "function", item).__doc__ or item.name).strip().rstrip(".")
    return {"title": title, "key": f"{item.path.stem}::{item.name}", "group": groups.of(item.path.stem).name}


@pytest.fixture
def row(request: pytest.FixtureRequest, benchmark: Any) -> Row:
    """The measuring of one row."""
    run = request.config.stash[RUN]
    return Row(benchmark, run.rows, _about(request.node), run.not_run)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", action="store_true", help="keep the run in bench/results/bench.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = Run()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    run, about = item.config.stash[RUN], _about(item)
    run.seconds[about["group"]] = run.seconds.get(about["group"], 0.0) + report.duration
    if report.when == "call":
        run.load.append(os.getloadavg()[0])
    if not report.passed:
        about["title"] += item.name[item.name.find("[") :] if "[" in item.name else ""
        why = report.longrepr[2] if report.skipped else report.longreprtext.strip().splitlines()[-1]
        run.not_run.append({**about, "why": why.removeprefix("Skipped: ")})
    return report


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    run = config.stash[RUN]
    if not run.rows:
        return
    results = run.results()
    terminalreporter.write_line("")
    for line in tables.markdown(results).splitlines():
        terminalreporter.write_line(line)
    if config.getoption("--results") and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        store.write(results)
