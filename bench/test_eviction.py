"""A buffer pool over a file: bufpool beside plain mmap, frames kept for ever, and mmap of the file itself.

The loops are in eviction.c: keys drawn beforehand, one clock, a page's content checked at each access. A row's figure
is the time of an access, hits and misses together, in the steady state: each side has begun by touching every page in
order and then made as many accesses as warm the clock up. In rows "from the page cache" the file is in the page cache,
so that a read is a copy; in rows "from the disk" each side's process has a memory cgroup of its own, with a limit of
the pool's size and an allowance, and touches the first pages in order to begin with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from suite.cgroups import CgroupUnavailableError, memory_cgroup

PAGE = 4096
FRAMES = 16384  # 64 MiB
BATCH = 64  # victims that go in one step
ROUNDS = 10
ACCESSES = 20_000  # of a round, where pages come and go
HITS = 1_000_000  # of a round, where all is resident
WARM = 4 * FRAMES
THETA = 0.99
SIZES = (0.5, 1, 2, 4)

LIMITED_FRAMES = 8192  # 32 MiB
ALLOWANCE = 3 << 20  # for the process itself: page tables, the library, the pool's bookkeeping
LIMITED_ACCESSES = 2000
LIMITED_WARM = 2 * LIMITED_FRAMES
LIMITED_ROUNDS = 8
SECONDS = 60  # no side may take so long over one order


class Side(NamedTuple):
    name: str  # in eviction_sides.c
    batch: int
    slow: bool = False  # by a hundred times, so that it has a tenth of the accesses


WHOLE, STAGED, IN_PLACE = Side("populate", BATCH), Side("publish", BATCH), Side("replace", 1)
PLAIN_SINGLE = Side("plain", 1)
PLAIN, BATCHED, RECYCLED = (Side(name, BATCH) for name in ("plain", "batched", "recycled"))


def _keys(loops: Any, kind: str, pages: int, count: int) -> Any:
    """All pages in order, to begin with, and so many keys of the distribution."""
    keys = loops.ffi.new("uint32_t[]", pages + count)
    keys[0:pages] = range(pages)
    if kind == "zipf":
        loops.c.eviction_zipf(keys + pages, count, pages, THETA, 7)
    else:
        loops.c.eviction_uniform(keys + pages, count, pages, 7)
    return keys


@pytest.fixture(scope="module")
def data_file(loops: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """The largest data set, in the page cache; smaller ones are its beginning."""
    path = tmp_path_factory.mktemp("eviction") / "data"
    loops.c.eviction_write_file(bytes(path), int(max(SIZES) * FRAMES))
    yield bytes(path)
    path.unlink()


class Engines:
    """One engine for each side, with the same keys; each measures a round of its own."""

    def __init__(self, loops: Any, path: bytes) -> None:
        self.c = loops.c
        self.path = path
        self.open: list[Any] = []

    def close(self) -> None:
        for engine in self.open:
            self.c.eviction_close(engine)

    def engine(self, side: Side, pages: int) -> Any:
        self.open.append(self.c.eviction_open(side.name.encode(), pages, FRAMES, side.batch, self.path, False))
        return self.open[-1]

    def accesses(self, side: Side, pages: int, keys: Any, count: int, rounds: int) -> Callable[[], float]:
        """The ns of an access, in rounds that take their keys in turn."""
        engine = self.engine(side, pages)
        self.c.eviction_accesses(engine, keys, pages + WARM)
        done = 0

        def measure() -> float:
            nonlocal done
            first = pages + WARM + done % rounds * count
            done += 1
            start = time.perf_counter_ns()
            self.c.eviction_accesses(engine, keys + first, count)
            return (time.perf_counter_ns() - start) / count

        return measure


@pytest.fixture
def engines(loops: Any, data_file: bytes) -> Iterator[Engines]:
    both = Engines(loops, data_file)
    yield both
    both.close()


class Way(NamedTuple):
    """A way for a page to come and to go, and what it is measured against."""

    title: str
    ours: Side
    plain: Side
    goal: float | None


WAYS = {
    "whole": Way("page appears whole", WHOLE, PLAIN, 0.80),
    "publish": Way("withdraw + publish", STAGED, PLAIN, None),
    "replace": Way("owner fills in place (replace)", IN_PLACE, PLAIN_SINGLE, 0.60),
}


CASES = [(way, size) for way in WAYS for size in SIZES if way == "whole" or size > 1]  # else nothing is evicted


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
@pytest.mark.parametrize("kind", ["zipf", "uniform"])
def test_eviction(row: Any, loops: Any, engines: Engines, kind: str, case: tuple[str, float]) -> None:
    """eviction."""
    way, size = case
    pages = int(size * FRAMES)
    resident = size <= 1
    count, rounds = (HITS, 1) if resident else (ACCESSES, ROUNDS)
    keys = _keys(loops, kind, pages, WARM + count * rounds)

    def side(which: Side) -> Callable[[], float]:
        return engines.accesses(which, pages, keys, count, rounds)

    title, ours, plain, goal = WAYS[way]
    distribution = f"Zipf {THETA}" if kind == "zipf" else "uniform"
    row.title = f"eviction, {distribution}, data {size:g}x of the pool, {title}"
    others = {"madvise + pread": (side(plain), 1.02 if resident else goal)}
    if not resident and way == "whole":
        others["process_madvise in 64s + pread"] = (side(BATCHED), None)
    others["frames kept for ever, untrapped"] = (side(RECYCLED), None)
    row.beside(side(ours), others, rounds=ROUNDS, note="64 MiB pool, from the page cache, steady state")


def test_scan(row: Any, loops: Any, engines: Engines) -> None:
    """scan of 4x the pool, 64 pages at a time."""
    pages = 4 * FRAMES
    keys = _keys(loops, "uniform", pages, 0)

    def side(which: Side) -> Callable[[], float]:
        engine = engines.engine(which, pages)
        loops.c.eviction_accesses(engine, keys, pages)  # the last pages are resident

        def measure() -> float:
            start = time.perf_counter_ns()
            loops.c.eviction_scan(engine, BATCH)
            return (time.perf_counter_ns() - start) / pages

        return measure

    others = {
        "madvise of 64 neighbours + one pread": (side(PLAIN), 1.0),
        "frames kept for ever, untrapped": (side(RECYCLED), None),
        "mmap of the file, MADV_SEQUENTIAL, no limit": (side(Side("file, sequential", 0)), None),
    }
    row.beside(side(WHOLE), others, rounds=ROUNDS, note="64 MiB pool, from the page cache")


@pytest.fixture
def limited(loops: Any, tmp_path: Path) -> Iterator[Callable[..., Callable[[], float]]]:
    """Sides in processes of their own, each with a memory cgroup and a file that nobody else has read."""
    with ExitStack() as stack:

        def make(side: Side, pages: int, keys: Any) -> Callable[[], float]:
            path = tmp_path / side.name.replace(", ", "-")
            loops.c.eviction_write_file(bytes(path), pages)
            stack.callback(path.unlink)
            try:
                procs = stack.enter_context(memory_cgroup(path.name, LIMITED_FRAMES * PAGE + ALLOWANCE))
            except CgroupUnavailableError as error:
                pytest.skip(str(error))
            child = loops.c.limited_open(
                bytes(procs), side.name.encode(), pages, LIMITED_FRAMES, side.batch, bytes(path), keys
            )
            stack.callback(loops.c.limited_close, child)

            def order(first: int, count: int) -> float:
                taken = int(loops.c.limited_accesses(child, first, count, SECONDS))
                assert taken != -1, f"{side.name}: {count} accesses were not done in {SECONDS} s"
                if taken == -3:
                    pytest.skip(
                        f"{side.name}: the kernel killed it at the cgroup's limit, pool + {ALLOWANCE >> 20} MiB"
                    )
                assert taken >= 0, f"{side.name}: its process has ended"
                return taken / count

            order(0, LIMITED_FRAMES)  # the first pages, in order
            order(pages, LIMITED_WARM // (10 if side.slow else 1))
            done = 0

            def measure() -> float:
                nonlocal done
                first = pages + LIMITED_WARM + done * LIMITED_ACCESSES
                done += 1
                return order(first, LIMITED_ACCESSES // (10 if side.slow else 1))

            return measure

        yield make


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("kind", ["zipf", "uniform"])
def test_limited(row: Any, loops: Any, limited: Callable[..., Callable[[], float]], kind: str, size: int) -> None:
    """eviction, from the disk."""
    pages = size * LIMITED_FRAMES
    keys = _keys(loops, kind, pages, LIMITED_WARM + LIMITED_ROUNDS * LIMITED_ACCESSES)

    def side(which: Side) -> Callable[[], float]:
        return limited(which, pages, keys)

    distribution = f"Zipf {THETA}" if kind == "zipf" else "uniform"
    row.title = f"eviction, {distribution}, data {size}x of the pool, from the disk"
    others = {
        "mmap of the file": (side(Side("file", 0, slow=True)), 1.0),
        "mmap of the file, MADV_RANDOM": (side(Side("file, random", 0)), 1.0),
    }
    note = "32 MiB pool, O_DIRECT; memory cgroup of 35 MiB each; cold start, then 32 MiB in order and 16384 accesses"
    row.beside(side(WHOLE), others, rounds=LIMITED_ROUNDS, note=note)
