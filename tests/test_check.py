"""pool.inspect() and `bufpool check`: what is wrong is named, told by the exit code, and repaired."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import PAGE, Host, PoolMaker

import bufpool
from bufpool import outside
from bufpool.cli import main

SHARED = bufpool.capabilities().of("shared", "uffd")
needs_uffd = pytest.mark.skipif(not SHARED.available, reason=f"shared-uffd: {SHARED.reason}")


def check(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def memory_of(target: int, name: str) -> str:
    (memory,) = [pool.memory for pool in outside.find(target) if pool.facts.name == name]
    assert memory is not None
    return memory


def fill(memory: str, page: int, size: int = PAGE) -> None:
    """Touches a page through a mapping that nobody has armed."""
    with Path(memory).open("r+b") as file, mmap.mmap(file.fileno(), size, offset=page * size) as view:
        view[0] = 120


def punch(memory: str, page: int) -> None:
    """Takes a page's frame from under its pool."""
    with Path(memory).open("r+b") as file:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
        code = fallocate(file.fileno(), 3, ctypes.c_int64(page * PAGE), ctypes.c_int64(PAGE))
        assert code == 0, os.strerror(ctypes.get_errno())


@needs_uffd
def test_clean(host: Host) -> None:
    process = host("first=shared", "alone=anon", "second=shared")
    done = check(process.pid)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[:3] == [
        f'pool "first" of process {process.pid}: memory shared, 2048 pages of 4 KiB, 1 process',
        "  allocated 2, evicted 0, free 2046, busy 0, abandoned 0",
        "  clean",
    ]
    assert lines[3].startswith('pool "second"')
    assert len(lines) == 6


