"""Pages from a file and to it: read_from() and write_to() beside pread and pwrite, on a file of 16 MiB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PAGES = 4096
OURS, POPULATE, PLAIN = 0, 1, 2
WARM = {"direct": False, "cold": False}
COLD = {"direct": False, "cold": True}
DIRECT = {"direct": True, "cold": False}
AGAINST = "plain mmap"
SCATTERED, NEIGHBOURS = False, True


class Files:
    """The open files of a row: how they are open, and the rounds of both sides."""

    def __init__(self, loops: Any, path: Path) -> None:
        self.c, self.ffi, self.path = loops.c, loops.ffi, str(path).encode()
        self.open: list[Any] = []

    def io(self, direct: bool, cold: bool) -> Any:
        io = self.c.file_io_open(self.path, PAGES, direct, cold)
        if io == self.ffi.NULL:
            pytest.skip("no O_DIRECT on the file system of the temporary directory")
        self.open.append(io)
        return io

    def reads(
        self, how: dict[str, bool], batch: int, neighbours: bool = SCATTERED, other: int = PLAIN
    ) -> Callable[[], tuple[float, float]]:
        io = self.io(**how)
        return lambda: (
            self.c.file_io_read(io, OURS, batch, neighbours),
            self.c.file_io_read(io, other, batch, neighbours),
        )

    def writes(self, how: dict[str, bool], batch: int) -> Callable[[], tuple[float, float]]:
        io = self.io(**how)
        return lambda: (
            self.c.file_io_write(io, OURS, batch, SCATTERED),
            self.c.file_io_write(io, PLAIN, batch, SCATTERED),
        )

    def note(self) -> str:
        """What the figures of O_DIRECT hang on."""
        reason = self.ffi.string(self.c.file_io_no_uring()).decode()
        return f"without io_uring: {reason}" if reason else "by io_uring"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("io") / "data"


@pytest.fixture
def files(loops: Any, path: Path) -> Iterator[Files]:
    found = Files(loops, path)
    yield found
    for io in found.open:
        loops.c.file_io_close(io)


def test_read_warm(row: Any, files: Files) -> None:
    """Read 64 scattered pages of a file in the page cache, read_from : pread each, into holes of plain memory."""
    row.ratios(files.reads(WARM, 64), goal=None, rounds=500, against=AGAINST)


def test_read_warm_neighbours(row: Any, files: Files) -> None:
    """Read 64 neighbours of a file in the page cache, read_from : one pread, into holes of plain memory."""
    row.ratios(files.reads(WARM, 64, NEIGHBOURS), goal=None, rounds=500, against=AGAINST)


def test_read_warm_populate(row: Any, files: Files) -> None:
    """Read 64 scattered pages of a file in the page cache, read_from : pread each to a buffer + populate_many."""
    row.ratios(files.reads(WARM, 64, other=POPULATE), goal=None, rounds=500, against="pread + populate")


def test_read_cold(row: Any, files: Files) -> None:
    """Read 64 scattered pages that are not in the page cache, read_from : pread each, into holes of plain memory."""
    row.ratios(files.reads(COLD, 64), goal=None, rounds=20, against=AGAINST, note="cold")


def test_read_direct_8(row: Any, files: Files) -> None:
    """Read 8 scattered pages with O_DIRECT, read_from : pread each, into holes of plain memory."""
    row.ratios(files.reads(DIRECT, 8), goal=None, rounds=40, against=AGAINST, note=files.note())


def test_read_direct_64(row: Any, files: Files) -> None:
    """Read 64 scattered pages with O_DIRECT, read_from : pread each, into holes of plain memory."""
    row.ratios(files.reads(DIRECT, 64), goal=None, rounds=20, against=AGAINST, note=files.note())


def test_read_direct_512(row: Any, files: Files) -> None:
    """Read 512 scattered pages with O_DIRECT, read_from : pread each, into holes of plain memory."""
    row.ratios(files.reads(DIRECT, 512), goal=None, rounds=7, against=AGAINST, note=files.note())


def test_write_warm(row: Any, files: Files) -> None:
    """Write 64 scattered pages to a file in the page cache, write_to : pwrite each."""
    row.ratios(files.writes(WARM, 64), goal=None, rounds=200, against=AGAINST)


def test_write_direct(row: Any, files: Files) -> None:
    """Write 64 scattered pages with O_DIRECT, write_to : pwrite each."""
    row.ratios(files.writes(DIRECT, 64), goal=None, rounds=20, against=AGAINST, note=files.note())
