"""Memory that is a path: files on hugetlbfs, their life, what is refused, and what others do to them."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bufpool

HUGE = 2 << 20
PoolMaker = Callable[..., bufpool.Pool]
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


@pytest.fixture
def file(hugetlbfs: Path) -> Path:
    """A path on hugetlbfs where nothing is."""
    path = hugetlbfs / "pool"
    path.unlink(missing_ok=True)
    return path


@pytest.fixture
def make(make_pool: PoolMaker, file: Path) -> PoolMaker:
    """Opens pools of 4 pages on it."""
    return lambda capacity=4 * HUGE, **options: make_pool(capacity, **{"memory": file, "page_size": None, **options})


# ---- A file's life ---------------------------------------------------------------------------------------------------


def test_the_file_is_private_and_stays_without_frames(make: PoolMaker, file: Path) -> None:
    with make() as pool:
        pool.allocate(b"kept nowhere")
        status = file.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_size, status.st_blocks * 512) == (0o600, 4 * HUGE, HUGE)
        assert repr(str(file))[1:-1] in repr(pool)
    assert (file.stat().st_size, file.stat().st_blocks) == (4 * HUGE, 0)
    with make() as again:
        assert bytes(again.allocate()) == bytes(HUGE)


def test_text_with_a_slash_is_a_path_too(make: PoolMaker, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert make(memory="./pool").allocate(b"x")[0] == ord("x")
    assert file.exists()


def test_a_directory_gives_a_file_that_leaves_nothing(make: PoolMaker, file: Path) -> None:
    with make(memory=file.parent) as pool:
        pool.allocate(b"x")
        assert list(file.parent.iterdir()) == []
    assert list(file.parent.iterdir()) == []


def test_two_opens_of_one_path(make: PoolMaker, file: Path) -> None:
    pool = make()
    page = pool.allocate(b"mine")
    with pytest.raises(bufpool.SystemCallError, match="is in use: another pool has it open") as caught:
        make()
    assert caught.value.errno == errno.EWOULDBLOCK
    assert (page[:4], file.stat().st_blocks * 512) == (b"mine", HUGE)
    pool.close()
    assert not make().closed


def test_a_file_with_frames_is_refused_unless_they_may_go(make: PoolMaker, file: Path) -> None:
    with file.open("wb") as other:
        os.posix_fallocate(other.fileno(), 0, 4 * HUGE)
    with pytest.raises(bufpool.ArgumentError, match=r"holds 8388608 bytes of data(.|\n)*discard=True"):
        make()
    assert file.stat().st_blocks * 512 == 4 * HUGE
    pool = make(discard=True)
    assert file.stat().st_blocks == 0
    assert bytes(pool.allocate()) == bytes(HUGE)


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [3, 5])
def test_a_file_of_another_size(make: PoolMaker, file: Path, pages: int) -> None:
    make().close()
    with pytest.raises(bufpool.ArgumentError, match=f"a file of {4 * HUGE} bytes.* capacity of {pages * HUGE}"):
        make(pages * HUGE)
    assert file.stat().st_size == 4 * HUGE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"page_size": 4096}, ["page_size is 4096", str(HUGE)]),
        ({"page_size": "3 MiB", "capacity": "6 MiB"}, [str(3 << 20), str(HUGE)]),
        ({"capacity": "5 MiB"}, [f"capacity is {5 << 20}", str(4 << 20), str(6 << 20)]),
        ({"granule": "1 GiB"}, [str(1 << 30), f"has granules of {HUGE}"]),
        ({"granule": 4096}, ["4096", f"has granules of {HUGE}"]),
    ],
)
def test_sizes_that_the_mount_does_not_have(make: PoolMaker, file: Path, options: Any, words: list[str]) -> None:
    with pytest.raises(bufpool.ArgumentError) as caught:
        make(**options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not file.exists()


def test_what_is_no_file_of_hugetlbfs(make: PoolMaker, file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(file.parent / "pipe")
    make().close()
    for path, error, words in [
        (tmp_path / "file", bufpool.UnsupportedError, "is not on a hugetlbfs mount"),
        (tmp_path, bufpool.UnsupportedError, "is not on a hugetlbfs mount"),
        (file.parent / "no" / "file", bufpool.SystemCallError, "No such file or directory"),
        (tmp_path / "link", bufpool.SystemCallError, "symbolic link"),
        (file.parent / "pipe", bufpool.ArgumentError, "not a regular file"),
    ]:
        with pytest.raises(error, match=words) as caught:
            make(memory=path)
        assert f'memory "{path}' in str(caught.value)
    (file.parent / "pipe").unlink()
    assert list(tmp_path.iterdir()) == [tmp_path / "link"]


def test_a_trap_that_never_goes_with_it(make: PoolMaker, file: Path) -> None:
    with pytest.raises(bufpool.UnsupportedError, match="does not go with trap guard: guard regions mark small pages"):
        make(trap="guard")
    assert not file.exists()


# A mount of the child's own, so that it finds its options; not where the tests were given one.
OWN_MOUNT = """
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0 and libc.mount(None, b"/", None, 1 << 14 | 1 << 18, None) == 0
os.mkdir("mount")
assert libc.mount(b"none", b"mount", b"hugetlbfs", 0, b"pagesize=2M") == 0
"""
REFUSED = """
try:
    bufpool.Pool("4 MiB", memory={directory!r} + "/file", page_size=None, trap="noautofill")