@needs_uffd
def test_pools_that_are_closed_meanwhile_are_not_clean(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    process = host("first=shared", "second=shared")
    look = outside.look

    def look_and_end(target: int | str) -> outside.Sight:
        sight = look(target)
        process.kill()
        process.wait(timeout=300)
        return sight

    monkeypatch.setattr(outside, "look", look_and_end)
    done = check(process.pid)
    assert (done.exit_code, done.output) == (2, 'Error: "first", "second" was closed just now\n')


@needs_uffd
@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")
def test_tables_of_one_user_are_not_believed_of_the_memory_of_another(host: Host) -> None:
    process = host("first=shared")
    (pool,) = outside.find(process.pid)
    assert pool.memory is not None
    fill(pool.memory, 100)
    os.chown(pool.tables, 65534, 65534)
    done = check(process.pid, "--repair")
    assert done.exit_code == 2, done.output
    assert "its tables are of user 65534, and its memory is of user 0" in done.output
    os.chown(pool.memory, 65534, 65534)
    assert "stray frame" in check(process.pid, "--repair").output


@needs_uffd
def test_wrong_and_repaired(host: Host) -> None:
    process = host("first=shared")
    memory = memory_of(process.pid, "first")
    for page in (7, 9, 2047):
        fill(memory, page)
    done = check(process.pid)
    assert done.exit_code == 1
    (line,) = [line for line in done.output.splitlines() if "stray frame" in line]
    assert " ".join(line.split()) == "stray frame 3 7, 9, 2047 not allocated, and has a frame: does not trap"
    assert done.output.endswith("  3 wrong\n")
    done = check(process.pid, "--repair", "--json")
    assert done.exit_code == 1
    (pool,) = json.loads(done.output)["pools"]
    assert (pool["name"], pool["pid"], pool["processes"], pool["trouble"]) == ("first", process.pid, 1, None)
    found = pool["findings"]
    assert (found["clean"], found["stray_frames"], found["repaired"], found["exact"]) == (False, 3, 3, True)
    assert found["wrong"][0] == {"page": 7, "what": "stray frame", "state": "unallocated"}
    assert check(process.pid).exit_code == 0


@needs_uffd
def test_what_is_lost_stays_lost(host: Host) -> None:
    process = host("first=shared")
    punch(memory_of(process.pid, "first"), 1)
    for options in ([], ["--repair"], []):
        done = check(process.pid, *options)
        assert done.exit_code == 1
        assert "lost frame" in done.output
        assert done.output.endswith("  1 wrong\n")


@needs_uffd
def test_at_work(host: Host) -> None:
    process = host("busy=shared")
    for options in ([], ["--repair"], [], ["--repair"]):
        done = check(process.pid, "--json", *options)
        (pool,) = json.loads(done.output)["pools"]
        assert pool["findings"]["clean"], done.output
        assert done.exit_code == 0
    assert process.poll() is None


@needs_uffd
def test_by_path(host: Host, hugetlbfs: Path) -> None:
    path = hugetlbfs / "check.pool"
    process = host(f"huge={path}")
    done = check(path)
    assert done.exit_code == 0, done.output
    assert f'pool "huge" of process {process.pid}: memory {path}, 4 pages of 2 MiB' in done.output
    assert "  allocated 2, evicted 0, free 2," in done.output
    fill(str(path), 3, 2 << 20)
    done = check(path, "--repair")
    assert done.exit_code == 1, done.output
    assert check(path).exit_code == 0
    process.kill()
    process.wait(timeout=300)
    done = check(path)
    assert done.exit_code == 2
    assert "no process has a pool" in done.output
    path.unlink()


def test_nothing_to_look_at(host: Host, tmp_path: Path) -> None:
    process = host("alone=anon")
    for target, said in {
        process.pid: "no pool that can be seen from outside",
        tmp_path / "none": "cannot be looked at: No such file",
        0: "is no process",
    }.items():
        done = check(target)
        assert done.exit_code == 2
        assert said in done.output


@needs_uffd
@pytest.mark.parametrize("way", ["memory", "attach"])
def test_a_pool_that_cannot_be_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    process = host("first=shared")
    if way == "attach":

        def refuse(*_: Any, **__: Any) -> None:
            raise bufpool.UnsupportedError(95, "not here")

        monkeypatch.setattr(bufpool.Pool, "attach", refuse)
    else:
        monkeypatch.setattr(outside, "_file_of", lambda *_: None)
    done = check(process.pid)
    assert done.exit_code == 2
    said = "not here" if way == "attach" else "its memory no more"
    assert "  cannot be looked at: " in done.output
    assert said in done.output
    (pool,) = json.loads(check(process.pid, "--json").output)["pools"]
    assert pool["findings"] is None
    assert said in pool["trouble"]


def test_inspect(make_pool: PoolMaker) -> None:
    pool = make_pool(64 * PAGE, memory="anon")
    pages = [pool.allocate() for _ in range(5)]
    pages[0].free()
    pages[1].evict()
    found = pool.inspect()
    assert found.clean
    assert found.exact
    assert (found.pages, found.allocated, found.evicted, found.free, found.busy) == (64, 3, 1, 60, 0)
    assert found.wrong == ()
    assert pool.inspect(repair=True) == found
    pool.close()
    with pytest.raises(bufpool.PoolClosedError):
        pool.inspect()


@needs_uffd
def test_inspect_and_repair(make_pool: PoolMaker) -> None:
    pool = make_pool(64 * PAGE, memory="shared", trap="uffd", on_fault="raise")
    page = pool.allocate()
    with pool.handle() as handle:
        fill(f"/proc/self/fd/{handle.memory}", 9)
        punch(f"/proc/self/fd/{handle.memory}", page.number)
    found = pool.inspect(repair=True)
    assert (found.stray_frames, found.lost_frames, found.repaired, found.total) == (1, 1, 1, 2)
    assert found.wrong == (
        bufpool.WrongPage(page=0, what="lost frame", state="allocated"),
        bufpool.WrongPage(page=9, what="stray frame", state="unallocated"),
    )
    page.free()
    assert pool.inspect().clean
