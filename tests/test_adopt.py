"""bufpool.adopt(): memory of the program's own becomes a pool's, and is given back."""

from __future__ import annotations

import ctypes
import gc
import mmap
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import PAGE

import bufpool
from bufpool import cli, outside, outside_private

PAGES = 8
SIZE = PAGES * PAGE


def _anonymous() -> mmap.mmap:
    return mmap.mmap(-1, SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


def _private() -> mmap.mmap:
    return mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _memfd() -> mmap.mmap:
    fd = os.memfd_create("buffers")
    os.truncate(fd, SIZE)
    memory = mmap.mmap(fd, SIZE)  # has a descriptor of its own
    os.close(fd)
    return memory


KINDS = {_private: "adopted anon", _anonymous: "adopted shared", _memfd: "adopted shared"}


def fill(memory: mmap.mmap) -> mmap.mmap:
    for page in range(PAGES):
        memory[page * PAGE : (page + 1) * PAGE] = bytes([page + 1]) * PAGE
    return memory


@pytest.fixture(params=list(KINDS), ids=lambda make: make.__name__.strip("_"))
def make(request: pytest.FixtureRequest) -> Callable[[], mmap.mmap]:
    """Maps PAGES pages of each kind."""
    return request.param


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """PAGES pages of shared memory, each full of its number + 1."""
    with _anonymous() as memory:
        yield fill(memory)


@pytest.mark.parametrize("trap", ["auto", "mprotect"])
@pytest.mark.parametrize("pins", ["off", "count", "write", "all"])
def test_content_stays(make: Callable[[], mmap.mmap], pins: str, trap: str) -> None:
    memory = fill(make())
    with bufpool.adopt(memory, pins=pins, trap=trap, name="buffers") as pool:
        assert (pool.memory, pool.name) == (KINDS[make], "buffers")
        assert (pool.page_count, pool.page_size, pool.capacity) == (PAGES, PAGE, SIZE)
        assert pool.stats().allocated == PAGES
        for page in map(pool.page, range(PAGES)):
            assert page.state == "allocated"
            with page.pin():
                assert page[:] == bytes([page.number + 1]) * PAGE
            with page.pin(write=True):
                page[3] = 77
        if pins == "all":
            with pytest.raises(bufpool.StrayAccessError) as caught:
                pool.page(2)[17]
            assert (caught.value.report.state, caught.value.report.page) == ("unpinned", 2)
        if pins in ("write", "all"):
            with pool.page(2).pin(), pytest.raises(bufpool.StrayAccessError) as caught:
                pool.page(2)[17] = 1
            assert caught.value.report.state == "read-only"
        pool.free(5)
        with pytest.raises(bufpool.StrayAccessError) as caught:
            pool.page(5)[0]
        assert caught.value.report.state == "freed"
    assert pool.closed
    for page in range(PAGES):
        assert memory[page * PAGE + 3] == (0 if page == 5 else 77)
        assert memory[page * PAGE + 4] == (0 if page == 5 else page + 1)
    memory[:] = bytes(SIZE)
    memory.close()


def test_views_of_the_program_s_own(memory: mmap.mmap) -> None:
    """What it has made before strays as well, and is good again afterwards."""
    array = np.frombuffer(memory, np.uint64)
    before = int(array[PAGE // 8])
    pool = bufpool.adopt(memory, pins="all", on_fault="raise")
    with pytest.raises(bufpool.StrayAccessError) as caught:  # noqa: PT012 (raised later)
        assert int(array[PAGE // 8]) == before  # it goes through
        bufpool.check()
    assert caught.value.report.page == 1
    assert caught.value.report.went_through
    with pool.page(1).pin():
        assert int(array[PAGE // 8]) == before
    pool.close()
    assert int(array[PAGE // 8]) == before
    del array, caught


@pytest.mark.parametrize("of", ["array", "part", "memoryview", "ctypes"])
def test_kinds_of_buffers(memory: mmap.mmap, of: str) -> None:
    array = np.frombuffer(memory, np.uint8).reshape(PAGES, PAGE)
    buffers = {
        "array": array,
        "part": array[2:4],
        "memoryview": memoryview(memory)[2 * PAGE :],
        "ctypes": (ctypes.c_char * SIZE).from_buffer(memory),
    }
    with bufpool.adopt(buffers[of], pins="count") as pool:
        assert pool.page(0)[0] == {"part": 3, "memoryview": 3}.get(of, 1)
        assert pool.page_count == {"part": 2, "memoryview": 6}.get(of, 8)
    del array, buffers


def test_shared_memory() -> None:
    """POSIX shared memory of the standard library."""
    shared = SharedMemory(create=True, size=SIZE)
    try:
        assert shared.buf is not None
        with bufpool.adopt(shared.buf, pins="all", page_size="8 KiB") as pool:
            assert pool.memory == "adopted shared"
            with pool.page(1).pin(write=True):
                pool.page(1)[0] = 9
        assert shared.buf[2 * PAGE] == 9
    finally:
        del pool
        shared.close()
        shared.unlink()


def test_an_address(memory: mmap.mmap) -> None:
    whole = np.frombuffer(memory, np.uint8)
    with bufpool.adopt((whole.ctypes.data + PAGE, 2 * PAGE), pins="write") as pool:
        assert pool.address == whole.ctypes.data + PAGE
        assert pool.page(1)[0] == 3
    del whole


def test_the_descriptor(memory: mmap.mmap) -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file, tempfile.TemporaryFile(dir="/dev/shm") as other:
        file.truncate(SIZE)
        with mmap.mmap(file.fileno(), SIZE) as mapped:
            with pytest.raises(bufpool.ArgumentError, match="is not the memory that is mapped there"):
                bufpool.adopt(mapped, fd=other.fileno())
            with bufpool.adopt(mapped, fd=file.fileno()) as pool:
                assert pool.page(0)[0] == 0
    with pytest.raises(bufpool.ArgumentError, match="fd -1 is no descriptor"):
        bufpool.adopt(memory, fd=-1)
    with pytest.raises(TypeError, match="fd must be an integer, not str"):
        bufpool.adopt(memory, fd="3")  # type: ignore[arg-type]
    with pytest.raises(bufpool.SystemCallError, match="descriptor 2147483647 cannot be looked at"):
        bufpool.adopt(memory, fd=2**31 - 1)


# ---- How long the buffer lives ---------------------------------------------------------------------------------------


def test_the_buffer_is_kept() -> None:
    memory = fill(_anonymous())
    pool = bufpool.adopt(memory)
    with pytest.raises(BufferError):
        memory.close()
    view = pool.page(1).buffer
    pool.close()
    with pytest.raises(BufferError):
        memory.close()
    del memory
    gc.collect()
    assert view[0] == 2
    view[0] = 5
    array = np.asarray(view)
    del view
    gc.collect()
    assert array[0] == 5


def test_without_views_it_is_the_program_s_at_once() -> None:
    memory = fill(_anonymous())
    pool = bufpool.adopt(memory, pins="all")
    page = pool.page(1)
    pool.close()
    memory.close()
    for access in (lambda: page[0], lambda: page[0:4], lambda: page.__setitem__(0, 1), lambda: page.buffer):
        with pytest.raises(bufpool.PoolClosedError):
            access()
    assert page.state == "closed"
    assert bufpool.locate(page.address) is None
    pool.close()


def test_refused_it_is_not_kept() -> None:
    memory = _anonymous()
    with pytest.raises(bufpool.ArgumentError, match="a whole number of pages of 12288 bytes"):
        bufpool.adopt(memory, page_size="12 KiB")
    memory.close()


def test_unclosed() -> None:
    memory = fill(_anonymous())
    pool = bufpool.adopt(memory, pins="all", name="left")
    with pytest.warns(ResourceWarning, match="unclosed <Pool 'left'"):
        del pool
    assert memory[PAGE] == 2
    memory.close()


def test_again(memory: mmap.mmap) -> None:
    pool = bufpool.adopt(memory, name="first")
    with pytest.raises(bufpool.ArgumentError, match='that of pool "first"'):
        bufpool.adopt(memory)
    pool.close()
    reports: list[bufpool.FaultReport] = []
    with bufpool.adopt(memory, pins="all", on_report=reports.append) as pool, bufpool.catch_faults():
        assert pool.page(0).buffer[0] == 1
    assert [report.page for report in reports] == [0]


# ---- What is refused -------------------------------------------------------------------------------------------------


def test_what_is_no_memory() -> None:
    with pytest.raises(TypeError, match="memory must be a writable buffer, or a tuple"):
        bufpool.adopt("text")  # type: ignore[arg-type]
    with pytest.raises(bufpool.ArgumentError, match=r"a tuple of 3: it has to be \(address, length\)"):
        bufpool.adopt((PAGE, PAGE, PAGE))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="length must be an integer, not float"):
        bufpool.adopt((PAGE, 4096.0))  # type: ignore[arg-type]
    with pytest.raises(bufpool.ArgumentError, match="there is no memory of"):
        bufpool.adopt((2**64 - PAGE, 2 * PAGE))
    with pytest.raises(bufpool.ArgumentError, match="there is no memory of"):
        bufpool.adopt((0, PAGE))
    with pytest.raises(bufpool.ArgumentError, match="nothing is mapped at 0x1000"):
        bufpool.adopt((PAGE, PAGE))


def test_what_is_read_only(tmp_path: Path) -> None:
    with pytest.raises(bufpool.ArgumentError, match="memory is a bytes that is read-only"):
        bufpool.adopt(bytes(SIZE))
    (tmp_path / "data").write_bytes(bytes(SIZE))
    with (tmp_path / "data").open("rb") as file, mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ) as memory:
        with pytest.raises(bufpool.ArgumentError, match="memory is a mmap that is read-only"):
            bufpool.adopt(memory)
        array = np.frombuffer(memory, np.uint8)
        with pytest.raises(bufpool.ArgumentError, match="memory is a ndarray that is read-only"):
            bufpool.adopt(array)
        with pytest.raises(bufpool.ArgumentError, match="readable and writable"):
            bufpool.adopt((array.ctypes.data, SIZE))
        del array


def test_what_is_not_whole_pages(memory: mmap.mmap) -> None:
    array = np.frombuffer(memory, np.uint8)
    for part in (array[8:], array[:-8], array[:0], bytearray(PAGE + 1)):
        with pytest.raises(bufpool.ArgumentError, match="only whole pages of 4096 bytes can be adopted"):
            bufpool.adopt(part)
    with pytest.raises(bufpool.ArgumentError, match="must lie in one piece"):
        bufpool.adopt(array[::2])
    with pytest.raises(bufpool.ArgumentError, match="a whole number of pages of 12288 bytes"):
        bufpool.adopt(array[:PAGE], page_size=3 * PAGE)
    del array, part


def test_what_cannot_be_trapped(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(SIZE))
    with (
        (tmp_path / "data").open("r+b") as file,
        mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE) as memory,
        pytest.raises(bufpool.UnsupportedError, match="a private mapping of a file"),
    ):
        bufpool.adopt(memory)


def test_options_that_need_a_mapping_of_the_pool_s(memory: mmap.mmap) -> None:
    with pytest.raises(TypeError, match="red_zones"):
        bufpool.adopt(memory, red_zones=True)  # type: ignore[call-arg]
    with pytest.raises(bufpool.ArgumentError, match='"auto", "uffd" or "mprotect"'):
        bufpool.adopt(memory, trap="guard")
    with pytest.raises(bufpool.UnsupportedError, match="adopt it"), bufpool.adopt(memory) as pool:
        pool.handle()


def test_configured(memory: mmap.mmap) -> None:
    """preset=test asks for red zones, too, which adopted memory cannot have: it gets the rest."""
    bufpool.configure("preset=test:pins=all:on_fault=raise")
    try:
        with bufpool.adopt(memory) as pool:
            with pytest.raises(bufpool.StrayAccessError):
                pool.page(0)[0]
            assert pool.provenance == "stacks"
    finally:
        bufpool.configure("")


# ---- Looking ---------------------------------------------------------------------------------------------------------


def test_inspect() -> None:
    with _private() as memory, bufpool.adopt(memory, pins="count") as pool:
        pool.free(2)
        assert pool.inspect().wrong == ()
    with (
        _anonymous() as memory,
        bufpool.adopt(memory) as pool,
        pytest.raises(bufpool.UnsupportedError, match="its file is the program's"),
    ):
        pool.inspect()


def test_from_outside(memory: mmap.mmap) -> None:
    with _private() as private, bufpool.adopt(memory, name="shared"), bufpool.adopt(private, name="private"):
        found = outside.find(os.getpid())
        assert [(pool.facts.name, pool.facts.memory, pool.memory) for pool in found] == [
            ("shared", "adopted shared", None)
        ]
        assert [pool.name for pool in outside_private.private_of(os.getpid())] == ["private"]
        done = CliRunner().invoke(cli.main, ["check", str(os.getpid())])
        assert (done.exit_code, "its memory is the program's own" in done.output) == (2, True)


# ---- Other processes -------------------------------------------------------------------------------------------------


def _work(pool: bufpool.Pool, memory: mmap.mmap) -> None:
    with pool.page(1).pin(write=True) as page:
        page[0] = 42
    with pytest.raises(bufpool.StrayAccessError):
        pool.page(1)[0]
    pool.close()
    assert memory[PAGE] == 42


def test_fork(make: Callable[[], mmap.mmap]) -> None:
    memory = fill(make())
    pool = bufpool.adopt(memory, pins="all")
    if make is not _private and pool.trap != "uffd":
        pool.close()
        pytest.skip(f"shared-uffd: {bufpool.capabilities().of('shared', 'uffd').reason}")
    child = multiprocessing.get_context("fork").Process(target=_work, args=(pool, memory))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    with pytest.raises(bufpool.StrayAccessError):
        pool.page(1)[0]
    with pool.page(1).pin():
        assert pool.page(1)[0] == (2 if make is _private else 42)
    pool.close()


def test_an_end_without_close(tmp_path: Path) -> None:
    """The pool and the buffer are left to the end of the program."""
    program = """
import mmap, warnings
import bufpool
warnings.simplefilter("ignore")
memory = mmap.mmap(-1, 65536)
pool = bufpool.adopt(memory, pins="all")
view = pool.page(1).buffer
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