except bufpool.UnsupportedError as error:
    print(error)
print(os.listdir({directory!r}))
print(bufpool.capabilities().of("path", "noautofill").reason)
"""


def test_noautofill_takes_a_mount_that_has_it(make: PoolMaker, hugetlbfs: Path, child: Any) -> None:
    with make() as pool:
        with pytest.raises(bufpool.StrayAccessError):
            pool.page(0)[0]
        if pool.trap == "noautofill":  # BUFPOOL_TEST_HUGETLBFS names a mount that has it
            return
        assert pool.stats().trap_note.startswith("noautofill: ")
    (hugetlbfs / "pool").unlink()
    given = not str(hugetlbfs).startswith("/proc/")
    done = child(("" if given else OWN_MOUNT) + REFUSED.format(directory=str(hugetlbfs) if given else "./mount"))
    assert done.returncode == 0, done.stderr
    refused, left, reason = done.stdout.splitlines()
    assert "the mount has not the option noautofill" in refused
    assert "bufpool mount --noautofill" in refused
    assert left == "[]"
    assert "the mount has not the option noautofill" in reason


# ---- Reserve, and running out ----------------------------------------------------------------------------------------


def free_pages(directory: Path) -> int:
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize // HUGE


def test_reserve_is_there_at_open_and_again_after_each_free(make: PoolMaker, file: Path) -> None:
    free = free_pages(file.parent)
    with make(reserve=True) as pool:
        assert free_pages(file.parent) == free - 4
        page = pool.allocate()
        assert free_pages(file.parent) == free - 4
        page.free()
        assert free_pages(file.parent) == free - 4
        assert pool.stats().reserve_lost == 0
    assert free_pages(file.parent) == free


def test_a_reserve_that_is_not_to_be_had(make: PoolMaker, file: Path) -> None:
    free = free_pages(file.parent)
    with pytest.raises(
        bufpool.PoolExhaustedError, match=f"(?:whole pool needs {free + 4}|{free + 4} needed for the whole pool)"
    ):
        make((free + 4) * HUGE, reserve=True)
    assert not file.exists()
    assert free_pages(file.parent) == free


@pytest.mark.parametrize("trap", ["auto", "mprotect"])
def test_the_mount_runs_full(make: PoolMaker, file: Path, trap: str) -> None:
    pool = make((free_pages(file.parent) + 3) * HUGE, trap=trap)
    pages: list[bufpool.Page] = []
    with pytest.raises(bufpool.PoolExhaustedError, match="no huge page is free"):  # noqa: PT012 (any of them)
        while True:
            pages.append(pool.allocate(len(pages).to_bytes(4, "little")))
    assert 4 <= len(pages) < pool.page_count
    with pytest.raises(bufpool.PoolExhaustedError):
        pool.allocate_many(2)
    assert [int.from_bytes(page[:4], "little") for page in pages] == list(range(len(pages)))
    pages[3].free()
    with pytest.raises(bufpool.StrayAccessError):
        pages[3][0]
    assert pool.allocate(b"again")[:5] == b"again"


# ---- What others do to the file --------------------------------------------------------------------------------------


def punch(file: Path, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with file.open("rb+") as other:
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        assert libc.fallocate(other.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0


@pytest.mark.parametrize("trap", ["auto", "mprotect"])
def test_a_file_truncated_under_the_pool(make: PoolMaker, file: Path, trap: str) -> None:
    pool = make(trap=trap)
    page = pool.allocate(b"gone")
    os.truncate(file, 0)
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[1]
    report = caught.value.report
    assert (report.lost, report.raced, report.state, report.page, report.offset) == (True, False, "allocated", 0, 1)
    assert "stray read of an allocated page whose frame is gone" in str(report)
    assert "truncated or punched the file" in str(report)
    assert '"lost":true' in report.to_json()
    with pytest.raises(bufpool.SystemCallError, match="shorter than the pool"):
        pool.allocate()
    page.free()
    pool.close()


@pytest.mark.parametrize("trap", ["auto", "mprotect"])
def test_a_frame_punched_under_the_pool(make: PoolMaker, file: Path, trap: str) -> None:
    pool = make(trap=trap)
    page, other = pool.allocate(b"gone"), pool.allocate(b"kept")
    punch(file, 0, HUGE)
    if pool.trap == "mprotect":  # the page is accessible, and the kernel fills it anew
        assert page[1] == 0
    else:
        with pytest.raises(bufpool.StrayAccessError) as caught:
            page[1]
        assert (caught.value.report.state, caught.value.report.offset) == ("allocated", 1)
        assert caught.value.report.lost
    assert other[:4] == b"kept"
    page.free()
    assert pool.allocate_at(page, b"new")[:3] == b"new"


def test_ordinary_access_to_what_is_gone_ends_the_process_with_a_report(file: Path, child: Any) -> None:
    done = child(
        f"""
        pool = bufpool.Pool({4 * HUGE}, memory={str(file)!r}, page_size=None, on_fault="resume")
        view = pool.allocate(b"gone").buffer
        os.truncate({str(file)!r}, 0)
        view[7]
        print("not reached")
        """
    )
    assert (done.returncode < 0, done.stdout) == (True, "")
    assert done.stderr.count("of an allocated page whose frame is gone") == 1
