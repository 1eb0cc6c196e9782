"""I/O straight into pages: pool.read_from() and write_to()."""

import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bufpool

SIZE = 4096


@pytest.fixture(params=["anon", "shared"])
def pool(request: pytest.FixtureRequest) -> Iterator[bufpool.Pool]:
    with bufpool.Pool(64 * SIZE, memory=request.param) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Eight pages, each of its number, and 100 bytes more."""
    file = tmp_path / "data"
    file.write_bytes(b"".join(bytes([n]) * SIZE for n in range(8)) + b"x" * 100)
    return file


def test_pages_appear_whole(pool: bufpool.Pool, path: Path) -> None:
    with path.open("rb") as file:
        result = pool.read_from(file, [3 * SIZE, 5 * SIZE, 6 * SIZE], [7, 1, 40])
        again = pool.read_from(file.fileno(), np.array([0]), np.array([2], np.uint32))
    assert pool.page(7)[:] == b"\3" * SIZE
    assert pool.page(1)[:] == b"\5" * SIZE
    assert pool.page(40)[:] == b"\6" * SIZE
    assert pool.page(2)[0] == 0
    assert result.done.tolist() == [7, 1, 40]
    assert not len(result.failed)
    assert again.errors.tolist() == [0]
    stats = pool.stats()
    assert (stats.pages_read, stats.pages_written, stats.io_requests) == (4, 0, 3)


def test_an_evicted_page_comes_back(pool: bufpool.Pool, path: Path) -> None:
    page = pool.allocate(b"old")
    with path.open("r+b") as file:
        pool.write_to(file, [SIZE], [page])
        pool.evict(page)
        pool.read_from(file, [SIZE], [page])
    assert page[:4] == b"old\0"


def test_what_is_written_is_in_the_file(pool: bufpool.Pool, path: Path) -> None:
    numbers = pool.allocate_many(3, b"a" * SIZE + b"b" * SIZE + b"c" * SIZE)
    with path.open("r+b") as file:
        result = pool.write_to(file, [7 * SIZE, 0, SIZE], numbers)
    assert result.done.tolist() == numbers.tolist()
    data = path.read_bytes()
    assert data[7 * SIZE :][:SIZE] == b"a" * SIZE
    assert data[: 2 * SIZE] == b"b" * SIZE + b"c" * SIZE
    assert pool.state(int(numbers[0])) == "allocated"


def test_each_page_fails_for_itself(pool: bufpool.Pool, path: Path) -> None:
    taken = pool.allocate(b"mine")
    pages = [10, taken.number, 11, 12]
    with path.open("rb") as file, pytest.raises(bufpool.TransferError, match="page") as caught:
        pool.read_from(file, [7 * SIZE, 0, 8 * SIZE, SIZE], pages)
    result = caught.value.result
    assert result.errors.tolist() == [0, errno.EBUSY, errno.ENODATA, 0]
    assert result.failed.tolist() == [taken.number, 11]
    assert caught.value.errno == errno.EBUSY
    assert "2 of 4 pages" in str(caught.value)
    assert pool.state(11) == "unallocated"
    assert taken[:4] == b"mine"
    assert pool.page(12)[0] == 1
    assert pickle.loads(pickle.dumps(caught.value)).result.errors.tolist() == result.errors.tolist()


def test_a_short_file_says_how_short(pool: bufpool.Pool, path: Path) -> None:
    with path.open("rb") as file, pytest.raises(bufpool.TransferError, match="ends 100 bytes after") as caught:
        pool.read_from(file, [8 * SIZE], [0])
    assert caught.value.errno == errno.ENODATA
    assert isinstance(caught.value, OSError)


def test_a_page_that_is_not_allocated_is_not_written(pool: bufpool.Pool, path: Path) -> None:
    with path.open("r+b") as file, pytest.raises(bufpool.TransferError, match="unallocated"):
        pool.write_to(file, [0], [9])
    assert path.read_bytes()[:SIZE] == bytes(SIZE)


def test_a_wrong_batch_is_refused_whole(pool: bufpool.Pool, path: Path) -> None:
    with path.open("rb") as file:
        for offsets, pages, kind in (
            ([0], [1, 2], bufpool.ArgumentError),
            ([0, SIZE], [1, 1], bufpool.ArgumentError),
            ([-1], [1], bufpool.ArgumentError),
            ([2**63 - SIZE + 1], [1], bufpool.ArgumentError),
            (np.array([-5]), [1], bufpool.ArgumentError),
            (np.zeros((1, 1), int), [1], bufpool.ArgumentError),
            ([0], [64], bufpool.PageStateError),
            ([0.5], [1], TypeError),
            (np.array([0.5]), [1], TypeError),
            (7, [1], TypeError),
        ):
            with pytest.raises(kind):
                pool.read_from(file, offsets, pages)  # type: ignore[arg-type]
        with pytest.raises(bufpool.SystemCallError, match="not open for writing") as caught:
            pool.write_to(file, [0], [pool.allocate()])
        assert not isinstance(caught.value, bufpool.TransferError)
    for fd in (-1, True, "data"):
        with pytest.raises((bufpool.ArgumentError, TypeError)):
            pool.read_from(fd, [0], [1])  # type: ignore[arg-type]
    assert pool.state(1) == "unallocated"


def test_a_pipe_is_no_file(pool: bufpool.Pool) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(bufpool.TransferError, match="no pipe or socket"):
            pool.read_from(reader, [0], [1])
    finally:
        os.close(reader)
        os.close(writer)


def test_past_the_page_cache(path: Path) -> None:
    """Requests are in flight together where there is io_uring; capabilities() says why where there is none."""
    path.write_bytes(b"".join(bytes([n]) * SIZE for n in range(64)))
    numbers = np.arange(0, 64, 2)
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT on this file system: {error}")
    try:
        with bufpool.Pool(64 * SIZE) as pool:
            pool.read_from(fd, numbers * SIZE, numbers)
            stats = pool.stats()
            assert [pool.page(n)[SIZE - 1] for n in numbers] == numbers.tolist()
            pool.write_to(fd, numbers * SIZE + SIZE, numbers)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"".join(bytes([n - n % 2]) * SIZE for n in range(64))
    assert stats.io_requests == len(numbers)
    if bufpool.capabilities().no_io_uring:
        assert stats.io_queued == 0
    else:
        assert stats.io_queued == (0 if on_tmpfs(path) else len(numbers))


def on_tmpfs(path: Path) -> bool:
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [(len(place), kind) for place, kind in mounts if path.is_relative_to(place)]
    return max(inside)[1] == "tmpfs"


def test_nothing_is_nothing(pool: bufpool.Pool, path: Path) -> None:
    with path.open("rb") as file:
        assert len(pool.read_from(file, [], []).pages) == 0


def test_a_closed_pool_refuses(path: Path) -> None:
    pool = bufpool.Pool(SIZE)
    pool.close()
    with path.open("rb") as file, pytest.raises(bufpool.PoolClosedError):
        pool.read_from(file, [0], [0])
